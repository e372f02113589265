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

use super::{RecordsAddress, StoreError};
use crate::domain::alert::{Alert, Component};
use crate::domain::check::{Check, CheckBatch};
use crate::domain::event::Event;
use crate::domain::notification::Notification;
use crate::domain::outage::Outage;
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
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
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
    /// The hash of the service's name, and the check.
    pub checks: Vec<(u64, Check)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<i64>,
}

/// What old data is given up at a clean-up.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
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

    /// One page of the check log, from page mark `after` (0 is the beginning), of blobs that reach beyond `since_ms`.
    ///
    /// # Errors
    /// Unreachable. A blob that is not ours is skipped with a warning: it is history, not truth.
    pub async fn check_log(&self, since_ms: i64, after: i64) -> Result<LogPage, StoreError> {
        match self {
            Self::Sqlite(records) => records.check_log(since_ms, after).await,
            Self::Postgres(records) => records.check_log(since_ms, after).await,
        }
    }

    /// Leaves everything in one file, where that is a matter of files.
    pub async fn close(&self) {
        if let Self::Sqlite(records) = self {
            records.close().await;
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

/// Rows of one page of the check log, and rows deleted in one piece of a clean-up: our choice, some milliseconds of work.
const PAGE: i64 = 500;
