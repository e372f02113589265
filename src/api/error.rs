//! What goes wrong, as the caller sees it (CONTRACT.md section 3): a status, a stable code, a safe sentence. The log gets
//! the cause.

use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::domain::time::Stamp;

/// Pause a client is asked for when we have no better number: our choice.
const SOON: Duration = Duration::from_secs(1);

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Invalid {
    /// `query`, `path` or `body`.
    pub place: &'static str,
    pub field: String,
    /// A sentence without a subject.
    pub rule: String,
    /// The rule's name, in the words clients of 002 to 004 know.
    pub kind: &'static str,
    /// What was given, where it may be shown.
    pub input: Option<Value>,
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(vec![invalid])
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    Unauthenticated(&'static str),
    #[error("Not enough permissions")]
    Forbidden,
    #[error("Too many wrong keys from this address")]
    Guessing { retry_after: Duration },
    #[error("Request body is not JSON, or nested too deep")]
    Malformed,
    #[error("Not Found")]
    UnknownPath,
    #[error("Method Not Allowed")]
    UnknownMethod,
    #[error("{0}")]
    NotFound(String),
    #[error("Request not complete in time")]
    RequestTimeout,
    #[error("{0}")]
    TooLarge(&'static str),
    #[error("URI over 8 KiB")]
    UriTooLong,
    #[error("Headers over 32 KiB or 100")]
    HeadersTooLarge,
    #[error("{0}")]
    UnsupportedMedia(&'static str),
    #[error("{}", .0.iter().map(|one| format!("{}: {}", one.field, one.rule)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Invalid>),
    #[error("{0}")]
    Conflict(String),
    #[error("The record has changed since it was read")]
    PreconditionFailed,
    #[error("This service was checked by hand less than a second ago")]
    TooSoon { retry_after: Duration },
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("{0}")]
    Internal(&'static str),
}

impl ApiError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Guessing { .. } | Self::TooSoon { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::UnknownPath | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::UnknownMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedMedia(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Guessing { .. } | Self::TooSoon { .. } => "too_many_requests",
            Self::Conflict(_) => "conflict",
            Self::PreconditionFailed => "precondition_failed",
            Self::Malformed => "malformed",
            Self::UnknownPath | Self::NotFound(_) => "not_found",
            Self::UnknownMethod => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::TooLarge(_) | Self::UriTooLong | Self::HeadersTooLarge => "too_large",
            Self::UnsupportedMedia(_) => "unsupported_media_type",
            Self::Invalid(_) => "invalid",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// The body, once the request's id and the time are known.
    pub(super) fn body(&self, instance: &str, now: DateTime<Utc>) -> Value {
        let message = self.to_string();
        let detail = match self {
            Self::Invalid(all) => {
                let one = |invalid: &Invalid| {
                    let place = std::iter::once(invalid.place).chain(invalid.field.split('.'));
                    let place: Vec<&str> = place.collect();
                    let mut item = json!({"type": invalid.kind, "loc": place, "msg": invalid.rule});
                    if let (Some(input), Some(item)) = (&invalid.input, item.as_object_mut()) {
                        item.insert("input".to_owned(), input.clone());
                    }
                    item
                };
                all.iter().map(one).collect()
            }
            _ => json!(message),
        };
        json!({
            "detail": detail, "success": false, "message": message, "error": self.code(), "instance": instance,
            "timestamp": Stamp(now),
        })
    }
}

impl IntoResponse for ApiError {
    /// The gate fills the body in: it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(Value::Null)).into_response();
        let wait = match self {
            Self::Guessing { retry_after } => Some(retry_after),
            Self::TooSoon { retry_after } => Some(retry_after.max(SOON)),
            Self::Unavailable(_) => Some(SOON),
            _ => None,
        };
        if let Some(wait) = wait {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        response.extensions_mut().insert(self);
        response
    }
}

pub(super) async fn unknown_path() -> ApiError {
    ApiError::UnknownPath
}

pub(super) async fn unknown_method() -> ApiError {
    ApiError::UnknownMethod
}
