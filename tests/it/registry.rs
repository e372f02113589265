//! Registration over the API: both spellings, durable, in force at once, refused with its reason, and given back whole.

use std::sync::Arc;
use std::time::Duration;

use as_infrastructure_service::domain::service::ServiceName;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Answer, KEY, Script, Stub, TestApp, eventually};

pub async fn send(app: &TestApp, method: &str, path: &str, body: Value) -> Answer {
    app.ask(method, path, &[("x-service-key", KEY)], &body.to_string()).await
}

async fn names(app: &TestApp) -> Vec<String> {
    let names = app.get("/services?view=names").await.json;
    names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_endpoint_of_003_is_registered_changed_and_removed() {
    let app = TestApp::with_file("", &[]).await;
    let body = json!({
        "id": "api-gateway", "name": "API Gateway", "url": "https://api.example.com/health", "protocol": "HTTPS",
        "check_interval": 60, "timeout": 5, "retries": 3, "expected_status_code": 200,
        "expected_response_pattern": "\"status\":\"UP\"", "is_active": true,
        "headers": {"authorization": "Bearer secret-token-1"},
    });
    let made = send(&app, "POST", "/services/", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    insta::assert_json_snapshot!("registered", made.json);
    assert!(!made.text.contains("secret-token"));

    let shown = app.get("/services/API-gateway").await;
    assert_eq!((shown.status, &shown.json["id"]), (StatusCode::OK, &json!("api-gateway")));
    assert_eq!(shown.json["service_name"], "api-gateway");
    let again = send(&app, "POST", "/services", json!({"id": "Api-Gateway", "url": "http://a/"})).await;
    assert_eq!(again.json["detail"], "Service endpoint with ID Api-Gateway already exists");
    assert_eq!(again.status, StatusCode::CONFLICT);

    let changed = send(&app, "PUT", "/services/api-gateway", json!({"timeout": 2.5, "id": "api-gateway"})).await;
    assert_eq!((changed.status, &changed.json["timeout"]), (StatusCode::OK, &json!(2.5)));
    assert_eq!(changed.json["name"], "API Gateway");
    let renamed = send(&app, "PUT", "/services/api-gateway", json!({"id": "other"})).await;
    assert_eq!(renamed.status, StatusCode::UNPROCESSABLE_ENTITY);

    let gone = send(&app, "DELETE", "/services/api-gateway", json!({})).await;
    assert_eq!((gone.status, gone.text.as_str()), (StatusCode::NO_CONTENT, ""));
    let missing = app.get("/services/api-gateway").await;
    assert_eq!(missing.json["detail"], "Service endpoint with ID api-gateway not found");
}

#[tokio::test]
async fn a_client_of_002_registers_at_each_start() {
    let app = TestApp::with_file("", &[]).await;
    let body = json!({
        "service_name": "auth_service", "health_check_url": "http://127.0.0.1:8001/health", "timeout_seconds": 5.0,
        "check_interval_seconds": 30,
    });
    let first = send(&app, "POST", "/health/services", body.clone()).await;
    assert_eq!(
        (first.status, &first.json["message"]),
        (StatusCode::CREATED, &json!("Service 'auth_service' registered successfully"))
    );
    let same = send(&app, "POST", "/health/services", body.clone()).await;
    assert_eq!(
        (same.status, &same.json["message"]),
        (StatusCode::OK, &json!("Service 'auth_service' already registered"))
    );
    let mut other = body;
    other["timeout_seconds"] = json!(4);
    let replaced = send(&app, "POST", "/health/services", other).await;
    assert_eq!((replaced.status, &replaced.json["timeout"]), (StatusCode::OK, &json!(4)));
    let missing = send(&app, "DELETE", "/health/services/nobody", json!({})).await;
    assert_eq!((missing.status, &missing.json["detail"]), (StatusCode::NOT_FOUND, &json!("Service nobody not found")));
}

#[tokio::test]
async fn registrations_survive_a_restart_and_what_was_refused_is_not_there() {
    let app = TestApp::with_file("", &[]).await;
    for n in 0..5 {
        let made = send(
            &app,
            "POST",
            "/services",
            json!({"id": format!("s{n}"), "url": format!("tcp://127.0.0.1:{}", 9000 + n)}),
        )
        .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    }
    send(&app, "DELETE", "/services/s3", json!({})).await;
    let refused = send(&app, "POST", "/services", json!({"id": "s9", "url": "tcp://127.0.0.1"})).await;
    assert_eq!(refused.json["detail"][0]["loc"], json!(["body", "url"]));
    app.fail("s1", 3).await;
    let before = app.get("/services/s1").await.json;
    let file = app.folder.path().join("services.toml").display().to_string();
    let app = app.restart(&[("SERVICES_FILE", &file)]).await;
    assert_eq!(names(&app).await, ["s0", "s1", "s2", "s4"]);
    let after = app.get("/services/s1").await.json;
    for field in ["created_at", "updated_at", "url", "status", "error_message"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(app.get("/outages/active").await.json["total"], 1);
}

#[tokio::test]
async fn the_services_file_wins() {
    let file = "[[service]]\nname = \"auth\"\nurl = \"http://127.0.0.1:3301\"\ntimeout_ms = 4000\n";
    let app = TestApp::with_file(file, &[]).await;
    let told = "Service auth is defined in the services file; change it there";
    for (method, path) in [("PUT", "/services/auth"), ("DELETE", "/services/Auth"), ("DELETE", "/health/services/auth")]
    {
        let body = if method == "PUT" { json!({"timeout": 1}) } else { json!({}) };
        let answer = send(&app, method, path, body).await;
        assert_eq!((answer.status, &answer.json["detail"]), (StatusCode::CONFLICT, &json!(told)), "{method} {path}");
    }
    let equal = json!({"id": "auth", "url": "http://127.0.0.1:3301/health", "timeout": 4});
    let same = send(&app, "POST", "/services", equal.clone()).await;
    assert_eq!((same.status, &same.json["source"]), (StatusCode::OK, &json!("file")), "{}", same.text);
    let other = send(
        &app,
        "POST",
        "/health/services",
        json!({"id": "auth", "url": "http://127.0.0.1:3301/health", "timeout": 3}),
    )
    .await;
    assert_eq!((other.status, &other.json["detail"]), (StatusCode::CONFLICT, &json!(told)));

    // Registered first, defined in the file later: set aside, and there again when the file lets go.
    send(&app, "POST", "/services", json!({"id": "web", "url": "http://127.0.0.1:3000/x"})).await;
    let path = app.folder.path().join("services.toml");
    std::fs::write(&path, format!("{file}[[service]]\nname = \"web\"\nurl = \"http://127.0.0.1:3000/y\"\n")).unwrap();
    assert_eq!(send(&app, "POST", "/config/reload", json!({})).await.status, StatusCode::OK);
    assert_eq!(app.get("/services/web").await.json["url"], "http://127.0.0.1:3000/y");
    std::fs::write(&path, file).unwrap();
    send(&app, "POST", "/config/reload", json!({})).await;
    assert_eq!(app.get("/services/web").await.json["url"], "http://127.0.0.1:3000/x");
}

#[tokio::test]
async fn two_writers_do_not_overwrite_each_other() {
    let app = TestApp::with_file("", &[]).await;
    send(&app, "POST", "/services", json!({"id": "auth", "url": "tcp://127.0.0.1:1"})).await;
    let tag = app.get("/services/auth").await.headers["etag"].to_str().unwrap().to_owned();
    let put = async |tag: &str, body: Value| {
        app.ask("PUT", "/services/auth", &[("x-service-key", KEY), ("if-match", tag)], &body.to_string()).await
    };
    // A check in between changes the answer, not the definition.
    app.answer("auth", 5).await;
    app.clock.advance(Duration::from_secs(1));
    let first = put(&tag, json!({"description": "first"})).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let second = put(&tag, json!({"description": "second"})).await;
    assert_eq!(
        (second.status, &second.json["error"]),
        (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
    );
    assert_eq!(put("nonsense", json!({})).await.status, StatusCode::PRECONDITION_FAILED);
    let own = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(put(&own, json!({"description": "third"})).await.status, StatusCode::OK);
    let stale = app.ask("DELETE", "/services/auth", &[("x-service-key", KEY), ("if-match", &tag)], "").await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(app.get("/services/auth").await.json["description"], "third");
}

#[tokio::test]
async fn dependencies_are_kept_whole() {
    let app = TestApp::with_file("", &[]).await;
    let register = async |id: &str, needs: Value| {
        send(&app, "POST", "/services", json!({"id": id, "url": "tcp://127.0.0.1:1", "depends_on": needs})).await
    };
    assert_eq!(register("a", json!([])).await.status, StatusCode::CREATED);
    assert_eq!(register("b", json!(["a"])).await.status, StatusCode::CREATED);
    assert_eq!(register("c", json!([{"name": "B", "hold_alerts": false}])).await.status, StatusCode::CREATED);
    let unknown = register("d", json!(["nobody"])).await;
    assert_eq!(unknown.json["detail"][0]["msg"], "names nobody, which is not a service");
    let cycle = send(&app, "PUT", "/services/a", json!({"dependencies": ["c"]})).await;
    assert_eq!(cycle.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(cycle.json["detail"][0]["loc"], json!(["body", "dependencies"]));
    assert_eq!(cycle.json["detail"][0]["msg"], "makes a dependency cycle: a -> c -> B -> a");
    let itself = send(&app, "PUT", "/services/a", json!({"depends_on": ["a"]})).await;
    assert_eq!(itself.json["detail"][0]["msg"], "makes a dependency cycle: a -> a");
    let needed = send(&app, "DELETE", "/services/a", json!({})).await;
    assert_eq!(
        (needed.status, &needed.json["detail"]),
        (StatusCode::CONFLICT, &json!("Service a is still needed by b"))
    );
    let impact = app.get("/services/a/impact").await.json;
    assert_eq!(
        impact,
        json!({"service": "a", "dependents": ["b", "c"], "critical_path_affected": [], "root_cause": null, "redundancy_reduced": []})
    );
    app.fail("a", 3).await;
    app.fail("b", 3).await;
    assert_eq!(app.get("/services/b/impact").await.json["root_cause"], "a");
    assert_eq!(app.get("/services/a/impact").await.json["root_cause"], Value::Null);
}

#[tokio::test]
async fn bad_bodies_are_named_and_change_nothing() {
    let app = TestApp::with_file("", &[("ENVIRONMENT", "production"), ("INTERNAL_SERVICE_KEY", KEY_2)]).await;
    let post = async |body: &str| app.ask("POST", "/services", &[("x-service-key", KEY_2)], body).await;
    let check = async |body: Value, loc: Value| {
        let answer = post(&body.to_string()).await;
        assert_eq!(
            (answer.status, &answer.json["detail"][0]["loc"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &loc),
            "{}",
            answer.text
        );
        answer
    };
    check(json!({"url": "http://example.com/"}), json!(["body", "id"])).await;
    check(json!({"id": "status", "url": "http://example.com/"}), json!(["body", "id"])).await;
    check(json!({"id": "a/b", "url": "http://example.com/"}), json!(["body", "id"])).await;
    check(json!({"id": "a", "url": "http://example.com/", "check_interval": 0.5}), json!(["body", "check_interval"]))
        .await;
    check(json!({"id": "a", "url": "http://example.com/", "timeout": -1}), json!(["body", "timeout"])).await;
    check(json!({"id": "a", "url": "http://example.com/", "tls": {"verify": true}}), json!(["body", "tls"])).await;
    check(json!({"id": "a", "url": "http://2130706433/"}), json!(["body", "url"])).await;
    check(json!({"id": "a", "health_check_url": "http://169.254.169.254/latest"}), json!(["body", "health_check_url"]))
        .await;
    let login =
        check(json!({"id": "a", "url": "http://user:hunter2hunter2@example.com/"}), json!(["body", "url"])).await;
    assert!(!login.text.contains("hunter2"));
    let pattern = "x".repeat(200_000);
    let long = check(
        json!({"id": "a", "url": "http://example.com/", "expected_response_pattern": pattern}),
        json!(["body", "expected_response_pattern"]),
    )
    .await;
    assert!(long.text.len() < 4000);
    let field =
        check(json!({"id": "a", "url": "http://example.com/", "suppressed": true}), json!(["body", "suppressed"]))
            .await;
    assert_eq!(field.json["detail"][0]["type"], "extra_forbidden");
    for (field, value) in [
        ("thresholds", json!([500, 1000])),
        ("thresholds", json!([])),
        ("grpc", json!(["svc"])),
        ("expected_json", json!([["$.a", "eq", 1]])),
        ("expected_json", json!([{"path": "$.a", "op": "eq"}])),
        ("depends_on", json!([["a", true]])),
        ("unknown", Value::Null),
        ("description", json!("a\u{1b}[31m")),
        ("tags", json!(["a\nb"])),
    ] {
        check(json!({"id": "a", "url": "http://example.com/", field: value}), json!(["body", field])).await;
    }
    for url in ["http://${HOME}/", "a\nb", "http:/\\127.0.0.1/", "http://a b/"] {
        check(json!({"id": "a", "url": url}), json!(["body", "url"])).await;
    }
    assert_eq!(post("[]").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(post("{").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&"[".repeat(100_000)).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&" ".repeat(300_000)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let all = app.ask("GET", "/services", &[("x-service-key", KEY_2)], "").await;
    assert_eq!(all.json["total"], 0);
}

const KEY_2: &str = "a-key-of-our-own-with-40-letters-in-it-1";

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = TestApp::built_in().await;
    let total = async |query: &str| app.get(&format!("/services?{query}")).await.json["total"].clone();
    assert_eq!(total("").await, 9);
    assert_eq!(total("category=identity").await, 3);
    assert_eq!(total("protocol=HTTP&is_active=true").await, 9);
    assert_eq!(total("protocol=tcp").await, 0);
    let page = app.get("/services?skip=1&limit=2").await.json;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["total"]), (2, &json!(9)));
    assert_eq!(page["items"][0]["id"], "ts-tenant-service");
    for query in ["limit=0", "limit=1001", "skip=-1", "protocol=radius", "is_active=maybe", "view=x"] {
        assert_eq!(app.get(&format!("/services?{query}")).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn the_views_of_001_and_003_follow_the_checks() {
    let app = TestApp::built_in().await;
    let well = async || app.get("/api/v1/services/status").await.json["ts-auth-service"].clone();
    app.answer("ts-auth-service", 5).await;
    app.clock.advance(Duration::from_secs(1));
    app.answer("ts-auth-service", 5).await;
    assert_eq!(well().await, false);
    app.clock.advance(Duration::from_secs(1));
    app.answer("ts-auth-service", 2000).await;
    assert_eq!(well().await, true);
    app.fail("ts-auth-service", 1).await;
    assert_eq!(well().await, false);
    let missing = app.get("/services/web-ui/status").await;
    assert_eq!(missing.json["detail"], "No status found for service endpoint with ID web-ui");
    let status = app.get("/services/ts-auth-service/status").await.json;
    assert_eq!((&status["status"], &status["reason"]), (&json!("DOWN"), &json!("connect_refused")));
    assert_eq!(status["error_message"], "Connection failed: connection refused");
    assert_eq!(status["endpoint"]["id"], "ts-auth-service");
    let summary = app.get("/services/status/summary").await.json;
    assert_eq!(summary, json!({"up": 0, "down": 1, "degraded": 0, "maintenance": 0, "unknown": 8, "total": 9}));
    let flat = app.get("/health/services/ts-auth-service").await.json;
    assert_eq!((&flat["service"]["name"], &flat["success_rate"]), (&json!("ts-auth-service"), &json!(50.0)));
}

#[tokio::test]
async fn a_check_by_hand_is_a_check_like_any_other() {
    let stub = Stub::start(Script::ok()).await;
    let app = TestApp::with_file("", &[]).await;
    app.app.engine.pause_checks(false);
    send(&app, "POST", "/services", json!({"id": "stub", "url": stub.url(), "check_interval": 3600})).await;
    let checked = send(&app, "POST", "/services/stub/check", json!({})).await;
    assert_eq!((&checked.json["status"], &checked.json["success"]), (&json!("UP"), &json!(true)), "{}", checked.text);
    assert_eq!(checked.json["reason"], "ok");
    let soon = send(&app, "POST", "/services/stub/check", json!({})).await;
    assert_eq!((soon.status, soon.headers.contains_key("retry-after")), (StatusCode::TOO_MANY_REQUESTS, true));
    assert_eq!(stub.requests(), 1);
    app.clock.advance(Duration::from_secs(2));
    stub.set(Script::Reply(500, String::new()));
    let down = send(&app, "POST", "/services/stub/check", json!({})).await;
    assert_eq!((&down.json["status"], &down.json["error"]), (&json!("DOWN"), &json!("Unexpected status code: 500")));
    let history = app.get("/services/stub/history").await.json;
    assert_eq!((&history["total"], &history["items"][1]["kind"]), (&json!(2), &json!("manual")), "{history}");
    send(&app, "PUT", "/services/stub", json!({"is_active": false})).await;
    app.clock.advance(Duration::from_secs(2));
    let inactive = send(&app, "POST", "/services/stub/check", json!({})).await.json;
    assert_eq!((&inactive["status"], &inactive["error"]), (&json!("UNKNOWN"), &json!("Service is inactive")));
    let unknown = send(&app, "POST", "/services/nobody/check", json!({})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_check_by_hand_does_not_wait_for_the_next_quick_recheck() {
    let stub = Stub::start(Script::Reply(500, String::new())).await;
    let app = TestApp::with_file("", &[("CONFIRM_INTERVAL_MS", "30000")]).await;
    app.app.engine.pause_checks(false);
    send(&app, "POST", "/services", json!({"id": "stub", "url": stub.url(), "check_interval": 3600})).await;
    let first = send(&app, "POST", "/services/stub/check", json!({})).await.json;
    assert_eq!((&first["status"], stub.requests()), (&json!("DOWN"), 1), "{first}");
    app.clock.advance(Duration::from_secs(2));
    let second = send(&app, "POST", "/services/stub/check", json!({})).await.json;
    assert_eq!((&second["status"], &second["success"], stub.requests()), (&json!("DOWN"), &json!(true), 2), "{second}");
    // One whose service is taken away meanwhile is answered too.
    app.clock.advance(Duration::from_secs(2));
    stub.set(Script::Hang);
    let path = "/services/stub/check";
    let (third, gone) = tokio::join!(send(&app, "POST", path, json!({})), async {
        eventually("the probe under way", async || (stub.requests() >= 3).then_some(())).await;
        send(&app, "DELETE", "/services/stub", json!({})).await
    });
    assert_eq!((third.json["success"].clone(), gone.status), (json!(false), StatusCode::NO_CONTENT), "{}", third.text);
    assert!(third.json["execution_time"].as_f64().unwrap() < 3.0, "{}", third.text);
}

#[tokio::test]
async fn what_is_wrong_many_times_is_told_in_a_short_answer() {
    let app = TestApp::with_file("", &[]).await;
    let many: Vec<String> = (0..20_000).map(|n| format!("a {n}")).collect();
    let headers: serde_json::Map<String, Value> = many.iter().map(|name| (name.clone(), json!("x"))).collect();
    let service = |more: Value| {
        let mut fields = json!({"id": "t", "url": "http://a/"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("/services", fields)
    };
    let window = |more: Value| {
        let mut fields = json!({"start_time": "2026-02-01T00:00:00Z", "end_time": "2026-02-01T02:00:00Z"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("/maintenance/", fields)
    };
    for (path, body) in [
        service(json!({"depends_on": many})),
        service(json!({"depends_on_any": [many]})),
        service(json!({"headers": headers.iter().take(4000).collect::<std::collections::BTreeMap<_, _>>()})),
        service(Value::Object(many.iter().take(10_000).map(|name| (name.clone(), Value::Null)).collect())),
        service(json!({"protocol": "filesystem", "filesystem": {"paths": many}})),
        service(json!({"url": "dns://a", "dns": {"expected_ip": many}})),
        window(json!({"endpoint_ids": many})),
        window(json!({"affected_services": many[..5000].join(",")})),
        window(Value::Object(headers.into_iter().take(4000).collect())),
    ] {
        let answer = send(&app, "POST", path, body).await;
        let told = answer.json["detail"].as_array().map_or(0, Vec::len);
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", &answer.text[..200]);
        assert!((1..=20).contains(&told) && answer.text.len() < 40_000, "{told} of {} bytes", answer.text.len());
    }
}

#[tokio::test]
async fn registered_services_are_watched_at_once_and_let_go_of_whole() {
    let stub = Stub::start(Script::ok()).await;
    let app = TestApp::with_file("", &[("MIN_REGISTERED_INTERVAL_MS", "50")]).await;
    app.app.engine.pause_checks(false);
    let made = send(&app, "POST", "/services", json!({"id": "stub", "url": stub.url(), "check_interval_ms": 50})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    eventually("three probes", async || (stub.requests() >= 3).then_some(())).await;
    let watched = app.app.engine.live.find(&ServiceName::new("stub").unwrap()).unwrap();
    let held = Arc::downgrade(&watched);
    drop(watched);
    send(&app, "DELETE", "/services/stub", json!({})).await;
    eventually("nothing holding the service", async || (held.strong_count() == 0).then_some(())).await;
    assert_eq!(app.app.engine.scheduled(), 0);
}

#[tokio::test]
async fn many_registrations_and_removals_leave_nothing_behind() {
    let app = TestApp::with_file("[[service]]\nname = \"kept\"\nurl = \"http://127.0.0.1:1\"\n", &[]).await;
    let app = Arc::new(app);
    let scheduled = app.app.engine.scheduled();
    for round in 0..20 {
        let posts = (0..50).map(|n| {
            let app = app.clone();
            async move {
                let body =
                    json!({"id": format!("s{round}-{n}"), "url": "tcp://127.0.0.1:1", "check_interval": 600_000});
                let made = send(&app, "POST", "/services", body).await;
                assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
            }
        });
        futures_util::future::join_all(posts).await;
        assert_eq!(app.get("/health").await.json["services"]["total"], 51);
        let deletes = (0..50).map(|n| {
            let app = app.clone();
            async move {
                let gone = send(&app, "DELETE", &format!("/services/s{round}-{n}"), json!({})).await;
                assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text);
            }
        });
        futures_util::future::join_all(deletes).await;
    }
    assert_eq!(names(&app).await, ["kept"]);
    assert_eq!(app.app.engine.scheduled(), scheduled);
}

#[tokio::test]
async fn secrets_do_not_follow_a_service_to_another_address() {
    let app = TestApp::with_file("", &[]).await;
    let body = json!({"id": "a", "url": "http://127.0.0.1:1/x", "headers": {"authorization": "Bearer canary-1"}});
    assert_eq!(send(&app, "POST", "/services", body).await.status, StatusCode::CREATED);
    let path = send(&app, "PUT", "/services/a", json!({"url": "http://127.0.0.1:1/y"})).await;
    assert_eq!(path.status, StatusCode::OK, "the same origin: {}", path.text);
    for url in ["http://127.0.0.2:1/y", "http://127.0.0.1:2/y"] {
        let moved = send(&app, "PUT", "/services/a", json!({"url": url})).await;
        assert_eq!(
            (moved.status, &moved.json["detail"][0]["loc"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(["body", "headers"]))
        );
    }
    let anew = json!({"url": "http://127.0.0.2:1/y", "headers": {"authorization": "Bearer canary-2"}});
    assert_eq!(send(&app, "PUT", "/services/a", anew).await.status, StatusCode::OK);
    let dropped = json!({"url": "http://127.0.0.3:1/y", "headers": null});
    assert_eq!(send(&app, "PUT", "/services/a", dropped).await.status, StatusCode::OK);
    assert!(!app.get("/services/a").await.text.contains("canary"));
}

/// A connection that a service of the file keeps open is not for a registration to ride on.
#[tokio::test]
async fn a_registration_does_not_reach_a_forbidden_host_over_a_pooled_connection() {
    use as_infrastructure_service::domain::classify::classify;
    use as_infrastructure_service::domain::egress::EgressPolicy;
    use as_infrastructure_service::domain::observation::Reason;
    use as_infrastructure_service::domain::service::Source;
    use as_infrastructure_service::domain::spec::{Defaults, ServiceSpec};
    use as_infrastructure_service::probes::{Clients, observe};

    as_infrastructure_service::app::install_crypto_provider();
    let stub = Stub::start(Script::ok()).await;
    let clients = Clients::new(EgressPolicy::default()).unwrap();
    let url = format!("http://localhost:{}/x", stub.address.port());
    let of = |source| {
        let spec: ServiceSpec = serde_json::from_value(json!({"name": "a", "url": url})).unwrap();
        spec.into_service(&Defaults::default(), source).unwrap()
    };
    let look = async |service| {
        let seen = observe(&clients, &service, false, async |_| {}).await;
        classify(&seen, service.limits.latency, &service.expected).reason
    };
    assert_eq!(look(of(Source::File)).await, Reason::Ok);
    assert_eq!(look(of(Source::Api)).await, Reason::EgressDenied);
    assert_eq!((look(of(Source::File)).await, stub.requests()), (Reason::Ok, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_and_changes_nothing() {
    let app = TestApp::with_file("", &[]).await;
    send(&app, "POST", "/services", json!({"id": "kept", "url": "tcp://127.0.0.1:1", "check_interval": 600_000})).await;
    app.fail("kept", 3).await;
    let open = app.get("/outages/active").await.json;
    let id = open["items"][0]["id"].as_str().unwrap().to_owned();
    let file = app.folder.path().join("records.db");
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let window = json!({"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-12-31T00:00:00Z"});
    let (made, removed, windowed, resolved) = tokio::join!(
        send(&app, "POST", "/services", json!({"id": "new", "url": "tcp://127.0.0.1:1"})),
        send(&app, "DELETE", "/services/kept", json!({})),
        send(&app, "POST", "/maintenance", window.clone()),
        app.ask("POST", "/nowhere", &[("x-service-key", KEY)], ""),
    );
    assert_eq!(resolved.status, StatusCode::NOT_FOUND);
    for answer in [made, removed, windowed] {
        assert_eq!((answer.status, &answer.json["error"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
    }
    let late = send(&app, "POST", &format!("/outages/{id}/resolve"), json!("x")).await;
    assert_eq!(late.status, StatusCode::SERVICE_UNAVAILABLE, "{}", late.text);
    assert_eq!(names(&app).await, ["kept"]);
    assert_eq!(app.get("/maintenance/").await.json["total"], 0);

    other.execute_batch("ROLLBACK").unwrap();
    let posted = async || {
        let answer = send(&app, "POST", "/maintenance", window.clone()).await;
        (answer.status == StatusCode::CREATED).then_some(())
    };
    eventually("records writable again", posted).await;
    let listed = app.folder.path().join("services.toml").display().to_string();
    let app = app.restart(&[("SERVICES_FILE", &listed)]).await;
    assert_eq!(names(&app).await, ["kept"]);
    assert_eq!(app.get("/maintenance/").await.json["total"], 1);
    assert_eq!(app.get(&format!("/outages/{id}")).await.json["resolved"], false);
}
