//! Sequences of checks, and what is told of them.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::classify::classify;
use crate::domain::maintenance::{MaintenanceWindow, Scope, WindowSource};
use crate::domain::observation::{Kind, Observation, Reason};
use crate::domain::policy::{FlapPolicy, OutagePolicy};
use crate::domain::service::tests::service_with;
use crate::domain::time::from_ms;

const OUTAGE: OutagePolicy = OutagePolicy {
    detection_threshold: 3,
    recovery_threshold: 1,
    verification: true,
    confirm_interval: Duration::from_secs(1),
    flap: FlapPolicy { window: 20, high_percent: 30, low_percent: 20 },
};

/// Services, the judge over them, and a clock in seconds.
pub(super) struct Court {
    pub registry: Registry,
    states: HashMap<ServiceName, (ServiceState, Vec<u64>)>,
    pub in_force: InForce,
    pub judge: Judge,
    pub policy: AlertPolicy,
    pub routing: Routing,
    pub second: i64,
    told: Vec<String>,
}

impl Court {
    /// `"web: call, call"`: all critical and on the critical path.
    pub fn of(text: &str) -> Self {
        let services = text.split(", ").map(|line| {
            let (name, needs) = line.split_once(": ").unwrap_or((line, ""));
            Arc::new(service_with(name, &needs.split_whitespace().collect::<Vec<_>>()))
        });
        Self {
            registry: Registry::new(services.collect(), &[]).unwrap(),
            states: HashMap::new(),
            in_force: InForce::default(),
            judge: Judge::default(),
            policy: AlertPolicy::default(),
            routing: Routing::default(),
            second: 1000,
            told: Vec::new(),
        }
    }

    pub fn note(&mut self, decision: Decision) {
        for (id, _) in &decision.withdrawn {
            self.told.push(format!("withdrawn {}", id.rsplit_once('-').unwrap().0));
        }
        for notice in decision.notices {
            let alert = &notice.alert;
            let what = format!("{} {}", notice.kind.as_str(), alert.id.rsplit_once('-').unwrap().0);
            self.told.push(format!("{what} {}", alert.severity.as_str()));
        }
    }

    /// Checks of one service, a second apart: h(ealthy), s(low, 1.5 s), S(lower, 4 s), u(nhealthy).
    pub fn play(&mut self, name: &str, outcomes: &str) {
        let name = ServiceName::new(name).unwrap();
        let service = self.registry.find(&name).unwrap().clone();
        for outcome in outcomes.chars() {
            self.second += 1;
            let seen = match outcome {
                'h' => Observation::answered(200, Duration::from_millis(5)),
                's' => Observation::answered(200, Duration::from_millis(1500)),
                'S' => Observation::answered(200, Duration::from_millis(4000)),
                _ => Observation::failed(Reason::ConnectRefused, ""),
            };
            let verdict = classify(&seen, service.limits.latency, &service.expected);
            let now = from_ms(self.second * 1000);
            let (state, latest) = self.states.entry(name.clone()).or_default();
            let from = state.status;
            let quiet = self.in_force.covers(&service).is_some();
            *state = state.advance(&service, &verdict, &seen, Kind::Scheduled, now, &OUTAGE, quiet).state;
            if let Some(ms) = seen.response_ms() {
                latest.insert(0, ms);
            }
            let (state, latest) = (state.clone(), latest.clone());
            let bench = Bench {
                registry: &self.registry,
                policy: &self.policy,
                routing: &self.routing,
                windows: &self.in_force,
                now,
            };
            let decision = self.judge.after_check(bench, &service, &state, from, &latest);
            self.note(decision);
        }
    }

    pub fn wait(&mut self, seconds: i64) {
        self.second += seconds;
        let now = from_ms(self.second * 1000);
        let decision = self.judge.on_time(Bench {
            registry: &self.registry,
            policy: &self.policy,
            routing: &self.routing,
            windows: &self.in_force,
            now,
        });
        self.note(decision);
    }

    /// A receiver says yes to everything owed.
    pub fn deliver(&mut self) {
        let ids: Vec<String> = self.judge.alerts().map(|alert| alert.id.clone()).collect();
        for id in ids {
            let owed = self.judge.alerts().any(|alert| alert.id == id && alert.told == Told::Owed);
            if owed {
                self.judge.delivered("webhook", [id.as_str()]);
            }
        }
    }

    fn error_rate(&mut self, name: &str, checks: u64, healthy: u64) {
        let name = ServiceName::new(name).unwrap();
        let service = self.registry.find(&name).unwrap().clone();
        let state = self.states.entry(name).or_default().0.clone();
        let counts = Counts { checks, healthy, ..Counts::default() };
        let now = from_ms(self.second * 1000);
        let bench = Bench {
            registry: &self.registry,
            policy: &self.policy,
            routing: &self.routing,
            windows: &self.in_force,
            now,
        };
        let decision = self.judge.error_rate(bench, &service, &state, counts);
        self.note(decision);
    }

    #[track_caller]
    pub fn expect(&mut self, told: &[&str]) {
        assert_eq!(std::mem::take(&mut self.told), told);
    }

    pub fn severity(&self, component: &str) -> Option<(&'static str, bool)> {
        let alert = self.judge.alerts().find(|alert| alert.component.as_str() == component)?;
        Some((alert.severity.as_str(), alert.suppressed_by.is_some()))
    }
}

#[test]
fn service_down_is_raised_at_two_told_at_the_outage_and_resolved_once() {
    let mut court = Court::of("call");
    court.play("call", "hu");
    assert_eq!(court.severity("call"), None);
    court.play("call", "u");
    assert_eq!(court.severity("call"), Some(("high", false)));
    court.expect(&[]);
    court.play("call", "u");
    court.expect(&["alert_raised call-service-down critical"]);
    court.play("call", "uuuu");
    court.expect(&[]);
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
    court.play("call", "h");
    court.expect(&[]);
}

#[test]
fn a_blip_pages_nobody() {
    let mut court = Court::of("call");
    court.play("call", "huuhuuhuh");
    court.expect(&[]);
    assert_eq!(court.severity("call"), None);
}

#[test]
fn slowness_is_raised_at_three_of_five_rises_and_resolves_at_one() {
    let mut court = Court::of("call");
    court.play("call", "hhss");
    court.expect(&[]);
    court.play("call", "s");
    court.expect(&["alert_raised call-high-response-time medium"]);
    court.deliver();
    court.play("call", "hh");
    court.expect(&[]);
    court.play("call", "hh");
    court.expect(&["alert_resolved call-high-response-time medium"]);
}

#[test]
fn a_severity_rises_and_never_falls() {
    let mut court = Court::of("call");
    court.play("call", "sss");
    court.deliver();
    court.expect(&["alert_raised call-high-response-time medium"]);
    // Answers over the critical limit are unhealthy too: one healthy in between keeps the outage away.
    court.play("call", "SShS");
    court.expect(&["alert_severity_raised call-high-response-time critical"]);
    court.play("call", "sss");
    court.expect(&[]);
    assert_eq!(court.severity("call"), Some(("critical", false)));
}

#[test]
fn dependents_are_held_back_whichever_fails_first() {
    let mut court = Court::of("web: call, call: twilio, twilio");
    court.play("twilio", "huuu");
    court.expect(&["alert_raised twilio-service-down critical"]);
    court.play("call", "huuu");
    court.play("web", "huuu");
    court.expect(&[]);
    let held: Vec<_> = court.judge.alerts().filter(|alert| alert.suppressed_by.is_some()).collect();
    assert_eq!(held.len(), 4, "two dependency failures and two outages: {held:#?}");
    assert!(held.iter().all(|alert| alert.root_cause.as_ref().is_some_and(|root| root.as_str() == "twilio")));

    let mut court = Court::of("call: twilio, twilio");
    court.play("call", "huuu");
    court.expect(&["alert_raised call-service-down critical"]);
    court.play("twilio", "huu");
    court.expect(&["withdrawn call-service-down"]);
    court.play("twilio", "u");
    court.expect(&["alert_raised twilio-service-down critical"]);
}

#[test]
fn what_was_sent_is_not_taken_back_and_its_resolve_is_told() {
    let mut court = Court::of("call: twilio, twilio");
    court.play("call", "huuu");
    court.deliver();
    court.play("twilio", "huuu");
    court.expect(&["alert_raised call-service-down critical", "alert_raised twilio-service-down critical"]);
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
}

#[test]
fn a_dependent_that_stays_down_after_its_root_recovered_speaks_for_itself() {
    let mut court = Court::of("call: twilio, twilio");
    court.play("twilio", "huuu");
    court.play("call", "huuu");
    court.play("twilio", "h");
    court.expect(&["alert_raised twilio-service-down critical", "alert_resolved twilio-service-down critical"]);
    court.play("call", "uu");
    court.expect(&[]);
    court.play("call", "u");
    court.expect(&["alert_raised call-service-down critical"]);
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
}

#[test]
fn the_roots_notice_names_who_is_impacted() {
    let mut court = Court::of("page: web, web: call, call: twilio, twilio");
    court.play("twilio", "huuu");
    let alert = court.judge.alerts().find(|alert| alert.component.as_str() == "twilio").unwrap();
    let names: Vec<&str> = alert.details.impacted.iter().map(ServiceName::as_str).collect();
    assert_eq!(names, ["call", "web", "page"]);
}

#[test]
fn a_failed_dependency_of_the_critical_path_is_listed_rises_and_resolves_in_silence() {
    let mut court = Court::of("call: twilio, twilio");
    court.play("twilio", "huu");
    assert_eq!(court.severity("call"), Some(("high", true)));
    court.play("twilio", "u");
    assert_eq!(court.severity("call"), Some(("critical", true)));
    court.deliver();
    court.play("twilio", "h");
    assert_eq!(court.severity("call"), None);
    court.expect(&["alert_raised twilio-service-down critical", "alert_resolved twilio-service-down critical"]);
}

#[test]
fn a_condition_that_returns_within_the_cooldown_waits_for_the_rest_of_it() {
    let mut court = Court::of("call");
    court.play("call", "sss");
    court.deliver();
    court.play("call", "hhhh");
    court.play("call", "sss");
    court.expect(&["alert_raised call-high-response-time medium", "alert_resolved call-high-response-time medium"]);
    court.wait(200);
    court.expect(&[]);
    court.wait(120);
    court.expect(&["alert_raised call-high-response-time medium"]);
    let mut critical = Court::of("call");
    critical.play("call", "huuuhuuu");
    critical.expect(&[
        "alert_raised call-service-down critical",
        "alert_resolved call-service-down critical",
        "alert_raised call-service-down critical",
    ]);
}

#[test]
fn an_alert_nobody_takes_up_escalates_so_often_and_no_more() {
    let mut court = Court::of("call");
    court.play("call", "sss");
    court.deliver();
    court.wait(890);
    court.expect(&["alert_raised call-high-response-time medium"]);
    for severity in ["high", "high", "high"] {
        court.wait(900);
        court.expect(&[&format!("alert_escalated call-high-response-time {severity}")]);
    }
    court.wait(9000);
    court.expect(&[]);
}

#[test]
fn error_rates_at_both_sides_of_each_limit() {
    let check = |checks, healthy, told: &[&str]| {
        let mut court = Court::of("call");
        court.error_rate("call", checks, healthy);
        court.expect(told);
    };
    check(100, 100, &[]);
    check(100, 99, &[]);
    check(200, 198, &["alert_raised call-high-error-rate medium"]);
    check(300, 298, &[]);
    check(9, 0, &[]);
    check(10, 8, &["alert_raised call-high-error-rate critical"]);
    check(100, 96, &["alert_raised call-high-error-rate medium"]);
    check(100, 95, &["alert_raised call-high-error-rate critical"]);
}

#[test]
fn an_outage_explains_its_error_rate_until_the_window_has_passed_it() {
    let mut court = Court::of("call");
    court.play("call", "huuu");
    court.deliver();
    court.error_rate("call", 10, 7);
    court.play("call", "h");
    court.error_rate("call", 12, 9);
    court.expect(&["alert_raised call-service-down critical", "alert_resolved call-service-down critical"]);
    court.wait(301);
    court.error_rate("call", 20, 18);
    court.expect(&["alert_raised call-high-error-rate critical"]);
}

#[test]
fn an_id_is_never_given_twice() {
    let mut court = Court::of("call");
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        court.play("call", "uu");
        court.second -= 2;
        assert!(ids.insert(court.judge.alerts().next().unwrap().id.clone()));
        court.play("call", "h");
        court.second -= 1;
    }
}

#[test]
fn a_restored_judge_goes_on_where_the_last_one_was() {
    let mut court = Court::of("call: twilio, twilio");
    court.play("twilio", "huuu");
    court.play("call", "hu");
    court.deliver();
    let living: Vec<Alert> = court.judge.alerts().cloned().collect();
    let mut restored = Judge::restore(living, &[], court.judge.sequences.clone());
    for (name, (state, _)) in &court.states {
        restored.recall(court.registry.find(name).unwrap(), state);
    }
    court.judge = restored;
    court.wait(1);
    court.play("call", "uu");
    court.expect(&["alert_raised twilio-service-down critical"]);
    court.play("twilio", "h");
    court.expect(&["alert_resolved twilio-service-down critical"]);
}

#[test]
fn a_service_taken_out_resolves_its_alerts() {
    let mut court = Court::of("call: twilio, twilio");
    court.play("twilio", "huuu");
    court.deliver();
    let now = from_ms(court.second * 1000);
    let bench = Bench {
        registry: &court.registry,
        policy: &court.policy,
        routing: &court.routing,
        windows: &court.in_force,
        now,
    };
    let decision = court.judge.forget(bench, &ServiceName::new("twilio").unwrap());
    court.note(decision);
    court.expect(&["alert_raised twilio-service-down critical", "alert_resolved twilio-service-down critical"]);
    assert_eq!(court.judge.alerts().count(), 0);
}

#[test]
fn with_alerting_off_everything_is_shown_and_nothing_sent() {
    let mut court = Court::of("call");
    court.policy.enabled = false;
    court.play("call", "huuu");
    court.expect(&[]);
    assert_eq!(court.severity("call"), Some(("critical", false)));
}

#[test]
fn a_dependency_failure_is_never_told_even_while_its_root_has_no_alert_yet() {
    // As after a start from what Redis remembers: who has failed is known, alerts are not.
    let mut court = Court::of("call: twilio, twilio");
    court.play("twilio", "huu");
    let mut restored = Judge::default();
    for (name, (state, _)) in &court.states {
        restored.recall(court.registry.find(name).unwrap(), state);
    }
    court.judge = restored;
    let bench = Bench {
        registry: &court.registry,
        policy: &court.policy,
        routing: &court.routing,
        windows: &court.in_force,
        now: from_ms(court.second * 1000),
    };
    let decision = court.judge.after_change(bench, &[]);
    court.note(decision);
    court.wait(1);
    assert_eq!(court.severity("call").map(|(severity, _)| severity), Some("high"));
    court.expect(&[]);
}

/// A window for all services, from now on.
fn everyone() -> InForce {
    let window = MaintenanceWindow {
        id: uuid::Uuid::nil(),
        name: None,
        description: None,
        created_by: None,
        start: from_ms(0),
        end: from_ms(10_000_000_000),
        scope: Scope { everyone: true, ..Scope::default() },
        recurrence: None,
        source: WindowSource::Api,
        created_at: from_ms(0),
        updated_at: from_ms(0),
        changed_in_force: None,
    };
    InForce { windows: vec![Arc::new(window)], ..InForce::default() }
}

#[test]
fn in_maintenance_nothing_is_raised_told_escalated_or_resolved() {
    let mut court = Court::of("call, other");
    court.play("call", "huuu");
    court.deliver();
    court.expect(&["alert_raised call-service-down critical"]);
    court.in_force = everyone();
    court.play("other", "huuuuu");
    court.wait(1000);
    court.play("call", "h");
    court.error_rate("other", 20, 0);
    court.expect(&[]);
    assert_eq!((court.severity("call").is_some(), court.severity("other")), (true, None));
    // At its end what is over resolves, and what is still down is announced.
    court.in_force = InForce::default();
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
    court.play("other", "uuu");
    court.expect(&["alert_raised other-service-down critical"]);
}

#[test]
fn a_flapping_service_is_told_once_at_each_end() {
    let mut court = Court::of("call");
    court.play("call", &"h".repeat(14));
    court.play("call", "uuuh");
    court.deliver();
    court.play("call", "uh");
    court.deliver();
    court.play("call", "uuuu");
    court.deliver();
    let begun = std::mem::take(&mut court.told);
    assert_eq!(begun.iter().filter(|told| told.contains("flapping")).count(), 0, "{begun:?}");
    court.play("call", "huhuuuuhuuuh");
    court.deliver();
    court.expect(&["alert_raised call-flapping medium"]);
    court.play("call", &"h".repeat(20));
    let ended = std::mem::take(&mut court.told);
    assert_eq!(ended[0], "alert_resolved call-flapping medium");
    assert!(ended.iter().all(|told| told.starts_with("alert_resolved")), "{ended:?}");
    assert_eq!(court.judge.alerts().count(), 0);
}

#[test]
fn a_dependency_that_holds_back_no_alerts_explains_nothing() {
    let mut court = Court::of("call: twilio, twilio");
    let mut call = service_with("call", &["twilio"]);
    call.depends_on[0].hold_alerts = false;
    let twilio = Arc::new(service_with("twilio", &[]));
    court.registry = Registry::new(vec![Arc::new(call), twilio], &[]).unwrap();
    court.play("twilio", "huuu");
    court.play("call", "huuu");
    court.expect(&["alert_raised twilio-service-down critical", "alert_raised call-service-down critical"]);
}
