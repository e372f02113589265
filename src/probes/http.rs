//! HTTP and HTTPS through reqwest: one request, its redirects, and the part of the answer that is looked at.
//!
//! Everything a target sends is limited in bytes after decoding, in total time and in count; at a limit the connection
//! is closed, not drained. Redirects are followed by hand, so that each hop is judged by the egress rule and carries
//! the configured headers only within its origin.

use std::collections::HashMap;
use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use reqwest::header::{CONNECTION, LOCATION};
use reqwest::{Client, Response};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::dial::SECOND_ATTEMPT_AFTER;
use super::trace::{ATTEMPT, GuardedResolver, HandshakeMark, Marking, Marks, TRACE, Trace, is_local};
use super::{ClientsError, Progress, Step};
use crate::domain::egress::{EgressPolicy, Trust};
use crate::domain::observation::{Facts, Finding, HttpCourse, Observation, Phases, ProbeFailure, Reason, Reply};
use crate::domain::probe::{Connection, HttpProbe, Method, TlsOptions};

/// Body that is read, after decoding: CONTRACT.md 6.2.
pub const BODY_BYTES: usize = 64 * 1024;
/// Response head: CONTRACT.md 6.3.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;
/// CONTRACT.md 5.1, `follow_redirects`.
const HOPS: usize = 10;
/// Kinds of TLS beside the usual one that keep a pool, and how long one is used before its certificates are read
/// again: our choices.
const SPECIAL: usize = 64;
const SPECIAL_FOR: Duration = Duration::from_secs(300);
/// Idle connections older than this are closed: our choice. One and a half default intervals, so that a service
/// checked every 30 s keeps its connection, and an address that has moved is noticed soon after.
const IDLE_LIMIT: Duration = Duration::from_secs(45);

/// One client that pools connections, one that never does; and the same again for services that speak TLS otherwise.
#[derive(Debug, Clone)]
pub struct HttpClients {
    /// What the operator's hosts have connected to is not for others to ride on: a pool for each trust.
    operator: Pair,
    fenced: Pair,
    special: Arc<Mutex<Special>>,
    egress: Arc<EgressPolicy>,
    resolver: Arc<GuardedResolver>,
}

/// Pairs by what makes them special, with the time they were made.
type Special = HashMap<(TlsOptions, Trust), (std::time::Instant, Pair)>;

#[derive(Debug, Clone)]
struct Pair {
    reuse: Client,
    fresh: Client,
}

impl HttpClients {
    pub(super) fn new(egress: Arc<EgressPolicy>, resolver: Arc<GuardedResolver>) -> Result<Self, ClientsError> {
        let tls = tls();
        let (operator, fenced) = (Pair::new(&resolver, &tls)?, Pair::new(&resolver, &tls)?);
        Ok(Self { operator, fenced, special: Arc::default(), egress, resolver })
    }

    /// The clients for a probe. Those of the same TLS options share one pair.
    async fn of(&self, probe: &HttpProbe) -> Result<Pair, ProbeFailure> {
        let Some(options) = &probe.tls else {
            return Ok(if probe.trust == Trust::Operator { self.operator.clone() } else { self.fenced.clone() });
        };
        let known = || self.special.lock().unwrap_or_else(PoisonError::into_inner);
        // What is judged by the dates alone makes no other connection.
        let key = (TlsOptions { warning_days: 0, critical_days: 0, ..(**options).clone() }, probe.trust);
        if let Some((made, pair)) = known().get(&key)
            && made.elapsed() < SPECIAL_FOR
        {
            return Ok(pair.clone());
        }
        let config = super::tls::http_config(&key.0, Arc::new(HandshakeMark)).await?;
        let local = |error: ClientsError| ProbeFailure::new(Reason::LocalResource, error.to_string());
        let pair = Pair::new(&self.resolver, &config).map_err(local)?;
        let mut kept = known();
        if kept.len() >= SPECIAL {
            kept.retain(|_, (made, _)| made.elapsed() < SPECIAL_FOR);
            if kept.len() >= SPECIAL {
                kept.clear();
            }
        }
        kept.insert(key, (std::time::Instant::now(), pair.clone()));
        Ok(pair)
    }
}

impl Pair {
    fn new(resolver: &Arc<GuardedResolver>, tls: &ClientConfig) -> Result<Self, ClientsError> {
        let client = |idle_per_host: usize| {
            Client::builder()
                .tls_info(true)
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .http1_only()
                .http1_max_headers(HEADERS)
                .pool_max_idle_per_host(idle_per_host)
                .pool_idle_timeout(IDLE_LIMIT)
                .dns_resolver(resolver.clone())
                .tls_backend_preconfigured(tls.clone())
                .connector_layer(Marking)
                .build()
        };
        Ok(Self { reuse: client(1)?, fresh: client(0)? })
    }
}

/// The system's CA certificates. On a system without any, plain HTTP must still be probed: https then fails as `tls`.
fn tls() -> ClientConfig {
    let mut config = match ClientConfig::builder().with_platform_verifier() {
        Ok(builder) => builder.with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "no CA certificates on this system: https services will fail; install ca-certificates");
            ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
    };
    config.resumption = rustls::client::Resumption::store(Arc::new(HandshakeMark));
    config
}

/// Sends the request and follows its redirects, all by `deadline`.
pub(super) async fn send(
    clients: &HttpClients,
    probe: &HttpProbe,
    traceparent: Option<String>,
    fresh: bool,
    deadline: Instant,
    progress: &Arc<Progress>,
) -> Observation {
    let pair = match timeout_at(deadline, clients.of(probe)).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(failure)) => return Observation { reply: Err(failure), phases: Phases::default() },
        Err(_) => return Observation::failed(Reason::Timeout, "no answer in time"),
    };
    let mut hop = Hop {
        url: probe.url.clone(),
        method: probe.method,
        with_body: true,
        trust: probe.trust,
        traceparent,
        number: 0,
    };
    let mut phases = Phases::default();
    loop {
        let fresh = fresh || probe.connection == Connection::Fresh || hop.trust != probe.trust;
        let answer = attempt(&clients.egress, &pair, probe, &hop, fresh, deadline, progress).await;
        add(&mut phases, answer.phases);
        let response = match answer.result {
            Ok(response) => response,
            Err(Refusal::HeadOverLimit) => {
                let finding = Finding::degraded(Reason::BodyLimit, "Response head over 64 KiB or 100 headers");
                return Observation { reply: Ok(Reply::with(finding)), phases };
            }
            Err(Refusal::Failed(failure)) => {
                // A response time belongs to an answer.
                return Observation { reply: Err(failure), phases: Phases { response: None, ..phases } };
            }
        };
        if probe.follow_redirects
            && let Some(next) = hop.next(&response, probe)
        {
            hop = next;
            progress.set(Step::Connecting);
            continue;
        }
        progress.set(Step::Answered);
        let course = HttpCourse {
            redirects: hop.number,
            version: match response.version() {
                reqwest::Version::HTTP_09 => 9,
                reqwest::Version::HTTP_10 => 10,
                _ => 11,
            },
            length: response.content_length(),
            secured: hop.url.scheme() == "https",
            ipv6: response.remote_addr().map(|peer| peer.is_ipv6()),
            ..HttpCourse::default()
        };
        let answered = Instant::now();
        let mut reply = read(response, probe, deadline).await;
        if let Ok(reply) = &mut reply {
            reply.redirected = hop.number > 0;
            let body = reply.http.and_then(|read| read.body);
            reply.http = Some(HttpCourse { body, transfer: answered.elapsed(), ..course });
        }
        return Observation { reply, phases };
    }
}

/// One request on the way.
#[derive(Debug, Clone)]
struct Hop {
    url: Url,
    method: Method,
    with_body: bool,
    trust: Trust,
    /// Sent within the origin, as the operator's headers are: the ids tell a stranger who asks, and when.
    traceparent: Option<String>,
    number: usize,
}

impl Hop {
    /// Where `response` redirects to, if that is to be followed: not beyond the tenth hop, not to an unusable address,
    /// never from https to http.
    fn next(&self, response: &Response, probe: &HttpProbe) -> Option<Self> {
        let code = response.status().as_u16();
        if !matches!(code, 301 | 302 | 303 | 307 | 308) || self.number == HOPS {
            return None;
        }
        let target = response.headers().get(LOCATION)?.to_str().ok()?;
        let mut url = self.url.join(target).ok()?;
        let usable = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if !usable || (self.url.scheme() == "https" && url.scheme() == "http") {
            return None;
        }
        // Credentials in a Location are the target's wish, not the operator's.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if url.origin() == probe.url.origin() {
            let _ = url.set_username(probe.url.username());
            let _ = url.set_password(probe.url.password());
        }
        let becomes_get = code == 303 || (matches!(code, 301 | 302) && self.method == Method::Post);
        let method = if becomes_get && self.method != Method::Head { Method::Get } else { self.method };
        // A body may hold secrets, as headers do: it goes to its own origin only.
        if probe.body.is_some() && self.with_body && !becomes_get && url.origin() != probe.url.origin() {
            return None;
        }
        let same_host = url.host_str() == probe.url.host_str();
        Some(Self {
            url,
            method,
            with_body: self.with_body && !becomes_get,
            trust: if same_host { probe.trust } else { Trust::Fenced },
            traceparent: self.traceparent.clone(),
            number: self.number + 1,
        })
    }
}

/// What one hop brought.
struct Answer {
    result: Result<Response, Refusal>,
    phases: Phases,
}

enum Refusal {
    Failed(ProbeFailure),
    /// It answered, with more than is read.
    HeadOverLimit,
}

/// Sends one hop: on a pooled connection unless `fresh`, and once more on a fresh one when the pooled one turns out to
/// be dead before the first byte.
async fn attempt(
    egress: &EgressPolicy,
    pair: &Pair,
    probe: &HttpProbe,
    hop: &Hop,
    fresh: bool,
    deadline: Instant,
    progress: &Arc<Progress>,
) -> Answer {
    if let Some(denied) = denied_before_lookup(egress, hop) {
        return Answer { result: Err(Refusal::Failed(egress_denied(&denied, hop))), phases: Phases::default() };
    }
    let mut fresh = fresh;
    loop {
        let client = if fresh { &pair.fresh } else { &pair.reuse };
        let port = hop.url.port_or_known_default().unwrap_or(0);
        let trace = Trace::new(hop.trust, port, progress.clone());
        let started = Instant::now();
        let outcome = timeout_at(deadline, connect_and_send(client, probe, hop, fresh, &trace)).await;
        let marks = trace.marks();
        let response_time = marks.connected.unwrap_or(started).elapsed();
        let phases = Phases { response: Some(response_time), ..marks.phases() };
        let result = match outcome {
            Ok(Ok(response)) if head_bytes(&response) > HEAD_BYTES => Err(Refusal::HeadOverLimit),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) if marks.connecting.is_none() && !fresh && Instant::now() < deadline => {
                fresh = true;
                continue;
            }
            Ok(Err(error)) => Err(refusal(&error, &marks, hop)),
            Err(_) => Err(Refusal::Failed(timed_out(&marks))),
        };
        return Answer { result, phases };
    }
}

/// Sends the request; when connecting takes long, on whichever of two connections is there first.
async fn connect_and_send(
    client: &Client,
    probe: &HttpProbe,
    hop: &Hop,
    fresh: bool,
    trace: &Arc<Trace>,
) -> Result<Response, reqwest::Error> {
    let start = async || -> Result<Response, reqwest::Error> {
        let request = request(client, probe, hop, fresh).build()?;
        client.execute(request).await
    };
    let scoped = |number| TRACE.scope(trace.clone(), ATTEMPT.scope(number, start()));
    let mut first = std::pin::pin!(scoped(1));
    if let Poll::Ready(done) = futures_util::poll!(&mut first) {
        return done;
    }
    if !trace.began_connection() {
        trace.sent();
        return first.await;
    }
    if let Ok(done) = timeout(SECOND_ATTEMPT_AFTER, &mut first).await {
        return done;
    }
    if !trace.is_connecting() {
        return first.await;
    }
    let second = std::pin::pin!(scoped(2));
    match futures_util::future::select(first, second).await {
        // The one that failed did not carry the request: the other may still be answered.
        Either::Left((Err(_), other)) if trace.winner() != 1 => other.await,
        Either::Right((Err(_), other)) if trace.winner() != 2 => other.await,
        Either::Left((done, _)) | Either::Right((done, _)) => done,
    }
}

fn request(client: &Client, probe: &HttpProbe, hop: &Hop, fresh: bool) -> reqwest::RequestBuilder {
    let method = match hop.method {
        Method::Get => reqwest::Method::GET,
        Method::Head => reqwest::Method::HEAD,
        Method::Post => reqwest::Method::POST,
    };
    let mut request = client.request(method, hop.url.clone());
    if fresh {
        request = request.header(CONNECTION, "close");
    }
    if hop.url.origin() == probe.url.origin() {
        for (name, value) in &probe.headers {
            request = request.header(name, value.expose_secret());
        }
        if let Some(parent) = &hop.traceparent {
            request = request.header("traceparent", parent);
        }
    }
    match &probe.body {
        Some(body) if hop.with_body => request.body(body.expose_secret().to_owned()),
        _ => request,
    }
}

fn head_bytes(response: &Response) -> usize {
    response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// An address literal never reaches the resolver, and a metadata name must not cost a query.
fn denied_before_lookup(egress: &EgressPolicy, hop: &Hop) -> Option<String> {
    let port = hop.url.port_or_known_default().unwrap_or(0);
    let ip = match hop.url.host()? {
        url::Host::Domain(name) => return (!egress.permits_name(name)).then(|| name.to_owned()),
        url::Host::Ipv4(ip) => IpAddr::V4(ip),
        url::Host::Ipv6(ip) => IpAddr::V6(ip),
    };
    (!egress.permits(SocketAddr::new(ip, port), hop.trust)).then(|| ip.to_string())
}

fn egress_denied(address: &str, hop: &Hop) -> ProbeFailure {
    let at_hop = if hop.number == 0 { String::new() } else { format!(" (redirect {})", hop.number) };
    ProbeFailure::new(Reason::EgressDenied, format!("{address}{at_hop}"))
}

/// How far a request came that its deadline cut off.
fn timed_out(marks: &Marks) -> ProbeFailure {
    let reason = if marks.resolving.is_some() && marks.resolved.is_none() {
        Reason::Dns
    } else if marks.connecting.is_some() && marks.handshake.is_none() && marks.connected.is_none() {
        Reason::ConnectTimeout
    } else {
        Reason::Timeout
    };
    ProbeFailure::new(reason, "no answer in time")
}

/// Names the one cause of an error.
fn refusal(error: &reqwest::Error, marks: &Marks, hop: &Hop) -> Refusal {
    if let Some(denied) = marks.denied {
        return Refusal::Failed(egress_denied(&denied.ip().to_string(), hop));
    }
    if let Some(local) = &marks.local {
        return Refusal::Failed(ProbeFailure::new(Reason::LocalResource, local));
    }
    if let Some(unresolved) = &marks.unresolved {
        return Refusal::Failed(ProbeFailure::new(Reason::Dns, unresolved));
    }
    let detail = deepest(error);
    if let Some(parse) = find::<hyper::Error>(error)
        && parse.is_parse_too_large()
    {
        return Refusal::HeadOverLimit;
    }
    let connected = marks.connected.is_some() || marks.connecting.is_none();
    let reason = match find::<std::io::Error>(error).and_then(std::io::Error::raw_os_error) {
        Some(code) if is_local(code) => Reason::LocalResource,
        _ if connected => Reason::Protocol,
        _ if marks.handshake.is_some() => Reason::Tls,
        Some(code) if is_unreachable(code) => Reason::ConnectTimeout,
        _ => Reason::ConnectRefused,
    };
    Refusal::Failed(ProbeFailure::new(reason, detail))
}

/// Nobody answered the call: ETIMEDOUT, EHOSTUNREACH, ENETUNREACH.
fn is_unreachable(os_error: i32) -> bool {
    use rustix::io::Errno;
    [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH].iter().any(|errno| errno.raw_os_error() == os_error)
}

/// The first error of type `E` in the chain of causes.
fn find<E: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    let mut cause = error.source();
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<E>().or(found);
        cause = error.source();
    }
    found
}

/// The text of the last cause: the one that says most.
fn deepest(error: &reqwest::Error) -> String {
    let mut text = String::from("request failed");
    let mut cause = error.source();
    while let Some(error) = cause {
        // An error of TLS comes inside one of reading and writing.
        let tls = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(refusal)) = tls {
            return format!("invalid peer certificate: {}", super::tls::in_words(refusal));
        }
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Reads what is looked at of the answer: its headers, and at most [`BODY_BYTES`] of its body after decoding.
async fn read(mut response: Response, probe: &HttpProbe, deadline: Instant) -> Result<Reply, ProbeFailure> {
    let assertions = &probe.assertions;
    let mut reply = Reply { code: response.status().as_u16(), ..Reply::default() };
    if let Some(tls) = response.extensions().get::<reqwest::tls::TlsInfo>()
        && let Some(der) = tls.peer_certificate()
    {
        // Its end is shown of every certificate, and judged where that is asked for.
        let options = probe.tls.as_deref();
        let seen = super::tls::look_at(der, super::tls::now(), options.unwrap_or(&TlsOptions::UNJUDGED));
        reply.certificate_expires = seen.expires;
        reply.findings.extend(seen.finding.filter(|_| options.is_some()));
    }
    let miss = |reason: Reason, text: String| {
        if assertions.unhealthy { Finding::unhealthy(reason, text) } else { Finding::degraded(reason, text) }
    };
    let headers = response.headers().clone();
    let header_miss =
        assertions.header_miss(|name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect());
    let mut body = Vec::new();
    let mut truncated = false;
    let reading = async {
        while let Some(chunk) = response.chunk().await? {
            let room = BODY_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                truncated = true;
                break;
            }
        }
        Ok::<(), reqwest::Error>(())
    };
    let whole = timeout_at(deadline, reading).await;
    // Dropping an answer that was not read to its end closes its connection.
    drop(response);
    let complete = matches!(whole, Ok(Ok(()))) && !truncated;
    reply.http = Some(HttpCourse { body: complete.then_some(body.len()), ..HttpCourse::default() });
    if complete || assertions.need_body() {
        reply.facts = facts(&body);
    }
    reply.details = details(&body, reply.code, truncated);
    reply.findings.extend(header_miss.map(|text| miss(Reason::Assertion, text)));
    if !assertions.need_body() {
        return Ok(reply);
    }
    match (assertions.body_miss(&body), whole) {
        (None, _) => {}
        (Some(_), Err(_)) => return Err(ProbeFailure::new(Reason::Timeout, "the body did not end in time")),
        (Some(_), Ok(Err(error))) => return Err(ProbeFailure::new(Reason::Protocol, deepest(&error))),
        (Some(text), Ok(Ok(()))) if truncated => {
            reply.findings.push(miss(Reason::BodyLimit, format!("{text} in the first 64 KiB")));
        }
        (Some(text), Ok(Ok(()))) => reply.findings.push(miss(Reason::Assertion, text)),
    }
    Ok(reply)
}

/// Largest JSON object that is shown whole: CONTRACT.md 6.2.
const DETAILS_BYTES: usize = 1024;

/// The body for people: a small JSON object as it is, else its first characters; the code where the body has none.
fn details(body: &[u8], code: u16, truncated: bool) -> Option<Box<str>> {
    let parsed = if body.len() <= DETAILS_BYTES { serde_json::from_slice::<Value>(body).ok() } else { None };
    let mut fields = match parsed {
        Some(Value::Object(fields)) => fields,
        _ => {
            let start = &body[..body.len().min(DETAILS_BYTES)];
            let raw = crate::domain::observation::clean(&String::from_utf8_lossy(start));
            serde_json::Map::from_iter([("raw".to_owned(), Value::from(raw))])
        }
    };
    fields.entry("status_code").or_insert_with(|| Value::from(code));
    if truncated {
        fields.insert("truncated".to_owned(), Value::Bool(true));
    }
    serde_json::to_string(&fields).ok().map(String::into_boxed_str)
}

/// The fields of a health body that are facts (CONTRACT.md 6.2); all else is ignored.
#[derive(Deserialize)]
struct HealthBody {
    version: Option<Value>,
    database: Option<Value>,
    #[serde(alias = "externalServices")]
    external_services: Option<Value>,
    data: Option<Value>,
}

fn facts(body: &[u8]) -> Facts {
    if body.first() != Some(&b'{') {
        return Facts::default();
    }
    let Ok(top) = serde_json::from_slice::<HealthBody>(body) else {
        return Facts::default();
    };
    let data = top.data.and_then(|data| serde_json::from_value::<HealthBody>(data).ok());
    let (nested_version, nested_database, nested_services) =
        data.map_or((None, None, None), |data| (data.version, data.database, data.external_services));
    let version = top.version.or(nested_version);
    Facts {
        version: version.as_ref().and_then(Value::as_str).map(crate::domain::observation::clean),
        database_connected: top.database.or(nested_database).as_ref().and_then(database_connected),
        external_services_ok: top.external_services.or(nested_services).as_ref().and_then(external_services_ok),
    }
}

fn database_connected(database: &Value) -> Option<bool> {
    match database {
        Value::Object(fields) => fields.get("connected")?.as_bool(),
        Value::String(word) => Some(word == "connected"),
        _ => None,
    }
}

fn external_services_ok(services: &Value) -> Option<bool> {
    let says_well = |value: &Value| match value {
        Value::Bool(well) => *well,
        Value::String(word) => matches!(word.as_str(), "ok" | "connected" | "healthy"),
        Value::Object(fields) => fields.values().any(|field| {
            field == &Value::Bool(true)
                || field.as_str().is_some_and(|word| matches!(word, "ok" | "connected" | "healthy"))
        }),
        _ => false,
    };
    match services {
        Value::Object(fields) => Some(fields.values().all(says_well)),
        Value::Array(list) => Some(list.iter().all(says_well)),
        _ => None,
    }
}

fn add(sum: &mut Phases, hop: Phases) {
    let add = |sum: &mut Option<Duration>, hop: Option<Duration>| {
        if let Some(hop) = hop {
            *sum = Some(sum.unwrap_or_default() + hop);
        }
    };
    add(&mut sum.resolve, hop.resolve);
    add(&mut sum.connect, hop.connect);
    add(&mut sum.tls, hop.tls);
    add(&mut sum.response, hop.response);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_body_or_left_out() {
        let check = |body: &str, version: Option<&str>, database, external| {
            let read = facts(body.as_bytes());
            assert_eq!(
                (read.version.as_deref(), read.database_connected, read.external_services_ok),
                (version, database, external),
                "{body}"
            );
        };
        check(r#"{"version":"1.2","database":"connected"}"#, Some("1.2"), Some(true), None);
        check(r#"{"data":{"version":"2","database":{"connected":false}}}"#, Some("2"), Some(false), None);
        check(r#"{"externalServices":{"a":true,"b":"ok","c":{"status":"healthy"}}}"#, None, None, Some(true));
        check(r#"{"external_services":{"a":"down"}}"#, None, None, Some(false));
        check(r#"{"version":7,"database":3}"#, None, None, None);
        check("[]", None, None, None);
        check("", None, None, None);
        check(&format!(r#"{{"data":{}"#, "[".repeat(100_000)), None, None, None);
    }
}
