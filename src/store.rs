//! What is kept where, and what each store promises (DESIGN.md section 3).
//!
//! [`records`] is the durable truth: what was committed there survives `kill -9`, and with its defaults a power cut.
//! [`redis`] is a shared, expiring copy for others to read: written behind, never waited for, never a condition.
//! [`streams`] are how other parties hear our events and we hear theirs.

pub mod keys;
pub mod records;
pub mod redis;
pub mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secrecy::SecretString;

/// Where records live.
#[derive(Debug, Clone)]
pub enum RecordsAddress {
    Sqlite(PathBuf),
    SqliteMemory,
    Postgres(SecretString),
}

/// Settings of the stores: sections `[redis]`, `[records]` and `[retention]`.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub records: RecordsAddress,
    /// False: check history stays in memory only.
    pub persist_checks: bool,
    pub redis: RedisConfig,
    pub streams: StreamsConfig,
    /// How long check history is kept.
    pub check_retention: Duration,
    /// How long closed outages and resolved alerts are kept; `None`: for ever.
    pub outage_retention: Option<Duration>,
    pub cleanup_interval: Duration,
}

/// Settings of the shared copy.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `None`: no Redis.
    pub url: Option<SecretString>,
    /// The operator named the address, so that its absence is a problem.
    pub explicit: bool,
    pub database: i64,
    pub ttl: Duration,
    pub prefix: String,
}

/// Settings of the event streams: section `[events]`.
#[derive(Debug, Clone)]
pub struct StreamsConfig {
    pub stream_prefix: String,
    pub group_prefix: String,
    pub dead_prefix: String,
    /// Our name in events and groups.
    pub source: String,
    /// About how many entries each stream keeps.
    pub longest: usize,
    /// Incoming events older than this raise nothing.
    pub max_age: Duration,
    /// The consumer groups begin at the oldest entries when the service starts.
    pub from_beginning: bool,
    /// What a consumer took and left unsettled for this long is taken over.
    pub claim_idle: Duration,
}

/// Upper bounds of `infra_store_duration_seconds`, in seconds: our choice, from a local write to a call that has waited
/// for its deadline.
pub const STORE_BOUNDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// How long the calls of one store took, done or not, with the time they waited for their turn.
#[derive(Debug, Default)]
pub struct Timings {
    buckets: [AtomicU64; STORE_BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Timings {
    /// Waits for a call, and notes how long it took. One that is given up counts as well.
    pub async fn time<T>(&self, call: impl Future<Output = T>) -> T {
        let _noted = Noted(self, Instant::now());
        call.await
    }

    fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = STORE_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(STORE_BOUNDS.len());
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Calls by [`STORE_BOUNDS`], and how long they took together.
    pub fn seen(&self) -> ([u64; STORE_BOUNDS.len() + 1], Duration) {
        let counts = std::array::from_fn(|place| self.buckets[place].load(Ordering::Relaxed));
        (counts, Duration::from_micros(self.sum_us.load(Ordering::Relaxed)))
    }
}

/// A call under way.
struct Noted<'a>(&'a Timings, Instant);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.note(self.1.elapsed());
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("records unreachable: {0}")]
    Unavailable(#[source] BoxError),
    #[error("records file is damaged: {0}")]
    Damaged(#[source] BoxError),
    #[error("records at {place} are in use by another process")]
    InUse { place: String },
    #[error("records were written by a newer version (schema {found}, this one knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("stored {what} is unreadable")]
    Corrupt { what: &'static str, source: serde_json::Error },
}

impl StoreError {
    /// What is stored cannot be read: no attempt will change that.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Corrupt { .. })
    }
}
