//! Keeps the settings while the service runs: what files and environment say, what the API has stored on top of it, and
//! what of both is in force. One change at a time: judged whole, then durable, then in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::api::{Administer, Caller, Denial, Reloaded, Setting, Standing, Wish, Wishes};
use crate::config::shown::{is_changeable, least};
use crate::config::{ConfigError, Configured, Layers, Problem, Settings, Sources, load_services};
use crate::domain::definitions::Listed;
use crate::domain::spec::Defaults;
use crate::domain::time::Stamp;
use crate::engine::{Engine, NotAdopted, ReloadOutcome, Remembered};
use crate::store::StoreError;
use crate::store::records::{Fact, FactKind, Records};
use crate::systemd::Systemd;
use crate::telemetry::Level;

/// Changes of settings that are remembered: our choice, a few hundred kilobytes.
const CHANGES: usize = 1000;
/// The fact that holds the further names clients have used.
const NAMES: &str = "settings.names";

/// What surrounds the service and may be told or adjusted while it runs.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub level: Level,
    pub systemd: Systemd,
}

/// What the records remember of settings.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// By `section.key`.
    stored: BTreeMap<String, String>,
    /// Further names that clients have used.
    names: BTreeSet<String>,
}

impl Kept {
    /// # Errors
    /// The records cannot be read.
    pub async fn read(records: &Records) -> Result<Self, StoreError> {
        let stored = records.facts(FactKind::Setting).await?;
        let marks = records.facts(FactKind::Mark).await?;
        let names = marks.into_iter().find(|mark| mark.name == NAMES).and_then(|mark| mark.value).unwrap_or_default();
        Ok(Self {
            stored: stored.into_iter().filter_map(|fact| Some((fact.name, fact.value?))).collect(),
            names: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        })
    }
}

/// What a start settles on.
pub struct Start {
    pub settings: Settings,
    pub listed: Listed,
    known: Known,
}

impl Start {
    /// Puts what is kept over what was configured. A stored value that breaks a rule of today is left out: it must not
    /// stop the start.
    pub fn settle(configured: &Configured, kept: Kept) -> Self {
        let Configured { layers, settings, listed, .. } = configured;
        let mut known =
            Known { layers: layers.clone(), stored: kept.stored, names: kept.names, left_out: BTreeMap::new() };
        while !known.stored.is_empty() {
            match Settings::of(layers, &known.stored) {
                Ok(settings) => match load_services(&configured.services(&settings), &settings.defaults) {
                    Ok(listed) => return Self { settings, listed, known },
                    Err(ConfigError(problems)) => {
                        let rule = format!("with it the services file breaks a rule: {}", problems.join("; "));
                        known.leave_out(|name| name.starts_with("checks."), &rule);
                    }
                },
                Err(problems) => known.leave_out_blamed(&problems),
            }
        }
        Self { settings: settings.clone(), listed: listed.clone(), known }
    }
}

/// Everything that makes up the settings in force.
struct Known {
    layers: Layers,
    /// In force over the layers, by `section.key`.
    stored: BTreeMap<String, String>,
    names: BTreeSet<String>,
    /// Stored, and not in force: why.
    left_out: BTreeMap<String, String>,
}

impl Known {
    /// Leaves out what the problems are about, or else what stands beside it: a rule may name the other of two.
    fn leave_out_blamed(&mut self, problems: &[Problem]) {
        let stored = self.stored.len();
        for problem in problems {
            if let Some((section, key)) = &problem.setting {
                let blamed = format!("{section}.{key}");
                if self.stored.contains_key(&blamed) {
                    self.leave_out(|name| name == blamed, &problem.rule);
                }
            }
        }
        if self.stored.len() == stored {
            let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let beside = |name: &str| {
                let sections = problems.iter().filter_map(|problem| Some(&problem.setting.as_ref()?.0));
                sections.into_iter().any(|section| name.split('.').next() == Some(section))
            };
            self.leave_out(beside, &told);
        }
    }

    /// Leaves out the stored values that are meant; all of them where none is, so that a start comes to an end.
    fn leave_out(&mut self, which: impl Fn(&str) -> bool, rule: &str) {
        let meant: Vec<String> = self.stored.keys().filter(|name| which(name)).cloned().collect();
        let names = if meant.is_empty() { self.stored.keys().cloned().collect() } else { meant };
        for name in names {
            self.stored.remove(&name);
            let sentence = format!("the stored setting {name} is not in force: {rule}");
            tracing::error!("{sentence}; change or remove it with PUT /config");
            self.left_out.insert(name, sentence);
        }
    }

    fn standing(&self, settings: &[Setting]) -> Standing {
        Standing {
            settings: settings.to_vec(),
            names: self.names.clone(),
            problems: self.left_out.values().cloned().collect(),
        }
    }
}

/// The settings of the running service.
#[derive(Clone)]
pub struct Admin(Arc<Inner>);

struct Inner {
    engine: Arc<Engine>,
    around: Surroundings,
    sources: Sources,
    /// The services file was there at the start, and is expected to stay.
    expects_file: bool,
    known: Mutex<Known>,
    standing: ArcSwap<Standing>,
    defaults: ArcSwap<Defaults>,
}

impl Admin {
    pub fn new(engine: Arc<Engine>, configured: &Configured, start: Start, around: Surroundings) -> Self {
        around.level.set(&start.settings.log.level);
        Self(Arc::new(Inner {
            engine,
            around,
            sources: configured.sources.clone(),
            expects_file: configured.expects_file,
            standing: ArcSwap::from_pointee(start.known.standing(&start.settings.shown)),
            defaults: ArcSwap::from_pointee(start.settings.defaults),
            known: Mutex::new(start.known),
        }))
    }
}

/// A value that is wished for, under the name it was sent.
struct Wanted {
    field: String,
    text: Option<String>,
}

impl Inner {
    async fn change(&self, wishes: Wishes) -> Result<(), Denial> {
        let mut known = self.known.lock().await;
        let before = self.standing.load_full();
        if wishes.if_match.as_ref().is_some_and(|tags| !tags.contains(&before.tag())) {
            return Err(Denial::Stale);
        }
        let wanted = wanted(&known.layers, &wishes.wishes)?;
        let mut stored = known.stored.clone();
        for (name, wish) in &wanted {
            match &wish.text {
                Some(text) => drop(stored.insert(name.clone(), text.clone())),
                None => drop(stored.remove(name)),
            }
        }
        let settings =
            Settings::of(&known.layers, &stored).map_err(|problems| Denial::Invalid(told(&problems, &wanted)))?;
        at_least(&settings, &wanted)?;
        let listed = if settings.defaults == **self.defaults.load() {
            None
        } else {
            Some(self.services(&settings).await.map_err(|problems| breaks(&wanted, &problems.join("; ")))?)
        };

        let names: BTreeSet<String> = known.names.union(&wishes.names).cloned().collect();
        let changed: Vec<&String> = wanted.keys().filter(|name| known.is_news(name, &stored)).collect();
        if changed.is_empty() && names == known.names {
            return Ok(());
        }
        let facts = self.remembered(&known, &stored, &names, &changed);
        let facts = facts.with(self.noted(&before, &settings, &changed, &wishes.caller).await?);
        self.engine.adopt(settings.engine.clone(), listed, facts).await.map_err(|error| match error {
            NotAdopted::Contradiction(rule) => breaks(&wanted, &rule),
            NotAdopted::NotDurable => Denial::Unavailable,
        })?;
        let told: Vec<&str> = changed.iter().map(|name| name.as_str()).collect();
        tracing::info!(request.id = wishes.caller.request_id, "settings changed: {}", told.join(", "));
        known.left_out.retain(|name, _| !wanted.contains_key(name));
        (known.stored, known.names) = (stored, names);
        self.in_force(&known, settings);
        Ok(())
    }

    /// The facts of the settings themselves, and what they were.
    fn remembered(
        &self,
        known: &Known,
        stored: &BTreeMap<String, String>,
        names: &BTreeSet<String>,
        changed: &[&String],
    ) -> Remembered {
        let at_ms = self.engine.clock.now().timestamp_millis();
        let fact = |kind, name: &str, value: Option<String>| Fact { kind, name: name.to_owned(), at_ms, value };
        let mut facts = Remembered::default();
        for name in changed {
            facts.next.push(fact(FactKind::Setting, name, stored.get(*name).cloned()));
            facts.before.push(fact(FactKind::Setting, name, known.stored.get(*name).cloned()));
        }
        if *names != known.names {
            let list = |names: &BTreeSet<String>| Some(names.iter().cloned().collect::<Vec<_>>().join(","));
            facts.next.push(fact(FactKind::Mark, NAMES, list(names)));
            facts.before.push(fact(FactKind::Mark, NAMES, list(&known.names)));
        }
        facts
    }

    /// Who has changed what, as it may be shown; the oldest such note makes room.
    async fn noted(
        &self,
        before: &Standing,
        after: &Settings,
        changed: &[&String],
        caller: &Caller,
    ) -> Result<Remembered, Denial> {
        let now = self.engine.clock.now();
        let mut facts = Remembered::default();
        if changed.is_empty() {
            return Ok(facts);
        }
        let one = |name: &&String| {
            let (section, key) = name.split_once('.').unwrap_or_default();
            let shown = |settings: &[Setting]| -> Value {
                let found = settings.iter().find(|setting| setting.section == section && setting.key == key);
                found.map(|setting| setting.value.clone()).unwrap_or_default()
            };
            json!({"key": name, "from": shown(&before.settings), "to": shown(&after.shown)})
        };
        let id = Uuid::now_v7().to_string();
        let note = json!({
            "id": id,
            "timestamp": Stamp(now),
            "request_id": caller.request_id,
            "who": {"access": "full", "key": caller.key, "address": caller.peer},
            "changes": changed.iter().map(one).collect::<Vec<_>>(),
        });
        let at_ms = now.timestamp_millis();
        let fact = |name: String, value| Fact { kind: FactKind::Change, name, at_ms, value };
        facts.before.push(fact(id.clone(), None));
        facts.next.push(fact(id, Some(note.to_string())));
        let known = self.engine.records.facts(FactKind::Change).await.map_err(|_| Denial::Unavailable)?;
        let old = known.len().saturating_sub(CHANGES - 1);
        facts.next.extend(known.into_iter().take(old).map(|old| fact(old.name, None)));
        Ok(facts)
    }

    fn in_force(&self, known: &Known, settings: Settings) {
        self.around.level.set(&settings.log.level);
        self.standing.store(Arc::new(known.standing(&settings.shown)));
        self.defaults.store(Arc::new(settings.defaults));
    }

    /// Services as they are written now, read with the defaults of `settings`.
    async fn services(&self, settings: &Settings) -> Result<Listed, Vec<String>> {
        let mut file = settings.services.clone();
        file.explicit |= self.expects_file;
        let defaults = settings.defaults.clone();
        let read = tokio::task::spawn_blocking(move || load_services(&file, &defaults)).await;
        read.unwrap_or_else(|error| Err(ConfigError(vec![error.to_string()]))).map_err(|ConfigError(problems)| problems)
    }

    async fn reload(&self) -> Result<Reloaded, Vec<String>> {
        let mut known = self.known.lock().await;
        self.around.systemd.reloading();
        let at = self.engine.clock.now();
        let reloaded = self.read_again(&mut known).await;
        let (what, error) = match &reloaded {
            Ok(done) => {
                for name in &done.ignored {
                    tracing::warn!("{name} is written otherwise now and needs a restart");
                }
                let roster = &done.roster;
                tracing::info!(
                    added = roster.added.len(),
                    changed = roster.changed.len(),
                    removed = roster.removed.len(),
                    settings = done.settings.len(),
                    "services reloaded"
                );
                ("services file", None)
            }
            Err((what, problems)) => {
                for problem in problems {
                    tracing::error!("{what} not reloaded, nothing is changed: {problem}");
                }
                (*what, Some(problems.join("; ")))
            }
        };
        self.engine.reload.note(ReloadOutcome { at, what, error });
        self.around.systemd.ready(self.engine.live.counts().total());
        reloaded.map_err(|(_, problems)| problems)
    }

    async fn read_again(&self, known: &mut Known) -> Result<Reloaded, (&'static str, Vec<String>)> {
        const SETTINGS: &str = "settings";
        let sources = self.sources.clone();
        let read = tokio::task::spawn_blocking(move || sources.layers()).await;
        let layers = read
            .unwrap_or_else(|error| Err(ConfigError(vec![error.to_string()])))
            .map_err(|ConfigError(problems)| (SETTINGS, problems))?;
        let judged = |layers: &Layers| {
            Settings::of(layers, &known.stored).map_err(|problems| (SETTINGS, ConfigError::from(problems).0))
        };
        // As it is written, with what would need a restart: a mistake there is told now, not at the next start.
        judged(&layers)?;
        let (layers, ignored) = layers.beside(&known.layers);
        let settings = judged(&layers)?;
        let listed = self.services(&settings).await.map_err(|problems| ("services file", problems))?;
        if listed.services.is_empty() {
            tracing::warn!("the services file lists no services any more");
        }
        let adopted = self.engine.adopt(settings.engine.clone(), Some(listed), Remembered::default()).await;
        let roster = adopted.map_err(|error| match error {
            NotAdopted::Contradiction(rule) => ("services file", vec![rule]),
            NotAdopted::NotDurable => (SETTINGS, vec!["records are not writable".to_owned()]),
        })?;
        known.layers = layers;
        let before = self.standing.load_full();
        let is_new = |setting: &&Setting| {
            before.find(&setting.section, &setting.key).is_none_or(|known| known.value != setting.value)
        };
        let changed = settings.shown.iter().filter(is_new);
        let changed = changed.map(|setting| format!("{}.{}", setting.section, setting.key)).collect();
        self.in_force(known, settings);
        Ok(Reloaded { roster, settings: changed, ignored })
    }
}

impl Known {
    /// What is stored under `name` would be another, or is not in force now.
    fn is_news(&self, name: &str, stored: &BTreeMap<String, String>) -> bool {
        self.stored.get(name) != stored.get(name) || self.left_out.contains_key(name)
    }
}

/// The settings that are wished for, by `section.key`.
fn wanted(layers: &Layers, wishes: &[Wish]) -> Result<BTreeMap<String, Wanted>, Denial> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut problems: Vec<(String, String)> = Vec::new();
    for wish in wishes {
        let Wish { field, section, .. } = wish;
        let Some((key, is_twin)) = layers.named(section, &wish.key) else {
            problems.push((field.clone(), "is not a setting".to_owned()));
            continue;
        };
        if !is_changeable(section, &key) {
            let variable = key.to_ascii_uppercase();
            let rule = format!("cannot be changed while the service runs; set {variable} and start it again");
            problems.push((field.clone(), rule));
            continue;
        }
        let text = wish.text.as_ref().map(|text| match text.trim().parse::<f64>() {
            Ok(_) if is_twin => format!("{}ms", text.trim()),
            _ => text.clone(),
        });
        match wanted.get(&format!("{section}.{key}")) {
            Some(other) if !same(other.text.as_deref(), text.as_deref()) => {
                problems.push((field.clone(), format!("disagrees with {}", other.field)));
            }
            Some(_) => {}
            None => drop(wanted.insert(format!("{section}.{key}"), Wanted { field: field.clone(), text })),
        }
    }
    if problems.is_empty() { Ok(wanted) } else { Err(Denial::Invalid(problems)) }
}

/// Equal texts; numbers are equal however they are written.
fn same(a: Option<&str>, b: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<f64>().ok());
    a == b || number(a).zip(number(b)).is_some_and(|(a, b)| (a - b).abs() < 1e-9)
}

/// Problems by the names that were sent; what was not sent by its own.
fn told(problems: &[Problem], wanted: &BTreeMap<String, Wanted>) -> Vec<(String, String)> {
    let one = |problem: &Problem| {
        let field = problem.setting.as_ref().map_or_else(
            || "settings".to_owned(),
            |(section, key)| {
                let sent = wanted.get(&format!("{section}.{key}")).map(|wanted| wanted.field.clone());
                sent.unwrap_or_else(|| format!("settings.{section}.{key}"))
            },
        );
        (field, problem.rule.clone())
    };
    let mut told: Vec<(String, String)> = problems.iter().map(one).collect();
    told.dedup();
    told
}

/// What a running service accepts is narrower than what a start does.
fn at_least(settings: &Settings, wanted: &BTreeMap<String, Wanted>) -> Result<(), Denial> {
    let mut problems = Vec::new();
    for setting in &settings.shown {
        let name = format!("{}.{}", setting.section, setting.key);
        let wish = wanted.get(&name).filter(|wish| wish.text.is_some());
        let (Some(wish), Some(least), Some(value)) = (wish, least(&setting.key), setting.value.as_f64()) else {
            continue;
        };
        if value < least {
            problems.push((wish.field.clone(), format!("must be at least {least} in the unit of {name}")));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Denial::Invalid(problems)) }
}

/// The services would break a rule with these settings.
fn breaks(wanted: &BTreeMap<String, Wanted>, rule: &str) -> Denial {
    let one = |wish: &Wanted| (wish.field.clone(), format!("cannot be in force: {rule}"));
    Denial::Invalid(wanted.values().map(one).take(1).collect())
}

impl Administer for Admin {
    fn standing(&self) -> Arc<Standing> {
        self.0.standing.load_full()
    }

    fn change(&self, wishes: Wishes) -> BoxFuture<'static, Result<(), Denial>> {
        let inner = self.0.clone();
        // A task of its own: a caller that goes away must not leave a change half done.
        let work = tokio::spawn(async move { inner.change(wishes).await });
        Box::pin(async move { work.await.unwrap_or(Err(Denial::Unavailable)) })
    }

    fn reload(&self) -> BoxFuture<'static, Result<Reloaded, Vec<String>>> {
        let inner = self.0.clone();
        let work = tokio::spawn(async move { inner.reload().await });
        Box::pin(async move { work.await.unwrap_or_else(|error| Err(vec![error.to_string()])) })
    }
}
