//! Traces of the service itself, as a collector receives them from the built binary; and `traceparent` on probes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{Binary, KEY, LIMIT, Recorder, RedisServer, Script, Stub, TestApp, command, eventually};

/// What the collector does with a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Take,
    Refuse(u16),
    WebPage,
    Hang,
}

/// A span as it came.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    trace: String,
    id: String,
    parent: String,
    kind: i32,
    attributes: BTreeMap<String, String>,
    resource: BTreeMap<String, String>,
}

/// A collector of OTLP over HTTP on a free port.
struct Collector {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    kept: Arc<Mutex<Kept>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    connections: usize,
    /// Every byte that came, head and body.
    bytes: Vec<u8>,
    heads: Vec<String>,
    spans: Vec<Seen>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(mood);
        let kept = Arc::<Mutex<Kept>>::default();
        let into = kept.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                into.lock().unwrap().connections += 1;
                tokio::spawn(collect(stream, into.clone(), moods.clone()));
            }
        });
        Self { address, mood, kept, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> usize {
        self.kept.lock().unwrap().heads.len()
    }

    /// The first span that `wanted` is satisfied with.
    async fn wait_for(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        eventually(what, async || self.kept.lock().unwrap().spans.iter().find(|span| wanted(span)).cloned()).await
    }

    fn spans(&self) -> Vec<Seen> {
        self.kept.lock().unwrap().spans.clone()
    }
}

async fn collect(stream: TcpStream, kept: Arc<Mutex<Kept>>, moods: watch::Receiver<Mood>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let mood = *moods.borrow();
        {
            let mut kept = kept.lock().unwrap();
            let mut plain = body.clone();
            if head.to_ascii_lowercase().contains("content-encoding: gzip") {
                plain.clear();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body.as_slice()), &mut plain).unwrap();
            }
            kept.bytes.extend_from_slice(head.as_bytes());
            kept.bytes.extend_from_slice(&plain);
            kept.heads.push(head);
            if mood == Mood::Take {
                let spans = read(&plain);
                kept.spans.extend(spans);
            }
        }
        let answer = match mood {
            Mood::Take => {
                "HTTP/1.1 200 X\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n".to_owned()
            }
            Mood::Refuse(code) => format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n"),
            Mood::WebPage => "HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi".to_owned(),
            Mood::Hang => return std::future::pending().await,
        };
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn plain(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: Option<&AnyValue>| match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|entry| (entry.key.clone(), text(entry.value.as_ref()))).collect()
}

fn read(body: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for of_resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let resource = plain(&of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.events.is_empty(), "log lines are no part of a span: {span:?}");
            seen.push(Seen {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind,
                attributes: plain(&span.attributes),
                resource: resource.clone(),
            });
        }
    }
    seen
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Settings that have spans sent soon.
fn soon<'a>(endpoint: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut settings = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    settings.extend_from_slice(more);
    settings
}

/// The value of a header in a request head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = head.lines().filter_map(|line| line.split_once(':')).find(|(known, _)| *known == name)?;
    Some(value.trim())
}

#[tokio::test]
async fn a_request_and_a_check_arrive_as_spans() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::ok()).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\ntraceparent = true\n", auth.url());
    let endpoint = collector.url();
    let more = [("OTEL_RESOURCE_ATTRIBUTES", "team=night"), ("SERVICE_NAME", "infra")];
    let binary = Binary::start(&services, &soon(&endpoint, &more)).await;
    let url = format!("http://127.0.0.1:{}/health/service/auth?verbose=query-canary", binary.port);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.get(&url).header("x-service-key", KEY).header("traceparent", PARENT);
    assert!(asked.send().await.unwrap().status().is_success());

    let request = collector.wait_for("the request", |span| span.parent == "00f067aa0ba902b7").await;
    assert_eq!(request.trace, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((request.name.as_str(), request.kind), ("GET /health/service/{name}", 2));
    let attribute = |span: &Seen, name: &str| span.attributes.get(name).cloned().unwrap_or_default();
    assert_eq!(attribute(&request, "http.request.method"), "GET");
    assert_eq!(attribute(&request, "http.route"), "/health/service/{name}");
    assert_eq!(attribute(&request, "url.path"), "/health/service/auth");
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    let told = |name: &str| request.resource.get(name).cloned().unwrap_or_default();
    assert_eq!((told("service.name"), told("team")), ("infra".to_owned(), "night".to_owned()));
    assert_eq!(told("telemetry.sdk.language"), "rust");

    let unknown = format!("http://127.0.0.1:{}/no/such/path", binary.port);
    assert_eq!(client.get(unknown).header("x-service-key", KEY).send().await.unwrap().status().as_u16(), 404);
    let is_it = |span: &Seen| attribute(span, "url.path") == "/no/such/path";
    let unknown = collector.wait_for("the other request", is_it).await;
    assert_eq!((unknown.name.as_str(), unknown.parent.as_str()), ("GET", ""));
    assert_eq!(attribute(&unknown, "http.response.status_code"), "404");

    let check = collector.wait_for("a check", |span| span.name == "check").await;
    assert_eq!((check.parent.as_str(), check.kind), ("", 3));
    assert_eq!(attribute(&check, "infra.service"), "auth");
    assert_eq!(attribute(&check, "infra.result"), "healthy");
    assert_eq!(attribute(&check, "server.address"), "127.0.0.1");
    assert_eq!(attribute(&check, "server.port"), auth.address.port().to_string());
    for name in ["probe", "judge"] {
        let child = collector.wait_for(name, |span| span.name == name && span.trace == check.trace).await;
        assert_eq!(child.parent, check.id, "{name}");
    }
    // The first check tells that the service is healthy: that is committed.
    let first = collector.wait_for("a commit", |span| span.name == "commit").await;
    assert!(collector.spans().iter().any(|span| span.name == "check" && span.id == first.parent));
    collector.wait_for("records", |span| span.name == "write records").await;

    let sent = format!("00-{}-{}-01", check.trace, check.id);
    let heads = auth.heads.lock().unwrap().clone();
    assert!(heads.iter().any(|head| header(head, "traceparent") == Some(&sent)), "{sent}: {heads:?}");
    let distinct: std::collections::BTreeSet<_> = heads.iter().map(|head| header(head, "traceparent")).collect();
    assert_eq!(distinct.len(), heads.len(), "each check is a trace of its own");
    assert!(collector.kept.lock().unwrap().heads[0].starts_with("POST /v1/traces "));
    assert!(!collector.spans().iter().any(|span| attribute(span, "url.path").contains("v1/traces")));

    // The last spans are sent at the stop, whenever the next batch would have been due.
    let before = collector.requests();
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    assert!(collector.requests() >= before);
}

#[tokio::test]
async fn the_last_spans_leave_at_the_stop() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::ok()).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let endpoint = format!("{}/own/path", collector.url());
    let more = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ];
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("services.toml"), services).unwrap();
    std::fs::write(folder.path().join(".env"), "OTEL_EXPORTER_OTLP_HEADERS=x-tenant=night%20shift\n").unwrap();
    let binary = Binary::start_in(folder, &more).await;
    binary.wait_until("/health", |health| health["services"]["healthy"] == 1).await;
    assert_eq!(collector.requests(), 0);
    binary.terminate().await;
    assert!(collector.spans().iter().any(|span| span.name == "check"));
    let heads = collector.kept.lock().unwrap().heads.clone();
    assert!(heads[0].starts_with("POST /own/path "), "{heads:?}");
    assert_eq!(header(&heads[0], "x-tenant"), Some("night shift"));
}

#[tokio::test]
async fn no_secret_is_in_any_exported_byte() {
    let (collector, auth, recorder) =
        (Collector::start(Mood::Take).await, Stub::start(Script::Close).await, Recorder::start().await);
    let services = format!(
        "[[service]]\nname = \"auth\"\nurl = \"http://probe:password-canary@{}/?t=target-canary\"\ncritical = true\n\
         traceparent = true\nmethod = \"POST\"\nbody = \"body-canary\"\n[service.headers]\nx-token = \"header-canary\"\n",
        auth.address
    );
    let (endpoint, hook) = (collector.url(), format!("{}?token=hook-canary", recorder.url()));
    let key = "service-key-canary-0123456789";
    let more = [("ALERT_WEBHOOK_URL", hook.as_str()), ("READONLY_SERVICE_KEYS", key)];
    let binary = Binary::start(&services, &soon(&endpoint, &more)).await;
    recorder.wait_for(1).await;
    let url = format!("http://127.0.0.1:{}/health?q=query-canary", binary.port);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.get(&url).header("x-service-key", key).header("traceparent", PARENT).header("cookie", "canary");
    assert!(asked.send().await.unwrap().status().is_success());
    collector.wait_for("the request", |span| span.parent == "00f067aa0ba902b7").await;
    let failed = collector.wait_for("a check", |span| span.name == "check").await;
    assert_eq!(failed.attributes["infra.result"], "unhealthy");
    assert_eq!(failed.attributes["error.type"], failed.attributes["infra.reason"]);
    let is_told = |span: &Seen| span.name == "deliver" && span.attributes["infra.receiver"] == "webhook";
    let told = collector.wait_for("a delivery", is_told).await;
    assert_eq!((told.kind, told.parent.as_str()), (3, ""));
    binary.terminate().await;
    let kept = collector.kept.lock().unwrap();
    let text = String::from_utf8_lossy(&kept.bytes);
    assert!(text.contains("infra.service"));
    let found: Vec<_> = text.match_indices("canary").collect();
    assert!(found.is_empty(), "{found:?}");
    assert!(!text.contains(KEY));
}

/// Runs against a collector in `mood` and stops in time; what it has written to its log.
async fn rides_out(collector: &Collector, hint: &str) -> String {
    let auth = Stub::start(Script::ok()).await;
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let endpoint = collector.url();
    let more = [("SHUTDOWN_GRACE_MS", "2000"), ("LOG_LEVEL", "info"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "30000")];
    let binary = Binary::start(&services, &soon(&endpoint, &more)).await;
    binary.wait_until("/health", |health| health["services"]["healthy"] == 1).await;
    eventually("an attempt", async || (collector.kept.lock().unwrap().connections > 0).then_some(())).await;
    let probed = auth.requests();
    eventually("checks going on", async || (auth.requests() > probed + 2).then_some(())).await;
    if !hint.is_empty() {
        eventually("a word of it", async || binary.log().contains(hint).then_some(())).await;
    }
    let asked = Instant::now();
    binary.get("/health").await;
    assert!(asked.elapsed() < Duration::from_secs(2), "answers are not delayed");
    let stopping = Instant::now();
    let folder = binary.folder.clone();
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
    std::fs::read_to_string(folder.path().join("stdout.log")).unwrap()
}

#[tokio::test]
async fn a_collector_that_hangs_delays_nobody() {
    let log = rides_out(&Collector::start(Mood::Hang).await, "").await;
    assert!(log.contains("spans were never sent"), "{log}");
}

#[tokio::test]
async fn a_collector_that_refuses_is_told_of_once() {
    let log = rides_out(&Collector::start(Mood::Refuse(500)).await, "traces cannot be sent").await;
    assert_eq!(log.matches("traces cannot be sent").count(), 1, "{log}");
    assert!(log.contains("HTTP 500"), "{log}");
    let log = rides_out(&Collector::start(Mood::WebPage).await, "traces cannot be sent").await;
    assert!(log.contains("it is no collector"), "{log}");
}

#[tokio::test]
async fn a_collector_that_comes_back_is_told_of() {
    let (collector, auth) = (Collector::start(Mood::Refuse(503)).await, Stub::start(Script::ok()).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let endpoint = collector.url();
    let binary = Binary::start(&services, &soon(&endpoint, &[("LOG_LEVEL", "info")])).await;
    eventually("a warning", async || binary.log().contains("traces cannot be sent").then_some(())).await;
    collector.mood.send_replace(Mood::Take);
    collector.wait_for("a check", |span| span.name == "check").await;
    eventually("a word of it", async || binary.log().contains("are sent to").then_some(())).await;
    let log = binary.log();
    assert_eq!((log.matches("traces cannot be sent").count(), log.matches("again; ").count()), (1, 1), "{log}");
}

#[tokio::test]
async fn spans_beyond_the_queue_are_dropped_and_counted() {
    let (collector, auth) = (Collector::start(Mood::Hang).await, Stub::start(Script::ok()).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let endpoint = collector.url();
    let more = [("OTEL_BSP_MAX_QUEUE_SIZE", "2"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"), ("SHUTDOWN_GRACE_MS", "500")];
    let binary = Binary::start(&services, &soon(&endpoint, &more)).await;
    eventually("a word of it", async || binary.log().contains("beyond the queue are dropped").then_some(())).await;
    let folder = binary.folder.clone();
    binary.terminate().await;
    let log = std::fs::read_to_string(folder.path().join("stdout.log")).unwrap();
    assert_eq!(log.matches("beyond the queue are dropped").count(), 1, "{log}");
    let (before, _) = log.split_once(" spans were never sent").expect("a count");
    let lost: u64 = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(lost > 2, "{log}");
}

#[tokio::test]
async fn a_collector_over_tls_is_trusted_by_its_authority() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::ok()).await);
    let folder = tempfile::tempdir().unwrap();
    let shown = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.path().join("ca.pem").display().to_string();
    std::fs::write(&file, shown.cert.pem()).unwrap();
    as_infrastructure_service::app::install_crypto_provider();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(shown.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![shown.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (endpoint, upstream) =
        (format!("https://localhost:{}", listener.local_addr().unwrap().port()), collector.address);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut inside) = acceptor.accept(stream).await else { continue };
            let mut plain = TcpStream::connect(upstream).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inside, &mut plain).await });
        }
    });
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let binary = Binary::start(&services, &soon(&endpoint, &[])).await;
    eventually("a warning", async || binary.log().contains("traces cannot be sent").then_some(())).await;
    assert!(collector.spans().is_empty());
    drop(binary);
    let more = [("OTEL_EXPORTER_OTLP_CERTIFICATE", file.as_str())];
    let _binary = Binary::start(&services, &soon(&endpoint, &more)).await;
    collector.wait_for("a check", |span| span.name == "check").await;
}

#[tokio::test]
async fn what_is_written_to_redis_is_a_span() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::ok()).await);
    let redis = RedisServer::start().await;
    let (endpoint, url) = (collector.url(), redis.url());
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    let _binary = Binary::start(&services, &soon(&endpoint, &[("REDIS_URL", &url)])).await;
    let written = collector.wait_for("a write", |span| span.name == "write redis").await;
    assert_eq!(written.attributes["db.system.name"], "redis");
    assert_eq!(written.attributes["db.operation.batch.size"], "1");
}

#[tokio::test]
async fn without_a_collector_it_starts_serves_and_stops() {
    let auth = Stub::start(Script::ok()).await;
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\n", auth.url());
    // Bound and never listened on: whoever connects is refused.
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", reserved.local_addr().unwrap());
    let binary = Binary::start(&services, &soon(&endpoint, &[])).await;
    binary.wait_until("/health", |health| health["services"]["healthy"] == 1).await;
    eventually("a warning", async || binary.log().contains("traces cannot be sent").then_some(())).await;
    let stopping = Instant::now();
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn nothing_is_sent_unless_it_is_asked_for() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::ok()).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\ntraceparent = true\n", auth.url());
    let endpoint = collector.url();
    let off = [
        vec![("OTEL_TRACES_SAMPLER", "always_on")],
        soon(&endpoint, &[("OTEL_SDK_DISABLED", "true")]),
        soon(&endpoint, &[("OTEL_TRACES_EXPORTER", "none")]),
        soon(&endpoint, &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")]),
    ];
    for more in off {
        let probed = auth.requests();
        let binary = Binary::start(&services, &more).await;
        binary.wait_until("/health", |health| health["services"]["healthy"] == 1).await;
        eventually("probes", async || (auth.requests() > probed + 1).then_some(())).await;
        binary.terminate().await;
        assert_eq!(collector.kept.lock().unwrap().connections, 0, "{more:?}");
    }
    // Ids without a trace: nobody has recorded it, and the flag says so.
    for head in auth.heads.lock().unwrap().iter() {
        let parent = header(head, "traceparent").expect("a traceparent");
        let parts: Vec<&str> = parent.split('-').collect();
        assert_eq!((parts[0], parts[1].len(), parts[2].len(), parts[3]), ("00", 32, 16, "00"), "{parent}");
        assert!(parts[1].contains(|c| c != '0') && parts[2].contains(|c| c != '0'), "{parent}");
    }
}

#[tokio::test]
async fn wrong_variables_stop_the_start_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nonsense"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret-canary"),
    ];
    for argument in ["run", "check-config"] {
        for (name, value) in wrong {
            let mut command = command(folder.path());
            command.args([argument]).env("PORT", "0").env("REDIS_URL", "");
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").env(name, value);
            let output = tokio::time::timeout(LIMIT, command.output()).await.unwrap().unwrap();
            let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{argument} {name}: {told}");
            assert!(told.contains(&format!("{name}: ")) && !told.contains("canary"), "{argument}: {told}");
        }
    }
}

#[tokio::test]
async fn log_lines_are_the_same_with_traces_and_without() {
    let (collector, auth) = (Collector::start(Mood::Take).await, Stub::start(Script::Close).await);
    let services = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\ncheck_interval = 1\n", auth.url());
    let endpoint = collector.url();
    let mut logs = Vec::new();
    for more in [vec![], soon(&endpoint, &[])] {
        let more: Vec<_> = more.into_iter().chain([("LOG_LEVEL", "trace")]).collect();
        let binary = Binary::start(&services, &more).await;
        eventually("a change", async || binary.log().contains("auth is unhealthy").then_some(())).await;
        let log = binary.log();
        let line = log.lines().find(|line| line.contains("auth is unhealthy")).unwrap().to_owned();
        let checked = log.lines().find(|line| line.contains("checked")).unwrap().to_owned();
        // All but the time.
        logs.push([line, checked].map(|line| line.split_once(' ').unwrap().1.to_owned()));
    }
    assert_eq!(logs[0], logs[1]);
    assert!(!logs.concat().join(" ").contains("infra."), "spans are for traces alone: {logs:?}");
    assert!(!collector.spans().is_empty() || collector.requests() > 0);
}

#[tokio::test]
async fn a_traceparent_goes_where_the_operators_headers_go() {
    let other = Stub::start(Script::ok()).await;
    let away = format!("HTTP/1.1 302 X\r\nlocation: {}/there\r\ncontent-length: 0\r\n\r\n", other.url());
    let auth = Stub::start(Script::Raw(away.into_bytes())).await;
    let app = TestApp::with_file(
        &format!(
            "[[service]]\nname = \"asks\"\nurl = \"{0}\"\ntraceparent = true\nfollow_redirects = true\n\
             [[service]]\nname = \"by-hand\"\nurl = \"{0}\"\ntraceparent = true\nheaders = {{ Traceparent = \"mine\" }}\n\
             [[service]]\nname = \"not\"\nurl = \"{0}\"\n",
            auth.url()
        ),
        &[],
    )
    .await;
    app.app.engine.pause_checks(false);
    let mut sent = Vec::new();
    for name in ["asks", "by-hand", "not"] {
        let probed = auth.requests();
        app.ask("POST", &format!("/services/{name}/check"), &[("x-service-key", KEY)], "").await;
        eventually("a probe", async || (auth.requests() > probed).then_some(())).await;
        let head = auth.heads.lock().unwrap()[probed].to_ascii_lowercase();
        sent.push(header(&head, "traceparent").map(str::to_owned));
    }
    assert!(sent[0].as_ref().unwrap().ends_with("-00"), "{sent:?}");
    assert_eq!(sent[1..], [Some("mine".to_owned()), None]);
    let followed = other.heads.lock().unwrap().clone();
    assert!(!followed.is_empty() && followed.iter().all(|head| header(head, "traceparent").is_none()), "{followed:?}");
}

#[tokio::test]
async fn a_grpc_question_carries_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, _respond))) = connection.accept().await {
                    let _ = told.send(request.headers().get("traceparent").cloned());
                }
            });
        }
    });
    let file = format!("[[service]]\nname = \"a\"\nurl = \"{url}\"\ntraceparent = true\n");
    let app = TestApp::with_file(&file, &[]).await;
    app.app.engine.pause_checks(false);
    let check = app.ask("POST", "/services/a/check", &[("x-service-key", KEY)], "");
    let (_, parent) = tokio::join!(check, tokio::time::timeout(LIMIT, asked.recv()));
    let parent = parent.unwrap().unwrap().expect("a traceparent");
    assert!(parent.to_str().unwrap().starts_with("00-") && parent.len() == 55, "{parent:?}");
}

#[tokio::test]
async fn a_registration_asks_for_it_and_shows_it() {
    let app = TestApp::with(&[]).await;
    let register = async |body: serde_json::Value| {
        app.ask("POST", "/services", &[("x-service-key", KEY)], &body.to_string()).await
    };
    let taken = register(json!({"id": "a", "url": "http://127.0.0.1:1/", "traceparent": true})).await;
    assert_eq!((taken.status.as_u16(), &taken.json["traceparent"]), (201, &json!(true)), "{}", taken.text);
    let taken = register(json!({"id": "g", "url": "grpc://127.0.0.1:1", "traceparent": true})).await;
    assert_eq!(taken.status.as_u16(), 201, "{}", taken.text);
    let refused = register(json!({"id": "t", "url": "tcp://127.0.0.1:1", "traceparent": true})).await;
    assert_eq!(refused.status.as_u16(), 422);
    assert!(refused.text.contains("traceparent"), "{}", refused.text);
}
