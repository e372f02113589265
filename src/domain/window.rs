//! What is remembered of a service's checks, and the numbers computed over it: windows are by time (DESIGN.md section 4).
//!
//! Five memories, each bounded: the newest checks one by one, an hour by minutes, a day by hours with latency
//! histograms, a day as a time line of up and down, exact to the millisecond, and what has left that line by days, for a
//! month. Counts and percentiles over 24 hours take in whole hours: the oldest one counts until its last minute has left
//! the window; availability over longer than a day takes in whole days likewise.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::histogram::{Histogram, Pool};
use super::maintenance::Span;
use super::outage::{Outage, OutageSpan};
pub use super::ring::RING;
use super::ring::{Kept, Ring, UNANSWERED};
use super::rollup::Rollup;
use super::status::Status;
use super::time::from_ms;

/// The rolling window of uptime, percentiles, MTBF and MTTR: 24 h, DESIGN.md section 4.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);
const WINDOW_MS: i64 = 24 * 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// Minutes of the fleet kept until they are stored: our choice.
const MINUTES_KEPT: usize = 120;
/// Changes of up and down kept per service: our choice, 64 KiB for one that flips with every check. When there are
/// more in a day the oldest are forgotten and their time counts as unknown.
const SPANS: usize = 16_384;

/// Days of up and down kept per service: the longest window there is, CONTRACT.md section 16.
const DAYS: u32 = 30;

/// What a stretch of time counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Phase {
    #[default]
    Unknown,
    Up,
    Down,
    Maintenance,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Unknown, Self::Up, Self::Down, Self::Maintenance];

    pub fn of(status: Status) -> Self {
        match status {
            Status::Unknown => Self::Unknown,
            Status::Healthy | Status::Degraded => Self::Up,
            Status::Unhealthy => Self::Down,
        }
    }
}

/// The four parts of a window, in milliseconds. They add up to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    pub up: i64,
    pub down: i64,
    pub unknown: i64,
    pub maintenance: i64,
}

impl Parts {
    pub fn total(&self) -> i64 {
        self.up + self.down + self.unknown + self.maintenance
    }

    pub fn merge(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
        self.unknown += other.unknown;
        self.maintenance += other.maintenance;
    }

    pub(super) fn add(&mut self, phase: Phase, ms: i64) {
        match phase {
            Phase::Unknown => self.unknown += ms,
            Phase::Up => self.up += ms,
            Phase::Down => self.down += ms,
            Phase::Maintenance => self.maintenance += ms,
        }
    }

    /// Up time over up and down time, in percent; `None` without either.
    pub fn uptime_percent(&self) -> Option<f64> {
        let judged = self.up + self.down;
        (judged > 0).then(|| 100.0 * self.up as f64 / judged as f64)
    }
}

/// Up and down over the last day. A verdict holds from its check to the next, but no longer than the hold it came with:
/// time in which nobody looked is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Start of the oldest span.
    front_ms: i64,
    /// Closed spans, oldest first: milliseconds in the upper 30 bits, phase in the lower two.
    spans: VecDeque<u32>,
    phase: Phase,
    from_ms: i64,
    last_ms: i64,
    hold_ms: i64,
    /// What has left the line, oldest first.
    #[serde(default)]
    days: VecDeque<Day>,
}

/// What is remembered of a day (of UTC) that has left the line, or of the part of it that has: its number since the
/// epoch, milliseconds up, milliseconds down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Day(u32, u32, u32);

impl Timeline {
    const LONGEST_MS: i64 = (1 << 30) - 1;

    /// Notes a verdict at `at_ms`, to hold for at most `hold_ms`.
    pub fn record(&mut self, at_ms: i64, phase: Phase, hold_ms: i64) {
        if self.last_ms == 0 {
            (self.front_ms, self.from_ms, self.phase) = (at_ms, at_ms, phase);
        }
        let at_ms = at_ms.max(self.last_ms);
        let held_until = at_ms.min(self.last_ms + self.hold_ms.max(0)).max(self.from_ms);
        if self.last_ms != 0 && held_until < at_ms {
            self.close(self.phase, held_until - self.from_ms);
            self.close(Phase::Unknown, at_ms - held_until);
            (self.from_ms, self.phase) = (at_ms, phase);
        } else if phase != self.phase {
            self.close(self.phase, at_ms - self.from_ms);
            (self.from_ms, self.phase) = (at_ms, phase);
        }
        (self.last_ms, self.hold_ms) = (at_ms, hold_ms);
        self.forget(at_ms - WINDOW_MS);
    }

    fn close(&mut self, phase: Phase, mut ms: i64) {
        while ms > 0 {
            let part = ms.min(Self::LONGEST_MS);
            // At most 30 bits, see LONGEST_MS: it fits.
            self.spans.push_back(((part as u32) << 2) | phase as u32);
            ms -= part;
        }
        while self.spans.len() > SPANS {
            self.forget_oldest();
        }
    }

    fn forget(&mut self, before_ms: i64) {
        while let Some(span) = self.spans.front() {
            if self.front_ms + i64::from(span >> 2) > before_ms {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(span) = self.spans.pop_front() {
            let from_ms = self.front_ms;
            self.front_ms += i64::from(span >> 2);
            let phase = Phase::ALL.get((span & 3) as usize).copied().unwrap_or_default();
            if matches!(phase, Phase::Up | Phase::Down) {
                self.remember(phase, from_ms, self.front_ms);
            }
        }
    }

    /// Adds a span that leaves the line to the days it lies in.
    fn remember(&mut self, phase: Phase, mut from_ms: i64, until_ms: i64) {
        while from_ms < until_ms {
            let day = unit(from_ms, DAY_MS);
            let part = until_ms.min((i64::from(day) + 1) * DAY_MS) - from_ms;
            if self.days.back().is_none_or(|last| last.0 < day) {
                self.days.retain(|kept| kept.0 + DAYS >= day);
                self.days.push_back(Day(day, 0, 0));
            }
            if let Some(Day(_, up, down)) = self.days.back_mut() {
                let sum = if phase == Phase::Up { up } else { down };
                // At most a day: it fits.
                *sum = sum.saturating_add(u32::try_from(part).unwrap_or(u32::MAX));
            }
            from_ms += part;
        }
    }

    /// Up and down time of the `window_ms` before `now_ms`, by whole days where the line does not reach back that far.
    fn up_and_down(&self, now_ms: i64, window_ms: i64) -> (i64, i64) {
        let parts = self.parts(now_ms, window_ms);
        let in_window = |day: &&Day| (i64::from(day.0) + 1) * DAY_MS > now_ms - window_ms;
        let days = if window_ms > WINDOW_MS { self.days.iter() } else { self.days.range(..0) };
        days.filter(in_window)
            .fold((parts.up, parts.down), |(up, down), day| (up + i64::from(day.1), down + i64::from(day.2)))
    }

    /// Milliseconds in maintenance between two instants.
    pub fn maintenance_ms(&self, from_ms: i64, until_ms: i64) -> i64 {
        self.parts(until_ms, (until_ms - from_ms).max(0)).maintenance
    }

    /// What the `window_ms` before `now_ms` consist of.
    pub fn parts(&self, now_ms: i64, window_ms: i64) -> Parts {
        let start = now_ms - window_ms;
        let mut parts = Parts::default();
        let mut covered = 0;
        let mut add = |phase, from: i64, until: i64| {
            let ms = until.min(now_ms) - from.max(start);
            if ms > 0 {
                parts.add(phase, ms);
                covered += ms;
            }
        };
        let mut from = self.front_ms;
        for span in &self.spans {
            let until = from + i64::from(span >> 2);
            let phase = Phase::ALL.get((span & 3) as usize).copied().unwrap_or_default();
            add(phase, from, until);
            from = until;
        }
        if self.last_ms != 0 {
            let held_until = now_ms.min(self.last_ms + self.hold_ms).max(self.from_ms);
            add(self.phase, self.from_ms, held_until);
            add(Phase::Unknown, held_until, now_ms);
        }
        // Before the first record, and what was forgotten.
        parts.unknown += window_ms - covered;
        parts
    }
}

/// One minute of checks. The sum fits: checks of one service do not overlap, so a minute holds at most two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Minute {
    /// Minutes since the epoch.
    at: u32,
    checks: u16,
    not_healthy: u16,
    answered: u16,
    latency_us: u32,
}

/// One hour of checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hour {
    /// Hours since the epoch.
    at: u32,
    checks: u32,
    healthy: u32,
    answered: u32,
    latency_us: u64,
    histogram: Histogram,
}

/// Counts over a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    pub checks: u64,
    pub healthy: u64,
    pub answered: u64,
    pub latency_us: u64,
}

impl Counts {
    pub fn not_healthy(&self) -> u64 {
        self.checks - self.healthy
    }

    /// Not healthy over all, ratio; 0 with no checks.
    pub fn error_rate(&self) -> f64 {
        if self.checks == 0 { 0.0 } else { self.not_healthy() as f64 / self.checks as f64 }
    }

    /// Mean response time of answered checks in milliseconds; 0 with none.
    pub fn average_ms(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { self.latency_us as f64 / self.answered as f64 / 1000.0 }
    }

    pub fn add(&mut self, other: Self) {
        self.checks += other.checks;
        self.healthy += other.healthy;
        self.answered += other.answered;
        self.latency_us += other.latency_us;
    }
}

/// Everything remembered of one service's checks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// Inconclusive checks are not in it.
    ring: Ring,
    minutes: VecDeque<Minute>,
    hours: VecDeque<Hour>,
    timeline: Timeline,
    /// Outages that touch the window, and the latest one however old; oldest first.
    outages: Vec<OutageSpan>,
    /// How many of the newest checks are not in the check history yet.
    #[serde(default)]
    unkept: usize,
    /// Checks taken in since this process started.
    #[serde(skip)]
    recorded: u64,
}

impl History {
    /// Takes in a conclusive check whose verdict holds for at most `hold`. `maintenance`: the windows in force since
    /// the check before, oldest first.
    pub fn record(&mut self, check: Check, hold: Duration, maintenance: &[Span]) {
        let hold_ms = i64::try_from(hold.as_millis()).unwrap_or(WINDOW_MS);
        let before = self.ring.kept.back().map_or(Phase::Unknown, |last| Phase::of(last.status));
        for span in maintenance {
            let (from, to) = (span.from.timestamp_millis(), span.to.timestamp_millis());
            if from <= check.at_ms && to > self.timeline.last_ms {
                self.timeline.record(from, Phase::Maintenance, to - from);
                if to < check.at_ms {
                    self.timeline.record(to, before, hold_ms);
                }
            }
        }
        // A verdict in maintenance is shown, and counts nowhere.
        if check.maintenance {
            let held = maintenance.last().map_or(hold_ms, |span| span.to.timestamp_millis() - check.at_ms);
            self.timeline.record(check.at_ms, Phase::Maintenance, held.max(0));
        } else {
            self.timeline.record(check.at_ms, Phase::of(check.status), hold_ms);
            self.count(&check);
        }
        self.recorded += 1;
        self.ring.push(check);
        self.unkept = (self.unkept + 1).min(self.ring.kept.len());
    }

    /// Checks that are not in the check history yet, oldest first. Told by their number, not their time: the wall clock
    /// may have been set back.
    pub fn unkept(&self) -> Vec<Check> {
        let kept = self.ring.kept.len().saturating_sub(self.unkept);
        self.ring.kept.iter().skip(kept).map(|kept| self.ring.unpack(kept)).collect()
    }

    /// How many checks [`Self::unkept`] has.
    pub fn unkept_count(&self) -> usize {
        self.unkept
    }

    /// The oldest `count` of [`Self::unkept`] are in the check history now.
    pub fn kept(&mut self, count: usize) {
        self.unkept = self.unkept.saturating_sub(count);
    }

    /// After a start: the check history goes up to `at_ms`.
    pub fn kept_until(&mut self, at_ms: i64) {
        self.unkept = self.ring.kept.iter().rev().take_while(|check| check.at_ms > at_ms).count();
    }

    /// Milliseconds in maintenance between two instants of the last day.
    pub fn maintenance_ms(&self, from_ms: i64, until_ms: i64) -> i64 {
        self.timeline.maintenance_ms(from_ms, until_ms)
    }

    fn count(&mut self, check: &Check) {
        let healthy = check.status == Status::Healthy;
        let minute = unit(check.at_ms, MINUTE_MS);
        if self.minutes.back().is_none_or(|last| last.at < minute) {
            self.minutes.retain(|kept| kept.at + 60 > minute);
            self.minutes.push_back(Minute { at: minute, checks: 0, not_healthy: 0, answered: 0, latency_us: 0 });
        }
        if let Some(last) = self.minutes.back_mut() {
            last.checks = last.checks.saturating_add(1);
            last.not_healthy = last.not_healthy.saturating_add(u16::from(!healthy));
            if let Some(us) = check.response_us {
                last.answered = last.answered.saturating_add(1);
                last.latency_us = last.latency_us.saturating_add(us);
            }
        }
        let hour = unit(check.at_ms, HOUR_MS);
        if self.hours.back().is_none_or(|last| last.at < hour) {
            if let Some(closed) = self.hours.back_mut() {
                closed.histogram.shrink();
            }
            self.hours.retain(|kept| kept.at + 24 >= hour);
            self.hours.reserve_exact(1);
            self.hours.push_back(Hour {
                at: hour,
                checks: 0,
                healthy: 0,
                answered: 0,
                latency_us: 0,
                histogram: Histogram::default(),
            });
        }
        if let Some(last) = self.hours.back_mut() {
            last.checks += 1;
            last.healthy += u32::from(healthy);
            if let Some(us) = check.response_us {
                last.answered += 1;
                last.latency_us += u64::from(us);
                last.histogram.record(us);
            }
        }
    }

    /// Replaces the newest check: the answer to a probe that was judged before it arrived.
    pub fn amend(&mut self, check: Check) {
        let unanswered = self.ring.kept.back().is_some_and(|last| last.response_us == UNANSWERED && !last.maintenance);
        if let Some(us) = check.response_us.filter(|_| unanswered) {
            if let Some(minute) = self.minutes.back_mut() {
                minute.answered = minute.answered.saturating_add(1);
                minute.latency_us = minute.latency_us.saturating_add(us);
            }
            if let Some(hour) = self.hours.back_mut() {
                hour.answered += 1;
                hour.latency_us += u64::from(us);
                hour.histogram.record(us);
            }
        }
        self.ring.replace_newest(check);
    }

    pub fn open_outage(&mut self, started: DateTime<Utc>) {
        let span = OutageSpan { start_ms: started.timestamp_millis(), end_ms: None };
        if self.outages.last().is_none_or(|last| last.start_ms != span.start_ms) {
            self.outages.push(span);
        }
    }

    /// Closes the open outage, and forgets those that have left the window.
    pub fn close_outage(&mut self, ended: DateTime<Utc>) {
        let end_ms = ended.timestamp_millis();
        if let Some(last) = self.outages.last_mut()
            && last.end_ms.is_none()
        {
            last.end_ms = Some(end_ms.max(last.start_ms));
        }
        let newest = self.outages.len().saturating_sub(1);
        let mut at = 0;
        self.outages.retain(|outage| {
            at += 1;
            at > newest || outage.end_ms.is_none_or(|end| end > end_ms - WINDOW_MS)
        });
    }

    /// Puts a stored outage in its place; outages come oldest first.
    pub fn recall_outage(&mut self, outage: &Outage) {
        let start_ms = outage.started.timestamp_millis();
        let span = OutageSpan { start_ms, end_ms: outage.ended.map(|at| at.timestamp_millis()) };
        match self.outages.iter_mut().find(|known| known.start_ms == start_ms) {
            Some(known) => *known = span,
            None => self.outages.push(span),
        }
        self.outages.sort_by_key(|outage| outage.start_ms);
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = Check> {
        self.ring.kept.iter().rev().map(|kept| self.ring.unpack(kept))
    }

    pub fn is_empty(&self) -> bool {
        self.ring.kept.is_empty()
    }

    /// Checks taken in since this process started: what a follower has not seen yet is told by the difference.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Checks kept one by one.
    pub fn len(&self) -> usize {
        self.ring.kept.len()
    }

    /// Hour (since the epoch) and latency histogram, oldest first.
    pub fn histograms(&self) -> Vec<(u32, &Histogram)> {
        self.hours.iter().map(|hour| (hour.at, &hour.histogram)).collect()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.ring.kept.capacity() * size_of::<Kept>()
            + self.ring.texts.capacity() * size_of::<Option<Arc<str>>>()
            + self.minutes.capacity() * size_of::<Minute>()
            + self.hours.iter().map(|hour| hour.histogram.heap_bytes()).sum::<usize>()
            + self.hours.capacity() * size_of::<Hour>()
            + self.timeline.spans.capacity() * 4
            + self.timeline.days.capacity() * size_of::<Day>()
            + self.outages.capacity() * size_of::<OutageSpan>()
    }

    pub fn parts(&self, now: DateTime<Utc>) -> Parts {
        self.timeline.parts(now.timestamp_millis(), WINDOW_MS)
    }

    /// Up time over up and down time in the last `span` of at most 30 days, as a ratio; `None` without either. What
    /// was before this service was first looked at counts nowhere.
    pub fn availability(&self, now: DateTime<Utc>, span: Duration) -> Option<f64> {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(WINDOW_MS);
        let (up, down) = self.timeline.up_and_down(now.timestamp_millis(), span_ms);
        (up + down > 0).then(|| up as f64 / (up + down) as f64)
    }

    /// Conclusive checks of the last 24 hours.
    pub fn day(&self, now: DateTime<Utc>) -> Counts {
        let mut counts = Counts::default();
        for hour in self.hours_in_window(now) {
            counts.add(Counts {
                checks: u64::from(hour.checks),
                healthy: u64::from(hour.healthy),
                answered: u64::from(hour.answered),
                latency_us: hour.latency_us,
            });
        }
        counts
    }

    /// Response times of the last 24 hours.
    pub fn day_latency(&self, now: DateTime<Utc>) -> Pool {
        let mut pool = Pool::default();
        for hour in self.hours_in_window(now) {
            pool.add(&hour.histogram);
        }
        pool
    }

    fn hours_in_window(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Hour> {
        let now_ms = now.timestamp_millis();
        self.hours.iter().filter(move |hour| (i64::from(hour.at) + 1) * HOUR_MS > now_ms - WINDOW_MS)
    }

    /// Checks of the last `span`: one by one while the newest [`RING`] reach back that far, beyond that by minutes.
    pub fn since(&self, now: DateTime<Utc>, span: Duration) -> Counts {
        let cutoff = now.timestamp_millis() - i64::try_from(span.as_millis()).unwrap_or(WINDOW_MS);
        let mut counts = Counts::default();
        let kept = &self.ring.kept;
        if kept.len() < RING || kept.front().is_some_and(|oldest| oldest.at_ms < cutoff) {
            for check in kept.iter().rev().take_while(|check| check.at_ms > cutoff).filter(|check| !check.maintenance) {
                let answered = check.response_us != UNANSWERED;
                counts.checks += 1;
                counts.healthy += u64::from(check.status == Status::Healthy);
                counts.answered += u64::from(answered);
                counts.latency_us += if answered { u64::from(check.response_us) } else { 0 };
            }
            return counts;
        }
        for minute in self.minutes.iter().filter(|minute| (i64::from(minute.at) + 1) * MINUTE_MS > cutoff) {
            counts.add(Counts {
                checks: u64::from(minute.checks),
                healthy: u64::from(minute.checks - minute.not_healthy),
                answered: u64::from(minute.answered),
                latency_us: u64::from(minute.latency_us),
            });
        }
        counts
    }

    /// The latest `n` response times in milliseconds, newest first.
    pub fn latest_ms(&self, n: usize) -> impl Iterator<Item = u64> {
        let answered = self.ring.kept.iter().rev().filter(|check| check.response_us != UNANSWERED);
        answered.take(n).map(|check| u64::from(check.response_us) / 1000)
    }

    pub fn outages(&self) -> &[OutageSpan] {
        &self.outages
    }

    /// When the present run of checks with one status began, as far back as the newest checks go.
    pub fn status_since(&self) -> Option<DateTime<Utc>> {
        let kept = &self.ring.kept;
        let status = kept.back()?.status;
        kept.iter().rev().take_while(|check| check.status == status).last().map(|check| from_ms(check.at_ms))
    }
}

fn unit(at_ms: i64, length_ms: i64) -> u32 {
    u32::try_from(at_ms.max(0) / length_ms).unwrap_or(u32::MAX)
}

/// The same numbers over all services together: every answered check of the fleet, pooled.
#[derive(Debug, Default)]
pub struct FleetWindow {
    hours: VecDeque<FleetHour>,
    /// The minute under way, and those that are over and nobody has taken yet.
    minute: Option<(i64, Counts, Pool)>,
    minutes: VecDeque<Rollup>,
    /// Checks per second of the last minute: (second since the epoch, count).
    seconds: VecDeque<(i64, u32)>,
}

#[derive(Debug)]
struct FleetHour {
    at: u32,
    counts: Counts,
    pool: Pool,
}

impl FleetWindow {
    pub fn record(&mut self, at_ms: i64, healthy: bool, response_us: Option<u32>) {
        let second = at_ms / 1000;
        match self.seconds.back_mut() {
            Some((last, count)) if *last >= second => *count += 1,
            _ => {
                while self.seconds.front().is_some_and(|(oldest, _)| *oldest <= second - 60) {
                    self.seconds.pop_front();
                }
                self.seconds.push_back((second, 1));
            }
        }
        self.count_minute(at_ms, healthy, response_us);
        if let Some(hour) = self.hour(unit(at_ms, HOUR_MS)) {
            hour.counts.checks += 1;
            hour.counts.healthy += u64::from(healthy);
            if let Some(us) = response_us {
                hour.counts.answered += 1;
                hour.counts.latency_us += u64::from(us);
                hour.pool.record(us);
            }
        }
    }

    fn count_minute(&mut self, at_ms: i64, healthy: bool, response_us: Option<u32>) {
        let at = at_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
        if self.minute.as_ref().is_some_and(|(begun, _, _)| *begun < at) {
            self.end_minute();
        }
        let (_, counts, pool) = self.minute.get_or_insert_with(|| (at, Counts::default(), Pool::default()));
        counts.checks += 1;
        counts.healthy += u64::from(healthy);
        if let Some(us) = response_us {
            counts.answered += 1;
            counts.latency_us += u64::from(us);
            pool.record(us);
        }
    }

    fn end_minute(&mut self) {
        if let Some((at_ms, counts, pool)) = self.minute.take() {
            if self.minutes.len() == MINUTES_KEPT {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Rollup { at_ms, counts, latency: pool.sparse(), ..Rollup::default() });
        }
    }

    /// The minutes that are over at `now_ms`, oldest first, each once.
    pub fn take_minutes(&mut self, now_ms: i64) -> Vec<Rollup> {
        if self.minute.as_ref().is_some_and(|(at, _, _)| at + MINUTE_MS <= now_ms) {
            self.end_minute();
        }
        self.minutes.drain(..).collect()
    }

    /// The response time of a check that was counted before its answer came.
    pub fn late_answer(&mut self, at_ms: i64, us: u32) {
        if let Some(hour) = self.hour(unit(at_ms, HOUR_MS)) {
            hour.counts.answered += 1;
            hour.counts.latency_us += u64::from(us);
            hour.pool.record(us);
        }
    }

    /// Adds what a restored service remembers.
    pub fn absorb(&mut self, history: &History) {
        for of_service in &history.hours {
            let Some(hour) = self.hour(of_service.at) else {
                continue;
            };
            hour.counts.add(Counts {
                checks: u64::from(of_service.checks),
                healthy: u64::from(of_service.healthy),
                answered: u64::from(of_service.answered),
                latency_us: of_service.latency_us,
            });
            hour.pool.add(&of_service.histogram);
        }
    }

    fn hour(&mut self, at: u32) -> Option<&mut FleetHour> {
        let place = match self.hours.binary_search_by_key(&at, |hour| hour.at) {
            Ok(found) => found,
            Err(place) => {
                self.hours.insert(place, FleetHour { at, counts: Counts::default(), pool: Pool::default() });
                let newest = self.hours.back().map_or(at, |hour| hour.at);
                let before = self.hours.len();
                self.hours.retain(|hour| hour.at + 24 >= newest);
                place.checked_sub(before - self.hours.len())?
            }
        };
        self.hours.get_mut(place)
    }

    /// Counts and response times of the last 24 hours, and checks in the last 60 seconds.
    pub fn day(&self, now: DateTime<Utc>) -> (Counts, Pool, u64) {
        let now_ms = now.timestamp_millis();
        let mut counts = Counts::default();
        let mut pool = Pool::default();
        for hour in &self.hours {
            if (i64::from(hour.at) + 1) * HOUR_MS > now_ms - WINDOW_MS {
                counts.add(hour.counts);
                pool.merge(&hour.pool);
            }
        }
        let minute = self.seconds.iter().filter(|(second, _)| *second > now_ms / 1000 - 60);
        (counts, pool, minute.map(|(_, count)| u64::from(*count)).sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::observation::{Kind, Reason};
    use super::*;

    const T0: i64 = 1_700_000_000_000;

    fn result(at_ms: i64, status: Status, response_us: Option<u32>) -> Check {
        Check {
            at_ms,
            status,
            reason: Reason::Ok,
            kind: Kind::Scheduled,
            http_status: 200,
            response_us,
            streak: 1,
            error: None,
            maintenance: false,
            redirected: false,
        }
    }

    #[test]
    fn a_verdict_holds_until_the_next_one() {
        let mut line = Timeline::default();
        line.record(T0, Phase::Up, 60_000);
        line.record(T0 + 30_000, Phase::Down, 60_000);
        line.record(T0 + 45_000, Phase::Up, 60_000);
        let parts = line.parts(T0 + 60_000, 60_000);
        assert_eq!((parts.up, parts.down, parts.unknown), (45_000, 15_000, 0));
    }

    #[test]
    fn time_in_which_nobody_looked_is_unknown() {
        let mut line = Timeline::default();
        line.record(T0, Phase::Up, 20_000);
        line.record(T0 + 100_000, Phase::Up, 20_000);
        let parts = line.parts(T0 + 150_000, 150_000);
        assert_eq!((parts.up, parts.unknown), (40_000, 110_000));
        assert_eq!(parts.uptime_percent(), Some(100.0));
    }

    #[test]
    fn the_window_forgets_by_time() {
        let mut history = History::default();
        history.record(result(T0, Status::Unhealthy, None), Duration::from_secs(60), &[]);
        let later = T0 + 25 * HOUR_MS;
        history.record(result(later, Status::Healthy, Some(1000)), Duration::from_secs(60), &[]);
        let now = from_ms(later + 1000);
        assert_eq!(history.day(now), Counts { checks: 1, healthy: 1, answered: 1, latency_us: 1000 });
        assert_eq!(history.parts(now).down, 0);
    }

    #[test]
    fn only_the_newest_hundred_are_kept_one_by_one() {
        let mut history = History::default();
        for n in 0..150 {
            history.record(result(T0 + n * 1000, Status::Healthy, Some(n as u32 * 1000)), Duration::from_secs(3), &[]);
        }
        assert_eq!(history.newest().count(), RING);
        assert_eq!(history.latest_ms(2).collect::<Vec<_>>(), [149, 148]);
        assert_eq!(history.since(from_ms(T0 + 149_000), Duration::from_secs(10)).checks, 10);
        assert_eq!(history.since(from_ms(T0 + 149_000), Duration::from_secs(3600)).checks, 150);
    }

    #[test]
    fn texts_are_kept_once_and_given_back() {
        let mut history = History::default();
        let fail =
            |n: i64, text: &str| Check { error: Some(text.into()), ..result(T0 + n * 1000, Status::Unhealthy, None) };
        for n in 0..300 {
            history.record(fail(n, if n % 2 == 0 { "even" } else { "odd" }), Duration::from_secs(3), &[]);
        }
        assert_eq!(history.ring.texts.len(), 2);
        assert_eq!(history.newest().next().and_then(|check| check.error).as_deref(), Some("odd"));
        let read: History = serde_json::from_str(&serde_json::to_string(&history).unwrap()).unwrap();
        assert_eq!(read.newest().collect::<Vec<_>>(), history.newest().collect::<Vec<_>>());
        history.amend(fail(299, "amended"));
        assert_eq!(history.newest().next().and_then(|check| check.error).as_deref(), Some("amended"));
        for n in 300..400 {
            history.record(result(T0 + n * 1000, Status::Healthy, Some(1)), Duration::from_secs(3), &[]);
        }
        assert_eq!(history.ring.texts.capacity(), 0);
        for n in 400..700 {
            history.record(fail(n, &format!("text {n}")), Duration::from_secs(3), &[]);
        }
        assert_eq!(history.ring.texts.len(), RING);
    }

    #[test]
    fn a_day_of_checks_of_one_service_stays_small() {
        let mut history = History::default();
        for n in 0..5760u32 {
            let us = 1000 + (n * 7919) % 700;
            history.record(result(T0 + i64::from(n) * 15_000, Status::Healthy, Some(us)), Duration::from_secs(33), &[]);
        }
        assert!(history.heap_bytes() < 8 * 1024, "{} bytes", history.heap_bytes());
    }

    #[test]
    fn what_has_left_the_line_counts_by_days_for_a_month() {
        const QUARTER: i64 = 15 * MINUTE_MS;
        let month = Duration::from_secs(30 * 24 * 3600);
        let mut history = History::default();
        // Forty days from midnight, down for the first of them, for the twentieth, and for the last hour.
        let midnight = T0 / DAY_MS * DAY_MS;
        let down = |quarter: i64| [0, 20].contains(&(quarter / 96)) || quarter >= 40 * 96 - 4;
        let mut check = |quarter: i64| {
            let status = if down(quarter) { Status::Unhealthy } else { Status::Degraded };
            let check = result(midnight + quarter * QUARTER, status, None);
            history.record(check, Duration::from_millis(QUARTER as u64), &[]);
            history.clone()
        };
        let after = |quarters: i64| from_ms(midnight + quarters * QUARTER);
        let ratio =
            |history: &History, at, span| history.availability(at, span).map(|ratio| (ratio * 1e6).round() / 1e6);
        let ten_days: Vec<History> = (0..10 * 96).map(&mut check).collect();
        let ten_days = ten_days.last().unwrap();
        assert_eq!(ratio(ten_days, after(10 * 96), month), Some(0.9), "the first day is down");
        assert_eq!(ratio(ten_days, after(10 * 96), WINDOW), Some(1.0));
        let whole: Vec<History> = (10 * 96..40 * 96).map(check).collect();
        let whole = whole.last().unwrap();
        // Thirty days, with the twentieth and an hour down; the first has left the window.
        assert_eq!(
            ratio(whole, after(40 * 96), month),
            Some(((30.0 - 1.0 - 1.0 / 24.0) / 30.0 * 1e6_f64).round() / 1e6)
        );
        assert_eq!(ratio(whole, after(40 * 96), Duration::from_secs(3600)), Some(0.0));
        assert!(whole.timeline.days.len() <= 32, "{} days", whole.timeline.days.len());
        let read: History = serde_json::from_str(&serde_json::to_string(whole).unwrap()).unwrap();
        assert_eq!(read.timeline, whole.timeline, "a restart forgets nothing");
        assert_eq!(ratio(&History::default(), after(0), month), None);
    }

    #[test]
    fn the_fleet_counts_its_last_minute_and_day() {
        let mut fleet = FleetWindow::default();
        for n in 0..120 {
            fleet.record(T0 + n * 1000, n % 2 == 0, Some(2000));
        }
        let (counts, pool, per_minute) = fleet.day(from_ms(T0 + 119_500));
        assert_eq!((counts.checks, counts.healthy, per_minute), (120, 60, 60));
        assert!((pool.percentile_ms(0.5) - 2.0).abs() < 0.03);
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_the_window_and_to_a_recount(
            steps in prop::collection::vec((0i64..120_000, 0usize..4, 0i64..100_000), 1..60),
            after in 0i64..200_000,
            window in 1i64..4_000_000,
        ) {
            let mut line = Timeline::default();
            let mut at = T0;
            let mut told = Vec::new();
            for (gap, phase, hold) in steps {
                at += gap;
                line.record(at, Phase::ALL[phase], hold);
                told.push((at, Phase::ALL[phase], hold));
            }
            let now = at + after;
            let parts = line.parts(now, window);
            prop_assert_eq!(parts.up + parts.down + parts.unknown + parts.maintenance, window);

            // The same from the definition: each verdict holds until the next, at most for its hold.
            let mut up = 0;
            for (index, (from, phase, hold)) in told.iter().enumerate() {
                let next = told.get(index + 1).map_or(now, |(next, _, _)| *next);
                let until = next.min(from + hold);
                if *phase == Phase::Up {
                    up += (until.min(now) - (*from).max(now - window)).max(0);
                }
            }
            prop_assert_eq!(parts.up, up);
        }
    }
}
