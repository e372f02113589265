//! Maintenance windows through the API and the file: no outage, no notice, no number; and what is still down is announced
//! when they end.

use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Reason};
use as_infrastructure_service::domain::time::{Stamp, from_ms};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::registry::send;
use crate::support::{KEY, Recorder, T0, TestApp};

fn at(minutes: i64) -> String {
    Stamp(from_ms(T0 + minutes * 60_000)).to_string()
}

async fn window(app: &TestApp, from: i64, to: i64, mut more: Value) -> Value {
    let fields = more.as_object_mut().unwrap();
    fields.insert("start_time".into(), at(from).into());
    fields.insert("end_time".into(), at(to).into());
    let made = send(app, "POST", "/maintenance/", more).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    made.json
}

#[tokio::test]
async fn in_a_window_nothing_is_announced_and_its_time_counts_nowhere() {
    let receiver = Recorder::start().await;
    let file = "[[service]]\nname = \"auth\"\nurl = \"http://127.0.0.1:1\"\ncritical = true\n";
    let url = receiver.url();
    let app = TestApp::with_file(file, &[("ALERT_WEBHOOK_URL", &url), ("NOTIFICATION_GROUP_WAIT_MS", "0")]).await;
    app.answer("auth", 5).await;
    let made = window(&app, 1, 11, json!({"endpoint_ids": ["Auth"], "description": "upgrade"})).await;
    assert_eq!((&made["is_active"], &made["endpoint_ids"]), (&json!(false), &json!(["auth"])));
    app.clock.advance(Duration::from_secs(60));
    app.fail("auth", 6).await;
    let shown = app.get("/health").await.json;
    assert_eq!((&shown["status"], &shown["services"]["inMaintenance"]), (&json!("healthy"), &json!(1)));
    assert_eq!(app.get("/status/critical").await.json["critical"]["status"], "operational");
    let status = app.get("/services/auth/status").await.json;
    assert_eq!((&status["status"], &status["error_message"]), (&json!("UNKNOWN"), &json!("Service is in maintenance")));
    assert_eq!(app.get("/health/service/auth").await.json["service"]["status"], "unhealthy");
    assert_eq!(app.get("/services/status/summary").await.json["maintenance"], 1);
    assert_eq!(app.get("/outages/").await.json["total"], 0);
    assert_eq!(app.get("/maintenance/active").await.json["total"], 1);
    assert_eq!(app.get("/services/auth").await.json["in_maintenance"], true);

    // The window ends; three failures later it is announced, dated to the first of them.
    app.clock.advance(Duration::from_secs(10 * 60 - 90));
    assert_eq!(app.get("/maintenance/active").await.json["total"], 1, "its last instant is within");
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(app.get("/maintenance/active").await.json["total"], 0);
    app.fail("auth", 2).await;
    assert_eq!(app.get("/outages/").await.json["total"], 0);
    app.fail("auth", 1).await;
    let outages = app.get("/outages/").await.json;
    assert_eq!(
        (&outages["total"], &outages["items"][0]["start_time"]),
        (&json!(1), &json!(Stamp(from_ms(T0 + 660_001)).to_string()))
    );
    assert_eq!(receiver.wait_for(1).await[0].kind(), "alert_raised");
    let metrics = app.get("/metrics/service/auth").await.json;
    assert_eq!(metrics["metrics"]["requests"]["total"], 4, "one before the window, three after: {metrics}");
    let report = app.get(&format!("/services/auth/availability?start_time={}&end_time={}", at(0), at(11))).await.json;
    assert_eq!((&report["maintenance_seconds"], &report["down_seconds"]), (&json!(600.0), &json!(0.0)), "{report}");
}

#[tokio::test]
async fn an_outage_open_at_the_start_stays_open_with_its_clock_stopped() {
    let app = TestApp::built_in().await;
    app.fail("ts-auth-service", 4).await;
    let id = app.get("/outages/active").await.json["items"][0]["id"].as_str().unwrap().to_owned();
    window(&app, 1, 6, json!({"affected_services": "ts-auth-service"})).await;
    app.fail("ts-auth-service", 8).await;
    app.clock.advance(Duration::from_secs(60));
    // Four minutes gone, of which three in the window.
    assert_eq!(app.get(&format!("/outages/{id}")).await.json["duration_seconds"], 60);
    app.clock.advance(Duration::from_secs(180));
    app.answer("ts-auth-service", 5).await;
    let closed = app.get(&format!("/outages/{id}")).await.json;
    assert_eq!((&closed["resolved"], &closed["duration"]), (&json!(true), &json!(120)), "{closed}");
    let numbers = app.get("/metrics/service/ts-auth-service").await.json;
    assert_eq!(numbers["metrics"]["availability"]["downtimeMinutes"], 2.0, "{numbers}");
    assert_eq!(numbers["metrics"]["availability"]["mttr"], 2.0);
}

#[tokio::test]
async fn windows_are_changed_ended_early_and_taken_away() {
    let app = TestApp::built_in().await;
    let made = window(&app, 0, 60, json!({"name": "night", "created_by": "admin"})).await;
    let mut shown = made.clone();
    shown["id"] = "[id]".into();
    insta::assert_json_snapshot!("window", shown);
    let path = format!("/maintenance/{}", made["id"].as_str().unwrap());
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 9);
    let only = send(&app, "PUT", &path, json!({"endpoint_ids": ["web-ui"]})).await;
    assert_eq!((only.status, &only.json["affected_services"]), (StatusCode::OK, &json!("web-ui")));
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 1);
    app.clock.advance(Duration::from_secs(600));
    let tag = app.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    let early = app
        .ask("PUT", &path, &[("x-service-key", KEY), ("if-match", &tag)], &json!({"end_time": at(5)}).to_string())
        .await;
    assert_eq!((early.status, &early.json["is_active"]), (StatusCode::OK, &json!(false)));
    let stale = app.ask("PUT", &path, &[("x-service-key", KEY), ("if-match", &tag)], "{}").await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 0);
    assert_eq!(app.get("/maintenance/").await.json["total"], 0);
    assert_eq!(app.get("/maintenance/?include_past=true").await.json["total"], 1);
    let backwards = send(&app, "PUT", &path, json!({"end_time": at(-5)})).await;
    assert_eq!(backwards.json["detail"][0]["loc"], json!(["body", "end_time"]));
    assert_eq!(send(&app, "DELETE", &path, json!({})).await.status, StatusCode::NO_CONTENT);
    let gone = app.get(&path).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert!(gone.json["detail"].as_str().unwrap().starts_with("Maintenance window with ID "));
}

#[tokio::test]
async fn a_change_of_a_window_alters_nothing_of_the_past() {
    let app = TestApp::built_in().await;
    let report = async |from: i64, to: i64| {
        let path = format!("/services/web-ui/availability?start_time={}&end_time={}", at(from), at(to));
        let report = app.get(&path).await.json;
        (report["maintenance_seconds"].clone(), report["down_seconds"].clone())
    };
    app.fail("web-ui", 20).await;
    // Made for the past, it begins when it is made.
    let made = window(&app, 0, 20, json!({"endpoint_ids": ["web-ui"]})).await;
    assert_eq!(report(0, 5).await, (json!(0.0), json!(300.0)));
    let path = format!("/maintenance/{}", made["id"].as_str().unwrap());
    app.fail("web-ui", 20).await;
    assert_eq!(report(5, 10).await, (json!(300.0), json!(0.0)));
    // Turned to another service, what was stays.
    let turned = send(&app, "PUT", &path, json!({"endpoint_ids": ["twilio-server"]})).await;
    assert_eq!(turned.status, StatusCode::OK, "{}", turned.text);
    app.fail("web-ui", 20).await;
    assert_eq!((report(5, 10).await, report(10, 15).await), ((json!(300.0), json!(0.0)), (json!(0.0), json!(300.0))));
    // So it does when the window is taken away, and after a restart.
    assert_eq!(send(&app, "DELETE", &path, json!({})).await.status, StatusCode::NO_CONTENT);
    let app = app.restart(&[]).await;
    let report = app.get(&format!("/services/web-ui/availability?start_time={}&end_time={}", at(0), at(15))).await.json;
    assert_eq!((&report["maintenance_seconds"], &report["down_seconds"]), (&json!(300.0), &json!(600.0)), "{report}");
}

#[tokio::test]
async fn a_window_outlives_a_restart_in_its_middle_and_covers_by_tag_and_category() {
    let file = "[[service]]\nname = \"db\"\nurl = \"tcp://127.0.0.1:1\"\ntags = [\"eu\"]\n\
                [[service]]\nname = \"web\"\nurl = \"http://127.0.0.1:1\"\ncategory = \"frontend\"\n\
                [[service]]\nname = \"other\"\nurl = \"http://127.0.0.1:1\"\n";
    let app = TestApp::with_file(file, &[]).await;
    window(&app, 0, 60, json!({"tags": ["eu"]})).await;
    window(&app, 0, 60, json!({"categories": ["frontend"]})).await;
    for name in ["db", "web", "other"] {
        app.fail(name, 4).await;
    }
    let listed = app.folder.path().join("services.toml").display().to_string();
    let app = app.restart(&[("SERVICES_FILE", &listed)]).await;
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 2);
    app.fail("db", 4).await;
    let outages = app.get("/outages/active").await.json;
    assert_eq!((&outages["total"], &outages["items"][0]["endpoint_id"]), (&json!(1), &json!("other")));
    // Naming only a service that is gone later covers nobody.
    send(&app, "POST", "/services", json!({"id": "temp", "url": "tcp://127.0.0.1:1"})).await;
    window(&app, 0, 600, json!({"endpoint_ids": ["temp"]})).await;
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 3);
    send(&app, "DELETE", "/services/temp", json!({})).await;
    assert_eq!(app.get("/health").await.json["services"]["inMaintenance"], 2);
}

#[tokio::test]
async fn windows_of_the_file_recur_and_cannot_be_changed_over_the_api() {
    // 10:30 UTC is 11:30 in Berlin in winter.
    let file = "[[service]]\nname = \"db\"\nurl = \"tcp://127.0.0.1:1\"\n\
                [[maintenance]]\nname = \"nightly\"\nstart_time = \"2026-01-01T00:00:00Z\"\nend_time = \"2027-01-01T00:00:00Z\"\n\
                recurrence = { cron = \"0 0 11 * * *\", duration_minutes = 45, timezone = \"Europe/Berlin\" }\n";
    let app = TestApp::with_file(file, &[]).await;
    let active = app.get("/maintenance/active").await.json;
    assert_eq!((&active["total"], &active["items"][0]["source"]), (&json!(1), &json!("file")));
    let path = format!("/maintenance/{}", active["items"][0]["id"].as_str().unwrap());
    let refused = send(&app, "DELETE", &path, json!({})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    app.clock.advance(Duration::from_secs(16 * 60));
    assert_eq!(app.get("/maintenance/active").await.json["total"], 0);
    app.clock.advance(Duration::from_secs(24 * 3600 - 16 * 60));
    assert_eq!(app.get("/maintenance/active").await.json["total"], 1);
}

#[tokio::test]
async fn a_flapping_service_is_marked_and_told_once() {
    let receiver = Recorder::start().await;
    let url = receiver.url();
    let file = "[[service]]\nname = \"auth\"\nurl = \"http://127.0.0.1:1\"\n";
    let more =
        [("ALERT_WEBHOOK_URL", url.as_str()), ("NOTIFICATION_GROUP_WAIT_MS", "0"), ("OUTAGE_DETECTION_THRESHOLD", "1")];
    let app = TestApp::with_file(file, &more).await;
    for turn in 0..40 {
        if turn % 2 == 0 {
            app.answer("auth", 5).await;
        } else {
            app.take_in("auth", Observation::failed(Reason::ConnectRefused, "")).await;
        }
        app.clock.advance(Duration::from_secs(15));
    }
    assert_eq!(app.get("/health/service/auth").await.json["service"]["flapping"], true);
    assert_eq!(app.get("/outages/").await.json["total"], 20, "each of its outages is kept");
    for _ in 0..20 {
        app.answer("auth", 5).await;
        app.clock.advance(Duration::from_secs(15));
    }
    assert_eq!(app.get("/health/service/auth").await.json["service"]["flapping"], false);
    let flapping = |message: &&crate::support::Received| message.body["data"]["alert"]["type"] == "flapping";
    let told = async || {
        receiver.messages().iter().filter(flapping).map(|message| message.kind().to_owned()).collect::<Vec<_>>()
    };
    crate::support::eventually("both notices", async || (told().await.len() == 2).then_some(())).await;
    assert_eq!(told().await, ["alert_raised", "alert_resolved"]);
}

#[tokio::test]
async fn a_service_that_is_gone_leaves_its_windows() {
    let app = TestApp::with_file("[[service]]\nname = \"auth\"\nurl = \"http://127.0.0.1:1\"\n", &[]).await;
    let register = async || send(&app, "POST", "/services", json!({"id": "dz", "url": "tcp://127.0.0.1:1"})).await.json;
    register().await;
    let alone = window(&app, 0, 60, json!({"endpoint_ids": ["dz"]})).await;
    let both = window(&app, 0, 60, json!({"endpoint_ids": ["auth", "dz"]})).await;
    assert_eq!(app.get("/services/dz").await.json["in_maintenance"], true);
    app.clock.advance(Duration::from_secs(60));
    send(&app, "DELETE", "/services/dz", json!({})).await;
    let left = async |made: &Value| app.get(&format!("/maintenance/{}", made["id"].as_str().unwrap())).await.json;
    assert_eq!(left(&alone).await["endpoint_ids"], json!([]));
    assert_eq!(left(&both).await["endpoint_ids"], json!(["auth"]));
    assert_eq!(register().await["in_maintenance"], false, "another service of the same name");
    let auth = app.get("/services/auth").await.json;
    assert_eq!(auth["in_maintenance"], true);
    let path = format!("/services/auth/availability?start_time={}&end_time={}", at(0), at(1));
    let report = app.get(&path).await.json;
    assert_eq!(report["maintenance_seconds"], 60.0, "what was, stays: {report}");
}

#[tokio::test]
async fn writers_at_once_are_told_apart_by_what_they_have_read() {
    let app = TestApp::built_in().await;
    let made = window(&app, 5, 60, json!({"endpoint_ids": ["web-ui"]})).await;
    let path = format!("/maintenance/{}", made["id"].as_str().unwrap());
    let tag = app.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    let put = async |n: usize, tag: Option<&str>| {
        let mut headers = vec![("x-service-key", KEY)];
        headers.extend(tag.map(|tag| ("if-match", tag)));
        app.ask("PUT", &path, &headers, &json!({"name": format!("n{n}")}).to_string()).await.status
    };
    let careless = futures_util::future::join_all((0..10).map(|n| put(n, None))).await;
    assert!(careless.iter().all(|status| *status == StatusCode::OK), "{careless:?}");
    let stale = put(11, Some(&tag)).await;
    assert_eq!(stale, StatusCode::PRECONDITION_FAILED);
    let tag = app.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    let careful = futures_util::future::join_all((0..10).map(|n| put(n, Some(&tag)))).await;
    let granted = careful.iter().filter(|status| **status == StatusCode::OK).count();
    let refused = careful.iter().filter(|status| **status == StatusCode::PRECONDITION_FAILED).count();
    assert_eq!((granted, refused), (1, 9), "{careful:?}");
}

#[tokio::test]
async fn windows_that_would_cover_nobody_by_mistake_are_refused() {
    let app = TestApp::built_in().await;
    for (field, value) in [
        ("affected_services", json!(" , ")),
        ("tags", json!([""])),
        ("categories", json!(["A B"])),
        ("recurrence", json!(["0 0 3 * * *", 60, "UTC"])),
        ("description", json!("a\u{0}b")),
    ] {
        let body = json!({"start_time": at(1), "end_time": at(2), field: value});
        let answer = send(&app, "POST", "/maintenance/", body).await;
        assert_eq!(answer.json["detail"][0]["loc"], json!(["body", field]), "{}", answer.text);
    }
    assert_eq!(app.get("/maintenance/").await.json["total"], 0);
}
