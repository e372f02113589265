//! Layers the sources with the `config` crate and hands out typed values, collecting every problem on the way.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use config::{Config, ConfigError as LayerError, File, FileFormat, Map, Source, Value, ValueKind};

use super::ConfigError;

const DEFAULTS: &str = include_str!("../../config/default.toml");
/// Other names of a setting, read when its own is absent: CONTRACT.md section 4.
const OTHER_NAMES: [(&str, &str, &str); 2] = [
    ("HEALTH_SERVICE_PORT", "server", "port"),
    ("MAX_CONSECUTIVE_FAILURES", "checks", "consecutive_failures_critical"),
];

/// Lists of tables, which only files can hold.
const TABLES: [(&str, &str); 2] = [("notify", "receiver"), ("notify", "route")];

/// The tables of a list, each with its file and place in it.
pub(super) type Tables = Vec<(String, Map<String, Value>)>;

/// The unit a bare number is in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    Minutes,
    Days,
}

impl Unit {
    fn ms(self) -> f64 {
        match self {
            Self::Milliseconds => 1.0,
            Self::Seconds => 1000.0,
            Self::Minutes => 60_000.0,
            Self::Days => 86_400_000.0,
        }
    }
}

/// A value as text, and where it was written; `None`: the compiled-in default.
#[derive(Debug, Clone)]
struct Setting {
    text: String,
    source: Option<String>,
}

/// Every setting by section and key.
pub(super) struct Reader {
    settings: HashMap<(String, String), Setting>,
    pub problems: Vec<String>,
    /// Lists of tables by section and key.
    tables: HashMap<(String, String), Tables>,
    /// What stands in the reference: taken where a value is refused, so that everything wrong is told at once.
    defaults: HashMap<(String, String), String>,
}

/// Environment variables as a source of the `config` crate: each key by its own name, and `INFRA__SECTION__KEY`.
#[derive(Debug, Clone)]
struct Variables(Vec<(String, String, String, String)>);

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        let mut sections: HashMap<&str, Map<String, Value>> = HashMap::new();
        for (variable, section, key, text) in &self.0 {
            let value = Value::new(Some(variable), ValueKind::String(text.clone()));
            sections.entry(section).or_default().insert(key.clone(), value);
        }
        Ok(sections
            .into_iter()
            .map(|(name, keys)| (name.to_owned(), Value::new(None, ValueKind::Table(keys))))
            .collect())
    }
}

/// The name in milliseconds of a key in another unit, `None` for keys that are no durations.
fn twin(key: &str) -> Option<String> {
    for unit in ["_days", "_hours", "_minutes", "_seconds"] {
        if let Some(stem) = key.strip_suffix(unit) {
            return Some(format!("{stem}_ms"));
        }
    }
    let in_seconds = [
        "cleanup_interval",
        "service_check_interval",
        "service_check_timeout",
        "http_request_timeout",
        "service_health_check_interval",
        "response_time_warning",
        "response_time_critical",
    ];
    in_seconds.contains(&key).then(|| format!("{key}_ms"))
}

impl Reader {
    pub fn open(variables: &BTreeMap<String, String>, folder: &Path) -> Result<Self, ConfigError> {
        let one = |error: LayerError| ConfigError(vec![error.to_string()]);
        let defaults =
            layered(Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml))).map_err(one)?;
        let reference = defaults.iter().flat_map(|(section, keys)| {
            keys.iter().filter_map(|(key, value)| Some(((section.clone(), key.clone()), text_of(value.clone())?)))
        });
        let reference: HashMap<(String, String), String> = reference.collect();
        let known: Vec<(String, String)> =
            defaults.iter().flat_map(|(section, keys)| keys.keys().map(|key| (section.clone(), key.clone()))).collect();

        let mut problems = Vec::new();
        let found = from_environment(variables, &known, &mut problems);
        let environment = variables
            .get("ENVIRONMENT")
            .or_else(|| variables.get("INFRA__SERVER__ENVIRONMENT"))
            .map_or("development", String::as_str);
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        for name in [environment, "local"] {
            let path = folder.join(format!("{name}.toml"));
            // Never the reference itself, which may lie there to be read.
            if name != "default" && path.is_file() {
                builder = builder.add_source(File::from(path).format(FileFormat::Toml));
            }
        }
        let layers = layered(builder.add_source(found)).map_err(|error| {
            let text = error.to_string();
            ConfigError(vec![text.lines().map(str::trim).collect::<Vec<_>>().join(" ")])
        })?;

        let mut settings = HashMap::new();
        let mut tables = HashMap::new();
        for (section, keys) in layers {
            for (key, value) in keys {
                if TABLES.contains(&(section.as_str(), key.as_str())) {
                    match tables_of(&section, &key, value) {
                        Ok(list) => drop(tables.insert((section.clone(), key), list)),
                        Err(problem) => problems.push(problem),
                    }
                    continue;
                }
                let source = value.origin().map(str::to_owned);
                let is_known =
                    known.iter().any(|(s, k)| *s == section && (*k == key || twin(k).as_ref() == Some(&key)));
                if !is_known {
                    let source = source.as_deref().unwrap_or("configuration");
                    problems
                        .push(format!("{source}: unknown key {section}.{key}; see config/default.toml for every key"));
                    continue;
                }
                match text_of(value) {
                    Some(text) => {
                        settings.insert((section.clone(), key), Setting { text, source });
                    }
                    None => problems.push(format!("{section}.{key}: must be a plain value, not a table")),
                }
            }
        }
        let mut reader = Self { settings, problems, tables, defaults: reference };
        if reader.is_explicit("server", "environment") && reader.text("server", "environment") != environment {
            reader.refuse("server", "environment", "must be set by the variable ENVIRONMENT, which chooses the files");
        }
        Ok(reader)
    }

    fn setting(&self, section: &str, key: &str) -> Setting {
        let found = self.settings.get(&(section.to_owned(), key.to_owned())).cloned();
        // Every key stands in default.toml, which is compiled in; a test reads all of them.
        found.unwrap_or(Setting { text: String::new(), source: None })
    }

    fn default_text(&self, section: &str, key: &str) -> String {
        self.defaults.get(&(section.to_owned(), key.to_owned())).cloned().unwrap_or_default()
    }

    /// Notes a problem with a setting, naming where it was written.
    pub fn refuse(&mut self, section: &str, key: &str, rule: &str) {
        let source = self.setting(section, key).source.unwrap_or_else(|| "default".to_owned());
        self.problems.push(format!("{source}: {section}.{key} {rule}"));
    }

    /// Takes the tables of a list out.
    pub fn tables(&mut self, section: &str, key: &str) -> Tables {
        self.tables.remove(&(section.to_owned(), key.to_owned())).unwrap_or_default()
    }

    /// It was set by someone, be it to its default.
    pub fn is_explicit(&self, section: &str, key: &str) -> bool {
        self.setting(section, key).source.is_some()
    }

    pub fn text(&self, section: &str, key: &str) -> String {
        self.setting(section, key).text.trim().to_owned()
    }

    /// Comma list, or a JSON array.
    pub fn list(&self, section: &str, key: &str) -> Vec<String> {
        let text = self.text(section, key);
        if let Ok(list) = serde_json::from_str::<Vec<String>>(&text) {
            return list;
        }
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub fn boolean(&mut self, section: &str, key: &str) -> bool {
        match self.text(section, key).to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.refuse(section, key, "must be true or false");
                self.default_text(section, key) == "true"
            }
        }
    }

    /// A whole number; one written with a fraction of zero (`30.0`) is one too.
    pub fn number(&mut self, section: &str, key: &str, range: RangeInclusive<u64>) -> u64 {
        let text = self.text(section, key);
        parse_number(&text).filter(|number| range.contains(number)).unwrap_or_else(|| {
            let rule = format!("must be a whole number from {} to {}, not {text:?}", range.start(), range.end());
            self.refuse(section, key, &rule);
            parse_number(&self.default_text(section, key)).unwrap_or(*range.start())
        })
    }

    /// Over 0, at most 1; `1%` is 0.01.
    pub fn ratio(&mut self, section: &str, key: &str) -> f64 {
        let text = self.text(section, key);
        parse_ratio(&text).unwrap_or_else(|| {
            let rule = format!("must be a ratio over 0 and at most 1, such as 0.05 or 5%, not {text:?}");
            self.refuse(section, key, &rule);
            parse_ratio(&self.default_text(section, key)).unwrap_or(1.0)
        })
    }

    /// A span of at least `least_ms`, from the key or its twin in milliseconds.
    pub fn duration(&mut self, section: &str, key: &str, unit: Unit, least_ms: u64) -> Duration {
        let own = self.setting(section, key);
        let twin_key = twin(key).filter(|twin| self.is_explicit(section, twin));
        let parsed = match &twin_key {
            Some(twin) => {
                let ms = parse_span(&self.text(section, twin), Unit::Milliseconds);
                if own.source.is_some() && ms != parse_span(own.text.trim(), unit) {
                    let rule = format!("disagrees with {key} = {}; set one of them", own.text.trim());
                    self.refuse(section, twin, &rule);
                }
                ms
            }
            None => parse_span(own.text.trim(), unit),
        };
        parsed.filter(|span| span.as_millis() >= u128::from(least_ms)).unwrap_or_else(|| {
            let written = twin_key.as_deref().unwrap_or(key);
            let text = self.text(section, written);
            let rule = format!("must be a duration of at least {least_ms} ms, such as 30s or 1500ms, not {text:?}");
            self.refuse(section, written, &rule);
            parse_span(&self.default_text(section, key), unit).unwrap_or_default()
        })
    }

    /// A span, if one is set.
    pub fn optional_duration(&mut self, section: &str, key: &str, unit: Unit, least_ms: u64) -> Option<Duration> {
        let has_twin = twin(key).is_some_and(|twin| self.is_explicit(section, &twin));
        (has_twin || !self.text(section, key).is_empty()).then(|| self.duration(section, key, unit, least_ms))
    }

    /// From 0 to 100; a percent sign may follow.
    pub fn percent(&mut self, section: &str, key: &str) -> f64 {
        let parse = |text: &str| {
            let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
            number.filter(|percent| (0.0..=100.0).contains(percent))
        };
        let text = self.text(section, key);
        parse(&text).unwrap_or_else(|| {
            self.refuse(section, key, &format!("must be a percentage from 0 to 100, not {text:?}"));
            parse(&self.default_text(section, key)).unwrap_or(0.0)
        })
    }

    pub fn choice<T: Copy, const N: usize>(&mut self, section: &str, key: &str, choices: &[(&str, T); N]) -> T {
        const { assert!(N > 0, "something to choose from") };
        let text = self.text(section, key).to_ascii_lowercase();
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        chosen.unwrap_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.refuse(section, key, &format!("must be one of {}, not {text:?}", words.join(", ")));
            choices[0].1
        })
    }
}

fn parse_number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| {
        let number = text.parse::<f64>().ok()?;
        (number.fract() == 0.0 && (0.0..1e15).contains(&number)).then_some(number as u64)
    })
}

fn parse_ratio(text: &str) -> Option<f64> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    parsed.ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0)
}

/// `30`, `30.0`, `500ms`, `30s`, `5m`, `2h`, `1d`. At most a hundred years.
fn parse_span(text: &str, unit: Unit) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix.trim() {
        "" => unit.ms(),
        "ms" => 1.0,
        "s" => 1000.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let ms = number.trim().parse::<f64>().ok()? * factor;
    (0.0..=3.2e12).contains(&ms).then(|| Duration::from_micros((ms * 1000.0).round() as u64))
}

type Sections = HashMap<String, Map<String, Value>>;

fn layered(builder: config::ConfigBuilder<config::builder::DefaultState>) -> Result<Sections, LayerError> {
    let mut sections = Sections::new();
    for (name, value) in builder.build()?.collect()? {
        match value.kind {
            ValueKind::Table(keys) => {
                sections.insert(name, keys);
            }
            _ => return Err(LayerError::Message(format!("{name} must stand in a section; see config/default.toml"))),
        }
    }
    Ok(sections)
}

/// The tables of a list, with file and number.
fn tables_of(section: &str, key: &str, value: Value) -> Result<Tables, String> {
    let file = value.origin().unwrap_or("configuration").to_owned();
    let not_tables = || format!("{file}: {section}.{key} must be tables, each under a line [[{section}.{key}]]");
    let ValueKind::Array(items) = value.kind else { return Err(not_tables()) };
    let numbered = items.into_iter().zip(1..).map(|(item, number)| match item.kind {
        ValueKind::Table(table) => Ok((format!("{file}: {section}.{key} {number}"), table)),
        _ => Err(not_tables()),
    });
    numbered.collect()
}

fn text_of(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::Array(items) => {
            let items: Option<Vec<String>> = items.into_iter().map(text_of).collect();
            serde_json::to_string(&items?).ok()
        }
        ValueKind::Table(_) => None,
        ValueKind::Nil => Some(String::new()),
        _ => value.into_string().ok(),
    }
}

fn from_environment(
    variables: &BTreeMap<String, String>,
    known: &[(String, String)],
    problems: &mut Vec<String>,
) -> Variables {
    let mut found = Vec::new();
    let mut add = |variable: &str, section: &str, key: &str, text: &str| {
        found.push((variable.to_owned(), section.to_owned(), key.to_owned(), text.to_owned()));
    };
    for (other, section, key) in OTHER_NAMES {
        let absent = !variables.contains_key(&key.to_ascii_uppercase());
        if let Some(text) = variables.get(other).filter(|_| absent) {
            add(other, section, key, text);
        }
    }
    for (section, key) in known {
        for key in [Some(key.clone()), twin(key)].into_iter().flatten() {
            let upper = key.to_ascii_uppercase();
            if let Some(text) = variables.get(&upper) {
                add(&upper, section, &key, text);
            }
        }
    }
    for (variable, text) in variables {
        let Some(rest) = variable.strip_prefix("INFRA__") else { continue };
        let lower = rest.to_ascii_lowercase();
        let place = lower.split_once("__").filter(|(section, key)| {
            known.iter().any(|(s, k)| s == section && (k == key || twin(k).as_deref() == Some(key)))
        });
        match place {
            Some((section, key)) => add(variable, section, key, text),
            None => {
                problems.push(format!("{variable}: unknown key; write INFRA__SECTION__KEY as in config/default.toml"));
            }
        }
    }
    Variables(found)
}
