//! Outages, their notices and their timelines.

use std::collections::BTreeMap;

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::services::ServiceRecord;
use crate::domain::outage::OutageSeverity;
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;

/// Of `GET /outages`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct OutagesQuery {
    #[param(example = "api-gateway")]
    endpoint_id: Option<String>,
    severity: Option<OutageSeverity>,
    /// `false`: only those that are open
    #[param(default = true)]
    include_resolved: Option<bool>,
}

#[derive(ToSchema)]
pub(in crate::api) struct OutagePage {
    /// Newest first
    items: Vec<OutageBody>,
    total: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct OutageBody {
    id: Uuid,
    endpoint_id: ServiceName,
    severity: OutageSeverity,
    description: String,
    /// The first failing check
    start_time: Stamp,
    resolved: bool,
    resolved_at: Option<Stamp>,
    resolved_by: Option<String>,
    resolution_notes: Option<String>,
    notification_channels: Vec<String>,
    elasticsearch_synced: bool,
    end_time: Option<Stamp>,
    /// Seconds, once it is over
    duration: Option<u64>,
    /// Seconds so far
    duration_seconds: u64,
    affected_customers: Option<u64>,
    /// When it was confirmed
    created_at: Stamp,
    updated_at: Stamp,
    root_cause: Option<ServiceName>,
    suppressed_by: Option<String>,
    /// `null` for a service that is gone
    endpoint: Option<ServiceRecord>,
    alerts: Vec<OutageNotice>,
    timeline: Vec<TimelineEntry>,
}

/// A message that a receiver has taken.
#[derive(ToSchema)]
struct OutageNotice {
    id: String,
    outage_id: Uuid,
    alert_time: Stamp,
    notification_type: String,
    recipients: Vec<String>,
    message: String,
    delivered: bool,
    delivery_time: Stamp,
    attempts: u32,
    kind: crate::domain::notification::NoticeKind,
}

/// What happened, and when; the other fields go with the event.
#[derive(ToSchema)]
struct TimelineEntry {
    timestamp: Stamp,
    event: TimelineEvent,
    #[schema(nullable = false)]
    reason: Option<crate::domain::observation::Reason>,
    #[schema(default = json!(null))]
    message: Option<String>,
    #[schema(nullable = false)]
    channel: Option<String>,
    #[schema(nullable = false)]
    kind: Option<crate::domain::notification::NoticeKind>,
    #[schema(nullable = false)]
    attempts: Option<u32>,
    #[schema(default = json!(null))]
    by: Option<String>,
    #[schema(default = json!(null))]
    until: Option<Stamp>,
    #[schema(nullable = false)]
    action: Option<String>,
    #[schema(nullable = false)]
    outcome: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum TimelineEvent {
    FirstFailure,
    Confirmed,
    Notified,
    RecoveryNotified,
    Acknowledged,
    RecoveryAction,
    Resolved,
}

#[derive(ToSchema)]
pub(in crate::api) struct OutageSummary {
    total_outages: u64,
    active_outages: u64,
    /// Counts by `CRITICAL`, `MAJOR`, `MINOR` and `WARNING`
    by_severity: BTreeMap<String, u64>,
    /// 0 when none is over
    avg_duration_seconds: f64,
}

/// The notes alone, or with who resolved it.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum ResolveOutage {
    Notes(String),
    Fields(ResolutionFields),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ResolutionFields {
    #[schema(max_length = 2000)]
    resolution_notes: Option<String>,
    #[schema(max_length = 100)]
    resolved_by: Option<String>,
}
