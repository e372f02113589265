//! Turns what a probe saw into a verdict. Pure: the same observation always gets the same verdict (CONTRACT.md 7.1).

use serde::{Deserialize, Serialize};

use super::observation::{Observation, ProbeFailure, Reason};
use super::service::ServiceName;
use super::status::Status;

/// Response times at and above which an answer is degraded, and above which it is unhealthy, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyLimits {
    pub warning_ms: u64,
    pub critical_ms: u64,
}

impl LatencyLimits {
    fn judge(self, response_ms: u64) -> Status {
        if response_ms > self.critical_ms {
            Status::Unhealthy
        } else if response_ms >= self.warning_ms {
            Status::Degraded
        } else {
            Status::Healthy
        }
    }
}

/// Which HTTP codes the owner expects, and what any other means.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expected {
    /// Empty: no expectation.
    pub codes: Vec<u16>,
    /// An unexpected code is unhealthy rather than degraded.
    pub otherwise_unhealthy: bool,
}

impl Expected {
    fn judge(&self, code: u16) -> Status {
        let server_error = (500..=599).contains(&code);
        if self.codes.contains(&code) {
            Status::Healthy
        } else if server_error || (!self.codes.is_empty() && self.otherwise_unhealthy) {
            Status::Unhealthy
        } else if self.codes.is_empty() && (200..=299).contains(&code) {
            Status::Healthy
        } else {
            Status::Degraded
        }
    }
}

/// A status with its reason and its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: inconclusive, which changes nothing.
    pub status: Option<Status>,
    pub reason: Reason,
    /// In the words of source 000; empty when healthy.
    pub issues: Vec<String>,
    /// In the words of sources 002 to 004; `None` when healthy.
    pub error_message: Option<String>,
}

impl Verdict {
    /// The same verdict, degraded at least: a dependency that matters has failed.
    pub fn degraded_by(mut self, dependency: &ServiceName) -> Self {
        if matches!(self.status, Some(Status::Healthy | Status::Degraded)) {
            let text = format!("Dependency failed: {dependency}");
            if self.status == Some(Status::Healthy) {
                self.status = Some(Status::Degraded);
                self.reason = Reason::Assertion;
                self.error_message = Some(text.clone());
            }
            self.issues.push(text);
        }
        self
    }

    fn healthy() -> Self {
        Self { status: Some(Status::Healthy), reason: Reason::Ok, issues: Vec::new(), error_message: None }
    }
}

/// Judges `seen`: the worst applicable row counts, and among rows of equal weight the first of status,
/// assertion, latency, tls.
pub fn classify(seen: &Observation, limits: LatencyLimits, expected: &Expected) -> Verdict {
    let reply = match &seen.reply {
        Ok(reply) => reply,
        Err(failure) => return no_reply(failure),
    };
    let mut verdict = Verdict::healthy();
    let mut found = |status: Status, reason: Reason, issue: String, message: String| {
        let worse = status == Status::Unhealthy && verdict.status != Some(Status::Unhealthy);
        if verdict.reason == Reason::Ok || worse {
            verdict.status = Some(status);
            verdict.reason = reason;
            verdict.error_message = Some(message);
        }
        verdict.issues.push(issue);
    };

    if reply.code != 0 {
        let status = expected.judge(reply.code);
        let message = match expected.codes.as_slice() {
            [code] => format!("Expected status code {code}, got {}", reply.code),
            _ => format!("Unexpected status code: {}", reply.code),
        };
        match status {
            Status::Unhealthy => {
                found(status, Reason::Status, format!("Service unavailable (HTTP {})", reply.code), message);
            }
            Status::Degraded => found(status, Reason::Status, format!("HTTP error {}", reply.code), message),
            Status::Healthy | Status::Unknown => {}
        }
    }
    for finding in reply.findings.iter().filter(|finding| finding.reason != Reason::Tls) {
        found(finding.status, finding.reason, finding.text.clone(), finding.text.clone());
    }
    if let Some(ms) = seen.response_ms() {
        let status = limits.judge(ms);
        if status != Status::Healthy {
            let text = format!("High response time ({ms}ms)");
            found(status, Reason::Latency, text.clone(), text);
        }
    }
    for finding in reply.findings.iter().filter(|finding| finding.reason == Reason::Tls) {
        found(finding.status, finding.reason, finding.text.clone(), finding.text.clone());
    }
    verdict
}

fn no_reply(failure: &ProbeFailure) -> Verdict {
    let detail = &failure.detail;
    let (status, issue, message) = match failure.reason {
        Reason::Dns => (
            Some(Status::Unhealthy),
            format!("connection_error: DNS resolution failed: {detail}"),
            format!("DNS resolution failed: {detail}"),
        ),
        Reason::ConnectRefused => (
            Some(Status::Unhealthy),
            "connection_error: connection refused".to_owned(),
            "Connection failed: connection refused".to_owned(),
        ),
        Reason::ConnectTimeout | Reason::Timeout => {
            (Some(Status::Unhealthy), "timeout: Request timeout".to_owned(), "Connection timeout".to_owned())
        }
        Reason::Tls => (
            Some(Status::Unhealthy),
            format!("connection_error: TLS: {detail}"),
            format!("Connection failed: TLS: {detail}"),
        ),
        Reason::EgressDenied => (
            Some(Status::Unhealthy),
            "connection_error: address not allowed".to_owned(),
            format!("Address not allowed: {detail}"),
        ),
        Reason::LocalResource => (None, String::new(), format!("Not checked: {detail}")),
        Reason::Inconclusive | Reason::Cancelled => {
            (None, String::new(), "Not checked: monitoring impaired".to_owned())
        }
        Reason::Latency => (Some(Status::Unhealthy), detail.clone(), detail.clone()),
        Reason::Ok | Reason::Status | Reason::Assertion | Reason::Protocol | Reason::BodyLimit => {
            (Some(Status::Unhealthy), format!("unknown_error: {detail}"), format!("Unexpected error: {detail}"))
        }
    };
    let issues = if status.is_some() { vec![issue] } else { Vec::new() };
    Verdict { status, reason: failure.reason, issues, error_message: Some(message) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::observation::{Finding, Reply};
    use super::*;

    const LIMITS: LatencyLimits = LatencyLimits { warning_ms: 1000, critical_ms: 3000 };

    fn expecting(codes: &[u16], otherwise_unhealthy: bool) -> Expected {
        Expected { codes: codes.to_vec(), otherwise_unhealthy }
    }

    fn check(expected: &Expected, code: u16, ms: u64, status: Status, reason: Reason) {
        let verdict = classify(&Observation::answered(code, Duration::from_millis(ms)), LIMITS, expected);
        assert_eq!((verdict.status, verdict.reason), (Some(status), reason), "{code} after {ms} ms, {expected:?}");
    }

    #[test]
    fn codes_without_expectation() {
        let none = Expected::default();
        check(&none, 200, 0, Status::Healthy, Reason::Ok);
        check(&none, 299, 0, Status::Healthy, Reason::Ok);
        check(&none, 300, 0, Status::Degraded, Reason::Status);
        check(&none, 404, 0, Status::Degraded, Reason::Status);
        check(&none, 499, 0, Status::Degraded, Reason::Status);
        check(&none, 500, 0, Status::Unhealthy, Reason::Status);
        check(&none, 599, 0, Status::Unhealthy, Reason::Status);
    }

    #[test]
    fn response_times_at_both_sides_of_each_limit() {
        let none = Expected::default();
        check(&none, 200, 999, Status::Healthy, Reason::Ok);
        check(&none, 200, 1000, Status::Degraded, Reason::Latency);
        check(&none, 200, 3000, Status::Degraded, Reason::Latency);
        check(&none, 200, 3001, Status::Unhealthy, Reason::Latency);
        check(&none, 404, 3001, Status::Unhealthy, Reason::Latency);
        check(&none, 404, 1500, Status::Degraded, Reason::Status);
        check(&none, 500, 3001, Status::Unhealthy, Reason::Status);
    }

    #[test]
    fn what_the_owner_expects_is_healthy_and_all_else_by_the_kind_of_expectation() {
        check(&expecting(&[404], false), 404, 0, Status::Healthy, Reason::Ok);
        check(&expecting(&[503], false), 503, 0, Status::Healthy, Reason::Ok);
        check(&expecting(&[200], false), 204, 0, Status::Degraded, Reason::Status);
        check(&expecting(&[200], false), 500, 0, Status::Unhealthy, Reason::Status);
        check(&expecting(&[200, 201], true), 204, 0, Status::Unhealthy, Reason::Status);
    }

    #[test]
    fn both_texts_are_listed_when_code_and_time_are_wrong() {
        let seen = Observation::answered(404, Duration::from_millis(1500));
        let verdict = classify(&seen, LIMITS, &Expected::default());
        assert_eq!(verdict.issues, ["HTTP error 404", "High response time (1500ms)"]);
        assert_eq!(verdict.error_message.as_deref(), Some("Unexpected status code: 404"));
    }

    #[test]
    fn findings_are_judged_after_the_code_and_before_the_time_and_certificates_last() {
        let check = |finding: Finding, ms, status, reason| {
            let mut seen = Observation::answered(200, Duration::from_millis(ms));
            seen.reply = Ok(Reply { code: 200, findings: vec![finding], ..Reply::default() });
            let verdict = classify(&seen, LIMITS, &Expected::default());
            assert_eq!((verdict.status, verdict.reason), (Some(status), reason));
        };
        check(Finding::degraded(Reason::Assertion, "x"), 1500, Status::Degraded, Reason::Assertion);
        check(Finding::degraded(Reason::BodyLimit, "x"), 0, Status::Degraded, Reason::BodyLimit);
        check(Finding::unhealthy(Reason::Assertion, "x"), 1500, Status::Unhealthy, Reason::Assertion);
        check(Finding::degraded(Reason::Tls, "x"), 1500, Status::Degraded, Reason::Latency);
        check(Finding::degraded(Reason::Tls, "x"), 5, Status::Degraded, Reason::Tls);
        check(Finding::unhealthy(Reason::Tls, "x"), 1500, Status::Unhealthy, Reason::Tls);
    }

    #[test]
    fn a_failed_dependency_that_matters_degrades_what_is_healthy() {
        let name = ServiceName::new("cache").unwrap();
        let of = |code| {
            classify(&Observation::answered(code, Duration::ZERO), LIMITS, &Expected::default()).degraded_by(&name)
        };
        assert_eq!(
            (of(200).status, of(200).issues),
            (Some(Status::Degraded), vec!["Dependency failed: cache".to_owned()])
        );
        assert_eq!((of(404).reason, of(404).issues.len()), (Reason::Status, 2));
        assert_eq!((of(500).status, of(500).issues.len()), (Some(Status::Unhealthy), 1));
    }

    #[test]
    fn no_answer_is_unhealthy_and_our_own_trouble_inconclusive() {
        for reason in Reason::ALL {
            let verdict = classify(&Observation::failed(reason, "detail"), LIMITS, &Expected::default());
            let ours = matches!(reason, Reason::LocalResource | Reason::Inconclusive | Reason::Cancelled);
            assert_eq!(verdict.status, (!ours).then_some(Status::Unhealthy), "{reason:?}");
        }
    }

    #[test]
    fn the_texts_of_a_refusal() {
        let verdict = classify(&Observation::failed(Reason::ConnectRefused, ""), LIMITS, &Expected::default());
        assert_eq!(verdict.issues, ["connection_error: connection refused"]);
        assert_eq!(verdict.error_message.as_deref(), Some("Connection failed: connection refused"));
    }
}
