//! The registry as clients see it: services by category, and the dependency graph (CONTRACT.md 9.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::ApiState;
use super::bodies::Paging;
use super::bodies::services::{RegistryAnswer, ServicesQuery};
use super::document::Tagged;
use super::error::{ApiError, Invalid};
use super::input::Asked;
use super::lists;
use super::record::record;
use crate::domain::probe::Protocol;
use crate::domain::service::{Service, ServiceName};
use crate::domain::status::{Status, dependency_word};
use crate::domain::time::Stamp;
use crate::engine::live::Watched;

/// Categories that are shown even when empty: CONTRACT.md 5.4.
const ALWAYS_SHOWN: [&str; 4] = ["identity", "core", "external", "frontend"];

/// A JSON object whose members keep their order.
struct Ordered<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    url: String,
    health_endpoint: String,
    status: Status,
    version: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryBody {
    services: Ordered<Ordered<Registered>>,
    last_updated: Stamp,
    /// The page of 003.
    items: Vec<Map<String, Value>>,
    total: usize,
}

/// What of the registry is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    protocol: Option<Protocol>,
    active: Option<bool>,
    category: Option<String>,
    skip: Option<usize>,
    limit: Option<usize>,
}

impl Wanted {
    fn of(asked: &Asked) -> Result<Self, ApiError> {
        let protocols: Vec<&str> = Protocol::ALL.iter().map(|protocol| protocol.label()).collect();
        Ok(Self {
            protocol: asked.choice("protocol", &protocols.join(", "), Protocol::named)?,
            active: asked.boolean("is_active")?,
            category: asked.text("category").map(str::to_ascii_lowercase),
            skip: asked.skip()?,
            limit: asked.number("limit", 1, MOST)?,
        })
    }

    fn matches(&self, service: &Service) -> bool {
        self.protocol.is_none_or(|protocol| service.protocol == protocol)
            && self.active.is_none_or(|active| service.active == active)
            && self.category.as_ref().is_none_or(|category| service.category == *category)
    }
}

/// Items of a page when nothing else is asked for, and at most: CONTRACT.md section 1.
const PAGE: usize = 100;
const MOST: usize = 1000;

/// `GET /services`: services with their base URLs by category (000), and a page of their records (003).
#[utoipa::path(get, path = "/services", operation_id = "listServices",
    params(ServicesQuery, Paging), responses((status = 200, body = RegistryAnswer), Tagged))]
pub(super) async fn registry(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.engine.windows_in_force();
    let wanted = Wanted::of(&asked)?;
    match asked.text("view") {
        None => {}
        Some("names") => {
            let generation = app.engine.live.generation();
            return lists::answer(&app, &headers, generation, || {
                let roster = app.engine.live.roster();
                let services = roster.watched.iter().map(|watched| watched.service());
                let names = services.filter(|service| wanted.matches(service)).map(|service| service.name.clone());
                let page = names.skip(wanted.skip.unwrap_or(0)).take(wanted.limit.unwrap_or(usize::MAX));
                page.collect::<Vec<ServiceName>>()
            });
        }
        Some(_) => {
            return Err(ApiError::from(Invalid {
                place: "query",
                field: "view".to_owned(),
                rule: "must be names, or be left out".to_owned(),
                kind: "enum",
                input: None,
            }));
        }
    }
    if wanted == Wanted::default() {
        return lists::shared(&app, &headers, "services", move |app| registry_body(app, &wanted)).await;
    }
    lists::answer(&app, &headers, app.engine.live.generation(), || registry_body(&app, &wanted))
}

fn registry_body(app: &ApiState, wanted: &Wanted) -> RegistryBody {
    let roster = app.engine.live.roster();
    let mut categories: Vec<(String, Ordered<Registered>)> =
        ALWAYS_SHOWN.iter().map(|category| ((*category).to_owned(), Ordered(Vec::new()))).collect();
    let mut places: BTreeMap<String, usize> =
        ALWAYS_SHOWN.iter().enumerate().map(|(place, category)| ((*category).to_owned(), place)).collect();
    let matching: Vec<&Arc<Watched>> =
        roster.watched.iter().filter(|watched| wanted.matches(&watched.service())).collect();
    let (skip, limit) = (wanted.skip.unwrap_or(0), wanted.limit.unwrap_or(PAGE));
    let items = matching.iter().skip(skip).take(limit).map(|watched| record(app, watched)).collect();
    // Without a page or a filter the map is complete: that is what clients of 000 know.
    let shown = if *wanted == Wanted::default() { usize::MAX } else { limit };
    for watched in matching.iter().skip(skip).take(shown) {
        let service = watched.service();
        let place = *places.entry(service.category.clone()).or_insert_with(|| {
            categories.push((service.category.clone(), Ordered(Vec::new())));
            categories.len() - 1
        });
        let inner = watched.lock();
        let shown = Registered {
            url: service.base_url.clone(),
            health_endpoint: service.health_path.clone(),
            status: inner.state.status,
            version: inner.state.facts.version.clone(),
        };
        if let Some((_, services)) = categories.get_mut(place) {
            services.0.push((service.name.to_string(), shown));
        }
    }
    RegistryBody {
        services: Ordered(categories),
        last_updated: Stamp(app.engine.clock.now()),
        items,
        total: matching.len(),
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    depends_on: Vec<ServiceName>,
    /// Groups of which one member is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on_any: Vec<Vec<ServiceName>>,
    dependency_status: Status,
    critical_path: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DependenciesBody {
    #[schema(value_type = BTreeMap<String, Dependency>)]
    dependencies: Ordered<Dependency>,
    critical_path: Vec<ServiceName>,
    healthy_dependencies: usize,
    broken_dependencies: usize,
}

/// `GET /services/dependencies`: who needs whom, and how those stand.
#[utoipa::path(get, path = "/services/dependencies", operation_id = "getDependencies",
    responses((status = 200, body = DependenciesBody), Tagged))]
pub(super) async fn dependencies(State(app): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    lists::shared(&app, &headers, "services/dependencies", dependencies_body).await
}

fn best(members: impl Iterator<Item = Status>) -> Status {
    let rank = |status: &Status| match status {
        Status::Healthy => 0,
        Status::Degraded => 1,
        Status::Unknown => 2,
        Status::Unhealthy => 3,
    };
    members.min_by_key(rank).unwrap_or_default()
}

fn dependencies_body(app: &ApiState) -> DependenciesBody {
    let roster = app.engine.live.roster();
    let (mut healthy, mut broken) = (0, 0);
    let mut shown = Vec::with_capacity(roster.watched.len());
    for watched in &roster.watched {
        let service = watched.service();
        let status =
            |name: &ServiceName| roster.find(name).map_or(Status::Unknown, |needed| needed.lock().state.status);
        let statuses: Vec<Status> = service.needs().map(status).collect();
        // A group is as well as the best of its members.
        let groups = service.depends_on_any.iter().map(|group| best(group.iter().map(status)));
        let word = dependency_word(service.depends_on.iter().map(|needed| status(&needed.name)).chain(groups));
        let well = statuses.iter().filter(|status| **status == Status::Healthy).count();
        healthy += well;
        broken += statuses.len() - well;
        let dependency = Dependency {
            depends_on: service.needs().cloned().collect(),
            depends_on_any: service.depends_on_any.clone(),
            dependency_status: word,
            critical_path: roster.registry.is_on_critical_path(&service.name),
        };
        shown.push((service.name.to_string(), dependency));
    }
    DependenciesBody {
        dependencies: Ordered(shown),
        critical_path: roster.registry.critical_path().to_vec(),
        healthy_dependencies: healthy,
        broken_dependencies: broken,
    }
}
