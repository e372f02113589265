//! What people do to alerts through the API, what rules ourselves out, and what is done about an outage.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Binary, KEY, Recorder, Script, Stub, TestApp, eventually};

const PROMPT: (&str, &str) = ("NOTIFICATION_GROUP_WAIT_MS", "0");

impl TestApp {
    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[("x-service-key", KEY)], body).await
    }
}

async fn first_active(app: &TestApp) -> Value {
    app.get("/alerts/active").await.json["alerts"][0].clone()
}

#[tokio::test]
async fn an_acknowledgement_is_shown_kept_over_a_restart_and_part_of_the_outages_timeline() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let more = [PROMPT, ("ALERT_WEBHOOK_URL", url.as_str())];
    let app = TestApp::with(&more).await;
    app.fail("web-ui", 3).await;
    recorder.wait_for(1).await;
    let alert = first_active(&app).await;
    let (id, outage) = (alert["id"].as_str().unwrap().to_owned(), alert["outage_id"].as_str().unwrap().to_owned());

    let until = "2026-01-31T13:00:00+01:00";
    let said = json!({"acknowledged_by": "ann", "note": "looking", "until": until}).to_string();
    let answer = app.post(&format!("/alerts/{id}/acknowledge"), &said).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let shown = |alert: &Value| {
        ["status", "acknowledged_by", "note", "acknowledged_until"]
            .map(|field| alert[field].as_str().unwrap().to_owned())
    };
    let expected = ["acknowledged", "ann", "looking", "2026-01-31T12:00:00.000Z"];
    assert_eq!(shown(&answer.json), expected);

    let app = app.restart(&more).await;
    assert_eq!(shown(&first_active(&app).await), expected);
    app.clock.advance(Duration::from_secs(3600));
    app.app.engine.on_time().await;
    assert_eq!(recorder.messages().len(), 1, "no escalation while somebody looks after it");
    let outage = app.get(&format!("/outages/{outage}")).await.json;
    let events: Vec<&str> =
        outage["timeline"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert!(events.contains(&"acknowledged"), "{events:?}");
    // The other id finds it as well, percent-encoded.
    let other = app.get("/alerts/active").await.json["alerts"][0]["alert_id"].as_str().unwrap().replace(':', "%3A");
    let one = app.get(&format!("/alerts/{other}")).await;
    assert_eq!(one.json["id"], id.as_str(), "{}", one.text);
    let told = &one.json["notifications"];
    assert!(
        told.as_array().unwrap().iter().any(|told| told["channel"] == "webhook" && told["attempts"] == 1),
        "{told}"
    );
}

#[tokio::test]
async fn clear_and_resolve_answer_as_their_clients_expect() {
    let app = TestApp::built_in().await;
    app.fail("web-ui", 3).await;
    let id = first_active(&app).await["id"].as_str().unwrap().to_owned();
    let path = |what: &str| format!("/alerts/{id}/{what}");

    let cleared = app.post(&path("clear"), "").await;
    assert_eq!(
        (cleared.status.as_u16(), &cleared.json),
        (200, &json!({"status": "ok", "message": format!("Alert {id} cleared")}))
    );
    assert_eq!(app.get("/alerts/active").await.json, json!({"alerts": [], "count": 0}));
    let again = app.post(&path("clear"), "").await;
    assert_eq!(
        (again.status.as_u16(), again.json["detail"].as_str().unwrap()),
        (404, format!("Alert not found: {id}").as_str())
    );

    let resolved = app.post(&path("resolve"), r#"{"resolved_by": "ann", "note": "done"}"#).await;
    assert_eq!(
        (resolved.status.as_u16(), resolved.json["status"].as_str(), resolved.json["resolved_by"].as_str()),
        (200, Some("resolved"), Some("ann"))
    );
    for what in ["resolve", "acknowledge"] {
        assert_eq!(app.post(&path(what), "").await.status, 409, "{what} of what is over");
    }
    assert_eq!(app.post("/alerts/nothing/resolve", "").await.status, 404);
    assert_eq!(app.post(&path("resolve"), r#"{"by": "ann"}"#).await.json["detail"][0]["loc"], json!(["body", "by"]));
    let past = json!({"until": "2020-01-01T00:00:00Z"}).to_string();
    assert_eq!(app.post(&path("acknowledge"), &past).await.json["detail"][0]["loc"], json!(["body", "until"]));

    let overview = app.get("/alerts").await.json;
    assert_eq!(overview["alert_history"][0]["id"], id.as_str());
}

#[tokio::test]
async fn the_history_is_oldest_first_filtered_and_paged() {
    let app = TestApp::built_in().await;
    for service in ["web-ui", "ts-user-service", "ts-tenant-service"] {
        app.fail(service, 3).await;
        app.answer(service, 5).await;
    }
    app.fail("web-ui", 3).await;
    let ids = async |query: &str| {
        let page = app.get(&format!("/alerts/history{query}")).await.json;
        let alerts = page["alerts"].as_array().unwrap().clone();
        let names: Vec<String> = alerts.iter().map(|alert| alert["component"].as_str().unwrap().to_owned()).collect();
        (names, page["total"].as_u64().unwrap(), page["limit"].as_u64().unwrap())
    };
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let down = "?type=service_down";
    assert_eq!(ids(down).await, (owned(&["web-ui", "ts-user-service", "ts-tenant-service", "web-ui"]), 4, 100));
    assert_eq!(ids("?type=service_down&limit=2").await, (owned(&["ts-tenant-service", "web-ui"]), 4, 2));
    assert_eq!(ids("?type=service_down&limit=2&skip=1").await.0, owned(&["ts-user-service", "ts-tenant-service"]));
    assert_eq!(ids("?service=web-ui&status=resolved&type=service_down").await.0, owned(&["web-ui"]));
    assert_eq!(ids("?limit=0").await.2, 1);
    assert_eq!(ids("?limit=100000").await.2, 500);
    assert_eq!(app.get("/alerts/history?limit=many").await.status, 422);
    assert_eq!(app.get("/alerts/history?severity=awful").await.status, 422);
}

#[tokio::test]
async fn an_alert_cannot_be_acknowledged_while_records_cannot_be_written() {
    let app = TestApp::built_in().await;
    app.fail("web-ui", 3).await;
    let id = first_active(&app).await["id"].as_str().unwrap().to_owned();
    let file = app.folder.path().join("records.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = app.post(&format!("/alerts/{id}/acknowledge"), "").await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(first_active(&app).await["status"], "active", "nothing was changed");
    other.execute_batch("ROLLBACK").unwrap();
    let path = format!("/alerts/{id}/acknowledge");
    eventually("records that can be written again", async || (app.post(&path, "").await.status == 200).then_some(()))
        .await;
    assert_eq!(first_active(&app).await["status"], "acknowledged");
}

#[tokio::test]
async fn a_test_message_says_whether_it_arrived() {
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let app = TestApp::with(&[("ALERT_WEBHOOK_URL", &url)]).await;
    let sent = app.post("/notifications/test/webhook", "").await.json;
    assert_eq!((&sent["delivered"], &sent["error"]), (&json!(true), &Value::Null));
    assert_eq!(recorder.messages()[0].kind(), "test");
    recorder.answer_with(400);
    let sent = app.post("/notifications/test/webhook", "").await.json;
    assert_eq!(sent["delivered"], false);
    assert!(sent["error"].as_str().unwrap().contains("400"), "{sent}");
    assert_eq!(app.post("/notifications/test/nobody", "").await.status, 404);
    assert_eq!(app.get("/alerts/active").await.json["count"], 0, "a test is no alert");
}

const SERVICES: &str = r#"
[[service]]
name = "a"
url = "URL"
critical = true
check_interval_ms = 1000
timeout_ms = 300
"#;

#[tokio::test]
async fn while_no_reference_target_answers_nobody_else_is_accused() {
    let (target, reference) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let recorder = Recorder::start().await;
    let (hook, references) = (recorder.url(), reference.url());
    let monitor = Binary::start(
        &SERVICES.replace("URL", &target.url()),
        &[
            ("REFERENCE_TARGETS", &references),
            ("REFERENCE_CHECK_INTERVAL_MS", "300"),
            ("CONFIRM_INTERVAL_MS", "100"),
            ("ALERT_WEBHOOK_URL", &hook),
            PROMPT,
        ],
    )
    .await;
    monitor.wait_until("/health/service/a", |seen| seen["service"]["status"] == "healthy").await;
    // Cut off: the target and the reference are silent.
    reference.set(Script::Hang);
    target.set(Script::Hang);
    recorder.wait_for(1).await;
    assert_eq!(recorder.log(), ["alert_raised monitor"]);
    let seen = monitor.get("/health/service/a").await;
    assert_eq!(seen["service"]["status"], "healthy", "its state stays: {seen}");
    let health = monitor.get("/health").await;
    assert_eq!(
        (&health["self"]["impaired"], &health["self"]["self_check"]),
        (&json!(true), &json!({"references": 1, "failing": 1}))
    );
    // Only the reference answers again: now it is the target's own fault.
    reference.set(Script::ok());
    monitor.wait_until("/status/critical", |seen| seen["lastIncident"]["service"] == "a").await;
    let messages = recorder.wait_for(3).await;
    let mut log: Vec<String> =
        messages.iter().map(|message| format!("{} {}", message.kind(), message.component())).collect();
    log.sort();
    assert_eq!(log, ["alert_raised a", "alert_raised monitor", "alert_resolved monitor"]);
}

#[tokio::test]
async fn a_target_that_fails_alone_is_accused_although_references_are_set() {
    let (target, reference) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let references = reference.url();
    let monitor = Binary::start(
        &SERVICES.replace("URL", &target.url()),
        &[("REFERENCE_TARGETS", &references), ("CONFIRM_INTERVAL_MS", "100")],
    )
    .await;
    monitor.wait_until("/health/service/a", |seen| seen["service"]["status"] == "healthy").await;
    target.set(Script::Hang);
    monitor.wait_until("/status/critical", |seen| seen["lastIncident"]["service"] == "a").await;
    assert_eq!(monitor.get("/health").await["self"]["impaired"], false);
}

#[tokio::test]
async fn a_recovery_action_runs_once_for_an_outage_and_is_in_its_timeline() {
    let (target, remedy) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let services = SERVICES.replace("URL", &target.url())
        + &format!(
            "recovery = {{ http = {{ url = \"{}/restart?token=canary-7\" }}, cooldown_ms = 0 }}\n",
            remedy.url()
        )
        + &SERVICES.replace("URL", &target.url()).replace("\"a\"", "\"b\"")
        + &format!(
            "recovery = {{ command = [\"/bin/sh\", \"-c\", \"echo $OUTAGE_SERVICE >> {}; exit 3\"] }}\n",
            mark.display()
        )
        + &SERVICES.replace("URL", &target.url()).replace("\"a\"", "\"c\"")
        + "recovery = { command = [\"true\"], dry_run = true }\n";
    let more = [("CONFIRM_INTERVAL_MS", "100")];
    let monitor = Binary::start(&services, &more).await;
    monitor.wait_until("/status/critical", |seen| seen["critical"]["status"] == "operational").await;
    target.set(Script::Close);
    let outcome = async |monitor: &Binary, name: &str| {
        let open = monitor.get(&format!("/outages/?endpoint_id={name}")).await;
        let outage = monitor.get(&format!("/outages/{}", open["items"][0]["id"].as_str()?)).await;
        let entries = outage["timeline"].as_array()?.clone();
        let entry = entries.into_iter().find(|entry| entry["event"] == "recovery_action")?;
        (entry["outcome"] != "started").then_some(entry)
    };
    let ended = async |name: &str| eventually("the action's outcome", async || outcome(&monitor, name).await).await;
    let (a, b, c) = (ended("a").await, ended("b").await, ended("c").await);
    assert_eq!((&a["action"], &a["outcome"], &a["message"]), (&json!("http"), &json!("succeeded"), &Value::Null));
    assert_eq!(
        (&b["action"], &b["outcome"], &b["message"]),
        (&json!("command"), &json!("failed"), &json!("ended with code 3"))
    );
    assert_eq!(c["outcome"], "dry_run");
    assert!(remedy.heads.lock().unwrap()[0].starts_with("POST /restart?token=canary-7 "));
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "b\n");

    // Killed and started again in the same outage: nothing runs a second time.
    let folder = monitor.kill().await;
    let monitor = Binary::start_in(folder, &more).await;
    monitor.wait_until("/health/service/b", |seen| seen["service"]["consecutiveFailures"].as_u64() > Some(6)).await;
    assert_eq!((remedy.requests(), std::fs::read_to_string(&mark).unwrap().as_str()), (1, "b\n"));
}

#[tokio::test]
async fn a_recovery_action_cannot_come_from_the_api() {
    let app = TestApp::built_in().await;
    let body = json!({"id": "x", "url": "http://localhost:1/", "recovery": {"command": ["true"]}}).to_string();
    let refused = app.post("/services", &body).await;
    assert_eq!((refused.status.as_u16(), &refused.json["detail"][0]["loc"]), (422, &json!(["body", "recovery"])));
}
