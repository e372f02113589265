//! The whole system and the host beside it, as clients of 002 and 004 see them.

use std::time::Duration;

use as_infrastructure_service::domain::alert::{Alert, AlertDetails, AlertStatus, AlertType, Component, Severity};
use as_infrastructure_service::domain::host::{Cpu, Disk, Disks, HostSample, Interface, Memory, Sides, Vitals};
use as_infrastructure_service::domain::judge::sample_alert;
use as_infrastructure_service::domain::observation::{Observation, Reason, Reply};
use as_infrastructure_service::engine::commit::Transition;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Binary, KEY, TestApp, eventually};

/// Two services, one of them critical, one that is switched off, and two of the infrastructure.
const SYSTEM: &str = r#"
[[service]]
name = "backend"
url = "http://localhost:1"
category = "trading"
critical = true
timeout_ms = 3000

[[service]]
name = "scheduler"
url = "http://localhost:2"
category = "trading"

[[service]]
name = "retired"
url = "http://localhost:3"
is_active = false

[[service]]
name = "postgres"
url = "http://localhost:4"
category = "infrastructure"

[[service]]
name = "cache"
url = "redis://localhost:5"
protocol = "redis"
category = "infrastructure"
"#;

fn answered(code: u16, ms: u64) -> Observation {
    Observation::answered(code, Duration::from_millis(ms))
}

fn refused() -> Observation {
    Observation::failed(Reason::ConnectRefused, "")
}

/// An answer of a protocol without codes.
fn well(us: u64) -> Observation {
    let mut seen = Observation::answered(0, Duration::from_micros(us));
    seen.reply = Ok(Reply::well());
    seen
}

/// Everything has answered well once.
async fn well_system() -> TestApp {
    let app = TestApp::with_file(SYSTEM, &[]).await;
    app.take_in("backend", answered(200, 120)).await;
    app.take_in("scheduler", answered(200, 40)).await;
    app.take_in("postgres", answered(200, 3)).await;
    app.take_in("cache", well(400)).await;
    app
}

/// A container with half a core and a gigabyte on a large machine.
pub fn sample(app: &TestApp) -> HostSample {
    const GIB: u64 = 1 << 30;
    HostSample {
        at: app.clock.now(),
        vitals: Some(Vitals {
            cpu: Sides {
                host: Cpu { usage_percent: 12.345, cores: 8.0 },
                container: Some(Cpu { usage_percent: 25.5, cores: 0.5 }),
            },
            load_average: [1.2, 1.1, 1.0],
            memory: Sides {
                host: Memory {
                    total_bytes: 32 * GIB,
                    used_bytes: 16 * GIB,
                    swap_total_bytes: GIB,
                    swap_used_bytes: GIB / 4,
                },
                container: Some(Memory { total_bytes: GIB, used_bytes: GIB / 2, ..Memory::default() }),
            },
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                rx_bytes: 2000,
                tx_bytes: 1000,
                rx_rate: 20.0,
                tx_rate: 10.5,
            }],
            connections: 125,
            uptime: Duration::from_secs(86_400),
        }),
        disks: Some(Disks {
            disks: vec![
                Disk { mount: "/".to_owned(), total_bytes: 1000, used_bytes: 621, read_only: false },
                Disk { mount: "/data".to_owned(), total_bytes: 1000, used_bytes: 10, read_only: false },
            ],
            read_rate: 4096.0,
            write_rate: 512.0,
        }),
    }
}

/// The same with so much of the CPU in use.
fn busy(app: &TestApp, percent: f64) -> HostSample {
    let mut seen = sample(app);
    if let Some(cpu) = seen.vitals.as_mut().and_then(|vitals| vitals.cpu.container.as_mut()) {
        cpu.usage_percent = percent;
    }
    seen
}

async fn word(app: &TestApp) -> String {
    app.get("/health/system").await.json["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn bodies_are_those_of_the_sources() {
    let app = well_system().await;
    app.take_in("scheduler", refused()).await;
    app.app.engine.take_host(sample(&app));
    let mut settings = crate::api::stable();
    // Of this process, which has just begun.
    settings.add_filter(r#""(uptime|uptime_seconds)": \d\b"#, r#""$1": "<seconds>""#);
    for (path, name) in [
        ("/health/system", "health_system"),
        ("/health/system?snapshot=true", "health_system_snapshot"),
        ("/health/metrics", "health_metrics"),
        ("/health/detailed", "health_detailed"),
        ("/api/health/services", "api_health_services"),
        ("/status", "status"),
        ("/report", "report"),
        ("/health/system/cpu", "health_system_cpu"),
        ("/health/system/memory", "health_system_memory"),
        ("/health/system/disk", "health_system_disk"),
        ("/health/system/network", "health_system_network"),
        ("/services/scheduler/health", "service_health_flat"),
        ("/services/scheduler/alerts/status", "service_alert_status"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        settings.bind(|| insta::assert_json_snapshot!(name, answer.json));
    }
    assert_eq!(app.get("/reports/health").await.json, app.get("/report").await.json);
}

#[tokio::test]
async fn nothing_is_said_before_the_first_round() {
    let app = TestApp::with_file(SYSTEM, &[]).await;
    let refused = app.get("/health/system").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.json["detail"], "Health monitoring not initialized");
    let metrics = app.get("/health/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert_eq!(metrics.json["status"], "no_data");
    assert_eq!(metrics.json["message"], "No health data collected yet");
    assert_eq!(app.get("/status").await.json["status"], "unknown");
    assert_eq!(app.get("/health/system/network").await.json["status"], "unknown");

    app.take_in("scheduler", answered(200, 5)).await;
    let seen = app.get("/health/system").await.json;
    assert_eq!((&seen["status"], &seen["services"]["unknown"]), (&json!("OK"), &json!(["backend", "retired"])));
    assert_eq!(app.get("/health/metrics").await.json["counters"]["services_unknown"], 2);

    // With nothing to check there is nothing to wait for.
    let app = TestApp::with_file("", &[]).await;
    assert_eq!(word(&app).await, "OK");
    assert_eq!(app.get("/status").await.json["status"], "unknown");
    assert_eq!(app.get("/health/system").await.json["performance"]["max_service_latency_ms"], Value::Null);
}

#[tokio::test]
async fn the_rules_of_004_apply_to_what_checks_saw() {
    let app = well_system().await;
    assert_eq!(word(&app).await, "OK");
    for (name, seen, expected) in [
        ("scheduler", answered(200, 1000), "OK"),
        ("scheduler", answered(200, 1001), "DEGRADED"),
        ("scheduler", answered(200, 5000), "DEGRADED"),
        ("scheduler", answered(200, 5001), "CRITICAL"),
        ("scheduler", answered(204, 5), "DEGRADED"),
        ("scheduler", answered(404, 5), "DEGRADED"),
        ("scheduler", answered(500, 5), "DEGRADED"),
        ("scheduler", refused(), "DEGRADED"),
        ("scheduler", answered(200, 5), "OK"),
        ("postgres", answered(200, 9000), "OK"),
        ("postgres", answered(500, 5), "DEGRADED"),
        ("postgres", refused(), "CRITICAL"),
        ("postgres", answered(200, 5), "OK"),
        ("cache", refused(), "CRITICAL"),
        ("cache", well(400), "OK"),
        ("backend", answered(404, 5), "DEGRADED"),
        ("backend", answered(500, 5), "CRITICAL"),
        ("backend", answered(200, 5), "OK"),
    ] {
        app.take_in(name, seen.clone()).await;
        assert_eq!(word(&app).await, expected, "{name}: {seen:?}");
        app.clock.advance(Duration::from_secs(15));
    }
    app.take_in("backend", refused()).await;
    app.take_in("cache", refused()).await;
    let seen = app.get("/health/system").await.json;
    assert_eq!(seen["critical_failures"], json!(["Service: backend", "Infrastructure: cache"]));
    assert_eq!(app.get("/health/metrics").await.json["gauges"]["system_status_code"], 2);
}

#[tokio::test]
async fn what_is_in_maintenance_or_inactive_is_in_no_word() {
    let app = well_system().await;
    app.take_in("backend", refused()).await;
    app.take_in("postgres", refused()).await;
    assert_eq!(word(&app).await, "CRITICAL");
    let window = json!({
        "endpoint_ids": ["backend", "postgres"], "start_time": "2026-01-31T10:00:00Z",
        "end_time": "2026-01-31T11:00:00Z",
    });
    let headers = [("x-service-key", KEY), ("content-type", "application/json")];
    let created = app.ask("POST", "/maintenance/", &headers, &window.to_string()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);

    let seen = app.get("/health/system").await.json;
    assert_eq!(seen["status"], "OK");
    assert_eq!(seen["services"]["unknown"], json!(["backend", "retired"]));
    assert_eq!(seen["infrastructure"]["unknown"], json!(["postgres"]));
    assert_eq!(seen["critical_failures"], json!([]));
    let status = app.get("/status").await.json;
    // In lists they keep their own status; the overall word is of the others.
    assert_eq!(status["status"], "healthy");
    assert_eq!(status["services"]["backend"]["status"], "unhealthy");
    assert_eq!(status["services"]["retired"]["status"], "unknown");
    assert_eq!(status["summary"]["unhealthy_services"], 2);

    app.clock.advance(Duration::from_secs(3600));
    assert_eq!(word(&app).await, "CRITICAL");
}

/// The alert of a tripped emergency stop, as the events part raises it.
fn tripped(app: &TestApp, status: AlertStatus) -> Alert {
    let at = app.clock.now();
    let mut details = AlertDetails::default();
    details.facts.insert("reason".to_owned(), json!("drawdown"));
    let component = Component::EmergencyStop;
    Alert {
        id: Alert::id_for(&component, AlertType::EssTripped, at.timestamp()),
        alert_id: "emergency_stop_system_CRITICAL".to_owned(),
        kind: AlertType::EssTripped,
        title: "Emergency Stop System TRIPPED".to_owned(),
        triggered_at: at,
        updated_at: at,
        status,
        details,
        ..sample_alert("emergency_stop_system", Severity::Critical)
    }
}

async fn put(app: &TestApp, alert: Alert) {
    let transition = Transition { alerts: vec![alert], ..Transition::default() };
    assert!(app.app.engine.commit.transition(transition).await.unwrap());
}

#[tokio::test]
async fn a_tripped_emergency_stop_is_critical_until_it_ends() {
    let app = well_system().await;
    put(&app, tripped(&app, AlertStatus::Active)).await;
    let seen = app.get("/health/system").await.json;
    assert_eq!((&seen["status"], &seen["ess_tripped"]), (&json!("CRITICAL"), &json!(true)));
    assert_eq!(seen["critical_failures"], json!(["ESS: drawdown"]));
    assert_eq!(app.get("/health/metrics").await.json["alerts"]["critical_count"], 1);
    // It is no failure of a service: nothing else is to be raised because of it.
    assert_eq!(app.app.engine.system_view().confirmed.status.as_str(), "OK");

    put(&app, tripped(&app, AlertStatus::Resolved)).await;
    assert_eq!(word(&app).await, "OK");

    app.clock.advance(Duration::from_secs(1));
    put(&app, tripped(&app, AlertStatus::Active)).await;
    let services = app.folder.path().join("services.toml");
    let app = app.restart(&[("SERVICES_FILE", services.to_str().unwrap())]).await;
    assert_eq!(word(&app).await, "CRITICAL", "it outlives a restart");
}

#[tokio::test]
async fn one_lost_packet_confirms_nothing() {
    let app = well_system().await;
    app.take_in("backend", refused()).await;
    let view = app.app.engine.system_view();
    assert_eq!((view.status.as_str(), view.confirmed.status.as_str()), ("CRITICAL", "OK"));
    app.take_in("backend", refused()).await;
    let view = app.app.engine.system_view();
    assert_eq!(view.confirmed.status.as_str(), "CRITICAL");
    assert_eq!(view.confirmed.critical_failures, ["Service: backend"]);
    app.take_in("backend", answered(200, 5)).await;
    app.take_in("backend", refused()).await;
    assert_eq!(app.app.engine.system_view().confirmed.status.as_str(), "OK");
}

#[tokio::test]
async fn views_agree_with_each_other() {
    let app = well_system().await;
    app.take_in("backend", answered(500, 7)).await;
    app.take_in("scheduler", Observation::failed(Reason::Timeout, "")).await;
    let system = app.get("/health/system?snapshot=true").await.json;
    let counters = app.get("/health/metrics").await.json["counters"].clone();
    let words = app.get("/api/health/services").await.json["services"].clone();
    let mut listed = 0;
    for (part, in_snapshot, prefix) in [("services", "services", "services"), ("infrastructure", "infra", "infra")] {
        for list in ["ok", "degraded", "down", "unknown"] {
            let names = system[part][list].as_array().unwrap();
            assert_eq!(counters[format!("{prefix}_{list}")], names.len(), "{part} {list}");
            for name in names {
                let entry = &system["snapshot"][in_snapshot][name.as_str().unwrap()];
                assert_eq!(entry["status"], list.to_uppercase(), "{name}");
                let word = words.as_array().unwrap().iter().find(|word| word["name"] == *name).unwrap();
                assert_eq!((&word["status"], &word["latency_ms"]), (&entry["status"], &entry["latency_ms"]), "{name}");
                listed += 1;
            }
        }
    }
    assert_eq!(listed, 5);
    // A timeout has a sentence of its own in the words of 004.
    assert_eq!(system["snapshot"]["services"]["scheduler"]["error"], "Request timeout");
    assert_eq!(system["snapshot"]["services"]["backend"]["error"], "Unexpected status code: 500");
    let (status, detailed) = (app.get("/status").await.json, app.get("/health/detailed").await.json);
    assert_eq!(status["status"], detailed["overall_status"]);
    for (path, pointer) in [("/health", "/services"), ("/health/services", "/summary")] {
        let body = app.get(path).await.json;
        assert_eq!(body.pointer(pointer).unwrap()["unhealthy"], detailed["unhealthy_services"], "{path}");
    }
}

#[tokio::test]
async fn the_host_is_judged_by_its_limits_which_may_change() {
    let app = well_system().await;
    let blank = app.get("/health/system/cpu").await.json;
    assert_eq!((&blank["status"], &blank["usage_percent"]), (&json!("unknown"), &Value::Null));
    assert!(app.get("/metrics").await.json["cpu_usage_percent"].is_null());

    app.app.engine.take_host(busy(&app, 90.0));
    assert_eq!(app.get("/health/system").await.json["system_health"]["status"], "healthy");
    app.app.engine.take_host(busy(&app, 90.01));
    let seen = app.get("/health/system").await.json;
    assert_eq!(seen["system_health"]["status"], "unhealthy");
    assert_eq!(seen["status"], "OK", "the host does not feed the system's word");
    assert_eq!(app.get("/health/system/cpu").await.json["status"], "unhealthy");
    assert_eq!(app.get("/health/system/memory").await.json["status"], "healthy");

    let changed = app.ask("PUT", "/config", &[("x-service-key", KEY)], r#"{"critical_cpu_threshold": 95}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(app.get("/health/system/cpu").await.json["status"], "healthy");

    let metrics = app.get("/metrics").await.json;
    assert_eq!((&metrics["cpu_usage_percent"], &metrics["memory_usage_mb"]), (&json!(90.01), &json!(512.0)));
    assert_eq!((&metrics["disk_usage_percent"], &metrics["network_connections"]), (&json!(62.1), &json!(125)));
    let text = app.get("/metrics/prometheus").await.text;
    assert!(text.contains("infra_host_cpu_usage_ratio 0.9001\n"), "{text}");
    assert!(
        text.contains("infra_host_memory_usage_ratio 0.5\n") && text.contains("infra_host_disk_usage_ratio 0.621\n")
    );
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_named_and_shown_as_unknown() {
    let app = well_system().await;
    app.app.engine.take_host(sample(&app));
    let since = app.clock.now();
    for _ in 0..2 {
        app.app.engine.take_host(HostSample { disks: None, ..sample(&app) });
        app.clock.advance(Duration::from_secs(10));
    }
    let problems = app.get("/health").await.json["self"]["problems"].clone();
    let since = as_infrastructure_service::domain::time::Stamp(since);
    assert_eq!(problems, json!([format!("disks of the host not readable since {since}")]));
    assert_eq!(app.get("/health/system/disk").await.json["status"], "unknown");
    assert_eq!(app.get("/health/system/cpu").await.json["status"], "healthy");
    assert!(!app.get("/metrics/prometheus").await.text.contains("infra_host_disk_usage_ratio"));
    app.app.engine.take_host(sample(&app));
    assert_eq!(app.get("/health").await.json["self"]["problems"], json!([]));
}

#[tokio::test]
async fn connectivity_is_an_answer_within_the_last_interval() {
    let app = well_system().await;
    let connected = async || app.get("/health/system/network").await.json["connectivity"] == true;
    assert!(connected().await);
    app.clock.advance(Duration::from_secs(36));
    assert!(!connected().await);
    app.take_in("scheduler", refused()).await;
    assert!(!connected().await);
    app.take_in("scheduler", answered(500, 5)).await;
    assert!(connected().await, "an error is an answer");
}

#[tokio::test]
async fn minutes_of_the_host_stand_beside_those_of_the_services() {
    let app = well_system().await;
    for percent in [10.0, 30.0] {
        app.app.engine.take_host(busy(&app, percent));
        app.clock.advance(Duration::from_secs(20));
    }
    app.clock.advance(Duration::from_secs(60));
    // A minute without a check has its host nevertheless.
    app.app.engine.take_host(busy(&app, 70.0));
    app.clock.advance(Duration::from_secs(60));
    app.app.engine.keep_runs().await;
    let history = eventually("the minutes", async || {
        let history = app.get("/metrics/history").await.json;
        (history["data_points"] == 2).then_some(history)
    })
    .await;
    let points = &history["historical_data"];
    assert_eq!(
        (&points[0]["metrics"]["checks"], &points[0]["metrics"]["cpu_usage_percent"]),
        (&json!(4), &json!(20.0))
    );
    assert_eq!(
        (&points[1]["metrics"]["checks"], &points[1]["metrics"]["cpu_usage_percent"]),
        (&json!(0), &json!(70.0))
    );
    assert_eq!(points[0]["metrics"]["memory_usage_percent"], 50.0);
    assert_eq!(points[0]["metrics"]["disk_usage_percent"], 62.1);
    assert_eq!(points[0]["metrics"]["load_average"], json!([1.2, 1.1, 1.0]));
    let hour = app.get("/metrics/history?resolution=hour").await.json["historical_data"][0]["metrics"].clone();
    assert_eq!((&hour["checks"], &hour["cpu_usage_percent"]), (&json!(4), &json!(36.67)));
    let of_service = app.get("/metrics/history?service=backend").await.json["historical_data"][0]["metrics"].clone();
    assert!(of_service.get("cpu_usage_percent").is_none());
    let report = app.get("/report?include_historical=true&format=JSON").await.json;
    assert_eq!(report["historical_data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_report_comes_in_one_format() {
    let app = well_system().await;
    assert_eq!(app.get("/report?format=pdf").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(app.get("/report?include_historical=perhaps").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(app.get("/report").await.json.get("historical_data").is_none());
}

#[tokio::test]
async fn thresholds_of_002_are_the_critical_limits() {
    let app = well_system().await;
    let headers = [("x-service-key", KEY), ("content-type", "application/json")];
    let new = json!({"id": "api", "url": "http://localhost:9/health"}).to_string();
    assert_eq!(app.ask("POST", "/services", &headers, &new).await.status, StatusCode::CREATED);
    let set = async |name: &str, body: Value| {
        app.ask("POST", &format!("/services/{name}/alerts/thresholds"), &headers, &body.to_string()).await
    };
    let answer = set("api", json!({"response_time_ms": 2000, "error_rate": 0.1, "availability": 0.9})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected = json!({"response_time_ms": 2000, "error_rate": 0.1, "availability": 0.9});
    assert_eq!((&answer.json["service_name"], &answer.json["thresholds"]), (&json!("api"), &expected));
    let own = app.get("/services/api").await.json["thresholds"].clone();
    assert_eq!(own, json!({"response_time_critical_ms": 2000.0, "error_rate_critical": 0.1, "uptime_critical": 90.0}));
    // Only what is sent changes, and null takes it away.
    let answer = set("api", json!({"response_time_ms": null})).await.json;
    assert_eq!(answer["thresholds"], json!({"response_time_ms": 3000, "error_rate": 0.1, "availability": 0.9}));

    for (body, field) in [
        (json!({"response_time_ms": 1000}), "response_time_ms"),
        (json!({"response_time_ms": "fast"}), "response_time_ms"),
        (json!({"error_rate": 0}), "error_rate"),
        (json!({"error_rate": 0.01}), "error_rate"),
        (json!({"error_rate": 1.01}), "error_rate"),
        (json!({"availability": 0.99}), "availability"),
        (json!({"availability": -0.1}), "availability"),
        (json!({"colour": 1}), "colour"),
    ] {
        let answer = set("api", body.clone()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(answer.json["detail"][0]["loc"], json!(["body", field]), "{body}");
    }
    assert_eq!(set("backend", json!({"error_rate": 0.2})).await.status, StatusCode::CONFLICT);
    assert_eq!(set("nobody", json!({"error_rate": 0.2})).await.status, StatusCode::NOT_FOUND);
    for path in ["/services/nobody/health", "/services/nobody/alerts/status"] {
        assert_eq!(app.get(path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_slow_service_has_exceeded_its_threshold() {
    // Ids of alerts about the second begin like those about the first.
    let services = ["api", "api-high-response-time"]
        .map(|name| format!("[[service]]\nname = \"{name}\"\nurl = \"http://localhost:1\"\n"));
    let app = TestApp::with_file(&services.concat(), &[]).await;
    app.answer("api-high-response-time", 5).await;
    for _ in 0..3 {
        app.take_in("api-high-response-time", answered(200, 3500)).await;
        app.clock.advance(Duration::from_secs(15));
    }
    let seen = app.get("/services/api-high-response-time/alerts/status").await.json;
    assert_eq!((&seen["threshold_exceeded"], &seen["alert_type"]), (&json!(true), &json!("response_time")));
    assert_eq!((&seen["current_value"], &seen["threshold_value"]), (&json!(3500.0), &json!(3000.0)));
    // Three of four checks were too slow to be healthy.
    assert_eq!((&seen["error_count"], &seen["threshold_limit"]), (&json!(75), &json!(5.0)));
    assert_eq!(app.get("/services/api/alerts/status").await.json["threshold_exceeded"], false);
}

#[tokio::test]
async fn the_running_binary_samples_its_host() {
    let binary = Binary::start("", &[("SYSTEM_CHECK_INTERVAL", "1")]).await;
    let seen = binary.wait_until("/health/system", |body| !body["system_health"]["cpu_usage"].is_null()).await;
    let host = &seen["system_health"];
    assert!(host["memory_usage"].as_f64().unwrap() > 0.0 && host["uptime_seconds"].as_u64().unwrap() > 0, "{host}");
    assert_eq!(host["load_average"].as_array().unwrap().len(), 3);
    assert_ne!(host["status"], "unknown");
    // It goes on: another sample has another time.
    let first = binary.get("/health/system/cpu").await["timestamp"].clone();
    binary.wait_until("/health/system/cpu", |body| body["timestamp"] != first).await;
}
