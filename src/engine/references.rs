//! Asks reference targets whether our own network is whole, before a target is accused of not answering (DESIGN.md D6).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Engine, held};
use crate::domain::impairment::{References, Tide};
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
            let asked = targets
                .iter()
                .map(|target| async { probes::observe(&self.clients, target, true, async |_| {}).await.reply.is_ok() });
            if for_a_service {
                // A verdict waits: the first answer will do.
                let mut asked: FuturesUnordered<_> = asked.collect();
                let mut answered = false;
                while let (false, Some(one)) = (answered, asked.next().await) {
                    answered = one;
                }
                let mut standing = held(&self.references.standing);
                match answered {
                    true => standing.take_answer(),
                    false => standing.take(&vec![false; targets.len()], true, self.clock.now()),
                }
            } else {
                let answered = join_all(asked).await;
                held(&self.references.standing).take(&answered, false, self.clock.now());
            }
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
        let (config, ended) = (self.config(), Instant::now());
        let reason = seen.reply.as_ref().map_or_else(|failure| failure.reason, |_| Reason::Ok);
        // Latency without an answer: overdue, and still not there.
        let silent = matches!(reason, Reason::ConnectTimeout | Reason::Timeout | Reason::Latency);
        if silent && ended.duration_since(began) > service.timeout + STALLED {
            return Observation::failed(Reason::LocalResource, "the monitor itself was held up");
        }
        if !silent && reason != Reason::Dns {
            return seen;
        }
        if was_up {
            held(&self.references.tide).count(self.clock.now(), window_s(&config.references));
        }
        if config.references.targets.is_empty() {
            return seen;
        }
        // While it is known that we are cut off, an answer of the latest second will do.
        let known = held(&self.references.standing).impaired_since().is_some();
        let since = if known { ended.checked_sub(IMPAIRED_EVERY).unwrap_or(ended) } else { ended };
        match self.ask_since(since, true).await {
            true => Observation::failed(Reason::Inconclusive, "monitoring impaired"),
            false => seen,
        }
    }

    /// What is wrong with ourselves, if anything; a sentence.
    pub fn impairment(&self) -> Option<String> {
        let (since, count) = {
            let standing = held(&self.references.standing);
            (standing.impaired_since(), standing.counts().0)
        };
        if let Some(since) = since {
            let of = if count == 1 { "The reference target does not answer" } else { "No reference target answers" };
            return Some(format!("{of} since {}: checks without an answer are inconclusive", Stamp(since)));
        }
        self.has_local_trouble().then(|| "Checks fail for want of our own sockets, memory or permissions".to_owned())
    }

    /// Enough is known to say that nothing is wrong with ourselves.
    pub(super) fn knows_itself(&self) -> bool {
        let targets = self.config().references.targets.len();
        held(&self.references.standing).is_settled(targets)
    }

    /// How many reference targets there are, and how many did not answer.
    pub fn references(&self) -> (usize, usize) {
        (self.config().references.targets.len(), held(&self.references.standing).counts().1)
    }

    /// What a message about many failures at once must add: without reference targets nobody can tell whether they are
    /// theirs or ours.
    pub(super) fn doubt_about_ourselves(&self) -> Option<String> {
        let config = self.config();
        let window_s = window_s(&config.references);
        let fleet = self.live.fleet().judged;
        let mass = held(&self.references.tide).is_mass(self.clock.now(), window_s, fleet.healthy + fleet.degraded);
        (mass && config.references.targets.is_empty()).then(|| {
            "Most services stopped answering at once and no REFERENCE_TARGETS are set: the monitor itself may be cut off."
                .to_owned()
        })
    }
}

/// Whole seconds, at least one.
fn window_s(config: &ReferenceConfig) -> i64 {
    i64::try_from(config.window.as_secs()).unwrap_or(i64::MAX).max(1)
}
