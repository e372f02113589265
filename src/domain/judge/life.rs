//! The life of an alert beside its condition: time passes, receivers say yes, people acknowledge, clear and resolve
//! (CONTRACT.md 10.3, 10.5).

use std::time::Duration;

use super::super::alert::{Acknowledgement, Alert, AlertStatus, AlertType, Told};
use super::super::event::EventKind;
use super::super::notification::NoticeKind;
use super::super::policy::AlertPolicy;
use super::super::routing::LOG;
use super::super::status::Status;
use super::super::time::span;
use super::{Bench, Decision, Judge, Key, Telling, owe, sendable};

/// Longest time between two reminders: our choice, nobody wants to be forgotten for more than a day.
const LONGEST_REPEAT: Duration = Duration::from_secs(24 * 3600);
/// Acknowledgements of one alert that are kept: our choice, the newest.
const ACKNOWLEDGEMENTS: usize = 20;
/// Who resolved an alert when nobody said: our choice.
const SOMEBODY: &str = "operator";

/// No living alert has this id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no living alert has this id")]
pub struct NotLiving;

impl Judge {
    /// Tells what has waited for its time, escalates and reminds, and ends acknowledgements. Asked about once a second.
    pub fn on_time(&mut self, bench: Bench<'_>) -> Decision {
        let mut decision = Decision::default();
        // Most alerts of a storm have been told and wait: only those that may have something to say are looked at.
        let stirs = |alert: &&Alert| {
            let ends = |known: &Acknowledgement| known.until.is_some_and(|until| bench.now >= until);
            alert.told == Told::No && alert.suppressed_by.is_none()
                || escalates(alert, bench)
                || reminds(alert, bench)
                || alert.acknowledgement.as_ref().is_some_and(ends)
                || alert.escalates_from.is_some_and(|from| from > bench.now)
        };
        let keys: Vec<Key> = self.alerts.iter().filter(|(_, a)| stirs(a)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let service = key.0.service().and_then(|name| bench.registry.find(name)).cloned();
            let status = if self.is_failed(&key.0) { Status::Unhealthy } else { Status::Unknown };
            let told = Telling { service: service.as_deref(), from: status, to: status, ended: None };
            if key.0.service().is_some_and(|name| bench.is_quiet(name)) {
                continue;
            }
            self.end_acknowledgement(bench, &mut decision, &key);
            self.tell_if_due(bench, &mut decision, &key, told);
            self.press_if_due(bench, &mut decision, &key, told);
        }
        decision
    }

    fn end_acknowledgement(&mut self, bench: Bench<'_>, decision: &mut Decision, key: &Key) {
        let Some(alert) = self.alerts.get_mut(key) else { return };
        let until = alert.acknowledgement.as_ref().and_then(|known| known.until);
        if alert.cleared || until.is_none_or(|until| bench.now < until) {
            return;
        }
        alert.acknowledgement = None;
        alert.status = AlertStatus::Active;
        alert.updated_at = bench.now;
        (alert.escalation_level, alert.reminders) = (0, 0);
        alert.escalates_from = alert.escalates_from.map(|_| bench.now);
        decision.note(alert);
    }

    /// Escalates, or reminds, if nobody has looked after the alert in time.
    fn press_if_due(&mut self, bench: Bench<'_>, decision: &mut Decision, key: &Key, told: Telling<'_>) {
        let outage = self.failed_outage(&key.0);
        let restless = self.waits_for_calm(key);
        let sequence = self.sequences.get(&key.0).copied().unwrap_or(0);
        let Some(alert) = self.alerts.get_mut(key) else { return };
        // The wall clock was set back: the time is counted from now.
        alert.escalates_from = alert.escalates_from.map(|from| from.min(bench.now));
        alert.last_notified = alert.last_notified.map(|at| at.min(bench.now));
        let kind = if restless {
            return;
        } else if escalates(alert, bench) {
            alert.escalation_level += 1;
            alert.reminders = 0;
            if alert.escalation_level == 1 && alert.severity != alert.severity.raised() {
                alert.severity = alert.severity.raised();
                decision.happened.push((EventKind::AlertSeverityRaised, alert.clone()));
            }
            alert.escalates_from = Some(bench.now);
            NoticeKind::AlertEscalated
        } else if reminds(alert, bench) {
            alert.reminders += 1;
            NoticeKind::AlertReminder
        } else {
            return;
        };
        alert.updated_at = bench.now;
        owe(alert, sequence, &mut self.sequences, bench);
        decision.notices.push(told.notice(kind, alert, outage, bench.now));
        decision.note(alert);
    }

    /// A receiver has said yes to messages about these alerts. Returns those to which that was news. A line in the log is
    /// none where others are to be told.
    pub fn delivered<'a>(&mut self, receiver: &str, alert_ids: impl IntoIterator<Item = &'a str>) -> Vec<Alert> {
        let mut news = Vec::new();
        for id in alert_ids {
            let alert = self.ids.get(id).and_then(|key| self.alerts.get_mut(key));
            let counts = |alert: &&mut Alert| receiver != LOG || alert.receivers.iter().all(|other| other == LOG);
            if let Some(alert) = alert.filter(|alert| alert.told != Told::Yes).filter(counts) {
                alert.told = Told::Yes;
                news.push(alert.clone());
            }
        }
        news
    }

    /// A living alert, by either of its ids.
    pub fn find(&self, id: &str) -> Option<&Alert> {
        let by_id = self.ids.get(id).and_then(|key| self.alerts.get(key));
        by_id.or_else(|| self.alerts.values().find(|alert| alert.alert_id == id))
    }

    fn key_of(&self, id: &str) -> Result<Key, NotLiving> {
        self.find(id).map(|alert| (alert.component.clone(), alert.kind)).ok_or(NotLiving)
    }

    /// Somebody looks after it: no repeats and no escalation, until it ends or the acknowledgement does.
    ///
    /// # Errors
    /// No living alert has this id.
    pub fn acknowledge(&mut self, id: &str, by: Acknowledgement) -> Result<Decision, NotLiving> {
        let key = self.key_of(id)?;
        let mut decision = Decision::default();
        if let Some(alert) = self.alerts.get_mut(&key) {
            alert.status = AlertStatus::Acknowledged;
            alert.updated_at = by.at;
            if alert.acknowledgements.len() == ACKNOWLEDGEMENTS {
                alert.acknowledgements.remove(0);
            }
            alert.acknowledgements.push(by.clone());
            alert.acknowledgement = Some(by);
            decision.note(alert);
            decision.happened.push((EventKind::AlertAcknowledged, alert.clone()));
        }
        Ok(decision)
    }

    /// Acknowledges it and takes it off the active list. What lasts until somebody ends it, is ended.
    ///
    /// # Errors
    /// No alert on the active list has this id.
    pub fn clear(&mut self, bench: Bench<'_>, id: &str) -> Result<Decision, NotLiving> {
        let key = self.key_of(id)?;
        if key.1 == AlertType::EssTripped {
            return self.resolve_by_hand(bench, id, None, None);
        }
        if self.alerts.get(&key).is_none_or(|alert| alert.cleared) {
            return Err(NotLiving);
        }
        let mut decision = Decision::default();
        if let Some(alert) = self.alerts.get_mut(&key) {
            alert.cleared = true;
            alert.status = AlertStatus::Acknowledged;
            alert.updated_at = bench.now;
            let known = alert.acknowledgement.take();
            let none = Acknowledgement { at: bench.now, by: None, note: None, until: None };
            alert.acknowledgement = Some(Acknowledgement { until: None, ..known.unwrap_or(none) });
            decision.note(alert);
            decision.happened.push((EventKind::AlertAcknowledged, alert.clone()));
        }
        Ok(decision)
    }

    /// Ends it now. A condition that still holds raises a new alert once the cooldown has passed.
    ///
    /// # Errors
    /// No living alert has this id.
    pub fn resolve_by_hand(
        &mut self,
        bench: Bench<'_>,
        id: &str,
        by: Option<&str>,
        note: Option<&str>,
    ) -> Result<Decision, NotLiving> {
        let key = self.key_of(id)?;
        let mut decision = Decision::default();
        if let Some(alert) = self.alerts.get_mut(&key) {
            alert.resolved_by = Some(by.unwrap_or(SOMEBODY).to_owned());
            alert.resolution_note = note.map(str::to_owned);
        }
        let service = key.0.service().and_then(|name| bench.registry.find(name)).cloned();
        let status = if self.is_failed(&key.0) { Status::Unhealthy } else { Status::Unknown };
        let told = Telling { service: service.as_deref(), from: status, to: status, ended: None };
        self.resolve(bench, &mut decision, &key, told);
        Ok(decision)
    }

    /// Takes back what could not be made durable: the alert is again what it was.
    pub fn undo(&mut self, before: Alert) -> Decision {
        let withdrawn = vec![(before.id.clone(), before.sequence + 1)];
        let mut decision = Decision { withdrawn, ..Decision::default() };
        decision.note(&before);
        self.remember(&before);
        self.insert(before);
        decision
    }
}

/// Nobody looks after it, and it may be told.
fn is_pressing(alert: &Alert, policy: &AlertPolicy) -> bool {
    alert.status == AlertStatus::Active
        && alert.told != Told::No
        && alert.suppressed_by.is_none()
        && alert.kind != AlertType::Flapping
        && sendable(alert, policy)
}

fn escalates(alert: &Alert, bench: Bench<'_>) -> bool {
    let policy = bench.policy;
    is_pressing(alert, policy)
        && policy.escalation > Duration::ZERO
        && alert.escalation_level < policy.max_escalations
        && alert.escalates_from.is_some_and(|from| bench.now >= from + policy.escalation)
}

/// After the repeat time, then after twice as long each time, up to a day.
fn reminds(alert: &Alert, bench: Bench<'_>) -> bool {
    let policy = bench.policy;
    let wait = policy.repeat.saturating_mul(1 << alert.reminders.min(16)).min(LONGEST_REPEAT.max(policy.repeat));
    is_pressing(alert, policy)
        && policy.repeat > Duration::ZERO
        && alert.last_notified.is_some_and(|at| span(at, bench.now) >= wait)
}
