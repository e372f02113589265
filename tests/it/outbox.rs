//! What leaves for receivers and when: rates, quiet hours, dead letters, living alerts told again, the heartbeat.

use std::sync::Arc;
use std::time::Duration;

use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::domain::time::from_ms;
use serde_json::{Value, json};

use crate::support::{Answer, Binary, KEY, Received, Recorder, Script, Stub, T0, TestApp, eventually};

const PROMPT: (&str, &str) = ("NOTIFICATION_GROUP_WAIT_MS", "0");
const QUICK: [(&str, &str); 2] = [("NOTIFICATION_RETRY_MIN_MS", "10"), ("NOTIFICATION_RETRY_MAX_MS", "20")];

async fn post(app: &TestApp, path: &str, body: &str) -> Answer {
    app.ask("POST", path, &[("x-service-key", KEY)], body).await
}

/// What the webhook took about each alert of a service, by kind, in order.
async fn taken(app: &TestApp, service: &str) -> Vec<Vec<String>> {
    let page = app.get(&format!("/alerts/history?service={service}&type=service_down")).await.json;
    let kinds = |alert: &Value| {
        let told = alert["notifications"].as_array().unwrap().iter();
        told.filter(|told| told["channel"] == "webhook").map(|told| told["kind"].as_str().unwrap().to_owned()).collect()
    };
    page["alerts"].as_array().unwrap().iter().map(kinds).collect()
}

#[tokio::test]
async fn beyond_its_rate_a_receiver_gets_one_message_for_many_and_nothing_is_dropped() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let more = [PROMPT, ("ALERT_WEBHOOK_URL", url.as_str()), ("NOTIFICATION_RATE_PER_MINUTE", "10")];
    let app = TestApp::with(&more).await;
    // None of them needs another.
    let services = ["as-connection-service", "twilio-server", "dispatch-bot-ai"];
    for round in 0..4 {
        for service in services {
            app.fail(service, 3).await;
        }
        recorder.wait_for((3 * (2 * round + 1)).min(10)).await;
        for service in services {
            app.answer(service, 5).await;
        }
        recorder.wait_for((3 * (2 * round + 2)).min(10)).await;
        app.clock.advance(Duration::from_secs(600));
    }
    eventually("every alert told", async || {
        for service in services {
            let taken = taken(&app, service).await;
            if taken.len() != 4 || !taken.iter().all(|kinds| kinds.last().is_some_and(|kind| kind == "alert_resolved"))
            {
                return None;
            }
        }
        Some(())
    })
    .await;
    let messages = recorder.messages();
    assert!(messages.len() < 18, "24 changes in {} messages", messages.len());
    assert!(messages.iter().any(|message| message.kind() == "digest"), "{:?}", recorder.log());
}

#[tokio::test]
async fn in_quiet_hours_only_the_worst_leaves_and_the_rest_waits() {
    let recorder = Recorder::start().await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = folder.path().join("config");
    std::fs::create_dir(&config).unwrap();
    // T0 is 10:30 in UTC.
    let table = format!(
        "[[notify.receiver]]\nname = \"night\"\nchannel = \"webhook\"\nurl = \"{}\"\n\
         quiet_hours = {{ from = \"10:00\", to = \"11:00\", timezone = \"UTC\", unless = \"critical\" }}\n",
        recorder.url()
    );
    std::fs::write(config.join("local.toml"), table).unwrap();
    let app = TestApp::start(folder, Clock::manual(from_ms(T0)), &[PROMPT]).await;
    for service in ["ts-user-service", "pns-provisioning-service", "twilio-server"] {
        app.fail(service, 3).await;
    }
    recorder.wait_for(1).await;
    assert_eq!(recorder.log(), ["alert_raised twilio-server"], "medium waits, critical does not");
    // One of those that wait gets worse: all that is owed about it leaves.
    app.fail("ts-user-service", 2).await;
    recorder.wait_for(3).await;
    assert_eq!(recorder.log()[1..], ["alert_raised ts-user-service", "alert_severity_raised ts-user-service"]);
    app.clock.advance(Duration::from_secs(1800));
    app.answer("twilio-server", 5).await;
    recorder.wait_for(5).await;
    let mut log = recorder.log().split_off(3);
    log.sort();
    assert_eq!(log, ["alert_raised pns-provisioning-service", "alert_resolved twilio-server"]);
}

#[tokio::test]
async fn what_is_refused_for_a_day_is_a_dead_letter_until_it_is_sent_again() {
    let recorder = Recorder::start().await;
    recorder.answer_with(400);
    let url = recorder.url();
    let alone = [("ALERT_ESCALATION_MINUTES", "0"), ("ALERT_REPEAT_MINUTES", "0")];
    let more = [PROMPT, QUICK[0], QUICK[1], alone[0], alone[1], ("ALERT_WEBHOOK_URL", url.as_str())];
    let app = TestApp::with(&more).await;
    app.fail("twilio-server", 3).await;
    eventually("a refusal named", async || {
        let problems = app.get("/health").await.json["self"]["problems"].to_string();
        problems.contains("receiver webhook refuses since").then_some(())
    })
    .await;
    assert_eq!(app.get("/notifications/dead-letters").await.json, json!({"items": [], "total": 0}));
    app.clock.advance(Duration::from_secs(25 * 3600));
    let dead = eventually("a dead letter", async || {
        let page = app.get("/notifications/dead-letters").await.json;
        (page["total"] == 1).then(|| page["items"][0].clone())
    })
    .await;
    assert_eq!((&dead["receiver"], &dead["kind"]), (&json!("webhook"), &json!("alert_raised")));

    // Dead letters stay what they are over a restart, and leave when asked to.
    let app = app.restart(&more).await;
    recorder.answer_with(200);
    assert_eq!(app.get("/notifications/dead-letters").await.json["total"], 1);
    let wrong = post(&app, "/notifications/dead-letters/replay", r#"{"ids": "all"}"#).await;
    assert_eq!((wrong.status.as_u16(), &wrong.json["detail"][0]["loc"]), (422, &json!(["body", "ids"])));
    let ids = json!({"ids": [dead["id"]]}).to_string();
    assert_eq!(post(&app, "/notifications/dead-letters/replay", &ids).await.json, json!({"replayed": 1}));
    let message = recorder.wait_for(1).await[0].clone();
    assert_eq!(message.body["id"], dead["id"], "under its key");
    assert_eq!(app.get("/notifications/dead-letters").await.json["total"], 0);
}

#[tokio::test]
async fn the_heartbeat_comes_while_all_parts_turn_and_stops_with_monitoring() {
    let (beats, target) = (Recorder::start().await, Stub::start(Script::ok()).await);
    let url = beats.url();
    let services = format!("[[service]]\nname = \"a\"\nurl = \"{}\"\n", target.url());
    let more = [("HEARTBEAT_URL", url.as_str()), ("HEARTBEAT_INTERVAL_MS", "1000")];
    let binary = Binary::start(&services, &more).await;
    let messages = beats.wait_for(3).await;
    let sequence = |message: &Received| message.body["data"]["sequence"].as_u64().unwrap();
    assert!(messages.iter().all(|message| message.kind() == "heartbeat"));
    assert_eq!(messages.iter().map(sequence).collect::<Vec<_>>(), [1, 2, 3]);
    binary.post("/monitoring/stop").await;
    // One may have been on its way; then there is none for as long as three would take.
    let uptime = async || binary.get("/health").await["uptime"].as_u64().unwrap();
    let passed = async |from: u64| eventually("time", async || (uptime().await >= from).then_some(())).await;
    passed(uptime().await + 1).await;
    let stopped = beats.messages().len();
    passed(uptime().await + 3).await;
    assert_eq!(beats.messages().len(), stopped);
    binary.post("/monitoring/start").await;
    beats.wait_for(stopped + 1).await;
}

#[tokio::test]
async fn the_state_of_the_system_and_of_the_host_is_told() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let app = TestApp::with(&[PROMPT, ("ALERT_WEBHOOK_URL", &url)]).await;
    for service in ["twilio-server", "dispatch-bot-ai"] {
        app.fail(service, 3).await;
    }
    recorder.wait_for(2).await;
    app.app.engine.fleet_rules().await;
    let message = recorder.wait_for(3).await[2].clone();
    let alert = &message.body["data"]["alert"];
    assert_eq!(
        (&alert["id"].as_str().unwrap()[..21], &alert["title"]),
        ("system-system-status-", &json!("System Health CRITICAL"))
    );
    assert_eq!(alert["details"]["critical_failures"], json!(["Service: twilio-server", "Service: dispatch-bot-ai"]));
    for service in ["twilio-server", "dispatch-bot-ai"] {
        app.answer(service, 5).await;
    }
    app.app.engine.fleet_rules().await;
    recorder.wait_for(6).await;
    assert_eq!(app.get("/alerts/active").await.json["count"], 0);
}

#[tokio::test]
async fn a_snapshot_is_an_event_with_every_service() {
    let app = TestApp::built_in().await;
    app.answer("web-ui", 5).await;
    app.app.engine.snapshot().await;
    let events = app.app.engine.live.events.after(0, 100).unwrap();
    let snapshot = events.iter().find(|event| event.kind.as_str() == "health.snapshot_updated").unwrap();
    let told = snapshot.payload.read();
    assert_eq!(told["snapshot"]["services"]["web-ui"]["status"], "OK");
    // In one word with what the API says.
    let shown = app.get("/health/system?snapshot=true").await.json;
    assert_eq!((&told["status"], &told["services"]), (&shown["status"], &shown["services"]));
}
