//! Documents that Elasticsearch would not have: what they are, why, and how they are sent again.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::bodies::Paging;
use super::bodies::alerts::{RefusedDocuments, Replay, Replayed};
use super::document::Tagged;
use super::endpoints::unreadable;
use super::error::ApiError;
use super::input::Asked;
use super::lists;
use super::notifications::ids;
use crate::domain::time::Stamp;
use crate::engine::export::DeadLetter;

/// `GET /exports/dead-letters`: documents that Elasticsearch refused, oldest first.
#[utoipa::path(get, path = "/exports/dead-letters", operation_id = "listRefusedDocuments",
    params(Paging), responses((status = 200, body = RefusedDocuments), Tagged))]
pub(super) async fn dead_letters(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (skip, limit) = asked.page()?;
    let letters = app.engine.refused_documents().await.map_err(unreadable)?;
    let items: Vec<Value> = letters.iter().skip(skip).take(limit).map(letter).collect();
    lists::by_content(&headers, &json!({"items": items, "total": letters.len()}))
}

fn letter(letter: &DeadLetter) -> Value {
    let refusal = &letter.refusal;
    let document = refusal.document.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    json!({
        "id": letter.id, "index": refusal.index, "refused_at": Stamp(letter.at), "status": refusal.status,
        "error": refusal.error, "document": document,
    })
}

/// `POST /exports/dead-letters/replay`: sends them again. The body is empty for all, or `{"ids": [...]}`.
#[utoipa::path(post, path = "/exports/dead-letters/replay", operation_id = "replayRefusedDocuments",
    request_body(content = Option<Replay>), responses((status = 200, body = Replayed)))]
pub(super) async fn replay(State(app): State<ApiState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let ids = ids(&body)?;
    let count = app.engine.export_again(ids.as_deref()).await.map_err(unreadable)?;
    Ok(Json(json!({"replayed": count})))
}
