//! Sends probes: one match over protocols; times and limits every probe, once. Does not judge, log or retry a verdict.

mod amqp;
mod dial;
mod dns;
mod filesystem;
mod grpc;
pub mod http;
mod icmp;
mod postgres;
mod redis;
mod tcp;
mod tls;
mod trace;
mod traceparent;
mod udp;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use self::dial::{Dialer, Way};
use self::trace::GuardedResolver;
use crate::domain::egress::EgressPolicy;
use crate::domain::observation::{Observation, Phases, ProbeFailure, Reason, Reply};
use crate::domain::probe::Probe;
use crate::domain::service::Service;

/// What probes are sent with.
#[derive(Debug, Clone)]
pub struct Clients {
    http: http::HttpClients,
    dialer: Dialer,
    pinger: icmp::Pinger,
    files: filesystem::Turns,
}

/// A part of the machinery that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    #[error("cannot build the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("cannot build the resolver: {0}")]
    Resolver(#[from] hickory_resolver::net::NetError),
}

impl Clients {
    /// Must be called in the runtime that sends the probes.
    ///
    /// # Errors
    /// The TLS or resolver set-up of this machine is unusable.
    pub fn new(egress: EgressPolicy) -> Result<Self, ClientsError> {
        let egress = Arc::new(egress);
        let resolver = Arc::new(GuardedResolver::new(egress.clone())?);
        Ok(Self {
            http: http::HttpClients::new(egress.clone(), resolver.clone())?,
            dialer: Dialer::new(egress, resolver),
            pinger: icmp::Pinger::new(),
            files: filesystem::Turns::new(),
        })
    }

    /// Why no ICMP probe can be sent, and what helps.
    pub fn icmp_problem(&self) -> Option<&str> {
        self.pinger.problem()
    }
}

/// Tells how far a probe has come while it still runs: overrunning is judged from when the request was sent, until the
/// response head is there.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Step>);

#[derive(Debug, Clone, Copy, Default)]
enum Step {
    #[default]
    Connecting,
    Sent(Instant),
    Answered,
}

impl Progress {
    fn step(&self) -> Step {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }
}

/// Sends one probe. It cannot fail: getting no reply is itself what we came to see.
///
/// `fresh`: on a connection of its own. When the response overruns the critical response time while there is still time
/// to wait for it, `on_overrun` is told at that moment; the probe goes on.
pub async fn observe(
    clients: &Clients,
    service: &Service,
    fresh: bool,
    on_overrun: impl AsyncFnOnce(Observation),
) -> Observation {
    let started = Instant::now();
    let deadline = started + service.timeout;
    let progress = Arc::<Progress>::default();
    let traceparent = service.probe.sends_traceparent().then(traceparent::traceparent);
    let span = info_span!("probe", infra.protocol = service.protocol.label(), http.response.status_code = Empty);
    let attempt = async {
        if let Probe::Http(probe) = &service.probe {
            let seen = http::send(&clients.http, probe, traceparent, fresh, deadline, &progress).await;
            if let Ok(reply) = &seen.reply {
                Span::current().record("http.response.status_code", reply.code);
            }
            return seen;
        }
        let way = Way::new(progress.clone());
        let sent = send(clients, &service.probe, &way, traceparent.as_deref(), deadline);
        let reply = timeout_at(deadline, sent).await;
        let reply = reply.unwrap_or_else(|_| Err(way.timed_out()));
        // A response time belongs to an answer.
        let phases = way.phases();
        let phases = if reply.is_ok() { phases } else { Phases { response: None, ..phases } };
        Observation { reply, phases }
    };
    let attempt = attempt.instrument(span);
    let overrun = Duration::from_millis(service.limits.latency.critical_ms.saturating_add(1));
    if overrun >= service.timeout {
        return attempt.await;
    }
    let mut attempt = std::pin::pin!(attempt);
    let mut due = started + overrun;
    loop {
        tokio::select! {
            biased;
            seen = &mut attempt => return seen,
            () = tokio::time::sleep_until(due) => {}
        }
        due = match progress.step() {
            Step::Answered => return attempt.await,
            // Not sent yet: nothing can overrun before another whole limit has passed.
            Step::Connecting => Instant::now() + overrun,
            Step::Sent(at) if at + overrun > Instant::now() => at + overrun,
            Step::Sent(_) => {
                let limit = service.limits.latency.critical_ms;
                let early = Observation::failed(Reason::Latency, format!("High response time (over {limit}ms)"));
                let (seen, ()) = tokio::join!(attempt, on_overrun(early));
                return seen;
            }
        };
    }
}

/// One match over the protocols with a connection of their own.
async fn send(
    clients: &Clients,
    probe: &Probe,
    way: &Way,
    traceparent: Option<&str>,
    deadline: Instant,
) -> Result<Reply, ProbeFailure> {
    let dialer = &clients.dialer;
    match probe {
        Probe::Tcp(probe) => tcp::send(dialer, probe, way).await,
        Probe::Udp(probe) => udp::send(dialer, probe, way, deadline).await,
        Probe::Dns(probe) => dns::send(dialer, probe, way).await,
        Probe::Icmp(target) => icmp::send(dialer, target, way, &clients.pinger).await,
        Probe::Redis(probe) => redis::send(dialer, probe, way).await,
        Probe::Postgres(probe) => postgres::send(dialer, probe, way).await,
        Probe::Filesystem(probe) => filesystem::send(probe, way, &clients.files).await,
        Probe::Amqp(target) => amqp::send(dialer, target, way).await,
        Probe::Grpc(probe) => grpc::send(dialer, probe, way, traceparent).await,
        Probe::Tls(target, options) => tls::send(dialer, target, options, way).await,
        Probe::Http(_) => Err(ProbeFailure::new(Reason::Protocol, "HTTP goes its own way")),
    }
}
