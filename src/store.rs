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
use std::time::Duration;

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
