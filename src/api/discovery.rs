//! `GET /api/v1/sd`: every watched target as Prometheus discovers targets over HTTP, for scrape configurations that
//! probe them through `GET /probe`: the address is what `target` takes, `__meta_infra_module` what `module` takes.
//!
//! Services that are not active, and file systems, which have no address, are left out.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use super::ApiState;
use super::bodies::metrics::TargetGroup;
use super::document::Tagged;
use super::error::ApiError;
use super::lists;
use super::probe::Module;
use crate::domain::service::{Service, Source};

/// One target with what is known of it.
#[derive(Serialize)]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

impl Group {
    fn of(service: &Service) -> Option<Self> {
        let module = Module::of(service.protocol).filter(|_| service.active && !service.url.is_empty())?;
        let source = match service.source {
            Source::File => "file",
            Source::Environment => "environment",
            Source::Api => "api",
        };
        // Between commas on both sides, so that a pattern finds whole tags, as other discoveries have it.
        let tags = match service.tags.as_slice() {
            [] => String::new(),
            tags => format!(",{},", tags.join(",")),
        };
        let labels = BTreeMap::from([
            ("__meta_infra_name", service.name.to_string()),
            ("__meta_infra_display_name", service.display_name.clone()),
            ("__meta_infra_category", service.category.clone()),
            ("__meta_infra_protocol", service.protocol.label().to_owned()),
            ("__meta_infra_critical", service.critical.to_string()),
            ("__meta_infra_critical_path", service.critical_path.to_string()),
            ("__meta_infra_tags", tags),
            ("__meta_infra_source", source.to_owned()),
            ("__meta_infra_module", module.as_str().to_owned()),
        ]);
        Some(Self { targets: [service.url.clone()], labels })
    }
}

/// `GET /api/v1/sd`: every active target, for Prometheus to discover.
#[utoipa::path(get, path = "/api/v1/sd", operation_id = "discoverTargets",
    responses((status = 200, body = Vec<TargetGroup>), Tagged))]
pub(super) async fn targets(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let made = tokio::task::spawn_blocking(move || {
        let roster = app.engine.live.roster();
        let groups: Vec<Group> = roster.registry.services().iter().filter_map(|service| Group::of(service)).collect();
        lists::by_content(&headers, &groups)
    });
    made.await.map_err(|_| ApiError::Internal("Internal server error"))?
}
