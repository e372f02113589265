//! Events out and in: Server-Sent Events, streams in a Redis that is killed in the middle, and the emergency stop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ::redis::Value as Reply;
use as_infrastructure_service::domain::event::{Event, EventKind, RECENT};
use as_infrastructure_service::domain::time::{Stamp, from_ms};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::registry::send;
use crate::support::{Binary, RedisServer, Script, Stub, T0, TestApp, eventually, free_port};

const OUT: &str = "quantum:stream:";
const TRIPPED: &str = "quantum:stream:ess.tripped";
const RESET: &str = "quantum:stream:ess.manual_reset";
const GROUP: &str = "quantum:group:monitoring_health_service:ess.tripped";

/// The answer to a command in database 0, where other parties listen; `None` when there is none.
async fn ask(redis: &RedisServer, words: &[&str]) -> Option<Reply> {
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut command = ::redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.ok()
}

async fn add(redis: &RedisServer, stream: &str, fields: &[(&str, &str)]) {
    let mut words = vec!["XADD", stream, "*"];
    words.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
    ask(redis, &words).await.unwrap();
}

fn items(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(items) => items,
        _ => Vec::new(),
    }
}

/// The fields of each entry of a stream, oldest first.
async fn entries(redis: &RedisServer, stream: &str) -> Vec<BTreeMap<String, String>> {
    let found = items(ask(redis, &["XRANGE", stream, "-", "+"]).await.unwrap_or(Reply::Nil));
    let fields = found.into_iter().map(|entry| {
        let fields = items(items(entry).pop().unwrap());
        let texts: Vec<String> = fields.into_iter().map(|text| ::redis::from_redis_value(text).unwrap()).collect();
        texts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    });
    fields.collect()
}

/// Entries of `ess.tripped` that are given to a consumer and not settled.
async fn pending(redis: &RedisServer) -> Option<i64> {
    match items(ask(redis, &["XPENDING", TRIPPED, GROUP]).await?).first() {
        Some(Reply::Int(count)) => Some(*count),
        _ => None,
    }
}

async fn settled(redis: &RedisServer) {
    eventually("every entry settled", async || {
        let groups = items(ask(redis, &["XINFO", "GROUPS", TRIPPED]).await?);
        let group = format!("{:?}", groups.first()?);
        let nothing_left = group.contains(r#"bulk-string('"lag"'), int(0)"#);
        (nothing_left && pending(redis).await? == 0).then_some(())
    })
    .await;
}

/// Waits until the app listens to all it should.
async fn listening(redis: &RedisServer) {
    for kind in ["tripped", "manual_reset", "rearmed"] {
        let stream = format!("quantum:stream:ess.{kind}");
        eventually("a consumer group", async || {
            let groups = ask(redis, &["XINFO", "GROUPS", &stream]).await?;
            (!items(groups).is_empty()).then_some(())
        })
        .await;
    }
}

async fn stops(app: &TestApp) -> Vec<Value> {
    let alerts = app.get("/status/critical").await.json["alerts"].as_array().unwrap().clone();
    alerts.into_iter().filter(|alert| alert["type"] == "ess_tripped").collect()
}

async fn stopped(app: &TestApp, wanted: usize) -> Vec<Value> {
    eventually("the emergency stop", async || Some(stops(app).await).filter(|stops| stops.len() == wanted)).await
}

/// The types of all that is in the log.
async fn log(app: &TestApp) -> Vec<EventKind> {
    let events = app.app.engine.records.events_after(0, 100_000).await.unwrap();
    events.iter().map(|event| event.kind).collect()
}

fn fill(app: &TestApp, count: usize) {
    let events = &app.app.engine.live.events;
    for _ in 0..count {
        let event = Event::new(EventKind::RegistryChanged, None, json!({}), from_ms(T0));
        events.push(Event { sequence: events.newest() + 1, ..event });
    }
}

#[tokio::test]
async fn a_listener_hears_each_event_once_in_its_envelope() {
    let app = TestApp::built_in().await;
    let mut all = app.listen("", &[]).await.unwrap();
    let mut some = app.listen("?types=outage.opened,%20OUTAGE.resolved&service=Twilio-Server", &[]).await.unwrap();
    app.answer("web-ui", 5).await;
    app.fail("web-ui", 3).await;
    app.answer("twilio-server", 5).await;
    app.fail("twilio-server", 3).await;
    app.answer("twilio-server", 5).await;
    let (opened, resolved) = (some.next().await.unwrap(), some.next().await.unwrap());
    assert_eq!((opened.kind.as_str(), resolved.kind.as_str()), ("outage.opened", "outage.resolved"));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last: &crate::support::Heard| last.id < resolved.id) {
        heard.push(all.next().await.unwrap());
    }
    let ids: Vec<i64> = heard.iter().map(|event| event.id.unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    let stored = app.app.engine.records.events_after(ids[0] - 1, 1000).await.unwrap();
    let told: Vec<(i64, &str)> = heard.iter().map(|event| (event.id.unwrap(), event.kind.as_str())).collect();
    let kept: Vec<(i64, &str)> = stored.iter().map(|event| (event.sequence, event.kind.as_str())).collect();
    assert_eq!(told, kept[..told.len()], "nothing left out");

    let fields: Vec<&str> = opened.data.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "event_id sequence type timestamp service instance fencing_token correlation_id payload";
    assert_eq!(fields, expected.split(' ').collect::<Vec<_>>());
    assert_eq!(opened.data["sequence"], opened.id.unwrap());
    assert_eq!((&opened.data["type"], &opened.data["service"]), (&"outage.opened".into(), &"twilio-server".into()));
    assert_eq!((&opened.data["instance"], &opened.data["fencing_token"]), (&"test-1".into(), &Value::Null));
    assert_eq!(opened.data["correlation_id"], opened.data["payload"]["id"]);
    assert_eq!(opened.data["correlation_id"], resolved.data["correlation_id"]);
    assert!(heard.contains(&opened), "every listener is told in the same words");
    let raised = heard.iter().find(|event| event.kind == "alert.raised").unwrap();
    assert_eq!(raised.data["payload"]["type"], "service_down");
}

#[tokio::test]
async fn an_event_is_heard_within_a_tenth_of_a_second() {
    let app = TestApp::built_in().await;
    let mut listener = app.listen("?types=service.status_changed", &[]).await.unwrap();
    let mut waits = Vec::new();
    for n in 0..20 {
        app.answer("web-ui", if n % 2 == 0 { 5 } else { 1500 }).await;
        let committed = Instant::now();
        listener.next().await.unwrap();
        waits.push(committed.elapsed());
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test]
async fn a_listener_goes_on_where_it_was_and_is_told_of_a_gap() {
    let app = TestApp::built_in().await;
    app.answer("web-ui", 5).await;
    app.fail("web-ui", 3).await;
    let mut first = app.listen("?last_event_id=0", &[]).await.unwrap();
    let heard = first.next().await.unwrap();
    assert_eq!(heard.id, Some(1));
    let mut again = app.listen("", &[("Last-Event-ID", "1")]).await.unwrap();
    assert_eq!(again.next().await, first.next().await);

    // The ring is full: the first of it is gone.
    let newest = app.app.engine.live.events.newest();
    fill(&app, RECENT);
    let mut late = app.listen("", &[("Last-Event-ID", "1")]).await.unwrap();
    let gap = late.next().await.unwrap();
    assert_eq!((gap.kind.as_str(), &gap.data), ("gap", &json!({"last_event_id": 1})));
    assert_eq!(late.next().await.unwrap().id, Some(newest + 1));
    let mut just = app.listen(&format!("?last_event_id={newest}"), &[]).await.unwrap();
    assert_eq!(just.next().await.unwrap().id, Some(newest + 1), "no gap: everything after it is there");
    let mut oldest = app.listen("", &[("Last-Event-ID", "0")]).await.unwrap();
    assert_eq!(oldest.next().await.unwrap().id, Some(newest + 1));
    // An id of a log that is no more.
    let mut stranger = app.listen("?last_event_id=999999999", &[]).await.unwrap();
    assert_eq!(stranger.next().await.unwrap().kind, "gap");
}

#[tokio::test]
async fn a_stop_ends_the_stream_and_a_restart_takes_the_log_up() {
    let app = TestApp::built_in().await;
    app.fail("web-ui", 3).await;
    let mut listener = app.listen("?last_event_id=0", &[]).await.unwrap();
    let first = listener.next().await.unwrap();
    let TestApp { app, clock, folder } = app;
    app.stop().await;
    listener.wait_for_end().await;
    drop(listener);
    let app = TestApp::start(folder, clock, &[]).await;
    let mut listener = app.listen("?last_event_id=0", &[]).await.unwrap();
    assert_eq!(listener.next().await.unwrap(), first);
}

#[tokio::test]
async fn a_reader_that_cannot_follow_is_told_and_closed() {
    let app = TestApp::built_in().await;
    let mut slow = app.listen("", &[]).await.unwrap();
    let newest = app.app.engine.live.events.newest();
    fill(&app, 1);
    assert_eq!(slow.next().await.unwrap().id, Some(newest + 1));
    fill(&app, RECENT + 1);
    let lagged = slow.next().await.unwrap();
    assert_eq!((lagged.kind.as_str(), lagged.id), ("lagged", None));
    assert_eq!(lagged.data, json!({"last_event_id": newest + 1}));
    assert_eq!(slow.next().await, None);
}

#[tokio::test]
async fn readers_are_bounded_and_bad_wishes_refused() {
    let app = TestApp::built_in().await;
    let mut readers = Vec::new();
    for _ in 0..256 {
        readers.push(app.listen("", &[]).await.unwrap());
    }
    assert_eq!(app.listen("", &[]).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    readers.pop();
    readers.push(app.listen("", &[]).await.unwrap());
    assert_eq!(app.get("/services").await.status, StatusCode::OK, "listening takes no place of other requests");
    drop(readers);
    for (query, wanted) in [
        ("types=outage.opened,nonsense", r#"types: must be a comma list of types of events; "nonsense" is none"#),
        ("service=a%20b", r#"service: must be a comma list of names of services; "a b" is none"#),
        ("last_event_id=-1", "last_event_id: must be the id of an event, a whole number of 0 or more"),
    ] {
        let answer = app.get(&format!("/events?{query}")).await;
        assert_eq!((answer.status, &answer.json["message"]), (StatusCode::UNPROCESSABLE_ENTITY, &wanted.into()));
    }
    assert_eq!(app.ask("GET", "/events", &[], "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_open_stream_does_not_hold_the_stop_up() {
    let stub = Stub::start(Script::ok()).await;
    let binary = Binary::start(&format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", stub.url()), &[]).await;
    let url = format!("http://127.0.0.1:{}/events?last_event_id=0", binary.port);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let open = client.get(url).header("x-service-key", crate::support::KEY).send().await.unwrap();
    let mut listener = crate::support::Listener::new(axum::body::Body::from_stream(open.bytes_stream()));
    assert_eq!(listener.wait_for("service.status_changed").await.data["payload"]["to"], "healthy");
    let began = Instant::now();
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    listener.wait_for_end().await;
}

#[tokio::test]
async fn a_window_tells_its_beginning_and_its_end_once_also_over_a_restart() {
    let app = TestApp::built_in().await;
    let at = |minutes: i64| Stamp(from_ms(T0 + minutes * 60_000)).to_string();
    let window = |from: i64, to: i64, service: &str| {
        let text = format!("work on {service}");
        json!({"start_time": at(from), "end_time": at(to), "endpoint_ids": [service], "description": text})
    };
    let made = send(&app, "POST", "/maintenance/", window(1, 11, "web-ui")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let mut listener = app.listen("?types=maintenance.started,maintenance.ended", &[]).await.unwrap();
    app.app.engine.on_time().await;
    app.clock.advance(Duration::from_secs(60));
    app.app.engine.on_time().await;
    app.app.engine.on_time().await;
    let started = listener.next().await.unwrap();
    assert_eq!(started.kind, "maintenance.started");
    assert_eq!(
        started.data["payload"],
        json!({"id": made.json["id"], "description": "work on web-ui", "services": ["web-ui"], "tags": [],
            "categories": [], "start": at(1), "end": at(11)})
    );
    assert_eq!(started.data["correlation_id"], made.json["id"]);

    // It ends, and another one begins, while nobody looks.
    let second = send(&app, "POST", "/maintenance/", window(12, 20, "as-call-service")).await;
    assert_eq!(second.status, StatusCode::CREATED, "{}", second.text);
    drop(listener);
    let app = app.restart(&[]).await;
    app.app.engine.on_time().await;
    app.clock.advance(Duration::from_secs(12 * 60));
    let app = app.restart(&[]).await;
    app.app.engine.on_time().await;
    let mut listener = app.listen("?types=maintenance.started,maintenance.ended&last_event_id=0", &[]).await.unwrap();
    assert_eq!(listener.next().await.unwrap(), started, "not told again");
    let (ended, begun) = (listener.next().await.unwrap(), listener.next().await.unwrap());
    assert_eq!((ended.kind.as_str(), begun.kind.as_str()), ("maintenance.ended", "maintenance.started"));
    assert_eq!((&ended.data["payload"]["id"], &ended.data["payload"]["end"]), (&made.json["id"], &at(11).into()));
    assert_eq!(begun.data["payload"]["id"], second.json["id"]);
}

#[tokio::test]
async fn what_is_published_has_the_names_and_fields_of_the_contract() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let app = TestApp::with(&[("REDIS_URL", &url)]).await;
    app.answer("twilio-server", 5).await;
    app.fail("twilio-server", 3).await;
    app.answer("twilio-server", 5).await;
    let resolved = format!("{OUT}alert.resolved");
    eventually("the last event", async || entries(&redis, &resolved).await.into_iter().next()).await;
    let keys: Vec<String> = ::redis::from_redis_value(ask(&redis, &["KEYS", "*"]).await.unwrap()).unwrap();
    let mut streams: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix(OUT)).collect();
    streams.retain(|name| !name.starts_with("ess."));
    streams.sort_unstable();
    let wanted =
        ["alert.resolved", "health.alert_raised", "outage.opened", "outage.resolved", "service.status_changed"];
    assert_eq!(streams, wanted);

    let raised = entries(&redis, "quantum:stream:health.alert_raised").await;
    // Once for the alert, and once for its rise when the outage of a critical service opened.
    let of = |entry: &BTreeMap<String, String>| {
        let record: Value = serde_json::from_str(&entry["payload"]).unwrap();
        (record["type"].clone(), record["severity"].clone())
    };
    let of_service: Vec<_> = raised.iter().map(of).filter(|(kind, _)| kind == "service_down").collect();
    assert_eq!(of_service, [("service_down".into(), "high".into()), ("service_down".into(), "critical".into())]);
    let opened = entries(&redis, "quantum:stream:outage.opened").await.pop().unwrap();
    let fields: Vec<&str> = opened.keys().map(String::as_str).collect();
    let mut expected =
        "event_type payload trace_id correlation_id timestamp source event_id sequence instance fencing_token"
            .split(' ')
            .collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(fields, expected);
    assert_eq!((opened["event_type"].as_str(), opened["trace_id"].as_str()), ("outage.opened", ""));
    assert_eq!((opened["source"].as_str(), opened["instance"].as_str()), ("monitoring_health_service", "test-1"));
    let payload: Value = serde_json::from_str(&opened["payload"]).unwrap();
    assert_eq!(payload["id"], opened["correlation_id"].as_str());
    assert_eq!(opened["timestamp"], "2026-01-31T10:30:30.000Z");
    let text = app.get("/metrics/prometheus").await.text;
    assert!(text.contains("infra_events_published_total{type=\"outage.opened\"} 1\n"), "{text}");
}

#[tokio::test]
async fn every_event_is_published_in_order_over_kills_of_redis_and_restarts_of_ours() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let mut redis = RedisServer::start_durable(port, folder.path()).await;
    let url = redis.url();
    let more = [("REDIS_URL", url.as_str())];
    let mut app = TestApp::with(&more).await;
    for round in 0..6 {
        let (_, again) = tokio::join!(
            async {
                for n in 0..60 {
                    app.answer("web-ui", if n % 2 == 0 { 5 } else { 1500 }).await;
                    app.clock.advance(Duration::from_secs(15));
                }
            },
            async {
                if round % 2 == 0 {
                    redis.signal("-STOP");
                    tokio::task::yield_now().await;
                    redis.signal("-CONT");
                }
                redis.kill().await;
                RedisServer::start_durable(port, folder.path()).await
            }
        );
        redis = again;
        if round == 2 || round == 3 {
            app = app.restart(&more).await;
        }
    }
    let stored = app.app.engine.records.events_after(0, 100_000).await.unwrap();
    let expected: Vec<String> =
        stored.iter().filter(|e| e.kind == EventKind::StatusChanged).map(|e| e.id.to_string()).collect();
    assert!(expected.len() > 300, "{}", expected.len());
    let stream = format!("{OUT}service.status_changed");
    let published = eventually("every event", async || {
        let ids: Vec<String> =
            entries(&redis, &stream).await.into_iter().map(|mut entry| entry.remove("event_id").unwrap()).collect();
        (ids.last() == expected.last()).then_some(ids)
    })
    .await;
    // A copy may repeat, under the same id; the first ones are complete and in order.
    let mut first = Vec::new();
    for id in published {
        if !first.contains(&id) {
            first.push(id);
        }
    }
    assert_eq!(first, expected);
}

#[tokio::test]
async fn what_happened_before_the_first_start_with_redis_is_no_news_and_what_waits_is_read_from_the_records() {
    let app = TestApp::built_in().await;
    app.fail("web-ui", 3).await;
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let app = app.restart(&[("REDIS_URL", &url)]).await;
    // Redis is away for longer than the ring reaches back.
    app.answer("web-ui", 5).await;
    app.app.engine.commit.transition(Default::default()).await.unwrap();
    fill(&app, RECENT);
    let redis = RedisServer::start_at(port).await;
    let stream = format!("{OUT}service.status_changed");
    let published = eventually("the event that waited", async || {
        Some(entries(&redis, &stream).await).filter(|entries| !entries.is_empty())
    })
    .await;
    assert_eq!(published.len(), 1);
    let payload: Value = serde_json::from_str(&published[0]["payload"]).unwrap();
    assert_eq!((&payload["from"], &payload["to"]), (&"unhealthy".into(), &"healthy".into()));
}

#[tokio::test]
async fn an_emergency_stop_is_an_alert_until_it_is_lifted() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let more = [("REDIS_URL", url.as_str())];
    // What was said before anyone listened is no new alarm.
    add(&redis, TRIPPED, &[("reason", "long ago")]).await;
    let app = TestApp::with(&more).await;
    listening(&redis).await;
    let payload = r#"{"reason":"Fire in hall 2","severity":"critical","trip_count":1}"#;
    add(&redis, TRIPPED, &[("event_type", "ess.tripped"), ("event_id", "e-1"), ("payload", payload)]).await;
    let alert = stopped(&app, 1).await.remove(0);
    assert_eq!(alert["id"], format!("emergency_stop_system-ess-tripped-{}", T0 / 1000));
    assert_eq!(alert["title"], "Emergency Stop System TRIPPED");
    assert_eq!((&alert["message"], &alert["severity"]), (&"ESS activated: Fire in hall 2".into(), &"critical".into()));
    assert_eq!((&alert["component"], &alert["service"]), (&"emergency_stop_system".into(), &Value::Null));
    assert_eq!(alert["details"], serde_json::from_str::<Value>(payload).unwrap());
    settled(&redis).await;

    // While it lives a second one, in the flat form, only says more; a restart keeps it.
    add(&redis, TRIPPED, &[("reason", "Gas"), ("trip_count", "2")]).await;
    eventually("the newer reason", async || (stops(&app).await[0]["message"] == "ESS activated: Gas").then_some(()))
        .await;
    settled(&redis).await;
    let app = app.restart(&more).await;
    let kept = stops(&app).await;
    assert_eq!((kept.len(), &kept[0]["id"]), (1, &alert["id"]));
    assert_eq!(kept[0]["details"], json!({"reason": "Gas", "trip_count": "2"}));
    let published = entries(&redis, "quantum:stream:health.alert_raised").await;
    assert_eq!(published.len(), 1, "{published:?}");

    add(&redis, RESET, &[("payload", r#"{"user":"eve","reason":"checked","previous_state":"TRIPPED"}"#)]).await;
    stopped(&app, 0).await;
    let told = log(&app).await;
    let told: Vec<_> = told.into_iter().filter(|kind| *kind != EventKind::RegistryChanged).collect();
    assert_eq!(told, [EventKind::AlertRaised, EventKind::EssTripped, EventKind::AlertResolved]);
    eventually("the resolve published", async || {
        entries(&redis, "quantum:stream:alert.resolved").await.into_iter().next()
    })
    .await;
}

#[tokio::test]
async fn repeated_late_and_overtaken_entries_raise_nothing() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let more = [("REDIS_URL", url.as_str())];
    let app = TestApp::with(&more).await;
    listening(&redis).await;
    let stamp = |seconds: i64| Stamp(from_ms(T0 + seconds * 1000)).to_string();
    let trip = async |id: &str, seconds: i64| {
        add(&redis, TRIPPED, &[("event_id", id), ("timestamp", &stamp(seconds)), ("payload", "{}")]).await;
    };
    trip("old", -86_401).await;
    trip("a", -60).await;
    let first = stopped(&app, 1).await.remove(0);
    assert_eq!(first["message"], "ESS activated: Unknown");
    add(&redis, RESET, &[("timestamp", &stamp(-30)), ("payload", "{}")]).await;
    stopped(&app, 0).await;
    trip("a", -60).await;
    trip("b", -31).await;
    let app = app.restart(&more).await;
    trip("a", -60).await;
    trip("b", -31).await;
    settled(&redis).await;
    assert!(stops(&app).await.is_empty());
    assert_eq!(log(&app).await.iter().filter(|kind| **kind == EventKind::EssTripped).count(), 1);
    trip("c", -29).await;
    stopped(&app, 1).await;

    // A copy that does not say when it was said is known by its id.
    add(&redis, TRIPPED, &[("event_id", "d"), ("reason", "once")]).await;
    settled(&redis).await;
    add(&redis, RESET, &[("reason", "checked")]).await;
    stopped(&app, 0).await;
    let app = app.restart(&more).await;
    add(&redis, TRIPPED, &[("event_id", "d"), ("reason", "once")]).await;
    settled(&redis).await;
    assert!(stops(&app).await.is_empty());
}

#[tokio::test]
async fn the_third_failure_buries_an_entry_and_failures_count_over_restarts() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let more = [("REDIS_URL", url.as_str())];
    let mut app = TestApp::with(&more).await;
    listening(&redis).await;
    let dead = async || ask(&redis, &["XLEN", "quantum:dlq:ess.tripped"]).await;
    add(&redis, TRIPPED, &[("payload", "[]")]).await;
    for failures in 1..3 {
        // What comes after it in the stream is dealt with after it.
        add(&redis, TRIPPED, &[("reason", &failures.to_string())]).await;
        let message = format!("ESS activated: {failures}");
        eventually("the next one", async || (stops(&app).await.first()?["message"] == message).then_some(())).await;
        eventually("that one settled", async || (pending(&redis).await? == 1).then_some(())).await;
        assert_eq!(dead().await, Some(Reply::Int(0)), "after {failures} failures");
        app = app.restart(&more).await;
    }
    settled(&redis).await;
    assert_eq!(dead().await, Some(Reply::Int(1)));
}

#[tokio::test]
async fn what_nobody_can_read_becomes_a_dead_letter_and_holds_nothing_up() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let app = TestApp::with(&[("REDIS_URL", &url), ("EVENT_CLAIM_IDLE_MS", "50")]).await;
    listening(&redis).await;
    let huge = format!("{{\"reason\":\"{}\"}}", "x".repeat(70_000));
    add(&redis, TRIPPED, &[("event_type", "ess.tripped"), ("payload", "{\"reason\":")]).await;
    add(&redis, TRIPPED, &[("payload", "[7]")]).await;
    add(&redis, TRIPPED, &[("payload", &huge)]).await;
    let foreign = ::redis::cmd("XADD").arg(TRIPPED).arg("*").arg("payload").arg(&[0xff_u8, 0xfe][..]).to_owned();
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: String = foreign.query_async(&mut connection).await.unwrap();
    add(&redis, TRIPPED, &[("payload", r#"{"reason":"real"}"#)]).await;
    let alert = stopped(&app, 1).await.remove(0);
    assert_eq!(alert["message"], "ESS activated: real");
    settled(&redis).await;
    let dead = "quantum:dlq:ess.tripped";
    assert!(matches!(ask(&redis, &["XLEN", dead]).await, Some(Reply::Int(4))));
    // The one that is not text stands third or fourth; only the first is read here.
    let first = items(ask(&redis, &["XRANGE", dead, "-", "+", "COUNT", "1"]).await.unwrap()).remove(0);
    let first: Vec<String> = ::redis::from_redis_value(items(first).remove(1)).unwrap();
    assert_eq!(first[..4], ["event_type", "ess.tripped", "payload", "{\"reason\":"]);
    assert_eq!(first[4], "error");
    assert!(first[5].starts_with("payload is not JSON"), "{first:?}");
    let text = app.get("/metrics/prometheus").await.text;
    assert!(text.contains("infra_events_dead_lettered_total{type=\"ess.tripped\"} 4\n"), "{text}");
    assert!(text.contains("infra_events_consumed_total{type=\"ess.tripped\"} 1\n"), "{text}");
}

#[tokio::test]
async fn what_a_dead_consumer_left_is_taken_over() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    ask(&redis, &["XGROUP", "CREATE", TRIPPED, GROUP, "$", "MKSTREAM"]).await.unwrap();
    add(&redis, TRIPPED, &[("payload", r#"{"reason":"left behind"}"#)]).await;
    let read = ["XREADGROUP", "GROUP", GROUP, "monitoring_health_service_deadbeef", "STREAMS", TRIPPED, ">"];
    ask(&redis, &read).await.unwrap();
    assert_eq!(pending(&redis).await, Some(1));
    let app = TestApp::with(&[("REDIS_URL", &url), ("EVENT_CLAIM_IDLE_MS", "100")]).await;
    assert_eq!(stopped(&app, 1).await[0]["message"], "ESS activated: left behind");
    settled(&redis).await;
}

#[tokio::test]
async fn an_existing_group_is_rewound_when_asked() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    add(&redis, TRIPPED, &[("reason", "before anyone listened")]).await;
    ask(&redis, &["XGROUP", "CREATE", TRIPPED, GROUP, "$", "MKSTREAM"]).await.unwrap();
    let app = TestApp::with(&[("REDIS_URL", &url), ("EVENTBUS_RESET_TO_BEGINNING", "true")]).await;
    stopped(&app, 1).await;
}

#[tokio::test]
async fn a_stop_said_to_a_redis_that_came_back_empty_is_heard() {
    let redis = RedisServer::start().await;
    let (url, port) = (redis.url(), redis.port);
    let app = TestApp::with(&[("REDIS_URL", &url), ("EVENT_CLAIM_IDLE_MS", "100")]).await;
    listening(&redis).await;
    redis.kill().await;
    let redis = RedisServer::start_at(port).await;
    add(&redis, TRIPPED, &[("reason", "at once")]).await;
    stopped(&app, 1).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_loses_no_stop_and_raises_it_once() {
    let (redis, stub) = (RedisServer::start().await, Stub::start(Script::ok()).await);
    let url = redis.url();
    let file = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", stub.url());
    let more = [("REDIS_URL", url.as_str()), ("EVENT_CLAIM_IDLE_MS", "200")];
    let mut binary = Binary::start(&file, &more).await;
    listening(&redis).await;
    let stops = async |binary: &Binary| -> Option<Vec<Value>> {
        let alerts = binary.try_get("/status/critical").await?["alerts"].as_array()?.clone();
        Some(alerts.into_iter().filter(|alert| alert["type"] == "ess_tripped").collect())
    };
    for round in 0..4_u64 {
        add(&redis, TRIPPED, &[("event_id", &format!("e-{round}")), ("payload", "{}")]).await;
        // Killed before it is read, or in the middle, or when it is seen.
        if round % 2 == 1 {
            eventually("the stop", async || stops(&binary).await.filter(|stops| stops.len() == 1)).await;
        }
        binary = Binary::start_in(binary.kill().await, &more).await;
        eventually("the stop", async || stops(&binary).await.filter(|stops| stops.len() == 1)).await;
        settled(&redis).await;
        add(&redis, RESET, &[("payload", "{}")]).await;
        eventually("its end", async || stops(&binary).await.filter(Vec::is_empty)).await;
    }
    let url = format!("http://127.0.0.1:{}/events?last_event_id=0&types=ess.tripped,alert.resolved", binary.port);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let open = client.get(url).header("x-service-key", crate::support::KEY).send().await.unwrap();
    let mut listener = crate::support::Listener::new(axum::body::Body::from_stream(open.bytes_stream()));
    for _ in 0..4 {
        let pair = (listener.next().await.unwrap().kind, listener.next().await.unwrap().kind);
        assert_eq!(pair, ("ess.tripped".to_owned(), "alert.resolved".to_owned()));
    }
    assert_eq!(binary.terminate().await.0, Some(0));
    assert_eq!(listener.next().await, None, "nothing else was raised");
}
