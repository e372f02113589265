//! Nine small services of our own for a newcomer to watch: they answer, slow down, fail and recover by a script that
//! shows every status, an outage, an alert and a recovery within a minute.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::service::Service;

/// What a demo service does for a while.
#[derive(Debug, Clone, Copy)]
enum Act {
    Answer,
    /// Degraded by its response time.
    Slow,
    /// Degraded by its code.
    Refuse,
    /// Unhealthy, and soon an outage.
    Fail,
}

/// Until which second of each cycle a service does what; what comes after the last is [`Act::Answer`].
type Script = &'static [(u64, Act)];

/// Length of a cycle in seconds.
const CYCLE: u64 = 120;

fn script(place: usize) -> Script {
    match place {
        // twilio-server: down from the start, back after 35 s.
        6 => &[(35, Act::Fail), (80, Act::Answer), (CYCLE, Act::Fail)],
        // as-connection-service: slow for most of the time.
        4 => &[(45, Act::Slow), (70, Act::Answer), (100, Act::Slow)],
        // dispatch-bot-ai: answers 429 now and then.
        7 => &[(20, Act::Answer), (60, Act::Refuse)],
        _ => &[],
    }
}

/// Starts a small service on each address of `services` that is on this machine.
///
/// # Errors
/// A port is taken, with the remedy.
pub async fn start(services: &[Arc<Service>], stop: &CancellationToken) -> Result<(), String> {
    let began = Instant::now();
    for (place, service) in services.iter().enumerate() {
        let local = ["://localhost:", "://127.0.0.1:"].iter().any(|host| service.url.contains(host));
        if !local || service.port == 0 {
            continue;
        }
        let port = service.port;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
            format!("--demo: port {port} of {} cannot be used ({error}); stop what listens there", service.name)
        })?;
        let router = Router::new().fallback(move || play(place, began));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
    }
    tracing::info!("demo services started: watch twilio-server fail and recover on /status/dashboard");
    Ok(())
}

async fn play(place: usize, began: Instant) -> Response {
    let second = began.elapsed().as_secs() % CYCLE;
    let act = script(place).iter().find(|(until, _)| second < *until).map_or(Act::Answer, |(_, act)| *act);
    let body = json!({"status": "ok", "version": "1.0.0", "database": "connected"});
    match act {
        Act::Answer => axum::Json(body).into_response(),
        Act::Slow => {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            axum::Json(body).into_response()
        }
        Act::Refuse => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Act::Fail => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
