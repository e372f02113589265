//! What the monitor counts of itself: `/metrics` shows it, `/health` names what is out of bounds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::alert::{AlertType, Severity};
use crate::domain::histogram::Pool;

/// Why a due check was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipCause {
    /// The one before still runs.
    Running,
    /// Quick re-checks are under way.
    Confirming,
    /// The slot had passed before anyone could look.
    Overload,
    /// Checking is paused.
    Paused,
}

impl SkipCause {
    pub const ALL: [Self; 4] = [Self::Running, Self::Confirming, Self::Overload, Self::Paused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Confirming => "confirming",
            Self::Overload => "overload",
            Self::Paused => "paused",
        }
    }
}

/// What became of an event that is exchanged with other parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventCount {
    Published,
    /// Dealt with and acknowledged.
    Consumed,
    DeadLettered,
}

/// Parts whose loops must never stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Scheduler,
    Evaluator,
    Committer,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Scheduler, Self::Evaluator, Self::Committer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Evaluator => "evaluator",
            Self::Committer => "committer",
        }
    }
}

/// Upper bounds of `infra_scheduler_lateness_seconds`, in seconds: CONTRACT.md section 16.
pub const LATENESS_BOUNDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// Half of what the percentiles of lateness look back over: our choice.
const LATENESS_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Lateness {
    /// Of the last minute or two: a lag shows while it lasts, and not after.
    pool: Pool,
    before: Pool,
    since: Option<Instant>,
    buckets: [u64; LATENESS_BOUNDS.len() + 1],
    sum_seconds: f64,
}

/// The lateness histogram since the start, and percentiles of the last minute or two.
#[derive(Debug, Clone)]
pub struct LatenessSeen {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub buckets: [u64; LATENESS_BOUNDS.len() + 1],
    pub sum_seconds: f64,
}

/// Everything counted. `due = started + skipped`, `started = finished + cancelled + in flight`.
#[derive(Debug, Default)]
pub struct Counters {
    pub started: AtomicU64,
    pub finished: AtomicU64,
    pub cancelled: AtomicU64,
    skipped: [AtomicU64; SkipCause::ALL.len()],
    lateness: Mutex<Lateness>,
    pub records_errors: AtomicU64,
    pub redis_errors: AtomicU64,
    /// Routine checks given up because records could not be written for too long.
    pub commit_dropped: AtomicU64,
    pub api_refused: AtomicU64,
    pub elasticsearch_errors: AtomicU64,
    /// Checks and documents given up before the far side had them.
    pub export_dropped: AtomicU64,
    exported: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    notifications: Mutex<BTreeMap<(String, &'static str), u64>>,
    events: Mutex<BTreeMap<(EventCount, &'static str), u64>>,
    alerts: Mutex<BTreeMap<(Severity, AlertType), u64>>,
    panics: Mutex<BTreeMap<&'static str, u64>>,
    /// Rounds of each part's loop.
    progress: [AtomicU64; Part::ALL.len()],
    /// Parts that the watchdog has found standing still.
    stuck: Mutex<Vec<Part>>,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    pub fn skip(&self, cause: SkipCause, count: u64) {
        self.skipped[cause as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub fn skipped(&self, cause: SkipCause) -> u64 {
        self.skipped[cause as usize].load(Ordering::Relaxed)
    }

    pub fn all_skipped(&self) -> u64 {
        SkipCause::ALL.into_iter().map(|cause| self.skipped(cause)).sum()
    }

    pub fn due(&self) -> u64 {
        self.started.load(Ordering::Relaxed) + self.all_skipped()
    }

    pub fn in_flight(&self) -> u64 {
        let ended = self.finished.load(Ordering::Relaxed) + self.cancelled.load(Ordering::Relaxed);
        self.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// A scheduled check began this long after its slot.
    pub fn late(&self, by: Duration) {
        let seconds = by.as_secs_f64();
        let mut lateness = held(&self.lateness);
        let now = Instant::now();
        if lateness.since.is_none_or(|since| now.duration_since(since) >= LATENESS_WINDOW) {
            lateness.before = std::mem::take(&mut lateness.pool);
            lateness.since = Some(now);
        }
        lateness.pool.record(u32::try_from(by.as_micros()).unwrap_or(u32::MAX));
        let bucket = LATENESS_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENESS_BOUNDS.len());
        lateness.buckets[bucket] += 1;
        lateness.sum_seconds += seconds;
    }

    pub fn lateness(&self) -> LatenessSeen {
        let lateness = held(&self.lateness);
        let mut recent = lateness.pool.clone();
        recent.merge(&lateness.before);
        LatenessSeen {
            p50_ms: recent.percentile_ms(0.5),
            p99_ms: recent.percentile_ms(0.99),
            p999_ms: recent.percentile_ms(0.999),
            buckets: lateness.buckets,
            sum_seconds: lateness.sum_seconds,
        }
    }

    /// `result`: `delivered`, `retried`, `refused` or `merged`.
    pub fn notification(&self, channel: &str, result: &'static str, count: u64) {
        *held(&self.notifications).entry((channel.to_owned(), result)).or_default() += count;
    }

    pub fn notifications(&self) -> BTreeMap<(String, &'static str), u64> {
        held(&self.notifications).clone()
    }

    /// `result`: `accepted`, `retried` or `dead`.
    pub fn exported(&self, index: &'static str, result: &'static str, count: u64) {
        *held(&self.exported).entry((index, result)).or_default() += count;
    }

    /// Documents by index and result.
    pub fn all_exported(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        held(&self.exported).clone()
    }

    /// `name`: the type of the event as other parties know it.
    pub fn event(&self, count: EventCount, name: &'static str) {
        *held(&self.events).entry((count, name)).or_default() += 1;
    }

    pub fn events(&self) -> BTreeMap<(EventCount, &'static str), u64> {
        held(&self.events).clone()
    }

    /// An alert is new on the active list, with the severity it begins with.
    pub fn alert(&self, severity: Severity, kind: AlertType) {
        *held(&self.alerts).entry((severity, kind)).or_default() += 1;
    }

    /// Alerts raised, by severity and type.
    pub fn alerts(&self) -> BTreeMap<(Severity, AlertType), u64> {
        held(&self.alerts).clone()
    }

    pub fn panic(&self, task: &'static str) {
        *held(&self.panics).entry(task).or_default() += 1;
    }

    /// A part has come around its loop.
    pub fn progress(&self, part: Part) {
        self.progress[part as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each part has.
    pub fn rounds(&self) -> [u64; Part::ALL.len()] {
        Part::ALL.map(|part| self.progress[part as usize].load(Ordering::Relaxed))
    }

    pub fn note_stuck(&self, parts: &[Part]) {
        *held(&self.stuck) = parts.to_vec();
    }

    pub fn stuck(&self) -> Vec<Part> {
        held(&self.stuck).clone()
    }

    pub fn panics(&self) -> BTreeMap<&'static str, u64> {
        held(&self.panics).clone()
    }
}
