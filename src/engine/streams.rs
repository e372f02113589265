//! What other parties hear of us and we hear of them, over streams in Redis (CONTRACT.md section 14).
//!
//! Out: events go in the order of the log, from a durable place in it that moves on only when Redis has confirmed.
//! While Redis is away they wait in the records. Each reaches a consumer at least once, always under the same id.
//!
//! In: an entry is acknowledged when what follows from it is durable. One that nobody can read is tried three times and
//! then put among the dead letters, where people find it.
//!
//! Why not one reader for all three streams: each has a consumer group of its own, and Redis reads one group at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::commit::Transition;
use super::counters::EventCount;
use super::mirror::RedisState;
use crate::domain::ess::{Entry, Ess, Inbound, Known, Message, REMEMBERED};
use crate::domain::event::{Event, EventKind};
use crate::domain::observation::clean;
use crate::domain::time::from_ms;
use crate::events::Logged;
use crate::store::StoreError;
use crate::store::records::{Fact, FactKind};
use crate::store::redis::RedisError;
use crate::store::streams::{Begin, Inbox, Streams};

/// Events in one pipeline: our choice.
const PIPELINE: usize = 100;
/// How often the place in the log is made durable: our choice. A crash repeats at most what was published since.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Failures of one entry that make it a dead letter: CONTRACT.md 14.1.
const TRIES: u64 = 3;
/// First and longest pause before Redis is asked again: HARDENING.md redis.1, at most 5 s with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Names of what is remembered, among the marks.
const PLACE: &str = "stream";
const LAST_TRIP: &str = "ess.tripped";
const LAST_LIFT: &str = "ess.lifted";

/// How far the streams have got.
#[derive(Debug)]
pub struct Exchange {
    streams: Option<Streams>,
    /// Number of the newest event that Redis has confirmed, and the one that is durable.
    place: AtomicI64,
    noted: AtomicI64,
    /// One incoming message at a time.
    known: tokio::sync::Mutex<Known>,
}

impl Exchange {
    pub(super) fn new(streams: Option<Streams>) -> Self {
        Self { streams, place: AtomicI64::new(0), noted: AtomicI64::new(0), known: tokio::sync::Mutex::default() }
    }
}

/// A pause that grows with each failure in a row.
struct Pause(Duration);

impl Pause {
    async fn take(&mut self, engine: &Engine) {
        // Jitter from the low bits of time: replicas must not come back all at once.
        let jitter = u64::from(engine.clock.now().timestamp_subsec_millis());
        sleep(self.0 + Duration::from_millis(jitter)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

fn mark(name: &str, value: i64, at_ms: i64) -> Fact {
    Fact { kind: FactKind::Mark, name: name.to_owned(), at_ms, value: Some(value.to_string()) }
}

impl Engine {
    /// Takes up where the last run ended, by what it marked; `newest`: number of the newest event of the log.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(super) async fn restore_streams(&self, newest: i64, marks: &[Fact]) -> Result<(), StoreError> {
        if self.exchange.streams.is_none() {
            return Ok(());
        }
        let value = |name: &str| marks.iter().find(|fact| fact.name == name)?.value.as_deref()?.parse::<i64>().ok();
        let place = value(PLACE);
        // A first start begins at the present end: what happened before is no news.
        self.exchange.place.store(place.map_or(newest, |place| place.min(newest)), Ordering::Relaxed);
        self.exchange.noted.store(place.unwrap_or(-1), Ordering::Relaxed);
        self.note_place();
        let seen = self.records.facts(FactKind::Seen).await?;
        let mut known = self.exchange.known.lock().await;
        known.last_trip = value(LAST_TRIP).map(from_ms);
        known.last_lift = value(LAST_LIFT).map(from_ms);
        let newest_seen = seen.len().saturating_sub(REMEMBERED);
        seen.into_iter().skip(newest_seen).for_each(|fact| known.remember(fact.name));
        Ok(())
    }

    /// Publishes events until `stop`.
    pub(super) async fn publish_events(&self, stop: &CancellationToken) {
        let Some(streams) = &self.exchange.streams else { return };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_publishing(streams) => {}
        }
        self.note_place();
    }

    async fn keep_publishing(&self, streams: &Streams) {
        let mut newest = self.live.events.follow();
        let mut pause = Pause(FIRST_PAUSE);
        let mut noted = Instant::now();
        let mut away = false;
        loop {
            newest.mark_unchanged();
            let place = self.exchange.place.load(Ordering::Relaxed);
            let published = match self.events_from(place).await {
                Ok(events) if events.is_empty() => {
                    let unnoted = place != self.exchange.noted.load(Ordering::Relaxed);
                    tokio::select! {
                        _ = newest.changed() => {}
                        () = tokio::time::sleep_until(noted + NOTE_EVERY), if unnoted => {
                            self.note_place();
                            noted = Instant::now();
                        }
                    }
                    continue;
                }
                Ok(events) => {
                    let sent = streams.publish(events.iter().map(|event| &***event)).await;
                    sent.map(|()| events).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match published {
                Ok(events) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("events are published again");
                    }
                    pause = Pause(FIRST_PAUSE);
                    let kinds = events.iter().filter_map(|event| event.kind.published_as());
                    kinds.for_each(|name| self.counters.event(EventCount::Published, name));
                    if let Some(last) = events.last() {
                        self.exchange.place.store(last.sequence, Ordering::Relaxed);
                    }
                    if noted.elapsed() >= NOTE_EVERY {
                        self.note_place();
                        noted = Instant::now();
                    }
                }
                Err(error) => {
                    self.counters.redis_errors.fetch_add(1, Ordering::Relaxed);
                    // Where nobody asked for Redis, its absence is no news.
                    if !std::mem::replace(&mut away, true) && self.mirror.state() != RedisState::Absent {
                        tracing::warn!(%error, "events cannot be published; they are kept and published in order");
                    }
                    pause.take(self).await;
                }
            }
        }
    }

    /// The next events after a number, from the records when they are kept in memory no more.
    async fn events_from(&self, place: i64) -> Result<Vec<Arc<Logged>>, StoreError> {
        if let Some(events) = self.live.events.after(place, PIPELINE) {
            return Ok(events);
        }
        let stored = self.records.events_after(place, PIPELINE).await?;
        if stored.is_empty() {
            let oldest = self.live.events.before_oldest();
            tracing::error!(from = place, to = oldest, "events were given up before they could be published");
            return Ok(self.live.events.after(oldest, PIPELINE).unwrap_or_default());
        }
        Ok(stored.into_iter().map(|event| Arc::new(Logged::from(event))).collect())
    }

    /// Makes durable how far publishing has got.
    fn note_place(&self) {
        let place = self.exchange.place.load(Ordering::Relaxed);
        if self.exchange.noted.swap(place, Ordering::Relaxed) != place {
            let mut transition = Transition::default();
            transition.beside.facts.push(mark(PLACE, place, self.clock.now().timestamp_millis()));
            drop(self.commit.transition(transition));
        }
    }

    /// Reads what others say of the emergency stop until `stop`.
    pub(super) async fn listen(&self, kind: Inbound, stop: &CancellationToken) {
        let Some(streams) = &self.exchange.streams else { return };
        // The same for every run of one instance, so that it finds what it left unsettled.
        let digest = Sha256::digest(self.config().instance.as_bytes());
        let consumer: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let inbox = streams.inbox(kind, &consumer);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_listening(kind, &inbox) => {}
        }
    }

    async fn keep_listening(&self, kind: Inbound, inbox: &Inbox) {
        let mut pause = Pause(FIRST_PAUSE);
        let (mut begin, mut away) = (Begin::Newest, false);
        let mut rewind = self.config().store.streams.from_beginning;
        loop {
            let opened = async {
                inbox.open(begin).await?;
                if rewind { inbox.rewind().await } else { Ok(()) }
            };
            let error = match opened.await {
                Ok(()) => {
                    // A stream that is emptied while we listen holds nothing but news when it is back.
                    (begin, rewind) = (Begin::Oldest, false);
                    pause = Pause(FIRST_PAUSE);
                    if std::mem::take(&mut away) {
                        tracing::info!(event.kind = kind.as_str(), "{} is listened to again", kind.as_str());
                    }
                    self.read(kind, inbox).await
                }
                Err(error) => error,
            };
            self.counters.redis_errors.fetch_add(1, Ordering::Relaxed);
            if !std::mem::replace(&mut away, true) && self.mirror.state() != RedisState::Absent {
                tracing::warn!(%error, event.kind = kind.as_str(), "{} cannot be listened to", kind.as_str());
            }
            pause.take(self).await;
        }
    }

    /// Reads entries until Redis fails.
    async fn read(&self, kind: Inbound, inbox: &Inbox) -> RedisError {
        let reading = async {
            let mut after = "0".to_owned();
            loop {
                let left = inbox.unsettled(&after).await?;
                let Some(last) = left.last() else { break };
                after.clone_from(&last.id);
                for entry in &left {
                    self.take_message(kind, inbox, entry).await?;
                }
            }
            let mut looked: Option<Instant> = None;
            loop {
                if looked.is_none_or(|at| at.elapsed() >= inbox.claim_every()) {
                    looked = Some(Instant::now());
                    let mut from = Some("0-0".to_owned());
                    while let Some(id) = from {
                        let (entries, next) = inbox.claim(&id).await?;
                        for entry in &entries {
                            self.take_message(kind, inbox, entry).await?;
                        }
                        from = next;
                    }
                }
                for entry in inbox.next().await? {
                    self.take_message(kind, inbox, &entry).await?;
                }
            }
        };
        let ended: Result<std::convert::Infallible, RedisError> = reading.await;
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Deals with one entry. It stays pending, to be tried again, unless what follows from it is durable.
    async fn take_message(&self, kind: Inbound, inbox: &Inbox, entry: &Entry) -> Result<(), RedisError> {
        let (name, id) = (kind.as_str(), clean(&entry.id));
        let now = self.clock.now();
        let message = match Message::read(kind, entry, now) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(event.kind = name, entry = id, "an entry of {name} {error}");
                if inbox.tries(&entry.id).await? < TRIES {
                    return Ok(());
                }
                inbox.bury(entry, &error).await?;
                self.counters.event(EventCount::DeadLettered, name);
                return Ok(());
            }
        };
        let mut known = self.exchange.known.lock().await;
        let seen = Fact {
            kind: FactKind::Seen,
            name: message.key.clone(),
            at_ms: now.timestamp_millis(),
            value: Some(entry.id.clone()),
        };
        let at_ms = message.at.timestamp_millis();
        let durable = match known.decide(&message, now, self.config().store.streams.max_age) {
            Ess::Trip { reason, facts } => {
                tracing::error!(event.kind = name, entry = id, "emergency stop: {reason}");
                known.note(&message);
                let marks = vec![seen, mark(LAST_TRIP, at_ms, at_ms)];
                self.emergency_stop(Some((reason, facts)), marks).await
            }
            Ess::Lift => {
                tracing::info!(event.kind = name, entry = id, "the emergency stop is lifted");
                known.note(&message);
                self.emergency_stop(None, vec![seen, mark(LAST_LIFT, at_ms, at_ms)]).await
            }
            // What followed from it may not have been durable then.
            Ess::Repeated => {
                tracing::debug!(event.kind = name, entry = id, "{name} was dealt with before");
                self.note_facts(vec![seen]).await
            }
            Ess::Stale(why) => {
                tracing::warn!(event.kind = name, entry = id, "{name} raises nothing: {why}");
                true
            }
        };
        drop(known);
        if durable {
            inbox.acknowledge(entry).await?;
            self.counters.event(EventCount::Consumed, name);
        }
        Ok(())
    }

    /// The emergency stop was tripped or lifted; `facts` are made durable with what follows. Answers whether it is.
    pub async fn emergency_stop(&self, tripped: Option<(String, Map<String, Value>)>, facts: Vec<Fact>) -> bool {
        let (now, roster, in_force) = (self.clock.now(), self.live.roster(), self.windows_in_force());
        let config = self.config();
        let committed = {
            let mut judge = self.judge();
            let decision = judge.emergency_stop(self.bench(&config, &roster.registry, &in_force, now), tripped);
            let raised = decision.happened.iter().find(|(kind, _)| *kind == EventKind::AlertRaised);
            let payload = raised.map(|(_, alert)| Value::Object(alert.details.facts.clone()));
            let mut transition = self.decided(decision, now);
            transition.events.extend(payload.map(|payload| Event::new(EventKind::EssTripped, None, payload, now)));
            transition.beside.facts = facts;
            // Under the judge's lock, so that decisions reach the store in the order they were made.
            self.commit.transition(transition)
        };
        committed.await.unwrap_or(false)
    }

    pub(super) async fn note_facts(&self, facts: Vec<Fact>) -> bool {
        let mut transition = Transition::default();
        transition.beside.facts = facts;
        self.commit.transition(transition).await.unwrap_or(false)
    }
}
