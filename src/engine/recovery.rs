//! Runs the recovery actions of services whose outage is confirmed: once each, after their delay, within their limits.
//!
//! Decided from what is, not from what happened: a restart finds the open outages and what was done about them, and goes
//! on. What is about to run is durable before it runs, so that no crash makes it run twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::domain::outage::Outage;
use crate::domain::recovery::{Ledger, Recovery, Remedy, RemedyOutcome, Step};
use crate::domain::service::ServiceName;
use crate::remedy;
use crate::store::records::{Fact, FactKind};

/// Between two looks at the open outages: our choice.
const BEAT: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn recover(self: &Arc<Self>, stop: &CancellationToken) {
        let Some(mut ledger) = self.ledger(stop).await else { return };
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
                Some(_) = running.join_next() => continue,
            }
            // Nothing is done about what is not watched, or not known.
            if !self.is_monitoring() || self.impairment().is_some() {
                continue;
            }
            for (outage, recovery, root) in self.open_outages() {
                let (now, most) = (self.clock.now(), self.config().recovery_max_per_hour);
                let mut remedy = Remedy {
                    outage_id: outage.id,
                    service: outage.service.clone(),
                    at: now,
                    action: recovery.action.word().to_owned(),
                    outcome: RemedyOutcome::Started,
                    detail: None,
                };
                let runs = match ledger.decide(&outage, &recovery, root.as_ref(), most, now) {
                    Step::Wait => continue,
                    Step::Skip(why) => {
                        (remedy.outcome, remedy.detail) = (RemedyOutcome::Skipped, Some(why));
                        false
                    }
                    Step::Run if recovery.dry_run => {
                        remedy.outcome = RemedyOutcome::DryRun;
                        false
                    }
                    Step::Run => true,
                };
                // What cannot be remembered is not done: it might be done twice.
                if !self.note_remedy(&remedy).await {
                    continue;
                }
                ledger.note(&remedy);
                let name = &outage.service;
                tracing::warn!(service.name = %name, outage.id = %outage.id, action = remedy.action,
                    outcome = ?remedy.outcome, detail = remedy.detail, "recovery action for {name}");
                if runs {
                    let engine = self.clone();
                    running.spawn(async move { engine.carry_out(&recovery, &outage, remedy).await });
                }
            }
        }
    }

    async fn carry_out(&self, recovery: &Recovery, outage: &Outage, remedy: Remedy) {
        let name = &outage.service;
        let (outcome, detail) = match remedy::carry_out(&recovery.action, outage).await {
            Ok(()) => (RemedyOutcome::Succeeded, None),
            Err(error) => (RemedyOutcome::Failed, Some(error)),
        };
        tracing::warn!(service.name = %name, outage.id = %outage.id, ?outcome, detail, "recovery action for {name} ended");
        self.note_remedy(&Remedy { outcome, detail, ..remedy }).await;
    }

    /// What was done before this start; what was under way then was interrupted.
    async fn ledger(&self, stop: &CancellationToken) -> Option<Ledger> {
        let facts = loop {
            match self.records.facts(FactKind::Remedy).await {
                Ok(facts) => break facts,
                Err(error) => tracing::warn!(%error, "recovery actions wait for the records"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(BEAT) => {}
            }
        };
        let mut ledger = Ledger::default();
        for fact in facts {
            let Some(remedy) = fact.value.and_then(|text| serde_json::from_str::<Remedy>(&text).ok()) else { continue };
            ledger.note(&remedy);
            if remedy.outcome == RemedyOutcome::Started {
                self.note_remedy(&Remedy { outcome: RemedyOutcome::Interrupted, ..remedy }).await;
            }
        }
        Some(ledger)
    }

    /// Open outages of services that have a recovery action, and what explains them. None in maintenance.
    fn open_outages(&self) -> Vec<(Outage, Recovery, Option<ServiceName>)> {
        let roster = self.live.roster();
        let found = roster.recovering.iter().filter_map(|watched| {
            let service = watched.service();
            let recovery = service.recovery.clone().filter(|_| service.active)?;
            let inner = watched.lock();
            let outage = inner.state.outage.clone().filter(|_| !inner.in_maintenance)?;
            Some((outage, recovery))
        });
        let found: Vec<_> = found.collect();
        found
            .into_iter()
            .map(|(outage, recovery)| {
                let root = self.root_cause(&outage.service);
                (outage, recovery, root)
            })
            .collect()
    }

    /// Whether it is durable now.
    async fn note_remedy(&self, remedy: &Remedy) -> bool {
        let (name, at_ms) = (remedy.outage_id.to_string(), remedy.at.timestamp_millis());
        let value = serde_json::to_string(remedy).ok();
        self.note_facts(vec![Fact { kind: FactKind::Remedy, name, at_ms, value }]).await
    }
}
