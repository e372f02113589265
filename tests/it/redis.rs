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
    eventually("the alerts back", async || redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count == "1"))
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
    eventually("the alert filled", async || redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count == "1"))
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
        redis.ask(&["SCARD", "alerts:active"]).await.filter(|count| count == "1")
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
