//! One service at a time for clients of 003 and 001: its record, its status and history, a check by hand, what breaks
//! with it (CONTRACT.md 9.3).

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::ApiState;
use super::bodies::services::{
    AlertStanding, AvailabilityBody, Booleans, CheckPage, CheckResult, FlatService, ImpactBody, LatestCheck,
    NamedHealth, ShownService, StatusCounted,
};
use super::bodies::{Paging, Range};
use super::document::Tagged;
use super::error::ApiError;
use super::health::{ShownPhases, named, service_health};
use super::input::{Asked, nothing};
use super::lists;
use super::record::{flat, present, record, status_record, tag};
use super::registry::not_found;
use crate::domain::alert::{AlertType, Component, Told};
use crate::domain::observation::clean;
use crate::domain::outage::outage_numbers;
use crate::domain::registration::Door;
use crate::domain::service::ServiceName;
use crate::domain::status::Status;
use crate::domain::time::{Stamp, round2, round6};
use crate::domain::words::{IN_MAINTENANCE, INACTIVE, ms};
use crate::engine::history::HistoryError;
use crate::engine::live::Watched;
use crate::store::records::OutageFilter;

type Named = Result<Path<String>, PathRejection>;

fn find(app: &ApiState, id: &str) -> Result<Arc<Watched>, ApiError> {
    let found = ServiceName::new(id).ok().and_then(|name| app.engine.live.find(&name));
    found.ok_or_else(|| not_found(id, Door::Services))
}

/// `GET /services/{id}`: the record, with the flat fields of 002.
#[utoipa::path(get, path = "/services/{id}", operation_id = "getService",
    responses(
        (status = 200, body = ShownService),
        (status = 404, description = "Service endpoint with ID foo not found"),
        Tagged,
    ))]
pub(super) async fn show(State(app): State<ApiState>, id: Named, headers: HeaderMap) -> Result<Response, ApiError> {
    let watched = find(&app, &named(id))?;
    app.engine.windows_in_force();
    lists::answer_as(&headers, &tag(&watched), || {
        let mut fields = record(&app, &watched);
        fields.extend(flat(&app, &watched));
        fields
    })
}

/// `GET /health/services/{name}`: the view of 000, with the flat fields of 002.
#[utoipa::path(get, path = "/health/services/{name}", operation_id = "getNamedHealth",
    responses((status = 200, body = NamedHealth), (status = 404, description = "Service foo not found"), Tagged))]
pub(super) async fn show_health(
    State(app): State<ApiState>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (watched, service) = super::health::find(&app, &named(name))?;
    app.engine.windows_in_force();
    lists::answer_as(&headers, &tag(&watched), || {
        let mut fields = Map::new();
        fields.insert("service".to_owned(), json!(service_health(&app, &service, &watched.lock())));
        fields.extend(flat(&app, &watched));
        fields
    })
}

/// `POST /services/{id}/check`: probes now, outside the cadence.
#[utoipa::path(post, path = "/services/{id}/check", operation_id = "checkService",
    responses(
        (status = 200, body = CheckResult),
        (status = 404, description = "Service endpoint with ID foo not found"),
    ))]
pub(super) async fn check(State(app): State<ApiState>, id: Named, body: Bytes) -> Result<Json<Value>, ApiError> {
    nothing(&body)?;
    let watched = find(&app, &named(id))?;
    let service = watched.service();
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    app.engine.windows_in_force();
    let answer = |status: &str, success: bool, error: Option<String>, took: f64, state: Option<Value>| {
        let mut fields = json!({
            "endpoint_id": service.name, "status": status, "response_time": null, "execution_time": took,
            "success": success, "error": error,
        });
        if let (Some(fields), Some(Value::Object(more))) = (fields.as_object_mut(), state) {
            fields.extend(more);
        }
        Json(fields)
    };
    if !service.active {
        return Ok(answer("UNKNOWN", false, Some(INACTIVE.to_owned()), 0.0, None));
    }
    let (began, before) = (Instant::now(), watched.lock().history.recorded());
    let done = app.engine.check_now(&watched).await.map_err(|wait| ApiError::TooSoon { retry_after: wait })?;
    let took = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let inner = watched.lock();
    let state = &inner.state;
    let conclusive = done.is_some() && inner.history.recorded() > before;
    let (status, reason) = present(&service, &inner);
    let error = reason.map(str::to_owned).or_else(|| match conclusive {
        true => state.error_message.clone(),
        false => Some("Not checked: the check came to no result".to_owned()),
    });
    // What the last conclusive check saw says nothing of this one.
    let seen = json!({
        "response_time": ms(state.response_us).filter(|_| conclusive),
        "observed_status": conclusive.then_some(state.status),
        "reason": conclusive.then_some(state.reason),
        "phases": ShownPhases::from(if conclusive { state.phases } else { Default::default() }),
    });
    Ok(answer(if conclusive { status } else { "UNKNOWN" }, conclusive, error, took, Some(seen)))
}

/// `GET /services/{id}/status`: the latest status record.
#[utoipa::path(get, path = "/services/{id}/status", operation_id = "getServiceStatus",
    responses(
        (status = 200, body = LatestCheck),
        (status = 404, description = "No status found for service endpoint with ID foo"),
    ))]
pub(super) async fn status(State(app): State<ApiState>, id: Named) -> Result<Json<Value>, ApiError> {
    let id = named(id);
    let watched = find(&app, &id)?;
    app.engine.windows_in_force();
    let service = watched.service();
    let (latest, shown, said) = {
        let inner = watched.lock();
        (inner.history.newest().next(), present(&service, &inner), inner.state.error_message.clone())
    };
    let mut fields = match latest {
        Some(check) => status_record(&app, &watched, &service, &check),
        None if !service.active => json!({
            "id": null, "endpoint_id": service.name, "status": "UNKNOWN", "response_time": null, "timestamp": null,
            "error_message": INACTIVE, "elasticsearch_synced": false, "in_maintenance": false, "reason": null,
            "kind": null, "http_status": null,
        }),
        None => {
            return Err(ApiError::NotFound(format!("No status found for service endpoint with ID {}", clean(&id))));
        }
    };
    if let Some(fields) = fields.as_object_mut() {
        // The latest check is told in its own words, under the status that stands now.
        let (word, reason) = shown;
        fields.insert("status".to_owned(), Value::from(word));
        fields.insert("error_message".to_owned(), said.map_or(Value::Null, Value::from));
        fields.insert("in_maintenance".to_owned(), Value::Bool(false));
        if let Some(reason) = reason {
            fields.insert("error_message".to_owned(), Value::from(reason));
            fields.insert("in_maintenance".to_owned(), Value::Bool(reason == IN_MAINTENANCE));
        }
        fields.insert("endpoint".to_owned(), Value::Object(record(&app, &watched)));
    }
    Ok(Json(fields))
}

/// `GET /services/{id}/history`: stored checks, newest first.
#[utoipa::path(get, path = "/services/{id}/history", operation_id = "listChecks",
    params(Range, Paging),
responses(
        (status = 200, body = CheckPage),
        (status = 404, description = "Service endpoint with ID foo not found"),
    ))]
pub(super) async fn history(State(app): State<ApiState>, id: Named, asked: Asked) -> Result<Json<Value>, ApiError> {
    let watched = find(&app, &named(id))?;
    let service = watched.service();
    let (skip, limit) = asked.page()?;
    let now = app.engine.clock.now();
    let (from, to) = (asked.instant("start_time")?, asked.instant("end_time")?);
    asked.in_order(from, to)?;
    let range = (from.unwrap_or(DateTime::UNIX_EPOCH), to.unwrap_or(now));
    let page = app.engine.checks_page(&watched, range, skip, limit).await.map_err(unreadable)?;
    let items: Vec<Value> = page.checks.iter().map(|check| status_record(&app, &watched, &service, check)).collect();
    Ok(Json(json!({"items": items, "total": page.total})))
}

/// The past cannot be told: not now, or not for so long a range.
pub(super) fn untold(error: HistoryError) -> ApiError {
    match error {
        HistoryError::Store(error) => unreadable(error),
        HistoryError::TooMany => ApiError::from(super::error::Invalid {
            place: "query",
            field: "start_time".to_owned(),
            rule: format!("must be later: {error}"),
            kind: "value_error",
            input: None,
        }),
    }
}

/// Stored history cannot be read now.
pub(super) fn unreadable(error: crate::store::StoreError) -> ApiError {
    tracing::error!(%error, "records cannot be read");
    ApiError::Unavailable("Records are not readable")
}

/// `GET /services/{id}/availability`: what a range of time consisted of, and the outages in it.
#[utoipa::path(get, path = "/services/{id}/availability", operation_id = "getAvailability",
    params(Range),
responses(
        (status = 200, body = AvailabilityBody),
        (status = 404, description = "Service endpoint with ID foo not found"),
    ))]
pub(super) async fn availability(
    State(app): State<ApiState>,
    id: Named,
    asked: Asked,
) -> Result<Json<Value>, ApiError> {
    let watched = find(&app, &named(id))?;
    let service = watched.service();
    let now = app.engine.clock.now();
    let (from, to) = asked.range(now - crate::domain::window::WINDOW, now)?;
    let to = to.min(now).max(from);
    let parts = app.engine.parts_between(&watched, from, to).await.map_err(untold)?;
    let numbers = outages_between(&app, &watched, from, to, parts.up).await?;
    let s = |ms: i64| round2(ms as f64 / 1000.0);
    Ok(Json(json!({
        "endpoint_id": service.name,
        "time_range": {"start": Stamp(from), "end": Stamp(to)},
        "up_seconds": s(parts.up), "down_seconds": s(parts.down), "unknown_seconds": s(parts.unknown),
        "maintenance_seconds": s(parts.maintenance),
        "uptime_percent": parts.uptime_percent().map(round2),
        "outages": numbers.count,
        "outage_seconds": round2(numbers.downtime_minutes * 60.0),
        "mtbf_minutes": numbers.mtbf.map(round2),
        "mttr_minutes": numbers.mttr.map(round2),
    })))
}

/// Outages that touch a range, in numbers.
struct OutagesBetween {
    count: usize,
    downtime_minutes: f64,
    mtbf: Option<f64>,
    mttr: Option<f64>,
}

async fn outages_between(
    app: &ApiState,
    watched: &Watched,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    up_ms: i64,
) -> Result<OutagesBetween, ApiError> {
    let service = watched.service();
    // An outage that began before the range may reach into it.
    let filter = OutageFilter { service: Some(service.name.clone()), to: Some(to), ..OutageFilter::default() };
    let found = app.engine.records.outages(filter, 0, usize::MAX >> 2).await.map_err(unreadable)?;
    let touching = found.outages.iter().filter(|outage| outage.ended.is_none_or(|ended| ended > from));
    let spans: Vec<crate::domain::outage::OutageSpan> = touching
        .map(|outage| crate::domain::outage::OutageSpan {
            start_ms: outage.started.timestamp_millis(),
            end_ms: outage.ended.map(|at| at.timestamp_millis()),
        })
        .collect();
    let paused = |from_ms: i64, to_ms: i64| {
        let at = crate::domain::time::from_ms;
        crate::domain::maintenance::covered_ms(&app.engine.windows.spans_of(&service, at(from_ms), at(to_ms)))
    };
    let window_ms = (to - from).num_milliseconds();
    let numbers = outage_numbers(&spans, up_ms, to.timestamp_millis(), window_ms, paused);
    Ok(OutagesBetween {
        count: spans.len(),
        downtime_minutes: numbers.downtime_minutes,
        mtbf: numbers.mtbf_minutes,
        mttr: numbers.mttr_minutes,
    })
}

/// `GET /services/{id}/impact`: what breaks if it fails, and why it fails if it is itself a victim.
#[utoipa::path(get, path = "/services/{id}/impact", operation_id = "getImpact",
    responses(
        (status = 200, body = ImpactBody),
        (status = 404, description = "Service endpoint with ID foo not found"),
    ))]
pub(super) async fn impact(State(app): State<ApiState>, id: Named) -> Result<Json<Value>, ApiError> {
    let watched = find(&app, &named(id))?;
    let name = watched.service().name.clone();
    let roster = app.engine.live.roster();
    let graph = &roster.registry.graph;
    let failed = |of: &ServiceName| roster.find(of).is_some_and(|watched| watched.lock().state.has_failed());
    let dependents = graph.impact(&name, failed);
    let on_path: Vec<&ServiceName> =
        dependents.iter().filter(|name| roster.registry.is_on_critical_path(name)).collect();
    // Who would lose a spare, and go on.
    let weakened: Vec<ServiceName> =
        graph.dependents(&name).into_iter().filter(|dependent| !dependents.contains(dependent)).collect();
    Ok(Json(json!({
        "service": name,
        "dependents": dependents,
        "critical_path_affected": on_path,
        "root_cause": app.engine.root_cause(&name),
        "redundancy_reduced": weakened,
    })))
}

/// `GET /services/{id}/health`: how it is, in the flat fields of 002.
#[utoipa::path(get, path = "/services/{id}/health", operation_id = "getFlatHealth",
    responses(
        (status = 200, body = FlatService),
        (status = 404, description = "Service endpoint with ID foo not found"),
        Tagged,
    ))]
pub(super) async fn health(State(app): State<ApiState>, id: Named, headers: HeaderMap) -> Result<Response, ApiError> {
    let watched = find(&app, &named(id))?;
    lists::answer_as(&headers, &tag(&watched), || {
        let mut fields = flat(&app, &watched);
        fields.shift_remove("success_rate");
        fields
    })
}

/// `GET /services/{id}/alerts/status`: the worse of its alerts about errors and slowness, in the words of 002.
#[utoipa::path(get, path = "/services/{id}/alerts/status", operation_id = "getAlertStanding",
    responses(
        (status = 200, body = AlertStanding),
        (status = 404, description = "Service endpoint with ID foo not found"),
    ))]
pub(super) async fn alert_status(State(app): State<ApiState>, id: Named) -> Result<Json<Value>, ApiError> {
    let watched = find(&app, &named(id))?;
    let service = watched.service();
    let component = Component::Service(service.name.clone());
    let kinds = [("response_time", AlertType::HighResponseTime), ("error_rate", AlertType::HighErrorRate)];
    let alerts = kinds.iter().filter_map(|(word, kind)| Some((*word, app.engine.live.find_alert(&component, *kind)?)));
    // Of two that are equally bad the one about errors.
    let alert = alerts.max_by_key(|(_, alert)| alert.severity);
    let window = app.engine.config().alert.error_rate_window;
    let recent = watched.lock().history.since(app.engine.clock.now(), window);
    Ok(Json(json!({
        "service_name": service.name,
        "threshold_exceeded": alert.is_some(),
        "error_count": (100.0 * recent.error_rate()).round() as u64,
        "threshold_limit": round2(100.0 * service.limits.error_rate_critical),
        "alert_sent": alert.as_ref().is_some_and(|(_, alert)| alert.told == Told::Yes),
        "alert_type": alert.as_ref().map(|(word, _)| *word),
        "current_value": alert.as_ref().and_then(|(_, alert)| alert.current_value).map(round6),
        "threshold_value": alert.as_ref().and_then(|(_, alert)| alert.threshold).map(round6),
    })))
}

/// `GET /services/status/summary`: active endpoints by their latest status, each counted once.
#[utoipa::path(get, path = "/services/status/summary", operation_id = "getStatusSummary",
    responses((status = 200, body = StatusCounted)))]
pub(super) async fn summary(State(app): State<ApiState>) -> Json<Value> {
    app.engine.windows_in_force();
    let (mut up, mut down, mut degraded, mut maintenance, mut unknown) = (0, 0, 0, 0, 0);
    for watched in &app.engine.live.roster().watched {
        if !watched.service().active {
            continue;
        }
        let inner = watched.lock();
        let count = match inner.state.status {
            _ if inner.in_maintenance => &mut maintenance,
            Status::Healthy => &mut up,
            Status::Degraded => &mut degraded,
            Status::Unhealthy => &mut down,
            Status::Unknown => &mut unknown,
        };
        *count += 1;
    }
    let total: usize = up + down + degraded + maintenance + unknown;
    Json(json!({
        "up": up, "down": down, "degraded": degraded, "maintenance": maintenance, "unknown": unknown, "total": total,
    }))
}

/// Checks that 001 looks at: CONTRACT.md 7.4.
const LOOKED_AT: usize = 3;

/// `GET /api/v1/services/status`: one boolean a service, for source 001.
#[utoipa::path(get, path = "/api/v1/services/status", operation_id = "listBooleans",
    responses((status = 200, body = Booleans)))]
pub(super) async fn booleans(State(app): State<ApiState>) -> Json<Value> {
    let roster = app.engine.live.roster();
    let mut flat = Map::with_capacity(roster.watched.len());
    for watched in &roster.watched {
        let service = watched.service();
        let inner = watched.lock();
        let by_code = matches!(service.probe, crate::domain::probe::Probe::Http(_));
        let passed = |check: &crate::domain::check::Check| {
            if by_code { check.http_status == 200 && !check.redirected } else { check.status == Status::Healthy }
        };
        let newest: Vec<bool> = inner.history.newest().take(LOOKED_AT).map(|check| passed(&check)).collect();
        let well = service.active && newest.len() == LOOKED_AT && newest.iter().all(|passed| *passed);
        flat.insert(service.name.to_string(), Value::Bool(well));
    }
    Json(Value::Object(flat))
}
