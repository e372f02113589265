//! TCP, UDP, DNS, ICMP, AMQP and file systems against peers that speak real bytes: up, down, slow, and wrong.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use as_infrastructure_service::app::install_crypto_provider;
use as_infrastructure_service::domain::classify::classify;
use as_infrastructure_service::domain::egress::EgressPolicy;
use as_infrastructure_service::domain::observation::{Observation, Reason, Reply};
use as_infrastructure_service::domain::service::Source;
use as_infrastructure_service::domain::spec::{Defaults, ServiceSpec};
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::probes::{self, Clients};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::{LIMIT, free_port};

fn clients() -> Clients {
    install_crypto_provider();
    Clients::new(EgressPolicy { development: true, ..EgressPolicy::default() }).unwrap()
}

async fn look(clients: &Clients, definition: Value) -> (Observation, Option<Status>, Reason) {
    let definition = with(definition, "name", "target".into());
    let service = serde_json::from_value::<ServiceSpec>(definition).unwrap();
    let service = service.into_service(&Defaults::default(), Source::File).unwrap();
    let seen = tokio::time::timeout(LIMIT, probes::observe(clients, &service, false, async |_| {})).await.unwrap();
    let verdict = classify(&seen, service.limits.latency, &service.expected);
    (seen, verdict.status, verdict.reason)
}

/// `definition` with one more field.
fn with(mut definition: Value, field: &str, value: Value) -> Value {
    definition.as_object_mut().unwrap().insert(field.to_owned(), value);
    definition
}

/// What is to be waited for in vain is not waited for long.
async fn check(definition: Value, status: Status, reason: Reason) -> Observation {
    let definition = if reason == Reason::Timeout { with(definition, "timeout_ms", 300.into()) } else { definition };
    let told = definition.to_string();
    let (seen, found, why) = look(&clients(), definition).await;
    assert_eq!((found, why), (Some(status), reason), "{told}: {seen:?}");
    seen
}

fn finding(seen: Observation) -> String {
    seen.reply.unwrap().findings.remove(0).text
}

fn reply(seen: Observation) -> Reply {
    seen.reply.unwrap()
}

/// A TCP server on a free port that holds one conversation with each that connects.
async fn tcp_peer<F: Future<Output = ()> + Send + 'static>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    port
}

/// Says `text` at once, then closes or stays until the other closes.
async fn says(text: &'static [u8], stays: bool) -> u16 {
    tcp_peer(move |mut stream| async move {
        let _ = stream.write_all(text).await;
        if stays {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// Answers what it is sent with `text`, then closes.
async fn answers(text: &'static [u8]) -> u16 {
    tcp_peer(move |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(text).await;
    })
    .await
}

fn tcp(port: u16, table: Value) -> Value {
    json!({"protocol": "tcp", "url": format!("tcp://127.0.0.1:{port}"), "tcp": table})
}

#[tokio::test]
async fn a_tcp_port_is_judged_by_its_connection() {
    let seen = check(tcp(says(b"", true).await, json!({})), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.connect.is_some() && seen.phases.response == seen.phases.connect, "{seen:?}");
    let refused = check(tcp(free_port(), json!({})), Status::Unhealthy, Reason::ConnectRefused).await;
    assert_eq!(refused.phases.response, None);
}

#[tokio::test]
async fn a_banner_is_searched_and_shown() {
    let expect = json!({"expect": "^SSH-2"});
    let seen = check(tcp(says(b"SSH-2.0-x\r\n", true).await, expect.clone()), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.is_some());
    assert_eq!(reply(seen).details.as_deref(), Some("SSH-2.0-x"));
    let seen = check(tcp(says(b"554 no", false).await, expect.clone()), Status::Degraded, Reason::Assertion).await;
    assert_eq!(finding(seen), "Expected reply not found");
    check(tcp(says(b"", false).await, expect.clone()), Status::Unhealthy, Reason::Protocol).await;
    check(tcp(says(b"", true).await, expect.clone()), Status::Unhealthy, Reason::Timeout).await;
    check(tcp(says(b"554 no", true).await, expect), Status::Unhealthy, Reason::Timeout).await;
    // In two pieces, the second after a while.
    let pieces = tcp_peer(|mut stream| async move {
        let _ = stream.write_all(b"220 mail").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        let _ = stream.write_all(b" ready\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let seen = check(tcp(pieces.await, json!({"expect": "^220 .*ready"})), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.unwrap() >= Duration::from_millis(30), "timed to the match: {seen:?}");
}

#[tokio::test]
async fn what_is_sent_over_tcp_wants_an_answer() {
    let echo = tcp_peer(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let seen =
        check(tcp(echo, json!({"send": "pi\\x6eg\\r\\n", "expect": "^ping\\r\\n$"})), Status::Healthy, Reason::Ok);
    assert_eq!(reply(seen.await).details, None, "what was sent may be secret, and an echo repeats it");
    let send = json!({"send": "x"});
    check(tcp(answers(b"?").await, send.clone()), Status::Healthy, Reason::Ok).await;
    check(tcp(answers(b"").await, send.clone()), Status::Unhealthy, Reason::Protocol).await;
    check(tcp(says(b"", true).await, send), Status::Unhealthy, Reason::Timeout).await;
    let both = json!({"send": "x", "expect": "yes"});
    check(tcp(answers(b"no").await, both), Status::Degraded, Reason::Assertion).await;
}

#[tokio::test]
async fn a_slow_tcp_answer_is_degraded() {
    let port = tcp_peer(|mut stream| async move {
        let _ = stream.read(&mut [0; 16]).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        let _ = stream.write_all(b"late").await;
    });
    let limits = json!({"response_time_warning_ms": 50, "response_time_critical_ms": 5000});
    let limited = with(tcp(port.await, json!({"send": "x"})), "thresholds", limits);
    check(limited, Status::Degraded, Reason::Latency).await;
}

#[tokio::test]
async fn an_endless_tcp_answer_is_cut_at_its_cap() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let port = tcp_peer(move |mut stream| {
        let counted = counted.clone();
        async move {
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                counted.fetch_add(4096, Ordering::Relaxed);
            }
        }
    })
    .await;
    let patient = with(tcp(port, json!({"expect": "never"})), "timeout_ms", 20_000.into());
    check(patient, Status::Degraded, Reason::BodyLimit).await;
    // The cap, and what was under way in buffers when the connection was closed.
    assert!(sent.load(Ordering::Relaxed) < 8 << 20);
}

#[tokio::test]
async fn tcp_speaks_tls_where_asked() {
    install_crypto_provider();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let port = tcp_peer(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            // Closed without a farewell.
            let _ = stream.write_all(b"+OK ready\r\n").await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let url = format!("tcp://localhost:{port}");
    let secured = |expect: &str| json!({"protocol": "tcp", "url": url, "tcp": {"tls": true, "expect": expect}, "tls": {"ca_file": authority}});
    let seen = check(secured("^\\+OK"), Status::Healthy, Reason::Ok).await;
    assert!(reply(seen).certificate_expires.is_some());
    check(secured("^-ERR"), Status::Degraded, Reason::Assertion).await;
    let untrusted = json!({"protocol": "tcp", "url": url, "tcp": {"tls": true}});
    check(untrusted, Status::Unhealthy, Reason::Tls).await;
}

/// A UDP server on a free port that answers each datagram with what `answer` makes of it.
async fn udp_peer(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
            for datagram in answer(&buffer[..count]) {
                let _ = socket.send_to(&datagram, from).await;
            }
        }
    });
    port
}

fn udp(port: u16, table: Value) -> Value {
    json!({"protocol": "udp", "url": format!("udp://127.0.0.1:{port}"), "udp": table})
}

#[tokio::test]
async fn udp_wants_a_reply_that_fits() {
    let echo = udp_peer(|datagram| vec![datagram.to_vec()]).await;
    let seen = check(udp(echo, json!({})), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.is_some());
    assert_eq!(reply(seen).details.as_deref(), Some("ping"));
    check(udp(echo, json!({"send": "a\\x00b", "expect": "^a\\x00b$"})), Status::Healthy, Reason::Ok).await;
    check(udp(echo, json!({"expect": "pong"})), Status::Degraded, Reason::Assertion).await;
    let silent = udp_peer(|_| Vec::new()).await;
    check(udp(silent, json!({})), Status::Unhealthy, Reason::Timeout).await;
    check(udp(free_port(), json!({})), Status::Unhealthy, Reason::ConnectRefused).await;
}

#[tokio::test]
async fn udp_without_a_reply_is_well_unless_it_is_refused() {
    let table = json!({"expect_reply": false});
    let silent = udp_peer(|_| Vec::new()).await;
    // The deadline is shorter than the second that is listened for.
    let hasty = with(udp(silent, table.clone()), "timeout_ms", 400.into());
    let seen = check(hasty, Status::Healthy, Reason::Ok).await;
    assert_eq!(seen.phases.response, None);
    let patient = with(udp(silent, table.clone()), "timeout_ms", 20_000.into());
    let began = Instant::now();
    check(patient, Status::Healthy, Reason::Ok).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let echo = udp_peer(|datagram| vec![datagram.to_vec()]).await;
    check(udp(echo, table.clone()), Status::Healthy, Reason::Ok).await;
    check(udp(free_port(), table), Status::Unhealthy, Reason::ConnectRefused).await;
}

/// What the name server below says of the name it is asked for; the second is whether it came over TCP.
fn zone(query: &Message, stream: bool) -> Vec<Vec<u8>> {
    let question = query.queries[0].clone();
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.add_query(question.clone());
    let address = |last| Record::from_rdata(question.name().clone(), 60, RData::A(A(Ipv4Addr::new(192, 0, 2, last))));
    let other = Name::from_str("elsewhere.test.").unwrap();
    match question.name().to_string().trim_end_matches('.') {
        "ok.test" => answer.add_answers([address(1), address(2)]),
        "alias.test" => answer.add_answers([
            Record::from_rdata(question.name().clone(), 60, RData::CNAME(CNAME(other.clone()))),
            Record::from_rdata(other, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 3)))),
        ]),
        "text.test" => {
            let text = RData::TXT(TXT::new(vec!["v=spf1 -all".to_owned()]));
            answer.add_answer(Record::from_rdata(question.name().clone(), 60, text))
        }
        "long.test" if stream => answer.add_answers((0..100).map(address)),
        "long.test" | "deaf.test" => {
            answer.metadata.truncation = true;
            &mut answer
        }
        "forged.test" => {
            answer.add_answer(address(1));
            let good = answer.to_vec().unwrap();
            let mut forged = answer;
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            forged.answers = vec![address(66)];
            return vec![Vec::new(), vec![0], forged.to_vec().unwrap(), good];
        }
        "other.test" => {
            answer.queries[0].set_name(other);
            answer.add_answer(address(1))
        }
        "echo.test" => return vec![query.to_vec().unwrap()],
        "garbage.test" => return vec![[&query.metadata.id.to_be_bytes()[..], b"HTTP/1.1 400 Bad Request"].concat()],
        "silent.test" => return Vec::new(),
        "gone.test" => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            &mut answer
        }
        "broken.test" => {
            answer.metadata.response_code = ResponseCode::ServFail;
            &mut answer
        }
        "refused.test" => {
            // Some servers do not repeat the question they refuse.
            answer.queries.clear();
            answer.metadata.response_code = ResponseCode::Refused;
            &mut answer
        }
        _ => &mut answer,
    };
    vec![answer.to_vec().unwrap()]
}

/// A name server over UDP and TCP, on one port.
async fn name_server() -> u16 {
    // A port that is free for both: what one of them is given may be taken for the other.
    let (port, listener) = loop {
        let port = udp_peer(|datagram| zone(&Message::from_vec(datagram).unwrap(), false)).await;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            break (port, listener);
        }
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await.unwrap();
            let query = Message::from_vec(&query).unwrap();
            if query.queries[0].name().to_string().starts_with("deaf.") {
                continue;
            }
            for answer in zone(&query, true) {
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        }
    });
    port
}

fn dns(port: u16, name: &str, table: Value) -> Value {
    let table = with(table, "resolver", format!("127.0.0.1:{port}").into());
    json!({"protocol": "dns", "url": format!("dns://{name}"), "dns": table})
}

#[tokio::test]
async fn dns_answers_hold_what_is_expected() {
    let port = name_server().await;
    let seen = check(dns(port, "ok.test", json!({})), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.is_some());
    assert_eq!(reply(seen).details.as_deref(), Some(r#"{"answers":["192.0.2.1","192.0.2.2"]}"#));
    let expected = json!({"expected_ip": ["192.0.2.2", "192.0.2.1"]});
    check(dns(port, "ok.test", expected), Status::Healthy, Reason::Ok).await;
    let expected = json!({"expected_ip": ["192.0.2.2", "192.0.2.9"]});
    let seen = check(dns(port, "ok.test", expected), Status::Degraded, Reason::Assertion).await;
    assert_eq!(finding(seen), "Expected address not found: 192.0.2.9");
    check(dns(port, "alias.test", json!({"expected_ip": ["192.0.2.3"]})), Status::Healthy, Reason::Ok).await;
    let seen = check(dns(port, "text.test", json!({"record_type": "TXT"})), Status::Healthy, Reason::Ok).await;
    assert_eq!(reply(seen).details.as_deref(), Some(r#"{"answers":["v=spf1 -all"]}"#));
    let seen = check(dns(port, "ok.test", json!({"record_type": "MX"})), Status::Degraded, Reason::Assertion).await;
    assert_eq!(finding(seen), "No MX record for ok.test");
    check(dns(port, "empty.test", json!({})), Status::Degraded, Reason::Assertion).await;
}

#[tokio::test]
async fn dns_errors_are_told_by_their_names() {
    let port = name_server().await;
    for (name, told) in [
        ("gone.test", "NXDOMAIN for gone.test"),
        ("broken.test", "SERVFAIL for broken.test"),
        ("refused.test", "REFUSED for refused.test"),
    ] {
        let seen = check(dns(port, name, json!({})), Status::Unhealthy, Reason::Dns).await;
        assert_eq!(seen.reply.unwrap_err().detail, told);
    }
    check(dns(port, "silent.test", json!({})), Status::Unhealthy, Reason::Timeout).await;
    check(dns(free_port(), "ok.test", json!({})), Status::Unhealthy, Reason::ConnectRefused).await;
}

#[tokio::test]
async fn a_dns_answer_too_long_for_a_datagram_is_fetched_over_tcp() {
    let port = name_server().await;
    let seen = check(dns(port, "long.test", json!({"expected_ip": ["192.0.2.99"]})), Status::Healthy, Reason::Ok).await;
    assert!(reply(seen).details.unwrap().len() <= 1024);
    check(dns(port, "deaf.test", json!({})), Status::Unhealthy, Reason::Protocol).await;
}

#[tokio::test]
async fn only_the_answer_to_this_dns_question_is_believed() {
    let port = name_server().await;
    let seen = check(dns(port, "forged.test", json!({})), Status::Healthy, Reason::Ok).await;
    assert_eq!(reply(seen).details.as_deref(), Some(r#"{"answers":["192.0.2.1"]}"#));
    for name in ["other.test", "echo.test", "garbage.test"] {
        check(dns(port, name, json!({})), Status::Unhealthy, Reason::Protocol).await;
    }
    let denied = json!({"protocol": "dns", "url": "dns://ok.test", "dns": {"resolver": "169.254.169.254"}});
    check(denied, Status::Unhealthy, Reason::EgressDenied).await;
}

/// Debian's dnsmasq on a free port, with a zone of its own.
#[tokio::test]
async fn a_real_name_server_is_understood() {
    let port = free_port();
    let program = if std::path::Path::new("/usr/sbin/dnsmasq").exists() { "/usr/sbin/dnsmasq" } else { "dnsmasq" };
    let mut server = tokio::process::Command::new(program)
        .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"])
        .args(["--conf-file=/dev/null", "--pid-file=", "--user=", "--local=/test/"])
        .arg(format!("--port={port}"))
        .args([
            "--host-record=ok.test,192.0.2.7,2001:db8::7",
            "--cname=alias.test,ok.test",
            "--txt-record=text.test,hello",
        ])
        .kill_on_drop(true)
        .spawn()
        .expect("dnsmasq, which tests/run installs");
    let definition = dns(port, "ok.test", json!({"expected_ip": "192.0.2.7"}));
    crate::support::eventually("the name server answering", async || {
        let (_, status, _) = look(&clients(), definition.clone()).await;
        (status == Some(Status::Healthy)).then_some(())
    })
    .await;
    let v6 = json!({"record_type": "AAAA", "expected_ip": "2001:db8::7"});
    check(dns(port, "ok.test", v6), Status::Healthy, Reason::Ok).await;
    check(dns(port, "alias.test", json!({"expected_ip": ["192.0.2.7"]})), Status::Healthy, Reason::Ok).await;
    check(dns(port, "text.test", json!({"record_type": "TXT"})), Status::Healthy, Reason::Ok).await;
    check(dns(port, "ok.test", json!({"expected_ip": "192.0.2.8"})), Status::Degraded, Reason::Assertion).await;
    check(dns(port, "ok.test", json!({"record_type": "MX"})), Status::Degraded, Reason::Assertion).await;
    check(dns(port, "nobody.test", json!({})), Status::Unhealthy, Reason::Dns).await;
    server.kill().await.unwrap();
    check(dns(port, "ok.test", json!({})), Status::Unhealthy, Reason::ConnectRefused).await;
}

/// Either the system lets us ping, or it is said what is missing: never a verdict on the target.
fn is_not_permitted(seen: &Observation, status: Option<Status>, reason: Reason) -> bool {
    if reason != Reason::LocalResource {
        return false;
    }
    let detail = &seen.reply.as_ref().unwrap_err().detail;
    assert!(detail.contains("CAP_NET_RAW") && detail.contains("net.ipv4.ping_group_range"), "{detail}");
    assert_eq!(status, None);
    true
}

#[tokio::test]
async fn a_ping_is_answered_or_not_permitted() {
    let clients = clients();
    let ping = |host: &str| json!({"protocol": "icmp", "url": format!("icmp://{host}"), "timeout_ms": 500});
    let (seen, status, reason) = look(&clients, ping("127.0.0.1")).await;
    let permitted = !is_not_permitted(&seen, status, reason);
    if permitted {
        assert_eq!((status, reason), (Some(Status::Healthy), Reason::Ok), "{seen:?}");
        assert!(seen.phases.response.is_some());
        // Many to one host at once: no reply is taken for another's.
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (clients, ping) = (clients.clone(), ping("localhost"));
            all.spawn(async move { look(&clients, ping).await });
        }
        for (seen, status, _) in all.join_all().await {
            assert_eq!(status, Some(Status::Healthy), "{seen:?}");
        }
    }
    // Nobody lives at this address (RFC 5737): a router says so, or nobody says anything.
    let (seen, status, reason) = look(&clients, ping("198.51.100.1")).await;
    if permitted {
        assert_eq!(status, Some(Status::Unhealthy), "{seen:?}");
    } else {
        assert!(is_not_permitted(&seen, status, reason), "{seen:?}");
    }
    let (_, _, reason) = look(&clients, ping("169.254.169.254")).await;
    assert_eq!(reason, Reason::EgressDenied);
}

/// `Connection.Start` as RabbitMQ sends it, with the versions and an empty table, mechanisms and locales.
const CONNECTION_START: &[u8] =
    b"\x01\x00\x00\x00\x00\x00\x1c\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US\xce";

fn amqp(port: u16) -> Value {
    json!({"protocol": "amqp", "url": format!("amqp://127.0.0.1:{port}")})
}

#[tokio::test]
async fn a_broker_that_greets_is_healthy() {
    let port = tcp_peer(|mut stream| async move {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        // In two pieces: a frame need not come at once.
        let (head, rest) = CONNECTION_START.split_at(9);
        let _ = stream.write_all(head).await;
        let _ = stream.flush().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let _ = stream.write_all(rest).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let seen = check(amqp(port), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.connect.is_some() && seen.phases.response.is_some());
    let seen = check(amqp(answers(b"AMQP\x00\x01\x00\x00").await), Status::Degraded, Reason::Status).await;
    assert_eq!(finding(seen), "The broker speaks AMQP 1-0-0, not 0-9-1");
}

#[tokio::test]
async fn anything_else_is_no_broker() {
    const WRONG_CHANNEL: &[u8] = b"\x01\x00\x01\x00\x00\x00\x04\x00\x0a\x00\x0a\xce";
    const WRONG_METHOD: &[u8] = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x32\xce";
    const WRONG_END: &[u8] = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\x00";
    const HUGE: &[u8] = b"\x01\x00\x00\xff\xff\xff\xff\x00\x0a\x00\x0a";
    const EMPTY: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\xce";
    const CUT: &[u8] = CONNECTION_START.split_at(20).0;
    for wrong in
        [b"".as_slice(), b"AMQ", b"HTTP/1.1 400 Bad Request", WRONG_CHANNEL, WRONG_METHOD, WRONG_END, HUGE, EMPTY, CUT]
    {
        check(amqp(answers(wrong).await), Status::Unhealthy, Reason::Protocol).await;
    }
    check(amqp(says(b"", true).await), Status::Unhealthy, Reason::Timeout).await;
    check(amqp(says(b"\x01\x00", true).await), Status::Unhealthy, Reason::Timeout).await;
    check(amqp(free_port()), Status::Unhealthy, Reason::ConnectRefused).await;
}

#[tokio::test]
async fn a_real_rabbitmq_is_healthy() {
    let Ok(url) = std::env::var("TEST_AMQP_URL") else {
        assert!(std::env::var_os("CI").is_none(), "tests/run starts a RabbitMQ and sets TEST_AMQP_URL");
        eprintln!("TEST_AMQP_URL is not set: no real RabbitMQ was asked");
        return;
    };
    let seen = check(json!({"protocol": "amqp", "url": url}), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.is_some());
}

fn files(table: Value) -> Value {
    json!({"protocol": "filesystem", "filesystem": table})
}

#[tokio::test]
async fn paths_must_be_there_and_take_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x".repeat(100_000)).unwrap();
    let seen = check(files(json!({"paths": [folder.path(), file]})), Status::Healthy, Reason::Ok).await;
    assert!(seen.phases.response.is_some());
    let told: Value = serde_json::from_str(&reply(seen).details.unwrap()).unwrap();
    let folder_name = folder.path().to_str().unwrap();
    assert_eq!(told["paths"][folder_name], "writable");
    assert_eq!(told["paths"][file.to_str().unwrap()], "writable");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");

    // Nobody can make a file here, not even the superuser.
    let sealed = check(files(json!({"paths": [folder.path(), "/proc/self"]})), Status::Unhealthy, Reason::Assertion);
    let told = reply(sealed.await).details.unwrap();
    assert!(told.contains(r#""/proc/self":"not_writable""#), "{told}");
    let unsealed = files(json!({"paths": ["/proc/self"], "check_writable": false}));
    let told = reply(check(unsealed, Status::Healthy, Reason::Ok).await).details.unwrap();
    assert_eq!(&*told, r#"{"paths":{"/proc/self":"exists"}}"#);

    let gone = folder.path().join("gone");
    let seen = check(files(json!({"paths": [gone, folder.path()]})), Status::Unhealthy, Reason::Assertion).await;
    let seen = reply(seen);
    assert_eq!(seen.findings.len(), 1);
    assert!(seen.findings[0].text.starts_with(&format!("{}: missing", gone.display())), "{seen:?}");
    assert!(seen.details.unwrap().contains("missing"));
}

#[tokio::test]
async fn too_little_room_is_degraded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x".repeat(100_000)).unwrap();
    let room = |field: &str, least: Value| files(with(json!({"paths": [folder.path()]}), field, least));
    check(room("min_free_bytes", 1.into()), Status::Healthy, Reason::Ok).await;
    check(room("min_free_percent", 0.into()), Status::Healthy, Reason::Ok).await;
    let seen = check(room("min_free_bytes", (1_u64 << 62).into()), Status::Degraded, Reason::Assertion).await;
    assert!(finding(seen).ends_with("bytes free, less than 4611686018427387904"));
    let seen = check(room("min_free_percent", 100.into()), Status::Degraded, Reason::Assertion).await;
    assert!(finding(seen).ends_with("% free, less than 100%"));
}
