//! Delivers what is owed until a receiver says yes: one lane per receiver, so that one receiver's failure is its own.
//!
//! Rows of one alert leave in order, and those that came within the group wait leave as one. Many alerts at once leave
//! as one digest, which is a row of its own before it is sent, with one key for life. A receiver that is away is tried
//! again with doubling back-off and jitter; while it cannot even be connected to, a look every few seconds ends the
//! back-off as soon as it is back. When it was away for long, each alert's final state is sent instead of each step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::commit::Transition;
use super::{Engine, held};
use crate::domain::alert::{Alert, Severity, Told};
use crate::domain::judge::sample_alert;
use crate::domain::notification::{Digest, DigestItem, Joined, Notice, NoticeKind, Notification, join};
use crate::domain::routing::QuietHours;
use crate::domain::status::Status;
use crate::domain::time::{Stamp, span};
use crate::notify::{DeliveryError, Message, NotifyConfig, Receiver};
use crate::store::StoreError;

/// Messages on their way to one receiver at once: our choice.
const AT_ONCE: usize = 8;
/// More alerts than this with news at once leave as one message: our choice, what a person still reads one by one.
const STORM: usize = 10;
/// After such a message the next waits this long, so that a storm is a few messages and not one a second: our choice.
const STORM_WAIT: Duration = Duration::from_secs(5);
/// Between looks at a receiver that cannot be connected to: our choice; owed messages leave within 5 s of its return.
const LOOK_EVERY: Duration = Duration::from_millis(2500);
/// A row refused for this long goes to the dead letters: CONTRACT.md section 13.
const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest sleep of a lane with nothing to do: our choice, a safety net under the wake-ups.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Longest one delivery may take, whatever the channel's own limit: HARDENING.md notify.2.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(10);

/// Every lane.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    retry_min: Duration,
    retry_max: Duration,
    merge_after: Duration,
    beat: Mutex<Beat>,
    passed: Notify,
    /// Dead letters are sent again one round at a time.
    replaying: tokio::sync::Mutex<()>,
}

/// A heartbeat on its way past every lane.
#[derive(Debug, Default)]
struct Beat {
    number: u64,
    /// Lanes it has yet to pass.
    left: usize,
}

#[derive(Debug)]
struct Lane {
    name: String,
    /// May change with the settings; its name stays.
    receiver: ArcSwap<Receiver>,
    wake: Notify,
    rows: Mutex<Rows>,
    /// The heartbeat that passed here last.
    beat: AtomicU64,
}

#[derive(Debug)]
struct Rows {
    /// In the order they were owed.
    owed: VecDeque<Row>,
    /// Alerts with a message on its way.
    in_flight: HashSet<String>,
    /// Set while the receiver is away.
    away: Option<Away>,
    /// What was refused, by subject.
    refused: HashMap<String, Refused>,
    /// Attempts made for the present message, by subject.
    attempts: HashMap<String, u32>,
    last_success: Option<DateTime<Utc>>,
    /// Messages that may leave now, of so many a minute.
    allowance: Allowance,
    /// No digest before this.
    next_digest: Option<Instant>,
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

/// A bucket that fills evenly, by so many a minute, and holds a minute's worth.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// Whole messages that may leave at `now`.
    fn refill(&mut self, now: Instant, a_minute: u32) -> usize {
        let most = f64::from(a_minute.max(1));
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * most / 60.0).min(most);
        self.at = now;
        self.left as usize
    }

    /// Until the next one may.
    fn wait(&self, a_minute: u32) -> Duration {
        Duration::from_secs_f64((1.0 - self.left).max(0.0) * 60.0 / f64::from(a_minute.max(1)))
    }
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
    subject: String,
    message: Message,
    closes: Vec<String>,
}

/// What a lane does next.
enum Next {
    Send(Vec<Pick>),
    /// A digest was put together: it is stored before it is sent.
    Store {
        digest: Box<Notification>,
        closes: Vec<String>,
    },
    Wait(Duration),
}

impl Outbox {
    pub(super) fn new(receivers: Vec<Receiver>, config: &NotifyConfig) -> Self {
        let now = Instant::now();
        let lane = |receiver: Receiver| Lane {
            name: receiver.name.clone(),
            receiver: ArcSwap::from_pointee(receiver),
            wake: Notify::new(),
            beat: AtomicU64::new(0),
            rows: Mutex::new(Rows {
                owed: VecDeque::new(),
                in_flight: HashSet::new(),
                away: None,
                refused: HashMap::new(),
                attempts: HashMap::new(),
                last_success: None,
                allowance: Allowance { left: f64::from(config.rate_per_minute), at: now },
                next_digest: None,
            }),
        };
        Self {
            lanes: receivers.into_iter().map(lane).collect(),
            retry_min: config.retry_min,
            retry_max: config.retry_max,
            merge_after: config.merge_after,
            beat: Mutex::default(),
            passed: Notify::new(),
            replaying: tokio::sync::Mutex::default(),
        }
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn lane(&self, name: &str) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.name == name)
    }

    /// Gives receivers that are known by name other settings.
    pub fn refit(&self, receivers: Vec<Receiver>) {
        for receiver in receivers {
            if let Some(lane) = self.lane(&receiver.name) {
                lane.receiver.store(Arc::new(receiver));
                lane.wake.notify_one();
            }
        }
    }

    /// Takes committed rows over. Rows of a receiver that is not configured any more stay in the records.
    pub fn owe(&self, rows: Vec<Notification>, now: DateTime<Utc>, group_wait: Duration) {
        let at = Instant::now();
        for notification in rows {
            let Some(lane) = self.lane(&notification.channel) else { continue };
            let age = span(notification.notice.at, now);
            let row = Row {
                due: at + span(now, notification.due).min(group_wait),
                merge_from: at + self.merge_after.saturating_sub(age),
                notification,
            };
            lane.rows().owed.push_back(row);
            lane.wake.notify_one();
        }
    }

    /// Takes back what nobody has tried to send about alerts, from a number on: what was tried may have arrived. Says which
    /// rows that were. From a digest it is struck; such a digest is returned, to be stored as it is now.
    pub fn withdraw(&self, alerts: &[(String, u64)]) -> (Vec<String>, Vec<Notification>) {
        let (mut taken, mut changed) = (Vec::new(), Vec::new());
        let from: HashMap<&str, u64> = alerts.iter().map(|(id, from)| (id.as_str(), *from)).collect();
        if from.is_empty() {
            return (taken, changed);
        }
        for lane in &self.lanes {
            let mut rows = lane.rows();
            let Rows { owed, attempts, .. } = &mut *rows;
            owed.retain_mut(|row| {
                if attempts.contains_key(row.subject()) {
                    return true;
                }
                let mut is_struck = false;
                let gone = match &mut row.notification.digest {
                    None => {
                        let alert = &row.notification.notice.alert;
                        from.get(alert.id.as_str()).is_some_and(|from| alert.sequence >= *from)
                    }
                    Some(digest) => {
                        let before = digest.items.len();
                        digest.items.retain(|item| !from.contains_key(item.alert_id.as_str()));
                        is_struck = digest.items.len() < before;
                        digest.items.is_empty()
                    }
                };
                if is_struck && !gone {
                    changed.push(row.notification.clone());
                }
                if gone {
                    taken.push(row.notification.id.clone());
                }
                !gone
            });
        }
        (taken, changed)
    }

    /// Rows owed, and when the oldest was.
    pub fn depth(&self) -> (usize, Option<DateTime<Utc>>) {
        let mut depth = 0;
        let mut oldest: Option<DateTime<Utc>> = None;
        for lane in &self.lanes {
            let rows = lane.rows();
            depth += rows.owed.len();
            let first = rows.owed.iter().map(|row| row.notification.notice.at).min();
            oldest = oldest.into_iter().chain(first).min();
        }
        (depth, oldest)
    }

    pub fn receivers(&self) -> Vec<ReceiverView> {
        self.lanes
            .iter()
            .map(|lane| {
                let rows = lane.rows();
                let channel = lane.name.clone();
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
                    (None, None) => match lane.receiver.load().template_failures() {
                        0 => ("ok", None),
                        times => ("ok", Some(format!("template of receiver {channel} failed {times} times"))),
                    },
                };
                ReceiverView { channel, state, last_success: rows.last_success.map(Stamp), problem }
            })
            .collect()
    }

    /// Sends one message outside the order of the outbox, to see whether it arrives. `None`: no such receiver.
    pub async fn test(&self, notification: Notification) -> Option<Result<(), DeliveryError>> {
        let lane = self.lane(&notification.channel)?;
        let receiver = lane.receiver.load_full();
        Some(deliver(&receiver, &Message { notification, attempt: 1, merged: 1 }).await)
    }

    /// Sends a heartbeat past every lane; one that is still on its way is given up.
    pub(super) fn beat(&self) {
        let mut beat = held(&self.beat);
        *beat = Beat { number: beat.number + 1, left: self.lanes.len() };
        drop(beat);
        self.lanes.iter().for_each(|lane| lane.wake.notify_one());
    }

    /// Comes when a heartbeat has passed every lane.
    pub(super) async fn beat_passed(&self) {
        self.passed.notified().await;
    }

    fn pass_beat(&self, lane: &Lane) {
        let mut beat = held(&self.beat);
        if lane.beat.swap(beat.number, Ordering::Relaxed) != beat.number {
            beat.left = beat.left.saturating_sub(1);
            if beat.left == 0 {
                self.passed.notify_one();
            }
        }
    }

    /// Tells a receiver that wants to hear it again and again of every living alert that was told there.
    async fn resend(&self, lane: &Lane, engine: &Engine, last: &mut Instant) {
        let receiver = lane.receiver.load_full();
        if receiver.channel.resend_every().is_none_or(|every| last.elapsed() < every) {
            return;
        }
        *last = Instant::now();
        let alerts: Vec<Arc<Alert>> = {
            let judge = engine.judge();
            let rows = lane.rows();
            let owed: HashSet<&str> = rows.owed.iter().flat_map(|row| row.notification.about()).collect();
            // What it has taken, and nothing else is on its way about.
            let taken = |alert: &&Alert| {
                alert.told == Told::Yes && alert.receivers.contains(&lane.name) && !owed.contains(alert.id.as_str())
            };
            judge.alerts().filter(taken).cloned().map(Arc::new).collect()
        };
        if alerts.is_empty() || lane.rows().away.is_some() {
            return;
        }
        if let Err(error) = timeout(DELIVERY_DEADLINE, receiver.channel.resend(&alerts)).await.unwrap_or(Ok(())) {
            tracing::debug!(channel = lane.name, %error, "living alerts not told again");
        }
    }

    /// Delivers on one lane until `stop`.
    pub(super) async fn run(&self, lane: usize, engine: &Arc<Engine>, stop: &CancellationToken) {
        let Some(lane) = self.lanes.get(lane) else { return };
        // What a predecessor that panicked had on its way is owed still.
        lane.rows().in_flight.clear();
        let mut resent = Instant::now();
        while !stop.is_cancelled() {
            self.pass_beat(lane);
            self.resend(lane, engine, &mut resent).await;
            let wait = self.step(lane, engine).await.min(lane.resend_wait(resent));
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
        let receiver = lane.receiver.load_full();
        let away = lane.rows().away.clone().filter(|away| now < away.until);
        if let Some(away) = away {
            let look_at = away.look_at.unwrap_or(away.until);
            if now < look_at {
                return look_at.min(away.until) - now;
            }
            if !receiver.channel.is_reachable().await {
                if let Some(away) = &mut lane.rows().away {
                    away.look_at = Some(Instant::now() + LOOK_EVERY);
                }
                return LOOK_EVERY;
            }
        }
        let picks = match self.next(lane, &receiver, engine) {
            Next::Wait(wait) => return wait,
            Next::Send(picks) => picks,
            Next::Store { digest, closes } => {
                let mut transition = Transition::default();
                transition.beside.owed.push(*digest);
                transition.beside.settled = closes;
                let _ = engine.commit.transition(transition).await;
                return Duration::ZERO;
            }
        };
        let tried = picks.into_iter().map(|pick| async {
            let span = info_span!(
                "deliver",
                otel.kind = "client",
                otel.status_code = Empty,
                infra.receiver = receiver.name.as_str(),
                infra.attempt = pick.message.attempt,
                infra.merged = pick.message.merged,
            );
            let result = deliver(&receiver, &pick.message).instrument(span.clone()).await;
            if result.is_err() {
                span.record("otel.status_code", "ERROR");
            }
            (pick, result)
        });
        for (pick, result) in join_all(tried).await {
            self.settle(lane, &receiver, engine, pick, result);
        }
        Duration::ZERO
    }

    /// The next messages, at most one for each alert; or one for all of them, when they are many.
    fn next(&self, lane: &Lane, receiver: &Receiver, engine: &Engine) -> Next {
        let (now, wall) = (Instant::now(), engine.clock.now());
        let config = engine.config();
        let (group_wait, rate) = (config.notify.group_wait, config.notify.rate_per_minute);
        let mut rows = lane.rows();
        let allowed = if receiver.is_limited() { rows.allowance.refill(now, rate) } else { usize::MAX };

        let quiet = QuietAlerts::of(&rows, receiver, wall);
        let mut seen: HashSet<&str> = HashSet::new();
        let mut groups: Vec<(bool, Vec<Notification>)> = Vec::new();
        // Alerts with news that a digest could take along, and when the next thing is due.
        let mut waiting = 0;
        let mut next_due: Option<Instant> = None;
        let sooner = |at: Instant, next: &mut Option<Instant>| *next = Some(next.map_or(at, |known| known.min(at)));
        for first in &rows.owed {
            // Enough to know what to do: the rest need not be looked at.
            let enough =
                if receiver.takes_digests() { waiting > STORM && !groups.is_empty() } else { groups.len() == AT_ONCE };
            if enough {
                break;
            }
            let blocked = first.notification.about().any(|id| seen.contains(id) || rows.in_flight.contains(id));
            let is_refused = rows.refused.contains_key(first.subject());
            // A digest that is not wanted does not stand in the way of what comes after it.
            if !(is_refused && first.notification.digest.is_some()) {
                seen.extend(first.notification.about());
            }
            if blocked {
                continue;
            }
            let mut due = first.due;
            if let Some(refused) = rows.refused.get(first.subject()) {
                due = due.max(refused.until);
            }
            if let Some(end) = quiet.until(first) {
                // Looked at again in a while: the end is a wall clock's, which may be set.
                due = due.max(now + span(wall, end).min(LONGEST_SLEEP));
            }
            let is_new = first.notification.digest.is_none() && !rows.attempts.contains_key(first.subject());
            waiting += usize::from(is_new && due <= now + group_wait);
            if due > now {
                sooner(due, &mut next_due);
                continue;
            }
            if groups.len() < AT_ONCE {
                let merging = first.notification.digest.is_none() && now >= first.merge_from;
                let joins = |row: &&Row| {
                    row.subject() == first.subject()
                        && (merging || are_together(&first.notification, &row.notification, group_wait))
                };
                let group = match first.notification.digest {
                    Some(_) => vec![first.notification.clone()],
                    None => rows.owed.iter().filter(joins).map(|row| row.notification.clone()).collect(),
                };
                groups.push((merging, group));
            }
        }
        let is_storm = receiver.takes_digests() && (waiting > STORM || (allowed == 0 && waiting > 1));
        if groups.is_empty() {
            let wait = next_due.map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(now));
            return Next::Wait(wait.clamp(Duration::from_millis(5), LONGEST_SLEEP));
        }
        // What was tried before goes out as it is, under its key.
        let is_old = |group: &[Notification]| {
            group.iter().any(|row| row.digest.is_some() || rows.attempts.contains_key(subject_of(row)))
        };
        let some_old = groups.iter().any(|(_, group)| is_old(group));
        if is_storm && !some_old {
            if let Some(at) = rows.next_digest.filter(|at| now < *at) {
                return Next::Wait(at - now);
            }
            rows.next_digest = Some(now + STORM_WAIT.max(group_wait));
            return self.gather(lane, rows, receiver, engine);
        }
        if is_storm {
            groups.retain(|(_, group)| is_old(group));
        }
        if allowed == 0 {
            return Next::Wait(rows.allowance.wait(rate).max(Duration::from_millis(5)));
        }
        groups.truncate(allowed.min(AT_ONCE));
        let mut picks = Vec::new();
        for (merging, group) in groups {
            let Some(first) = group.first() else { continue };
            let subject = subject_of(first).to_owned();
            // What was tried may have arrived: its end is told.
            let tried = rows.attempts.contains_key(&subject);
            match join(&group, merging || tried) {
                Some(Joined::Send { notification, closes }) => {
                    rows.in_flight.extend(notification.about().map(str::to_owned).collect::<Vec<_>>());
                    rows.allowance.left -= 1.0;
                    let attempt = rows.attempts.entry(subject.clone()).or_default();
                    *attempt += 1;
                    let merged = notification.digest.as_ref().map_or(closes.len(), |digest| digest.items.len());
                    let message = Message { notification: *notification, attempt: *attempt, merged };
                    picks.push(Pick { subject, message, closes });
                }
                Some(Joined::Nothing { closes }) => {
                    rows.owed.retain(|row| !closes.contains(&row.notification.id));
                    engine.counters.notification(&lane.name, "merged", closes.len() as u64);
                    engine.settle(closes);
                }
                None => {}
            }
        }
        Next::Send(picks)
    }

    /// Puts everything that waits into one digest, which takes the place of its rows.
    fn gather(&self, lane: &Lane, mut rows: MutexGuard<'_, Rows>, receiver: &Receiver, engine: &Engine) -> Next {
        let (now, wall) = (Instant::now(), engine.clock.now());
        let group_wait = engine.config().notify.group_wait;
        let mut order: Vec<String> = Vec::new();
        let mut by_alert: HashMap<String, (bool, Vec<Notification>)> = HashMap::new();
        let quiet = QuietAlerts::of(&rows, receiver, wall);
        let digests = rows.owed.iter().filter(|row| row.notification.digest.is_some());
        let digests = digests.filter(|row| !rows.refused.contains_key(row.subject()));
        let blocked: HashSet<&str> = digests.flat_map(|row| row.notification.about()).collect();
        for row in rows.owed.iter().filter(|row| row.notification.digest.is_none()) {
            let subject = row.subject();
            let waits =
                blocked.contains(subject) || rows.in_flight.contains(subject) || rows.attempts.contains_key(subject);
            if waits || quiet.until(row).is_some() {
                continue;
            }
            by_alert.entry(subject.to_owned()).or_insert_with(|| {
                order.push(subject.to_owned());
                (now >= row.merge_from, Vec::new())
            });
            if let Some((_, group)) = by_alert.get_mut(subject) {
                group.push(row.notification.clone());
            }
        }
        let mut closes: Vec<String> = Vec::new();
        let mut joined: Vec<(DigestItem, Notification)> = Vec::new();
        for (after_long, group) in order.iter().filter_map(|alert_id| by_alert.get(alert_id)) {
            closes.extend(group.iter().map(|row| row.id.clone()));
            // What began and ended is told, unless it was within the group wait.
            let ends = group.first().zip(group.last());
            let apart = ends.is_some_and(|(first, last)| !are_together(first, last, group_wait));
            if let Some(Joined::Send { notification, .. }) = join(group, *after_long || apart) {
                joined.push((DigestItem::of(&notification, group.len()), *notification));
            }
        }
        // Root causes first, then the worst, then the oldest; what is over comes last.
        joined.sort_by(|(a, _), (b, _)| {
            let rank = |item: &DigestItem| (item.kind.is_end(), item.impacted == 0);
            rank(a)
                .cmp(&rank(b))
                .then(b.severity.cmp(&a.severity))
                .then(b.impacted.cmp(&a.impacted))
                .then(a.at.cmp(&b.at))
        });
        let ids: HashSet<&String> = closes.iter().collect();
        rows.owed.retain(|row| !ids.contains(&row.notification.id));
        engine.counters.notification(&lane.name, "merged", (closes.len() - usize::from(!joined.is_empty())) as u64);
        let Some((_, first)) = joined.first() else {
            engine.settle(closes);
            return Next::Wait(Duration::from_millis(5));
        };
        let mut notice = first.notice.clone();
        notice.kind = NoticeKind::Digest;
        notice.at = joined.iter().map(|(item, _)| item.at).min().unwrap_or(wall);
        let digest = Notification {
            id: format!("digest-{}:{}", Uuid::now_v7(), lane.name),
            channel: lane.name.clone(),
            notice,
            due: wall,
            digest: Some(Digest {
                items: joined.into_iter().map(|(item, _)| item).collect(),
                note: engine.doubt_about_ourselves(),
            }),
        };
        let row = Row { notification: digest.clone(), due: now, merge_from: now + self.merge_after };
        rows.owed.push_front(row);
        Next::Store { digest: Box::new(digest), closes }
    }

    fn settle(&self, lane: &Lane, receiver: &Receiver, engine: &Engine, pick: Pick, result: Result<(), DeliveryError>) {
        let (now, at) = (engine.clock.now(), Instant::now());
        let name = lane.name.as_str();
        let mut rows = lane.rows();
        for alert_id in pick.message.notification.about() {
            rows.in_flight.remove(alert_id);
        }
        match result {
            Ok(()) => {
                let closes: HashSet<&String> = pick.closes.iter().collect();
                rows.owed.retain(|row| !closes.contains(&row.notification.id));
                rows.attempts.remove(&pick.subject);
                rows.refused.remove(&pick.subject);
                rows.last_success = Some(now);
                if let Some(away) = rows.away.take() {
                    tracing::info!(channel = name, since = %away.since, "receiver {name} takes messages again");
                }
                drop(rows);
                engine.counters.notification(name, "delivered", 1);
                engine.counters.notification(name, "merged", pick.closes.len() as u64 - 1);
                let Message { notification, attempt, .. } = &pick.message;
                let recipients = receiver.channel.recipients();
                engine.delivered(notification.deliveries(now, *attempt, &recipients), pick.closes);
            }
            Err(DeliveryError::Away { detail, retry_after, unreachable }) => {
                engine.counters.notification(name, "retried", 1);
                let known = rows.away.take();
                // Failures of one round count once.
                let same_round =
                    known.as_ref().filter(|away| at < away.until && away.look_at.is_none_or(|look| at < look));
                let same_round = same_round.cloned();
                let tries = same_round
                    .as_ref()
                    .map_or_else(|| known.as_ref().map_or(1, |away| away.tries + 1), |away| away.tries);
                if known.is_none() {
                    tracing::warn!(channel = name, %detail, "receiver {name} does not take messages");
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
                engine.counters.notification(name, "refused", 1);
                let known = rows.refused.get(&pick.subject).cloned();
                if known.is_none() {
                    tracing::error!(channel = name, %detail, about = pick.subject, "receiver {name} refuses a message");
                }
                let since = known.as_ref().map_or(now, |refused| refused.since);
                if span(since, now) >= REFUSED_FOR {
                    rows.owed.retain(|row| !pick.closes.contains(&row.notification.id));
                    rows.refused.remove(&pick.subject);
                    rows.attempts.remove(&pick.subject);
                    drop(rows);
                    engine.bury(pick.closes);
                    return;
                }
                let tries = known.map_or(1, |refused| refused.tries + 1);
                let until = at + self.back_off(tries, &pick.message.notification.id);
                rows.refused.insert(pick.subject, Refused { since, until, tries, detail });
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

/// Hands a message over, under a deadline of our own whatever the channel does.
async fn deliver(receiver: &Receiver, message: &Message) -> Result<(), DeliveryError> {
    timeout(DELIVERY_DEADLINE, receiver.deliver(message)).await.unwrap_or_else(|_| {
        Err(DeliveryError::Away { detail: "no answer in time".to_owned(), retry_after: None, unreachable: false })
    })
}

/// What a row is about: its alert, or itself when it is a digest.
fn subject_of(notification: &Notification) -> &str {
    match notification.digest {
        Some(_) => &notification.id,
        None => &notification.notice.alert.id,
    }
}

/// Owed within the group wait of each other: by the times they were owed at, which a restart does not change.
fn are_together(first: &Notification, later: &Notification, group_wait: Duration) -> bool {
    span(first.notice.at, later.notice.at) <= group_wait
}

impl Lane {
    /// Until living alerts are told again here.
    fn resend_wait(&self, last: Instant) -> Duration {
        let every = self.receiver.load().channel.resend_every();
        every.map_or(LONGEST_SLEEP, |every| every.saturating_sub(last.elapsed()))
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How bad the worst is that is owed about each alert, for a receiver that wants to be left alone at times.
struct QuietAlerts<'a> {
    hours: Option<&'a QuietHours>,
    now: DateTime<Utc>,
    worst: HashMap<String, Severity>,
}

impl<'a> QuietAlerts<'a> {
    fn of(rows: &Rows, receiver: &'a Receiver, now: DateTime<Utc>) -> Self {
        let mut worst: HashMap<String, Severity> = HashMap::new();
        if receiver.quiet.is_some() {
            for row in &rows.owed {
                let severity = row.notification.severity();
                let known = worst.entry(row.subject().to_owned()).or_insert(severity);
                *known = severity.max(*known);
            }
        }
        Self { hours: receiver.quiet.as_ref(), now, worst }
    }

    /// When what is owed about the alert of `row` may leave, if not now: all of it together.
    fn until(&self, row: &Row) -> Option<DateTime<Utc>> {
        let severity = self.worst.get(row.subject()).copied()?;
        self.hours?.until(self.now, severity)
    }
}

impl Row {
    fn subject(&self) -> &str {
        subject_of(&self.notification)
    }
}

impl Engine {
    /// Puts rows among the dead letters.
    fn bury(&self, ids: Vec<String>) {
        let mut transition = Transition::default();
        transition.beside.dead = ids;
        drop(self.commit.transition(transition));
    }

    /// Sends a message to one receiver, outside all order. `None`: there is no such receiver.
    pub async fn test_receiver(&self, name: &str) -> Option<Result<(), DeliveryError>> {
        let now = self.clock.now();
        let alert = Alert {
            id: format!("test-{}", Uuid::now_v7()),
            title: "Test of the health monitor".to_owned(),
            message: "A test of the health monitor, asked for by an operator".to_owned(),
            description: "A test of the health monitor, asked for by an operator; no action is needed".to_owned(),
            triggered_at: now,
            updated_at: now,
            ..sample_alert("monitor", Severity::Low)
        };
        let notice = Notice {
            kind: NoticeKind::Test,
            alert,
            outage: None,
            from: Status::Unknown,
            to: Status::Unknown,
            url: None,
            protocol: None,
            at: now,
        };
        self.outbox.test(Notification::new(notice, name, now)).await
    }

    /// Owes dead letters again. `ids`: `None` for every one of them. Answers how many there were; `None` when that could
    /// not be stored.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn replay_dead_letters(&self, ids: Option<&[String]>) -> Result<Option<usize>, StoreError> {
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Ok(None);
        }
        let _turn = self.outbox.replaying.lock().await;
        let (mut dead, _) = self.records.dead_letters(0, REPLAYED).await?;
        dead.retain(|row| ids.is_none_or(|ids| ids.contains(&row.id)) && self.outbox.lane(&row.channel).is_some());
        let mut transition = Transition::default();
        transition.beside.revived = dead.iter().map(|row| row.id.clone()).collect();
        let count = dead.len();
        if !self.commit.transition(transition).await.unwrap_or(false) {
            return Ok(None);
        }
        self.outbox.owe(dead, self.clock.now(), self.config().notify.group_wait);
        Ok(Some(count))
    }
}

/// Dead letters sent again in one go: our choice, what a storm of a day leaves behind.
const REPLAYED: usize = 100_000;
