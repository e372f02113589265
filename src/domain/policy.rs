//! The numbers rules are judged by, settled once from the configuration. Sources of the defaults: `config/default.toml`.

use std::time::Duration;

use super::alert::Severity;

/// When a failing streak becomes an outage, and when one ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutagePolicy {
    /// Unhealthy checks in a row that open an outage.
    pub detection_threshold: u32,
    /// Checks in a row, not unhealthy, that close one.
    pub recovery_threshold: u32,
    /// Quick re-checks after a first failure.
    pub verification: bool,
    /// From the end of a failed check to its quick re-check.
    pub confirm_interval: Duration,
    pub flap: FlapPolicy,
}

/// When a service that alternates counts as flapping: CONTRACT.md section 20.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlapPolicy {
    /// Checks looked at, 3 to 64.
    pub window: u32,
    /// Changes between up and down, in percent of the most there can be, from which it flaps; 0: never.
    pub high_percent: u32,
    /// Below which it has settled.
    pub low_percent: u32,
}

impl Default for FlapPolicy {
    /// The values of `config/default.toml`.
    fn default() -> Self {
        Self { window: 20, high_percent: 30, low_percent: 20 }
    }
}

/// When alerts notify, repeat and rise.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertPolicy {
    pub enabled: bool,
    /// Below it alerts are shown, not sent.
    pub min_severity: Severity,
    pub cooldown: Duration,
    /// Zero: never.
    pub escalation: Duration,
    pub max_escalations: u32,
    pub error_rate_window: Duration,
    pub error_rate_min_checks: u64,
    /// After its root cause recovered, a service that fails this many more checks speaks for itself.
    pub detection_threshold: u32,
    /// An alert that nobody looks after is told again after this long, then after twice as long, up to a day; zero: never.
    pub repeat: Duration,
    /// An outage open for this long is an alert of its own.
    pub long_outage: Duration,
    /// So many services down at once are an alert of their own.
    pub multiple_down: usize,
}

impl Default for AlertPolicy {
    /// The values of `config/default.toml`.
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            enabled: true,
            min_severity: Severity::Medium,
            cooldown: 5 * MINUTE,
            escalation: 15 * MINUTE,
            max_escalations: 3,
            error_rate_window: 5 * MINUTE,
            error_rate_min_checks: 10,
            detection_threshold: 3,
            repeat: 240 * MINUTE,
            long_outage: 120 * MINUTE,
            multiple_down: 3,
        }
    }
}

/// What one service's worst-case detection time is made of (CONTRACT.md 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectionPolicy {
    pub outage: OutagePolicy,
    pub group_wait: Duration,
    pub promise: Duration,
}

impl DetectionPolicy {
    /// Handing a notification over: committing it and sending it, CONTRACT.md 6.2.
    const HANDOVER: Duration = Duration::from_secs(1);

    /// From a failure just after a good check to the receiver, in the worst case. Each re-check that is missing
    /// (switched off, or too few retries) costs an interval instead.
    pub fn worst_case(&self, interval: Duration, timeout: Duration, outage_failures: u32, retries: u32) -> Duration {
        let needed = outage_failures.saturating_sub(1);
        let quick = if self.outage.verification { needed.min(retries) } else { 0 };
        let slow = needed - quick;
        interval
            + timeout
            + (self.outage.confirm_interval + timeout) * quick
            + interval * slow
            + self.group_wait
            + Self::HANDOVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_case_detection_of_a_builtin_critical_service_is_28_seconds() {
        let mut policy = DetectionPolicy {
            outage: OutagePolicy {
                detection_threshold: 3,
                recovery_threshold: 1,
                verification: true,
                confirm_interval: Duration::from_secs(1),
                flap: FlapPolicy::default(),
            },
            group_wait: Duration::from_secs(1),
            promise: Duration::from_secs(30),
        };
        let secs = Duration::from_secs;
        assert_eq!(policy.worst_case(secs(15), secs(3), 3, 3), secs(28));
        assert_eq!(policy.worst_case(secs(15), secs(3), 5, 10), secs(36));
        assert_eq!(policy.worst_case(secs(15), secs(3), 3, 1), secs(15 + 3 + 4 + 15 + 2));
        policy.outage.verification = false;
        assert_eq!(policy.worst_case(secs(15), secs(3), 3, 3), secs(15 + 3 + 30 + 2));
        assert_eq!(policy.worst_case(secs(15), secs(3), 1, 3), secs(20));
    }
}
