//! Rules on the beat of a clock: what waited for its time, escalation, error rates, and trouble of our own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::commit::Transition;
use crate::domain::alert::Component;
use crate::domain::judge::Decision;

/// How often waiting alerts are looked at: our choice. Cheap: only living alerts are.
const BEAT: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn evaluate(self: &Arc<Self>, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut rates_due = Instant::now() + self.config.alert_check_interval;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            self.on_time().await;
            if Instant::now() >= rates_due {
                rates_due = Instant::now() + self.config.alert_check_interval;
                self.error_rates().await;
            }
        }
    }

    /// Tells what has waited for its time, escalates, and says when records cannot be written.
    pub async fn on_time(&self) {
        let now = self.clock.now();
        let roster = self.live.roster();
        let trouble = self.commit.trouble().filter(|trouble| trouble.not_durable);
        let away = trouble.map(|trouble| {
            format!("Records cannot be written since {}: {}", crate::domain::time::Stamp(trouble.since), trouble.error)
        });
        let what = away.or_else(|| self.set_aside.get().cloned());
        self.decide(|judge| {
            let bench = self.bench(&roster.registry, now);
            let own = judge.own_trouble(bench, Component::Records, what.as_deref());
            (own, judge.on_time(bench))
        })
        .await;
    }

    /// Says, for as long as this process lives, that it began without what was stored.
    pub fn say_records_were_set_aside(&self, file: &std::path::Path) {
        let _ =
            self.set_aside.set(format!("Damaged records were set aside as {}; history begins anew", file.display()));
    }

    /// Judges the error rate of every service that has failed checks in the window or an alert about them.
    pub async fn error_rates(&self) {
        let now = self.clock.now();
        let roster = self.live.roster();
        for watched in &roster.watched {
            let service = watched.service();
            if !service.active {
                continue;
            }
            let (counts, state) = {
                let inner = watched.lock();
                let counts = inner.history.since(now, self.config.alert.error_rate_window);
                (counts, inner.state.clone())
            };
            self.decide(|judge| {
                let matters = counts.not_healthy() > 0 || judge.concerns(&service.name, &state);
                let decision = if matters {
                    judge.error_rate(self.bench(&roster.registry, now), &service, &state, counts)
                } else {
                    Decision::default()
                };
                (decision, Decision::default())
            })
            .await;
        }
    }

    /// Makes decisions durable and visible, in the order they were made.
    async fn decide(&self, judge: impl FnOnce(&mut crate::domain::judge::Judge) -> (Decision, Decision)) {
        let now = self.clock.now();
        let committed = {
            let mut held = self.judge();
            let (first, second) = judge(&mut held);
            let mut transition = Transition::default();
            for decision in [first, second] {
                if decision.is_empty() {
                    continue;
                }
                let decided = self.decided(decision, now);
                transition.alerts.extend(decided.alerts);
                transition.owed.extend(decided.owed);
                transition.withdrawn.extend(decided.withdrawn);
                transition.events.extend(decided.events);
            }
            let empty = transition.alerts.is_empty() && transition.owed.is_empty() && transition.withdrawn.is_empty();
            (!empty).then(|| self.commit.transition(transition))
        };
        if let Some(committed) = committed {
            // An answer that never comes means that the monitor is ending.
            let _ = committed.await;
        }
    }
}
