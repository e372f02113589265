//! The HTTP interface: every route on one page. What comes before routing (keys, limits, request ids) is in [`gate`],
//! what comes before HTTP (sockets, deadlines) in [`serve`].

pub mod auth;
mod error;
mod gate;
mod health;
mod lists;
mod metrics;
mod prometheus;
pub mod serve;
mod services;
pub mod state;
mod status;

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};

pub use self::auth::{AuthScope, Keys};
pub use self::gate::Gate;
pub use self::state::{ApiState, Reload};

/// Settings of the interface: sections `[server]` and `[auth]`.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    pub host: String,
    pub port: u16,
    pub environment: String,
    pub service_name: String,
    pub version: String,
    pub cors_allowed_origins: Vec<String>,
    pub max_body_bytes: usize,
    pub max_in_flight: usize,
    /// Connections at once at most, by what this process may open.
    pub max_connections: usize,
    pub request_timeout: Duration,
    pub keys: Keys,
    pub scope: AuthScope,
}

/// Every route. Paths come here without a trailing slash.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/", get(health::root))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::overall))
        .route("/health/live", get(health::live))
        .route("/health/services", get(health::services))
        .route("/health/service/{name}", get(health::service))
        .route("/services", get(services::registry))
        .route("/services/dependencies", get(services::dependencies))
        .route("/status/critical", get(status::critical))
        .route("/status/dashboard", get(status::dashboard))
        .route("/metrics", get(metrics::all))
        .route("/metrics/prometheus", get(metrics::text))
        .route("/metrics/service/{name}", get(metrics::service))
        .route("/config/reload", post(services::reload))
        .route_layer(axum::middleware::from_fn(auth::writes_need_a_full_key))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::unknown_method)
        .with_state(state)
}
