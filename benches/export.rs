//! What the export to Elasticsearch can carry: thousands of services are checked every 15 s while the server is away; then
//! it comes, and takes what has gathered and what is added meanwhile. Tells how many documents a second that was, how
//! many times as many as are made, what it did to the lateness of probes and to memory. Beside it stands a bare loop that
//! posts bodies of the same size, made and packed beforehand, to the same server in the same run.
//!
//! `cargo bench --bench export`, with `EXPORT_SERVICES` (20000), `EXPORT_SECONDS` (90: how long the server is away) and
//! `EXPORT_BATCH` (100). The service runs in this process, on SQLite in a temporary folder, without Redis; the server is
//! one of ours in the same process, which unpacks every request and answers for every document.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says so by ending")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use as_infrastructure_service::app::App;
use futures_util::{StreamExt, stream};
use reqwest::Client;

#[path = "support/whole.rs"]
#[expect(dead_code, reason = "what other benchmarks use")]
mod whole;

use whole::{answering, resident_mib, run, setting, start, target};

/// Requests under way at once, as the export has them.
const IN_FLIGHT: usize = 4;

fn main() {
    run(measure());
}

/// Takes every document, once it is open.
#[derive(Default)]
struct Server {
    open: AtomicBool,
    documents: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

async fn server() -> (u16, Arc<Server>) {
    let server = Arc::<Server>::default();
    let shared = server.clone();
    (answering(move |head, body| shared.answer(head, body)).await, server)
}

impl Server {
    fn answer(&self, head: &str, body: &[u8]) -> (u16, String) {
        if head.starts_with("get / ") {
            return (200, r#"{"version":{"number":"8.0.0"}}"#.to_owned());
        }
        if !head.starts_with("post") {
            return (200, "{}".to_owned());
        }
        if !self.open.load(Ordering::Relaxed) {
            return (503, String::new());
        }
        let mut text = String::new();
        flate2::read::GzDecoder::new(body).read_to_string(&mut text).expect("a packed body");
        let mut items = String::new();
        let mut count = 0;
        for line in text.lines().filter(|line| line.starts_with("{\"create\"")) {
            let id = line.split("\"_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
            let _ =
                write!(items, "{}{{\"create\":{{\"_id\":\"{id}\",\"status\":201}}}}", if count > 0 { "," } else { "" });
            count += 1;
        }
        self.documents.fetch_add(count, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(text.len(), Ordering::Relaxed);
        (200, format!("{{\"errors\":false,\"items\":[{items}]}}"))
    }
}

async fn measure() {
    let services = setting("EXPORT_SERVICES", 20_000);
    let (away, batch) = (setting("EXPORT_SECONDS", 90), setting("EXPORT_BATCH", 100));
    let folder = tempfile::tempdir().expect("a folder");
    let (target, (port, server)) = (target(), server().await);
    let on = target.port;
    let mut file = String::new();
    for n in 0..services {
        let _ = writeln!(
            file,
            "[[service]]\nname = \"service-{n}\"\nurl = \"http://127.0.0.1:{on}/{n}\"\ncheck_interval_ms = 15000"
        );
    }
    let more = [
        ("ELASTICSEARCH_ENABLED", "true".to_owned()),
        ("ELASTICSEARCH_HOSTS", format!("http://127.0.0.1:{port}")),
        ("ELASTICSEARCH_SYNC_BATCH_SIZE", batch.to_string()),
        // Rounds are started here.
        ("ELASTICSEARCH_SYNC_INTERVAL", "86400".to_owned()),
    ];
    let App { engine, .. } = start(&folder, &file, &more).await;
    tokio::time::sleep(Duration::from_secs(away as u64)).await;
    let (lateness, memory) = (engine.counters.lateness(), resident_mib());
    let (waiting, finished) = (engine.exporter.depth(), engine.counters.finished.load(Ordering::Relaxed));

    server.open.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut rounds = 0;
    // The part that exports tries again by itself after a failure: whoever is first does the round.
    while engine.exporter.depth() > services / 10 {
        engine.export_now().await.unwrap_or_else(|error| panic!("{error}"));
        rounds += 1;
    }
    let took = began.elapsed().as_secs_f64();
    let taken = server.documents.load(Ordering::Relaxed);
    let made = (engine.counters.finished.load(Ordering::Relaxed) - finished) as f64 / took;
    let rate = taken as f64 / took;
    let during = engine.counters.lateness();
    let size = server.bytes.load(Ordering::Relaxed) / taken.max(1);
    println!(
        "{services} services, {waiting} documents of {size} bytes had gathered: {taken} taken in {took:.1} s and {rounds} \
         rounds, {rate:.0} a second, {:.1} times the {made:.0} checks a second made meanwhile",
        rate / made
    );
    println!(
        "lateness of probes p99 {:.1} p99.9 {:.1} ms (before: p99 {:.1} p99.9 {:.1}); memory {memory:.0} to {:.0} MiB",
        during.p99_ms,
        during.p999_ms,
        lateness.p99_ms,
        lateness.p999_ms,
        resident_mib()
    );
    engine.pause_checks(true);
    let bare = bare(port, batch, size, taken / batch).await;
    println!(
        "a bare loop of ready bodies to the same server: {bare:.0} documents a second, {:.1} times ours",
        bare / rate
    );
}

/// Documents a second when nothing is made, read or noted.
async fn bare(port: u16, batch: usize, size: usize, requests: usize) -> f64 {
    let mut plain = Vec::new();
    for n in 0..batch {
        let head = format!("{{\"create\":{{\"_index\":\"i\",\"_id\":\"{n}\"}}}}\n");
        plain.extend_from_slice(head.as_bytes());
        // Letters that pack about as well as documents do.
        let body: String =
            (0..size.saturating_sub(head.len() + 1)).map(|at| char::from(b'a' + ((at * n) % 23) as u8)).collect();
        plain.extend_from_slice(body.as_bytes());
        plain.push(b'\n');
    }
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&plain).expect("a packed body");
    let packed = packer.finish().expect("a packed body");
    let client = Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://127.0.0.1:{port}/_bulk");
    let began = Instant::now();
    let sent = stream::iter(0..requests).map(|_| async {
        let answer = client.post(&url).body(packed.clone()).send().await.expect("an answer");
        answer.bytes().await.expect("a body");
    });
    sent.buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
    (requests * batch) as f64 / began.elapsed().as_secs_f64()
}
