//! Elasticsearch: what it is sent, what its answers settle, and what stays owed when it is slow, odd, full or away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use as_infrastructure_service::domain::check::Check;
use as_infrastructure_service::domain::service::ServiceName;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::elastic::{Elastic, Mode};
use crate::support::{Binary, KEY, LIMIT, Script, Stub, TestApp, eventually, load, variables};

const SERVICES: &str = r#"
[[service]]
name = "api"
display_name = "API Gateway"
url = "http://127.0.0.1:1"
critical = true
tags = ["edge"]

[[service]]
name = "db"
url = "tcp://127.0.0.1:1"
"#;

/// The application with `more` settings, exporting to `elastic` when it is told to.
async fn app(elastic: &Elastic, more: &[(&str, &str)]) -> TestApp {
    TestApp::with_file(SERVICES, &settings(&elastic.url(), more)).await
}

fn settings<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut settings = vec![("ELASTICSEARCH_ENABLED", "true"), ("ELASTICSEARCH_HOSTS", url)];
    settings.extend(more);
    settings
}

/// Stops and starts again with the same services.
async fn restart(app: TestApp, more: &[(&str, &str)]) -> TestApp {
    let file = app.folder.path().join("services.toml").display().to_string();
    let mut more = more.to_vec();
    more.push(("SERVICES_FILE", &file));
    app.restart(&more).await
}

/// Waits until every check is in the records.
async fn logged(app: &TestApp) {
    let engine = &app.app.engine;
    eventually("the checks to be written", async || {
        let newest = engine.commit.newest_mark();
        let page = engine.records.check_log(i64::MIN, newest - 1, 1).await.unwrap();
        (engine.commit.depth() == 0 && (newest == 0 || page.next == Some(newest))).then_some(())
    })
    .await;
}

/// One round when everything is written.
async fn export(app: &TestApp) -> Result<(), String> {
    logged(app).await;
    app.app.engine.export_now().await.map_err(|error| error.to_string())
}

/// Rounds until one takes everything.
async fn export_all(app: &TestApp) {
    eventually("everything to be taken", async || export(app).await.ok()).await;
}

/// Ids of the checks the API shows of a service.
async fn shown(app: &TestApp, service: &str) -> Vec<Value> {
    let answer = app.get(&format!("/services/{service}/history?limit=1000")).await;
    answer.json["items"].as_array().unwrap_or_else(|| panic!("{}", answer.text)).clone()
}

fn ids(records: &[Value]) -> BTreeSet<String> {
    records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_outage_its_checks_and_a_window_arrive_as_the_contract_words_them() {
    let elastic = Elastic::start().await;
    // Nothing is sent to anyone: that has a test of its own.
    let app = app(&elastic, &[("ENABLE_ALERTING", "false")]).await;
    let window = json!({
        "endpoint_ids": ["db"], "start_time": "2026-02-01T00:00:00Z", "end_time": "2026-02-01T01:00:00Z",
        "description": "Switch over", "created_by": "ops",
    });
    assert_eq!(app.ask("POST", "/maintenance", &[("x-service-key", KEY)], &window.to_string()).await.status, 201);
    app.answer("api", 42).await;
    app.clock.advance(Duration::from_secs(15));
    app.fail("api", 3).await;
    export(&app).await.unwrap();

    let checks = elastic.documents("isp-service-status-2026.01.31");
    let api = shown(&app, "api").await;
    assert_eq!(checks.keys().cloned().collect::<BTreeSet<_>>(), ids(&api));
    let mut by_time: Vec<&Value> = checks.values().collect();
    by_time.sort_by_key(|document| document["timestamp"].as_str().unwrap().to_owned());
    let outage = elastic.documents("isp-service-outage-2026.01.31");
    let open = outage.values().next().unwrap();
    let redacted = |mut document: Value| {
        for place in ["/id", "/metadata/outage_id", "/metadata/alert_id"] {
            if let Some(id) = document.pointer_mut(place).filter(|id| id.is_string()) {
                *id = "<id>".into();
            }
        }
        document
    };
    insta::assert_json_snapshot!("export_healthy_check", redacted(by_time[0].clone()));
    insta::assert_json_snapshot!("export_failed_check", redacted(by_time[3].clone()));
    insta::assert_json_snapshot!("export_open_outage", redacted(open.clone()));
    assert_eq!(by_time[3]["metadata"]["outage_id"], open["id"]);
    let alert = app.get("/alerts/active").await.json["alerts"][0]["id"].clone();
    assert_eq!(by_time[3]["metadata"]["alert_id"], alert);
    let windows = elastic.documents("isp-maintenance-windows");
    let (id, document) = windows.iter().next().unwrap();
    assert_eq!(*id, format!("{}:db", document["id"].as_str().unwrap()));
    insta::assert_json_snapshot!("export_window", redacted(document.clone()));

    // Its end replaces the open document, in the index of its start.
    app.clock.advance(Duration::from_secs(86_400));
    app.answer("api", 10).await;
    export(&app).await.unwrap();
    let closed = elastic.documents("isp-service-outage-2026.01.31");
    assert_eq!(closed.len(), 1);
    assert_eq!(elastic.documents("isp-service-outage-").len(), 1);
    insta::assert_json_snapshot!("export_closed_outage", redacted(closed.values().next().unwrap().clone()));
    assert_eq!(elastic.documents("isp-service-status-2026.02.01").len(), 1);
}

#[tokio::test]
async fn records_say_that_they_are_there_only_when_they_are() {
    let elastic = Elastic::start().await;
    let quiet = [("ENABLE_ALERTING", "false")];
    let app = app(&elastic, &quiet).await;
    export(&app).await.unwrap();
    app.fail("api", 3).await;
    logged(&app).await;
    let synced = async |path: &str| app.get(path).await.json["elasticsearch_synced"].clone();
    let outage = app.get("/outages/active").await.json["items"][0]["id"].as_str().unwrap().to_owned();
    let outage = format!("/outages/{outage}");
    assert_eq!(synced("/services/api/status").await, false);
    assert_eq!(synced(&outage).await, false);
    elastic.set(|state| state.refuse = vec![("\"sequence\":3".to_owned(), vec![503])]);
    assert!(export(&app).await.is_err());
    assert_eq!(synced("/services/api/status").await, false, "two of three are there, and nobody was told");
    export(&app).await.unwrap();
    assert_eq!(synced("/services/api/status").await, true);
    assert_eq!(synced(&outage).await, true);
    assert!(shown(&app, "api").await.iter().all(|check| check["elasticsearch_synced"] == true));
    // What changes is owed again.
    app.answer("api", 10).await;
    logged(&app).await;
    assert_eq!(synced(&outage).await, false);
    assert_eq!(synced("/services/api/status").await, false);
    export(&app).await.unwrap();
    assert_eq!(synced(&outage).await, true);
    // After a restart too, as far as it is known; never wrongly.
    let app = restart(app, &settings(&elastic.url(), &quiet)).await;
    app.answer("api", 11).await;
    logged(&app).await;
    let state: Vec<bool> =
        shown(&app, "api").await.iter().map(|check| check["elasticsearch_synced"].as_bool().unwrap()).collect();
    assert!(!state[0], "the newest was not sent");
    export(&app).await.unwrap();
    assert!(shown(&app, "api").await.iter().all(|check| check["elasticsearch_synced"] == true));
}

#[tokio::test]
async fn only_what_may_succeed_is_sent_again_and_what_is_refused_can_be_read() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[("ELASTICSEARCH_SYNC_BATCH_SIZE", "3")]).await;
    for _ in 0..10 {
        app.answer("api", 5).await;
        app.clock.advance(Duration::from_secs(15));
    }
    elastic.set(|state| {
        state.refuse = vec![
            ("\"sequence\":2,".to_owned(), vec![429, 429]),
            ("\"sequence\":4,".to_owned(), vec![503]),
            ("\"sequence\":6,".to_owned(), vec![409]),
            ("\"sequence\":8,".to_owned(), vec![400]),
        ];
    });
    assert!(export(&app).await.is_err());
    assert!(export(&app).await.is_err());
    export(&app).await.unwrap();
    export(&app).await.unwrap();
    let expected = ids(&shown(&app, "api").await);
    assert_eq!(expected.len(), 10);
    let there: BTreeSet<String> = elastic.documents("isp-service-status-").into_keys().collect();
    assert_eq!(there.len(), 8, "one was refused, of one it was said that it is there");
    let letters = app.get("/exports/dead-letters").await.json;
    assert_eq!(letters["total"], 1);
    let letter = &letters["items"][0];
    assert_eq!(letter["status"], 400);
    assert_eq!(letter["document"]["metadata"]["sequence"], 8);
    assert!(letter["error"].as_str().unwrap().contains("some_exception"));
    let tries = |sequence: u64| {
        let id = shown_id(&elastic, &letters, sequence);
        elastic.read(|state| state.attempts[&id])
    };
    assert_eq!([2, 4, 5, 8].map(tries), [3, 2, 1, 1]);
    let sent = app.get("/services/api/history?limit=1000").await.json;
    let unsent: Vec<&Value> =
        sent["items"].as_array().unwrap().iter().filter(|check| check["elasticsearch_synced"] == false).collect();
    assert_eq!(unsent.len(), 1);
    assert_eq!(unsent[0]["id"], letter["id"]);

    // Sent again on demand; then it is no dead letter any more.
    let replay = app.ask("POST", "/exports/dead-letters/replay", &[("x-service-key", KEY)], "").await;
    assert_eq!(replay.json, json!({"replayed": 1}));
    export_all(&app).await;
    assert_eq!(app.get("/exports/dead-letters").await.json, json!({"items": [], "total": 0}));
    assert!(elastic.documents("isp-service-status-").contains_key(letter["id"].as_str().unwrap()));
    let text = app.ask("GET", "/metrics", &[("x-service-key", KEY), ("accept", "text/plain")], "").await.text;
    for line in [
        "infra_export_documents_total{index=\"status\",result=\"retried\"} 3",
        "infra_export_documents_total{index=\"status\",result=\"dead\"} 1",
        "infra_export_documents_total{index=\"status\",result=\"accepted\"} 10",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// The id of the check with this sequence number, among those taken and those refused.
fn shown_id(elastic: &Elastic, letters: &Value, sequence: u64) -> String {
    let letters = letters["items"].as_array().unwrap().iter().map(|letter| letter["document"].clone());
    let all: Vec<Value> = elastic.documents("isp-service-status-").into_values().chain(letters).collect();
    let found = all.iter().find(|document| document["metadata"]["sequence"] == sequence).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn odd_answers_settle_nothing_and_lose_nothing() {
    let elastic = Elastic::start().await;
    let timeout = [("ELASTICSEARCH_TIMEOUT_MS", "300")];
    let app = app(&elastic, &timeout).await;
    export(&app).await.unwrap();
    let odd = [
        Mode::Odd(200, "<html>Gateway busy</html>".to_owned()),
        Mode::Odd(200, String::new()),
        Mode::Odd(200, "{\"items\":null}".to_owned()),
        Mode::Odd(200, "[".repeat(100_000)),
        Mode::Odd(502, "<html>".to_owned()),
        Mode::Odd(302, String::new()),
        Mode::Odd(403, "{\"error\":{}}".to_owned()),
        Mode::HalfTold,
        Mode::Hang,
        Mode::Endless,
    ];
    for (n, mode) in odd.into_iter().enumerate() {
        app.fail("api", 2).await;
        elastic.set(|state| state.mode = mode.clone());
        let told = export(&app).await.unwrap_err();
        assert!(!told.is_empty() && told.len() < 1000, "{mode:?}: {told}");
        let health = app.get("/health").await.json;
        assert_eq!(health["self"]["elasticsearch"]["state"], "unavailable", "{mode:?}");
        assert_eq!(app.get("/services/api/status").await.json["elasticsearch_synced"], false, "{mode:?}");
        elastic.set(|state| state.mode = if n % 2 == 0 { Mode::Normal } else { Mode::Reversed });
        export(&app).await.unwrap();
        let there: BTreeSet<String> = elastic.documents("isp-service-status-").into_keys().collect();
        assert_eq!(there, ids(&shown(&app, "api").await), "{mode:?}");
    }
    assert_eq!(app.get("/health").await.json["self"]["elasticsearch"]["state"], "connected");
}

#[tokio::test]
async fn a_request_too_large_is_sent_in_parts_and_a_document_too_large_is_refused() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[]).await;
    export(&app).await.unwrap();
    elastic.set(|state| state.most_bytes = Some(2000));
    for _ in 0..20 {
        app.answer("api", 5).await;
        app.clock.advance(Duration::from_secs(15));
    }
    export(&app).await.unwrap();
    elastic.set(|state| state.most_bytes = Some(200));
    app.answer("api", 5).await;
    export(&app).await.unwrap();
    assert_eq!(elastic.documents("isp-service-status-").len(), 20);
    assert!(elastic.read(|state| state.documents_in_bulk.iter().all(|count| *count <= 3)));
    let letters = app.get("/exports/dead-letters").await.json;
    assert_eq!((&letters["total"], &letters["items"][0]["status"]), (&json!(1), &json!(413)));
}

#[tokio::test]
async fn a_server_that_is_away_delays_nobody_and_misses_nothing_over_restarts() {
    let elastic = Elastic::start().await;
    let address = elastic.address;
    let app = app(&elastic, &[("ELASTICSEARCH_TIMEOUT_MS", "200")]).await;
    export(&app).await.unwrap();
    app.fail("api", 3).await;
    drop(elastic);
    assert!(export(&app).await.is_err());
    app.answer("db", 3).await;
    let health = app.get("/health").await.json;
    let part = &health["self"]["elasticsearch"];
    assert_eq!(part["state"], "unavailable");
    assert!(part["lag_seconds"].as_u64().unwrap() >= 15, "{part}");
    let problems = health["self"]["problems"].to_string();
    assert!(problems.contains("documents wait for Elasticsearch: http://127.0.0.1"), "{problems}");
    // A stop does not wait for it, a start does not need it, and what is owed stays owed.
    let url = format!("http://{address}");
    let again = settings(&url, &[("ELASTICSEARCH_TIMEOUT_MS", "200")]);
    let app = tokio::time::timeout(LIMIT, restart(app, &again)).await.unwrap();
    app.answer("api", 9).await;
    let app = restart(app, &again).await;
    logged(&app).await;
    let elastic = Elastic::start_at(address, None).await;
    export_all(&app).await;
    let expected: BTreeSet<String> =
        ids(&shown(&app, "api").await).union(&ids(&shown(&app, "db").await)).cloned().collect();
    assert_eq!(elastic.documents("isp-service-status-").into_keys().collect::<BTreeSet<_>>(), expected);
    let outage = elastic.documents("isp-service-outage-");
    assert_eq!(outage.values().next().unwrap()["resolved"], true);
    assert_eq!(app.get("/health").await.json["self"]["elasticsearch"]["lag_seconds"], 0);
}

#[tokio::test]
async fn a_restart_goes_on_behind_what_was_settled_and_a_stop_sends_the_last() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[]).await;
    for _ in 0..5 {
        app.answer("api", 5).await;
        app.clock.advance(Duration::from_secs(15));
    }
    export(&app).await.unwrap();
    app.answer("db", 5).await;
    let url = elastic.url();
    let app = restart(app, &settings(&url, &[])).await;
    assert_eq!(elastic.documents("isp-service-status-").len(), 6, "the stop has sent what was left");
    app.clock.advance(Duration::from_secs(15));
    app.answer("db", 6).await;
    export_all(&app).await;
    elastic.read(|state| {
        assert_eq!(state.attempts.len(), 7);
        assert!(state.attempts.values().all(|tries| *tries == 1), "{:?}", state.attempts);
    });
}

#[tokio::test]
async fn switched_on_later_it_sends_what_is_there_and_switched_off_it_forgets_what_it_owed() {
    let elastic = Elastic::start().await;
    let url = elastic.url();
    let app = TestApp::with_file(SERVICES, &[]).await;
    app.fail("api", 3).await;
    app.answer("api", 5).await;
    assert_eq!(
        app.get("/health").await.json["self"]["elasticsearch"],
        json!({"state": "off", "lag_seconds": null, "dead_letters": 0})
    );
    assert_eq!(app.get("/services/api/status").await.json["elasticsearch_synced"], false);
    let app = restart(app, &settings(&url, &[])).await;
    export_all(&app).await;
    assert_eq!(elastic.documents("isp-service-outage-").len(), 1);
    assert_eq!(elastic.documents("isp-service-status-").len(), 4);
    let app = restart(app, &[]).await;
    app.fail("db", 3).await;
    app.answer("db", 5).await;
    let app = restart(app, &settings(&url, &[])).await;
    export_all(&app).await;
    assert_eq!(elastic.documents("isp-service-outage-").len(), 2);
    assert_eq!(elastic.documents("isp-service-status-").len(), 8);
}

#[tokio::test]
async fn windows_are_there_for_each_service_they_cover_and_go_with_them() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[]).await;
    let key = [("x-service-key", KEY)];
    let body = json!({
        "tags": ["edge"], "endpoint_ids": ["db"], "start_time": "2026-02-01T00:00:00Z",
        "end_time": "2026-02-01T01:00:00Z", "description": "Move",
    });
    let made = app.ask("POST", "/maintenance", &key, &body.to_string()).await.json;
    let id = made["id"].as_str().unwrap();
    let there = || elastic.documents("isp-maintenance-windows").into_keys().collect::<Vec<_>>();
    export(&app).await.unwrap();
    assert_eq!(there(), [format!("{id}:api"), format!("{id}:db")]);
    let sent = elastic.read(|state| state.attempts.values().sum::<usize>());
    export(&app).await.unwrap();
    assert_eq!(elastic.read(|state| state.attempts.values().sum::<usize>()), sent, "nothing has changed");
    let path = format!("/maintenance/{id}");
    assert_eq!(app.ask("PUT", &path, &key, r#"{"tags":[]}"#).await.status, 200);
    elastic.set(|state| state.refuse = vec![(format!("{id}:api"), vec![503])]);
    assert!(export(&app).await.is_err());
    export(&app).await.unwrap();
    assert_eq!(there(), [format!("{id}:db")]);
    let url = elastic.url();
    let app = restart(app, &settings(&url, &[])).await;
    assert_eq!(app.ask("DELETE", &path, &key, "").await.status, 204);
    export_all(&app).await;
    assert_eq!(there(), Vec::<String>::new());
}

#[tokio::test]
async fn an_outage_knows_there_who_was_told_of_it() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[]).await;
    app.fail("api", 3).await;
    eventually("the outage with its channels", async || {
        export(&app).await.unwrap();
        let outages = elastic.documents("isp-service-outage-");
        let outage = outages.values().next()?;
        (outage["notification_sent"] == true && outage["notification_channels"] == json!(["log"])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_outage_that_is_erased_with_its_service_is_not_open_for_ever_there() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[("ENVIRONMENT", "development")]).await;
    let key = [("x-service-key", KEY)];
    let made = app.ask("POST", "/services", &key, r#"{"id":"gone","url":"http://127.0.0.1:1"}"#).await;
    assert_eq!(made.status, 201, "{}", made.text);
    app.fail("gone", 3).await;
    export(&app).await.unwrap();
    assert_eq!(elastic.documents("isp-service-outage-").len(), 1);
    assert_eq!(app.ask("DELETE", "/services/gone", &key, "").await.status, 204);
    export_all(&app).await;
    assert_eq!(elastic.documents("isp-service-outage-").len(), 0);
}

#[tokio::test]
async fn templates_and_policy_are_put_where_there_are_none_and_left_where_there_are() {
    let elastic = Elastic::start().await;
    elastic.set(|state| {
        state.places.insert("/_index_template/isp-maintenance-windows".to_owned(), json!({"mine": true}));
    });
    let more = [
        ("ELASTICSEARCH_NUMBER_OF_SHARDS", "3"),
        ("ELASTICSEARCH_NUMBER_OF_REPLICAS", "0"),
        ("METRICS_RETENTION_DAYS", "45"),
    ];
    let first = app(&elastic, &more).await;
    export(&first).await.unwrap();
    elastic.read(|state| {
        let index = &state.places["/_index_template/isp-services"]["template"]["settings"]["index"];
        assert_eq!((&index["number_of_shards"], &index["number_of_replicas"]), (&json!(3), &json!(0)));
        assert_eq!(index["lifecycle"]["name"], "isp-monitoring-policy");
        let policy = &state.places["/_ilm/policy/isp-monitoring-policy"];
        assert_eq!(policy["policy"]["phases"]["delete"]["min_age"], "45d");
        assert_eq!(state.places["/_index_template/isp-maintenance-windows"], json!({"mine": true}));
    });

    let open = Elastic::start().await;
    open.set(|state| state.about = json!({"version": {"distribution": "opensearch", "number": "2.11.0"}}));
    let second = app(&open, &[]).await;
    export(&second).await.unwrap();
    open.read(|state| {
        assert!(state.places["/_index_template/isp-services"]["template"]["settings"]["index"]["lifecycle"].is_null());
        let policy = &state.places["/_plugins/_ism/policies/isp-monitoring-policy"];
        assert_eq!(policy["policy"]["states"][0]["transitions"][0]["conditions"]["min_index_age"], "30d");
    });

    for (about, why) in
        [(json!({"version": {"number": "6.8.23"}}), "too old"), (json!({"hello": "world"}), "not Elasticsearch")]
    {
        let odd = Elastic::start().await;
        odd.set(|state| state.about = about);
        let third = app(&odd, &[]).await;
        assert!(export(&third).await.unwrap_err().contains(why));
        assert!(odd.read(|state| state.places.is_empty()));
    }
}

#[tokio::test]
async fn it_says_who_it_is_and_whom_it_trusts() {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    as_infrastructure_service::app::install_crypto_provider();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let elastic = Elastic::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, certified.cert.pem()).unwrap();
    let file = file.display().to_string();
    let url = format!("https://{}", elastic.address);
    let tried = async |login: &str, more: &[(&str, &str)]| {
        elastic.set(|state| state.login = Some(login.to_owned()));
        let app = TestApp::with_file(SERVICES, &settings(&url, more)).await;
        export(&app).await
    };
    let user = [("ELASTICSEARCH_USERNAME", "elastic"), ("ELASTICSEARCH_PASSWORD", "canary-password")];
    let basic = "Basic ZWxhc3RpYzpjYW5hcnktcGFzc3dvcmQ=";
    tried(basic, &[user[0], user[1], ("ELASTICSEARCH_CA_FILE", &file)]).await.unwrap();
    tried(basic, &[user[0], user[1], ("ELASTICSEARCH_VERIFY_CERTS", "false")]).await.unwrap();
    tried("ApiKey a2V5", &[("ELASTICSEARCH_API_KEY", "a2V5"), ("ELASTICSEARCH_CA_FILE", &file)]).await.unwrap();
    let distrusted = tried(basic, &user).await.unwrap_err();
    assert!(distrusted.contains("no connection"), "{distrusted}");
    let refused = tried("Basic other", &[user[0], user[1], ("ELASTICSEARCH_CA_FILE", &file)]).await.unwrap_err();
    assert!(refused.contains("401") && refused.contains("ELASTICSEARCH_PASSWORD"), "{refused}");
    assert!(!refused.contains("canary"), "{refused}");

    // Some send back what they were sent.
    let echo = format!("<pre>{basic} elastic:canary-password\u{202e}</pre>");
    for status in [200, 401, 400] {
        elastic.set(|state| state.mode = Mode::Odd(status, echo.clone()));
        let all = [user[0], user[1], ("ELASTICSEARCH_CA_FILE", file.as_str())];
        elastic.set(|state| state.login = Some(basic.to_owned()));
        let app = TestApp::with_file(SERVICES, &settings(&url, &all)).await;
        app.answer("api", 1).await;
        let told = export(&app).await.unwrap_err();
        let health = app.get("/health").await.text;
        for text in [told, health] {
            assert!(text.contains("***") && !text.contains("canary"), "{status}: {text}");
            assert!(!text.contains("ZWxhc3RpYzpj") && !text.contains('\u{202e}'), "{status}: {text}");
        }
    }
}

#[tokio::test]
async fn the_configuration_is_checked_with_the_export_on() {
    let folder = tempfile::tempdir().unwrap();
    let checked = async |hosts: &str| {
        let mut command = crate::support::command(folder.path());
        command.arg("check-config").env("ELASTICSEARCH_ENABLED", "true").env("ELASTICSEARCH_HOSTS", hosts);
        command.output().await.unwrap()
    };
    let good = checked("https://localhost:9200").await;
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let bad = checked("ftp://localhost").await;
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    let said = format!("{}{}", String::from_utf8_lossy(&bad.stdout), String::from_utf8_lossy(&bad.stderr));
    assert!(said.contains("elasticsearch_hosts") && !said.contains("name a server"), "{said}");
}

#[tokio::test]
async fn the_log_keeps_what_is_not_sent_up_to_its_bound() {
    let elastic = Elastic::start().await;
    let app = app(&elastic, &[("ELASTICSEARCH_BACKLOG_MB", "1")]).await;
    export(&app).await.unwrap();
    elastic.set(|state| state.mode = Mode::Odd(503, String::new()));
    app.fail("api", 3).await;
    logged(&app).await;
    app.clock.advance(Duration::from_secs(5 * 3600));
    app.app.engine.clean_up().await;
    let held_back = app.app.engine.records.check_log(i64::MIN, 0, 500).await.unwrap().checks.len();
    assert_eq!(held_back, 3, "older than the log is kept for, and not sent");

    // More than may wait: the oldest go, are counted, and are not said to be there.
    let api = app.app.engine.live.find(&ServiceName::new("api").unwrap()).unwrap();
    for _ in 0..8 {
        let at_ms = app.clock.now().timestamp_millis();
        let error = Some(Arc::from("y".repeat(200_000)));
        let check = Check {
            at_ms,
            error,
            ..app.app.engine.records.check_log(i64::MIN, 0, 1).await.unwrap().checks[0].check.clone()
        };
        app.app.engine.commit.routine(api.hash, &check, None);
        logged(&app).await;
        app.clock.advance(Duration::from_secs(15));
    }
    app.clock.advance(Duration::from_secs(5 * 3600));
    app.app.engine.clean_up().await;
    let left = app.app.engine.records.check_log(i64::MIN, 0, 500).await.unwrap().checks.len();
    assert!((4..8).contains(&left), "{left}");
    let given_up = app.app.engine.counters.export_dropped.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(given_up as usize, 11 - left);
    elastic.set(|state| state.mode = Mode::Normal);
    export_all(&app).await;
    let there: BTreeSet<String> = elastic.documents("isp-service-status-").into_keys().collect();
    assert_eq!(there.len(), left);
    assert!(shown(&app, "api").await.iter().all(|check| check["elasticsearch_synced"] == false), "they were given up");
}

#[test]
fn wrong_settings_are_refused_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let check = |more: &[(&str, &str)], key: &str, rule: &str| {
        let mut all = vec![("ELASTICSEARCH_ENABLED", "true")];
        all.extend(more);
        let error =
            load(variables(folder.path(), &all)).err().unwrap_or_else(|| panic!("{more:?} was taken")).to_string();
        assert!(error.contains(key) && error.contains(rule), "{more:?}: {error}");
    };
    check(&[("ELASTICSEARCH_HOSTS", "localhost:9200")], "elasticsearch_hosts", "http or https");
    check(&[("ELASTICSEARCH_HOSTS", "")], "elasticsearch_hosts", "name a server");
    check(&[("ELASTICSEARCH_HOSTS", "http://u:p@h:9200")], "elasticsearch_hosts", "ELASTICSEARCH_USERNAME");
    check(&[("ELASTICSEARCH_USERNAME", "u")], "elasticsearch_password", "together");
    let both = [("ELASTICSEARCH_USERNAME", "u"), ("ELASTICSEARCH_PASSWORD", "p"), ("ELASTICSEARCH_API_KEY", "k")];
    check(&both, "elasticsearch_api_key", "one of the two");
    check(&[("ELASTICSEARCH_API_KEY", "a\nb")], "elasticsearch_enabled", "header");
    check(&[("ELASTICSEARCH_CA_FILE", "/nowhere.pem")], "elasticsearch_ca_file", "cannot be read");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "hello").unwrap();
    check(&[("ELASTICSEARCH_CA_FILE", empty.to_str().unwrap())], "elasticsearch", "no certificate");
    check(&[("ELASTICSEARCH_CA_FILE", "/dev/zero")], "elasticsearch_ca_file", "larger");
    for format in ["", "%Q", "%Y/%m/%d", "%A", "%H:%M", "a b", "all", "%Y.%m", "%j", "%m.%d", "%d"] {
        check(&[("ELASTICSEARCH_INDEX_DATE_FORMAT", format)], "elasticsearch_index_date_format", "must");
    }
    let twin = [("ELASTICSEARCH_ENABLED", "true"), ("ELASTICSEARCH_SYNC_INTERVAL_MS", "1500")];
    let (settings, _) = load(variables(folder.path(), &twin)).unwrap();
    assert_eq!(settings.engine.export.unwrap().interval, Duration::from_millis(1500));
    check(&[("ELASTICSEARCH_SYNC_INTERVAL", "0")], "elasticsearch_sync_interval", "");
    check(&[("ELASTICSEARCH_SYNC_BATCH_SIZE", "0")], "elasticsearch_sync_batch_size", "");
    check(&[("ENABLE_METRICS_PERSISTENCE", "false")], "elasticsearch_enabled", "ENABLE_METRICS_PERSISTENCE");
}

#[tokio::test]
async fn a_process_killed_in_the_middle_of_a_round_leaves_nothing_out() {
    let elastic = Elastic::start().await;
    let targets = [Stub::start(Script::ok()).await, Stub::start(Script::Reply(500, String::new())).await];
    let services: String = (0..6)
        .map(|n| {
            let url = targets[n % 2].url();
            format!("[[service]]\nname = \"s{n}\"\nurl = \"{url}\"\ncheck_interval_ms = 100\n")
        })
        .collect();
    let url = elastic.url();
    let more = settings(&url, &[("ELASTICSEARCH_SYNC_INTERVAL", "0.2"), ("ELASTICSEARCH_SYNC_BATCH_SIZE", "7")]);
    let mut binary = Binary::start(&services, &more).await;
    let mut expected = BTreeSet::new();
    for round in 0..3 {
        let taken = elastic.documents("isp-service-status-").len();
        let more_taken = async || (elastic.documents("isp-service-status-").len() > taken + 40).then_some(());
        eventually("documents", more_taken).await;
        // Killed while some requests are taken and not answered, others not even taken.
        elastic.set(|state| state.mode = if round == 1 { Mode::Hang } else { Mode::HalfTold });
        let asked = elastic.read(|state| state.log.len());
        eventually("a request", async || elastic.read(|state| state.log.len() > asked).then_some(())).await;
        let folder = binary.kill().await;
        elastic.set(|state| state.mode = Mode::Normal);
        binary = Binary::start_in(folder, &more).await;
        for n in 0..6 {
            let history = binary.get(&format!("/services/s{n}/history?limit=1000")).await;
            expected.extend(ids(history["items"].as_array().unwrap()));
        }
    }
    let outages = binary.wait_until("/outages", |body| body["total"].as_u64() >= Some(3)).await;
    let outages = ids(outages["items"].as_array().unwrap());
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    let there: BTreeSet<String> = elastic.documents("isp-service-status-").into_keys().collect();
    let missing: Vec<&String> = expected.difference(&there).collect();
    assert!(missing.is_empty(), "{} of {} are missing", missing.len(), expected.len());
    let there: BTreeSet<String> = elastic.documents("isp-service-outage-").into_keys().collect();
    assert!(outages.is_subset(&there), "{outages:?} {there:?}");
}

#[tokio::test]
async fn a_stop_while_documents_are_under_way_leaves_nothing_out() {
    let elastic = Elastic::start().await;
    let targets = [Stub::start(Script::ok()).await, Stub::start(Script::ok()).await];
    let services: String = targets
        .iter()
        .enumerate()
        .map(|(n, target)| {
            format!("[[service]]\nname = \"s{n}\"\nurl = \"{}\"\ncheck_interval_ms = 100\n", target.url())
        })
        .collect();
    let url = elastic.url();
    let more = settings(&url, &[("ELASTICSEARCH_SYNC_INTERVAL", "0.2")]);
    let binary = Binary::start(&services, &more).await;
    let taken = async || (elastic.documents("isp-service-status-").len() > 20).then_some(());
    eventually("documents", taken).await;
    elastic.set(|state| state.mode = Mode::Hang);
    let asked = elastic.read(|state| state.log.len());
    eventually("a request", async || elastic.read(|state| state.log.len() > asked).then_some(())).await;
    let (code, folder) = binary.terminate().await;
    assert_eq!(code, Some(0));
    elastic.set(|state| state.mode = Mode::Normal);
    let binary = Binary::start_in(folder, &more).await;
    let mut expected = BTreeSet::new();
    for n in 0..2 {
        let history = binary.get(&format!("/services/s{n}/history?limit=1000")).await;
        expected.extend(ids(history["items"].as_array().unwrap()));
    }
    let everything = async || {
        let there: BTreeSet<String> = elastic.documents("isp-service-status-").into_keys().collect();
        expected.is_subset(&there).then_some(())
    };
    eventually("every check that is in the history", everything).await;
}
