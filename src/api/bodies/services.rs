//! One service: as it is registered, as it is shown, and its checks.

use std::collections::BTreeMap;

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::metrics::TimeRange;
use crate::api::document::vocabulary::Anything;
use crate::api::health::{ServiceHealth, ShownPhases};
use crate::domain::assertion::Op;
use crate::domain::observation::{Kind, Reason};
use crate::domain::probe::Protocol;
use crate::domain::service::{ServiceName, Source};
use crate::domain::spec::Miss;
use crate::domain::status::Status;
use crate::domain::time::Stamp;

/// Of `GET /services`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ServicesQuery {
    protocol: Option<Protocol>,
    is_active: Option<bool>,
    #[param(example = "core")]
    category: Option<String>,
    /// `names`: a list of names only
    #[param(inline)]
    view: Option<NamesView>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum NamesView {
    Names,
}

#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
enum EndpointWord {
    Up,
    Degraded,
    Down,
    Unknown,
}

#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
enum ProbeMethod {
    Get,
    Head,
    Post,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum Connection {
    Reuse,
    Fresh,
}

/// A name, or a name and what failing means for who depends on it.
#[derive(ToSchema)]
#[serde(untagged)]
enum Need {
    Name(ServiceName),
    Table(NeedTable),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct NeedTable {
    name: ServiceName,
    hold_alerts: Option<bool>,
    degrade: Option<bool>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct JsonExpectation {
    /// RFC 9535
    path: String,
    op: Op,
    #[schema(required = false)]
    value: Anything,
}

/// Limits of this service; each overrides its global value.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    #[schema(minimum = 1)]
    response_time_warning_ms: Option<f64>,
    #[schema(minimum = 1)]
    response_time_critical_ms: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    error_rate_warning: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    error_rate_critical: Option<f64>,
    #[schema(minimum = 1)]
    consecutive_failures_warning: Option<u32>,
    #[schema(minimum = 1)]
    consecutive_failures_critical: Option<u32>,
    #[schema(minimum = 0, maximum = 100)]
    uptime_warning: Option<f64>,
    #[schema(minimum = 0, maximum = 100)]
    uptime_critical: Option<f64>,
    #[schema(minimum = 1)]
    outage_failures: Option<u32>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct TcpFields {
    send: Option<String>,
    expect: Option<String>,
    tls: Option<bool>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct UdpFields {
    send: Option<String>,
    expect: Option<String>,
    expect_reply: Option<bool>,
}

#[derive(ToSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct DnsFields {
    record_type: Option<String>,
    resolver: Option<String>,
    expected_ip: Option<OneOrMany>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct TlsFields {
    expiry_warning_days: Option<u32>,
    expiry_critical_days: Option<u32>,
    verify: Option<bool>,
    ca_file: Option<String>,
    server_name: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct IcmpFields {}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct RedisFields {
    password: Option<String>,
    db: Option<i64>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct PostgresFields {
    #[schema(max_length = 1000)]
    query: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct FilesystemFields {
    #[schema(max_items = 16)]
    paths: Option<Vec<String>>,
    check_writable: Option<bool>,
    #[schema(minimum = 0, maximum = 100)]
    min_free_percent: Option<f64>,
    min_free_bytes: Option<u64>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct GrpcFields {
    service: Option<String>,
}

/// A service to be registered, or the fields of one that are to be changed; `null` takes a field away. A new service
/// needs a name (`id`, or `service_name`) and an address (`url`, `health_check_url`, or `health_endpoint` holding a
/// full URL).
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ServiceFields {
    #[schema(nullable = false)]
    id: Option<ServiceName>,
    /// Another name of `id`
    #[schema(nullable = false)]
    service_name: Option<ServiceName>,
    /// The name for people; the same as `id` beside `health_check_url`
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    display_name: Option<String>,
    /// The exact address that is probed
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Another name of `url`
    #[schema(max_length = 2048)]
    health_check_url: Option<String>,
    /// A path, joined to `url`, or a full URL
    health_endpoint: Option<String>,
    port: Option<u16>,
    /// Without it that of the address
    protocol: Option<Protocol>,
    #[schema(pattern = "^[a-z][a-z0-9_-]{0,49}$")]
    category: Option<String>,
    critical: Option<bool>,
    /// Another name of `critical`
    critical_service: Option<bool>,
    critical_path: Option<bool>,
    #[schema(max_items = 256)]
    depends_on: Option<Vec<Need>>,
    /// Another name of `depends_on`
    #[schema(max_items = 256)]
    dependencies: Option<Vec<Need>>,
    /// Groups of which one member is enough
    #[schema(max_items = 32)]
    depends_on_any: Option<Vec<Vec<ServiceName>>>,
    #[schema(exclusive_minimum = 0)]
    check_interval_ms: Option<f64>,
    /// Seconds
    #[schema(exclusive_minimum = 0)]
    check_interval: Option<f64>,
    #[schema(exclusive_minimum = 0)]
    check_interval_seconds: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 60000)]
    timeout_ms: Option<f64>,
    /// Seconds
    #[schema(exclusive_minimum = 0, maximum = 60)]
    timeout: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 60)]
    timeout_seconds: Option<f64>,
    #[schema(minimum = 0, maximum = 10)]
    retries: Option<u32>,
    retry_on_failure: Option<bool>,
    method: Option<ProbeMethod>,
    /// With POST only
    #[schema(max_length = 16384)]
    body: Option<String>,
    /// At most 32; values are never shown
    headers: Option<BTreeMap<String, String>>,
    connection: Option<Connection>,
    #[schema(minimum = 100, maximum = 599)]
    expected_status_code: Option<u16>,
    expected_status_codes: Option<Vec<u16>>,
    on_unexpected: Option<Miss>,
    #[schema(max_length = 1000)]
    expected_response_pattern: Option<String>,
    /// Patterns by header
    expected_headers: Option<BTreeMap<String, String>>,
    #[schema(max_items = 32)]
    expected_json: Option<Vec<JsonExpectation>>,
    on_assertion: Option<Miss>,
    follow_redirects: Option<bool>,
    thresholds: Option<Thresholds>,
    /// Milliseconds; sets `thresholds.response_time_critical_ms`
    custom_response_time_threshold: Option<f64>,
    custom_error_rate_threshold: Option<f64>,
    escalate_after_failures: Option<u32>,
    /// True: one failure opens an outage
    fail_fast_on_error: Option<bool>,
    /// False: not probed
    is_active: Option<bool>,
    #[schema(max_length = 2000)]
    description: Option<String>,
    #[schema(max_items = 32)]
    tags: Option<Vec<String>>,
    /// Only empty: windows are made at `/maintenance`
    #[schema(max_items = 0)]
    maintenance_windows: Option<Vec<Anything>>,
    tcp: Option<TcpFields>,
    udp: Option<UdpFields>,
    dns: Option<DnsFields>,
    tls: Option<TlsFields>,
    icmp: Option<IcmpFields>,
    redis: Option<RedisFields>,
    postgres: Option<PostgresFields>,
    filesystem: Option<FilesystemFields>,
    grpc: Option<GrpcFields>,
}

#[derive(ToSchema)]
struct CurrentStatus {
    status: EndpointWord,
    /// Milliseconds
    response_time: Option<f64>,
    timestamp: Stamp,
}

/// One service. Secrets are shown as `***`.
#[derive(ToSchema)]
pub(in crate::api) struct ServiceRecord {
    id: ServiceName,
    name: String,
    url: String,
    protocol: Protocol,
    /// Seconds
    check_interval: f64,
    /// Seconds
    timeout: f64,
    retries: u32,
    expected_status_code: Option<u16>,
    expected_response_pattern: Option<String>,
    is_active: bool,
    created_at: Stamp,
    updated_at: Stamp,
    /// `null` before the first check
    current_status: Option<CurrentStatus>,
    description: Option<String>,
    category: String,
    critical: bool,
    critical_path: bool,
    depends_on: Vec<Need>,
    tags: Vec<String>,
    method: Option<ProbeMethod>,
    headers: BTreeMap<String, String>,
    connection: Option<Connection>,
    expected_status_codes: Option<Vec<u16>>,
    on_unexpected: Option<Miss>,
    follow_redirects: Option<bool>,
    thresholds: Thresholds,
    source: Source,
    in_maintenance: bool,
    flapping: bool,
    #[schema(nullable = false)]
    depends_on_any: Option<Vec<Vec<ServiceName>>>,
    #[schema(nullable = false)]
    body: Option<String>,
    #[schema(nullable = false)]
    expected_headers: Option<BTreeMap<String, String>>,
    #[schema(nullable = false)]
    expected_json: Option<Vec<JsonExpectation>>,
    #[schema(nullable = false)]
    on_assertion: Option<Miss>,
    #[schema(nullable = false)]
    tcp: Option<TcpFields>,
    #[schema(nullable = false)]
    udp: Option<UdpFields>,
    #[schema(nullable = false)]
    dns: Option<DnsFields>,
    #[schema(nullable = false)]
    tls: Option<TlsFields>,
    #[schema(nullable = false)]
    icmp: Option<IcmpFields>,
    #[schema(nullable = false)]
    redis: Option<RedisFields>,
    #[schema(nullable = false)]
    postgres: Option<PostgresFields>,
    #[schema(nullable = false)]
    filesystem: Option<FilesystemFields>,
    #[schema(nullable = false)]
    grpc: Option<GrpcFields>,
}

/// A record after a change, with what has been done.
#[derive(ToSchema)]
pub(in crate::api) struct ChangedService {
    #[serde(flatten)]
    record: ServiceRecord,
    message: String,
    service_name: ServiceName,
}

/// A service in the flat fields of 002.
#[derive(ToSchema)]
pub(in crate::api) struct FlatService {
    service_name: ServiceName,
    status: Status,
    response_time_ms: u64,
    last_check: Option<Stamp>,
    error_message: Option<String>,
    /// The JSON that the service answered last
    details: Anything,
    endpoint_url: String,
}

/// The same, with the share of healthy checks in percent.
#[derive(ToSchema)]
struct RatedService {
    #[serde(flatten)]
    flat: FlatService,
    success_rate: Option<f64>,
}

#[derive(ToSchema)]
pub(in crate::api) struct ShownService {
    #[serde(flatten)]
    record: ServiceRecord,
    #[serde(flatten)]
    flat: RatedService,
}

#[derive(ToSchema)]
pub(in crate::api) struct NamedHealth {
    service: ServiceHealth,
    #[serde(flatten)]
    flat: RatedService,
}

#[derive(ToSchema)]
pub(in crate::api) struct OneHealth {
    service: ServiceHealth,
}

#[derive(ToSchema)]
struct Entry {
    url: String,
    #[schema(rename = "healthEndpoint")]
    health_endpoint: String,
    status: Status,
    version: Option<String>,
}

/// `services` holds base URLs by category, `items` a page of records.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::api) struct RegistryPage {
    services: BTreeMap<String, BTreeMap<String, Entry>>,
    last_updated: Stamp,
    items: Vec<ServiceRecord>,
    total: u64,
}

/// The registry, or with `view=names` names only.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum RegistryAnswer {
    Page(RegistryPage),
    Names(Vec<ServiceName>),
}

/// One check.
#[derive(ToSchema)]
pub(in crate::api) struct CheckBody {
    id: Option<Uuid>,
    endpoint_id: ServiceName,
    status: EndpointWord,
    /// Milliseconds
    response_time: Option<f64>,
    timestamp: Option<Stamp>,
    error_message: Option<String>,
    elasticsearch_synced: bool,
    in_maintenance: bool,
    reason: Option<Reason>,
    kind: Option<Kind>,
    http_status: Option<u16>,
}

#[derive(ToSchema)]
pub(in crate::api) struct LatestCheck {
    #[serde(flatten)]
    check: CheckBody,
    endpoint: ServiceRecord,
}

#[derive(ToSchema)]
pub(in crate::api) struct CheckPage {
    /// Newest first
    items: Vec<CheckBody>,
    /// All that match
    total: u64,
}

#[derive(ToSchema)]
pub(in crate::api) struct CheckResult {
    endpoint_id: ServiceName,
    status: EndpointWord,
    /// Milliseconds
    response_time: Option<f64>,
    /// Seconds
    execution_time: f64,
    /// A conclusive result came about; `DOWN` is one
    success: bool,
    error: Option<String>,
    #[schema(default = json!(null))]
    observed_status: Option<Status>,
    #[schema(default = json!(null))]
    reason: Option<Reason>,
    #[schema(nullable = false)]
    phases: Option<ShownPhases>,
}

#[derive(ToSchema)]
pub(in crate::api) struct AvailabilityBody {
    endpoint_id: ServiceName,
    time_range: TimeRange,
    up_seconds: f64,
    down_seconds: f64,
    unknown_seconds: f64,
    maintenance_seconds: f64,
    uptime_percent: Option<f64>,
    outages: u64,
    outage_seconds: f64,
    mtbf_minutes: Option<f64>,
    mttr_minutes: Option<f64>,
}

#[derive(ToSchema)]
pub(in crate::api) struct ImpactBody {
    service: ServiceName,
    /// Direct and indirect, nearest first
    dependents: Vec<ServiceName>,
    critical_path_affected: Vec<ServiceName>,
    /// Why this service itself fails
    root_cause: Option<ServiceName>,
    /// Who would lose a spare
    redundancy_reduced: Vec<ServiceName>,
}

#[derive(ToSchema)]
pub(in crate::api) struct AlertStanding {
    service_name: ServiceName,
    threshold_exceeded: bool,
    /// Percent
    error_count: u64,
    threshold_limit: f64,
    alert_sent: bool,
    /// `error_rate` or `response_time`
    alert_type: Option<String>,
    current_value: Option<f64>,
    threshold_value: Option<f64>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct CriticalLimits {
    #[schema(minimum = 1)]
    response_time_ms: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    error_rate: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    availability: Option<f64>,
}

#[derive(ToSchema)]
struct LimitsInForce {
    response_time_ms: f64,
    error_rate: f64,
    availability: f64,
}

#[derive(ToSchema)]
pub(in crate::api) struct LimitsSet {
    message: String,
    service_name: ServiceName,
    thresholds: LimitsInForce,
}

#[derive(ToSchema)]
pub(in crate::api) struct StatusCounted {
    up: u64,
    down: u64,
    degraded: u64,
    maintenance: u64,
    unknown: u64,
    total: u64,
}

/// One boolean a service.
#[derive(ToSchema)]
pub(in crate::api) struct Booleans(BTreeMap<String, bool>);
