//! Alerts for people and pipelines (CONTRACT.md 9.6): lists, one with its deliveries, and what is done to them.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::bodies::alerts::{
    AcknowledgeAlert, ActiveAlerts, AlertBody, AlertHistory, AlertsOverview, AlertsQuery, Clamped, Cleared,
    NewestAlerts, ResolveAlert, Skip, ToldAlert,
};
use super::bodies::{Part, Range};
use super::document::Tagged;
use super::endpoints::unreadable;
use super::error::{ApiError, Invalid};
use super::health::named;
use super::input::{Asked, is_nothing, object, unknown_field, whole};
use super::lists;
use crate::domain::alert::{Acknowledgement, Alert, AlertRecord, AlertType, Component, Severity, Told};
use crate::domain::maintenance::spec::instant;
use crate::domain::notification::Delivery;
use crate::domain::observation::{clean, is_prose};
use crate::domain::time::Stamp;
use crate::engine::alerts::{Act, ActError};
use crate::store::records::AlertFilter;

/// Longest name and note of whoever acts: our choice, as with maintenance windows.
const NAME_CHARS: usize = 100;
const NOTE_CHARS: usize = 2000;
/// Most alerts in one page of the history: CONTRACT.md 9.6; 100 without a limit.
const HISTORY_MOST: usize = 500;
const HISTORY: usize = 100;
/// Resolved alerts in the view of source 002: CONTRACT.md 9.6.
const RESOLVED_SHOWN: usize = 100;

/// `GET /alerts`: the active alerts, by component for clients of 002 and as a list, and the last that were resolved.
#[utoipa::path(get, path = "/alerts", operation_id = "getAlerts",
    responses((status = 200, body = AlertsOverview), Tagged))]
pub(super) async fn overview(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let filter = AlertFilter { living: Some(false), ..AlertFilter::default() };
    let resolved = app.engine.records.alerts(filter, 0, RESOLVED_SHOWN).await.map_err(unreadable)?;
    let active = app.engine.live.alerts();
    let mut worst: BTreeMap<&str, Value> = BTreeMap::new();
    for alert in active.iter() {
        // Worst first: the first of a component is what its entry shows.
        worst.entry(alert.component.as_str()).or_insert_with(|| {
            json!({
                "alert_type": word_of_002(alert.kind), "current_value": alert.current_value,
                "threshold_value": alert.threshold, "alert_sent": alert.told == Told::Yes,
            })
        });
    }
    lists::by_content(
        &headers,
        &json!({
            "active_alerts": worst,
            "alert_history": resolved.alerts.iter().map(Alert::record).collect::<Vec<_>>(),
            "total_active_alerts": active.len(),
            "timestamp": Stamp(app.engine.clock.now()),
            "alerts": active.iter().map(|alert| alert.record()).collect::<Vec<_>>(),
            "count": active.len(),
        }),
    )
}

pub(super) fn word_of_002(kind: AlertType) -> &'static str {
    match kind {
        AlertType::HighErrorRate => "error_rate",
        AlertType::HighResponseTime => "response_time",
        other => other.as_str(),
    }
}

/// The active list, or a page of it.
#[derive(Serialize)]
struct Active<'a> {
    alerts: Vec<AlertRecord<'a>>,
    count: usize,
}

/// `GET /alerts/active`: the active alerts, worst first; all of them, or a page.
#[utoipa::path(get, path = "/alerts/active", operation_id = "listActiveAlerts",
    params(AlertsQuery, Range, Part), responses((status = 200, body = ActiveAlerts), Tagged))]
pub(super) async fn active(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let skip = asked.skip()?.unwrap_or(0);
    let limit = asked.number("limit", 1, 1000)?.unwrap_or(usize::MAX);
    let filter = filter(&app, &asked)?;
    let alerts = app.engine.live.alerts();
    let matching: Vec<&Alert> = alerts.iter().map(AsRef::as_ref).filter(|alert| takes(&filter, alert)).collect();
    let page = matching.iter().skip(skip).take(limit).map(|alert| alert.record()).collect();
    lists::by_content(&headers, &Active { alerts: page, count: matching.len() })
}

/// `GET /alerts/history`: the last alerts by first trigger, oldest first, with what receivers were told.
#[utoipa::path(get, path = "/alerts/history", operation_id = "listAlertHistory",
    params(AlertsQuery, Range, Skip, Clamped), responses((status = 200, body = AlertHistory), Tagged))]
pub(super) async fn history(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let limit = clamped(&asked)?;
    let skip = asked.skip()?.unwrap_or(0);
    let page = app.engine.records.alerts(filter(&app, &asked)?, skip, limit).await.map_err(unreadable)?;
    let mut alerts = shown(&app, &page.alerts).await?;
    alerts.reverse();
    lists::by_content(
        &headers,
        &json!({"count": alerts.len(), "alerts": alerts, "limit": limit, "skip": skip, "total": page.total}),
    )
}

/// `GET /api/health/alerts`: the last alerts, for clients of 004 that read newest first.
#[utoipa::path(get, path = "/api/health/alerts", operation_id = "listNewestAlerts",
    params(AlertsQuery, Range, Clamped), responses((status = 200, body = NewestAlerts), Tagged))]
pub(super) async fn newest(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let page = app.engine.records.alerts(filter(&app, &asked)?, 0, clamped(&asked)?).await.map_err(unreadable)?;
    let alerts: Vec<_> = page.alerts.iter().map(Alert::record).collect();
    lists::by_content(&headers, &json!({"total": page.total, "alerts": alerts}))
}

/// `limit`: any whole number, brought into range.
fn clamped(asked: &Asked) -> Result<usize, ApiError> {
    let Some(text) = asked.text("limit") else { return Ok(HISTORY) };
    let number = whole(text);
    let wrong = || Invalid {
        place: "query",
        field: "limit".to_owned(),
        rule: "must be a whole number".to_owned(),
        kind: "int_parsing",
        input: Some(Value::from(clean(text))),
    };
    let number = number.ok_or_else(wrong)?;
    Ok(usize::try_from(number.clamp(1, HISTORY_MOST as i128)).unwrap_or(HISTORY_MOST))
}

fn filter(app: &ApiState, asked: &Asked) -> Result<AlertFilter, ApiError> {
    let (from, to) = (asked.instant("start_time")?, asked.instant("end_time")?);
    asked.in_order(from, to)?;
    // Stored as registered, looked for ignoring case.
    let component = |text: &str| {
        let parsed = Component::parse(text)?;
        let known = parsed.service().and_then(|name| app.engine.live.find(name));
        Some(known.map_or(parsed, |watched| Component::Service(watched.service().name.clone())))
    };
    let either = asked.choice("component", "the known components and services", component)?;
    let words = "low, medium, high, critical";
    let severity = asked.choice("severity", words, |text| {
        Severity::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(text))
    })?;
    let kind = asked.choice("type", "the alert types", |text| {
        AlertType::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    })?;
    let living = asked.choice("status", "active, resolved", |text| match text.to_ascii_lowercase().as_str() {
        "active" => Some(true),
        "resolved" => Some(false),
        _ => None,
    })?;
    let service = asked.choice("service", "the services", component)?;
    Ok(AlertFilter { component: either.or(service), severity, kind, living, from, to })
}

/// The same rules for what is at hand.
fn takes(filter: &AlertFilter, alert: &Alert) -> bool {
    filter.component.as_ref().is_none_or(|component| alert.component == *component)
        && filter.severity.is_none_or(|severity| alert.severity == severity)
        && filter.kind.is_none_or(|kind| alert.kind == kind)
        && filter.living.is_none_or(|living| alert.is_living() == living)
        && filter.from.is_none_or(|from| alert.triggered_at >= from)
        && filter.to.is_none_or(|to| alert.triggered_at <= to)
}

/// Alerts as clients see them, each with what receivers took about it.
async fn shown(app: &ApiState, alerts: &[Alert]) -> Result<Vec<Value>, ApiError> {
    let ids = alerts.iter().map(|alert| alert.id.clone()).collect();
    let mut told: HashMap<String, Vec<Delivery>> = HashMap::new();
    for delivery in app.engine.records.deliveries_about(ids).await.map_err(unreadable)? {
        told.entry(delivery.alert_id.clone()).or_default().push(delivery);
    }
    let one = |alert: &Alert| {
        let taken = told.get(&alert.id).map_or(&[][..], Vec::as_slice);
        let notifications: Vec<Value> = taken
            .iter()
            .map(|delivery| {
                json!({
                    "id": delivery.id, "channel": delivery.channel, "kind": delivery.kind,
                    "owed_at": Stamp(delivery.owed_at), "delivered_at": Stamp(delivery.delivered_at),
                    "attempts": delivery.attempts, "recipients": delivery.recipients,
                })
            })
            .collect();
        let mut record = serde_json::to_value(alert.record()).unwrap_or_default();
        if let Some(fields) = record.as_object_mut() {
            let known = alert.acknowledgements.iter().map(|known| {
                json!({"at": Stamp(known.at), "by": known.by, "note": known.note, "until": known.until.map(Stamp)})
            });
            fields.insert("acknowledgements".to_owned(), known.collect());
            fields.insert("notifications".to_owned(), notifications.into());
        }
        record
    };
    Ok(alerts.iter().map(one).collect())
}

async fn stored(app: &ApiState, id: &str) -> Result<Option<Alert>, ApiError> {
    app.engine.records.alert(id).await.map_err(unreadable)
}

fn not_found(id: &str) -> ApiError {
    ApiError::NotFound(format!("Alert not found: {}", clean(id)))
}

/// `GET /alerts/{id}`: one alert, with which receiver took what about it, when, and after how many tries.
#[utoipa::path(get, path = "/alerts/{id}", operation_id = "getAlert",
    responses(
        (status = 200, body = ToldAlert),
        (status = 404, description = "Alert not found: billing-service-down-1769855400"),
        Tagged,
    ))]
pub(super) async fn show(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = named(id);
    let alert = stored(&app, &id).await?.ok_or_else(|| not_found(&id))?;
    let items = shown(&app, std::slice::from_ref(&alert)).await?;
    lists::by_content(&headers, &items.first())
}

/// `POST /alerts/{id}/acknowledge`: says that somebody looks after an alert.
#[utoipa::path(post, path = "/alerts/{id}/acknowledge", operation_id = "acknowledgeAlert",
    request_body(content = Option<AcknowledgeAlert>),
responses(
        (status = 200, body = AlertBody),
        (status = 404, description = "Alert not found: billing-service-down-1769855400"),
        (status = 409, description = "Alert billing-service-down-1769855400 is already resolved"),
    ))]
pub(super) async fn acknowledge(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let now = app.engine.clock.now();
    let mut said = Said::read(&body, ["acknowledged_by", "note", "until"])?;
    let until = said.until(now)?;
    let by = Acknowledgement { at: now, by: said.take("acknowledged_by"), note: said.take("note"), until };
    act(&app, id, Act::Acknowledge(by)).await
}

/// `POST /alerts/{id}/resolve`: ends an alert now.
#[utoipa::path(post, path = "/alerts/{id}/resolve", operation_id = "resolveAlert",
    request_body(content = Option<ResolveAlert>),
responses(
        (status = 200, body = AlertBody),
        (status = 404, description = "Alert not found: billing-service-down-1769855400"),
        (status = 409, description = "Alert billing-service-down-1769855400 is already resolved"),
    ))]
pub(super) async fn resolve(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let mut said = Said::read(&body, ["resolved_by", "note", ""])?;
    act(&app, id, Act::Resolve { by: said.take("resolved_by"), note: said.take("note") }).await
}

/// `POST /alerts/{id}/clear`: acknowledges an alert and takes it off the active list.
#[utoipa::path(post, path = "/alerts/{id}/clear", operation_id = "clearAlert",
    responses(
        (status = 200, body = Cleared),
        (status = 404, description = "Alert not found: billing-service-down-1769855400"),
    ))]
pub(super) async fn clear(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    super::input::nothing(&body)?;
    let id = named(id);
    let done = done(&app, &id, Act::Clear).await;
    match done.map_err(|_| ApiError::Unavailable("Alert manager not available"))? {
        Ok(_) => Ok(Json(json!({"status": "ok", "message": format!("Alert {} cleared", clean(&id))}))),
        Err(_) => Err(not_found(&id)),
    }
}

async fn act(app: &ApiState, id: Result<Path<String>, PathRejection>, act: Act) -> Result<Json<Value>, ApiError> {
    let id = named(id);
    if let Ok(alert) = done(app, &id, act).await? {
        return Ok(Json(json!(alert.record())));
    }
    Err(match stored(app, &id).await? {
        Some(_) => ApiError::Conflict(format!("Alert {} is already resolved", clean(&id))),
        None => not_found(&id),
    })
}

/// A task of its own: a client that goes away must not leave a change half done.
async fn done(app: &ApiState, id: &str, act: Act) -> Result<Result<Alert, ActError>, ApiError> {
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    let (engine, id) = (app.engine.clone(), id.to_owned());
    let outcome = tokio::spawn(async move { engine.act_on_alert(&id, act).await }).await;
    match outcome {
        Ok(Err(ActError::NotDurable)) | Err(_) => {
            Err(ApiError::Unavailable("Records are not writable; nothing was changed"))
        }
        Ok(answer) => Ok(answer),
    }
}

/// The texts of a request's body.
struct Said(Map<String, Value>);

impl Said {
    fn read(body: &Bytes, known: [&str; 3]) -> Result<Self, ApiError> {
        if is_nothing(body) {
            return Ok(Self(Map::new()));
        }
        let mut fields = object(body)?;
        if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
            return Err(unknown_field(field));
        }
        fields.retain(|_, value| !value.is_null());
        for (field, value) in &fields {
            let most = if field == "note" { NOTE_CHARS } else { NAME_CHARS };
            if !value.as_str().is_some_and(|text| is_prose(text, most)) {
                let rule = format!("must be a text of at most {most} characters, none of them a control character");
                return Err(wrong(field, &rule));
            }
        }
        Ok(Self(fields))
    }

    fn take(&mut self, field: &str) -> Option<String> {
        match self.0.remove(field) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            _ => None,
        }
    }

    fn until(&mut self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(Value::String(text)) = self.0.remove("until") else { return Ok(None) };
        match instant(&text) {
            Some(until) if until > now => Ok(Some(until)),
            Some(_) => Err(wrong("until", "must lie ahead")),
            None => Err(wrong("until", "must be a time such as 2026-01-31T10:30:00Z")),
        }
    }
}

fn wrong(field: &str, rule: &str) -> ApiError {
    ApiError::from(Invalid {
        place: "body",
        field: field.to_owned(),
        rule: rule.to_owned(),
        kind: "value_error",
        input: None,
    })
}
