//! A service as its owner writes it, and the rules it must meet to become one (CONTRACT.md 5.1).
//!
//! `serde` refuses unknown fields and wrong types; everything else is judged here, all problems at once. Addresses are
//! in `address`, the tables of the protocols in `tables`.

mod address;
mod tables;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::DateTime;
use regex::{Regex, RegexBuilder};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json_path::JsonPath;
use url::Url;

pub use self::address::NOT_ALLOWED;
pub use self::tables::{
    DnsTable, FilesystemTable, GrpcTable, IcmpTable, PostgresTable, RedisTable, TcpTable, TlsTable, UdpTable,
};
use super::assertion::{Assertions, JsonCondition, Op};
use super::classify::{Expected, LatencyLimits};
use super::dependency::Dependency;
use super::observation::{clean, is_label, is_prose};
use super::probe::{Connection, HttpProbe, Method, Protocol, TlsOptions};
use super::recovery::RecoveryTable;
use super::service::{Limits, Service, ServiceName, Source};

/// Longest address: CONTRACT.md 5.1.
const URL_CHARS: usize = 2048;
/// Longest pattern: CONTRACT.md 5.1. Compiling is the attack, so the text is capped first.
const PATTERN_CHARS: usize = 1000;
/// Memory a compiled pattern may take: our choice, a quarter MiB for each of its two forms.
const PATTERN_BYTES: usize = 256 * 1024;
/// CONTRACT.md 5.1.
const BODY_BYTES: usize = 16 * 1024;
const HEADERS: usize = 32;
const LONGEST_INTERVAL: Duration = Duration::from_secs(7 * 86_400);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_RETRIES: u32 = 10;
/// Problems told at most: our choice, more than anybody mends at once.
pub const MOST_TOLD: usize = 20;
/// Conditions on headers and on a JSON body, groups of dependencies, and names in all: our choices.
const CONDITIONS: usize = 32;
const GROUPS: usize = 32;
const NEEDS: usize = 256;

/// The fields of a `[[service]]` table, and of a registration in its canonical spelling.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    #[serde(default)]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(alias = "health_check_url", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(alias = "critical_service", skip_serializing_if = "Option::is_none")]
    pub critical: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_path: Option<bool>,
    #[serde(alias = "dependencies", default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Need>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on_any: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_interval_ms: Option<f64>,
    #[serde(alias = "check_interval_seconds", skip_serializing_if = "Option::is_none")]
    pub check_interval: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<f64>,
    #[serde(alias = "timeout_seconds", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on_failure: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_status_codes: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unexpected: Option<Miss>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_response_pattern: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expected_headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_json: Vec<JsonExpectation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_assertion: Option<Miss>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_redirects: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<bool>,
    #[serde(default, skip_serializing_if = "Thresholds::is_empty")]
    pub thresholds: Thresholds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_response_time_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_error_rate_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escalate_after_failures: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_fast_on_error: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Only empty: windows are made at `/maintenance/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance_windows: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcTable>,
    /// In the services file only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryTable>,
}

/// What an unexpected code, or a missed assertion, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Miss {
    Degraded,
    Unhealthy,
}

/// An entry of `depends_on`: a name, or a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a name, or a table of name, hold_alerts and degrade")]
pub enum Need {
    Name(String),
    Table(NeedTable),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeedTable {
    pub name: String,
    pub hold_alerts: Option<bool>,
    pub degrade: Option<bool>,
}

/// An entry of `expected_json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonExpectation {
    pub path: String,
    pub op: Op,
    #[serde(default)]
    pub value: Value,
}

/// The `thresholds` table; each overrides its global value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_time_warning_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_time_critical_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate_warning: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate_critical: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures_warning: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures_critical: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_warning: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_critical: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage_failures: Option<u32>,
}

impl Thresholds {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a service without own values gets: section 4.3 of CONTRACT.md.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    pub interval: Duration,
    pub critical_interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub min_interval: Duration,
    pub limits: Limits,
    /// What registrations over the API get instead.
    pub registered: RegisteredDefaults,
}

/// Defaults of registrations over the API, by the path they come in on.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredDefaults {
    /// `SERVICE_CHECK_INTERVAL`; `None`: 30 s on `/health/services`, 60 s on `/services`.
    pub interval: Option<Duration>,
    /// Timeout on `/services`.
    pub timeout: Duration,
    pub min_interval: Duration,
    /// Roots that `filesystem` services may name.
    pub filesystem_allow: Vec<std::path::PathBuf>,
    pub egress: super::egress::EgressPolicy,
}

impl Default for Defaults {
    /// The values of `config/default.toml`.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            critical_interval: Duration::from_secs(15),
            timeout: Duration::from_secs(5),
            retries: 3,
            min_interval: Duration::from_secs(1),
            limits: Limits {
                latency: LatencyLimits { warning_ms: 1000, critical_ms: 3000 },
                error_rate_warning: 0.01,
                error_rate_critical: 0.05,
                consecutive_failures_warning: 2,
                consecutive_failures_critical: 5,
                uptime_warning: 99.0,
                uptime_critical: 95.0,
                outage_failures: None,
            },
            registered: RegisteredDefaults {
                interval: None,
                timeout: Duration::from_secs(5),
                min_interval: Duration::from_secs(1),
                filesystem_allow: vec!["/tmp".into()],
                egress: super::egress::EgressPolicy { development: true, ..Default::default() },
            },
        }
    }
}

/// One thing wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub field: String,
    /// The rule that is broken, as a sentence without a subject.
    pub message: String,
}

/// Collects problems while a definition is read.
#[derive(Default)]
pub(super) struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn add(&mut self, field: &str, message: impl Into<String>) {
        if self.0.len() < MOST_TOLD {
            self.0.push(Problem { field: field.to_owned(), message: message.into() });
        }
    }

    /// A span given in milliseconds, in seconds, or as `otherwise`.
    fn span(&mut self, field: &str, ms: Option<f64>, seconds: Option<f64>, otherwise: Duration) -> Duration {
        let given = match (ms, seconds) {
            (Some(ms), Some(s)) if (ms - s * 1000.0).abs() > 1e-6 => {
                self.add(&format!("{field}_ms"), format!("disagrees with {field}: {ms} ms and {s} s"));
                return otherwise;
            }
            (Some(ms), _) => ms / 1000.0,
            (None, Some(s)) => s,
            (None, None) => return otherwise,
        };
        Duration::try_from_secs_f64(given).unwrap_or_else(|_| {
            self.add(field, "must be a positive number");
            otherwise
        })
    }

    /// A pattern within its caps.
    pub fn pattern(&mut self, field: &str, text: &str) -> Option<Regex> {
        if text.chars().count() > PATTERN_CHARS {
            self.add(field, "must be at most 1000 characters");
            return None;
        }
        let built =
            RegexBuilder::new(text).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).nest_limit(50).build();
        built
            .map_err(|error| {
                let why = error.to_string();
                let last = why.lines().last().unwrap_or_default().trim().to_owned();
                self.add(field, format!("is not a usable pattern: {last}"));
            })
            .ok()
    }
}

impl ServiceSpec {
    /// Judges the definition and settles what it leaves open from `defaults`.
    ///
    /// Does not look at other services: duplicate names, unknown dependencies and cycles are the registry's.
    ///
    /// # Errors
    /// Every problem found.
    pub fn into_service(self, defaults: &Defaults, source: Source) -> Result<Service, Vec<Problem>> {
        let mut problems = Problems::default();
        let name = ServiceName::new(&self.name);
        if let Err(rule) = &name {
            problems.add("name", rule);
        }
        let critical = self.critical.unwrap_or(false);
        let default_interval = if critical { defaults.critical_interval } else { defaults.interval };
        let interval = problems.span("check_interval", self.check_interval_ms, self.check_interval, default_interval);
        let least = if source == Source::Api { defaults.registered.min_interval } else { defaults.min_interval };
        if interval < least {
            problems.add("check_interval_ms", format!("must be at least {} ms", least.as_millis()));
        }
        if interval > LONGEST_INTERVAL {
            problems.add("check_interval_ms", "must be at most 7 days (604800000 ms)");
        }
        let timeout = problems.span("timeout", self.timeout_ms, self.timeout, defaults.timeout);
        if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
            problems.add("timeout_ms", "must be over 0 and at most 60000 ms");
        }
        let retries = self.retries(defaults, &mut problems);
        let recovery = match &self.recovery {
            Some(_) if source == Source::Api => {
                problems.add("recovery", "can be set in the services file only");
                None
            }
            Some(table) => match table.settle() {
                Ok(recovery) => Some(recovery),
                Err((field, rule)) => {
                    problems.add(field, rule);
                    None
                }
            },
            None => None,
        };
        let expected = self.expected(&mut problems);
        let limits = self.limits(&defaults.limits, &mut problems);
        let (depends_on, depends_on_any) = self.dependencies(&mut problems);
        let category = self.category.clone().unwrap_or_else(|| "core".to_owned());
        if !is_category(&category) {
            problems
                .add("category", "must be lower-case letters, digits, '_' or '-', beginning with a letter, at most 50");
        }
        self.check_texts(&mut problems);
        let http = self.http_probe(source, &mut problems);
        let address = self.address(source, defaults, &mut problems);
        let probe = address.as_ref().and_then(|address| {
            self.only_fitting_fields(address.protocol, &mut problems);
            self.probe(address, http, source, defaults, &mut problems)
        });

        let definition = serde_json::to_string(&self).unwrap_or_default();
        match (name, probe, address, problems.0.is_empty()) {
            (Ok(name), Some(probe), Some(address), true) => Ok(Service {
                display_name: self.display_name.clone().unwrap_or_else(|| self.name.clone()),
                fingerprint: fingerprint(&(&definition, source, interval, timeout, retries), &limits),
                definition: SecretString::from(definition),
                base_url: address.base,
                health_path: address.path,
                url: address.shown,
                port: address.port,
                protocol: address.protocol,
                probe,
                critical_path: self.critical_path.unwrap_or(false),
                active: self.is_active.unwrap_or(true),
                description: self.description,
                tags: self.tags,
                name,
                expected,
                category,
                critical,
                depends_on,
                depends_on_any,
                interval,
                timeout,
                retries,
                limits,
                source,
                recovery,
                created: DateTime::default(),
                updated: DateTime::default(),
                version: 0,
            }),
            _ => Err(problems.0),
        }
    }

    fn retries(&self, defaults: &Defaults, problems: &mut Problems) -> u32 {
        match (self.retries, self.retry_on_failure) {
            (Some(given), Some(false)) if given > 0 => {
                problems.add("retries", "disagrees with retry_on_failure = false");
                0
            }
            (_, Some(false)) => 0,
            (Some(given), _) if given > MOST_RETRIES => {
                problems.add("retries", "must be 0 to 10");
                0
            }
            (given, _) => given.unwrap_or(defaults.retries),
        }
    }

    fn expected(&self, problems: &mut Problems) -> Expected {
        let codes = match (&self.expected_status_code, &self.expected_status_codes) {
            (Some(_), Some(_)) => {
                problems.add("expected_status_codes", "cannot stand beside expected_status_code");
                Vec::new()
            }
            (Some(code), None) => vec![*code],
            (None, Some(codes)) if codes.is_empty() => {
                problems.add("expected_status_codes", "must name at least one code, or be left out");
                Vec::new()
            }
            (None, codes) => codes.clone().unwrap_or_default(),
        };
        if codes.iter().any(|code| !(100..=599).contains(code)) {
            problems.add(
                if self.expected_status_code.is_some() { "expected_status_code" } else { "expected_status_codes" },
                "must be HTTP codes from 100 to 599",
            );
        }
        let otherwise_unhealthy = match self.on_unexpected {
            Some(given) => given == Miss::Unhealthy,
            None => self.expected_status_codes.is_some(),
        };
        Expected { codes, otherwise_unhealthy }
    }

    fn limits(&self, global: &Limits, problems: &mut Problems) -> Limits {
        let given = &self.thresholds;
        let mut ms = |field: &str, value: Option<f64>, otherwise: u64| match value {
            Some(ms) if !(1.0..=1e9).contains(&ms) => {
                problems.add(field, "must be at least 1 ms");
                otherwise
            }
            // In range by the arm above.
            Some(ms) => ms as u64,
            None => otherwise,
        };
        let latency = LatencyLimits {
            warning_ms: ms(
                "thresholds.response_time_warning_ms",
                given.response_time_warning_ms,
                global.latency.warning_ms,
            ),
            critical_ms: ms(
                "thresholds.response_time_critical_ms",
                given.response_time_critical_ms.or(self.custom_response_time_threshold),
                global.latency.critical_ms,
            ),
        };
        let limits = Limits {
            latency,
            error_rate_warning: given.error_rate_warning.unwrap_or(global.error_rate_warning),
            error_rate_critical: given
                .error_rate_critical
                .or(self.custom_error_rate_threshold)
                .unwrap_or(global.error_rate_critical),
            consecutive_failures_warning: given
                .consecutive_failures_warning
                .unwrap_or(global.consecutive_failures_warning),
            consecutive_failures_critical: given
                .consecutive_failures_critical
                .or(self.escalate_after_failures)
                .unwrap_or(global.consecutive_failures_critical),
            uptime_warning: given.uptime_warning.unwrap_or(global.uptime_warning),
            uptime_critical: given.uptime_critical.unwrap_or(global.uptime_critical),
            outage_failures: given
                .outage_failures
                .or(self.fail_fast_on_error.unwrap_or(false).then_some(1))
                .or(global.outage_failures),
        };
        if limits.latency.warning_ms >= limits.latency.critical_ms {
            problems.add("thresholds.response_time_warning_ms", "must be below response_time_critical_ms");
        }
        for (field, rate) in
            [("error_rate_warning", limits.error_rate_warning), ("error_rate_critical", limits.error_rate_critical)]
        {
            if !(rate > 0.0 && rate <= 1.0) {
                problems.add(&format!("thresholds.{field}"), "must be a ratio over 0 and at most 1");
            }
        }
        if limits.error_rate_warning >= limits.error_rate_critical {
            problems.add("thresholds.error_rate_warning", "must be below error_rate_critical");
        }
        let percent = 0.0..=100.0;
        if !percent.contains(&limits.uptime_warning) || !percent.contains(&limits.uptime_critical) {
            problems.add("thresholds.uptime_warning", "must be percentages from 0 to 100");
        } else if limits.uptime_warning <= limits.uptime_critical {
            problems.add("thresholds.uptime_warning", "must be above uptime_critical: lower is worse");
        }
        if limits.consecutive_failures_warning == 0
            || limits.consecutive_failures_warning >= limits.consecutive_failures_critical
        {
            problems.add(
                "thresholds.consecutive_failures_warning",
                "must be at least 1 and below consecutive_failures_critical",
            );
        }
        if limits.outage_failures == Some(0) {
            problems.add("thresholds.outage_failures", "must be at least 1");
        }
        limits
    }

    fn dependencies(&self, problems: &mut Problems) -> (Vec<Dependency>, Vec<Vec<ServiceName>>) {
        let mut known: Vec<ServiceName> = Vec::new();
        let mut name = |field: &str, text: &str, problems: &mut Problems| match ServiceName::new(text) {
            Ok(name) if known.contains(&name) => problems.add(field, format!("names {text} twice")),
            Ok(name) => known.push(name),
            Err(rule) => problems.add(field, format!("{:?} {rule}", clean(text))),
        };
        let count = self.depends_on.len() + self.depends_on_any.iter().map(Vec::len).sum::<usize>();
        if self.depends_on_any.len() > GROUPS || count > NEEDS {
            problems.add("depends_on", "must be at most 256 names, in at most 32 groups");
            return (Vec::new(), Vec::new());
        }
        let mut each = Vec::new();
        for need in &self.depends_on {
            let (text, hold_alerts, degrade) = match need {
                Need::Name(text) => (text, None, None),
                Need::Table(table) => (&table.name, table.hold_alerts, table.degrade),
            };
            name("depends_on", text, problems);
            each.extend(ServiceName::new(text).map(|name| Dependency {
                name,
                hold_alerts: hold_alerts.unwrap_or(true),
                degrade: degrade.unwrap_or(false),
            }));
        }
        for group in &self.depends_on_any {
            if group.len() < 2 {
                problems.add("depends_on_any", "must be groups of at least two names");
            }
            group.iter().for_each(|text| name("depends_on_any", text, problems));
        }
        let groups = self.depends_on_any.iter();
        let any = groups.map(|group| group.iter().filter_map(|text| ServiceName::new(text).ok()).collect()).collect();
        (each, any)
    }

    fn check_texts(&self, problems: &mut Problems) {
        if self.display_name.as_ref().is_some_and(|name| !is_label(name, 200)) {
            problems.add("display_name", "must be 1 to 200 characters, none of them a control character");
        }
        if self.description.as_ref().is_some_and(|text| !is_prose(text, 2000)) {
            problems.add("description", "must be at most 2000 characters, none of them a control character");
        }
        if self.tags.len() > 32 || self.tags.iter().any(|tag| !is_label(tag, 64)) {
            problems.add("tags", "must be at most 32 tags of 1 to 64 characters, none of them a control character");
        }
        if !self.maintenance_windows.is_empty() {
            problems.add("maintenance_windows", "must be empty: windows are made at /maintenance/");
        }
    }

    /// The fields of HTTP mean nothing elsewhere, and one protocol's table nothing to another.
    fn only_fitting_fields(&self, protocol: Protocol, problems: &mut Problems) {
        let has_headers = matches!(protocol, Protocol::Http | Protocol::Https | Protocol::Grpc);
        if self.traceparent == Some(true) && !has_headers {
            problems.add("traceparent", format!("goes with http, https and grpc only, not with {}", protocol.label()));
        }
        if matches!(protocol, Protocol::Http | Protocol::Https) {
            return self.only_tables_of(protocol, problems);
        }
        let given = [
            ("method", self.method.is_some()),
            ("body", self.body.is_some()),
            ("headers", !self.headers.is_empty()),
            ("connection", self.connection.is_some()),
            ("expected_status_code", self.expected_status_code.is_some()),
            ("expected_status_codes", self.expected_status_codes.is_some()),
            ("expected_response_pattern", self.expected_response_pattern.is_some()),
            ("expected_headers", !self.expected_headers.is_empty()),
            ("expected_json", !self.expected_json.is_empty()),
            ("follow_redirects", self.follow_redirects == Some(true)),
        ];
        for (field, _) in given.iter().filter(|(_, given)| *given) {
            problems.add(field, format!("goes with http and https only, not with {}", protocol.label()));
        }
        self.only_tables_of(protocol, problems);
    }

    /// Judges the fields of HTTP; what comes back makes a probe of an address.
    fn http_probe(
        &self,
        source: Source,
        problems: &mut Problems,
    ) -> impl FnOnce(Url, Option<Box<TlsOptions>>) -> HttpProbe + use<> {
        let method = self.method.unwrap_or_default();
        if let Some(body) = &self.body {
            if method != Method::Post {
                problems.add("body", "goes with method = \"POST\" only");
            }
            if body.len() > BODY_BYTES {
                problems.add("body", "must be at most 16 KiB");
            }
        }
        if self.headers.len() > HEADERS {
            problems.add("headers", "must be at most 32");
        }
        for (header, value) in self.headers.iter().take(HEADERS) {
            let lower = header.to_ascii_lowercase();
            let refused = matches!(
                lower.as_str(),
                "content-length" | "transfer-encoding" | "connection" | "upgrade" | "te" | "trailer"
            ) || lower.starts_with("proxy-")
                || (source == Source::Api && matches!(lower.as_str(), "host" | "x-service-key"));
            if !is_token(header) {
                problems.add("headers", format!("{:?} is not a header name", clean(header)));
            } else if refused {
                problems.add("headers", format!("{header} cannot be set here"));
            } else if value.bytes().any(|c| (c < 0x20 && c != b'\t') || c == 0x7f) {
                problems.add("headers", format!("the value of {header} holds a control character"));
            }
        }
        let body = self.body.clone().map(SecretString::from);
        let headers =
            self.headers.iter().map(|(name, value)| (name.clone(), SecretString::from(value.clone()))).collect();
        let connection = self.connection.unwrap_or_default();
        let assertions = self.assertions(problems);
        let (follow_redirects, trust) = (self.follow_redirects.unwrap_or(false), source.trust());
        // What the operator has set by hand stands.
        let by_hand = self.headers.keys().any(|name| name.eq_ignore_ascii_case("traceparent"));
        let traceparent = self.traceparent.unwrap_or(false) && !by_hand;
        move |url, tls| HttpProbe {
            url,
            method,
            body,
            headers,
            connection,
            assertions,
            follow_redirects,
            traceparent,
            trust,
            tls,
        }
    }

    fn assertions(&self, problems: &mut Problems) -> Assertions {
        if self.expected_headers.len() > CONDITIONS {
            problems.add("expected_headers", "must be at most 32");
        }
        if self.expected_json.len() > CONDITIONS {
            problems.add("expected_json", "must be at most 32 conditions");
        }
        let text = self.expected_response_pattern.as_deref();
        let pattern = text.and_then(|text| problems.pattern("expected_response_pattern", text));
        let mut headers = Vec::new();
        for (name, text) in self.expected_headers.iter().take(CONDITIONS) {
            if !is_token(name) {
                problems.add("expected_headers", format!("{:?} is not a header name", clean(name)));
            }
            headers.extend(problems.pattern("expected_headers", text).map(|regex| (name.to_ascii_lowercase(), regex)));
        }
        let mut json = Vec::new();
        for expectation in self.expected_json.iter().take(CONDITIONS) {
            json.extend(condition(expectation, problems));
        }
        Assertions { pattern, headers, json, unhealthy: self.on_assertion == Some(Miss::Unhealthy) }
    }
}

fn condition(given: &JsonExpectation, problems: &mut Problems) -> Option<JsonCondition> {
    const FIELD: &str = "expected_json";
    let JsonExpectation { path, op, value } = given;
    if path.chars().count() > PATTERN_CHARS {
        problems.add(FIELD, "paths must be at most 1000 characters");
        return None;
    }
    if let Some(rule) = too_much(path) {
        problems.add(FIELD, rule);
        return None;
    }
    let parsed = match JsonPath::parse(path) {
        Ok(parsed) => parsed,
        Err(error) => {
            problems.add(FIELD, format!("{:?} is not a JSONPath: {}", clean(path), clean(&error.to_string())));
            return None;
        }
    };
    let fits = match op {
        Op::Lt | Op::Le | Op::Gt | Op::Ge => value.is_number() || value.is_string(),
        Op::Matches => value.is_string(),
        Op::Exists => value.is_boolean() || value.is_null(),
        Op::Eq | Op::Ne => !value.is_array() && !value.is_object(),
    };
    if !fits {
        problems.add(FIELD, format!("the value for {path} does not fit its op"));
        return None;
    }
    let pattern = match (op, value.as_str()) {
        (Op::Matches, Some(text)) => Some(problems.pattern(FIELD, text)?),
        _ => None,
    };
    Some(JsonCondition { path: parsed, op: *op, value: value.clone(), pattern })
}

/// What a path may not hold: filters, functions, lists of selectors, more than one descent. Their parsing or their
/// answers grow beyond any bound in the length of the path; names, indexes, `*` and one `..` do not.
fn too_much(path: &str) -> Option<&'static str> {
    const STEPS: usize = 32;
    if path.contains(['?', '(', ',']) {
        return Some("paths may hold names, indexes, * and one .., no filters and no lists");
    }
    let steps = path.bytes().filter(|c| matches!(c, b'.' | b'[')).count();
    (path.matches("..").count() > 1 || steps > STEPS).then_some("paths may hold one .. and at most 32 steps")
}

/// Lower-case letters, digits, `_` and `-`, beginning with a letter, at most 50.
pub(super) fn is_category(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 50
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
}

fn is_token(header: &str) -> bool {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !header.is_empty() && header.bytes().all(token)
}

fn fingerprint(parts: &(&String, Source, Duration, Duration, u32), limits: &Limits) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{limits:?}").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(mut fields: Value) -> Result<Service, Vec<Problem>> {
        let map = fields.as_object_mut().unwrap();
        map.entry("name").or_insert(json!("auth"));
        map.entry("url").or_insert(json!("http://localhost:3301"));
        serde_json::from_value::<ServiceSpec>(fields)
            .map_err(|error| vec![Problem { field: "serde".into(), message: error.to_string() }])?
            .into_service(&Defaults::default(), Source::File)
    }

    #[test]
    fn addresses_are_joined_as_the_file_means_them() {
        let check = |fields: Value, url: &str, base: &str, port: u16| {
            let service = build(fields).unwrap();
            assert_eq!((service.url.as_str(), service.base_url.as_str(), service.port), (url, base, port));
        };
        check(json!({}), "http://localhost:3301/health", "http://localhost:3301", 3301);
        check(json!({"url": "http://a:1/x"}), "http://a:1/x", "http://a:1/x", 1);
        check(json!({"url": "http://a:1/x", "health_endpoint": "/h?y=1"}), "http://a:1/x/h?y=1", "http://a:1/x", 1);
        check(json!({"url": "a", "protocol": "https"}), "https://a/health", "https://a", 443);
        check(json!({"url": "http://a", "port": 81}), "http://a:81/health", "http://a:81", 81);
        check(json!({"url": "http://u:secret@a/"}), "http://a/health", "http://a", 80);
    }

    #[test]
    fn a_critical_service_is_checked_more_often() {
        assert_eq!(build(json!({"critical": true})).unwrap().interval, Duration::from_secs(15));
        assert_eq!(build(json!({})).unwrap().interval, Duration::from_secs(30));
        assert_eq!(build(json!({"check_interval": 7.5})).unwrap().interval, Duration::from_millis(7500));
    }

    #[test]
    fn expectations_default_by_their_kind() {
        let expected = |fields| build(fields).unwrap().expected;
        assert!(!expected(json!({"expected_status_code": 204})).otherwise_unhealthy);
        assert!(expected(json!({"expected_status_codes": [200, 204]})).otherwise_unhealthy);
        assert!(!expected(json!({"expected_status_codes": [200], "on_unexpected": "degraded"})).otherwise_unhealthy);
    }

    #[test]
    fn each_broken_rule_is_told_with_its_field() {
        let check = |fields: Value, field: &str| {
            let problems = build(fields.clone()).map(|_| ()).unwrap_err();
            assert!(problems.iter().any(|problem| problem.field == field), "{fields}: {problems:?}");
        };
        check(json!({"name": "a b"}), "name");
        check(json!({"name": "status"}), "name");
        check(json!({"url": "ftp://a"}), "url");
        check(json!({"url": "http://"}), "url");
        check(json!({"url": format!("http://a/{}", "x".repeat(2048))}), "url");
        check(json!({"protocol": "smtp"}), "protocol");
        check(json!({"health_endpoint": "health"}), "health_endpoint");
        check(json!({"check_interval_ms": 999}), "check_interval_ms");
        check(json!({"check_interval_ms": 604_800_001}), "check_interval_ms");
        check(json!({"check_interval_ms": 5000, "check_interval": 6}), "check_interval_ms");
        check(json!({"check_interval_ms": -1}), "check_interval");
        check(json!({"timeout_ms": 0}), "timeout_ms");
        check(json!({"timeout": 61}), "timeout_ms");
        check(json!({"retries": 11}), "retries");
        check(json!({"body": "x"}), "body");
        check(json!({"method": "PUT"}), "serde");
        check(json!({"headers": {"Transfer-Encoding": "x"}}), "headers");
        check(json!({"headers": {"X-A": "a\r\nHost: b"}}), "headers");
        check(json!({"headers": {"X A": "a"}}), "headers");
        check(json!({"expected_status_code": 99}), "expected_status_code");
        check(json!({"expected_status_code": 200, "expected_status_codes": [200]}), "expected_status_codes");
        check(json!({"expected_response_pattern": "("}), "expected_response_pattern");
        check(json!({"expected_response_pattern": "x".repeat(1001)}), "expected_response_pattern");
        check(json!({"expected_response_pattern": "a{1000}{1000}"}), "expected_response_pattern");
        check(json!({"expected_response_pattern": "(?:a?){50000}"}), "expected_response_pattern");
        let filters = format!("$[{}@.a{}", "?@[".repeat(40), "]".repeat(41));
        for path in [filters.as_str(), "$..a..b", "$[0,0]", "$[?length(@.a)]", &format!("${}", ".a".repeat(40))] {
            check(json!({"expected_json": [{"path": path, "op": "exists"}]}), "expected_json");
        }
        check(json!({"depends_on": ["a", "a"]}), "depends_on");
        check(json!({"category": "Core"}), "category");
        check(json!({"thresholds": {"response_time_warning_ms": 3000}}), "thresholds.response_time_warning_ms");
        check(json!({"thresholds": {"error_rate_warning": 1.5}}), "thresholds.error_rate_warning");
        check(json!({"thresholds": {"typo": 1}}), "serde");
        check(json!({"colour": "red"}), "serde");
    }

    #[test]
    fn the_fingerprint_changes_with_the_definition_only() {
        let print = |fields| build(fields).unwrap().fingerprint;
        assert_eq!(print(json!({})), print(json!({})));
        assert_ne!(print(json!({})), print(json!({"timeout": 4})));
        assert_ne!(print(json!({"headers": {"a": "1"}})), print(json!({"headers": {"a": "2"}})));
    }
}
