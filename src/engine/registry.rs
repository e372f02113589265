//! Puts another registry in force while everything runs: exactly what differs is changed, nobody else's checks move
//! (CONTRACT.md 5.2).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::Engine;
use super::commit::Transition;
use super::live::{Roster, Watched};
use crate::domain::event::{Event, EventKind};
use crate::domain::outage::Outage;
use crate::domain::probe::{Connection, Probe};
use crate::domain::registry::Registry;
use crate::domain::service::{Service, ServiceName};
use crate::domain::state::ServiceState;
use crate::domain::window::History;

/// Services named in an event about the registry: our choice, a few ten kilobytes.
const NAMED: usize = 1000;

/// What a change of the registry came to, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RosterChange {
    pub added: Vec<ServiceName>,
    pub changed: Vec<ServiceName>,
    pub removed: Vec<ServiceName>,
}

impl RosterChange {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// How the latest reload went.
#[derive(Debug, Clone)]
pub struct ReloadOutcome {
    pub at: DateTime<Utc>,
    /// `services file` or `settings`.
    pub what: &'static str,
    /// Where it is wrong, if it is.
    pub error: Option<String>,
}

/// The latest reload.
#[derive(Debug, Default)]
pub struct ReloadLog(Mutex<Option<ReloadOutcome>>);

impl ReloadLog {
    pub fn note(&self, outcome: ReloadOutcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    pub fn latest(&self) -> Option<ReloadOutcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// Puts `registry` in force. `restored` supplies what is known of services that are new to this process; of those
    /// `erased` nothing is kept.
    pub async fn watch(
        self: &Arc<Self>,
        registry: Registry,
        mut restored: impl FnMut(&ServiceName) -> Option<(ServiceState, History)>,
        erased: &[ServiceName],
    ) -> RosterChange {
        let before = self.live.roster();
        let mut change = RosterChange::default();
        let mut transition = Transition::default();
        let mut to_schedule = Vec::new();
        let mut watched_now = Vec::with_capacity(registry.services().len());
        // Turns of services that change or go: while they are held nothing reports about those.
        let mut turns = Vec::new();
        let now = self.clock.now();
        // New ones, and those that are counted otherwise from now on.
        let mut recount = Vec::new();
        // Most services are the same in the same order: those need no look-up.
        let mut in_order = before.watched.iter().peekable();
        for service in registry.services() {
            if let Some(same) = in_order.next_if(|watched| watched.is_defined_by(service)) {
                watched_now.push(same.clone());
                continue;
            }
            let known = before.find(&service.name);
            if known.is_some_and(|known| in_order.peek().is_some_and(|next| Arc::ptr_eq(next, known))) {
                in_order.next();
            }
            let Some(watched) = known else {
                change.added.push(service.name.clone());
                let (mut state, history) = restored(&service.name).unwrap_or_default();
                let deactivated =
                    if service.active { None } else { self.ended(service, &state, now, "Service deactivated") };
                if !service.active {
                    state = state.at_rest();
                }
                if state.last_check.is_none() {
                    // From here on the check log is worth reading for it.
                    transition.beside.histories.extend(empty_history(&service.name, now));
                }
                let watched = Watched::new(service.clone(), state.clone(), history);
                if let Some(outage) = deactivated {
                    transition.outages.push(outage);
                    transition.states.push((watched.clone(), state, None));
                }
                to_schedule.push(watched.clone());
                recount.push(watched.clone());
                watched_now.push(watched);
                continue;
            };
            watched_now.push(watched.clone());
            let old = watched.service();
            // Being named on the critical path, or depended on, is the registry's and needs no change here.
            if Arc::ptr_eq(&old, service) {
                continue;
            }
            recount.push(watched.clone());
            if old.fingerprint == service.fingerprint {
                // Said otherwise, or anew: it is the same service under a newer version.
                watched.redefine(service.clone());
                continue;
            }
            turns.push(watched.seize().await);
            change.changed.push(service.name.clone());
            watched.redefine(service.clone());
            let state = watched.lock().state.clone();
            if !service.active {
                transition.outages.extend(self.ended(&old, &state, now, "Service deactivated"));
                transition.states.push((watched.clone(), state.at_rest(), None));
            } else if old.url != service.url || old.protocol != service.protocol {
                transition.states.push((watched.clone(), state.forget_verdict(), None));
            }
            if old.interval != service.interval || old.active != service.active {
                to_schedule.push(watched.clone());
            }
        }
        let is_gone = |watched: &&Arc<Watched>| registry.place(&watched.service().name).is_none();
        let gone: Vec<Arc<Watched>> = if before.watched.len() + change.added.len() == watched_now.len() {
            Vec::new()
        } else {
            before.watched.iter().filter(is_gone).cloned().collect()
        };
        for watched in &gone {
            turns.push(watched.seize().await);
            watched.retire();
            self.scheduler.remove(watched);
        }
        let in_force = self.windows.at(now);
        self.share_pool(registry.services(), &watched_now);
        let roster = Roster::new(Arc::new(registry), watched_now, &self.config().detection);
        self.live.replace_roster(roster, &recount, &gone);
        self.live.follow_anew(&in_force);
        // On the schedule before anything is waited for: a reload that is cut short must leave nobody unwatched.
        for watched in to_schedule.iter().filter(|watched| watched.service().active) {
            self.scheduler.add(watched);
            self.mirror.touch(watched);
        }

        let roster = self.live.roster();
        let committed = {
            let mut judge = self.judge();
            for watched in &gone {
                let name = watched.service().name.clone();
                if erased.contains(&name) {
                    let open = watched.lock().state.outage.clone();
                    transition.exports.extend(open.and_then(|outage| self.exporter.erased(&outage, now)));
                    transition.beside.erased.push(name.clone());
                    self.live.forget_incident(&name);
                } else {
                    let state = watched.lock().state.clone();
                    transition.outages.extend(self.ended(&watched.service(), &state, now, "Service removed"));
                }
                transition.beside.removed.push(name.clone());
                self.mirror.forget(name.clone());
                change.removed.push(name);
            }
            let config = self.config();
            let bench = self.bench(&config, &roster.registry, &in_force, now);
            transition.join(self.decided(judge.after_change(bench, erased), now));
            let is_start = before.watched.is_empty();
            if !(is_start || change.is_empty()) {
                let names = |names: &[ServiceName]| names.iter().take(NAMED).cloned().collect::<Vec<_>>();
                let payload = json!({
                    "added": names(&change.added), "changed": names(&change.changed), "removed": names(&change.removed),
                });
                transition.events.push(Event::new(EventKind::RegistryChanged, None, payload, now));
            }
            self.commit.transition(transition)
        };
        if !(gone.is_empty() && change.changed.is_empty()) {
            let _ = committed.await;
        }
        drop(turns);
        for watched in to_schedule.iter().filter(|watched| watched.service().active) {
            // A streak that was being confirmed when the last run ended is confirmed now.
            let service = watched.service();
            let wanted = watched.lock().state.wants_confirmation(&service, &self.config().outage, 0);
            if wanted {
                self.start_check(watched.clone(), crate::domain::observation::Kind::Confirm, None);
            }
        }
        change
    }

    /// The open outage of `state`, ended now.
    fn ended(&self, service: &Service, state: &ServiceState, now: DateTime<Utc>, notes: &str) -> Option<Outage> {
        let outage = state.outage.as_ref()?;
        Some(outage.closed(now, notes, None, self.paused_ms(service, outage.started, now)))
    }

    /// Who may keep a connection: the first so many that want one. Beyond the bound probes use fresh connections.
    fn share_pool(&self, services: &[Arc<Service>], watched: &[Arc<Watched>]) {
        let mut left = self.config().pooled_connections;
        for (service, watched) in services.iter().zip(watched) {
            let wants = matches!(&service.probe, Probe::Http(probe) if probe.connection == Connection::Reuse);
            let pooled = wants && left > 0;
            watched.pooled.store(pooled, Ordering::Relaxed);
            left -= usize::from(pooled);
        }
    }
}

fn empty_history(name: &ServiceName, now: DateTime<Utc>) -> Option<(ServiceName, String, i64)> {
    let json = serde_json::to_string(&History::default()).ok()?;
    Some((name.clone(), json, now.timestamp_millis()))
}
