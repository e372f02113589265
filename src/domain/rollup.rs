//! Checks rolled up by minute, hour or day: counts, mergeable latencies, and the four parts of time. Pure: the roll-ups of
//! a service are made of its raw checks, so that they can never disagree with them; merging minutes gives the hour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::histogram::Pool;
use super::status::Status;
use super::window::{Counts, Parts, Phase};

/// How long a roll-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resolution {
    #[default]
    Minute,
    Hour,
    /// Days of UTC.
    Day,
}

impl Resolution {
    pub fn ms(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    pub fn named(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            _ => return None,
        })
    }
}

/// One stretch of time. `inconclusive` checks and those in maintenance are in no count.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rollup {
    /// Its beginning, unix ms.
    pub at_ms: i64,
    pub counts: Counts,
    /// Latency buckets and their counts.
    pub latency: Vec<(u16, u64)>,
    pub parts: Parts,
    /// The worst status seen.
    pub status: Status,
}

impl Rollup {
    /// Adds another stretch; the beginning stays.
    pub fn merge(&mut self, other: &Self) {
        self.counts.add(other.counts);
        let mut latency: BTreeMap<u16, u64> = self.latency.drain(..).collect();
        for (bucket, count) in &other.latency {
            *latency.entry(*bucket).or_default() += count;
        }
        self.latency = latency.into_iter().collect();
        self.parts.merge(other.parts);
        self.status = worse(self.status, other.status);
    }

    pub fn pool(&self) -> Pool {
        Pool::of(&self.latency)
    }

    /// Merges `rollups`, oldest first, into stretches of `resolution`.
    pub fn coarser(rollups: &[Self], resolution: Resolution) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for rollup in rollups {
            let at_ms = rollup.at_ms.div_euclid(resolution.ms()) * resolution.ms();
            match merged.last_mut().filter(|last| last.at_ms == at_ms) {
                Some(last) => last.merge(rollup),
                None => merged.push(Self { at_ms, ..rollup.clone() }),
            }
        }
        merged
    }
}

fn worse(a: Status, b: Status) -> Status {
    let rank = |status| match status {
        Status::Unknown => 0,
        Status::Healthy => 1,
        Status::Degraded => 2,
        Status::Unhealthy => 3,
    };
    if rank(b) > rank(a) { b } else { a }
}

/// What the verdict of a check makes of the time it holds.
fn phase(check: &Check) -> Phase {
    if check.maintenance { Phase::Maintenance } else { Phase::of(check.status) }
}

/// The stretches of time between `from_ms` and `to_ms` that `checks` (oldest first) speak for: each holds until the next,
/// at most for `hold_ms`.
fn stretches(checks: &[Check], hold_ms: i64, from_ms: i64, to_ms: i64) -> impl Iterator<Item = (i64, i64, Phase)> {
    checks.iter().enumerate().filter_map(move |(place, check)| {
        let next = checks.get(place + 1).map_or(i64::MAX, |next| next.at_ms);
        let until = next.min(check.at_ms.saturating_add(hold_ms)).min(to_ms);
        let from = check.at_ms.max(from_ms);
        (until > from).then(|| (from, until, phase(check)))
    })
}

/// The parts of the time from `from_ms` to `to_ms`, made of `checks`, oldest first; they should begin `hold_ms` earlier.
pub fn parts(checks: &[Check], hold_ms: i64, from_ms: i64, to_ms: i64) -> Parts {
    let mut parts = Parts::default();
    let mut covered = 0;
    for (from, until, phase) in stretches(checks, hold_ms, from_ms, to_ms) {
        parts.add(phase, until - from);
        covered += until - from;
    }
    parts.unknown += (to_ms - from_ms).max(0) - covered;
    parts
}

/// The roll-ups of one service from `from_ms` to `to_ms`, oldest first; stretches without a check are left out.
pub fn roll_up(checks: &[Check], hold_ms: i64, from_ms: i64, to_ms: i64, resolution: Resolution) -> Vec<Rollup> {
    let length = resolution.ms();
    let begin = |at_ms: i64| at_ms.div_euclid(length) * length;
    let mut rollups: BTreeMap<i64, (Rollup, Pool)> = BTreeMap::new();
    for check in checks.iter().filter(|check| (from_ms..=to_ms).contains(&check.at_ms)) {
        let at_ms = begin(check.at_ms);
        let (rollup, pool) =
            rollups.entry(at_ms).or_insert_with(|| (Rollup { at_ms, ..Rollup::default() }, Pool::default()));
        rollup.status = worse(rollup.status, check.status);
        if check.maintenance || check.status == Status::Unknown {
            continue;
        }
        rollup.counts.checks += 1;
        rollup.counts.healthy += u64::from(check.status == Status::Healthy);
        if let Some(us) = check.response_us {
            rollup.counts.answered += 1;
            rollup.counts.latency_us += u64::from(us);
            pool.record(us);
        }
    }
    for (from, until, phase) in stretches(checks, hold_ms, from_ms, to_ms) {
        let mut at = from;
        while at < until {
            let end = (begin(at) + length).min(until);
            if let Some((rollup, _)) = rollups.get_mut(&begin(at)) {
                rollup.parts.add(phase, end - at);
            }
            at = end;
        }
    }
    let finished = rollups.into_values().map(|(mut rollup, pool)| {
        rollup.latency = pool.sparse();
        let (from, until) = (rollup.at_ms.max(from_ms), (rollup.at_ms + length).min(to_ms));
        rollup.parts.unknown += (until - from).max(0) - rollup.parts.total();
        rollup
    });
    finished.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::observation::{Kind, Reason};
    use super::*;

    const T0: i64 = 1_700_006_400_000;
    const HOLD: i64 = 65_000;

    fn checks() -> impl Strategy<Value = Vec<Check>> {
        let one = (1i64..200_000, 0usize..3, prop::option::of(0u32..5_000_000), any::<bool>());
        prop::collection::vec(one, 1..120).prop_map(|steps| {
            let mut at_ms = T0;
            let check = |(gap, status, response_us, maintenance): (i64, usize, Option<u32>, bool)| {
                at_ms += gap;
                Check {
                    at_ms,
                    status: Status::ALL[status],
                    reason: Reason::Ok,
                    kind: Kind::Scheduled,
                    http_status: 200,
                    response_us,
                    streak: 1,
                    error: None,
                    maintenance: maintenance && status == 2,
                    redirected: false,
                }
            };
            steps.into_iter().map(check).collect()
        })
    }

    proptest! {
        #[test]
        fn roll_ups_equal_a_recount_of_the_raw_checks(checks in checks(), resolution in 0usize..3) {
            let resolution = [Resolution::Minute, Resolution::Hour, Resolution::Day][resolution];
            let (from, to) = (T0, T0 + 30_000_000);
            let rolled = roll_up(&checks, HOLD, from, to, resolution);
            let counted: Vec<&Check> = checks.iter().filter(|c| c.at_ms <= to && !c.maintenance).collect();
            let mut sum = Counts::default();
            let mut pool = Pool::default();
            for rollup in &rolled {
                sum.add(rollup.counts);
                pool.merge(&rollup.pool());
                // By the definition, one millisecond-exact pass over the raw checks for each stretch.
                let (start, end) = (rollup.at_ms.max(from), (rollup.at_ms + resolution.ms()).min(to));
                prop_assert_eq!(rollup.parts, parts(&checks, HOLD, start, end));
                prop_assert_eq!(rollup.parts.total(), end - start);
            }
            prop_assert_eq!(sum.checks, counted.len() as u64);
            prop_assert_eq!(sum.healthy, counted.iter().filter(|c| c.status == Status::Healthy).count() as u64);
            let mut exact = Pool::default();
            counted.iter().filter_map(|c| c.response_us).for_each(|us| exact.record(us));
            for share in [0.5, 0.95, 0.99] {
                prop_assert_eq!(pool.percentile_ms(share), exact.percentile_ms(share));
            }
        }

        #[test]
        fn minutes_merged_into_hours_are_the_hours(checks in checks()) {
            let (from, to) = (T0, T0 + 86_400_000);
            let minutes = roll_up(&checks, HOLD, from, to, Resolution::Minute);
            let hours = roll_up(&checks, HOLD, from, to, Resolution::Hour);
            let merged = Rollup::coarser(&minutes, Resolution::Hour);
            prop_assert_eq!(merged.len(), hours.len());
            for (merged, hour) in merged.iter().zip(&hours) {
                prop_assert_eq!((merged.at_ms, merged.counts, &merged.latency), (hour.at_ms, hour.counts, &hour.latency));
                prop_assert_eq!(merged.status, hour.status);
            }
        }
    }
}
