//! The HTTP interface: every route on one page. What comes before routing (keys, limits, request ids) is in [`gate`],
//! what comes before HTTP (sockets, deadlines) in [`serve`].

pub mod administer;
mod alerts;
pub mod auth;
mod bodies;
mod config;
mod discovery;
mod document;
mod documents;
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
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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

/// Every route, with what its handler says of itself: paths are there, and come here without a trailing slash. Only what
/// is described can be added.
fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(document::Base::openapi())
        .routes(routes!(health::root))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::overall))
        .routes(routes!(health::live))
        .routes(routes!(health::services, registry::register_health))
        .routes(routes!(endpoints::show_health, registry::update_health, registry::remove_health))
        .routes(routes!(health::service))
        .routes(routes!(system::system))
        .routes(routes!(system::cpu))
        .routes(routes!(system::memory))
        .routes(routes!(system::disk))
        .routes(routes!(system::network))
        .routes(routes!(system::metrics))
        .routes(routes!(system::detailed))
        .routes(routes!(system::words))
        .routes(routes!(system::status))
        .routes(routes!(system::report))
        .routes(routes!(system::health_report))
        .routes(routes!(services::registry, registry::register))
        .routes(routes!(endpoints::show, registry::update, registry::remove))
        .routes(routes!(endpoints::check))
        .routes(routes!(endpoints::status))
        .routes(routes!(endpoints::history))
        .routes(routes!(endpoints::availability))
        .routes(routes!(endpoints::impact))
        .routes(routes!(endpoints::health))
        .routes(routes!(registry::thresholds))
        .routes(routes!(endpoints::alert_status))
        .routes(routes!(endpoints::summary))
        .routes(routes!(endpoints::booleans))
        .routes(routes!(services::dependencies))
        .routes(routes!(status::critical))
        .routes(routes!(status::dashboard))
        .routes(routes!(metrics::all))
        .routes(routes!(metrics::text))
        .routes(routes!(metrics::service))
        .routes(routes!(metrics::history))
        .routes(routes!(metrics::named_service))
        .routes(routes!(probe::send))
        .routes(routes!(discovery::targets))
        .routes(routes!(outages::list))
        .routes(routes!(outages::active))
        .routes(routes!(outages::summary))
        .routes(routes!(outages::show))
        .routes(routes!(outages::resolve))
        .routes(routes!(maintenance::list, maintenance::create))
        .routes(routes!(maintenance::active))
        .routes(routes!(maintenance::show, maintenance::update, maintenance::remove))
        .routes(routes!(alerts::overview))
        .routes(routes!(alerts::active))
        .routes(routes!(alerts::history))
        .routes(routes!(alerts::show))
        .routes(routes!(alerts::acknowledge))
        .routes(routes!(alerts::clear))
        .routes(routes!(alerts::resolve))
        .routes(routes!(alerts::newest))
        .routes(routes!(notifications::dead_letters))
        .routes(routes!(notifications::replay))
        .routes(routes!(notifications::test))
        .routes(routes!(exports::dead_letters))
        .routes(routes!(exports::replay))
        .routes(routes!(events::follow))
        .routes(routes!(config::show, config::change))
        .routes(routes!(config::changes))
        .routes(routes!(config::reload))
        .routes(routes!(config::avatar))
        .routes(routes!(monitoring::status))
        .routes(routes!(monitoring::start))
        .routes(routes!(monitoring::stop))
        .routes(routes!(documents::openapi))
        .routes(routes!(documents::swagger))
        .routes(routes!(documents::swagger_file))
        .routes(routes!(documents::redoc))
        .routes(routes!(documents::redoc_file))
}

/// The routes as they are served.
pub fn router(state: ApiState) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .route_layer(axum::middleware::from_fn(auth::writes_need_a_full_key))
        .route_layer(axum::middleware::from_fn(traffic::note_route))
        .route_layer(tower::util::MapRequestLayer::new(trace::routed))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::unknown_method)
        .with_state(state)
}

/// The OpenAPI document of the routes, as text.
pub fn openapi() -> String {
    let document = document::finished(routes().into_openapi());
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text + "\n"
}
