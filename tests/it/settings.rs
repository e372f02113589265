//! Settings over the API: shown, changed, kept, reloaded, refused; monitoring switched off and on; what systemd hears.

use std::sync::Arc;
use std::time::Duration;

use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::domain::time::from_ms;
use as_infrastructure_service::engine::counters::Part;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Answer, Binary, KEY, LIMIT, Script, Stub, T0, TestApp, command, eventually, load, variables};

const FULL: [(&str, &str); 1] = [("x-service-key", KEY)];

async fn put(app: &TestApp, body: Value) -> Answer {
    app.ask("PUT", "/config", &FULL, &body.to_string()).await
}

fn setting<'a>(body: &'a Value, name: &str) -> &'a Value {
    let (section, key) = name.split_once('.').unwrap();
    &body["settings"][section][key]
}

/// The fields named in a 422, dotted.
fn fields(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    let loc = |one: &Value| {
        let loc: Vec<&str> = one["loc"].as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect();
        loc.join(".")
    };
    answer.json["detail"].as_array().unwrap().iter().map(loc).collect()
}

#[tokio::test]
async fn every_setting_is_shown_with_where_it_was_written() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = folder.path().join("config");
    std::fs::create_dir(&config).unwrap();
    std::fs::write(config.join("local.toml"), "[alerts]\nalert_cooldown_minutes = 7\nalert_max_escalations = 1\n")
        .unwrap();
    let clock = Clock::manual(from_ms(T0));
    let more = [("ALERT_MAX_ESCALATIONS", "2"), ("ALERT_ESCALATION_MS", "90000")];
    let app = TestApp::start(folder, clock, &more).await;
    assert_eq!(put(&app, json!({"retry_attempts": 4})).await.status, StatusCode::OK);
    let shown = app.get("/config").await;
    assert_eq!(shown.status, StatusCode::OK);
    let body = &shown.json;
    for (name, value, source, changeable) in [
        ("checks.default_check_interval_ms", json!(30000), "default", true),
        ("alerts.alert_cooldown_minutes", json!(7), "file", true),
        ("alerts.alert_max_escalations", json!(2), "environment", true),
        // Written as its twin in milliseconds, shown in its own unit.
        ("alerts.alert_escalation_minutes", json!(1.5), "environment", true),
        ("checks.service_check_retries", json!(4), "stored", true),
        ("checks.service_check_interval", Value::Null, "default", true),
        ("server.port", json!(3106), "default", false),
        ("auth.internal_service_key", json!("***"), "default", false),
        ("egress.filesystem_allow", json!(["/tmp"]), "default", false),
    ] {
        let expected = json!({"value": value, "source": source, "changeable": changeable});
        assert_eq!(*setting(body, name), expected, "{name}");
    }
    for (name, value) in [
        ("service_name", json!("as-infrastructure-service")),
        ("port", json!(3106)),
        ("host", json!("0.0.0.0")),
        ("service_check_interval", json!(30)),
        ("metrics_retention_days", json!(30)),
        ("default_timeout", json!(5.0)),
        ("max_concurrent_checks", json!(0)),
        ("retry_attempts", json!(4)),
        ("enable_alerting", json!(true)),
        ("enable_metrics_persistence", json!(true)),
        ("active_avatar", json!("kira")),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    // Stored goes over the twin as well.
    let minutes = json!({"settings": {"alerts": {"alert_escalation_minutes": 5}}});
    assert_eq!(put(&app, minutes).await.status, StatusCode::OK);
    let twin = put(&app, json!({"settings": {"alerts": {"alert_escalation_ms": 120_000}}})).await;
    let expected = json!({"value": 2, "source": "stored", "changeable": true});
    assert_eq!(*setting(&twin.json, "alerts.alert_escalation_minutes"), expected);
    let shown = app.get("/config").await;
    let tag = shown.headers["etag"].to_str().unwrap();
    let again = app.ask("GET", "/config", &[FULL[0], ("if-none-match", tag)], "").await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn every_key_of_the_reference_is_shown() {
    let app = TestApp::built_in().await;
    let body = app.get("/config").await.json;
    let reference: toml::Table = include_str!("../../config/default.toml").parse().unwrap();
    for (section, keys) in &reference {
        for key in keys.as_table().unwrap().keys() {
            let shown = setting(&body, &format!("{section}.{key}"));
            assert!(shown["source"].is_string() && shown.get("value").is_some(), "{section}.{key}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_change_reaches_services_without_a_value_of_their_own_and_survives_a_restart() {
    let file = "[[service]]\nname = \"own\"\nurl = \"http://localhost:1\"\ncheck_interval = 20\n\
                [[service]]\nname = \"default\"\nurl = \"http://localhost:1\"\n";
    let app = TestApp::with_file(file, &[]).await;
    let body = json!({"id": "registered", "url": "http://localhost:1"}).to_string();
    assert_eq!(app.ask("POST", "/services", &FULL, &body).await.status, StatusCode::CREATED);
    let interval = |app: &TestApp, name: &str| {
        let service = app.app.engine.live.find(&ServiceName::new(name).unwrap()).unwrap().service();
        (service.interval.as_secs(), service.limits.latency.critical_ms)
    };
    assert_eq!((interval(&app, "own").0, interval(&app, "default").0, interval(&app, "registered").0), (20, 30, 60));

    let changed = put(&app, json!({"service_check_interval": 45, "alert_threshold_response_time_ms": 2000})).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!((&changed.json["service_check_interval"], changed.headers.contains_key("etag")), (&json!(45), true));
    assert_eq!(changed.json["alert_threshold_response_time_ms"], 2000);
    let check = |app: &TestApp| {
        assert_eq!(interval(app, "own"), (20, 2000));
        assert_eq!(interval(app, "default"), (45, 2000));
        assert_eq!(interval(app, "registered"), (45, 2000));
    };
    check(&app);
    let file = app.folder.path().join("services.toml").display().to_string();
    let app = app.restart(&[("SERVICES_FILE", &file)]).await;
    check(&app);
    let body = app.get("/config").await.json;
    // A further name that was used once is shown from then on.
    assert_eq!(body["alert_threshold_response_time_ms"], 2000);
    assert_eq!(setting(&body, "checks.response_time_critical")["source"], "stored");

    let undone = put(&app, json!({"service_check_interval": null, "alert_threshold_response_time_ms": null})).await;
    assert_eq!(undone.status, StatusCode::OK);
    assert_eq!((interval(&app, "default"), interval(&app, "registered")), ((30, 3000), (60, 3000)));
    let app = app.restart(&[("SERVICES_FILE", &file)]).await;
    assert_eq!((interval(&app, "default"), interval(&app, "registered")), ((30, 3000), (60, 3000)));
}

#[tokio::test]
async fn what_is_refused_is_named_and_changes_nothing() {
    let app = TestApp::built_in().await;
    let before = app.get("/config").await;
    let check = async |body: Value, expected: &[&str]| {
        let answer = put(&app, body.clone()).await;
        assert_eq!(fields(&answer), expected, "{body}");
        let after = app.get("/config").await;
        assert_eq!(after.text, before.text, "{body}");
        assert_eq!(after.headers["etag"], before.headers["etag"], "{body}");
    };
    // Each with a good one beside it, which must not come through.
    check(json!({"retry_attempts": 2, "colour": 1}), &["body.colour"]).await;
    check(json!({"retry_attempts": 2, "settings": {"checks": {"colour": 1}}}), &["body.settings.checks.colour"]).await;
    check(json!({"retry_attempts": 2, "settings": {"nothing": {"port": 1}}}), &["body.settings.nothing.port"]).await;
    check(json!({"retry_attempts": 2, "port": 80, "host": "::"}), &["body.port", "body.host"]).await;
    check(
        json!({"retry_attempts": 2, "settings": {"auth": {"internal_service_key": "0123456789abcdef"}}}),
        &["body.settings.auth.internal_service_key"],
    )
    .await;
    check(json!({"retry_attempts": 11}), &["body.retry_attempts"]).await;
    check(json!({"retry_attempts": 2, "check_interval_seconds": 0.5}), &["body.check_interval_seconds"]).await;
    check(json!({"retry_attempts": 2, "retention_days": 0}), &["body.retention_days"]).await;
    check(json!({"alert_threshold_error_rate": 0, "retry_attempts": 2}), &["body.alert_threshold_error_rate"]).await;
    check(json!({"alert_threshold_error_rate": 1.1}), &["body.alert_threshold_error_rate"]).await;
    check(json!({"settings": {"checks": {"uptime_warning": 101}}}), &["body.settings.checks.uptime_warning"]).await;
    check(
        json!({"settings": {"checks": {"response_time_warning": 99}}}),
        &["body.settings.checks.response_time_warning"],
    )
    .await;
    check(json!({"settings": {"log": {"log_level": "loud"}}}), &["body.settings.log.log_level"]).await;
    check(json!({"active_avatar": "x".repeat(101)}), &["body.active_avatar"]).await;
    check(json!({"active_avatar": {"a": 1}}), &["body.active_avatar"]).await;
    check(json!({"enable_alerting": "maybe"}), &["body.enable_alerting"]).await;
    check(json!({"enable_detailed_logging": "yes"}), &["body.enable_detailed_logging"]).await;
    check(json!({"settings": 1, "retry_attempts": 2}), &["body.settings"]).await;
    // A rule over two settings names the one that broke it.
    check(
        json!({"settings": {"checks": {"response_time_warning": 3000}}}),
        &["body.settings.checks.response_time_warning"],
    )
    .await;
    // Two names of one setting.
    check(json!({"check_interval_seconds": 20, "service_check_interval": 21}), &["body.service_check_interval"]).await;
    let answer = put(&app, json!([])).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(app.get("/config/changes").await.json["total"], 0);

    let both = json!({"check_interval_seconds": 20, "settings": {"checks": {"default_check_interval_ms": 20000}}});
    assert_eq!(put(&app, both).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_default_that_a_service_cannot_live_with_is_refused() {
    let app = TestApp::with_file("", &[]).await;
    let body = json!({"id": "a", "url": "http://localhost:1", "thresholds": {"response_time_critical_ms": 1500}});
    assert_eq!(app.ask("POST", "/services", &FULL, &body.to_string()).await.status, StatusCode::CREATED);
    let answer = put(&app, json!({"settings": {"checks": {"response_time_warning": 2000}}})).await;
    assert_eq!(fields(&answer), ["body.settings.checks.response_time_warning"]);
    assert!(answer.text.contains("the registered service a"), "{}", answer.text);
    assert_eq!(setting(&app.get("/config").await.json, "checks.response_time_warning")["value"], 1000);
}

#[tokio::test]
async fn only_who_has_read_the_latest_settings_changes_them_when_they_ask_for_it() {
    let app = TestApp::built_in().await;
    let tag = app.get("/config").await.headers["etag"].to_str().unwrap().to_owned();
    let with = async |tag: &str, retries: u32| {
        let body = json!({"retry_attempts": retries}).to_string();
        app.ask("PUT", "/config", &[FULL[0], ("if-match", tag)], &body).await.status
    };
    assert_eq!(with(&tag, 4).await, StatusCode::OK);
    assert_eq!(with(&tag, 5).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(app.get("/config").await.json["retry_attempts"], 4);
    assert_eq!(with("*", 5).await, StatusCode::OK);
    let latest = app.get("/config").await.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(with(&format!("\"other\", {latest}"), 6).await, StatusCode::OK);
}

#[tokio::test]
async fn changes_at_once_all_take_effect() {
    let app = TestApp::built_in().await;
    let names = ["outage_detection_threshold", "recovery_threshold"];
    let changes = (0..20).map(|n| {
        let app = &app;
        async move {
            let body = match n % 4 {
                0 => json!({"retry_attempts": 7}),
                1 => json!({"active_avatar": "nova"}),
                2 => json!({"settings": {"outages": {names[0]: 4}}}),
                _ => json!({"settings": {"outages": {names[1]: 2}}}),
            };
            put(app, body).await.status
        }
    });
    let answers = futures_util::future::join_all(changes).await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK), "{answers:?}");
    let body = app.get("/config").await.json;
    assert_eq!((&body["retry_attempts"], &body["active_avatar"]), (&json!(7), &json!("nova")));
    assert_eq!(setting(&body, "outages.outage_detection_threshold")["value"], 4);
    assert_eq!(setting(&body, "outages.recovery_threshold")["value"], 2);
    assert_eq!(app.app.engine.config().outage.detection_threshold, 4);
    // What changed nothing is no change.
    assert_eq!(app.get("/config/changes").await.json["total"], 4);
}

#[tokio::test]
async fn changes_are_noted_with_who_and_what_and_no_key() {
    let app = TestApp::built_in().await;
    put(&app, json!({"retry_attempts": 4})).await;
    let headers = [FULL[0], ("x-request-id", "ticket-7")];
    app.ask("PUT", "/config", &headers, &json!({"retry_attempts": 5, "active_avatar": "nova"}).to_string()).await;
    let page = app.get("/config/changes").await.json;
    assert_eq!((&page["total"], page["items"].as_array().unwrap().len()), (&json!(2), 2));
    let latest = &page["items"][0];
    assert_eq!(latest["request_id"], "ticket-7");
    assert_eq!(latest["timestamp"], "2026-01-31T10:30:00.000Z");
    assert_eq!((&latest["who"]["access"], &latest["who"]["address"]), (&json!("full"), &json!("127.0.0.1")));
    assert_eq!(latest["who"]["key"].as_str().unwrap().len(), 8);
    assert_eq!(
        latest["changes"],
        json!([
            {"key": "avatar.active_avatar", "from": "kira", "to": "nova"},
            {"key": "checks.service_check_retries", "from": 4, "to": 5},
        ])
    );
    let second = app.get("/config/changes?skip=1&limit=1").await.json;
    assert_eq!(second["items"][0]["changes"][0]["to"], 4);
    assert_eq!(app.get("/config/changes?limit=0").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!app.get("/config/changes").await.text.contains(KEY));
}

#[tokio::test]
async fn secrets_are_in_no_answer() {
    const CANARY: &str = "canary-canary-canary";
    let url = format!("http://user:{CANARY}@127.0.0.1:9/?token={CANARY}");
    // The address of a service is shown, its login is not.
    let endpoint = format!("http://user:{CANARY}@127.0.0.1:9/");
    let (header, key) = (format!("Authorization: {CANARY}"), format!("{KEY},{CANARY}"));
    let redis = format!("redis://user:{CANARY}@127.0.0.1:1");
    let more = [
        ("INTERNAL_SERVICE_KEY", key.as_str()),
        ("READONLY_SERVICE_KEYS", "canary-for-readers"),
        ("ALERT_WEBHOOK_URL", &url),
        ("ALERT_WEBHOOK_HEADERS", &header),
        ("ALERT_WEBHOOK_SECRETS", CANARY),
        ("REDIS_URL", &redis),
        ("OLLAMA_HEALTH_ENDPOINT", endpoint.as_str()),
        ("BASE_SERVICE_URL", "http://127.0.0.1:9"),
        ("POSTGRES_HEALTH_URL", &endpoint),
    ];
    let app = TestApp::start(Arc::new(tempfile::tempdir().unwrap()), Clock::System, &more).await;
    let quiet = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(!answer.text.contains("canary"), "{}", answer.text);
    };
    let with_canary = [("x-service-key", CANARY)];
    quiet(&app.ask("PUT", "/config", &with_canary, &json!({"retry_attempts": 4}).to_string()).await, 200);
    let refused = json!({
        CANARY.replace("canary", "x"): CANARY,
        "settings": {
            "auth": {"internal_service_key": CANARY},
            "notify": {"alert_webhook_url": url, "alert_webhook_headers": header, "alert_webhook_secrets": [CANARY]},
            "redis": {"redis_url": redis},
        },
    });
    quiet(&put(&app, refused).await, 422);
    for path in ["/config", "/config/changes", "/health", "/health/services", "/services", "/metrics/prometheus"] {
        quiet(&app.get(path).await, 200);
    }

    let app = TestApp::with_file("", &[]).await;
    let config = app.folder.path().join("config");
    std::fs::create_dir(&config).unwrap();
    for text in [
        format!("[notify]\nalert_webhook_secrets = {CANARY}\n"),
        format!("[notify]\nalert_webhook_url = \"ftp://{CANARY}\"\n"),
        format!("[notify]\nalert_webhook_url = \"http://h\"\nalert_webhook_headers = \"no header {CANARY}\"\n"),
        format!("[notify]\nalert_webhook_secrets = \"{CANARY},{CANARY},{CANARY}\"\n"),
        "[auth]\ninternal_service_key = \"canary\"\n".to_owned(),
        format!("[checks]\nollama_health_endpoint = \"ftp://u:{CANARY}@h\"\n"),
    ] {
        std::fs::write(config.join("local.toml"), &text).unwrap();
        quiet(&app.ask("POST", "/config/reload", &FULL, "").await, 422);
        quiet(&app.get("/health").await, 200);
    }
    std::fs::write(config.join("local.toml"), "").unwrap();
    let address = |scheme: &str, host: &str| format!("{scheme}://u:{CANARY}@{host}");
    for (variable, value) in [
        ("REDIS_URL", address("http", "h")),
        ("REDIS_URL", address("redis", "h:port")),
        ("METRICS_STORAGE_URL", address("mysql", "h")),
    ] {
        let refused = load(variables(app.folder.path(), &[(variable, &value)])).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(&variable.to_ascii_lowercase()) && !refused.contains("canary"), "{refused}");
    }
    let headers = format!("[[service]]\nname = \"a\"\nurl = \"http://h\"\nheaders = \"{CANARY}\"\n");
    std::fs::write(app.folder.path().join("services.toml"), headers).unwrap();
    quiet(&app.ask("POST", "/config/reload", &FULL, "").await, 422);
}

#[tokio::test]
async fn what_is_no_longer_valid_is_left_out_at_a_start_and_said() {
    let app = TestApp::built_in().await;
    assert_eq!(
        put(&app, json!({"settings": {"checks": {"response_time_critical": 2000}}, "active_avatar": "nova"}))
            .await
            .status,
        200
    );
    // Meanwhile the operator has written a warning limit that the stored critical one is below.
    let app = app.restart(&[("RESPONSE_TIME_WARNING", "2500")]).await;
    let body = app.get("/config").await.json;
    assert_eq!(setting(&body, "checks.response_time_critical")["source"], "default");
    assert_eq!(body["active_avatar"], "nova");
    let problems = app.get("/health").await.json["self"]["problems"].to_string();
    assert!(problems.contains("the stored setting checks.response_time_critical is not in force"), "{problems}");
    // Taken back over the API, it is a problem no more.
    assert_eq!(put(&app, json!({"settings": {"checks": {"response_time_critical": null}}})).await.status, 200);
    let problems = app.get("/health").await.json["self"]["problems"].to_string();
    assert!(!problems.contains("stored setting"), "{problems}");
    let app = app.restart(&[]).await;
    assert_eq!(setting(&app.get("/config").await.json, "checks.response_time_critical")["value"], 3000);
}

#[tokio::test]
async fn without_writable_records_nothing_is_changed() {
    let app = TestApp::built_in().await;
    let database = app.folder.path().join("records.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    let refusing = "CREATE TRIGGER full BEFORE INSERT ON facts BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    other.execute_batch(refusing).unwrap();
    let answer = put(&app, json!({"retry_attempts": 4})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(app.get("/config").await.json["retry_attempts"], 3);
    assert_eq!(app.app.engine.config().defaults.retries, 3);
    other.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(put(&app, json!({"active_avatar": "nova"})).await.status, StatusCode::OK);
    let app = app.restart(&[]).await;
    let body = app.get("/config").await.json;
    assert_eq!((&body["retry_attempts"], &body["active_avatar"]), (&json!(3), &json!("nova")));
}

#[tokio::test]
async fn a_reload_takes_what_may_change_and_names_what_needs_a_restart() {
    let app = TestApp::with_file("[[service]]\nname = \"a\"\nurl = \"http://localhost:1\"\n", &[]).await;
    let config = app.folder.path().join("config");
    std::fs::create_dir(&config).unwrap();
    let write = |text: &str| std::fs::write(config.join("local.toml"), text).unwrap();
    let reload = async || app.ask("POST", "/config/reload", &FULL, "").await;
    assert_eq!(put(&app, json!({"retry_attempts": 7})).await.status, StatusCode::OK);

    write("[server]\nport = 4000\n[checks]\ndefault_check_interval_ms = 50000\nservice_check_retries = 1\n");
    let answer = reload().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json["changed"], json!(["a"]));
    assert_eq!(answer.json["settings"], json!(["checks.default_check_interval_ms"]));
    assert_eq!(answer.json["needs_restart"], json!(["server.port"]));
    let body = app.get("/config").await.json;
    let shown = setting(&body, "checks.default_check_interval_ms");
    assert_eq!((&shown["value"], &shown["source"]), (&json!(50000), &json!("file")));
    assert_eq!((&body["port"], &body["retry_attempts"]), (&json!(3106), &json!(7)), "stored goes over files");

    for (text, part) in [
        ("[server]\nport = \"x\"\n", "server.port"),
        ("[checks]\ncolour = 1\n", "unknown key checks.colour"),
        ("[checks\n", "local.toml"),
    ] {
        write(text);
        let answer = reload().await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.text.contains(part) && answer.text.contains("local.toml"), "{}", answer.text);
        let health = app.get("/health").await.json;
        assert!(health["self"]["problems"].to_string().contains("settings not reloaded"), "{health}");
        assert_eq!(setting(&app.get("/config").await.json, "checks.default_check_interval_ms")["value"], 50000);
    }
    write("");
    assert_eq!(reload().await.status, StatusCode::OK);
    assert_eq!(setting(&app.get("/config").await.json, "checks.default_check_interval_ms")["source"], "default");
}

#[tokio::test]
async fn a_promise_is_judged_by_the_settings_in_force() {
    let app = TestApp::built_in().await;
    let broken = async || app.get("/health").await.json["self"]["problems"].to_string().contains("promise broken");
    assert!(!broken().await);
    put(&app, json!({"settings": {"outages": {"outage_verification_enabled": false}}})).await;
    assert!(broken().await);
    put(&app, json!({"settings": {"outages": {"outage_verification_enabled": null}}})).await;
    assert!(!broken().await);
}

#[tokio::test]
async fn the_avatar_is_the_one_in_force_and_a_fault_when_there_is_none() {
    let app = TestApp::with(&[("ACTIVE_AVATAR", "nova")]).await;
    let avatar = async || app.get("/api/v1/data/avatars/active").await;
    assert_eq!(avatar().await.json, json!({"data": "nova"}));
    put(&app, json!({"active_avatar": "kira"})).await;
    assert_eq!(avatar().await.json, json!({"data": "kira"}));
    put(&app, json!({"active_avatar": ""})).await;
    let none = avatar().await;
    assert_eq!((none.status.as_u16(), &none.json["detail"]), (500, &json!("Unable to fetch active avatar")));
    put(&app, json!({"active_avatar": null})).await;
    assert_eq!(avatar().await.json, json!({"data": "nova"}));
}

#[tokio::test]
async fn readers_see_settings_and_change_none() {
    let app = TestApp::with(&[("READONLY_SERVICE_KEYS", "reader-reader-reader")]).await;
    let reader = [("x-service-key", "reader-reader-reader")];
    assert_eq!(app.ask("GET", "/config", &reader, "").await.status, StatusCode::OK);
    assert_eq!(app.ask("GET", "/config/changes", &reader, "").await.status, StatusCode::OK);
    for (method, path) in [("PUT", "/config"), ("POST", "/monitoring/stop"), ("POST", "/config/reload")] {
        assert_eq!(app.ask(method, path, &reader, "{}").await.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(app.ask(method, path, &[], "{}").await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(app.ask("GET", "/config", &[], "").await.status, StatusCode::UNAUTHORIZED);
}

#[test]
fn the_components_of_004_are_defined_by_one_address() {
    let folder = tempfile::tempdir().unwrap();
    let services = |more: &[(&str, &str)]| {
        let file = folder.path().join("services.toml");
        std::fs::write(&file, "").unwrap();
        let mut more = more.to_vec();
        let file = file.display().to_string();
        more.push(("SERVICES_FILE", &file));
        let (settings, listed) = load(variables(folder.path(), &more)).unwrap();
        for service in listed.services.iter().filter(|service| service.critical) {
            assert!(service.worst_case_detection(&settings.engine.detection).as_secs() <= 30, "{}", service.name);
        }
        let shown = |service: &Arc<as_infrastructure_service::domain::service::Service>| {
            (service.name.to_string(), service.url.clone(), service.category.clone(), service.critical)
        };
        listed.services.iter().map(shown).collect::<Vec<_>>()
    };
    assert!(services(&[]).is_empty());
    let base = ("BASE_SERVICE_URL", "http://localhost:8000/");
    let list = services(&[base, ("REDIS_URL", "redis://u:p@localhost:6379/2")]);
    let line = |name: &str, url: &str, category: &str, critical| {
        (name.to_owned(), url.to_owned(), category.to_owned(), critical)
    };
    assert_eq!(
        list,
        [
            line("main_backend", "http://localhost:8000/health", "trading", true),
            line("scheduler", "http://localhost:8000/health/scheduler", "trading", true),
            line("risk_guard", "http://localhost:8000/health/risk", "trading", true),
            line("ai_system", "http://localhost:8000/health/ai", "trading", true),
            line("system_health_monitor", "http://localhost:8000/health/system", "trading", false),
            line("redis", "redis://localhost:6379/2", "infrastructure", true),
            line("postgres", "http://localhost:8000/health", "infrastructure", true),
            line("binance_api", "https://api.binance.com/api/v3/ping", "infrastructure", true),
        ]
    );
    let list = services(&[base, ("POSTGRES_HEALTH_URL", "http://localhost:9/pg")]);
    assert_eq!(list.iter().find(|one| one.0 == "postgres").unwrap().1, "http://localhost:9/pg");
    assert!(list.iter().all(|one| one.0 != "redis"), "without Redis there is none to ask");
}

#[tokio::test]
async fn switched_off_nothing_is_checked_and_nothing_alerts_until_it_is_on_again() {
    let app = TestApp::with_file(
        "[[service]]\nname = \"a\"\nurl = \"http://localhost:1\"\ncritical = true\ncheck_interval = 3600\n",
        &[],
    )
    .await;
    let ask = async |path: &str| app.ask("POST", path, &FULL, "").await.json["message"].clone();
    let gauge = async || {
        let text = app.get("/metrics/prometheus").await.text;
        text.lines().find_map(|line| line.strip_prefix("infra_monitoring_active ")).unwrap().to_owned()
    };
    assert_eq!(app.get("/monitoring/status").await.json, json!({"monitoring_active": true}));
    assert_eq!((ask("/monitoring/start").await, gauge().await), (json!("Monitoring already active"), "1.0".to_owned()));
    // In the built pipeline, not by the switch of the tests.
    app.app.engine.pause_checks(false);
    assert_eq!(ask("/monitoring/stop").await, json!("Monitoring stopped"));
    assert_eq!(ask("/monitoring/stop").await, json!("Monitoring already stopped"));
    assert_eq!(
        (app.get("/monitoring/status").await.json, gauge().await),
        (json!({"monitoring_active": false}), "0.0".to_owned())
    );
    let health = app.get("/health").await.json;
    assert_eq!(health["self"]["monitoring_active"], false);
    assert!(health["self"]["problems"].to_string().contains("monitoring was stopped by hand"), "{health}");
    let by_hand = app.ask("POST", "/services/a/check", &FULL, "").await;
    assert_eq!(by_hand.json["error"], "Not checked: the check came to no result", "{}", by_hand.text);
    assert_eq!(app.get("/health/service/a").await.json["service"]["lastChecked"], Value::Null);

    assert_eq!(ask("/monitoring/start").await, json!("Monitoring started"));
    app.clock.advance(Duration::from_secs(2));
    let by_hand = app.ask("POST", "/services/a/check", &FULL, "").await;
    assert_eq!(by_hand.json["status"], "DOWN", "{}", by_hand.text);
    assert_eq!(app.get("/health").await.json["self"]["monitoring_active"], true);
    ask("/monitoring/stop").await;
    let app = app.restart(&[]).await;
    assert_eq!(app.get("/monitoring/status").await.json, json!({"monitoring_active": true}));
}

/// A write to a running binary.
async fn send(binary: &Binary, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let url = format!("http://127.0.0.1:{}{path}", binary.port);
    let answer = client.request(method, url).header("x-service-key", KEY).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_after_a_kill() {
    let target = Stub::start(Script::ok()).await;
    let file = format!("[[service]]\nname = \"a\"\nurl = \"{}\"\n", target.url());
    let more = [("DEFAULT_CHECK_INTERVAL_MS", "3600000")];
    let binary = Binary::start(&file, &more).await;
    let (code, body) = send(&binary, reqwest::Method::PUT, "/config", json!({"check_interval_seconds": 1})).await;
    assert_eq!(code, 200, "{body}");
    eventually("checks each second", async || (target.requests() > 2).then_some(())).await;
    let binary = Binary::start_in(binary.kill().await, &more).await;
    let body = binary.get("/config").await;
    assert_eq!((&body["check_interval_seconds"], &body["service_check_interval"]), (&json!(1), &json!(1)));
    assert_eq!(setting(&body, "checks.default_check_interval_ms")["source"], "stored");
    assert_eq!(binary.get("/config/changes").await["total"], 1);
    let before = target.requests();
    eventually("checks each second", async || (target.requests() > before + 2).then_some(())).await;
}

#[tokio::test]
async fn the_log_follows_its_level() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let target = Stub::start(Script::ok()).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(
        folder.path().join("services.toml"),
        format!("[[service]]\nname = \"a\"\nurl = \"{}\"\n", target.url()),
    )
    .unwrap();
    let port = crate::support::free_port();
    let mut child = command(folder.path())
        .env("PORT", port.to_string())
        .env("REDIS_URL", "")
        .env("SERVICES_FILE", "services.toml")
        .env("LOG_LEVEL", "info")
        .env("LOG_FORMAT", "json")
        .envs(crate::support::PROFILE)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = async |part: &str| {
        let reading = async {
            let mut before = Vec::new();
            loop {
                let line = lines.next_line().await.unwrap().expect("a line");
                if line.contains(part) {
                    return before;
                }
                before.push(line);
            }
        };
        tokio::time::timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("no line with {part}"))
    };
    until("listening on").await;
    eventually("a check", async || (target.requests() > 1).then_some(())).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let put = async |body: Value| {
        let url = format!("http://127.0.0.1:{port}/config");
        let asked = client.put(url).header("x-service-key", KEY).body(body.to_string()).send().await.unwrap();
        assert_eq!(asked.status(), 200);
    };
    put(json!({"enable_detailed_logging": true})).await;
    let before = until("\"level\":\"DEBUG\"").await;
    assert!(before.iter().any(|line| line.contains("settings changed: log.log_level")), "{before:?}");
    put(json!({"settings": {"log": {"log_level": "error"}}})).await;
    put(json!({"settings": {"log": {"log_level": "info"}}})).await;
    until("settings changed").await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn systemd_hears_that_it_is_ready_alive_reloading_and_stopping() {
    use std::os::unix::net::UnixDatagram;
    let target = Stub::start(Script::ok()).await;
    let file = format!("[[service]]\nname = \"a\"\nurl = \"{}\"\n", target.url());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("services.toml"), &file).unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let path = folder.path().join("notify").display().to_string();
    let more = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "200000")];
    let binary = Binary::start_in(folder, &more).await;
    let until = async |part: &'static str| {
        let socket = socket.try_clone().unwrap();
        let hearing = tokio::task::spawn_blocking(move || {
            let mut heard = Vec::new();
            let mut text = [0; 500];
            loop {
                let length = socket.recv(&mut text).unwrap_or_else(|_| panic!("{part} after {heard:?}"));
                let said = String::from_utf8(text[..length].to_vec()).unwrap();
                heard.push(said.clone());
                if said.contains(part) {
                    return heard;
                }
            }
        });
        hearing.await.unwrap()
    };
    assert_eq!(until("READY=1").await, ["READY=1\nSTATUS=Watching 1 services"]);
    until("WATCHDOG=1").await;
    binary.signal("-HUP");
    until("RELOADING=1\nMONOTONIC_USEC=").await;
    until("READY=1").await;
    // Stopped and continued it has lost time, and is alive as before.
    binary.signal("-STOP");
    binary.signal("-CONT");
    until("WATCHDOG=1").await;
    assert_eq!(binary.terminate().await.0, Some(0));
    let last = until("STOPPING=1").await;
    assert!(last.iter().all(|said| said == "WATCHDOG=1" || said.starts_with("STOPPING=1")), "{last:?}");
}

#[tokio::test]
async fn parts_make_progress_and_one_that_does_not_is_named() {
    let app = TestApp::built_in().await;
    let counters = &app.app.engine.counters;
    let before = counters.rounds();
    let all = || counters.rounds().iter().zip(before).all(|(now, before)| *now > before + 1);
    eventually("progress of every part", async || all().then_some(())).await;
    counters.note_stuck(&[Part::Evaluator]);
    let health = app.get("/health").await.json;
    assert_eq!(health["self"]["problems"], json!(["the evaluator makes no progress"]));
    counters.note_stuck(&[]);
    assert_eq!(app.get("/health").await.json["self"]["status"], "healthy");
}
