//! What is watched: a service, the probe aimed at it, how often, and the limits it is judged by.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::check::name_hash;
use super::classify::{Expected, LatencyLimits};
use super::dependency::Dependency;
use super::egress::Trust;
use super::policy::{DetectionPolicy, OutagePolicy};
use super::probe::{Probe, Protocol};
use super::recovery::Recovery;

/// A service's name: the closed alphabet of CONTRACT.md 5.1. Shown as given, compared ignoring case.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct ServiceName(Arc<str>);

/// Longest name: CONTRACT.md 5.1.
const NAME_CHARS: usize = 100;

/// Path segments that routes use themselves: CONTRACT.md 5.1.
const RESERVED: [&str; 16] = [
    "dependencies",
    "status",
    "service",
    "history",
    "system",
    "services",
    "metrics",
    "live",
    "detailed",
    "active",
    "summary",
    "prometheus",
    "monitor",
    "monitor-records",
    "emergency_stop_system",
    "host-cpu",
];

impl ServiceName {
    /// # Errors
    /// What is wrong with `text`, as a sentence without a subject.
    pub fn new(text: &str) -> Result<Self, String> {
        let alphabet = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !starts_well || text.len() > NAME_CHARS || !text.bytes().all(alphabet) {
            return Err(format!(
                "must be 1 to {NAME_CHARS} letters, digits, '.', '_' or '-', and begin with a letter or digit"
            ));
        }
        let lower = text.to_ascii_lowercase();
        if RESERVED.contains(&lower.as_str()) || matches!(lower.as_str(), "host-memory" | "host-disk") {
            return Err(format!("{text:?} is a reserved name"));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl PartialEq for ServiceName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ServiceName {}

impl Hash for ServiceName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(name_hash(self));
    }
}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let lower = |byte: u8| byte.to_ascii_lowercase();
        self.0.bytes().map(lower).cmp(other.0.bytes().map(lower))
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The limits one service is judged by: its own where set, else the global ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    pub latency: LatencyLimits,
    pub error_rate_warning: f64,
    pub error_rate_critical: f64,
    pub consecutive_failures_warning: u32,
    pub consecutive_failures_critical: u32,
    pub uptime_warning: f64,
    pub uptime_critical: f64,
    /// `None`: the global detection threshold.
    pub outage_failures: Option<u32>,
}

/// Where a service was defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    File,
    /// By a variable of its own, as source 001 does.
    Environment,
    Api,
}

impl Source {
    /// How far the host of its address is trusted.
    pub fn trust(self) -> Trust {
        match self {
            Self::File | Self::Environment => Trust::Operator,
            Self::Api => Trust::Fenced,
        }
    }
}

/// One watched service. Made by [`super::spec::ServiceSpec::into_service`], which is where bad input is refused.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: ServiceName,
    pub display_name: String,
    pub description: Option<String>,
    pub tags: Vec<String>,
    /// As the operator wrote it, without user and password.
    pub base_url: String,
    /// What is joined to the base; empty when the base is the whole address.
    pub health_path: String,
    /// The full address that is probed, without user and password.
    pub url: String,
    pub port: u16,
    pub protocol: Protocol,
    pub probe: Probe,
    pub expected: Expected,
    pub category: String,
    pub critical: bool,
    pub critical_path: bool,
    pub depends_on: Vec<Dependency>,
    /// Groups of which one member is enough.
    pub depends_on_any: Vec<Vec<ServiceName>>,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub limits: Limits,
    pub active: bool,
    /// What may be done about an outage.
    pub recovery: Option<Recovery>,
    pub source: Source,
    /// The definition as it was given, as JSON; it may hold secrets.
    pub definition: SecretString,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
    /// Rises with each change of the definition.
    pub version: u64,
    /// Equal for equal definitions: what a reload compares.
    pub fingerprint: u64,
}

impl Service {
    /// Unhealthy checks in a row that open an outage of this service.
    pub fn outage_failures(&self, policy: &OutagePolicy) -> u32 {
        self.limits.outage_failures.unwrap_or(policy.detection_threshold)
    }

    /// Longest a verdict stands without a newer check, in the numbers: two intervals and a timeout, so that a skipped
    /// slot leaves no hole. Our choice.
    pub fn hold(&self) -> Duration {
        self.interval * 2 + self.timeout
    }

    /// From a failure to the receiver, in the worst case.
    pub fn worst_case_detection(&self, policy: &DetectionPolicy) -> Duration {
        policy.worst_case(self.interval, self.timeout, self.outage_failures(&policy.outage), self.retries)
    }

    /// The same service, dated.
    pub fn dated(self, created: DateTime<Utc>, updated: DateTime<Utc>, version: u64) -> Self {
        Self { created, updated, version, ..self }
    }

    /// A field of the definition as it was given.
    pub fn defines(&self, field: &str) -> Option<Value> {
        let mut definition: Value = serde_json::from_str(self.definition.expose_secret()).ok()?;
        definition.get_mut(field).map(Value::take)
    }

    /// What it needs by name, members of groups included.
    pub fn needs(&self) -> impl Iterator<Item = &ServiceName> {
        self.depends_on.iter().map(|needed| &needed.name).chain(self.depends_on_any.iter().flatten())
    }

    /// Category `infrastructure`: what source 004 calls infrastructure.
    pub fn is_infrastructure(&self) -> bool {
        self.category == "infrastructure"
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::spec::{Defaults, ServiceSpec};
    use super::*;

    /// A critical service on the critical path with default settings and the given dependencies.
    pub(crate) fn service_with(name: &str, depends_on: &[&str]) -> Service {
        let spec: ServiceSpec = serde_json::from_value(serde_json::json!({
            "name": name, "url": "http://localhost:1", "depends_on": depends_on, "critical": true,
            "critical_path": true,
        }))
        .unwrap();
        spec.into_service(&Defaults::default(), Source::File).unwrap()
    }

    pub(crate) fn service(name: &str) -> Service {
        service_with(name, &[])
    }

    #[test]
    fn names_are_of_the_closed_alphabet() {
        let check = |text: &str, good: bool| assert_eq!(ServiceName::new(text).is_ok(), good, "{text:?}");
        for text in ["a", "as-call-service", "DH_AVATAR", "x.y", "9", &"a".repeat(100)] {
            check(text, true);
        }
        for text in [
            "",
            "-a",
            ".a",
            "_a",
            "a b",
            "a:b",
            "a*",
            "a/../b",
            "a%2f",
            "ä",
            "a\n",
            "status",
            "Live",
            "host-disk",
            &"a".repeat(101),
        ] {
            check(text, false);
        }
    }

    #[test]
    fn names_are_compared_ignoring_case_and_shown_as_given() {
        let (upper, lower) = (ServiceName::new("Auth").unwrap(), ServiceName::new("auth").unwrap());
        assert_eq!(upper, lower);
        assert_eq!(name_hash(&upper), name_hash(&lower));
        assert_eq!(upper.to_string(), "Auth");
    }
}
