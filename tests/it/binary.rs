//! The built binary from outside: a service goes down, is alerted on and recovers; kills and stops in between.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Binary, KEY, LIMIT, Recorder, Script, Stub, command, eventually, free_port};

fn services(stubs: &[(&str, &Stub, &str)]) -> String {
    let tables = stubs.iter().map(|(name, stub, more)| {
        format!("[[service]]\nname = \"{name}\"\nurl = \"{}\"\ncritical = true\n{more}\n", stub.url())
    });
    tables.collect()
}

#[tokio::test]
async fn a_service_goes_down_is_alerted_on_and_recovers() {
    let (auth, web, recorder) =
        (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await, Recorder::start().await);
    let file = services(&[("auth", &auth, ""), ("web", &web, "depends_on = [\"auth\"]")]);
    let hook = recorder.url();
    let binary = Binary::start(&file, &[("ALERT_WEBHOOK_URL", &hook)]).await;
    binary.wait_until("/health", |health| health["services"]["healthy"] == 2).await;

    auth.set(Script::Reply(500, String::new()));
    web.set(Script::Close);
    recorder.wait_for(1).await;
    binary.wait_until("/status/critical", |body| body["critical"]["status"] == "outage").await;
    let critical = binary.get("/status/critical").await;
    assert_eq!(critical["lastIncident"]["resolved"], false);
    assert_eq!(binary.get("/status/dashboard").await["dashboard"]["servicesSummary"]["down"], 2);

    auth.set(Script::ok());
    web.set(Script::ok());
    recorder.wait_for(2).await;
    let healed = binary.wait_until("/status/critical", |body| body["critical"]["status"] == "operational").await;
    assert_eq!(healed["lastIncident"]["resolved"], true);
    assert_eq!(recorder.log(), ["alert_raised auth", "alert_resolved auth"]);

    let counted = binary.get("/metrics?format=json").await;
    assert!(counted["system"]["totalRequests"].as_u64().unwrap() > 4);
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn killed_in_mid_outage_it_goes_on_under_the_same_ids() {
    let (auth, recorder) = (Stub::start(Script::Reply(503, String::new())).await, Recorder::start().await);
    let hook = recorder.url();
    let more = [("ALERT_WEBHOOK_URL", hook.as_str())];
    let mut binary = Binary::start(&services(&[("auth", &auth, "")]), &more).await;
    let first = recorder.wait_for(1).await[0].clone();
    let alert = binary.get("/status/critical").await["alerts"][0].clone();
    for _ in 0..3 {
        binary = Binary::start_in(binary.kill().await, &more).await;
        let shown = binary.get("/status/critical").await["alerts"][0].clone();
        for field in ["id", "alert_id", "triggered_at", "outage_id"] {
            assert_eq!(shown[field], alert[field], "{field}");
        }
        let probed = auth.requests();
        eventually("probing going on", async || (auth.requests() > probed).then_some(())).await;
    }
    auth.set(Script::ok());
    let last = eventually("the resolve", async || {
        recorder.messages().into_iter().find(|message| message.kind() == "alert_resolved")
    })
    .await;
    // A kill between the receiver's yes and its being noted may repeat the message, under its key.
    let keys: std::collections::BTreeSet<String> = recorder
        .messages()
        .iter()
        .filter(|message| message.kind() == "alert_raised")
        .map(|message| message.body["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(last.body["data"]["alert"]["id"], first.body["data"]["alert"]["id"]);
    assert_eq!(last.body["data"]["alert"]["triggered_at"], first.body["data"]["alert"]["triggered_at"]);
}

#[tokio::test]
async fn a_streak_half_confirmed_at_a_kill_is_confirmed_after_it() {
    let (auth, recorder) = (Stub::start(Script::ok()).await, Recorder::start().await);
    let hook = recorder.url();
    // Re-checks are far apart, so that the kill falls between the second and the third.
    let more = [("ALERT_WEBHOOK_URL", hook.as_str()), ("CONFIRM_INTERVAL_MS", "3000")];
    let binary = Binary::start(&services(&[("auth", &auth, "check_interval = 60")]), &more).await;
    let folder = binary.kill().await;
    auth.set(Script::Reply(500, String::new()));
    let text = std::fs::read_to_string(folder.path().join("services.toml")).unwrap().replace("= 60", "= 1");
    std::fs::write(folder.path().join("services.toml"), text).unwrap();
    let binary = Binary::start_in(folder, &more).await;
    let started =
        binary.wait_until("/health/service/auth", |body| body["service"]["consecutiveFailures"] == 2).await["service"]
            ["healthHistory"][1]["timestamp"]
            .clone();
    let binary = Binary::start_in(binary.kill().await, &more).await;
    let told = recorder.wait_for(1).await[0].clone();
    assert_eq!(told.body["data"]["outage"]["start_time"], started);
    drop(binary);
}

#[tokio::test]
async fn stopped_with_work_in_flight_it_ends_well_and_blames_nobody() {
    let (hanging, recorder) = (Stub::start(Script::Hang).await, Recorder::start().await);
    let hook = recorder.url();
    let file = services(&[("slow", &hanging, "timeout_ms = 20000")]);
    let more = [("ALERT_WEBHOOK_URL", hook.as_str()), ("SHUTDOWN_GRACE_MS", "300")];
    let binary = Binary::start(&file, &more).await;
    eventually("a probe under way", async || (hanging.requests() > 0).then_some(())).await;
    let (code, folder) = binary.terminate().await;
    assert_eq!(code, Some(0));
    hanging.set(Script::ok());
    let binary = Binary::start_in(folder, &more).await;
    let shown = binary.wait_until("/health/service/slow", |body| body["service"]["status"] == "healthy").await;
    let history = shown["service"]["healthHistory"].as_array().unwrap().clone();
    assert!(history.iter().all(|check| check["status"] == "healthy"), "{history:?}");
    assert!(recorder.messages().is_empty());
}

#[tokio::test]
async fn metrics_events_and_history_go_on_after_a_kill() {
    let auth = Stub::start(Script::ok()).await;
    let binary = Binary::start(&services(&[("auth", &auth, "")]), &[]).await;
    auth.set(Script::Reply(404, String::new()));
    binary
        .wait_until("/status/dashboard", |body| body["dashboard"]["recentEvents"][0]["type"] == "service_degraded")
        .await;
    let before = binary
        .wait_until("/metrics/service/auth", |body| body["metrics"]["requests"]["total"].as_u64() >= Some(6))
        .await;
    // Routine checks are written each second: at most that much is lost.
    let total = before["metrics"]["requests"]["total"].as_u64().unwrap();
    let binary = Binary::start_in(binary.kill().await, &[]).await;
    let after = binary.get("/metrics/service/auth").await;
    assert!(after["metrics"]["requests"]["total"].as_u64().unwrap() + 3 >= total, "{total} before, now {after}");
    let events = binary.get("/status/dashboard").await["dashboard"]["recentEvents"].clone();
    assert_eq!(events[0]["type"], "service_degraded");
}

#[tokio::test]
async fn the_services_file_is_followed_while_it_runs() {
    let (auth, web) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let binary = Binary::start(&services(&[("auth", &auth, "")]), &[]).await;
    let path = binary.folder.path().join("services.toml");
    binary.wait_until("/health", |health| health["services"]["healthy"] == 1).await;
    std::fs::write(&path, services(&[("auth", &auth, ""), ("web", &web, "depends_on = [\"auth\"]")])).unwrap();
    binary.signal("-HUP");
    binary.wait_until("/health", |health| health["services"]["healthy"] == 2).await;

    std::fs::write(&path, services(&[("auth", &auth, "colour = 1")])).unwrap();
    let health = binary.wait_until("/health", |health| health["self"]["last_reload"]["ok"] == false).await;
    assert!(health["self"]["problems"].to_string().contains("services.toml:"), "{health}");
    assert_eq!(health["services"]["total"], 2);

    std::fs::write(&path, services(&[("web", &web, "")])).unwrap();
    binary
        .wait_until("/health", |health| health["services"]["total"] == 1 && health["self"]["last_reload"]["ok"] == true)
        .await;
    assert!(binary.get("/health/service/auth").await["error"] == "not_found");
}

#[tokio::test]
async fn the_commands_answer_and_exit_as_they_say() {
    let auth = Stub::start(Script::ok()).await;
    let binary = Binary::start(&services(&[("auth", &auth, "")]), &[]).await;
    let run = async |arguments: &[&str]| {
        let output = command(binary.folder.path())
            .env("PORT", binary.port.to_string())
            .env("SERVICES_FILE", "services.toml")
            .args(arguments)
            .output();
        let output = tokio::time::timeout(LIMIT, output).await.unwrap().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(&["healthcheck"]).await.0, 0);
    let (code, text) = run(&["check-config"]).await;
    assert_eq!((code, text.lines().next().unwrap()), (0, "configuration is valid: 1 services"));
    let (code, text) = run(&["probe", "auth"]).await;
    assert!(code == 0 && text.contains("healthy (ok)") && text.contains("response"), "{text}");
    let (code, text) = run(&["probe", "--json", &format!("http://127.0.0.1:{}/", free_port())]).await;
    assert!(code == 1 && text.contains("connect_refused"), "{text}");
    assert!(run(&["services"]).await.1.contains("auth"));
    let url = format!("http://127.0.0.1:{}", binary.port);
    let (code, text) = run(&["services", "--url", &url, "--json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &list[0]["name"]), (0, &"auth".into()));
    let (_, help) = run(&["--help"]).await;
    assert!(help.contains("check-config") && help.contains("Exit codes"), "{help}");
}

#[tokio::test]
async fn slow_request_heads_are_cut_off_and_others_are_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let auth = Stub::start(Script::ok()).await;
    let binary = Binary::start(&services(&[("auth", &auth, "")]), &[("API_REQUEST_TIMEOUT_MS", "500")]).await;
    let mut slow = tokio::net::TcpStream::connect(("127.0.0.1", binary.port)).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    assert_eq!(binary.get("/livez").await["status"], "alive");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection was left open");
}

#[tokio::test]
async fn one_failed_root_is_one_message_whoever_is_seen_failing_first() {
    let (root, recorder) = (Stub::start(Script::ok()).await, Recorder::start().await);
    let mut stubs = Vec::new();
    for _ in 0..20 {
        stubs.push(Stub::start(Script::ok()).await);
    }
    let names: Vec<String> = (0..20).map(|n| format!("dependent-{n}")).collect();
    let mut list = vec![("root", &root, "")];
    list.extend(names.iter().zip(&stubs).map(|(name, stub)| (name.as_str(), stub, "depends_on = [\"root\"]")));
    let hook = recorder.url();
    let binary = Binary::start(&services(&list), &[("ALERT_WEBHOOK_URL", &hook)]).await;
    binary.wait_until("/health", |health| health["services"]["healthy"] == 21).await;
    // The dependents first: the root may be the last to be looked at.
    stubs.iter().for_each(|stub| stub.set(Script::Reply(500, String::new())));
    root.set(Script::Reply(500, String::new()));
    let told = recorder.wait_for(1).await[0].clone();
    assert_eq!(told.component(), "root");
    binary
        .wait_until("/status/critical", |body| {
            body["alerts"]
                .as_array()
                .is_some_and(|alerts| alerts.iter().filter(|alert| alert["type"] == "service_down").count() == 21)
        })
        .await;
    root.set(Script::ok());
    stubs.iter().for_each(|stub| stub.set(Script::ok()));
    binary.wait_until("/status/critical", |body| body["alerts"].as_array().is_some_and(Vec::is_empty)).await;
    recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised root", "alert_resolved root"]);
}

/// Sends one write and kills the process within a moment of the answer: what was answered 2xx is there after the restart.
#[tokio::test]
async fn what_was_accepted_survives_a_kill_and_what_was_refused_is_not_there() {
    as_infrastructure_service::app::install_crypto_provider();
    let mut folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("services.toml"), "").unwrap();
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build();
    let mut accepted: Vec<String> = Vec::new();
    for round in 0..6 {
        let binary = Binary::start_in(folder, &[]).await;
        let client = client.as_ref().unwrap();
        let ask = async |method: reqwest::Method, path: &str, body: Value| {
            let url = format!("http://127.0.0.1:{}{path}", binary.port);
            let request = client.request(method, url).header("x-service-key", KEY).body(body.to_string());
            request.send().await.unwrap()
        };
        let known: Vec<String> = binary
            .get("/services?view=names")
            .await
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(known, accepted, "round {round}");
        let name = format!("s{round}");
        match round % 3 {
            0 => {
                let refused =
                    ask(reqwest::Method::POST, "/services", json!({"id": "refused", "url": "tcp://127.0.0.1"})).await;
                assert_eq!(refused.status(), 422);
                let made = ask(
                    reqwest::Method::POST,
                    "/services",
                    json!({"id": name, "url": "tcp://127.0.0.1:1", "check_interval": 3600}),
                )
                .await;
                assert_eq!(made.status(), 201);
                accepted.push(name);
            }
            1 => {
                let window = json!({"start_time": "2020-01-01T00:00:00Z", "end_time": "2099-01-01T00:00:00Z", "description": name});
                assert_eq!(ask(reqwest::Method::POST, "/maintenance", window).await.status(), 201);
            }
            _ => {
                let last = accepted.pop().unwrap();
                assert_eq!(ask(reqwest::Method::DELETE, &format!("/services/{last}"), json!({})).await.status(), 204);
            }
        }
        folder = binary.kill().await;
    }
    let binary = Binary::start_in(folder, &[]).await;
    assert_eq!(binary.get("/maintenance/active").await["total"], 2);
}

#[tokio::test]
async fn an_outage_resolved_by_hand_stays_resolved_after_a_kill() {
    let auth = Stub::start(Script::Reply(500, String::new())).await;
    let binary =
        Binary::start(&services(&[("auth", &auth, "check_interval = 60")]), &[("MIN_CHECK_INTERVAL_MS", "100")]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |binary: &Binary, path: &str| format!("http://127.0.0.1:{}{path}", binary.port);
    let check = url(&binary, "/services/auth/check");
    client.post(check).header("x-service-key", KEY).send().await.unwrap();
    let open = binary.wait_until("/outages/active", |body| body["total"] == 1).await;
    let id = open["items"][0]["id"].as_str().unwrap().to_owned();
    let resolve = url(&binary, &format!("/outages/{id}/resolve"));
    let resolved = client.post(resolve).header("x-service-key", KEY).body("\"done\"").send().await.unwrap();
    assert_eq!(resolved.status(), 200);
    let binary = Binary::start_in(binary.kill().await, &[("MIN_CHECK_INTERVAL_MS", "100")]).await;
    let shown = binary.get(&format!("/outages/{id}")).await;
    assert_eq!((&shown["resolved"], &shown["resolution_notes"]), (&json!(true), &json!("done")));
    assert_eq!(binary.get("/outages/active").await["total"], 0);
}
