//! The OpenAPI document: made of the code, equal to its committed copy, true of every answer; its pages in a real
//! browser; and every operation asked what its description allows, and what it does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Reason};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::support::{Answer, Binary, KEY, Script, Stub, TestApp, command};
use crate::system::sample;

/// Longest time for all of schemathesis, and for one page in a browser: limits, never measures.
const ALL_OPERATIONS: Duration = Duration::from_secs(600);
const ONE_PAGE: Duration = Duration::from_secs(120);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of schemathesis and of the Python it brings: `TEST_SCHEMATHESIS`, or where `tests/run` puts it.
fn tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("TEST_SCHEMATHESIS").map(PathBuf::from);
    let path = folder.unwrap_or_else(|| root().join("target/schemathesis/bin")).join(name);
    assert!(
        path.exists(),
        "{} is missing: tests/run installs it, or set TEST_SCHEMATHESIS to its folder",
        path.display()
    );
    path
}

async fn document(app: &TestApp) -> Value {
    app.get("/openapi.json").await.json
}

/// Method, path and description of every operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_command_prints_the_committed_document_without_settings_or_service() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing could start with this.
    let output = command(folder.path()).env("PORT", "no port").arg("openapi").output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let committed = std::fs::read_to_string(root().join("config/openapi.json")).unwrap();
    assert!(
        printed == committed,
        "config/openapi.json is not what the code says: cargo run -- openapi > config/openapi.json"
    );
    let served = TestApp::built_in().await.get("/openapi.json").await;
    assert_eq!(served.text, committed);
}

#[test]
fn only_described_routes_are_added() {
    let page = std::fs::read_to_string(root().join("src/api.rs")).unwrap();
    assert!(page.matches(".routes(routes!(").count() > 60);
    for other in [".route(", ".route_service(", ".nest(", ".nest_service(", ".merge(", ".fallback_service("] {
        assert!(!page.contains(other), "{other} adds what is in no document");
    }
}

#[tokio::test]
async fn every_operation_is_described_in_full() {
    let document = document(&TestApp::built_in().await).await;
    assert_eq!(document["openapi"], "3.1.0");
    let tags: Vec<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeMap::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let name = format!("{method} {path}");
        assert_eq!(ids.insert(id, name.clone()), None, "{name}: an operation id is there twice");
        assert!(operation["summary"].as_str().unwrap().len() > 10, "{name}: no summary");
        assert!(!operation["summary"].as_str().unwrap().contains("GET /"), "{name}: its path is no summary");
        assert!(tags.contains(&operation["tags"][0].as_str().unwrap()), "{name}: no tag");
        let responses = operation["responses"].as_object().unwrap();
        let open = ["/livez", "/readyz", "/health/live"].contains(&path.as_str());
        assert_eq!(operation.get("security").is_some(), open, "{name}");
        assert_eq!(responses.contains_key("401"), !open, "{name}");
        assert_eq!(responses.contains_key("403"), method != "GET", "{name}");
        assert_eq!(
            responses.contains_key("404"),
            path.contains('{') || path == "/metrics" || path == "/metrics/history",
            "{name}"
        );
        let places: Vec<&str> = path.split('/').filter(|part| part.starts_with('{')).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
        assert_eq!(named, places.len(), "{name}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
}

/// Three services, one of them down with an outage and an alert, one that depends on it and one registered over the
/// API; a maintenance window, and a change of the settings.
async fn eventful(stub: &Stub) -> TestApp {
    let services = format!(
        "[[service]]\nname = \"api-gateway\"\nurl = \"{}/health\"\ncritical = true\ncritical_path = true\n\
         depends_on = [\"billing\"]\ntags = [\"edge\"]\n\
         [[service]]\nname = \"billing\"\nurl = \"http://billing.internal:8080/health\"\ncritical = true\n\
         [[service]]\nname = \"cache\"\nurl = \"redis://cache.internal\"\ncategory = \"infrastructure\"\n",
        stub.url()
    );
    let app = TestApp::with_file(&services, &[("ALERT_NOTIFICATION_CHANNELS", "log")]).await;
    app.answer("api-gateway", 45).await;
    app.answer("cache", 1).await;
    app.fail("cache", 3).await;
    app.fail("billing", 3).await;
    app.answer("api-gateway", 45).await;
    app.take_in("billing", Observation::failed(Reason::ConnectRefused, "")).await;
    app.app.engine.take_host(sample(&app));
    app
}

/// What is asked of an operation that writes: its path, its body, and the code of the answer.
struct Asked {
    path: String,
    body: Value,
    code: u16,
}

/// Every write, in an order in which each finds what it needs.
fn writes(window: &str, outage: &str, alerts: [&str; 3]) -> Vec<(&'static str, Asked)> {
    let ask = |path: &str, body: Value, code| Asked { path: path.to_owned(), body, code };
    let reports = json!({
        "id": "reports", "name": "Reports", "url": "https://reports.example.com/health", "check_interval": 60,
        "timeout": 5, "retries": 3, "expected_status_code": 200, "expected_response_pattern": "\"status\":\"UP\"",
        "depends_on": ["api-gateway"], "tags": ["nightly"],
    });
    let auth = json!({
        "service_name": "auth_service", "health_check_url": "http://auth:8001/health", "timeout_seconds": 5.0,
        "check_interval_seconds": 30,
    });
    let limits = json!({"response_time_ms": 2500, "error_rate": 0.1, "availability": 0.9});
    let acknowledge = json!({"acknowledged_by": "noc", "note": "Looking into it", "until": "2026-02-01T08:00:00Z"});
    vec![
        ("registerService", ask("/services", reports, 201)),
        ("changeService", ask("/services/reports", json!({"check_interval": 120, "critical": true}), 200)),
        ("setCriticalLimits", ask("/services/reports/alerts/thresholds", limits, 200)),
        ("checkService", ask("/services/api-gateway/check", Value::Null, 200)),
        ("removeService", ask("/services/reports", Value::Null, 204)),
        ("registerHealthService", ask("/health/services", auth, 201)),
        ("changeHealthService", ask("/health/services/auth_service", json!({"timeout_seconds": 3}), 200)),
        ("removeHealthService", ask("/health/services/auth_service", Value::Null, 204)),
        ("acknowledgeAlert", ask(&format!("/alerts/{}/acknowledge", alerts[0]), acknowledge, 200)),
        ("resolveAlert", ask(&format!("/alerts/{}/resolve", alerts[1]), json!({"resolved_by": "noc"}), 200)),
        ("clearAlert", ask(&format!("/alerts/{}/clear", alerts[2]), Value::Null, 200)),
        ("resolveOutage", ask(&format!("/outages/{outage}/resolve"), json!({"resolution_notes": "Restarted"}), 200)),
        (
            "changeWindow",
            ask(&format!("/maintenance/{window}"), json!({"description": "Database upgrade, part two"}), 200),
        ),
        ("removeWindow", ask(&format!("/maintenance/{window}"), Value::Null, 204)),
        ("testReceiver", ask("/notifications/test/log", Value::Null, 200)),
        ("replayDeadLetters", ask("/notifications/dead-letters/replay", json!({"ids": []}), 200)),
        ("replayRefusedDocuments", ask("/exports/dead-letters/replay", json!({"ids": []}), 200)),
        ("changeConfig", ask("/config", json!({"service_check_interval": 45, "critical_cpu_threshold": 85}), 200)),
        ("reloadConfig", ask("/config/reload", Value::Null, 200)),
        ("stopMonitoring", ask("/monitoring/stop", Value::Null, 200)),
        ("startMonitoring", ask("/monitoring/start", Value::Null, 200)),
    ]
}

/// What the test has seen: an answer of each operation, and the body that was sent for it.
#[derive(Default)]
struct Seen {
    answers: Vec<Value>,
    examples: Map<String, Value>,
}

impl Seen {
    fn note(&mut self, id: &str, sent: &Value, answer: &Answer) {
        let media = answer.headers.get("content-type").map_or("", |media| media.to_str().unwrap());
        let media = media.split(';').next().unwrap();
        let body = if answer.json.is_null() { Value::from(answer.text.as_str()) } else { answer.json.clone() };
        self.answers.push(json!({
            "operation": id, "status": answer.status.as_u16(), "media": media, "body": body,
        }));
        let example = self.examples.entry(id).or_insert_with(|| json!({}));
        if !sent.is_null() {
            example["request"] = sent.clone();
        }
        if media == "text/plain" {
            let lines: Vec<&str> = answer.text.lines().take(12).collect();
            example["text"] = Value::from(lines.join("\n") + "\n");
        }
        if answer.status.is_success() && !answer.json.is_null() {
            example["response"] = answer.json.clone();
        }
    }
}

#[tokio::test]
async fn every_operation_answers_as_it_is_described() {
    let stub = Stub::start(Script::ok()).await;
    let app = eventful(&stub).await;
    let key = [("x-service-key", KEY), ("content-type", "application/json")];
    let document = document(&app).await;
    let operations = operations(&document);
    let mut seen = Seen::default();

    let window = json!({
        "start_time": "2026-01-31T22:00:00Z", "end_time": "2026-02-28T23:00:00Z", "description": "Database upgrade",
        "name": "Nightly upgrades", "created_by": "admin", "endpoint_ids": ["api-gateway"],
        "recurrence": {"cron": "0 0 3 * * Sun", "duration_minutes": 60, "timezone": "UTC"},
    });
    let made = app.ask("POST", "/maintenance", &key, &window.to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    seen.note("createWindow", &window, &made);
    app.ask("PUT", "/config", &key, r#"{"retry_attempts": 2}"#).await;
    let window = made.json["id"].as_str().unwrap().to_owned();
    let outage = app.get("/outages").await.json["items"][0]["id"].as_str().unwrap().to_owned();
    let alerts = app.get("/alerts/active").await.json["alerts"].as_array().unwrap().clone();
    let alerts: Vec<&str> = alerts.iter().map(|alert| alert["id"].as_str().unwrap()).collect();
    assert!(alerts.len() >= 3, "{alerts:?}");

    let target = Stub::start(Script::ok()).await;
    for (_, path, operation) in operations.iter().filter(|(method, ..)| method == "GET") {
        let id = operation["operationId"].as_str().unwrap();
        // Never ends: tests/it/events.rs reads it.
        if id == "followEvents" {
            continue;
        }
        let thing = match path.split('/').nth(1).unwrap() {
            "outages" => &outage,
            "maintenance" => &window,
            "alerts" => alerts[0],
            "docs" => "page.js",
            "redoc" => "page.css",
            _ => "billing",
        };
        let path = ["{id}", "{name}", "{file}"].iter().fold(path.clone(), |path, place| path.replace(place, thing));
        let (path, more) = match id {
            "probeTarget" => (format!("{path}?target={}", target.url()), '&'),
            _ => (path, '?'),
        };
        let answer = app.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        seen.note(id, &Value::Null, &answer);
        // The same, if there is nothing else to say; refused, if there is something wrong with it.
        if let Some(tag) = answer.headers.get("etag") {
            let tag = [key[0], ("if-none-match", tag.to_str().unwrap())];
            let unchanged = app.ask("GET", &path, &tag, "").await;
            assert_eq!(unchanged.status, 304, "{path}");
            assert!(operation["responses"].get("304").is_some(), "{path} has an ETag and no 304");
        } else {
            assert!(operation["responses"].get("304").is_none(), "{path} has a 304 and no ETag");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or_default();
            if parameter["in"] != "query" {
                continue;
            }
            let kind = &parameter["schema"]["type"];
            let wrong = if kind == "integer" || kind == "boolean" || parameter["schema"].get("enum").is_some() {
                format!("{path}{more}{name}=wrong")
            } else {
                continue;
            };
            let refused = app.get(&wrong).await;
            assert_eq!(
                (refused.status.as_u16(), &refused.json["detail"][0]["loc"]),
                (422, &json!(["query", name])),
                "{wrong}"
            );
            seen.note(id, &Value::Null, &refused);
            if let Some(default) = parameter["schema"].get("default") {
                let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
                let asked = app.get(&format!("{path}{more}{name}={default}")).await;
                assert_eq!(asked.status, 200, "{path}?{name}={default}");
                let counts = |answer: &Answer| (answer.json["total"].clone(), answer.json["data_points"].clone());
                assert_eq!(counts(&asked), counts(&answer), "{path}: {name} is not {default} by default");
            }
        }
    }
    for text in ["text/plain", "application/openmetrics-text"] {
        for (id, path) in [("getMetrics", "/metrics"), ("getPrometheusMetrics", "/metrics/prometheus")] {
            let answer = app.ask("GET", path, &[key[0], ("accept", text)], "").await;
            seen.note(id, &Value::Null, &answer);
        }
    }
    let alerts = [alerts[0], alerts[1], alerts[2]];
    for (id, asked) in writes(&window, &outage, alerts) {
        let (method, ..) = operations.iter().find(|(_, _, operation)| operation["operationId"] == id).unwrap();
        let body = if asked.body.is_null() { String::new() } else { asked.body.to_string() };
        let answer = app.ask(method, &asked.path, &key, &body).await;
        assert_eq!(answer.status, asked.code, "{method} {}: {}", asked.path, answer.text);
        seen.note(id, &asked.body, &answer);
    }
    // What may go wrong has its description, too.
    for (method, path, operation) in &operations {
        let id = operation["operationId"].as_str().unwrap();
        if path.contains('{') {
            let gone = ["{id}", "{name}", "{receiver}", "{file}"]
                .iter()
                .fold(path.clone(), |path, place| path.replace(place, "no-such-thing"));
            let body = if operation.get("requestBody").is_some() { "{}" } else { "" };
            let answer = app.ask(method, &gone, &key, body).await;
            assert_eq!(answer.status, 404, "{method} {gone}: {}", answer.text);
            seen.note(id, &Value::Null, &answer);
        }
        if method == "POST" || method == "PUT" {
            let filled = path.replace("{id}", "billing").replace("{name}", "billing").replace("{receiver}", "log");
            for (body, code) in [("{", 400), ("{\"no_such_field\": 1}", 422), ("17", 422)] {
                let answer = app.ask(method, &filled, &key, body).await;
                // Of the services file, which comes first.
                if ![404, 409].contains(&answer.status.as_u16()) {
                    assert_eq!(answer.status, code, "{method} {filled} {body}: {}", answer.text);
                }
                seen.note(id, &Value::Null, &answer);
            }
        }
    }
    let told: Vec<&Value> = seen.answers.iter().map(|answer| &answer["operation"]).collect();
    for (method, path, operation) in &operations {
        let id = &operation["operationId"];
        assert!(told.contains(&id) || id == "followEvents", "{method} {path} was not asked");
    }

    if std::env::var_os("RECORD_EXAMPLES").is_some() {
        let text =
            serde_json::to_string_pretty(&tidied(seen.examples, &stub.url(), &app.folder.path().display().to_string()))
                .unwrap();
        std::fs::write(root().join("src/api/document/examples.json"), text + "\n").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (described, answers) = (folder.path().join("document.json"), folder.path().join("answers.json"));
    std::fs::write(&described, document.to_string()).unwrap();
    std::fs::write(&answers, Value::from(seen.answers).to_string()).unwrap();
    let mut check = Command::new(tool("python"));
    check.arg(root().join("tests/answers.py")).args([described, answers]).kill_on_drop(true);
    let checked = check.output().await.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

/// Examples that are short enough to be read: the first items of lists, the first settings, and no chance in them.
fn tidied(examples: Map<String, Value>, stub: &str, folder: &str) -> Value {
    fn shorten(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.truncate(2);
                items.iter_mut().for_each(shorten);
            }
            Value::Object(fields) => {
                for (name, value) in fields.iter_mut() {
                    if name == "settings" && value.is_object() {
                        let sections = value.as_object_mut().unwrap();
                        sections.retain(|name, _| name == "checks");
                        sections.values_mut().for_each(|section| {
                            let kept = section.as_object().unwrap().clone().into_iter().take(2);
                            *section = Value::Object(kept.collect());
                        });
                    }
                    shorten(value);
                }
            }
            _ => {}
        }
    }
    let mut all = Value::Object(examples);
    shorten(&mut all);
    all["getOpenApi"]["response"]["paths"] = json!({});
    all["getOpenApi"]["response"]["components"] = json!({});
    let mut text = serde_json::to_string(&all).unwrap().replace(stub, "http://api-gateway.internal:8080");
    text = text.replace(folder, "/data").replace("test-1", "host-1a2b3c4d");
    let id = regex::Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
    let mut known: Vec<String> = Vec::new();
    let all: Vec<String> = id.find_iter(&text).map(|found| found.as_str().to_owned()).collect();
    for found in all {
        if !known.contains(&found) {
            text = text.replace(
                &found,
                &format!("0197a3c2-5b1e-7d40-9a55-{:012x}", 0x3f0c_6f1f_2b11_u64 + known.len() as u64),
            );
            known.push(found);
        }
    }
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn pages_and_their_files_are_packed_tagged_and_fenced() {
    let app = TestApp::with(&[("AUTH_SCOPE", "internal")]).await;
    let files =
        ["/docs", "/docs/page.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/redoc", "/redoc/page.css"];
    for path in files.into_iter().chain(["/redoc/redoc.standalone.js", "/openapi.json", "/docs/"]) {
        let answer = app.ask("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("http") && !policy.contains("unsafe-eval"), "{path}: {policy}");
        assert!(!policy.contains("script-src 'self' 'unsafe-inline'"), "{path}: {policy}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(!answer.headers.contains_key("content-encoding"), "{path}");
    }
    for path in ["/docs/oauth2-redirect.html", "/docs/swagger-ui.js", "/docs/..%2fpage.js", "/redoc/page.js", "/docs/"]
    {
        let answer = app.ask("GET", path, &[], "").await;
        assert_eq!(answer.status, if path == "/docs/" { 200 } else { 404 }, "{path}");
    }
    let accepts = |value: &'static str| [("accept-encoding", value)];
    for (accepted, packed) in [("gzip, br", true), ("GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false)] {
        let request = Request::builder().uri("/redoc/redoc.standalone.js").header("accept-encoding", accepted);
        let request = request.body(Body::empty()).unwrap();
        let response = app.app.gate.call([127, 0, 0, 1].into(), request).await;
        assert_eq!(response.headers().contains_key("content-encoding"), packed, "{accepted}");
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(bytes.starts_with(&[0x1f, 0x8b]), packed, "{accepted}");
        assert_eq!(bytes.len() < 500_000, packed, "{accepted}");
    }
    assert_eq!(app.ask("HEAD", "/docs", &accepts("gzip"), "").await.status, 200);
}

/// The page at `path` after its scripts have run, and what the browser had to say.
async fn browsed(binary: &Binary, path: &str) -> (String, String) {
    let chromium = std::env::var("TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    let profile = tempfile::tempdir().unwrap();
    let shown = Command::new(&chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"])
        .args(["--virtual-time-budget=30000", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://127.0.0.1:{}{path}", binary.port))
        .kill_on_drop(true)
        .output();
    let shown = tokio::time::timeout(ONE_PAGE, shown).await.expect("the page in time");
    let shown =
        shown.unwrap_or_else(|error| panic!("{chromium} ({error}): tests/run installs it, or set TEST_CHROMIUM"));
    let console = String::from_utf8_lossy(&shown.stderr);
    let console = console.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    (String::from_utf8_lossy(&shown.stdout).into_owned(), console)
}

#[tokio::test]
async fn both_pages_show_every_operation_in_a_browser_and_load_nothing_from_elsewhere() {
    let stub = Stub::start(Script::ok()).await;
    let services = format!("[[service]]\nname = \"api-gateway\"\nurl = \"{}\"\n", stub.url());
    let binary = Binary::start(&services, &[("AUTH_SCOPE", "internal")]).await;
    let document = binary.get("/openapi.json").await;
    let operations = operations(&document);
    for path in ["/docs", "/redoc"] {
        let (page, console) = browsed(&binary, path).await;
        // What the policy forbids, and what cannot be loaded, is told there.
        assert_eq!(console, "", "{path}");
        for (method, described, operation) in &operations {
            let id = operation["operationId"].as_str().unwrap();
            assert!(
                page.contains(&format!("{id}\"")) || page.contains(id),
                "{path} does not show {method} {described}"
            );
        }
        assert!(page.contains("Authoriz"), "{path} tells of no key");
    }
}

#[tokio::test]
async fn every_operation_stands_whatever_its_description_allows_and_forbids() {
    let (well, down) = (Stub::start(Script::ok()).await, Stub::start(Script::Reply(500, String::new())).await);
    let services = format!(
        "[[service]]\nname = \"api-gateway\"\nurl = \"{}\"\ncritical = true\n\
         [[service]]\nname = \"billing\"\nurl = \"{}\"\ncritical = true\ndepends_on = [\"api-gateway\"]\n",
        well.url(),
        down.url()
    );
    let binary = Binary::start(&services, &[]).await;
    binary.wait_until("/outages/active", |body| body["total"] == 1).await;
    // What is registered in between is not probed.
    binary.post("/monitoring/stop").await;
    let asked = Command::new(tool("schemathesis"))
        .arg(format!("--config-file={}", root().join("tests/schemathesis.toml").display()))
        .args(["run", &format!("http://127.0.0.1:{}/openapi.json", binary.port)])
        .args(["--header", &format!("x-service-key: {KEY}")])
        // Its stream never ends: tests/it/events.rs reads it.
        .args(["--exclude-operation-id", "followEvents"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--workers", "1"])
        .args(["--suppress-health-check", "all", "--continue-on-failure", "--request-timeout", "30", "--no-color"])
        .current_dir(binary.folder.path())
        .kill_on_drop(true)
        .output();
    let asked = tokio::time::timeout(ALL_OPERATIONS, asked).await.expect("all operations in time").unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    let said: String = said.lines().map(|line| line.chars().take(400).collect::<String>() + "\n").collect();
    assert!(asked.status.success(), "{said}");
    // Nor does it ask for the document, which it has read already.
    let tested = document_size(&binary).await - 2;
    assert!(said.contains(&format!("Tested: {tested}")), "{said}");
    // It has not wrecked itself.
    binary.post("/monitoring/start").await;
    assert_eq!(binary.get("/livez").await["status"], "alive");
    assert!(!binary.log().contains("panicked"), "{}", binary.log());
}

async fn document_size(binary: &Binary) -> usize {
    operations(&binary.get("/openapi.json").await).len()
}
