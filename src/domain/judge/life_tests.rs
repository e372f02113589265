//! What time and people do to alerts, and rules over all services.

use std::time::Duration;

use super::super::alert::{Acknowledgement, AlertStatus};
use super::super::time::from_ms;
use super::super::window::Parts;
use super::tests::Court;
use super::*;

const MINUTE: i64 = 60;

impl Court {
    /// Does something to the judge, and notes what is told.
    fn does(&mut self, work: impl FnOnce(&mut Judge, Bench<'_>) -> Decision) {
        let now = from_ms(self.second * 1000);
        let bench = Bench {
            registry: &self.registry,
            policy: &self.policy,
            routing: &self.routing,
            windows: &self.in_force,
            now,
        };
        let decision = work(&mut self.judge, bench);
        self.note(decision);
    }

    fn id_of(&self, component: &str) -> String {
        self.judge.alerts().find(|alert| alert.component.as_str() == component).unwrap().id.clone()
    }

    fn acknowledge(&mut self, component: &str, minutes: Option<i64>) {
        let id = self.id_of(component);
        let until = minutes.map(|minutes| from_ms((self.second + minutes * MINUTE) * 1000));
        self.does(|judge, bench| {
            let by = Acknowledgement { at: bench.now, by: Some("ann".to_owned()), note: None, until };
            judge.acknowledge(&id, by).unwrap()
        });
    }

    fn fleet(&mut self) {
        self.second += 1;
        self.does(Judge::fleet);
    }
}

fn down() -> Court {
    let mut court = Court::of("call");
    court.play("call", "huuu");
    court.expect(&["alert_raised call-service-down critical"]);
    court.deliver();
    court
}

#[test]
fn an_alert_nobody_looks_after_escalates_three_times_and_is_then_repeated_ever_more_rarely() {
    let mut court = down();
    for _ in 0..3 {
        court.wait(15 * MINUTE - 1);
        court.expect(&[]);
        court.wait(1);
        court.expect(&["alert_escalated call-service-down critical"]);
    }
    for hours in [4, 8, 16, 24, 24] {
        court.wait(hours * 60 * MINUTE - 1);
        court.expect(&[]);
        court.wait(1);
        court.expect(&["alert_reminder call-service-down critical"]);
    }
    court.policy.repeat = Duration::ZERO;
    court.wait(1000 * 60 * MINUTE);
    court.expect(&[]);
}

#[test]
fn an_acknowledged_alert_is_quiet_until_its_time_is_over_and_its_end_is_told() {
    let mut court = down();
    court.acknowledge("call", Some(60));
    court.wait(60 * MINUTE - 1);
    court.expect(&[]);
    assert_eq!(court.judge.alerts().next().unwrap().status, AlertStatus::Acknowledged);
    court.wait(1);
    court.expect(&[]);
    assert_eq!(court.judge.alerts().next().unwrap().status, AlertStatus::Active);
    court.wait(15 * MINUTE);
    court.expect(&["alert_escalated call-service-down critical"]);
    court.acknowledge("call", None);
    court.wait(1000 * 60 * MINUTE);
    court.expect(&[]);
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
}

#[test]
fn a_cleared_alert_leaves_the_list_and_stays_away_while_its_condition_lasts() {
    let mut court = down();
    let id = court.id_of("call");
    court.does(|judge, bench| judge.clear(bench, &id).unwrap());
    assert!(!court.judge.alerts().next().unwrap().is_listed());
    court.does(|judge, bench| {
        assert_eq!(judge.clear(bench, &id), Err(NotLiving), "it is off the list already");
        Decision::default()
    });
    court.play("call", "uuuu");
    court.wait(1000 * 60 * MINUTE);
    court.expect(&[]);
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical"]);
    court.wait(5 * MINUTE);
    court.play("call", "uuu");
    court.expect(&["alert_raised call-service-down critical"]);
}

#[test]
fn what_is_resolved_by_hand_comes_back_after_the_cooldown_if_it_still_holds() {
    let mut court = down();
    let id = court.id_of("call");
    court.does(|judge, bench| judge.resolve_by_hand(bench, &id, Some("ann"), Some("restarted")).unwrap());
    court.expect(&["alert_resolved call-service-down critical"]);
    court.play("call", "uu");
    court.wait(5 * MINUTE - 4);
    court.play("call", "u");
    court.expect(&[]);
    assert_eq!(court.severity("call"), None);
    court.play("call", "u");
    court.expect(&["alert_raised call-service-down critical"]);
    assert_ne!(court.id_of("call"), id);
}

#[test]
fn what_is_resolved_by_hand_and_really_over_is_news_when_it_comes_back() {
    let mut court = down();
    let id = court.id_of("call");
    court.does(|judge, bench| judge.resolve_by_hand(bench, &id, None, None).unwrap());
    court.expect(&["alert_resolved call-service-down critical"]);
    court.play("call", "huu");
    assert!(court.severity("call").is_some(), "raised at two failures, within the cooldown");
}

#[test]
fn three_unrelated_services_down_are_told_and_those_of_one_root_are_not() {
    let mut court = Court::of("a\nb\nc: a\nd: a".replace('\n', ", ").as_str());
    court.play("a", "huuu");
    court.play("c", "huuu");
    court.fleet();
    assert_eq!(court.severity("system"), None, "two are not three");
    court.play("d", "huuu");
    court.expect(&["alert_raised a-service-down critical"]);
    court.fleet();
    court.expect(&[]);
    assert_eq!(court.severity("system"), Some(("critical", true)), "explained by its one root");
    court.play("b", "huuu");
    court.expect(&["alert_raised b-service-down critical"]);
    court.fleet();
    court.expect(&["alert_raised system-multiple-services-down critical"]);
    court.deliver();
    court.play("b", "h");
    court.play("c", "h");
    court.play("d", "h");
    court.expect(&["alert_resolved b-service-down critical"]);
    court.fleet();
    court.expect(&["alert_resolved system-multiple-services-down critical"]);
}

#[test]
fn an_outage_of_two_hours_is_an_alert_of_its_own() {
    let mut court = down();
    court.policy.escalation = Duration::ZERO;
    court.second += 120 * MINUTE - 5;
    court.fleet();
    court.expect(&[]);
    court.second += 10;
    court.fleet();
    court.expect(&["alert_raised call-long-outage critical"]);
    court.deliver();
    court.play("call", "h");
    court.expect(&["alert_resolved call-service-down critical", "alert_resolved call-long-outage critical"]);
}

#[test]
fn low_uptime_is_raised_below_99_rises_below_95_and_needs_an_hour() {
    let mut court = Court::of("call");
    let judge_uptime = |court: &mut Court, up: i64, down: i64| {
        let name = ServiceName::new("call").unwrap();
        let service = court.registry.find(&name).unwrap().clone();
        let state = ServiceState::default();
        court.second += 60;
        let parts = Parts { up: up * 1000, down: down * 1000, ..Parts::default() };
        court.does(|judge, bench| judge.uptime(bench, &service, &state, parts));
    };
    judge_uptime(&mut court, 3000, 599);
    court.expect(&[]);
    judge_uptime(&mut court, 9900, 100);
    court.expect(&[]);
    judge_uptime(&mut court, 9899, 101);
    court.expect(&["alert_raised call-low-uptime medium"]);
    judge_uptime(&mut court, 9500, 500);
    court.expect(&[]);
    judge_uptime(&mut court, 9499, 501);
    court.expect(&["alert_severity_raised call-low-uptime critical"]);
    judge_uptime(&mut court, 9900, 100);
    court.expect(&["alert_resolved call-low-uptime critical"]);
}

#[test]
fn the_state_of_the_system_is_told_unless_one_root_explains_it() {
    let trouble = |critical, bad: &[&str]| SystemTrouble {
        critical,
        critical_failures: bad.iter().map(|name| format!("Service: {name}")).collect(),
        services_degraded: 0,
        services_down: bad.len(),
        infra_degraded: 0,
        infra_down: 0,
        bad: bad.iter().map(|name| ServiceName::new(name).unwrap()).collect(),
    };
    let mut court = Court::of("a, b");
    court.play("a", "huuu");
    court.expect(&["alert_raised a-service-down critical"]);
    court.does(|judge, bench| judge.system(bench, Some(trouble(true, &["a"])), true));
    court.expect(&[]);
    assert_eq!(court.severity("system"), Some(("critical", true)));
    court.play("b", "huuu");
    court.expect(&["alert_raised b-service-down critical"]);
    court.does(|judge, bench| judge.system(bench, Some(trouble(true, &["a", "b"])), true));
    court.expect(&["alert_raised system-system-status critical"]);
    court.deliver();
    court.does(|judge, bench| judge.system(bench, None, true));
    court.expect(&["alert_resolved system-system-status critical"]);
}

#[test]
fn a_full_disk_of_the_host_is_critical_and_its_end_is_told() {
    let mut court = Court::of("a");
    court.does(|judge, bench| {
        judge.host(bench, Component::HostDisk, Some(HostTrouble { percent: 91.234, limit: 90.0 }))
    });
    court.expect(&["alert_raised host-disk-system-resource critical"]);
    let alert = court.judge.alerts().next().unwrap();
    assert_eq!((alert.title.as_str(), alert.message.as_str()), ("Host disk critical", "disk usage 91.23%"));
    court.deliver();
    court.does(|judge, bench| judge.host(bench, Component::HostDisk, None));
    court.expect(&["alert_resolved host-disk-system-resource critical"]);
}

#[test]
fn whoever_was_told_of_the_beginning_is_told_of_the_end() {
    use super::super::routing::{Route, Routing};
    let mut court = Court::of("call");
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    court.routing = Routing {
        receivers: names(&["log", "slow", "oncall"]),
        routes: vec![
            Route { receivers: names(&["slow"]), severities: vec![Severity::Medium], ..Route::default() },
            Route { receivers: names(&["oncall"]), severities: vec![Severity::Critical], ..Route::default() },
        ],
    };
    let told = |court: &Court| court.judge.alerts().next().unwrap().receivers.clone();
    court.play("call", "sss");
    court.deliver();
    assert_eq!(told(&court), names(&["log", "slow"]));
    court.play("call", "SShS");
    assert_eq!(told(&court), names(&["log", "slow", "oncall"]), "a rise reaches those who know of it");
    let mut ended = Vec::new();
    court.does(|judge, bench| {
        let id = judge.alerts().next().unwrap().id.clone();
        let decision = judge.resolve_by_hand(bench, &id, None, None).unwrap();
        ended.clone_from(&decision.notices[0].alert.receivers);
        decision
    });
    assert_eq!(ended, names(&["log", "slow", "oncall"]));
}

#[test]
fn a_line_in_the_log_tells_nobody_who_is_to_be_told() {
    use super::super::routing::Routing;
    let mut court = Court::of("call");
    court.routing.receivers = vec!["log".to_owned(), "webhook".to_owned()];
    court.play("call", "huuu");
    let id = court.id_of("call");
    assert!(court.judge.delivered("log", [id.as_str()]).is_empty());
    assert_eq!(court.judge.delivered("webhook", [id.as_str()]).len(), 1);
    let mut court = Court::of("call");
    court.routing = Routing { receivers: vec!["log".to_owned()], ..Routing::default() };
    court.play("call", "huuu");
    let id = court.id_of("call");
    assert_eq!(court.judge.delivered("log", [id.as_str()]).len(), 1, "where the log is all there is");
}

#[test]
fn each_emergency_stop_is_news_also_soon_after_one_that_was_ended_by_hand() {
    let mut court = Court::of("call");
    let trip = |court: &mut Court| {
        court.second += 1;
        court.does(|judge, bench| judge.emergency_stop(bench, Some(("drawdown".to_owned(), Map::new()))));
    };
    trip(&mut court);
    let id = court.id_of("emergency_stop_system");
    court.deliver();
    court.does(|judge, bench| judge.clear(bench, &id).unwrap());
    assert_eq!(court.severity("emergency_stop_system"), None);
    trip(&mut court);
    assert_eq!(court.severity("emergency_stop_system"), Some(("critical", false)));
}
