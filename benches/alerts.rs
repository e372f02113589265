//! A storm: thousands of alerts opened and resolved within a minute beside thousands of services that are checked.
//! Tells what it does to the lateness of probes, to memory, to `/alerts/active`, to a receiver, and how long an event
//! takes from the check that caused it to a reader of `/events`. Beside it stands the same for `/livez` in the same run.
//!
//! `cargo bench --bench alerts`, with `ALERTS_SERVICES` (10000: as many are checked every 15 s as fail) and
//! `ALERTS_SECONDS` (60: the storm and its end). The service runs in this process, on SQLite in a temporary folder,
//! without Redis; failures are handed to the engine as observations.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says so by ending")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use as_infrastructure_service::app::App;
use as_infrastructure_service::domain::observation::{Kind, Observation, Reason};
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::engine::Engine;
use futures_util::StreamExt;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

#[path = "support/whole.rs"]
mod whole;

use whole::{KEY, answering, at, requests, resident_mib, run, serve, setting, start, target};

fn main() {
    run(measure());
}

/// Takes every message, and notes what each alert was told of, in order.
#[derive(Default)]
struct Told {
    messages: usize,
    largest: usize,
    by_alert: HashMap<String, Vec<String>>,
}

async fn receiver() -> (u16, Arc<Mutex<Told>>) {
    let told = Arc::<Mutex<Told>>::default();
    let notes = told.clone();
    let port = answering(move |_, body| {
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        note(&mut notes.lock().expect("a lock"), &message, body.len());
        (200, String::new())
    });
    (port.await, told)
}

fn note(told: &mut Told, body: &Value, length: usize) {
    told.messages += 1;
    told.largest = told.largest.max(length);
    let data = &body["data"];
    let mut add = |alert: &Value, kind: &Value| {
        let (alert, kind) = (alert.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default());
        told.by_alert.entry(alert.to_owned()).or_default().push(kind.to_owned());
    };
    match data["items"].as_array() {
        Some(items) => items.iter().for_each(|item| add(&item["alert_id"], &item["kind"])),
        None => add(&data["alert"]["id"], &data["kind"]),
    }
}

/// When a service's first failure was handed over, and how long its event took to arrive.
type Sent = Arc<Mutex<HashMap<String, Instant>>>;

async fn read_events(client: Client, base: String, sent: Sent, took: Arc<Mutex<Vec<f64>>>) {
    let url = format!("{base}/events?types=service.status_changed");
    let answer = client.get(url).header("x-service-key", KEY).send().await.expect("the event stream");
    let mut stream = answer.bytes_stream();
    let mut held = String::new();
    while let Some(Ok(piece)) = stream.next().await {
        held.push_str(&String::from_utf8_lossy(&piece));
        while let Some(end) = held.find("\n\n") {
            let event: String = held.drain(..end + 2).collect();
            let data = event.lines().find_map(|line| line.strip_prefix("data: ").or(line.strip_prefix("data:")));
            let data: Value = data.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            let known = sent.lock().expect("a lock").remove(data["service"].as_str().unwrap_or_default());
            if let Some(at) = known {
                took.lock().expect("a lock").push(at.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
}

async fn take_in(engine: &Arc<Engine>, n: usize, seen: Observation) {
    let name = ServiceName::new(&format!("x{n}")).expect("a name");
    let watched = engine.live.find(&name).expect("a service");
    let service = watched.service();
    engine.take_in(&watched, &service, seen, Kind::Scheduled).await;
}

/// Hands `count` pieces of work over, spread evenly over `span`.
async fn spread<F: Future<Output = ()> + Send + 'static>(count: usize, span: Duration, work: impl Fn(usize) -> F) {
    let began = tokio::time::Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..count {
        tokio::time::sleep_until(began + span.mul_f64(n as f64 / count as f64)).await;
        running.spawn(work(n));
    }
    while running.join_next().await.is_some() {}
}

async fn measure() {
    let (services, seconds) = (setting("ALERTS_SERVICES", 10_000), setting("ALERTS_SECONDS", 60));
    let half = Duration::from_secs(seconds as u64) / 2;
    let folder = tempfile::tempdir().expect("a folder");
    let (target, (hook, told)) = (target(), receiver().await);
    let on = target.port;
    let mut file = String::new();
    for n in 0..services {
        let _ = writeln!(
            file,
            "[[service]]\nname = \"f{n}\"\nurl = \"http://127.0.0.1:{on}/{n}\"\ncheck_interval_ms = 15000\n\
             [[service]]\nname = \"x{n}\"\nurl = \"http://127.0.0.1:{on}/x{n}\"\ncheck_interval_ms = 604800000"
        );
    }
    let more = [
        ("OUTAGE_VERIFICATION_ENABLED", "false".to_owned()),
        ("ALERT_WEBHOOK_URL", format!("http://127.0.0.1:{hook}/")),
    ];
    let App { engine, gate, .. } = start(&folder, &file, &more).await;
    let base = serve(gate).await;
    let client = Client::builder().no_proxy().build().expect("a client");
    let (sent, took) = (Sent::default(), Arc::<Mutex<Vec<f64>>>::default());
    tokio::spawn(read_events(client.clone(), base.clone(), sent.clone(), took.clone()));

    // One interval, so that everyone has been checked and lateness is that of steady running.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let before = engine.counters.lateness();
    let well = engine.clone();
    spread(services, Duration::from_secs(10), move |n| {
        let engine = well.clone();
        async move { take_in(&engine, n, Observation::answered(200, Duration::from_millis(5))).await }
    })
    .await;
    println!(
        "{services} services checked every 15 s, {} in all: lateness p99 {:.1} p99.9 {:.1} ms, {:.0} MiB resident",
        services * 2,
        before.p99_ms,
        before.p999_ms,
        resident_mib()
    );

    let (failing, times) = (engine.clone(), sent.clone());
    spread(services, half, move |n| {
        let (engine, sent) = (failing.clone(), times.clone());
        async move {
            sent.lock().expect("a lock").insert(format!("x{n}"), Instant::now());
            for _ in 0..3 {
                take_in(&engine, n, Observation::failed(Reason::ConnectRefused, "")).await;
            }
        }
    })
    .await;
    let open = engine.live.alert_count();
    let live = format!("{base}/livez");
    let (_, bare) = requests(&client, 1, 200, move |_| (Method::GET, live.clone(), None), StatusCode::OK).await;
    for limit in [100, 1000] {
        let url = format!("{base}/alerts/active");
        let page = move |n: usize| (Method::GET, format!("{url}?skip={}&limit={limit}", (n * limit) % services), None);
        let (_, times) = requests(&client, 1, 200, page, StatusCode::OK).await;
        println!(
            "/alerts/active with {open} open, pages of {limit}: p50 {:.1} p99 {:.1} ms ({:.0} times /livez)",
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 0.5) / at(&bare, 0.5)
        );
    }
    let recovering = engine.clone();
    spread(services, half, move |n| {
        let engine = recovering.clone();
        async move { take_in(&engine, n, Observation::answered(200, Duration::from_millis(5))).await }
    })
    .await;
    let after = engine.counters.lateness();
    println!(
        "{services} alerts opened and resolved in {seconds} s: lateness p99 {:.1} p99.9 {:.1} ms, {:.0} MiB resident",
        after.p99_ms,
        after.p999_ms,
        resident_mib()
    );
    let mut events = std::mem::take(&mut *took.lock().expect("a lock"));
    events.sort_by(f64::total_cmp);
    println!(
        "events, from the check to a reader: {} of them, p50 {:.1} p99 {:.1} largest {:.1} ms",
        events.len(),
        at(&events, 0.5),
        at(&events, 0.99),
        at(&events, 1.0)
    );
    let began = Instant::now();
    while engine.outbox.depth().0 > 0 && began.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = told.lock().expect("a lock");
    let in_order = |kinds: &&Vec<String>| {
        kinds.first().is_some_and(|kind| kind == "alert_raised")
            && kinds.iter().filter(|kind| *kind == "alert_resolved").count() <= 1
            && kinds.iter().position(|kind| kind == "alert_resolved").is_none_or(|at| at == kinds.len() - 1)
    };
    println!(
        "receiver: {} messages, the largest {} KiB; {} alerts named, {} of them in order; all told {:.1} s later",
        told.messages,
        told.largest / 1024,
        told.by_alert.len(),
        told.by_alert.values().filter(in_order).count(),
        began.elapsed().as_secs_f64()
    );
}
