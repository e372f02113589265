//! Numbers of services and of the system.

use std::collections::BTreeMap;

use utoipa::{IntoParams, ToSchema};

use crate::domain::rollup::Resolution;
use crate::domain::service::ServiceName;
use crate::domain::status::Status;
use crate::domain::time::Stamp;

/// Of `GET /metrics`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct MetricsQuery {
    /// Overrides what `Accept` asks for
    #[param(inline)]
    format: Option<MetricsFormat>,
    /// The numbers of one service, as `/metrics/{name}` has them
    #[param(example = "api-gateway")]
    service_name: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum MetricsFormat {
    Json,
    Prometheus,
}

/// Of `GET /metrics/history`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct HistoryQuery {
    /// Name of a service; the whole system without one
    #[param(example = "api-gateway")]
    service: Option<String>,
    /// Another name of `service`
    service_name: Option<String>,
    /// The newest points when there are more
    #[param(minimum = 1, maximum = 10_000, default = 1000)]
    limit: Option<u64>,
    #[param(default = "minute")]
    resolution: Option<Resolution>,
}

/// In milliseconds.
#[derive(ToSchema)]
struct ResponseTimes {
    current: u64,
    average: f64,
    p95: f64,
    p99: f64,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct RequestCounts {
    total: u64,
    per_minute: u64,
    error_count: u64,
    /// 0 to 1
    error_rate: f64,
}

/// Uptime in percent, the rest in minutes.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Availability {
    uptime: f64,
    downtime_minutes: f64,
    mtbf: Option<f64>,
    mttr: Option<f64>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct ServiceNumbers {
    response_time: ResponseTimes,
    requests: RequestCounts,
    availability: Availability,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::api) struct SystemNumbers {
    timestamp: Stamp,
    uptime: u64,
    total_services: u64,
    healthy_services: u64,
    degraded_services: u64,
    unhealthy_services: u64,
    unknown_services: u64,
    average_response_time: f64,
    p95_response_time: f64,
    p99_response_time: f64,
    total_requests: u64,
    requests_per_minute: u64,
    error_rate: f64,
    system_uptime: f64,
    alert_count: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct MetricsBody {
    system: SystemNumbers,
    /// Services that have been checked
    services: BTreeMap<String, ServiceNumbers>,
    timestamp: Stamp,
    cpu_usage_percent: Option<f64>,
    memory_usage_mb: Option<f64>,
    disk_usage_percent: Option<f64>,
    network_connections: Option<u64>,
    uptime_seconds: u64,
    custom_metrics: CustomMetrics,
}

#[derive(ToSchema)]
struct CustomMetrics {
    total_registered_services: u64,
    total_registered_dependencies: u64,
    monitoring_active: bool,
    /// 0 to 1
    health_check_success_rate: Option<f64>,
}

/// Of all services, or of the one that `service_name` asks for.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum MetricsAnswer {
    System(MetricsBody),
    Service(NamedMetrics),
}

#[derive(ToSchema)]
struct AllResponseTimes {
    current: u64,
    #[schema(rename = "last5Min")]
    last_five: Vec<u64>,
    #[schema(rename = "average1Hour")]
    average_hour: f64,
    #[schema(rename = "average24Hour")]
    average_day: f64,
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AllAvailability {
    uptime: f64,
    downtime_minutes: f64,
    last_outage: Option<Stamp>,
    mtbf: Option<f64>,
    mttr: Option<f64>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AllRequests {
    total: u64,
    successful: u64,
    failed: u64,
    per_minute: u64,
    per_hour: u64,
    /// 0 to 1
    error_rate: f64,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Streaks {
    consecutive_successes: u32,
    consecutive_failures: u32,
    last_health_check: Option<Stamp>,
    /// A phrase, such as `healthy for 45 minutes`
    health_history: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AllNumbers {
    response_time: AllResponseTimes,
    availability: AllAvailability,
    requests: AllRequests,
    health: Streaks,
}

#[derive(ToSchema)]
pub(in crate::api) struct ServiceMetricsBody {
    service: ServiceName,
    metrics: AllNumbers,
}

#[derive(ToSchema)]
struct RecentCheck {
    timestamp: Stamp,
    status: Status,
    response_time_ms: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct NamedMetrics {
    service: ServiceName,
    metrics: AllNumbers,
    service_name: ServiceName,
    total_checks: u64,
    /// At most ten, newest first
    recent_checks: Vec<RecentCheck>,
    average_response_time_ms: f64,
    /// 0 to 1
    success_rate: Option<f64>,
    last_check: Option<Stamp>,
}

#[derive(ToSchema)]
pub(in crate::api) struct TimeRange {
    start: Stamp,
    end: Stamp,
}

#[derive(ToSchema)]
pub(in crate::api) struct HistoryBody {
    /// `system` for the whole fleet
    service_name: String,
    time_range: TimeRange,
    data_points: u64,
    /// Oldest first
    historical_data: Vec<HistoryPoint>,
}

#[derive(ToSchema)]
pub(in crate::api) struct HistoryPoint {
    timestamp: Stamp,
    metrics: PointNumbers,
}

/// The fields of the host are there in points of the system only.
#[derive(ToSchema)]
struct PointNumbers {
    checks: u64,
    errors: u64,
    error_rate: f64,
    average_response_time_ms: f64,
    p50_response_time_ms: f64,
    p95_response_time_ms: f64,
    p99_response_time_ms: f64,
    availability_percent: Option<f64>,
    status: Status,
    #[schema(default = json!(null))]
    cpu_usage_percent: Option<f64>,
    #[schema(default = json!(null))]
    memory_usage_percent: Option<f64>,
    #[schema(default = json!(null))]
    disk_usage_percent: Option<f64>,
    #[schema(default = json!(null))]
    load_average: Option<Vec<f64>>,
}

/// Targets with what is known of them, as Prometheus discovers them over HTTP.
#[derive(ToSchema)]
pub(in crate::api) struct TargetGroup {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ProbeQuery {
    /// Address of the target, as a service has it
    #[param(example = "http://127.0.0.1:3102/health")]
    target: String,
    /// How it is asked, in the words of blackbox_exporter; `http_2xx` without it
    #[param(inline)]
    module: Option<ProbeModule>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum ProbeModule {
    #[schema(rename = "http_2xx")]
    Http,
    #[schema(rename = "http_post_2xx")]
    HttpPost,
    TcpConnect,
    Tls,
    Icmp,
    Dns,
    Grpc,
    GrpcPlain,
    Udp,
    Redis,
    Postgres,
    Amqp,
}
