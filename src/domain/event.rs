//! The event log: what happened to services, one line each.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::service::ServiceName;

/// Events kept at hand: our choice; the dashboard shows five.
pub const RECENT: usize = 100;

/// The event types of the dashboard (CONTRACT.md 9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    ServiceDown,
    ServiceDegraded,
    ServiceHealthy,
    PerformanceAlert,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceDown => "service_down",
            Self::ServiceDegraded => "service_degraded",
            Self::ServiceHealthy => "service_healthy",
            Self::PerformanceAlert => "performance_alert",
        }
    }
}

/// One line of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: Uuid,
    /// Rises over the whole log.
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub kind: EventKind,
    pub service: ServiceName,
    pub message: String,
}
