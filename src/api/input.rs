//! What clients send: bodies and queries, read strictly. Whatever is wrong is told by place, field and rule.

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Query};
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::ApiState;
use super::error::{ApiError, Invalid};
use crate::domain::maintenance::spec::instant;
use crate::domain::observation::clean;
use crate::domain::spec::{MOST_TOLD, Problem};

/// The object in a request's body.
pub(super) fn object(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body).map_err(|_| ApiError::Malformed)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::from(Invalid {
            place: "body",
            field: "body".to_owned(),
            rule: "must be a JSON object".to_owned(),
            kind: "dict_type",
            input: None,
        })),
    }
}

/// Whether a body says nothing: there is none, or it is `null`.
pub(super) fn is_nothing(body: &Bytes) -> bool {
    matches!(body.trim_ascii(), b"" | b"null")
}

/// Nothing may be sent with this request.
pub(super) fn nothing(body: &Bytes) -> Result<(), ApiError> {
    if is_nothing(body) {
        return Ok(());
    }
    let fields = object(body)?;
    match fields.keys().next() {
        None => Ok(()),
        Some(field) => Err(unknown_field(field)),
    }
}

pub(super) fn unknown_field(field: &str) -> ApiError {
    ApiError::from(Invalid {
        place: "body",
        field: clean(field),
        rule: "is not a field of this request".to_owned(),
        kind: "extra_forbidden",
        input: None,
    })
}

/// Fields whose value is never shown: they may hold secrets.
const HIDDEN: [&str; 8] = ["headers", "body", "redis", "tcp", "udp", "url", "health_check_url", "health_endpoint"];

/// Problems with a body, each with what was sent where that may be shown.
pub(super) fn refused(problems: Vec<Problem>, sent: &Map<String, Value>) -> ApiError {
    let one = |problem: Problem| {
        let top = problem.field.split('.').next().unwrap_or_default();
        let mut parts = problem.field.split('.');
        let value = parts.next().and_then(|part| sent.get(part));
        let value = parts.try_fold(value, |at, part| Some(at?.get(part))).flatten();
        let may_show = !HIDDEN.contains(&top) || (top.contains("url") && value.is_some_and(without_login));
        let kind = match problem.message.as_str() {
            "is required" => "missing",
            message if message.starts_with("is not a field") => "extra_forbidden",
            _ => "value_error",
        };
        Invalid {
            place: "body",
            field: problem.field,
            rule: problem.message,
            kind,
            input: value.filter(|_| may_show).map(short),
        }
    };
    ApiError::Invalid(problems.into_iter().take(MOST_TOLD).map(one).collect())
}

fn without_login(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.contains('@'))
}

/// A value that is not too long to be echoed.
fn short(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(clean(text)),
        Value::Array(_) | Value::Object(_) => {
            let text = value.to_string();
            if text.len() <= 1024 { value.clone() } else { Value::from(clean(&text)) }
        }
        plain => plain.clone(),
    }
}

/// The version a client has read, for `If-Match`; `None`: any will do.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.trim_start_matches("W/").trim_matches('"');
    let version = tag.split('.').next().and_then(|version| version.parse().ok());
    // A tag that is none of ours names no version we know.
    version.map(Some).ok_or(ApiError::PreconditionFailed)
}

/// The parameters of a query.
pub(super) struct Asked(Vec<(String, String)>);

impl FromRequestParts<ApiState> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = pairs.map_err(|_| refuse("query", "is not readable".to_owned(), "value_error", ""))?;
        Ok(Self(pairs))
    }
}

fn refuse(field: &str, rule: String, kind: &'static str, given: &str) -> ApiError {
    let input = (!given.is_empty()).then(|| Value::from(clean(given)));
    ApiError::from(Invalid { place: "query", field: field.to_owned(), rule, kind, input })
}

/// The last place in a list that anything could have: what the records can count to.
const LAST: i128 = i64::MAX as i128;

/// A whole number; one with more digits than can be counted is the largest there is.
pub(super) fn whole(text: &str) -> Option<i128> {
    let endless = text.len() > 38 && text.bytes().all(|byte| byte.is_ascii_digit());
    if endless { Some(i128::MAX) } else { text.parse().ok() }
}

impl Asked {
    /// The value of a parameter; an empty one is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub fn instant(&self, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // A plus sign that was not encoded arrives as a space.
        let at = instant(text).or_else(|| instant(&text.replace(' ', "+")));
        let rule = "must be a time such as 2026-01-31T10:30:00Z".to_owned();
        at.map(Some).ok_or_else(|| refuse(name, rule, "datetime_parsing", text))
    }

    /// `start_time` and `end_time`; what is left out is as given.
    pub fn range(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<(DateTime<Utc>, DateTime<Utc>), ApiError> {
        let end = self.instant("end_time")?;
        let start = self.instant("start_time")?;
        let (from, to) = (start.unwrap_or_else(|| end.map_or(from, |end| end - (to - from))), end.unwrap_or(to));
        self.in_order(Some(from), Some(to))?;
        Ok((from, to))
    }

    /// `start_time` must not be after `end_time`.
    pub fn in_order(&self, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Result<(), ApiError> {
        match (from, to) {
            (Some(from), Some(to)) if from > to => {
                let given = self.text("start_time").unwrap_or_default();
                Err(refuse("start_time", "must not be after end_time".to_owned(), "value_error", given))
            }
            _ => Ok(()),
        }
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Some(true)),
            "false" | "0" | "no" | "off" => Ok(Some(false)),
            _ => Err(refuse(name, "must be true or false".to_owned(), "bool_parsing", text)),
        }
    }

    /// How many items are to be left out; beyond the end of every list there is nothing, however far.
    pub fn skip(&self) -> Result<Option<usize>, ApiError> {
        self.number("skip", 0, usize::MAX)
    }

    pub fn number(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match whole(text).map(|number| if most == usize::MAX { number.min(LAST) } else { number }) {
            None => Err(refuse(name, "must be a whole number".to_owned(), "int_parsing", text)),
            Some(number) if number < least as i128 => {
                Err(refuse(name, format!("must be at least {least}"), "greater_than_equal", text))
            }
            Some(number) if number > most as i128 => {
                Err(refuse(name, format!("must be at most {most}"), "less_than_equal", text))
            }
            Some(number) => Ok(usize::try_from(number).ok()),
        }
    }

    /// `skip` and `limit` of CONTRACT.md section 1.
    pub fn page(&self) -> Result<(usize, usize), ApiError> {
        let skip = self.skip()?.unwrap_or(0);
        Ok((skip, self.number("limit", 1, 1000)?.unwrap_or(100)))
    }

    /// One of some words, in any case.
    pub fn choice<T>(&self, name: &str, words: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| refuse(name, format!("must be one of {words}"), "enum", text))
    }

    /// A comma list of `what`; none and an empty one ask for nothing in particular.
    pub fn words<T>(
        &self,
        name: &str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let read = words.map(|word| {
            let rule = format!("must be a comma list of {what}; {:?} is none", clean(word));
            parse(word).ok_or_else(|| refuse(name, rule, "enum", text))
        });
        let read: Vec<T> = read.collect::<Result<_, _>>()?;
        Ok((!read.is_empty()).then_some(read))
    }
}
