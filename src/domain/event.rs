//! The event log: what happened, in one versioned envelope, each with an id for life and a number that only rises
//! (CONTRACT.md section 14).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::alert::AlertType;
use super::service::ServiceName;
use super::status::Status;

/// Events kept at hand: CONTRACT.md 14.4, what a listener may resume within.
pub const RECENT: usize = 10_000;

/// The types of CONTRACT.md 14.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    #[serde(rename = "service.status_changed")]
    StatusChanged,
    #[serde(rename = "outage.opened")]
    OutageOpened,
    #[serde(rename = "outage.resolved")]
    OutageResolved,
    #[serde(rename = "alert.raised")]
    AlertRaised,
    #[serde(rename = "alert.severity_raised")]
    AlertSeverityRaised,
    #[serde(rename = "alert.acknowledged")]
    AlertAcknowledged,
    #[serde(rename = "alert.resolved")]
    AlertResolved,
    #[serde(rename = "maintenance.started")]
    MaintenanceStarted,
    #[serde(rename = "maintenance.ended")]
    MaintenanceEnded,
    #[serde(rename = "registry.changed")]
    RegistryChanged,
    #[serde(rename = "monitor.impaired")]
    MonitorImpaired,
    #[serde(rename = "monitor.recovered")]
    MonitorRecovered,
    #[serde(rename = "ess.tripped")]
    EssTripped,
    #[serde(rename = "health.snapshot_updated")]
    SnapshotUpdated,
}

impl EventKind {
    pub const ALL: [Self; 14] = [
        Self::StatusChanged,
        Self::OutageOpened,
        Self::OutageResolved,
        Self::AlertRaised,
        Self::AlertSeverityRaised,
        Self::AlertAcknowledged,
        Self::AlertResolved,
        Self::MaintenanceStarted,
        Self::MaintenanceEnded,
        Self::RegistryChanged,
        Self::MonitorImpaired,
        Self::MonitorRecovered,
        Self::EssTripped,
        Self::SnapshotUpdated,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::StatusChanged => "service.status_changed",
            Self::OutageOpened => "outage.opened",
            Self::OutageResolved => "outage.resolved",
            Self::AlertRaised => "alert.raised",
            Self::AlertSeverityRaised => "alert.severity_raised",
            Self::AlertAcknowledged => "alert.acknowledged",
            Self::AlertResolved => "alert.resolved",
            Self::MaintenanceStarted => "maintenance.started",
            Self::MaintenanceEnded => "maintenance.ended",
            Self::RegistryChanged => "registry.changed",
            Self::MonitorImpaired => "monitor.impaired",
            Self::MonitorRecovered => "monitor.recovered",
            Self::EssTripped => "ess.tripped",
            Self::SnapshotUpdated => "health.snapshot_updated",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(word))
    }

    /// The type it has for other parties (CONTRACT.md 14.3); `None`: it is not published.
    pub fn published_as(self) -> Option<&'static str> {
        match self {
            Self::AlertRaised | Self::AlertSeverityRaised => Some("health.alert_raised"),
            Self::SnapshotUpdated
            | Self::StatusChanged
            | Self::OutageOpened
            | Self::OutageResolved
            | Self::AlertResolved
            | Self::MaintenanceStarted
            | Self::MaintenanceEnded => Some(self.as_str()),
            Self::AlertAcknowledged
            | Self::RegistryChanged
            | Self::MonitorImpaired
            | Self::MonitorRecovered
            | Self::EssTripped => None,
        }
    }
}

/// One entry of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The same on every copy.
    pub id: Uuid,
    /// Rises over the whole log; given when the event is committed, 0 before.
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub kind: EventKind,
    /// `None` for events about no service.
    pub service: Option<ServiceName>,
    pub payload: Payload,
}

/// What an event says, as JSON text: ten thousand of them are kept at hand, and a picture of a large fleet is megabytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(Box<str>);

impl Payload {
    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn read(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

impl Event {
    /// An event that has yet to be committed.
    pub fn new(kind: EventKind, service: Option<ServiceName>, payload: Value, at: DateTime<Utc>) -> Self {
        Self { id: Uuid::now_v7(), sequence: 0, at, kind, service, payload: payload.into() }
    }

    /// What it has in common with others: the outage or the maintenance window it is about.
    pub fn correlation(&self) -> Option<Uuid> {
        let payload = self.payload.read();
        let id = |field: &str| payload.get(field).and_then(Value::as_str)?.parse().ok();
        id("outage_id").or_else(|| id("id"))
    }

    /// Its type and sentence on the dashboard of source 000, if it belongs there (CONTRACT.md 9.4).
    pub fn line(&self) -> Option<(&'static str, String)> {
        if !matches!(self.kind, EventKind::StatusChanged | EventKind::AlertRaised) {
            return None;
        }
        let payload = self.payload.read();
        let text = |field: &str| payload.get(field).and_then(Value::as_str);
        match self.kind {
            EventKind::StatusChanged => {
                let (from, to) = (text("from").and_then(Status::parse), text("to").and_then(Status::parse)?);
                let kind = match to {
                    Status::Unhealthy => "service_down",
                    Status::Degraded => "service_degraded",
                    Status::Healthy if from != Some(Status::Unknown) => "service_healthy",
                    Status::Healthy | Status::Unknown => return None,
                };
                let issues = payload.get("issues").and_then(Value::as_array);
                let issues: Vec<&str> = issues.into_iter().flatten().filter_map(Value::as_str).collect();
                let why = if issues.is_empty() { "Status changed".to_owned() } else { issues.join(", ") };
                Some((kind, format!("Service {}: {why}", to.as_str())))
            }
            EventKind::AlertRaised if text("type") == Some(AlertType::HighResponseTime.as_str()) => {
                Some(("performance_alert", text("message").unwrap_or_default().to_owned()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_dashboard_shows_what_happened_to_services() {
        let changed = |from: &str, to: &str, issues: Value| {
            let payload = json!({"from": from, "to": to, "issues": issues});
            Event::new(EventKind::StatusChanged, None, payload, DateTime::UNIX_EPOCH).line()
        };
        let line = |kind, text: &str| Some((kind, text.to_owned()));
        assert_eq!(changed("healthy", "unhealthy", json!(["a", "b"])), line("service_down", "Service unhealthy: a, b"));
        assert_eq!(
            changed("unhealthy", "healthy", json!([])),
            line("service_healthy", "Service healthy: Status changed")
        );
        assert_eq!(changed("unknown", "healthy", json!([])), None);
    }

    #[test]
    fn the_word_of_a_kind_is_its_name_on_the_wire() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn an_outage_and_its_alert_share_what_they_are_about() {
        let outage = Uuid::now_v7();
        let about =
            |payload: Value| Event::new(EventKind::AlertRaised, None, payload, DateTime::UNIX_EPOCH).correlation();
        assert_eq!(about(json!({"id": outage, "service": "auth"})), Some(outage));
        assert_eq!(about(json!({"id": "auth-service-down-1", "outage_id": outage})), Some(outage));
        assert_eq!(about(json!({"id": "auth-service-down-1", "outage_id": null})), None);
    }
}
