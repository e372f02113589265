//! Sends probes: one match over protocols; times and limits every probe, once. Does not judge, log or retry a verdict.

pub mod http;
mod trace;

use std::sync::Arc;
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
#[error("cannot build the HTTP client: {0}")]
pub struct ClientsError(#[from] reqwest::Error);

impl Clients {
    /// # Errors
    /// The TLS or resolver set-up of this machine is unusable.
    pub fn new(egress: EgressPolicy) -> Result<Self, ClientsError> {
        Ok(Self { http: http::HttpClients::new(egress)? })
    }
}

/// Tells when the request was sent, while the probe still runs: overrunning is judged from there.
#[derive(Debug, Default)]
pub struct Progress(std::sync::OnceLock<Instant>);

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
    loop {
        let due = progress.0.get().copied().unwrap_or(started) + overrun;
        tokio::select! {
            biased;
            seen = &mut attempt => return seen,
            () = tokio::time::sleep_until(due) => {}
        }
        // The request may have been sent later than the probe began; then there is still time.
        let overran = progress.0.get().is_some_and(|sent| *sent + overrun <= Instant::now());
        if overran {
            let limit = service.limits.latency.critical_ms;
            let early = Observation::failed(Reason::Latency, format!("High response time (over {limit}ms)"));
            let (seen, ()) = tokio::join!(attempt, on_overrun(early));
            return seen;
        }
        if progress.0.get().is_none() {
            // Not sent yet: nothing can overrun before another whole limit has passed.
            tokio::select! {
                biased;
                seen = &mut attempt => return seen,
                () = tokio::time::sleep(overrun) => {}
            }
        }
    }
}
