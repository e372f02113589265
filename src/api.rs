//! The HTTP interface: every route on one page. What comes before routing (keys, limits, request ids) is in [`gate`],
//! what comes before HTTP (sockets, deadlines) in [`serve`].

pub mod administer;
mod alerts;
pub mod auth;
mod config;
mod discovery;
mod endpoints;
mod error;
mod events;
mod exports;
mod gate;
mod health;
mod input;
mod lists;
mod maintenance;
mod metrics;
mod monitoring;
mod notifications;
mod outages;
mod probe;
mod prometheus;
mod record;
mod registry;
pub mod serve;
mod services;
pub mod state;
mod status;
mod system;
mod trace;
mod traffic;

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};

pub use self::administer::{Administer, Caller, Denial, Origin, Reloaded, Setting, Standing, Wish, Wishes};
pub use self::auth::{AuthScope, Keys};
pub use self::gate::Gate;
pub use self::state::ApiState;

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
        .route("/health/services", get(health::services).post(registry::register))
        .route("/health/services/{name}", get(endpoints::show_health).put(registry::update).delete(registry::remove))
        .route("/health/service/{name}", get(health::service))
        .route("/health/system", get(system::system))
        .route("/health/system/cpu", get(system::cpu))
        .route("/health/system/memory", get(system::memory))
        .route("/health/system/disk", get(system::disk))
        .route("/health/system/network", get(system::network))
        .route("/health/metrics", get(system::metrics))
        .route("/health/detailed", get(system::detailed))
        .route("/api/health/services", get(system::words))
        .route("/status", get(system::status))
        .route("/report", get(system::report))
        .route("/reports/health", get(system::report))
        .route("/services", get(services::registry).post(registry::register))
        .route("/services/{id}", get(endpoints::show).put(registry::update).delete(registry::remove))
        .route("/services/{id}/check", post(endpoints::check))
        .route("/services/{id}/status", get(endpoints::status))
        .route("/services/{id}/history", get(endpoints::history))
        .route("/services/{id}/availability", get(endpoints::availability))
        .route("/services/{id}/impact", get(endpoints::impact))
        .route("/services/{id}/health", get(endpoints::health))
        .route("/services/{id}/alerts/thresholds", post(registry::thresholds))
        .route("/services/{id}/alerts/status", get(endpoints::alert_status))
        .route("/services/status/summary", get(endpoints::summary))
        .route("/api/v1/services/status", get(endpoints::booleans))
        .route("/services/dependencies", get(services::dependencies))
        .route("/status/critical", get(status::critical))
        .route("/status/dashboard", get(status::dashboard))
        .route("/metrics", get(metrics::all))
        .route("/metrics/prometheus", get(metrics::text))
        .route("/metrics/service/{name}", get(metrics::service))
        .route("/metrics/history", get(metrics::history))
        .route("/metrics/{name}", get(metrics::named_service))
        .route("/probe", get(probe::send))
        .route("/api/v1/sd", get(discovery::targets))
        .route("/outages", get(outages::list))
        .route("/outages/active", get(outages::active))
        .route("/outages/summary", get(outages::summary))
        .route("/outages/{id}", get(outages::show))
        .route("/outages/{id}/resolve", post(outages::resolve))
        .route("/maintenance", get(maintenance::list).post(maintenance::create))
        .route("/maintenance/active", get(maintenance::active))
        .route("/maintenance/{id}", get(maintenance::show).put(maintenance::update).delete(maintenance::remove))
        .route("/alerts", get(alerts::overview))
        .route("/alerts/active", get(alerts::active))
        .route("/alerts/history", get(alerts::history))
        .route("/alerts/{id}", get(alerts::show))
        .route("/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/alerts/{id}/clear", post(alerts::clear))
        .route("/alerts/{id}/resolve", post(alerts::resolve))
        .route("/notifications/dead-letters", get(notifications::dead_letters))
        .route("/notifications/dead-letters/replay", post(notifications::replay))
        .route("/notifications/test/{receiver}", post(notifications::test))
        .route("/exports/dead-letters", get(exports::dead_letters))
        .route("/exports/dead-letters/replay", post(exports::replay))
        .route("/api/health/alerts", get(alerts::newest))
        .route("/events", get(events::follow))
        .route("/config", get(config::show).put(config::change))
        .route("/config/changes", get(config::changes))
        .route("/config/reload", post(config::reload))
        .route("/api/v1/data/avatars/active", get(config::avatar))
        .route("/monitoring/status", get(monitoring::status))
        .route("/monitoring/start", post(monitoring::start))
        .route("/monitoring/stop", post(monitoring::stop))
        .route_layer(axum::middleware::from_fn(auth::writes_need_a_full_key))
        .route_layer(axum::middleware::from_fn(traffic::note_route))
        .route_layer(tower::util::MapRequestLayer::new(trace::routed))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::unknown_method)
        .with_state(state)
}
