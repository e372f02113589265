//! What a scrape costs: `/metrics/prometheus` over thousands of services that are being checked, in both formats. Tells
//! how long the whole body takes, how large it is, how far memory rises while it goes out, and what scrapes without a
//! pause do to the lateness of probes. Beside it stands the same number of bytes written from a ready string to a
//! socket, read by the same client in the same run.
//!
//! `cargo bench --bench metrics`, with `METRICS_SERVICES` (20000) and `METRICS_SCRAPES` (10). The service runs in this
//! process, on SQLite in a temporary folder, without Redis.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says so by ending")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use as_infrastructure_service::app::App;
use futures_util::StreamExt;
use reqwest::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/whole.rs"]
#[expect(dead_code, reason = "what other benchmarks use")]
mod whole;

use whole::{KEY, at, resident_mib, run, serve, setting, start, target};

/// Pieces the ready string is written in: as large as the parts of a scrape.
const PIECE: usize = 128 * 1024;

fn main() {
    run(measure());
}

/// Answers every request with `bytes` bytes from one ready string.
async fn ready_bytes(bytes: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Each by itself: a client may open another before it has given the first one back.
            tokio::spawn(write_ready(stream, bytes));
        }
    });
    port
}

async fn write_ready(mut stream: TcpStream, bytes: usize) {
    let piece = vec![b'x'; PIECE];
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let mut left = bytes;
        while left > 0 {
            let now = left.min(PIECE);
            if stream.write_all(&piece[..now]).await.is_err() {
                return;
            }
            left -= now;
        }
    }
}

/// One whole answer, thrown away as it comes: how long it took, how many bytes, how its last ones read.
async fn take(client: &Client, url: &str, accept: &str) -> (f64, usize, Vec<u8>) {
    let began = Instant::now();
    let request = client.get(url).header("x-service-key", KEY).header("accept", accept);
    let answer = request.send().await.expect("an answer").error_for_status().expect("a scrape");
    let mut body = answer.bytes_stream();
    let (mut bytes, mut last) = (0, Vec::new());
    while let Some(piece) = body.next().await {
        let piece = piece.expect("a whole body");
        bytes += piece.len();
        last = piece[piece.len().saturating_sub(16)..].to_vec();
    }
    (began.elapsed().as_secs_f64() * 1000.0, bytes, last)
}

async fn times(client: &Client, url: &str, accept: &str, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(take(client, url, accept).await.0);
    }
    times.sort_by(f64::total_cmp);
    times
}

/// Most memory that was resident since [`forget_peak`], in MiB.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

fn forget_peak() {
    // Where it cannot be reset, the growth that is told is too high, never too low.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

async fn measure() {
    let (services, scrapes) = (setting("METRICS_SERVICES", 20_000), setting("METRICS_SCRAPES", 10));
    let folder = tempfile::tempdir().expect("a folder");
    let target = target();
    let on = target.port;
    let mut file = String::new();
    for n in 0..services {
        let _ = writeln!(
            file,
            "[[service]]\nname = \"service-{n}\"\nurl = \"http://127.0.0.1:{on}/{n}\"\ncheck_interval_ms = 15000"
        );
    }
    let App { engine, gate, .. } = start(&folder, &file, &[]).await;
    let url = format!("{}/metrics/prometheus", serve(gate).await);
    let client = Client::builder().no_proxy().build().expect("a client");

    // Two intervals, so that everyone has been checked and lateness is that of steady running.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let before = engine.counters.lateness();
    for (name, accept) in [("0.0.4", "text/plain"), ("OpenMetrics", "application/openmetrics-text;version=1.0.0")] {
        let (_, bytes, last) = take(&client, &url, accept).await;
        assert_eq!(last.ends_with(b"# EOF\n"), accept != "text/plain", "{}", String::from_utf8_lossy(&last));
        let bare_url = format!("http://127.0.0.1:{}/", ready_bytes(bytes).await);
        let bare = times(&client, &bare_url, accept, scrapes).await;
        let resident = resident_mib();
        forget_peak();
        let scraped = times(&client, &url, accept, scrapes).await;
        println!(
            "{name}: {services} services, {:.1} MiB: p50 {:.0} largest {:.0} ms ({:.1} times the same bytes from a ready \
             string, p50 {:.0} ms); memory rises by {:.1} MiB over {resident:.0}",
            bytes as f64 / 1048576.0,
            at(&scraped, 0.5),
            at(&scraped, 1.0),
            at(&scraped, 0.5) / at(&bare, 0.5),
            at(&bare, 0.5),
            (peak_mib() - resident).max(0.0)
        );
    }

    // As many as are let in at once, without a pause, for as long as lateness looks back.
    let resident = resident_mib();
    forget_peak();
    let until = Instant::now() + Duration::from_secs(60);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while Instant::now() < until {
                    take(&client, &url, "text/plain").await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for one in clients {
        count += one.await.expect("a client");
    }
    let during = engine.counters.lateness();
    println!(
        "4 clients without a pause for 60 s: {count} scrapes; lateness of probes p99 {:.1} p99.9 {:.1} ms (before: p99 \
         {:.1} p99.9 {:.1}); memory rises by {:.1} MiB over {resident:.0}",
        during.p99_ms,
        during.p999_ms,
        before.p99_ms,
        before.p999_ms,
        (peak_mib() - resident).max(0.0)
    );
}
