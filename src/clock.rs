//! The wall clock: the system's, or one moved by hand in tests. The only caller of `Utc::now`. Spans are measured with
//! the monotonic clock where they matter; this one dates things.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::time::from_ms;

/// Tells the time, in whole milliseconds: what is stored equals what was shown.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// Milliseconds since the epoch, moved by [`Clock::advance`].
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.timestamp_millis())))
    }

    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Self::System => from_ms(Utc::now().timestamp_millis()),
            Self::Manual(ms) => from_ms(ms.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock on; the system's is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(ms) = self {
            ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::Relaxed);
        }
    }
}
