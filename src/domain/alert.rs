//! Alerts: one per component and type while its condition lasts, with an id for life (CONTRACT.md section 10).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::observation::Reason;
use super::service::ServiceName;
use super::time::{Stamp, round6};

/// How bad it is. Ordered: a severity may only rise while its alert lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Medium, Self::Low];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The level of source 004.
    pub fn level(self) -> &'static str {
        match self {
            Self::Low => "INFO",
            Self::Medium | Self::High => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }

    /// One step worse; critical stays.
    pub fn raised(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }
}

/// The closed list of alert types (CONTRACT.md 10.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertType {
    ServiceDown,
    InfrastructureDown,
    HighResponseTime,
    HighErrorRate,
    DependencyFailure,
    Flapping,
    MonitorImpaired,
}

impl AlertType {
    pub const ALL: [Self; 7] = [
        Self::ServiceDown,
        Self::InfrastructureDown,
        Self::HighResponseTime,
        Self::HighErrorRate,
        Self::DependencyFailure,
        Self::Flapping,
        Self::MonitorImpaired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceDown => "service_down",
            Self::InfrastructureDown => "infrastructure_down",
            Self::HighResponseTime => "high_response_time",
            Self::HighErrorRate => "high_error_rate",
            Self::DependencyFailure => "dependency_failure",
            Self::Flapping => "flapping",
            Self::MonitorImpaired => "monitor_impaired",
        }
    }

    /// First notified when the outage opens, so that loss on the way pages nobody.
    pub fn waits_for_outage(self) -> bool {
        matches!(self, Self::ServiceDown | Self::InfrastructureDown)
    }
}

/// What an alert is about: a service, or a part of the monitor itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    Service(ServiceName),
    /// The monitor itself: its sockets, memory and permissions.
    Monitor,
    /// The records store of the monitor.
    Records,
}

impl Component {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Service(name) => name.as_str(),
            Self::Monitor => "monitor",
            Self::Records => "monitor-records",
        }
    }

    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(name) => Some(name),
            Self::Monitor | Self::Records => None,
        }
    }
}

/// Where an alert is in its life; one that is pending is nowhere yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    Active,
    Resolved,
}

/// How far its news has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// Nobody: held back, waiting, or below the severity that is sent.
    No,
    /// A notification is owed.
    Owed,
    /// A receiver has said yes.
    Yes,
}

/// What was seen when the alert was last judged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AlertDetails {
    pub reason: Option<Reason>,
    pub http_status: Option<u16>,
    pub response_time_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_dependencies: Vec<ServiceName>,
    #[serde(default)]
    pub impacted: Vec<ServiceName>,
}

/// One alert, with what its life needs to go on after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub id: String,
    pub alert_id: String,
    pub kind: AlertType,
    pub component: Component,
    pub severity: Severity,
    pub title: String,
    pub message: String,
    pub description: String,
    pub threshold: Option<f64>,
    pub current_value: Option<f64>,
    pub triggered_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub status: AlertStatus,
    pub resolved_at: Option<DateTime<Utc>>,
    pub escalation_level: u32,
    /// Id of the alert that explains this one.
    pub suppressed_by: Option<String>,
    pub root_cause: Option<ServiceName>,
    pub outage_id: Option<Uuid>,
    pub details: AlertDetails,
    pub told: Told,
    /// The cooldown of its predecessor ends then.
    pub notify_after: Option<DateTime<Utc>>,
    pub last_notified: Option<DateTime<Utc>>,
    /// When it last escalated, or was first told.
    pub escalates_from: Option<DateTime<Utc>>,
    /// Failing checks since its root cause recovered.
    pub failures_alone: u32,
    /// Number of the latest notification about its component; rises only.
    pub sequence: u64,
}

impl Alert {
    /// `<component>-<type with dashes>-<unix seconds>`.
    pub fn id_for(component: &Component, kind: AlertType, seconds: i64) -> String {
        format!("{}-{}-{seconds}", component.as_str(), kind.as_str().replace('_', "-"))
    }

    pub fn is_active(&self) -> bool {
        self.status == AlertStatus::Active
    }

    /// The alert as clients see it.
    pub fn record(&self) -> AlertRecord<'_> {
        AlertRecord {
            id: &self.id,
            alert_id: &self.alert_id,
            kind: self.kind,
            severity: self.severity,
            level: self.severity.level(),
            service: self.component.service().map(ServiceName::as_str),
            component: self.component.as_str(),
            title: &self.title,
            message: &self.message,
            description: &self.description,
            threshold: self.threshold.map(round6),
            current_value: self.current_value.map(round6),
            triggered_at: Stamp(self.triggered_at),
            timestamp: Stamp(self.triggered_at),
            status: self.status,
            acknowledged_at: None,
            acknowledged_by: None,
            acknowledged_until: None,
            note: None,
            cleared: false,
            resolved_at: self.resolved_at.map(Stamp),
            resolved_by: None,
            escalation_level: self.escalation_level,
            suppressed_by: self.suppressed_by.as_deref(),
            root_cause: self.root_cause.as_ref().map(ServiceName::as_str),
            outage_id: self.outage_id,
            alert_sent: self.told == Told::Yes,
            updated_at: Stamp(self.updated_at),
            details: &self.details,
        }
    }
}

/// The record of CONTRACT.md 10.1: what the API, Redis and receivers get. The fields of acknowledgement are there from
/// the first day on; they are always empty until alerts can be acknowledged.
#[derive(Debug, Clone, Serialize)]
pub struct AlertRecord<'a> {
    pub id: &'a str,
    pub alert_id: &'a str,
    #[serde(rename = "type")]
    pub kind: AlertType,
    pub severity: Severity,
    pub level: &'static str,
    pub service: Option<&'a str>,
    pub component: &'a str,
    pub title: &'a str,
    pub message: &'a str,
    pub description: &'a str,
    pub threshold: Option<f64>,
    pub current_value: Option<f64>,
    pub triggered_at: Stamp,
    pub timestamp: Stamp,
    pub status: AlertStatus,
    pub acknowledged_at: Option<Stamp>,
    pub acknowledged_by: Option<&'a str>,
    pub acknowledged_until: Option<Stamp>,
    pub note: Option<&'a str>,
    pub cleared: bool,
    pub resolved_at: Option<Stamp>,
    pub resolved_by: Option<&'a str>,
    pub escalation_level: u32,
    pub suppressed_by: Option<&'a str>,
    pub root_cause: Option<&'a str>,
    pub outage_id: Option<Uuid>,
    pub alert_sent: bool,
    pub updated_at: Stamp,
    pub details: &'a AlertDetails,
}
