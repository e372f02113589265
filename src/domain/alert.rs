//! Alerts: one per component and type while its condition lasts, with an id for life (CONTRACT.md section 10).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    LowUptime,
    DependencyFailure,
    LongOutage,
    Flapping,
    MultipleServicesDown,
    SystemStatus,
    EssTripped,
    SystemResource,
    MonitorImpaired,
}

impl AlertType {
    pub const ALL: [Self; 13] = [
        Self::ServiceDown,
        Self::InfrastructureDown,
        Self::HighResponseTime,
        Self::HighErrorRate,
        Self::LowUptime,
        Self::DependencyFailure,
        Self::LongOutage,
        Self::Flapping,
        Self::MultipleServicesDown,
        Self::SystemStatus,
        Self::EssTripped,
        Self::SystemResource,
        Self::MonitorImpaired,
    ];
    /// Those about one service.
    pub const OF_SERVICES: &[Self] = Self::ALL.split_at(8).0;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceDown => "service_down",
            Self::InfrastructureDown => "infrastructure_down",
            Self::HighResponseTime => "high_response_time",
            Self::HighErrorRate => "high_error_rate",
            Self::LowUptime => "low_uptime",
            Self::DependencyFailure => "dependency_failure",
            Self::LongOutage => "long_outage",
            Self::Flapping => "flapping",
            Self::MultipleServicesDown => "multiple_services_down",
            Self::SystemStatus => "system_status",
            Self::EssTripped => "ess_tripped",
            Self::SystemResource => "system_resource",
            Self::MonitorImpaired => "monitor_impaired",
        }
    }

    /// First notified when the outage opens, so that loss on the way pages nobody.
    pub fn waits_for_outage(self) -> bool {
        matches!(self, Self::ServiceDown | Self::InfrastructureDown)
    }
}

/// What an alert is about: a service, all of them, the host, or a part of the monitor itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    Service(ServiceName),
    /// The monitor itself: its sockets, memory and permissions.
    Monitor,
    /// The records store of the monitor.
    Records,
    /// All services together.
    System,
    /// The emergency stop of source 004.
    EmergencyStop,
    HostCpu,
    HostMemory,
    HostDisk,
}

impl Component {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Service(name) => name.as_str(),
            Self::Monitor => "monitor",
            Self::Records => "monitor-records",
            Self::System => "system",
            Self::EmergencyStop => "emergency_stop_system",
            Self::HostCpu => "host-cpu",
            Self::HostMemory => "host-memory",
            Self::HostDisk => "host-disk",
        }
    }

    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(name) => Some(name),
            _ => None,
        }
    }

    /// The component of a name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        const OTHERS: [Component; 7] = [
            Component::Monitor,
            Component::Records,
            Component::System,
            Component::EmergencyStop,
            Component::HostCpu,
            Component::HostMemory,
            Component::HostDisk,
        ];
        let other = OTHERS.into_iter().find(|component| component.as_str() == name);
        other.or_else(|| ServiceName::new(name).ok().map(Self::Service))
    }
}

/// Where an alert is in its life; one that is pending is nowhere yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    Active,
    /// Somebody looks after it: no repeats, no escalation.
    Acknowledged,
    Resolved,
}

impl AlertStatus {
    pub const ALL: [Self; 3] = [Self::Active, Self::Acknowledged, Self::Resolved];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
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
    /// Facts of an alert that is about no service.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
}

/// Somebody who looks after an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub at: DateTime<Utc>,
    pub by: Option<String>,
    pub note: Option<String>,
    /// Then the alert is active again; `None`: until it resolves.
    pub until: Option<DateTime<Utc>>,
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
    #[serde(default)]
    pub acknowledgement: Option<Acknowledgement>,
    /// Every one there was, oldest first.
    #[serde(default)]
    pub acknowledgements: Vec<Acknowledgement>,
    /// Taken off the active list by hand, until its condition ends.
    #[serde(default)]
    pub cleared: bool,
    #[serde(default)]
    pub resolved_by: Option<String>,
    /// What was said when it was resolved by hand.
    #[serde(default)]
    pub resolution_note: Option<String>,
    /// Reminders sent since it last escalated.
    #[serde(default)]
    pub reminders: u32,
    /// Who was ever owed a message about it.
    #[serde(default)]
    pub receivers: Vec<String>,
}

impl Alert {
    /// `<component>-<type with dashes>-<unix seconds>`.
    pub fn id_for(component: &Component, kind: AlertType, seconds: i64) -> String {
        format!("{}-{}-{seconds}", component.as_str(), kind.as_str().replace('_', "-"))
    }

    /// Not resolved.
    pub fn is_living(&self) -> bool {
        self.status != AlertStatus::Resolved
    }

    /// On the active list: neither resolved nor cleared.
    pub fn is_listed(&self) -> bool {
        self.is_living() && !self.cleared
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
            acknowledged_at: self.acknowledgement.as_ref().map(|known| Stamp(known.at)),
            acknowledged_by: self.acknowledgement.as_ref().and_then(|known| known.by.as_deref()),
            acknowledged_until: self.acknowledgement.as_ref().and_then(|known| known.until).map(Stamp),
            note: self
                .resolution_note
                .as_deref()
                .or_else(|| self.acknowledgement.as_ref().and_then(|known| known.note.as_deref())),
            cleared: self.cleared,
            resolved_at: self.resolved_at.map(Stamp),
            resolved_by: self.resolved_by.as_deref(),
            escalation_level: self.escalation_level,
            suppressed_by: self.suppressed_by.as_deref(),
            root_cause: self.root_cause.as_ref().map(ServiceName::as_str),
            outage_id: self.outage_id,
            alert_sent: self.told == Told::Yes,
            updated_at: Stamp(self.updated_at),
            details: match &self.component {
                Component::Service(_) => ShownDetails::Service(&self.details),
                _ => ShownDetails::Other(&self.details.facts),
            },
        }
    }
}

/// The details of an alert: about a service always the same, else what its rule has to say.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ShownDetails<'a> {
    Service(&'a AlertDetails),
    Other(&'a Map<String, Value>),
}

/// The record of CONTRACT.md 10.1: what the API, Redis and receivers get.
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
    pub details: ShownDetails<'a>,
}
