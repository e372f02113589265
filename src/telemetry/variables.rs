//! The standard `OTEL_*` variables, read as the specification of OpenTelemetry has them; one that cannot be what its owner
//! meant is refused by name. Only those of traces are read: figures are on `/metrics`, the log goes to standard output.
//!
//! Why not leave it to the SDK: it reads the environment of the process alone, not `.env`, and takes a mistake for the
//! default without a word.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use url::Url;

/// Defaults of the specification ("Environment Variable Specification", "OpenTelemetry Protocol Exporter").
const TIMEOUT_MS: u64 = 10_000;
const DELAY_MS: u64 = 5000;
const QUEUE: usize = 2048;
const BATCH: usize = 512;
/// Most spans that may wait: our choice, some 200 MB of them.
const QUEUE_MOST: u64 = 200_000;
/// Longest wait for an answer of the collector and between two batches: our choices.
const TIMEOUT_MOST_MS: u64 = 600_000;
const DELAY_MOST_MS: u64 = 3_600_000;

/// Where spans go, which of them, and what they say of this process.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    pub endpoint: Url,
    pub headers: Vec<(String, SecretString)>,
    pub timeout: Duration,
    pub gzip: bool,
    /// Trusted beside the system's certificates.
    pub certificate: Option<PathBuf>,
    pub sampler: Sampler,
    /// Spans that may wait; beyond it they are dropped.
    pub queue: usize,
    pub batch: usize,
    pub delay: Duration,
    /// Attributes of the process: `service.name` and others.
    pub resource: BTreeMap<String, String>,
}

/// What spans say of this process unless variables say otherwise.
#[derive(Debug)]
pub struct Identity<'a> {
    pub service: &'a str,
    pub version: &'a str,
    pub instance: &'a str,
    pub environment: &'a str,
}

impl TracesConfig {
    /// `None`: no traces are wanted. Without an endpoint nothing else is read.
    ///
    /// # Errors
    /// A line for each variable that is wrong.
    pub fn read(variables: &BTreeMap<String, String>, own: &Identity<'_>) -> Result<Option<Self>, Vec<String>> {
        let mut given = Given { variables, problems: Vec::new() };
        if given.switched_off() {
            return given.settled(None);
        }
        let Some((name, text, path)) = given.endpoint() else { return given.settled(None) };
        let endpoint = given.address(name, text, path);
        given.protocol();
        let queue = given.number("OTEL_BSP_MAX_QUEUE_SIZE", 1..=QUEUE_MOST, QUEUE as u64) as usize;
        let batch = given.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=QUEUE_MOST, BATCH.min(queue) as u64) as usize;
        if batch > queue {
            given.refuse("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "must be at most OTEL_BSP_MAX_QUEUE_SIZE");
        }
        let timeout = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
        let timeout = given.first(timeout).map_or(timeout[1], |(name, _)| name);
        let timeout = given.number(timeout, 1..=TIMEOUT_MOST_MS, TIMEOUT_MS);
        let delay = given.number("OTEL_BSP_SCHEDULE_DELAY", 1..=DELAY_MOST_MS, DELAY_MS);
        let (headers, gzip) = (given.headers(), given.gzip());
        let (certificate, sampler) = (given.certificate(), given.sampler());
        let resource = given.resource(own);
        let config = endpoint.map(|endpoint| Self {
            endpoint,
            headers,
            timeout: Duration::from_millis(timeout),
            gzip,
            certificate,
            sampler,
            queue,
            batch,
            delay: Duration::from_millis(delay),
            resource,
        });
        given.settled(config)
    }

    /// The endpoint as it may be told: its path may hold a token.
    pub fn place(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }
}

struct Given<'a> {
    variables: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl<'a> Given<'a> {
    fn settled(self, config: Option<TracesConfig>) -> Result<Option<TracesConfig>, Vec<String>> {
        if self.problems.is_empty() { Ok(config) } else { Err(self.problems) }
    }

    fn refuse(&mut self, name: &str, rule: &str) {
        self.problems.push(format!("{name}: {rule}"));
    }

    /// An empty variable counts as none (the specification).
    fn get(&self, name: &str) -> Option<&'a str> {
        self.variables.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// The variable of traces goes before the one of every signal.
    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, &'a str)> {
        names.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }

    fn switched_off(&mut self) -> bool {
        let off = match self.get("OTEL_SDK_DISABLED").map(str::to_ascii_lowercase).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.refuse("OTEL_SDK_DISABLED", "must be true or false");
                false
            }
        };
        off || match self.get("OTEL_TRACES_EXPORTER") {
            None | Some("otlp") => false,
            Some("none") => true,
            Some(_) => {
                self.refuse("OTEL_TRACES_EXPORTER", "must be otlp or none: there is no other exporter");
                false
            }
        }
    }

    /// The address, its variable, and what is joined to it.
    fn endpoint(&self) -> Option<(&'static str, &'a str, &'static str)> {
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let (name, text) = self.first([OWN, "OTEL_EXPORTER_OTLP_ENDPOINT"])?;
        Some((name, text, if name == OWN { "" } else { "/v1/traces" }))
    }

    fn address(&mut self, name: &str, text: &str, path: &str) -> Option<Url> {
        let parsed = Url::parse(text).ok();
        let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        let Some(mut url) = parsed else {
            self.refuse(name, "must be an http or https address, such as http://localhost:4318");
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.refuse(name, "must not hold user and password: send them with OTEL_EXPORTER_OTLP_HEADERS");
            return None;
        }
        if !path.is_empty() {
            let joined = format!("{}{path}", url.path().trim_end_matches('/'));
            url.set_path(&joined);
        }
        Some(url)
    }

    fn protocol(&mut self) {
        let given = self.first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        if let Some((name, _)) = given.filter(|(_, text)| *text != "http/protobuf") {
            let rule = "must be http/protobuf, the only one spoken here: set it, and an endpoint that takes it (most \
                        often port 4318)";
            self.refuse(name, rule);
        }
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u64>, otherwise: u64) -> u64 {
        let Some(text) = self.get(name) else { return otherwise };
        text.parse().ok().filter(|number| range.contains(number)).unwrap_or_else(|| {
            self.refuse(name, &format!("must be a whole number from {} to {}", range.start(), range.end()));
            otherwise
        })
    }

    /// `name=value` pairs divided by commas, the values percent-encoded. What stands there may be a secret, and is not
    /// repeated.
    fn pairs(&mut self, name: &str, text: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for (place, entry) in text.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let pair = entry.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
            let decoded = pair.and_then(|(key, value)| Some((key, percent_decode_str(value).decode_utf8().ok()?)));
            match decoded.filter(|(key, _)| !key.is_empty()) {
                Some((key, value)) => pairs.push((key.to_owned(), value.into_owned())),
                None => self.refuse(name, &format!("entry {} is not name=value, percent-encoded", place + 1)),
            }
        }
        pairs
    }

    fn headers(&mut self) -> Vec<(String, SecretString)> {
        let given = self.first(["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let Some((name, text)) = given else { return Vec::new() };
        let pairs = self.pairs(name, text);
        for (place, (header, value)) in pairs.iter().enumerate() {
            if HeaderName::from_bytes(header.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                self.refuse(name, &format!("entry {} is no header", place + 1));
            }
        }
        pairs.into_iter().map(|(header, value)| (header, SecretString::from(value))).collect()
    }

    fn gzip(&mut self) -> bool {
        let given = self.first(["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"]);
        match given {
            None | Some((_, "none")) => false,
            Some((_, "gzip")) => true,
            Some((name, _)) => {
                self.refuse(name, "must be gzip or none");
                false
            }
        }
    }

    fn certificate(&mut self) -> Option<PathBuf> {
        for name in [
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ] {
            if self.get(name).is_some() {
                self.refuse(name, "certificates of clients are not spoken here: leave it out");
            }
        }
        let given = self.first(["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
        let (name, text) = given?;
        if let Err(error) = super::traces::authorities(text.as_ref()) {
            self.refuse(name, &error);
        }
        Some(text.into())
    }

    fn sampler(&mut self) -> Sampler {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let given = self.get(NAME).unwrap_or("parentbased_always_on");
        let (by_parent, kind) = match given.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, given),
        };
        let root = match kind {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            _ => {
                let rule = "must be always_on, always_off or traceidratio, or one of them after parentbased_";
                self.refuse(NAME, rule);
                Sampler::AlwaysOff
            }
        };
        if by_parent { Sampler::ParentBased(Box::new(root)) } else { root }
    }

    fn ratio(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(text) = self.get(NAME) else { return 1.0 };
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.refuse(NAME, "must be a ratio from 0 to 1");
            0.0
        })
    }

    fn resource(&mut self, own: &Identity<'_>) -> BTreeMap<String, String> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let known = [
            ("service.name", own.service),
            ("service.version", own.version),
            ("service.instance.id", own.instance),
            ("deployment.environment.name", own.environment),
        ];
        let known = known.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut resource: BTreeMap<String, String> = known.collect();
        if let Some(text) = self.get(NAME) {
            resource.extend(self.pairs(NAME, text));
        }
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".to_owned(), name.to_owned());
        }
        resource
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const OWN: Identity<'_> = Identity { service: "infra", version: "1", instance: "a", environment: "development" };

    fn read(given: &[(&str, &str)]) -> Result<Option<TracesConfig>, Vec<String>> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TracesConfig::read(&given.collect(), &OWN)
    }

    #[test]
    fn without_an_endpoint_or_switched_off_there_are_no_traces() {
        let check = |given: &[(&str, &str)]| assert!(read(given).unwrap().is_none(), "{given:?}");
        check(&[]);
        check(&[(ENDPOINT, " ")]);
        check(&[("OTEL_TRACES_SAMPLER", "nonsense")]);
        check(&[(ENDPOINT, "nonsense"), ("OTEL_SDK_DISABLED", "TRUE")]);
        check(&[(ENDPOINT, "nonsense"), ("OTEL_TRACES_EXPORTER", "none")]);
    }

    #[test]
    fn the_address_of_every_signal_is_completed_and_the_one_of_traces_is_not() {
        let check = |given: &[(&str, &str)], expected: &str| {
            assert_eq!(read(given).unwrap().unwrap().endpoint.as_str(), expected, "{given:?}");
        };
        let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        check(&[(ENDPOINT, "http://c:4318")], "http://c:4318/v1/traces");
        check(&[(ENDPOINT, "https://c/otlp/")], "https://c/otlp/v1/traces");
        check(&[(own, "http://c:4318")], "http://c:4318/");
        check(&[(own, "http://c/x"), (ENDPOINT, "http://d")], "http://c/x");
    }

    #[test]
    fn what_is_wrong_is_told_by_variable_and_no_secret_with_it() {
        let check = |name: &str, value: &str| {
            let problems = read(&[(ENDPOINT, "http://c"), (name, value)]).map(|_| ()).unwrap_err();
            assert_eq!(problems.len(), 1, "{name}={value}: {problems:?}");
            assert!(problems[0].starts_with(&format!("{name}: ")), "{problems:?}");
            assert!(!problems[0].contains("s3cret"), "{problems:?}");
        };
        for address in ["c:4318", "ftp://c", "http://", "nonsense", "http://u:s3cret@c"] {
            check(ENDPOINT, address);
        }
        check("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        check("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json");
        check("OTEL_EXPORTER_OTLP_TIMEOUT", "0");
        check("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s");
        check("OTEL_EXPORTER_OTLP_HEADERS", "s3cret");
        check("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%0a");
        check("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cret");
        check("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd");
        check("OTEL_EXPORTER_OTLP_CERTIFICATE", "no-such-file.pem");
        check("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem");
        check("OTEL_TRACES_EXPORTER", "zipkin");
        check("OTEL_SDK_DISABLED", "perhaps");
        check("OTEL_TRACES_SAMPLER", "xray");
        check("OTEL_BSP_MAX_QUEUE_SIZE", "0");
        check("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049");
        check("OTEL_BSP_SCHEDULE_DELAY", "-1");
        check("OTEL_RESOURCE_ATTRIBUTES", "team");
        let ratio = [(ENDPOINT, "http://c"), ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert!(read(&ratio).unwrap_err()[0].starts_with("OTEL_TRACES_SAMPLER_ARG: "));
    }

    #[test]
    fn headers_sampler_and_names_are_taken_over() {
        let config = read(&[
            (ENDPOINT, "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc=, x-a = 1"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=night%20shift"),
            ("OTEL_SERVICE_NAME", "mine"),
        ]);
        let config = config.unwrap().unwrap();
        let headers: Vec<(&str, &str)> =
            config.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(headers, [("authorization", "Basic abc="), ("x-a", "1")]);
        assert_eq!(format!("{:?}", config.sampler), "ParentBased(TraceIdRatioBased(0.25))");
        assert_eq!(config.resource["service.name"], "mine");
        assert_eq!(config.resource["team"], "night shift");
        assert_eq!(config.resource["service.instance.id"], "a");
        assert_eq!((config.queue, config.batch, config.timeout), (2048, 512, Duration::from_secs(10)));
    }
}
