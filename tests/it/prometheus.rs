//! Prometheus: every family after real checks, both formats as their own tools read them, a real Prometheus that
//! scrapes, discovers and probes, and what many scrapes at once cost.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Reason};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::api::eventful;
use crate::registry::send;
use crate::support::{Answer, Binary, KEY, RedisServer, Script, Stub, TestApp, eventually, free_port};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every family of CONTRACT.md section 16: name, type, labels. A dot: it has no samples in a run like the one below.
const FAMILIES: &str = "
    infra_build_info gauge version
    infra_uptime_seconds gauge
    infra_monitoring_active gauge
    infra_monitor_impaired gauge
    infra_redis_up gauge
    infra_records_up gauge
    infra_services gauge status
    infra_service_up gauge service category critical
    infra_service_status gauge service status
    infra_service_in_maintenance gauge service
    infra_service_consecutive_failures gauge service
    infra_outage_open gauge service
    infra_service_last_check_timestamp_seconds gauge service
    infra_service_detection_seconds gauge service
    infra_service_availability_ratio gauge service window
    infra_service_error_ratio gauge service window
    infra_probe_duration_seconds histogram service protocol
    infra_probe_phase_seconds gauge service phase
    infra_tls_certificate_expiry_seconds gauge service
    infra_checks_total counter service result reason
    infra_checks_due_total counter
    infra_checks_started_total counter
    infra_checks_finished_total counter
    infra_checks_cancelled_total counter
    infra_checks_in_flight gauge
    infra_checks_skipped_total counter cause
    infra_scheduler_lateness_seconds histogram
    infra_outages_total counter service severity
    infra_alerts_active gauge severity type
    infra_alerts_raised_total counter severity type
    infra_notifications_total counter channel result
    infra_outbox_oldest_age_seconds gauge
    infra_queue_depth gauge queue
    infra_queue_limit gauge queue
    infra_queue_dropped_total counter queue
    infra_store_errors_total counter store
    infra_store_duration_seconds histogram store
    infra_maintenance_windows_active gauge
    infra_events_published_total counter type
    infra_events_consumed_total counter .
    infra_events_dead_lettered_total counter .
    infra_export_documents_total counter .
    infra_export_lag_seconds gauge
    infra_http_requests_total counter route method code
    infra_http_request_duration_seconds histogram route
    infra_config_reload_success gauge
    infra_config_reload_timestamp_seconds gauge
    infra_panics_total counter .
    infra_host_cpu_usage_ratio gauge
    infra_host_memory_usage_ratio gauge
    infra_host_disk_usage_ratio gauge
    process_resident_memory_bytes gauge
    process_virtual_memory_bytes gauge
    process_cpu_seconds_total counter
    process_open_fds gauge
    process_max_fds gauge
    process_start_time_seconds gauge";

/// One sample: the name of its series, its labels, its value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The samples of a page, read strictly: what is not a sample or a comment fails.
fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (label, after) = rest.trim_start_matches(',').split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("{line:?} does not end")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(label.to_owned(), value).is_none(), "{line:?} has {label} twice");
        rest = &after[end + 1..];
    }
    let value = value.parse().unwrap_or_else(|_| panic!("{line:?} has no value"));
    Sample { name: name.to_owned(), labels, value }
}

/// The value of a series by its name and some of its labels; `None`: there is no such series.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &Sample| {
        sample.name == name
            && labels.iter().all(|(label, value)| sample.labels.get(*label).map(String::as_str) == Some(*value))
    };
    let found: Vec<Sample> = samples(text).into_iter().filter(fits).collect();
    assert!(found.len() <= 1, "{name}{labels:?} is not one series: {found:?}");
    found.first().map(|sample| sample.value)
}

/// What `promtool check metrics` has to say of a page; nothing when all is well.
fn promtool(text: &str) -> String {
    let mut child = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which tests/run installs");
    let mut input = child.stdin.take().unwrap();
    let text = text.to_owned();
    let feeding = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() || !said.is_empty(), "{output:?}");
    said
}

/// Each family is announced once, before its samples, which stand together.
fn check_order(text: &str, counters_keep_their_suffix: bool) {
    let mut seen: Vec<String> = Vec::new();
    let mut family = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(!seen.iter().any(|known| known == name), "{name} is announced twice");
            assert_eq!(name.ends_with("_total"), kind == "counter" && counters_keep_their_suffix, "{line}");
            seen.push(name.to_owned());
            family = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let name = sample(line).name;
            let suffixes: &[&str] = match family.1.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "counter" if !counters_keep_their_suffix => &["_total"],
                _ => &[""],
            };
            let expected = suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0));
            assert!(expected, "{line} stands below {family:?}");
        }
    }
}

async fn scrape(app: &TestApp) -> String {
    app.get("/metrics/prometheus").await.text
}

async fn accept(app: &TestApp, path: &str, accept: &str) -> Answer {
    app.ask("GET", path, &[("x-service-key", KEY), ("accept", accept)], "").await
}

#[tokio::test]
async fn every_family_is_exposed_after_real_checks() {
    let redis = RedisServer::start().await;
    let (up, down) = (Stub::start(Script::ok()).await, free_port());
    let (secured, authority, folder) = https_target().await;
    let services = format!(
        "[[service]]\nname = \"up\"\nurl = \"{}\"\n[[service]]\nname = \"down\"\nurl = \"http://127.0.0.1:{down}\"\n\
         critical = true\n[[service]]\nname = \"secured\"\nurl = \"{secured}\"\n",
        up.url()
    );
    let ca = authority.display().to_string();
    let elasticsearch = format!("http://127.0.0.1:{}", free_port());
    let redis_url = redis.url();
    let more = [
        ("REDIS_URL", redis_url.as_str()),
        ("SSL_CERT_FILE", &ca),
        ("ELASTICSEARCH_ENABLED", "true"),
        ("ELASTICSEARCH_HOSTS", &elasticsearch),
        ("ELASTICSEARCH_SYNC_INTERVAL", "1"),
    ];
    let binary = Binary::start(&services, &more).await;
    binary.wait_until("/outages/active", |body| body["total"].as_u64() > Some(0)).await;
    let ready = async || {
        let text = binary.ask("GET", "/metrics/prometheus", "").await.1;
        let host = value(&text, "infra_host_cpu_usage_ratio", &[]).is_some();
        let told = text.contains("infra_notifications_total{") && text.contains("infra_events_published_total{");
        let certified = text.contains("infra_tls_certificate_expiry_seconds{");
        let owed = value(&text, "infra_export_lag_seconds", &[]).is_some();
        (host && told && certified && owed).then_some(text)
    };
    let text = eventually("a scrape with everything", ready).await;
    let all = samples(&text);
    for family in FAMILIES.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = family.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let labels: Vec<&str> = words.collect();
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is not announced as {kind}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        if labels == ["."] {
            continue;
        }
        let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        let found = all.iter().find(|sample| sample.name == series).unwrap_or_else(|| panic!("{name} has no sample"));
        let expected: Vec<&str> = labels.clone();
        let mut found: Vec<&str> = found.labels.keys().map(String::as_str).collect();
        found.sort_by_key(|label| expected.iter().position(|known| known == label));
        assert_eq!(found, expected, "labels of {name}");
    }
    // Nothing is announced that the table does not know.
    for announced in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(FAMILIES.contains(announced), "{announced} is in no table");
    }
    assert_eq!(promtool(&text), "");
    check_order(&text, true);
    let of = |name: &str, labels: &[(&str, &str)]| value(&text, name, labels);
    assert_eq!(of("infra_redis_up", &[]), Some(1.0));
    assert_eq!(of("infra_service_up", &[("service", "down"), ("category", "core"), ("critical", "true")]), Some(0.0));
    assert_eq!(of("infra_outages_total", &[("service", "down"), ("severity", "critical")]), Some(1.0));
    assert_eq!(of("infra_outages_total", &[("service", "up"), ("severity", "major")]), Some(0.0));
    let raised = all.iter().filter(|sample| sample.name == "infra_alerts_raised_total");
    assert!(raised.map(|sample| sample.value).sum::<f64>() >= 1.0, "{text}");
    let left = of("infra_tls_certificate_expiry_seconds", &[("service", "secured")]).unwrap();
    assert!((300.0..3.0e11).contains(&left), "{left}");
    let phase = |phase| of("infra_probe_phase_seconds", &[("service", "up"), ("phase", phase)]);
    assert!(phase("response").is_some_and(|took| took > 0.0 && took < 5.0), "{text}");
    assert!(of("infra_queue_depth", &[("queue", "export")]).is_some(), "{text}");
    for store in ["records", "redis"] {
        let calls = of("infra_store_duration_seconds_count", &[("store", store)]).unwrap();
        let longest = of("infra_store_duration_seconds_bucket", &[("store", store), ("le", "+Inf")]).unwrap();
        let spent = of("infra_store_duration_seconds_sum", &[("store", store)]).unwrap();
        assert!(calls >= 1.0 && longest == calls && spent > 0.0, "{store}: {calls} {longest} {spent}");
    }
    let resident = of("process_resident_memory_bytes", &[]).unwrap();
    assert!((1.0e6..4.0e9).contains(&resident) && of("process_open_fds", &[]) >= Some(5.0), "{resident}");
    let (_, open) = get(&binary, "/metrics", OPEN).await;
    check_order(&open, false);
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    drop(folder);
}

/// A page of the binary, with its content type.
async fn get(binary: &Binary, path: &str, accept: &str) -> (String, String) {
    let url = format!("http://127.0.0.1:{}{path}", binary.port);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).header("x-service-key", KEY).header("accept", accept).send().await.unwrap();
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (media, answer.text().await.unwrap())
}

/// An HTTPS target on a free port, and the authority that vouches for it.
async fn https_target() -> (String, std::path::PathBuf, TempDir) {
    as_infrastructure_service::app::install_crypto_provider();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    (url, authority, folder)
}

#[tokio::test]
async fn both_formats_say_the_same_and_pass_their_judges() {
    let app = eventful().await;
    let classic = accept(&app, "/metrics", "text/plain").await;
    assert_eq!(classic.headers["content-type"], TEXT);
    assert_eq!(promtool(&classic.text), "");
    check_order(&classic.text, true);
    let of = |name: &str, labels: &[(&str, &str)]| value(&classic.text, name, labels);
    assert_eq!(of("infra_service_up", &[("service", "twilio-server")]), Some(0.0));
    assert_eq!(of("infra_service_up", &[("service", "ts-user-service")]), None, "unknown is absent");
    assert_eq!(of("infra_service_availability_ratio", &[("service", "ts-user-service"), ("window", "1h")]), None);
    assert_eq!(of("infra_service_error_ratio", &[("service", "ts-user-service"), ("window", "5m")]), None);
    assert_eq!(of("infra_service_error_ratio", &[("service", "twilio-server"), ("window", "24h")]), Some(1.0));
    assert_eq!(of("infra_redis_up", &[]), None, "Redis is off");
    assert!(!classic.text.contains("infra_redis_up"), "what cannot be told is not announced");
    let slow = [("service", "pns-provisioning-service"), ("protocol", "http")];
    let bucket = |le| value(&classic.text, "infra_probe_duration_seconds_bucket", &[slow[0], slow[1], ("le", le)]);
    assert_eq!((bucket("1.0"), bucket("2.0"), bucket("+Inf")), (Some(0.0), Some(1.0), Some(1.0)));
    assert_eq!(of("infra_probe_duration_seconds_sum", &slow), Some(1.25));
    // Absent rather than something else where there is no number.
    assert!(!classic.text.contains("NaN") && !classic.text.contains("Inf "), "{}", classic.text);

    let open = accept(&app, "/metrics", "application/openmetrics-text;version=1.0.0").await;
    assert_eq!(open.headers["content-type"], OPEN);
    check_order(&open.text, false);
    assert!(open.text.ends_with("\n# EOF\n"));
    // Of the moment: what a scrape itself moves.
    let moving = ["process_", "infra_http_", "infra_uptime", "infra_store_", "infra_queue_depth", "infra_host_"];
    let steady = |text: &str| {
        let all = samples(text).into_iter();
        all.filter(|sample| !moving.iter().any(|prefix| sample.name.starts_with(prefix))).collect::<Vec<_>>()
    };
    assert_eq!(steady(&classic.text), steady(&open.text));
}

#[tokio::test]
async fn json_is_the_rule_at_metrics_and_text_everywhere_else() {
    let app = eventful().await;
    let check = async |path: &str, accepts: &str, expected: &str| {
        let answer = accept(&app, path, accepts).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {accepts}");
        assert_eq!(answer.headers["content-type"], expected, "{path} {accepts}");
        let ends = answer.text.ends_with("# EOF\n");
        assert_eq!(ends, expected == OPEN, "{path} {accepts}");
    };
    for (accepts, at_metrics, at_text) in [
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT, TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPEN, OPEN),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", TEXT, TEXT),
        ("application/json, text/plain, */*", "application/json", TEXT),
        ("*/*", "application/json", TEXT),
        ("image/png", "application/json", TEXT),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "application/json", TEXT),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
            "application/json",
            TEXT,
        ),
    ] {
        check("/metrics", accepts, at_metrics).await;
        check("/metrics/prometheus", accepts, at_text).await;
    }
    check("/metrics?format=prometheus", "*/*", TEXT).await;
    check("/metrics?format=Prometheus", OPEN, OPEN).await;
    check("/metrics?format=json", "text/plain", "application/json").await;
    assert_eq!(app.get("/metrics?format=xml").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let head = app.ask("HEAD", "/metrics/prometheus", &[("x-service-key", KEY)], "").await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn ratios_follow_their_windows_and_maintenance_shows() {
    let app = TestApp::with_file(
        "[[service]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\ncheck_interval_ms = 60000\ntimeout_ms = 1000\n",
        &[],
    )
    .await;
    // Ten minutes up, ten minutes down, a check each minute.
    for minute in 0..20 {
        if minute < 10 {
            app.answer("a", 20).await;
        } else {
            app.take_in("a", Observation::failed(Reason::ConnectRefused, "")).await;
        }
        app.clock.advance(Duration::from_secs(60));
    }
    let text = scrape(&app).await;
    for window in ["1h", "24h", "30d"] {
        let labels = [("service", "a"), ("window", window)];
        assert_eq!(value(&text, "infra_service_availability_ratio", &labels), Some(0.5), "{window}");
    }
    assert_eq!(value(&text, "infra_service_error_ratio", &[("service", "a"), ("window", "5m")]), Some(1.0));
    assert_eq!(value(&text, "infra_service_error_ratio", &[("service", "a"), ("window", "24h")]), Some(0.5));
    assert_eq!(value(&text, "infra_service_in_maintenance", &[("service", "a")]), Some(0.0));
    assert_eq!(value(&text, "infra_maintenance_windows_active", &[]), Some(0.0));
    assert_eq!(value(&text, "infra_outages_total", &[("service", "a"), ("severity", "major")]), Some(1.0));
    let raised = samples(&text)
        .into_iter()
        .filter(|sample| sample.name == "infra_alerts_raised_total" && sample.labels["type"] == "service_down");
    let raised: Vec<f64> = raised.map(|sample| sample.value).collect();
    assert_eq!((raised.len(), raised.iter().sum::<f64>()), (4, 1.0), "one, at one of four severities");
    // A day later: nobody has looked since, and what nobody saw counts nowhere.
    app.clock.advance(Duration::from_secs(2 * 86_400));
    let text = scrape(&app).await;
    let of = |window| value(&text, "infra_service_availability_ratio", &[("service", "a"), ("window", window)]);
    assert_eq!((of("1h"), of("24h")), (None, None));
    assert!(of("30d").is_some_and(|ratio| (0.4..0.6).contains(&ratio)), "{:?}", of("30d"));
    assert_eq!(value(&text, "infra_service_error_ratio", &[("service", "a"), ("window", "5m")]), None);

    let now = app.clock.now();
    let window = json!({"description": "work", "start_time": now - chrono::TimeDelta::minutes(1),
        "end_time": now + chrono::TimeDelta::minutes(30)});
    assert_eq!(send(&app, "POST", "/maintenance", window).await.status, StatusCode::CREATED);
    let text = scrape(&app).await;
    assert_eq!(value(&text, "infra_service_in_maintenance", &[("service", "a")]), Some(1.0));
    assert_eq!(value(&text, "infra_maintenance_windows_active", &[]), Some(1.0));
}

#[tokio::test]
async fn requests_are_counted_by_template_and_strangers_make_no_series() {
    let app = eventful().await;
    for n in 0..20 {
        app.get(&format!("/no/such/path/{n}")).await;
        app.get(&format!("/health/service/nobody-{n}")).await;
        app.ask("GET", &format!("/services/{n}"), &[], "").await;
    }
    app.get("/health/service/web-ui").await;
    app.ask("BREW", "/health", &[("x-service-key", KEY)], "").await;
    let text = scrape(&app).await;
    let of = |route, method, code| {
        value(&text, "infra_http_requests_total", &[("route", route), ("method", method), ("code", code)])
    };
    assert_eq!(of("/health/service/{name}", "GET", "404"), Some(20.0));
    assert_eq!(of("/health/service/{name}", "GET", "200"), Some(1.0));
    assert_eq!((of("none", "GET", "404"), of("none", "GET", "401")), (Some(20.0), Some(20.0)));
    assert_eq!(of("none", "other", "405"), Some(1.0));
    let routes: Vec<String> = samples(&text)
        .into_iter()
        .filter(|sample| sample.name == "infra_http_request_duration_seconds_count")
        .map(|sample| sample.labels["route"].clone())
        .collect();
    assert_eq!(routes, ["/health/service/{name}", "none"]);
    let text = scrape(&app).await;
    let scrapes = [("route", "/metrics/prometheus"), ("method", "GET"), ("code", "200")];
    assert_eq!(value(&text, "infra_http_requests_total", &scrapes), Some(1.0), "the one before");
}

#[tokio::test]
async fn no_text_of_others_forges_a_series_and_a_removed_service_is_gone() {
    let app = TestApp::built_in().await;
    for (name, status) in [("a\"} 1\ninfra_up{x=\"", 422), ("näme", 422), ("Ok.Name_1-x", 201)] {
        let body = json!({"id": name, "url": "http://127.0.0.1:1/", "category": "core", "description": "\"}\n# EOF",
            "name": "a\"b\\c", "tags": ["a\"b", "x{y=\"z\"}"]});
        let answer = send(&app, "POST", "/services", body).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text);
    }
    let hostile = json!({"id": "other", "url": "http://127.0.0.1:1/", "category": "c\"} 1"});
    assert_eq!(send(&app, "POST", "/services", hostile).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let shouting = "\"} 1\ninfra_forged{x=\"\\";
    app.take_in("Ok.Name_1-x", Observation::failed(Reason::Protocol, shouting)).await;
    let text = scrape(&app).await;
    assert_eq!(promtool(&text), "");
    assert!(!text.contains("forged"), "{text}");
    assert_eq!(value(&text, "infra_service_up", &[("service", "Ok.Name_1-x")]), Some(0.0));
    let removed = app.ask("DELETE", "/services/ok.name_1-X", &[("x-service-key", KEY)], "").await;
    assert!(removed.status.is_success(), "{}", removed.text);
    assert!(!scrape(&app).await.contains("Ok.Name_1-x"));

    // What the operator calls this version is a label too.
    let app = TestApp::with(&[("VERSION", "1.0 \"beta\"\\x")]).await;
    let text = scrape(&app).await;
    assert_eq!(value(&text, "infra_build_info", &[("version", "1.0 \"beta\"\\x")]), Some(1.0));
    assert_eq!(promtool(&text), "");
}

/// Services by the hundred, and nobody who answers.
fn many(count: usize) -> String {
    (0..count).map(|n| format!("[[service]]\nname = \"s{n}\"\nurl = \"http://127.0.0.1:1/{n}\"\n")).collect()
}

#[tokio::test]
async fn a_large_fleet_goes_out_in_parts_and_few_scrapes_at_once() {
    let app = TestApp::with_file(&many(3000), &[]).await;
    for n in [0, 63, 64, 1500, 2999] {
        app.answer(&format!("s{n}"), 20).await;
    }
    let open = async || {
        let request = Request::builder().uri("/metrics/prometheus").header("x-service-key", KEY);
        app.app.gate.call([127, 0, 0, 1].into(), request.body(Body::empty()).unwrap()).await
    };
    let mut parts = open().await.into_body().into_data_stream();
    let (mut text, mut longest) = (String::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.unwrap();
        longest = longest.max(part.len());
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    assert!(text.len() > 5_000_000 && longest < 400_000, "{} bytes, {longest} in the longest part", text.len());
    check_order(&text, true);
    let all = samples(&text);
    for name in ["infra_service_detection_seconds", "infra_probe_duration_seconds_count", "infra_outage_open"] {
        let services: Vec<&str> =
            all.iter().filter(|sample| sample.name == name).map(|sample| sample.labels["service"].as_str()).collect();
        let expected: Vec<String> = (0..3000).map(|n| format!("s{n}")).collect();
        assert_eq!(services, expected, "{name}: each service once, in order");
    }

    // Clients that ask and take nothing hold a place each; the next is refused, and served when one has gone.
    let mut holding = Vec::new();
    for _ in 0..4 {
        let answer = open().await;
        assert_eq!(answer.status(), StatusCode::OK);
        holding.push(answer);
    }
    let refused = open().await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(app.get("/metrics").await.status, StatusCode::OK, "JSON has room of its own");
    holding.pop();
    eventually("a place", async || Some(open().await).filter(|answer| answer.status() == StatusCode::OK)).await;
    drop(holding);
    let text = eventually("a page", async || {
        let answer = app.get("/metrics/prometheus").await;
        (answer.status == StatusCode::OK).then_some(answer.text)
    });
    let text = text.await;
    let refusals = [("route", "/metrics/prometheus"), ("method", "GET"), ("code", "503")];
    assert!(value(&text, "infra_http_requests_total", &refusals) >= Some(1.0), "they are counted");
}

#[tokio::test]
async fn many_scrapes_at_once_are_all_answered_in_turn() {
    let app = TestApp::with_file(&many(200), &[]).await;
    let asked = (0..40).map(|_| app.get("/metrics/prometheus"));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text.contains("infra_service_detection_seconds{service=\"s199\"}"));
    }
}

// ---- /probe ----

async fn probe(app: &TestApp, query: &str) -> Answer {
    app.get(&format!("/probe?{query}")).await
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Value of a series of `/probe`, which must be there.
fn seen(answer: &Answer, name: &str) -> f64 {
    value(&answer.text, name, &[]).unwrap_or_else(|| panic!("{name} is missing: {}", answer.text))
}

fn reason(answer: &Answer) -> String {
    let mut reasons = samples(&answer.text).into_iter().filter(|sample| sample.name == "infra_probe_reason");
    reasons.next().unwrap_or_else(|| panic!("{}", answer.text)).labels["reason"].clone()
}

#[tokio::test]
async fn a_probe_tells_what_it_saw_and_leaves_no_trace() {
    let app = TestApp::with_file("", &[]).await;
    let stub = Stub::start(Script::ok()).await;
    let target = encoded(&stub.url());
    let answer = probe(&app, &format!("target={target}")).await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (StatusCode::OK, TEXT));
    assert_eq!(promtool(&answer.text), "");
    assert_eq!((seen(&answer, "probe_success"), reason(&answer).as_str()), (1.0, "ok"));
    assert_eq!(seen(&answer, "probe_http_status_code"), 200.0);
    assert_eq!(seen(&answer, "probe_http_version"), 1.1);
    assert_eq!(seen(&answer, "probe_http_content_length"), 33.0);
    assert_eq!((seen(&answer, "probe_http_redirects"), seen(&answer, "probe_http_ssl")), (0.0, 0.0));
    assert_eq!(seen(&answer, "probe_ip_protocol"), 4.0);
    let phases = samples(&answer.text).into_iter().filter(|sample| sample.name == "probe_http_duration_seconds");
    let phases: BTreeMap<String, f64> = phases.map(|sample| (sample.labels["phase"].clone(), sample.value)).collect();
    let names: Vec<&str> = phases.keys().map(String::as_str).collect();
    assert_eq!(names, ["connect", "processing", "resolve", "tls", "transfer"]);
    assert!(phases["processing"] > 0.0 && phases["tls"] == 0.0, "{phases:?}");
    assert!(seen(&answer, "probe_duration_seconds") >= phases.values().sum::<f64>() * 0.9, "{}", answer.text);
    // The path is asked for as it was written, without a health path of ours.
    assert!(stub.heads.lock().unwrap()[0].starts_with("GET / HTTP/1.1\r\n"));
    let open = accept(&app, &format!("/probe?target={target}"), OPEN).await;
    assert_eq!(open.headers["content-type"], OPEN);
    assert!(open.text.ends_with("# EOF\n"));

    stub.set(Script::Reply(404, "no".to_owned()));
    let answer = probe(&app, &format!("target={target}&module=http_2xx")).await;
    assert_eq!((seen(&answer, "probe_success"), seen(&answer, "probe_http_status_code")), (0.0, 404.0));
    assert_eq!(reason(&answer), "status");
    let answer =
        probe(&app, &format!("target={}&module=http_post_2xx", encoded(&format!("{}/in?a=b", stub.url())))).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(stub.heads.lock().unwrap().last().unwrap().starts_with("POST /in?a=b HTTP/1.1\r\n"));
    // Redirects are followed, and counted.
    let end = Stub::start(Script::ok()).await;
    stub.set(Script::Raw(format!("HTTP/1.1 302 X\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", end.url()).into()));
    let answer = probe(&app, &format!("target={target}")).await;
    assert_eq!((seen(&answer, "probe_success"), seen(&answer, "probe_http_redirects")), (1.0, 1.0));

    // Without a scheme it is http; refused is no answer, and all of its series are there as zeros.
    let gone = free_port();
    let answer = probe(&app, &format!("target=127.0.0.1:{gone}")).await;
    assert_eq!((seen(&answer, "probe_success"), reason(&answer).as_str()), (0.0, "connect_refused"));
    assert_eq!((seen(&answer, "probe_http_status_code"), seen(&answer, "probe_http_version")), (0.0, 0.0));

    // Nothing is stored, listed, counted as a check, or alerted of.
    assert_eq!(app.get("/services").await.json["total"], 0);
    assert_eq!(app.get("/alerts/active").await.json["count"], 0);
    let text = scrape(&app).await;
    assert_eq!(value(&text, "infra_checks_started_total", &[]), Some(0.0));
    assert!(!text.contains("probe_success"));
}

/// A port that takes connections and ends them.
async fn closing() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    address
}

#[tokio::test]
async fn each_module_speaks_its_protocol() {
    let app = TestApp::with_file("", &[]).await;
    let stub = Stub::start(Script::ok()).await;
    let (place, gone) = (stub.address, format!("127.0.0.1:{}", free_port()));
    let silent = closing().await;
    for module in ["tcp_connect", "tcp"] {
        for target in [place.to_string(), format!("tcp://{place}")] {
            let answer = probe(&app, &format!("module={module}&target={}", encoded(&target))).await;
            assert_eq!(seen(&answer, "probe_success"), 1.0, "{}", answer.text);
            assert_eq!(seen(&answer, "probe_failed_due_to_regex"), 0.0);
            assert!(!answer.text.contains("probe_http_"), "{}", answer.text);
        }
    }
    let (secured, _, _folder) = https_target().await;
    let secured = secured.trim_start_matches("https://").trim_end_matches('/').to_owned();
    for (module, target, expected) in [
        ("tcp_connect", gone.clone(), "connect_refused"),
        ("tls", silent.clone(), "tls"),
        // Nobody vouches for it here.
        ("tls", secured.clone(), "tls"),
        ("ssl", secured.clone(), "tls"),
        ("grpc_plain", silent.clone(), "protocol"),
        ("grpc", silent.clone(), "tls"),
        ("redis", silent.clone(), "protocol"),
        ("amqp", gone.clone(), "connect_refused"),
        ("udp", gone.clone(), "connect_refused"),
        ("http_2xx", format!("https://{secured}"), "tls"),
    ] {
        let answer = probe(&app, &format!("module={module}&target={}", encoded(&target))).await;
        assert_eq!(answer.status, StatusCode::OK, "{module} {target}: {}", answer.text);
        assert_eq!((seen(&answer, "probe_success"), reason(&answer).as_str()), (0.0, expected), "{module} {target}");
        assert_eq!(promtool(&answer.text), "");
    }
    let untrusted = probe(&app, &format!("module=tls&target={}", encoded(&secured))).await;
    assert!(seen(&untrusted, "probe_ssl_earliest_cert_expiry") > 1.0e9, "what was shown is told all the same");
    let redis = RedisServer::start().await;
    let answer = probe(&app, &format!("module=redis&target=127.0.0.1:{}", redis.port)).await;
    assert_eq!(seen(&answer, "probe_success"), 1.0, "{}", answer.text);
    let answer = probe(&app, "module=icmp&target=127.0.0.1").await;
    if answer.status == StatusCode::OK {
        assert_eq!(seen(&answer, "probe_success"), 1.0, "{}", answer.text);
        let rtt = value(&answer.text, "probe_icmp_duration_seconds", &[("phase", "rtt")]);
        assert!(rtt.is_some_and(|rtt| rtt > 0.0), "{}", answer.text);
    } else {
        // No permission for ICMP here: our own trouble, not the target's.
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    }
}

#[tokio::test]
async fn what_cannot_be_probed_is_refused_with_the_reason() {
    let app = TestApp::with_file("", &[]).await;
    let check = async |query: &str, field: &str, rule: &str| {
        let answer = probe(&app, query).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {}", answer.text);
        let problem = &answer.json["detail"][0];
        assert_eq!(problem["loc"], json!(["query", field]), "{query}");
        assert!(problem["msg"].as_str().unwrap().contains(rule), "{query}: {problem}");
        problem.clone()
    };
    check("", "target", "is required").await;
    check("target=", "target", "is required").await;
    check("target=x&module=nonsense", "module", "must be one of http_2xx").await;
    check("target=x&module=filesystem", "module", "must be one of").await;
    check("target=/etc/passwd&module=tcp_connect", "target", "").await;
    check("target=filesystem:///etc/passwd", "target", "is not supported").await;
    check("target=tcp://127.0.0.1:1&module=http_2xx", "target", "address begins with tcp").await;
    check("target=http://127.0.0.1:1&module=icmp", "target", "address begins with http").await;
    check("target=127.0.0.1&module=tcp_connect", "target", "needs a port").await;
    check("target=http://[::1&module=http_2xx", "target", "is not an address").await;
    let long = format!("target=http://x/{}", "a".repeat(3000));
    check(&long, "target", "2048").await;
    let secret = check("target=http://user:secret@127.0.0.1:1/", "target", "must not hold a user").await;
    assert!(!secret.to_string().contains("secret"), "{secret}");
    for header in ["soon", "-1", "0", "NaN"] {
        let headers = [("x-service-key", KEY), ("x-prometheus-scrape-timeout-seconds", header)];
        let answer = app.ask("GET", "/probe?target=127.0.0.1:1", &headers, "").await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{header}");
        assert!(answer.json["message"].as_str().unwrap().contains("x-prometheus-scrape-timeout-seconds"), "{header}");
    }
}

#[tokio::test]
async fn a_probe_ends_before_nobody_waits_for_it_any_more() {
    let app = TestApp::with_file("", &[]).await;
    let stub = Stub::start(Script::Hang).await;
    let path = format!("/probe?target={}", encoded(&stub.url()));
    for (waits, most) in [("1.2", 1.15), ("0.4", 0.4)] {
        let began = std::time::Instant::now();
        let headers = [("x-service-key", KEY), ("x-prometheus-scrape-timeout-seconds", waits)];
        let answer = app.ask("GET", &path, &headers, "").await;
        let took = began.elapsed().as_secs_f64();
        assert_eq!((seen(&answer, "probe_success"), reason(&answer).as_str()), (0.0, "timeout"));
        assert!(took < most, "{waits}: {took}");
    }
    // More than sixty-four at once are refused; the others go on.
    let headers = [("x-service-key", KEY), ("x-prometheus-scrape-timeout-seconds", "3")];
    let asked = (0..80).map(|_| app.ask("GET", &path, &headers, ""));
    let answers = futures_util::future::join_all(asked).await;
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.clone().count(), 16);
    assert!(refused.clone().all(|answer| answer.headers.contains_key("retry-after")));
}

#[tokio::test]
async fn outside_development_what_is_not_public_is_denied_alike() {
    let canary = Stub::start(Script::ok()).await;
    let closed = free_port();
    let production = [("ENVIRONMENT", "production"), ("INTERNAL_SERVICE_KEY", "a-key-of-twenty-four-letters")];
    let app = TestApp::with_file("[[service]]\nname = \"mine\"\nurl = \"http://127.0.0.1:1\"\n", &production).await;
    let key = ("x-service-key", "a-key-of-twenty-four-letters");
    let mut pages = Vec::new();
    for target in [
        canary.url(),
        format!("http://localhost:{}", canary.address.port()),
        format!("http://127.0.0.1:{closed}"),
        format!("http://0x7f000001:{}", canary.address.port()),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        "http://[::ffff:10.0.0.1]/".to_owned(),
    ] {
        let answer = app.ask("GET", &format!("/probe?target={}", encoded(&target)), &[key], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{target}: {}", answer.text);
        assert_eq!((seen(&answer, "probe_success"), reason(&answer).as_str()), (0.0, "egress_denied"), "{target}");
        pages.push(answer.text);
    }
    assert_eq!(canary.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
    let shape = |page: &str| -> Vec<Sample> {
        let unsteady = ["probe_duration_seconds", "probe_dns_lookup_time_seconds", "probe_http_duration_seconds"];
        samples(page).into_iter().filter(|sample| !unsteady.contains(&sample.name.as_str())).collect()
    };
    assert_eq!(shape(&pages[0]), shape(&pages[2]), "an open port and a closed one look the same");
}

// ---- /api/v1/sd ----

#[tokio::test]
async fn discovery_lists_what_is_watched_and_has_an_address() {
    let file = "
        [[service]]\nname = \"web\"\nurl = \"http://u:p@127.0.0.1:81\"\ncritical = true\ntags = [\"a\", \"b c\"]
        [[service]]\nname = \"db\"\nprotocol = \"postgres\"\nurl = \"postgres://me:secret@127.0.0.1:5433/x\"\ncategory = \"infrastructure\"
        [[service]]\nname = \"disk\"\nprotocol = \"filesystem\"
        [[service]]\nname = \"ping\"\nprotocol = \"icmp\"\nurl = \"icmp://127.0.0.1\"
        [[service]]\nname = \"off\"\nurl = \"http://127.0.0.1:82\"\nis_active = false\n";
    let app = TestApp::with_file(file, &[("READONLY_SERVICE_KEYS", "a-reader-key-of-24-letters")]).await;
    let answer = app.get("/api/v1/sd").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let groups = answer.json.as_array().unwrap();
    assert_eq!(groups.len(), 3, "{}", answer.text);
    assert_eq!(
        groups[0],
        json!({"targets": ["http://127.0.0.1:81/health"], "labels": {
            "__meta_infra_name": "web", "__meta_infra_display_name": "web", "__meta_infra_category": "core",
            "__meta_infra_protocol": "http", "__meta_infra_critical": "true", "__meta_infra_critical_path": "false",
            "__meta_infra_tags": ",a,b c,", "__meta_infra_source": "file", "__meta_infra_module": "http_2xx"}})
    );
    assert!(!answer.text.contains("secret"), "{}", answer.text);
    let modules: Vec<&Value> = groups.iter().map(|group| &group["labels"]["__meta_infra_module"]).collect();
    assert_eq!(modules, ["http_2xx", "postgres", "icmp"]);
    for group in groups {
        for (label, text) in group["labels"].as_object().unwrap() {
            assert!(label.starts_with("__meta_infra_") && text.is_string(), "{label}");
        }
    }
    let tag = answer.headers["etag"].to_str().unwrap();
    app.answer("web", 20).await;
    let same = app.ask("GET", "/api/v1/sd", &[("x-service-key", KEY), ("if-none-match", tag)], "").await;
    assert_eq!((same.status, same.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "a check changes nothing of it");
    let added = json!({"id": "new", "url": "http://127.0.0.1:83/"});
    assert_eq!(send(&app, "POST", "/services", added).await.status, StatusCode::CREATED);
    let other = app.ask("GET", "/api/v1/sd", &[("x-service-key", KEY), ("if-none-match", tag)], "").await;
    assert_eq!(other.json.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn readers_scrape_discover_and_probe_and_nobody_else_where_keys_are_asked_for() {
    let check = async |scope: &str, with_key: StatusCode, without: StatusCode| {
        let reader = ("READONLY_SERVICE_KEYS", "a-reader-key-of-24-letters");
        let app = TestApp::with(&[("AUTH_SCOPE", scope), reader]).await;
        for path in ["/metrics", "/metrics/prometheus", "/probe?target=127.0.0.1:1", "/api/v1/sd", "/api/v1/sd/"] {
            let keyed = app.ask("GET", path, &[("authorization", "Bearer a-reader-key-of-24-letters")], "").await;
            assert_eq!(keyed.status, with_key, "{scope} {path}");
            assert_eq!(app.ask("GET", path, &[], "").await.status, without, "{scope} {path}");
            let posted = app.ask("POST", path, &[("x-service-key", KEY)], "").await;
            assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED, "{scope} {path}");
        }
    };
    check("all", StatusCode::OK, StatusCode::UNAUTHORIZED).await;
    check("internal", StatusCode::OK, StatusCode::UNAUTHORIZED).await;
    check("writes", StatusCode::OK, StatusCode::OK).await;
}

// ---- a real Prometheus ----

/// Debian's Prometheus on a free port, with a configuration of its own.
struct PrometheusServer {
    url: String,
    client: reqwest::Client,
    _child: Child,
    _folder: TempDir,
}

impl PrometheusServer {
    async fn start(scrapes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs:\n{scrapes}");
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        check_config(folder.path());
        let address = format!("127.0.0.1:{}", free_port());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus, which tests/run installs");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let server = Self { url: format!("http://{address}"), client, _child: child, _folder: folder };
        eventually("Prometheus", async || server.ask("/-/ready").await).await;
        server
    }

    async fn ask(&self, path: &str) -> Option<String> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// The labels and the value of each series that `expression` has now.
    async fn query(&self, expression: &str) -> Vec<(Value, String)> {
        let answer = self.ask(&format!("/api/v1/query?query={}", encoded(expression))).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        let result = answer["data"]["result"].as_array().unwrap();
        let series = result.iter().map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().to_owned()));
        series.collect()
    }

    async fn wait_for(&self, expression: &str, wanted: impl Fn(&[(Value, String)]) -> bool) -> Vec<(Value, String)> {
        let looking = async || Some(self.query(expression).await).filter(|series| wanted(series));
        eventually(&format!("{expression} in Prometheus"), looking).await
    }
}

fn check_config(folder: &Path) {
    let mut check = std::process::Command::new("promtool");
    check.args(["check", "config", "prometheus.yml"]).current_dir(folder);
    let output = check.output().expect("promtool, which tests/run installs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_real_prometheus_scrapes_discovers_and_probes() {
    let (up, failing) = (Stub::start(Script::ok()).await, Stub::start(Script::Reply(500, "no".to_owned())).await);
    let services = format!(
        "[[service]]\nname = \"up\"\nurl = \"{}\"\ntags = [\"web\"]\n[[service]]\nname = \"failing\"\nurl = \"{}\"\n\
         [[service]]\nname = \"port\"\nprotocol = \"tcp\"\nurl = \"tcp://{}\"\n",
        up.url(),
        failing.url(),
        up.address
    );
    let binary = Binary::start(&services, &[("READONLY_SERVICE_KEYS", "a-reader-key-of-24-letters")]).await;
    let own = format!("127.0.0.1:{}", binary.port);
    let key = "authorization: {credentials: a-reader-key-of-24-letters}";
    let prometheus = PrometheusServer::start(&format!(
        "- job_name: monitor
  {key}
  static_configs: [{{targets: ['{own}']}}]
- job_name: blackbox
  {key}
  metrics_path: /probe
  http_sd_configs: [{{url: 'http://{own}/api/v1/sd', {key}, refresh_interval: 1s}}]
  relabel_configs:
  - {{source_labels: [__address__], target_label: __param_target}}
  - {{source_labels: [__meta_infra_module], target_label: __param_module}}
  - {{source_labels: [__meta_infra_name], target_label: service}}
  - {{source_labels: [__meta_infra_critical], target_label: critical}}
  - {{source_labels: [__param_target], target_label: instance}}
  - {{target_label: __address__, replacement: '{own}'}}
"
    ))
    .await;
    let by_service = |series: &[(Value, String)]| -> BTreeMap<String, String> {
        let pairs = series.iter().map(|(labels, value)| (labels["service"].as_str().unwrap_or_default(), value));
        pairs.map(|(service, value)| (service.to_owned(), value.clone())).collect()
    };
    let expected =
        BTreeMap::from([("failing", "0"), ("port", "1"), ("up", "1")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    prometheus.wait_for("up{job=\"monitor\"}", |series| matches!(series, [(_, value)] if value == "1")).await;
    prometheus.wait_for("infra_service_up", |series| by_service(series) == expected).await;
    prometheus.wait_for("probe_success{job=\"blackbox\"}", |series| by_service(series) == expected).await;
    let codes = prometheus.query("probe_http_status_code{service=\"failing\"}").await;
    assert_eq!((codes[0].1.as_str(), &codes[0].0["instance"]), ("500", &json!(format!("{}/health", failing.url()))));
    // It asked in OpenMetrics, and kept what kind each family is.
    let metadata = prometheus.ask("/api/v1/metadata?metric=infra_checks").await.unwrap();
    assert!(metadata.contains("\"type\":\"counter\""), "{metadata}");
    let quantile = "histogram_quantile(0.5, sum by (le) (infra_probe_duration_seconds_bucket{service=\"up\"}))";
    let half = prometheus.query(quantile).await;
    assert!(half[0].1.parse::<f64>().unwrap() <= 1.0, "{half:?}");
    assert_eq!(prometheus.query("count(up == 0)").await, [], "every scrape was taken");

    // A service comes and goes over the API: so do its series.
    let body = json!({"id": "guest", "url": format!("{}/", up.url())}).to_string();
    assert_eq!(binary.ask("POST", "/services", &body).await.0, 201);
    let guest = "infra_service_status{service=\"guest\"}";
    prometheus.wait_for(guest, |series| series.len() == 4).await;
    prometheus.wait_for("probe_success{service=\"guest\"}", |series| series.len() == 1).await;
    let removed = binary.ask("DELETE", "/services/guest", "").await;
    assert!((200..300).contains(&removed.0), "{removed:?}");
    assert!(!binary.ask("GET", "/metrics/prometheus", "").await.1.contains("guest"), "gone at once");
    prometheus.wait_for(guest, <[_]>::is_empty).await;
    prometheus.wait_for("probe_success{service=\"guest\"}", <[_]>::is_empty).await;
}
