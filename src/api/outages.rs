//! Outages for clients of 003 (CONTRACT.md 9.7): lists, one with its timeline, sums, and resolving by hand.

use std::collections::HashMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ApiState;
use super::bodies::outages::{OutageBody, OutagePage, OutageSummary, OutagesQuery, ResolveOutage};
use super::bodies::{Paging, Range};
use super::document::Tagged;
use super::endpoints::unreadable;
use super::error::{ApiError, Invalid};
use super::health::named;
use super::input::{Asked, unknown_field};
use super::lists;
use super::record::record;
use crate::domain::alert::Alert;
use crate::domain::notification::{Delivery, NoticeKind};
use crate::domain::observation::{clean, is_prose};
use crate::domain::outage::{Outage, OutageSeverity};
use crate::domain::recovery::Remedy;
use crate::domain::service::ServiceName;
use crate::domain::time::{Stamp, round2};
use crate::store::records::{FactKind, OutageFilter, OutageSums};

/// Longest notes: our choice, as long as a description.
const NOTES_CHARS: usize = 2000;

/// `GET /outages`: outages, newest first.
#[utoipa::path(get, path = "/outages", operation_id = "listOutages",
    params(OutagesQuery, Range, Paging), responses((status = 200, body = OutagePage), Tagged))]
pub(super) async fn list(State(app): State<ApiState>, asked: Asked, headers: HeaderMap) -> Result<Response, ApiError> {
    let mut filter = filter(&asked)?;
    let words = "critical, major, minor, warning";
    filter.severity = asked.choice("severity", words, |text| {
        OutageSeverity::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(text))
    })?;
    if asked.boolean("include_resolved")? == Some(false) {
        filter.open = Some(true);
    }
    let (skip, limit) = asked.page()?;
    filter.service = match asked.text("endpoint_id").map(ServiceName::new) {
        None => None,
        Some(Ok(name)) => Some(name),
        // No service has such a name, and no outage either.
        Some(Err(_)) => return lists::by_content(&headers, &json!({"items": [], "total": 0})),
    };
    page(&app, &headers, filter, skip, limit).await
}

/// `GET /outages/active`: outages that are open.
#[utoipa::path(get, path = "/outages/active", operation_id = "listActiveOutages",
    params(Paging), responses((status = 200, body = OutagePage), Tagged))]
pub(super) async fn active(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (skip, limit) = asked.page()?;
    page(&app, &headers, OutageFilter { open: Some(true), ..OutageFilter::default() }, skip, limit).await
}

fn filter(asked: &Asked) -> Result<OutageFilter, ApiError> {
    let (from, to) = (asked.instant("start_time")?, asked.instant("end_time")?);
    asked.in_order(from, to)?;
    Ok(OutageFilter { from, to, ..OutageFilter::default() })
}

async fn page(
    app: &ApiState,
    headers: &HeaderMap,
    filter: OutageFilter,
    skip: usize,
    limit: usize,
) -> Result<Response, ApiError> {
    let page = app.engine.records.outages(filter, skip, limit).await.map_err(unreadable)?;
    let items = shown(app, &page.outages).await?;
    lists::by_content(headers, &json!({"items": items, "total": page.total}))
}

/// `GET /outages/summary`: outages counted by severity, and the mean length of those that are over.
#[utoipa::path(get, path = "/outages/summary", operation_id = "getOutageSummary",
    params(Range), responses((status = 200, body = OutageSummary)))]
pub(super) async fn summary(State(app): State<ApiState>, asked: Asked) -> Result<Json<Value>, ApiError> {
    let sums = app.engine.records.outage_sums(filter(&asked)?).await.map_err(unreadable)?;
    let of = |severity: OutageSeverity| sums.get(severity.as_str()).copied().unwrap_or_default();
    let all = OutageSeverity::ALL.map(of).into_iter().fold(OutageSums::default(), |sum, one| OutageSums {
        total: sum.total + one.total,
        open: sum.open + one.open,
        closed_ms: sum.closed_ms + one.closed_ms,
    });
    let closed = all.total - all.open;
    let average = if closed == 0 { 0.0 } else { round2(all.closed_ms as f64 / 1000.0 / closed as f64) };
    let by_severity: Map<String, Value> = OutageSeverity::ALL
        .into_iter()
        .map(|severity| (severity.as_str().to_owned(), of(severity).total.into()))
        .collect();
    Ok(Json(json!({
        "total_outages": all.total, "active_outages": all.open, "by_severity": by_severity,
        "avg_duration_seconds": average,
    })))
}

fn not_found(id: &str, more: &str) -> ApiError {
    ApiError::NotFound(format!("Service outage with ID {} not found{more}", clean(id)))
}

/// `GET /outages/{id}`: one outage with its timeline.
#[utoipa::path(get, path = "/outages/{id}", operation_id = "getOutage",
    responses(
        (status = 200, body = OutageBody),
        (status = 404, description = "Service outage with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found"),
        Tagged,
    ))]
pub(super) async fn show(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = named(id);
    let known = id.parse::<Uuid>().map_err(|_| not_found(&id, ""))?;
    let found = app.engine.records.outage(known).await.map_err(unreadable)?;
    let outage = found.ok_or_else(|| not_found(&id, ""))?;
    let mut items = shown(&app, std::slice::from_ref(&outage)).await?;
    if let Some(fields) = items.first_mut().and_then(Value::as_object_mut) {
        fields.insert("timeline".to_owned(), whole_timeline(&app, &outage).await?.into());
    }
    lists::by_content(&headers, &items.first())
}

/// `POST /outages/{id}/resolve`: closes an outage now; the body is empty, a JSON string, or an object.
#[utoipa::path(post, path = "/outages/{id}/resolve", operation_id = "resolveOutage",
    request_body(content = Option<ResolveOutage>),
responses(
        (status = 200, body = OutageBody),
        (status = 404, description = "Service outage with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found or already resolved"),
    ))]
pub(super) async fn resolve(
    State(app): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = named(id);
    let (notes, by) = resolution(&body)?;
    if app.engine.is_draining() {
        return Err(ApiError::Unavailable("Stopping"));
    }
    let gone = || not_found(&id, " or already resolved");
    let known = id.parse::<Uuid>().map_err(|_| gone())?;
    // A task of its own: a client that goes away must not leave a change half done.
    let engine = app.engine.clone();
    let done = tokio::spawn(async move { engine.resolve_outage(known, notes.as_deref(), by.as_deref()).await }).await;
    let resolved = done.ok().and_then(Result::ok);
    let resolved = resolved.ok_or(ApiError::Unavailable("Records are not writable; nothing was changed"))?;
    let outage = resolved.ok_or_else(gone)?;
    let items = shown(&app, std::slice::from_ref(&outage)).await?;
    items.into_iter().next().map(Json).ok_or_else(gone)
}

fn resolution(body: &Bytes) -> Result<(Option<String>, Option<String>), ApiError> {
    let wrong = |field: &str, rule: &str| {
        ApiError::from(Invalid {
            place: "body",
            field: field.to_owned(),
            rule: rule.to_owned(),
            kind: "value_error",
            input: None,
        })
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok((None, None));
    }
    let mut found = (None, None);
    match serde_json::from_slice::<Value>(body).map_err(|_| ApiError::Malformed)? {
        Value::Null => {}
        Value::String(text) => found.0 = Some(text),
        Value::Object(fields) => {
            for (field, value) in fields {
                let slot = match field.as_str() {
                    "resolution_notes" => &mut found.0,
                    "resolved_by" => &mut found.1,
                    _ => return Err(unknown_field(&field)),
                };
                *slot = match value {
                    Value::Null => None,
                    Value::String(text) => Some(text),
                    _ => return Err(wrong(&field, "must be a text")),
                };
            }
        }
        _ => return Err(wrong("body", "must be empty, a text, or an object with resolution_notes")),
    }
    if found.0.as_ref().is_some_and(|text| !is_prose(text, NOTES_CHARS)) {
        return Err(wrong("resolution_notes", "must be at most 2000 characters, none of them a control character"));
    }
    if found.1.as_ref().is_some_and(|text| !is_prose(text, 100)) {
        return Err(wrong("resolved_by", "must be at most 100 characters, none of them a control character"));
    }
    Ok(found)
}

/// Outages as clients see them, with what receivers were told.
async fn shown(app: &ApiState, outages: &[Outage]) -> Result<Vec<Value>, ApiError> {
    let ids = outages.iter().map(|outage| outage.id).collect();
    let mut told: HashMap<Uuid, Vec<Delivery>> = HashMap::new();
    for delivery in app.engine.records.deliveries(ids).await.map_err(unreadable)? {
        if let Some(id) = delivery.outage_id {
            told.entry(id).or_default().push(delivery);
        }
    }
    let alerts = app.engine.live.alerts();
    let alerts: HashMap<Uuid, &Alert> = alerts.iter().filter_map(|alert| Some((alert.outage_id?, &**alert))).collect();
    let one = |outage: &Outage| {
        let told = told.get(&outage.id).map_or(&[][..], Vec::as_slice);
        one(app, outage, told, alerts.get(&outage.id).copied())
    };
    Ok(outages.iter().map(one).collect())
}

fn one(app: &ApiState, outage: &Outage, told: &[Delivery], alert: Option<&Alert>) -> Value {
    let now = app.engine.clock.now();
    let seconds = app.engine.outage_duration(outage, now).as_secs();
    let endpoint = app.engine.live.find(&outage.service).map(|watched| Value::Object(record(app, &watched)));
    let mut channels: Vec<&str> = Vec::new();
    for delivery in told {
        if !channels.contains(&delivery.channel.as_str()) {
            channels.push(&delivery.channel);
        }
    }
    let notices: Vec<Value> = told
        .iter()
        .map(|delivery| {
            json!({
                "id": delivery.id, "outage_id": outage.id, "alert_time": Stamp(delivery.owed_at),
                "notification_type": delivery.channel, "recipients": delivery.recipients, "message": delivery.text,
                "delivered": true, "delivery_time": Stamp(delivery.delivered_at), "attempts": delivery.attempts,
                "kind": delivery.kind,
            })
        })
        .collect();
    let root = alert.and_then(|alert| alert.root_cause.clone()).or_else(|| outage.root_cause.clone());
    json!({
        "id": outage.id,
        "endpoint_id": outage.service,
        "severity": outage.severity.as_str(),
        "description": format!("Service outage detected: {}", outage.error_message),
        "start_time": Stamp(outage.started),
        "resolved": !outage.is_open(),
        "resolved_at": outage.ended.map(Stamp),
        "resolved_by": outage.resolved_by,
        "resolution_notes": outage.resolution_notes,
        "notification_channels": channels,
        "elasticsearch_synced": app.engine.exporter.has_sent_outage(outage.id),
        "end_time": outage.ended.map(Stamp),
        "duration": outage.ended.map(|_| seconds),
        "duration_seconds": seconds,
        "affected_customers": null,
        "created_at": Stamp(outage.confirmed),
        "updated_at": Stamp(outage.updated.unwrap_or(outage.confirmed)),
        "root_cause": root,
        "suppressed_by": alert.and_then(|alert| alert.suppressed_by.clone()),
        "endpoint": endpoint,
        "alerts": notices,
        "timeline": timeline(outage, told, Vec::new()),
    })
}

/// What happened, with what people and recovery actions did about it.
async fn whole_timeline(app: &ApiState, outage: &Outage) -> Result<Vec<Value>, ApiError> {
    let records = &app.engine.records;
    let told = records.deliveries(vec![outage.id]).await.map_err(unreadable)?;
    let mut more = Vec::new();
    let living = app.engine.live.alerts();
    let living = living.iter().find(|alert| alert.outage_id == Some(outage.id));
    let alert = match (living, told.first()) {
        (Some(alert), _) => Some((**alert).clone()),
        (None, Some(delivery)) => records.alert(&delivery.alert_id).await.map_err(unreadable)?,
        (None, None) => None,
    };
    for known in alert.into_iter().flat_map(|alert| alert.acknowledgements) {
        let entry = json!({
            "event": "acknowledged", "by": known.by, "message": known.note, "until": known.until.map(Stamp),
        });
        more.push((known.at, entry));
    }
    let remedy = records.fact(FactKind::Remedy, &outage.id.to_string()).await.map_err(unreadable)?;
    if let Some(remedy) = remedy.and_then(|text| serde_json::from_str::<Remedy>(&text).ok()) {
        let entry = json!({
            "event": "recovery_action", "action": remedy.action, "outcome": remedy.outcome, "message": remedy.detail,
        });
        more.push((remedy.at, entry));
    }
    Ok(timeline(outage, &told, more))
}

/// What happened, in order.
fn timeline(outage: &Outage, told: &[Delivery], more: Vec<(DateTime<Utc>, Value)>) -> Vec<Value> {
    let mut entries = vec![
        (outage.started, json!({"event": "first_failure", "reason": outage.reason})),
        (outage.confirmed, json!({"event": "confirmed", "message": outage.error_message})),
    ];
    for delivery in told {
        let event = match delivery.kind {
            NoticeKind::AlertResolved => "recovery_notified",
            _ => "notified",
        };
        let entry =
            json!({"event": event, "channel": delivery.channel, "kind": delivery.kind, "attempts": delivery.attempts});
        entries.push((delivery.delivered_at, entry));
    }
    if let Some(ended) = outage.ended {
        let by = &outage.resolved_by;
        entries.push((ended, json!({"event": "resolved", "by": by, "message": outage.resolution_notes})));
    }
    entries.extend(more);
    entries.sort_by_key(|(at, _)| *at);
    let dated = entries.into_iter().map(|(at, mut entry)| {
        if let Some(fields) = entry.as_object_mut() {
            fields.shift_insert(0, "timestamp".to_owned(), json!(Stamp(at)));
        }
        entry
    });
    dated.collect()
}
