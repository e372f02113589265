//! Recovery actions: what the operator lets the monitor do, once, about a confirmed outage. Only the services file can
//! name one (CONTRACT.md section 20).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::outage::Outage;
use super::service::ServiceName;
use super::time::span;

/// The hour of `RECOVERY_MAX_PER_HOUR`.
const HOUR: Duration = Duration::from_secs(3600);
/// Without a cooldown of its own an action runs for a service this often at most: our choice.
const COOLDOWN_MS: f64 = 600_000.0;
/// Longest delay and cooldown: our choice.
const LONGEST_MS: f64 = 7.0 * 86_400_000.0;

/// The `[service.recovery]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default)]
    pub delay_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<f64>,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTable {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// What is done.
#[derive(Debug, Clone)]
pub enum Action {
    Http {
        /// May hold a token: never shown.
        url: SecretString,
        method: &'static str,
        headers: Vec<(String, SecretString)>,
    },
    /// Program and arguments; no shell reads them.
    Command(Vec<String>),
}

impl Action {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Command(_) => "command",
        }
    }
}

/// A recovery action, and when it runs.
#[derive(Debug, Clone)]
pub struct Recovery {
    pub action: Action,
    /// From the confirmation of the outage.
    pub delay: Duration,
    /// Between two runs for one service.
    pub cooldown: Duration,
    /// Nothing is done; what would have been is noted.
    pub dry_run: bool,
}

impl RecoveryTable {
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn settle(&self) -> Result<Recovery, (&'static str, String)> {
        let action = match (&self.http, self.command.as_slice()) {
            (Some(http), []) => http.settle()?,
            (None, [program, ..]) if !program.trim().is_empty() => Action::Command(self.command.clone()),
            _ => {
                return Err((
                    "recovery",
                    "must have either http = {url = \"...\"} or command = [\"program\", ...]".to_owned(),
                ));
            }
        };
        let ms = |field, ms: f64| match (0.0..=LONGEST_MS).contains(&ms) {
            true => Ok(Duration::from_micros((ms * 1000.0) as u64)),
            false => Err((field, "must be from 0 to 7 days (604800000 ms)".to_owned())),
        };
        Ok(Recovery {
            action,
            delay: ms("recovery.delay_ms", self.delay_ms)?,
            cooldown: ms("recovery.cooldown_ms", self.cooldown_ms.unwrap_or(COOLDOWN_MS))?,
            dry_run: self.dry_run,
        })
    }
}

impl HttpTable {
    fn settle(&self) -> Result<Action, (&'static str, String)> {
        let url = Url::parse(&self.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| ("recovery.http.url", "must be an http or https address".to_owned()))?;
        let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];
        let wanted = self.method.as_deref().unwrap_or("POST");
        let method = methods.into_iter().find(|method| method.eq_ignore_ascii_case(wanted));
        let method =
            method.ok_or_else(|| ("recovery.http.method", format!("must be one of {}", methods.join(", "))))?;
        let unusable = |(name, value): (&String, &String)| {
            http::HeaderName::try_from(name.as_str()).is_err() || http::HeaderValue::try_from(value.as_str()).is_err()
        };
        if self.headers.iter().any(unusable) {
            return Err(("recovery.http.headers", "must be usable header names and values".to_owned()));
        }
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), SecretString::from(value.as_str())));
        Ok(Action::Http { url: url.to_string().into(), method, headers: headers.collect() })
    }
}

/// How a recovery action went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyOutcome {
    /// On its way; after a restart nobody knows how it ended.
    Started,
    Succeeded,
    Failed,
    DryRun,
    Skipped,
    Interrupted,
}

/// What was done about an outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remedy {
    pub outage_id: Uuid,
    pub service: ServiceName,
    pub at: DateTime<Utc>,
    pub action: String,
    pub outcome: RemedyOutcome,
    /// Why, in a sentence without secrets.
    pub detail: Option<String>,
}

/// What was done before.
#[derive(Debug, Default)]
pub struct Ledger {
    dealt_with: HashSet<Uuid>,
    by_service: HashMap<ServiceName, DateTime<Utc>>,
    latest: VecDeque<DateTime<Utc>>,
}

/// What to do about an outage now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is dealt with, or its time has not come.
    Wait,
    Run,
    /// Not this time, and why.
    Skip(String),
}

impl Ledger {
    /// Takes note of what was done.
    pub fn note(&mut self, remedy: &Remedy) {
        self.dealt_with.insert(remedy.outage_id);
        if !matches!(remedy.outcome, RemedyOutcome::Skipped | RemedyOutcome::DryRun) {
            let last = self.by_service.entry(remedy.service.clone()).or_insert(remedy.at);
            *last = remedy.at.max(*last);
            if !self.latest.contains(&remedy.at) {
                self.latest.push_back(remedy.at);
            }
        }
    }

    /// Decides about an open outage. `root`: the failed dependency that explains it. `an_hour`: most runs in one, over
    /// all services.
    pub fn decide(
        &mut self,
        outage: &Outage,
        recovery: &Recovery,
        root: Option<&ServiceName>,
        an_hour: usize,
        now: DateTime<Utc>,
    ) -> Step {
        if self.dealt_with.contains(&outage.id) || span(outage.confirmed, now) < recovery.delay {
            return Step::Wait;
        }
        // What it depends on has failed: it may come back with it, and if not, its turn comes then.
        if root.is_some() {
            return Step::Wait;
        }
        self.latest.retain(|at| span(*at, now) < HOUR);
        let ran = self.by_service.get(&outage.service).copied();
        if let Some(ran) = ran.filter(|ran| span(*ran, now) < recovery.cooldown) {
            return Step::Skip(format!("in its cooldown: it ran at {}", super::time::Stamp(ran)));
        }
        if self.latest.len() >= an_hour {
            return Step::Skip(format!("{an_hour} actions have run in the last hour: RECOVERY_MAX_PER_HOUR"));
        }
        Step::Run
    }
}

#[cfg(test)]
mod tests {
    use super::super::observation::Reason;
    use super::super::outage::OutageSeverity;
    use super::super::time::from_ms;
    use super::*;

    fn outage(name: &str, confirmed_s: i64) -> Outage {
        let (service, at) = (ServiceName::new(name).unwrap(), from_ms(confirmed_s * 1000));
        Outage {
            id: Outage::id_for(&service, at, at),
            service,
            severity: OutageSeverity::Major,
            started: at,
            confirmed: at,
            ended: None,
            reason: Reason::Timeout,
            error_message: String::new(),
            critical: false,
            resolution_notes: None,
            resolved_by: None,
            updated: None,
            maintenance_ms: 0,
            root_cause: None,
        }
    }

    fn recovery(table: serde_json::Value) -> Result<Recovery, (&'static str, String)> {
        serde_json::from_value::<RecoveryTable>(table).unwrap().settle()
    }

    #[test]
    fn an_action_runs_once_after_its_delay_within_its_cooldown_and_the_hour() {
        let recovery =
            recovery(serde_json::json!({"command": ["true"], "delay_ms": 5000, "cooldown_ms": 60_000})).unwrap();
        let mut ledger = Ledger::default();
        let run = |ledger: &mut Ledger, outage: &Outage, root: Option<&ServiceName>, now_s: i64, most| {
            let step = ledger.decide(outage, &recovery, root, most, from_ms(now_s * 1000));
            let outcome = match &step {
                Step::Wait => return "wait",
                Step::Run => RemedyOutcome::Succeeded,
                Step::Skip(_) => RemedyOutcome::Skipped,
            };
            ledger.note(&Remedy {
                outage_id: outage.id,
                service: outage.service.clone(),
                at: from_ms(now_s * 1000),
                action: "command".to_owned(),
                outcome,
                detail: None,
            });
            if step == Step::Run { "run" } else { "skip" }
        };
        let first = outage("a", 100);
        assert_eq!(run(&mut ledger, &first, None, 104, 2), "wait");
        assert_eq!(run(&mut ledger, &first, None, 105, 2), "run");
        assert_eq!(run(&mut ledger, &first, None, 106, 2), "wait", "once for each outage");
        assert_eq!(run(&mut ledger, &outage("a", 130), None, 140, 2), "skip", "in its cooldown");
        let root = ServiceName::new("db").unwrap();
        assert_eq!(run(&mut ledger, &outage("b", 130), Some(&root), 140, 2), "wait", "its root is at fault");
        assert_eq!(run(&mut ledger, &outage("c", 130), None, 140, 2), "run");
        assert_eq!(run(&mut ledger, &outage("d", 130), None, 141, 2), "skip", "two an hour");
        assert_eq!(run(&mut ledger, &outage("e", 130), None, 3705, 2), "run", "the first is an hour ago");
    }

    #[test]
    fn what_is_wrong_with_an_action_is_told_by_field() {
        let check = |table: serde_json::Value, field: &str| {
            assert_eq!(recovery(table.clone()).err().map(|(field, _)| field), Some(field), "{table}");
        };
        check(serde_json::json!({}), "recovery");
        check(serde_json::json!({"command": [" "]}), "recovery");
        check(serde_json::json!({"command": ["a"], "http": {"url": "http://a"}}), "recovery");
        check(serde_json::json!({"http": {"url": "ftp://a"}}), "recovery.http.url");
        check(serde_json::json!({"http": {"url": "http://a", "method": "BREW"}}), "recovery.http.method");
        check(serde_json::json!({"http": {"url": "http://a", "headers": {"a b": "c"}}}), "recovery.http.headers");
        check(serde_json::json!({"command": ["a"], "delay_ms": -1}), "recovery.delay_ms");
        check(serde_json::json!({"command": ["a"], "cooldown_ms": 1e12}), "recovery.cooldown_ms");
    }
}
