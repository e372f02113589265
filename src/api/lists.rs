//! Answers over many services: tagged, kept ready, and shared between callers (DESIGN.md section 5). Lists of a large
//! fleet may be half a second old; those of a small one never are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Query};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;

use super::ApiState;
use super::error::{ApiError, Invalid};
use super::input::whole;

/// From this many services on a list may be shared although something has changed: our choice.
const LARGE_FLEET: usize = 500;
/// How old a shared list may be: our choice.
const FRESHNESS: Duration = Duration::from_millis(500);

/// The lists kept ready, by name.
#[derive(Debug, Default)]
pub struct Lists(Mutex<HashMap<&'static str, Arc<Mutex<Option<Ready>>>>>);

#[derive(Debug, Clone)]
struct Ready {
    generation: u64,
    made: Instant,
    body: Bytes,
}

/// The page of a list that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub skip: usize,
    pub limit: usize,
}

impl Page {
    pub const ALL: Self = Self { skip: 0, limit: usize::MAX };
}

/// CONTRACT.md section 1.
const MOST: usize = 1000;

impl FromRequestParts<ApiState> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(|_| {
            ApiError::from(Invalid {
                place: "query",
                field: "query".to_owned(),
                rule: "is not readable".to_owned(),
                kind: "value_error",
                input: None,
            })
        })?;
        let mut page = Self::ALL;
        for (field, text) in pairs {
            let (slot, least, most) = match field.as_str() {
                "skip" => (&mut page.skip, 0, usize::MAX),
                "limit" => (&mut page.limit, 1, MOST),
                _ => continue,
            };
            if text.is_empty() {
                continue;
            }
            let refuse = |kind, rule: String| {
                ApiError::from(Invalid {
                    place: "query",
                    field: field.clone(),
                    rule,
                    kind,
                    input: Some(crate::domain::observation::clean(&text).into()),
                })
            };
            let number = whole(&text).ok_or_else(|| refuse("int_parsing", "must be a whole number".to_owned()))?;
            *slot = match usize::try_from(number.min(i128::from(u64::MAX))) {
                Ok(number) if number < least => {
                    return Err(refuse("greater_than_equal", format!("must be at least {least}")));
                }
                Ok(number) if number > most => {
                    return Err(refuse("less_than_equal", format!("must be at most {most}")));
                }
                Ok(number) => number,
                Err(_) => return Err(refuse("greater_than_equal", format!("must be at least {least}"))),
            };
        }
        Ok(page)
    }
}

/// The tag of everything as it is now.
fn tag(state: &ApiState, generation: u64) -> String {
    format!("W/\"{}-{generation}\"", state.engine.config().instance)
}

pub(super) fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let opaque = tag.trim_start_matches("W/");
    given
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == opaque)
}

fn tagged(tag: &str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    response
}

pub(super) fn not_modified(tag: &str) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, ApiError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        ApiError::Internal("Internal server error")
    })
}

/// Answers with `make`, or 304 when the caller has it already. `generation` rises with what is shown.
pub(super) fn answer<T: Serialize>(
    state: &ApiState,
    headers: &HeaderMap,
    generation: u64,
    make: impl FnOnce() -> T,
) -> Result<Response, ApiError> {
    let tag = tag(state, generation);
    if matches(headers, &tag) {
        return Ok(not_modified(&tag));
    }
    Ok(tagged(&tag, json(&make())?))
}

/// Answers with `make` under a tag of its own, or 304 when the caller has it already.
pub(super) fn answer_as<T: Serialize>(
    headers: &HeaderMap,
    tag: &str,
    make: impl FnOnce() -> T,
) -> Result<Response, ApiError> {
    if matches(headers, tag) {
        return Ok(not_modified(tag));
    }
    Ok(tagged(tag, json(&make())?))
}

/// Answers with `value` under a tag made of what it says, or 304 when the caller has it already.
pub(super) fn by_content<T: Serialize>(headers: &HeaderMap, value: &T) -> Result<Response, ApiError> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let body = json(value)?;
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = format!("W/\"{:x}\"", hasher.finish());
    Ok(if matches(headers, &tag) { not_modified(&tag) } else { tagged(&tag, body) })
}

/// Answers with `value` under its tag, or 304 when the caller has it already.
pub(super) fn under<T: Serialize>(headers: &HeaderMap, tag: &str, value: &T) -> Result<Response, ApiError> {
    if matches(headers, tag) { Ok(not_modified(tag)) } else { Ok(tagged(tag, json(value)?)) }
}

/// Answers with a list over all services, made once for everyone who asks at the same time, off the async threads.
pub(super) async fn shared<T: Serialize>(
    state: &ApiState,
    headers: &HeaderMap,
    name: &'static str,
    make: impl FnOnce(&ApiState) -> T + Send + 'static,
) -> Result<Response, ApiError> {
    // What is in maintenance by now moves the generation.
    state.engine.windows_in_force();
    let slot = state.lists.0.lock().await.entry(name).or_default().clone();
    let mut ready = slot.lock().await;
    let generation = state.engine.live.generation();
    let large = state.engine.live.counts().total() > LARGE_FLEET;
    let usable = |kept: &Ready| kept.generation == generation || (large && kept.made.elapsed() < FRESHNESS);
    let current = match ready.clone().filter(usable) {
        Some(kept) => kept,
        None => {
            let for_task = state.clone();
            let made = tokio::task::spawn_blocking(move || json(&make(&for_task))).await;
            let body = made.map_err(|_| ApiError::Internal("Internal server error"))??;
            let made = Ready { generation, made: Instant::now(), body };
            *ready = Some(made.clone());
            made
        }
    };
    drop(ready);
    let tag = tag(state, current.generation);
    if matches(headers, &tag) {
        return Ok(not_modified(&tag));
    }
    Ok(tagged(&tag, current.body))
}
