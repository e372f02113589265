//! `GET /probe?target=&module=`: one probe for the one who asks, in the protocol and under the names of
//! blackbox_exporter, so that its scrape configurations and dashboards work here. The one GET that probes (CONTRACT.md
//! section 20): the target is under the egress rule of API registrations, and nothing is judged by our limits, counted
//! or stored.
//!
//! Only what a probe saw is told. What kept us from probing at all is 503, so that `up` falls and not `probe_success`:
//! we rule out ourselves before accusing a target. A target that the egress rule denies looks the same whatever is
//! behind it: no success, and `egress_denied` as the reason.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::ApiState;
use super::bodies::metrics::ProbeQuery;
use super::error::{ApiError, Invalid};
use super::input::Asked;
use super::prometheus::{Gauge, Wanted, page};
use crate::domain::observation::{Observation, Reason, Reply, clean};
use crate::domain::probe::{Method, Protocol};
use crate::domain::service::{Service, Source};
use crate::domain::spec::{NOT_ALLOWED, Problem, ServiceSpec, TlsTable};

/// Probes of callers at once: our choice. They are beside the checks and take nothing from them but sockets.
pub(super) const PROBES: usize = 64;
/// Prometheus says how long it waits; without a word, as long as it does by default.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The answer must reach the one who waits for it: half a second, as blackbox_exporter has it.
const MARGIN: Duration = Duration::from_millis(500);
/// CONTRACT.md 5.1, the longest timeout of a service.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest interval there is: CONTRACT.md 5.1.
const NEVER_AGAIN: Duration = Duration::from_secs(7 * 86_400);

/// What may be asked of a target: the words of blackbox_exporter where it has one, else our protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Module {
    #[default]
    Http,
    HttpPost,
    Tcp,
    Tls,
    Icmp,
    Dns,
    Grpc,
    GrpcPlain,
    Udp,
    Redis,
    Postgres,
    Amqp,
}

impl Module {
    const ALL: [Self; 12] = [
        Self::Http,
        Self::HttpPost,
        Self::Tcp,
        Self::Tls,
        Self::Icmp,
        Self::Dns,
        Self::Grpc,
        Self::GrpcPlain,
        Self::Udp,
        Self::Redis,
        Self::Postgres,
        Self::Amqp,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http_2xx",
            Self::HttpPost => "http_post_2xx",
            Self::Tcp => "tcp_connect",
            Self::Tls => "tls",
            Self::Icmp => "icmp",
            Self::Dns => "dns",
            Self::Grpc => "grpc",
            Self::GrpcPlain => "grpc_plain",
            Self::Udp => "udp",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Amqp => "amqp",
        }
    }

    fn named(word: &str) -> Option<Self> {
        match word {
            "ssl" | "tcp_connect_tls" => Some(Self::Tls),
            "tcp" => Some(Self::Tcp),
            "http" | "https" => Some(Self::Http),
            word => Self::ALL.into_iter().find(|module| module.as_str() == word),
        }
    }

    /// The module that probes as a service of this protocol is probed; files are not for callers to touch.
    pub(super) fn of(protocol: Protocol) -> Option<Self> {
        Some(match protocol {
            Protocol::Http | Protocol::Https => Self::Http,
            Protocol::Tcp => Self::Tcp,
            Protocol::Tls => Self::Tls,
            Protocol::Icmp => Self::Icmp,
            Protocol::Dns => Self::Dns,
            Protocol::Grpc => Self::Grpc,
            Protocol::Udp => Self::Udp,
            Protocol::Redis => Self::Redis,
            Protocol::Postgres => Self::Postgres,
            Protocol::Amqp => Self::Amqp,
            Protocol::Filesystem => return None,
        })
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Http | Self::HttpPost => Protocol::Http,
            Self::Tcp => Protocol::Tcp,
            Self::Tls => Protocol::Tls,
            Self::Icmp => Protocol::Icmp,
            Self::Dns => Protocol::Dns,
            Self::Grpc | Self::GrpcPlain => Protocol::Grpc,
            Self::Udp => Protocol::Udp,
            Self::Redis => Protocol::Redis,
            Self::Postgres => Protocol::Postgres,
            Self::Amqp => Protocol::Amqp,
        }
    }

    /// The definition of a target that is probed as it is given.
    fn definition(self, target: &str, timeout: Duration) -> ServiceSpec {
        let web = matches!(self, Self::Http | Self::HttpPost);
        // Plain unless it is said otherwise, but for gRPC, which has a module for plain.
        let secured = self == Self::Grpc && !target.contains("://");
        ServiceSpec {
            name: "probe".to_owned(),
            url: Some(if secured { format!("grpcs://{target}") } else { target.to_owned() }),
            protocol: Some(self.protocol().label().to_owned()),
            timeout_ms: Some(timeout.as_secs_f64() * 1000.0),
            // There is no second time; what is asked for least often is below no minimum.
            check_interval: Some(NEVER_AGAIN.as_secs_f64()),
            method: (self == Self::HttpPost).then_some(Method::Post),
            follow_redirects: web.then_some(true),
            // How long a certificate lasts is a number here, not a verdict.
            tls: (self == Self::Tls).then(|| TlsTable {
                expiry_warning_days: Some(0),
                expiry_critical_days: Some(0),
                ..TlsTable::default()
            }),
            ..ServiceSpec::default()
        }
    }
}

/// `GET /probe`: one probe for the one who asks, told under the names of blackbox_exporter. Nothing is stored.
#[utoipa::path(get, path = "/probe", operation_id = "probeTarget", params(ProbeQuery,
        ("X-Prometheus-Scrape-Timeout-Seconds" = Option<f64>, Header, description = "How long the caller waits")),
    responses((status = 200, content((String = "text/plain"), (String = "application/openmetrics-text")))))]
pub(super) async fn send(State(app): State<ApiState>, asked: Asked, headers: HeaderMap) -> Result<Response, ApiError> {
    let words = Module::ALL.map(Module::as_str).join(", ");
    let module = asked.choice("module", &words, Module::named)?.unwrap_or_default();
    let target = asked.text("target").ok_or_else(|| refused("query", "target", "is required", "missing", None))?;
    let timeout = timeout(&headers)?;
    let format = Wanted::of(&headers).text();
    let defaults = app.engine.config().defaults.clone();
    let service = module.definition(target, timeout).into_service(&defaults, Source::Api);
    if app.stop.is_cancelled() {
        return Err(ApiError::Unavailable("The service is stopping"));
    }
    let place = app.probes.clone().try_acquire_owned();
    let _place = place.map_err(|_| ApiError::Unavailable("Too many probes at once"))?;
    let began = Instant::now();
    let seen = match &service {
        Ok(service) => app.engine.look(service).await,
        Err(problems) if problems.iter().all(|problem| problem.message == NOT_ALLOWED) => {
            Observation::failed(Reason::EgressDenied, "")
        }
        Err(problems) => return Err(not_a_target(target, problems)),
    };
    if seen.is_inconclusive() {
        return Err(ApiError::Unavailable("Not probed: the monitor lacks the sockets, memory or permission"));
    }
    let gauges = gauges(module, service.ok().as_ref(), &seen, began.elapsed());
    let text = page(gauges, format).map_err(|_| ApiError::Internal("Internal server error"))?;
    Ok(([(CONTENT_TYPE, format.media())], text).into_response())
}

fn refused(place: &'static str, field: &str, rule: &str, kind: &'static str, input: Option<Value>) -> ApiError {
    ApiError::from(Invalid { place, field: field.to_owned(), rule: rule.to_owned(), kind, input })
}

/// What is wrong with a target, in the words of definitions.
fn not_a_target(target: &str, problems: &[Problem]) -> ApiError {
    let input = (!target.contains('@')).then(|| Value::from(clean(target)));
    let one = |problem: &Problem| Invalid {
        place: "query",
        field: "target".to_owned(),
        rule: problem.message.clone(),
        kind: "value_error",
        input: input.clone(),
    };
    ApiError::Invalid(problems.iter().map(one).collect())
}

/// How long the probe may take, so that the answer comes before nobody waits any more.
fn timeout(headers: &HeaderMap) -> Result<Duration, ApiError> {
    let Some(given) = headers.get(TIMEOUT_HEADER) else { return Ok(DEFAULT_TIMEOUT) };
    let seconds = given.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok()).filter(|seconds| *seconds > 0.0);
    let waits = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST));
    let waits =
        waits.ok_or_else(|| refused("header", TIMEOUT_HEADER, "must be seconds over 0", "float_parsing", None))?;
    Ok(waits.saturating_sub(MARGIN).max(waits / 2).max(Duration::from_millis(1)))
}

/// Whether the target is well, and the one word for why not.
fn judge(seen: &Observation) -> Reason {
    match &seen.reply {
        Err(failure) => failure.reason,
        Ok(reply) if reply.code != 0 && !(200..300).contains(&reply.code) => Reason::Status,
        Ok(reply) => reply.findings.first().map_or(Reason::Ok, |finding| finding.reason),
    }
}

/// What was seen, under the names of blackbox_exporter.
fn gauges(module: Module, service: Option<&Service>, seen: &Observation, took: Duration) -> Vec<Gauge> {
    let mut page = Page(Vec::new());
    let reason = judge(seen);
    let phases = seen.phases;
    let reply = seen.reply.as_ref().ok();
    let seconds = |phase: Option<Duration>| phase.unwrap_or_default().as_secs_f64();
    page.one(
        "probe_success",
        "1 when the target answered as it should, else 0",
        f64::from(u8::from(reason == Reason::Ok)),
    );
    page.one(
        "probe_duration_seconds",
        "The whole probe, from the first look-up to the end of the answer",
        took.as_secs_f64(),
    );
    page.one(
        "probe_dns_lookup_time_seconds",
        "Resolving the name of the target; 0 for an address",
        seconds(phases.resolve),
    );
    if let Some(version) = ip_protocol(service, reply) {
        page.one("probe_ip_protocol", "4 or 6, the version of IP the target was reached by", version);
    }
    if let Some(expires) = reply.and_then(|reply| reply.certificate_expires) {
        let help = "Unix time at which the first certificate of the chain that was shown expires";
        page.one("probe_ssl_earliest_cert_expiry", help, expires as f64);
    }
    match module.protocol() {
        Protocol::Http => page.http(reply, &phases),
        Protocol::Icmp => {
            let rtt = seconds(phases.response);
            let setup = (took.as_secs_f64() - seconds(phases.resolve) - rtt).max(0.0);
            page.phases(
                "probe_icmp_duration_seconds",
                "Where the time of the echo request went",
                &[("resolve", seconds(phases.resolve)), ("setup", setup), ("rtt", rtt)],
            );
        }
        Protocol::Dns => page.phases(
            "probe_dns_duration_seconds",
            "Where the time of the query went",
            &[
                ("resolve", seconds(phases.resolve)),
                ("connect", seconds(phases.connect)),
                ("request", seconds(phases.response)),
            ],
        ),
        Protocol::Grpc => page.phases(
            "probe_grpc_duration_seconds",
            "Where the time of the health check went",
            &[
                ("resolve", seconds(phases.resolve)),
                ("connect", seconds(phases.connect)),
                ("tls", seconds(phases.tls)),
                ("check", seconds(phases.response)),
            ],
        ),
        _ => {}
    }
    if !matches!(module.protocol(), Protocol::Icmp | Protocol::Dns | Protocol::Grpc) {
        page.one("probe_failed_due_to_regex", "1 when a pattern was not found; no module here has one", 0.0);
    }
    page.0.push(Gauge {
        name: "infra_probe_reason",
        help: "1 for the one reason of the result, ok when it is a success",
        samples: vec![(Some(("reason", reason.as_str())), 1.0)],
    });
    page.0
}

/// 4 or 6, where the answer or the target itself tells.
fn ip_protocol(service: Option<&Service>, reply: Option<&Reply>) -> Option<f64> {
    let of_peer = reply.and_then(|reply| reply.http?.ipv6);
    let address = || {
        let url = &service?.url;
        let place = url.split_once("://").map_or(url.as_str(), |(_, place)| place);
        let host = url::Url::parse(&format!("http://{place}")).ok()?.host_str()?.to_owned();
        host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| ip.is_ipv6())
    };
    Some(if of_peer.or_else(address)? { 6.0 } else { 4.0 })
}

struct Page(Vec<Gauge>);

impl Page {
    fn one(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.0.push(Gauge { name, help, samples: vec![(None, value)] });
    }

    fn phases(&mut self, name: &'static str, help: &'static str, phases: &[(&'static str, f64)]) {
        let samples = phases.iter().map(|(phase, seconds)| (Some(("phase", *phase)), *seconds)).collect();
        self.0.push(Gauge { name, help, samples });
    }

    /// All of it is there without an answer too, as zeros: dashboards count on it.
    fn http(&mut self, reply: Option<&Reply>, phases: &crate::domain::observation::Phases) {
        let course = reply.and_then(|reply| reply.http);
        let seconds = |phase: Option<Duration>| phase.unwrap_or_default().as_secs_f64();
        self.one(
            "probe_http_status_code",
            "Status code of the last answer, 0 without one",
            reply.map_or(0.0, |reply| f64::from(reply.code)),
        );
        // -1: an answer that did not say.
        let length = course.map_or(0.0, |course| course.length.map_or(-1.0, |length| length as f64));
        self.one("probe_http_content_length", "What the answer said of its length, -1 when it said nothing", length);
        if let Some(body) = course.and_then(|course| course.body) {
            let help = "Bytes of the body after decoding; absent when it was not read to its end";
            self.one("probe_http_uncompressed_body_length", help, body as f64);
        }
        self.one(
            "probe_http_redirects",
            "Redirects that were followed",
            course.map_or(0.0, |course| course.redirects as f64),
        );
        let secured = course.is_some_and(|course| course.secured);
        self.one("probe_http_ssl", "1 when the last answer came over TLS", f64::from(u8::from(secured)));
        let version = course.map_or(0.0, |course| f64::from(course.version) / 10.0);
        self.one("probe_http_version", "Version of HTTP of the last answer", version);
        self.phases(
            "probe_http_duration_seconds",
            "Where the time went, over all redirects together",
            &[
                ("resolve", seconds(phases.resolve)),
                ("connect", seconds(phases.connect)),
                ("tls", seconds(phases.tls)),
                ("processing", seconds(phases.response)),
                ("transfer", course.map_or(0.0, |course| course.transfer.as_secs_f64())),
            ],
        );
    }
}
