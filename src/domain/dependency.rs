//! The dependency graph: no unknown names, no cycles; dependents, and the root cause of a failing service.

use std::collections::{HashMap, HashSet, VecDeque};

use super::service::{Service, ServiceName};

/// One thing a service needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub name: ServiceName,
    /// While it has failed, the dependent's own alerts are held back.
    pub hold_alerts: bool,
    /// While it has failed, the dependent is degraded at least.
    pub degrade: bool,
}

impl Dependency {
    pub fn on(name: ServiceName) -> Self {
        Self { name, hold_alerts: true, degrade: false }
    }
}

/// What one service needs: each of the first, and one member of each group.
#[derive(Debug, Clone, Default)]
struct Needs {
    each: Vec<Dependency>,
    any: Vec<Vec<ServiceName>>,
}

impl Needs {
    fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.each.iter().map(|needed| &needed.name).chain(self.any.iter().flatten())
    }
}

/// Who depends on whom.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    needs: HashMap<ServiceName, Needs>,
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
    /// Builds the graph of `services`; `is_known` says whether there is a service of a name.
    ///
    /// # Errors
    /// The first unknown name, or the first cycle as a path that ends where it began.
    pub fn new<'a>(
        services: impl Iterator<Item = &'a Service>,
        is_known: impl Fn(&ServiceName) -> bool,
    ) -> Result<Self, GraphError> {
        let mut graph = Self::default();
        let mut with_needs = Vec::new();
        for service in services {
            for need in service.needs() {
                if !is_known(need) {
                    return Err(GraphError::Unknown { service: service.name.clone(), missing: need.clone() });
                }
                let dependents = graph.needed_by.entry(need.clone()).or_default();
                if dependents.last() != Some(&service.name) {
                    dependents.push(service.name.clone());
                }
            }
            if service.needs().next().is_some() {
                let needs = Needs { each: service.depends_on.clone(), any: service.depends_on_any.clone() };
                graph.needs.insert(service.name.clone(), needs);
                with_needs.push(&service.name);
            }
        }
        graph.refuse_cycles(&with_needs)?;
        Ok(graph)
    }

    /// Depth-first without recursion: a chain of 100,000 services must not end the stack.
    fn refuse_cycles(&self, names: &[&ServiceName]) -> Result<(), GraphError> {
        let mut done: HashSet<&ServiceName> = HashSet::new();
        for start in names {
            let mut path: Vec<(&ServiceName, Vec<&ServiceName>)> = vec![(start, self.names(start))];
            let mut on_path: HashSet<&ServiceName> = HashSet::from([*start]);
            while let Some((name, left)) = path.last_mut() {
                let name = *name;
                let next = if done.contains(name) { None } else { left.pop() };
                let Some(need) = next else {
                    done.insert(name);
                    on_path.remove(name);
                    path.pop();
                    continue;
                };
                if on_path.contains(need) {
                    let from = path.iter().position(|(on, _)| *on == need).unwrap_or(0);
                    let mut names: Vec<String> = path.iter().skip(from).map(|(on, _)| on.to_string()).collect();
                    names.push(need.to_string());
                    return Err(GraphError::Cycle { service: need.clone(), path: names });
                }
                if !done.contains(need) {
                    on_path.insert(need);
                    path.push((need, self.names(need)));
                }
            }
        }
        Ok(())
    }

    /// The names `name` needs, the last first.
    fn names(&self, name: &ServiceName) -> Vec<&ServiceName> {
        let mut names: Vec<&ServiceName> =
            self.needs.get(name).map(|needs| needs.names().collect()).unwrap_or_default();
        names.reverse();
        names
    }

    /// Who depends on `name` directly, be it as a member of a group.
    pub fn direct_dependents(&self, name: &ServiceName) -> &[ServiceName] {
        self.needed_by.get(name).map_or(&[], Vec::as_slice)
    }

    /// Everything `name` depends on, directly or not, groups included, nearest first.
    pub fn dependencies(&self, name: &ServiceName) -> Vec<ServiceName> {
        Self::walk(name, |of| self.needs.get(of).into_iter().flat_map(Needs::names).collect())
    }

    /// Everything that depends on `name`, directly or not, nearest first.
    pub fn dependents(&self, name: &ServiceName) -> Vec<ServiceName> {
        Self::walk(name, |of| self.direct_dependents(of).iter().collect())
    }

    fn walk<'a>(from: &'a ServiceName, next: impl Fn(&ServiceName) -> Vec<&'a ServiceName>) -> Vec<ServiceName> {
        let mut seen = HashSet::from([from]);
        let mut queue = VecDeque::from([from]);
        let mut found = Vec::new();
        while let Some(name) = queue.pop_front() {
            for next in next(name) {
                if seen.insert(next) {
                    found.push(next.clone());
                    queue.push_back(next);
                }
            }
        }
        found
    }

    /// What breaks if `name` fails, through all levels, nearest first: a service breaks with any of its dependencies, but
    /// with a group only when the last of its members is gone. `failed` says who has failed already.
    pub fn impact(&self, name: &ServiceName, failed: impl Fn(&ServiceName) -> bool) -> Vec<ServiceName> {
        let mut broken = HashSet::from([name.clone()]);
        let mut queue = VecDeque::from([name.clone()]);
        let mut found = Vec::new();
        while let Some(gone) = queue.pop_front() {
            for dependent in self.direct_dependents(&gone) {
                let Some(needs) = self.needs.get(dependent) else { continue };
                let is_gone = |member: &ServiceName| broken.contains(member) || failed(member);
                let breaks = needs.each.iter().any(|needed| needed.name == gone)
                    || needs.any.iter().any(|group| group.contains(&gone) && group.iter().all(is_gone));
                if breaks && broken.insert(dependent.clone()) {
                    found.push(dependent.clone());
                    queue.push_back(dependent.clone());
                }
            }
        }
        found
    }

    /// The direct dependencies of `name` that have failed: a group only when all its members have.
    pub fn failed_needs(&self, name: &ServiceName, failed: impl Fn(&ServiceName) -> bool) -> Vec<ServiceName> {
        let Some(needs) = self.needs.get(name) else { return Vec::new() };
        let each = needs.each.iter().map(|needed| &needed.name).filter(|need| failed(need));
        let groups = needs.any.iter().filter(|group| group.iter().all(&failed)).flatten();
        each.chain(groups).cloned().collect()
    }

    /// The first failed dependency of `name` that degrades it.
    pub fn degraded_by(&self, name: &ServiceName, failed: impl Fn(&ServiceName) -> bool) -> Option<&ServiceName> {
        let degrading = self.needs.get(name)?.each.iter().filter(|needed| needed.degrade);
        degrading.map(|needed| &needed.name).find(|need| failed(need))
    }

    /// The root cause of the failure of `name`: the failed one among its dependencies that has itself no failed
    /// dependency; the earliest failure counts, then the name (CONTRACT.md 10.5). Dependencies that hold back no alerts
    /// explain nothing, and a group explains only when all its members have failed.
    ///
    /// `failed` tells since when a service has failed, if it has.
    pub fn root_cause<T: Ord>(
        &self,
        name: &ServiceName,
        failed: impl Fn(&ServiceName) -> Option<T>,
    ) -> Option<ServiceName> {
        let causes = |of: &ServiceName| Self::walk(of, |of| self.holding(of, |need| failed(need).is_some()));
        causes(name)
            .into_iter()
            .filter_map(|candidate| failed(&candidate).map(|since| (since, candidate)))
            .filter(|(_, candidate)| !causes(candidate).iter().any(|below| failed(below).is_some()))
            .min()
            .map(|(_, root)| root)
    }

    /// The dependencies of `name` whose failure explains its own.
    fn holding(&self, name: &ServiceName, failed: impl Fn(&ServiceName) -> bool) -> Vec<&ServiceName> {
        let Some(needs) = self.needs.get(name) else { return Vec::new() };
        let each = needs.each.iter().filter(|needed| needed.hold_alerts).map(|needed| &needed.name);
        each.chain(needs.any.iter().filter(|group| group.iter().all(&failed)).flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::service_with;
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    /// `"a: b c, b: c|d, c!, d"`: `b` needs `c` or `d`; with `?` alerts are not held back, with `!` it degrades.
    fn graph(text: &str) -> Result<Graph, GraphError> {
        let services: Vec<Service> = text
            .split(", ")
            .map(|line| {
                let (of, needs) = line.split_once(": ").unwrap_or((line, ""));
                let mut service = service_with(of, &[]);
                for need in needs.split_whitespace() {
                    if need.contains('|') {
                        service.depends_on_any.push(need.split('|').map(name).collect());
                    } else {
                        let plain = need.trim_end_matches(['?', '!']);
                        let (hold_alerts, degrade) = (!need.ends_with('?'), need.ends_with('!'));
                        service.depends_on.push(Dependency { name: name(plain), hold_alerts, degrade });
                    }
                }
                service
            })
            .collect();
        Graph::new(services.iter(), |name| services.iter().any(|service| service.name == *name))
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
        let mut services: Vec<Service> =
            (0..50_000).map(|n| service_with(&format!("s{n}"), &[&format!("s{}", n + 1)])).collect();
        assert!(Graph::new(services.iter(), |_| true).is_ok());
        services.push(service_with("s50000", &["s0"]));
        assert!(Graph::new(services.iter(), |_| true).is_err());
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
    fn a_group_has_failed_only_when_all_its_members_have() {
        let graph = graph("web: db1|db2 cache? queue!, page: web, db1, db2, cache, queue").unwrap();
        let check = |failed: &[&str], direct: &[&str], root: Option<&str>| {
            let has_failed = |of: &ServiceName| failed.contains(&of.as_str());
            let names: Vec<ServiceName> = direct.iter().map(|text| name(text)).collect();
            assert_eq!(graph.failed_needs(&name("web"), has_failed), names, "{failed:?}");
            let since = |of: &ServiceName| has_failed(of).then_some(1);
            assert_eq!(graph.root_cause(&name("web"), since), root.map(name), "{failed:?}");
        };
        check(&["db1"], &[], None);
        check(&["db1", "db2"], &["db1", "db2"], Some("db1"));
        check(&["cache"], &["cache"], None);
        check(&["queue"], &["queue"], Some("queue"));
        assert_eq!(graph.degraded_by(&name("web"), |_| true), Some(&name("queue")));
        assert_eq!(graph.impact(&name("db1"), |_| false), []);
        assert_eq!(graph.impact(&name("db1"), |of| of.as_str() == "db2"), [name("web"), name("page")]);
        assert_eq!(graph.impact(&name("cache"), |_| false), [name("web"), name("page")]);
    }

    #[test]
    fn dependents_come_nearest_first() {
        let graph = graph("web: call, call: twilio, page: web, twilio").unwrap();
        assert_eq!(graph.dependents(&name("twilio")), [name("call"), name("web"), name("page")]);
    }
}
