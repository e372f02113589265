//! The whole system from the stored results, never by probing: one pass over the live view for each answer, so that an
//! answer agrees with itself (CONTRACT.md 7.3, 7.4, 9.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Engine;
use super::live::Fleet;
use crate::domain::alert::{AlertType, Component};
use crate::domain::host::{HostPolicy, HostSample, Resource};
use crate::domain::judge::SystemTrouble;
use crate::domain::observation::{Reason, clean};
use crate::domain::service::{Service, ServiceName};
use crate::domain::status::Status;
use crate::domain::system::{Member, Names, Outcome, SystemStatus, SystemView, Word, word};
use crate::domain::time::{Stamp, round2, span};

/// One service as it stood when it was passed.
#[derive(Debug)]
pub struct Row {
    pub service: Arc<Service>,
    pub status: Status,
    /// In the words of 004.
    pub word: Word,
    confirmed: Word,
    pub reason: Reason,
    /// Of the latest check, if it was answered.
    pub response_us: Option<u32>,
    pub last_check: Option<DateTime<Utc>>,
    pub error_message: Option<String>,
    /// What came back last, as JSON text; only where it was asked for.
    details: Option<Box<str>>,
}

impl Row {
    pub fn latency_ms(&self) -> Option<f64> {
        self.response_us.map(|us| round2(f64::from(us) / 1000.0))
    }
}

/// Every service in one pass, in the order of the registry.
#[derive(Debug)]
pub struct Rows {
    pub at: DateTime<Utc>,
    pub rows: Vec<Row>,
    pub fleet: Fleet,
}

/// `performance` of 004: services only, `null` without an answer.
#[derive(Debug, Clone, Serialize)]
pub struct Performance {
    pub avg_service_latency_ms: Option<f64>,
    pub max_service_latency_ms: Option<f64>,
}

impl From<&SystemView> for Performance {
    fn from(view: &SystemView) -> Self {
        Self {
            avg_service_latency_ms: view.latency.map(|latency| latency.average_ms),
            max_service_latency_ms: view.latency.map(|latency| latency.max_ms),
        }
    }
}

/// The host in the words of 002; `null` for what has not been seen.
#[derive(Debug, Clone, Serialize)]
pub struct SystemHealth {
    pub status: Status,
    pub cpu_usage: Option<f64>,
    pub memory_usage: Option<f64>,
    pub disk_usage: Option<f64>,
    pub load_average: Option<[f64; 3]>,
    pub uptime_seconds: Option<u64>,
}

impl SystemHealth {
    fn of(sample: Option<&HostSample>, policy: &HostPolicy) -> Self {
        let vitals = sample.and_then(|sample| sample.vitals.as_ref());
        let usage = |resource| sample.and_then(|sample| sample.usage(resource)).map(round2);
        Self {
            status: sample.map_or(Status::Unknown, |sample| sample.status(&Resource::ALL, policy)),
            cpu_usage: usage(Resource::Cpu),
            memory_usage: usage(Resource::Memory),
            disk_usage: usage(Resource::Disk),
            load_average: vitals.map(|vitals| vitals.load_average.map(round2)),
            uptime_seconds: vitals.map(|vitals| vitals.uptime.as_secs()),
        }
    }
}

/// One service in a snapshot; what is not known is left out.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotEntry {
    status: Word,
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of services; infrastructure always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    critical: Option<bool>,
}

/// Every service one by one, as 004 publishes it.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    timestamp: Stamp,
    #[serde(serialize_with = "by_name")]
    services: Vec<(ServiceName, SnapshotEntry)>,
    #[serde(serialize_with = "by_name")]
    infra: Vec<(ServiceName, SnapshotEntry)>,
}

/// An object in the order of the registry.
fn by_name<S: Serializer>(entries: &[(ServiceName, SnapshotEntry)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(entries.iter().map(|(name, entry)| (name, entry)))
}

impl Snapshot {
    fn of(rows: Rows) -> Self {
        let (mut services, mut infra) = (Vec::new(), Vec::new());
        for row in rows.rows {
            let is_service = !row.service.is_infrastructure();
            let error = match row.word {
                Word::Ok | Word::Unknown => None,
                // In the words of 004.
                _ if row.reason == Reason::Timeout => Some("Request timeout".to_owned()),
                _ => row.error_message.clone(),
            };
            let details = row.details.as_deref().filter(|_| is_service);
            let entry = SnapshotEntry {
                status: row.word,
                latency_ms: row.latency_ms(),
                details: details.and_then(|text| serde_json::from_str(text).ok()),
                error,
                critical: is_service.then_some(row.service.critical),
            };
            (if is_service { &mut services } else { &mut infra }).push((row.service.name.clone(), entry));
        }
        Self { timestamp: Stamp(rows.at), services, infra }
    }
}

/// The body of `GET /health/system`: 004's fields, and 002's under `system_health`.
#[derive(Debug, Clone, Serialize)]
pub struct SystemBody {
    pub status: SystemStatus,
    timestamp: Stamp,
    services: Names,
    infrastructure: Names,
    critical_failures: Vec<String>,
    performance: Performance,
    ess_tripped: bool,
    system_health: SystemHealth,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Snapshot>,
}

impl Engine {
    /// Every service in one pass. `details`: with what came back last.
    pub fn rows(&self, details: bool) -> Rows {
        self.windows_in_force();
        let roster = self.live.roster();
        let mut fleet = Fleet::default();
        let mut rows = Vec::with_capacity(roster.watched.len());
        for watched in &roster.watched {
            let service = watched.service();
            let inner = watched.lock();
            let state = &inner.state;
            let judged = service.active && !inner.in_maintenance;
            let status = if service.active { state.status } else { Status::Unknown };
            let seen = if judged { word(&service, state.into()) } else { Word::Unknown };
            let confirmed = if seen > Word::Ok {
                let before = inner.history.newest().nth(1).filter(|check| !check.maintenance);
                let before = before.map_or(Word::Ok, |check| word(&service, Outcome::from(&check)));
                seen.min(before)
            } else {
                seen
            };
            fleet.all.add(status);
            if judged {
                fleet.judged.add(status);
            }
            fleet.in_maintenance += usize::from(inner.in_maintenance);
            rows.push(Row {
                status,
                word: seen,
                confirmed,
                reason: state.reason,
                response_us: state.response_us,
                last_check: state.last_check,
                error_message: state.error_message.clone(),
                details: if details { state.details.clone() } else { None },
                service,
            });
        }
        Rows { at: self.clock.now(), rows, fleet }
    }

    /// Why the emergency stop is tripped, if it is.
    fn tripped(&self) -> Option<String> {
        let alert = self.live.find_alert(&Component::EmergencyStop, AlertType::EssTripped)?;
        let reason = alert.details.facts.get("reason").and_then(Value::as_str).map(clean);
        Some(reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "Unknown".to_owned()))
    }

    /// The whole system as it stands.
    pub fn system_view(&self) -> SystemView {
        self.view_of(&self.rows(false))
    }

    pub fn view_of(&self, rows: &Rows) -> SystemView {
        let members = rows.rows.iter().map(|row| Member {
            service: &row.service,
            word: row.word,
            confirmed: row.confirmed,
            response_us: row.response_us,
        });
        SystemView::of(members, self.tripped())
    }

    /// The body of `GET /health/system`; it says nothing while [`Self::awaits_first_round`].
    pub fn system_body(&self, snapshot: bool) -> SystemBody {
        let rows = self.rows(snapshot);
        let view = self.view_of(&rows);
        SystemBody {
            status: view.status,
            timestamp: Stamp(rows.at),
            performance: Performance::from(&view),
            ess_tripped: view.ess.is_some(),
            services: view.services,
            infrastructure: view.infrastructure,
            critical_failures: view.critical_failures,
            system_health: SystemHealth::of(self.host().sample.as_ref(), &self.config().host),
            snapshot: snapshot.then(|| Snapshot::of(rows)),
        }
    }

    /// What an alert is raised for: failures that two checks in a row have seen, and slowness that two snapshots have.
    ///
    /// Cheap while all is well; else it looks at every service, which takes tenths of a second for tens of thousands: not
    /// for the async threads.
    pub(super) fn system_trouble(&self) -> Option<SystemTrouble> {
        let slowness = self.slowness.load(Ordering::Relaxed);
        let slow =
            [SystemStatus::Ok, SystemStatus::Degraded, SystemStatus::Critical][(slowness >> 8 & 0xff).min(2) as usize];
        if slow == SystemStatus::Ok && self.live.fleet().amiss == 0 {
            return None;
        }
        let rows = self.rows(false);
        let view = self.view_of(&rows);
        let confirmed = view.confirmed;
        let status = confirmed.status.max(slow);
        (status != SystemStatus::Ok).then(|| SystemTrouble {
            critical: status == SystemStatus::Critical,
            critical_failures: confirmed.critical_failures,
            services_degraded: confirmed.services_degraded,
            services_down: confirmed.services_down,
            infra_degraded: confirmed.infra_degraded,
            infra_down: confirmed.infra_down,
            bad: rows.rows.iter().filter(|row| row.confirmed > Word::Ok).map(|row| row.service.name.clone()).collect(),
        })
    }

    /// Takes note of what the slowest response made of the system at a snapshot; two in a row count.
    pub(super) fn note_slowness(&self, now: SystemStatus) {
        let before = self.slowness.load(Ordering::Relaxed);
        let (now, snapshots) = (u32::from(now.code()), (before >> 16).min(1) + 1);
        let both = (before & 0xff).min(now);
        self.slowness.store(snapshots << 16 | both << 8 | now, Ordering::Relaxed);
    }

    /// Two snapshots were taken since the start.
    pub(super) fn knows_latency(&self) -> bool {
        self.slowness.load(Ordering::Relaxed) >> 16 >= 2
    }

    /// There are services to check, and none has been checked yet.
    pub fn awaits_first_round(&self) -> bool {
        let roster = self.live.roster();
        let mut active = false;
        for watched in &roster.watched {
            if watched.lock().state.last_check.is_some() {
                return false;
            }
            active |= watched.service().active;
        }
        active
    }

    /// Whether a reference target, or any service within its last interval, answered: the network carries. `None`: none is
    /// checked.
    pub fn is_connected(&self) -> Option<bool> {
        let (references, failing) = self.references();
        if failing < references {
            return Some(true);
        }
        let now = self.clock.now();
        let roster = self.live.roster();
        let mut checked = false;
        for watched in &roster.watched {
            let service = watched.service();
            let state = &watched.lock().state;
            let Some(at) = state.last_check.filter(|_| service.active) else { continue };
            if state.response_us.is_some() && span(at, now) <= service.interval + service.timeout {
                return Some(true);
            }
            checked = true;
        }
        checked.then_some(false)
    }

    /// Checking is paused: no probes, no samples.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
}
