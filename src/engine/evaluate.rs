//! Rules on the beat of a clock: what waited for its time, escalation, error rates, and trouble of our own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::commit::Transition;
use super::counters::Part;
use super::heartbeat::Pulse;
use crate::domain::alert::Component;
use crate::domain::event::{Event, EventKind};
use crate::domain::host::{Judged, Resource};
use crate::domain::judge::{Decision, HostTrouble, Judge};
use crate::domain::time::{from_ms, span};

/// Error rates judged in one go: our choice, about a millisecond of work.
const JUDGED_AT_ONCE: usize = 1000;

/// How often waiting alerts are looked at: our choice. Cheap: only living alerts are.
const BEAT: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn evaluate(self: &Arc<Self>, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut judged, mut snapped) = (Instant::now(), Instant::now());
        let mut pulse = Pulse::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            self.counters.progress(Part::Evaluator);
            if !self.is_monitoring() {
                continue;
            }
            self.on_time().await;
            if !self.is_paused() {
                self.fleet_rules().await;
            }
            if snapped.elapsed() >= self.config().snapshot_interval {
                snapped = Instant::now();
                self.snapshot().await;
            }
            self.beat_if_due(&mut pulse);
            if judged.elapsed() >= self.config().alert_check_interval {
                judged = Instant::now();
                self.error_rates().await;
            }
        }
    }

    /// Tells what has waited for its time, escalates, and says when records cannot be written.
    pub async fn on_time(&self) {
        self.tell_windows().await;
        let now = self.clock.now();
        let roster = self.live.roster();
        let in_force = self.windows_in_force();
        let trouble = self.commit.trouble().filter(|trouble| trouble.not_durable);
        let away = trouble.map(|trouble| {
            format!("Records cannot be written since {}: {}", crate::domain::time::Stamp(trouble.since), trouble.error)
        });
        let records = away.or_else(|| self.set_aside.get().cloned());
        let impairment = self.impairment();
        let config = self.config();
        let committed = self.decide(|judge| {
            let bench = self.bench(&config, &roster.registry, &in_force, now);
            let mut decisions = vec![judge.own_trouble(bench, Component::Records, records.as_deref())];
            // After a start nothing ends before it was looked at anew.
            if impairment.is_some() || self.knows_itself() {
                decisions.push(judge.own_trouble(bench, Component::Monitor, impairment.as_deref()));
            }
            decisions.push(judge.on_time(bench));
            decisions
        });
        if let Some(committed) = committed {
            // An answer that never comes means that the monitor is ending.
            let _ = committed.await;
        }
    }

    /// Rules over all services together, and over the host.
    pub async fn fleet_rules(self: &Arc<Self>) {
        let (looking, taken) = (self.clone(), self.clock.now());
        let Ok(trouble) = tokio::task::spawn_blocking(move || looking.system_trouble()).await else { return };
        let (now, config, roster) = (self.clock.now(), self.config(), self.live.roster());
        let in_force = self.windows_in_force();
        let host = self.host();
        let committed = self.decide(|judge| {
            let bench = self.bench(&config, &roster.registry, &in_force, now);
            let mut decisions = vec![judge.fleet(bench)];
            // A picture that was overtaken tells nothing: the next is seconds away.
            if !trouble.as_ref().is_some_and(|trouble| judge.has_overtaken(trouble, taken)) {
                decisions.push(judge.system(bench, trouble, self.knows_latency()));
            }
            for resource in Resource::ALL {
                let limit = config.host.limit(resource);
                let trouble = match host.judged(resource) {
                    Judged::NotYet => continue,
                    Judged::Normal => None,
                    Judged::Critical(percent) => Some(HostTrouble { percent, limit }),
                };
                decisions.push(judge.host(bench, resource.component(), trouble));
            }
            decisions
        });
        if let Some(committed) = committed {
            let _ = committed.await;
        }
    }

    /// Publishes how the whole system stands.
    pub async fn snapshot(self: &Arc<Self>) {
        if self.awaits_first_round() {
            return;
        }
        let looking = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            looking.note_slowness(looking.system_view().by_latency);
            let payload = serde_json::to_value(looking.system_body(true))?;
            Ok::<_, serde_json::Error>(Event::new(EventKind::SnapshotUpdated, None, payload, looking.clock.now()))
        });
        match made.await {
            Ok(Ok(event)) => {
                let transition = Transition { events: vec![event], ..Transition::default() };
                let _ = self.commit.transition(transition).await;
            }
            Ok(Err(error)) => tracing::error!(%error, "no snapshot can be made"),
            Err(error) => tracing::error!(%error, "no snapshot was made"),
        }
    }

    /// Says, for as long as this process lives, that it began without what was stored.
    pub fn say_records_were_set_aside(&self, file: &std::path::Path) {
        let _ =
            self.set_aside.set(format!("Damaged records were set aside as {}; history begins anew", file.display()));
    }

    /// What to say of records that could not be read at the start, if that is so.
    pub fn records_set_aside(&self) -> Option<&str> {
        self.set_aside.get().map(String::as_str)
    }

    /// Judges the error rate and the uptime of every service that has failed checks or an alert about them.
    pub async fn error_rates(&self) {
        let now = self.clock.now();
        let roster = self.live.roster();
        let in_force = self.windows_in_force();
        let config = self.config();
        let mut committed = Vec::new();
        for (place, watched) in roster.watched.iter().enumerate() {
            if place % JUDGED_AT_ONCE == JUDGED_AT_ONCE - 1 {
                self.counters.progress(Part::Evaluator);
                super::make_way().await;
            }
            let service = watched.service();
            if !service.active || watched.is_retired() {
                continue;
            }
            let (counts, parts, state) = {
                let inner = watched.lock();
                let counts = inner.history.since(now, config.alert.error_rate_window);
                (counts, inner.history.parts(now), inner.state.clone())
            };
            let deciding = self.decide(|judge| {
                let matters = counts.not_healthy() > 0 || parts.down > 0 || judge.concerns(&service.name, &state);
                if !matters || watched.is_retired() {
                    return Vec::new();
                }
                let bench = self.bench(&config, &roster.registry, &in_force, now);
                vec![judge.error_rate(bench, &service, &state, counts), judge.uptime(bench, &service, &state, parts)]
            });
            committed.extend(deciding);
        }
        // All are on their way before the first is waited for.
        join_all(committed).await;
    }

    /// A check has lately failed for want of something of our own (CONTRACT.md 7.5).
    pub(super) fn has_local_trouble(&self) -> bool {
        let at = self.local_trouble_at.load(Ordering::Relaxed);
        at != 0 && span(from_ms(at), self.clock.now()) < self.config().references.window
    }

    /// Makes decisions durable and visible, in the order they were made. The answer comes when they are.
    fn decide(&self, judge: impl FnOnce(&mut Judge) -> Vec<Decision>) -> Option<oneshot::Receiver<bool>> {
        let now = self.clock.now();
        let mut held = self.judge();
        let mut transition = Transition::default();
        let mut some = false;
        for decision in judge(&mut held).into_iter().filter(|decision| !decision.is_empty()) {
            transition.join(self.decided(decision, now));
            some = true;
        }
        some.then(|| self.commit.transition(transition))
    }
}
