//! Writes the newest checks of each service to the check history, in runs, and the minutes of the fleet. Behind everything
//! else: nobody waits for it. Until a check is in the history it is in the check log and in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::commit::Transition;
use super::live::Watched;
use super::{Engine, held};
use crate::domain::check::CheckRun;
use crate::domain::rollup::Rollup;
use crate::domain::time::from_ms;
use crate::domain::window::RING;

/// Checks in one run: our choice, as many as leave room in the newest hundred while a run waits to be written.
pub const RUN: usize = 60;
/// A check waits no longer for its run to fill: our choice.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// Between two rounds of writing: our choice.
const BEAT: Duration = Duration::from_secs(1);
/// Runs in one transaction: our choice, about half a megabyte.
const TOGETHER: usize = 500;

impl Engine {
    /// Notes that `watched` has a run to be written, if it has.
    pub(super) fn keep_in_time(&self, watched: &Arc<Watched>) {
        if self.config().store.persist_checks
            && watched.lock().history.unkept_count() > RUN
            && !watched.to_keep.swap(true, Ordering::AcqRel)
        {
            held(&self.to_keep).push(watched.clone());
        }
    }

    /// The same for checks that have waited for long; asked once an hour for each service.
    pub(super) fn keep_old(&self, watched: &Arc<Watched>) {
        let now_ms = self.clock.now().timestamp_millis();
        let oldest = watched.lock().history.unkept().first().map(|check| check.at_ms);
        let is_old = oldest.is_some_and(|at| now_ms - at > OLDEST.as_millis() as i64);
        if is_old && self.config().store.persist_checks && !watched.to_keep.swap(true, Ordering::AcqRel) {
            held(&self.to_keep).push(watched.clone());
        }
    }

    pub(super) async fn keep(self: &Arc<Self>, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            self.keep_runs().await;
        }
    }

    /// Writes the runs that are due, and the fleet's minutes that are over.
    pub async fn keep_runs(&self) {
        // One at a time: two that read the same checks would count them twice.
        let _turn = self.keeping.lock().await;
        let due = std::mem::take(&mut *held(&self.to_keep));
        for services in due.chunks(TOGETHER) {
            let mut transition = Transition::default();
            let mut kept = Vec::new();
            for watched in services {
                watched.to_keep.store(false, Ordering::Release);
                let mut checks = watched.lock().history.unkept();
                // The newest may still be amended: it goes with the next run.
                checks.pop();
                if let Some(run) = CheckRun::of(watched.hash, &checks).filter(|_| !watched.is_retired()) {
                    kept.push((watched, checks.len()));
                    transition.beside.runs.push(run);
                }
            }
            let committed = self.commit.transition(transition).await;
            if committed.is_ok() {
                kept.iter().for_each(|(watched, count)| watched.lock().history.kept(*count));
            }
        }
        let now = self.clock.now();
        let mut minutes = self.live.take_minutes(now);
        for (at_ms, host) in self.host.take_minutes(now) {
            match minutes.iter_mut().find(|minute| minute.at_ms == at_ms) {
                Some(minute) => minute.host = Some(host),
                None => minutes.push(Rollup { at_ms, host: Some(host), ..Rollup::default() }),
            }
        }
        if minutes.is_empty() || !self.config().store.persist_checks {
            return;
        }
        let fleet = self.live.fleet();
        let mut transition = Transition::default();
        for mut minute in minutes {
            const MINUTE_MS: i64 = 60_000;
            let ms = |count: usize| i64::try_from(count).unwrap_or(0) * MINUTE_MS;
            minute.status = fleet.judged.overall();
            minute.parts.up = ms(fleet.judged.healthy + fleet.judged.degraded);
            minute.parts.down = ms(fleet.judged.unhealthy);
            minute.parts.maintenance = ms(fleet.in_maintenance);
            minute.parts.unknown = ms(fleet.all.total()) - minute.parts.total();
            transition.beside.minutes.push(minute);
        }
        drop(self.commit.transition(transition));
    }
}

/// Checks that the log must still hold: those that may be in no run yet, and what a start reads back.
pub(super) fn log_before(now: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    // A history is saved once an hour with its newest checks; three times that is our choice.
    from_ms(now.timestamp_millis() - 3 * 3_600_000)
}

const _: () = assert!(RUN + 20 < RING, "a run must fit into the newest checks with room to spare");
