//! Asks reference targets whether our own network is whole, before a target is accused of not answering (DESIGN.md D6).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Engine, held};
use crate::domain::impairment::{References, Sign, Tide};
use crate::domain::observation::{Observation, Reason};
use crate::domain::service::Service;
use crate::domain::time::Stamp;
use crate::probes;

/// While impaired the references are asked this often, if not more: our choice, so that two good rounds come soon.
const IMPAIRED_EVERY: Duration = Duration::from_secs(1);
/// A probe that ends so long after its deadline was held up by ourselves: our choice, far more than a busy runtime needs.
const STALLED: Duration = Duration::from_secs(1);

/// Reference targets, and how they are asked.
#[derive(Debug, Clone, Default)]
pub struct ReferenceConfig {
    /// As services that nobody watches.
    pub targets: Vec<Arc<Service>>,
    pub interval: Duration,
    /// How far back failures are looked at together.
    pub window: Duration,
}

/// What is known of our own network.
#[derive(Debug, Default)]
pub struct Watch {
    standing: Mutex<References>,
    tide: Mutex<Tide>,
    /// When the latest round began: held while a round is under way.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

impl Engine {
    /// Asks the reference targets each interval, until `stop`.
    pub(super) async fn ask_references(self: &Arc<Self>, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            let config = self.config();
            let impaired = held(&self.references.standing).impaired_since().is_some();
            let every =
                if impaired { config.references.interval.min(IMPAIRED_EVERY) } else { config.references.interval };
            if asked.is_none_or(|at| at.elapsed() >= every) {
                asked = Some(Instant::now());
                self.ask_since(Instant::now(), false).await;
            }
        }
    }

    /// Whether no reference target answers, from a round that began after `since`; whoever comes while one is under way
    /// waits for the next together with all others.
    async fn ask_since(&self, since: Instant, for_a_service: bool) -> bool {
        let targets = self.config().references.targets.clone();
        let mut latest = self.references.asking.lock().await;
        if latest.is_none_or(|began| began < since) {
            *latest = Some(Instant::now());
            let asked = targets.iter().map(|target| async {
                let seen = probes::observe(&self.clients, target, true, async |_| {}).await;
                seen.reply.is_ok()
            });
            let answered = join_all(asked).await;
            held(&self.references.standing).take(&answered, for_a_service, self.clock.now());
        }
        held(&self.references.standing).is_silent()
    }

    /// What was seen, unless it may be our own fault: then it is inconclusive. `began`: when the probe was sent.
    pub(super) async fn rule_out_ourselves(
        &self,
        service: &Service,
        seen: Observation,
        began: Instant,
        was_up: bool,
    ) -> Observation {
        let (now, ended) = (self.clock.now(), Instant::now());
        let config = self.config();
        let window_s = i64::try_from(config.references.window.as_secs()).unwrap_or(i64::MAX).max(1);
        let reason = seen.reply.as_ref().map_or_else(|failure| failure.reason, |_| Reason::Ok);
        let sign = match reason {
            Reason::Dns => Sign::Unresolved,
            // Latency without an answer: overdue, and still not there.
            Reason::ConnectTimeout | Reason::Timeout | Reason::Latency => Sign::Silent,
            _ => Sign::Whole,
        };
        if sign == Sign::Silent && ended.duration_since(began) > service.timeout + STALLED {
            return Observation::failed(Reason::LocalResource, "the monitor itself was held up");
        }
        let unresolved = {
            let mut tide = held(&self.references.tide);
            tide.count(now, window_s, sign, was_up);
            sign == Sign::Unresolved && tide.is_unresolved(now, window_s)
        };
        if sign == Sign::Whole {
            return seen;
        }
        let silent = !config.references.targets.is_empty() && {
            // While it is known that we are cut off, an answer of the latest second will do.
            let known = held(&self.references.standing).impaired_since().is_some();
            let since = if known { ended.checked_sub(IMPAIRED_EVERY).unwrap_or(ended) } else { ended };
            self.ask_since(since, true).await
        };
        match silent || unresolved {
            true => Observation::failed(Reason::Inconclusive, "monitoring impaired"),
            false => seen,
        }
    }

    /// What is wrong with ourselves, if anything; a sentence.
    pub fn impairment(&self) -> Option<String> {
        let now = self.clock.now();
        let config = self.config();
        let window_s = i64::try_from(config.references.window.as_secs()).unwrap_or(i64::MAX).max(1);
        let (since, count) = {
            let standing = held(&self.references.standing);
            (standing.impaired_since(), standing.counts().0)
        };
        if let Some(since) = since {
            let of = if count == 1 { "The reference target does not answer" } else { "No reference target answers" };
            return Some(format!("{of} since {}: checks without an answer are inconclusive", Stamp(since)));
        }
        if held(&self.references.tide).is_unresolved(now, window_s) {
            return Some("Most names cannot be resolved: the resolver of this machine fails".to_owned());
        }
        self.has_local_trouble().then(|| "Checks fail for want of our own sockets, memory or permissions".to_owned())
    }

    /// How many reference targets there are, and how many did not answer.
    pub fn references(&self) -> (usize, usize) {
        (self.config().references.targets.len(), held(&self.references.standing).counts().1)
    }

    /// What a message about many failures at once must add: without reference targets nobody can tell whether they are
    /// theirs or ours.
    pub(super) fn doubt_about_ourselves(&self) -> Option<String> {
        let config = self.config();
        let window_s = i64::try_from(config.references.window.as_secs()).unwrap_or(i64::MAX).max(1);
        let fleet = self.live.fleet().judged;
        let mass = held(&self.references.tide).is_mass(self.clock.now(), window_s, fleet.healthy + fleet.degraded);
        (mass && config.references.targets.is_empty()).then(|| {
            "Most services stopped answering at once and no REFERENCE_TARGETS are set: the monitor itself may be cut off."
                .to_owned()
        })
    }
}
