//! Times as people type them: `30s`, `now`, `+2h`, `24h` ago, or a date. One reader for every command.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::maintenance::spec::instant;

/// Longest span that is taken: our choice, a hundred years, so that sums of times stay within the calendar.
const LONGEST_MS: f64 = 3.2e12;

/// A moment that may depend on when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// So far after a base, which is now unless the command says otherwise; before it when negative.
    Offset(TimeDelta),
    At(DateTime<Utc>),
}

impl When {
    pub fn after(self, base: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Offset(offset) => base.checked_add_signed(offset).unwrap_or(base),
            Self::At(at) => at,
        }
    }
}

/// `1500ms`, `30s`, `5m`, `2h`, `1d`: a number and its unit.
///
/// # Errors
/// What a span looks like.
pub fn span(text: &str) -> Result<Duration, String> {
    let shape = || format!("{text:?} is not a duration such as 30s, 5m, 2h, 1d or 1500ms");
    let text = text.trim();
    // No sign: which way a span points is said beside it.
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(shape());
    }
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(shape)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1000.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return Err(shape()),
    };
    let ms = number.trim().parse::<f64>().map_err(|_| shape())? * factor;
    if (0.0..=LONGEST_MS).contains(&ms) {
        Ok(Duration::from_micros((ms * 1000.0).round() as u64))
    } else {
        Err(shape())
    }
}

fn offset(text: &str) -> Option<TimeDelta> {
    TimeDelta::from_std(span(text).ok()?).ok()
}

/// A moment to come or at hand: `now`, `+2h`, or a date.
///
/// # Errors
/// What such a moment looks like.
pub fn moment(text: &str) -> Result<When, String> {
    let read = match text.trim() {
        "now" => Some(When::Offset(TimeDelta::zero())),
        text => match text.strip_prefix('+') {
            Some(later) => offset(later).map(When::Offset),
            None => instant(text).map(When::At),
        },
    };
    read.ok_or_else(|| format!("{text:?} is not a time such as now, +2h or 2026-01-31T10:30:00Z"))
}

/// A moment past: `24h` ago, or a date.
///
/// # Errors
/// What such a moment looks like.
pub fn past(text: &str) -> Result<When, String> {
    let ago = offset(text).map(|offset| When::Offset(-offset));
    let read = ago.or_else(|| instant(text).map(When::At));
    read.ok_or_else(|| format!("{text:?} is neither a duration such as 24h nor a time such as 2026-01-31T10:30:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_ms;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        let check = |text: &str, ms: Option<u64>| assert_eq!(span(text).ok(), ms.map(Duration::from_millis), "{text}");
        check("30s", Some(30_000));
        check("1500ms", Some(1500));
        check("5m", Some(300_000));
        check("5min", Some(300_000));
        check("2h", Some(7_200_000));
        check("1.5d", Some(129_600_000));
        check("0s", Some(0));
        for wrong in ["", "30", "s", "-1s", "+1s", "1w", "1e40d", "infs", "NaNs", "30 s x"] {
            check(wrong, None);
        }
    }

    #[test]
    fn moments_are_told_from_a_base() {
        let base = from_ms(1_769_855_400_000);
        let at = |read: Result<When, String>| read.ok().map(|when| (when.after(base) - base).num_seconds());
        assert_eq!(at(moment("now")), Some(0));
        assert_eq!(at(moment("+2h")), Some(7200));
        assert_eq!(at(moment("2026-01-31T11:30:00+01:00")), Some(0));
        assert_eq!(at(moment("2026-01-31T10:31:00")), Some(60));
        assert_eq!(at(past("24h")), Some(-86_400));
        assert_eq!(at(past("2026-01-31T10:29:00Z")), Some(-60));
        for wrong in ["2h", "+", "tomorrow", ""] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        for wrong in ["+2h", "now", "yesterday", ""] {
            assert!(past(wrong).is_err(), "{wrong}");
        }
    }
}
