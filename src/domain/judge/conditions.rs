//! Which conditions hold about one service: what was seen against its limits. What becomes of a condition, and who is
//! told of it, is the judge's business.

use super::super::alert::{AlertDetails, AlertType, Severity};
use super::super::policy::AlertPolicy;
use super::super::service::{Service, ServiceName};
use super::super::state::ServiceState;
use super::super::time::{Stamp, round2, span, spoken};
use super::super::window::{Counts, Parts};
use super::{Condition, FAILED_AT, Failed};
use chrono::{DateTime, Utc};

/// Answers looked at for `high_response_time`, how many of them raise it, and how many it resolves with: CONTRACT.md 10.4.
const LATEST: usize = 5;
const RAISE_AT: usize = 3;
const RESOLVE_AT: usize = 1;
/// Failed checks an error rate needs: one lost packet is no page, CONTRACT.md 10.4.
const ERROR_RATE_MIN_FAILURES: u64 = 2;
/// Time that must have been watched before an uptime is judged: CONTRACT.md 10.4, one hour.
const UPTIME_NEEDS_MS: i64 = 3_600_000;

pub(super) enum Judged {
    Holds(Box<Condition>),
    /// Neither raised nor over: an alert stays as it is.
    Undecided,
    Over,
}

pub(super) fn response_time_condition(service: &Service, latest_ms: &[u64]) -> Judged {
    let limits = service.limits.latency;
    let newest = &latest_ms[..latest_ms.len().min(LATEST)];
    let slow = newest.iter().filter(|ms| **ms >= limits.warning_ms).count();
    let very_slow = newest.iter().filter(|ms| **ms > limits.critical_ms).count();
    if slow < RAISE_AT {
        return if slow <= RESOLVE_AT { Judged::Over } else { Judged::Undecided };
    }
    let critical = very_slow >= RAISE_AT;
    let ms = newest.first().copied().unwrap_or(0);
    Judged::Holds(Box::new(Condition {
        severity: performance_severity(service, critical),
        threshold: Some((if critical { limits.critical_ms } else { limits.warning_ms }) as f64),
        value: Some(ms as f64),
        title: format!("High response time: {}", service.name),
        message: format!("High response time: {ms}ms"),
        description: format!("Service {} response time is {ms}ms", service.name),
        details: AlertDetails { response_time_ms: Some(ms as f64), ..AlertDetails::default() },
    }))
}

/// `low / medium, then medium / critical`: CONTRACT.md 10.4.
pub(super) fn performance_severity(service: &Service, critical_limit: bool) -> Severity {
    match (critical_limit, service.critical) {
        (false, false) => Severity::Low,
        (false, true) | (true, false) => Severity::Medium,
        (true, true) => Severity::Critical,
    }
}

pub(super) fn flapping_condition(service: &Service, state: &ServiceState) -> Condition {
    let name = &service.name;
    Condition {
        severity: if service.critical { Severity::Medium } else { Severity::Low },
        threshold: None,
        value: None,
        title: format!("Flapping: {name}"),
        message: format!("Service {name} alternates between up and down"),
        description: format!(
            "Service {name} alternates between up and down; its other notices wait until it has settled"
        ),
        details: details(state),
    }
}

pub(super) fn failed(state: &ServiceState) -> Option<Failed> {
    let streak = state.failing.filter(|streak| streak.count >= FAILED_AT).map(|streak| streak.since);
    let since = state.outage.as_ref().map(|outage| outage.started).or(streak)?;
    Some(Failed { since, outage: state.outage.clone() })
}

pub(super) fn details(state: &ServiceState) -> AlertDetails {
    AlertDetails {
        reason: Some(state.reason),
        http_status: (state.http_status != 0).then_some(state.http_status),
        response_time_ms: state.response_us.map(|us| round2(f64::from(us) / 1000.0)),
        ..AlertDetails::default()
    }
}

/// `down`: the alert type of an outage of this service.
pub(super) fn down_condition(
    service: &Service,
    state: &ServiceState,
    down: AlertType,
    impacted: Vec<ServiceName>,
) -> Option<Condition> {
    let count = state.failing_count();
    let limits = &service.limits;
    if count < limits.consecutive_failures_warning && state.outage.is_none() || count == 0 {
        return None;
    }
    let at_limit = count >= limits.consecutive_failures_critical;
    let severity = match down {
        AlertType::InfrastructureDown => Severity::Critical,
        _ if at_limit || (service.critical && state.outage.is_some()) => Severity::Critical,
        _ if service.critical => Severity::High,
        _ => Severity::Medium,
    };
    let threshold = match down {
        AlertType::ServiceDown if at_limit => limits.consecutive_failures_critical,
        _ => limits.consecutive_failures_warning,
    };
    let name = &service.name;
    let (title, message, description) = match down {
        AlertType::InfrastructureDown => {
            let message = format!("Infrastructure component {name} is unavailable");
            (format!("Infrastructure DOWN: {name}"), message.clone(), message)
        }
        _ => (
            format!("Service DOWN: {name}"),
            format!("Service {name} is down"),
            format!("Service has failed {count} consecutive health checks"),
        ),
    };
    Some(Condition {
        severity,
        threshold: Some(f64::from(threshold)),
        value: Some(f64::from(count)),
        title,
        message,
        description,
        details: AlertDetails { impacted, ..details(state) },
    })
}

/// From the checks of the window.
pub(super) fn error_rate_condition(
    service: &Service,
    state: &ServiceState,
    counts: Counts,
    policy: &AlertPolicy,
) -> Judged {
    let (rate, limits) = (counts.error_rate(), &service.limits);
    if rate < limits.error_rate_warning {
        return Judged::Over;
    }
    if counts.checks < policy.error_rate_min_checks || counts.not_healthy() < ERROR_RATE_MIN_FAILURES {
        return Judged::Undecided;
    }
    let critical = rate >= limits.error_rate_critical;
    let minutes = round2(policy.error_rate_window.as_secs_f64() / 60.0);
    Judged::Holds(Box::new(Condition {
        severity: performance_severity(service, critical),
        threshold: Some(if critical { limits.error_rate_critical } else { limits.error_rate_warning }),
        value: Some(rate),
        title: format!("High error rate: {}", service.name),
        message: format!("High error rate: {}%", round2(rate * 100.0)),
        description: format!(
            "{} of {} checks of {} failed in {minutes} minutes",
            counts.not_healthy(),
            counts.checks,
            service.name,
        ),
        details: details(state),
    }))
}

/// From the last 24 hours.
pub(super) fn uptime_condition(service: &Service, state: &ServiceState, parts: Parts) -> Judged {
    let limits = &service.limits;
    let Some(percent) = parts.uptime_percent() else { return Judged::Undecided };
    if percent >= limits.uptime_warning {
        return Judged::Over;
    }
    if parts.up + parts.down < UPTIME_NEEDS_MS {
        return Judged::Undecided;
    }
    let critical = percent < limits.uptime_critical;
    let shown = round2(percent);
    Judged::Holds(Box::new(Condition {
        severity: performance_severity(service, critical),
        threshold: Some(if critical { limits.uptime_critical } else { limits.uptime_warning }),
        value: Some(shown),
        title: format!("Low uptime: {}", service.name),
        message: format!("Uptime {shown}%"),
        description: format!("Service {} was up {shown}% of the last 24 hours", service.name),
        details: details(state),
    }))
}

/// An outage that has been open for long.
pub(super) fn long_outage_condition(
    name: &ServiceName,
    failed: &Failed,
    policy: &AlertPolicy,
    now: DateTime<Utc>,
) -> Option<Condition> {
    let outage = failed.outage.as_ref()?;
    let lasted = span(outage.started, now);
    (lasted >= policy.long_outage).then(|| Condition {
        severity: Severity::Critical,
        threshold: Some(round2(policy.long_outage.as_secs_f64() / 60.0)),
        value: Some((lasted.as_secs() / 60) as f64),
        title: format!("Long outage: {name}"),
        message: format!("Service {name} has been down for {}", spoken(lasted)),
        description: format!("Down since {}: {}", Stamp(outage.started), outage.error_message),
        details: AlertDetails { reason: Some(outage.reason), ..AlertDetails::default() },
    })
}
