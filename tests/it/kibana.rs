//! What is made for Kibana: the files against the contract and the mapping of the indices, and the command that puts
//! them in place against a Kibana that refuses what the real one refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as InPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};

use crate::cli::{Came, run_in};
use crate::support::{Script, Stub, free_port};

const STATUS: &str = "isp-service-status-*";
const OUTAGE: &str = "isp-service-outage-*";
const WINDOWS: &str = "isp-maintenance-windows";

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)).unwrap()
}

fn json_file(path: &str) -> Value {
    serde_json::from_str(&file(path)).unwrap()
}

fn objects() -> Vec<Value> {
    file("kibana/saved-objects.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn rules() -> Vec<Value> {
    json_file("kibana/rules.json").as_array().unwrap().clone()
}

fn object(kind: &str, id: &str) -> Value {
    let found = objects().into_iter().find(|object| object["type"] == kind && object["id"] == id);
    found.unwrap_or_else(|| panic!("no {kind} {id}"))
}

/// Kibana keeps some members as JSON in a text.
fn inner(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

fn members(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// The type of a field in the indices that `pattern` stands for, subfields and members of objects included.
fn mapped(pattern: &str, field: &str) -> Option<String> {
    let template = ["isp-services", "isp-maintenance-windows"]
        .map(|name| json_file(&format!("elasticsearch/{name}.template.json")))
        .into_iter()
        .find(|template| list(&template["index_patterns"]).iter().any(|known| known == pattern))?;
    let mut at = template["template"]["mappings"].clone();
    for part in field.split('.') {
        at = at["properties"].get(part).or_else(|| at["fields"].get(part))?.clone();
    }
    at["type"].as_str().map(str::to_owned)
}

fn check_field(pattern: &str, field: &Value, kinds: &[&str]) {
    let field = field.as_str().unwrap();
    let kind = mapped(pattern, field).unwrap_or_else(|| panic!("{pattern} has no {field}"));
    assert!(kinds.contains(&kind.as_str()), "{field} of {pattern} is {kind}, not one of {kinds:?}");
}

/// Every field that a query names, with what it is used for.
fn check_query(pattern: &str, query: &Value) {
    match query {
        Value::Object(parts) => {
            for (part, value) in parts {
                match part.as_str() {
                    "term" => {
                        for field in members(value).keys() {
                            check_field(pattern, &json!(field), &["keyword", "boolean"]);
                        }
                    }
                    "range" => {
                        for field in members(value).keys() {
                            check_field(pattern, &json!(field), &["date", "float", "long"]);
                        }
                    }
                    "query" | "bool" | "filter" => check_query(pattern, value),
                    other => panic!("{other} in a query: say here which fields it names"),
                }
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| check_query(pattern, part)),
        other => panic!("{other} in a query"),
    }
}

#[test]
fn every_field_of_a_visualisation_is_in_the_mapping() {
    let mut looked_at = 0;
    for object in objects() {
        let attributes = &object["attributes"];
        match object["type"].as_str().unwrap() {
            "index-pattern" => {
                assert_eq!(attributes["title"], object["id"]);
                check_field(attributes["title"].as_str().unwrap(), &attributes["timeFieldName"], &["date"]);
            }
            "visualization" => {
                let pattern = object["references"][0]["id"].as_str().unwrap();
                for aggregation in list(&inner(&attributes["visState"])["aggs"]) {
                    let field = &aggregation["params"]["field"];
                    match aggregation["type"].as_str().unwrap() {
                        "count" => assert!(field.is_null()),
                        "avg" => check_field(pattern, field, &["float", "long"]),
                        // A text cannot be counted by its terms.
                        "terms" => check_field(pattern, field, &["keyword", "boolean"]),
                        "date_histogram" => check_field(pattern, field, &["date"]),
                        other => panic!("aggregation {other}"),
                    }
                    looked_at += 1;
                }
                let source = inner(&attributes["kibanaSavedObjectMeta"]["searchSourceJSON"]);
                assert_eq!(source["query"]["language"], "kuery");
                if let Some((field, _)) = source["query"]["query"].as_str().unwrap().split_once(':') {
                    check_field(pattern, &json!(field), &["keyword", "boolean"]);
                }
            }
            _ => {}
        }
    }
    assert_eq!(looked_at, 24);
}

#[test]
fn every_field_of_a_rule_is_in_the_mapping() {
    for rule in rules() {
        let params = &rule["body"]["params"];
        for pattern in list(&params["index"]) {
            let pattern = pattern.as_str().unwrap();
            check_field(pattern, &params["timeField"], &["date"]);
            if rule["body"]["rule_type_id"] == ".index-threshold" {
                check_field(pattern, &params["aggField"], &["float", "long"]);
                check_field(pattern, &params["termField"], &["keyword"]);
            } else {
                check_query(pattern, &inner(&params["esQuery"]));
            }
        }
    }
}

/// What an aggregation groups by: type, field, size, name of the column.
fn buckets(state: &Value) -> Vec<String> {
    let buckets = list(&state["aggs"]).iter().filter(|one| one["schema"] != "metric").map(|one| {
        let params = &one["params"];
        let mut text = format!("{} {}", one["type"].as_str().unwrap(), params["field"].as_str().unwrap());
        if let Some(size) = params["size"].as_u64() {
            text.push_str(&format!(" {size}"));
        }
        if let Some(label) = params["customLabel"].as_str() {
            text.push_str(&format!(" \"{label}\""));
        }
        if let Some(from) = params["timeRange"]["from"].as_str() {
            text.push_str(&format!(" {from} to {}", params["timeRange"]["to"].as_str().unwrap()));
        }
        if params["otherBucket"] == true {
            text.push_str(" others");
        }
        text
    });
    buckets.collect()
}

fn check_visualisation(id: &str, title: &str, kind: &str, pattern: &str, metric: &str, expected: &[&str]) {
    let shown = object("visualization", id);
    let state = inner(&shown["attributes"]["visState"]);
    assert_eq!((&shown["attributes"]["title"], &state["title"]), (&json!(title), &json!(title)));
    assert_eq!(state["type"], kind, "{id}");
    assert_eq!(list(&shown["references"]).len(), 1);
    assert_eq!(shown["references"][0]["id"], pattern, "{id}");
    let of = &state["aggs"][0];
    let said = [&of["type"], &of["params"]["field"], &of["params"]["customLabel"]].map(|part| part.as_str());
    assert_eq!(said.into_iter().flatten().collect::<Vec<_>>().join(" "), metric, "{id}");
    assert_eq!(buckets(&state), expected, "{id}");
}

#[test]
fn the_visualisations_are_those_of_the_contract() {
    let check = check_visualisation;
    check("service-status-overview", "Service Status Overview", "pie", STATUS, "count", &["terms status 10"]);
    check("active-outages", "Active Outages", "metric", OUTAGE, "count Active Outages", &[]);
    check(
        "service-response-time",
        "Service Response Time",
        "line",
        STATUS,
        "avg response_time Response Time (ms)",
        &["date_histogram timestamp", "terms endpoint_id 10"],
    );
    check(
        "service-status-history",
        "Service Status History",
        "area",
        STATUS,
        "count",
        &["date_histogram timestamp", "terms status 5"],
    );
    check(
        "recent-outages",
        "Recent Outages",
        "table",
        OUTAGE,
        "count",
        &[
            "terms endpoint_id 20 \"Service\"",
            "terms severity 5 \"Severity\"",
            "date_histogram start_time \"Start Time\" now-7d to now",
            "terms resolved 2 \"Resolved\"",
        ],
    );
    check("outages-by-service", "Outages by Service", "pie", OUTAGE, "count", &["terms endpoint_id 10 others"]);
    check(
        "outages-by-severity",
        "Outages by Severity",
        "histogram",
        OUTAGE,
        "count",
        &["date_histogram start_time now-30d to now", "terms severity 5"],
    );
    check(
        "maintenance-windows",
        "Maintenance Windows",
        "table",
        WINDOWS,
        "count",
        &[
            "terms endpoint_id 20 \"Service\"",
            "date_histogram start_time \"Start Time\" now-7d to now+7d",
            "date_histogram end_time \"End Time\" now-7d to now+7d",
            "terms description.keyword 20 \"Description\"",
        ],
    );
    let state = |id| inner(&object("visualization", id)["attributes"]["visState"]);
    assert_eq!(state("service-status-overview")["params"]["isDonut"], true);
    assert_eq!(state("outages-by-service")["params"]["isDonut"], false);
    assert_eq!(state("service-response-time")["params"]["valueAxes"][0]["title"]["text"], "Response Time (ms)");
    for id in ["service-status-history", "outages-by-severity"] {
        assert_eq!(state(id)["params"]["seriesParams"][0]["mode"], "stacked", "{id}");
    }
    let open = object("visualization", "active-outages");
    let source = inner(&open["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"]);
    assert_eq!(source["query"]["query"], "resolved:false");
    for (id, column) in [("recent-outages", 2), ("maintenance-windows", 1)] {
        let sorted = json!({"columnIndex": column, "direction": "desc"});
        assert_eq!(state(id)["params"]["perPage"], 10);
        assert_eq!(inner(&object("visualization", id)["attributes"]["uiStateJSON"])["vis"]["params"]["sort"], sorted);
    }
}

#[test]
fn the_dashboard_shows_them_in_the_order_and_the_places_of_the_contract() {
    let dashboard = object("dashboard", "service-availability-dashboard");
    let shown = &dashboard["attributes"];
    assert_eq!(shown["title"], "Service Availability Dashboard");
    let times = ["timeRestore", "timeFrom", "timeTo"].map(|name| shown[name].clone());
    assert_eq!(times, [json!(true), json!("now-24h"), json!("now")]);
    assert_eq!(shown["refreshInterval"], json!({"pause": false, "value": 60_000}));
    let panels = inner(&shown["panelsJSON"]);
    let references = list(&dashboard["references"]);
    let places: Vec<_> = list(&panels)
        .iter()
        .map(|panel| {
            let reference = references.iter().find(|reference| reference["name"] == panel["panelRefName"]).unwrap();
            let grid = ["x", "y", "w", "h"].map(|side| panel["gridData"][side].as_u64().unwrap());
            assert_eq!(panel["gridData"]["i"], panel["panelIndex"]);
            (reference["id"].as_str().unwrap().to_owned(), grid)
        })
        .collect();
    let expected = [
        ("service-status-overview", [0, 0, 24, 8]),
        ("active-outages", [24, 0, 24, 8]),
        ("service-response-time", [0, 8, 24, 12]),
        ("service-status-history", [24, 8, 24, 12]),
        ("recent-outages", [0, 20, 48, 12]),
        ("outages-by-service", [0, 32, 24, 12]),
        ("outages-by-severity", [24, 32, 24, 12]),
        ("maintenance-windows", [0, 44, 48, 12]),
    ];
    assert_eq!(places, expected.map(|(id, grid)| (id.to_owned(), grid)));
}

#[test]
fn every_reference_is_to_an_object_of_the_file() {
    let objects = objects();
    let there: BTreeSet<_> = objects.iter().map(|it| (it["type"].to_string(), it["id"].to_string())).collect();
    assert_eq!((objects.len(), there.len()), (12, 12));
    for object in &objects {
        for reference in list(&object["references"]) {
            let wanted = (reference["type"].to_string(), reference["id"].to_string());
            assert!(there.contains(&wanted), "{} needs {wanted:?}", object["id"]);
        }
        // The version that the objects are written for, at most: Kibana takes none from the future.
        assert_eq!(object["coreMigrationVersion"], "7.17.0");
        let version = object["migrationVersion"][object["type"].as_str().unwrap()].as_str().unwrap();
        let version: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(version <= vec![7, 10, 0], "{} is of {version:?}", object["id"]);
    }
}

#[test]
fn the_rules_are_those_of_the_contract() {
    let open = json!({"term": {"resolved": false}});
    let expected = [
        (
            "service-down-alert",
            "Service Down Alert",
            "monitoring service availability",
            "5m",
            json!([STATUS, "timestamp", 5, "m", 1, {"query": {"term": {"status": "DOWN"}}}]),
        ),
        (
            "service-response-time-alert",
            "Service Response Time Alert",
            "monitoring service performance",
            "5m",
            json!([STATUS, "timestamp", 5, "m", 1000, null]),
        ),
        (
            "multiple-services-down-alert",
            "Multiple Services Down Alert",
            "monitoring service critical",
            "5m",
            json!([OUTAGE, "start_time", 30, "d", 3, {"query": open}]),
        ),
        (
            "active-outages-alert",
            "Active Outages Alert",
            "monitoring service outage",
            "15m",
            json!([OUTAGE, "start_time", 30, "d", 1, {"query": open}]),
        ),
        (
            "long-duration-outage-alert",
            "Long Duration Outage Alert",
            "monitoring service outage critical",
            "30m",
            json!([OUTAGE, "start_time", 30, "d", 1,
                {"query": {"bool": {"filter": [open, {"range": {"start_time": {"lte": "now-2h"}}}]}}}]),
        ),
    ];
    let rules = rules();
    assert_eq!(rules.len(), expected.len());
    for (rule, (id, name, tags, every, params)) in rules.iter().zip(expected) {
        let body = &rule["body"];
        let said = ["name", "consumer"].map(|member| body[member].as_str().unwrap());
        assert_eq!((rule["id"].as_str().unwrap(), said), (id, [name, "alerts"]));
        assert_eq!(body["tags"], json!(tags.split(' ').collect::<Vec<_>>()), "{id}");
        assert_eq!(body["schedule"]["interval"], every, "{id}");
        let of = &body["params"];
        let query = if of["esQuery"].is_null() { Value::Null } else { inner(&of["esQuery"]) };
        let said = json!([
            of["index"][0],
            of["timeField"],
            of["timeWindowSize"],
            of["timeWindowUnit"],
            of["threshold"][0],
            query
        ]);
        assert_eq!(said, params, "{id}");
        assert_eq!(of["thresholdComparator"], ">=");
        let threshold = id == "service-response-time-alert";
        assert_eq!(body["rule_type_id"], if threshold { ".index-threshold" } else { ".es-query" });
        if threshold {
            let said = ["aggType", "aggField", "groupBy", "termField"].map(|member| of[member].as_str().unwrap());
            assert_eq!(said, ["avg", "response_time", "top", "endpoint_id"]);
        }
        let [email, slack] = list(&body["actions"]) else { panic!("{id}") };
        assert_eq!([&email["id"], &slack["id"]], ["email", "slack"]);
        let critical = tags.contains("critical");
        let receivers: &[&str] =
            if critical { &["operations@example.com", "management@example.com"] } else { &["operations@example.com"] };
        assert_eq!(email["params"]["to"], json!(receivers), "{id}");
        assert_eq!(email["params"]["subject"].as_str().unwrap().contains("CRITICAL"), critical, "{id}");
    }
}

/// A Kibana that keeps what it is sent, and refuses what the real one refuses.
struct FakeKibana {
    port: u16,
    kept: Arc<Mutex<Kept>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The header that must come with each request, if any.
    credentials: Option<String>,
    connectors: BTreeSet<String>,
    /// Types of saved objects that are not known here.
    unknown: BTreeSet<String>,
    /// Rules that may not be made: by name, with the status of the refusal.
    refused: BTreeMap<String, u16>,
    objects: BTreeMap<(String, String), Value>,
    rules: BTreeMap<String, Map<String, Value>>,
    /// Method and path of each request.
    log: Vec<String>,
}

type Shared = State<Arc<Mutex<Kept>>>;

fn refusal(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let error = status.canonical_reason().unwrap();
    (status, axum::Json(json!({"statusCode": status.as_u16(), "error": error, "message": message}))).into_response()
}

async fn gate(State(kept): Shared, request: Request, next: Next) -> Response {
    kept.lock().unwrap().log.push(format!("{} {}", request.method(), request.uri()));
    let wanted = kept.lock().unwrap().credentials.clone();
    let given = request.headers().get("authorization").map(|given| given.to_str().unwrap().to_owned());
    if wanted.is_some() && wanted != given {
        return refusal(401, "[security_exception]: unable to authenticate user");
    }
    if request.method() != "GET" && !request.headers().contains_key("kbn-xsrf") {
        return refusal(400, "Request must contain a kbn-xsrf header.");
    }
    next.run(request).await
}

/// The one file of a multipart body, and its name.
fn only_part(headers: &HeaderMap, body: &Bytes) -> Option<(String, String)> {
    let kind = headers.get("content-type")?.to_str().ok()?;
    let boundary = kind.strip_prefix("multipart/form-data; boundary=")?;
    let body = std::str::from_utf8(body).ok()?;
    let part = body.strip_prefix(&format!("--{boundary}\r\n"))?;
    let part = part.strip_suffix(&format!("\r\n--{boundary}--\r\n"))?;
    let (head, content) = part.split_once("\r\n\r\n")?;
    let name = head.split("filename=\"").nth(1)?.split('"').next()?;
    head.contains("name=\"file\"").then(|| (name.to_owned(), content.to_owned()))
}

async fn import(
    State(kept): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some((name, content)) = only_part(&headers, &body) else {
        return refusal(400, "[request body.file]: expected value of type [Stream]");
    };
    if !name.ends_with(".ndjson") {
        return refusal(400, "Invalid file extension .json");
    }
    let mut kept = kept.lock().unwrap();
    let sent: Vec<Value> = content.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let name =
        |object: &Value| (object["type"].as_str().unwrap().to_owned(), object["id"].as_str().unwrap().to_owned());
    let known: BTreeSet<_> = sent.iter().map(name).filter(|(kind, _)| !kept.unknown.contains(kind)).collect();
    let (mut errors, mut taken) = (Vec::new(), Vec::new());
    for object in &sent {
        let references = object["references"].as_array().unwrap();
        let missing: Vec<Value> = references
            .iter()
            .filter(|reference| !known.contains(&name(reference)) && !kept.objects.contains_key(&name(reference)))
            .map(|reference| json!({"type": reference["type"], "id": reference["id"]}))
            .collect();
        let error = if !known.contains(&name(object)) {
            json!({"type": "unsupported_type"})
        } else if !missing.is_empty() {
            json!({"type": "missing_references", "references": missing})
        } else if kept.objects.contains_key(&name(object)) && query.get("overwrite").is_none_or(|it| it != "true") {
            json!({"type": "conflict"})
        } else {
            taken.push(object.clone());
            continue;
        };
        errors.push(json!({"type": object["type"], "id": object["id"], "meta": {}, "error": error}));
    }
    for object in &taken {
        kept.objects.insert(name(object), object.clone());
    }
    let mut answer = json!({"success": errors.is_empty(), "successCount": taken.len()});
    if !errors.is_empty() {
        answer["errors"] = json!(errors);
    }
    axum::Json(answer).into_response()
}

/// What is wrong with the body of a rule, as strict as the real schema.
fn wrong(body: &Map<String, Value>, kept: &Kept, settled: &[&str]) -> Option<Response> {
    let free = ["name", "tags", "schedule", "notify_when", "throttle", "params", "actions"];
    for (member, _) in body {
        if !free.contains(&member.as_str()) && !settled.contains(&member.as_str()) {
            return Some(refusal(400, &format!("[request body.{member}]: definition for this key is missing")));
        }
    }
    for member in ["name", "schedule", "notify_when", "params"].iter().chain(settled.iter().take(2)) {
        if !body.contains_key(*member) {
            return Some(refusal(400, &format!("[request body.{member}]: expected value of type [string]")));
        }
    }
    for action in body["actions"].as_array().unwrap() {
        let members: BTreeSet<_> = action.as_object().unwrap().keys().map(String::as_str).collect();
        if members != BTreeSet::from(["group", "id", "params"]) {
            return Some(refusal(400, &format!("[request body.actions.0]: {members:?}")));
        }
        if !kept.connectors.contains(action["id"].as_str().unwrap()) {
            return Some(refusal(400, "Failed to load action(s): not found"));
        }
    }
    None
}

fn shown(id: &str, rule: &Map<String, Value>) -> Value {
    let mut shown = Value::Object(rule.clone());
    shown["id"] = json!(id);
    for action in shown["actions"].as_array_mut().unwrap() {
        action["connector_type_id"] = json!(".some");
    }
    shown
}

async fn make(
    State(kept): Shared,
    InPath(id): InPath<String>,
    axum::Json(body): axum::Json<Map<String, Value>>,
) -> Response {
    let mut kept = kept.lock().unwrap();
    if uuid::Uuid::parse_str(&id).is_err() {
        let message =
            "Predefined IDs are not allowed for saved objects with encrypted attributes unless the ID is a UUID.";
        return refusal(400, message);
    }
    if let Some(status) = kept.refused.get(body["name"].as_str().unwrap()) {
        return refusal(*status, "Unauthorized to create this rule");
    }
    if let Some(wrong) = wrong(&body, &kept, &["consumer", "rule_type_id", "enabled"]) {
        return wrong;
    }
    if kept.rules.contains_key(&id) {
        return refusal(409, &format!("Saved object [alert/{id}] conflict"));
    }
    kept.rules.insert(id.clone(), body.clone());
    axum::Json(shown(&id, &body)).into_response()
}

async fn change(
    State(kept): Shared,
    InPath(id): InPath<String>,
    axum::Json(body): axum::Json<Map<String, Value>>,
) -> Response {
    let mut kept = kept.lock().unwrap();
    if let Some(wrong) = wrong(&body, &kept, &[]) {
        return wrong;
    }
    let Some(rule) = kept.rules.get_mut(&id) else {
        return refusal(404, &format!("Saved object [alert/{id}] not found"));
    };
    rule.extend(body);
    axum::Json(shown(&id, rule)).into_response()
}

async fn read(State(kept): Shared, InPath(id): InPath<String>) -> Response {
    match kept.lock().unwrap().rules.get(&id) {
        Some(rule) => axum::Json(shown(&id, rule)).into_response(),
        None => refusal(404, "not found"),
    }
}

impl Drop for FakeKibana {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeKibana {
    async fn start() -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        let api = Router::new()
            .route("/api/saved_objects/_import", post(import))
            .route("/api/alerting/rule/{id}", post(make).put(change).get(read));
        let app = Router::new()
            .nest("/s/ops", api.clone())
            .merge(api)
            .fallback(async || refusal(404, "Not Found"))
            .layer(axum::middleware::from_fn_with_state(kept.clone(), gate))
            .with_state(kept.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, kept, task }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.kept.lock().unwrap())
    }

    async fn apply(&self, variables: &[(&str, &str)], more: &[&str]) -> Came {
        apply(&format!("http://127.0.0.1:{}", self.port), variables, more).await
    }
}

async fn apply(url: &str, variables: &[(&str, &str)], more: &[&str]) -> Came {
    export(variables, &[&["--apply", "--kibana-url", url], more].concat()).await
}

async fn export(variables: &[(&str, &str)], more: &[&str]) -> Came {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), variables, &[&["export", "kibana"], more].concat()).await
}

fn uuid_of(id: &str) -> String {
    let rule = rules().into_iter().find(|rule| rule["id"] == id).unwrap();
    rule["uuid"].as_str().unwrap().to_owned()
}

const WIRED: [&str; 8] = [
    "--connector",
    "email=mail-1",
    "--connector",
    "slack=slack-1",
    "--operations",
    "ops@isp.example",
    "--management",
    "boss@isp.example",
];

#[tokio::test]
async fn without_a_kibana_the_files_are_printed_or_written() {
    let came = export(&[], &[]).await;
    assert_eq!((came.code, came.err.as_str()), (0, ""));
    assert_eq!(came.out, file("kibana/saved-objects.ndjson"));
    assert_eq!(export(&[], &["--only", "objects"]).await.out, came.out);
    assert_eq!(export(&[], &["--only", "rules"]).await.out, file("kibana/rules.json"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/kibana");
    let came = export(&[], &["--out", out.to_str().unwrap()]).await;
    assert_eq!(came.code, 0, "{came:?}");
    for name in ["saved-objects.ndjson", "rules.json"] {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), file(&format!("kibana/{name}")));
    }
    std::fs::write(folder.path().join("taken"), "").unwrap();
    let came = export(&[], &["--out", folder.path().join("taken").to_str().unwrap()]).await;
    assert!(came.code == 2 && came.err.contains("--out") && came.err.contains("taken"), "{came:?}");
}

#[tokio::test]
async fn objects_and_rules_are_put_into_a_kibana() {
    let kibana = FakeKibana::start().await;
    let came = kibana.apply(&[], &[]).await;
    assert_eq!((came.code, came.err.as_str()), (0, ""), "{came:?}");
    assert!(came.out.contains("imported 12 of 12 objects\n"), "{came:?}");
    let down = uuid_of("service-down-alert");
    assert!(came.out.contains(&format!("made rule service-down-alert ({down}), without actions\n")), "{came:?}");
    assert!(came.out.contains("new rules have no actions"), "{came:?}");
    kibana.with(|kept| {
        let ids: BTreeSet<_> = objects().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kept.objects.keys().map(|(_, id)| id.clone()).collect::<BTreeSet<_>>(), ids);
        assert_eq!(kept.rules.len(), 5);
        assert!(kept.rules.values().all(|rule| rule["actions"] == json!([]) && rule["enabled"] == true));
        assert_eq!(kept.log[0], "POST /api/saved_objects/_import?overwrite=true");
    });

    // Again: everything is brought up to date, and what people added to the rules stays.
    let own = json!([{"group": "query matched", "id": "pager", "params": {"text": "get up"}}]);
    kibana.with(|kept| {
        kept.connectors.insert("pager".to_owned());
        let rule = kept.rules.get_mut(&down).unwrap();
        rule.insert("actions".to_owned(), own.clone());
        rule.insert("enabled".to_owned(), json!(false));
        rule.insert("name".to_owned(), json!("old"));
    });
    let came = kibana.apply(&[], &[]).await;
    assert_eq!((came.code, came.err.as_str()), (0, ""), "{came:?}");
    assert!(came.out.contains(&format!("changed rule service-down-alert ({down}), its actions kept\n")), "{came:?}");
    assert!(!came.out.contains("new rules"), "{came:?}");
    kibana.with(|kept| {
        let rule = &kept.rules[&down];
        assert_eq!((&rule["actions"], &rule["enabled"]), (&own, &json!(false)));
        assert_eq!(rule["name"], "Service Down Alert");
        assert_eq!((kept.rules.len(), kept.objects.len()), (5, 12));
    });
}

#[tokio::test]
async fn connectors_and_addresses_take_the_place_of_the_examples() {
    let kibana = FakeKibana::start().await;
    kibana.with(|kept| kept.connectors.extend(["mail-1".to_owned(), "slack-1".to_owned()]));
    for word in ["made", "changed"] {
        let came = kibana.apply(&[], &[&["--only", "rules"][..], &WIRED].concat()).await;
        assert_eq!((came.code, came.err.as_str()), (0, ""), "{came:?}");
        assert_eq!(came.out.lines().filter(|line| line.starts_with(word)).count(), 5, "{came:?}");
        assert!(!came.out.contains("without actions") && !came.out.contains("kept"), "{came:?}");
    }
    kibana.with(|kept| {
        assert!(kept.objects.is_empty());
        let actions = |id| kept.rules[&uuid_of(id)]["actions"].clone();
        let to = |id| actions(id)[0]["params"]["to"].clone();
        assert_eq!(
            [&actions("active-outages-alert")[0]["id"], &actions("active-outages-alert")[1]["id"]],
            ["mail-1", "slack-1"]
        );
        assert_eq!(to("active-outages-alert"), json!(["ops@isp.example"]));
        assert_eq!(to("long-duration-outage-alert"), json!(["ops@isp.example", "boss@isp.example"]));
    });
    let kibana = FakeKibana::start().await;
    kibana.with(|kept| kept.connectors.insert("s".to_owned()));
    let came = kibana.apply(&[], &["--connector", "slack=s"]).await;
    assert_eq!(came.code, 0, "{came:?}");
    kibana.with(|kept| assert!(kept.rules.values().all(|rule| list(&rule["actions"]).len() == 1)));
}

#[tokio::test]
async fn each_refusal_is_named_and_the_rest_goes_on() {
    let kibana = FakeKibana::start().await;
    kibana.with(|kept| {
        kept.unknown.insert("index-pattern".to_owned());
        kept.refused.insert("Active Outages Alert".to_owned(), 403);
    });
    let came = kibana.apply(&[], &[]).await;
    assert_eq!(came.code, 1, "{came:?}");
    let lines: Vec<&str> = came.err.lines().collect();
    // Three index patterns, the eight that need them, one rule. The dashboard's own are in the same file.
    assert_eq!(lines.len(), 12, "{came:?}");
    assert_eq!(lines[0], format!("error: index-pattern {STATUS} was not imported: this Kibana does not know its type"));
    let needs = "error: visualization recent-outages was not imported: it needs index-pattern isp-service-outage-*, which \
                 is missing there";
    assert!(lines.contains(&needs), "{came:?}");
    let rule = "error: rule active-outages-alert was not made: HTTP 403, Unauthorized to create this rule";
    assert_eq!(lines[11], rule);
    assert!(came.out.contains("imported 1 of 12 objects\n"), "{came:?}");
    assert_eq!(came.out.lines().filter(|line| line.starts_with("made rule ")).count(), 4, "{came:?}");

    let kibana = FakeKibana::start().await;
    let came = kibana.apply(&[], &[&["--only", "rules"][..], &WIRED].concat()).await;
    assert_eq!((came.code, came.err.lines().count()), (1, 5), "{came:?}");
    assert!(came.err.contains("rule service-down-alert was not made: HTTP 400, Failed to load action(s)"), "{came:?}");
}

#[tokio::test]
async fn credentials_come_from_the_environment_and_are_never_shown() {
    let kibana = FakeKibana::start().await;
    kibana.with(|kept| kept.credentials = Some("Basic ZWxhc3RpYzpjaGFuZ2VtZQ==".to_owned()));
    let user = [("KIBANA_USERNAME", "elastic"), ("KIBANA_PASSWORD", "changeme")];
    assert_eq!(kibana.apply(&user, &[]).await.code, 0);
    kibana.with(|kept| kept.credentials = Some("ApiKey c2VjcmV0".to_owned()));
    assert_eq!(kibana.apply(&[("KIBANA_API_KEY", "c2VjcmV0")], &["--space", "ops"]).await.code, 0);
    kibana.with(|kept| assert_eq!(kept.log.last().unwrap().split('/').nth(1), Some("s")));

    let before = kibana.with(|kept| kept.log.len());
    let came = kibana.apply(&[("KIBANA_API_KEY", "d3Jvbmc")], &[]).await;
    assert!(came.code == 1 && came.err.contains("KIBANA_API_KEY") && !came.err.contains("d3Jvbmc"), "{came:?}");
    assert_eq!(came.err.lines().count(), 1, "{came:?}");
    // A wrong key is not tried again for each rule.
    assert_eq!(kibana.with(|kept| kept.log.len()), before + 1);

    for (variables, word) in [
        (&[("KIBANA_USERNAME", "elastic")][..], "together"),
        (&[("KIBANA_PASSWORD", "changeme")], "together"),
        (&[("KIBANA_API_KEY", "a"), ("KIBANA_USERNAME", "b")], "exclude"),
        (&[("KIBANA_API_KEY", "a\u{e9}\u{1}")], "character"),
    ] {
        let came = kibana.apply(variables, &[]).await;
        assert!(came.code == 2 && came.err.contains(word) && !came.err.contains("changeme"), "{came:?}");
    }
}

#[tokio::test]
async fn a_kibana_with_a_certificate_of_its_own_is_trusted_by_it_alone() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let kibana = FakeKibana::start().await;
    let port = kibana.port;
    let front = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut behind = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let came = apply(&url, &[], &["--ca-file", authority.to_str().unwrap()]).await;
    assert_eq!((came.code, came.err.as_str()), (0, ""), "{came:?}");
    let before = kibana.with(|kept| kept.log.len());
    let came = apply(&url, &[], &[]).await;
    assert!(came.code == 1 && came.err.contains("--ca-file"), "{came:?}");
    assert_eq!(kibana.with(|kept| kept.log.len()), before);
    std::fs::write(&authority, "no certificate").unwrap();
    let came = apply(&url, &[], &["--ca-file", authority.to_str().unwrap()]).await;
    assert!(came.code == 2 && came.err.contains("--ca-file"), "{came:?}");
    front.abort();
}

#[tokio::test]
async fn what_is_no_kibana_is_said_so() {
    let html = Stub::start(Script::Reply(200, "<html>Please sign in</html>".to_owned())).await;
    let came = apply(&html.url(), &[], &[]).await;
    assert!(came.code == 1 && came.err.contains("is it Kibana?"), "{came:?}");
    assert_eq!(came.err.lines().count(), 1);
    // A list is JSON, and no answer of Kibana to an import.
    html.set(Script::Reply(200, "[]".to_owned()));
    assert_eq!(apply(&html.url(), &[], &[]).await.code, 1);
    // An answer without any count is no success.
    html.set(Script::Reply(200, "{}".to_owned()));
    let came = apply(&html.url(), &[], &["--only", "objects"]).await;
    assert!(came.code == 1 && came.err.contains("0 of 12"), "{came:?}");

    let hanging = Stub::start(Script::Hang).await;
    let came = apply(&hanging.url(), &[], &["--timeout", "300ms"]).await;
    assert!(came.code == 1 && came.err.contains("--timeout"), "{came:?}");
    let came = apply(&format!("http://127.0.0.1:{}", free_port()), &[], &[]).await;
    assert!(came.code == 1 && came.err.contains("is Kibana running there?"), "{came:?}");

    // OpenSearch Dashboards takes the objects and has no such rules.
    let kibana = FakeKibana::start().await;
    let url = format!("http://127.0.0.1:{}/missing", kibana.port);
    let came = apply(&url, &[], &["--only", "rules"]).await;
    assert!(came.code == 1 && came.err.contains("is this a Kibana with alerting?"), "{came:?}");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_before_anything_is_sent() {
    let kibana = FakeKibana::start().await;
    for (arguments, word) in [
        (&["--connector", "email=a"][..], "--operations"),
        (&["--connector", "slack=a", "--operations", "a@b.example"], "--management"),
        (&["--operations", "a@b.example", "--management", "c@d.example"], "email=ID"),
        (&["--connector", "slack=a", "--connector", "slack=b"], "twice"),
        (&["--connector", "pager=a"], "email=ID or slack=ID"),
        (&["--connector", "slack="], "empty"),
        (&["--space", "a/../b"], "--space"),
        (&["--ca-file", "/nowhere/at/all.pem"], "--ca-file"),
        (&["--out", "somewhere"], "--out"),
        (&["--timeout", "soon"], "--timeout"),
    ] {
        let came = kibana.apply(&[], arguments).await;
        assert!(came.code == 2 && came.err.contains(word), "{arguments:?}: {came:?}");
    }
    assert_eq!(kibana.with(|kept| kept.log.clone()), Vec::<String>::new());
    for (url, word) in [("localhost:5601", "http://"), ("http://user:secret@127.0.0.1:1", "KIBANA_USERNAME")] {
        let came = apply(url, &[], &[]).await;
        assert!(came.code == 2 && came.err.contains(word) && !came.err.contains("secret"), "{came:?}");
    }
    for lacking in [&["--apply"][..], &["--kibana-url", "http://127.0.0.1:1"], &["--space", "ops"]] {
        assert_eq!(export(&[], lacking).await.code, 2, "{lacking:?}");
    }
}
