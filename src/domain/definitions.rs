//! Everything that is defined: the services of the operator, and registrations over the API in the order they came. One
//! change at a time is judged and applied here; nothing is durable and nothing is watched by it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::dependency::GraphError;
use super::maintenance::MaintenanceWindow;
use super::registration::{Door, Given, Registration};
use super::registry::{Registry, RegistryError};
use super::service::{Service, ServiceName, Source};
use super::spec::{Defaults, Problem};

/// Most registrations: our choice, twice what one process is meant to hold.
pub const MOST_REGISTERED: usize = 200_000;

/// What the operator has written: services, critical path, windows.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub services: Vec<Arc<Service>>,
    pub critical_path: Vec<String>,
    pub windows: Vec<MaintenanceWindow>,
}

/// A wish of a client.
#[derive(Debug, Clone)]
pub enum Change {
    Register { given: Given, door: Door },
    Update { name: ServiceName, given: Given, if_match: Option<u64> },
    Remove { name: ServiceName, if_match: Option<u64> },
}

impl Change {
    /// The service that is meant, if that is a name.
    pub fn name(&self) -> Option<ServiceName> {
        match self {
            Self::Register { given, .. } => ServiceName::new(given.id()?.as_str()?).ok(),
            Self::Update { name, .. } | Self::Remove { name, .. } => Some(name.clone()),
        }
    }
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub enum Applied {
    Created(Arc<Service>),
    Replaced(Arc<Service>),
    /// It was so already.
    Unchanged(Arc<Service>),
    Removed,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Exists(ServiceName),
    InFile(ServiceName),
    Unknown(ServiceName),
    NeededBy(ServiceName, Vec<ServiceName>),
    Invalid(Vec<Problem>),
    /// The definition has changed since it was read.
    Stale,
    /// As many are registered as may be.
    TooMany,
}

/// What a name was before a change, to put it back.
#[derive(Debug, Clone)]
pub struct Undo {
    pub name: ServiceName,
    pub before: Option<Registered>,
}

/// One registration and the service it makes.
#[derive(Debug, Clone)]
pub struct Registered {
    place: u64,
    pub registration: Arc<Registration>,
    pub service: Arc<Service>,
}

/// Every definition.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    listed: Listed,
    by_name: HashMap<ServiceName, Arc<Service>>,
    listed_needing: Vec<Arc<Service>>,
    registered: BTreeMap<u64, ServiceName>,
    /// Those that depend on something: who needs a service is looked for among them.
    needing: HashSet<ServiceName>,
    of: HashMap<ServiceName, Registered>,
    next: u64,
}

impl Definitions {
    /// The operator's definitions are replaced.
    pub fn list(&mut self, listed: Listed) -> Listed {
        self.by_name = listed.services.iter().map(|service| (service.name.clone(), service.clone())).collect();
        let needing = listed.services.iter().filter(|service| service.needs().next().is_some());
        self.listed_needing = needing.cloned().collect();
        std::mem::replace(&mut self.listed, listed)
    }

    pub fn listed(&self) -> &Listed {
        &self.listed
    }

    /// Takes a stored registration up again.
    pub fn restore(&mut self, registration: Registration, service: Service) {
        let name = service.name.clone();
        self.put(name, Arc::new(registration), Arc::new(service));
    }

    /// Every registration is read anew, with other defaults.
    ///
    /// # Errors
    /// Names whose registrations break a rule with them, each with the rule; nothing has changed.
    pub fn redefine(&mut self, defaults: &Defaults) -> Result<(), Vec<(ServiceName, Problem)>> {
        let (mut made, mut broken) = (Vec::new(), Vec::new());
        for (name, known) in &self.of {
            match known.registration.service(defaults) {
                Ok(service) if service.fingerprint == known.service.fingerprint => {}
                Ok(service) => made.push((name.clone(), known.registration.clone(), Arc::new(service))),
                Err(problems) => broken.extend(problems.into_iter().map(|problem| (name.clone(), problem))),
            }
        }
        if !broken.is_empty() {
            return Err(broken);
        }
        for (name, registration, service) in made {
            self.put(name, registration, service);
        }
        Ok(())
    }

    fn put(&mut self, name: ServiceName, registration: Arc<Registration>, service: Arc<Service>) {
        let known = self.of.get(&name).map(|known| known.place);
        let place = known.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.hold(name, Registered { place, registration, service });
    }

    fn hold(&mut self, name: ServiceName, known: Registered) {
        if known.service.needs().next().is_some() {
            self.needing.insert(name.clone());
        } else {
            self.needing.remove(&name);
        }
        self.registered.insert(known.place, name.clone());
        self.of.insert(name, known);
    }

    fn let_go(&mut self, name: &ServiceName) -> Option<Registered> {
        let known = self.of.remove(name)?;
        self.registered.remove(&known.place);
        self.needing.remove(name);
        Some(known)
    }

    fn find(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.by_name.get(name).or_else(|| self.of.get(name).map(|known| &known.service))
    }

    pub fn registration(&self, name: &ServiceName) -> Option<&Registered> {
        self.of.get(name)
    }

    /// Applies one change, or refuses it and changes nothing.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn apply(
        &mut self,
        change: Change,
        defaults: &Defaults,
        now: DateTime<Utc>,
    ) -> Result<(Applied, Option<Undo>), Refused> {
        match change {
            Change::Register { given, door } => self.register(&given, door, defaults, now),
            Change::Update { name, given, if_match } => {
                let known = self.changeable(&name, if_match)?;
                if let Some(id) = given.id()
                    && id.as_str().and_then(|id| ServiceName::new(id).ok()).is_none_or(|id| id != name)
                {
                    let message = "cannot be changed: register the service under its new name".to_owned();
                    return Err(Refused::Invalid(vec![Problem { field: given.sent_as("id"), message }]));
                }
                let registration = known.registration.changed(&given, now);
                if registration == *known.registration {
                    return Ok((Applied::Unchanged(known.service.clone()), None));
                }
                let moved = moved_secrets(&known.registration, &registration, &given, defaults);
                if !moved.is_empty() {
                    return Err(Refused::Invalid(moved));
                }
                self.settle(registration, &given, defaults)
                    .map(|(service, undo)| (Applied::Replaced(service), Some(undo)))
            }
            Change::Remove { name, if_match } => {
                self.changeable(&name, if_match)?;
                let registered = self.needing.iter().filter_map(|name| self.of.get(name)).map(|known| &known.service);
                let everyone = self.listed_needing.iter().chain(registered);
                let needs_it =
                    |service: &&Arc<Service>| service.name != name && service.needs().any(|need| *need == name);
                let dependents: Vec<ServiceName> =
                    everyone.filter(needs_it).map(|service| service.name.clone()).collect();
                if !dependents.is_empty() {
                    return Err(Refused::NeededBy(name, dependents));
                }
                let before = self.let_go(&name);
                Ok((Applied::Removed, Some(Undo { name, before })))
            }
        }
    }

    fn register(
        &mut self,
        given: &Given,
        door: Door,
        defaults: &Defaults,
        now: DateTime<Utc>,
    ) -> Result<(Applied, Option<Undo>), Refused> {
        let registration = Registration::new(given, door, now).map_err(Refused::Invalid)?;
        let name = registration.name();
        if let Some(listed) = name.as_ref().and_then(|name| self.by_name.get(name)) {
            // Held against the operator's definition, not against what the API may reach.
            let asked = registration.service(&lenient(defaults)).map_err(|problems| self.told(problems, given))?;
            return if says_the_same(&asked, listed, &registration.definition) {
                Ok((Applied::Unchanged(listed.clone()), None))
            } else if door == Door::Services {
                Err(Refused::Exists(listed.name.clone()))
            } else {
                Err(Refused::InFile(listed.name.clone()))
            };
        }
        match name.as_ref().and_then(|name| self.of.get(name)) {
            None if self.of.len() >= MOST_REGISTERED => Err(Refused::TooMany),
            None => self
                .settle(registration, given, defaults)
                .map(|(service, undo)| (Applied::Created(service), Some(undo))),
            // A name is never changed, not even its case.
            Some(known)
                if door == Door::Services
                    || name.as_ref().map(ServiceName::as_str) != Some(known.service.name.as_str()) =>
            {
                Err(Refused::Exists(known.service.name.clone()))
            }
            Some(known) if known.registration.definition == registration.definition => {
                Ok((Applied::Unchanged(known.service.clone()), None))
            }
            Some(known) => {
                let version = registration.version.max(known.registration.version + 1);
                let replacing = Registration { created: known.registration.created, version, ..registration };
                self.settle(replacing, given, defaults).map(|(service, undo)| (Applied::Replaced(service), Some(undo)))
            }
        }
    }

    /// Puts a registration in force that has met every rule.
    fn settle(
        &mut self,
        registration: Registration,
        given: &Given,
        defaults: &Defaults,
    ) -> Result<(Arc<Service>, Undo), Refused> {
        let service = registration.service(defaults).map_err(|problems| self.told(problems, given))?;
        let wrong =
            |field: &str, message: String| Refused::Invalid(vec![Problem { field: given.sent_as(field), message }]);
        for need in service.needs() {
            if *need != service.name && self.find(need).is_none() {
                let field = if service.depends_on.iter().any(|needed| needed.name == *need) {
                    "depends_on"
                } else {
                    "depends_on_any"
                };
                return Err(wrong(field, format!("names {need}, which is not a service")));
            }
        }
        if let Some(path) = self.cycle(&service) {
            return Err(wrong("depends_on", format!("makes a dependency cycle: {}", path.join(" -> "))));
        }
        let (name, service) = (service.name.clone(), Arc::new(service));
        let before = self.of.get(&name).cloned();
        self.put(name.clone(), Arc::new(registration), service.clone());
        Ok((service, Undo { name, before }))
    }

    /// Takes back what a change did.
    pub fn undo(&mut self, undo: Undo) {
        match undo.before {
            Some(known) => self.hold(undo.name, known),
            None => drop(self.let_go(&undo.name)),
        }
    }

    fn changeable(&self, name: &ServiceName, if_match: Option<u64>) -> Result<&Registered, Refused> {
        if let Some(listed) = self.by_name.get(name) {
            return Err(Refused::InFile(listed.name.clone()));
        }
        let known = self.of.get(name).ok_or_else(|| Refused::Unknown(name.clone()))?;
        if if_match.is_some_and(|version| version != known.registration.version) {
            return Err(Refused::Stale);
        }
        Ok(known)
    }

    /// Problems by the names the client used.
    fn told(&self, problems: Vec<Problem>, given: &Given) -> Refused {
        let told = |problem: Problem| Problem { field: given.sent_as(&problem.field), ..problem };
        Refused::Invalid(problems.into_iter().map(told).collect())
    }

    /// The way from `service` back to itself, if there is one.
    fn cycle(&self, service: &Service) -> Option<Vec<String>> {
        let mut seen: HashSet<&ServiceName> = HashSet::new();
        // Each entry: a name, and the place of the entry that led to it.
        let mut ways: Vec<(&ServiceName, usize)> = service.needs().map(|need| (need, usize::MAX)).collect();
        let mut at = 0;
        while let Some((name, _)) = ways.get(at).copied() {
            if *name == service.name {
                let mut path = vec![name.to_string()];
                let mut place = at;
                while let Some((_, before)) = ways.get(place).filter(|(_, before)| *before != usize::MAX) {
                    place = *before;
                    path.extend(ways.get(place).map(|(name, _)| name.to_string()));
                }
                path.push(service.name.to_string());
                path.reverse();
                return Some(path);
            }
            if seen.insert(name)
                && let Some(next) = self.find(name)
            {
                ways.extend(next.needs().map(|need| (need, at)));
            }
            at += 1;
        }
        None
    }

    /// The registry of everything, and what had to be left out of registrations for the sake of the operator's
    /// definitions, as sentences.
    ///
    /// # Errors
    /// The operator's definitions contradict each other.
    pub fn registry(&self) -> Result<(Registry, Vec<String>), RegistryError> {
        let mut left_out = Vec::new();
        let mut services = self.listed.services.clone();
        services.reserve(self.registered.len());
        for name in self.registered.values() {
            let Some(known) = self.of.get(name) else { continue };
            if self.by_name.contains_key(name) {
                left_out.push(format!("{name} is defined in the services file; its registration is set aside"));
                continue;
            }
            let missing = known.service.needs().find(|need| self.find(need).is_none());
            services.push(match missing {
                None => known.service.clone(),
                Some(missing) => {
                    left_out.push(format!("{name} depends on {missing}, which is gone; that dependency is left out"));
                    Arc::new(self.without(&known.service, |need| self.find(need).is_some()))
                }
            });
        }
        loop {
            match Registry::new(services.clone(), &self.listed.critical_path) {
                Ok(registry) => return Ok((registry, left_out)),
                Err(RegistryError::Graph(GraphError::Cycle { service, path })) => {
                    let in_cycle = |known: &&mut Arc<Service>| {
                        known.source == Source::Api && path.iter().any(|name| known.name.as_str() == name)
                    };
                    let Some(found) = services.iter_mut().find(in_cycle) else {
                        return Err(RegistryError::Graph(GraphError::Cycle { service, path }));
                    };
                    left_out.push(format!(
                        "{}: dependency cycle {}; its dependencies are left out",
                        found.name,
                        path.join(" -> ")
                    ));
                    *found = Arc::new(self.without(found, |_| false));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn without(&self, service: &Service, keep: impl Fn(&ServiceName) -> bool) -> Service {
        let mut service = service.clone();
        service.depends_on.retain(|needed| keep(&needed.name));
        service.depends_on_any.retain(|group| group.iter().all(&keep));
        service.fingerprint ^= 1;
        service
    }
}

/// What the API may not reach is reached by nobody here: only the definition is of interest.
fn lenient(defaults: &Defaults) -> Defaults {
    let mut lenient = defaults.clone();
    lenient.registered.egress.development = true;
    lenient.registered.egress.own = None;
    lenient.registered.min_interval = std::time::Duration::ZERO;
    lenient
}

/// Secrets go to the place they were given for: when that changes they must be given again.
fn moved_secrets(before: &Registration, after: &Registration, given: &Given, defaults: &Defaults) -> Vec<Problem> {
    let place = |registration: &Registration| {
        let service = registration.service(&lenient(defaults)).ok()?;
        let origin = url::Url::parse(&service.url).ok().map(|url| (url.host_str().map(str::to_owned), service.port));
        Some((service.protocol, origin))
    };
    if place(before) == place(after) {
        return Vec::new();
    }
    ["headers", "body", "redis", "tcp", "udp"]
        .iter()
        .filter(|field| after.definition.get(**field).is_some_and(|value| !value.is_null()) && !given.sends(field))
        .map(|field| Problem {
            field: (*field).to_owned(),
            message: "must be sent again: the address has changed, and what may be secret stays with the old one"
                .to_owned(),
        })
        .collect()
}

/// A registration asks for exactly what the file says. What only the file says is not asked for.
fn says_the_same(asked: &Service, listed: &Service, sent: &Map<String, Value>) -> bool {
    let given = |field: &str| sent.contains_key(field);
    let same = |field: &str, same: bool| !given(field) || same;
    let settled = [
        "name",
        "display_name",
        "description",
        "tags",
        "url",
        "health_endpoint",
        "port",
        "protocol",
        "category",
        "critical",
        "critical_path",
        "depends_on",
        "depends_on_any",
        "check_interval_ms",
        "timeout_ms",
        "retries",
        "expected_status_code",
        "expected_status_codes",
        "on_unexpected",
        "thresholds",
        "is_active",
    ];
    let rest = sent.iter().filter(|(field, _)| !settled.contains(&field.as_str()));
    asked.url == listed.url
        && same("display_name", asked.display_name == listed.display_name)
        && same("description", asked.description == listed.description)
        && same("tags", asked.tags == listed.tags)
        && same("category", asked.category == listed.category)
        && same("critical", asked.critical == listed.critical)
        && same("critical_path", asked.critical_path == listed.critical_path)
        && same("depends_on", asked.depends_on == listed.depends_on)
        && same("depends_on_any", asked.depends_on_any == listed.depends_on_any)
        && same("check_interval_ms", asked.interval == listed.interval)
        && same("timeout_ms", asked.timeout == listed.timeout)
        && same("retries", asked.retries == listed.retries)
        && same("expected_status_code", asked.expected == listed.expected)
        && same("expected_status_codes", asked.expected == listed.expected)
        && same("thresholds", asked.limits == listed.limits)
        && same("is_active", asked.active == listed.active)
        && rest.into_iter().all(|(field, value)| {
            // What may be secret is not held against the file: the answer would tell.
            let secret = matches!(field.as_str(), "headers" | "body" | "redis" | "tcp" | "udp");
            !secret && listed.defines(field).as_ref() == Some(value)
        })
}

/// The tag of a definition, for `If-Match`.
pub fn version_tag(service: &Service) -> String {
    match service.source {
        Source::Api => service.version.to_string(),
        Source::File | Source::Environment => format!("{:x}", service.fingerprint),
    }
}
