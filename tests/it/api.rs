//! The API over the real router: every endpoint's fields as snapshots, and who gets what answer.

use std::time::Duration;

use as_infrastructure_service::api::Administer;
use as_infrastructure_service::domain::observation::{Observation, Reason};
use axum::http::StatusCode;
use serde_json::Value;

use crate::support::{KEY, TestApp};

/// One service slow, one down with an outage, one answering 404, the rest healthy.
pub async fn eventful() -> TestApp {
    let app = TestApp::built_in().await;
    for service in ["ts-auth-service", "ts-tenant-service", "as-call-service", "as-connection-service", "web-ui"] {
        app.answer(service, 20).await;
    }
    app.answer("pns-provisioning-service", 1250).await;
    app.take_in("dispatch-bot-ai", Observation::answered(404, Duration::from_millis(7))).await;
    app.fail("twilio-server", 3).await;
    app
}

/// Settings under which ids that hold randomness look alike.
pub fn stable() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.add_filter(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>");
    // The log channel has told an alert or is about to.
    settings.add_filter(r#""alert_sent": (true|false)"#, r#""alert_sent": "<either>""#);
    settings.add_filter(r#""(last_success|oldest_age_seconds|depth|lateness_\w+)": [^,\n]+"#, r#""$1": "<any>""#);
    settings
}

#[tokio::test]
async fn every_answer_has_its_exact_fields() {
    let app = eventful().await;
    for (name, path) in [
        ("root", "/"),
        ("livez", "/livez"),
        ("readyz", "/readyz"),
        ("health", "/health"),
        ("health_live", "/health/live"),
        ("health_services", "/health/services"),
        ("health_service", "/health/service/twilio-server"),
        ("services", "/services"),
        ("services_dependencies", "/services/dependencies"),
        ("status_critical", "/status/critical"),
        ("status_dashboard", "/status/dashboard"),
        ("metrics", "/metrics"),
        ("metrics_service", "/metrics/service/pns-provisioning-service"),
        ("unknown_service", "/health/service/foo"),
        ("never_checked", "/metrics/service/ts-user-service"),
    ] {
        let answer = app.get(path).await;
        stable().bind(|| insta::assert_json_snapshot!(name, answer.json));
    }
}

#[tokio::test]
async fn keys_rotate_and_readers_only_read() {
    let app = TestApp::with(&[
        ("INTERNAL_SERVICE_KEY", "an-old-key-of-24-letters, a-new-key-of-24-letters"),
        ("READONLY_SERVICE_KEYS", "a-reader-key-of-24-letters"),
    ])
    .await;
    let status =
        async |method: &str, path: &str, headers: &[(&str, &str)]| app.ask(method, path, headers, "").await.status;
    for key in ["an-old-key-of-24-letters", "a-new-key-of-24-letters", "a-reader-key-of-24-letters"] {
        assert_eq!(status("GET", "/services", &[("x-service-key", key)]).await, StatusCode::OK);
    }
    assert_eq!(status("GET", "/services", &[("X-API-Key", "a-new-key-of-24-letters")]).await, StatusCode::OK);
    let bearer = [("authorization", "Bearer a-new-key-of-24-letters")];
    assert_eq!(status("GET", "/services", &bearer).await, StatusCode::OK);
    let twice = [("x-service-key", "a-new-key-of-24-letters"), ("x-api-key", "a-new-key-of-24-letters")];
    assert_eq!(status("GET", "/services", &twice).await, StatusCode::UNAUTHORIZED);
    let reader = [("x-service-key", "a-reader-key-of-24-letters")];
    let denied = app.ask("POST", "/config/reload", &reader, "").await;
    assert_eq!((denied.status, &denied.json["detail"]), (StatusCode::FORBIDDEN, &"Not enough permissions".into()));
    assert_eq!(status("POST", "/nope", &reader).await, StatusCode::NOT_FOUND);
    assert_eq!(status("POST", "/health", &reader).await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status("POST", "/services", &reader).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn guessing_is_slowed_and_a_right_key_never_refused() {
    let app = TestApp::built_in().await;
    let wrong = [("x-service-key", "a-wrong-key-of-some-length")];
    for _ in 0..20 {
        assert_eq!(app.ask("GET", "/health", &wrong, "").await.status, StatusCode::UNAUTHORIZED);
    }
    let refused = app.ask("GET", "/health", &wrong, "").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(app.ask("GET", "/health", &[], "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn scopes_open_reads_and_never_writes() {
    for (scope, public, read) in [("internal", 200, 401), ("writes", 200, 200), ("all", 401, 401)] {
        let app = TestApp::with(&[("AUTH_SCOPE", scope)]).await;
        let status = async |method: &str, path: &str| app.ask(method, path, &[], "").await.status.as_u16();
        assert_eq!((status("GET", "/health").await, status("GET", "/services").await), (public, read), "{scope}");
        assert_eq!(status("POST", "/config/reload").await, 401, "{scope}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let app = TestApp::built_in().await;
    let key = ("x-service-key", KEY);
    let check = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str, status: u16, error: &str| {
        let mut all = vec![key];
        all.extend_from_slice(headers);
        let answer = app.ask(method, path, &all, body).await;
        assert_eq!((answer.status.as_u16(), &answer.json["error"]), (status, &Value::from(error)), "{method} {path}");
        answer
    };
    let answer = check("GET", "/health/services?limit=0", &[], "", 422, "invalid").await;
    assert_eq!(answer.json["detail"][0]["loc"], serde_json::json!(["query", "limit"]));
    assert_eq!(answer.json["message"], "limit: must be at least 1");
    check("GET", "/health/services?skip=-1", &[], "", 422, "invalid").await;
    check("GET", "/services?limit=1001", &[], "", 422, "invalid").await;
    check("GET", "/services?limit=x", &[], "", 422, "invalid").await;
    check("GET", "/nope", &[], "", 404, "not_found").await;
    check("GET", "/health/service/a%2f..%2fb", &[], "", 404, "not_found").await;
    check("GET", "/health/service/%00", &[], "", 404, "not_found").await;
    check("GET", "/health/service/%ff", &[], "", 404, "not_found").await;
    let answer = check("DELETE", "/health", &[], "", 405, "method_not_allowed").await;
    assert!(answer.headers["allow"].to_str().unwrap().contains("GET"));
    check("POST", "/config/reload", &[], &"x".repeat(300_000), 413, "too_large").await;
    check("POST", "/config/reload", &[("content-encoding", "gzip")], "x", 415, "unsupported_media_type").await;
    check("POST", "/config/reload", &[("content-type", "text/xml")], "<a/>", 415, "unsupported_media_type").await;
    check("GET", &format!("/{}", "x".repeat(9000)), &[], "", 414, "too_large").await;
    check("GET", "/health", &[("x-long", &"y".repeat(40_000))], "", 431, "too_large").await;
    // Unknown parameters are ignored, trailing slashes and other cases of a name answered.
    assert_eq!(app.get("/health/services/?colour=red").await.status, StatusCode::OK);
    assert_eq!(app.get("/health/service/WEB-UI/").await.json["service"]["name"], "web-ui");
    let far = "9".repeat(60);
    for path in ["/health/services", "/services", "/outages", "/maintenance", "/alerts/active", "/alerts/history"] {
        assert_eq!(app.get(&format!("{path}?skip={far}")).await.status, StatusCode::OK, "{path}");
    }
    // A parameter without a value asks for nothing, and a body of null says nothing.
    for path in ["/health/services?skip=&limit=&view=", "/services?limit=&view=&is_active=", "/metrics?format="] {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }
    check("POST", "/alerts/none/acknowledge", &[], "null", 404, "not_found").await;
    assert_eq!(app.ask("POST", "/config/reload", &[key], "null").await.status, StatusCode::OK);
}

#[tokio::test]
async fn each_answer_carries_a_request_id() {
    let app = TestApp::built_in().await;
    let id = async |given: &str| {
        let answer = app.ask("GET", "/nope", &[("x-service-key", KEY), ("x-request-id", given)], "").await;
        assert_eq!(answer.json["instance"], answer.headers["x-request-id"].to_str().unwrap());
        answer.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id("abc-1.2_3").await, "abc-1.2_3");
    assert_ne!(id("a b").await, "a b");
    assert_ne!(id(&"x".repeat(65)).await, "x".repeat(65));
}

#[tokio::test]
async fn lists_are_paged_and_tagged() {
    let app = eventful().await;
    let names = |answer: &crate::support::Answer| -> Vec<String> {
        let list = answer.json["services"].as_array().unwrap();
        list.iter().map(|service| service["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = app.get("/health/services?skip=3&limit=2").await;
    assert_eq!(names(&page), ["as-call-service", "as-connection-service"]);
    assert_eq!(page.json["summary"]["total"], 9);
    assert!(app.get("/health/services?view=list").await.json.get("service_health").is_none());
    for path in ["/health/services", "/services", "/services/dependencies", "/metrics", "/health/service/web-ui"] {
        let tag = app.get(path).await.headers["etag"].to_str().unwrap().to_owned();
        let again = async || app.ask("GET", path, &[("x-service-key", KEY), ("if-none-match", &tag)], "").await;
        let unchanged = again().await;
        assert_eq!((unchanged.status, unchanged.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
        app.answer("web-ui", 30).await;
        assert_eq!(again().await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let app = TestApp::built_in().await;
    for path in ["/health", "/services", "/nope"] {
        let (head, get) = (app.ask("HEAD", path, &[("x-service-key", KEY)], "").await, app.get(path).await);
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
    }
}

#[tokio::test]
async fn a_reload_tells_what_changed_or_where_it_is_wrong() {
    let service =
        |name: &str, port: u16| format!("[[service]]\nname = \"{name}\"\nurl = \"http://localhost:{port}\"\n");
    let app = TestApp::with_file(&(service("a", 1) + &service("b", 2)), &[]).await;
    app.take_in("b", Observation::failed(Reason::Timeout, "")).await;
    let file = app.folder.path().join("services.toml");
    let reload = async || app.ask("POST", "/config/reload", &[("x-service-key", KEY)], "").await;
    std::fs::write(&file, service("b", 3) + &service("c", 4)).unwrap();
    let answer = reload().await;
    assert_eq!(answer.json["message"], "Services reloaded: 1 added, 1 changed, 1 removed");
    assert_eq!(
        (&answer.json["added"][0], &answer.json["changed"][0], &answer.json["removed"][0]),
        (&"c".into(), &"b".into(), &"a".into())
    );
    assert_eq!(app.get("/health/service/b").await.json["service"]["status"], "unknown");
    assert_eq!(app.get("/health").await.json["services"]["total"], 2);
    std::fs::write(&file, "nonsense").unwrap();
    let answer = reload().await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.json["message"].as_str().unwrap().contains("services.toml:1"), "{}", answer.json);
    assert_eq!(app.get("/health").await.json["self"]["last_reload"]["ok"], false);
    assert_eq!(app.get("/health").await.json["services"]["total"], 2);
}

#[tokio::test]
async fn a_removed_service_closes_its_outage_and_resolves_its_alerts() {
    let service =
        |name: &str| format!("[[service]]\nname = \"{name}\"\nurl = \"http://localhost:1\"\ncritical = true\n");
    let app = TestApp::with_file(&(service("a") + &service("b")), &[]).await;
    app.fail("a", 3).await;
    assert_eq!(app.get("/status/critical").await.json["alerts"].as_array().unwrap().len(), 1);
    std::fs::write(app.folder.path().join("services.toml"), service("b")).unwrap();
    app.app.admin.reload().await.unwrap();
    let critical = app.get("/status/critical").await.json;
    assert!(critical["alerts"].as_array().unwrap().is_empty());
    assert_eq!(critical["lastIncident"]["resolved"], true);
    assert_eq!(app.get("/health/service/a").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stopping_service_is_not_ready_and_alive() {
    let app = TestApp::built_in().await;
    app.app.engine.drain(Duration::from_secs(1)).await;
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status, &ready.json["reasons"][0]), (StatusCode::SERVICE_UNAVAILABLE, &"stopping".into()));
    assert_eq!(app.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn cross_origin_calls_are_answered_only_where_they_are_allowed() {
    let preflight = [("origin", "https://ui.example.com"), ("access-control-request-method", "GET")];
    let closed = TestApp::built_in().await.ask("OPTIONS", "/health", &preflight, "").await;
    assert!(!closed.headers.contains_key("access-control-allow-origin"));
    let app = TestApp::with(&[("CORS_ALLOWED_ORIGINS", "https://ui.example.com")]).await;
    let open = app.ask("OPTIONS", "/health", &preflight, "").await;
    assert_eq!(open.headers["access-control-allow-origin"], "https://ui.example.com");
    let other = app.ask("OPTIONS", "/health", &[("origin", "https://evil.example"), preflight[1]], "").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}
