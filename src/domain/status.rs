//! Status, its order of severity, and how several roll into one word.

use serde::{Deserialize, Serialize};

/// What the latest conclusive check said of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never checked, or inactive.
    #[default]
    Unknown,
    Healthy,
    Degraded,
    Unhealthy,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The status of a word in lower case.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Up is healthy or degraded: the service answered within its limits of harm.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

/// How many services have each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct StatusCounts {
    pub healthy: usize,
    pub degraded: usize,
    pub unhealthy: usize,
    pub unknown: usize,
}

impl StatusCounts {
    pub fn total(&self) -> usize {
        self.healthy + self.degraded + self.unhealthy + self.unknown
    }

    pub fn of(&self, status: Status) -> usize {
        match status {
            Status::Healthy => self.healthy,
            Status::Degraded => self.degraded,
            Status::Unhealthy => self.unhealthy,
            Status::Unknown => self.unknown,
        }
    }

    pub fn add(&mut self, status: Status) {
        *self.slot(status) += 1;
    }

    /// Takes one away; a count that is already zero stays so.
    pub fn remove(&mut self, status: Status) {
        let slot = self.slot(status);
        *slot = slot.saturating_sub(1);
    }

    fn slot(&mut self, status: Status) -> &mut usize {
        match status {
            Status::Healthy => &mut self.healthy,
            Status::Degraded => &mut self.degraded,
            Status::Unhealthy => &mut self.unhealthy,
            Status::Unknown => &mut self.unknown,
        }
    }

    /// The word of `/health` and the dashboard: `unknown` does not degrade (CONTRACT.md 7.3).
    pub fn overall(&self) -> Status {
        if self.degraded + self.unhealthy > 0 { Status::Degraded } else { Status::Healthy }
    }

    /// The word of `/status` and `/health/detailed` over the services that are judged (CONTRACT.md 7.3).
    pub fn operational(&self) -> Status {
        match self {
            Self { unhealthy: 1.., .. } => Status::Unhealthy,
            Self { degraded: 1.., .. } => Status::Degraded,
            Self { healthy: 1.., unknown: 0, .. } => Status::Healthy,
            _ => Status::Unknown,
        }
    }
}

/// The word of `/status/critical`: how many critical services have an issue, of how many.
///
/// None is `operational`, up to half (rounded down) `degraded`, more `outage` (CONTRACT.md 7.3).
pub fn critical_word(issues: usize, count: usize) -> &'static str {
    match issues {
        0 => "operational",
        n if n <= count / 2 => "degraded",
        _ => "outage",
    }
}

/// A service's word over its direct dependencies (CONTRACT.md 7.3, `dependencyStatus`).
pub fn dependency_word(dependencies: impl IntoIterator<Item = Status>) -> Status {
    let mut word = Status::Healthy;
    for status in dependencies {
        match status {
            Status::Unhealthy => return Status::Unhealthy,
            Status::Healthy => {}
            Status::Degraded | Status::Unknown => word = Status::Degraded,
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_critical_word_turns_at_half() {
        let check = |issues, count, word| assert_eq!(critical_word(issues, count), word, "{issues} of {count}");
        check(0, 5, "operational");
        check(1, 5, "degraded");
        check(2, 5, "degraded");
        check(3, 5, "outage");
        check(1, 1, "outage");
        check(1, 2, "degraded");
        check(0, 0, "operational");
    }

    #[test]
    fn unknown_does_not_degrade_the_fleet() {
        let mut counts = StatusCounts::default();
        counts.add(Status::Unknown);
        counts.add(Status::Healthy);
        assert_eq!(counts.overall(), Status::Healthy);
        counts.add(Status::Degraded);
        assert_eq!(counts.overall(), Status::Degraded);
        counts.remove(Status::Degraded);
        counts.add(Status::Unhealthy);
        assert_eq!(counts.overall(), Status::Degraded);
    }

    #[test]
    fn the_operational_word_is_that_of_the_worst_and_unknown_when_somebody_is() {
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        let check = |of: &[Status], word| {
            let mut counts = StatusCounts::default();
            of.iter().for_each(|status| counts.add(*status));
            assert_eq!(counts.operational(), word, "{of:?}");
        };
        check(&[], Unknown);
        check(&[Healthy], Healthy);
        check(&[Unknown], Unknown);
        check(&[Healthy, Unknown], Unknown);
        check(&[Healthy, Unknown, Degraded], Degraded);
        check(&[Degraded, Unhealthy, Unknown], Unhealthy);
    }

    #[test]
    fn the_dependency_word_is_that_of_the_worst() {
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        let check = |of: &[Status], word| assert_eq!(dependency_word(of.iter().copied()), word, "{of:?}");
        check(&[], Healthy);
        check(&[Healthy], Healthy);
        check(&[Healthy, Unknown], Degraded);
        check(&[Degraded, Healthy], Degraded);
        check(&[Degraded, Unhealthy, Healthy], Unhealthy);
    }
}
