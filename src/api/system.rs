//! The whole system for clients of 002 and 004: one word for all of it, the host beside it, and reports (CONTRACT.md 9.2,
//! 9.4, 9.9). Everything from stored results; each answer is made in one pass.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::bodies::fleet::{
    CpuBody, DetailedBody, DiskBody, HealthMetrics, MemoryBody, NetworkBody, ReportBody, ReportQuery, StatusBody,
    SystemBody, SystemView, Words,
};
use super::document::Tagged;
use super::endpoints::unreadable;
use super::error::ApiError;
use super::input::Asked;
use super::lists;
use super::metrics::point;
use crate::domain::alert::Severity;
use crate::domain::host::{Cpu, HostSample, Memory, Resource, Vitals};
use crate::domain::rollup::Resolution;
use crate::domain::status::Status;
use crate::domain::time::{Stamp, round2, round6};
use crate::domain::window::WINDOW;
use crate::engine::metrics::SystemMetrics;
use crate::engine::system::{Performance, Rows};

/// Said while nothing has been checked yet: CONTRACT.md 9.2.
const NOT_INITIALIZED: &str = "Health monitoring not initialized";
/// Points of a report's history at most: a day by minutes.
const DAY_OF_MINUTES: usize = 1440;

/// `GET /health/system`: the system in the words of 004, the host in those of 002.
#[utoipa::path(get, path = "/health/system", operation_id = "getSystemHealth",
    params(SystemView), responses((status = 200, body = SystemBody), Tagged))]
pub(super) async fn system(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let snapshot = asked.boolean("snapshot")?.unwrap_or(false);
    if app.engine.awaits_first_round() {
        return Err(ApiError::Unavailable(NOT_INITIALIZED));
    }
    let name = if snapshot { "health/system?snapshot" } else { "health/system" };
    lists::shared(&app, &headers, name, move |app| app.engine.system_body(snapshot)).await
}

/// The status and time of a part of the host, and its fields.
fn part(
    app: &ApiState,
    resource: Resource,
    fields: impl FnOnce(Option<&HostSample>) -> Value,
) -> Json<Map<String, Value>> {
    let view = app.engine.host();
    let sample = view.sample.as_ref();
    let status = sample.map_or(Status::Unknown, |sample| sample.status(&[resource], &app.engine.config().host));
    Json(shown(app, status, sample, fields(sample)))
}

fn shown(app: &ApiState, status: Status, sample: Option<&HostSample>, fields: Value) -> Map<String, Value> {
    let at: DateTime<Utc> = sample.map_or_else(|| app.engine.clock.now(), |sample| sample.at);
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(status));
    body.insert("timestamp".to_owned(), json!(Stamp(at)));
    if let Value::Object(fields) = fields {
        body.extend(fields);
    }
    body
}

fn vitals(sample: Option<&HostSample>) -> Option<&Vitals> {
    sample.and_then(|sample| sample.vitals.as_ref())
}

/// `GET /health/system/cpu`.
#[utoipa::path(get, path = "/health/system/cpu", operation_id = "getHostCpu",
    responses((status = 200, body = CpuBody)))]
pub(super) async fn cpu(State(app): State<ApiState>) -> Json<Map<String, Value>> {
    let one = |cpu: &Cpu| json!({"usage_percent": round2(cpu.usage_percent), "cores": round2(cpu.cores)});
    part(&app, Resource::Cpu, |sample| {
        let seen = vitals(sample);
        let ours = seen.map(|seen| seen.cpu.ours());
        json!({
            "usage_percent": ours.map(|cpu| round2(cpu.usage_percent)),
            "cores": ours.map(|cpu| round2(cpu.cores)),
            "load_average": seen.map(|seen| seen.load_average.map(round2)),
            "host": seen.map(|seen| one(&seen.cpu.host)),
            "container": seen.and_then(|seen| seen.cpu.container.as_ref()).map(one),
        })
    })
}

/// `GET /health/system/memory`.
#[utoipa::path(get, path = "/health/system/memory", operation_id = "getHostMemory",
    responses((status = 200, body = MemoryBody)))]
pub(super) async fn memory(State(app): State<ApiState>) -> Json<Map<String, Value>> {
    let one = |memory: &Memory| {
        json!({
            "usage_percent": round2(memory.usage_percent()), "total_bytes": memory.total_bytes,
            "used_bytes": memory.used_bytes, "available_bytes": memory.available_bytes(),
            "swap_usage_percent": round2(memory.swap_usage_percent()),
        })
    };
    part(&app, Resource::Memory, |sample| {
        let seen = vitals(sample).map(|seen| &seen.memory);
        let mut body = seen.map_or_else(
            || {
                json!({
                    "usage_percent": null, "total_bytes": null, "used_bytes": null, "available_bytes": null,
                    "swap_usage_percent": null,
                })
            },
            |seen| one(seen.ours()),
        );
        body["host"] = seen.map_or(Value::Null, |seen| one(&seen.host));
        body["container"] = seen.and_then(|seen| seen.container.as_ref()).map_or(Value::Null, one);
        body
    })
}

/// `GET /health/system/disk`.
#[utoipa::path(get, path = "/health/system/disk", operation_id = "getHostDisk",
    responses((status = 200, body = DiskBody)))]
pub(super) async fn disk(State(app): State<ApiState>) -> Json<Map<String, Value>> {
    part(&app, Resource::Disk, |sample| {
        let seen = sample.and_then(|sample| sample.disks.as_ref());
        let disks: Vec<Value> = seen
            .iter()
            .flat_map(|seen| &seen.disks)
            .map(|disk| {
                json!({
                    "mount": disk.mount, "total_bytes": disk.total_bytes, "used_bytes": disk.used_bytes,
                    "usage_percent": round2(disk.usage_percent()), "read_only": disk.read_only,
                })
            })
            .collect();
        json!({
            "usage_percent": sample.and_then(|sample| sample.usage(Resource::Disk)).map(round2),
            "disks": disks,
            "io": {
                "read_bytes_per_second": seen.map(|seen| round2(seen.read_rate)),
                "write_bytes_per_second": seen.map(|seen| round2(seen.write_rate)),
            },
        })
    })
}

/// `GET /health/system/network`: healthy while anything that is watched answers.
#[utoipa::path(get, path = "/health/system/network", operation_id = "getHostNetwork",
    responses((status = 200, body = NetworkBody)))]
pub(super) async fn network(State(app): State<ApiState>) -> Json<Map<String, Value>> {
    let view = app.engine.host();
    let seen = vitals(view.sample.as_ref());
    let connected = app.engine.is_connected();
    let status = match connected {
        Some(true) => Status::Healthy,
        Some(false) => Status::Unhealthy,
        None => Status::Unknown,
    };
    let interfaces: Vec<Value> = seen
        .iter()
        .flat_map(|seen| &seen.interfaces)
        .map(|interface| {
            json!({
                "name": interface.name, "rx_bytes": interface.rx_bytes, "tx_bytes": interface.tx_bytes,
                "rx_bytes_per_second": round2(interface.rx_rate), "tx_bytes_per_second": round2(interface.tx_rate),
            })
        })
        .collect();
    let fields = json!({
        "connectivity": connected.unwrap_or(false),
        "interfaces": interfaces,
        "connections": seen.map(|seen| seen.connections),
    });
    Json(shown(&app, status, view.sample.as_ref(), fields))
}

/// `GET /health/metrics`: counts and gauges of 004.
#[utoipa::path(get, path = "/health/metrics", operation_id = "getHealthMetrics",
    responses((status = 200, body = HealthMetrics), Tagged))]
pub(super) async fn metrics(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    lists::shared(&app, &headers, "health/metrics", metrics_body).await
}

fn metrics_body(app: &ApiState) -> Value {
    if app.engine.awaits_first_round() {
        return json!({
            "timestamp": Stamp(app.engine.clock.now()), "status": "no_data",
            "message": "No health data collected yet",
        });
    }
    let rows = app.engine.rows(false);
    let view = app.engine.view_of(&rows);
    let (services, infra) = (&view.services, &view.infrastructure);
    let total = services.ok.len() + services.degraded.len() + services.down.len() + services.unknown.len();
    let Performance { avg_service_latency_ms, max_service_latency_ms } = Performance::from(&view);
    let alerts = app.engine.live.alert_tally();
    let count = |wanted: &dyn Fn(Severity) -> bool| -> usize {
        alerts.iter().filter(|((severity, _), _)| wanted(*severity)).map(|(_, count)| count).sum()
    };
    json!({
        "timestamp": Stamp(rows.at),
        "counters": {
            "total_services": total,
            "services_ok": services.ok.len(), "services_degraded": services.degraded.len(),
            "services_down": services.down.len(), "services_unknown": services.unknown.len(),
            "infra_ok": infra.ok.len(), "infra_degraded": infra.degraded.len(), "infra_down": infra.down.len(),
            "infra_unknown": infra.unknown.len(),
        },
        "gauges": {
            "system_status_code": view.status.code(),
            "avg_service_latency_ms": avg_service_latency_ms,
            "max_service_latency_ms": max_service_latency_ms,
        },
        "alerts": {
            "active_count": count(&|_| true),
            "critical_count": count(&|severity| severity.level() == "CRITICAL"),
            "warning_count": count(&|severity| severity.level() == "WARNING"),
        },
    })
}

/// `GET /api/health/services`: each service in one word of 004.
#[utoipa::path(get, path = "/api/health/services", operation_id = "listServiceWords",
    responses((status = 200, body = Words), Tagged))]
pub(super) async fn words(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    lists::shared(&app, &headers, "api/health/services", |app| {
        let rows = app.engine.rows(false);
        let services: Vec<Value> = rows
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.service.name, "status": row.word, "latency_ms": row.latency_ms(),
                    "last_check": row.last_check.map(Stamp),
                })
            })
            .collect();
        json!({"services": services})
    })
    .await
}

/// The fleet in numbers, in the words of 002.
#[derive(Serialize)]
struct Detailed {
    overall_status: Status,
    total_services: usize,
    healthy_services: usize,
    unhealthy_services: usize,
    degraded_services: usize,
    unknown_services: usize,
    system_metrics: Value,
    last_updated: Stamp,
    monitoring_active: bool,
}

fn detailed_of(app: &ApiState, rows: &Rows) -> Detailed {
    let counts = rows.fleet.all;
    let (day, _, _) = app.engine.live.day(rows.at);
    Detailed {
        overall_status: rows.fleet.judged.operational(),
        total_services: counts.total(),
        healthy_services: counts.healthy,
        unhealthy_services: counts.unhealthy,
        degraded_services: counts.degraded,
        unknown_services: counts.unknown,
        system_metrics: json!({
            "uptime_seconds": app.uptime_s(),
            "total_health_checks": day.checks,
            "successful_checks": day.healthy,
            "failed_checks": day.not_healthy(),
            "success_rate": (day.checks > 0).then(|| round6(day.healthy as f64 / day.checks as f64)),
        }),
        last_updated: Stamp(rows.at),
        monitoring_active: app.engine.is_active(),
    }
}

/// `GET /health/detailed`.
#[utoipa::path(get, path = "/health/detailed", operation_id = "getDetailedHealth",
    responses((status = 200, body = DetailedBody), Tagged))]
pub(super) async fn detailed(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    lists::shared(&app, &headers, "health/detailed", |app| detailed_of(app, &app.engine.rows(false))).await
}

/// Services, and dependencies: those of category `infrastructure`, by name.
fn maps(rows: &Rows) -> (Map<String, Value>, Map<String, Value>) {
    let (mut services, mut dependencies) = (Map::new(), Map::new());
    for row in &rows.rows {
        let of = if row.service.is_infrastructure() { &mut dependencies } else { &mut services };
        let shown = json!({
            "status": row.status, "response_time_ms": row.latency_ms(), "last_check": row.last_check.map(Stamp),
            "error_message": row.error_message,
        });
        of.insert(row.service.name.to_string(), shown);
    }
    (services, dependencies)
}

/// `GET /status`: what is watched, and how it is, for clients of 002.
#[utoipa::path(get, path = "/status", operation_id = "getStatus", responses((status = 200, body = StatusBody), Tagged))]
pub(super) async fn status(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    lists::shared(&app, &headers, "status", |app| {
        let rows = app.engine.rows(false);
        let counts = rows.fleet.all;
        let (services, dependencies) = maps(&rows);
        json!({
            "status": rows.fleet.judged.operational(),
            "service": app.config.service_name,
            "version": app.config.version,
            "environment": app.config.environment,
            "timestamp": Stamp(rows.at),
            "services": services,
            "dependencies": dependencies,
            "summary": {
                "total_services": counts.total(), "healthy_services": counts.healthy,
                "unhealthy_services": counts.unhealthy, "degraded_services": counts.degraded,
                "unknown_services": counts.unknown,
            },
            "uptime_seconds": app.uptime_s(),
            "monitoring_active": app.engine.is_active(),
        })
    })
    .await
}

/// `GET /report`: everything at once, on request with the last day.
#[utoipa::path(get, path = "/report", operation_id = "getReport",
    params(ReportQuery), responses((status = 200, body = ReportBody)))]
pub(super) async fn report(State(app): State<ApiState>, asked: Asked) -> Result<Json<Value>, ApiError> {
    reported(app, &asked).await
}

/// `GET /reports/health`: the same.
#[utoipa::path(get, path = "/reports/health", operation_id = "getHealthReport", params(ReportQuery),
    responses((status = 200, body = ReportBody)))]
pub(super) async fn health_report(State(app): State<ApiState>, asked: Asked) -> Result<Json<Value>, ApiError> {
    reported(app, &asked).await
}

async fn reported(app: ApiState, asked: &Asked) -> Result<Json<Value>, ApiError> {
    asked.choice("format", "json", |word| word.eq_ignore_ascii_case("json").then_some(()))?;
    let history = match asked.boolean("include_historical")? {
        Some(true) => {
            let now = app.engine.clock.now();
            let minutes = app.engine.fleet_roll_ups(now - WINDOW, now, Resolution::Minute, DAY_OF_MINUTES).await;
            Some(minutes.map_err(unreadable)?)
        }
        _ => None,
    };
    let made = tokio::task::spawn_blocking(move || {
        let rows = app.engine.rows(false);
        let alerts = app.engine.live.alerts();
        let counts = rows.fleet.all;
        let (services, dependencies) = maps(&rows);
        let mut report = json!({
            "report_metadata": {
                "generated_at": Stamp(rows.at), "report_version": "1.0", "services_monitored": services.len(),
                "dependencies_monitored": dependencies.len(), "format": "json",
            },
            "system_overview": detailed_of(&app, &rows),
            "service_details": {"services": services, "dependencies": dependencies},
            // The same counts as above: checks go on while this is written.
            "metrics_summary": SystemMetrics {
                total_services: counts.total(),
                healthy_services: counts.healthy,
                degraded_services: counts.degraded,
                unhealthy_services: counts.unhealthy,
                unknown_services: counts.unknown,
                alert_count: alerts.len(),
                ..SystemMetrics::of(&app.engine, rows.at, app.uptime_s())
            },
            "alert_summary": {
                "active_alerts": alerts.len(),
                "alert_details": alerts.iter().map(|alert| alert.record()).collect::<Vec<_>>(),
            },
        });
        if let Some(minutes) = history {
            report["historical_data"] = minutes.iter().map(point).collect();
        }
        report
    });
    made.await.map(Json).map_err(|_| ApiError::Internal("Internal server error"))
}
