//! The OpenAPI document. What is particular to an operation stands beside its handler; what holds for all of them is
//! added here: keys, refusals, tags, parameters of paths, examples (CONTRACT.md sections 1 to 3).

pub(super) mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use chrono::DateTime;
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, OpenApi};

use super::auth::{Class, class};
use super::bodies::{InvalidRefusal, Refusal};
use super::error::{ApiError, Invalid};

/// Answers of every operation that has been asked, and a body for each that takes one, by operation id: recorded from
/// the real router by the tests.
const EXAMPLES: &str = include_str!("document/examples.json");

/// The instant and the request id of every example of a refusal.
const AT: i64 = 1_769_855_400_000;
const INSTANCE: &str = "0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11";

/// Tags, what they hold, and the beginnings of their paths; the first that fits counts.
const TAGS: [(&str, &str, &[&str]); 13] = [
    ("Alerts", "What is wrong now and was wrong before, and who looks after it", &["/alerts", "/api/health/alerts"]),
    ("Notifications", "Receivers of messages, and what they would not take", &["/notifications"]),
    ("Exports", "What Elasticsearch would not take", &["/exports"]),
    ("Outages", "From the first failing check to the first good one", &["/outages"]),
    ("Maintenance", "Times in which checks go on and alerts stay quiet", &["/maintenance"]),
    ("Metrics", "Rolling numbers, as JSON and for Prometheus, and their past", &["/metrics", "/probe", "/api/v1/sd"]),
    ("Events", "What happens, as it happens", &["/events"]),
    (
        "Configuration",
        "Settings, who changed them, and the switch of all checking",
        &["/config", "/monitoring", "/api/v1/data"],
    ),
    ("Reports", "Everything at once", &["/report"]),
    ("Documents", "This document and its pages", &["/docs", "/redoc", "/openapi.json"]),
    ("Services", "What is watched: registering, changing, checking", &["/services", "/api/v1/services"]),
    ("Status", "The fleet in one word, for pages and pipelines", &["/status"]),
    ("Health", "How each service, the host and the monitor itself are", &["/"]),
];

const ABOUT: &str = "Watches services, judges their health, opens and closes outages, raises and resolves alerts.\n\n\
    Every answer carries `x-request-id`: the caller's own if it is 1 to 64 characters of `A-Za-z0-9._-`, else a new one. \
    Paths are answered with and without a trailing slash, `HEAD` wherever `GET` is. Times are RFC 3339 in UTC with \
    milliseconds; a time that is sent may have any offset, and without one is UTC. Unknown fields of a body are refused, \
    unknown parameters of a query are ignored. Fields may be added to answers, never renamed or removed.\n\n\
    A request carries one key, in one of three ways. Which reads need none is a setting of the service (`AUTH_SCOPE`); \
    writes always need a full key. Numbers such as 002 name the earlier services whose clients a field is there for.";

/// Marks an answer that carries `ETag`, and 304 for a client that has it already.
pub(super) struct Tagged;

impl IntoResponses for Tagged {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([("304".to_owned(), Response::new("Not changed since the answer with this `ETag`").into())])
    }
}

/// Marks a change that is refused with 412 when `If-Match` names an older version.
pub(super) struct Versioned;

impl IntoResponses for Versioned {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([("412".to_owned(), Response::new("The record has changed since it was read").into())])
    }
}

/// What the routes are added to.
#[derive(OpenApi)]
#[openapi(components(schemas(Refusal, InvalidRefusal)))]
pub(super) struct Base;

/// The document of `generated`, complete.
pub(super) fn finished(generated: utoipa::openapi::OpenApi) -> Value {
    let mut generated = serde_json::to_value(generated).unwrap_or_default();
    let mut paths = take(&mut generated, "paths");
    let mut schemas = take(&mut generated["components"], "schemas");
    let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    for (path, operations) in &mut paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
            complete(&method, path, operation, &examples);
        }
    }
    let sent = reachable(paths.values().flat_map(operations).map(|operation| &operation["requestBody"]), &schemas);
    let answered = reachable(paths.values().flat_map(operations).map(|operation| &operation["responses"]), &schemas);
    for (_, schema) in schemas.iter_mut().filter(|(name, _)| answered.contains(*name) && !sent.contains(*name)) {
        nothing_is_left_out(schema);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
            "license": {"name": "Proprietary"},
        },
        "servers": [{"url": "/", "description": "The service that answers this"}],
        "security": [{"serviceKey": []}, {"apiKey": []}, {"bearer": []}],
        "tags": TAGS.map(|(name, description, _)| json!({"name": name, "description": description})),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": refusals(),
            "headers": headers(),
            "parameters": parameters(),
            "securitySchemes": {
                "serviceKey": {"type": "apiKey", "in": "header", "name": "x-service-key"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    });
    overlapping(&mut document["paths"]);
    overlapping(&mut document["components"]["schemas"]);
    document
}

fn take(of: &mut Value, field: &str) -> Map<String, Value> {
    match of.get_mut(field).map(Value::take) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn operations(item: &Value) -> impl Iterator<Item = &Value> {
    item.as_object().into_iter().flat_map(Map::values)
}

/// Adds to an operation what follows from its method and path.
fn complete(method: &Method, path: &str, operation: &mut Value, examples: &Map<String, Value>) {
    let summary = operation["summary"].as_str().map(sentence);
    if let Some(summary) = summary {
        operation["summary"] = Value::from(summary);
    }
    let tag = TAGS.iter().find(|(_, _, paths)| paths.iter().any(|beginning| path.starts_with(beginning)));
    operation["tags"] = json!([tag.map(|(name, _, _)| name)]);
    let class = class(method, path);
    if class == Class::Open {
        operation["security"] = json!([]);
    }
    let responses = take(operation, "responses");
    let has = |code: &str| responses.contains_key(code);
    let mut parameters: Vec<Value> = path.split('/').filter_map(|part| parameter(path, part)).collect();
    parameters.extend(operation["parameters"].as_array().into_iter().flatten().cloned());
    let asks = parameters.iter().any(|parameter| parameter["in"] == "query");
    let shared = |name: &str| json!({"$ref": format!("#/components/parameters/{name}")});
    parameters.extend(has("304").then(|| shared("IfNoneMatch")));
    parameters.extend(has("412").then(|| shared("IfMatch")));
    let tagged = has("304") || has("412");
    let mut all: BTreeMap<String, Value> = responses.into_iter().collect();
    let example = operation["operationId"].as_str().and_then(|id| examples.get(id)).cloned().unwrap_or_default();
    for (code, response) in &mut all {
        if code.starts_with('2') || code == "304" {
            if tagged && code != "204" {
                response["headers"]["ETag"] = json!({"$ref": "#/components/headers/ETag"});
            }
            response["headers"]["x-request-id"] = json!({"$ref": "#/components/headers/RequestId"});
            show(response, &example["response"]);
        } else if response.get("content").is_none() {
            *response = refusal(code, response["description"].as_str().unwrap_or_default());
        }
    }
    let name = |code: &str| json!({"$ref": format!("#/components/responses/{code}")});
    for code in usual(class, asks) {
        all.entry(code.to_owned()).or_insert_with(|| name(code));
    }
    operation["responses"] = json!(all);
    if !parameters.is_empty() {
        operation["parameters"] = Value::from(parameters);
    }
    if operation.get("requestBody").is_some() {
        show(&mut operation["requestBody"], &example["request"]);
    }
}

/// The first sentence of a handler's documentation, without its method and path.
fn sentence(documented: &str) -> String {
    let flat = documented.replace('\n', " ");
    let said = flat.split_once("`: ").filter(|_| flat.starts_with('`')).map_or(flat.as_str(), |(_, said)| said);
    let mut letters = said.chars();
    let first = letters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}", letters.as_str().trim_end_matches('.'))
}

/// Shows `example` with the content it goes with: a text with text, anything else with JSON.
fn show(body: &mut Value, example: &Value) {
    for (media, content) in body.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten() {
        if !example.is_null() && (media == "application/json") != example.is_string() {
            content["example"] = example.clone();
        }
    }
}

/// The parameter that a segment of a path is, if it is one.
fn parameter(path: &str, segment: &str) -> Option<Value> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let text = json!({"type": "string"});
    let id = || json!({"type": "string", "format": "uuid"});
    let (schema, description, example) = match (path.split('/').nth(1)?, name) {
        ("outages", _) => (id(), "Id of an outage", INSTANCE),
        ("maintenance", _) => (id(), "Id of a maintenance window", INSTANCE),
        ("alerts", _) => (text, "`id` or `alert_id` of an alert", "billing-service-down-1769855400"),
        (_, "receiver") => (text, "Name of a receiver, as `/health` lists them", "log"),
        (_, "file") => (text, "A file of the page", "page.js"),
        _ => (json!({"$ref": "#/components/schemas/ServiceName"}), "Name of a service, in any case", "api-gateway"),
    };
    Some(json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": schema, "example": example,
    }))
}

/// Refusals that any operation of a class may meet; one that takes parameters may be asked wrongly.
fn usual(class: Class, asks: bool) -> Vec<&'static str> {
    let mut codes = vec!["414", "431", "500", "503"];
    if class != Class::Open {
        codes.extend(["401", "429"]);
    }
    if class == Class::Write {
        codes.extend(["400", "403", "408", "413", "415", "422"]);
    }
    if asks {
        codes.push("422");
    }
    codes
}

/// A refusal of `code` in the words of `description`, with the body it has.
fn refusal(code: &str, description: &str) -> Value {
    let error = match code {
        "404" => ApiError::NotFound(description.to_owned()),
        "409" => ApiError::Conflict(description.to_owned()),
        "412" => ApiError::PreconditionFailed,
        _ => return shown(&ApiError::Internal("Internal server error"), description),
    };
    shown(&error, description)
}

/// The refusals of section 3, under their codes.
fn refusals() -> Value {
    let invalid = Invalid {
        place: "body",
        field: "timeout".to_owned(),
        rule: "must be greater than 0".to_owned(),
        kind: "greater_than",
        input: Some(json!(0)),
    };
    let soon = std::time::Duration::from_secs(60);
    let all = [
        (ApiError::Malformed, "The body is not JSON, or nested deeper than 128"),
        (ApiError::Unauthenticated("Internal service authentication required"), "No key, two keys, or a wrong one"),
        (ApiError::Forbidden, "A read-only key cannot write"),
        (ApiError::RequestTimeout, "The request was not complete in time"),
        (ApiError::TooLarge("Request body too large"), "The body is too large"),
        (ApiError::UriTooLong, "The URI is over 8 KiB"),
        (ApiError::UnsupportedMedia("Request bodies are application/json"), "The body is not JSON, or compressed"),
        (ApiError::Invalid(vec![invalid]), "A field or parameter breaks a rule"),
        (ApiError::Guessing { retry_after: soon }, "Too many wrong keys from this address, or too many checks by hand"),
        (ApiError::HeadersTooLarge, "The headers are over 32 KiB, or more than 100"),
        (ApiError::Internal("Internal server error"), "A fault of ours; its cause is in the log"),
        (
            ApiError::Unavailable("Records are not writable; nothing was changed"),
            "Records cannot be read or written, too many requests at once, or the service is stopping",
        ),
    ];
    let one = |(error, description): &(ApiError, &str)| (error.status().as_str().to_owned(), shown(error, description));
    Value::Object(all.iter().map(one).collect())
}

fn shown(error: &ApiError, description: &str) -> Value {
    let schema = if matches!(error, ApiError::Invalid(_)) { "InvalidRefusal" } else { "Refusal" };
    let at = DateTime::from_timestamp_millis(AT).unwrap_or_default();
    let mut response = json!({
        "description": description,
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {"application/json": {
            "schema": {"$ref": format!("#/components/schemas/{schema}")}, "example": error.body(INSTANCE, at),
        }},
    });
    if matches!(error, ApiError::Guessing { .. } | ApiError::Unavailable(_)) {
        response["headers"]["Retry-After"] = json!({"$ref": "#/components/headers/RetryAfter"});
    }
    response
}

fn headers() -> Value {
    json!({
        "RequestId": {"description": "The caller's id of the request, or a new one", "schema": {"type": "string"}},
        "ETag": {"description": "Version of what is shown, for `If-None-Match`", "schema": {"type": "string"}},
        "RetryAfter": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 0}},
    })
}

fn parameters() -> Value {
    json!({
        "IfNoneMatch": {
            "name": "If-None-Match", "in": "header", "description": "`ETag` of an answer the client has",
            "schema": {"type": "string"},
        },
        "IfMatch": {
            "name": "If-Match", "in": "header", "description": "`ETag` of the record as it was read; `*` for any",
            "schema": {"type": "string"}, "example": "*",
        },
    })
}

/// Names of the schemas that `roots` lead to.
fn reachable<'a>(roots: impl Iterator<Item = &'a Value>, schemas: &'a Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<&Value> = roots.collect();
    while let Some(value) = ahead.pop() {
        match value {
            Value::Object(fields) => ahead.extend(fields.values()),
            Value::Array(items) => ahead.extend(items),
            Value::String(text) => {
                let name = text.strip_prefix("#/components/schemas/");
                if let Some(name) = name.filter(|name| found.insert((*name).to_owned())) {
                    ahead.extend(schemas.get(name));
                }
            }
            _ => {}
        }
    }
    found
}

/// What is absent is `null` (CONTRACT.md section 1): a field that may be null is always there, unless it has a default.
fn nothing_is_left_out(schema: &mut Value) {
    for member in schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        nothing_is_left_out(member);
    }
    let null = json!("null");
    let may_be_null = |field: &Value| {
        let among =
            |all: &Value, is_it: &dyn Fn(&Value) -> bool| all.as_array().is_some_and(|all| all.iter().any(is_it));
        among(&field["type"], &|kind| *kind == null) || among(&field["oneOf"], &|one| one["type"] == null)
    };
    let fields = schema["properties"].as_object().into_iter().flatten();
    let always: Vec<String> = fields
        .filter(|(_, field)| may_be_null(field) && field.get("default").is_none())
        .map(|(name, _)| name.clone())
        .collect();
    if always.is_empty() {
        return;
    }
    let known = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let required: BTreeSet<String> = known.chain(always).collect();
    schema["required"] = json!(required);
}

/// Alternatives may overlap: a record is also an object of anything.
fn overlapping(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(alternatives) = fields.shift_remove("oneOf") {
                fields.insert("anyOf".to_owned(), alternatives);
            }
            fields.values_mut().for_each(overlapping);
        }
        Value::Array(items) => items.iter_mut().for_each(overlapping),
        _ => {}
    }
}
