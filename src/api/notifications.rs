//! Receivers of notifications: a message to see whether it arrives, and what was refused for too long.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::bodies::Paging;
use super::bodies::alerts::{DeadLetters, Replay, Replayed, TestSent};
use super::document::Tagged;
use super::endpoints::unreadable;
use super::error::{ApiError, Invalid};
use super::health::named;
use super::input::{Asked, nothing, object, unknown_field};
use super::lists;
use crate::domain::notification::Notification;
use crate::domain::observation::clean;
use crate::domain::time::{Stamp, round2};

/// `POST /notifications/test/{receiver}`: sends a message there now, and says what came of it.
#[utoipa::path(post, path = "/notifications/test/{receiver}", operation_id = "testReceiver",
    responses((status = 200, body = TestSent), (status = 404, description = "Receiver foo not found")))]
pub(super) async fn test(
    State(app): State<ApiState>,
    receiver: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    nothing(&body)?;
    let receiver = named(receiver);
    let (engine, name) = (app.engine.clone(), receiver.clone());
    let began = std::time::Instant::now();
    // A task of its own: a client that goes away must not leave half a message.
    let sent = tokio::spawn(async move { engine.test_receiver(&name).await }).await;
    let outcome = sent.map_err(|_| ApiError::Internal("Internal server error"))?;
    let outcome = outcome.ok_or_else(|| ApiError::NotFound(format!("Receiver {} not found", clean(&receiver))))?;
    Ok(Json(json!({
        "receiver": receiver,
        "delivered": outcome.is_ok(),
        "error": outcome.err().map(|error| error.to_string()),
        "execution_time": round2(began.elapsed().as_secs_f64()),
    })))
}

/// `GET /notifications/dead-letters`: what receivers refused for a day, oldest first.
#[utoipa::path(get, path = "/notifications/dead-letters", operation_id = "listDeadLetters",
    params(Paging), responses((status = 200, body = DeadLetters), Tagged))]
pub(super) async fn dead_letters(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (skip, limit) = asked.page()?;
    let (dead, total) = app.engine.records.dead_letters(skip, limit).await.map_err(unreadable)?;
    let items: Vec<Value> = dead.iter().map(letter).collect();
    lists::by_content(&headers, &json!({"items": items, "total": total}))
}

fn letter(notification: &Notification) -> Value {
    json!({
        "id": notification.id, "receiver": notification.channel, "kind": notification.notice.kind,
        "alerts": notification.about().collect::<Vec<_>>(), "owed_at": Stamp(notification.notice.at),
        "text": notification.text(),
    })
}

/// `POST /notifications/dead-letters/replay`: owes them again. The body is empty for all, or `{"ids": [...]}`.
#[utoipa::path(post, path = "/notifications/dead-letters/replay", operation_id = "replayDeadLetters",
    request_body(content = Option<Replay>), responses((status = 200, body = Replayed)))]
pub(super) async fn replay(State(app): State<ApiState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let ids = ids(&body)?;
    let engine = app.engine.clone();
    let replayed = tokio::spawn(async move { engine.replay_dead_letters(ids.as_deref()).await }).await;
    let unwritten = ApiError::Unavailable("Records are not writable; nothing was changed");
    match replayed {
        Ok(Ok(Some(count))) => Ok(Json(json!({"replayed": count}))),
        Ok(Err(error)) => Err(unreadable(error)),
        Ok(Ok(None)) | Err(_) => Err(unwritten),
    }
}

/// The dead letters that are meant; `None`: all of them.
pub(super) fn ids(body: &Bytes) -> Result<Option<Vec<String>>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut fields = object(body)?;
    let ids = fields.remove("ids");
    if let Some(field) = fields.keys().next() {
        return Err(unknown_field(field));
    }
    match ids.map(serde_json::from_value::<Option<Vec<String>>>) {
        None => Ok(None),
        Some(Ok(ids)) => Ok(ids),
        Some(Err(_)) => Err(ApiError::from(Invalid {
            place: "body",
            field: "ids".to_owned(),
            rule: "must be a list of ids of dead letters".to_owned(),
            kind: "list_type",
            input: None,
        })),
    }
}
