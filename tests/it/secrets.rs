//! Secrets are planted in every place that takes one, everything is made to happen and to fail, and then they are looked
//! for in everything that came out: the log at its most talkative, answers, events, messages, Redis, documents.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::elastic::Elastic;
use crate::support::{Binary, KEY, Recorder, RedisServer, Script, Stub, eventually};

/// One secret a place, so that a find names it.
fn canary(place: &str) -> String {
    format!("Zq7{place}xV9+/kW")
}

const PLACES: [&str; 16] = [
    "intkey", "rdonly", "redisp", "hookur", "hookhd", "hooksg", "smtppw", "slacku", "discor", "pagerk", "svchdr",
    "svcurl", "actiou", "actioh", "heartb", "elastp",
];

#[tokio::test]
async fn no_secret_comes_out_anywhere() {
    let (target, remedy) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let (recorder, redis) = (Recorder::start().await, RedisServer::start().await);
    let elastic = Elastic::start().await;
    let acl = format!(">{}", canary("redisp"));
    redis.ask(&["ACL", "SETUSER", "monitor", "on", &acl, "~*", "&*", "+@all"]).await.unwrap();
    let encoded = |place: &str| {
        percent_encoding::utf8_percent_encode(&canary(place), percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let services = format!(
        "[[service]]\nname = \"a\"\nurl = \"http://probe:{}@{}\"\ncritical = true\nfollow_redirects = true\n\
         headers = {{ Authorization = \"{}\" }}\n\
         recovery = {{ http = {{ url = \"{}/restart?token={}\", headers = {{ X-Token = \"{}\" }} }} }}\n",
        encoded("svcurl"),
        target.address,
        canary("svchdr"),
        remedy.url(),
        encoded("actiou"),
        canary("actioh"),
    );
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("services.toml"), services).unwrap();
    let keys = format!("{KEY},{}", canary("intkey"));
    let with_token = |base: &str, place: &str| format!("{base}/{}", encoded(place));
    let refusing = "http://127.0.0.1:1";
    let variables = [
        ("LOG_LEVEL", "trace".to_owned()),
        ("INTERNAL_SERVICE_KEY", keys),
        ("READONLY_SERVICE_KEYS", canary("rdonly")),
        ("REDIS_URL", format!("redis://monitor:{}@127.0.0.1:{}", encoded("redisp"), redis.port)),
        ("ALERT_WEBHOOK_URL", with_token(&recorder.url(), "hookur")),
        ("ALERT_WEBHOOK_HEADERS", format!("Authorization: {}", canary("hookhd"))),
        ("ALERT_WEBHOOK_SECRETS", canary("hooksg")),
        ("SMTP_HOST", "127.0.0.1".to_owned()),
        ("SMTP_PORT", "1".to_owned()),
        ("SMTP_USER", "monitor".to_owned()),
        ("SMTP_PASSWORD", canary("smtppw")),
        ("SLACK_WEBHOOK_URL", with_token(refusing, "slacku")),
        ("DISCORD_WEBHOOK_URL", with_token(refusing, "discor")),
        ("PAGERDUTY_ROUTING_KEY", canary("pagerk")),
        ("HEARTBEAT_URL", with_token(refusing, "heartb")),
        ("HEARTBEAT_INTERVAL_MS", "1000".to_owned()),
        ("ELASTICSEARCH_ENABLED", "true".to_owned()),
        ("ELASTICSEARCH_HOSTS", elastic.url()),
        ("ELASTICSEARCH_USERNAME", "monitor".to_owned()),
        ("ELASTICSEARCH_PASSWORD", canary("elastp")),
        ("ELASTICSEARCH_SYNC_INTERVAL", "1".to_owned()),
    ];
    let more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let binary = Binary::start_in(folder, &more).await;
    binary.wait_until("/health/service/a", |seen| seen["service"]["status"] == "healthy").await;
    target.set(Script::Close);
    binary.wait_until("/health", |seen| seen["self"]["problems"].to_string().contains("receiver slack failing")).await;
    recorder.wait_for(1).await;
    eventually("the recovery action", async || (remedy.requests() > 0).then_some(())).await;
    let mut out =
        vec![("messages", recorder.messages().iter().map(|message| message.body.to_string()).collect::<String>())];
    let mut answers = String::new();
    for path in [
        "/",
        "/health",
        "/health/services",
        "/health/service/a",
        "/health/services/a",
        "/health/system?snapshot=true",
        "/health/detailed",
        "/status",
        "/status/critical",
        "/status/dashboard",
        "/services",
        "/services/a",
        "/services/a/status",
        "/services/a/history",
        "/outages",
        "/alerts",
        "/alerts/active",
        "/alerts/history",
        "/notifications/dead-letters",
        "/config",
        "/config/changes",
        "/report",
        "/metrics",
        "/metrics/prometheus",
        "/metrics/history",
        "/maintenance",
        "/exports/dead-letters",
        "/api/v1/sd",
        "/openapi.json",
    ] {
        let (status, text) = binary.ask("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {text}");
        answers.push_str(&text);
    }
    for receiver in ["webhook", "email", "slack", "discord", "pagerduty"] {
        answers.push_str(&binary.ask("POST", &format!("/notifications/test/{receiver}"), "").await.1);
    }
    // Sent back in what is refused.
    for place in PLACES {
        let body = json!({"settings": {"notify": {"slack_webhook_url": canary(place)}, "redis": {"redis_url": canary(place)}}});
        answers.push_str(&binary.ask("PUT", "/config", &body.to_string()).await.1);
        let body =
            json!({"id": "b", "url": format!("http://u:{}@h", encoded(place)), "headers": {"X-Key": [canary(place)]}});
        answers.push_str(&binary.ask("POST", "/services", &body.to_string()).await.1);
    }
    out.push(("answers", answers));
    target.set(Script::ok());
    recorder.wait_for(2).await;
    let streams = eventually("an event in Redis", async || {
        let entries = redis.ask(&["-n", "0", "XRANGE", "quantum:stream:health.alert_raised", "-", "+"]).await?;
        entries.contains("service_down").then_some(entries)
    })
    .await;
    out.push(("streams", streams));
    let documents = eventually("documents of an outage", async || {
        let outages = elastic.documents("isp-service-outage-");
        (!outages.is_empty()).then(|| format!("{outages:?} {:?}", elastic.documents("isp-service-status-")))
    })
    .await;
    out.push(("documents", documents));
    // It was known there all the same.
    let login = format!("Basic {}", STANDARD.encode(format!("monitor:{}", canary("elastp"))));
    assert_eq!(elastic.read(|state| state.last_login.clone()), Some(login));
    let mut held = String::new();
    for key in redis.ask(&["KEYS", "*"]).await.unwrap().lines() {
        for read in [["HGETALL", key], ["SMEMBERS", key]] {
            held.push_str(&redis.ask(&read).await.unwrap_or_default());
        }
        held.push_str(&redis.ask(&["LRANGE", key, "0", "-1"]).await.unwrap_or_default());
    }
    out.push(("Redis", held));
    let log = binary.log();
    assert!(log.contains("DEBUG"), "the log is talkative: {}", &log[..log.len().min(500)]);
    out.push(("log", log));
    for place in PLACES {
        let secret = canary(place);
        let forms = [secret.clone(), encoded(place), STANDARD.encode(&secret), secret[..9].to_owned()];
        for (where_, text) in &out {
            let found = forms.iter().find(|form| text.contains(form.as_str()));
            let at = found.and_then(|form| text.find(form.as_str())).unwrap_or(0);
            let around: String = text.chars().skip(at.saturating_sub(200)).take(300).collect();
            assert!(found.is_none(), "{place} is in the {where_}: ...{around}...");
        }
    }
}
