//! Who is told of what: routes from alerts to named receivers, and the hours a receiver wants to be left alone.

use chrono::{DateTime, Duration as Span, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

use super::alert::{Alert, AlertType, Severity};
use super::service::Service;

/// The receiver that is always there: the log.
pub const LOG: &str = "log";

/// One route. An alert takes it when every list that is not empty has a match.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Route {
    /// Names of the receivers it leads to.
    pub receivers: Vec<String>,
    pub severities: Vec<Severity>,
    pub kinds: Vec<AlertType>,
    pub categories: Vec<String>,
    pub tags: Vec<String>,
    /// Names, ignoring case; one that ends in `*` stands for all that begin so.
    pub services: Vec<String>,
}

impl Route {
    fn takes(&self, alert: &Alert, service: Option<&Service>) -> bool {
        let any =
            |wanted: &[String], has: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|one| has(one));
        let name = alert.component.as_str();
        (self.severities.is_empty() || self.severities.contains(&alert.severity))
            && (self.kinds.is_empty() || self.kinds.contains(&alert.kind))
            && any(&self.categories, &|wanted| service.is_some_and(|service| service.category == wanted))
            && any(&self.tags, &|wanted| service.is_some_and(|service| service.tags.iter().any(|tag| tag == wanted)))
            && any(&self.services, &|wanted| match wanted.strip_suffix('*') {
                Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
                None => name.eq_ignore_ascii_case(wanted),
            })
    }
}

/// Every receiver and route in force.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routing {
    /// Names of the receivers that are on.
    pub receivers: Vec<String>,
    pub routes: Vec<Route>,
}

impl Routing {
    /// The receivers of news about `alert`, in their own order: those its routes lead to, and those no route names.
    pub fn receivers_of(&self, alert: &Alert, service: Option<&Service>) -> Vec<&str> {
        let taken: Vec<&Route> = self.routes.iter().filter(|route| route.takes(alert, service)).collect();
        let leads = |route: &Route, name: &String| route.receivers.contains(name);
        let chosen = self.receivers.iter().filter(|name| {
            let routed = self.routes.iter().any(|route| leads(route, name));
            !routed || taken.iter().any(|route| leads(route, name))
        });
        chosen.map(String::as_str).collect()
    }
}

/// Hours of each day in which a receiver wants only the worst.
#[derive(Debug, Clone, PartialEq)]
pub struct QuietHours {
    pub from: NaiveTime,
    /// Not included; before `from`, the quiet lasts over midnight.
    pub to: NaiveTime,
    pub timezone: Tz,
    /// This severity and worse is told all the same.
    pub unless: Severity,
}

impl QuietHours {
    /// When news of this severity may leave, if not now.
    pub fn until(&self, now: DateTime<Utc>, severity: Severity) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&self.timezone);
        let (time, date) = (local.time(), local.date_naive());
        let over_midnight = self.to <= self.from;
        let quiet =
            if over_midnight { time >= self.from || time < self.to } else { time >= self.from && time < self.to };
        if !quiet || severity >= self.unless {
            return None;
        }
        let end_date = if time < self.to { date } else { date.succ_opt()? };
        let end = end_date.and_time(self.to);
        // A time that a clock change skips comes an hour later; of a doubled one the first counts.
        let end = self.timezone.from_local_datetime(&end).earliest();
        let end = end
            .or_else(|| self.timezone.from_local_datetime(&(end_date.and_time(self.to) + Span::hours(1))).earliest());
        end.map(|end| end.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::sample_alert;
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn quiet_hours_end_at_their_end_and_never_hold_back_the_worst() {
        let quiet = QuietHours {
            from: NaiveTime::from_hms_opt(22, 0, 0).unwrap(),
            to: NaiveTime::from_hms_opt(7, 0, 0).unwrap(),
            timezone: chrono_tz::Europe::Berlin,
            unless: Severity::Critical,
        };
        // Berlin is an hour ahead in January.
        let check = |now: &str, end: Option<&str>| {
            assert_eq!(quiet.until(at(now), Severity::High), end.map(at), "{now}");
        };
        check("2026-01-31T20:59:59Z", None);
        check("2026-01-31T21:00:00Z", Some("2026-02-01T06:00:00Z"));
        check("2026-02-01T05:59:59Z", Some("2026-02-01T06:00:00Z"));
        check("2026-02-01T06:00:00Z", None);
        assert_eq!(quiet.until(at("2026-01-31T23:00:00Z"), Severity::Critical), None);
    }

    #[test]
    fn quiet_hours_that_end_in_the_gap_of_a_clock_change_end_after_it() {
        let quiet = QuietHours {
            from: NaiveTime::from_hms_opt(0, 0, 0).unwrap(),
            to: NaiveTime::from_hms_opt(2, 30, 0).unwrap(),
            timezone: chrono_tz::Europe::Berlin,
            unless: Severity::Critical,
        };
        assert_eq!(quiet.until(at("2026-03-29T00:30:00Z"), Severity::Low), Some(at("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn routes_lead_to_their_receivers_and_the_unnamed_get_everything() {
        let routing = Routing {
            receivers: vec!["log".to_owned(), "oncall".to_owned(), "team".to_owned()],
            routes: vec![
                Route {
                    receivers: vec!["oncall".to_owned()],
                    severities: vec![Severity::Critical],
                    ..Route::default()
                },
                Route { receivers: vec!["team".to_owned()], services: vec!["Call*".to_owned()], ..Route::default() },
            ],
        };
        let check = |name: &str, severity, expected: &[&str]| {
            assert_eq!(routing.receivers_of(&sample_alert(name, severity), None), expected, "{name} {severity:?}");
        };
        check("auth", Severity::Critical, &["log", "oncall"]);
        check("auth", Severity::High, &["log"]);
        check("call-service", Severity::Critical, &["log", "oncall", "team"]);
        check("cal", Severity::Low, &["log"]);
    }
}
