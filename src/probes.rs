//! Sends probes: one match over protocols; times and limits every probe, once. Does not judge, log or retry a verdict.

pub mod http;
mod trace;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::egress::EgressPolicy;
use crate::domain::observation::{Observation, Reason};
use crate::domain::service::{Probe, Service};

/// What probes are sent with.
#[derive(Debug, Clone)]
pub struct Clients {
    http: http::HttpClients,
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
    /// # Errors
    /// The TLS or resolver set-up of this machine is unusable.
    pub fn new(egress: EgressPolicy) -> Result<Self, ClientsError> {
        Ok(Self { http: http::HttpClients::new(egress)? })
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
    let attempt = async {
        match &service.probe {
            Probe::Http(probe) => http::send(&clients.http, probe, fresh, deadline, &progress).await,
        }
    };
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
