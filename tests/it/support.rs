//! What the tests share: an application with a clock moved by hand, a scripted target, a recording receiver, the built
//! binary, and a Redis of one's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use as_infrastructure_service::admin::Surroundings;
use as_infrastructure_service::app::{self, App};
use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::config::{ConfigError, Configured, Settings, Sources, load_services};
use as_infrastructure_service::domain::definitions::Listed;
use as_infrastructure_service::domain::observation::{Kind, Observation, Reason};
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::domain::state::Change;
use as_infrastructure_service::domain::time::from_ms;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::StreamExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};

pub const KEY: &str = "nmc-internal-services-auth-key-phase1";
/// 2026-01-31T10:30:00Z.
pub const T0: i64 = 1_769_855_400_000;
/// Longest wait for anything in a test: a limit, never a measure.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `ready` says something, looking again every few milliseconds, for at most [`LIMIT`].
pub async fn eventually<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = ready().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.unwrap_or_else(|_| panic!("{what} did not come about in {LIMIT:?}"))
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

/// The application without a listener: the real gate and router, records in a file of its own, a clock moved by hand.
pub struct TestApp {
    pub app: App,
    pub clock: Clock,
    pub folder: Arc<TempDir>,
}

/// Variables of a test application.
pub fn variables(folder: &Path, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let records = format!("sqlite:///{}/records.db", folder.display());
    let mut variables = BTreeMap::from([
        ("METRICS_STORAGE_URL".to_owned(), records),
        ("REDIS_URL".to_owned(), String::new()),
        ("INSTANCE_ID".to_owned(), "test-1".to_owned()),
        ("VERSION".to_owned(), "1.0.0".to_owned()),
    ]);
    variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    variables
}

/// Settings and services from variables alone.
pub fn load(variables: BTreeMap<String, String>) -> Result<(Settings, Listed), ConfigError> {
    let sources = Sources::new(variables, Some("no-such-folder".into()));
    let settings = Settings::load(&sources)?;
    let registry = load_services(&settings.services, &settings.defaults)?;
    Ok((settings, registry))
}

impl TestApp {
    /// Nine built-in services.
    pub async fn built_in() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(more: &[(&str, &str)]) -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), Clock::manual(from_ms(T0)), more).await
    }

    /// Services of a file.
    pub async fn with_file(services: &str, more: &[(&str, &str)]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let file = folder.path().join("services.toml");
        std::fs::write(&file, services).unwrap();
        let mut more = more.to_vec();
        let file = file.display().to_string();
        more.push(("SERVICES_FILE", &file));
        Self::start(folder, Clock::manual(from_ms(T0)), &more).await
    }

    pub async fn start(folder: Arc<TempDir>, clock: Clock, more: &[(&str, &str)]) -> Self {
        app::install_crypto_provider();
        let sources = Sources::new(variables(folder.path(), more), Some(folder.path().join("config")));
        let configured = Configured::load(sources).unwrap();
        let app = app::build(&configured, clock.clone(), Surroundings::default()).await.unwrap();
        // Checks come from the test alone.
        app.engine.pause_checks(true);
        Self { app, clock, folder }
    }

    /// Stops in order and starts again on the same records.
    pub async fn restart(self, more: &[(&str, &str)]) -> Self {
        let Self { app, clock, folder } = self;
        app.stop().await;
        Self::start(folder, clock, more).await
    }

    /// Everything after a probe of `name`.
    pub async fn take_in(&self, name: &str, seen: Observation) -> Vec<Change> {
        let watched = self.app.engine.live.find(&ServiceName::new(name).unwrap()).unwrap();
        let service = watched.service();
        self.app.engine.take_in(&watched, &service, seen, Kind::Scheduled).await
    }

    /// `times` refusals, fifteen seconds apart.
    pub async fn fail(&self, name: &str, times: usize) {
        for _ in 0..times {
            self.take_in(name, Observation::failed(Reason::ConnectRefused, "")).await;
            self.clock.advance(Duration::from_secs(15));
        }
    }

    /// A good answer after `ms`.
    pub async fn answer(&self, name: &str, ms: u64) {
        self.take_in(name, Observation::answered(200, Duration::from_millis(ms))).await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[("x-service-key", KEY)], "").await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.ask_from([127, 0, 0, 1].into(), method, path, headers, body).await
    }

    /// Opens `GET /events`, with a query and headers.
    pub async fn listen(&self, query: &str, headers: &[(&str, &str)]) -> Result<Listener, StatusCode> {
        let mut request = Request::builder().uri(format!("/events{query}")).header("x-service-key", KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.gate.call([127, 0, 0, 1].into(), request.body(Body::empty()).unwrap()).await;
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Listener::new(response.into_body()))
    }

    pub async fn ask_from(
        &self,
        peer: IpAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.app.gate.call(peer, request).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, json }
    }
}

/// What a scripted target does with a connection.
#[derive(Debug, Clone)]
pub enum Script {
    /// Status code, body; the connection is kept.
    Reply(u16, String),
    /// Bytes as they are, then the connection is closed.
    Raw(Vec<u8>),
    /// Bytes, then more of them for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// Bytes one by one, each after this long.
    Drip(Vec<u8>, Duration),
    /// Nothing, ever.
    Hang,
    /// Closes as soon as the request is there.
    Close,
}

impl Script {
    pub fn ok() -> Self {
        Self::Reply(200, r#"{"status":"ok","version":"1.2.3"}"#.to_owned())
    }
}

/// A target on a free port whose script can be changed while it runs.
pub struct Stub {
    pub address: SocketAddr,
    script: watch::Sender<Script>,
    /// Request heads as they came.
    pub heads: Arc<Mutex<Vec<String>>>,
    /// Bytes written to clients.
    pub sent: Arc<std::sync::atomic::AtomicUsize>,
    pub connections: Arc<std::sync::atomic::AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (script, scripts) = watch::channel(script);
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let sent = Arc::<std::sync::atomic::AtomicUsize>::default();
        let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
        let (seen, written, count) = (heads.clone(), sent.clone(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(play(stream, scripts.clone(), seen.clone(), written.clone()));
            }
        });
        Self { address, script, heads, sent, connections, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, script: Script) {
        let _ = self.script.send(script);
    }

    pub fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

async fn play(
    mut stream: TcpStream,
    scripts: watch::Receiver<Script>,
    heads: Arc<Mutex<Vec<String>>>,
    sent: Arc<std::sync::atomic::AtomicUsize>,
) {
    let count = |bytes: usize| sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        let script = scripts.borrow().clone();
        match script {
            Script::Reply(code, body) => {
                let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Script::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Script::Endless(head, more) => {
                let _ = stream.write_all(&head).await;
                while let Ok(()) = stream.write_all(&more).await {
                    count(more.len());
                }
                return;
            }
            Script::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                return;
            }
            Script::Hang => std::future::pending().await,
            Script::Close => return,
        }
    }
}

/// A receiver of webhooks that keeps what it was sent.
pub struct Recorder {
    pub address: SocketAddr,
    messages: Arc<Mutex<Vec<Received>>>,
    /// Keys of every message that came, taken or not.
    tried: Arc<Mutex<Vec<String>>>,
    arrived: Arc<Notify>,
    code: watch::Sender<(u16, &'static str)>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone)]
pub struct Received {
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Received {
    pub fn kind(&self) -> &str {
        self.body["data"]["kind"].as_str().unwrap_or_default()
    }

    pub fn component(&self) -> &str {
        self.body["subject"].as_str().unwrap_or_default()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let messages = Arc::<Mutex<Vec<Received>>>::default();
        let tried = Arc::<Mutex<Vec<String>>>::default();
        let arrived = Arc::new(Notify::new());
        let (code, codes) = watch::channel((200, ""));
        let (kept, keys, told) = (messages.clone(), tried.clone(), arrived.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(record(stream, kept.clone(), keys.clone(), told.clone(), codes.clone()));
            }
        });
        Self { address, messages, tried, arrived, code, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers with `code` from now on; only what is answered 2xx is kept.
    pub fn answer_with(&self, code: u16) {
        self.answer_with_lines(code, "");
    }

    /// The same, with more header lines, each ended by CR LF.
    pub fn answer_with_lines(&self, code: u16, lines: &'static str) {
        let _ = self.code.send((code, lines));
    }

    pub fn messages(&self) -> Vec<Received> {
        self.messages.lock().unwrap().clone()
    }

    pub fn tried(&self) -> Vec<String> {
        self.tried.lock().unwrap().clone()
    }

    /// `kind component` of each message, in order.
    pub fn log(&self) -> Vec<String> {
        self.messages().iter().map(|message| format!("{} {}", message.kind(), message.component())).collect()
    }

    /// Waits for so many messages.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let waiting = async {
            loop {
                let arrived = self.arrived.notified();
                let messages = self.messages();
                if messages.len() >= count {
                    return messages;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(LIMIT, waiting)
            .await
            .unwrap_or_else(|_| panic!("{count} messages did not arrive, only {:?}", self.log()))
    }
}

async fn record(
    stream: TcpStream,
    messages: Arc<Mutex<Vec<Received>>>,
    tried: Arc<Mutex<Vec<String>>>,
    arrived: Arc<Notify>,
    codes: watch::Receiver<(u16, &'static str)>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return;
        }
        loop {
            line.clear();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let (code, lines) = *codes.borrow();
        if let Some(key) = headers.get("idempotency-key") {
            tried.lock().unwrap().push(key.clone());
        }
        if (200..300).contains(&code) {
            let body = serde_json::from_slice(&body).unwrap();
            messages.lock().unwrap().push(Received { headers, body });
            arrived.notify_waiters();
        }
        let answer = format!("HTTP/1.1 {code} X\r\n{lines}content-length: 0\r\n\r\n");
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A port nobody listens on at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The built binary with its own folder, port and settings.
pub struct Binary {
    pub child: Child,
    pub port: u16,
    pub folder: Arc<TempDir>,
    client: reqwest::Client,
}

/// The test profile of intervals: HARDENING.md section 2.
pub const PROFILE: [(&str, &str); 10] = [
    ("DEFAULT_CHECK_INTERVAL_MS", "1000"),
    ("CRITICAL_SERVICE_CHECK_INTERVAL_MS", "500"),
    ("HEALTH_CHECK_TIMEOUT_MS", "300"),
    ("CONFIRM_INTERVAL_MS", "200"),
    ("MIN_CHECK_INTERVAL_MS", "100"),
    ("NOTIFICATION_GROUP_WAIT_MS", "300"),
    ("NOTIFICATION_RETRY_MIN_MS", "200"),
    ("NOTIFICATION_RETRY_MAX_MS", "2000"),
    // A machine that is busy with tests is no matter of theirs.
    ("CRITICAL_CPU_THRESHOLD", "100"),
    ("CRITICAL_MEMORY_THRESHOLD", "100"),
];

pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_as-infrastructure-service"));
    command.current_dir(folder).env_clear().env("LOG_LEVEL", "warn").kill_on_drop(true);
    command
}

impl Binary {
    /// Starts it on `services` and waits until it serves.
    pub async fn start(services: &str, more: &[(&str, &str)]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("services.toml"), services).unwrap();
        Self::start_in(folder, more).await
    }

    pub async fn start_in(folder: Arc<TempDir>, more: &[(&str, &str)]) -> Self {
        app::install_crypto_provider();
        let port = free_port();
        let mut command = command(folder.path());
        command
            .env("PORT", port.to_string())
            .env("REDIS_URL", "")
            .env("SERVICES_FILE", "services.toml")
            .envs(PROFILE)
            .envs(more.iter().copied());
        let log = std::fs::File::options().create(true).append(true).open(folder.path().join("stdout.log")).unwrap();
        let child = command.stdout(log).spawn().unwrap();
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let binary = Self { child, port, folder, client };
        eventually("the binary serving", async || binary.try_get("/livez").await).await;
        binary
    }

    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let asked = self.client.get(url).header("x-service-key", KEY).timeout(Duration::from_secs(5)).send().await;
        asked.ok()?.json().await.ok()
    }

    pub async fn get(&self, path: &str) -> Value {
        eventually(path, async || self.try_get(path).await).await
    }

    /// What it has written to its log, over all runs in this folder.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stdout.log")).unwrap()
    }

    /// The answer to `method` at `path`, whatever it is, as text.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let request = self.client.request(method.parse().unwrap(), url).header("x-service-key", KEY).timeout(LIMIT);
        let answer = request.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends nothing to `path`, which must be taken.
    pub async fn post(&self, path: &str) -> Value {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = self.client.post(url).header("x-service-key", KEY).timeout(LIMIT).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    /// Waits until what `path` answers satisfies `wanted`.
    pub async fn wait_until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(path, async || self.try_get(path).await.filter(|body| wanted(body))).await
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// SIGKILL, then the folder for the next run.
    pub async fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().await.unwrap();
        self.folder.clone()
    }

    /// SIGTERM; the exit code, and the folder for the next run.
    pub async fn terminate(mut self) -> (Option<i32>, Arc<TempDir>) {
        self.signal("-TERM");
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.expect("an end").unwrap();
        (status.code(), self.folder.clone())
    }
}

/// A Redis of one's own on a free port.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    folder: PathBuf,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_at(free_port()).await
    }

    pub async fn start_at(port: u16) -> Self {
        Self::start_with(port, std::env::temp_dir(), &["--appendonly", "no"]).await
    }

    /// One that keeps in `folder` whatever it has confirmed.
    pub async fn start_durable(port: u16, folder: &Path) -> Self {
        Self::start_with(port, folder.to_owned(), &["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    async fn start_with(port: u16, folder: PathBuf, more: &[&str]) -> Self {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .args(more)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server, which tests/run installs");
        let server = Self { child, port, folder };
        eventually("Redis", async || server.ask(&["PING"]).await.filter(|answer| answer == "PONG")).await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The answer of `redis-cli` in database 3.
    pub async fn ask(&self, arguments: &[&str]) -> Option<String> {
        let port = self.port.to_string();
        let asked = Command::new("redis-cli")
            .args(["-p", &port, "-n", "3", "--raw"])
            .args(arguments)
            .current_dir(&self.folder)
            .stderr(Stdio::null())
            .output();
        let output = tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// An event as it came out of `GET /events`.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    pub id: Option<i64>,
    pub kind: String,
    pub data: Value,
}

/// A reader of `GET /events`.
pub struct Listener {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Listener {
    pub fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), text: String::new() }
    }

    /// The next event; comments are passed over. `None`: the stream has ended.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let heard = field("event").map(|kind| Heard {
                    id: field("id").map(|id| id.parse().unwrap()),
                    kind: kind.to_owned(),
                    data: serde_json::from_str(field("data").unwrap()).unwrap(),
                });
                self.text = rest.to_owned();
                if heard.is_some() {
                    return heard;
                }
                continue;
            }
            let more = tokio::time::timeout(LIMIT, self.body.next()).await.expect("an event or an end")?;
            self.text.push_str(std::str::from_utf8(&more.unwrap()).unwrap());
        }
    }

    /// Waits until the stream ends, whatever is said before.
    pub async fn wait_for_end(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Waits for an event of this type.
    pub async fn wait_for(&mut self, kind: &str) -> Heard {
        loop {
            let heard = self.next().await.unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if heard.kind == kind {
                return heard;
            }
        }
    }
}
