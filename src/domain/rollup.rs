//! Checks rolled up by minute, hour or day: counts, mergeable latencies, and the four parts of time. Pure: the roll-ups of
//! a service are made of its raw checks, so that they can never disagree with them; merging minutes gives the hour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::histogram::Pool;
use super::host::HostMeans;
use super::maintenance::Span;
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
    /// The host beside the fleet; none in the roll-ups of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostMeans>,
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
        match (&mut self.host, &other.host) {
            (Some(host), Some(other)) => host.merge(other),
            (None, other) => self.host = *other,
            (Some(_), None) => {}
        }
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

/// Checks of one service, oldest first, with what else is needed to say what the time between them was.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub checks: &'a [Check],
    /// A verdict holds until the next check, at most this long.
    pub hold_ms: i64,
    /// Maintenance windows, apart from each other and in order: their time is nothing else.
    pub windows: &'a [Span],
}

impl Line<'_> {
    /// The stretches of time between `from_ms` and `to_ms` that are known of, in order of time within each kind.
    fn stretches(&self, from_ms: i64, to_ms: i64) -> Vec<(i64, i64, Phase)> {
        let mut stretches = Vec::with_capacity(self.checks.len() + self.windows.len());
        let windows: Vec<(i64, i64)> = self
            .windows
            .iter()
            .map(|span| (span.from.timestamp_millis().max(from_ms), span.to.timestamp_millis().min(to_ms)))
            .filter(|(from, until)| until > from)
            .collect();
        stretches.extend(windows.iter().map(|(from, until)| (*from, *until, Phase::Maintenance)));
        for (place, check) in self.checks.iter().enumerate() {
            let next = self.checks.get(place + 1).map_or(i64::MAX, |next| next.at_ms);
            let until = next.min(check.at_ms.saturating_add(self.hold_ms)).min(to_ms);
            let mut from = check.at_ms.max(from_ms);
            // Where its window is known, that says what was maintenance; the verdict holds beyond its end.
            let inside =
                |span: &Span| (span.from.timestamp_millis()..=span.to.timestamp_millis()).contains(&check.at_ms);
            let phase = if check.maintenance && !self.windows.iter().any(inside) {
                Phase::Maintenance
            } else {
                Phase::of(check.status)
            };
            // What is left of it between the windows.
            let first = windows.partition_point(|(_, until)| *until <= from);
            for (start, end) in windows.iter().skip(first).take_while(|(start, _)| *start < until) {
                if *start > from {
                    stretches.push((from, *start, phase));
                }
                from = from.max(*end);
            }
            if until > from {
                stretches.push((from, until, phase));
            }
        }
        stretches
    }
}

/// The parts of the time from `from_ms` to `to_ms`; the checks should begin `hold_ms` earlier.
pub fn parts(line: Line<'_>, from_ms: i64, to_ms: i64) -> Parts {
    let mut parts = Parts::default();
    let mut covered = 0;
    for (from, until, phase) in line.stretches(from_ms, to_ms) {
        parts.add(phase, until - from);
        covered += until - from;
    }
    parts.unknown += (to_ms - from_ms).max(0) - covered;
    parts
}

/// The roll-ups of one service from `from_ms` to `to_ms`, oldest first; stretches without a check are left out.
pub fn roll_up(line: Line<'_>, from_ms: i64, to_ms: i64, resolution: Resolution) -> Vec<Rollup> {
    let length = resolution.ms();
    let begin = |at_ms: i64| at_ms.div_euclid(length) * length;
    let mut rollups: BTreeMap<i64, (Rollup, Pool)> = BTreeMap::new();
    for check in line.checks.iter().filter(|check| (from_ms..=to_ms).contains(&check.at_ms)) {
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
    for (from, until, phase) in line.stretches(from_ms, to_ms) {
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
    use super::super::time::from_ms;
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

    fn windows() -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((1i64..400_000, 1i64..400_000), 0..6).prop_map(|steps| {
            let mut at_ms = T0;
            let span = |(gap, length)| {
                let from = at_ms + gap;
                at_ms = from + length;
                Span { from: from_ms(from), to: from_ms(at_ms) }
            };
            steps.into_iter().map(span).collect()
        })
    }

    /// The same from the definition, one millisecond at a time in the middle of each second.
    fn sampled(line: Line<'_>, at_ms: i64) -> Phase {
        let inside = |span: &&Span| span.from.timestamp_millis() <= at_ms && at_ms < span.to.timestamp_millis();
        if line.windows.iter().any(|span| inside(&span)) {
            return Phase::Maintenance;
        }
        let last = line.checks.iter().rev().find(|check| check.at_ms <= at_ms);
        let Some(check) = last.filter(|check| at_ms < check.at_ms + line.hold_ms) else { return Phase::Unknown };
        let known =
            |span: &Span| span.from.timestamp_millis() <= check.at_ms && check.at_ms <= span.to.timestamp_millis();
        if check.maintenance && !line.windows.iter().any(known) { Phase::Maintenance } else { Phase::of(check.status) }
    }

    #[test]
    fn windows_cut_the_time_of_verdicts() {
        let mut check = checks_at(&[0, 30_000, 60_000]);
        check[1].status = Status::Unhealthy;
        let windows = [Span { from: from_ms(T0 + 10_000), to: from_ms(T0 + 40_000) }];
        let line = Line { checks: &check, hold_ms: HOLD, windows: &windows };
        let parts = parts(line, T0, T0 + 90_000);
        assert_eq!((parts.up, parts.down, parts.maintenance, parts.unknown), (40_000, 20_000, 30_000, 0));
    }

    fn checks_at(offsets: &[i64]) -> Vec<Check> {
        let check = |offset: &i64| Check {
            at_ms: T0 + offset,
            status: Status::Healthy,
            reason: Reason::Ok,
            kind: Kind::Scheduled,
            http_status: 200,
            response_us: None,
            streak: 1,
            error: None,
            maintenance: false,
            redirected: false,
        };
        offsets.iter().map(check).collect()
    }

    proptest! {
        #[test]
        fn the_parts_are_those_of_the_definition(checks in checks(), windows in windows()) {
            let line = Line { checks: &checks, hold_ms: HOLD, windows: &windows };
            let (from, to) = (T0, T0 + 3_000_000);
            let mut counted = Parts::default();
            for (start, end, phase) in line.stretches(from, to) {
                prop_assert!(sampled(line, start) == phase && sampled(line, end - 1) == phase);
                counted.add(phase, end - start);
            }
            counted.unknown += to - from - counted.total();
            prop_assert_eq!(parts(line, from, to), counted);
        }

        #[test]
        fn roll_ups_equal_a_recount_of_the_raw_checks(
            checks in checks(), windows in windows(), resolution in 0usize..3,
        ) {
            let resolution = [Resolution::Minute, Resolution::Hour, Resolution::Day][resolution];
            let (from, to) = (T0, T0 + 30_000_000);
            let line = Line { checks: &checks, hold_ms: HOLD, windows: &windows };
            let rolled = roll_up(line, from, to, resolution);
            let counted: Vec<&Check> = checks.iter().filter(|c| c.at_ms <= to && !c.maintenance).collect();
            let mut sum = Counts::default();
            let mut pool = Pool::default();
            for rollup in &rolled {
                sum.add(rollup.counts);
                pool.merge(&rollup.pool());
                // By the definition, one millisecond-exact pass over the raw checks for each stretch.
                let (start, end) = (rollup.at_ms.max(from), (rollup.at_ms + resolution.ms()).min(to));
                prop_assert_eq!(rollup.parts, parts(line, start, end));
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
            let line = Line { checks: &checks, hold_ms: HOLD, windows: &[] };
            let minutes = roll_up(line, from, to, Resolution::Minute);
            let hours = roll_up(line, from, to, Resolution::Hour);
            let merged = Rollup::coarser(&minutes, Resolution::Hour);
            prop_assert_eq!(merged.len(), hours.len());
            for (merged, hour) in merged.iter().zip(&hours) {
                prop_assert_eq!((merged.at_ms, merged.counts, &merged.latency), (hour.at_ms, hour.counts, &hour.latency));
                prop_assert_eq!(merged.status, hour.status);
            }
        }
    }
}
