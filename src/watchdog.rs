//! Watches the parts whose loops must never stand still, from a thread of its own that needs nothing of the runtime. A
//! part without progress is named; a runtime without any ends the process, so that whoever supervises it starts it again.
//!
//! Time is counted in this thread's own naps, not read off a clock: a process that was stopped and continued, or a machine
//! that slept, has lost time and is not wedged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engine::counters::{Counters, Part};
use crate::systemd::Systemd;

/// Longest nap between two looks: our choice.
const NAP: Duration = Duration::from_secs(1);
/// A part is named after so long without progress: our choice, longer than any step of a healthy one (a commit waits two
/// seconds for a failing store, six at the stop).
const STUCK: Duration = Duration::from_secs(10);
/// The process ends after so long without progress of any part: our choice.
const WEDGED: Duration = Duration::from_secs(60);
/// Exit code of a process that cannot go on: CONTRACT.md section 4.
const INTERNAL: i32 = 70;

/// Ends the watch when it is dropped.
#[derive(Debug)]
pub struct Watchdog(Arc<AtomicBool>);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins to watch.
///
/// # Errors
/// No thread could be started.
pub fn start(counters: Arc<Counters>, systemd: Systemd) -> std::io::Result<Watchdog> {
    let ended = Arc::<AtomicBool>::default();
    let (nap, done) = (nap(&systemd), ended.clone());
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while !done.load(Ordering::Relaxed) {
            // Begun again should it panic: nobody else watches the watchdog.
            if catch_unwind(AssertUnwindSafe(|| watch(&counters, &systemd, nap, &done))).is_err() {
                counters.panic("watchdog");
                std::thread::sleep(nap);
            }
        }
    })?;
    Ok(Watchdog(ended))
}

/// systemd wants to hear of us twice in its interval.
fn nap(systemd: &Systemd) -> Duration {
    systemd.watchdog().map_or(NAP, |every| (every / 2).clamp(Duration::from_millis(1), NAP))
}

fn watch(counters: &Counters, systemd: &Systemd, nap: Duration, done: &AtomicBool) {
    let mut seen = Seen::new(counters.rounds());
    let mut named: Vec<Part> = Vec::new();
    let every = systemd.watchdog().map(|every| every / 2);
    let mut since_told = Duration::ZERO;
    loop {
        std::thread::sleep(nap);
        if done.load(Ordering::Relaxed) {
            return;
        }
        seen.after(nap, counters.rounds());
        let stuck = seen.stuck();
        if stuck != named {
            counters.note_stuck(&stuck);
            tell(&stuck, &named, systemd);
            named.clone_from(&stuck);
        }
        if seen.is_wedged() {
            say(|| {
                tracing::error!("nothing has made progress for {} s: ending, to be started again", WEDGED.as_secs());
            });
            // Should the line not come through, standard output is what everything waits for.
            std::thread::sleep(nap);
            std::process::exit(INTERNAL);
        }
        since_told += nap;
        if stuck.is_empty() && every.is_some_and(|every| since_told >= every) {
            since_told = Duration::ZERO;
            systemd.alive();
        }
    }
}

fn tell(stuck: &[Part], before: &[Part], systemd: &Systemd) {
    for part in stuck.iter().copied().filter(|part| !before.contains(part)) {
        let part = part.as_str();
        systemd.status(&format!("The {part} makes no progress"));
        say(move || tracing::error!(part, "the {part} has made no progress for {} s", STUCK.as_secs()));
    }
    for part in before.iter().copied().filter(|part| !stuck.contains(part)) {
        let part = part.as_str();
        systemd.status(&format!("The {part} goes on"));
        say(move || tracing::info!(part, "the {part} makes progress again"));
    }
}

/// Writes to the log from a thread of its own: the log itself may be what everything waits for.
fn say(line: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().spawn(line);
}

/// How long each part has made no progress, by naps.
struct Seen {
    rounds: [u64; Part::ALL.len()],
    still: [Duration; Part::ALL.len()],
}

impl Seen {
    fn new(rounds: [u64; Part::ALL.len()]) -> Self {
        Self { rounds, still: Default::default() }
    }

    fn after(&mut self, nap: Duration, rounds: [u64; Part::ALL.len()]) {
        for ((still, before), now) in self.still.iter_mut().zip(self.rounds).zip(rounds) {
            *still = if before == now { *still + nap } else { Duration::ZERO };
        }
        self.rounds = rounds;
    }

    fn stuck(&self) -> Vec<Part> {
        Part::ALL.into_iter().zip(self.still).filter(|(_, still)| *still >= STUCK).map(|(part, _)| part).collect()
    }

    fn is_wedged(&self) -> bool {
        self.still.iter().all(|still| *still >= WEDGED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_after_ten_seconds_and_the_process_ends_when_none_goes_on() {
        let mut seen = Seen::new([5, 5, 5]);
        let mut naps = |count: usize, step: [u64; 3]| {
            for _ in 0..count {
                let rounds = [seen.rounds[0] + step[0], seen.rounds[1] + step[1], seen.rounds[2] + step[2]];
                seen.after(NAP, rounds);
            }
            (seen.stuck(), seen.is_wedged())
        };
        assert_eq!(naps(100, [100, 1, 4]), (vec![], false));
        assert_eq!(naps(9, [100, 0, 4]), (vec![], false));
        assert_eq!(naps(1, [100, 0, 4]), (vec![Part::Evaluator], false));
        assert_eq!(naps(100, [1, 0, 0]), (vec![Part::Evaluator, Part::Committer], false));
        assert_eq!(naps(1, [1, 1, 1]), (vec![], false));
        assert_eq!(naps(59, [0, 0, 0]), (Part::ALL.to_vec(), false));
        assert_eq!(naps(1, [0, 0, 0]), (Part::ALL.to_vec(), true));
    }
}
