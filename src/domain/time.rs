//! How instants and numbers look outside: RFC 3339 in UTC with milliseconds, at most 2 or 6 decimals.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant as clients see it: `2026-01-31T10:30:00.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub DateTime<Utc>);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer).map(Self)
    }
}

impl From<DateTime<Utc>> for Stamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at)
    }
}

/// `value` with at most two decimals: percentages and milliseconds.
pub fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// `value` with at most six decimals: ratios.
pub fn round6(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// The span from `earlier` to `later`, zero when the wall clock went back between them.
pub fn span(earlier: DateTime<Utc>, later: DateTime<Utc>) -> Duration {
    (later - earlier).to_std().unwrap_or_default()
}

/// The instant of `unix_ms`; instants out of chrono's range read as the epoch.
pub fn from_ms(unix_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(unix_ms).unwrap_or_default()
}

/// A duration for people: `45 seconds`, `12 minutes`, `3 hours`, `2 days`.
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7199 => (seconds / 60, "minute"),
        7200..=172_799 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_carry_milliseconds_and_z() {
        assert_eq!(Stamp(from_ms(1_769_855_400_000)).to_string(), "2026-01-31T10:30:00.000Z");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let check = |seconds, expected: &str| assert_eq!(spoken(Duration::from_secs(seconds)), expected);
        check(1, "1 second");
        check(119, "119 seconds");
        check(120, "2 minutes");
        check(7199, "119 minutes");
        check(7200, "2 hours");
        check(172_800, "2 days");
    }
}
