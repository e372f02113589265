//! Rolling numbers as JSON, and the choice between JSON and Prometheus text (CONTRACT.md 9.5).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::ApiState;
use super::bodies::Range;
use super::bodies::metrics::{
    HistoryBody, HistoryQuery, MetricsAnswer, MetricsQuery, NamedMetrics, ServiceMetricsBody,
};
use super::document::Tagged;
use super::endpoints::{unreadable, untold};
use super::error::{ApiError, Invalid};
use super::health::{find, latest_ms, named};
use super::input::Asked;
use super::prometheus::{Format, Wanted};
use super::{lists, prometheus};
use crate::domain::host::Resource;
use crate::domain::rollup::{Resolution, Rollup};
use crate::domain::service::{Service, ServiceName};
use crate::domain::time::{Stamp, round2, round6};
use crate::engine::live::{Inner, Watched};
use crate::engine::metrics::{MINUTE, ServiceMetrics, SystemMetrics, availability};

const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
/// What clients of 002 call a megabyte.
const MEBIBYTE: f64 = 1_048_576.0;
const HOUR: Duration = Duration::from_secs(3600);
/// Points of a history when nothing else is asked for, and at most: CONTRACT.md 9.5.
const POINTS: usize = 1000;
const MOST_POINTS: usize = 10_000;
/// Newest checks shown with the numbers of 002: CONTRACT.md 9.5.
const RECENT_CHECKS: usize = 10;

#[derive(Serialize)]
struct MetricsBody {
    system: SystemMetrics,
    services: BTreeMap<ServiceName, ServiceMetrics>,
    timestamp: Stamp,
    cpu_usage_percent: Option<f64>,
    memory_usage_mb: Option<f64>,
    disk_usage_percent: Option<f64>,
    network_connections: Option<u64>,
    uptime_seconds: u64,
    custom_metrics: Value,
}

/// `GET /metrics/history`: roll-ups of a service, or of the fleet, oldest first.
#[utoipa::path(get, path = "/metrics/history", operation_id = "getMetricsHistory",
    params(HistoryQuery, Range),
responses(
        (status = 200, body = HistoryBody),
        (status = 404, description = "Service foo not found"),
    ))]
pub(super) async fn history(State(app): State<ApiState>, asked: Asked) -> Result<Json<Value>, ApiError> {
    let now = app.engine.clock.now();
    let (from, to) = asked.range(now - HOUR, now)?;
    let limit = asked.number("limit", 1, MOST_POINTS)?.unwrap_or(POINTS);
    let resolution = asked.choice("resolution", "minute, hour, day", Resolution::named)?.unwrap_or_default();
    let (name, rollups) = match asked.text("service").or_else(|| asked.text("service_name")) {
        Some(name) if name != "system" => {
            let (watched, service) = find(&app, name)?;
            let rollups = app.engine.roll_ups(&watched, from, to.min(now).max(from), resolution).await;
            (service.name.to_string(), rollups.map_err(untold)?)
        }
        _ => {
            let rollups = app.engine.fleet_roll_ups(from, to, resolution, limit).await;
            ("system".to_owned(), rollups.map_err(unreadable)?)
        }
    };
    // The newest, when there are more than are asked for.
    let points: Vec<Value> = rollups.iter().skip(rollups.len().saturating_sub(limit)).map(point).collect();
    Ok(Json(json!({
        "service_name": name, "time_range": {"start": Stamp(from), "end": Stamp(to)}, "data_points": points.len(),
        "historical_data": points,
    })))
}

pub(super) fn point(rollup: &Rollup) -> Value {
    let (counts, latency) = (rollup.counts, rollup.pool());
    let mut point = json!({
        "timestamp": Stamp(crate::domain::time::from_ms(rollup.at_ms)),
        "metrics": {
            "checks": counts.checks, "errors": counts.not_healthy(), "error_rate": round6(counts.error_rate()),
            "average_response_time_ms": round2(counts.average_ms()),
            "p50_response_time_ms": round2(latency.percentile_ms(0.5)),
            "p95_response_time_ms": round2(latency.percentile_ms(0.95)),
            "p99_response_time_ms": round2(latency.percentile_ms(0.99)),
            "availability_percent": rollup.parts.uptime_percent().map(round2),
            "status": rollup.status,
        },
    });
    if let Some(host) = rollup.host {
        point["metrics"]["cpu_usage_percent"] = json!(host.cpu_percent.map(round2));
        point["metrics"]["memory_usage_percent"] = json!(host.memory_percent.map(round2));
        point["metrics"]["disk_usage_percent"] = json!(host.disk_percent.map(round2));
        point["metrics"]["load_average"] = json!(host.load_average.map(|load| load.map(round2)));
    }
    point
}

/// `GET /metrics/{name}`: the numbers of one service for clients of 002; zeros and nulls before the first check.
#[utoipa::path(get, path = "/metrics/{name}", operation_id = "getNamedMetrics",
    responses((status = 200, body = NamedMetrics), (status = 404, description = "Service foo not found"), Tagged))]
pub(super) async fn named_service(
    State(app): State<ApiState>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (watched, service) = find(&app, &named(name))?;
    of_service(&app, &headers, &watched, &service)
}

fn of_service(app: &ApiState, headers: &HeaderMap, watched: &Watched, service: &Service) -> Result<Response, ApiError> {
    let now = app.engine.clock.now();
    lists::answer(app, headers, watched.generation(), || {
        let inner = watched.lock();
        let day = inner.history.day(now);
        let recent: Vec<Value> = inner
            .history
            .newest()
            .take(RECENT_CHECKS)
            .map(|check| json!({"timestamp": Stamp(check.at()), "status": check.status, "response_time_ms": check.response_ms()}))
            .collect();
        let rate = (day.checks > 0).then(|| round6(day.healthy as f64 / day.checks as f64));
        json!({
            "service": service.name,
            "metrics": numbers(&inner, now),
            "service_name": service.name,
            "total_checks": day.checks,
            "recent_checks": recent,
            "average_response_time_ms": round2(day.average_ms()),
            "success_rate": rate,
            "last_check": inner.state.last_check.map(Stamp),
        })
    })
}

/// `GET /metrics`: JSON, or text for a scraper that asks for it.
#[utoipa::path(get, path = "/metrics", operation_id = "getMetrics", params(MetricsQuery), responses(
    (status = 200, content(
        (MetricsAnswer = "application/json"), (String = "text/plain"), (String = "application/openmetrics-text"))),
    (status = 404, description = "Service foo not found"), Tagged))]
pub(super) async fn all(
    State(app): State<ApiState>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = query.iter().find(|(name, _)| name == "format").map(|(_, value)| value.as_str());
    if let Some((_, name)) = query.iter().find(|(field, value)| field == "service_name" && !value.is_empty()) {
        let (watched, service) = find(&app, name)?;
        return of_service(&app, &headers, &watched, &service);
    }
    match format(asked, &headers)? {
        None => lists::shared(&app, &headers, "metrics", body).await,
        Some(format) => prometheus::scrape(app, format).await,
    }
}

/// `GET /metrics/prometheus`: text, whatever is asked for.
#[utoipa::path(get, path = "/metrics/prometheus", operation_id = "getPrometheusMetrics", responses(
    (status = 200, content((String = "text/plain"), (String = "application/openmetrics-text")))))]
pub(super) async fn text(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    prometheus::scrape(app, Wanted::of(&headers).text()).await
}

/// `format` overrides what `Accept` asks for; `None`: JSON.
fn format(asked: Option<&str>, headers: &HeaderMap) -> Result<Option<Format>, ApiError> {
    let wanted = Wanted::of(headers);
    match asked.map(str::to_ascii_lowercase).as_deref() {
        Some("json") => Ok(None),
        Some("prometheus") => Ok(Some(wanted.text())),
        Some(other) => Err(ApiError::from(Invalid {
            place: "query",
            field: "format".to_owned(),
            rule: "must be json or prometheus".to_owned(),
            kind: "enum",
            input: Some(crate::domain::observation::clean(other).into()),
        })),
        None => Ok(wanted.text_or_json()),
    }
}

fn body(app: &ApiState) -> MetricsBody {
    let now = app.engine.clock.now();
    let system = SystemMetrics::of(&app.engine, now, app.uptime_s());
    let roster = app.engine.live.roster();
    let services = roster
        .watched
        .iter()
        .filter_map(|watched| {
            let metrics = ServiceMetrics::of(&watched.lock(), now)?;
            Some((watched.service().name.clone(), metrics))
        })
        .collect();
    let infrastructure = roster.watched.iter().filter(|watched| watched.service().is_infrastructure()).count();
    let success = if system.total_requests == 0 { None } else { Some(round6(1.0 - system.error_rate)) };
    let host = app.engine.host();
    let sample = host.sample.as_ref();
    let vitals = sample.and_then(|sample| sample.vitals.as_ref());
    let usage = |resource| sample.and_then(|sample| sample.usage(resource)).map(round2);
    MetricsBody {
        timestamp: Stamp(now),
        cpu_usage_percent: usage(Resource::Cpu),
        memory_usage_mb: vitals.map(|vitals| round2(vitals.memory.ours().used_bytes as f64 / MEBIBYTE)),
        disk_usage_percent: usage(Resource::Disk),
        network_connections: vitals.map(|vitals| vitals.connections),
        uptime_seconds: app.uptime_s(),
        custom_metrics: json!({
            "total_registered_services": roster.watched.len() - infrastructure,
            "total_registered_dependencies": infrastructure,
            "monitoring_active": app.engine.is_active(),
            "health_check_success_rate": success,
        }),
        services,
        system,
    }
}

/// `GET /metrics/service/{name}`: the numbers of one service.
#[utoipa::path(get, path = "/metrics/service/{name}", operation_id = "getServiceMetrics",
    responses(
        (status = 200, body = ServiceMetricsBody),
        (status = 404, description = "No metrics available for foo"),
        Tagged,
    ))]
pub(super) async fn service(
    State(app): State<ApiState>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (watched, service) = find(&app, &named(name))?;
    let now = app.engine.clock.now();
    if watched.lock().history.is_empty() {
        return Err(ApiError::NotFound(format!("No metrics available for {}", service.name)));
    }
    lists::answer(
        &app,
        &headers,
        watched.generation(),
        || json!({"service": service.name, "metrics": numbers(&watched.lock(), now)}),
    )
}

/// The numbers of one service over its windows.
fn numbers(inner: &Inner, now: DateTime<Utc>) -> Value {
    let (state, history) = (&inner.state, &inner.history);
    let cutoff = (now - FIVE_MINUTES).timestamp_millis();
    let mut last_five: Vec<u64> = history
        .newest()
        .take_while(|check| check.at_ms > cutoff)
        .filter(|check| check.response_us.is_some())
        .map(|check| check.response_ms())
        .collect();
    last_five.reverse();
    let (day, latency) = (history.day(now), history.day_latency(now));
    let hour = history.since(now, HOUR);
    let shown = availability(inner, now);
    let last_outage = history.outages().last().map(|outage| Stamp(crate::domain::time::from_ms(outage.start_ms)));
    let phrase = history.status_since().map(|since| {
        let lasted = crate::domain::time::spoken(crate::domain::time::span(since, now));
        format!("{} for {lasted}", state.status.as_str())
    });
    json!({
        "responseTime": {
            "current": latest_ms(inner), "last5Min": last_five, "average1Hour": round2(hour.average_ms()),
            "average24Hour": round2(day.average_ms()), "p50": round2(latency.percentile_ms(0.5)),
            "p95": round2(latency.percentile_ms(0.95)), "p99": round2(latency.percentile_ms(0.99)),
        },
        "availability": {
            "uptime": shown.uptime, "downtimeMinutes": shown.downtime_minutes, "lastOutage": last_outage,
            "mtbf": shown.mtbf, "mttr": shown.mttr,
        },
        "requests": {
            "total": day.checks, "successful": day.healthy, "failed": day.not_healthy(),
            "perMinute": history.since(now, MINUTE).checks, "perHour": hour.checks,
            "errorRate": round6(day.error_rate()),
        },
        "health": {
            "consecutiveSuccesses": state.consecutive_successes,
            "consecutiveFailures": state.consecutive_failures,
            "lastHealthCheck": state.last_check.map(Stamp),
            "healthHistory": phrase,
        },
    })
}
