//! The dependency graph: no unknown names, no cycles; dependents, and the root cause of a failing service.

use std::collections::{HashMap, HashSet, VecDeque};

use super::service::ServiceName;

/// Who depends on whom. Names are keyed in lower case: they are unique ignoring case.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    needs: HashMap<ServiceName, Vec<ServiceName>>,
    needed_by: HashMap<ServiceName, Vec<ServiceName>>,
}

/// Why a set of services is not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("depends on {missing}, which is not a service")]
    Unknown { service: ServiceName, missing: ServiceName },
    #[error("dependency cycle {}", path.join(" -> "))]
    Cycle { service: ServiceName, path: Vec<String> },
}

impl Graph {
    /// Builds the graph of `services`, each with its direct dependencies.
    ///
    /// # Errors
    /// The first unknown name, or the first cycle as a path that ends where it began.
    pub fn new<'a>(
        services: impl Iterator<Item = (&'a ServiceName, &'a [ServiceName])> + Clone,
    ) -> Result<Self, GraphError> {
        let known: HashSet<&ServiceName> = services.clone().map(|(name, _)| name).collect();
        let mut graph = Self::default();
        for (name, needs) in services.clone() {
            for need in needs {
                if !known.contains(need) {
                    return Err(GraphError::Unknown { service: name.clone(), missing: need.clone() });
                }
                graph.needed_by.entry(need.clone()).or_default().push(name.clone());
            }
            if !needs.is_empty() {
                graph.needs.insert(name.clone(), needs.to_vec());
            }
        }
        graph.refuse_cycles(services.map(|(name, _)| name))?;
        Ok(graph)
    }

    /// Depth-first without recursion: a chain of 100,000 services must not end the stack.
    fn refuse_cycles<'a>(&self, names: impl Iterator<Item = &'a ServiceName>) -> Result<(), GraphError> {
        let mut done: HashSet<&ServiceName> = HashSet::new();
        for start in names {
            let mut path: Vec<(&ServiceName, usize)> = vec![(start, 0)];
            let mut on_path: HashSet<&ServiceName> = HashSet::from([start]);
            while let Some((name, next)) = path.last_mut() {
                let name = *name;
                let needs = self.direct(name);
                if done.contains(name) || *next >= needs.len() {
                    done.insert(name);
                    on_path.remove(name);
                    path.pop();
                    continue;
                }
                let need = &needs[*next];
                *next += 1;
                if on_path.contains(need) {
                    let from = path.iter().position(|(on, _)| *on == need).unwrap_or(0);
                    let mut names: Vec<String> = path[from..].iter().map(|(on, _)| on.to_string()).collect();
                    names.push(need.to_string());
                    return Err(GraphError::Cycle { service: need.clone(), path: names });
                }
                if !done.contains(need) {
                    on_path.insert(need);
                    path.push((need, 0));
                }
            }
        }
        Ok(())
    }

    /// What `name` depends on directly.
    pub fn direct(&self, name: &ServiceName) -> &[ServiceName] {
        self.needs.get(name).map_or(&[], Vec::as_slice)
    }

    /// Who depends on `name` directly.
    pub fn direct_dependents(&self, name: &ServiceName) -> &[ServiceName] {
        self.needed_by.get(name).map_or(&[], Vec::as_slice)
    }

    /// Everything `name` depends on, directly or not, nearest first.
    pub fn dependencies(&self, name: &ServiceName) -> Vec<ServiceName> {
        Self::walk(&self.needs, name)
    }

    /// Everything that depends on `name`, directly or not, nearest first.
    pub fn dependents(&self, name: &ServiceName) -> Vec<ServiceName> {
        Self::walk(&self.needed_by, name)
    }

    fn walk(edges: &HashMap<ServiceName, Vec<ServiceName>>, from: &ServiceName) -> Vec<ServiceName> {
        let mut seen = HashSet::from([from]);
        let mut queue = VecDeque::from([from]);
        let mut found = Vec::new();
        while let Some(name) = queue.pop_front() {
            for next in edges.get(name).into_iter().flatten() {
                if seen.insert(next) {
                    found.push(next.clone());
                    queue.push_back(next);
                }
            }
        }
        found
    }

    /// The root cause of the failure of `name`: the failed one among its dependencies that has itself no failed
    /// dependency; the earliest failure counts, then the name (CONTRACT.md 10.5).
    ///
    /// `failed` tells since when a service has failed, if it has.
    pub fn root_cause<T: Ord>(
        &self,
        name: &ServiceName,
        failed: impl Fn(&ServiceName) -> Option<T>,
    ) -> Option<ServiceName> {
        self.dependencies(name)
            .into_iter()
            .filter_map(|candidate| failed(&candidate).map(|since| (since, candidate)))
            .filter(|(_, candidate)| !self.dependencies(candidate).iter().any(|below| failed(below).is_some()))
            .min()
            .map(|(_, root)| root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    /// `"a: b c, b: c, c"`
    fn graph(text: &str) -> Result<Graph, GraphError> {
        let services: Vec<(ServiceName, Vec<ServiceName>)> = text
            .split(", ")
            .map(|line| {
                let (of, needs) = line.split_once(": ").unwrap_or((line, ""));
                (name(of), needs.split_whitespace().map(name).collect())
            })
            .collect();
        Graph::new(services.iter().map(|(of, needs)| (of, needs.as_slice())))
    }

    #[test]
    fn unknown_names_and_cycles_are_refused_by_name() {
        let check = |text: &str, expected: &str| assert_eq!(graph(text).unwrap_err().to_string(), expected);
        check("a: b", "depends on b, which is not a service");
        check("a: a", "dependency cycle a -> a");
        check("a: b, b: c, c: a", "dependency cycle a -> b -> c -> a");
        check("x: a, a: b, b: a", "dependency cycle a -> b -> a");
        assert!(graph("a: b c, b: d, c: d, d").is_ok());
    }

    #[test]
    fn a_long_chain_does_not_end_the_stack() {
        let text: Vec<String> = (0..50_000).map(|n| format!("s{n}: s{}", n + 1)).chain(["s50000".into()]).collect();
        assert!(graph(&text.join(", ")).is_ok());
    }

    #[test]
    fn the_root_cause_is_the_deepest_and_earliest_failure() {
        let graph = graph("web: call auth, call: twilio auth, twilio, auth, lone").unwrap();
        let check = |of: &str, failed: &[(&str, u32)], expected: Option<&str>| {
            let since = |of: &ServiceName| failed.iter().find(|(n, _)| *n == of.as_str()).map(|(_, at)| *at);
            assert_eq!(graph.root_cause(&name(of), since), expected.map(name), "{of} with {failed:?}");
        };
        check("web", &[], None);
        check("web", &[("call", 1)], Some("call"));
        check("web", &[("call", 1), ("twilio", 2)], Some("twilio"));
        check("web", &[("auth", 2), ("twilio", 1)], Some("twilio"));
        check("web", &[("auth", 1), ("twilio", 1)], Some("auth"));
        check("web", &[("lone", 1)], None);
        check("twilio", &[("web", 1)], None);
    }

    #[test]
    fn dependents_come_nearest_first() {
        let graph = graph("web: call, call: twilio, page: web, twilio").unwrap();
        assert_eq!(graph.dependents(&name("twilio")), [name("call"), name("web"), name("page")]);
    }
}
