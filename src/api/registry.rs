//! Registering, changing and removing services, on both paths and in both spellings (CONTRACT.md 5, 9.2 and 9.3).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::ApiState;
use super::bodies::services::{ChangedService, CriticalLimits, LimitsSet, ServiceFields};
use super::document::Versioned;
use super::error::ApiError;
use super::health::named;
use super::input::{if_match, nothing, object, refused, unknown_field};
use super::record::{record, tag};
use crate::domain::definitions::{Applied, Change, MOST_REGISTERED, Refused};
use crate::domain::observation::clean;
use crate::domain::registration::{Door, Given};
use crate::domain::service::{Service, ServiceName};
use crate::domain::spec::Problem;
use crate::domain::state::ServiceState;
use crate::domain::time::round6;
use crate::domain::window::History;
use crate::engine::live::Watched;
use crate::engine::registrar::Denied;

type Named = Result<Path<String>, PathRejection>;

/// `POST /services`: registers a new service, an endpoint of 003.
#[utoipa::path(post, path = "/services", operation_id = "registerService", request_body(content = ServiceFields),
    responses(
        (status = 201, description = "Registered", body = ChangedService),
        (status = 200, description = "Exactly what the services file says", body = ChangedService),
        (status = 409, description = "Service endpoint with ID foo already exists"),
    ))]
pub(super) async fn register(State(app): State<ApiState>, body: Bytes) -> Result<Response, ApiError> {
    registered(&app, Door::Services, &body).await
}

/// `POST /health/services`: registers or replaces a service of 002, whose clients register at each start.
#[utoipa::path(post, path = "/health/services", operation_id = "registerHealthService",
    request_body(content = ServiceFields),
    responses(
        (status = 201, description = "Registered", body = ChangedService),
        (status = 200, description = "Replaced, or registered already", body = ChangedService),
        (status = 409, description = "Service foo is defined in the services file; change it there"),
    ))]
pub(super) async fn register_health(State(app): State<ApiState>, body: Bytes) -> Result<Response, ApiError> {
    registered(&app, Door::Health, &body).await
}

async fn registered(app: &ApiState, door: Door, body: &Bytes) -> Result<Response, ApiError> {
    let sent = object(body)?;
    let given = Given::read(sent.clone()).map_err(|problems| refused(problems, &sent))?;
    let asked = given.id().and_then(Value::as_str).map(clean).unwrap_or_default();
    let applied = settle(app, Change::Register { given, door }, &asked, &sent, door).await?;
    Ok(match applied {
        Applied::Created(service) => shown(app, &service, StatusCode::CREATED, "registered successfully"),
        Applied::Replaced(service) => shown(app, &service, StatusCode::OK, "updated successfully"),
        Applied::Unchanged(service) => shown(app, &service, StatusCode::OK, "already registered"),
        Applied::Removed => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `PUT /services/{id}`: changes what is sent.
#[utoipa::path(put, path = "/services/{id}", operation_id = "changeService", request_body(content = ServiceFields),
    responses(
        (status = 200, body = ChangedService),
        (status = 404, description = "Service endpoint with ID foo not found"),
        (status = 409, description = "Service foo is defined in the services file; change it there"),
        Versioned,
    ))]
pub(super) async fn update(
    State(app): State<ApiState>,
    name: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    updated(&app, Door::Services, &named(name), &headers, &body).await
}

/// `PUT /health/services/{name}`: changes what is sent.
#[utoipa::path(put, path = "/health/services/{name}", operation_id = "changeHealthService", request_body(content = ServiceFields),
    responses(
        (status = 200, body = ChangedService),
        (status = 404, description = "Service foo not found"),
        (status = 409, description = "Service foo is defined in the services file; change it there"),
        Versioned,
    ))]
pub(super) async fn update_health(
    State(app): State<ApiState>,
    name: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    updated(&app, Door::Health, &named(name), &headers, &body).await
}

async fn updated(
    app: &ApiState,
    door: Door,
    name: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, ApiError> {
    let sent = object(body)?;
    let given = Given::read(sent.clone()).map_err(|problems| refused(problems, &sent))?;
    let change = Change::Update { name: known(name, door)?, given, if_match: if_match(headers)? };
    match settle(app, change, name, &sent, door).await? {
        Applied::Created(service) | Applied::Replaced(service) | Applied::Unchanged(service) => {
            Ok(shown(app, &service, StatusCode::OK, "updated successfully"))
        }
        Applied::Removed => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// `DELETE /services/{id}`: removes a service, its history and its outages.
#[utoipa::path(delete, path = "/services/{id}", operation_id = "removeService",
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "Service endpoint with ID foo not found"),
        (status = 409, description = "Service foo is still needed by bar"),
        Versioned,
    ))]
pub(super) async fn remove(
    State(app): State<ApiState>,
    name: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    removed(&app, Door::Services, &named(name), &headers, &body).await
}

/// `DELETE /health/services/{name}`: removes a service, its history and its outages.
#[utoipa::path(delete, path = "/health/services/{name}", operation_id = "removeHealthService",
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "Service foo not found"),
        (status = 409, description = "Service foo is still needed by bar"),
        Versioned,
    ))]
pub(super) async fn remove_health(
    State(app): State<ApiState>,
    name: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    removed(&app, Door::Health, &named(name), &headers, &body).await
}

async fn removed(
    app: &ApiState,
    door: Door,
    name: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, ApiError> {
    nothing(body)?;
    let change = Change::Remove { name: known(name, door)?, if_match: if_match(headers)? };
    settle(app, change, name, &Map::new(), door).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /services/{id}/alerts/thresholds`: the critical limits of a service, in the words of 002.
#[utoipa::path(post, path = "/services/{id}/alerts/thresholds", operation_id = "setCriticalLimits",
    request_body(content = CriticalLimits),
    responses(
        (status = 200, body = LimitsSet),
        (status = 404, description = "Service endpoint with ID foo not found"),
        (status = 409, description = "Service foo is defined in the services file; change it there"),
    ))]
pub(super) async fn thresholds(State(app): State<ApiState>, name: Named, body: Bytes) -> Result<Json<Value>, ApiError> {
    let name = named(name);
    let sent = object(&body)?;
    let id = known(&name, Door::Services)?;
    let watched = app.engine.live.find(&id).ok_or_else(|| not_found(&name, Door::Services))?;
    let limits = watched.service().limits;
    let mut table = Map::new();
    for (field, value) in &sent {
        // Its name in a definition, what one of 002's is there, and the warning limit it must be worse than.
        let (limit, factor, range, milder) = match field.as_str() {
            "response_time_ms" => ("response_time_critical_ms", 1.0, 1.0..=1e9, limits.latency.warning_ms as f64),
            "error_rate" => ("error_rate_critical", 1.0, f64::MIN_POSITIVE..=1.0, limits.error_rate_warning),
            "availability" => ("uptime_critical", 100.0, 0.0..=1.0, limits.uptime_warning),
            _ => return Err(unknown_field(field)),
        };
        let refuse = |rule: String| Problem { field: field.clone(), message: rule };
        let problem = match value.as_f64() {
            None if value.is_null() => None,
            Some(number) if range.contains(&number) => {
                let given = number * factor;
                let worse = if limit == "uptime_critical" { given < milder } else { given > milder };
                let side = if limit == "uptime_critical" { "below" } else { "above" };
                (!worse).then(|| refuse(format!("must be {side} the warning limit, {}", round6(milder / factor))))
            }
            _ => Some(refuse(format!("must be a number from {} to {}", round6(*range.start()), range.end()))),
        };
        if let Some(problem) = problem {
            return Err(refused(vec![problem], &sent));
        }
        let given = value.as_f64().map_or(Value::Null, |number| Value::from(round6(number * factor)));
        table.insert(limit.to_owned(), given);
    }
    let given = Map::from_iter([("thresholds".to_owned(), Value::Object(table))]);
    let given = Given::read(given).map_err(|problems| refused(problems, &sent))?;
    let change = Change::Update { name: id, given, if_match: None };
    match settle(&app, change, &name, &sent, Door::Services).await? {
        Applied::Created(service) | Applied::Replaced(service) | Applied::Unchanged(service) => Ok(Json(json!({
            "message": format!("Alert thresholds of '{}' updated", service.name),
            "service_name": service.name,
            "thresholds": {
                "response_time_ms": service.limits.latency.critical_ms,
                "error_rate": round6(service.limits.error_rate_critical),
                "availability": round6(service.limits.uptime_critical / 100.0),
            },
        }))),
        Applied::Removed => Err(not_found(&name, Door::Services)),
    }
}

fn known(name: &str, door: Door) -> Result<ServiceName, ApiError> {
    ServiceName::new(name).map_err(|_| not_found(name, door))
}

/// The sentence of the path for a service that is not there.
pub(super) fn not_found(name: &str, door: Door) -> ApiError {
    let name = clean(name);
    ApiError::NotFound(match door {
        Door::Services => format!("Service endpoint with ID {name} not found"),
        Door::Health => format!("Service {name} not found"),
    })
}

async fn settle(
    app: &ApiState,
    change: Change,
    asked: &str,
    sent: &Map<String, Value>,
    door: Door,
) -> Result<Applied, ApiError> {
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    app.engine.change_registry(change).await.map_err(|denied| match denied {
        Denied::Unavailable => ApiError::Unavailable("Records are not writable; nothing was changed"),
        Denied::Refused(Refused::Exists(_)) => {
            ApiError::Conflict(format!("Service endpoint with ID {asked} already exists"))
        }
        Denied::Refused(Refused::InFile(name)) => {
            ApiError::Conflict(format!("Service {name} is defined in the services file; change it there"))
        }
        Denied::Refused(Refused::Unknown(_)) => not_found(asked, door),
        Denied::Refused(Refused::NeededBy(name, dependents)) => {
            let names: Vec<&str> = dependents.iter().map(ServiceName::as_str).collect();
            ApiError::Conflict(format!("Service {name} is still needed by {}", names.join(", ")))
        }
        Denied::Refused(Refused::TooMany) => {
            ApiError::Conflict(format!("As many services are registered as may be: {MOST_REGISTERED}"))
        }
        Denied::Refused(Refused::Stale) => ApiError::PreconditionFailed,
        Denied::Refused(Refused::Invalid(problems)) => refused(problems, sent),
    })
}

/// The record after a change, with what has been done.
fn shown(app: &ApiState, service: &Arc<Service>, code: StatusCode, done: &str) -> Response {
    let name = &service.name;
    // One that was removed again in the meantime was there nevertheless.
    let watched = app.engine.live.find(name);
    let watched = watched.unwrap_or_else(|| Watched::new(service.clone(), ServiceState::default(), History::default()));
    let mut fields = record(app, &watched);
    fields.insert("message".to_owned(), Value::from(format!("Service '{name}' {done}")));
    fields.insert("service_name".to_owned(), Value::from(name.as_str()));
    let mut response = (code, Json(Value::Object(fields))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(&watched)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
