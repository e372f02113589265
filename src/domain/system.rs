//! The whole system in the words of source 004: a word for each service, the rules for all of them in their order, and
//! which of it is confirmed (CONTRACT.md 7.3, 7.4, 10.4). Pure.

use serde::Serialize;

use super::check::Check;
use super::observation::Reason;
use super::probe::Probe;
use super::service::{Service, ServiceName};
use super::state::ServiceState;
use super::status::Status;
use super::time::round2;

/// Slowest response in milliseconds above which the system is degraded, and critical: source 004.
const SLOW_MS: f64 = 1000.0;
const TOO_SLOW_MS: f64 = 5000.0;

/// One service in the words of 004. Ordered: a word may only get worse to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Word {
    /// Never checked, inactive, or in maintenance: in no overall word.
    Unknown,
    Ok,
    Degraded,
    Down,
}

/// The whole system in the words of 004.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SystemStatus {
    Ok,
    Degraded,
    Critical,
}

impl SystemStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Degraded => "DEGRADED",
            Self::Critical => "CRITICAL",
        }
    }

    /// `system_status_code` of `/health/metrics`: CONTRACT.md 9.2.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What of one check 004 looks at.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub status: Status,
    pub reason: Reason,
    /// 0 without an answer of a protocol that has codes.
    pub http_status: u16,
}

impl From<&ServiceState> for Outcome {
    fn from(state: &ServiceState) -> Self {
        Self { status: state.status, reason: state.reason, http_status: state.http_status }
    }
}

impl From<&Check> for Outcome {
    fn from(check: &Check) -> Self {
        Self { status: check.status, reason: check.reason, http_status: check.http_status }
    }
}

/// The word for one check of `service`. Over HTTP it goes by the code alone: slowness counts at the system only.
pub fn word(service: &Service, seen: Outcome) -> Word {
    let by_code = matches!(service.probe, Probe::Http(_));
    match (seen.status, seen.http_status) {
        (Status::Unknown, _) => Word::Unknown,
        (_, 200) if by_code => Word::Ok,
        (_, 500..) if by_code && !service.is_infrastructure() => Word::Down,
        (_, 1..) if by_code => Word::Degraded,
        // Judged at the critical response time, and still waited for: neither an answer nor none yet.
        (Status::Unhealthy, _) if by_code && seen.reason == Reason::Latency => Word::Degraded,
        (Status::Unhealthy, _) => Word::Down,
        // A good answer without a code is none of HTTP's.
        (Status::Healthy, _) => Word::Ok,
        (Status::Degraded, _) => Word::Degraded,
    }
}

/// One service as the rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    pub service: &'a Service,
    pub word: Word,
    /// The best of the latest two checks: a failure that only one of them saw is not confirmed.
    pub confirmed: Word,
    /// Of the latest check, if it was answered.
    pub response_us: Option<u32>,
}

/// Names by word, in the order of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Names {
    pub ok: Vec<ServiceName>,
    pub degraded: Vec<ServiceName>,
    pub down: Vec<ServiceName>,
    pub unknown: Vec<ServiceName>,
}

impl Names {
    fn add(&mut self, name: &ServiceName, word: Word) {
        let list = match word {
            Word::Ok => &mut self.ok,
            Word::Degraded => &mut self.degraded,
            Word::Down => &mut self.down,
            Word::Unknown => &mut self.unknown,
        };
        list.push(name.clone());
    }
}

/// Response times of services, infrastructure apart, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub average_ms: f64,
    pub max_ms: f64,
}

/// How many failures two checks in a row have seen, and what they alone make of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    pub status: SystemStatus,
    pub critical_failures: Vec<String>,
    pub services_degraded: usize,
    pub services_down: usize,
    pub infra_degraded: usize,
    pub infra_down: usize,
}

/// The whole system at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemView {
    pub status: SystemStatus,
    pub services: Names,
    pub infrastructure: Names,
    /// `Service: <name>`, `Infrastructure: <name>`, `ESS: <reason>`.
    pub critical_failures: Vec<String>,
    /// `None`: no service was answered.
    pub latency: Option<Latency>,
    /// The emergency stop is tripped, and why.
    pub ess: Option<String>,
    /// What may raise an alert: neither latency nor the emergency stop is part of it.
    pub confirmed: Confirmed,
    /// By the slowest response alone.
    pub by_latency: SystemStatus,
}

/// Failures counted by kind.
#[derive(Debug, Default)]
struct Tally {
    services_degraded: usize,
    services_down: usize,
    infra_degraded: usize,
    infra_down: usize,
    critical: Vec<String>,
}

impl Tally {
    fn add(&mut self, service: &Service, word: Word) {
        let infrastructure = service.is_infrastructure();
        match (word, infrastructure) {
            (Word::Degraded, false) => self.services_degraded += 1,
            (Word::Degraded, true) => self.infra_degraded += 1,
            (Word::Down, false) => {
                self.services_down += 1;
                if service.critical {
                    self.critical.push(format!("Service: {}", service.name));
                }
            }
            (Word::Down, true) => {
                self.infra_down += 1;
                self.critical.push(format!("Infrastructure: {}", service.name));
            }
            (Word::Ok | Word::Unknown, _) => {}
        }
    }

    /// The rules in their order, the first that applies; `latency`: what the slowest response says.
    fn status(&self, ess: bool, latency: SystemStatus) -> SystemStatus {
        if ess || !self.critical.is_empty() || latency == SystemStatus::Critical {
            SystemStatus::Critical
        } else if self.services_down + self.services_degraded + self.infra_degraded > 0 {
            SystemStatus::Degraded
        } else {
            latency
        }
    }
}

impl SystemView {
    /// Judges every service together. `ess`: why the emergency stop is tripped, if it is.
    pub fn of<'a>(members: impl IntoIterator<Item = Member<'a>>, ess: Option<String>) -> Self {
        let (mut services, mut infrastructure) = (Names::default(), Names::default());
        let (mut seen, mut confirmed) = (Tally::default(), Tally::default());
        let (mut sum_us, mut max_us, mut answered) = (0, 0, 0u32);
        for member in members {
            let (service, word) = (member.service, member.word);
            let is_service = !service.is_infrastructure();
            (if is_service { &mut services } else { &mut infrastructure }).add(&service.name, word);
            seen.add(service, word);
            confirmed.add(service, member.confirmed);
            if let Some(us) = member.response_us.filter(|_| is_service && word != Word::Unknown) {
                sum_us += u64::from(us);
                max_us = max_us.max(us);
                answered += 1;
            }
        }
        let ms = |us: f64| round2(us / 1000.0);
        let latency = (answered > 0)
            .then(|| Latency { average_ms: ms(sum_us as f64 / f64::from(answered)), max_ms: ms(f64::from(max_us)) });
        let by_latency = match latency.map_or(0.0, |latency| latency.max_ms) {
            ms if ms > TOO_SLOW_MS => SystemStatus::Critical,
            ms if ms > SLOW_MS => SystemStatus::Degraded,
            _ => SystemStatus::Ok,
        };
        let status = seen.status(ess.is_some(), by_latency);
        // Services before infrastructure before the emergency stop, as 004 lists them.
        let in_order = |mut failures: Vec<String>| {
            failures.sort_by_key(|failure| failure.starts_with("Infrastructure"));
            failures
        };
        let mut critical_failures = in_order(seen.critical);
        critical_failures.extend(ess.iter().map(|reason| format!("ESS: {reason}")));
        let confirmed = Confirmed {
            status: confirmed.status(false, SystemStatus::Ok),
            services_degraded: confirmed.services_degraded,
            services_down: confirmed.services_down,
            infra_degraded: confirmed.infra_degraded,
            infra_down: confirmed.infra_down,
            critical_failures: in_order(confirmed.critical),
        };
        Self { status, services, infrastructure, critical_failures, latency, ess, confirmed, by_latency }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::service::Source;
    use super::super::spec::{Defaults, ServiceSpec};
    use super::*;

    fn service(name: &str, more: Value) -> Service {
        let mut fields = json!({"name": name, "url": "http://localhost:1"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: ServiceSpec = serde_json::from_value(fields).unwrap();
        spec.into_service(&Defaults::default(), Source::File).unwrap()
    }

    #[test]
    fn words_over_http_go_by_the_code_alone() {
        let (app, infra) = (service("app", json!({})), service("db", json!({"category": "infrastructure"})));
        let check = |status, reason, http_status, expected: [Word; 2]| {
            let seen = Outcome { status, reason, http_status };
            assert_eq!([word(&app, seen), word(&infra, seen)], expected, "{status:?} {reason:?} {http_status}");
        };
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        check(Healthy, Reason::Ok, 200, [Word::Ok; 2]);
        check(Degraded, Reason::Latency, 200, [Word::Ok; 2]);
        check(Unhealthy, Reason::Latency, 200, [Word::Ok; 2]);
        check(Degraded, Reason::Assertion, 200, [Word::Ok; 2]);
        check(Healthy, Reason::Ok, 204, [Word::Degraded; 2]);
        check(Degraded, Reason::Status, 301, [Word::Degraded; 2]);
        check(Degraded, Reason::Status, 404, [Word::Degraded; 2]);
        check(Degraded, Reason::Status, 499, [Word::Degraded; 2]);
        check(Unhealthy, Reason::Status, 500, [Word::Down, Word::Degraded]);
        check(Unhealthy, Reason::Status, 503, [Word::Down, Word::Degraded]);
        check(Unhealthy, Reason::ConnectRefused, 0, [Word::Down; 2]);
        check(Unhealthy, Reason::Timeout, 0, [Word::Down; 2]);
        // Its head was too large to be read, but it answered.
        check(Degraded, Reason::BodyLimit, 0, [Word::Degraded; 2]);
        // Judged early, and still waited for.
        check(Unhealthy, Reason::Latency, 0, [Word::Degraded; 2]);
        check(Unknown, Reason::Ok, 0, [Word::Unknown; 2]);
        check(Unknown, Reason::Ok, 200, [Word::Unknown; 2]);
    }

    #[test]
    fn words_of_other_protocols_are_those_of_their_status() {
        let redis = service("redis", json!({"url": "redis://localhost", "protocol": "redis"}));
        let check = |status, reason, expected| {
            assert_eq!(word(&redis, Outcome { status, reason, http_status: 0 }), expected, "{status:?}");
        };
        check(Status::Healthy, Reason::Ok, Word::Ok);
        check(Status::Degraded, Reason::Assertion, Word::Degraded);
        check(Status::Unhealthy, Reason::Latency, Word::Down);
        check(Status::Unknown, Reason::Ok, Word::Unknown);
    }

    /// The view over services written as `name=word[/confirmed][@ms]`, names beginning with `c` critical, with `i`
    /// infrastructure.
    fn view(members: &[&str], ess: Option<&str>) -> SystemView {
        let parsed: Vec<(Service, Word, Word, Option<u32>)> = members
            .iter()
            .map(|text| {
                let (name, rest) = text.split_once('=').unwrap();
                let (words, ms) = rest.split_once('@').map_or((rest, None), |(words, ms)| (words, Some(ms)));
                let read = |word: &str| match word {
                    "ok" => Word::Ok,
                    "degraded" => Word::Degraded,
                    "down" => Word::Down,
                    _ => Word::Unknown,
                };
                let (word, confirmed) = words.split_once('/').unwrap_or((words, words));
                let category = if name.starts_with('i') { "infrastructure" } else { "core" };
                let service = service(name, json!({"critical": name.starts_with('c'), "category": category}));
                let us = ms.map(|ms| (ms.parse::<f64>().unwrap() * 1000.0) as u32);
                (service, read(word), read(confirmed), us)
            })
            .collect();
        let members = parsed.iter().map(|(service, word, confirmed, response_us)| Member {
            service,
            word: *word,
            confirmed: *confirmed,
            response_us: *response_us,
        });
        SystemView::of(members, ess.map(str::to_owned))
    }

    #[test]
    fn the_rules_apply_in_their_order() {
        use SystemStatus::{Critical, Degraded, Ok};
        let check = |members: &[&str], expected| assert_eq!(view(members, None).status, expected, "{members:?}");
        check(&[], Ok);
        check(&["a=ok", "c=ok", "i=ok"], Ok);
        check(&["a=unknown", "c=unknown", "i=unknown"], Ok);
        check(&["c=down"], Critical);
        check(&["a=down"], Degraded);
        check(&["i=down"], Critical);
        check(&["c=degraded"], Degraded);
        check(&["a=degraded"], Degraded);
        check(&["i=degraded"], Degraded);
        check(&["a=ok@1000"], Ok);
        check(&["a=ok@1000.01"], Degraded);
        check(&["a=ok@5000"], Degraded);
        check(&["a=ok@5000.01"], Critical);
        check(&["a=down", "c=ok@5001"], Critical);
        // Infrastructure is not timed, neither is what is in no overall word.
        check(&["i=ok@9000", "a=unknown@9000"], Ok);
        assert_eq!(view(&["a=ok"], Some("by hand")).status, Critical);
    }

    #[test]
    fn what_is_critical_is_named_and_the_lists_keep_their_order() {
        let seen = view(&["i1=down", "b=down", "c1=down", "c2=degraded", "a=ok", "i2=unknown"], Some("drawdown"));
        assert_eq!(seen.critical_failures, ["Service: c1", "Infrastructure: i1", "ESS: drawdown"]);
        let names = |list: &[ServiceName]| list.iter().map(ServiceName::to_string).collect::<Vec<_>>();
        assert_eq!(names(&seen.services.down), ["b", "c1"]);
        assert_eq!(names(&seen.services.degraded), ["c2"]);
        assert_eq!(names(&seen.infrastructure.unknown), ["i2"]);
    }

    #[test]
    fn latency_is_of_services_alone_and_absent_without_answers() {
        assert_eq!(view(&["a=down", "i=ok@4"], None).latency, None);
        let seen = view(&["a=ok@0", "b=ok@90.125"], None).latency;
        assert_eq!(seen, Some(Latency { average_ms: 45.06, max_ms: 90.13 }));
        assert_eq!(view(&["a=ok@0"], None).latency, Some(Latency { average_ms: 0.0, max_ms: 0.0 }));
    }

    #[test]
    fn only_what_two_checks_saw_is_confirmed() {
        let check = |members: &[&str], status, counts: [usize; 4]| {
            let confirmed = view(members, Some("tripped")).confirmed;
            let Confirmed { services_degraded, services_down, infra_degraded, infra_down, .. } = confirmed;
            let counted = [services_degraded, services_down, infra_degraded, infra_down];
            assert_eq!((confirmed.status, counted), (status, counts), "{members:?}");
        };
        check(&["c=down/ok"], SystemStatus::Ok, [0, 0, 0, 0]);
        check(&["c=down/degraded"], SystemStatus::Degraded, [1, 0, 0, 0]);
        check(&["c=down/down"], SystemStatus::Critical, [0, 1, 0, 0]);
        check(&["i=down/degraded"], SystemStatus::Degraded, [0, 0, 1, 0]);
        check(&["i=down/down", "a=down/down"], SystemStatus::Critical, [0, 1, 0, 1]);
        // Slowness is told apart.
        check(&["a=ok@9000"], SystemStatus::Ok, [0, 0, 0, 0]);
        assert_eq!(view(&["a=ok@9000"], None).by_latency, SystemStatus::Critical);
        assert_eq!(view(&["c=down"], None).by_latency, SystemStatus::Ok);
    }
}
