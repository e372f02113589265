//! The durable truth: one enum over its two homes, one set of promises, one suite of tests.
//!
//! Everything written is an upsert under an id that exists before the first attempt: a commit whose answer was lost is
//! repeated and changes nothing.

mod postgres;
mod rows;
mod sqlite;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{RecordsAddress, StoreError, Timings};
use crate::domain::alert::{Alert, AlertType, Component, Severity};
use crate::domain::check::{CheckBatch, CheckRun, LoggedCheck, name_hash};
use crate::domain::event::{Event, EventKind};
use crate::domain::maintenance::MaintenanceWindow;
use crate::domain::notification::{Delivery, Notification};
use crate::domain::outage::{Outage, OutageSeverity};
use crate::domain::registration::Registration;
use crate::domain::rollup::Rollup;
use crate::domain::service::ServiceName;
use crate::domain::state::ServiceState;
use crate::domain::window::History;

/// What is committed together: all or none.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub states: HashMap<ServiceName, ServiceState>,
    /// History of a service, and until when (unix ms) it includes the check log.
    pub histories: Vec<(ServiceName, String, i64)>,
    pub outages: BTreeMap<Uuid, Outage>,
    pub alerts: BTreeMap<String, Alert>,
    pub owed: Vec<Notification>,
    /// Ids of outbox rows that are settled: delivered, merged or withdrawn.
    pub settled: Vec<String>,
    /// Ids of outbox rows that were refused for too long.
    pub dead: Vec<String>,
    pub events: Vec<Event>,
    pub checks: Vec<CheckBatch>,
    pub removed: Vec<ServiceName>,
    pub registrations: BTreeMap<ServiceName, Registration>,
    /// Registrations that are taken back.
    pub unregistered: Vec<ServiceName>,
    /// Services whose history and outages go.
    pub erased: Vec<ServiceName>,
    /// A window, and whether it is kept for the sake of the past only.
    pub windows: BTreeMap<Uuid, (MaintenanceWindow, bool)>,
    pub windows_removed: Vec<Uuid>,
    pub runs: Vec<CheckRun>,
    pub deliveries: Vec<Delivery>,
    /// Roll-ups of the fleet by minute.
    pub minutes: Vec<Rollup>,
    /// Ids of outbox rows that are owed again: dead letters sent anew.
    pub revived: Vec<String>,
    pub facts: Vec<Fact>,
}

/// What a [`Fact`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    /// A setting of the API: `section.key`.
    Setting,
    /// Who changed settings, when, and what: by id.
    Change,
    /// How far a reader of the event log has got, and the like.
    Mark,
    /// An event from outside that was dealt with: by its id.
    Seen,
    /// What was done about an outage: by its id.
    Remedy,
    /// A version of an outage that is to be exported: by the outage's id and the version.
    Owed,
    /// What was exported of a maintenance window: by its id.
    Exported,
    /// A document that was refused: by its id.
    Refused,
}

impl FactKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Change => "change",
            Self::Mark => "mark",
            Self::Seen => "seen",
            Self::Remedy => "remedy",
            Self::Owed => "owed",
            Self::Exported => "exported",
            Self::Refused => "refused",
        }
    }
}

/// Something small to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub kind: FactKind,
    pub name: String,
    pub at_ms: i64,
    /// `None`: it is forgotten.
    pub value: Option<String>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.registrations.is_empty()
            && self.unregistered.is_empty()
            && self.erased.is_empty()
            && self.windows.is_empty()
            && self.windows_removed.is_empty()
            && self.runs.is_empty()
            && self.deliveries.is_empty()
            && self.minutes.is_empty()
            && self.revived.is_empty()
            && self.facts.is_empty()
            && self.histories.is_empty()
            && self.outages.is_empty()
            && self.alerts.is_empty()
            && self.owed.is_empty()
            && self.settled.is_empty()
            && self.dead.is_empty()
            && self.events.is_empty()
            && self.checks.is_empty()
            && self.removed.is_empty()
    }

    /// Adds what came later: newer values of the same thing replace older ones.
    pub fn absorb(&mut self, later: Self) {
        for name in &later.erased {
            self.outages.retain(|_, outage| outage.service != *name);
            let service = name_hash(name);
            self.runs.retain(|run| run.service != service);
        }
        for name in &later.unregistered {
            self.registrations.remove(name);
        }
        self.unregistered.retain(|name| !later.registrations.contains_key(name));
        self.registrations.extend(later.registrations);
        self.unregistered.extend(later.unregistered);
        self.erased.extend(later.erased);
        self.windows.extend(later.windows);
        self.windows_removed.extend(later.windows_removed);
        self.runs.extend(later.runs);
        self.deliveries.extend(later.deliveries);
        self.minutes.extend(later.minutes);
        self.revived.extend(later.revived);
        self.facts.extend(later.facts);
        for name in &later.removed {
            self.states.remove(name);
            self.histories.retain(|(of, _, _)| of != name);
        }
        self.removed.retain(|name| !later.states.contains_key(name));
        for (name, state) in later.states {
            // What was read before a change and handed over after it must not undo it.
            if self.states.get(&name).is_none_or(|known| known.sequence <= state.sequence) {
                self.states.insert(name, state);
            }
        }
        for history in later.histories {
            self.histories.retain(|(of, _, _)| *of != history.0);
            self.histories.push(history);
        }
        self.outages.extend(later.outages);
        self.alerts.extend(later.alerts);
        self.owed.extend(later.owed);
        self.settled.extend(later.settled);
        self.dead.extend(later.dead);
        if later.events.iter().any(|event| event.kind == EventKind::SnapshotUpdated) {
            // A picture of the whole fleet is large, and only the newest is of use.
            self.events.retain(|event| event.kind != EventKind::SnapshotUpdated);
        }
        self.events.extend(later.events);
        self.checks.extend(later.checks);
        self.removed.extend(later.removed);
    }
}

/// Everything a start needs to go on where the last run ended.
#[derive(Debug, Default)]
pub struct Restored {
    pub states: HashMap<ServiceName, ServiceState>,
    pub histories: HashMap<ServiceName, (History, i64)>,
    pub living_alerts: Vec<Alert>,
    /// Alerts resolved since `alerts`.
    pub recent_alerts: Vec<Alert>,
    pub sequences: HashMap<Component, u64>,
    /// Outages that were open at some time since `outages`, and the latest of each service; oldest first.
    pub outages: Vec<Outage>,
    /// The latest outage of a critical service.
    pub last_incident: Option<Outage>,
    /// Owed notifications, oldest first.
    pub owed: Vec<Notification>,
    /// The newest events, oldest first.
    pub events: Vec<Event>,
    /// Place of the newest batch in the check log.
    pub log_mark: i64,
    pub registrations: Vec<Registration>,
    /// Every window, and whether it is kept for the sake of the past only.
    pub windows: Vec<(MaintenanceWindow, bool)>,
    /// By the hash of a service's name: up to where its checks are in the check history.
    pub run_marks: HashMap<u64, i64>,
}

/// Which outages are asked for.
#[derive(Debug, Clone, Default)]
pub struct OutageFilter {
    pub service: Option<ServiceName>,
    pub severity: Option<OutageSeverity>,
    /// Both bound the start.
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// Open ones, closed ones, or both.
    pub open: Option<bool>,
}

/// A page of outages, newest first, and how many there are in all.
#[derive(Debug, Default)]
pub struct OutagePage {
    pub outages: Vec<Outage>,
    pub total: u64,
}

/// How many outages of a severity there are, how many are open, and the sum of the closed ones' lengths.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutageSums {
    pub total: u64,
    pub open: u64,
    pub closed_ms: i64,
}

/// Which alerts are asked for; what is empty or absent asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct AlertFilter {
    pub component: Option<Component>,
    pub severity: Option<Severity>,
    pub kind: Option<AlertType>,
    /// Living ones, resolved ones, or both.
    pub living: Option<bool>,
    /// Both bound the first trigger.
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
}

/// A page of alerts, newest first by first trigger, and how many there are in all.
#[derive(Debug, Default)]
pub struct AlertPage {
    pub alerts: Vec<Alert>,
    pub total: u64,
}

/// Where a stored run of checks begins and ends, and how many it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunHead {
    pub from_ms: i64,
    pub to_ms: i64,
    pub count: usize,
}

/// How far back a restore reaches.
#[derive(Debug, Clone, Copy)]
pub struct Since {
    pub alerts: DateTime<Utc>,
    pub outages: DateTime<Utc>,
}

/// One page of the check log.
#[derive(Debug, Default)]
pub struct LogPage {
    pub checks: Vec<LoggedCheck>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<i64>,
}

/// What of the check log is more, or older, than may wait to be exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrun {
    /// The last mark of it; 0 for none.
    pub through: i64,
    /// Checks in it, and from when to when.
    pub checks: u64,
    pub from_ms: i64,
    pub to_ms: i64,
}

/// What old data is given up at a clean-up.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Now: partitions are made ahead of it.
    pub now: DateTime<Utc>,
    /// The log is read at a start and by the export, and the check history has its checks.
    pub log_before: DateTime<Utc>,
    /// What comes after this mark of the log stays.
    pub log_through: i64,
    pub checks_before: DateTime<Utc>,
    pub outages_before: Option<DateTime<Utc>>,
}

/// The durable truth, wherever it lives.
#[derive(Debug, Clone)]
pub enum Records {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Records {
    /// Opens the store, migrates it, and takes hold of it.
    ///
    /// # Errors
    /// Unreachable, in use, damaged, or written by a newer version.
    pub async fn open(address: &RecordsAddress) -> Result<Self, StoreError> {
        Ok(match address {
            RecordsAddress::Sqlite(path) => Self::Sqlite(sqlite::Sqlite::open(Some(path.clone())).await?),
            RecordsAddress::SqliteMemory => Self::Sqlite(sqlite::Sqlite::open(None).await?),
            RecordsAddress::Postgres(url) => Self::Postgres(postgres::Postgres::connect(url).await?),
        })
    }

    /// `sqlite`, `postgresql` or `memory`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(records) if records.in_memory() => "memory",
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }

    /// How long its calls took.
    pub fn timings(&self) -> &Timings {
        match self {
            Self::Sqlite(records) => &records.timings,
            Self::Postgres(records) => &records.timings,
        }
    }

    /// What survives once it is committed: `power_loss`, `crash` or `none` (HARDENING.md section 3).
    pub fn durability(&self) -> &'static str {
        match self {
            Self::Sqlite(records) if records.in_memory() => "none",
            Self::Sqlite(_) => "power_loss",
            Self::Postgres(records) => records.durability(),
        }
    }

    /// Commits `batch`, all or none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store did not confirm; nothing of the batch may be announced then.
    pub async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(records) => records.write(batch).await,
            Self::Postgres(records) => records.write(&batch).await,
        }
    }

    /// Reads what the last run left.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn restore(&self, since: Since) -> Result<Restored, StoreError> {
        match self {
            Self::Sqlite(records) => records.restore(since).await,
            Self::Postgres(records) => records.restore(since).await,
        }
    }

    /// One page of the check log, `blobs` of them at most, from page mark `after` (0 is the beginning), of blobs that
    /// reach beyond `since_ms`.
    ///
    /// # Errors
    /// Unreachable. A blob that is not ours is skipped with a warning: it is history, not truth.
    pub async fn check_log(&self, since_ms: i64, after: i64, blobs: i64) -> Result<LogPage, StoreError> {
        match self {
            Self::Sqlite(records) => records.check_log(since_ms, after, blobs).await,
            Self::Postgres(records) => records.check_log(since_ms, after, blobs).await,
        }
    }

    /// How much of the check log after mark `after` is beyond the newest `bytes`, or ended before `since_ms`.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn log_overrun(&self, after: i64, bytes: u64, since_ms: i64) -> Result<Overrun, StoreError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match self {
            Self::Sqlite(records) => records.log_overrun(after, bytes, since_ms).await,
            Self::Postgres(records) => records.log_overrun(after, bytes, since_ms).await,
        }
    }

    /// A page of the outages that match, newest first.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn outages(&self, filter: OutageFilter, skip: usize, limit: usize) -> Result<OutagePage, StoreError> {
        match self {
            Self::Sqlite(records) => records.outages(filter, skip, limit).await,
            Self::Postgres(records) => records.outages(filter, skip, limit).await,
        }
    }

    /// Sums over the outages that match, by severity.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn outage_sums(&self, filter: OutageFilter) -> Result<BTreeMap<String, OutageSums>, StoreError> {
        match self {
            Self::Sqlite(records) => records.outage_sums(filter).await,
            Self::Postgres(records) => records.outage_sums(filter).await,
        }
    }

    /// Ids and starts (unix ms) of outages whose ids come after `after`, in the order of ids.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn outage_starts(&self, after: String, limit: usize) -> Result<Vec<(Uuid, i64)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match self {
            Self::Sqlite(records) => records.outage_starts(after, limit).await?,
            Self::Postgres(records) => records.outage_starts(after, limit).await?,
        };
        let readable = |(id, started_ms): (String, i64)| Some((Uuid::parse_str(&id).ok()?, started_ms));
        Ok(rows.into_iter().filter_map(readable).collect())
    }

    /// One outage.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn outage(&self, id: Uuid) -> Result<Option<Outage>, StoreError> {
        match self {
            Self::Sqlite(records) => records.outage(id).await,
            Self::Postgres(records) => records.outage(id).await,
        }
    }

    /// What receivers have taken about some outages, oldest first.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn deliveries(&self, outages: Vec<Uuid>) -> Result<Vec<Delivery>, StoreError> {
        let ids = outages.iter().map(Uuid::to_string).collect();
        match self {
            Self::Sqlite(records) => records.deliveries(ids).await,
            Self::Postgres(records) => records.deliveries(ids).await,
        }
    }

    /// A page of the alerts that match, newest first by first trigger.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn alerts(&self, filter: AlertFilter, skip: usize, limit: usize) -> Result<AlertPage, StoreError> {
        match self {
            Self::Sqlite(records) => records.alerts(filter, skip, limit).await,
            Self::Postgres(records) => records.alerts(filter, skip, limit).await,
        }
    }

    /// One alert, by either of its ids.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn alert(&self, id: &str) -> Result<Option<Alert>, StoreError> {
        let found = match self {
            Self::Sqlite(records) => records.alert(id.to_owned()).await?,
            Self::Postgres(records) => records.alert(id.to_owned()).await?,
        };
        // The other id ends in the time of its first trigger.
        let time = id.rsplit_once('_').and_then(|(_, time)| DateTime::parse_from_rfc3339(time).ok());
        let (None, Some(time)) = (&found, time.map(|time| time.to_utc())) else { return Ok(found) };
        let then = AlertFilter { from: Some(time), to: Some(time), ..AlertFilter::default() };
        let page = self.alerts(then, 0, AT_ONCE).await?;
        Ok(page.alerts.into_iter().find(|alert| alert.alert_id == id))
    }

    /// What receivers have taken about some alerts, oldest first.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn deliveries_about(&self, alerts: Vec<String>) -> Result<Vec<Delivery>, StoreError> {
        match self {
            Self::Sqlite(records) => records.deliveries_about(alerts).await,
            Self::Postgres(records) => records.deliveries_about(alerts).await,
        }
    }

    /// Notifications among the dead letters, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn dead_letters(&self, skip: usize, limit: usize) -> Result<(Vec<Notification>, u64), StoreError> {
        match self {
            Self::Sqlite(records) => records.dead_letters(skip, limit).await,
            Self::Postgres(records) => records.dead_letters(skip, limit).await,
        }
    }

    /// Events after a number of the log, oldest first.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn events_after(&self, sequence: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        match self {
            Self::Sqlite(records) => records.events_after(sequence, limit).await,
            Self::Postgres(records) => records.events_after(sequence, limit).await,
        }
    }

    /// Every fact of a kind, oldest first.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn facts(&self, kind: FactKind) -> Result<Vec<Fact>, StoreError> {
        let rows = match self {
            Self::Sqlite(records) => records.facts(kind.as_str()).await?,
            Self::Postgres(records) => records.facts(kind.as_str()).await?,
        };
        Ok(rows.into_iter().map(|(name, at_ms, value)| Fact { kind, name, at_ms, value: Some(value) }).collect())
    }

    /// The fact of a kind and name, if there is one.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn fact(&self, kind: FactKind, name: &str) -> Result<Option<String>, StoreError> {
        match self {
            Self::Sqlite(records) => records.fact(kind.as_str(), name.to_owned()).await,
            Self::Postgres(records) => records.fact(kind.as_str(), name).await,
        }
    }

    /// The runs of one service (by the hash of its name) that touch a range of time, newest first.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn runs(&self, service: u64, from_ms: i64, to_ms: i64) -> Result<Vec<RunHead>, StoreError> {
        match self {
            Self::Sqlite(records) => records.runs(service, from_ms, to_ms).await,
            Self::Postgres(records) => records.runs(service, from_ms, to_ms).await,
        }
    }

    /// The packed checks of the runs of one service that begin from `first_ms` to `last_ms`, oldest first.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn run_blobs(
        &self,
        service: u64,
        first_ms: i64,
        last_ms: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        match self {
            Self::Sqlite(records) => records.run_blobs(service, first_ms, last_ms).await,
            Self::Postgres(records) => records.run_blobs(service, first_ms, last_ms).await,
        }
    }

    /// The fleet's minutes from one instant up to another, oldest first; the newest `limit` of them.
    ///
    /// # Errors
    /// Unreachable, or not readable as ours.
    pub async fn minutes(&self, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<Rollup>, StoreError> {
        match self {
            Self::Sqlite(records) => records.minutes(from_ms, to_ms, limit).await,
            Self::Postgres(records) => records.minutes(from_ms, to_ms, limit).await,
        }
    }

    /// Leaves everything in one file, where that is a matter of files.
    pub async fn close(&self) {
        if let Self::Sqlite(records) = self {
            records.close().await;
        }
    }

    /// Makes room for the days ahead, where that is a matter of partitions. Asked once an hour.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn prepare(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(records) => records.prepare(now.timestamp_millis()).await,
        }
    }

    /// Deletes a bounded piece of what is older than retention allows; `true` when there may be more.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn clean_up(&self, retention: Retention) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(records) => records.clean_up(retention).await,
            Self::Postgres(records) => records.clean_up(retention).await,
        }
    }
}

/// Alerts triggered in one millisecond that are looked through for one: our choice, more than a storm brings about.
const AT_ONCE: usize = 10_000;

/// Rows of one page of the check log, and rows deleted in one piece of a clean-up: our choice, some milliseconds of work.
pub const PAGE: i64 = 500;
