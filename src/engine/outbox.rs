//! Delivers what is owed until a receiver says yes: one lane per channel, so that one receiver's failure is its own.
//!
//! Rows of one alert leave in order, and those that came within the group wait leave as one. A receiver that is away is
//! tried again with doubling back-off and jitter; while it cannot even be connected to, a look every few seconds ends
//! the back-off as soon as it is back. When it was away for long, each alert's final state is sent instead of each step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::domain::notification::{Joined, Notification, join};
use crate::domain::time::{Stamp, span};
use crate::notify::{DeliveryError, Message, NotifyConfig, Receiver};

/// Messages on their way to one receiver at once: our choice.
const AT_ONCE: usize = 8;
/// Between looks at a receiver that cannot be connected to: our choice; owed messages leave within 5 s of its return.
const LOOK_EVERY: Duration = Duration::from_millis(2500);
/// A row refused for this long goes to the dead letters: CONTRACT.md section 13.
const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest sleep of a lane with nothing to do: our choice, a safety net under the wake-ups.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Every lane.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    retry_min: Duration,
    retry_max: Duration,
    merge_after: Duration,
    group_wait: Duration,
}

#[derive(Debug)]
struct Lane {
    receiver: Receiver,
    wake: Notify,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    /// In the order they were owed.
    owed: VecDeque<Row>,
    /// Alerts with a message on its way.
    in_flight: HashSet<String>,
    /// Set while the receiver is away.
    away: Option<Away>,
    /// Alerts whose message was refused.
    refused: HashMap<String, Refused>,
    /// Attempts made for the alert's present message.
    attempts: HashMap<String, u32>,
    last_success: Option<DateTime<Utc>>,
}

/// A message owed. Its waits run on the monotonic clock: a step of the wall clock withholds nothing.
#[derive(Debug, Clone)]
struct Row {
    notification: Notification,
    due: Instant,
    /// From here on what is owed about its alert is merged.
    merge_from: Instant,
}

#[derive(Debug, Clone)]
struct Away {
    since: DateTime<Utc>,
    tries: u32,
    until: Instant,
    /// It could not even be connected to: from then on it is worth a look.
    look_at: Option<Instant>,
    detail: String,
}

#[derive(Debug, Clone)]
struct Refused {
    since: DateTime<Utc>,
    until: Instant,
    tries: u32,
    detail: String,
}

/// How one receiver stands, for `/health`.
#[derive(Debug, Clone)]
pub struct ReceiverView {
    pub channel: String,
    pub state: &'static str,
    pub last_success: Option<Stamp>,
    /// What is wrong, if anything.
    pub problem: Option<String>,
}

/// One message to try, with the rows it stands for.
struct Pick {
    alert_id: String,
    message: Message,
    closes: Vec<String>,
}

impl Outbox {
    pub(super) fn new(receivers: Vec<Receiver>, config: &NotifyConfig) -> Self {
        let lanes = receivers
            .into_iter()
            .map(|receiver| Lane { receiver, wake: Notify::new(), rows: Mutex::default() })
            .collect();
        Self {
            lanes,
            retry_min: config.retry_min,
            retry_max: config.retry_max,
            merge_after: config.merge_after,
            group_wait: config.group_wait,
        }
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub fn receivers_named(&self) -> impl Iterator<Item = &str> {
        self.lanes.iter().map(|lane| lane.receiver.name.as_str())
    }

    /// Takes committed rows over. Rows of a channel that is not configured any more stay in the records.
    pub fn owe(&self, rows: Vec<Notification>, now: DateTime<Utc>) {
        let at = Instant::now();
        for notification in rows {
            let Some(lane) = self.lanes.iter().find(|lane| lane.receiver.name == notification.channel) else {
                continue;
            };
            let age = span(notification.notice.at, now);
            let row = Row {
                due: at + span(now, notification.due).min(self.group_wait),
                merge_from: at + self.merge_after.saturating_sub(age),
                notification,
            };
            lane.rows().owed.push_back(row);
            lane.wake.notify_one();
        }
    }

    /// Takes back what was not sent about an alert, and says which rows that were.
    pub fn withdraw(&self, alert_id: &str) -> Vec<String> {
        let mut taken = Vec::new();
        for lane in &self.lanes {
            let mut rows = lane.rows();
            if !rows.in_flight.contains(alert_id) {
                rows.owed.retain(|row| {
                    let keep = row.about() != alert_id;
                    if !keep {
                        taken.push(row.notification.id.clone());
                    }
                    keep
                });
            }
        }
        taken
    }

    /// Rows owed, and when the oldest was.
    pub fn depth(&self) -> (usize, Option<DateTime<Utc>>) {
        let mut depth = 0;
        let mut oldest: Option<DateTime<Utc>> = None;
        for lane in &self.lanes {
            let rows = lane.rows();
            depth += rows.owed.len();
            let first = rows.owed.front().map(|row| row.notification.notice.at);
            oldest = oldest.into_iter().chain(first).min();
        }
        (depth, oldest)
    }

    pub fn receivers(&self) -> Vec<ReceiverView> {
        self.lanes
            .iter()
            .map(|lane| {
                let rows = lane.rows();
                let channel = lane.receiver.name.as_str();
                let refused = rows.refused.values().min_by_key(|refused| refused.since);
                let (state, problem) = match (&rows.away, refused) {
                    (Some(away), _) => {
                        let since = Stamp(away.since);
                        ("failing", Some(format!("receiver {channel} failing since {since}: {}", away.detail)))
                    }
                    (None, Some(refused)) => {
                        let since = Stamp(refused.since);
                        ("refusing", Some(format!("receiver {channel} refuses since {since}: {}", refused.detail)))
                    }
                    (None, None) => ("ok", None),
                };
                ReceiverView { channel: channel.to_owned(), state, last_success: rows.last_success.map(Stamp), problem }
            })
            .collect()
    }

    /// Delivers on one lane until `stop`.
    pub(super) async fn run(&self, lane: usize, engine: &Arc<Engine>, stop: &CancellationToken) {
        let Some(lane) = self.lanes.get(lane) else { return };
        // What a predecessor that panicked had on its way is owed still.
        lane.rows().in_flight.clear();
        while !stop.is_cancelled() {
            let wait = self.step(lane, engine).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = lane.wake.notified(), if wait > Duration::ZERO => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends what can be sent now, one round, and says how long there is nothing to do.
    async fn step(&self, lane: &Lane, engine: &Engine) -> Duration {
        let now = Instant::now();
        let away = lane.rows().away.clone().filter(|away| now < away.until);
        if let Some(away) = away {
            let look_at = away.look_at.unwrap_or(away.until);
            if now < look_at {
                return look_at.min(away.until) - now;
            }
            if !lane.receiver.channel.is_reachable().await {
                if let Some(away) = &mut lane.rows().away {
                    away.look_at = Some(Instant::now() + LOOK_EVERY);
                }
                return LOOK_EVERY;
            }
        }
        let picks = self.pick(lane, engine);
        if picks.is_empty() {
            return lane.next_due();
        }
        let tried = picks.into_iter().map(|pick| async {
            let result = lane.receiver.deliver(&pick.message).await;
            (pick, result)
        });
        for (pick, result) in join_all(tried).await {
            self.settle(lane, engine, pick, result);
        }
        Duration::ZERO
    }

    /// The next messages, at most one for each alert.
    fn pick(&self, lane: &Lane, engine: &Engine) -> Vec<Pick> {
        let now = Instant::now();
        let mut rows = lane.rows();
        let mut seen = HashSet::new();
        let mut groups: Vec<(bool, Vec<Notification>)> = Vec::new();
        for first in &rows.owed {
            let alert_id = first.about();
            if !seen.insert(alert_id) || rows.in_flight.contains(alert_id) || first.due > now {
                continue;
            }
            if rows.refused.get(alert_id).is_some_and(|refused| now < refused.until) {
                continue;
            }
            let merging = now >= first.merge_from;
            // Owed within the group wait of the first.
            let together = first.due + self.group_wait;
            let joins = |row: &&Row| row.about() == alert_id && (merging || row.due <= together);
            groups.push((merging, rows.owed.iter().filter(joins).map(|row| row.notification.clone()).collect()));
            if groups.len() == AT_ONCE {
                break;
            }
        }
        let mut picks = Vec::new();
        for (merging, group) in groups {
            let Some(first) = group.first() else { continue };
            let alert_id = first.notice.alert.id.clone();
            match join(&group, merging) {
                Some(Joined::Send { notification, closes }) => {
                    rows.in_flight.insert(alert_id.clone());
                    let attempt = rows.attempts.entry(alert_id.clone()).or_default();
                    *attempt += 1;
                    let message = Message { notification: *notification, attempt: *attempt, merged: closes.len() };
                    picks.push(Pick { alert_id, message, closes });
                }
                Some(Joined::Nothing { closes }) => {
                    rows.owed.retain(|row| !closes.contains(&row.notification.id));
                    engine.counters.notification(lane.receiver.name.as_str(), "merged", closes.len() as u64);
                    engine.settle(closes);
                }
                None => {}
            }
        }
        picks
    }

    fn settle(&self, lane: &Lane, engine: &Engine, pick: Pick, result: Result<(), DeliveryError>) {
        let (now, at) = (engine.clock.now(), Instant::now());
        let channel = lane.receiver.name.as_str();
        let mut rows = lane.rows();
        rows.in_flight.remove(&pick.alert_id);
        match result {
            Ok(()) => {
                rows.owed.retain(|row| !pick.closes.contains(&row.notification.id));
                rows.attempts.remove(&pick.alert_id);
                rows.refused.remove(&pick.alert_id);
                rows.last_success = Some(now);
                if let Some(away) = rows.away.take() {
                    tracing::info!(channel, since = %away.since, "receiver {channel} takes messages again");
                }
                drop(rows);
                engine.counters.notification(channel, "delivered", 1);
                engine.counters.notification(channel, "merged", pick.closes.len() as u64 - 1);
                let Message { notification, attempt, .. } = &pick.message;
                engine
                    .delivered(notification.delivered(now, *attempt, lane.receiver.channel.recipients()), pick.closes);
            }
            Err(DeliveryError::Away { detail, retry_after, unreachable }) => {
                engine.counters.notification(channel, "retried", 1);
                let known = rows.away.take();
                // Failures of one round count once.
                let same_round =
                    known.as_ref().filter(|away| at < away.until && away.look_at.is_none_or(|look| at < look));
                let same_round = same_round.cloned();
                let tries = same_round
                    .as_ref()
                    .map_or_else(|| known.as_ref().map_or(1, |away| away.tries + 1), |away| away.tries);
                if known.is_none() {
                    tracing::warn!(channel, %detail, "receiver {channel} does not take messages");
                }
                let back_off = self.back_off(tries, &pick.message.notification.id);
                let wait = retry_after.map_or(back_off, |asked| asked.max(self.retry_min));
                rows.away = Some(Away {
                    since: known.map_or(now, |away| away.since),
                    tries,
                    until: same_round.map_or(at + wait, |away| away.until.max(at + wait)),
                    look_at: unreachable.then(|| at + LOOK_EVERY),
                    detail,
                });
            }
            Err(DeliveryError::Refused { detail }) => {
                engine.counters.notification(channel, "refused", 1);
                let known = rows.refused.get(&pick.alert_id).cloned();
                if known.is_none() {
                    tracing::error!(channel, %detail, alert.id = pick.alert_id, "receiver {channel} refuses a message");
                }
                let since = known.as_ref().map_or(now, |refused| refused.since);
                if span(since, now) >= REFUSED_FOR {
                    rows.owed.retain(|row| !pick.closes.contains(&row.notification.id));
                    rows.refused.remove(&pick.alert_id);
                    drop(rows);
                    engine.bury(pick.closes);
                    return;
                }
                let tries = known.map_or(1, |refused| refused.tries + 1);
                let until = at + self.back_off(tries, &pick.message.notification.id);
                rows.refused.insert(pick.alert_id, Refused { since, until, tries, detail });
            }
        }
    }

    /// Doubling from the least wait to the longest, less up to a quarter.
    fn back_off(&self, tries: u32, id: &str) -> Duration {
        let doubled = self.retry_min.saturating_mul(1 << (tries - 1).min(20)).min(self.retry_max);
        let mixed =
            id.bytes().fold(u64::from(tries), |mix, byte| (mix ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        doubled - doubled.mul_f64((mixed % 1000) as f64 / 4000.0)
    }
}

impl Lane {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_due(&self) -> Duration {
        let rows = self.rows();
        let due = rows.owed.iter().map(|row| {
            let refused = rows.refused.get(row.about()).map(|refused| refused.until);
            refused.map_or(row.due, |until| until.max(row.due))
        });
        let wait = due.min().map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(Instant::now()));
        wait.clamp(Duration::from_millis(5), LONGEST_SLEEP)
    }
}

impl Row {
    /// Id of the alert it is about.
    fn about(&self) -> &str {
        &self.notification.notice.alert.id
    }
}

impl Engine {
    /// Puts rows among the dead letters.
    fn bury(&self, ids: Vec<String>) {
        let mut transition = super::commit::Transition::default();
        transition.beside.dead = ids;
        drop(self.commit.transition(transition));
    }
}
