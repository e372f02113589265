//! Takes up where the last run ended: states, streaks, outages, alerts, cooldowns, owed messages, events, 24 h of numbers.
//!
//! Records are the truth. What they lack of routine checks is read back from the check log; a service they do not know,
//! or know less of, is asked for in Redis, which never overrules what is newer here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::commit::Transition;
use super::{Engine, RosterChange};
use crate::domain::alert::Told;
use crate::domain::check::{Check, LoggedCheck, name_hash};
use crate::domain::definitions::Listed;
use crate::domain::judge::Judge;
use crate::domain::registry::{Registry, RegistryError};
use crate::domain::service::{Service, ServiceName};
use crate::domain::state::ServiceState;
use crate::domain::window::{History, WINDOW};
use crate::store::StoreError;
use crate::store::records::{FactKind, PAGE, Restored, Since};

/// Longest time a start waits for what Redis remembers: our choice, so that serving begins within 2 s of the start.
const RECALL_DEADLINE: Duration = Duration::from_millis(700);
/// Services asked for in one pipeline: our choice.
const RECALLED_TOGETHER: usize = 100;

/// Why a start does not come about.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operator's definitions contradict each other.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Engine {
    /// Restores everything and starts watching what is `listed` and registered.
    ///
    /// # Errors
    /// The records cannot be read, or the definitions contradict each other.
    pub async fn restore(self: &Arc<Self>, listed: Listed) -> Result<RosterChange, RestoreError> {
        let now = self.clock.now();
        let recent = self.config().alert.cooldown.max(self.config().alert.error_rate_window);
        let mut stored = self.records.restore(Since { alerts: now - recent, outages: now - WINDOW }).await?;
        let newest = stored.events.last().map_or(0, |event| event.sequence);
        self.committer.lock().await.events_from(newest);
        let marks = self.records.facts(FactKind::Mark).await?;
        self.windows.recall(&marks);
        self.restore_streams(newest, &marks).await?;
        self.restore_export().await?;
        self.restore_windows(std::mem::take(&mut stored.windows));
        let windows = listed.windows.clone();
        let (registry, set_aside) = self.define(listed, std::mem::take(&mut stored.registrations)).await?;
        // What is kept of a registration that is not watched for now stays as it is.
        set_aside.iter().for_each(|name| drop(stored.states.remove(name)));
        let mut known: HashMap<ServiceName, (ServiceState, History)> = HashMap::new();
        for service in registry.services() {
            let state = stored.states.remove(&service.name).unwrap_or_default();
            let history = stored.histories.get(&service.name).map(|(history, _)| history.clone());
            let history: History = history.unwrap_or_default();
            known.insert(service.name.clone(), (state, history));
        }
        self.replay(&registry, &mut known, &stored).await?;
        for (name, (_, history)) in &mut known {
            if let Some(kept_ms) = stored.run_marks.get(&name_hash(name)) {
                history.kept_until(*kept_ms);
            }
        }
        self.recall(&registry, &mut known).await;

        for (_, history) in known.values() {
            self.live.absorb(history);
        }
        self.resume(&registry, &known, stored);
        let change = self.watch(registry, |name| known.remove(name), &[]).await;
        self.list_windows(windows);
        Ok(change)
    }

    /// Adds the checks of the log that a saved history does not hold.
    async fn replay(
        &self,
        registry: &Registry,
        known: &mut HashMap<ServiceName, (ServiceState, History)>,
        stored: &Restored,
    ) -> Result<(), StoreError> {
        let window_start = (self.clock.now() - WINDOW).timestamp_millis();
        let by_hash: HashMap<u64, &Arc<Service>> =
            registry.services().iter().map(|service| (name_hash(&service.name), service)).collect();
        let saved = |name: &ServiceName| stored.histories.get(name).map_or(window_start, |(_, rolled_ms)| *rolled_ms);
        // A service nothing is stored of was never checked: the log holds nothing of it.
        let stored_of = |service: &&Arc<Service>| {
            stored.histories.contains_key(&service.name)
                || known.get(&service.name).is_some_and(|(state, _)| state.last_check.is_some())
        };
        let since = registry.services().iter().filter(stored_of).map(|service| saved(&service.name)).min();
        let Some(since) = since else { return Ok(()) };
        let mut after = 0;
        loop {
            let page = self.records.check_log(since.max(window_start), after, PAGE).await?;
            for LoggedCheck { service: hash, check, .. } in page.checks {
                let Some(service) = by_hash.get(&hash) else { continue };
                if check.at_ms <= saved(&service.name) {
                    continue;
                }
                if let Some((state, history)) = known.get_mut(&service.name) {
                    replay_one(service, state, history, check);
                }
            }
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        // The log only knows checks; outages were committed as they opened and closed.
        for outage in &stored.outages {
            if let Some((_, history)) = known.get_mut(&outage.service) {
                history.recall_outage(outage);
            }
        }
        Ok(())
    }

    /// Asks Redis about services that records know nothing of, or less.
    async fn recall(&self, registry: &Registry, known: &mut HashMap<ServiceName, (ServiceState, History)>) {
        let Some(redis) = self.mirror.redis() else { return };
        let asking = async {
            let names: Vec<ServiceName> = registry.services().iter().map(|service| service.name.clone()).collect();
            for names in names.chunks(RECALLED_TOGETHER) {
                for (name, remembered) in redis.recall(names).await? {
                    let (Some((state, history)), Some(service)) = (known.get_mut(&name), registry.find(&name)) else {
                        continue;
                    };
                    if state.last_check.is_none() && remembered.state.last_check.is_some() {
                        *state = remembered.state;
                        for check in remembered.checks {
                            history.record(check, service.hold(), &[]);
                        }
                    }
                }
            }
            Ok::<(), crate::store::redis::RedisError>(())
        };
        match tokio::time::timeout(RECALL_DEADLINE, asking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "nothing read back from Redis"),
            Err(_) => tracing::info!("Redis answers slowly: starting from records alone"),
        }
    }

    /// Alerts, owed messages, events and the latest incident.
    fn resume(&self, registry: &Registry, known: &HashMap<ServiceName, (ServiceState, History)>, stored: Restored) {
        let now = self.clock.now();
        let (living, gone): (Vec<_>, Vec<_>) = stored
            .living_alerts
            .into_iter()
            .partition(|alert| alert.component.service().is_none_or(|name| registry.find(name).is_some()));
        for alert in &living {
            self.live.put_alert(alert.clone());
        }
        // Messages that were taken back a moment before the end, and whose rows were still there.
        let held_back = |id: &str| living.iter().any(|alert| alert.id == id && alert.told == Told::No);
        let (stale, owed): (Vec<_>, Vec<_>) =
            stored.owed.into_iter().partition(|row| row.digest.is_none() && held_back(&row.notice.alert.id));
        self.outbox.owe(owed, now, self.config().notify.group_wait);
        self.settle(stale.into_iter().map(|row| row.id).collect());

        let mut judge =
            Judge::restore(living.iter().chain(&gone).cloned().collect(), &stored.recent_alerts, stored.sequences);
        for service in registry.services() {
            if let Some((state, _)) = known.get(&service.name) {
                judge.recall(service, state);
            }
        }
        let in_force = self.windows.at(now);
        let config = self.config();
        let mut transition = Transition::default();
        for alert in &gone {
            // Its service was taken out of the file while nobody was looking.
            if let Some(name) = alert.component.service() {
                let bench = self.bench(&config, registry, &in_force, now);
                transition.join(self.decided(judge.forget(bench, name), now));
            }
        }
        for (name, state) in &stored.states {
            if let Some(outage) = &state.outage {
                transition.outages.push(crate::domain::outage::Outage {
                    ended: Some(now),
                    resolution_notes: Some("Service removed".to_owned()),
                    ..outage.clone()
                });
            }
            transition.beside.removed.push(name.clone());
        }
        *self.judge() = judge;
        self.commit.log_from(stored.log_mark);
        for event in stored.events {
            self.live.events.push(event);
        }
        if let Some(outage) = &stored.last_incident {
            self.live.note_incident(outage);
        }
        drop(self.commit.transition(transition));
    }
}

/// Adds one check of the log to what was saved.
fn replay_one(service: &Service, state: &mut ServiceState, history: &mut History, check: Check) {
    use crate::domain::status::Status;
    if state.last_check.is_none_or(|last| check.at() > last) {
        state.last_check = Some(check.at());
        state.status = check.status;
        state.reason = check.reason;
        state.response_us = check.response_us;
        state.http_status = check.http_status;
        state.consecutive_failures = check.consecutive_failures();
        state.consecutive_successes = check.consecutive_successes();
        state.issues = check.error.iter().map(ToString::to_string).collect();
        state.error_message = check.error.as_deref().map(str::to_owned);
        state.sequence += 1;
        if let (Status::Unhealthy, Some(streak)) = (check.status, &mut state.failing) {
            streak.count += 1;
        }
    }
    // Windows are not looked up again: what was in maintenance says so itself.
    history.record(check, service.hold(), &[]);
}
