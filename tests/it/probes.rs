//! Probes against scripted targets: what a hostile answer may cost, and what each failure is called.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use as_infrastructure_service::app::install_crypto_provider;
use as_infrastructure_service::domain::classify::{Verdict, classify};
use as_infrastructure_service::domain::egress::EgressPolicy;
use as_infrastructure_service::domain::observation::{Observation, Reason};
use as_infrastructure_service::domain::service::{Service, Source};
use as_infrastructure_service::domain::spec::{Defaults, ServiceSpec};
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::probes::{self, Clients};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Script, Stub};

fn clients() -> Clients {
    clients_of(EgressPolicy { development: true, ..EgressPolicy::default() })
}

fn clients_of(egress: EgressPolicy) -> Clients {
    install_crypto_provider();
    Clients::new(egress).unwrap()
}

fn service(url: &str, mut more: Value) -> Service {
    let fields = more.as_object_mut().unwrap();
    fields.insert("name".into(), "target".into());
    fields.insert("url".into(), url.into());
    serde_json::from_value::<ServiceSpec>(more).unwrap().into_service(&Defaults::default(), Source::File).unwrap()
}

async fn look(clients: &Clients, service: &Service, fresh: bool) -> (Observation, Verdict) {
    let seen = probes::observe(clients, service, fresh, async |_| {}).await;
    let verdict = classify(&seen, service.limits.latency, &service.expected);
    (seen, verdict)
}

async fn check(script: Script, more: Value, status: Status, reason: Reason) -> (Observation, Stub) {
    let stub = Stub::start(script).await;
    let (seen, verdict) = look(&clients(), &service(&stub.url(), more), false).await;
    assert_eq!((verdict.status, verdict.reason), (Some(status), reason), "{seen:?}");
    (seen, stub)
}

fn raw(text: &str) -> Script {
    Script::Raw(text.as_bytes().to_vec())
}

#[tokio::test]
async fn answers_are_what_they_seem() {
    let (seen, stub) = check(Script::ok(), json!({}), Status::Healthy, Reason::Ok).await;
    assert_eq!(seen.reply.unwrap().facts.version.as_deref(), Some("1.2.3"));
    assert!(seen.phases.connect.is_some() && seen.phases.tls.is_none());
    assert!(stub.heads.lock().unwrap()[0].starts_with("GET /health HTTP/1.1\r\n"));
    check(Script::Reply(500, String::new()), json!({}), Status::Unhealthy, Reason::Status).await;
    check(Script::Reply(404, String::new()), json!({}), Status::Degraded, Reason::Status).await;
    let pattern = json!({"expected_response_pattern": "\"status\":\\s*\"ok\""});
    check(Script::ok(), pattern.clone(), Status::Healthy, Reason::Ok).await;
    check(Script::Reply(200, "no".into()), pattern, Status::Degraded, Reason::Assertion).await;
}

#[tokio::test]
async fn each_failure_has_its_one_name() {
    check(Script::Hang, json!({"timeout_ms": 200}), Status::Unhealthy, Reason::Timeout).await;
    check(Script::Close, json!({}), Status::Unhealthy, Reason::Protocol).await;
    check(raw("ICY 200 OK\r\n\r\n"), json!({}), Status::Unhealthy, Reason::Protocol).await;
    check(raw("HTTP/1.1 abc\r\n\r\n"), json!({}), Status::Unhealthy, Reason::Protocol).await;
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!";
    check(raw(both), json!({}), Status::Unhealthy, Reason::Protocol).await;

    let gone = service(&format!("http://127.0.0.1:{}", crate::support::free_port()), json!({}));
    assert_eq!(look(&clients(), &gone, false).await.1.reason, Reason::ConnectRefused);
    let unknown = service("http://no-such-host.invalid", json!({"timeout_ms": 5000}));
    assert_eq!(look(&clients(), &unknown, false).await.1.reason, Reason::Dns);
    // A server that speaks, but no TLS.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = service(&format!("https://{}", plain.local_addr().unwrap()), json!({}));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert_eq!(look(&clients(), &tls, false).await.1.reason, Reason::Tls);
}

#[tokio::test]
async fn an_endless_body_is_cut_at_its_cap_and_costs_no_memory() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    let (_, stub) = check(Script::Endless(head.clone(), chunk.clone()), json!({}), Status::Healthy, Reason::Ok).await;
    // The cap, and what was under way in buffers when the connection was closed.
    assert!(stub.sent.load(Ordering::Relaxed) < 8 << 20);
    let pattern = json!({"expected_response_pattern": "never"});
    check(Script::Endless(head, chunk), pattern, Status::Degraded, Reason::BodyLimit).await;
}

#[tokio::test]
async fn a_compressed_bomb_is_counted_after_decoding() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b'x'; 100 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len()).into_bytes();
    answer.extend(bomb);
    let pattern = json!({"expected_response_pattern": "never"});
    check(Script::Raw(answer), pattern, Status::Degraded, Reason::BodyLimit).await;
}

#[tokio::test]
async fn a_slow_drip_costs_its_own_deadline_and_no_more() {
    let head =
        b"HTTP/1.1 200 OK\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n".to_vec();
    let began = Instant::now();
    let limit = json!({"timeout_ms": 400});
    check(Script::Drip(head, Duration::from_millis(50)), limit.clone(), Status::Unhealthy, Reason::Timeout).await;
    // In the body it only leaves the facts unknown: the answer itself was there.
    let body = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec(), vec![b' '; 60]].concat();
    let (seen, _) = check(Script::Drip(body, Duration::from_millis(8)), limit, Status::Healthy, Reason::Ok).await;
    assert_eq!(seen.reply.unwrap().facts.version, None);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn heads_over_their_cap_are_degraded_it_answered() {
    let many: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
    check(raw(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")), json!({}), Status::Degraded, Reason::BodyLimit).await;
    let big = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(100_000));
    check(raw(&big), json!({}), Status::Degraded, Reason::BodyLimit).await;
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    check(raw(&huge), json!({}), Status::Degraded, Reason::BodyLimit).await;
}

#[tokio::test]
async fn deep_json_has_no_facts_and_does_no_harm() {
    let body = format!("{{\"version\":\"9\",\"data\":{}", "[".repeat(100_000));
    let (seen, _) = check(Script::Reply(200, body), json!({}), Status::Healthy, Reason::Ok).await;
    assert_eq!(seen.reply.unwrap().facts.version, None);
}

#[tokio::test]
async fn a_leftover_answer_is_never_believed() {
    let forged = "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (clients, stub) = (clients(), Stub::start(raw(forged)).await);
    let service = service(&stub.url(), json!({}));
    for _ in 0..50 {
        assert_eq!(look(&clients, &service, false).await.1.status, Some(Status::Unhealthy));
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_regular_checks_and_new_for_quick_ones() {
    let (clients, stub) = (clients(), Stub::start(Script::ok()).await);
    let service = service(&stub.url(), json!({}));
    for _ in 0..3 {
        look(&clients, &service, false).await;
    }
    assert_eq!(stub.connections.load(Ordering::Relaxed), 1);
    for _ in 0..2 {
        look(&clients, &service, true).await;
    }
    assert_eq!(stub.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_pooled_connection_that_died_is_tried_once_more_on_a_new_one() {
    // Keeps the connection for one answer, then closes it when the next request has come.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    let _ = stream.read(&mut buffer).await;
                }
            });
        }
    });
    let (clients, service) = (clients(), service(&url, json!({})));
    for _ in 0..5 {
        assert_eq!(look(&clients, &service, false).await.1.status, Some(Status::Healthy));
    }
}

#[tokio::test]
async fn redirects_are_followed_only_where_they_may_be() {
    let target = Stub::start(Script::ok()).await;
    let to = |code: u16, location: &str| {
        raw(&format!("HTTP/1.1 {code} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
    };
    let follow = json!({"follow_redirects": true, "headers": {"x-service-key": "secret"}});
    check(to(302, &target.url()), json!({}), Status::Degraded, Reason::Status).await;
    check(to(302, &target.url()), follow.clone(), Status::Healthy, Reason::Ok).await;
    let head = target.heads.lock().unwrap().last().unwrap().clone();
    assert!(!head.contains("x-service-key"), "a header went to another origin: {head}");
    check(to(302, "ftp://127.0.0.1/"), follow.clone(), Status::Degraded, Reason::Status).await;
    check(to(302, "http://169.254.169.254/latest/"), follow.clone(), Status::Unhealthy, Reason::EgressDenied).await;

    let ring = Stub::start(Script::Hang).await;
    ring.set(to(302, "/again"));
    let (_, verdict) = look(&clients(), &service(&ring.url(), follow), false).await;
    assert_eq!((verdict.status, verdict.reason), (Some(Status::Degraded), Reason::Status));
    assert_eq!(ring.requests(), 11, "ten hops are followed");
}

#[tokio::test]
async fn outside_development_a_redirect_to_another_host_is_fenced() {
    let canary = Stub::start(Script::ok()).await;
    // The same machine under another name: another host, not the one the operator wrote.
    let elsewhere = format!("http://127.0.0.2:{}/", canary.address.port());
    let script = raw(&format!("HTTP/1.1 307 X\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n"));
    let stub = Stub::start(script).await;
    let production = clients_of(EgressPolicy::default());
    let service = service(&stub.url(), json!({"follow_redirects": true}));
    let (_, verdict) = look(&production, &service, false).await;
    assert_eq!(verdict.reason, Reason::EgressDenied);
    assert!(verdict.error_message.unwrap().contains("redirect 1"));
    assert_eq!(canary.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn metadata_is_never_asked_not_even_by_the_operator() {
    let clients = clients_of(EgressPolicy::default());
    for url in [
        "http://169.254.169.254/",
        "http://[::ffff:169.254.169.254]/",
        "http://metadata.google.internal/",
        "http://2852039166/",
    ] {
        let (_, verdict) = look(&clients, &service(url, json!({})), false).await;
        assert_eq!(verdict.reason, Reason::EgressDenied, "{url}");
    }
}

#[tokio::test]
async fn an_answer_that_overruns_is_judged_then_and_its_true_time_told_later() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let release = Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await;
        held.notified().await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let _ = stream.read(&mut buffer).await;
    });
    let limits = json!({"thresholds": {"response_time_warning_ms": 20, "response_time_critical_ms": 50}});
    let service = service(&url, limits);
    let early = std::sync::Mutex::new(Vec::new());
    let seen = probes::observe(&clients(), &service, false, async |seen: Observation| {
        early.lock().unwrap().push(seen.reply.unwrap_err().reason);
        release.notify_one();
    })
    .await;
    assert_eq!(*early.lock().unwrap(), [Reason::Latency]);
    assert!(seen.response_ms().unwrap() > 50);
    let verdict = classify(&seen, service.limits.latency, &service.expected);
    assert_eq!((verdict.status, verdict.reason), (Some(Status::Unhealthy), Reason::Latency));
}

#[tokio::test]
async fn a_body_that_takes_its_time_is_no_slow_answer() {
    let body = [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n".to_vec(), vec![b' '; 100]].concat();
    let stub = Stub::start(Script::Drip(body, Duration::from_millis(2))).await;
    let limits =
        json!({"timeout_ms": 400, "thresholds": {"response_time_warning_ms": 150, "response_time_critical_ms": 151}});
    let service = service(&stub.url(), limits);
    let early = std::sync::Mutex::new(0);
    let seen = probes::observe(&clients(), &service, false, async |_| *early.lock().unwrap() += 1).await;
    assert_eq!(*early.lock().unwrap(), 0);
    assert_eq!(classify(&seen, service.limits.latency, &service.expected).status, Some(Status::Healthy));
}

#[tokio::test]
async fn a_secret_body_stays_with_its_origin() {
    let canary = Stub::start(Script::ok()).await;
    let script = raw(&format!("HTTP/1.1 307 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", canary.url()));
    let stub = Stub::start(script).await;
    let more = json!({"follow_redirects": true, "method": "POST", "body": "secret"});
    let (_, verdict) = look(&clients(), &service(&stub.url(), more), true).await;
    assert_eq!((verdict.status, verdict.reason), (Some(Status::Degraded), Reason::Status));
    assert_eq!(canary.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_request_says_who_asks_and_carries_what_the_operator_set() {
    let stub = Stub::start(Script::ok()).await;
    let more = json!({"method": "POST", "body": "{\"ping\":1}", "headers": {"X-Probe": "yes"}});
    look(&clients(), &service(&stub.url(), more), true).await;
    let head = stub.heads.lock().unwrap()[0].to_ascii_lowercase();
    for expected in
        ["post /health http/1.1", "x-probe: yes", "connection: close", "user-agent: as-infrastructure-service/"]
    {
        assert!(head.contains(expected), "{expected} is not in {head}");
    }
}

#[tokio::test]
async fn https_is_verified_and_its_phases_are_told_apart() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    install_crypto_provider();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certified.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    // Nobody vouches for it here; what a trusted one looks like is shown by the binary with a CA file of its own.
    let service = service(&format!("https://localhost:{}", address.port()), json!({}));
    let (seen, verdict) = look(&clients(), &service, false).await;
    assert_eq!((verdict.status, verdict.reason), (Some(Status::Unhealthy), Reason::Tls));
    assert!(seen.phases.resolve.is_some(), "{seen:?}");

    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let output = crate::support::command(folder.path())
        .env("SSL_CERT_FILE", &authority)
        .args(["probe", "--json", &format!("https://localhost:{}/", address.port())])
        .output()
        .await
        .unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(shown["status"], "healthy", "{shown}");
    assert!(shown["phases"]["tls"].as_f64().unwrap() > 0.0, "{shown}");
    assert_eq!(output.status.code(), Some(0));
}
