//! Outages and history over the API: lists, timelines, resolving by hand, and numbers that agree with each other.

use std::time::Duration;

use as_infrastructure_service::domain::observation::Observation;
use as_infrastructure_service::domain::time::{Stamp, from_ms};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::registry::send;
use crate::support::{Recorder, T0, TestApp, eventually};

fn at(seconds: i64) -> String {
    Stamp(from_ms(T0 + seconds * 1000)).to_string()
}

#[tokio::test]
async fn outages_are_listed_filtered_and_summed() {
    let app = TestApp::built_in().await;
    app.fail("ts-auth-service", 4).await;
    app.answer("ts-auth-service", 5).await;
    app.fail("twilio-server", 3).await;
    let all = app.get("/outages").await.json;
    assert_eq!((&all["total"], &all["items"][0]["endpoint_id"]), (&json!(2), &json!("twilio-server")));
    let mut shown = all["items"][1].clone();
    // The log has taken its notices by now, or a moment later.
    (shown["alerts"], shown["timeline"], shown["notification_channels"]) = (json!([]), json!([]), json!([]));
    insta::assert_json_snapshot!("outage", shown);
    let total = async |query: &str| app.get(&format!("/outages/?{query}")).await.json["total"].clone();
    assert_eq!(total("endpoint_id=TS-auth-service").await, 1);
    assert_eq!(total("severity=critical").await, 1);
    assert_eq!(total("severity=MAJOR&include_resolved=false").await, 0);
    assert_eq!(total(&format!("start_time={}", at(30))).await, 1);
    assert_eq!(total(&format!("end_time={}", at(30))).await, 1);
    assert_eq!(total("endpoint_id=no%20name").await, 0);
    let summary = app.get("/outages/summary").await.json;
    let counts = json!({"CRITICAL": 1, "MAJOR": 1, "MINOR": 0, "WARNING": 0});
    assert_eq!(
        summary,
        json!({"total_outages": 2, "active_outages": 1, "by_severity": counts, "avg_duration_seconds": 60.0})
    );
    for query in [
        "severity=bad",
        "start_time=soon",
        "include_resolved=x",
        "start_time=2026-02-01T00:00:00Z&end_time=2026-01-01T00:00:00Z",
    ] {
        assert_eq!(app.get(&format!("/outages/?{query}")).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
    let missing = app.get("/outages/0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11").await;
    assert_eq!(missing.json["detail"], "Service outage with ID 0197a3c2-5b1e-7d40-9a55-3f0c6f1f2b11 not found");
}

#[tokio::test]
async fn an_outage_resolved_by_hand_is_told_and_needs_the_threshold_anew() {
    let receiver = Recorder::start().await;
    let url = receiver.url();
    let app = TestApp::with(&[("ALERT_WEBHOOK_URL", &url), ("NOTIFICATION_GROUP_WAIT_MS", "0")]).await;
    app.fail("twilio-server", 3).await;
    receiver.wait_for(1).await;
    let id = app.get("/outages/active").await.json["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/outages/{id}/resolve");
    let resolved = send(&app, "POST", &path, json!("replaced the cable")).await;
    assert_eq!(resolved.status, StatusCode::OK, "{}", resolved.text);
    assert_eq!(
        (&resolved.json["resolved"], &resolved.json["resolution_notes"]),
        (&json!(true), &json!("replaced the cable"))
    );
    let messages = receiver.wait_for(2).await;
    assert_eq!(messages[1].kind(), "alert_resolved");
    let again = send(&app, "POST", &path, json!({"resolution_notes": "x"})).await;
    assert_eq!(
        (again.status, &again.json["detail"]),
        (StatusCode::NOT_FOUND, &json!(format!("Service outage with ID {id} not found or already resolved")))
    );
    app.fail("twilio-server", 2).await;
    assert_eq!(app.get("/outages/active").await.json["total"], 0);
    app.fail("twilio-server", 1).await;
    assert_eq!(app.get("/outages/active").await.json["total"], 1);
    let wrong = send(&app, "POST", &path, json!({"notes": "x"})).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);

    // The timeline of the first: failure, confirmation, both notices, the resolution.
    let timeline = eventually("both deliveries in the timeline", async || {
        let shown = app.get(&format!("/outages/{id}")).await.json;
        let webhooks = shown["alerts"].as_array()?.iter().filter(|one| one["notification_type"] == "webhook").count();
        (webhooks == 2).then(|| shown["timeline"].clone())
    })
    .await;
    let events: Vec<&str> = timeline.as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    for event in ["first_failure", "confirmed", "notified", "resolved", "recovery_notified"] {
        assert!(events.contains(&event), "{events:?}");
    }
}

#[tokio::test]
async fn history_is_whole_across_memory_store_and_restart() {
    // Checked once a week: what is seen comes from the test alone.
    let file = "[[service]]\nname = \"web-ui\"\nurl = \"http://127.0.0.1:1\"\ncheck_interval = 604800\n";
    let app = TestApp::with_file(file, &[]).await;
    for n in 0..250 {
        app.answer("web-ui", 5 + n % 7).await;
        app.clock.advance(Duration::from_secs(15));
        if n % 40 == 0 {
            app.app.engine.keep_runs().await;
        }
    }
    app.take_in("web-ui", Observation::answered(404, Duration::from_millis(5))).await;
    app.clock.advance(Duration::from_secs(15));
    app.app.engine.keep_runs().await;
    let whole = async |app: &TestApp| {
        let mut stamps = Vec::new();
        for skip in [0, 100, 200] {
            let page = app.get(&format!("/services/web-ui/history?skip={skip}&limit=100")).await.json;
            assert_eq!(page["total"], 251, "{skip}");
            stamps.extend(
                page["items"].as_array().unwrap().iter().map(|item| item["timestamp"].as_str().unwrap().to_owned()),
            );
        }
        stamps
    };
    let stamps = whole(&app).await;
    let expected: Vec<String> = (0..251).rev().map(|n| at(n * 15)).collect();
    assert_eq!(stamps, expected);
    let first = app.get("/services/web-ui/history?limit=1").await.json["items"][0].clone();
    assert_eq!((&first["status"], &first["reason"]), (&json!("DEGRADED"), &json!("status")));
    let range = format!("/services/web-ui/history?start_time={}&end_time={}&limit=1000", at(100 * 15), at(109 * 15));
    assert_eq!(app.get(&range).await.json["total"], 10);

    let listed = app.folder.path().join("services.toml").display().to_string();
    let app = app.restart(&[("SERVICES_FILE", &listed)]).await;
    assert_eq!(whole(&app).await, expected);
    // Roll-ups are made of the same checks.
    let points = app
        .get(&format!("/metrics/history?service=web-ui&start_time={}&end_time={}&limit=10000", at(0), at(3765)))
        .await
        .json;
    let checks: u64 = points["historical_data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["metrics"]["checks"].as_u64().unwrap())
        .sum();
    assert_eq!(checks, 251);
    let hours = app
        .get(&format!("/metrics/history?service=web-ui&resolution=hour&start_time={}&end_time={}", at(0), at(3765)))
        .await
        .json;
    let of_hours: u64 = hours["historical_data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["metrics"]["checks"].as_u64().unwrap())
        .sum();
    assert_eq!((of_hours, hours["historical_data"].as_array().unwrap().len()), (251, 2));
    let fleet = app.get(&format!("/metrics/history?start_time={}&end_time={}", at(0), at(3765))).await.json;
    assert_eq!(fleet["service_name"], "system");
    assert!(fleet["data_points"].as_u64().unwrap() > 50, "{fleet}");
    for query in ["limit=0", "limit=10001", "resolution=year", "start_time=x"] {
        assert_eq!(
            app.get(&format!("/metrics/history?{query}")).await.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{query}"
        );
    }
    assert_eq!(app.get("/metrics/history?service=nobody").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_availability_report_agrees_with_the_outages_to_the_second() {
    let app = TestApp::built_in().await;
    for _ in 0..4 {
        for _ in 0..8 {
            app.answer("web-ui", 5).await;
            app.clock.advance(Duration::from_secs(15));
        }
        app.fail("web-ui", 5).await;
    }
    app.answer("web-ui", 5).await;
    let end = 4 * (8 + 5) * 15;
    let report =
        app.get(&format!("/services/web-ui/availability?start_time={}&end_time={}", at(0), at(end))).await.json;
    let outages = app.get("/outages/?endpoint_id=web-ui").await.json;
    let seconds: u64 = outages["items"].as_array().unwrap().iter().map(|one| one["duration"].as_u64().unwrap()).sum();
    assert_eq!(seconds, 4 * 75);
    assert_eq!(
        (&report["down_seconds"], &report["outage_seconds"], &report["outages"]),
        (&json!(300.0), &json!(300.0), &json!(4)),
        "{report}"
    );
    assert_eq!(report["up_seconds"], json!(f64::from(4 * 8 * 15)));
    // A range that begins and ends inside outages.
    let part =
        app.get(&format!("/services/web-ui/availability?start_time={}&end_time={}", at(150), at(340))).await.json;
    assert_eq!((&part["down_seconds"], &part["outage_seconds"]), (&json!(70.0), &json!(70.0)), "{part}");
}

#[tokio::test]
async fn numbers_of_one_service_in_the_words_of_002() {
    let app = TestApp::built_in().await;
    let empty = app.get("/metrics/web-ui").await;
    assert_eq!(
        (empty.status, &empty.json["total_checks"], &empty.json["success_rate"]),
        (StatusCode::OK, &json!(0), &Value::Null)
    );
    app.answer("web-ui", 40).await;
    app.fail("web-ui", 1).await;
    let shown = app.get("/metrics/web-ui").await.json;
    assert_eq!((&shown["total_checks"], &shown["success_rate"]), (&json!(2), &json!(0.5)));
    assert_eq!(shown["recent_checks"].as_array().unwrap().len(), 2);
    assert_eq!(app.get("/metrics?service_name=web-ui").await.json["service"], "web-ui");
    assert_eq!(app.get("/metrics/nobody").await.json["detail"], "Service nobody not found");
}
