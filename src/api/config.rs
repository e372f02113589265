//! Settings over the API: showing them, changing them, who changed them, and the active avatar (CONTRACT.md 9.9). Which
//! settings there are and what they may be is the configuration's; here are the names that clients know them by.

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::ApiState;
use super::administer::{Caller, Denial, Standing, Wish, Wishes};
use super::bodies::Paging;
use super::bodies::settings::{AvatarBody, ConfigBody, ConfigChange, ConfigChanges, ReloadedBody};
use super::document::{Tagged, Versioned};
use super::error::{ApiError, Invalid};
use super::input::{Asked, nothing, object};
use super::lists;
use crate::domain::observation::clean;
use crate::domain::spec::MOST_TOLD;
use crate::store::records::FactKind;

/// A name of 002, the setting it means, and what one of its units is in the setting's.
struct Name {
    name: &'static str,
    section: &'static str,
    key: &'static str,
    factor: f64,
}

const fn name(name: &'static str, section: &'static str, key: &'static str, factor: f64) -> Name {
    Name { name, section, key, factor }
}

/// Shown on top, in this order.
const TOP: [Name; 17] = [
    name("service_name", "server", "service_name", 0.0),
    name("port", "server", "port", 0.0),
    name("host", "server", "host", 0.0),
    name("system_check_interval", "host", "system_check_interval", 0.0),
    name("service_check_interval", "checks", "default_check_interval_ms", 1000.0),
    name("metrics_retention_days", "retention", "metrics_retention_days", 0.0),
    name("default_timeout", "checks", "health_check_timeout_ms", 1000.0),
    name("max_concurrent_checks", "checks", "max_concurrent_checks", 0.0),
    name("retry_attempts", "checks", "service_check_retries", 0.0),
    name("enable_alerting", "alerts", "enable_alerting", 0.0),
    name("alert_email", "notify", "alert_email", 0.0),
    name("critical_cpu_threshold", "host", "critical_cpu_threshold", 0.0),
    name("critical_memory_threshold", "host", "critical_memory_threshold", 0.0),
    name("critical_disk_threshold", "host", "critical_disk_threshold", 0.0),
    name("metrics_storage_url", "records", "metrics_storage_url", 0.0),
    name("enable_metrics_persistence", "records", "enable_metrics_persistence", 0.0),
    name("active_avatar", "avatar", "active_avatar", 0.0),
];

/// Shown once they have been sent.
const FURTHER: [Name; 8] = [
    name("check_interval_seconds", "checks", "default_check_interval_ms", 1000.0),
    name("default_timeout_ms", "checks", "health_check_timeout_ms", 0.0),
    name("retention_days", "retention", "metrics_retention_days", 0.0),
    name("alert_threshold_cpu_percent", "host", "critical_cpu_threshold", 0.0),
    name("alert_threshold_memory_percent", "host", "critical_memory_threshold", 0.0),
    name("alert_threshold_disk_percent", "host", "critical_disk_threshold", 0.0),
    name("alert_threshold_error_rate", "checks", "error_rate_critical", 0.0),
    name("alert_threshold_response_time_ms", "checks", "response_time_critical", 0.0),
];

/// The further name of a log level: true is `debug`.
const DETAILED: &str = "enable_detailed_logging";

/// Longest value: our choice, a generous list of addresses.
const VALUE_CHARS: usize = 4096;

impl Name {
    /// Its present value, in its unit.
    fn shown(&self, standing: &Standing) -> Option<Value> {
        let value = &standing.find(self.section, self.key)?.value;
        if let Value::Array(items) = value {
            // 002 knows one text.
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            return Some(Value::from(items.join(",")));
        }
        if self.factor == 0.0 {
            return Some(value.clone());
        }
        let amount = value.as_f64()? / self.factor;
        // 002 writes intervals as whole numbers and timeouts as decimals.
        let whole = amount.fract() == 0.0 && self.name.contains("interval");
        Some(if whole { json!(amount as u64) } else { json!(amount) })
    }
}

/// The body of `GET /config`.
fn body(standing: &Standing) -> Value {
    let mut body = Map::new();
    for name in TOP.iter().chain(FURTHER.iter().filter(|name| standing.names.contains(name.name))) {
        body.extend(name.shown(standing).map(|value| (name.name.to_owned(), value)));
    }
    if standing.names.contains(DETAILED) {
        let level = standing.find("log", "log_level").and_then(|setting| setting.value.as_str());
        body.insert(DETAILED.to_owned(), json!(matches!(level, Some("debug" | "trace"))));
    }
    let mut settings = Map::new();
    for setting in &standing.settings {
        let section = settings.entry(&setting.section).or_insert_with(|| Value::Object(Map::new()));
        if let Some(section) = section.as_object_mut() {
            let shown = json!({
                "value": setting.value, "source": setting.source, "changeable": setting.changeable,
            });
            section.insert(setting.key.clone(), shown);
        }
    }
    body.insert("settings".to_owned(), Value::Object(settings));
    Value::Object(body)
}

/// `GET /config`
#[utoipa::path(get, path = "/config", operation_id = "getConfig", responses((status = 200, body = ConfigBody), Tagged))]
pub(super) async fn show(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let standing = app.admin.standing();
    lists::under(&headers, &standing.tag(), &body(&standing))
}

/// `PUT /config`: changes what is sent, all or none.
#[utoipa::path(put, path = "/config", operation_id = "changeConfig",
    request_body(content = ConfigChange), responses((status = 200, body = ConfigBody), Versioned))]
pub(super) async fn change(
    State(app): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    sent: Bytes,
) -> Result<Response, ApiError> {
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    let (wishes, names) = wishes(object(&sent)?)?;
    let wishes = Wishes { wishes, names, if_match: tags(&headers), caller };
    app.admin.change(wishes).await.map_err(|denial| match denial {
        Denial::Invalid(fields) => {
            let one = |(field, rule)| invalid(field, rule, "value_error");
            ApiError::Invalid(fields.into_iter().take(MOST_TOLD).map(one).collect())
        }
        Denial::Stale => ApiError::PreconditionFailed,
        Denial::Unavailable => ApiError::Unavailable("Records are not writable; nothing was changed"),
    })?;
    let standing = app.admin.standing();
    lists::under(&HeaderMap::new(), &standing.tag(), &body(&standing))
}

/// The tags of `If-Match`; `None`: any will do.
fn tags(headers: &HeaderMap) -> Option<Vec<String>> {
    let given: Vec<&str> = headers.get_all(IF_MATCH).iter().filter_map(|value| value.to_str().ok()).collect();
    let tags = || given.iter().flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    (headers.contains_key(IF_MATCH) && !tags().any(|tag| tag == "*")).then(|| tags().map(str::to_owned).collect())
}

fn invalid(field: String, rule: String, kind: &'static str) -> Invalid {
    // What was sent is not repeated: a mistyped name may hold anything.
    Invalid { place: "body", field, rule, kind, input: None }
}

/// The settings that a body wants changed, and the further names it used.
fn wishes(sent: Map<String, Value>) -> Result<(Vec<Wish>, BTreeSet<String>), ApiError> {
    let mut read = Read::default();
    for (field, value) in sent {
        match (field.as_str(), value) {
            ("settings", Value::Object(sections)) => {
                for (section, keys) in sections {
                    let Value::Object(keys) = keys else {
                        read.refuse(format!("settings.{}", clean(&section)), "must be an object of settings");
                        continue;
                    };
                    for (key, value) in keys {
                        read.wish(format!("settings.{}.{}", clean(&section), clean(&key)), &section, &key, &value, 0.0);
                    }
                }
            }
            ("settings", _) => read.refuse(field, "must be an object of sections"),
            (DETAILED, value) => {
                let level = match value {
                    Value::Bool(detailed) => Value::from(if detailed { "debug" } else { "info" }),
                    Value::Null => Value::Null,
                    _ => {
                        read.refuse(field, "must be true or false");
                        continue;
                    }
                };
                read.wish(field, "log", "log_level", &level, 0.0);
                read.names.insert(DETAILED.to_owned());
            }
            (_, value) => {
                let further = FURTHER.iter().find(|name| name.name == field);
                read.names.extend(further.map(|name| name.name.to_owned()));
                let Some(name) = TOP.iter().find(|name| name.name == field).or(further) else {
                    read.problems.push(invalid(clean(&field), "is not a setting".to_owned(), "extra_forbidden"));
                    continue;
                };
                if name.name == "service_check_interval" {
                    // What 002 means: every service without an interval of its own, registered ones included.
                    read.wish(field.clone(), "checks", "service_check_interval", &value, 0.0);
                }
                read.wish(field, name.section, name.key, &value, name.factor);
            }
        }
    }
    if read.problems.is_empty() { Ok((read.wishes, read.names)) } else { Err(ApiError::Invalid(read.told())) }
}

#[derive(Default)]
struct Read {
    wishes: Vec<Wish>,
    names: BTreeSet<String>,
    problems: Vec<Invalid>,
}

impl Read {
    fn refuse(&mut self, field: String, rule: &str) {
        self.problems.push(invalid(field, rule.to_owned(), "value_error"));
    }

    fn told(self) -> Vec<Invalid> {
        self.problems.into_iter().take(MOST_TOLD).collect()
    }

    fn wish(&mut self, field: String, section: &str, key: &str, value: &Value, factor: f64) {
        let text = match value {
            Value::Null => None,
            Value::Number(number) if factor != 0.0 => number.as_f64().map(|amount| (amount * factor).to_string()),
            // With a unit it says itself what it is; without one it is in the unit of the name.
            Value::String(text) => match text.trim().parse::<f64>() {
                Ok(amount) if factor != 0.0 => Some((amount * factor).to_string()),
                _ => Some(text.clone()),
            },
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Array(items) if items.iter().all(Value::is_string) => Some(value.to_string()),
            Value::Array(_) | Value::Object(_) => {
                return self.refuse(field, "must be a plain value, or a list of texts");
            }
        };
        if text.as_ref().is_some_and(|text| text.chars().count() > VALUE_CHARS || text.contains(char::is_control)) {
            return self
                .refuse(field, &format!("must be at most {VALUE_CHARS} characters, none of them a control one"));
        }
        self.wishes.push(Wish { field, section: section.to_owned(), key: key.to_owned(), text });
    }
}

/// `GET /config/changes`: who changed settings, newest first.
#[utoipa::path(get, path = "/config/changes", operation_id = "listConfigChanges",
    params(Paging), responses((status = 200, body = ConfigChanges)))]
pub(super) async fn changes(State(app): State<ApiState>, asked: Asked) -> Result<Json<Value>, ApiError> {
    let (skip, limit) = asked.page()?;
    let facts = app.engine.records.facts(FactKind::Change).await.map_err(|error| {
        tracing::error!(%error, "changes of settings cannot be read");
        ApiError::Unavailable("Records are not readable")
    })?;
    let total = facts.len();
    let read = |text: &String| serde_json::from_str::<Value>(text).ok();
    let page = facts.iter().rev().skip(skip).take(limit);
    let items: Vec<Value> = page.filter_map(|fact| fact.value.as_ref().and_then(read)).collect();
    Ok(Json(json!({"items": items, "total": total})))
}

/// `POST /config/reload`: reads the services file, and files and environment, now.
#[utoipa::path(post, path = "/config/reload", operation_id = "reloadConfig",
    responses((status = 200, body = ReloadedBody)))]
pub(super) async fn reload(State(app): State<ApiState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    nothing(&body)?;
    let reloaded =
        app.admin.reload().await.map_err(|problems| {
            ApiError::from(invalid("services_file".to_owned(), problems.join("; "), "value_error"))
        })?;
    let change = reloaded.roster;
    let message = format!(
        "Services reloaded: {} added, {} changed, {} removed",
        change.added.len(),
        change.changed.len(),
        change.removed.len()
    );
    Ok(Json(json!({
        "message": message, "added": change.added, "changed": change.changed, "removed": change.removed,
        "settings": reloaded.settings, "needs_restart": reloaded.ignored,
    })))
}

/// `GET /api/v1/data/avatars/active` of source 001.
#[utoipa::path(get, path = "/api/v1/data/avatars/active", operation_id = "getActiveAvatar",
    responses((status = 200, body = AvatarBody)))]
pub(super) async fn avatar(State(app): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let standing = app.admin.standing();
    let active = standing.find("avatar", "active_avatar").and_then(|setting| setting.value.as_str());
    match active.filter(|avatar| !avatar.is_empty()) {
        Some(avatar) => Ok(Json(json!({"data": avatar}))),
        None => Err(ApiError::Internal("Unable to fetch active avatar")),
    }
}
