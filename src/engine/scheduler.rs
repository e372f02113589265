//! Who is due now (DESIGN.md D4): a timing wheel with slots of 10 ms, one task that looks at it. An entry is a service
//! and an instant; what has changed or gone is dropped when its entry comes up.
//!
//! Instants are milliseconds on an axis that is wall time at the start and monotonic from there on: phases survive a
//! restart, and no step of the wall clock moves a check.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::counters::{Part, SkipCause};
use super::live::Watched;
use crate::domain::observation::Kind;
use crate::domain::schedule::{Cadence, TICK_MS};

/// Width of a slot: DESIGN.md D4 and section 5, wake-ups gathered on a tick of about 10 ms.
const SLOT_MS: u64 = TICK_MS;
const SLOT: Duration = Duration::from_millis(SLOT_MS);
/// Slots of the wheel: our choice, 41 s; an entry further off stays in its slot for another turn.
const SLOTS: usize = 4096;

#[derive(Debug)]
struct Entry {
    due_ms: u64,
    watched: Weak<Watched>,
    cadence: Cadence,
    generation: u64,
}

/// Entries by the slot they come up in.
#[derive(Debug)]
struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// The slot that was looked at last, counted from the zero of the axis.
    looked_at: u64,
}

impl Wheel {
    fn new(now_ms: u64) -> Self {
        Self { slots: std::iter::repeat_with(Vec::new).take(SLOTS).collect(), looked_at: now_ms / SLOT_MS }
    }

    fn insert(&mut self, entry: Entry) {
        // What is due already comes up with the next look.
        let slot = (entry.due_ms.div_ceil(SLOT_MS)).max(self.looked_at + 1);
        if let Some(entries) = self.slots.get_mut((slot % SLOTS as u64) as usize) {
            entries.push(entry);
        }
    }

    /// Forgets the entries of `watched` in the slot that `due_ms` comes up in.
    fn remove(&mut self, due_ms: u64, watched: &Arc<Watched>) {
        let slot = due_ms.div_ceil(SLOT_MS);
        let is_it = |entry: &Entry| entry.watched.as_ptr() == Arc::as_ptr(watched);
        // An entry that was due when it was put in stands in the slot after the one looked at then.
        for slot in [slot, slot + 1] {
            if let Some(entries) = self.slots.get_mut((slot % SLOTS as u64) as usize) {
                entries.retain(|entry| !is_it(entry));
            }
        }
    }

    /// Everything due by `now_ms`, earliest slot first.
    fn pop_due(&mut self, now_ms: u64) -> Vec<Entry> {
        let last = now_ms / SLOT_MS;
        // After a long pause each slot is looked at once, whatever its turn.
        let first = (self.looked_at + 1).max(last.saturating_sub(SLOTS as u64 - 1));
        let mut due = Vec::new();
        for slot in first..=last {
            let Some(entries) = self.slots.get_mut((slot % SLOTS as u64) as usize) else { continue };
            let mut at = 0;
            while let Some(entry) = entries.get(at) {
                if entry.due_ms <= now_ms {
                    due.push(entries.swap_remove(at));
                } else {
                    at += 1;
                }
            }
        }
        self.looked_at = self.looked_at.max(last);
        due
    }
}

/// The schedule of every service.
#[derive(Debug)]
pub struct Scheduler {
    wheel: Mutex<Wheel>,
    zero: Instant,
    zero_ms: u64,
}

impl Scheduler {
    /// A schedule whose axis begins at `unix_ms` now.
    pub fn new(unix_ms: u64) -> Self {
        Self { wheel: Mutex::new(Wheel::new(unix_ms)), zero: Instant::now(), zero_ms: unix_ms }
    }

    fn now_ms(&self) -> u64 {
        self.zero_ms + u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, ms: u64) -> Instant {
        self.zero + Duration::from_millis(ms.saturating_sub(self.zero_ms))
    }

    fn wheel(&self) -> MutexGuard<'_, Wheel> {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a service on the wheel, at its next slot.
    pub fn add(&self, watched: &Arc<Watched>) {
        let cadence = Cadence::new(watched.hash, watched.service().interval);
        let due_ms = cadence.first_at_or_after(self.now_ms());
        self.remove(watched);
        let generation = watched.scheduled.fetch_add(1, Ordering::AcqRel) + 1;
        watched.due_ms.store(due_ms, Ordering::Release);
        self.wheel().insert(Entry { due_ms, watched: Arc::downgrade(watched), cadence, generation });
    }

    /// Takes a service off the wheel.
    pub fn remove(&self, watched: &Arc<Watched>) {
        if watched.scheduled.fetch_add(1, Ordering::AcqRel) > 0 {
            self.wheel().remove(watched.due_ms.load(Ordering::Acquire), watched);
        }
    }

    /// Entries on the wheel.
    pub fn entries(&self) -> usize {
        self.wheel().slots.iter().map(Vec::len).sum()
    }

    /// Starts what is due, every slot, until `stop`.
    pub async fn run(&self, engine: &Arc<Engine>, stop: &CancellationToken) {
        let first = (self.now_ms() / SLOT_MS + 1) * SLOT_MS;
        let mut beat = tokio::time::interval_at(self.at(first), SLOT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = beat.tick() => {
                    engine.counters.progress(Part::Scheduler);
                    self.look(engine);
                }
            }
        }
    }

    fn look(&self, engine: &Arc<Engine>) {
        let now_ms = self.now_ms();
        let due = self.wheel().pop_due(now_ms);
        for entry in due {
            let Some(watched) = entry.watched.upgrade() else { continue };
            let service = watched.service();
            // An entry of an older definition: the new one has its own.
            let current = entry.generation == watched.scheduled.load(Ordering::Acquire);
            if watched.is_retired() || !service.active || !current {
                continue;
            }
            let (next_ms, missed) = entry.cadence.next(entry.due_ms, now_ms);
            if missed > 0 {
                engine.counters.skip(SkipCause::Overload, missed);
            }
            let planned = self.at(entry.due_ms);
            watched.due_ms.store(next_ms, Ordering::Release);
            self.wheel().insert(Entry { due_ms: next_ms, ..entry });
            engine.start_check(watched, Kind::Scheduled, Some(planned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::service::tests::service;

    fn entry(watched: &Arc<Watched>, due_ms: u64) -> Entry {
        Entry { due_ms, watched: Arc::downgrade(watched), cadence: Cadence::new(0, SLOT), generation: 0 }
    }

    fn due(wheel: &mut Wheel, now_ms: u64) -> Vec<u64> {
        let mut due: Vec<u64> = wheel.pop_due(now_ms).iter().map(|entry| entry.due_ms).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_come_up_in_their_slot_and_not_before() {
        let watched = Watched::new(Arc::new(service("a")), Default::default(), Default::default());
        let mut wheel = Wheel::new(1_000_000);
        for due_ms in [1_000_005, 1_000_010, 1_000_999, 1_000_000 + 41_000 * 3, 999_000] {
            wheel.insert(entry(&watched, due_ms));
        }
        assert_eq!(due(&mut wheel, 1_000_009), [0u64; 0]);
        assert_eq!(due(&mut wheel, 1_000_010), [999_000, 1_000_005, 1_000_010]);
        assert_eq!(due(&mut wheel, 1_000_998), [0u64; 0]);
        assert_eq!(due(&mut wheel, 1_001_000), [1_000_999]);
        assert_eq!(due(&mut wheel, 1_000_000 + 41_000 * 2), [0u64; 0]);
        assert_eq!(due(&mut wheel, 1_000_000 + 41_000 * 3), [1_123_000]);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let watched = Watched::new(Arc::new(service("a")), Default::default(), Default::default());
        let mut wheel = Wheel::new(0);
        (0..100).for_each(|n| wheel.insert(entry(&watched, n * 1000)));
        assert_eq!(due(&mut wheel, 10_000_000).len(), 100);
    }
}
