//! When a service is due: fixed cadence, phase from the hash of its name (DESIGN.md D4). Pure arithmetic on milliseconds
//! of a monotonic clock whose zero the caller ties to wall time, so that phases survive a restart.

use std::time::Duration;

/// Slots begin on multiples of this many milliseconds, the width of the scheduler's tick: whoever is due together is
/// started together, and on time.
pub const TICK_MS: u64 = 10;

/// A service's cadence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    interval_ms: u64,
    phase_ms: u64,
}

impl Cadence {
    /// `hash`: of the service's name. An interval under a millisecond counts as one.
    pub fn new(hash: u64, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        // FNV mixes its low bits well and its high ones poorly: fold before taking the remainder.
        let phase_ms = (hash ^ (hash >> 32)) % interval_ms;
        Self { interval_ms, phase_ms: phase_ms - phase_ms % TICK_MS }
    }

    /// The first slot at or after `at_ms`.
    pub fn first_at_or_after(&self, at_ms: u64) -> u64 {
        let into = at_ms % self.interval_ms;
        let wait = (self.phase_ms + self.interval_ms - into) % self.interval_ms;
        at_ms.saturating_add(wait)
    }

    /// The slot after `slot_ms` that is still ahead of `now_ms`, and how many in between were missed.
    pub fn next(&self, slot_ms: u64, now_ms: u64) -> (u64, u64) {
        let next = slot_ms.saturating_add(self.interval_ms);
        if next > now_ms {
            return (next, 0);
        }
        let missed = (now_ms - next) / self.interval_ms + 1;
        (next.saturating_add(missed * self.interval_ms), missed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_missed_slot_is_skipped_and_counted_and_the_cadence_stays() {
        let cadence = Cadence::new(0, Duration::from_secs(10));
        assert_eq!(cadence.first_at_or_after(0), 0);
        assert_eq!(cadence.first_at_or_after(1), 10_000);
        assert_eq!(cadence.next(10_000, 10_003), (20_000, 0));
        assert_eq!(cadence.next(10_000, 19_999), (20_000, 0));
        assert_eq!(cadence.next(10_000, 20_000), (30_000, 1));
        assert_eq!(cadence.next(10_000, 45_000), (50_000, 3));
    }

    proptest! {
        #[test]
        fn the_first_slot_is_within_one_interval_and_in_phase(
            hash in any::<u64>(), seconds in 1u64..100_000, at in 0u64..10_000_000_000_000,
        ) {
            let interval = Duration::from_secs(seconds);
            let cadence = Cadence::new(hash, interval);
            let first = cadence.first_at_or_after(at);
            prop_assert!(first >= at && first - at < seconds * 1000);
            let (second, missed) = cadence.next(first, first);
            prop_assert_eq!((second, missed), (first + seconds * 1000, 0));
            prop_assert_eq!(cadence.first_at_or_after(first + 1), second);
        }
    }
}
