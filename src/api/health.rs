//! Health of the service itself, of the fleet, and of each service (CONTRACT.md 9.1 and 9.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::ApiState;
use super::bodies::Part;
use super::bodies::fleet::{Alive, HealthBody, Living, NotReadyAnswer, RootBody, ServicesView, Tally};
use super::bodies::services::OneHealth;
use super::document::Tagged;
use super::error::{ApiError, Invalid};
use super::lists::{self, Page};
use crate::domain::observation::{Phases, Reason};
use crate::domain::service::{Service, ServiceName};
use crate::domain::status::{Status, StatusCounts};
use crate::domain::time::{Stamp, round2};
use crate::engine::counters::EventCount;
use crate::engine::live::{Inner, Watched};
use crate::engine::metrics::current_ms;
use crate::engine::mirror::RedisState;

/// Newest checks shown with a service: CONTRACT.md 9.2.
const SHOWN_CHECKS: usize = 10;
/// Problem sentences listed one by one: our choice; the rest is counted.
const LISTED: usize = 20;
/// Lateness and age of owed messages from which they are named as problems: our choices.
const LATE_MS: f64 = 1000.0;
const OLD_OUTBOX_S: u64 = 60;

/// `GET /`: what this is.
#[utoipa::path(get, path = "/", operation_id = "getRoot", responses((status = 200, body = RootBody)))]
pub(super) async fn root(State(app): State<ApiState>) -> Json<Value> {
    Json(json!({
        "service": app.config.service_name, "status": "running", "version": app.config.version,
        "environment": app.config.environment,
    }))
}

/// `GET /livez`: the process can answer.
#[utoipa::path(get, path = "/livez", operation_id = "getLive", responses((status = 200, body = Alive)))]
pub(super) async fn livez() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

/// `GET /readyz`: answers are true. 503 while draining, and while records cannot be written.
#[utoipa::path(get, path = "/readyz", operation_id = "getReady",
    responses((status = 200, body = Alive), (status = 503, description = "Not ready", body = NotReadyAnswer)))]
pub(super) async fn readyz(State(app): State<ApiState>) -> Response {
    let mut reasons = Vec::new();
    if app.engine.is_draining() {
        reasons.push("stopping");
    }
    if app.engine.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
        reasons.push("records not writable");
    }
    if !reasons.is_empty() {
        let body = json!({"status": "not_ready", "reasons": reasons});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    Json(json!({"status": "ready"})).into_response()
}

/// `GET /health/live`: about this process, for clients of 002 and 004.
#[utoipa::path(get, path = "/health/live", operation_id = "getHealthLive", responses((status = 200, body = Living)))]
pub(super) async fn live(State(app): State<ApiState>) -> Json<Value> {
    Json(json!({
        "status": "healthy", "service": app.config.service_name, "timestamp": Stamp(app.engine.clock.now()),
    }))
}

/// `GET /health`: the word over the fleet, and how the monitor itself is.
#[utoipa::path(get, path = "/health", operation_id = "getHealth", responses((status = 200, body = HealthBody)))]
pub(super) async fn overall(State(app): State<ApiState>) -> Json<Value> {
    app.engine.windows_in_force();
    let fleet = app.engine.live.fleet();
    let counts = fleet.all;
    Json(json!({
        "status": fleet.judged.overall(),
        "timestamp": Stamp(app.engine.clock.now()),
        "version": app.config.version,
        "uptime": app.uptime_s(),
        "environment": app.config.environment,
        "service": app.config.service_name,
        "services": {
            "total": counts.total(), "healthy": counts.healthy, "degraded": counts.degraded,
            "unhealthy": counts.unhealthy, "unknown": counts.unknown, "inMaintenance": fleet.in_maintenance,
        },
        "self": itself(&app),
    }))
}

fn itself(app: &ApiState) -> Value {
    let engine = &app.engine;
    let now = engine.clock.now();
    let trouble = engine.commit.trouble();
    let lateness = engine.counters.lateness();
    let (depth, oldest) = engine.outbox.depth();
    let oldest_age_s = oldest.map_or(0, |at| crate::domain::time::span(at, now).as_secs());
    let receivers = engine.outbox.receivers();
    let reload = engine.reload.latest();
    let redis = engine.mirror.state();

    let mut problems: Vec<String> = Vec::new();
    if redis == RedisState::Unavailable {
        let since =
            engine.mirror.unavailable_since().map_or_else(|| "the start".to_owned(), |at| Stamp(at).to_string());
        problems.push(format!("redis unavailable since {since}"));
    }
    if let Some(trouble) = &trouble {
        problems.push(format!("records not writable since {}: {}", Stamp(trouble.since), trouble.error));
    }
    let impairment = engine.impairment();
    let impaired = impairment.is_some();
    problems.extend(impairment);
    let (references, failing) = engine.references();
    for ((count, name), times) in engine.counters.events() {
        if count == EventCount::DeadLettered {
            problems
                .push(format!("{times} events {name} could not be read since the start: see their dead-letter stream"));
        }
    }
    problems.extend(receivers.iter().filter_map(|receiver| receiver.problem.clone()));
    if oldest_age_s > OLD_OUTBOX_S {
        problems.push(format!("notifications owed for {oldest_age_s} seconds"));
    }
    if lateness.p99_ms > LATE_MS {
        problems.push(format!("checks start late (p99 {} ms)", round2(lateness.p99_ms)));
    }
    if let Some((reload, error)) = reload.as_ref().and_then(|reload| Some((reload, reload.error.as_ref()?))) {
        problems.push(format!("{} not reloaded: {error}", reload.what));
    }
    let export = engine.export_health();
    problems.extend(export.problem.clone());
    problems.extend(engine.host().problems());
    if !engine.is_monitoring() {
        problems.push("monitoring was stopped by hand: no checks, no alerts".to_owned());
    }
    problems.extend(engine.counters.stuck().iter().map(|part| format!("the {} makes no progress", part.as_str())));
    problems.extend(app.admin.standing().problems.iter().take(LISTED).cloned());
    problems.extend(engine.records_set_aside().map(str::to_owned));
    problems.extend(broken_promises(app));

    let durability =
        if trouble.as_ref().is_some_and(|trouble| trouble.not_durable) { "none" } else { engine.records.durability() };
    json!({
        "status": if problems.is_empty() { "healthy" } else { "degraded" },
        "monitoring_active": engine.is_active(),
        "impaired": impaired,
        "instance": engine.config().instance,
        "lease": null,
        "scheduler": {
            "lateness_p50_ms": round2(lateness.p50_ms),
            "lateness_p99_ms": round2(lateness.p99_ms),
            "lateness_p999_ms": round2(lateness.p999_ms),
            "in_flight": engine.counters.in_flight(),
            "skipped": engine.counters.all_skipped(),
        },
        "store": {
            "kind": engine.records.kind(),
            "state": if trouble.is_some() { "unavailable" } else { "ok" },
            "durability": durability,
        },
        "redis": {"state": redis.as_str()},
        "outbox": {"depth": depth, "oldest_age_seconds": oldest_age_s},
        "receivers": receivers.iter().map(|receiver| json!({
            "channel": receiver.channel, "state": receiver.state, "last_success": receiver.last_success,
        })).collect::<Vec<_>>(),
        "elasticsearch": {
            "state": export.state,
            "lag_seconds": export.lag.map(|lag| lag.as_secs()),
            "dead_letters": export.dead_letters,
        },
        "self_check": {"references": references, "failing": failing},
        "last_reload": reload.map(|reload| json!({
            "ok": reload.error.is_none(), "timestamp": Stamp(reload.at), "error": reload.error,
        })),
        "problems": problems,
    })
}

fn broken_promises(app: &ApiState) -> Vec<String> {
    let roster = app.engine.live.roster();
    let broken = &roster.broken_promises;
    let sentence = |(name, worst): &(ServiceName, std::time::Duration)| {
        format!("detection promise broken: {name} ({} ms)", worst.as_millis())
    };
    let mut sentences: Vec<String> = broken.iter().take(LISTED).map(sentence).collect();
    if broken.len() > LISTED {
        sentences.push(format!("detection promise broken: {} more services", broken.len() - LISTED));
    }
    sentences
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ListedService {
    name: ServiceName,
    url: String,
    status: Status,
    response_time: u64,
    last_checked: Option<Stamp>,
    uptime: f64,
    version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issues: Vec<String>,
    critical: bool,
    category: String,
    in_maintenance: bool,
    flapping: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(flatten)]
    #[schema(value_type = Tally)]
    counts: StatusCounts,
    total: usize,
    last_updated: Stamp,
}

#[derive(Serialize, ToSchema)]
struct FlatHealth {
    status: Status,
    response_time_ms: u64,
    last_check: Option<Stamp>,
    success_rate: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct ServicesBody {
    services: Vec<ListedService>,
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_health: Option<BTreeMap<ServiceName, FlatHealth>>,
}

/// `GET /health/services`: every service with its state, in the words of 000 and of 002.
#[utoipa::path(get, path = "/health/services", operation_id = "listServicesHealth",
    params(ServicesView, Part), responses((status = 200, body = ServicesBody), Tagged))]
pub(super) async fn services(
    State(app): State<ApiState>,
    RawQuery(query): RawQuery,
    page: Page,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let view = query.split('&').find_map(|pair| pair.strip_prefix("view="));
    let list_only = match view {
        None => false,
        Some("list") => true,
        Some(_) => {
            return Err(ApiError::from(Invalid {
                place: "query",
                field: "view".to_owned(),
                rule: "must be list, or be left out".to_owned(),
                kind: "enum",
                input: None,
            }));
        }
    };
    if page == Page::ALL {
        let name = if list_only { "health/services?view=list" } else { "health/services" };
        return lists::shared(&app, &headers, name, move |app| services_body(app, page, list_only)).await;
    }
    lists::answer(&app, &headers, app.engine.live.generation(), || services_body(&app, page, list_only))
}

fn services_body(app: &ApiState, page: Page, list_only: bool) -> ServicesBody {
    app.engine.windows_in_force();
    let now = app.engine.clock.now();
    let roster = app.engine.live.roster();
    let counts = app.engine.live.counts();
    let mut services = Vec::new();
    let mut flat = BTreeMap::new();
    for watched in roster.watched.iter().skip(page.skip).take(page.limit) {
        let service = watched.service();
        let inner = watched.lock();
        let state = &inner.state;
        let response_time = state.response_us.map_or(0, |us| u64::from(us) / 1000);
        if !list_only {
            let day = inner.history.day(now);
            let rate = (day.checks > 0).then(|| round2(100.0 * day.healthy as f64 / day.checks as f64));
            flat.insert(
                service.name.clone(),
                FlatHealth {
                    status: state.status,
                    response_time_ms: response_time,
                    last_check: state.last_check.map(Stamp),
                    success_rate: rate,
                },
            );
        }
        services.push(ListedService {
            name: service.name.clone(),
            url: service.url.clone(),
            status: state.status,
            response_time,
            last_checked: state.last_check.map(Stamp),
            uptime: round2(inner.history.parts(now).uptime_percent().unwrap_or(0.0)),
            version: state.facts.version.clone(),
            issues: state.issues.clone(),
            critical: service.critical,
            category: service.category.clone(),
            in_maintenance: inner.in_maintenance,
            flapping: inner.state.flaps.flapping,
        });
    }
    ServicesBody {
        services,
        summary: Summary { counts, total: counts.total(), last_updated: Stamp(now) },
        service_health: (!list_only).then_some(flat),
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShownCheck {
    timestamp: Stamp,
    status: Status,
    response_time: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ShownPhases {
    resolve: Option<f64>,
    connect: Option<f64>,
    tls: Option<f64>,
    response: Option<f64>,
}

impl From<Phases> for ShownPhases {
    fn from(phases: Phases) -> Self {
        let ms = |phase: Option<std::time::Duration>| phase.map(|phase| round2(phase.as_secs_f64() * 1000.0));
        Self {
            resolve: ms(phases.resolve),
            connect: ms(phases.connect),
            tls: ms(phases.tls),
            response: ms(phases.response),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Detection {
    worst_case_ms: u64,
    within_promise: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceHealth {
    name: ServiceName,
    status: Status,
    url: String,
    port: u16,
    response_time: u64,
    last_checked: Option<Stamp>,
    consecutive_failures: u32,
    consecutive_successes: u32,
    uptime_percentage: f64,
    health_history: Vec<ShownCheck>,
    version: Option<String>,
    category: String,
    critical: bool,
    issues: Vec<String>,
    reason: Option<Reason>,
    http_status: Option<u16>,
    unstable: bool,
    database_connected: Option<bool>,
    external_services_ok: Option<bool>,
    dependencies: Vec<ServiceName>,
    in_maintenance: bool,
    flapping: bool,
    /// Of protocols that look at certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<Stamp>,
    phases: ShownPhases,
    detection: Detection,
}

/// `GET /health/service/{name}`: state of one service and its latest checks.
#[utoipa::path(get, path = "/health/service/{name}", operation_id = "getServiceHealth",
    responses((status = 200, body = OneHealth), (status = 404, description = "Service foo not found"), Tagged))]
pub(super) async fn service(
    State(app): State<ApiState>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (watched, service) = find(&app, &named(name))?;
    lists::answer(
        &app,
        &headers,
        watched.generation(),
        || json!({"service": service_health(&app, &service, &watched.lock())}),
    )
}

/// The name in a path; one that cannot be decoded is no service's.
pub(super) fn named(name: Result<Path<String>, PathRejection>) -> String {
    name.map(|Path(name)| name).unwrap_or_default()
}

/// The service called `name`, ignoring case.
pub(super) fn find(app: &ApiState, name: &str) -> Result<(Arc<Watched>, Arc<Service>), ApiError> {
    let found = ServiceName::new(name).ok().and_then(|name| app.engine.live.find(&name));
    let watched = found
        .ok_or_else(|| ApiError::NotFound(format!("Service {} not found", crate::domain::observation::clean(name))))?;
    let service = watched.service();
    Ok((watched, service))
}

pub(super) fn service_health(app: &ApiState, service: &Service, inner: &Inner) -> ServiceHealth {
    let now = app.engine.clock.now();
    let state = &inner.state;
    let policy = &app.engine.config().detection;
    let worst = service.worst_case_detection(policy);
    let history = inner.history.newest().take(SHOWN_CHECKS).map(|check| ShownCheck {
        timestamp: Stamp(check.at()),
        status: check.status,
        response_time: check.response_ms(),
    });
    ServiceHealth {
        name: service.name.clone(),
        status: state.status,
        url: service.url.clone(),
        port: service.port,
        response_time: if state.status == Status::Unknown {
            0
        } else {
            state.response_us.map_or(0, |us| u64::from(us) / 1000)
        },
        last_checked: state.last_check.map(Stamp),
        consecutive_failures: state.consecutive_failures,
        consecutive_successes: state.consecutive_successes,
        uptime_percentage: round2(inner.history.parts(now).uptime_percent().unwrap_or(0.0)),
        health_history: history.collect(),
        version: state.facts.version.clone(),
        category: service.category.clone(),
        critical: service.critical,
        issues: state.issues.clone(),
        reason: state.last_check.map(|_| state.reason),
        http_status: (state.http_status != 0).then_some(state.http_status),
        unstable: state.unstable(now),
        database_connected: state.facts.database_connected,
        external_services_ok: state.facts.external_services_ok,
        dependencies: service.needs().cloned().collect(),
        in_maintenance: inner.in_maintenance,
        flapping: state.flaps.flapping,
        certificate_expires: state
            .certificate_expires
            .and_then(|at| chrono::DateTime::from_timestamp(at, 0))
            .map(Stamp),
        phases: state.phases.into(),
        detection: Detection {
            worst_case_ms: u64::try_from(worst.as_millis()).unwrap_or(u64::MAX),
            within_promise: worst <= policy.promise,
        },
    }
}

/// The latest response time, whole milliseconds.
pub(super) fn latest_ms(inner: &Inner) -> u64 {
    current_ms(inner)
}
