//! What benchmarks of the whole service share: a target, requests with their times, and what a process holds.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use as_infrastructure_service::admin::Surroundings;
use as_infrastructure_service::api::{self, Gate};
use as_infrastructure_service::app::{self, App};
use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::config::{Configured, Sources};
use reqwest::{Client, Method, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub const KEY: &str = "nmc-internal-services-auth-key-phase1";

pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The service in this process, on SQLite in `folder`, without Redis: `services` as its file has them, `more` settings.
pub async fn start(folder: &TempDir, services: &str, more: &[(&str, String)]) -> App {
    let services_file = folder.path().join("services.toml");
    std::fs::write(&services_file, services).expect("a services file");
    app::install_crypto_provider();
    let records = format!("sqlite:///{}", folder.path().join("records.db").display());
    let own = [
        ("METRICS_STORAGE_URL", records),
        ("SERVICES_FILE", services_file.display().to_string()),
        ("REDIS_URL", String::new()),
    ];
    let all = own.into_iter().chain(more.iter().cloned());
    let variables = all.map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>();
    let configured = Configured::load(Sources::new(variables, Some("no-such-folder".into())));
    let configured = configured.unwrap_or_else(|error| panic!("{error}"));
    let built = app::build(&configured, Clock::System, Surroundings::default()).await;
    built.unwrap_or_else(|error| panic!("{error}"))
}

/// Set in a process that is nothing but a target.
const TARGET: &str = "BENCH_TARGET";

/// A target in a process of its own: kept connections would else take two descriptors of this one each.
pub struct Target {
    pub port: u16,
    process: Child,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

pub fn target() -> Target {
    let itself = std::env::current_exe().expect("the path of this benchmark");
    let mut process =
        Command::new(itself).env(TARGET, "1").stdout(Stdio::piped()).spawn().expect("a process for the target");
    let mut line = String::new();
    let said = process.stdout.take().expect("its output");
    std::io::BufReader::new(said).read_line(&mut line).expect("its port");
    Target { port: line.trim().parse().expect("a port"), process }
}

/// Runs `measure`, unless this process is to be a target, or is only to be seen starting.
pub fn run(measure: impl Future<Output = ()>) {
    // `cargo test --benches` starts benchmarks with this flag only to see that they start.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if std::env::var_os(TARGET).is_some() {
        return runtime.block_on(answer());
    }
    runtime.block_on(measure);
}

/// Answers every request with 200, for ever.
async fn answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Serves what is behind `gate`; its address.
pub async fn serve(gate: Gate) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(api::serve::serve(listener, gate, CancellationToken::new()));
    base
}

/// Answers every request, by its head in lower case and its body, with a code and a body; on a free port.
pub async fn answering(answer: impl Fn(&str, &[u8]) -> (u16, String) + Clone + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut held: Vec<u8> = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    held.extend_from_slice(&buffer[..count]);
                    let Some(head) = held.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                    let text = String::from_utf8_lossy(&held[..head]).to_ascii_lowercase();
                    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                    if held.len() < head + 4 + length {
                        continue;
                    }
                    let body: Vec<u8> = held.drain(..head + 4 + length).skip(head + 4).collect();
                    let (code, said) = answer(&text, &body);
                    let head = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n", said.len());
                    if stream.write_all(format!("{head}{said}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// `count` requests over so many connections: the whole time, and each request's, sorted, in milliseconds.
pub async fn requests(
    client: &Client,
    clients: usize,
    count: usize,
    make: impl Fn(usize) -> (Method, String, Option<String>) + Send + Sync + 'static,
    expected: StatusCode,
) -> (Duration, Vec<f64>) {
    let (next, make) = (Arc::new(AtomicUsize::new(0)), Arc::new(make));
    let began = Instant::now();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let (client, next, make) = (client.clone(), next.clone(), make.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return times;
                    }
                    let (method, url, body) = make(n);
                    let mut request = client.request(method, url).header("x-service-key", KEY);
                    if let Some(body) = body {
                        request = request.header("content-type", "application/json").body(body);
                    }
                    let sent = Instant::now();
                    let answer = request.send().await.expect("an answer");
                    let status = answer.status();
                    let text = answer.bytes().await.expect("a body");
                    assert_eq!(status, expected, "{}", String::from_utf8_lossy(&text));
                    times.push(sent.elapsed().as_secs_f64() * 1000.0);
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await.expect("a worker"));
    }
    times.sort_by(f64::total_cmp);
    (began.elapsed(), times)
}

pub fn at(times: &[f64], share: f64) -> f64 {
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.clamp(1, times.len().max(1)) - 1).copied().unwrap_or(0.0)
}

pub fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1048576.0
}
