//! One service as clients of 003 and 002 see it, and its checks in the words of 003 (CONTRACT.md 7.4 and 9.3).

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::ApiState;
use crate::domain::check::{Check, check_id};
use crate::domain::definitions::version_tag;
use crate::domain::probe::{Probe, Protocol};
use crate::domain::service::Service;
use crate::domain::status::Status;
use crate::domain::time::{Stamp, round2};
use crate::domain::words::{IN_MAINTENANCE, INACTIVE, check_message, check_word, ms, word};
use crate::engine::live::{Inner, Watched};

/// The present status in the words of 003, and why it is unknown, if it is for a reason of ours.
pub(super) fn present(service: &Service, inner: &Inner) -> (&'static str, Option<&'static str>) {
    if !service.active {
        ("UNKNOWN", Some(INACTIVE))
    } else if inner.in_maintenance {
        ("UNKNOWN", Some(IN_MAINTENANCE))
    } else {
        (word(inner.state.status), None)
    }
}

/// Seconds as a whole number, with decimals when needed.
pub(super) fn seconds(span: Duration) -> Value {
    if span.subsec_nanos() == 0 { json!(span.as_secs()) } else { json!(round_ms(span.as_secs_f64())) }
}

fn round_ms(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The record of one service. Fields of 003 come first.
pub(super) fn record(app: &ApiState, watched: &Watched) -> Map<String, Value> {
    let service = watched.service();
    let on_path = app.engine.live.roster().registry.is_on_critical_path(&service.name);
    let inner = watched.lock();
    let (status, _) = present(&service, &inner);
    let current = inner
        .state
        .last_check
        .map(|at| json!({"status": status, "response_time": ms(inner.state.response_us), "timestamp": Stamp(at)}));
    let in_maintenance = inner.in_maintenance;
    let flapping = inner.state.flaps.flapping;
    drop(inner);
    let definition: Map<String, Value> = serde_json::from_str(service.definition.expose_secret()).unwrap_or_default();
    let given = |field: &str| definition.get(field).cloned().unwrap_or(Value::Null);
    let (method, connection, follow) = match &service.probe {
        Probe::Http(probe) => (json!(probe.method), json!(probe.connection), json!(probe.follow_redirects)),
        _ => (Value::Null, Value::Null, Value::Null),
    };
    let expects = !service.expected.codes.is_empty();
    let on_unexpected = expects.then_some(if service.expected.otherwise_unhealthy { "unhealthy" } else { "degraded" });
    let depends_on: Vec<Value> = service
        .depends_on
        .iter()
        .map(|needed| match (needed.hold_alerts, needed.degrade) {
            (true, false) => json!(needed.name),
            (hold_alerts, degrade) => json!({"name": needed.name, "hold_alerts": hold_alerts, "degrade": degrade}),
        })
        .collect();
    let fields = json!({
        "id": service.name,
        "name": service.display_name,
        "url": service.url,
        "protocol": service.protocol.as_str(),
        "check_interval": seconds(service.interval),
        "timeout": seconds(service.timeout),
        "retries": service.retries,
        "expected_status_code": given("expected_status_code"),
        "expected_response_pattern": given("expected_response_pattern"),
        "is_active": service.active,
        "created_at": Stamp(service.created),
        "updated_at": Stamp(service.updated),
        "current_status": current,
        "description": service.description,
        "category": service.category,
        "critical": service.critical,
        "critical_path": on_path,
        "depends_on": depends_on,
        "tags": service.tags,
        "method": method,
        "headers": masked(&definition, "headers"),
        "connection": connection,
        "expected_status_codes": given("expected_status_codes"),
        "on_unexpected": on_unexpected,
        "follow_redirects": follow,
        "thresholds": definition.get("thresholds").cloned().unwrap_or_else(|| json!({})),
        "source": service.source,
        "in_maintenance": in_maintenance,
        "flapping": flapping,
    });
    let Value::Object(mut fields) = fields else { return Map::new() };
    if !service.depends_on_any.is_empty() {
        fields.insert("depends_on_any".to_owned(), json!(service.depends_on_any));
    }
    if definition.contains_key("body") {
        fields.insert("body".to_owned(), Value::from("***"));
    }
    for field in ["expected_headers", "expected_json", "on_assertion", "traceparent"] {
        if let Some(value) = definition.get(field) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
    for table in ["tcp", "udp", "dns", "tls", "icmp", "redis", "postgres", "filesystem", "grpc"] {
        let own = service.protocol.label() == table || (table == "tls" && definition.contains_key(table));
        if own && !matches!(service.protocol, Protocol::Amqp) {
            fields.insert(table.to_owned(), shown_table(&definition, table));
        }
    }
    fields
}

/// The names of a map with every value hidden.
fn masked(definition: &Map<String, Value>, field: &str) -> Value {
    let names = definition.get(field).and_then(Value::as_object).into_iter().flatten();
    Value::Object(names.map(|(name, _)| (name.clone(), Value::from("***"))).collect())
}

fn shown_table(definition: &Map<String, Value>, table: &str) -> Value {
    let given = definition.get(table).and_then(Value::as_object).into_iter().flatten();
    let shown = given.filter(|(_, value)| !value.is_null()).map(|(field, value)| {
        let secret = matches!(field.as_str(), "password" | "send");
        (field.clone(), if secret { Value::from("***") } else { value.clone() })
    });
    Value::Object(shown.collect())
}

/// The flat fields of 002.
pub(super) fn flat(app: &ApiState, watched: &Watched) -> Map<String, Value> {
    let service = watched.service();
    let inner = watched.lock();
    let day = inner.history.day(app.engine.clock.now());
    let rate = (day.checks > 0).then(|| round2(100.0 * day.healthy as f64 / day.checks as f64));
    let state = &inner.state;
    let details = state.details.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let fields = json!({
        "service_name": service.name,
        "status": if service.active { state.status } else { Status::Unknown },
        "response_time_ms": state.response_us.map_or(0, |us| u64::from(us) / 1000),
        "last_check": state.last_check.map(Stamp),
        "success_rate": rate,
        "error_message": state.error_message,
        "details": details,
        "endpoint_url": service.url,
    });
    if let Value::Object(fields) = fields { fields } else { Map::new() }
}

/// The tag of a record: the version of its definition, for `If-Match`, and how often it has been checked.
pub(super) fn tag(watched: &Watched) -> String {
    format!("\"{}.{:x}\"", version_tag(&watched.service()), watched.generation())
}

/// A check in the words of 003.
pub(super) fn status_record(app: &ApiState, watched: &Watched, service: &Service, check: &Check) -> Value {
    json!({
        "id": check_id(watched.hash, check),
        "endpoint_id": service.name,
        "status": check_word(check),
        "response_time": ms(check.response_us),
        "timestamp": Stamp(check.at()),
        "error_message": check_message(service, check),
        "elasticsearch_synced": app.engine.exporter.has_sent_check(watched.hash, check),
        "in_maintenance": check.maintenance,
        "reason": check.reason,
        "kind": check.kind,
        "http_status": (check.http_status != 0).then_some(check.http_status),
    })
}
