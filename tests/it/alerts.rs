//! From a failing check to a receiver and back, on a clock moved by hand.

use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Reason};
use serde_json::Value;

use crate::support::{KEY, Recorder, TestApp};

const PROMPT: (&str, &str) = ("NOTIFICATION_GROUP_WAIT_MS", "0");

async fn active(app: &TestApp) -> Vec<Value> {
    app.get("/status/critical").await.json["alerts"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_outage_is_told_once_with_its_envelope_and_resolved_once() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let app = TestApp::with(&[
        PROMPT,
        ("ALERT_WEBHOOK_URL", &url),
        ("ALERT_WEBHOOK_SECRETS", "first-signing-secret,second-signing-secret"),
        ("ALERT_WEBHOOK_HEADERS", "X-Tenant: nine"),
    ])
    .await;
    app.answer("twilio-server", 20).await;
    app.clock.advance(Duration::from_secs(15));
    app.fail("twilio-server", 6).await;
    app.answer("twilio-server", 20).await;
    let messages = recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised twilio-server", "alert_resolved twilio-server"]);

    let (raised, resolved) = (&messages[0], &messages[1]);
    assert_eq!(raised.headers["content-type"], "application/cloudevents+json");
    assert_eq!(raised.headers["x-tenant"], "nine");
    assert_eq!(raised.headers["idempotency-key"], raised.body["id"].as_str().unwrap());
    assert_eq!(raised.headers["webhook-signature"].split(' ').count(), 2);
    assert_eq!(raised.body["data"]["alert"]["severity"], "critical");
    assert_eq!(raised.body["data"]["impacted"], serde_json::json!(["as-call-service", "web-ui"]));
    assert_eq!(raised.body["data"]["started_at"], "2026-01-31T10:30:15.000Z");
    assert_eq!(resolved.body["data"]["resolved_at"], "2026-01-31T10:31:45.000Z");
    assert_eq!(resolved.body["data"]["alert"]["id"], raised.body["data"]["alert"]["id"]);
    let sequence = |message: &crate::support::Received| message.body["data"]["sequence"].as_u64().unwrap();
    assert!(sequence(raised) < sequence(resolved));
    assert!(active(&app).await.is_empty());
}

#[tokio::test]
async fn dependents_of_a_failed_root_are_shown_and_not_told() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let app = TestApp::with(&[PROMPT, ("ALERT_WEBHOOK_URL", &url)]).await;
    for service in ["twilio-server", "as-call-service", "web-ui"] {
        app.fail(service, 3).await;
    }
    recorder.wait_for(1).await;
    let held: Vec<Value> = active(&app).await.into_iter().filter(|alert| !alert["suppressed_by"].is_null()).collect();
    assert_eq!(held.len(), 4, "{held:#?}");
    assert!(held.iter().all(|alert| alert["root_cause"] == "twilio-server" && alert["alert_sent"] == false));
    for service in ["web-ui", "as-call-service", "twilio-server"] {
        app.answer(service, 5).await;
    }
    recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised twilio-server", "alert_resolved twilio-server"]);
}

#[tokio::test]
async fn an_alert_in_mid_outage_survives_a_restart_and_is_not_told_again() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let more = [PROMPT, ("ALERT_WEBHOOK_URL", url.as_str())];
    let app = TestApp::with(&more).await;
    app.fail("web-ui", 4).await;
    recorder.wait_for(1).await;
    // Told, not only owed: the delivery itself is durable before the restart.
    crate::support::eventually("the delivery noted", async || {
        active(&app).await.iter().all(|alert| alert["alert_sent"] == true).then_some(())
    })
    .await;
    let (alerts, shown) = (active(&app).await, app.get("/health/service/web-ui").await.json);
    let app = app.restart(&more).await;
    assert_eq!(active(&app).await, alerts);
    let mut after = app.get("/health/service/web-ui").await.json;
    after["service"]["phases"] = shown["service"]["phases"].clone();
    assert_eq!(after, shown);
    app.fail("web-ui", 2).await;
    app.answer("web-ui", 5).await;
    recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised web-ui", "alert_resolved web-ui"]);
    let [first, second] = recorder.messages().try_into().unwrap();
    assert_eq!(first.body["data"]["started_at"], second.body["data"]["started_at"]);
    assert_eq!((&first.body["data"]["from"], &first.body["data"]["to"]), (&"unknown".into(), &"unhealthy".into()));
    assert_eq!(second.body["data"]["outage"]["id"], first.body["data"]["outage"]["id"]);
}

#[tokio::test]
async fn what_a_receiver_refused_for_a_while_arrives_in_order() {
    let recorder = Recorder::start().await;
    recorder.answer_with(503);
    let url = recorder.url();
    let app = TestApp::with(&[
        PROMPT,
        ("ALERT_WEBHOOK_URL", &url),
        ("NOTIFICATION_RETRY_MIN_MS", "10"),
        ("NOTIFICATION_RETRY_MAX_MS", "50"),
    ])
    .await;
    app.fail("web-ui", 3).await;
    app.fail("ts-user-service", 5).await;
    crate::support::eventually("the receiver named in /health", async || {
        let health = app.ask("GET", "/health", &[("x-service-key", KEY)], "").await.json;
        health["self"]["problems"].to_string().contains("receiver webhook failing").then_some(())
    })
    .await;
    recorder.answer_with(200);
    crate::support::eventually("both alerts at the receiver", async || (recorder.messages().len() >= 2).then_some(()))
        .await;
    let mut log = recorder.log();
    log.sort();
    assert_eq!(log[..2], ["alert_raised ts-user-service", "alert_raised web-ui"]);
}

#[tokio::test]
async fn an_inconclusive_check_changes_nothing() {
    let app = TestApp::built_in().await;
    app.fail("web-ui", 2).await;
    let before = app.get("/health/service/web-ui").await.json;
    app.take_in("web-ui", Observation::failed(Reason::LocalResource, "no descriptors")).await;
    assert_eq!(app.get("/health/service/web-ui").await.json, before);
}

#[tokio::test]
async fn an_error_rate_is_raised_by_the_clock_and_its_slowness_is_an_event() {
    let app = TestApp::built_in().await;
    for n in 0..20 {
        let seen = if n % 4 == 0 {
            Observation::answered(404, Duration::from_millis(5))
        } else {
            Observation::answered(200, Duration::from_millis(5))
        };
        app.take_in("as-call-service", seen).await;
        app.clock.advance(Duration::from_secs(10));
    }
    app.app.engine.error_rates().await;
    let alerts = active(&app).await;
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    assert_eq!(
        (&alerts[0]["type"], &alerts[0]["severity"]),
        (&Value::from("high_error_rate"), &Value::from("critical"))
    );
    for _ in 0..3 {
        app.answer("dispatch-bot-ai", 1200).await;
        app.clock.advance(Duration::from_secs(15));
    }
    let dashboard = app.get("/status/dashboard").await.json;
    assert_eq!(dashboard["dashboard"]["recentEvents"][0]["type"], "performance_alert");
    assert_eq!(dashboard["dashboard"]["recentEvents"][0]["message"], "High response time: 1200ms");
}
