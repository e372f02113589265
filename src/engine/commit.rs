//! Commit, then tell (DESIGN.md D3): gathers transitions for a few milliseconds, commits them in one transaction, and
//! only then lets readers, receivers and the event log see them. Routine checks ride along once a second.
//!
//! When records cannot be written, a brief failure is waited out. Beyond that what waits is told from memory, `/health`
//! says `durability: none`, and everything untold to the store is kept, newest value of each thing, and committed under
//! the same ids when it is back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use super::Engine;
use super::counters::Part;
use super::export::OwedOutage;
use super::live::{Taken, Watched};
use crate::domain::alert::Alert;
use crate::domain::check::{Check, CheckBatch, CheckContext};
use crate::domain::event::Event;
use crate::domain::notification::Notification;
use crate::domain::outage::Outage;
use crate::domain::state::ServiceState;
use crate::domain::time::span;
use crate::store::records::Batch;

/// How long transitions are gathered: DESIGN.md D3, a few milliseconds.
const GATHER: Duration = Duration::from_millis(2);
/// Most transitions in one transaction: our choice.
const GATHER_MOST: usize = 1000;
/// Routine checks are written this often: DESIGN.md D3, at most one second of them can be lost.
const ROUTINE: Duration = Duration::from_secs(1);
/// How long readers wait for a store that fails before they are told from memory: our choice, two of the 30 seconds a
/// critical outage has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest one attempt may take once readers are told from memory: our choice, so that confirming checks stay quick.
const FIRST_TRY: Duration = Duration::from_millis(250);
/// What a stop waits for the last commit: our choice, longer than a busy store takes.
const LAST_TRY: Duration = Duration::from_secs(6);
const RETRY: Duration = Duration::from_millis(200);
/// Checks kept for a store that is away: our choice, some 50 MB, and twice that where checks are exported.
pub const UNWRITTEN_CHECKS: usize = 2_000_000;

/// What becomes visible once it is committed.
#[derive(Debug, Default)]
pub struct Transition {
    pub states: Vec<(Arc<Watched>, ServiceState, Option<Taken>)>,
    pub outages: Vec<Outage>,
    pub alerts: Vec<Alert>,
    pub owed: Vec<Notification>,
    /// Alerts whose messages that nobody has tried to send are taken back, from this number on.
    pub withdrawn: Vec<(String, u64)>,
    pub events: Vec<Event>,
    /// Services whose state is written as it is when the transition comes up.
    pub saved: Vec<Arc<Watched>>,
    /// What is written with it and seen by nobody.
    pub beside: Batch,
    /// A heartbeat on its way through every part.
    pub beat: bool,
    /// Outages that are to be exported because of it.
    pub exports: Vec<OwedOutage>,
}

impl Transition {
    /// Adds what was decided beside it.
    pub(super) fn join(&mut self, other: Self) {
        self.states.extend(other.states);
        self.outages.extend(other.outages);
        self.alerts.extend(other.alerts);
        self.owed.extend(other.owed);
        self.withdrawn.extend(other.withdrawn);
        self.events.extend(other.events);
        self.saved.extend(other.saved);
        self.beside.absorb(other.beside);
        self.beat |= other.beat;
        self.exports.extend(other.exports);
    }

    pub(super) fn batch(&self) -> Batch {
        let mut batch = self.beside.clone();
        for watched in self.saved.iter().filter(|watched| !watched.is_retired()) {
            batch.states.insert(watched.service().name.clone(), watched.lock().state.clone());
        }
        let states = self.states.iter().filter(|(watched, _, _)| !watched.is_retired());
        batch.states.extend(states.map(|(watched, state, _)| (watched.service().name.clone(), state.clone())));
        batch.outages.extend(self.outages.iter().map(|outage| (outage.id, outage.clone())));
        batch.alerts.extend(self.alerts.iter().map(|alert| (alert.id.clone(), alert.clone())));
        batch.owed.extend(self.owed.iter().cloned());
        batch.events.extend(self.events.iter().cloned());
        batch.facts.extend(self.exports.iter().map(OwedOutage::fact));
        batch
    }
}

/// The answer says whether what was told is durable.
type Waiting = (Transition, oneshot::Sender<bool>);

/// The way in: hands transitions and routine checks to the committer.
#[derive(Debug, Clone)]
pub struct Commit {
    transitions: mpsc::UnboundedSender<Waiting>,
    routine: Arc<Mutex<CheckBatch>>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    /// Place of the newest batch in the check log.
    mark: Arc<AtomicI64>,
}

/// Records cannot be written.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub since: DateTime<Utc>,
    pub error: String,
    /// Patience has run out: what is told now is not durable.
    pub not_durable: bool,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Commit {
    /// The way in, and the queue the committer reads.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Waiting>) {
        // Unbounded, but each service waits for its own transition: the queue holds at most one for each of them.
        let (transitions, queue) = mpsc::unbounded_channel();
        (Self { transitions, routine: Arc::default(), trouble: Arc::default(), mark: Arc::default() }, queue)
    }

    /// Hands a transition over in the order of calls. The answer comes when it is committed and visible.
    pub fn transition(&self, transition: Transition) -> oneshot::Receiver<bool> {
        let (done, answer) = oneshot::channel();
        // A committer that has ended drops the sender, and with it the answer: nobody waits for ever.
        let _ = self.transitions.send((transition, done));
        answer
    }

    /// Place of the newest batch in the check log, which may still be on its way there.
    pub fn newest_mark(&self) -> i64 {
        self.mark.load(Ordering::Relaxed)
    }

    /// Notes a routine check, to be written within a second; with what it came out of where checks are exported.
    pub fn routine(&self, service: u64, check: &Check, context: Option<&CheckContext>) {
        let mut routine = held(&self.routine);
        if routine.count == 0 {
            // Its place in the log: after everything before, also when the clock was set back.
            let mark = self.mark.fetch_max(check.at_ms * 1000, Ordering::Relaxed).max(check.at_ms * 1000);
            routine.mark = mark + 1;
            self.mark.store(mark + 1, Ordering::Relaxed);
        }
        routine.push(service, check, context);
    }

    /// The check log goes up to `mark` already.
    pub(super) fn log_from(&self, mark: i64) {
        self.mark.fetch_max(mark, Ordering::Relaxed);
    }

    /// Checks that wait to be written.
    pub fn depth(&self) -> usize {
        held(&self.routine).count
    }

    pub fn trouble(&self) -> Option<Trouble> {
        held(&self.trouble).clone()
    }
}

/// The committer's own state; it outlives a panic of the task.
#[derive(Debug)]
pub struct Committer {
    queue: mpsc::UnboundedReceiver<Waiting>,
    /// Not yet handed to the store.
    pending: Batch,
    /// Handed to the store, which has not answered: one attempt at a time, however long it takes.
    attempted: Batch,
    attempt: Option<JoinHandle<Result<(), String>>>,
    waiting: Vec<Waiting>,
    /// Number of the next event.
    next_event: i64,
}

impl Committer {
    pub fn new(queue: mpsc::UnboundedReceiver<Waiting>) -> Self {
        Self {
            queue,
            pending: Batch::default(),
            attempted: Batch::default(),
            attempt: None,
            waiting: Vec::new(),
            next_event: 1,
        }
    }

    /// The event log goes up to `sequence` already.
    pub(super) fn events_from(&mut self, sequence: i64) {
        self.next_event = self.next_event.max(sequence + 1);
    }

    /// Commits until `stop`, then commits what is left and ends.
    pub async fn run(&mut self, engine: &Arc<Engine>, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(ROUTINE / 4);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut swept = Instant::now();
        loop {
            engine.counters.progress(Part::Committer);
            if swept.elapsed() >= ROUTINE * 3 / 4 {
                // However busy the queue is, routine checks wait no longer than a second.
                swept = Instant::now();
                self.take_routine(engine);
            }
            let stopping = tokio::select! {
                biased;
                first = self.queue.recv() => {
                    let Some(first) = first else { return };
                    self.take(engine, first);
                    tokio::time::sleep(GATHER).await;
                    while self.waiting.len() < GATHER_MOST && let Ok(next) = self.queue.try_recv() {
                        self.take(engine, next);
                    }
                    false
                }
                _ = beat.tick() => false,
                () = stop.cancelled() => true,
            };
            if stopping {
                while let Ok(next) = self.queue.try_recv() {
                    self.take(engine, next);
                }
                self.take_routine(engine);
            }
            self.write(engine, stop).await;
            if stopping {
                return;
            }
        }
    }

    fn take(&mut self, engine: &Engine, (mut transition, done): Waiting) {
        engine.exporter.note(&mut transition, engine.clock.now());
        // Here and nowhere else: events get their numbers in the order they are committed and shown.
        for event in &mut transition.events {
            event.sequence = self.next_event;
            self.next_event += 1;
        }
        self.pending.absorb(transition.batch());
        self.waiting.push((transition, done));
    }

    fn take_routine(&mut self, engine: &Engine) {
        let batch = std::mem::take(&mut *held(&engine.commit.routine));
        if batch.count == 0 || !engine.config().store.persist_checks {
            return;
        }
        let unwritten = self.pending.checks.iter().chain(&self.attempted.checks);
        let kept: usize = unwritten.map(|batch| batch.count).sum();
        if kept + batch.count > UNWRITTEN_CHECKS {
            engine.counters.commit_dropped.fetch_add(batch.count as u64, Ordering::Relaxed);
            engine.exporter.lose(batch.from_ms, batch.to_ms);
        } else {
            self.pending.checks.push(batch);
        }
    }

    /// Writes what is pending, and tells what waits: at once when it is committed, from memory when patience runs out.
    async fn write(&mut self, engine: &Arc<Engine>, stop: &CancellationToken) {
        let began = Instant::now();
        loop {
            engine.counters.progress(Part::Committer);
            if self.attempt.is_none() {
                if self.pending.is_empty() {
                    break;
                }
                self.attempted = std::mem::take(&mut self.pending);
                self.attempt = Some(tokio::spawn(write_once(engine.clone(), self.attempted.clone())));
            }
            let Some(attempt) = &mut self.attempt else { break };
            let known = engine.commit.trouble();
            let gave_up = known.as_ref().is_some_and(|trouble| trouble.not_durable);
            let patience = match (stop.is_cancelled(), gave_up) {
                (true, _) => LAST_TRY,
                (false, true) => FIRST_TRY,
                (false, false) => PATIENCE.saturating_sub(began.elapsed()).max(FIRST_TRY),
            };
            let error = match timeout(patience, attempt).await {
                Ok(Ok(Ok(()))) => {
                    (self.attempt, self.attempted) = (None, Batch::default());
                    // Only when nothing waits behind it: what came meanwhile is not durable yet.
                    if self.pending.is_empty()
                        && let Some(trouble) = held(&engine.commit.trouble).take()
                    {
                        tracing::info!(since = %trouble.since, "records can be written again");
                    }
                    continue;
                }
                // What came meanwhile goes on top of what was not taken.
                Ok(refused) => {
                    self.attempt = None;
                    let newer = std::mem::replace(&mut self.pending, std::mem::take(&mut self.attempted));
                    self.pending.absorb(newer);
                    refused.map_or_else(|error| error.to_string(), |result| result.err().unwrap_or_default())
                }
                Err(_) => "no answer in time".to_owned(),
            };
            let awaited = !self.waiting.is_empty();
            let patient = !gave_up && began.elapsed() < PATIENCE && awaited && !stop.is_cancelled();
            let lasting = known.is_some_and(|trouble| span(trouble.since, engine.clock.now()) >= PATIENCE);
            self.note_trouble(engine, error, (awaited && !patient) || lasting);
            if !patient {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        let durable = self.attempt.is_none() && self.pending.is_empty();
        for (transition, done) in self.waiting.drain(..) {
            engine.publish(transition);
            let _ = done.send(durable);
        }
    }

    fn note_trouble(&self, engine: &Engine, error: String, not_durable: bool) {
        let mut trouble = held(&engine.commit.trouble);
        let known = trouble.take();
        if known.as_ref().is_none_or(|known| known.not_durable != not_durable && not_durable) && not_durable {
            tracing::error!(%error, "records cannot be written: going on from memory");
        }
        *trouble = Some(Trouble {
            since: known.as_ref().map_or_else(|| engine.clock.now(), |known| known.since),
            not_durable: not_durable || known.is_some_and(|known| known.not_durable),
            error,
        });
    }
}

async fn write_once(engine: Arc<Engine>, batch: Batch) -> Result<(), String> {
    let span = info_span!(
        "write records",
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = engine.records.kind(),
        infra.states = batch.states.len(),
        infra.events = batch.events.len(),
        infra.checks = batch.checks.iter().map(|batch| batch.count).sum::<usize>(),
    );
    engine.records.write(batch).instrument(span.clone()).await.map_err(|error| {
        span.record("otel.status_code", "ERROR");
        engine.counters.records_errors.fetch_add(1, Ordering::Relaxed);
        error.to_string()
    })
}
