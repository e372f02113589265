//! The shared copy against a real `redis-server`: exactly its keys, and a Redis that is killed, frozen, flushed or comes
//! back empty changes nothing for probing, alerting and answering.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Binary, Recorder, RedisServer, Script, Stub, eventually, free_port};

fn one_service(stub: &Stub) -> String {
    format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\ncritical = true\ndepends_on = []\n", stub.url())
}

async fn redis_state(binary: &Binary, wanted: &str) {
    binary.wait_until("/health", |health| health["self"]["redis"]["state"] == wanted).await;
}

#[tokio::test]
async fn exactly_the_keys_of_the_contract_are_written_with_their_lifetime() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    let url = redis.url();
    let more = [("REDIS_URL", url.as_str()), ("HEALTH_DATA_TTL_SECONDS", "600"), ("REDIS_KEY_PREFIX", "t:")];
    let binary = Binary::start(&one_service(&stub), &more).await;
    redis_state(&binary, "connected").await;
    eventually("a history of three", async || {
        redis.ask(&["LLEN", "t:health:history:auth"]).await.filter(|length| length.parse::<u32>().unwrap_or(0) >= 3)
    })
    .await;
    stub.set(Script::Reply(500, String::new()));
    let id = eventually("an alert", async || {
        redis.ask(&["SRANDMEMBER", "t:alerts:active"]).await.filter(|id| !id.is_empty())
    })
    .await;
    let mut keys: Vec<String> = redis.ask(&["KEYS", "*"]).await.unwrap().lines().map(str::to_owned).collect();
    keys.sort();
    let mut expected = vec![
        format!("t:alert:{id}"),
        "t:alerts:active".to_owned(),
        "t:health:auth".to_owned(),
        "t:health:history:auth".to_owned(),
        "t:system:metrics".to_owned(),
    ];
    // Metrics are written when Redis connects and each minute: of a service that had been checked by then.
    keys.retain(|key| key != "t:metrics:auth");
    expected.sort();
    assert_eq!(keys, expected);
    for key in keys {
        let left: i64 = redis.ask(&["TTL", &key]).await.unwrap().parse().unwrap();
        assert!((1..=600).contains(&left), "{key} lives {left} s");
    }
    let fields = redis.ask(&["HKEYS", "t:health:auth"]).await.unwrap();
    let expected = "status response_time timestamp http_status error_message consecutive_failures consecutive_successes reason version sequence";
    assert_eq!(fields.split_whitespace().collect::<Vec<_>>(), expected.split(' ').collect::<Vec<_>>());
    let newest = redis.ask(&["LINDEX", "t:health:history:auth", "0"]).await.unwrap();
    let newest: Value = serde_json::from_str(&newest).unwrap();
    assert_eq!((&newest["status"], &newest["http_status"]), (&"unhealthy".into(), &500.into()));
    assert_eq!(newest["error_message"], "Service unavailable (HTTP 500)");
    assert_eq!(redis.ask(&["HGET", &format!("t:alert:{id}"), "type"]).await.unwrap(), "service_down");
}

#[tokio::test]
async fn a_redis_that_was_flushed_holds_everything_again_soon() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    let url = redis.url();
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    stub.set(Script::Reply(500, String::new()));
    binary
        .wait_until("/status/critical", |body| body["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()))
        .await;
    let length = async || redis.ask(&["LLEN", "health:history:auth"]).await?.parse::<u32>().ok();
    let before = eventually("a history", async || length().await.filter(|length| *length >= 4)).await;
    redis.ask(&["FLUSHALL"]).await.unwrap();
    eventually("the history back", async || length().await.filter(|length| *length >= before)).await;
    eventually("the alerts back", async || redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count != "0"))
        .await;
    assert_eq!(binary.get("/health").await["self"]["redis"]["state"], "connected");
}

#[tokio::test]
async fn killed_and_back_empty_it_is_named_and_filled_again_and_nobody_is_told_anything() {
    let (redis, stub, recorder) =
        (RedisServer::start().await, Stub::start(Script::Reply(500, String::new())).await, Recorder::start().await);
    let (url, hook, port) = (redis.url(), recorder.url(), redis.port);
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url), ("ALERT_WEBHOOK_URL", &hook)]).await;
    recorder.wait_for(1).await;
    let alerts = binary.get("/status/critical").await["alerts"].clone();
    redis.kill().await;
    redis_state(&binary, "unavailable").await;
    let health = binary.get("/health").await;
    assert!(health["self"]["problems"].to_string().contains("redis unavailable since"), "{health}");
    let probed = stub.requests();
    eventually("probing going on", async || (stub.requests() > probed + 2).then_some(())).await;

    let redis = RedisServer::start_at(port).await;
    redis_state(&binary, "connected").await;
    eventually("the history filled", async || {
        redis.ask(&["LLEN", "health:history:auth"]).await.filter(|length| length != "0")
    })
    .await;
    eventually("the alert filled", async || redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count != "0"))
        .await;
    let after = binary.get("/status/critical").await["alerts"].clone();
    assert_eq!((&after[0]["id"], &after[0]["triggered_at"]), (&alerts[0]["id"], &alerts[0]["triggered_at"]));
    assert_eq!(recorder.log(), ["alert_raised auth"]);
}

#[tokio::test]
async fn a_frozen_redis_delays_neither_probes_nor_answers() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    let url = redis.url();
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    redis_state(&binary, "connected").await;
    redis.signal("-STOP");
    redis_state(&binary, "unavailable").await;
    let probed = stub.requests();
    eventually("probing going on", async || (stub.requests() > probed + 4).then_some(())).await;
    let skipped = binary.get("/health").await["self"]["scheduler"]["skipped"].clone();
    assert_eq!(skipped, 0);
    redis.signal("-CONT");
    redis_state(&binary, "connected").await;
    let checked = binary.get("/health/service/auth").await["service"]["lastChecked"].clone();
    eventually("the state caught up", async || {
        redis.ask(&["HGET", "health:auth", "timestamp"]).await.filter(|at| at.as_str() >= checked.as_str().unwrap())
    })
    .await;
}

#[tokio::test]
async fn what_is_open_outlives_a_short_lifetime() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::Reply(500, String::new())).await);
    let url = redis.url();
    // Checked every 10 s: without renewal a key of 3 s would be gone in between.
    let file = format!("{}check_interval = 10\n", one_service(&stub));
    let binary = Binary::start(&file, &[("REDIS_URL", &url), ("HEALTH_DATA_TTL_SECONDS", "3")]).await;
    binary
        .wait_until("/status/critical", |body| body["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()))
        .await;
    eventually("the alert in Redis", async || {
        redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count != "0")
    })
    .await;
    let began = std::time::Instant::now();
    eventually("six seconds of presence", async || {
        let keys = redis.ask(&["EXISTS", "alerts:active", "health:auth", "health:history:auth"]).await;
        assert_eq!(keys.as_deref(), Some("3"), "after {:?}", began.elapsed());
        (began.elapsed() > Duration::from_secs(6)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_named_redis_that_is_away_is_a_problem_and_attaches_when_it_comes() {
    let (port, stub) = (free_port(), Stub::start(Script::ok()).await);
    let url = format!("redis://127.0.0.1:{port}");
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    redis_state(&binary, "unavailable").await;
    binary.wait_until("/health/service/auth", |body| body["service"]["status"] == "healthy").await;
    let redis = RedisServer::start_at(port).await;
    redis_state(&binary, "connected").await;
    eventually("the state written", async || {
        redis.ask(&["HGET", "health:auth", "status"]).await.filter(|status| status == "healthy")
    })
    .await;
}

#[tokio::test]
async fn new_records_take_over_what_redis_remembers() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    let url = redis.url();
    let file = format!("{}check_interval = 600\n", one_service(&stub));
    let stamp = "2026-01-31T10:30:00.000Z";
    let state = [
        "HSET",
        "health:auth",
        "status",
        "healthy",
        "response_time",
        "12",
        "timestamp",
        stamp,
        "http_status",
        "200",
        "error_message",
        "",
        "consecutive_failures",
        "0",
        "consecutive_successes",
        "41",
        "version",
        "7.7",
    ];
    redis.ask(&state).await.unwrap();
    let binary = Binary::start(&file, &[("REDIS_URL", &url)]).await;
    let shown = binary.get("/health/service/auth").await;
    // Its first check may have come by now; the version and the count go on from what was remembered.
    assert_eq!(shown["service"]["status"], "healthy");
    assert!(shown["service"]["consecutiveSuccesses"].as_u64().unwrap() >= 41, "{shown}");
}

/// `redis-server` with arguments of its own, ready when its port answers.
async fn server(folder: &std::path::Path, port: u16, arguments: &[&str]) -> tokio::process::Child {
    let child = tokio::process::Command::new("redis-server")
        .args(arguments)
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("a port of Redis", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    child
}

async fn cli(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("redis-cli").args(arguments).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn redis_over_tls_is_verified_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let (text, cert, key) = (port.to_string(), path("cert.pem"), path("key.pem"));
    let arguments = [
        "--port",
        "0",
        "--tls-port",
        &text,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--save",
        "",
    ];
    let _server = server(folder.path(), port, &arguments).await;
    let stub = Stub::start(Script::ok()).await;
    let url = format!("rediss://localhost:{port}");
    // Without the authority its certificate is refused.
    let stranger = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    redis_state(&stranger, "unavailable").await;
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url), ("SSL_CERT_FILE", &cert)]).await;
    redis_state(&binary, "connected").await;
    let ask = ["--tls", "--cacert", &cert, "-h", "localhost", "-p", &text, "-n", "3", "HGET", "health:auth", "status"];
    eventually("the state over TLS", async || (cli(&ask).await == "healthy").then_some(())).await;
}

#[tokio::test]
async fn the_master_is_found_through_sentinel() {
    let folder = tempfile::tempdir().unwrap();
    let (master, port, stub) = (RedisServer::start().await, free_port(), Stub::start(Script::ok()).await);
    let settings = folder.path().join("sentinel.conf");
    std::fs::write(&settings, format!("port {port}\nsentinel monitor main 127.0.0.1 {} 1\n", master.port)).unwrap();
    let settings = settings.display().to_string();
    let _sentinel = server(folder.path(), port, &[&settings, "--sentinel"]).await;
    let url = format!("redis+sentinel://127.0.0.1:{port}/main");
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    redis_state(&binary, "connected").await;
    eventually("the state at the master", async || {
        master.ask(&["HGET", "health:auth", "status"]).await.filter(|status| status == "healthy")
    })
    .await;
}

#[tokio::test]
async fn a_cluster_holds_the_same_keys_in_its_slots() {
    let folder = tempfile::tempdir().unwrap();
    let stub = Stub::start(Script::ok()).await;
    // Each node also listens ten thousand ports further up.
    let first = (10_000..20_000u16)
        .step_by(7)
        .find(|port| {
            (0..3)
                .all(|n| [0, 10_000].iter().all(|up| std::net::TcpListener::bind(("127.0.0.1", port + n + up)).is_ok()))
        })
        .unwrap();
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for port in first..first + 3 {
        let (text, own) = (port.to_string(), format!("nodes-{port}.conf"));
        let arguments = [
            "--port",
            &text,
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            &own,
            "--save",
            "",
            "--bind",
            "127.0.0.1",
        ];
        nodes.push(server(folder.path(), port, &arguments).await);
        addresses.push(format!("127.0.0.1:{port}"));
    }
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "0", "--cluster-yes"]);
    cli(&create).await;
    let text = first.to_string();
    eventually("the cluster", async || {
        cli(&["-p", &text, "CLUSTER", "INFO"]).await.contains("cluster_state:ok").then_some(())
    })
    .await;
    let url = format!("redis+cluster://{}", addresses.join(","));
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    redis_state(&binary, "connected").await;
    eventually("state and history in the cluster", async || {
        let status = cli(&["-c", "-p", &text, "HGET", "health:auth", "status"]).await;
        let length = cli(&["-c", "-p", &text, "LLEN", "health:history:auth"]).await;
        (status == "healthy" && length.parse::<u32>().unwrap_or(0) > 1).then_some(())
    })
    .await;
    // Streams lie in slots of their own, and are written and read there.
    eventually("the event in the cluster", async || {
        (cli(&["-c", "-p", &text, "XLEN", "quantum:stream:service.status_changed"]).await == "1").then_some(())
    })
    .await;
    let groups = ["-c", "-p", &text, "XINFO", "GROUPS", "quantum:stream:ess.tripped"];
    eventually("the consumer group", async || cli(&groups).await.contains("ess.tripped").then_some(())).await;
    cli(&["-c", "-p", &text, "XADD", "quantum:stream:ess.tripped", "*", "reason", "Fire"]).await;
    let tripped = |body: &Value| body["alerts"].to_string().contains("ESS activated: Fire");
    binary.wait_until("/status/critical", tripped).await;
    eventually("the entry settled", async || {
        let group = "quantum:group:monitoring_health_service:ess.tripped";
        let pending = cli(&["-c", "-p", &text, "XPENDING", "quantum:stream:ess.tripped", group]).await;
        pending.starts_with('0').then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_type_is_replaced() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    redis.ask(&["SET", "health:auth", "left by someone"]).await.unwrap();
    let url = redis.url();
    let binary = Binary::start(&one_service(&stub), &[("REDIS_URL", &url)]).await;
    eventually("the state in its place", async || {
        redis.ask(&["HGET", "health:auth", "status"]).await.filter(|status| status == "healthy")
    })
    .await;
    assert_eq!(binary.get("/health").await["self"]["redis"]["state"], "connected");
}
