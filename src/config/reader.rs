//! Layers the sources with the `config` crate and hands out typed values, collecting every problem on the way, and what
//! each setting came to.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use config::{Config, ConfigError as LayerError, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::json;

use super::shown::{self, is_changeable};
use super::{ConfigError, Problem};
use crate::api::{Origin, Setting as Shown};

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
#[derive(Clone)]
struct Setting {
    text: String,
    source: Option<String>,
    origin: Origin,
}

/// Section and key.
type Key = (String, String);

/// What files and environment say, as it was read at one moment.
#[derive(Clone)]
pub struct Layers {
    settings: HashMap<Key, Setting>,
    problems: Vec<Problem>,
    /// What stands in the reference: taken where a value is refused, so that everything wrong is told at once.
    defaults: BTreeMap<Key, String>,
    tables: HashMap<Key, Tables>,
    pub(super) variables: BTreeMap<String, String>,
}

/// Every setting by section and key.
pub(super) struct Reader {
    settings: HashMap<Key, Setting>,
    pub problems: Vec<Problem>,
    defaults: BTreeMap<Key, String>,
    /// Lists of tables by section and key.
    tables: HashMap<Key, Tables>,
    /// What each setting came to.
    read: HashMap<Key, serde_json::Value>,
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
        "elasticsearch_sync_interval",
        "health_check_interval",
        "service_check_interval",
        "service_check_timeout",
        "http_request_timeout",
        "service_health_check_interval",
        "system_check_interval",
        "response_time_warning",
        "response_time_critical",
    ];
    in_seconds.contains(&key).then(|| format!("{key}_ms"))
}

impl Layers {
    /// Reads the files of `folder` and takes `variables` over them.
    ///
    /// # Errors
    /// A file cannot be read. What is wrong in one is told with everything else, by [`super::Settings::of`].
    pub(super) fn open(variables: &BTreeMap<String, String>, folder: &Path) -> Result<Self, ConfigError> {
        let one = |error: LayerError| ConfigError(vec![error.to_string()]);
        let reference =
            layered(Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml))).map_err(one)?;
        let reference = reference.into_iter().flat_map(|(section, keys)| {
            keys.into_iter().filter_map(move |(key, value)| Some(((section.clone(), key), text_of(value)?)))
        });
        let defaults: BTreeMap<Key, String> = reference.collect();

        let mut problems = Vec::new();
        let found = from_environment(variables, &defaults, &mut problems);
        let of_environment: Vec<Key> =
            found.0.iter().map(|(_, section, key, _)| (section.clone(), key.clone())).collect();
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
            // The parser repeats the line it cannot read behind bars; it may hold a secret.
            let is_quote =
                |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
            let text = error.to_string();
            let told: Vec<&str> = text.lines().filter(|line| !is_quote(line)).map(str::trim).collect();
            ConfigError(vec![told.join(" ")])
        })?;

        let mut settings = HashMap::new();
        let mut tables = HashMap::new();
        for (section, keys) in layers {
            for (key, value) in keys {
                if TABLES.contains(&(section.as_str(), key.as_str())) {
                    match tables_of(&section, &key, value) {
                        Ok(list) => drop(tables.insert((section.clone(), key), list)),
                        Err(problem) => problems.push(Problem::general(problem)),
                    }
                    continue;
                }
                let source = value.origin().map(str::to_owned);
                let place = (section.clone(), key);
                if named(&defaults, &place.0, &place.1).is_none() {
                    let source = source.as_deref().unwrap_or("configuration");
                    let (section, key) = place;
                    problems.push(Problem::general(format!(
                        "{source}: unknown key {section}.{key}; see config/default.toml for every key"
                    )));
                    continue;
                }
                let origin = match source {
                    None => Origin::Default,
                    Some(_) if of_environment.contains(&place) => Origin::Environment,
                    Some(_) => Origin::File,
                };
                match text_of(value) {
                    Some(text) => drop(settings.insert(place, Setting { text, source, origin })),
                    None => problems
                        .push(Problem::general(format!("{}.{}: must be a plain value, not a table", place.0, place.1))),
                }
            }
        }
        let word = settings.get(&("server".to_owned(), "environment".to_owned()));
        if word.is_some_and(|word| word.source.is_some() && word.text.trim() != environment) {
            let source = word.and_then(|word| word.source.as_deref()).unwrap_or_default();
            problems.push(Problem::new(
                source,
                "server",
                "environment",
                "must be set by the variable ENVIRONMENT, which chooses the files",
            ));
        }
        Ok(Self { settings, problems, defaults, tables, variables: variables.clone() })
    }

    /// The setting meant by a name in a section, and whether the name is its twin in milliseconds.
    pub fn named(&self, section: &str, name: &str) -> Option<(String, bool)> {
        named(&self.defaults, section, name)
    }

    /// These settings where they may change while the service runs, those of `running` where not; the keys of the latter
    /// that are written otherwise now.
    pub fn beside(mut self, running: &Self) -> (Self, Vec<String>) {
        let mut kept = Vec::new();
        // Receivers and routes are those of the start.
        for (section, key) in TABLES {
            let place = (section.to_owned(), key.to_owned());
            if self.tables.get(&place) != running.tables.get(&place) {
                kept.push(format!("{section}.{key}"));
            }
        }
        self.tables.clone_from(&running.tables);
        let mut places: Vec<Key> = self.settings.keys().chain(running.settings.keys()).cloned().collect();
        places.sort();
        places.dedup();
        for place in places {
            let key = self.named(&place.0, &place.1).map_or_else(|| place.1.clone(), |(key, _)| key);
            let (new, old) = (self.settings.get(&place), running.settings.get(&place));
            if is_changeable(&place.0, &key) || new.map(|new| &new.text) == old.map(|old| &old.text) {
                continue;
            }
            kept.push(format!("{}.{}", place.0, place.1));
            match old.cloned() {
                Some(old) => drop(self.settings.insert(place, old)),
                None => drop(self.settings.remove(&place)),
            }
        }
        (self, kept)
    }
}

/// The key that `name` is, or is the twin of, and which of the two.
fn named(known: &BTreeMap<Key, String>, section: &str, name: &str) -> Option<(String, bool)> {
    if known.contains_key(&(section.to_owned(), name.to_owned())) {
        return Some((name.to_owned(), false));
    }
    let mut keys = known.keys().filter(|(of, _)| of == section);
    keys.find(|(_, key)| twin(key).as_deref() == Some(name)).map(|(_, key)| (key.clone(), true))
}

impl Reader {
    /// `stored`, by `section.key`, goes over everything else.
    pub fn new(layers: &Layers, stored: &BTreeMap<String, String>) -> Self {
        let mut settings = layers.settings.clone();
        let mut problems = layers.problems.clone();
        for (name, text) in stored {
            let place = name
                .split_once('.')
                .filter(|(section, key)| layers.defaults.contains_key(&((*section).to_owned(), (*key).to_owned())));
            let Some((section, key)) = place else {
                let (section, key) = name.split_once('.').unwrap_or((name, ""));
                problems.push(Problem::new("stored", section, key, "is not a setting of this version"));
                continue;
            };
            if let Some(twin) = twin(key) {
                settings.remove(&(section.to_owned(), twin));
            }
            let stored = Setting { text: text.clone(), source: Some("stored".to_owned()), origin: Origin::Stored };
            settings.insert((section.to_owned(), key.to_owned()), stored);
        }
        Self {
            settings,
            problems,
            defaults: layers.defaults.clone(),
            tables: layers.tables.clone(),
            read: HashMap::new(),
        }
    }

    /// The tables of a list, each with how to name it in a problem.
    pub fn tables(&mut self, section: &str, key: &str) -> Tables {
        self.tables.remove(&(section.to_owned(), key.to_owned())).unwrap_or_default()
    }

    /// Every setting as it may be shown.
    pub fn shown(&self) -> Vec<Shown> {
        let one = |place: &Key| {
            let (section, key) = place;
            let twin = twin(key).and_then(|twin| self.settings.get(&(section.clone(), twin)));
            let setting = twin.filter(|twin| twin.source.is_some()).or_else(|| self.settings.get(place));
            let text = setting.map(|setting| json!(setting.text)).unwrap_or_default();
            Shown {
                section: section.clone(),
                key: key.clone(),
                value: shown::masked(key, self.read.get(place).cloned().unwrap_or(text)),
                source: setting.map_or(Origin::Default, |setting| setting.origin),
                changeable: is_changeable(section, key),
            }
        };
        self.defaults.keys().map(one).collect()
    }

    /// Notes what a setting came to.
    fn note(&mut self, section: &str, key: &str, value: serde_json::Value) {
        self.read.insert((section.to_owned(), key.to_owned()), value);
    }

    fn setting(&self, section: &str, key: &str) -> Setting {
        let found = self.settings.get(&(section.to_owned(), key.to_owned())).cloned();
        // Every key stands in default.toml, which is compiled in; a test reads all of them.
        found.unwrap_or(Setting { text: String::new(), source: None, origin: Origin::Default })
    }

    fn default_text(&self, section: &str, key: &str) -> String {
        self.defaults.get(&(section.to_owned(), key.to_owned())).cloned().unwrap_or_default()
    }

    /// Notes a problem with a setting, naming where it was written.
    pub fn refuse(&mut self, section: &str, key: &str, rule: &str) {
        let source = self.setting(section, key).source.unwrap_or_else(|| "default".to_owned());
        self.problems.push(Problem::new(&source, section, key, rule));
    }

    /// It was set by someone, be it to its default.
    pub fn is_explicit(&self, section: &str, key: &str) -> bool {
        self.setting(section, key).source.is_some()
    }

    pub fn text(&self, section: &str, key: &str) -> String {
        self.setting(section, key).text.trim().to_owned()
    }

    /// Comma list, or a JSON array.
    pub fn list(&mut self, section: &str, key: &str) -> Vec<String> {
        let text = self.text(section, key);
        let list = serde_json::from_str::<Vec<String>>(&text).unwrap_or_else(|_| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        });
        self.note(section, key, json!(list));
        list
    }

    pub fn boolean(&mut self, section: &str, key: &str) -> bool {
        let read = self.parse_boolean(section, key);
        self.note(section, key, json!(read));
        read
    }

    fn parse_boolean(&mut self, section: &str, key: &str) -> bool {
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
        let read = parse_number(&text).filter(|number| range.contains(number)).unwrap_or_else(|| {
            let rule = format!("must be a whole number from {} to {}, not {text:?}", range.start(), range.end());
            self.refuse(section, key, &rule);
            parse_number(&self.default_text(section, key)).unwrap_or(*range.start())
        });
        self.note(section, key, json!(read));
        read
    }

    /// Over 0, at most 1; `1%` is 0.01.
    pub fn ratio(&mut self, section: &str, key: &str) -> f64 {
        let text = self.text(section, key);
        let read = parse_ratio(&text).unwrap_or_else(|| {
            let rule = format!("must be a ratio over 0 and at most 1, such as 0.05 or 5%, not {text:?}");
            self.refuse(section, key, &rule);
            parse_ratio(&self.default_text(section, key)).unwrap_or(1.0)
        });
        self.note(section, key, json!(read));
        read
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
        let read = parsed.filter(|span| span.as_millis() >= u128::from(least_ms)).unwrap_or_else(|| {
            let written = twin_key.as_deref().unwrap_or(key);
            let text = self.text(section, written);
            let rule = format!("must be a duration of at least {least_ms} ms, such as 30s or 1500ms, not {text:?}");
            self.refuse(section, written, &rule);
            parse_span(&self.default_text(section, key), unit).unwrap_or_default()
        });
        let amount = read.as_secs_f64() * 1000.0 / unit.ms();
        // Numbers of clients are whole where they can be.
        self.note(section, key, if amount.fract() == 0.0 { json!(amount as u64) } else { json!(amount) });
        read
    }

    /// A span, if one is set.
    pub fn optional_duration(&mut self, section: &str, key: &str, unit: Unit, least_ms: u64) -> Option<Duration> {
        let has_twin = twin(key).is_some_and(|twin| self.is_explicit(section, &twin));
        self.note(section, key, serde_json::Value::Null);
        (has_twin || !self.text(section, key).is_empty()).then(|| self.duration(section, key, unit, least_ms))
    }

    /// From 0 to 100; a percent sign may follow.
    pub fn percent(&mut self, section: &str, key: &str) -> f64 {
        let parse = |text: &str| {
            let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
            number.filter(|percent| (0.0..=100.0).contains(percent))
        };
        let text = self.text(section, key);
        let read = parse(&text).unwrap_or_else(|| {
            self.refuse(section, key, &format!("must be a percentage from 0 to 100, not {text:?}"));
            parse(&self.default_text(section, key)).unwrap_or(0.0)
        });
        self.note(section, key, json!(read));
        read
    }

    pub fn choice<T: Copy, const N: usize>(&mut self, section: &str, key: &str, choices: &[(&str, T); N]) -> T {
        const { assert!(N > 0, "something to choose from") };
        let text = self.text(section, key).to_ascii_lowercase();
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.note(section, key, json!(text));
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
    known: &BTreeMap<Key, String>,
    problems: &mut Vec<Problem>,
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
    for (section, key) in known.keys() {
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
        let place = lower.split_once("__").filter(|(section, key)| named(known, section, key).is_some());
        match place {
            Some((section, key)) => add(variable, section, key, text),
            None => {
                problems.push(Problem::general(format!(
                    "{variable}: unknown key; write INFRA__SECTION__KEY as in config/default.toml"
                )));
            }
        }
    }
    Variables(found)
}
