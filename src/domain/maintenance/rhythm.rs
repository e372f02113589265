//! When a recurring window is in force: from a cron expression on local time to stretches of UTC. Who is covered, and
//! what else a window may say, is the parent module's.
//!
//! A day is the unit of work. croner reads the expression and says which dates it fits; the times of a day are the same
//! on every such date, so they are put together once into runs: times that follow each other so closely that the next
//! begins before the last one has ended. A day then costs as much as it has runs, however often the expression fires.
//!
//! Why not ask croner for the next time: it searches up to the year 5000 for an expression that names no time, fires
//! twice in a doubled hour when an expression has a wildcard, and fires not at all in a skipped one.

use std::iter::successors;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Year};

use super::{Broken, Recurrence, Span};
use crate::domain::observation::clean;

/// Longest cron expression that is read: our choice, several times what a person writes.
pub const CRON_CHARS: usize = 100;

/// Longest occurrence, a week: CONTRACT.md 9.8 and our choice. Short enough to know the past that still matters.
pub const LONGEST_MINUTES: u32 = 10_080;

/// Days one walk looks at, eleven years and a little: our choice, the ten years promised and the year looked back. The
/// 29th of February comes at least once in eight years.
const HORIZON_DAYS: usize = 4_030;

/// Recurrences end before this year: the last that croner knows.
const LAST_YEAR: i32 = 5_000;

/// The years 2000 to 2027 begin on every weekday, leap years too: a date that fits none of them fits none at all.
const CALENDAR_YEARS: (i32, i32) = (2000, 2027);

const DAY: TimeDelta = TimeDelta::days(1);

/// A recurrence that was read: how long each occurrence lasts, and when they begin.
#[derive(Debug, Clone)]
pub struct Rhythm {
    cron: Cron,
    zone: Tz,
    length: TimeDelta,
    /// Seconds of the minute, ascending, at least one.
    seconds: Vec<u32>,
    /// Minutes of the day, ascending, at least one.
    minutes: Vec<u32>,
    /// First and last second of the day of each run.
    runs: Vec<(u32, u32)>,
}

/// One local day: the instant it begins, and when occurrences that begin on it are in force, by their beginning.
#[derive(Debug)]
pub struct Day {
    pub begins: DateTime<Utc>,
    pub runs: Vec<Span>,
}

/// The IANA zone of this name, in any case.
fn zone_named(name: &str) -> Option<Tz> {
    name.parse().ok().or_else(|| TZ_VARIANTS.into_iter().find(|zone| zone.name().eq_ignore_ascii_case(name)))
}

impl Rhythm {
    /// # Errors
    /// Every rule that `recurrence` breaks.
    pub fn new(recurrence: &Recurrence) -> Result<Self, Vec<Broken>> {
        let mut broken = Vec::new();
        let minutes = recurrence.duration_minutes;
        if !(1..=LONGEST_MINUTES).contains(&minutes) {
            broken.push(("recurrence.duration_minutes", format!("must be from 1 to {LONGEST_MINUTES}")));
        }
        let cron = read_cron(&recurrence.cron).map_err(|rule| broken.push(("recurrence.cron", rule)));
        let zone = zone_named(&recurrence.timezone).ok_or_else(|| {
            let given = clean(&recurrence.timezone);
            broken
                .push(("recurrence.timezone", format!("must be an IANA time zone like Europe/Berlin, not {given:?}")));
        });
        match (cron, zone) {
            (Ok(cron), Ok(zone)) if broken.is_empty() => {
                Ok(Self::timed(cron, zone, TimeDelta::minutes(minutes.into())))
            }
            _ => Err(broken),
        }
    }

    fn timed(cron: Cron, zone: Tz, length: TimeDelta) -> Self {
        let (seconds, minutes) = (seconds_of(&cron), minutes_of_day(&cron));
        let mut rhythm = Self { cron, zone, length, seconds, minutes, runs: Vec::new() };
        rhythm.runs = rhythm.close_minutes().filter_map(|minutes| rhythm.ends_of(minutes)).collect();
        rhythm
    }

    /// The minutes of the day, parted where an occurrence has ended before the next begins. It lasts a minute at least:
    /// those that begin within one minute are never apart.
    fn close_minutes(&self) -> impl Iterator<Item = &[u32]> {
        let is_close = |one: &u32, next: &u32| {
            let hole = i64::from(next * 60 + self.first_second()) - i64::from(one * 60 + self.last_second());
            hole <= self.length.num_seconds()
        };
        self.minutes.chunk_by(is_close)
    }

    /// First and last second of the day at which occurrences begin in these minutes.
    fn ends_of(&self, minutes: &[u32]) -> Option<(u32, u32)> {
        Some((minutes.first()? * 60 + self.first_second(), minutes.last()? * 60 + self.last_second()))
    }

    /// How long each occurrence lasts.
    pub fn length(&self) -> TimeDelta {
        self.length
    }

    /// Day after day, from one that begins before `since`, with the occurrences that begin at `start` or later.
    pub fn days(&self, start: DateTime<Utc>, since: DateTime<Utc>) -> impl Iterator<Item = Day> {
        // Before 1970 nothing is watched, and clocks were changed in the middle of a minute.
        let since = since.max(DateTime::UNIX_EPOCH);
        let today = (since.year() < LAST_YEAR).then(|| since.with_timezone(&self.zone).date_naive());
        // A time of yesterday can take place today, when the clock skipped the end of yesterday.
        successors(today.and_then(|date| date.pred_opt()), NaiveDate::succ_opt)
            .take(HORIZON_DAYS)
            .take_while(|date| date.year() < LAST_YEAR)
            .map_while(move |date| self.day(date, start))
    }

    fn day(&self, date: NaiveDate, start: DateTime<Utc>) -> Option<Day> {
        let begins = self.instant(date.and_time(NaiveTime::MIN))?;
        if !fits(&self.cron, date) {
            return Some(Day { begins, runs: Vec::new() });
        }
        let ends = self.instant(date.succ_opt()?.and_time(NaiveTime::MIN))?;
        let mut runs = Vec::new();
        if ends - begins == DAY && start <= begins {
            let after = |seconds: u32| begins + TimeDelta::seconds(seconds.into());
            runs.extend(self.runs.iter().map(|&(first, last)| self.lasting(after(first), after(last))));
        } else {
            for minutes in self.close_minutes() {
                self.part(date, minutes, start, &mut runs);
            }
        }
        Some(Day { begins, runs })
    }

    /// Adds the occurrences that begin in these minutes of a day on which the clock is changed, or the window begins.
    /// Halves the minutes until the change and the beginning lie between two parts or within one minute.
    fn part(&self, date: NaiveDate, minutes: &[u32], start: DateTime<Utc>, runs: &mut Vec<Span>) -> Option<()> {
        let (first_second, last_second) = self.ends_of(minutes)?;
        let last = self.at(date, last_second).filter(|last| *last >= start)?;
        let first = self.at(date, first_second)?;
        if first >= start && (last - first).num_seconds() == i64::from(last_second - first_second) {
            runs.push(self.lasting(first, last));
        } else if let &[minute] = minutes {
            let mut begins = self.seconds.iter().filter_map(|second| self.at(date, minute * 60 + second));
            runs.push(self.lasting(begins.find(|begin| *begin >= start)?, last));
        } else {
            let (earlier, later) = minutes.split_at(minutes.len() / 2);
            self.part(date, earlier, start, runs);
            self.part(date, later, start, runs);
        }
        Some(())
    }

    /// When it is `second` of the local day, by the clock on the wall.
    fn at(&self, date: NaiveDate, second: u32) -> Option<DateTime<Utc>> {
        self.instant(date.and_time(NaiveTime::from_num_seconds_from_midnight_opt(second, 0)?))
    }

    fn lasting(&self, first: DateTime<Utc>, last: DateTime<Utc>) -> Span {
        Span { from: first, to: last + self.length }
    }

    /// When the clock on the wall first shows `local`, or, if it skips it, the first instant after what it skips.
    fn instant(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(at) => Some(at.to_utc()),
            MappedLocalTime::Ambiguous(one, other) => Some(one.min(other).to_utc()),
            MappedLocalTime::None => self.after_gap(local),
        }
    }

    /// Closes in on the second at which the clock jumps over `local`. No zone is a day away from UTC.
    fn after_gap(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let as_if_utc = local.and_utc().timestamp();
        let (mut before, mut after) = (as_if_utc - DAY.num_seconds(), as_if_utc + DAY.num_seconds());
        while after - before > 1 {
            let middle = before.midpoint(after);
            let shown = DateTime::from_timestamp(middle, 0)?.with_timezone(&self.zone).naive_local();
            *(if shown < local { &mut before } else { &mut after }) = middle;
        }
        DateTime::from_timestamp(after, 0)
    }

    fn first_second(&self) -> u32 {
        self.seconds.first().copied().unwrap_or_default()
    }

    fn last_second(&self) -> u32 {
        self.seconds.last().copied().unwrap_or_default()
    }
}

fn read_cron(text: &str) -> Result<Cron, String> {
    if text.chars().count() > CRON_CHARS {
        return Err(format!("must be at most {CRON_CHARS} characters"));
    }
    let parser = CronParser::builder().year(Year::Disallowed).build();
    let cron = parser
        .parse(text)
        .map_err(|problem| format!("must be a cron expression of 5 or 6 fields: {}", clean(&problem.to_string())))?;
    if seconds_of(&cron).is_empty() || minutes_of_day(&cron).is_empty() {
        return Err("must name a second, a minute and an hour".to_owned());
    }
    let (first, last) = CALENDAR_YEARS;
    let comes = successors(NaiveDate::from_ymd_opt(first, 1, 1), NaiveDate::succ_opt)
        .take_while(|date| date.year() <= last)
        .any(|date| fits(&cron, date));
    if comes { Ok(cron) } else { Err("must name a date that comes: it fits no day of any year".to_owned()) }
}

fn fits(cron: &Cron, date: NaiveDate) -> bool {
    let pattern = &cron.pattern;
    pattern.month_match(date.month()).unwrap_or(false)
        && pattern.day_match(date.year(), date.month(), date.day()).unwrap_or(false)
}

fn seconds_of(cron: &Cron) -> Vec<u32> {
    (0..60).filter(|second| cron.pattern.second_match(*second).unwrap_or(false)).collect()
}

fn minutes_of_day(cron: &Cron) -> Vec<u32> {
    let pattern = &cron.pattern;
    (0..24 * 60)
        .filter(|minute| {
            pattern.hour_match(minute / 60).unwrap_or(false) && pattern.minute_match(minute % 60).unwrap_or(false)
        })
        .collect()
}
