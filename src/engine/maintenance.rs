//! The maintenance windows of the operator and of the API, and which are in force. A window is a predicate over time:
//! nothing here depends on being awake at its beginning or end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::Engine;
use super::commit::Transition;
use crate::domain::event::{Event, EventKind};
use crate::domain::maintenance::{Calendar, InForce, MaintenanceWindow, Scope, Span, covered_ms};
use crate::domain::outage::Outage;
use crate::domain::service::{Service, ServiceName};
use crate::domain::time::Stamp;
use crate::store::records::{Batch, Fact, FactKind};

/// Name of what was in force at the last look, among the marks.
const TOLD: &str = "maintenance";

/// Every window.
#[derive(Debug)]
pub struct Windows {
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
    calendar: ArcSwap<Calendar>,
    in_force: ArcSwap<InForce>,
    /// Those whose beginning is told, and whose end is not.
    told: Mutex<BTreeMap<Uuid, Told>>,
}

/// What is said of a window when it begins and when it ends, be it long deleted by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    description: Option<String>,
    scope: Scope,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

impl Told {
    /// Of a recurring window: the occurrence it is in at `now`.
    fn of(window: &MaintenanceWindow, now: DateTime<Utc>) -> Self {
        let spans = window.spans(now, now);
        let (start, end) = spans.first().map_or((window.start, window.end), |span| (span.from, span.to));
        Self { description: window.description.clone(), scope: window.scope.clone(), start, end }
    }

    fn event(&self, kind: EventKind, id: Uuid, now: DateTime<Utc>) -> Event {
        let Scope { services, tags, categories, everyone } = &self.scope;
        let payload = json!({
            "id": id, "description": self.description, "services": (!everyone).then_some(services), "tags": tags,
            "categories": categories, "start": Stamp(self.start), "end": Stamp(self.end),
        });
        Event::new(kind, None, payload, now)
    }
}

#[derive(Debug, Default)]
struct Kept {
    listed: Vec<Arc<MaintenanceWindow>>,
    registered: Vec<Arc<MaintenanceWindow>>,
    /// Deleted after they had begun: what they were in force for stays so.
    past: Vec<Arc<MaintenanceWindow>>,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
            calendar: ArcSwap::from_pointee(Calendar::new(Vec::new())),
            // Believed for no time at all: the first question makes it.
            in_force: ArcSwap::from_pointee(InForce {
                windows: Vec::new(),
                from: DateTime::UNIX_EPOCH,
                until: DateTime::UNIX_EPOCH,
            }),
            told: Mutex::default(),
        }
    }
}

impl Windows {
    fn told(&self) -> MutexGuard<'_, BTreeMap<Uuid, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recalls which windows were in force at the last look of the last run.
    pub(super) fn recall(&self, marks: &[Fact]) {
        let mark = marks.iter().find(|mark| mark.name == TOLD).and_then(|mark| mark.value.as_deref());
        match mark.map(serde_json::from_str).transpose() {
            Ok(told) => *self.told() = told.unwrap_or_default(),
            Err(error) => tracing::warn!(%error, "which maintenance windows were in force is not readable"),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.kept();
        change(&mut kept);
        let all = kept.listed.iter().chain(&kept.registered).chain(&kept.past).cloned().collect();
        self.calendar.store(Arc::new(Calendar::new(all)));
        self.in_force.rcu(|before| InForce {
            from: DateTime::UNIX_EPOCH,
            until: DateTime::UNIX_EPOCH,
            ..(**before).clone()
        });
    }

    /// The windows in force at `now`.
    pub fn at(&self, now: DateTime<Utc>) -> Arc<InForce> {
        let known = self.in_force.load_full();
        if known.from <= now && now < known.until {
            return known;
        }
        // Under the lock of changes: what is made of windows of before must not replace what is made of those after.
        let _kept = self.kept();
        let made = Arc::new(self.calendar.load().at(now));
        self.in_force.store(made.clone());
        made
    }

    /// The windows clients see, in the order they begin.
    pub fn shown(&self) -> Vec<Arc<MaintenanceWindow>> {
        let kept = self.kept();
        let mut shown: Vec<Arc<MaintenanceWindow>> = kept.listed.iter().chain(&kept.registered).cloned().collect();
        shown.sort_by_key(|window| (window.start, window.id));
        shown
    }

    /// One change at a time.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The windows of the API without the services that are `gone`.
    pub(super) fn without(&self, gone: &[ServiceName], now: DateTime<Utc>) -> Vec<Version> {
        let is_gone = |name: &ServiceName| gone.contains(name);
        let kept = self.kept();
        let concerned = kept.registered.iter().filter(|window| window.scope.services.iter().any(is_gone));
        let left = concerned.map(|read| {
            let mut window = MaintenanceWindow { updated_at: now, ..(**read).clone() };
            window.scope.services.retain(|name| !is_gone(name));
            window.changed_in_force = (read.start < now).then_some(now);
            Version::new(window, Some(read))
        });
        left.collect()
    }

    pub(super) fn put(&self, versions: Vec<Version>) {
        if versions.is_empty() {
            return;
        }
        self.change(|kept| {
            for Version { window, past, .. } in versions {
                kept.registered.retain(|known| known.id != window.id);
                kept.registered.push(window);
                kept.past.extend(past);
            }
        });
    }

    fn is_as_read(&self, read: &MaintenanceWindow) -> bool {
        self.kept().registered.iter().any(|known| **known == *read)
    }

    pub fn find(&self, id: Uuid) -> Option<Arc<MaintenanceWindow>> {
        self.shown().into_iter().find(|window| window.id == id)
    }

    /// The stretches of time from `from` to `to` in which `service` was or will be in maintenance.
    pub fn spans_of(&self, service: &Service, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Span> {
        let calendar = self.calendar.load();
        if calendar.windows().is_empty() { Vec::new() } else { calendar.spans_of(service, from, to) }
    }
}

/// A change could not be made durable; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotDurable;

/// Why a window was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    NotDurable,
    /// It is not as it was read: changed or taken away in the meantime.
    Stale,
}

/// A window as it will be, and what it was until then.
#[derive(Debug)]
pub(super) struct Version {
    window: Arc<MaintenanceWindow>,
    /// What it was in force for stays so: a change alters no number of the past.
    past: Option<Arc<MaintenanceWindow>>,
    read: Option<MaintenanceWindow>,
}

impl Version {
    /// `window` in the place of `read`. Each version has a date of its own, for `If-Match`.
    fn new(mut window: MaintenanceWindow, read: Option<&MaintenanceWindow>) -> Self {
        if let Some(read) = read {
            window.updated_at = window.updated_at.max(read.updated_at + TimeDelta::milliseconds(1));
        }
        let changed = read.zip(window.changed_in_force).filter(|(read, changed)| read.start < *changed);
        let past = changed.map(|(read, changed)| {
            let end = read.end.min(changed - TimeDelta::milliseconds(1));
            Arc::new(MaintenanceWindow { id: Uuid::now_v7(), end, ..read.clone() })
        });
        Self { window: Arc::new(window), past, read: read.cloned() }
    }

    pub fn write(&self, batch: &mut Batch) {
        batch.windows.insert(self.window.id, ((*self.window).clone(), false));
        if let Some(past) = &self.past {
            batch.windows.insert(past.id, ((**past).clone(), true));
        }
    }

    /// What undoes [`Version::write`].
    pub fn undo(&self, batch: &mut Batch) {
        match &self.read {
            Some(read) => drop(batch.windows.insert(read.id, (read.clone(), false))),
            None => batch.windows_removed.push(self.window.id),
        }
        batch.windows_removed.extend(self.past.iter().map(|past| past.id));
    }
}

impl Engine {
    /// The windows in force now. Counts that leave services in maintenance out follow when that has changed.
    pub fn windows_in_force(&self) -> Arc<InForce> {
        let now = self.clock.now();
        let in_force = self.windows.at(now);
        self.live.follow_windows(&in_force);
        in_force
    }

    /// Tells of windows that came into force or ended since the last look, once each, be it by an earlier run.
    pub(super) async fn tell_windows(&self) {
        let now = self.clock.now();
        let in_force = self.windows_in_force();
        let committed = {
            let mut told = self.windows.told();
            if told.len() == in_force.windows.len() && in_force.windows.iter().all(|w| told.contains_key(&w.id)) {
                return;
            }
            let known = |window: &MaintenanceWindow| told.get(&window.id).cloned();
            let current: BTreeMap<Uuid, Told> = in_force
                .windows
                .iter()
                .map(|window| (window.id, known(window).unwrap_or_else(|| Told::of(window, now))))
                .collect();
            let ended = told.iter().filter(|(id, _)| !current.contains_key(id));
            let ended = ended.map(|(id, known)| {
                let known = Told { end: known.end.min(now), ..known.clone() };
                known.event(EventKind::MaintenanceEnded, *id, now)
            });
            let started = current.iter().filter(|(id, _)| !told.contains_key(id));
            let started = started.map(|(id, new)| new.event(EventKind::MaintenanceStarted, *id, now));
            let mut transition = Transition { events: ended.chain(started).collect(), ..Transition::default() };
            transition.beside.facts.push(Fact {
                kind: FactKind::Mark,
                name: TOLD.to_owned(),
                at_ms: now.timestamp_millis(),
                value: serde_json::to_string(&current).ok(),
            });
            *told = current;
            // Under the lock, so that looks reach the store in their order.
            self.commit.transition(transition)
        };
        // An answer that never comes means that the monitor is ending.
        let _ = committed.await;
    }

    /// How long `outage` has lasted, or lasted, without the time in maintenance.
    pub fn outage_duration(&self, outage: &Outage, now: DateTime<Utc>) -> std::time::Duration {
        let watched = self.live.find(&outage.service).filter(|_| outage.is_open());
        let paused = watched.map_or(0, |watched| self.paused_ms(&watched.service(), outage.started, now));
        outage.duration(now).saturating_sub(std::time::Duration::from_millis(paused.max(0).cast_unsigned()))
    }

    /// Milliseconds in maintenance between two instants.
    pub(super) fn paused_ms(&self, service: &Service, from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
        covered_ms(&self.windows.spans_of(service, from, to))
    }

    /// The operator's windows are replaced.
    pub(super) fn list_windows(&self, listed: Vec<MaintenanceWindow>) {
        self.windows.change(|kept| kept.listed = listed.into_iter().map(Arc::new).collect());
        self.windows_in_force();
    }

    pub(super) fn restore_windows(&self, stored: Vec<(MaintenanceWindow, bool)>) {
        self.windows.change(|kept| {
            for (window, hidden) in stored {
                (if hidden { &mut kept.past } else { &mut kept.registered }).push(Arc::new(window));
            }
        });
    }

    /// Makes a window of the API durable and puts it in force. `read`: the window it is to replace, as it was read.
    ///
    /// # Errors
    /// It could not be stored, or is not as it was read; nothing has changed.
    pub async fn put_window(
        &self,
        window: MaintenanceWindow,
        read: Option<&MaintenanceWindow>,
    ) -> Result<Arc<MaintenanceWindow>, Unchanged> {
        let _turn = self.windows.turn().await;
        if read.is_some_and(|read| !self.windows.is_as_read(read)) {
            return Err(Unchanged::Stale);
        }
        let version = Version::new(window, read);
        let (mut batch, mut inverse) = (Batch::default(), Batch::default());
        version.write(&mut batch);
        version.undo(&mut inverse);
        self.store_windows(batch, inverse).await?;
        let window = version.window.clone();
        self.windows.put(vec![version]);
        self.windows_in_force();
        Ok(window)
    }

    /// Takes a window away. What it was in force for stays so.
    ///
    /// # Errors
    /// It could not be stored, or is not as it was read; nothing has changed.
    pub async fn remove_window(&self, read: &MaintenanceWindow) -> Result<(), Unchanged> {
        let _turn = self.windows.turn().await;
        if !self.windows.is_as_read(read) {
            return Err(Unchanged::Stale);
        }
        let now = self.clock.now();
        let begun = read.start < now;
        let last = now - TimeDelta::milliseconds(1);
        let ended = Arc::new(MaintenanceWindow { end: read.end.min(last), updated_at: now, ..read.clone() });
        let batch = if begun {
            Batch { windows: [(read.id, ((*ended).clone(), true))].into(), ..Batch::default() }
        } else {
            Batch { windows_removed: vec![read.id], ..Batch::default() }
        };
        let inverse = Batch { windows: [(read.id, (read.clone(), false))].into(), ..Batch::default() };
        self.store_windows(batch, inverse).await?;
        self.windows.change(|kept| {
            kept.registered.retain(|known| known.id != read.id);
            if begun {
                kept.past.push(ended);
            }
        });
        self.windows_in_force();
        Ok(())
    }

    /// Forgets windows that ended before `before`, as the records do.
    pub(super) fn forget_windows(&self, before: DateTime<Utc>) {
        self.windows.change(|kept| {
            kept.registered.retain(|window| window.end >= before);
            kept.past.retain(|window| window.end >= before);
        });
    }

    /// `inverse` undoes `batch` when its fate is not known: the store hears of the truth when it is back.
    async fn store_windows(&self, batch: Batch, inverse: Batch) -> Result<(), Unchanged> {
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Err(Unchanged::NotDurable);
        }
        let Err(error) = self.records.write(batch).await else { return Ok(()) };
        tracing::error!(%error, "a maintenance window was not stored: nothing is changed");
        drop(self.commit.transition(Transition { beside: inverse, ..Transition::default() }));
        Err(Unchanged::NotDurable)
    }
}
