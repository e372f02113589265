//! The live view: state of every service and the counts over them. What the API reads; what checks write.
//!
//! Each service has a lock of its own, held for microseconds and never across an await. Counts by status are kept up to
//! date on each change, so that `/health`, `/status/critical` and the dashboard cost the same for 9 services and for
//! 20,000.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::domain::alert::{Alert, AlertType, Component, Severity};
use crate::domain::check::{Check, name_hash};
use crate::domain::histogram::Pool;
use crate::domain::maintenance::{InForce, Span};
use crate::domain::observation::{Observation, Reason};
use crate::domain::outage::{Outage, OutageSeverity};
use crate::domain::policy::DetectionPolicy;
use crate::domain::registry::Registry;
use crate::domain::service::{Service, ServiceName};
use crate::domain::state::ServiceState;
use crate::domain::status::{Status, StatusCounts, critical_word};
use crate::domain::system::{Word, word};
use crate::domain::window::{Counts, FleetWindow, History};
use crate::events::Recent;

/// How long a number that is costly over many critical services stands: our choice.
const FLEET_FRESHNESS: Duration = Duration::from_secs(1);

/// Resolved alerts kept for the shared copy while it is away: our choice; beyond it their keys expire by themselves.
const ENDED_ALERTS: usize = 10_000;

/// Upper bounds of `infra_probe_duration_seconds`, in microseconds: CONTRACT.md section 16.
pub const DURATION_BOUNDS_US: [u32; 14] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 3_000_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// Counters of one service since this process started.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub results: Vec<(Option<Status>, Reason, u64)>,
    pub buckets: [u32; DURATION_BOUNDS_US.len() + 1],
    pub sum_us: u64,
    /// Outages opened, by [`OutageSeverity`].
    pub outages: [u32; OutageSeverity::ALL.len()],
}

impl Tally {
    fn count(&mut self, status: Option<Status>, reason: Reason, response_us: Option<u32>) {
        match self.results.iter_mut().find(|(s, r, _)| (*s, *r) == (status, reason)) {
            Some((_, _, count)) => *count += 1,
            None => self.results.push((status, reason, 1)),
        }
        self.time(response_us);
    }

    /// The answer to the latest check, which was counted before it came.
    fn amend(&mut self, reason: Reason, response_us: Option<u32>) {
        let early = (Some(Status::Unhealthy), Reason::Latency);
        if reason != Reason::Latency
            && let Some((_, _, count)) = self.results.iter_mut().find(|(s, r, _)| (*s, *r) == early)
        {
            *count = count.saturating_sub(1);
            self.count(early.0, reason, None);
        }
        self.time(response_us);
    }

    fn time(&mut self, response_us: Option<u32>) {
        if let Some(us) = response_us {
            let bucket = DURATION_BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(DURATION_BOUNDS_US.len());
            self.buckets[bucket] += 1;
            self.sum_us += u64::from(us);
        }
    }
}

/// A check on its way into the live view, with the maintenance windows since the one before.
#[derive(Debug, Clone)]
pub struct Taken {
    pub check: Check,
    pub windows: Vec<Span>,
}

/// What changes with each check.
#[derive(Debug, Default)]
pub struct Inner {
    pub state: ServiceState,
    pub history: History,
    pub tally: Tally,
    /// A maintenance window is in force for it.
    pub in_maintenance: bool,
    /// Rises with what changes beside checks.
    turned: u64,
    /// What it is counted as; `None` while it is not on the roster.
    counted: Option<CountedAs>,
}

/// How a service is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CountedAs {
    status: Status,
    in_maintenance: bool,
    /// It is in the overall words: neither in maintenance nor inactive.
    judged: bool,
    /// It is not well in the words of 004, whose limits differ.
    amiss: bool,
}

/// Counts over the fleet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fleet {
    /// Every service, by its own status.
    pub all: StatusCounts,
    /// Those in the overall words.
    pub judged: StatusCounts,
    pub in_maintenance: usize,
    /// Those in the overall words that are not well in the words of 004.
    pub amiss: usize,
}

impl Fleet {
    fn add(&mut self, counted: CountedAs) {
        self.all.add(counted.status);
        if counted.judged {
            self.judged.add(counted.status);
        }
        self.in_maintenance += usize::from(counted.in_maintenance);
        self.amiss += usize::from(counted.amiss);
    }

    fn remove(&mut self, counted: CountedAs) {
        self.all.remove(counted.status);
        if counted.judged {
            self.judged.remove(counted.status);
        }
        self.in_maintenance = self.in_maintenance.saturating_sub(usize::from(counted.in_maintenance));
        self.amiss = self.amiss.saturating_sub(usize::from(counted.amiss));
    }
}

/// One service being watched.
#[derive(Debug)]
pub struct Watched {
    definition: ArcSwap<Service>,
    pub hash: u64,
    turn: AtomicU8,
    retired: AtomicBool,
    /// Its connections may be pooled: the pool is bounded.
    pub pooled: AtomicBool,
    /// Redis has not heard the latest of it.
    pub(super) unmirrored: AtomicBool,
    /// Checks that Redis has seen, as [`History::recorded`] counts them.
    pub(super) mirrored: AtomicU64,
    /// Redis holds an entry that has changed since: the history is written whole.
    pub(super) mirror_whole: AtomicBool,
    /// Rises when it is put on the schedule anew: older entries are void.
    pub(super) scheduled: AtomicU64,
    /// Given when a check under way is not wanted any more.
    interrupted: Notify,
    /// Given when a check has ended, however it did, and when the turn is given back.
    pub(super) ended: Notify,
    /// Given when the next quick re-check is wanted at once.
    pub(super) hurried: Notify,
    /// When a check was last asked for by hand, unix ms.
    pub(super) asked_at: AtomicI64,
    /// Where its entry is on the schedule, in milliseconds of the wheel's axis.
    pub(super) due_ms: AtomicU64,
    /// It waits for its checks to be written to the check history.
    pub(super) to_keep: AtomicBool,
    inner: Mutex<Inner>,
}

/// Between looks at whether a check has been given up: our choice.
const SEIZING: Duration = Duration::from_millis(2);

const FREE: u8 = 0;
const RUNNING: u8 = 1;
const CONFIRMING: u8 = 2;

/// The right to check a service, held by one at a time.
#[derive(Debug)]
pub struct Turn(Arc<Watched>);

impl Turn {
    /// From here on it is quick re-checks.
    pub fn confirming(&self) {
        self.0.turn.store(CONFIRMING, Ordering::Release);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.turn.store(FREE, Ordering::Release);
        self.0.ended.notify_waiters();
    }
}

impl Watched {
    pub fn new(service: Arc<Service>, state: ServiceState, history: History) -> Arc<Self> {
        Arc::new(Self {
            hash: name_hash(&service.name),
            definition: ArcSwap::new(service),
            turn: AtomicU8::new(FREE),
            retired: AtomicBool::new(false),
            pooled: AtomicBool::new(false),
            unmirrored: AtomicBool::new(false),
            mirrored: AtomicU64::new(0),
            mirror_whole: AtomicBool::new(false),
            scheduled: AtomicU64::new(0),
            interrupted: Notify::new(),
            ended: Notify::new(),
            hurried: Notify::new(),
            asked_at: AtomicI64::new(0),
            due_ms: AtomicU64::new(0),
            to_keep: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                state,
                history,
                tally: Tally::default(),
                in_maintenance: false,
                turned: 0,
                counted: None,
            }),
        })
    }

    /// The definition as it is now.
    pub fn service(&self) -> Arc<Service> {
        self.definition.load_full()
    }

    /// It is defined by this very value.
    pub(super) fn is_defined_by(&self, service: &Arc<Service>) -> bool {
        Arc::ptr_eq(&self.definition.load(), service)
    }

    pub(super) fn redefine(&self, service: Arc<Service>) {
        self.definition.store(service);
    }

    /// Takes the turn, unless someone has it: then says what they are doing.
    pub fn take_turn(self: &Arc<Self>) -> Result<Turn, super::counters::SkipCause> {
        match self.turn.compare_exchange(FREE, RUNNING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(Turn(self.clone())),
            Err(CONFIRMING) => Err(super::counters::SkipCause::Confirming),
            Err(_) => Err(super::counters::SkipCause::Running),
        }
    }

    /// Comes when a check under way is to be given up.
    pub(super) async fn interrupted(&self) {
        self.interrupted.notified().await;
    }

    /// Gives up a check under way and takes the turn: until it is given back nothing reports about this service.
    pub(super) async fn seize(self: &Arc<Self>) -> Turn {
        loop {
            if let Ok(turn) = self.take_turn() {
                return turn;
            }
            self.interrupted.notify_waiters();
            tokio::time::sleep(SEIZING).await;
        }
    }

    /// Rises with every check and change of this service.
    pub fn generation(&self) -> u64 {
        let inner = self.lock();
        // The definition may change without a check: its fingerprint moves the number.
        inner.history.recorded().wrapping_add(inner.state.sequence).wrapping_add(inner.turned)
            ^ self.service().fingerprint.rotate_left(32)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// No longer watched: nothing it still reports counts.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        held(&self.inner)
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who is watched, in order and by name.
#[derive(Debug, Default)]
pub struct Roster {
    pub registry: Arc<Registry>,
    /// In the order of the registry.
    pub watched: Vec<Arc<Watched>>,
    /// Those with the critical flag, active ones only.
    pub critical: Vec<Arc<Watched>>,
    /// Those with a recovery action.
    pub recovering: Vec<Arc<Watched>>,
    /// Critical services whose outage may take longer to be told than is promised, and how long.
    pub broken_promises: Vec<(ServiceName, Duration)>,
}

impl Roster {
    pub fn new(registry: Arc<Registry>, watched: Vec<Arc<Watched>>, detection: &DetectionPolicy) -> Self {
        let defined = registry.services().iter().zip(&watched);
        let critical: Vec<Arc<Watched>> = defined
            .filter(|(service, _)| service.critical && service.active)
            .map(|(_, watched)| watched.clone())
            .collect();
        let worst_cases = critical.iter().map(|watched| {
            let service = watched.service();
            (service.name.clone(), service.worst_case_detection(detection))
        });
        let broken_promises = worst_cases.filter(|(_, worst)| *worst > detection.promise).collect();
        let recovering = watched.iter().filter(|watched| watched.service().recovery.is_some()).cloned().collect();
        Self { registry, watched, critical, recovering, broken_promises }
    }

    pub fn find(&self, name: &ServiceName) -> Option<&Arc<Watched>> {
        self.watched.get(self.registry.place(name)?)
    }
}

/// How the critical services stand.
#[derive(Debug, Clone)]
pub struct CriticalView {
    pub word: &'static str,
    pub issues: usize,
    /// In registry order.
    pub statuses: Vec<(ServiceName, Status)>,
}

/// The active list, shared.
pub type AlertList = Arc<Vec<Arc<Alert>>>;

/// State of every service and the counts over them.
#[derive(Debug, Default)]
pub struct Live {
    roster: ArcSwap<Roster>,
    counts: Mutex<Fleet>,
    /// The windows the counts know of.
    followed: ArcSwapOption<InForce>,
    alerts: Mutex<BTreeMap<String, Arc<Alert>>>,
    /// The active list in order, and the generation it is of.
    alert_list: Mutex<Option<(u64, AlertList)>>,
    /// Alerts that resolved since the mirror last looked, so that Redis hears of their end.
    pub(super) ended_alerts: Mutex<Vec<Arc<Alert>>>,
    pub events: Recent,
    last_incident: Mutex<Option<Outage>>,
    window: Mutex<FleetWindow>,
    /// Rises with every check and change: lists carry it as their tag.
    generation: AtomicU64,
    /// Rises when a status or the roster changes.
    status_generation: AtomicU64,
    /// Rises when an alert changes.
    alert_generation: AtomicU64,
    critical: Mutex<Option<(u64, Arc<CriticalView>)>>,
    uptime: Mutex<Option<(Instant, f64)>>,
}

impl Live {
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    /// Puts another roster in place, and counts its services: those that are `new` or changed, and no more those `gone`.
    pub(super) fn replace_roster(&self, roster: Roster, new: &[Arc<Watched>], gone: &[Arc<Watched>]) {
        self.roster.store(Arc::new(roster));
        // Always the service's lock first, then the counts'.
        for watched in new {
            let mut inner = watched.lock();
            self.count(&mut inner, &watched.service());
        }
        for watched in gone {
            if let Some(counted) = watched.lock().counted.take() {
                held(&self.counts).remove(counted);
            }
        }
        self.touch(true);
    }

    pub fn find(&self, name: &ServiceName) -> Option<Arc<Watched>> {
        self.roster.load().find(name).cloned()
    }

    /// Counts a service as what it is now. Under the service's lock, so that a count never misses or doubles a change.
    fn count(&self, inner: &mut Inner, service: &Service) {
        let judged = service.active && !inner.in_maintenance;
        let now = CountedAs {
            status: inner.state.status,
            in_maintenance: inner.in_maintenance,
            judged,
            amiss: judged && matches!(word(service, (&inner.state).into()), Word::Degraded | Word::Down),
        };
        if inner.counted != Some(now) {
            let mut counts = held(&self.counts);
            if let Some(before) = inner.counted.replace(now) {
                counts.remove(before);
            }
            counts.add(now);
        }
    }

    /// Counts services in maintenance as such. Nothing to do while the windows in force are the same.
    pub(super) fn follow_windows(&self, in_force: &Arc<InForce>) {
        if !self.followed.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, in_force)) {
            self.followed.store(Some(in_force.clone()));
            self.follow_anew(in_force);
        }
    }

    /// Looks at every service anew: the windows, or the services, have changed.
    pub(super) fn follow_anew(&self, in_force: &InForce) {
        if in_force.windows.is_empty() && self.fleet().in_maintenance == 0 {
            return;
        }
        let mut changed = false;
        for watched in &self.roster().watched {
            let service = watched.service();
            let covered = !in_force.windows.is_empty() && in_force.covers(&service).is_some();
            let mut inner = watched.lock();
            if inner.in_maintenance != covered {
                inner.in_maintenance = covered;
                inner.turned += 1;
                self.count(&mut inner, &service);
                changed = true;
            }
        }
        if changed {
            self.touch(true);
        }
    }

    fn touch(&self, status: bool) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if status {
            self.status_generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something beside the services has changed that lists show.
    pub(super) fn moved(&self) {
        self.touch(false);
    }

    /// Puts a service's new state in place, with the check that made it.
    /// `ended`: when an outage ended that no check closed.
    pub(super) fn apply(
        &self,
        watched: &Watched,
        state: ServiceState,
        taken: Option<Taken>,
        ended: Option<DateTime<Utc>>,
    ) {
        if watched.is_retired() {
            return;
        }
        let service = watched.service();
        let mut inner = watched.lock();
        let (from, to) = (inner.state.status, state.status);
        match (&inner.state.outage, &state.outage) {
            (None, Some(opened)) => {
                inner.history.open_outage(opened.started);
                inner.tally.outages[opened.severity as usize] += 1;
            }
            (Some(_), None) => {
                let first_good = taken.as_ref().map(|taken| taken.check.at());
                let first_good = inner.state.recovering_from.or(first_good).or(ended).unwrap_or_default();
                inner.history.close_outage(first_good);
            }
            _ => {}
        }
        inner.state = state;
        if let Some(Taken { check, windows }) = taken {
            inner.tally.count(Some(check.status), check.reason, check.response_us);
            if !check.maintenance {
                held(&self.window).record(check.at_ms, check.status == Status::Healthy, check.response_us);
            }
            inner.history.record(check, service.hold(), &windows);
        }
        if inner.counted.is_some() {
            self.count(&mut inner, &service);
        }
        drop(inner);
        self.touch(from != to);
    }

    /// The true outcome of a check that was judged before its answer came.
    pub(super) fn amend(&self, watched: &Watched, state: ServiceState, check: Check) {
        let mut inner = watched.lock();
        inner.state = state;
        inner.tally.amend(check.reason, check.response_us);
        if let Some(us) = check.response_us.filter(|_| !check.maintenance) {
            held(&self.window).late_answer(check.at_ms, us);
        }
        inner.history.amend(check);
        inner.turned += 1;
        drop(inner);
        watched.mirror_whole.store(true, Ordering::Release);
        self.touch(false);
    }

    /// A check that said nothing about its target.
    pub(super) fn inconclusive(&self, watched: &Watched, seen: &Observation) {
        let reason = seen.reply.as_ref().map_or_else(|failure| failure.reason, |_| Reason::Inconclusive);
        watched.lock().tally.count(None, reason, None);
    }

    /// Puts an alert as it is now in its place; whether it is new on the active list.
    pub(super) fn put_alert(&self, alert: Alert) -> bool {
        let alert = Arc::new(alert);
        let mut alerts = held(&self.alerts);
        let mut is_new = false;
        if alert.is_listed() {
            is_new = alerts.insert(alert.id.clone(), alert).is_none();
        } else {
            alerts.remove(&alert.id);
            let mut ended = held(&self.ended_alerts);
            if ended.len() < ENDED_ALERTS {
                ended.push(alert);
            }
        }
        drop(alerts);
        self.alert_generation.fetch_add(1, Ordering::AcqRel);
        self.touch(false);
        is_new
    }

    pub(super) fn alert_generation(&self) -> u64 {
        self.alert_generation.load(Ordering::Acquire)
    }

    /// The active list, worst first, then oldest first; made anew only when an alert has changed.
    pub fn alerts(&self) -> AlertList {
        let generation = self.alert_generation();
        let mut kept = held(&self.alert_list);
        if let Some((of, list)) = &*kept
            && *of == generation
        {
            return list.clone();
        }
        let mut list: Vec<Arc<Alert>> = held(&self.alerts).values().cloned().collect();
        list.sort_by(|a, b| {
            b.severity.cmp(&a.severity).then(a.triggered_at.cmp(&b.triggered_at)).then_with(|| a.id.cmp(&b.id))
        });
        let list = Arc::new(list);
        *kept = Some((generation, list.clone()));
        list
    }

    /// The living alert of one kind about one component.
    pub fn find_alert(&self, component: &Component, kind: AlertType) -> Option<Arc<Alert>> {
        // Ids begin with component and kind; another component may begin with both.
        let prefix = Alert::id_for(component, kind, 0);
        let prefix = prefix.trim_end_matches('0');
        let alerts = held(&self.alerts);
        let mut found = alerts.range(prefix.to_owned()..).take_while(|(id, _)| id.starts_with(prefix));
        found.find(|(_, alert)| alert.component == *component && alert.kind == kind).map(|(_, alert)| alert.clone())
    }

    pub fn alert_count(&self) -> usize {
        held(&self.alerts).len()
    }

    /// Alerts on the active list by severity and type.
    pub fn alert_tally(&self) -> BTreeMap<(Severity, AlertType), usize> {
        let mut tally = BTreeMap::new();
        for alert in held(&self.alerts).values() {
            *tally.entry((alert.severity, alert.kind)).or_default() += 1;
        }
        tally
    }

    /// Notes an outage of a critical service if it is the latest.
    pub(super) fn note_incident(&self, outage: &Outage) {
        let mut last = held(&self.last_incident);
        if outage.critical && last.as_ref().is_none_or(|last| last.started <= outage.started) {
            *last = Some(outage.clone());
        }
    }

    /// Nothing is remembered of `name`.
    pub(super) fn forget_incident(&self, name: &ServiceName) {
        let mut last = held(&self.last_incident);
        if last.as_ref().is_some_and(|outage| outage.service == *name) {
            *last = None;
        }
    }

    /// The latest outage of a critical service, open or closed.
    pub fn last_incident(&self) -> Option<Outage> {
        held(&self.last_incident).clone()
    }

    /// Every service by its own status.
    pub fn counts(&self) -> StatusCounts {
        held(&self.counts).all
    }

    /// Counts over the fleet: all, those in the overall words, those in maintenance.
    pub fn fleet(&self) -> Fleet {
        *held(&self.counts)
    }

    /// How the critical services stand; made anew only when a status has changed.
    pub fn critical(&self) -> Arc<CriticalView> {
        let generation = self.status_generation.load(Ordering::Acquire);
        let mut cached = held(&self.critical);
        if let Some((of, view)) = &*cached
            && *of == generation
        {
            return view.clone();
        }
        let roster = self.roster();
        let (mut issues, mut judged) = (0, 0);
        let mut statuses = Vec::with_capacity(roster.critical.len());
        for watched in &roster.critical {
            let inner = watched.lock();
            // In maintenance it keeps its own status, and is no issue.
            if !inner.in_maintenance {
                judged += 1;
                issues += usize::from(inner.state.status != Status::Healthy);
            }
            statuses.push((watched.service().name.clone(), inner.state.status));
        }
        let view = Arc::new(CriticalView { word: critical_word(issues, judged), issues, statuses });
        *cached = Some((generation, view.clone()));
        view
    }

    /// Smallest uptime among critical services that have data, in percent; 100 without any. At most a second old.
    pub fn system_uptime(&self, now: DateTime<Utc>) -> f64 {
        let mut cached = held(&self.uptime);
        if let Some((at, percent)) = *cached
            && at.elapsed() < FLEET_FRESHNESS
        {
            return percent;
        }
        let roster = self.roster();
        let uptimes = roster.critical.iter().filter_map(|watched| watched.lock().history.parts(now).uptime_percent());
        let percent = uptimes.fold(100.0, f64::min);
        *cached = Some((Instant::now(), percent));
        percent
    }

    /// Counts and response times of the last day over all services, and checks in the last minute.
    pub fn day(&self, now: DateTime<Utc>) -> (Counts, Pool, u64) {
        held(&self.window).day(now)
    }

    /// The minutes of the fleet that are over, each once.
    pub(super) fn take_minutes(&self, now: DateTime<Utc>) -> Vec<crate::domain::rollup::Rollup> {
        held(&self.window).take_minutes(now.timestamp_millis())
    }

    pub(super) fn absorb(&self, history: &History) {
        held(&self.window).absorb(history);
    }
}
