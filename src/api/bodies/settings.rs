//! Settings and who changed them, the switch of all checking, the avatar, and the stream of events.

use std::collections::BTreeMap;

use utoipa::{IntoParams, ToSchema};

use crate::api::administer::Origin;
use crate::api::document::vocabulary::Anything;
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;

/// The names of 002 on top, every setting by section below. Further names of 002 are shown once they have been sent.
#[derive(ToSchema)]
pub(in crate::api) struct ConfigBody {
    service_name: String,
    port: u16,
    host: String,
    /// Seconds
    system_check_interval: f64,
    /// Seconds
    service_check_interval: f64,
    metrics_retention_days: f64,
    /// Seconds
    default_timeout: f64,
    max_concurrent_checks: u64,
    retry_attempts: u32,
    enable_alerting: bool,
    alert_email: String,
    critical_cpu_threshold: f64,
    critical_memory_threshold: f64,
    critical_disk_threshold: f64,
    metrics_storage_url: String,
    enable_metrics_persistence: bool,
    active_avatar: String,
    #[schema(nullable = false)]
    check_interval_seconds: Option<f64>,
    #[schema(nullable = false)]
    default_timeout_ms: Option<f64>,
    #[schema(nullable = false)]
    retention_days: Option<f64>,
    #[schema(nullable = false)]
    alert_threshold_cpu_percent: Option<f64>,
    #[schema(nullable = false)]
    alert_threshold_memory_percent: Option<f64>,
    #[schema(nullable = false)]
    alert_threshold_disk_percent: Option<f64>,
    #[schema(nullable = false)]
    alert_threshold_error_rate: Option<f64>,
    #[schema(nullable = false)]
    alert_threshold_response_time_ms: Option<f64>,
    #[schema(nullable = false)]
    enable_detailed_logging: Option<bool>,
    /// By section and key
    settings: BTreeMap<String, BTreeMap<String, SettingBody>>,
}

#[derive(ToSchema)]
struct SettingBody {
    /// `***` where it is secret
    value: Anything,
    source: Origin,
    /// May be changed while the service runs
    changeable: bool,
}

/// A plain value in the unit of its name or with a unit, or `null` to take back what is stored.
#[derive(ToSchema)]
#[serde(untagged)]
enum Wished {
    Number(f64),
    Truth(bool),
    Text(String),
    Texts(Vec<String>),
}

#[derive(ToSchema)]
struct WishedOrNot(Option<Wished>);

/// Any subset of the settings that may be changed while the service runs; all of it is taken, or none.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ConfigChange {
    system_check_interval: Option<Wished>,
    service_check_interval: Option<Wished>,
    metrics_retention_days: Option<Wished>,
    default_timeout: Option<Wished>,
    retry_attempts: Option<Wished>,
    enable_alerting: Option<Wished>,
    alert_email: Option<Wished>,
    critical_cpu_threshold: Option<Wished>,
    critical_memory_threshold: Option<Wished>,
    critical_disk_threshold: Option<Wished>,
    active_avatar: Option<Wished>,
    check_interval_seconds: Option<Wished>,
    default_timeout_ms: Option<Wished>,
    retention_days: Option<Wished>,
    alert_threshold_cpu_percent: Option<Wished>,
    alert_threshold_memory_percent: Option<Wished>,
    alert_threshold_disk_percent: Option<Wished>,
    alert_threshold_error_rate: Option<Wished>,
    alert_threshold_response_time_ms: Option<Wished>,
    /// True is the log level `debug`
    enable_detailed_logging: Option<bool>,
    /// By section and key, as `GET /config` shows them
    #[schema(nullable = false)]
    settings: Option<BTreeMap<String, BTreeMap<String, WishedOrNot>>>,
}

#[derive(ToSchema)]
pub(in crate::api) struct ConfigChanges {
    /// Newest first
    items: Vec<ConfigChanged>,
    total: u64,
}

#[derive(ToSchema)]
struct ConfigChanged {
    id: String,
    timestamp: Stamp,
    request_id: String,
    who: Who,
    changes: Vec<Changed>,
}

#[derive(ToSchema)]
struct Who {
    access: String,
    /// Tells keys apart, and does not lead back to one
    key: String,
    address: String,
}

#[derive(ToSchema)]
struct Changed {
    key: String,
    from: Anything,
    to: Anything,
}

#[derive(ToSchema)]
pub(in crate::api) struct ReloadedBody {
    message: String,
    added: Vec<ServiceName>,
    changed: Vec<ServiceName>,
    removed: Vec<ServiceName>,
    /// Settings that have changed
    settings: Vec<String>,
    /// Settings that are written otherwise now and need a restart
    needs_restart: Vec<String>,
}

#[derive(ToSchema)]
pub(in crate::api) struct AvatarBody {
    data: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct MonitoringBody {
    monitoring_active: bool,
}

/// Of `GET /events`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct EventsQuery {
    /// Comma list of types
    #[param(example = "alert.raised,alert.resolved")]
    types: Option<String>,
    /// Comma list of names
    #[param(example = "api-gateway")]
    service: Option<String>,
    /// Goes on after this event; 0 is the oldest kept
    #[param(minimum = 0)]
    last_event_id: Option<i64>,
}

/// The meaning of its parts is OpenAPI's own.
#[derive(ToSchema)]
pub(in crate::api) struct OpenApiDocument {
    openapi: String,
    info: BTreeMap<String, Anything>,
    servers: Vec<Anything>,
    security: Vec<Anything>,
    tags: Vec<Anything>,
    paths: BTreeMap<String, Anything>,
    components: BTreeMap<String, Anything>,
}
