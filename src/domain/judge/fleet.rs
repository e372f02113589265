//! Rules over all services together, over the host, and over the monitor itself (CONTRACT.md 10.4).

use std::collections::BTreeSet;

use chrono::{DateTime, Duration as Span, Utc};
use serde_json::{Map, Value, json};

use super::super::alert::{AlertDetails, AlertType, Component, Severity};
use super::super::event::EventKind;
use super::super::service::ServiceName;
use super::super::status::Status;
use super::super::time::round2;
use super::conditions::long_outage_condition;
use super::{Bench, Condition, Decision, Judge, Telling};

/// Services named in a text: our choice.
const NAMED: usize = 20;
/// Up to so many services down, those without a root cause are named first: our choice, finding one out takes time.
const SORTED: usize = 1000;
/// The rules over all services are judged anew at least this often, seconds: our choice; at once when somebody fails.
const JUDGED_EVERY_S: i64 = 10;
/// The longest a commit lets readers wait for what was decided: that of the committer.
const BEHIND: Span = Span::seconds(2);

/// The system is DEGRADED or CRITICAL in the words of source 004, from what was seen twice.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemTrouble {
    pub critical: bool,
    /// `Service: <name>` and the like.
    pub critical_failures: Vec<String>,
    pub services_degraded: usize,
    pub services_down: usize,
    pub infra_degraded: usize,
    pub infra_down: usize,
    /// Everything that is not well.
    pub bad: Vec<ServiceName>,
}

/// Something of the host above its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostTrouble {
    pub percent: f64,
    pub limit: f64,
}

impl Judge {
    /// Several services down, and outages that last long. Asked about once a second; cheap while nothing changes.
    pub fn fleet(&mut self, bench: Bench<'_>) -> Decision {
        let mut decision = Decision::default();
        let fresh = |(turn, at): (u64, DateTime<Utc>)| {
            turn == self.turns && at <= bench.now && bench.now < at + Span::seconds(JUDGED_EVERY_S)
        };
        if self.fleet_judged.is_some_and(fresh) {
            return decision;
        }
        self.fleet_judged = Some((self.turns, bench.now));
        self.several_down(bench, &mut decision);
        let long = self.failed.iter().filter(|(name, _)| !bench.is_quiet(name)).filter_map(|(name, failed)| {
            Some((name.clone(), long_outage_condition(name, failed, bench.policy, bench.now)?))
        });
        for (name, condition) in long.collect::<Vec<_>>() {
            if let Some(service) = bench.registry.find(&name) {
                let told = Telling::now(service, Status::Unhealthy);
                self.apply(bench, &mut decision, service, AlertType::LongOutage, Some(condition), told);
            }
        }
        decision
    }

    fn several_down(&mut self, bench: Bench<'_>, decision: &mut Decision) {
        let down: Vec<&ServiceName> = self.failed.keys().filter(|name| !bench.is_quiet(name)).collect();
        let key = (Component::System, AlertType::MultipleServicesDown);
        if down.len() < bench.policy.multiple_down {
            return self.resolve(bench, decision, &key, Telling::NOBODY);
        }
        let (count, mut first) = (down.len(), down.clone());
        if count <= SORTED {
            let has_root = |name: &ServiceName| self.root_cause(bench.registry, name).is_some();
            first.sort_by_cached_key(|name| (has_root(name), (*name).clone()));
        } else {
            first.select_nth_unstable(NAMED);
        }
        let mut names: Vec<String> = first.iter().take(NAMED).map(ToString::to_string).collect();
        if count > NAMED {
            names.push(format!("and {} more", count - NAMED));
        }
        let condition = Condition {
            severity: Severity::Critical,
            threshold: Some(bench.policy.multiple_down as f64),
            value: Some(down.len() as f64),
            title: "Multiple services down".to_owned(),
            message: format!("{} services are down", down.len()),
            description: names.join(", "),
            details: AlertDetails::default(),
        };
        let down: Vec<ServiceName> = down.into_iter().cloned().collect();
        let held_by = self.explained_by_one(bench, &down);
        self.raise(bench, decision, key, condition, Telling::NOBODY, held_by);
    }

    /// The alert of the single root that alone explains why all of `names` are bad.
    fn explained_by_one(&mut self, bench: Bench<'_>, names: &[ServiceName]) -> Option<(String, Option<ServiceName>)> {
        if names.iter().any(|name| !self.failed.contains_key(name)) {
            return None;
        }
        let known = self.one_root.take().filter(|(turn, _)| *turn == self.turns);
        let (turn, root) = known.unwrap_or_else(|| (self.turns, self.one_root_of_all(bench)));
        self.one_root = Some((turn, root.clone()));
        let root = root?;
        // The root may have recovered a moment ago: what it explained speaks for itself only when it stays down.
        let left = |name: &ServiceName| self.down_alert(name)?.suppressed_by.clone();
        let held_by = self.down_alert(&root).map(|alert| alert.id.clone()).or_else(|| names.iter().find_map(left));
        held_by.map(|id| (id, Some(root)))
    }

    /// The root of every failure, if there is just one.
    fn one_root_of_all(&self, bench: Bench<'_>) -> Option<ServiceName> {
        let mut roots = BTreeSet::new();
        for name in self.failed.keys().filter(|name| !bench.is_quiet(name)) {
            let held_by = || self.down_alert(name)?.root_cause.clone();
            let root = self.root_cause(bench.registry, name).or_else(held_by);
            roots.insert(root.unwrap_or_else(|| name.clone()));
            if roots.len() > 1 {
                return None;
            }
        }
        roots.pop_first()
    }

    /// Whether a service that a picture of the system shows as bad has recovered here since, or just before it was
    /// `taken`: what is shown is behind what is decided by one commit.
    pub fn has_overtaken(&self, trouble: &SystemTrouble, taken: DateTime<Utc>) -> bool {
        let has_recovered = |name: &ServiceName| {
            let mut kinds = [AlertType::ServiceDown, AlertType::InfrastructureDown].into_iter();
            kinds.any(|kind| {
                let past = self.past.get(&(Component::Service(name.clone()), kind));
                past.and_then(|past| past.resolved_at).is_some_and(|at| at + BEHIND >= taken)
            })
        };
        trouble.bad.iter().any(|name| !self.failed.contains_key(name) && has_recovered(name))
    }

    /// The whole system in the words of source 004; `None`: OK.
    ///
    /// `knows_latency`: enough snapshots were taken since the start to say that no response is slow.
    pub fn system(&mut self, bench: Bench<'_>, trouble: Option<SystemTrouble>, knows_latency: bool) -> Decision {
        let mut decision = Decision::default();
        let key = (Component::System, AlertType::SystemStatus);
        let Some(trouble) = trouble else {
            if !knows_latency
                && self
                    .alerts
                    .get(&key)
                    .is_some_and(|alert| alert.details.facts.get("by_latency") == Some(&json!(true)))
            {
                return decision;
            }
            self.resolve(bench, &mut decision, &key, Telling::NOBODY);
            return decision;
        };
        let mut named: Vec<&str> = trouble.critical_failures.iter().take(NAMED).map(String::as_str).collect();
        if trouble.critical_failures.len() > NAMED {
            named.push("and more");
        }
        let (degraded, down) = (trouble.services_degraded, trouble.services_down);
        let message = match (trouble.critical, named.is_empty()) {
            (true, false) => format!("Critical failures detected: {}", named.join(", ")),
            (true, true) => "Critical failures detected: slow services".to_owned(),
            (false, _) => format!("System degraded: {degraded} services degraded, {down} down"),
        };
        let facts = json!({
            "critical_failures": trouble.critical_failures.iter().take(1000).collect::<Vec<_>>(),
            "services_degraded": degraded, "services_down": down,
            "infra_degraded": trouble.infra_degraded, "infra_down": trouble.infra_down,
            "by_latency": trouble.bad.is_empty(),
        });
        let condition = Condition {
            severity: if trouble.critical { Severity::Critical } else { Severity::Medium },
            threshold: None,
            value: Some(if trouble.critical { 2.0 } else { 1.0 }),
            title: format!("System Health {}", if trouble.critical { "CRITICAL" } else { "DEGRADED" }),
            description: message.clone(),
            message,
            details: with_facts(facts),
        };
        let held_by = self.explained_by_one(bench, &trouble.bad);
        self.raise(bench, &mut decision, key, condition, Telling::NOBODY, held_by);
        decision
    }

    /// A resource of the host; `None`: it is within its limit.
    pub fn host(&mut self, bench: Bench<'_>, component: Component, trouble: Option<HostTrouble>) -> Decision {
        let mut decision = Decision::default();
        let resource = match component {
            Component::HostCpu => "CPU",
            Component::HostMemory => "memory",
            _ => "disk",
        };
        let key = (component, AlertType::SystemResource);
        match trouble {
            None => self.resolve(bench, &mut decision, &key, Telling::NOBODY),
            Some(HostTrouble { percent, limit }) => {
                let percent = round2(percent);
                let message = format!("{resource} usage {percent}%");
                let condition = Condition {
                    severity: Severity::Critical,
                    threshold: Some(limit),
                    value: Some(percent),
                    title: format!("Host {resource} critical"),
                    description: format!("{message}, above {limit}% in two samples"),
                    message,
                    details: with_facts(json!({"usage_percent": percent, "threshold_percent": limit})),
                };
                self.raise(bench, &mut decision, key, condition, Telling::NOBODY, None);
            }
        }
        decision
    }

    /// Raises or resolves an alert about the monitor itself.
    pub fn own_trouble(&mut self, bench: Bench<'_>, component: Component, what: Option<&str>) -> Decision {
        let mut decision = Decision::default();
        let key = (component, AlertType::MonitorImpaired);
        match what {
            Some(what) => {
                let condition = Condition {
                    severity: Severity::High,
                    threshold: None,
                    value: None,
                    title: "Monitoring impaired".to_owned(),
                    message: what.to_owned(),
                    description: what.to_owned(),
                    details: AlertDetails::default(),
                };
                self.raise(bench, &mut decision, key, condition, Telling::NOBODY, None);
            }
            None => self.resolve(bench, &mut decision, &key, Telling::NOBODY),
        }
        let also = |kind| match kind {
            EventKind::AlertRaised => Some(EventKind::MonitorImpaired),
            EventKind::AlertResolved => Some(EventKind::MonitorRecovered),
            _ => None,
        };
        let more: Vec<_> =
            decision.happened.iter().filter_map(|(kind, alert)| Some((also(*kind)?, alert.clone()))).collect();
        decision.happened.extend(more);
        decision
    }
}

fn with_facts(facts: Value) -> AlertDetails {
    let facts = match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    };
    AlertDetails { facts, ..AlertDetails::default() }
}
