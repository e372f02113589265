//! A service as its owner writes it, and the rules it must meet to become one (CONTRACT.md 5.1).
//!
//! `serde` refuses unknown fields and wrong types; everything else is judged here, all problems at once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use regex::RegexBuilder;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::classify::{Expected, LatencyLimits};
use super::egress::Trust;
use super::service::{Connection, HttpProbe, Limits, Method, Probe, Service, ServiceName, Source};

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

/// The fields of a `[[service]]` table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    #[serde(default)]
    pub name: String,
    pub display_name: Option<String>,
    #[serde(alias = "health_check_url")]
    pub url: Option<String>,
    pub health_endpoint: Option<String>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub category: Option<String>,
    #[serde(alias = "critical_service")]
    pub critical: Option<bool>,
    pub critical_path: Option<bool>,
    #[serde(alias = "dependencies", default)]
    pub depends_on: Vec<String>,
    pub check_interval_ms: Option<f64>,
    #[serde(alias = "check_interval_seconds")]
    pub check_interval: Option<f64>,
    pub timeout_ms: Option<f64>,
    #[serde(alias = "timeout_seconds")]
    pub timeout: Option<f64>,
    pub retries: Option<u32>,
    pub retry_on_failure: Option<bool>,
    pub method: Option<Method>,
    pub body: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub connection: Option<Connection>,
    pub expected_status_code: Option<u16>,
    pub expected_status_codes: Option<Vec<u16>>,
    pub on_unexpected: Option<OnUnexpected>,
    pub expected_response_pattern: Option<String>,
    pub follow_redirects: Option<bool>,
    #[serde(default)]
    pub thresholds: Thresholds,
    pub custom_response_time_threshold: Option<f64>,
    pub custom_error_rate_threshold: Option<f64>,
    pub escalate_after_failures: Option<u32>,
    pub fail_fast_on_error: Option<bool>,
    pub is_active: Option<bool>,
    pub description: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What an unexpected HTTP code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnexpected {
    Degraded,
    Unhealthy,
}

/// The `thresholds` table; each overrides its global value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    pub response_time_warning_ms: Option<f64>,
    pub response_time_critical_ms: Option<f64>,
    pub error_rate_warning: Option<f64>,
    pub error_rate_critical: Option<f64>,
    pub consecutive_failures_warning: Option<u32>,
    pub consecutive_failures_critical: Option<u32>,
    pub outage_failures: Option<u32>,
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
                outage_failures: None,
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
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem { field: field.to_owned(), message: message.into() });
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
        if interval < defaults.min_interval {
            problems.add("check_interval_ms", format!("must be at least {} ms", defaults.min_interval.as_millis()));
        }
        if interval > LONGEST_INTERVAL {
            problems.add("check_interval_ms", "must be at most 7 days (604800000 ms)");
        }
        let timeout = problems.span("timeout", self.timeout_ms, self.timeout, defaults.timeout);
        if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
            problems.add("timeout_ms", "must be over 0 and at most 60000 ms");
        }
        let retries = self.retries(defaults, &mut problems);
        let expected = self.expected(&mut problems);
        let limits = self.limits(&defaults.limits, &mut problems);
        let depends_on = self.dependencies(&mut problems);
        let category = self.category.clone().unwrap_or_else(|| "core".to_owned());
        let well_formed = category.starts_with(|c: char| c.is_ascii_lowercase())
            && category.len() <= 50
            && category.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'));
        if !well_formed {
            problems
                .add("category", "must be lower-case letters, digits, '_' or '-', beginning with a letter, at most 50");
        }
        self.check_texts(&mut problems);
        let probe = self.http_probe(&mut problems);
        let address = self.address(&mut problems);

        match (name, probe, address, problems.0.is_empty()) {
            (Ok(name), Some(probe), Some(address), true) => Ok(Service {
                display_name: self.display_name.clone().unwrap_or_else(|| self.name.clone()),
                fingerprint: self.fingerprint(interval, timeout, retries, &limits),
                base_url: address.base,
                health_path: address.path,
                url: address.shown,
                port: address.port,
                probe: Probe::Http(HttpProbe { url: address.full, ..probe }),
                critical_path: self.critical_path.unwrap_or(false),
                active: self.is_active.unwrap_or(true),
                name,
                expected,
                category,
                critical,
                depends_on,
                interval,
                timeout,
                retries,
                limits,
                source,
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
            Some(given) => given == OnUnexpected::Unhealthy,
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

    fn dependencies(&self, problems: &mut Problems) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> = Vec::new();
        for text in &self.depends_on {
            match ServiceName::new(text) {
                Ok(name) if names.contains(&name) => problems.add("depends_on", format!("names {text} twice")),
                Ok(name) => names.push(name),
                Err(rule) => problems.add("depends_on", format!("{text:?} {rule}")),
            }
        }
        names
    }

    fn check_texts(&self, problems: &mut Problems) {
        if self.display_name.as_ref().is_some_and(|name| !(1..=200).contains(&name.chars().count())) {
            problems.add("display_name", "must be 1 to 200 characters");
        }
        if self.description.as_ref().is_some_and(|text| text.chars().count() > 2000) {
            problems.add("description", "must be at most 2000 characters");
        }
        if self.tags.len() > 32 || self.tags.iter().any(|tag| tag.chars().count() > 64) {
            problems.add("tags", "must be at most 32 tags of at most 64 characters");
        }
    }

    fn http_probe(&self, problems: &mut Problems) -> Option<HttpProbe> {
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
        for (header, value) in &self.headers {
            let lower = header.to_ascii_lowercase();
            let refused = matches!(
                lower.as_str(),
                "content-length" | "transfer-encoding" | "connection" | "upgrade" | "te" | "trailer"
            ) || lower.starts_with("proxy-");
            let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
            if header.is_empty() || !header.bytes().all(token) {
                problems.add("headers", format!("{:?} is not a header name", super::observation::clean(header)));
            } else if refused {
                problems.add("headers", format!("{header} is set by the probe itself"));
            } else if value.bytes().any(|c| (c < 0x20 && c != b'\t') || c == 0x7f) {
                problems.add("headers", format!("the value of {header} holds a control character"));
            }
        }
        let pattern = match &self.expected_response_pattern {
            None => None,
            Some(text) if text.chars().count() > PATTERN_CHARS => {
                problems.add("expected_response_pattern", "must be at most 1000 characters");
                None
            }
            Some(text) => {
                let built = RegexBuilder::new(text)
                    .size_limit(PATTERN_BYTES)
                    .dfa_size_limit(PATTERN_BYTES)
                    .nest_limit(50)
                    .build();
                match built {
                    Ok(pattern) => Some(pattern),
                    Err(error) => {
                        let why = error.to_string();
                        let last = why.lines().last().unwrap_or_default().trim().to_owned();
                        problems.add("expected_response_pattern", format!("is not a usable pattern: {last}"));
                        None
                    }
                }
            }
        };
        Some(HttpProbe {
            url: Url::parse("http://unset").ok()?,
            method,
            body: self.body.clone().map(SecretString::from),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
                .collect(),
            connection: self.connection.unwrap_or_default(),
            pattern,
            follow_redirects: self.follow_redirects.unwrap_or(false),
            trust: Trust::Operator,
        })
    }

    fn address(&self, problems: &mut Problems) -> Option<Address> {
        let Some(text) = &self.url else {
            problems.add("url", "is required");
            return None;
        };
        if text.len() > URL_CHARS {
            problems.add("url", "must be at most 2048 characters");
            return None;
        }
        let protocol = self.protocol.as_deref().map(str::to_ascii_lowercase);
        let protocol = match protocol.as_deref() {
            None => "http",
            Some("http_service") => "http",
            Some(known @ ("http" | "https")) => known,
            Some(other) => {
                problems.add("protocol", format!("{other:?} is not supported; this version probes http and https"));
                return None;
            }
        };
        let with_scheme = if text.contains("://") { text.clone() } else { format!("{protocol}://{text}") };
        let mut full = match Url::parse(&with_scheme) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => url,
            Ok(url) => {
                problems.add("url", format!("scheme {:?} is not supported; use http:// or https://", url.scheme()));
                return None;
            }
            Err(error) => {
                problems.add("url", format!("is not an address: {error}"));
                return None;
            }
        };
        if let (None, Some(port)) = (full.port(), self.port) {
            // Cannot fail: the URL has a host.
            let _ = full.set_port(Some(port));
        }
        let bare = full.path() == "/" && full.query().is_none();
        let path = match &self.health_endpoint {
            Some(path) if !path.starts_with('/') => {
                problems.add("health_endpoint", "must begin with '/'");
                return None;
            }
            Some(path) => path.clone(),
            None if bare => "/health".to_owned(),
            None => String::new(),
        };
        let mut base = full.clone();
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let base = base.to_string();
        let base = base.trim_end_matches('/').to_owned();
        if !path.is_empty() {
            let joined = format!("{}{path}", full.path().trim_end_matches('/'));
            let (path, query) = joined.split_once('?').map_or((joined.as_str(), None), |(p, q)| (p, Some(q)));
            full.set_path(path);
            if query.is_some() {
                full.set_query(query);
            }
        }
        full.set_fragment(None);
        let mut shown = full.clone();
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        Some(Address { base, path, port: full.port_or_known_default().unwrap_or(0), shown: shown.to_string(), full })
    }

    fn fingerprint(&self, interval: Duration, timeout: Duration, retries: u32, limits: &Limits) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}{interval:?}{timeout:?}{retries}{limits:?}").hash(&mut hasher);
        hasher.finish()
    }
}

struct Address {
    full: Url,
    base: String,
    path: String,
    shown: String,
    port: u16,
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
