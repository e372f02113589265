//! The whole service beside a bare reqwest loop, in one run, on the same targets at the same rate and connection mode.
//!
//! `cargo bench --bench load`, with `LOAD_SERVICES` (10000), `LOAD_INTERVAL_MS` (15000), `LOAD_ROUNDS` (3: measured
//! intervals) and `LOAD_HANGING` (0: every how many-th target hangs). The targets are a process of their own on
//! addresses of 127.0.0.0/8, so that each is a host with a connection of its own. The subject runs on the first core,
//! targets and Redis on the second. Needs `redis-server` and `taskset`; opens two descriptors a service in all.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says so by ending")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const KEY: &str = "nmc-internal-services-auth-key-phase1";
const BODY: &str = r#"{"status":"ok","version":"1.4.2","database":"connected","uptime":12345}"#;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Address of the `n`-th target.
fn address(n: u64) -> Ipv4Addr {
    let n = n as u32 + 1;
    Ipv4Addr::new(127, 1 + (n >> 16) as u8, (n >> 8) as u8, n as u8)
}

fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |place: usize| arguments.get(place).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    match arguments.get(1).map(String::as_str) {
        Some("targets") => runtime(targets(number(2) as u16, number(3))),
        Some("bare") => runtime(bare(number(2) as u16, number(3), number(4))),
        // `cargo test --benches` starts benchmarks with this flag only to see that they start.
        _ if arguments.iter().any(|argument| argument == "--test") => {}
        _ => measure(),
    }
}

fn runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(work);
}

/// Arrival times at the targets.
#[derive(Default)]
struct Seen {
    last: HashMap<Ipv4Addr, Instant>,
    gaps_ms: Vec<f64>,
    requests: u64,
}

/// Answers on every address; each line on standard input starts a new measurement and prints the one before.
async fn targets(port: u16, hanging: u64) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.expect("the targets' port");
    println!("ready");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let for_control = seen.clone();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            let mut seen = for_control.lock().expect("no panic");
            let mut gaps = std::mem::take(&mut seen.gaps_ms);
            gaps.sort_by(f64::total_cmp);
            let at = |share: f64| gaps.get(((gaps.len() as f64 * share) as usize).min(gaps.len().saturating_sub(1)));
            let report = json!({
                "requests": seen.requests, "targets": seen.last.len(), "gaps": gaps.len(),
                "gap_p1": at(0.01), "gap_p50": at(0.5), "gap_p99": at(0.99), "gap_max": gaps.last(),
            });
            seen.requests = 0;
            seen.last.clear();
            println!("{report}");
            std::io::stdout().flush().expect("a reader");
        }
        std::process::exit(0);
    });
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
    let answer: Arc<str> = answer.into();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let (seen, answer) = (seen.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(SocketAddr::V4(local)) = stream.local_addr() else { return };
            let index = u64::from(u32::from(*local.ip()) & 0xff_ffff);
            let hangs = hanging > 0 && index % hanging == 0;
            let mut buffer = [0u8; 2048];
            let mut held = 0;
            while let Ok(read @ 1..) = stream.read(&mut buffer[held..]).await {
                held += read;
                if !buffer[..held].ends_with(b"\r\n\r\n") {
                    continue;
                }
                held = 0;
                {
                    let now = Instant::now();
                    let mut seen = seen.lock().expect("no panic");
                    seen.requests += 1;
                    if let Some(last) = seen.last.insert(*local.ip(), now)
                        && !hangs
                    {
                        seen.gaps_ms.push((now - last).as_secs_f64() * 1000.0);
                    }
                }
                if hangs {
                    std::future::pending::<()>().await;
                }
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A reqwest loop with timeout and JSON parse, one task a target, at the same rate on pooled connections.
async fn bare(port: u16, services: u64, interval_ms: u64) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(Duration::from_secs(45))
        .build()
        .expect("a client");
    let began = tokio::time::Instant::now();
    for n in 0..services {
        let client = client.clone();
        tokio::spawn(async move {
            let url = format!("http://{}:{port}/health", address(n));
            let phase = Duration::from_millis(n * interval_ms / services);
            let mut beat = tokio::time::interval_at(began + phase, Duration::from_millis(interval_ms));
            loop {
                beat.tick().await;
                let asked = client.get(&url).timeout(Duration::from_secs(5)).send().await;
                if let Ok(answer) = asked {
                    let _ = answer.json::<Value>().await;
                }
            }
        });
    }
    println!("ready");
    let mut line = String::new();
    let _ = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await;
}

/// A child process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn on_core(core: &str, program: &str, arguments: &[&str], variables: &[(&str, String)], folder: &Path) -> Self {
        let child = Command::new("taskset")
            .args(["-c", core, program])
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value.as_str())))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("taskset and the program"))
    }

    /// CPU seconds used so far.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        ticks as f64 / 100.0
    }

    fn rss_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }
}

struct Targets {
    process: Running,
    out: BufReader<ChildStdout>,
}

impl Targets {
    /// Ends a measurement, begins the next, and returns what was seen.
    fn report(&mut self) -> Value {
        let stdin = self.process.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"report\n").and_then(|()| stdin.flush()).expect("the targets live");
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a report");
        serde_json::from_str(&line).expect("a report")
    }
}

/// What one subject cost.
struct Cost {
    cpu_us: f64,
    rss_kib: f64,
    seen: Value,
}

fn observe(subject: &Running, targets: &mut Targets, window: Duration) -> Cost {
    targets.report();
    let before = subject.cpu();
    std::thread::sleep(window);
    let cpu = subject.cpu() - before;
    let seen = targets.report();
    let requests = seen["requests"].as_f64().unwrap_or(1.0).max(1.0);
    Cost { cpu_us: cpu / requests * 1e6, rss_kib: subject.rss_kib(), seen }
}

fn services_file(path: &Path, port: u16, services: u64, interval_ms: u64) {
    let mut text = String::new();
    for n in 0..services {
        let critical = n < 5;
        text.push_str(&format!(
            "[[service]]\nname = \"svc-{n:06}\"\nurl = \"http://{}:{port}\"\ncritical = {critical}\n\
             check_interval_ms = {interval_ms}\n\n",
            address(n)
        ));
    }
    std::fs::write(path, text).expect("a writable folder");
}

fn measure() {
    let (services, interval_ms) = (setting("LOAD_SERVICES", 10_000), setting("LOAD_INTERVAL_MS", 15_000));
    let (rounds, hanging) = (setting("LOAD_ROUNDS", 3), setting("LOAD_HANGING", 0));
    let own = std::env::current_exe().expect("own path");
    let own = own.to_string_lossy();
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (port, redis_port, api_port) = (free_port(), free_port(), free_port());
    let warm_up = Duration::from_millis(interval_ms * 3 / 2);
    let window = Duration::from_millis(interval_ms * rounds);
    println!("{services} services every {interval_ms} ms, {rounds} intervals measured, subject on one core");

    let arguments = ["targets", &port.to_string(), &hanging.to_string()];
    let mut process = Running::on_core("1", &own, &arguments, &[], folder);
    let mut out = BufReader::new(process.0.stdout.take().expect("a pipe"));
    out.read_line(&mut String::new()).expect("the targets are ready");
    let mut targets = Targets { process, out };

    let bare = Running::on_core(
        "0",
        &own,
        &["bare", &port.to_string(), &services.to_string(), &interval_ms.to_string()],
        &[],
        folder,
    );
    std::thread::sleep(warm_up);
    // As long as the service below: the memory of kept connections grows with their age.
    let bare_cost = observe(&bare, &mut targets, window);
    drop(bare);

    let redis_arguments = ["--port", &redis_port.to_string(), "--save", "", "--appendonly", "no"];
    let redis = Running::on_core("1", "redis-server", &redis_arguments, &[], folder);
    services_file(&folder.join("services.toml"), port, services, interval_ms);
    let variables = [
        ("PORT", api_port.to_string()),
        ("REDIS_URL", format!("redis://127.0.0.1:{redis_port}")),
        ("SERVICES_FILE", folder.join("services.toml").display().to_string()),
        ("LOG_LEVEL", "error".to_owned()),
    ];
    let started = Instant::now();
    let service = Running::on_core("0", env!("CARGO_BIN_EXE_as-infrastructure-service"), &[], &variables, folder);
    let api = Api::new(api_port);
    while api.get("/livez").is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("serving after {} ms", started.elapsed().as_millis());
    targets.report();
    std::thread::sleep(
        Duration::from_millis(interval_ms).saturating_sub(started.elapsed()) + Duration::from_millis(500),
    );
    println!("first sweep: {} of {services} targets seen one interval after the start", targets.report()["targets"]);
    std::thread::sleep(warm_up);
    let redis_before = redis.cpu();
    let cost = observe(&service, &mut targets, window);
    let redis_us = (redis.cpu() - redis_before) * 1e6 / cost.seen["requests"].as_f64().unwrap_or(1.0);
    let health = api.get("/health").unwrap_or_default();
    let mut rows =
        vec![("/status/dashboard", 500), ("/status/critical", 500), ("/health", 500), ("/health/services", 30)];
    let latencies: Vec<String> = rows.drain(..).map(|(path, times)| api.latency(path, times)).collect();

    let row = |name: &str, cost: &Cost| {
        println!(
            "{name:<8} {:>8.1} us CPU a check   gap p1 {:.1} p50 {:.1} p99 {:.1} max {:.1} ms   RSS {:.1} MiB   {} requests",
            cost.cpu_us,
            cost.seen["gap_p1"].as_f64().unwrap_or(0.0),
            cost.seen["gap_p50"].as_f64().unwrap_or(0.0),
            cost.seen["gap_p99"].as_f64().unwrap_or(0.0),
            cost.seen["gap_max"].as_f64().unwrap_or(0.0),
            cost.rss_kib / 1024.0,
            cost.seen["requests"],
        );
    };
    row("bare", &bare_cost);
    row("service", &cost);
    println!("CPU ratio service / bare: {:.2}", cost.cpu_us / bare_cost.cpu_us);
    println!("RSS beyond the bare loop: {:.2} KiB a service", (cost.rss_kib - bare_cost.rss_kib) / services as f64);
    println!("Redis CPU: {redis_us:.1} us a result");
    println!("lateness: {}", health["self"]["scheduler"]);
    println!("services: {}", health["services"]);
    let events = api.get("/status/dashboard").unwrap_or_default()["dashboard"]["recentEvents"].clone();
    println!("statuses changed: {events}");
    latencies.iter().for_each(|line| println!("{line}"));
}

struct Api {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    base: String,
}

impl Api {
    fn new(port: u16) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
            base: format!("http://127.0.0.1:{port}"),
        }
    }

    fn get(&self, path: &str) -> Option<Value> {
        // A kept connection may have been closed while nobody looked: then a new one is made.
        self.ask(path).or_else(|| self.ask(path))
    }

    fn ask(&self, path: &str) -> Option<Value> {
        self.runtime.block_on(async {
            let asked = self.client.get(format!("{}{path}", self.base)).header("x-service-key", KEY).send().await;
            match asked {
                Ok(answer) if answer.status().is_success() => answer.json().await.ok(),
                Ok(answer) => panic!("{path}: {}", answer.status()),
                Err(_) => None,
            }
        })
    }

    fn latency(&self, path: &str, times: usize) -> String {
        let mut ms: Vec<f64> = (0..times)
            .map(|_| {
                let began = Instant::now();
                let url = format!("{}{path}", self.base);
                let asked = self.client.get(url).header("x-service-key", KEY).send();
                let _ = self.runtime.block_on(async { asked.await.ok()?.bytes().await.ok() });
                let taken = began.elapsed().as_secs_f64() * 1000.0;
                std::thread::sleep(Duration::from_millis(4));
                taken
            })
            .collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms[((ms.len() as f64 * share) as usize).min(ms.len() - 1)];
        format!("{path:<20} p50 {:.2} p99 {:.2} max {:.2} ms", at(0.5), at(0.99), ms[ms.len() - 1])
    }
}
