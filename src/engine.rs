//! The pipeline: probe, classify, advance, commit, show. Owns live state; no check and no request waits for a database
//! read. Checks of different services run side by side under limits; the steps of one service never overlap.

pub mod alerts;
pub mod commit;
pub mod counters;
mod evaluate;
pub mod export;
mod heartbeat;
pub mod history;
pub mod host;
pub mod housekeeping;
mod keeper;
pub mod live;
pub mod maintenance;
pub mod metrics;
pub mod mirror;
pub mod outbox;
mod recovery;
pub mod references;
pub mod registrar;
mod registry;
pub mod restore;
pub mod scheduler;
mod settings;
mod spans;
pub mod streams;
mod supervise;
pub mod system;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use self::commit::{Commit, Committer, Transition};
use self::counters::{Counters, SkipCause};
use self::export::Exporter;
use self::host::Host;
use self::live::{Live, Taken, Watched};
use self::maintenance::{NotDurable, Windows};
use self::mirror::Mirror;
use self::outbox::Outbox;
use self::references::ReferenceConfig;
use self::registrar::Registrar;
pub use self::registry::{ReloadOutcome, RosterChange};
use self::scheduler::Scheduler;
pub use self::settings::{NotAdopted, Remembered};
use self::streams::Exchange;
use crate::clock::Clock;
use crate::domain::check::{Check, CheckContext};
use crate::domain::classify::classify;
use crate::domain::ess::Inbound;
use crate::domain::event::{Event, EventKind};
use crate::domain::host::{HostPolicy, ProcessUse};
use crate::domain::judge::{Bench, Decision, Judge};
use crate::domain::maintenance::InForce;
use crate::domain::notification::{Delivery, Notification};
use crate::domain::observation::{Kind, Observation, Reason};
use crate::domain::outage::Outage;
use crate::domain::policy::{AlertPolicy, DetectionPolicy, OutagePolicy};
use crate::domain::probe::Protocol;
use crate::domain::service::{Service, ServiceName};
use crate::domain::spec::Defaults;
use crate::domain::state::{Advance, Change, ServiceState};
use crate::domain::status::Status;
use crate::export::{Elasticsearch, ExportConfig};
use crate::notify::heartbeat::{Heartbeat, HeartbeatConfig};
use crate::notify::{NotifyConfig, Receiver};
use crate::probes::{self, Clients};
use crate::store::StoreConfig;
use crate::store::records::Records;
use crate::store::redis::Redis;
use crate::store::streams::Streams;

/// Newest answers a verdict on slowness looks at: CONTRACT.md 10.4.
const LATEST_ANSWERS: usize = 5;
/// Between two checks of one service by hand: CONTRACT.md section 3.
const BY_HAND_EVERY: Duration = Duration::from_secs(1);
/// A dependency checked this recently is not asked again when a dependent fails: our choice.
const RECENTLY: Duration = Duration::from_secs(1);

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub outage: OutagePolicy,
    pub alert: AlertPolicy,
    pub detection: DetectionPolicy,
    pub host: HostPolicy,
    /// Period of rules that depend on time.
    pub alert_check_interval: Duration,
    /// Period of `health.snapshot_updated`.
    pub snapshot_interval: Duration,
    /// Checks in flight at most.
    pub max_concurrent_checks: usize,
    /// Services whose connections may be pooled at most.
    pub pooled_connections: usize,
    pub notify: NotifyConfig,
    pub store: StoreConfig,
    pub references: ReferenceConfig,
    pub heartbeat: Option<HeartbeatConfig>,
    /// `None`: nothing is exported.
    pub export: Option<ExportConfig>,
    /// Recovery actions in an hour, over all services.
    pub recovery_max_per_hour: usize,
    /// What definitions leave open.
    pub defaults: Defaults,
    /// Name of this process in what it sends.
    pub instance: String,
}

/// Said at the start and each hour while the published key is accepted (CONTRACT.md section 2).
pub const PUBLISHED_KEY_WARNING: &str =
    "the service key is the published development key: anyone knows it; set INTERNAL_SERVICE_KEY";

/// The parts an engine is built of.
pub struct Parts {
    pub config: EngineConfig,
    pub clock: Clock,
    pub records: Records,
    pub redis: Option<Redis>,
    pub streams: Option<Streams>,
    pub clients: Clients,
    pub receivers: Vec<Receiver>,
    pub heartbeat: Option<Heartbeat>,
    pub elasticsearch: Option<Elasticsearch>,
}

/// The pipeline and everything it holds.
#[derive(Debug)]
pub struct Engine {
    config: ArcSwap<EngineConfig>,
    pub clock: Clock,
    pub live: Live,
    pub counters: Arc<Counters>,
    pub records: Records,
    pub commit: Commit,
    pub outbox: Outbox,
    pub mirror: Mirror,
    pub exporter: Exporter,
    exchange: Exchange,
    pub reload: registry::ReloadLog,
    pub windows: Windows,
    references: references::Watch,
    /// What the slowest response made of the system: how many snapshots said so (up to two), then a byte for both of
    /// them and one for the last.
    slowness: AtomicU32,
    heartbeat: Option<Heartbeat>,
    host: Host,
    registrar: Registrar,
    /// Services whose checks are due to be written to the check history.
    to_keep: Mutex<Vec<Arc<Watched>>>,
    keeping: tokio::sync::Mutex<()>,
    scheduler: Scheduler,
    clients: Clients,
    judge: Mutex<Judge>,
    committer: tokio::sync::Mutex<Committer>,
    permits: Arc<Semaphore>,
    checks: TaskTracker,
    /// What to say of records that could not be read at the start.
    set_aside: std::sync::OnceLock<String>,
    /// When a check last failed for want of our own sockets or memory, unix ms; 0 for never.
    local_trouble_at: AtomicI64,
    paused: AtomicBool,
    /// Switched off by hand: no checks, no alerts.
    off: AtomicBool,
    /// No new checks are started.
    draining: CancellationToken,
    /// Checks under way are given up.
    cancelled: CancellationToken,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets timers and checks go first in the middle of long work. Why not a yield: a runtime that never parks looks at its
/// timers only now and then.
async fn make_way() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Done(Vec<Change>),
    /// The monitor is stopping, or the service is no longer watched: not a result.
    Cancelled,
}

impl Engine {
    /// Builds the engine. Nothing runs yet, nothing is watched yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let (commit, queue) = Commit::new();
        let counters = Arc::<Counters>::default();
        let unix_ms = u64::try_from(parts.clock.now().timestamp_millis()).unwrap_or(0);
        Arc::new(Self {
            live: Live::default(),
            outbox: Outbox::new(parts.receivers, &parts.config.notify),
            mirror: Mirror::new(parts.redis, parts.config.store.redis.explicit),
            exporter: Exporter::new(parts.elasticsearch),
            exchange: Exchange::new(parts.streams),
            reload: registry::ReloadLog::default(),
            windows: Windows::default(),
            references: references::Watch::default(),
            slowness: AtomicU32::new(0),
            heartbeat: parts.heartbeat,
            host: Host::default(),
            registrar: Registrar::default(),
            to_keep: Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            scheduler: Scheduler::new(unix_ms),
            clients: parts.clients,
            judge: Mutex::default(),
            committer: tokio::sync::Mutex::new(Committer::new(queue)),
            permits: Arc::new(Semaphore::new(parts.config.max_concurrent_checks.clamp(1, Semaphore::MAX_PERMITS))),
            checks: TaskTracker::new(),
            set_aside: std::sync::OnceLock::new(),
            local_trouble_at: AtomicI64::new(0),
            paused: AtomicBool::new(false),
            off: AtomicBool::new(false),
            draining: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            config: ArcSwap::from_pointee(parts.config),
            clock: parts.clock,
            records: parts.records,
            commit,
            counters,
        })
    }

    /// The settings as they are now; they may change while the service runs.
    pub fn config(&self) -> Arc<EngineConfig> {
        self.config.load_full()
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        held(&self.judge)
    }

    /// Starts a check in the background, unless the service is being checked already or too much is in flight.
    ///
    /// `planned`: its slot, for the lateness histogram.
    pub(crate) fn start_check(self: &Arc<Self>, watched: Arc<Watched>, kind: Kind, planned: Option<Instant>) {
        if self.draining.is_cancelled() || !watched.service().active {
            return;
        }
        if self.paused.load(Ordering::Relaxed) || !self.is_monitoring() {
            return self.counters.skip(SkipCause::Paused, 1);
        }
        let turn = match watched.take_turn() {
            Ok(turn) => turn,
            Err(cause) => return self.counters.skip(cause, 1),
        };
        let engine = self.clone();
        self.checks.spawn(async move {
            // First come, first served: when as many checks are in flight as may be, the next are late, and nobody starves.
            let mut permit = tokio::select! {
                () = engine.draining.cancelled() => return engine.counters.skip(SkipCause::Paused, 1),
                () = watched.interrupted() => return engine.counters.skip(SkipCause::Paused, 1),
                permit = engine.permits.clone().acquire_owned() => permit.ok(),
            };
            if let Some(planned) = planned {
                engine.counters.late(planned.elapsed());
            }
            let mut kind = kind;
            let mut rechecks = 0;
            loop {
                let span = spans::of(&watched.service(), kind);
                let outcome = engine.check(&watched, kind).instrument(span).await;
                drop(permit.take());
                let service = watched.service();
                let wants = watched.lock().state.wants_confirmation(&service, &engine.config().outage, rechecks);
                if outcome == Outcome::Cancelled || !wants {
                    return;
                }
                turn.confirming();
                if rechecks == 0 {
                    engine.look_at_dependencies(&service);
                }
                tokio::select! {
                    () = engine.draining.cancelled() => return,
                    () = watched.interrupted() => return,
                    () = tokio::time::sleep(engine.config().outage.confirm_interval) => {}
                    () = watched.hurried.notified() => {}
                }
                rechecks += 1;
                kind = Kind::Confirm;
                permit = tokio::select! {
                    () = engine.draining.cancelled() => return,
                    () = watched.interrupted() => return,
                    permit = engine.permits.clone().acquire_owned() => permit.ok(),
                };
            }
        });
    }

    /// One check: probe, and everything after it.
    async fn check(self: &Arc<Self>, watched: &Arc<Watched>, kind: Kind) -> Outcome {
        self.counters.started.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { counters: &self.counters, finished: false };
        let _ended = Ended(watched);
        let service = watched.service();
        // Quick re-checks are always fresh: they test the whole way.
        let fresh = kind == Kind::Confirm || !watched.pooled.load(Ordering::Relaxed);
        let mut early = false;
        let began = Instant::now();
        let from = watched.lock().state.status;
        let was_up = from.is_up();
        let judged_early = async |seen: Observation| {
            let seen = self.rule_out_ourselves(&service, seen, began, was_up).await;
            if self.is_monitoring() && !seen.is_inconclusive() {
                early = true;
                self.judge_check(watched, &service, seen, kind, false).await;
            }
        };
        let seen = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => return Outcome::Cancelled,
            () = watched.interrupted() => return Outcome::Cancelled,
            seen = probes::observe(&self.clients, &service, fresh, judged_early) => seen,
        };
        if watched.is_retired() || !self.is_monitoring() {
            return Outcome::Cancelled;
        }
        let changes = if early {
            self.amend(watched, &service, &seen, kind, from);
            Vec::new()
        } else {
            let seen = self.rule_out_ourselves(&service, seen, began, was_up).await;
            self.judge_check(watched, &service, seen, kind, true).await
        };
        counted.finish();
        Outcome::Done(changes)
    }

    /// Everything after the probe. Tests come in here, with an observation of their own making.
    pub async fn take_in(
        &self,
        watched: &Arc<Watched>,
        service: &Service,
        seen: Observation,
        kind: Kind,
    ) -> Vec<Change> {
        let was_up = watched.lock().state.status.is_up();
        let seen = self.rule_out_ourselves(service, seen, Instant::now(), was_up).await;
        self.judge_check(watched, service, seen, kind, true).await
    }

    /// `ended`: the probe has; one that is judged before goes into the check log when it has.
    async fn judge_check(
        &self,
        watched: &Arc<Watched>,
        service: &Service,
        seen: Observation,
        kind: Kind,
        ended: bool,
    ) -> Vec<Change> {
        let (whole, judging) = (Span::current(), info_span!("judge").entered());
        let now = self.clock.now();
        let mut verdict = classify(&seen, service.limits.latency, &service.expected);
        if let Some(dependency) = self.degraded_by(service) {
            verdict = verdict.degraded_by(&dependency);
        }
        spans::note_verdict(&whole, &verdict);
        let in_force = self.windows_in_force();
        let maintenance = in_force.covers(service).is_some();
        let known = watched.lock().state.clone();
        let last_check = known.last_check.unwrap_or(now);
        let windows = self.windows.spans_of(service, last_check, now + service.hold());
        // A window that came and went between two checks ends streaks as well.
        let passed = windows.iter().any(|span| span.to < now);
        let known = ServiceState { maintenance: known.maintenance || passed, ..known };
        let (from, step, slow) = {
            let step = known.advance(service, &verdict, &seen, kind, now, &self.config().outage, maintenance);
            let slow = seen.response_ms().is_some_and(|ms| ms >= service.limits.latency.warning_ms);
            (known.status, step, slow)
        };
        let Advance { mut state, mut changes, check: Some(check), must_commit } = step else {
            self.live.inconclusive(watched, &seen);
            // That this process may not ping is no trouble of the whole monitor.
            if verdict.reason == Reason::LocalResource && service.protocol != Protocol::Icmp {
                self.local_trouble_at.store(now.timestamp_millis(), Ordering::Relaxed);
            }
            tracing::debug!(service.name = %service.name, reason = verdict.reason.as_str(), "inconclusive");
            return Vec::new();
        };
        for change in &mut changes {
            if let Change::OutageClosed(outage) = change {
                outage.maintenance_ms = self.paused_ms(service, outage.started, outage.ended.unwrap_or(now));
            }
        }
        let taken = Taken { check: check.clone(), windows };
        tracing::debug!(service.name = %service.name, status = state.status.as_str(), reason = verdict.reason.as_str(), "checked");

        let committed = {
            let mut judge = self.judge();
            let decision = if must_commit || slow || judge.concerns(&service.name, &state) {
                let latest = Self::latest_answers(watched, &check);
                let roster = self.live.roster();
                let config = self.config();
                let bench = self.bench(&config, &roster.registry, &in_force, now);
                let decision = judge.after_check(bench, service, &state, from, &latest);
                note_root_cause(&decision, &mut state, &mut changes);
                decision
            } else {
                Decision::default()
            };
            if ended {
                self.log(watched, service, &check, from, &state, &judge);
            }
            if !must_commit && decision.is_empty() {
                None
            } else {
                let mut transition = self.decided(decision, now);
                transition.events.extend(changes.iter().map(|change| Self::event(service, change, &state, now)));
                transition.outages.extend(changes.iter().filter_map(outage_of));
                transition.states.push((watched.clone(), state.clone(), Some(taken.clone())));
                // Under the judge's lock, so that decisions reach the store in the order they were made.
                Some(self.commit.transition(transition))
            }
        };
        drop(judging);
        match committed {
            // An answer that never comes means that the monitor is ending.
            Some(committed) => drop(committed.instrument(info_span!("commit")).await),
            None => {
                self.live.apply(watched, state, Some(taken), None);
                self.mirror.touch(watched);
            }
        }
        self.keep_in_time(watched);
        tell(service, &changes);
        changes
    }

    /// Notes a check in the log.
    fn log(
        &self,
        watched: &Watched,
        service: &Service,
        check: &Check,
        from: Status,
        after: &ServiceState,
        judge: &Judge,
    ) {
        let context = self.exporter.is_on().then(|| CheckContext {
            sequence: after.sequence,
            from,
            outage: after.outage.as_ref().map(|outage| outage.id),
            alert: match check.status {
                Status::Healthy => None,
                _ => judge.gravest(&service.name).map(|alert| alert.id.clone()),
            },
        });
        if context.is_some() {
            self.exporter.note_check(watched.hash, check.at_ms);
        }
        self.commit.routine(watched.hash, check, context.as_ref());
    }

    /// The failed dependency that explains why `name` fails; `None` when it is up, or fails by itself.
    pub fn root_cause(&self, name: &ServiceName) -> Option<ServiceName> {
        let roster = self.live.roster();
        self.judge().root_cause(&roster.registry, name)
    }

    /// A failed dependency of `service` that degrades it.
    fn degraded_by(&self, service: &Service) -> Option<ServiceName> {
        if !service.depends_on.iter().any(|needed| needed.degrade) {
            return None;
        }
        let roster = self.live.roster();
        let failed = |name: &ServiceName| roster.find(name).is_some_and(|watched| watched.lock().state.has_failed());
        roster.registry.graph.degraded_by(&service.name, failed).cloned()
    }

    /// Sends one probe to anything, watched or not. Nothing is judged, counted or stored.
    pub async fn look(&self, service: &Service) -> Observation {
        probes::observe(&self.clients, service, true, async |_: Observation| {}).await
    }

    /// What this process uses of the machine. Blocking; `None` where the system does not tell.
    pub fn process(&self) -> Option<ProcessUse> {
        crate::host::process::usage()
    }

    /// Sends one probe now, outside the cadence, and waits for what it saw. A check that is under way is waited for
    /// instead: it is as good. A quick re-check that waits for its time begins at once. `None`: the monitor is stopping, or checking is paused.
    ///
    /// # Errors
    /// How long to wait: the last check by hand was less than a second ago.
    pub async fn check_now(self: &Arc<Self>, watched: &Arc<Watched>) -> Result<Option<()>, Duration> {
        let now_ms = self.clock.now().timestamp_millis();
        let last = watched.asked_at.load(Ordering::Acquire);
        // A wall clock that was set back is no reason to wait.
        let since = u64::try_from(now_ms - last).map_or(BY_HAND_EVERY, Duration::from_millis);
        if last != 0 && since < BY_HAND_EVERY {
            return Err(BY_HAND_EVERY.saturating_sub(since));
        }
        if watched.asked_at.compare_exchange(last, now_ms, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(BY_HAND_EVERY);
        }
        if self.paused.load(Ordering::Relaxed) || !self.is_monitoring() {
            return Ok(None);
        }
        let ended = watched.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        self.start_check(watched.clone(), Kind::Manual, None);
        watched.hurried.notify_waiters();
        if !watched.service().active || watched.is_retired() {
            return Ok(None);
        }
        // Longest a check takes: waiting for its turn among those in flight, and its own deadline.
        let limit = watched.service().timeout + self.config().outage.confirm_interval + Duration::from_secs(5);
        Ok(tokio::time::timeout(limit, ended).await.ok())
    }

    /// Closes an outage by hand. While the service still fails, a new one needs the threshold anew. `None`: there is no
    /// open outage of this id.
    ///
    /// # Errors
    /// It could not be stored; nothing has changed.
    pub async fn resolve_outage(
        self: &Arc<Self>,
        id: Uuid,
        notes: Option<&str>,
        by: Option<&str>,
    ) -> Result<Option<Outage>, NotDurable> {
        let roster = self.live.roster();
        let is_it =
            |watched: &&Arc<Watched>| watched.lock().state.outage.as_ref().is_some_and(|outage| outage.id == id);
        let Some(watched) = roster.watched.iter().find(is_it) else { return Ok(None) };
        let turn = watched.seize().await;
        let (service, now) = (watched.service(), self.clock.now());
        let state = watched.lock().state.clone();
        let Some(outage) = state.outage.as_ref().filter(|outage| outage.id == id) else { return Ok(None) };
        let closed = Outage {
            resolution_notes: notes.map(str::to_owned),
            ..outage.closed(now, "", by, self.paused_ms(&service, outage.started, now))
        };
        let mut transition = Transition::default();
        transition.outages.push(closed.clone());
        transition.states.push((watched.clone(), state.without_outage(), None));
        self.exporter.note(&mut transition, now);
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Err(NotDurable);
        }
        if self.records.write(transition.batch()).await.is_err() {
            // Its fate is not known: the store hears of the truth when it is back.
            let mut inverse = Transition { saved: vec![watched.clone()], ..Transition::default() };
            inverse.outages.push(outage.clone());
            drop(self.commit.transition(inverse));
            return Err(NotDurable);
        }
        let in_force = self.windows_in_force();
        let committed = {
            let config = self.config();
            let mut judge = self.judge();
            let decision = judge.resolved_by_hand(
                self.bench(&config, &roster.registry, &in_force, now),
                &service,
                state.status,
                &closed,
            );
            transition.join(self.decided(decision, now));
            transition.events.push(Self::event(&service, &Change::OutageClosed(closed.clone()), &state, now));
            self.commit.transition(transition)
        };
        let _ = committed.await;
        drop(turn);
        tell(&service, &[Change::OutageClosed(closed.clone())]);
        Ok(Some(closed))
    }

    fn latest_answers(watched: &Watched, check: &Check) -> Vec<u64> {
        let this = check.response_us.map(|us| u64::from(us) / 1000);
        let inner = watched.lock();
        this.into_iter().chain(inner.history.latest_ms(LATEST_ANSWERS)).take(LATEST_ANSWERS).collect()
    }

    /// The answer to a probe that was judged before it came, when the status was `from`.
    fn amend(&self, watched: &Arc<Watched>, service: &Service, seen: &Observation, kind: Kind, from: Status) {
        let verdict = classify(seen, service.limits.latency, &service.expected);
        let step = watched.lock().state.amend(&verdict, seen, kind);
        if let Some(check) = step.check {
            self.log(watched, service, &check, from, &step.state, &self.judge());
            self.live.amend(watched, step.state, check);
            self.mirror.touch(watched);
        }
    }

    /// A service has failed: what it depends on is looked at now, so that the root cause is known before anyone is told.
    fn look_at_dependencies(self: &Arc<Self>, service: &Service) {
        let roster = self.live.roster();
        let now = self.clock.now();
        for name in roster.registry.graph.dependencies(&service.name) {
            let Some(watched) = roster.find(&name) else { continue };
            let due = {
                let state = &watched.lock().state;
                let recent = state.last_check.is_some_and(|at| crate::domain::time::span(at, now) < RECENTLY);
                !recent && state.failing.is_none()
            };
            if due && watched.service().active {
                self.start_check(watched.clone(), Kind::Confirm, None);
            }
        }
    }

    fn bench<'a>(
        &self,
        config: &'a EngineConfig,
        registry: &'a crate::domain::registry::Registry,
        windows: &'a InForce,
        now: DateTime<Utc>,
    ) -> Bench<'a> {
        Bench { registry, policy: &config.alert, routing: &config.notify.routing, windows, now }
    }

    /// What a decision makes durable and visible.
    fn decided(&self, decision: Decision, now: DateTime<Utc>) -> Transition {
        let mut transition = Transition { withdrawn: decision.withdrawn, ..Transition::default() };
        let config = self.config();
        let due = now + config.notify.group_wait;
        for notice in decision.notices {
            // Those that were told before, if they are still on.
            let on = &config.notify.routing.receivers;
            for receiver in notice.alert.receivers.iter().filter(|receiver| on.contains(receiver)) {
                transition.owed.push(Notification::new(notice.clone(), receiver, due));
            }
        }
        transition.events.extend(decision.happened.iter().map(|(kind, alert)| {
            let record = serde_json::to_value(alert.record()).unwrap_or_default();
            Event::new(*kind, alert.component.service().cloned(), record, now)
        }));
        transition.alerts = decision.changed;
        transition
    }

    /// The event of a change; what a service came from is no news when it was never checked.
    fn event(service: &Service, change: &Change, state: &ServiceState, now: DateTime<Utc>) -> Event {
        let name = Some(service.name.clone());
        match change {
            Change::Status { from, to } => {
                let payload = json!({"from": from, "to": to, "reason": state.reason, "issues": state.issues});
                Event::new(EventKind::StatusChanged, name, payload, now)
            }
            Change::OutageOpened(outage) => Event::new(EventKind::OutageOpened, name, outage.facts(), now),
            Change::OutageClosed(outage) => Event::new(EventKind::OutageResolved, name, outage.facts(), now),
        }
    }

    /// Shows what is committed: to readers, to the shared copy, to receivers.
    pub(crate) fn publish(&self, transition: Transition) {
        self.exporter.owe(&transition.exports);
        for outage in &transition.outages {
            self.live.note_incident(outage);
        }
        for alert in transition.alerts {
            let (severity, kind) = (alert.severity, alert.kind);
            if self.live.put_alert(alert) {
                self.counters.alert(severity, kind);
            }
        }
        for (watched, state, taken) in transition.states {
            let name = &watched.service().name;
            let ended =
                transition.outages.iter().find(|outage| outage.service == *name).and_then(|outage| outage.ended);
            self.live.apply(&watched, state, taken, ended);
            self.mirror.touch(&watched);
        }
        for event in transition.events {
            self.live.events.push(event);
        }
        if transition.beat {
            self.outbox.beat();
        }
        let (settled, changed) = self.outbox.withdraw(&transition.withdrawn);
        self.outbox.owe(transition.owed, self.clock.now(), self.config().notify.group_wait);
        if !changed.is_empty() {
            let mut beside = Transition::default();
            beside.beside.owed = changed;
            drop(self.commit.transition(beside));
        }
        self.settle(settled);
    }

    /// Forgets outbox rows that are delivered, merged or withdrawn.
    fn settle(&self, ids: Vec<String>) {
        if !ids.is_empty() {
            let mut transition = Transition::default();
            transition.beside.settled = ids;
            drop(self.commit.transition(transition));
        }
    }

    /// A receiver has said yes: its rows go, and the alerts know that they were sent.
    pub(crate) fn delivered(&self, deliveries: Vec<Delivery>, ids: Vec<String>) {
        let mut judge = self.judge();
        let mut transition = Transition::default();
        transition.beside.settled = ids;
        let receiver = deliveries.first().map_or("", |known| known.channel.as_str());
        transition.alerts = judge.delivered(receiver, deliveries.iter().map(|known| known.alert_id.as_str()));
        transition.beside.deliveries = deliveries;
        drop(self.commit.transition(transition));
    }

    /// Starts the committer: the last part to stop, since the others still hand it their last news.
    pub fn start_committer(self: &Arc<Self>, stop: &CancellationToken) -> TaskTracker {
        let parts = TaskTracker::new();
        self.supervised(&parts, "committer", stop, |engine, stop| async move {
            engine.committer.lock().await.run(&engine, &stop).await;
        });
        parts
    }

    /// Starts every other long-lived part; they end with `stop`.
    pub fn start(self: &Arc<Self>, stop: &CancellationToken) -> TaskTracker {
        let parts = TaskTracker::new();
        self.supervised(&parts, "scheduler", stop, |engine, stop| async move {
            engine.scheduler.run(&engine, &stop).await;
        });
        self.supervised(&parts, "heartbeat", stop, |engine, stop| async move { engine.send_heartbeats(&stop).await });
        self.supervised(&parts, "recovery", stop, |engine, stop| async move { engine.recover(&stop).await });
        self.supervised(&parts, "references", stop, |engine, stop| async move { engine.ask_references(&stop).await });
        self.supervised(&parts, "evaluator", stop, |engine, stop| async move { engine.evaluate(&stop).await });
        self.supervised(&parts, "keeper", stop, |engine, stop| async move { engine.keep(&stop).await });
        self.supervised(&parts, "export", stop, |engine, stop| async move { engine.export(&stop).await });
        self.supervised(&parts, "host", stop, |engine, stop| async move { engine.watch_host(&stop).await });
        self.supervised(&parts, "mirror", stop, |engine, stop| async move { engine.mirror.run(&engine, &stop).await });
        self.supervised(&parts, "publisher", stop, |engine, stop| async move { engine.publish_events(&stop).await });
        for kind in Inbound::ALL {
            self.supervised(&parts, "listener", stop, move |engine, stop| async move {
                engine.listen(kind, &stop).await;
            });
        }
        for lane in 0..self.outbox.lanes() {
            self.supervised(&parts, "outbox", stop, move |engine, stop| async move {
                engine.outbox.run(lane, &engine, &stop).await;
            });
        }
        parts
    }

    fn supervised<F>(
        self: &Arc<Self>,
        parts: &TaskTracker,
        task: &'static str,
        stop: &CancellationToken,
        part: impl Fn(Arc<Self>, CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (engine, stop) = (self.clone(), stop.clone());
        parts.spawn(async move {
            supervise::supervise(task, engine.counters.clone(), stop.clone(), || part(engine.clone(), stop.clone()))
                .await;
        });
    }

    /// Ends checking: no new check starts, those under way finish within `grace` or are given up. Nothing given up is
    /// blamed on its target.
    pub async fn drain(&self, grace: Duration) {
        self.draining.cancel();
        self.checks.close();
        if tokio::time::timeout(grace, self.checks.wait()).await.is_err() {
            self.cancelled.cancel();
            self.checks.wait().await;
        }
    }

    /// Starts no checks until they are resumed; everything else goes on.
    pub fn pause_checks(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Switches checking and alerting on or off; how it was before. Forgotten at a restart.
    pub fn monitor(&self, on: bool) -> bool {
        let was = !self.off.swap(!on, Ordering::Relaxed);
        // What is kept ready says whether checks run.
        self.live.moved();
        match (was, on) {
            (true, false) => tracing::warn!("monitoring was stopped by hand: no checks, no alerts"),
            (false, true) => tracing::info!("monitoring was started again by hand"),
            _ => {}
        }
        was
    }

    /// Checks run: nobody has switched them off, and this is not the end.
    pub fn is_active(&self) -> bool {
        self.is_monitoring() && !self.is_draining()
    }

    /// Nobody has switched monitoring off.
    pub fn is_monitoring(&self) -> bool {
        !self.off.load(Ordering::Relaxed)
    }

    /// Entries on the schedule.
    pub fn scheduled(&self) -> usize {
        self.scheduler.entries()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// Tells whoever waits for a check that it has ended, however it did.
struct Ended<'a>(&'a Watched);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.notify_waiters();
    }
}

/// Keeps `started = finished + cancelled + in flight` true, however a check ends.
struct Counted<'a> {
    counters: &'a Counters,
    finished: bool,
}

impl Counted<'_> {
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let ended = if self.finished { &self.counters.finished } else { &self.counters.cancelled };
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// An outage knows the failed dependency that explained it when it was confirmed.
fn note_root_cause(decision: &Decision, state: &mut ServiceState, changes: &mut [Change]) {
    for change in changes {
        if let Change::OutageOpened(opened) = change {
            let mut alerts = decision.changed.iter().filter(|alert| alert.component.service() == Some(&opened.service));
            opened.root_cause = alerts.find_map(|alert| alert.root_cause.clone());
            if let Some(outage) = &mut state.outage {
                outage.root_cause.clone_from(&opened.root_cause);
            }
        }
    }
}

fn outage_of(change: &Change) -> Option<Outage> {
    match change {
        Change::OutageOpened(outage) | Change::OutageClosed(outage) => Some(outage.clone()),
        Change::Status { .. } => None,
    }
}

/// The log hears of changes when they are committed.
fn tell(service: &Service, changes: &[Change]) {
    let name = &service.name;
    for change in changes {
        match change {
            Change::Status { from, to } => {
                tracing::info!(service.name = %name, from = from.as_str(), to = to.as_str(), "{name} is {}", to.as_str());
            }
            Change::OutageOpened(outage) => {
                tracing::warn!(service.name = %name, outage.id = %outage.id, reason = outage.reason.as_str(),
                    "outage of {name} since {}: {}", crate::domain::time::Stamp(outage.started), outage.error_message);
            }
            Change::OutageClosed(outage) => {
                let lasted = outage.duration(outage.ended.unwrap_or_default());
                tracing::info!(service.name = %name, outage.id = %outage.id, downtime_s = lasted.as_secs(),
                    "outage of {name} is over after {}", crate::domain::time::spoken(lasted));
            }
        }
    }
}
