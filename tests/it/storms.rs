//! Many alerts at once: few messages, the root causes first, and nothing dropped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use as_infrastructure_service::domain::observation::{Observation, Reason};
use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{Recorder, TestApp, eventually};

/// `count` services; each needs `needs`.
fn services(count: usize, needs: &str) -> String {
    let mut text = String::new();
    for place in 0..count {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"s{place:04}\"\nurl = \"http://localhost:1\"\ndepends_on = [{needs}]\n"
        );
    }
    text
}

async fn all_fail(app: &TestApp, count: usize, times: usize) {
    for _ in 0..times {
        let names: Vec<String> = (0..count).map(|place| format!("s{place:04}")).collect();
        join_all(names.iter().map(|name| app.take_in(name, Observation::failed(Reason::Timeout, "")))).await;
    }
}

async fn all_recover(app: &TestApp, count: usize) {
    let names: Vec<String> = (0..count).map(|place| format!("s{place:04}")).collect();
    join_all(names.iter().map(|name| app.answer(name, 5))).await;
}

#[tokio::test]
async fn a_thousand_unrelated_services_down_are_a_few_messages_and_each_alert_is_told() {
    const COUNT: usize = 1000;
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let app = TestApp::with_file(&services(COUNT, ""), &[("ALERT_WEBHOOK_URL", &url)]).await;
    all_recover(&app, COUNT).await;
    all_fail(&app, COUNT, 3).await;
    let told = async |kind: &str| {
        let page = app.get("/alerts/active?type=service_down").await.json;
        let alerts = page["alerts"].as_array().unwrap();
        let sent = alerts.iter().filter(|alert| alert["alert_sent"] == true).count();
        (alerts.len() == COUNT && sent == COUNT).then_some(kind.len())
    };
    eventually("every alert told", async || told("raise").await).await;
    let messages = recorder.messages();
    assert!(messages.len() <= 3, "{} messages", messages.len());
    assert!(messages.iter().all(|message| message.body.to_string().len() < 256 * 1024));
    let text = messages[0].body["data"]["text"].as_str().unwrap();
    assert!(text.contains("ALERTS") && text.contains("REFERENCE_TARGETS"), "{}", &text[..300.min(text.len())]);
    // Which message it was is part of each alert.
    let one = app.get("/alerts/history?service=s0500&type=service_down").await.json["alerts"][0].clone();
    let receipt = one["notifications"].as_array().unwrap().iter().find(|told| told["channel"] == "webhook").cloned();
    assert!(receipt.unwrap()["id"].as_str().unwrap().starts_with("digest-"), "{one}");

    all_recover(&app, COUNT).await;
    let id = one["id"].as_str().unwrap().to_owned();
    eventually("the end told", async || {
        let one = app.get(&format!("/alerts/{id}")).await.json;
        let kinds: Vec<Value> = one["notifications"]
            .as_array()?
            .iter()
            .filter(|told| told["channel"] == "webhook")
            .map(|told| told["kind"].clone())
            .collect();
        (kinds == ["alert_raised", "alert_resolved"]).then_some(())
    })
    .await;
    assert!(recorder.messages().len() <= 6, "{} messages", recorder.messages().len());
}

#[tokio::test]
async fn a_thousand_dependants_of_one_root_are_one_message() {
    const COUNT: usize = 1000;
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let root = "[[service]]\nname = \"db\"\nurl = \"http://localhost:1\"\n\n";
    let file = root.to_owned() + &services(COUNT, "\"db\"");
    let app = TestApp::with_file(&file, &[("ALERT_WEBHOOK_URL", &url), ("NOTIFICATION_GROUP_WAIT_MS", "0")]).await;
    app.fail("db", 3).await;
    all_fail(&app, COUNT, 3).await;
    app.app.engine.on_time().await;
    let page = app.get("/alerts/active?type=service_down").await.json;
    assert_eq!(page["count"], COUNT + 1, "listed, all of them");
    all_recover(&app, COUNT).await;
    app.answer("db", 5).await;
    app.app.engine.on_time().await;
    recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised db", "alert_resolved db"]);
}

#[tokio::test]
async fn a_root_among_many_unrelated_comes_first() {
    const COUNT: usize = 30;
    let recorder = Recorder::start().await;
    let url = recorder.url();
    let file = services(COUNT, "")
        + "[[service]]\nname = \"db\"\nurl = \"http://localhost:1\"\n"
        + "[[service]]\nname = \"web\"\nurl = \"http://localhost:1\"\ndepends_on = [\"db\"]\n";
    let app = TestApp::with_file(&file, &[("ALERT_WEBHOOK_URL", &url)]).await;
    for _ in 0..3 {
        for name in ["web", "db"] {
            app.take_in(name, Observation::failed(Reason::ConnectRefused, "")).await;
        }
    }
    all_fail(&app, COUNT, 3).await;
    let digest =
        eventually("a digest", async || recorder.messages().into_iter().find(|message| message.kind() == "digest"))
            .await;
    let text = digest.body["data"]["text"].as_str().unwrap();
    let second = text.lines().find(|line| line.starts_with("WARNING") || line.starts_with("CRITICAL")).unwrap();
    assert!(second.contains("Service DOWN: db"), "{text}");
}

#[tokio::test]
async fn a_digest_that_is_owed_survives_a_restart_under_its_key() {
    const COUNT: usize = 30;
    let recorder = Recorder::start().await;
    recorder.answer_with(503);
    let url = recorder.url();
    let more = [
        ("ALERT_WEBHOOK_URL", url.as_str()),
        ("NOTIFICATION_GROUP_WAIT_MS", "0"),
        ("NOTIFICATION_RETRY_MIN_MS", "10"),
        ("NOTIFICATION_RETRY_MAX_MS", "50"),
    ];
    let app = TestApp::with_file(&services(COUNT, ""), &more).await;
    all_fail(&app, COUNT, 3).await;
    eventually("a digest refused", async || {
        let tried = recorder.tried();
        tried.iter().any(|id| id.starts_with("digest-")).then_some(())
    })
    .await;
    let file = app.folder.path().join("services.toml").display().to_string();
    let mut again = more.to_vec();
    again.push(("SERVICES_FILE", &file));
    let _app = app.restart(&again).await;
    recorder.answer_with(200);
    let news = |message: &crate::support::Received| message.body["data"]["text"].as_str().unwrap().to_owned();
    eventually("every alert told", async || {
        let text: String = recorder.messages().iter().map(news).collect();
        (0..COUNT).all(|place| text.contains(&format!("s{place:04}"))).then_some(())
    })
    .await;
    // Each digest that was tried arrived under the very key it was tried with.
    let arrived: Vec<String> =
        recorder.messages().iter().map(|message| message.body["id"].as_str().unwrap().to_owned()).collect();
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    arrived.iter().for_each(|id| *counts.entry(id).or_default() += 1);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert!(recorder.tried().iter().all(|id| arrived.contains(id)), "{:?} {arrived:?}", recorder.tried());
}
