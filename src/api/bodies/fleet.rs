//! The service itself, its fleet and its host.

use std::collections::BTreeMap;

use utoipa::{IntoParams, ToSchema};

use super::metrics::{HistoryPoint, SystemNumbers};
use crate::api::bodies::alerts::AlertBody;
use crate::api::document::vocabulary::Anything;
use crate::domain::service::ServiceName;
use crate::domain::status::Status;
use crate::domain::time::Stamp;

#[derive(ToSchema)]
pub(in crate::api) struct RootBody {
    service: String,
    status: String,
    version: String,
    environment: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct Alive {
    status: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct NotReady {
    status: String,
    reasons: Vec<String>,
}

/// Why it is not ready; a refusal when there were too many requests at once.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum NotReadyAnswer {
    NotReady(NotReady),
    Refusal(super::Refusal),
}

#[derive(ToSchema)]
pub(in crate::api) struct Living {
    status: String,
    service: String,
    timestamp: Stamp,
}

/// `services` counts the fleet, `self` is about the monitor.
#[derive(ToSchema)]
pub(in crate::api) struct HealthBody {
    /// The word over the fleet
    status: Status,
    timestamp: Stamp,
    version: String,
    /// Seconds since this process started
    uptime: u64,
    environment: String,
    service: String,
    services: FleetCounts,
    #[schema(rename = "self")]
    itself: Itself,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct FleetCounts {
    total: u64,
    healthy: u64,
    degraded: u64,
    unhealthy: u64,
    unknown: u64,
    in_maintenance: u64,
}

/// How many services have each status.
#[derive(ToSchema)]
pub(in crate::api) struct Tally {
    healthy: u64,
    degraded: u64,
    unhealthy: u64,
    unknown: u64,
}

#[derive(ToSchema)]
struct Itself {
    /// `degraded` when `problems` holds sentences
    status: Status,
    monitoring_active: bool,
    /// Most results fail for a reason of our own
    impaired: bool,
    instance: String,
    lease: Option<String>,
    scheduler: SchedulerState,
    store: StoreState,
    redis: RedisWord,
    outbox: OutboxState,
    receivers: Vec<ReceiverState>,
    elasticsearch: ElasticsearchState,
    self_check: SelfCheck,
    last_reload: Option<LastReload>,
    problems: Vec<String>,
}

#[derive(ToSchema)]
struct SchedulerState {
    lateness_p50_ms: f64,
    lateness_p99_ms: f64,
    lateness_p999_ms: f64,
    in_flight: u64,
    skipped: u64,
}

#[derive(ToSchema)]
struct StoreState {
    /// `sqlite`, `postgresql` or `memory`
    kind: String,
    /// `ok` or `unavailable`
    state: String,
    durability: String,
}

#[derive(ToSchema)]
struct RedisWord {
    /// `connected`, `unavailable`, `absent` or `off`
    state: String,
}

#[derive(ToSchema)]
struct OutboxState {
    /// Messages that receivers are owed
    depth: u64,
    oldest_age_seconds: u64,
}

#[derive(ToSchema)]
struct ReceiverState {
    channel: String,
    state: String,
    last_success: Option<Stamp>,
}

#[derive(ToSchema)]
struct ElasticsearchState {
    state: String,
    lag_seconds: Option<f64>,
    /// Documents that were refused
    dead_letters: u64,
}

#[derive(ToSchema)]
struct SelfCheck {
    references: u64,
    failing: u64,
}

#[derive(ToSchema)]
struct LastReload {
    ok: bool,
    timestamp: Stamp,
    error: Option<String>,
}

/// Of `GET /health/services`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ServicesView {
    /// `list` leaves out `service_health`
    #[param(inline)]
    view: Option<ListView>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum ListView {
    List,
}

/// Of `GET /health/system`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct SystemView {
    /// Adds every service one by one
    #[param(default = false)]
    snapshot: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
enum SystemWord {
    Ok,
    Degraded,
    Critical,
}

#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
enum MemberWord {
    Ok,
    Degraded,
    Down,
    Unknown,
}

#[derive(ToSchema)]
struct NamesByWord {
    ok: Vec<ServiceName>,
    degraded: Vec<ServiceName>,
    down: Vec<ServiceName>,
    unknown: Vec<ServiceName>,
}

#[derive(ToSchema)]
pub(in crate::api) struct SystemBody {
    status: SystemWord,
    timestamp: Stamp,
    services: NamesByWord,
    infrastructure: NamesByWord,
    critical_failures: Vec<String>,
    performance: Latencies,
    ess_tripped: bool,
    system_health: HostHealth,
    /// Only with `snapshot=true`
    #[schema(nullable = false)]
    snapshot: Option<SnapshotBody>,
}

#[derive(ToSchema)]
struct Latencies {
    avg_service_latency_ms: Option<f64>,
    max_service_latency_ms: Option<f64>,
}

#[derive(ToSchema)]
struct HostHealth {
    status: Status,
    cpu_usage: Option<f64>,
    memory_usage: Option<f64>,
    disk_usage: Option<f64>,
    load_average: Option<Vec<f64>>,
    uptime_seconds: Option<u64>,
}

#[derive(ToSchema)]
struct SnapshotBody {
    timestamp: Stamp,
    services: BTreeMap<String, SnapshotRow>,
    infra: BTreeMap<String, SnapshotRow>,
}

#[derive(ToSchema)]
struct SnapshotRow {
    status: MemberWord,
    latency_ms: Option<f64>,
    /// The JSON that the service answered last
    #[schema(required = false)]
    details: Anything,
    #[schema(nullable = false)]
    error: Option<String>,
    #[schema(nullable = false)]
    critical: Option<bool>,
}

#[derive(ToSchema)]
struct CpuShare {
    usage_percent: f64,
    cores: f64,
}

#[derive(ToSchema)]
pub(in crate::api) struct CpuBody {
    status: Status,
    timestamp: Stamp,
    usage_percent: Option<f64>,
    cores: Option<f64>,
    load_average: Option<Vec<f64>>,
    host: Option<CpuShare>,
    container: Option<CpuShare>,
}

#[derive(ToSchema)]
struct MemoryShare {
    usage_percent: f64,
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    swap_usage_percent: f64,
}

#[derive(ToSchema)]
pub(in crate::api) struct MemoryBody {
    status: Status,
    timestamp: Stamp,
    usage_percent: Option<f64>,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
    available_bytes: Option<u64>,
    swap_usage_percent: Option<f64>,
    host: Option<MemoryShare>,
    container: Option<MemoryShare>,
}

#[derive(ToSchema)]
struct DiskShare {
    mount: String,
    total_bytes: u64,
    used_bytes: u64,
    usage_percent: f64,
    read_only: bool,
}

#[derive(ToSchema)]
struct DiskRates {
    read_bytes_per_second: Option<f64>,
    write_bytes_per_second: Option<f64>,
}

#[derive(ToSchema)]
pub(in crate::api) struct DiskBody {
    status: Status,
    timestamp: Stamp,
    /// Of the fullest disk
    usage_percent: Option<f64>,
    disks: Vec<DiskShare>,
    io: DiskRates,
}

#[derive(ToSchema)]
struct InterfaceRates {
    name: String,
    rx_bytes: u64,
    tx_bytes: u64,
    rx_bytes_per_second: f64,
    tx_bytes_per_second: f64,
}

#[derive(ToSchema)]
pub(in crate::api) struct NetworkBody {
    status: Status,
    timestamp: Stamp,
    /// Something that is watched answered within the last interval
    connectivity: bool,
    interfaces: Vec<InterfaceRates>,
    connections: Option<u64>,
}

/// Counts and gauges, or why there are none yet.
#[derive(ToSchema)]
pub(in crate::api) struct HealthMetrics {
    timestamp: Stamp,
    /// `no_data`, before the first round of checks only
    #[schema(nullable = false)]
    status: Option<String>,
    #[schema(nullable = false)]
    message: Option<String>,
    #[schema(nullable = false)]
    counters: Option<Counters>,
    #[schema(nullable = false)]
    gauges: Option<Gauges>,
    #[schema(nullable = false)]
    alerts: Option<AlertCounts>,
}

#[derive(ToSchema)]
struct Counters {
    total_services: u64,
    services_ok: u64,
    services_degraded: u64,
    services_down: u64,
    services_unknown: u64,
    infra_ok: u64,
    infra_degraded: u64,
    infra_down: u64,
    infra_unknown: u64,
}

#[derive(ToSchema)]
struct Gauges {
    /// 0 OK, 1 DEGRADED, 2 CRITICAL
    #[schema(minimum = 0, maximum = 2)]
    system_status_code: u8,
    avg_service_latency_ms: Option<f64>,
    max_service_latency_ms: Option<f64>,
}

#[derive(ToSchema)]
struct AlertCounts {
    active_count: u64,
    critical_count: u64,
    warning_count: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct Words {
    services: Vec<WordRow>,
}

#[derive(ToSchema)]
struct WordRow {
    name: ServiceName,
    status: MemberWord,
    latency_ms: Option<f64>,
    last_check: Option<Stamp>,
}

#[derive(ToSchema)]
pub(in crate::api) struct DetailedBody {
    overall_status: Status,
    total_services: u64,
    healthy_services: u64,
    unhealthy_services: u64,
    degraded_services: u64,
    unknown_services: u64,
    system_metrics: DayNumbers,
    last_updated: Stamp,
    monitoring_active: bool,
}

#[derive(ToSchema)]
struct DayNumbers {
    uptime_seconds: u64,
    total_health_checks: u64,
    successful_checks: u64,
    failed_checks: u64,
    /// 0 to 1
    success_rate: Option<f64>,
}

#[derive(ToSchema)]
struct FlatStatus {
    status: Status,
    response_time_ms: Option<f64>,
    last_check: Option<Stamp>,
    error_message: Option<String>,
}

#[derive(ToSchema)]
struct StatusSummary {
    total_services: u64,
    healthy_services: u64,
    unhealthy_services: u64,
    degraded_services: u64,
    unknown_services: u64,
}

/// `dependencies` are the services of category `infrastructure`, `services` the rest.
#[derive(ToSchema)]
pub(in crate::api) struct StatusBody {
    status: Status,
    service: String,
    version: String,
    environment: String,
    timestamp: Stamp,
    services: BTreeMap<String, FlatStatus>,
    dependencies: BTreeMap<String, FlatStatus>,
    summary: StatusSummary,
    uptime_seconds: u64,
    monitoring_active: bool,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum CriticalWord {
    Operational,
    Degraded,
    Outage,
}

#[derive(ToSchema)]
pub(in crate::api) struct CriticalBody {
    critical: CriticalPart,
    /// The active list, worst first
    alerts: Vec<AlertBody>,
    #[schema(rename = "lastIncident")]
    last_incident: Option<Incident>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct CriticalPart {
    status: CriticalWord,
    issue_count: u64,
    critical_services: BTreeMap<String, Status>,
}

#[derive(ToSchema)]
struct Incident {
    timestamp: Stamp,
    service: ServiceName,
    issue: String,
    /// Minutes so far
    duration: f64,
    resolved: bool,
}

#[derive(ToSchema)]
pub(in crate::api) struct DashboardBody {
    dashboard: Dashboard,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Dashboard {
    overall_status: Status,
    /// Smallest uptime among critical services, percent
    system_uptime: f64,
    active_alerts: u64,
    services_summary: DashboardCounts,
    /// At most five, newest first
    recent_events: Vec<DashboardEvent>,
    last_updated: Stamp,
}

#[derive(ToSchema)]
struct DashboardCounts {
    total: u64,
    healthy: u64,
    degraded: u64,
    down: u64,
    unknown: u64,
}

#[derive(ToSchema)]
struct DashboardEvent {
    timestamp: Stamp,
    #[schema(rename = "type")]
    kind: String,
    service: Option<ServiceName>,
    message: String,
}

/// Of both report routes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ReportQuery {
    /// Adds the last day, minute by minute
    #[param(default = false)]
    include_historical: Option<bool>,
    #[param(inline)]
    format: Option<ReportFormat>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum ReportFormat {
    Json,
}

#[derive(ToSchema)]
pub(in crate::api) struct ReportBody {
    report_metadata: ReportMetadata,
    system_overview: DetailedBody,
    service_details: ServiceDetails,
    metrics_summary: SystemNumbers,
    alert_summary: AlertSummary,
    /// Only with `include_historical=true`
    #[schema(nullable = false)]
    historical_data: Option<Vec<HistoryPoint>>,
}

#[derive(ToSchema)]
struct ReportMetadata {
    generated_at: Stamp,
    report_version: String,
    services_monitored: u64,
    dependencies_monitored: u64,
    format: String,
}

#[derive(ToSchema)]
struct ServiceDetails {
    services: BTreeMap<String, FlatStatus>,
    dependencies: BTreeMap<String, FlatStatus>,
}

#[derive(ToSchema)]
struct AlertSummary {
    active_alerts: u64,
    alert_details: Vec<AlertBody>,
}
