//! Probes that log in, speak TLS or gRPC, against real servers: `redis-server`, PostgreSQL, tonic, rustls. Each up, down,
//! slow, and answering what it should not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use as_infrastructure_service::app::install_crypto_provider;
use as_infrastructure_service::domain::classify::{Verdict, classify};
use as_infrastructure_service::domain::egress::EgressPolicy;
use as_infrastructure_service::domain::observation::{Observation, Reason};
use as_infrastructure_service::domain::service::{Service, Source};
use as_infrastructure_service::domain::spec::{Defaults, ServiceSpec};
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::probes::{self, Clients};
use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic_health::ServingStatus;

use crate::support::{RedisServer, eventually, free_port};

/// In no text of any outcome.
const PASSWORD: &str = "geheim-4711";

fn service(url: &str, mut more: Value) -> Service {
    let fields = more.as_object_mut().unwrap();
    fields.insert("name".into(), "target".into());
    fields.insert("url".into(), url.into());
    serde_json::from_value::<ServiceSpec>(more).unwrap().into_service(&Defaults::default(), Source::File).unwrap()
}

async fn look(url: &str, more: Value) -> (Observation, Verdict) {
    install_crypto_provider();
    let clients = Clients::new(EgressPolicy { development: true, ..EgressPolicy::default() }).unwrap();
    let service = service(url, more);
    let seen = probes::observe(&clients, &service, true, async |_| {}).await;
    let verdict = classify(&seen, service.limits.latency, &service.expected);
    assert!(!format!("{seen:?} {verdict:?}").contains(PASSWORD), "{seen:?}");
    (seen, verdict)
}

async fn check(url: &str, more: Value, status: Status, reason: Reason, text: &str) -> Observation {
    let (seen, verdict) = look(url, more).await;
    assert_eq!((verdict.status, verdict.reason), (Some(status), reason), "{url}: {seen:?}");
    let told = verdict.error_message.unwrap_or_default();
    assert!(told.contains(text), "{url}: {told}");
    seen
}

async fn healthy(url: &str, more: Value) -> Observation {
    let seen = check(url, more, Status::Healthy, Reason::Ok, "").await;
    assert!(seen.phases.connect.is_some() && seen.phases.response.is_some(), "{seen:?}");
    seen
}

/// A server that answers what it is sent by `script`, one entry for each thing it reads, and then says no more.
async fn scripted(script: &[&[u8]]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script: Vec<Vec<u8>> = script.iter().map(|answer| answer.to_vec()).collect();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for answer in script {
                    let _ = stream.read(&mut buffer).await;
                    if answer.is_empty() {
                        return;
                    }
                    let _ = stream.write_all(&answer).await;
                }
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}

/// Every probe alike: nobody there, silence, an early end, another protocol.
async fn meets_what_all_meet(scheme: &str, more: Value) {
    let with = |timeout_ms: u32| {
        let mut more = more.clone();
        more["timeout_ms"] = timeout_ms.into();
        more
    };
    let url = |address: SocketAddr| format!("{scheme}://{address}");
    let gone = format!("{scheme}://127.0.0.1:{}", free_port());
    check(&gone, with(5000), Status::Unhealthy, Reason::ConnectRefused, "").await;
    check(&url(scripted(&[]).await), with(300), Status::Unhealthy, Reason::Timeout, "").await;
    let broken = if scheme == "tls" { Reason::Tls } else { Reason::Protocol };
    check(&url(scripted(&[b""]).await), with(5000), Status::Unhealthy, broken, "").await;
    let other = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    check(&url(scripted(&[other]).await), with(5000), Status::Unhealthy, broken, "").await;
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n * 7919 % 251) as u8).collect();
    check(&url(scripted(&[&noise]).await), with(5000), Status::Unhealthy, broken, "").await;
}

// Certificates.

fn date(days_ahead: i64) -> NaiveDate {
    let today = DateTime::<Utc>::from(std::time::SystemTime::now()).date_naive();
    if days_ahead < 0 {
        today - Days::new(days_ahead.unsigned_abs())
    } else {
        today + Days::new(days_ahead.unsigned_abs())
    }
}

/// A certificate of `names` that ends at midnight before the day so many days ahead.
fn about(names: &[&str], days_ahead: i64) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    let ends = date(days_ahead);
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(ends.year(), ends.month() as u8, ends.day() as u8);
    parameters
}

fn authority(name: &str, days_ahead: i64) -> CertificateParams {
    let mut parameters = about(&[], days_ahead);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn root() -> Self {
        let (parameters, key) = (authority("Test Root", 3650), KeyPair::generate().unwrap());
        let certificate = parameters.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(parameters, key), der, pem }
    }

    fn below(&self, name: &str, days_ahead: i64) -> Self {
        let (parameters, key) = (authority(name, days_ahead), KeyPair::generate().unwrap());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(parameters, key), der, pem }
    }

    fn issue(&self, names: &[&str], days_ahead: i64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = about(names, days_ahead).signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![certificate.der().clone()], key }
    }
}

/// What a server shows.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Identity {
    fn self_signed(names: &[&str], days_ahead: i64) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = about(names, days_ahead).self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    fn with(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.der.clone());
        self
    }

    fn acceptor(&self, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]) -> TlsAcceptor {
        install_crypto_provider();
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
        let mut config = config.with_single_cert(self.chain.clone(), key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A server that speaks TLS and keeps what it hears inside of it.
    async fn serve(&self) -> Listening {
        self.serve_with(rustls::ALL_VERSIONS).await
    }

    async fn serve_with(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, heard) = (self.acceptor(versions, &[]), Arc::<Mutex<Vec<u8>>>::default());
        let kept = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes).await;
                kept.lock().unwrap().extend(bytes);
            }
        });
        Listening { port, heard }
    }

    /// TLS in front of a plain server; PostgreSQL is first asked for it.
    async fn before(&self, upstream: SocketAddr, alpn: &[&[u8]], asked: bool) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, acceptor) = (listener.local_addr().unwrap().port(), self.acceptor(rustls::ALL_VERSIONS, alpn));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if asked {
                        stream.read_exact(&mut [0; 8]).await.unwrap();
                        stream.write_all(b"S").await.unwrap();
                    }
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut plain = TcpStream::connect(upstream).await.unwrap();
                    let _ = copy_bidirectional(&mut inside, &mut plain).await;
                });
            }
        });
        port
    }
}

struct Listening {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Listening {
    fn url(&self, host: &str) -> String {
        format!("tls://{host}:{}", self.port)
    }
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn tls(more: Value) -> Value {
    json!({"protocol": "tls", "tls": more})
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_is_well() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let identity = root.issue(&["localhost", "127.0.0.1"], 100);
    for versions in [rustls::ALL_VERSIONS, &[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let server = identity.serve_with(versions).await;
        for host in ["localhost", "127.0.0.1"] {
            let seen = healthy(&server.url(host), tls(json!({"ca_file": ca_file}))).await;
            assert_eq!(seen.phases.response, seen.phases.tls);
            let expires = seen.reply.unwrap().certificate_expires.unwrap();
            assert_eq!(DateTime::from_timestamp(expires, 0).unwrap().date_naive(), date(100));
        }
    }
}

#[tokio::test]
async fn an_unknown_authority_a_wrong_name_and_an_end_each_have_their_words_and_their_dates() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let known = |more: Value| {
        let mut options = json!({"ca_file": ca_file});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tls(options)
    };
    let bad = async |url: &str, more: Value, text: &str| {
        let seen = check(url, more, Status::Unhealthy, Reason::Tls, text).await;
        assert!(seen.reply.unwrap().certificate_expires.is_some());
    };

    let server = root.issue(&["localhost"], 100).serve().await;
    let text = format!("TLS: not trusted: unknown issuer Test Root; expires {}", date(100));
    bad(&server.url("localhost"), tls(json!({})), &text).await;
    healthy(&server.url("localhost"), tls(json!({"verify": false}))).await;
    let itself = Identity::self_signed(&["localhost"], 100).serve().await;
    let text = format!("TLS: not trusted: self-signed; expires {}", date(100));
    bad(&itself.url("localhost"), known(json!({})), &text).await;

    let others = root.issue(&["a.example", "b.example", "10.0.0.1", "c.example", "d.example"], 100).serve().await;
    let text = "TLS: certificate is for other names (a.example, b.example, 10.0.0.1, 2 more)";
    bad(&others.url("localhost"), known(json!({})), text).await;
    healthy(&others.url("localhost"), known(json!({"server_name": "b.example"}))).await;

    let expired = root.issue(&["localhost"], -3).serve().await;
    let text = format!("TLS: certificate expired on {}", date(-3));
    bad(&expired.url("localhost"), known(json!({})), &text).await;
    let off = json!({"verify": false, "expiry_warning_days": 0, "expiry_critical_days": 0});
    bad(&expired.url("localhost"), known(off), &text).await;
}

#[tokio::test]
async fn days_left_are_those_of_the_first_of_the_chain_to_expire() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let with = || tls(json!({"ca_file": ca_file}));
    let soon = root.issue(&["localhost"], 10).serve().await;
    let text = format!("TLS: certificate expires in 9 days ({})", date(10));
    check(&soon.url("localhost"), with(), Status::Degraded, Reason::Tls, &text).await;
    let sooner = root.issue(&["localhost"], 2).serve().await;
    let text = format!("TLS: certificate expires in 1 day ({})", date(2));
    check(&sooner.url("localhost"), with(), Status::Unhealthy, Reason::Tls, &text).await;
    let off = tls(json!({"ca_file": ca_file, "expiry_warning_days": 0, "expiry_critical_days": 0}));
    healthy(&sooner.url("localhost"), off).await;

    let between = root.below("Between", 8);
    let server = between.issue(&["localhost"], 100).with(&between).serve().await;
    let text = format!("TLS: certificate expires in 7 days ({})", date(8));
    check(&server.url("localhost"), with(), Status::Degraded, Reason::Tls, &text).await;
}

#[tokio::test]
async fn an_expired_authority_that_nobody_needs_is_no_alarm() {
    // As with the root of 2021: servers still sent a cross-signature that had ended, beside a root that was trusted.
    let (folder, old) = (tempfile::tempdir().unwrap(), Authority::root());
    let key = KeyPair::generate().unwrap();
    let crossed = authority("New Root", -30).signed_by(&key, &old.issuer).unwrap();
    let parameters = authority("New Root", 3650);
    let root = parameters.self_signed(&key).unwrap();
    let ca_file = written(folder.path(), "ca.pem", &root.pem());
    let root = Authority { issuer: Issuer::new(parameters, key), der: crossed.der().clone(), pem: String::new() };
    let server = root.issue(&["localhost"], 100).with(&root).serve().await;
    healthy(&server.url("localhost"), tls(json!({"ca_file": ca_file}))).await;
    // Not accepted, it is part of the matter.
    let seen = check(&server.url("localhost"), tls(json!({})), Status::Unhealthy, Reason::Tls, "TLS: ").await;
    assert!(seen.reply.unwrap().certificate_expires.is_some());
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_read_is_our_own_fault_until_it_can() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let path = folder.path().join("ca.pem");
    let server = root.issue(&["localhost"], 100).serve().await;
    let more = || tls(json!({"ca_file": path}));
    let ours = async || {
        let (seen, verdict) = look(&server.url("localhost"), more()).await;
        assert_eq!((verdict.status, verdict.reason), (None, Reason::LocalResource), "{seen:?}");
        assert!(verdict.error_message.unwrap().contains("ca.pem"), "{seen:?}");
    };
    ours().await;
    std::fs::write(&path, "no certificate").unwrap();
    ours().await;
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    ours().await;
    std::fs::write(&path, &root.pem).unwrap();
    healthy(&server.url("localhost"), more()).await;
    // Another authority in its place counts from then on.
    std::fs::write(&path, Authority::root().pem + "\n").unwrap();
    check(&server.url("localhost"), more(), Status::Unhealthy, Reason::Tls, "not trusted").await;
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    ours().await;
}

#[tokio::test]
async fn what_speaks_no_tls_is_named() {
    meets_what_all_meet("tls", json!({"protocol": "tls"})).await;
    let plain = scripted(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await;
    let url = format!("tls://{plain}");
    check(&url, json!({"protocol": "tls"}), Status::Unhealthy, Reason::Tls, "does not speak TLS").await;
}

// Redis.

/// A Redis with settings of its own; ends with the test.
async fn redis_with(folder: &Path, port: u16, more: &[&str]) -> tokio::process::Child {
    let child = tokio::process::Command::new("redis-server")
        .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
        .args(more)
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("a port of Redis", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    child
}

fn redis(more: Value) -> Value {
    json!({"protocol": "redis", "redis": more})
}

#[tokio::test]
async fn redis_is_asked_for_a_pong() {
    let server = RedisServer::start().await;
    let seen = healthy(&server.url(), redis(json!({}))).await;
    assert!(seen.phases.tls.is_none());
    healthy(&format!("{}/5", server.url()), redis(json!({}))).await;
    check(&server.url(), redis(json!({"db": 99})), Status::Unhealthy, Reason::Status, "ERR DB index").await;
    check(&server.url(), redis(json!({"password": PASSWORD})), Status::Unhealthy, Reason::Status, "AUTH").await;
    meets_what_all_meet("redis", redis(json!({}))).await;
    meets_what_all_meet("redis", redis(json!({"password": PASSWORD, "db": 1}))).await;
    server.signal("-STOP");
    let slow = |more: Value| json!({"protocol": "redis", "timeout_ms": 300, "redis": more});
    check(&server.url(), slow(json!({})), Status::Unhealthy, Reason::Timeout, "").await;
    check(&server.url(), slow(json!({"password": PASSWORD})), Status::Unhealthy, Reason::Timeout, "").await;
    server.signal("-CONT");
    healthy(&server.url(), redis(json!({}))).await;
}

#[tokio::test]
async fn redis_lets_in_who_knows_the_password_and_it_is_told_to_nobody() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let text = port.to_string();
    let (limits, secret) = (["--port", &text, "--maxclients", "4"], format!(">{PASSWORD}"));
    let users = ["--requirepass", PASSWORD, "--user", "alice", "on", &secret, "~*", "+@all"];
    let _server = redis_with(folder.path(), port, &[&limits[..], &users[..]].concat()).await;
    let url = format!("redis://127.0.0.1:{port}");
    healthy(&url, redis(json!({"password": PASSWORD, "db": 3}))).await;
    healthy(&format!("redis://alice:{PASSWORD}@127.0.0.1:{port}/3"), redis(json!({}))).await;
    check(&url, redis(json!({})), Status::Unhealthy, Reason::Status, "NOAUTH").await;
    check(&url, redis(json!({"password": "wrong"})), Status::Unhealthy, Reason::Status, "WRONGPASS").await;
    // Too many clients: it says so and closes before it has read a word.
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let more = redis(json!({"password": PASSWORD}));
    check(&url, more, Status::Unhealthy, Reason::Status, "max number of clients").await;
    // A server that repeats what it was sent.
    let repeated = format!("-ERR unknown command 'AUTH', with args beginning with: '{PASSWORD}'\r\n");
    let echo = scripted(&[repeated.as_bytes()]).await;
    let url = format!("redis://{echo}");
    check(&url, redis(json!({"password": PASSWORD})), Status::Unhealthy, Reason::Status, "unknown command").await;
    let echo = scripted(&[format!("+{PASSWORD}\r\n").as_bytes()]).await;
    let url = format!("redis://{echo}");
    check(&url, redis(json!({"password": PASSWORD})), Status::Unhealthy, Reason::Protocol, "***").await;
}

#[tokio::test]
async fn redis_that_is_busy_loading_or_without_its_master_is_degraded() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let text = port.to_string();
    let _busy = redis_with(folder.path(), port, &["--port", &text, "--lua-time-limit", "5"]).await;
    let mut script = tokio::process::Command::new("redis-cli")
        .args(["-p", &text, "EVAL", "while true do end", "0"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = format!("redis://127.0.0.1:{port}");
    eventually("a busy Redis", async || {
        let (_, verdict) = look(&url, redis(json!({}))).await;
        verdict.error_message.filter(|text| text.contains("BUSY"))
    })
    .await;
    check(&url, redis(json!({})), Status::Degraded, Reason::Status, "Redis: BUSY").await;
    script.kill().await.unwrap();

    let (port, master) = (free_port(), free_port().to_string());
    let text = port.to_string();
    let arguments = ["--port", &text, "--replicaof", "127.0.0.1", &master, "--replica-serve-stale-data", "no"];
    let _orphan = redis_with(folder.path(), port, &arguments).await;
    let url = format!("redis://127.0.0.1:{port}");
    check(&url, redis(json!({})), Status::Degraded, Reason::Status, "MASTERDOWN").await;

    let loading = scripted(&[b"-LOADING Redis is loading the dataset in memory\r\n"]).await;
    check(&format!("redis://{loading}"), redis(json!({})), Status::Degraded, Reason::Status, "LOADING").await;
}

#[tokio::test]
async fn answers_that_are_not_of_redis_are_named_so() {
    for answer in [b":1\r\n".as_slice(), b"$4\r\nPONG\r\n", b"+OK\r\n", b"PONG\r\n", b"+PONG\n", b"\r\n"] {
        let url = format!("redis://{}", scripted(&[answer]).await);
        check(&url, redis(json!({})), Status::Unhealthy, Reason::Protocol, "").await;
    }
    // Half an answer, and nothing after it.
    let half = scripted(&[b"+PO"]).await;
    let more = json!({"protocol": "redis", "timeout_ms": 300});
    check(&format!("redis://{half}"), more, Status::Unhealthy, Reason::Timeout, "").await;
}

#[tokio::test]
async fn redis_over_tls_hears_nothing_before_it_is_trusted() {
    let (folder, root, port) = (tempfile::tempdir().unwrap(), Authority::root(), free_port());
    let identity = root.issue(&["localhost"], 10);
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let pem = {
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(&identity.chain[0]);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    let (certificate, key) =
        (written(folder.path(), "cert.pem", &pem), written(folder.path(), "key.pem", &identity.key.serialize_pem()));
    let text = port.to_string();
    let tls = ["--port", "0", "--tls-port", &text, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let more = ["--tls-auth-clients", "no", "--requirepass", PASSWORD];
    let _server = redis_with(folder.path(), port, &[&tls[..], &more[..]].concat()).await;
    let url = format!("rediss://:{PASSWORD}@localhost:{port}");
    let with = |more: Value| json!({"protocol": "redis", "tls": more});
    let seen = healthy(&url, with(json!({"ca_file": ca_file}))).await;
    assert!(seen.phases.tls.is_some() && seen.reply.unwrap().certificate_expires.is_some());
    let warned = with(json!({"ca_file": ca_file, "expiry_warning_days": 14}));
    check(&url, warned, Status::Degraded, Reason::Tls, "TLS: certificate expires in 9 days").await;
    check(&url, with(json!({})), Status::Unhealthy, Reason::Tls, "Connection failed: TLS: not trusted").await;

    let server = identity.serve().await;
    let url = format!("rediss://:{PASSWORD}@localhost:{}", server.port);
    check(&url, with(json!({})), Status::Unhealthy, Reason::Tls, "not trusted").await;
    let more = json!({"protocol": "redis", "timeout_ms": 300, "tls": {"ca_file": ca_file}});
    check(&url, more, Status::Unhealthy, Reason::Timeout, "").await;
    eventually("the log-in of the trusted", async || {
        let heard = server.heard.lock().unwrap().clone();
        (!heard.is_empty()).then_some(heard)
    })
    .await;
    assert_eq!(String::from_utf8_lossy(&server.heard.lock().unwrap()).matches(PASSWORD).count(), 1);
}

// PostgreSQL.

/// The server the tests run with, and where it listens.
async fn database() -> (url::Url, SocketAddr) {
    let url =
        std::env::var("TEST_POSTGRES_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
    let url: url::Url = url.parse().unwrap();
    let place = (url.host_str().unwrap(), url.port().unwrap_or(5432));
    let address = tokio::net::lookup_host(place).await.unwrap().next().unwrap();
    (url, address)
}

fn postgres(query: &str) -> Value {
    json!({"protocol": "postgres", "postgres": {"query": query}})
}

/// A message of the server: its letter, its length, its body.
fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[letter][..], &length, body].concat()
}

fn error_message(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

#[tokio::test]
async fn postgres_is_asked_its_query_and_nothing_else() {
    let (url, _) = database().await;
    let url = url.as_str();
    healthy(url, json!({"protocol": "postgres"})).await;
    for query in ["SELECT 1", "SELECT 1 WHERE false", ";", "SELECT repeat('x', 1000) FROM generate_series(1, 10000)"] {
        healthy(url, postgres(query)).await;
    }
    let table = format!("probe_{}", free_port());
    let write = format!("CREATE TABLE {table} (id int)");
    check(url, postgres(&write), Status::Unhealthy, Reason::Status, "read-only transaction (25006)").await;
    check(url, postgres("SELECT 1/0"), Status::Unhealthy, Reason::Status, "PostgreSQL: division by zero (22012)").await;
    check(url, postgres("SELEC"), Status::Unhealthy, Reason::Status, "syntax error").await;
    let slow = json!({"protocol": "postgres", "timeout_ms": 400, "postgres": {"query": "SELECT pg_sleep(20)"}});
    let seen = check(url, slow, Status::Unhealthy, Reason::Timeout, "").await;
    assert!(seen.phases.connect.is_some() && seen.phases.response.is_none(), "{seen:?}");
    let paused = check(url, postgres("SELECT pg_sleep(0.2)"), Status::Healthy, Reason::Ok, "").await;
    assert!(paused.response_ms().unwrap() >= 200, "{paused:?}");
}

#[tokio::test]
async fn postgres_refuses_a_log_in_and_says_when_it_cannot_yet() {
    let (url, _) = database().await;
    let with = |user: &str, database: &str| {
        let mut url = url.clone();
        url.set_username(user).unwrap();
        url.set_path(database);
        url.to_string()
    };
    let plain = || json!({"protocol": "postgres"});
    let nowhere = with(url.username(), "no_such_database");
    check(&nowhere, plain(), Status::Unhealthy, Reason::Status, "log-in refused: database").await;
    check(&with("no_such_role", "postgres"), plain(), Status::Unhealthy, Reason::Status, "log-in refused: ").await;

    let role = format!("probe_{}", free_port());
    let run = async |sql: String| {
        let (client, connection) = tokio_postgres::connect(url.as_str(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&sql).await.unwrap();
    };
    run(format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")).await;
    let (seen, verdict) = look(&with(&role, "postgres"), plain()).await;
    run(format!("DROP ROLE {role}")).await;
    assert_eq!((verdict.status, verdict.reason), (Some(Status::Degraded), Reason::Status), "{seen:?}");
    assert!(verdict.error_message.unwrap().contains("53300"));

    for (code, status) in [
        ("57P03", Status::Degraded),
        ("57P01", Status::Degraded),
        ("53300", Status::Degraded),
        ("28P01", Status::Unhealthy),
        ("XX000", Status::Unhealthy),
    ] {
        let server = scripted(&[&error_message(code, "so it is")]).await;
        let url = format!("postgres://u:{PASSWORD}@{server}/d?sslmode=disable");
        check(&url, plain(), status, Reason::Status, code).await;
    }
}

#[tokio::test]
async fn a_postgres_that_is_none_or_hostile_is_named_and_told_no_password() {
    meets_what_all_meet("postgres", json!({"protocol": "postgres"})).await;
    let clear = message(b'R', &[0, 0, 0, 3]);
    let at = async |script: &[&[u8]]| {
        let server = scripted(script).await;
        format!("postgres://u:{PASSWORD}@{server}/d?sslmode=disable")
    };
    let plain = || json!({"protocol": "postgres"});
    let echo = error_message("28P01", &format!("{PASSWORD} is wrong"));
    let url = at(&[&clear, &echo]).await;
    check(&url, plain(), Status::Unhealthy, Reason::Status, "log-in refused: *** is wrong (28P01)").await;
    let url = url.replace(&format!(":{PASSWORD}"), "");
    check(&url, plain(), Status::Unhealthy, Reason::Status, "log-in refused: password missing").await;
    // A server that asks for a method nobody has, for endless work, or announces two gigabytes.
    let kerberos = message(b'R', &[0, 0, 0, 2]);
    check(&at(&[&kerberos]).await, plain(), Status::Unhealthy, Reason::Status, "log-in refused: unsupported").await;
    let huge = [b"R".as_slice(), &0x7fff_ffff_u32.to_be_bytes(), &[0; 100_000]].concat();
    check(&at(&[&huge]).await, plain(), Status::Unhealthy, Reason::Protocol, "").await;
    let notices = message(b'N', b"SNOTICE\0C00000\0Mx\0\0").repeat(10_000);
    let endless = [message(b'R', &[0; 4]), notices].concat();
    check(&at(&[&endless]).await, plain(), Status::Unhealthy, Reason::Protocol, "").await;
    // Ready, then gone in the middle of the query.
    let ready = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
    let begun = [message(b'C', b"BEGIN\0"), message(b'C', b"SET\0"), message(b'Z', b"T")].concat();
    check(&at(&[&ready, &begun, b""]).await, plain(), Status::Unhealthy, Reason::Protocol, "").await;
    let ended = error_message("57P01", "terminating connection");
    check(&at(&[&ready, &begun, &ended]).await, plain(), Status::Degraded, Reason::Status, "57P01").await;
    let silent = json!({"protocol": "postgres", "timeout_ms": 300});
    check(&at(&[&ready, &begun]).await, silent, Status::Unhealthy, Reason::Timeout, "").await;
}

#[tokio::test]
async fn postgres_over_tls_is_verified_where_that_is_asked_for() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let (url, address) = database().await;
    let port = root.issue(&["localhost"], 10).before(address, &[], true).await;
    let with = |mode: &str| {
        let mut url = url.clone();
        url.set_host(Some("localhost")).unwrap();
        url.set_port(Some(port)).unwrap();
        url.set_query((!mode.is_empty()).then_some(mode));
        url.to_string()
    };
    let plain = || json!({"protocol": "postgres"});
    for mode in ["", "sslmode=prefer", "sslmode=require"] {
        assert!(healthy(&with(mode), plain()).await.phases.tls.is_some(), "{mode}");
    }
    check(&with("sslmode=verify-full"), plain(), Status::Unhealthy, Reason::Tls, "not trusted").await;
    let table = json!({"ca_file": ca_file, "expiry_warning_days": 14});
    let more = json!({"protocol": "postgres", "tls": table});
    check(&with("sslmode=verify-full"), more, Status::Degraded, Reason::Tls, "expires in 9 days").await;

    let none = scripted(&[b"N"]).await;
    let url = format!("postgres://u@{none}/d?sslmode=require");
    check(&url, plain(), Status::Unhealthy, Reason::Tls, "TLS: the server offers none").await;
    // Preferred only: the log-in follows in plain.
    let server = scripted(&[b"N", &error_message("57P03", "starting up")]).await;
    check(&format!("postgres://u@{server}/d"), plain(), Status::Degraded, Reason::Status, "57P03").await;
}

// gRPC.

/// The health service of tonic, and its address.
async fn health_server() -> (tonic_health::server::HealthReporter, SocketAddr) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (reporter, address)
}

fn grpc(service: &str) -> Value {
    json!({"protocol": "grpc", "grpc": {"service": service}})
}

#[tokio::test]
async fn grpc_health_is_what_the_server_says() {
    let (reporter, address) = health_server().await;
    let url = format!("grpc://{address}");
    healthy(&url, json!({"protocol": "grpc"})).await;
    reporter.set_service_status("shop.Orders", ServingStatus::Serving).await;
    healthy(&url, grpc("shop.Orders")).await;
    reporter.set_service_status("shop.Orders", ServingStatus::NotServing).await;
    let text = "gRPC: shop.Orders is NOT_SERVING";
    check(&url, grpc("shop.Orders"), Status::Unhealthy, Reason::Status, text).await;
    reporter.set_service_status("shop.Orders", ServingStatus::Unknown).await;
    check(&url, grpc("shop.Orders"), Status::Degraded, Reason::Status, "gRPC: shop.Orders is UNKNOWN").await;
    check(&url, grpc("no.Such"), Status::Unhealthy, Reason::Status, "gRPC NOT_FOUND: ").await;
    reporter.set_service_status("", ServingStatus::NotServing).await;
    check(&url, grpc(""), Status::Unhealthy, Reason::Status, "gRPC: the server is NOT_SERVING").await;
    meets_what_all_meet("grpc", json!({"protocol": "grpc"})).await;
}

#[tokio::test]
async fn grpc_over_tls_asks_for_http_2() {
    let (folder, root) = (tempfile::tempdir().unwrap(), Authority::root());
    let ca_file = written(folder.path(), "ca.pem", &root.pem);
    let (_reporter, address) = health_server().await;
    let identity = root.issue(&["localhost"], 100);
    let port = identity.before(address, &[b"h2"], false).await;
    let with = |more: Value| json!({"protocol": "grpc", "tls": more});
    let url = format!("grpcs://localhost:{port}");
    assert!(healthy(&url, with(json!({"ca_file": ca_file}))).await.phases.tls.is_some());
    check(&url, with(json!({})), Status::Unhealthy, Reason::Tls, "not trusted").await;
    let other = identity.before(address, &[b"http/1.1"], false).await;
    let url = format!("grpcs://localhost:{other}");
    check(&url, with(json!({"ca_file": ca_file})), Status::Unhealthy, Reason::Tls, "").await;
}

/// What a scripted gRPC server answers with.
#[derive(Clone, Default)]
struct Answer {
    code: u16,
    head: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    /// `None`: the head is all.
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

async fn answering(answer: Answer) -> String {
    fn headers(pairs: &[(&'static str, &'static str)]) -> http::HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["te"], "trailers");
                    let mut response = http::Response::new(());
                    *response.status_mut() = http::StatusCode::from_u16(answer.code).unwrap();
                    *response.headers_mut() = headers(&answer.head);
                    let mut body = respond.send_response(response, answer.trailers.is_none()).unwrap();
                    if let Some(trailers) = &answer.trailers {
                        body.send_data(answer.body.clone().into(), false).unwrap();
                        body.send_trailers(headers(trailers)).unwrap();
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn grpc_answers_are_read_wherever_the_status_stands_and_doubted_where_it_does_not() {
    let grpc = || json!({"protocol": "grpc"});
    let kind = ("content-type", "application/grpc+proto");
    let well = Answer {
        code: 200,
        head: vec![kind],
        body: vec![0, 0, 0, 0, 2, 8, 1],
        trailers: Some(vec![("grpc-status", "0")]),
    };
    healthy(&answering(well.clone()).await, grpc()).await;
    let in_head = |code, message| Answer {
        head: vec![kind, ("grpc-status", code), ("grpc-message", message)],
        trailers: None,
        ..well.clone()
    };
    let check = async |answer: Answer, status, reason, text: &str| {
        check(&answering(answer).await, grpc(), status, reason, text).await;
    };
    use Reason::{Protocol, Status as Word};
    use Status::{Degraded, Unhealthy};
    check(in_head("12", "no%20health%20here"), Unhealthy, Word, "gRPC UNIMPLEMENTED: no health here").await;
    check(in_head("99", "?"), Unhealthy, Word, "gRPC 99: ?").await;
    check(in_head("0", ""), Unhealthy, Protocol, "").await;
    check(Answer { body: vec![0, 0, 0, 0, 0], ..well.clone() }, Degraded, Word, "UNKNOWN").await;
    check(Answer { body: vec![0, 0, 0, 0, 2, 8, 3], ..well.clone() }, Unhealthy, Word, "SERVICE_UNKNOWN").await;
    check(Answer { body: vec![0, 0, 0, 0, 2, 8, 9], ..well.clone() }, Unhealthy, Protocol, "health status 9").await;
    check(Answer { body: vec![1, 0, 0, 0, 2, 8, 1], ..well.clone() }, Unhealthy, Protocol, "").await;
    check(Answer { body: vec![0; 60_000], ..well.clone() }, Unhealthy, Protocol, "4 KiB").await;
    check(Answer { trailers: Some(vec![]), ..well.clone() }, Unhealthy, Protocol, "no grpc-status").await;
    check(Answer { head: vec![("content-type", "text/html")], ..well.clone() }, Unhealthy, Protocol, "text/html").await;
    check(Answer { code: 503, ..well.clone() }, Unhealthy, Protocol, "HTTP 503, not gRPC").await;
}

#[tokio::test]
async fn a_grpc_server_that_takes_its_time_is_cut_off() {
    // Speaks HTTP/2, accepts the question, never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            kept.push(connection.accept().await);
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
        }
    });
    let began = std::time::Instant::now();
    let more = json!({"protocol": "grpc", "timeout_ms": 300});
    check(&url, more, Status::Unhealthy, Reason::Timeout, "").await;
    assert!(began.elapsed() < Duration::from_secs(5));
}
