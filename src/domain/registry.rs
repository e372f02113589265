//! The registry: every watched service in order, by name, with the graph over them. Immutable; a change makes a new one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::dependency::{Graph, GraphError};
use super::service::{Service, ServiceName};

/// Every service, in the order of the services file.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    services: Vec<Arc<Service>>,
    by_name: HashMap<ServiceName, usize>,
    critical_path: Vec<ServiceName>,
    on_path: HashSet<ServiceName>,
    pub graph: Graph,
}

/// Why a set of services is not a registry: always about one service by name, or the critical path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("is defined twice")]
    Duplicate(ServiceName),
    #[error("critical_path names {0}, which is not a service")]
    UnknownOnPath(String),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl RegistryError {
    /// The service to look at, if it is about one.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Duplicate(service)
            | Self::Graph(GraphError::Unknown { service, .. } | GraphError::Cycle { service, .. }) => Some(service),
            Self::UnknownOnPath(_) => None,
        }
    }
}

impl Registry {
    /// Puts `services` together. `critical_path` is the ordered list of the services file; flagged services that are
    /// not in it follow in registry order.
    ///
    /// # Errors
    /// The first duplicate name, unknown name or cycle.
    pub fn new(services: Vec<Arc<Service>>, critical_path: &[String]) -> Result<Self, RegistryError> {
        let mut by_name = HashMap::with_capacity(services.len());
        for (place, service) in services.iter().enumerate() {
            if by_name.insert(service.name.clone(), place).is_some() {
                return Err(RegistryError::Duplicate(service.name.clone()));
            }
        }
        let graph = Graph::new(services.iter().map(AsRef::as_ref), |name| by_name.contains_key(name))?;
        let mut path: Vec<ServiceName> = Vec::new();
        let mut on_path = HashSet::new();
        for text in critical_path {
            let known = ServiceName::new(text).ok().filter(|name| by_name.contains_key(name));
            let name = known.ok_or_else(|| RegistryError::UnknownOnPath(text.clone()))?;
            if on_path.insert(name.clone()) {
                path.push(name);
            }
        }
        for service in services.iter().filter(|service| service.critical_path) {
            if on_path.insert(service.name.clone()) {
                path.push(service.name.clone());
            }
        }
        Ok(Self { services, by_name, critical_path: path, on_path, graph })
    }

    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    pub fn find(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(self.place(name)?)
    }

    /// Where a service stands in the order.
    pub fn place(&self, name: &ServiceName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The critical path, in order.
    pub fn critical_path(&self) -> &[ServiceName] {
        &self.critical_path
    }

    pub fn is_on_critical_path(&self, name: &ServiceName) -> bool {
        self.on_path.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::service_with;
    use super::*;

    fn registry(names: &[&str], path: &[&str]) -> Result<Registry, RegistryError> {
        let services = names.iter().map(|name| Arc::new(service_with(name, &[]))).collect();
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        Registry::new(services, &path)
    }

    #[test]
    fn names_are_unique_ignoring_case() {
        assert_eq!(registry(&["auth", "Auth"], &[]).unwrap_err().to_string(), "is defined twice");
    }

    #[test]
    fn flagged_services_follow_the_listed_path() {
        let registry = registry(&["a", "b", "c"], &["c"]).unwrap();
        let path: Vec<&str> = registry.critical_path().iter().map(ServiceName::as_str).collect();
        assert_eq!(path, ["c", "a", "b"]);
    }

    #[test]
    fn the_path_names_services_only() {
        assert!(matches!(registry(&["a"], &["b"]), Err(RegistryError::UnknownOnPath(_))));
    }
}
