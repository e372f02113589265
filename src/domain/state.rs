//! State of one service, and what one more check makes of it (CONTRACT.md 7.2, section 11). Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::check::{Check, response_us};
use super::classify::Verdict;
use super::observation::{Facts, Kind, Observation, Phases, Reason};
use super::outage::{Outage, OutageSeverity};
use super::policy::{FlapPolicy, OutagePolicy};
use super::service::Service;
use super::status::Status;

/// How long a service stays `unstable` after a failing streak that came to nothing: CONTRACT.md 7.2.
const UNSTABLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// Unhealthy checks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    pub since: DateTime<Utc>,
    pub count: u32,
    /// Status before the first of them.
    #[serde(default)]
    pub from: Status,
}

/// The latest checks as up or down, and whether they alternate too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flaps {
    /// One bit a check, the newest lowest; set when it was up.
    ups: u64,
    seen: u32,
    pub flapping: bool,
}

impl Flaps {
    /// Takes in one check. With hysteresis: it begins at the high mark and ends below the low one.
    fn advance(self, up: bool, policy: &FlapPolicy) -> Self {
        let ups = (self.ups << 1) | u64::from(up);
        let seen = (self.seen + 1).min(64);
        if policy.high_percent == 0 || seen < policy.window {
            return Self { ups, seen, flapping: false };
        }
        let percent = Self { ups, seen, flapping: false }.percent(policy);
        let flapping =
            percent >= f64::from(policy.high_percent) || (self.flapping && percent >= f64::from(policy.low_percent));
        Self { ups, seen, flapping }
    }

    /// Changes among the checks of the window, in percent of the most there can be.
    pub fn percent(self, policy: &FlapPolicy) -> f64 {
        let pairs = policy.window.clamp(2, 64).min(self.seen.max(2)) - 1;
        let changes = (self.ups ^ (self.ups >> 1)) & (u64::MAX >> (64 - pairs));
        100.0 * f64::from(changes.count_ones()) / f64::from(pairs)
    }
}

/// What is known of one service now.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceState {
    pub status: Status,
    pub reason: Reason,
    pub issues: Vec<String>,
    pub error_message: Option<String>,
    pub last_check: Option<DateTime<Utc>>,
    /// Microseconds; `None` without an answer.
    pub response_us: Option<u32>,
    pub http_status: u16,
    pub phases: Phases,
    /// `version` is the last one seen; the others are of the latest check.
    pub facts: Facts,
    pub consecutive_failures: u32,
    pub consecutive_successes: u32,
    /// Unhealthy checks in a row: what outages and `service_down` are judged by.
    pub failing: Option<Streak>,
    /// Checks in a row, not unhealthy, while an outage is open.
    pub recovering: u32,
    /// First of them.
    pub recovering_from: Option<DateTime<Utc>>,
    pub outage: Option<Outage>,
    pub unstable_until: Option<DateTime<Utc>>,
    pub flaps: Flaps,
    /// The latest check was in maintenance.
    pub maintenance: bool,
    /// A redirect was followed by the latest check.
    pub redirected: bool,
    /// What came back last, for people.
    #[serde(skip)]
    pub details: Option<Box<str>>,
    /// When the certificate shown last expires; unix seconds.
    pub certificate_expires: Option<i64>,
    /// Rises with each conclusive check, never falls.
    pub sequence: u64,
}

/// Something others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Status { from: Status, to: Status },
    OutageOpened(Outage),
    OutageClosed(Outage),
}

/// What one check made of a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    pub state: ServiceState,
    pub changes: Vec<Change>,
    /// The check as it is stored; `None` when it was inconclusive, which changes nothing.
    pub check: Option<Check>,
    /// It must be durable before anyone sees it: a change, or a step of a streak that is being confirmed.
    pub must_commit: bool,
}

impl ServiceState {
    /// Unhealthy checks in a row.
    pub fn failing_count(&self) -> u32 {
        self.failing.map_or(0, |streak| streak.count)
    }

    /// Two unhealthy checks in a row, or an open outage: what makes a dependency a failed one (CONTRACT.md 10.5).
    pub fn has_failed(&self) -> bool {
        self.outage.is_some() || self.failing_count() >= 2
    }

    /// A failing streak that is not yet an outage, or came to nothing less than five minutes ago.
    pub fn unstable(&self, now: DateTime<Utc>) -> bool {
        (self.failing.is_some() && self.outage.is_none()) || self.unstable_until.is_some_and(|until| now < until)
    }

    /// Whether a quick re-check must follow, `rechecks` having been made since the streak began.
    pub fn wants_confirmation(&self, service: &Service, policy: &OutagePolicy, rechecks: u32) -> bool {
        policy.verification
            && self.outage.is_none()
            && self.failing.is_some_and(|streak| streak.count < service.outage_failures(policy))
            && rechecks < service.retries
    }

    /// Takes in one check. `maintenance`: a window is in force for the service, so that no streak runs and no outage opens.
    #[expect(clippy::too_many_arguments, reason = "the facts of one check, each of another kind")]
    pub fn advance(
        &self,
        service: &Service,
        verdict: &Verdict,
        seen: &Observation,
        kind: Kind,
        now: DateTime<Utc>,
        policy: &OutagePolicy,
        maintenance: bool,
    ) -> Advance {
        let Some(status) = verdict.status else {
            return Advance { state: self.clone(), changes: Vec::new(), check: None, must_commit: false };
        };
        // Streaks begin at zero at the end of a window.
        let before = if self.maintenance && !maintenance {
            Self { failing: None, consecutive_failures: 0, consecutive_successes: 0, ..self.clone() }
        } else {
            self.clone()
        };
        before.advance_from(service, verdict, seen, kind, now, policy, (maintenance, status))
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one check, each of another kind")]
    fn advance_from(
        self,
        service: &Service,
        verdict: &Verdict,
        seen: &Observation,
        kind: Kind,
        now: DateTime<Utc>,
        policy: &OutagePolicy,
        (maintenance, status): (bool, Status),
    ) -> Advance {
        let mut next = self.clone();
        let mut changes = Vec::new();
        next.status = status;
        next.maintenance = maintenance;
        if !maintenance {
            next.flaps = self.flaps.advance(status.is_up(), &policy.flap);
        }
        next.last_check = Some(now);
        next.sequence += 1;
        next.describe(verdict, seen);
        if status == Status::Healthy {
            (next.consecutive_successes, next.consecutive_failures) = (self.consecutive_successes + 1, 0);
        } else {
            (next.consecutive_successes, next.consecutive_failures) = (0, self.consecutive_failures + 1);
        }
        if status != self.status {
            changes.push(Change::Status { from: self.status, to: status });
        }

        let confirming = self.outage.is_none() && self.failing.is_some();
        if status == Status::Unhealthy && maintenance {
            (next.failing, next.recovering, next.recovering_from) = (None, 0, None);
        } else if status == Status::Unhealthy {
            (next.recovering, next.recovering_from) = (0, None);
            let streak = self
                .failing
                .map_or(Streak { since: now, count: 1, from: self.status }, |s| Streak { count: s.count + 1, ..s });
            next.failing = Some(streak);
            if next.outage.is_none() && streak.count >= service.outage_failures(policy) {
                let outage = open_outage(service, streak.since, now, verdict);
                next.outage = Some(outage.clone());
                next.unstable_until = None;
                changes.push(Change::OutageOpened(outage));
            }
        } else {
            next.failing = None;
            if let Some(outage) = &self.outage {
                next.recovering = self.recovering + 1;
                if next.recovering >= policy.recovery_threshold {
                    let first_good = self.recovering_from.unwrap_or(now);
                    let closed = outage.closed(first_good, "Service recovered", None, 0);
                    next.outage = None;
                    (next.recovering, next.recovering_from) = (0, None);
                    changes.push(Change::OutageClosed(closed));
                } else if next.recovering == 1 {
                    next.recovering_from = Some(now);
                }
            } else if self.failing.is_some() {
                next.unstable_until = Some(now + UNSTABLE_AFTER);
            }
        }

        // Steps of a streak up to the fifth failure, the last one an alert looks at by default, are kept at once:
        // a restart in the middle goes on where it was.
        let step = next.failing.is_some_and(|s| s.count <= service.limits.consecutive_failures_critical.max(5));
        let turned = next.flaps.flapping != self.flaps.flapping || next.maintenance != self.maintenance;
        let must_commit = !changes.is_empty() || step || confirming || turned || next.recovering > 0;
        let check = Some(next.stored(verdict, kind, now));
        Advance { state: next, changes, check, must_commit }
    }

    /// The true outcome of a probe that was judged at the critical response time, before it ended. It stays one check.
    pub fn amend(&self, verdict: &Verdict, seen: &Observation, kind: Kind) -> Advance {
        let mut next = self.clone();
        let status = next.status;
        next.describe(verdict, seen);
        next.status = status;
        let now = self.last_check.unwrap_or_default();
        let check = Check { status, ..next.stored(verdict, kind, now) };
        Advance { state: next, changes: Vec::new(), check: Some(check), must_commit: false }
    }

    /// A changed URL or protocol: what was seen of the old one says nothing about the new.
    pub fn forget_verdict(&self) -> Self {
        Self {
            status: Status::Unknown,
            reason: Reason::Ok,
            issues: Vec::new(),
            error_message: None,
            response_us: None,
            http_status: 0,
            phases: Phases::default(),
            ..self.clone()
        }
    }

    /// Not watched for the time being: no streak goes on, no outage is open.
    pub fn at_rest(&self) -> Self {
        Self { flaps: Flaps::default(), ..self.forget_verdict() }.without_outage()
    }

    /// The outage was closed by hand: a new one needs the threshold anew.
    pub fn without_outage(&self) -> Self {
        Self { failing: None, outage: None, recovering: 0, recovering_from: None, ..self.clone() }
    }

    fn describe(&mut self, verdict: &Verdict, seen: &Observation) {
        self.reason = verdict.reason;
        self.issues.clone_from(&verdict.issues);
        self.error_message.clone_from(&verdict.error_message);
        self.response_us = response_us(seen);
        self.phases = seen.phases;
        let (code, facts) = match &seen.reply {
            Ok(reply) => {
                self.details.clone_from(&reply.details);
                self.certificate_expires = reply.certificate_expires.or(self.certificate_expires);
                (reply.code, reply.facts.clone())
            }
            Err(_) => {
                self.details = None;
                (0, Facts::default())
            }
        };
        self.redirected = seen.reply.as_ref().is_ok_and(|reply| reply.redirected);
        self.http_status = code;
        let version = facts.version.or_else(|| self.facts.version.take());
        self.facts = Facts { version, ..facts };
    }

    fn stored(&self, verdict: &Verdict, kind: Kind, now: DateTime<Utc>) -> Check {
        let streak = if self.consecutive_failures > 0 {
            -i64::from(self.consecutive_failures)
        } else {
            i64::from(self.consecutive_successes)
        };
        Check {
            at_ms: now.timestamp_millis(),
            status: self.status,
            reason: verdict.reason,
            kind,
            http_status: self.http_status,
            response_us: self.response_us,
            streak: i32::try_from(streak).unwrap_or(if streak < 0 { i32::MIN } else { i32::MAX }),
            error: (!verdict.issues.is_empty()).then(|| verdict.issues.join(", ").into()),
            maintenance: self.maintenance,
            redirected: self.redirected,
        }
    }
}

fn open_outage(service: &Service, started: DateTime<Utc>, now: DateTime<Utc>, verdict: &Verdict) -> Outage {
    Outage {
        id: Outage::id_for(&service.name, started, now),
        service: service.name.clone(),
        severity: OutageSeverity::of(service),
        started,
        confirmed: now,
        ended: None,
        reason: verdict.reason,
        error_message: verdict.error_message.clone().unwrap_or_default(),
        critical: service.critical,
        resolution_notes: None,
        resolved_by: None,
        updated: None,
        maintenance_ms: 0,
        root_cause: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::classify::classify;
    use super::super::service::tests::service;
    use super::super::time::from_ms;
    use super::*;

    const POLICY: OutagePolicy = OutagePolicy {
        detection_threshold: 3,
        recovery_threshold: 1,
        verification: true,
        confirm_interval: Duration::from_secs(1),
        flap: FlapPolicy { window: 20, high_percent: 30, low_percent: 20 },
    };

    /// One check a second; letters: h(ealthy), d(egraded), u(nhealthy), i(nconclusive); capitals: in maintenance.
    fn play(outcomes: &str, policy: &OutagePolicy) -> (ServiceState, Vec<Change>) {
        let service = service("auth");
        let mut state = ServiceState::default();
        let mut changes = Vec::new();
        for (second, outcome) in outcomes.chars().enumerate() {
            let seen = match outcome.to_ascii_lowercase() {
                'h' => Observation::answered(200, Duration::from_millis(5)),
                'd' => Observation::answered(404, Duration::from_millis(5)),
                'u' => Observation::failed(Reason::ConnectRefused, ""),
                _ => Observation::failed(Reason::LocalResource, "no sockets"),
            };
            let verdict = classify(&seen, service.limits.latency, &service.expected);
            let now = from_ms(second as i64 * 1000);
            let quiet = outcome.is_ascii_uppercase();
            let step = state.advance(&service, &verdict, &seen, Kind::Scheduled, now, policy, quiet);
            state = step.state;
            changes.extend(step.changes);
        }
        (state, changes)
    }

    fn outages(changes: &[Change]) -> Vec<(i64, Option<i64>)> {
        let seconds = |at: DateTime<Utc>| at.timestamp();
        let mut found: Vec<(i64, Option<i64>)> = Vec::new();
        for change in changes {
            match change {
                Change::OutageOpened(outage) => found.push((seconds(outage.started), None)),
                Change::OutageClosed(outage) => {
                    if let Some(last) = found.last_mut() {
                        last.1 = outage.ended.map(seconds);
                    }
                }
                Change::Status { .. } => {}
            }
        }
        found
    }

    #[test]
    fn an_outage_opens_at_the_third_failure_and_is_dated_back_to_the_first() {
        let check = |played: &str, expected: &[(i64, Option<i64>)]| {
            assert_eq!(outages(&play(played, &POLICY).1), expected, "{played}");
        };
        check("huu", &[]);
        check("huuu", &[(1, None)]);
        check("huuuuuu", &[(1, None)]);
        check("huuuh", &[(1, Some(4))]);
        check("huuud", &[(1, Some(4))]);
        check("huuduu", &[]);
        check("huuiu", &[(1, None)]);
        check("huuuhuuu", &[(1, Some(4)), (5, None)]);
    }

    #[test]
    fn recovery_waits_for_its_threshold_and_is_dated_to_its_first_good_check() {
        let policy = OutagePolicy { recovery_threshold: 2, ..POLICY };
        let check = |played: &str, expected: &[(i64, Option<i64>)]| {
            assert_eq!(outages(&play(played, &policy).1), expected, "{played}");
        };
        check("uuuh", &[(0, None)]);
        check("uuuhuh", &[(0, None)]);
        check("uuuhuhh", &[(0, Some(5))]);
    }

    #[test]
    fn streaks_set_each_other_to_zero_and_degraded_counts_as_failure() {
        let check = |played: &str, failures, successes, failing| {
            let state = play(played, &POLICY).0;
            let counted = (state.consecutive_failures, state.consecutive_successes, state.failing_count());
            assert_eq!(counted, (failures, successes, failing), "{played}");
        };
        check("hhh", 0, 3, 0);
        check("hdu", 2, 0, 1);
        check("uud", 3, 0, 0);
        check("uuh", 0, 1, 0);
        check("uii", 1, 0, 1);
    }

    #[test]
    fn a_blip_is_unstable_for_five_minutes_and_an_outage_is_not() {
        let blip = play("huh", &POLICY).0;
        assert!(blip.unstable(from_ms(2_000 + 299_999)));
        assert!(!blip.unstable(from_ms(2_000 + 300_000)));
        assert!(play("hu", &POLICY).0.unstable(from_ms(1_000)));
        assert!(!play("huuu", &POLICY).0.unstable(from_ms(3_000)));
    }

    #[test]
    fn confirmation_ends_at_the_threshold_the_retries_or_a_good_check() {
        let service = service("auth");
        let wants = |played: &str, rechecks| play(played, &POLICY).0.wants_confirmation(&service, &POLICY, rechecks);
        assert!(wants("hu", 0));
        assert!(wants("huu", 1));
        assert!(!wants("huuu", 2));
        assert!(!wants("hu", service.retries));
        assert!(!wants("huh", 1));
        let off = OutagePolicy { verification: false, ..POLICY };
        assert!(!play("hu", &off).0.wants_confirmation(&service, &off, 0));
    }

    #[test]
    fn an_inconclusive_check_changes_nothing() {
        assert_eq!(play("hu", &POLICY).0, play("hui", &POLICY).0);
    }

    #[test]
    fn in_maintenance_no_outage_opens_and_a_good_check_closes_an_open_one() {
        let check = |played: &str, expected: &[(i64, Option<i64>)]| {
            assert_eq!(outages(&play(played, &POLICY).1), expected, "{played}");
        };
        check("hUUUUUU", &[]);
        check("huuUUUU", &[]);
        check("hUUUUuu", &[]);
        check("hUUUUuuu", &[(5, None)]);
        check("huuUuuu", &[(4, None)]);
        check("uuuUUUU", &[(0, None)]);
        check("uuuUUUH", &[(0, Some(6))]);
        check("uuuUUu", &[(0, None)]);
        let state = play("hUUUUu", &POLICY).0;
        assert_eq!((state.failing_count(), state.consecutive_failures), (1, 1));
    }

    #[test]
    fn flapping_begins_at_the_high_mark_and_ends_below_the_low_one() {
        let check = |played: &str, flapping| assert_eq!(play(played, &POLICY).0.flaps.flapping, flapping, "{played}");
        // Of 20 checks 19 pairs: six changes are 31.6 %, five 26.3 %, three 15.8 %.
        check("hhhhhhhhhhhhhhuhuhuh", true);
        check("hhhhhhhhhhhhhhhhuhuh", false);
        check("huhuhuhuhuhuhuhuhuh", false);
        check("hhhhhhhhhhhhhhhhhhuu", false);
        // It goes on at four changes, 21.1 %, and ends at three.
        check(&format!("{}{}", "hhhhhhhhhhhhhhuhuhuh", "h".repeat(15)), true);
        check(&format!("{}{}", "hhhhhhhhhhhhhhuhuhuh", "h".repeat(16)), false);
        let off = OutagePolicy { flap: FlapPolicy { high_percent: 0, ..POLICY.flap }, ..POLICY };
        assert!(!play(&"hu".repeat(20), &off).0.flaps.flapping);
    }

    /// Outages by the definition (CONTRACT.md section 11), looked up in the whole sequence: a streak that reaches the
    /// threshold outside maintenance opens one at its first check; enough checks in a row that are not unhealthy close
    /// it at the first of them.
    fn model(played: &[char], threshold: usize, recovery: usize) -> Vec<(i64, Option<i64>)> {
        let mut found = Vec::new();
        let mut open: Option<i64> = None;
        let (mut bad, mut good): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
        let mut in_window = false;
        for (second, outcome) in played.iter().enumerate().map(|(second, outcome)| (second as i64, *outcome)) {
            if outcome == 'i' || outcome == 'I' {
                continue;
            }
            let quiet = outcome.is_ascii_uppercase();
            if quiet || in_window {
                bad.clear();
            }
            in_window = quiet;
            if outcome.eq_ignore_ascii_case(&'u') {
                good.clear();
                if !quiet {
                    bad.push(second);
                }
                if open.is_none() && bad.len() >= threshold {
                    open = bad.first().copied();
                    found.push((open.unwrap(), None));
                }
            } else {
                bad.clear();
                if open.is_some() {
                    good.push(second);
                    if good.len() >= recovery {
                        found.last_mut().unwrap().1 = good.first().copied();
                        open = None;
                        good.clear();
                    }
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn outages_are_those_of_the_model(
            played in prop::collection::vec(prop::sample::select(vec!['h', 'd', 'u', 'u', 'u', 'i', 'H', 'U', 'U', 'I']), 0..80),
            threshold in 1u32..5,
            recovery in 1u32..4,
        ) {
            let policy = OutagePolicy { detection_threshold: threshold, recovery_threshold: recovery, ..POLICY };
            let text: String = played.iter().collect();
            let seen = outages(&play(&text, &policy).1);
            prop_assert_eq!(seen, model(&played, threshold as usize, recovery as usize), "{}", text);
        }
    }

    #[test]
    fn an_amended_check_keeps_its_place_and_tells_the_true_time() {
        let service = service("auth");
        let early = Observation::failed(Reason::Latency, "High response time (over 3000ms)");
        let verdict = classify(&early, service.limits.latency, &service.expected);
        let judged =
            ServiceState::default().advance(&service, &verdict, &early, Kind::Scheduled, from_ms(5), &POLICY, false);
        let late = Observation::answered(200, Duration::from_millis(4200));
        let verdict = classify(&late, service.limits.latency, &service.expected);
        let amended = judged.state.amend(&verdict, &late, Kind::Scheduled).state;
        assert_eq!((amended.status, amended.sequence, amended.failing_count()), (Status::Unhealthy, 1, 1));
        assert_eq!((amended.response_us, amended.reason), (Some(4_200_000), Reason::Latency));
    }
}
