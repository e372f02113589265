//! Alerts, and the receivers that are told of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::api::document::vocabulary::Anything;
use crate::domain::alert::{AlertStatus, AlertType, Severity};
use crate::domain::notification::NoticeKind;
use crate::domain::observation::Reason;
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;

#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
enum Level {
    Critical,
    Warning,
    Info,
}

/// One alert.
#[derive(ToSchema)]
pub(in crate::api) struct AlertBody {
    id: String,
    /// Another id, for life like the first
    alert_id: String,
    #[schema(rename = "type")]
    kind: AlertType,
    severity: Severity,
    level: Level,
    service: Option<ServiceName>,
    /// A service, or a part of the system
    component: String,
    title: String,
    message: String,
    description: String,
    threshold: Option<f64>,
    current_value: Option<f64>,
    triggered_at: Stamp,
    timestamp: Stamp,
    status: AlertStatus,
    acknowledged_at: Option<Stamp>,
    acknowledged_by: Option<String>,
    acknowledged_until: Option<Stamp>,
    note: Option<String>,
    /// Taken off the active list by hand
    cleared: bool,
    resolved_at: Option<Stamp>,
    resolved_by: Option<String>,
    escalation_level: u32,
    /// Id of the alert that explains this one
    suppressed_by: Option<String>,
    root_cause: Option<ServiceName>,
    outage_id: Option<Uuid>,
    /// A receiver has taken it
    alert_sent: bool,
    updated_at: Stamp,
    details: AlertFacts,
}

/// About a service always these fields, else what the rule has to say.
#[derive(ToSchema)]
#[serde(untagged)]
enum AlertFacts {
    Service(ServiceFacts),
    Other(BTreeMap<String, Anything>),
}

#[derive(ToSchema)]
struct ServiceFacts {
    reason: Option<Reason>,
    http_status: Option<u16>,
    response_time_ms: Option<f64>,
    #[schema(nullable = false)]
    failed_dependencies: Option<Vec<ServiceName>>,
    impacted: Vec<ServiceName>,
    #[schema(nullable = false)]
    facts: Option<BTreeMap<String, Anything>>,
}

/// The worst alert of one component.
#[derive(ToSchema)]
struct WorstAlert {
    alert_type: String,
    current_value: Option<f64>,
    threshold_value: Option<f64>,
    alert_sent: bool,
}

#[derive(ToSchema)]
pub(in crate::api) struct AlertsOverview {
    /// The worst alert of each component
    active_alerts: BTreeMap<String, WorstAlert>,
    /// The last hundred that are resolved
    alert_history: Vec<AlertBody>,
    total_active_alerts: u64,
    timestamp: Stamp,
    alerts: Vec<AlertBody>,
    count: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct ActiveAlerts {
    /// Worst first
    alerts: Vec<AlertBody>,
    count: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct NewestAlerts {
    total: u64,
    /// Newest first
    alerts: Vec<AlertBody>,
}

#[derive(ToSchema)]
pub(in crate::api) struct AlertHistory {
    count: u64,
    /// Oldest first
    alerts: Vec<ToldAlert>,
    limit: u64,
    skip: u64,
    total: u64,
}

/// One alert, with who acknowledged it and which receiver took what about it.
#[derive(ToSchema)]
pub(in crate::api) struct ToldAlert {
    #[serde(flatten)]
    alert: AlertBody,
    acknowledgements: Vec<AcknowledgementBody>,
    notifications: Vec<NotificationBody>,
}

#[derive(ToSchema)]
struct AcknowledgementBody {
    at: Stamp,
    by: Option<String>,
    note: Option<String>,
    until: Option<Stamp>,
}

#[derive(ToSchema)]
struct NotificationBody {
    id: String,
    channel: String,
    kind: NoticeKind,
    owed_at: Stamp,
    delivered_at: Stamp,
    attempts: u32,
    recipients: Vec<String>,
}

/// Which alerts are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct AlertsQuery {
    /// A service, or a part of the system
    #[param(example = "api-gateway")]
    component: Option<String>,
    /// Another name of `component`
    service: Option<String>,
    severity: Option<Severity>,
    #[param(rename = "type")]
    kind: Option<AlertType>,
    #[param(inline)]
    status: Option<Living>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum Living {
    Active,
    Resolved,
}

/// A limit that is brought into range.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Clamped {
    /// Alerts shown at most: any whole number, brought into the range from 1 to 500
    #[param(default = 100)]
    limit: Option<i64>,
}

/// Alerts left out at the beginning.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Skip {
    #[param(minimum = 0, default = 0)]
    skip: Option<u64>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct AcknowledgeAlert {
    #[schema(max_length = 100)]
    acknowledged_by: Option<String>,
    #[schema(max_length = 2000)]
    note: Option<String>,
    /// Then it is active again; must lie ahead
    until: Option<DateTime<Utc>>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ResolveAlert {
    #[schema(max_length = 100)]
    resolved_by: Option<String>,
    #[schema(max_length = 2000)]
    note: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::api) struct Cleared {
    status: String,
    message: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct TestSent {
    receiver: String,
    delivered: bool,
    error: Option<String>,
    /// Seconds
    execution_time: f64,
}

#[derive(ToSchema)]
pub(in crate::api) struct DeadLetters {
    /// Oldest first
    items: Vec<DeadLetter>,
    total: u64,
}

#[derive(ToSchema)]
struct DeadLetter {
    id: String,
    receiver: String,
    kind: NoticeKind,
    /// Ids of the alerts it is about
    alerts: Vec<String>,
    owed_at: Stamp,
    text: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct RefusedDocuments {
    /// Oldest first
    items: Vec<RefusedDocument>,
    total: u64,
}

#[derive(ToSchema)]
struct RefusedDocument {
    /// Id of the document
    id: String,
    index: String,
    refused_at: Stamp,
    /// As Elasticsearch answered
    status: u16,
    error: String,
    document: Option<BTreeMap<String, Anything>>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Replay {
    /// Ids of dead letters; all of them without it
    ids: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub(in crate::api) struct Replayed {
    replayed: u64,
}
