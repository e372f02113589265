//! Decides about alerts: which conditions hold, who is told, who is held back for whose sake (CONTRACT.md section 10).
//!
//! The judge holds every living alert and who has failed, and nothing else. It is asked after each check that matters
//! and on the beat of a clock; each answer is a list of changed alerts and of notices owed. Decisions are made from what
//! is, not from what happened, so that a restart repairs itself: an alert that ought to have been told and was not is
//! told at the next occasion.
//!
//! A service that is down also has a bad error rate. That alert is listed, but held back for the sake of the outage
//! alert that has already told the same story, for as long as the window reaches back into that outage: one fault, one
//! page.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::alert::{Alert, AlertDetails, AlertStatus, AlertType, Component, Severity, Told};
use super::event::EventKind;
use super::maintenance::InForce;
use super::notification::{Notice, NoticeKind};
use super::outage::Outage;
use super::policy::AlertPolicy;
use super::registry::Registry;
use super::routing::Routing;
use super::service::{Service, ServiceName};
use super::state::ServiceState;
use super::status::Status;
use super::time::Stamp;
use super::window::{Counts, Parts};

/// Unhealthy checks in a row that make a service a failed dependency or a root cause: CONTRACT.md 10.5.
const FAILED_AT: u32 = 2;

mod conditions;
mod fleet;
mod life;

use self::conditions::{
    Judged, down_condition, error_rate_condition, failed, flapping_condition, response_time_condition, uptime_condition,
};
pub use self::fleet::{HostTrouble, SystemTrouble};
pub use self::life::NotLiving;

type Key = (Component, AlertType);

/// What is remembered of the last alert of a component and type, for its successor.
#[derive(Debug, Clone)]
struct Past {
    id: String,
    second: i64,
    last_notified: Option<DateTime<Utc>>,
    resolved_at: Option<DateTime<Utc>>,
    /// It was told, or held back because its root was: either way the story is known.
    known: bool,
    /// Somebody resolved it while its condition may still hold.
    by_hand: bool,
}

impl Past {
    fn of(alert: &Alert) -> Self {
        let in_id = alert.id.rsplit('-').next().and_then(|text| text.parse().ok());
        Self {
            id: alert.id.clone(),
            second: in_id.unwrap_or_else(|| alert.triggered_at.timestamp()),
            last_notified: alert.last_notified,
            resolved_at: alert.resolved_at,
            known: alert.told != Told::No || alert.root_cause.is_some(),
            by_hand: alert.resolved_by.is_some(),
        }
    }
}

/// A service that has failed: at least two unhealthy checks in a row, or an open outage.
#[derive(Debug, Clone, PartialEq)]
struct Failed {
    since: DateTime<Utc>,
    outage: Option<Outage>,
}

/// Every living alert, and who has failed.
#[derive(Debug, Default)]
pub struct Judge {
    alerts: BTreeMap<Key, Alert>,
    /// Where each living alert is, by its id.
    ids: HashMap<String, Key>,
    past: HashMap<Key, Past>,
    failed: HashMap<ServiceName, Failed>,
    /// Rises when that changes.
    turns: u64,
    /// What the rules over all services were last judged at: the turn, and when.
    fleet_judged: Option<(u64, DateTime<Utc>)>,
    /// The one root that explained every failure, at a turn.
    one_root: Option<(u64, Option<ServiceName>)>,
    sequences: HashMap<Component, u64>,
}

/// What was decided.
#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    /// Alerts as they are now; resolved ones for the last time.
    pub changed: Vec<Alert>,
    /// Where each of them is in that list.
    places: HashMap<String, usize>,
    pub notices: Vec<Notice>,
    /// Alerts whose messages that nobody has tried to send are to be withdrawn, from this number on.
    pub withdrawn: Vec<(String, u64)>,
    /// What happened to alerts, in order: for the event log.
    pub happened: Vec<(EventKind, Alert)>,
}

impl Decision {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.notices.is_empty() && self.withdrawn.is_empty() && self.happened.is_empty()
    }

    fn note(&mut self, alert: &Alert) {
        match self.places.get(&alert.id).and_then(|place| self.changed.get_mut(*place)) {
            Some(changed) => changed.clone_from(alert),
            None => {
                self.places.insert(alert.id.clone(), self.changed.len());
                self.changed.push(alert.clone());
            }
        }
    }
}

/// A condition that holds.
struct Condition {
    severity: Severity,
    threshold: Option<f64>,
    value: Option<f64>,
    title: String,
    message: String,
    description: String,
    details: AlertDetails,
}

/// What a judgement is made with.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    pub registry: &'a Registry,
    pub policy: &'a AlertPolicy,
    pub routing: &'a Routing,
    /// The maintenance windows in force now.
    pub windows: &'a InForce,
    pub now: DateTime<Utc>,
}

impl Bench<'_> {
    /// In maintenance nothing about `name` is raised, told, escalated or resolved.
    fn is_quiet(&self, name: &ServiceName) -> bool {
        !self.windows.windows.is_empty()
            && self.registry.find(name).is_some_and(|service| self.windows.covers(service).is_some())
    }
}

impl Judge {
    /// Takes up where a predecessor left off.
    ///
    /// `recent`: alerts resolved within the cooldown. `sequences`: the highest notification number of each component.
    pub fn restore(living: Vec<Alert>, recent: &[Alert], sequences: HashMap<Component, u64>) -> Self {
        let mut judge = Self { sequences, ..Self::default() };
        for alert in recent.iter().chain(&living) {
            judge.remember(alert);
        }
        for alert in living {
            judge.insert(alert);
        }
        judge
    }

    /// Learns who has failed from a restored state, without deciding anything.
    pub fn recall(&mut self, service: &Service, state: &ServiceState) {
        if let Some(failed) = failed(state) {
            self.failed.insert(service.name.clone(), failed);
        }
    }

    fn insert(&mut self, alert: Alert) {
        let key = (alert.component.clone(), alert.kind);
        self.ids.insert(alert.id.clone(), key.clone());
        self.alerts.insert(key, alert);
    }

    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values()
    }

    /// Whether a check of `service` in `state` can matter here. Cheap: asked for every check.
    pub fn concerns(&self, service: &ServiceName, state: &ServiceState) -> bool {
        state.failing.is_some() || self.failed.contains_key(service) || self.has_alert(service)
    }

    fn has_alert(&self, service: &ServiceName) -> bool {
        AlertType::OF_SERVICES
            .iter()
            .any(|kind| self.alerts.contains_key(&(Component::Service(service.clone()), *kind)))
    }

    /// The gravest living alert about a service.
    pub fn gravest(&self, service: &ServiceName) -> Option<&Alert> {
        let component = Component::Service(service.clone());
        let alerts = AlertType::OF_SERVICES.iter().filter_map(|kind| self.alerts.get(&(component.clone(), *kind)));
        alerts.max_by_key(|alert| alert.severity)
    }

    /// Judges `service` after a check: `state` is what the check made of it, `latest_ms` its newest answers, newest
    /// first, `from` its status before.
    pub fn after_check(
        &mut self,
        bench: Bench<'_>,
        service: &Service,
        state: &ServiceState,
        from: Status,
        latest_ms: &[u64],
    ) -> Decision {
        let mut decision = Decision::default();
        let was_failed = self.failed.get(&service.name).cloned();
        let now_failed = failed(state);
        let ended = was_failed
            .as_ref()
            .and_then(|failed| failed.outage.clone())
            .filter(|_| state.outage.is_none())
            .map(|outage| Outage { ended: Some(bench.now), ..outage });
        let from = state.failing.map_or(from, |streak| streak.from);
        let told = Telling { service: Some(service), from, to: state.status, ended: ended.as_ref() };
        match &now_failed {
            Some(failed) => self.failed.insert(service.name.clone(), failed.clone()),
            None => self.failed.remove(&service.name),
        };

        if !bench.is_quiet(&service.name) {
            self.judge_conditions(bench, &mut decision, service, state, latest_ms, told);
        }
        let membership_changed = was_failed.is_some() != now_failed.is_some();
        self.turns += u64::from(was_failed != now_failed);
        let outage_changed = was_failed.and_then(|f| f.outage).map(|o| o.id)
            != now_failed.as_ref().and_then(|f| f.outage.as_ref()).map(|o| o.id);
        if membership_changed || outage_changed {
            self.dependents_of(bench, &mut decision, &service.name, now_failed.is_some());
        }
        decision
    }

    /// The rules about one service by itself.
    fn judge_conditions(
        &mut self,
        bench: Bench<'_>,
        decision: &mut Decision,
        service: &Service,
        state: &ServiceState,
        latest_ms: &[u64],
        told: Telling<'_>,
    ) {
        // First: while it lasts the others wait.
        let flapping = state.flaps.flapping.then(|| flapping_condition(service, state));
        self.apply(bench, decision, service, AlertType::Flapping, flapping, told);
        let down = if service.is_infrastructure() { AlertType::InfrastructureDown } else { AlertType::ServiceDown };
        let impacted = self.impacted(bench.registry, &service.name);
        let holding = down_condition(service, state, down, impacted);
        // While the outage is open and the recovery not yet confirmed the alert stays as it is.
        if holding.is_some() || state.outage.is_none() {
            self.apply(bench, decision, service, down, holding, told);
        }
        let slow = response_time_condition(service, latest_ms);
        self.apply_judged(bench, decision, service, AlertType::HighResponseTime, slow, told);
        if state.outage.is_none() {
            self.apply(bench, decision, service, AlertType::LongOutage, None, told);
        }
        if state.status == Status::Unhealthy {
            self.stand_alone(bench, decision, service, told);
        }
    }

    /// Judges the error rate of `service`, from the checks of the window. Asked on the beat of `ALERT_CHECK_INTERVAL_MS`.
    pub fn error_rate(
        &mut self,
        bench: Bench<'_>,
        service: &Service,
        state: &ServiceState,
        counts: Counts,
    ) -> Decision {
        let mut decision = Decision::default();
        if bench.is_quiet(&service.name) {
            return decision;
        }
        let told = Telling::now(service, state.status);
        let judged = error_rate_condition(service, state, counts, bench.policy);
        self.apply_judged(bench, &mut decision, service, AlertType::HighErrorRate, judged, told);
        decision
    }

    /// Judges the uptime of `service` over the last 24 hours. Asked on the same beat.
    pub fn uptime(&mut self, bench: Bench<'_>, service: &Service, state: &ServiceState, parts: Parts) -> Decision {
        let mut decision = Decision::default();
        if bench.is_quiet(&service.name) {
            return decision;
        }
        let judged = uptime_condition(service, state, parts);
        let told = Telling::now(service, state.status);
        self.apply_judged(bench, &mut decision, service, AlertType::LowUptime, judged, told);
        decision
    }

    /// The registry has changed: alerts whose service is gone or at rest, or whose rule does not apply any more, resolve;
    /// dependents are judged by the graph as it is now.
    ///
    /// `erased`: services of which nothing is remembered.
    pub fn after_change(&mut self, bench: Bench<'_>, erased: &[ServiceName]) -> Decision {
        let mut decision = Decision::default();
        self.turns += 1;
        let watched = |name: &ServiceName| bench.registry.find(name).filter(|service| service.active);
        let components: Vec<ServiceName> =
            self.alerts.keys().filter_map(|(component, _)| component.service().cloned()).collect();
        for name in components.iter().chain(&self.failed.keys().cloned().collect::<Vec<_>>()) {
            let told = Telling::NOBODY;
            let key = |kind| (Component::Service(name.clone()), kind);
            match watched(name) {
                None => {
                    self.failed.remove(name);
                    AlertType::OF_SERVICES
                        .iter()
                        .copied()
                        .for_each(|kind| self.resolve(bench, &mut decision, &key(kind), told));
                }
                Some(service) if service.is_infrastructure() => {
                    self.resolve(bench, &mut decision, &key(AlertType::ServiceDown), told);
                }
                Some(_) => self.resolve(bench, &mut decision, &key(AlertType::InfrastructureDown), told),
            }
        }
        for name in erased {
            let component = Component::Service(name.clone());
            self.sequences.remove(&component);
            AlertType::OF_SERVICES.iter().copied().for_each(|kind| drop(self.past.remove(&(component.clone(), kind))));
        }
        for name in components {
            if let Some(service) = watched(&name) {
                self.judge_dependencies(bench, &mut decision, service);
            }
        }
        for name in self.failed.keys().cloned().collect::<Vec<_>>() {
            self.dependents_of(bench, &mut decision, &name, true);
        }
        decision
    }

    /// An outage was closed by hand: its alert resolves, and the service explains nothing any more.
    pub fn resolved_by_hand(
        &mut self,
        bench: Bench<'_>,
        service: &Service,
        status: Status,
        closed: &Outage,
    ) -> Decision {
        let mut decision = Decision::default();
        let told = Telling { service: Some(service), from: status, to: status, ended: Some(closed) };
        self.failed.remove(&service.name);
        self.turns += 1;
        for kind in [AlertType::ServiceDown, AlertType::InfrastructureDown, AlertType::LongOutage] {
            self.resolve(bench, &mut decision, &(Component::Service(service.name.clone()), kind), told);
        }
        self.dependents_of(bench, &mut decision, &service.name, false);
        decision
    }

    /// Why `name` fails, if another service explains it: the root cause of CONTRACT.md 10.5.
    pub fn root_cause(&self, registry: &Registry, name: &ServiceName) -> Option<ServiceName> {
        self.failed.get(name)?;
        registry.graph.root_cause(name, |of| self.failed.get(of).map(|failed| failed.since))
    }

    pub fn has_failed(&self, name: &ServiceName) -> bool {
        self.failed.contains_key(name)
    }

    /// A service that is no longer watched: its alerts resolve, and it explains nothing any more.
    pub fn forget(&mut self, bench: Bench<'_>, name: &ServiceName) -> Decision {
        let mut decision = Decision::default();
        let told = Telling::NOBODY;
        for kind in AlertType::OF_SERVICES.iter().copied() {
            self.resolve(bench, &mut decision, &(Component::Service(name.clone()), kind), told);
        }
        self.turns += 1;
        if self.failed.remove(name).is_some() {
            self.dependents_of(bench, &mut decision, name, false);
        }
        decision
    }

    /// Dependents that fail now, or whose critical path is broken now; nearest first.
    fn impacted(&self, registry: &Registry, name: &ServiceName) -> Vec<ServiceName> {
        let mut names = registry.graph.impact(name, |of| self.failed.contains_key(of));
        names.retain(|dependent| self.failed.contains_key(dependent) || registry.is_on_critical_path(dependent));
        names
    }

    fn apply(
        &mut self,
        bench: Bench<'_>,
        decision: &mut Decision,
        service: &Service,
        kind: AlertType,
        holding: Option<Condition>,
        told: Telling<'_>,
    ) {
        let key = (Component::Service(service.name.clone()), kind);
        match holding {
            Some(condition) => {
                let held_by = self.held_by(bench, &service.name, kind);
                self.raise(bench, decision, key, condition, told, held_by);
            }
            // What was told and ends while the service flaps is told to have ended when it has settled.
            None if self.waits_for_calm(&key) && self.alerts.get(&key).is_some_and(|alert| alert.told != Told::No) => {}
            None => self.resolve(bench, decision, &key, told),
        }
    }

    fn apply_judged(
        &mut self,
        bench: Bench<'_>,
        decision: &mut Decision,
        service: &Service,
        kind: AlertType,
        judged: Judged,
        told: Telling<'_>,
    ) {
        match judged {
            Judged::Holds(condition) => self.apply(bench, decision, service, kind, Some(*condition), told),
            Judged::Over => self.apply(bench, decision, service, kind, None, told),
            Judged::Undecided => {}
        }
    }

    /// Its service is flapping, and that has a notice of its own.
    fn waits_for_calm(&self, key: &Key) -> bool {
        key.1 != AlertType::Flapping && self.alerts.contains_key(&(key.0.clone(), AlertType::Flapping))
    }

    /// Whose alert explains a new alert of `name`, and the root cause: the failed dependency at the bottom, or, for an
    /// error rate, the service's own outage.
    fn held_by(&self, bench: Bench<'_>, name: &ServiceName, kind: AlertType) -> Option<(String, Option<ServiceName>)> {
        let registry = bench.registry;
        if (self.failed.contains_key(name) || kind == AlertType::DependencyFailure)
            && let Some(root) = registry.graph.root_cause(name, |of| self.failed.get(of).map(|failed| failed.since))
            && let Some(alert) = self.down_alert(&root)
        {
            return Some((alert.id.clone(), Some(root)));
        }
        if !matches!(kind, AlertType::HighErrorRate | AlertType::LowUptime) {
            return None;
        }
        let own = self.down_alert(name).map(|alert| alert.id.clone());
        if kind == AlertType::LowUptime {
            return own.map(|id| (id, None));
        }
        let window = bench.policy.error_rate_window;
        own.or_else(|| {
            let component = Component::Service(name.clone());
            let kinds = [AlertType::ServiceDown, AlertType::InfrastructureDown];
            let mut pasts = kinds.into_iter().filter_map(|kind| self.past.get(&(component.clone(), kind)));
            let explains = |past: &&Past| past.known && past.resolved_at.is_some_and(|at| at + window > bench.now);
            pasts.find(explains).map(|past| past.id.clone())
        })
        .map(|id| (id, None))
    }

    fn down_alert(&self, name: &ServiceName) -> Option<&Alert> {
        [AlertType::ServiceDown, AlertType::InfrastructureDown]
            .into_iter()
            .find_map(|kind| self.alerts.get(&(Component::Service(name.clone()), kind)))
    }

    fn raise(
        &mut self,
        bench: Bench<'_>,
        decision: &mut Decision,
        key: Key,
        condition: Condition,
        told: Telling<'_>,
        held_by: Option<(String, Option<ServiceName>)>,
    ) {
        let now = bench.now;
        let open_outage = self.failed_outage(&key.0).filter(|_| key.1.waits_for_outage());
        let waits = self.waits_for_calm(&key);
        let past = self.past.get(&key);
        let is_new = !self.alerts.contains_key(&key);
        // What somebody resolved by hand is not raised anew before the cooldown has passed.
        let set_aside = |past: &Past| {
            past.by_hand && past.resolved_at.is_some_and(|at| at <= now && now < at + bench.policy.cooldown)
        };
        // Each emergency stop is an occurrence of its own.
        if is_new && key.1 != AlertType::EssTripped && past.is_some_and(set_aside) {
            return;
        }
        if is_new {
            let alert = new_alert(&key, &condition, past, bench);
            self.insert(alert);
        }
        let sequence = self.sequences.get(&key.0).copied().unwrap_or(0);
        let Some(alert) = self.alerts.get_mut(&key) else {
            return;
        };
        let before = alert.clone();
        let rises = !is_new && condition.severity > alert.severity;
        if rises {
            alert.severity = condition.severity;
        }
        alert.threshold = condition.threshold;
        alert.current_value = condition.value;
        alert.title = condition.title;
        alert.message = condition.message;
        alert.description = condition.description;
        alert.details = condition.details;
        alert.outage_id = alert.outage_id.or(open_outage.as_ref().map(|outage| outage.id));
        match held_by {
            Some((by, root)) if alert.told != Told::Yes && alert.suppressed_by.is_none() => {
                withdraw(alert, decision, by, root);
            }
            // A service that is down is released by `stand_alone`, all else as soon as nothing explains it any more.
            None if !alert.kind.waits_for_outage() => (alert.suppressed_by, alert.root_cause) = (None, None),
            _ => {}
        }
        // A held-back alert rises in silence; a raise that is still on its way takes the rise along (group wait).
        let silent = waits || alert.cleared || alert.told == Told::No || alert.suppressed_by.is_some();
        if rises && !silent && sendable(alert, bench.policy) {
            owe(alert, sequence, &mut self.sequences, bench);
            decision.notices.push(told.notice(NoticeKind::AlertSeverityRaised, alert, open_outage, now));
        }
        self.tell_if_due(bench, decision, &key, told);
        if let Some(alert) = self.alerts.get_mut(&key)
            && (is_new || *alert != before)
        {
            alert.updated_at = now;
            decision.note(alert);
            if is_new {
                decision.happened.push((EventKind::AlertRaised, alert.clone()));
            } else if alert.severity > before.severity {
                decision.happened.push((EventKind::AlertSeverityRaised, alert.clone()));
            }
        }
    }

    /// Tells an alert that nobody has been told of, once nothing holds it back any more.
    fn tell_if_due(&mut self, bench: Bench<'_>, decision: &mut Decision, key: &Key, told: Telling<'_>) {
        let outage = self.failed_outage(&key.0);
        let sequence = self.sequences.get(&key.0).copied().unwrap_or(0);
        let restless = self.waits_for_calm(key);
        let Some(alert) = self.alerts.get_mut(key) else {
            return;
        };
        let waits = restless || alert.kind.waits_for_outage() && outage.is_none();
        // A wait longer than the cooldown is the wall clock's doing, set back in the meantime.
        let waits_until = |after: DateTime<Utc>| bench.now < after && after <= bench.now + bench.policy.cooldown;
        let cooling = alert.severity < Severity::Critical && alert.notify_after.is_some_and(waits_until);
        // A broken dependency always has a root, and it is the root that is told.
        let is_consequence = alert.kind == AlertType::DependencyFailure;
        let held = alert.suppressed_by.is_some() || alert.cleared || waits || cooling || is_consequence;
        if alert.told != Told::No || held || !sendable(alert, bench.policy) {
            return;
        }
        alert.told = Told::Owed;
        alert.updated_at = bench.now;
        alert.escalates_from = Some(bench.now);
        owe(alert, sequence, &mut self.sequences, bench);
        decision.notices.push(told.notice(NoticeKind::AlertRaised, alert, outage, bench.now));
        decision.note(alert);
    }

    fn resolve(&mut self, bench: Bench<'_>, decision: &mut Decision, key: &Key, told: Telling<'_>) {
        let removed = self.alerts.remove(key);
        removed.iter().for_each(|alert| drop(self.ids.remove(&alert.id)));
        let Some(mut alert) = removed else {
            // The condition is over: when it comes back, that is news.
            if let Some(past) = self.past.get_mut(key) {
                past.by_hand = false;
            }
            return;
        };
        alert.status = AlertStatus::Resolved;
        alert.resolved_at = Some(bench.now);
        alert.updated_at = bench.now;
        // Its resolve is told whenever its raise was; one that was never told goes in silence.
        if alert.told != Told::No && bench.policy.enabled {
            let sequence = self.sequences.get(&key.0).copied().unwrap_or(0);
            owe(&mut alert, sequence, &mut self.sequences, bench);
            decision.notices.push(told.notice(NoticeKind::AlertResolved, &alert, told.ended.cloned(), bench.now));
        }
        self.remember(&alert);
        decision.note(&alert);
        decision.happened.push((EventKind::AlertResolved, alert));
    }

    fn remember(&mut self, alert: &Alert) {
        let key = (alert.component.clone(), alert.kind);
        // A successor that nobody heard of does not end the cooldown of its predecessor.
        let before = self.past.get(&key).and_then(|past| past.last_notified);
        let past = Past::of(alert);
        self.past.insert(key, Past { last_notified: past.last_notified.or(before), ..past });
    }

    /// A failing check of a service whose root cause has recovered: after enough of them it speaks for itself.
    fn stand_alone(&mut self, bench: Bench<'_>, decision: &mut Decision, service: &Service, told: Telling<'_>) {
        let root = bench.registry.graph.root_cause(&service.name, |of| self.failed.get(of).map(|f| f.since));
        let root_alert = root.as_ref().and_then(|root| self.down_alert(root)).map(|alert| alert.id.clone());
        let component = Component::Service(service.name.clone());
        for kind in [AlertType::ServiceDown, AlertType::InfrastructureDown] {
            let key = (component.clone(), kind);
            let Some(alert) = self.alerts.get_mut(&key) else {
                continue;
            };
            if alert.root_cause.is_none() {
                continue;
            }
            match (&root, &root_alert) {
                (Some(root), Some(id)) => {
                    alert.failures_alone = 0;
                    (alert.root_cause, alert.suppressed_by) = (Some(root.clone()), Some(id.clone()));
                }
                _ => {
                    alert.failures_alone += 1;
                    if alert.failures_alone >= bench.policy.detection_threshold {
                        (alert.root_cause, alert.suppressed_by, alert.failures_alone) = (None, None, 0);
                        decision.note(alert);
                        self.tell_if_due(bench, decision, &key, told);
                        continue;
                    }
                }
            }
            decision.note(alert);
        }
    }

    /// `name` has failed or recovered: what its dependents have not told yet is held back, and the critical path says
    /// whose dependency is broken.
    fn dependents_of(&mut self, bench: Bench<'_>, decision: &mut Decision, name: &ServiceName, has_failed: bool) {
        let registry = bench.registry;
        if has_failed {
            for dependent in registry.graph.dependents(name) {
                if !self.failed.contains_key(&dependent) {
                    continue;
                }
                for kind in AlertType::OF_SERVICES.iter().copied() {
                    let key = (Component::Service(dependent.clone()), kind);
                    if !self.alerts.get(&key).is_some_and(|a| a.told != Told::Yes && a.root_cause.is_none()) {
                        continue;
                    }
                    let held_by = self.held_by(bench, &dependent, kind);
                    if let (Some(alert), Some((by, root))) = (self.alerts.get_mut(&key), held_by) {
                        withdraw(alert, decision, by, root);
                        alert.updated_at = bench.now;
                        decision.note(alert);
                    }
                }
            }
        }
        for dependent in registry.graph.direct_dependents(name) {
            if let Some(service) = registry.find(dependent).filter(|service| service.active) {
                self.judge_dependencies(bench, decision, service);
            }
        }
    }

    /// `dependency_failure` of a service on the critical path, by its direct dependencies as they are now.
    fn judge_dependencies(&mut self, bench: Bench<'_>, decision: &mut Decision, service: &Service) {
        if bench.is_quiet(&service.name) {
            return;
        }
        let graph = &bench.registry.graph;
        let failed = graph.failed_needs(&service.name, |need| self.failed.contains_key(need));
        let broken = !failed.is_empty() && bench.registry.is_on_critical_path(&service.name);
        let condition = broken.then(|| self.dependency_condition(service, failed));
        let status = if self.failed.contains_key(&service.name) { Status::Unhealthy } else { Status::Unknown };
        let told = Telling { service: Some(service), from: status, to: status, ended: None };
        self.apply(bench, decision, service, AlertType::DependencyFailure, condition, told);
    }

    fn dependency_condition(&self, service: &Service, failed: Vec<ServiceName>) -> Condition {
        let outage_open = failed.iter().any(|need| self.failed.get(need).is_some_and(|f| f.outage.is_some()));
        let names: Vec<&str> = failed.iter().map(ServiceName::as_str).collect();
        let reasons: Vec<String> = failed
            .iter()
            .map(|need| {
                let reason = self.down_alert(need).and_then(|alert| alert.details.reason);
                format!("{need} ({})", reason.map_or("unhealthy", super::observation::Reason::as_str))
            })
            .collect();
        Condition {
            severity: if outage_open { Severity::Critical } else { Severity::High },
            threshold: Some(0.0),
            value: Some(failed.len() as f64),
            title: format!("Dependency failure: {}", service.name),
            message: format!("Service {} depends on failed {}", service.name, names.join(", ")),
            description: reasons.join(", "),
            details: AlertDetails { failed_dependencies: failed, ..AlertDetails::default() },
        }
    }

    fn is_failed(&self, component: &Component) -> bool {
        component.service().is_some_and(|name| self.failed.contains_key(name))
    }

    fn failed_outage(&self, component: &Component) -> Option<Outage> {
        self.failed.get(component.service()?)?.outage.clone()
    }

    /// The emergency stop was tripped, with the reason and all else that was said of it; or it was lifted.
    pub fn emergency_stop(&mut self, bench: Bench<'_>, tripped: Option<(String, Map<String, Value>)>) -> Decision {
        let mut decision = Decision::default();
        let key = (Component::EmergencyStop, AlertType::EssTripped);
        let told = Telling { service: None, from: Status::Unknown, to: Status::Unknown, ended: None };
        match tripped {
            Some((reason, facts)) => {
                let message = format!("ESS activated: {reason}");
                let condition = Condition {
                    severity: Severity::Critical,
                    threshold: None,
                    value: None,
                    title: "Emergency Stop System TRIPPED".to_owned(),
                    message: message.clone(),
                    description: message,
                    details: AlertDetails { facts, ..AlertDetails::default() },
                };
                self.raise(bench, &mut decision, key, condition, told, None);
            }
            None => self.resolve(bench, &mut decision, &key, told),
        }
        decision
    }
}

/// About whom, and between which statuses, a notice is.
#[derive(Clone, Copy)]
struct Telling<'a> {
    service: Option<&'a Service>,
    from: Status,
    to: Status,
    /// The outage that ends with what is told.
    ended: Option<&'a Outage>,
}

impl<'a> Telling<'a> {
    /// Nothing but time has changed.
    fn now(service: &'a Service, status: Status) -> Self {
        Self { service: Some(service), from: status, to: status, ended: None }
    }

    /// About no service.
    const NOBODY: Self = Self { service: None, from: Status::Unknown, to: Status::Unknown, ended: None };

    fn notice(&self, kind: NoticeKind, alert: &Alert, outage: Option<Outage>, at: DateTime<Utc>) -> Notice {
        Notice {
            kind,
            alert: alert.clone(),
            outage,
            from: self.from,
            to: self.to,
            url: self.service.map(|service| service.url.clone()),
            protocol: self.service.map(|service| service.protocol.as_str().to_owned()),
            at,
        }
    }
}

fn new_alert(key: &Key, condition: &Condition, past: Option<&Past>, bench: Bench<'_>) -> Alert {
    let now = bench.now;
    // An id in use is never given twice: the next free second is taken.
    let second = now.timestamp().max(past.map_or(i64::MIN, |past| past.second + 1));
    let cooled = past.and_then(|past| past.last_notified).map(|at| at + bench.policy.cooldown);
    Alert {
        id: Alert::id_for(&key.0, key.1, second),
        alert_id: format!("{}_{}_{}", key.0.as_str(), condition.severity.level(), Stamp(now)),
        kind: key.1,
        component: key.0.clone(),
        severity: condition.severity,
        title: condition.title.clone(),
        message: condition.message.clone(),
        description: condition.description.clone(),
        threshold: condition.threshold,
        current_value: condition.value,
        triggered_at: now,
        updated_at: now,
        status: AlertStatus::Active,
        resolved_at: None,
        escalation_level: 0,
        suppressed_by: None,
        root_cause: None,
        outage_id: None,
        details: condition.details.clone(),
        told: Told::No,
        notify_after: cooled.filter(|after| *after > now),
        last_notified: None,
        escalates_from: None,
        failures_alone: 0,
        sequence: 0,
        acknowledgement: None,
        acknowledgements: Vec::new(),
        cleared: false,
        resolved_by: None,
        resolution_note: None,
        reminders: 0,
        receivers: Vec::new(),
    }
}

/// The notice of a flapping service stands for those that wait for it: it is sent whatever its severity.
fn sendable(alert: &Alert, policy: &AlertPolicy) -> bool {
    policy.enabled && (alert.severity >= policy.min_severity || alert.kind == AlertType::Flapping)
}

/// Another message about `alert`: to those its routes lead to now, and to everyone who was told of it before, so that
/// whoever heard of the beginning hears of the end.
fn owe(alert: &mut Alert, sequence: u64, sequences: &mut HashMap<Component, u64>, bench: Bench<'_>) {
    alert.sequence = sequence + 1;
    alert.last_notified = Some(bench.now);
    sequences.insert(alert.component.clone(), alert.sequence);
    let is_end = alert.status == AlertStatus::Resolved;
    if is_end && !alert.receivers.is_empty() {
        return;
    }
    let service = alert.component.service().and_then(|name| bench.registry.find(name));
    for receiver in bench.routing.receivers_of(alert, service.map(|service| &**service)) {
        if !alert.receivers.iter().any(|known| known == receiver) {
            alert.receivers.push(receiver.to_owned());
        }
    }
}

/// Holds back an alert for the sake of another; what was owed and not sent is withdrawn.
fn withdraw(alert: &mut Alert, decision: &mut Decision, by: String, root: Option<ServiceName>) {
    if alert.told == Told::Owed {
        decision.withdrawn.push((alert.id.clone(), 0));
        decision.notices.retain(|notice| notice.alert.id != alert.id);
        alert.told = Told::No;
        alert.last_notified = None;
    }
    (alert.suppressed_by, alert.root_cause, alert.failures_alone) = (Some(by), root, 0);
}

/// An alert like those of services, for messages that show what one looks like and for tests.
pub fn sample_alert(component: &str, severity: Severity) -> Alert {
    let component = Component::parse(component).unwrap_or(Component::System);
    let condition = Condition {
        severity,
        threshold: Some(2.0),
        value: Some(2.0),
        title: format!("Service DOWN: {}", component.as_str()),
        message: format!("Service {} is down", component.as_str()),
        description: "Service has failed 2 consecutive health checks".to_owned(),
        details: AlertDetails::default(),
    };
    let policy = AlertPolicy::default();
    let bench = Bench {
        registry: &Registry::default(),
        policy: &policy,
        routing: &Routing::default(),
        windows: &InForce::default(),
        now: DateTime::UNIX_EPOCH,
    };
    new_alert(&(component, AlertType::ServiceDown), &condition, None, bench)
}

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod tests;
