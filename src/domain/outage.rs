//! Outages: from the first failing check of the streak that was confirmed to the first check that was not unhealthy.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::check::name_hash;
use super::observation::Reason;
use super::probe::Protocol;
use super::service::{Service, ServiceName};
use super::time::{Stamp, span};

/// Severity of an outage, in the words of source 003.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum OutageSeverity {
    Critical,
    Major,
    Minor,
    /// Never by itself.
    Warning,
}

impl OutageSeverity {
    pub const ALL: [Self; 4] = [Self::Critical, Self::Major, Self::Minor, Self::Warning];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Major => "MAJOR",
            Self::Minor => "MINOR",
            Self::Warning => "WARNING",
        }
    }

    /// CONTRACT.md section 11.
    pub fn of(service: &Service) -> Self {
        match service.protocol {
            _ if service.critical => Self::Critical,
            Protocol::Udp | Protocol::Icmp => Self::Minor,
            _ => Self::Major,
        }
    }
}

/// One outage of one service. Open while `ended` is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub id: Uuid,
    pub service: ServiceName,
    pub severity: OutageSeverity,
    /// First failing check of the streak: earlier than the confirmation.
    pub started: DateTime<Utc>,
    pub confirmed: DateTime<Utc>,
    pub ended: Option<DateTime<Utc>>,
    pub reason: Reason,
    /// What the confirming check saw, in the words of sources 002 to 004.
    pub error_message: String,
    /// The service's critical flag when the outage opened.
    pub critical: bool,
    pub resolution_notes: Option<String>,
    /// Who resolved it by hand.
    #[serde(default)]
    pub resolved_by: Option<String>,
    /// When anything about it last changed; the confirmation at first.
    #[serde(default)]
    pub updated: Option<DateTime<Utc>>,
    /// Time in maintenance, which is not part of its length; known once it has ended.
    #[serde(default)]
    pub maintenance_ms: i64,
    /// The failed dependency that explains it, when it was confirmed.
    #[serde(default)]
    pub root_cause: Option<ServiceName>,
}

impl Outage {
    /// An id made of facts: the same wherever the outage is seen, and again when its commit is repeated.
    pub fn id_for(service: &ServiceName, started: DateTime<Utc>, confirmed: DateTime<Utc>) -> Uuid {
        let mut random = [0; 10];
        let start = started.timestamp_millis().cast_unsigned();
        let mix = name_hash(service) ^ start.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random[..8].copy_from_slice(&mix.to_le_bytes());
        random[8..].copy_from_slice(&start.to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(confirmed.timestamp_millis().max(0).cast_unsigned(), &random)
            .into_uuid()
    }

    /// What an event says of it.
    pub fn facts(&self) -> Value {
        json!({
            "id": self.id, "service": self.service, "severity": self.severity.as_str(), "reason": self.reason,
            "message": self.error_message, "start_time": Stamp(self.started), "end_time": self.ended.map(Stamp),
            "duration_seconds": self.ended.map(|ended| self.duration(ended).as_secs()),
            "root_cause": self.root_cause, "resolution_notes": self.resolution_notes,
        })
    }

    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// How long it lasted, or has lasted so far, less the time in maintenance that is known.
    pub fn duration(&self, now: DateTime<Utc>) -> Duration {
        let paused = Duration::from_millis(self.maintenance_ms.max(0).cast_unsigned());
        span(self.started, self.ended.unwrap_or(now)).saturating_sub(paused)
    }

    /// The same outage, ended; `maintenance_ms` of it were in maintenance.
    pub fn closed(&self, ended: DateTime<Utc>, notes: &str, by: Option<&str>, maintenance_ms: i64) -> Self {
        Self {
            ended: Some(ended.max(self.started)),
            resolution_notes: Some(notes.to_owned()),
            resolved_by: by.map(str::to_owned),
            updated: Some(ended),
            maintenance_ms,
            ..self.clone()
        }
    }
}

/// Start and end of an outage, as kept for the numbers of the last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageSpan {
    pub start_ms: i64,
    pub end_ms: Option<i64>,
}

/// Downtime, MTBF and MTTR over the window that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OutageNumbers {
    /// Outage time clipped to the window, the open one included.
    pub downtime_minutes: f64,
    /// Up time in the window over outages opened in it; `None` with none.
    pub mtbf_minutes: Option<f64>,
    /// Mean length of the outages closed in the window; `None` with none.
    pub mttr_minutes: Option<f64>,
}

/// DESIGN.md section 4, in minutes. `paused` tells how many milliseconds between two instants were in maintenance.
pub fn outage_numbers(
    outages: &[OutageSpan],
    up_ms: i64,
    now_ms: i64,
    window_ms: i64,
    paused: impl Fn(i64, i64) -> i64,
) -> OutageNumbers {
    const MINUTE: f64 = 60_000.0;
    let start = now_ms - window_ms;
    let (mut down, mut opened, mut closed, mut closed_ms) = (0, 0u32, 0u32, 0);
    for outage in outages {
        let end = outage.end_ms.unwrap_or(now_ms);
        let (from, until) = (outage.start_ms.max(start), end.min(now_ms));
        if until > from {
            down += until - from - paused(from, until);
        }
        opened += u32::from(outage.start_ms > start);
        if let Some(end) = outage.end_ms
            && end > start
        {
            closed += 1;
            closed_ms += end - outage.start_ms - paused(outage.start_ms, end);
        }
    }
    OutageNumbers {
        downtime_minutes: down as f64 / MINUTE,
        mtbf_minutes: (opened > 0).then(|| up_ms as f64 / MINUTE / f64::from(opened)),
        mttr_minutes: (closed > 0).then(|| closed_ms as f64 / MINUTE / f64::from(closed)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::from_ms;
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn downtime_is_clipped_to_the_window_and_counts_the_open_outage() {
        let outages = [
            OutageSpan { start_ms: -10 * MINUTE, end_ms: Some(5 * MINUTE) },
            OutageSpan { start_ms: 20 * MINUTE, end_ms: Some(24 * MINUTE) },
            OutageSpan { start_ms: 50 * MINUTE, end_ms: None },
        ];
        let numbers = outage_numbers(&outages, 41 * MINUTE, 60 * MINUTE, 60 * MINUTE, |_, _| 0);
        assert_eq!(numbers.downtime_minutes, 5.0 + 4.0 + 10.0);
        assert_eq!(numbers.mtbf_minutes, Some(41.0 / 2.0));
        assert_eq!(numbers.mttr_minutes, Some((15.0 + 4.0) / 2.0));
    }

    #[test]
    fn time_in_maintenance_is_no_downtime() {
        let outages = [OutageSpan { start_ms: 10 * MINUTE, end_ms: Some(30 * MINUTE) }];
        let paused = |from: i64, until: i64| (until.min(25 * MINUTE) - from.max(20 * MINUTE)).max(0);
        let numbers = outage_numbers(&outages, 40 * MINUTE, 60 * MINUTE, 60 * MINUTE, paused);
        assert_eq!((numbers.downtime_minutes, numbers.mttr_minutes), (15.0, Some(15.0)));
    }

    #[test]
    fn without_outages_there_is_no_mean() {
        assert_eq!(outage_numbers(&[], MINUTE, MINUTE, MINUTE, |_, _| 0), OutageNumbers::default());
    }

    #[test]
    fn the_id_is_a_version_7_uuid_made_of_facts() {
        let name = ServiceName::new("auth").unwrap();
        let id = Outage::id_for(&name, from_ms(1000), from_ms(3000));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id, Outage::id_for(&name, from_ms(1000), from_ms(3000)));
        assert_ne!(id, Outage::id_for(&name, from_ms(1001), from_ms(3000)));
        assert_ne!(id, Outage::id_for(&ServiceName::new("auth2").unwrap(), from_ms(1000), from_ms(3000)));
    }
}
