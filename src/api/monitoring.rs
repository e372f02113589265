//! Stopping all checking for a while, and starting it again (CONTRACT.md 9.4).

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use super::bodies::Done;
use super::bodies::settings::MonitoringBody;
use super::error::ApiError;
use super::input::nothing;

/// `GET /monitoring/status`
#[utoipa::path(get, path = "/monitoring/status", operation_id = "getMonitoring",
    responses((status = 200, body = MonitoringBody)))]
pub(super) async fn status(State(app): State<ApiState>) -> Json<Value> {
    Json(json!({"monitoring_active": app.engine.is_monitoring()}))
}

/// `POST /monitoring/start`
#[utoipa::path(post, path = "/monitoring/start", operation_id = "startMonitoring",
    responses((status = 200, body = Done)))]
pub(super) async fn start(State(app): State<ApiState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    switch(&app, &body, true, ["Monitoring started", "Monitoring already active"])
}

/// `POST /monitoring/stop`: no checks and no alerts until it is started again, or the service is.
#[utoipa::path(post, path = "/monitoring/stop", operation_id = "stopMonitoring",
    responses((status = 200, body = Done)))]
pub(super) async fn stop(State(app): State<ApiState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    switch(&app, &body, false, ["Monitoring stopped", "Monitoring already stopped"])
}

fn switch(app: &ApiState, body: &Bytes, on: bool, [done, already]: [&str; 2]) -> Result<Json<Value>, ApiError> {
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    nothing(body)?;
    let was = app.engine.monitor(on);
    Ok(Json(json!({"message": if was == on { already } else { done }})))
}
