//! The registry API and the check history under load: registering and removing services while others are checked, paged
//! lists, history queries, and the bytes a stored check takes. Beside each figure stands the same number of requests for
//! `/livez` over the same connections, in the same run.
//!
//! `cargo bench --bench registry`, with `REGISTRY_SERVICES` (10000: as many are registered as run already),
//! `REGISTRY_CLIENTS` (32: connections at once) and `REGISTRY_HOURS` (6: hours of history written for each service; one
//! service gets 30 days). All are registered and removed `REGISTRY_ROUNDS` (3) times. The service runs in this process,
//! on SQLite in a temporary folder, without Redis; the running services are checked every 15 s against one stub.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says so by ending")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use as_infrastructure_service::app::App;
use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::domain::check::{Check, CheckRun, name_hash};
use as_infrastructure_service::domain::observation::{Kind, Reason};
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::domain::time::{Stamp, from_ms};
use as_infrastructure_service::store::RecordsAddress;
use as_infrastructure_service::store::records::{Batch, Records};
use reqwest::{Client, Method, StatusCode};

#[path = "support/whole.rs"]
#[expect(dead_code, reason = "what other benchmarks use")]
mod whole;

use whole::{at, requests, resident_mib, run, serve, setting, start, target};

fn main() {
    run(measure());
}

async fn measure() {
    let (services, clients, hours) =
        (setting("REGISTRY_SERVICES", 10_000), setting("REGISTRY_CLIENTS", 32), setting("REGISTRY_HOURS", 6));
    let folder = tempfile::tempdir().expect("a folder");
    let target = target();
    let on = target.port;
    let mut file = String::new();
    for n in 0..services {
        let _ = writeln!(
            file,
            "[[service]]\nname = \"f{n}\"\nurl = \"http://127.0.0.1:{on}/{n}\"\ncheck_interval_ms = 15000"
        );
    }
    let database = folder.path().join("records.db");
    write_history(&database, services, hours).await;

    let App { engine, gate, .. } = start(&folder, &file, &[]).await;
    let base = serve(gate).await;
    let client = Client::builder().no_proxy().build().expect("a client");

    // One interval, so that everyone has been checked and lateness is that of steady running.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let before = engine.counters.lateness();
    println!("{services} services running, lateness p99 {:.1} ms, {:.0} MiB resident", before.p99_ms, resident_mib());

    let live = format!("{base}/livez");
    let (bare, _) =
        requests(&client, clients, services, move |_| (Method::GET, live.clone(), None), StatusCode::OK).await;
    let (registering, times) = register(&client, &base, clients, services, on).await;
    let lateness = engine.counters.lateness();
    println!(
        "registering {services}: {:.2} s ({:.1} times as many /livez), each p50 {:.1} p99 {:.1} ms; lateness p99 {:.1} p99.9 {:.1} ms",
        registering.as_secs_f64(),
        registering.as_secs_f64() / bare.as_secs_f64(),
        at(&times, 0.5),
        at(&times, 0.99),
        lateness.p99_ms,
        lateness.p999_ms,
    );

    let live = format!("{base}/livez");
    let (_, bare) = requests(&client, 1, 500, move |_| (Method::GET, live.clone(), None), StatusCode::OK).await;
    let total = services * 2;
    for limit in [100, 1000] {
        let url = format!("{base}/services");
        let page = move |n: usize| {
            let skip = (n * limit) % total;
            (Method::GET, format!("{url}?skip={skip}&limit={limit}"), None)
        };
        let (_, times) = requests(&client, 1, 500, page, StatusCode::OK).await;
        println!(
            "GET /services, pages of {limit} of {total}: p50 {:.1} p99 {:.1} ms ({:.0} times /livez)",
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 0.5) / at(&bare, 0.5),
        );
    }
    queries(&client, &base, services, hours, at(&bare, 0.5)).await;

    remove(&client, &base, clients, services).await;
    println!("{:.0} MiB resident, {} on the schedule", resident_mib(), engine.scheduled());
    for round in 2..=setting("REGISTRY_ROUNDS", 3) {
        register(&client, &base, clients, services, on).await;
        remove(&client, &base, clients, services).await;
        println!("round {round}: {:.0} MiB resident, {} on the schedule", resident_mib(), engine.scheduled());
    }
}

async fn register(client: &Client, base: &str, clients: usize, services: usize, on: u16) -> (Duration, Vec<f64>) {
    let url = format!("{base}/services");
    let make = move |n: usize| {
        let body = format!("{{\"id\":\"r{n}\",\"url\":\"http://127.0.0.1:{on}/r{n}\",\"check_interval\":60}}");
        (Method::POST, url.clone(), Some(body))
    };
    requests(client, clients, services, make, StatusCode::CREATED).await
}

async fn remove(client: &Client, base: &str, clients: usize, services: usize) {
    let url = format!("{base}/services");
    let make = move |n: usize| (Method::DELETE, format!("{url}/r{n}"), None);
    let (removing, _) = requests(client, clients, services, make, StatusCode::NO_CONTENT).await;
    println!("removing {services}: {:.2} s", removing.as_secs_f64());
}

/// History queries: a page and a range of a service with hours of checks, and of the one with thirty days.
async fn queries(client: &Client, base: &str, services: usize, hours: usize, live_ms: f64) {
    let now = Clock::System.now().timestamp_millis();
    let stamp = |hours_ago: i64| Stamp(from_ms(now - hours_ago * 3_600_000)).to_string();
    let whole = stamp(hours as i64);
    let month = stamp(30 * 24);
    let paths: [(&str, String); 6] = [
        ("newest page", "/services/f{n}/history?limit=100".to_owned()),
        (
            "page in a range",
            format!("/services/f{{n}}/history?start_time={whole}&end_time={}&skip=200&limit=100", stamp(1)),
        ),
        ("minutes of an hour", "/metrics/history?service=f{n}".to_owned()),
        ("30 days: a page far back", format!("/services/f0/history?start_time={month}&skip=150000&limit=100")),
        ("30 days by day", format!("/metrics/history?service=f0&start_time={month}&resolution=day")),
        ("30 days of availability", format!("/services/f0/availability?start_time={month}")),
    ];
    for (what, path) in paths {
        let base = base.to_owned();
        let count = if path.contains("f0/") || path.contains("f0&") { 50 } else { 500 };
        let one = move |n: usize| {
            (Method::GET, format!("{base}{}", path.replace("{n}", &((n * 7919) % services).to_string())), None)
        };
        let (_, times) = requests(client, 1, count, one, StatusCode::OK).await;
        println!(
            "history, {what}: p50 {:.1} p99 {:.1} ms ({:.0} times /livez)",
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 0.5) / live_ms
        );
    }
}

/// Writes hours of checks for every service, thirty days for the first, and tells what one takes.
async fn write_history(database: &std::path::Path, services: usize, hours: usize) {
    let records = Records::open(&RecordsAddress::Sqlite(database.to_owned())).await.expect("records");
    let now = Clock::System.now().timestamp_millis();
    let mut stored = 0usize;
    let began = Instant::now();
    let mut batch = Batch::default();
    for n in 0..services {
        let name = ServiceName::new(&format!("f{n}")).expect("a name");
        let span_hours = if n == 0 { 30 * 24 } else { hours };
        let checks: Vec<Check> = (0..span_hours * 240)
            .map(|k| Check {
                at_ms: now - (span_hours as i64) * 3_600_000 + k as i64 * 15_000 + (k as i64 * 7) % 9,
                status: if k % 500 == 499 { Status::Degraded } else { Status::Healthy },
                reason: if k % 500 == 499 { Reason::Latency } else { Reason::Ok },
                kind: Kind::Scheduled,
                http_status: 200,
                response_us: Some(18_000 + (k as u32 * 7919) % 9_000),
                streak: (k % 500) as i32,
                error: (k % 500 == 499).then(|| "High response time (1250ms)".into()),
                maintenance: false,
                redirected: false,
            })
            .collect();
        for run in checks.chunks(60) {
            batch.runs.extend(CheckRun::of(name_hash(&name), run));
        }
        stored += checks.len();
        if batch.runs.len() > 5000 {
            records.write(std::mem::take(&mut batch)).await.expect("written");
        }
    }
    records.write(batch).await.expect("written");
    records.close().await;
    let bytes = std::fs::metadata(database).expect("a file").len();
    println!(
        "{stored} checks stored in {:.0} s: {:.1} bytes a check in SQLite ({:.0} MiB)",
        began.elapsed().as_secs_f64(),
        bytes as f64 / stored as f64,
        bytes as f64 / 1048576.0
    );
}
