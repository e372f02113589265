//! Maintenance windows over the API (CONTRACT.md 9.8): list, make, change, end early, take away.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ApiState;
use super::bodies::Paging;
use super::bodies::windows::{WindowBody, WindowChange, WindowFields, WindowPage, WindowsQuery};
use super::document::{Tagged, Versioned};
use super::error::ApiError;
use super::health::named;
use super::input::{Asked, if_match, nothing, object, refused};
use super::lists;
use crate::domain::maintenance::{MaintenanceWindow, WindowSource, spec};
use crate::domain::observation::clean;
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;
use crate::engine::maintenance::Unchanged;

/// Most windows at once: our choice; each is looked at when one begins or ends.
const MOST_WINDOWS: usize = 10_000;

type Named = Result<Path<String>, PathRejection>;

/// `GET /maintenance/`: by start.
#[utoipa::path(get, path = "/maintenance", operation_id = "listWindows",
    params(WindowsQuery, Paging), responses((status = 200, body = WindowPage), Tagged))]
pub(super) async fn list(State(app): State<ApiState>, asked: Asked, headers: HeaderMap) -> Result<Response, ApiError> {
    let past = asked.boolean("include_past")?.unwrap_or(false);
    let future = asked.boolean("include_future")?.unwrap_or(true);
    let now = app.engine.clock.now();
    let windows = app.engine.windows.shown();
    let wanted = windows.iter().filter(|window| (past || window.end >= now) && (future || window.start <= now));
    paged(&app, &headers, wanted, &asked)
}

/// `GET /maintenance/active`: those in force now.
#[utoipa::path(get, path = "/maintenance/active", operation_id = "listActiveWindows",
    params(Paging), responses((status = 200, body = WindowPage), Tagged))]
pub(super) async fn active(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let in_force = app.engine.windows_in_force();
    paged(&app, &headers, in_force.windows.iter(), &asked)
}

fn paged<'a>(
    app: &ApiState,
    headers: &HeaderMap,
    windows: impl Iterator<Item = &'a Arc<MaintenanceWindow>>,
    asked: &Asked,
) -> Result<Response, ApiError> {
    let (skip, limit) = asked.page()?;
    let windows: Vec<&Arc<MaintenanceWindow>> = windows.collect();
    let items: Vec<Value> = windows.iter().skip(skip).take(limit).map(|window| shown(app, window)).collect();
    lists::by_content(headers, &json!({"items": items, "total": windows.len()}))
}

fn not_found(id: &str) -> ApiError {
    ApiError::NotFound(format!("Maintenance window with ID {} not found", clean(id)))
}

fn find(app: &ApiState, id: &str) -> Result<Arc<MaintenanceWindow>, ApiError> {
    let found = id.parse::<Uuid>().ok().and_then(|id| app.engine.windows.find(id));
    found.ok_or_else(|| not_found(id))
}

/// `GET /maintenance/{id}`
#[utoipa::path(get, path = "/maintenance/{id}", operation_id = "getWindow",
    responses(
        (status = 200, body = WindowBody),
        (status = 404, description = "Maintenance window with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found"),
        Tagged,
    ))]
pub(super) async fn show(State(app): State<ApiState>, id: Named) -> Result<Response, ApiError> {
    let window = find(&app, &named(id))?;
    Ok(tagged(&app, &window, StatusCode::OK))
}

/// `POST /maintenance/`: a new window, in force at once if it has begun.
#[utoipa::path(post, path = "/maintenance", operation_id = "createWindow",
    request_body(content = WindowFields),
responses(
        (status = 201, body = WindowBody),
        (status = 409, description = "There are as many windows as may be: 10000"),
    ))]
pub(super) async fn create(State(app): State<ApiState>, body: Bytes) -> Result<Response, ApiError> {
    if app.engine.windows.shown().len() >= MOST_WINDOWS {
        return Err(ApiError::Conflict(format!("There are as many windows as may be: {MOST_WINDOWS}")));
    }
    let window = put(&app, &body, None).await?;
    // Nothing was read, so nothing was stale.
    window.map(|window| tagged(&app, &window, StatusCode::CREATED)).ok_or(ApiError::PreconditionFailed)
}

/// `PUT /maintenance/{id}`: changes what is sent; an `end_time` of now ends it early.
#[utoipa::path(put, path = "/maintenance/{id}", operation_id = "changeWindow",
    request_body(content = WindowChange),
responses(
        (status = 200, body = WindowBody),
        (status = 404, description = "Maintenance window with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found"),
        (status = 409, description = "Maintenance window 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 is defined in the services file; change it there"),
        Versioned,
    ))]
pub(super) async fn update(
    State(app): State<ApiState>,
    id: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let id = named(id);
    loop {
        // Changed by somebody else in the meantime: as `If-Match` says, refused, or changed as it is now.
        let read = changeable(&app, &id, &headers)?;
        if let Some(window) = put(&app, &body, Some(&read)).await? {
            return Ok(tagged(&app, &window, StatusCode::OK));
        }
    }
}

/// `DELETE /maintenance/{id}`
#[utoipa::path(delete, path = "/maintenance/{id}", operation_id = "removeWindow",
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "Maintenance window with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found"),
        (status = 409, description = "Maintenance window 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 is defined in the services file; change it there"),
        Versioned,
    ))]
pub(super) async fn remove(
    State(app): State<ApiState>,
    id: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    nothing(&body)?;
    let id = named(id);
    loop {
        let read = changeable(&app, &id, &headers)?;
        // A task of its own: a client that goes away must not leave a change half done.
        let engine = app.engine.clone();
        let done = tokio::spawn(async move { engine.remove_window(&read).await }).await;
        if settled(done)?.is_some() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

fn changeable(app: &ApiState, id: &str, headers: &HeaderMap) -> Result<Arc<MaintenanceWindow>, ApiError> {
    let window = find(app, id)?;
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    if window.source == WindowSource::File {
        let text = format!("Maintenance window {} is defined in the services file; change it there", window.id);
        return Err(ApiError::Conflict(text));
    }
    let version = window.updated_at.timestamp_millis().cast_unsigned();
    if if_match(headers)?.is_some_and(|read| read != version) {
        return Err(ApiError::PreconditionFailed);
    }
    Ok(window)
}

/// What became of a change that was made in a task of its own; `None`: it is not as it was read.
fn settled<T>(done: Result<Result<T, Unchanged>, tokio::task::JoinError>) -> Result<Option<T>, ApiError> {
    match done {
        Ok(Ok(done)) => Ok(Some(done)),
        Ok(Err(Unchanged::Stale)) => Ok(None),
        Ok(Err(Unchanged::NotDurable)) | Err(_) => {
            Err(ApiError::Unavailable("Records are not writable; nothing was changed"))
        }
    }
}

async fn put(
    app: &ApiState,
    body: &Bytes,
    base: Option<&MaintenanceWindow>,
) -> Result<Option<Arc<MaintenanceWindow>>, ApiError> {
    let sent = object(body)?;
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    let known = |name: &ServiceName| app.engine.live.find(name).map(|watched| watched.service().name.clone());
    let now = app.engine.clock.now();
    let window =
        spec::window(&sent, base, WindowSource::Api, known, now).map_err(|problems| refused(problems, &sent))?;
    let (engine, read) = (app.engine.clone(), base.cloned());
    settled(tokio::spawn(async move { engine.put_window(window, read.as_ref()).await }).await)
}

fn tagged(app: &ApiState, window: &MaintenanceWindow, code: StatusCode) -> Response {
    let mut response = (code, Json(shown(app, window))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", window.updated_at.timestamp_millis())) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn shown(app: &ApiState, window: &MaintenanceWindow) -> Value {
    let now = app.engine.clock.now();
    let names: Vec<&str> = window.scope.services.iter().map(ServiceName::as_str).collect();
    let endpoints: Vec<Value> = window
        .scope
        .services
        .iter()
        .filter_map(|name| app.engine.live.find(name))
        .map(|watched| {
            let service = watched.service();
            json!({"id": service.name, "name": service.display_name})
        })
        .collect();
    json!({
        "id": window.id,
        "name": window.name,
        "description": window.description,
        "start_time": Stamp(window.start),
        "end_time": Stamp(window.end),
        "created_by": window.created_by,
        "created_at": Stamp(window.created_at),
        "updated_at": Stamp(window.updated_at),
        "is_active": window.is_in_force(now),
        "endpoint_ids": names,
        "affected_services": names.join(","),
        "endpoints": endpoints,
        "tags": window.scope.tags,
        "categories": window.scope.categories,
        "recurrence": window.recurrence,
        "next_start": window.next_start(now).map(Stamp),
        "source": window.source,
    })
}
