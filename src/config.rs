//! Loads the settings: `config/default.toml` (compiled in), then files, then the environment. Refuses unknown keys, wrong
//! units and impossible pairs, all at once, each with its source, its key and the remedy.

mod export;
mod notify;
mod reader;
mod services_file;
pub mod shown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use self::reader::Layers;
use self::reader::{Reader, Unit};
pub use self::services_file::{ServicesFile, load_services};
use crate::api::{ApiConfig, AuthScope, Keys, Setting};
use crate::domain::classify::LatencyLimits;
use crate::domain::definitions::Listed;
use crate::domain::egress::{Allow, EgressPolicy};
use crate::domain::host::HostPolicy;
use crate::domain::policy::{AlertPolicy, DetectionPolicy, FlapPolicy, OutagePolicy};
use crate::domain::service::{Limits, Service, Source as Origin};
use crate::domain::spec::{Defaults, RegisteredDefaults, ServiceSpec};
use crate::engine::EngineConfig;
use crate::engine::references::ReferenceConfig;
use crate::notify::Sender;
use crate::notify::heartbeat::{Heartbeat, HeartbeatConfig};
use crate::store::{RecordsAddress, RedisConfig, StoreConfig, StreamsConfig};
use crate::telemetry::{Identity, LogConfig, LogFormat, TracesConfig};

/// The key printed in the source document: CONTRACT.md section 2. Public knowledge.
pub const PUBLISHED_KEY: &str = "nmc-internal-services-auth-key-phase1";
/// CONTRACT.md section 2.
const KEY_CHARS: usize = 16;
/// CONTRACT.md 9.9.
const AVATAR_CHARS: usize = 100;
/// Descriptors kept back from checks for stores and receivers: our choice; another eighth is for clients.
const RESERVED_FILES: u64 = 32;
/// Share of the remaining descriptors that idle pooled connections may hold: our choice, the rest is for checks.
const POOLED_SHARE: f64 = 0.75;

/// Everything settled.
#[derive(Debug, Clone)]
pub struct Settings {
    pub api: ApiConfig,
    pub log: LogConfig,
    /// `None`: nothing of the service itself is traced.
    pub traces: Option<TracesConfig>,
    pub engine: EngineConfig,
    pub defaults: Defaults,
    pub egress: EgressPolicy,
    pub services: ServicesFile,
    pub shutdown_grace: Duration,
    /// The service key is the published one: accepted in development, with warnings.
    pub published_key: bool,
    /// Every setting as it may be shown.
    pub shown: Vec<Setting>,
}

/// Where settings come from: the real environment, or a test's own.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub variables: BTreeMap<String, String>,
    /// Folder of the files; `None`: `CONFIG_DIR`, else `config`.
    pub folder: Option<PathBuf>,
    /// The variables are those of the process and may be read again.
    of_process: bool,
}

/// Everything wrong with the configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Something wrong with the configuration: a line that reads alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Section and key, where it is about one setting.
    pub setting: Option<(String, String)>,
    /// What is wrong; without a subject where `setting` says it.
    pub rule: String,
    source: String,
}

impl Problem {
    fn new(source: &str, section: &str, key: &str, rule: &str) -> Self {
        let setting = Some((section.to_owned(), key.to_owned()));
        Self { setting, rule: rule.to_owned(), source: source.to_owned() }
    }

    fn general(rule: String) -> Self {
        Self { setting: None, rule, source: String::new() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.setting {
            Some((section, key)) => write!(f, "{}: {section}.{key} {}", self.source, self.rule),
            None => f.write_str(&self.rule),
        }
    }
}

impl From<Vec<Problem>> for ConfigError {
    fn from(problems: Vec<Problem>) -> Self {
        Self(problems.iter().map(ToString::to_string).collect())
    }
}

impl Sources {
    /// Variables and a folder, for tests and tools.
    pub fn new(variables: BTreeMap<String, String>, folder: Option<PathBuf>) -> Self {
        Self { variables, folder, ..Self::default() }
    }

    /// The process environment, with `.env` of the working directory for what is not set.
    ///
    /// # Errors
    /// `.env` is there and cannot be read.
    pub fn of_process() -> Result<Self, ConfigError> {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        match dotenvy::from_path_iter(".env") {
            Ok(entries) => {
                for entry in entries {
                    let (name, value) =
                        entry.map_err(|error| ConfigError(vec![format!(".env: {error}; write NAME=value lines")]))?;
                    variables.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(error) => return Err(ConfigError(vec![format!(".env: {error}")])),
        }
        for (name, value) in std::env::vars_os() {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(Self { variables, of_process: true, ..Self::default() })
    }

    /// Files and environment as they are now.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn layers(&self) -> Result<Layers, ConfigError> {
        if self.of_process {
            let now = Self::of_process()?;
            return Layers::open(&now.variables, &now.folder());
        }
        Layers::open(&self.variables, &self.folder())
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| self.variables.get("CONFIG_DIR").map_or("config", String::as_str).into())
    }
}

impl Settings {
    /// Reads and judges every setting.
    ///
    /// # Errors
    /// Every problem found.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Ok(Self::of(&sources.layers()?, &BTreeMap::new())?)
    }

    /// Judges what was read, with what is stored on top.
    ///
    /// # Errors
    /// Every problem found.
    pub fn of(layers: &Layers, stored: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(layers, stored);
        let mut settings = read(&mut reader, &layers.variables);
        settings.shown = reader.shown();
        if reader.problems.is_empty() { Ok(settings) } else { Err(reader.problems) }
    }
}

/// Everything configured, as it was read before anything is opened.
#[derive(Clone)]
pub struct Configured {
    pub sources: Sources,
    pub layers: Layers,
    pub settings: Settings,
    pub listed: Listed,
    /// A services file that was there is expected to stay: its absence is a mistake, not a wish for the built-in services.
    pub expects_file: bool,
}

impl Configured {
    /// Reads and judges every setting and every service.
    ///
    /// # Errors
    /// Every problem found.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let layers = sources.layers()?;
        let settings = Settings::of(&layers, &BTreeMap::new())?;
        let listed = load_services(&settings.services, &settings.defaults)?;
        let expects_file = settings.services.path.exists();
        Ok(Self { sources, layers, settings, listed, expects_file })
    }

    /// Where services are defined.
    pub fn services(&self, settings: &Settings) -> ServicesFile {
        let mut file = settings.services.clone();
        file.explicit |= self.expects_file;
        file
    }
}

fn read(r: &mut Reader, variables: &BTreeMap<String, String>) -> Settings {
    let environment = r.text("server", "environment");
    let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if environment.is_empty() || !environment.chars().all(well_formed) {
        r.refuse("server", "environment", "must be a word of a-z, 0-9, '_' or '-'");
    }
    let development = environment == "development";
    let service_name = r.text("server", "service_name");
    let instance = match r.text("server", "instance_id") {
        given if !given.is_empty() => given,
        _ => instance_id(),
    };
    let (keys, published_key) = keys(r, development);
    let api = ApiConfig {
        host: r.text("server", "host"),
        port: r.number("server", "port", 0..=65_535) as u16,
        version: match r.text("server", "version") {
            given if !given.is_empty() => given,
            _ => env!("CARGO_PKG_VERSION").to_owned(),
        },
        environment,
        service_name: service_name.clone(),
        cors_allowed_origins: r.list("server", "cors_allowed_origins"),
        max_body_bytes: r.number("server", "api_max_body_bytes", 1024..=1 << 30) as usize,
        max_in_flight: r.number("server", "api_max_in_flight", 1..=1 << 20) as usize,
        max_connections: (open_file_limit() / 8).max(16) as usize,
        request_timeout: r.duration("server", "api_request_timeout_ms", Unit::Milliseconds, 1),
        keys,
        scope: r.choice(
            "auth",
            "auth_scope",
            &[("all", AuthScope::All), ("internal", AuthScope::Internal), ("writes", AuthScope::Writes)],
        ),
    };
    if api.host.parse::<std::net::IpAddr>().is_err() {
        r.refuse("server", "host", "must be an IP address to listen on, such as 0.0.0.0, 127.0.0.1 or ::");
    }
    for origin in &api.cors_allowed_origins {
        if origin != "*" && !(origin.starts_with("http://") || origin.starts_with("https://")) {
            r.refuse("server", "cors_allowed_origins", "must be origins such as https://ui.example.com, or *");
        }
    }
    let defaults = defaults(r);
    let sender = Sender { service: service_name, instance: instance.clone() };
    let heartbeat = heartbeat(r, &sender);
    let notify = notify::read(r, variables, sender);
    let outage = OutagePolicy {
        detection_threshold: r.number("outages", "outage_detection_threshold", 1..=1000) as u32,
        recovery_threshold: r.number("outages", "recovery_threshold", 1..=1000) as u32,
        verification: r.boolean("outages", "outage_verification_enabled"),
        confirm_interval: r.duration("checks", "confirm_interval_ms", Unit::Milliseconds, 10),
        flap: flap(r),
    };
    let alert = AlertPolicy {
        enabled: r.boolean("alerts", "enable_alerting"),
        min_severity: notify.min_severity,
        cooldown: r.duration("alerts", "alert_cooldown_minutes", Unit::Minutes, 0),
        escalation: r.duration("alerts", "alert_escalation_minutes", Unit::Minutes, 0),
        max_escalations: r.number("alerts", "alert_max_escalations", 0..=1000) as u32,
        error_rate_window: r.duration("alerts", "error_rate_window_ms", Unit::Milliseconds, 1000),
        error_rate_min_checks: r.number("alerts", "error_rate_min_checks", 1..=100_000),
        detection_threshold: outage.detection_threshold,
        repeat: r.duration("alerts", "alert_repeat_minutes", Unit::Minutes, 0),
        long_outage: r.duration("outages", "long_outage_minutes", Unit::Minutes, 1),
        multiple_down: r.number("alerts", "multiple_services_down_threshold", 1..=1_000_000) as usize,
    };
    if alert.error_rate_window > Duration::from_secs(3600) {
        r.refuse("alerts", "error_rate_window_ms", "must be at most one hour (3600000)");
    }
    let detection = DetectionPolicy {
        outage: outage.clone(),
        group_wait: notify.group_wait,
        promise: r.duration("checks", "detection_promise_ms", Unit::Milliseconds, 1),
    };
    let open_files = (open_file_limit() / 8 * 7).saturating_sub(RESERVED_FILES).max(8);
    let concurrent = match r.number("checks", "max_concurrent_checks", 0..=1 << 20) {
        0 => open_files,
        given => given,
    };
    let egress = EgressPolicy {
        allow: r
            .list("egress", "egress_allow")
            .iter()
            .filter_map(|entry| match entry.parse::<Allow>() {
                Ok(allow) => Some(allow),
                Err(error) => {
                    r.refuse("egress", "egress_allow", &error);
                    None
                }
            })
            .collect(),
        development,
        own: api.host.parse::<std::net::IpAddr>().ok().map(|ip| std::net::SocketAddr::new(ip, api.port)),
        local: local_addresses(),
    };
    let defaults = Defaults {
        registered: RegisteredDefaults { egress: egress.clone(), ..defaults.registered.clone() },
        ..defaults
    };
    let environment = environment_services(r, &defaults);
    let avatar = r.text("avatar", "active_avatar");
    if avatar.chars().count() > AVATAR_CHARS || avatar.contains(char::is_control) {
        r.refuse("avatar", "active_avatar", "must be at most 100 characters, none of them a control one");
    }
    let store = store(r);
    let own = Identity {
        service: &api.service_name,
        version: &api.version,
        instance: &instance,
        environment: &api.environment,
    };
    let traces = TracesConfig::read(variables, &own).unwrap_or_else(|problems| {
        r.problems.extend(problems.into_iter().map(Problem::general));
        None
    });
    let engine = EngineConfig {
        export: export::read(r, &store),
        outage,
        alert,
        detection,
        host: HostPolicy {
            interval: r.duration("host", "system_check_interval", Unit::Seconds, 1000),
            cpu_percent: r.percent("host", "critical_cpu_threshold"),
            memory_percent: r.percent("host", "critical_memory_threshold"),
            disk_percent: r.percent("host", "critical_disk_threshold"),
        },
        alert_check_interval: r.duration("alerts", "alert_check_interval_ms", Unit::Milliseconds, 100),
        snapshot_interval: r.duration("events", "health_check_interval", Unit::Seconds, 1000),
        max_concurrent_checks: concurrent as usize,
        pooled_connections: (open_files as f64 * POOLED_SHARE) as usize,
        notify,
        store,
        references: references(r, &defaults),
        heartbeat,
        recovery_max_per_hour: r.number("outages", "recovery_max_per_hour", 0..=100_000) as usize,
        defaults: defaults.clone(),
        instance,
    };
    let settings = Settings {
        log: LogConfig {
            level: r.text("log", "log_level"),
            format: r.choice("log", "log_format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        },
        traces,
        services: ServicesFile {
            path: r.text("checks", "services_file").into(),
            explicit: r.is_explicit("checks", "services_file"),
            variables: variables.clone(),
            environment,
        },
        shutdown_grace: r.duration("server", "shutdown_grace_ms", Unit::Milliseconds, 0),
        api,
        engine,
        defaults,
        egress,
        published_key,
        shown: Vec::new(),
    };
    if let Err(error) = crate::telemetry::check_level(&settings.log.level) {
        r.refuse("log", "log_level", &format!("is not a level or filter: {error}"));
    }
    settings
}

/// The keys, and whether the published one is among them.
fn keys(r: &mut Reader, development: bool) -> (Keys, bool) {
    let mut full = r.list("auth", "internal_service_key");
    let readonly = r.list("auth", "readonly_service_keys");
    if full.is_empty() && development {
        full = vec![PUBLISHED_KEY.to_owned()];
    }
    if full.is_empty() {
        r.refuse(
            "auth",
            "internal_service_key",
            "must be set outside development: INTERNAL_SERVICE_KEY=<16 or more characters>",
        );
    }
    for (key, keys) in [("internal_service_key", &full), ("readonly_service_keys", &readonly)] {
        if keys.iter().any(|given| given.chars().count() < KEY_CHARS) {
            r.refuse("auth", key, "must be at least 16 characters each; try: openssl rand -hex 24");
        }
        if !development && keys.iter().any(|given| given == PUBLISHED_KEY) {
            r.refuse(
                "auth",
                key,
                "is the published development key, which anyone knows; set your own outside development",
            );
        }
    }
    let published = full.iter().chain(&readonly).any(|given| given == PUBLISHED_KEY);
    (Keys::new(&full, &readonly), published)
}

fn defaults(r: &mut Reader) -> Defaults {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let warning_ms = ms(r.duration("checks", "response_time_warning", Unit::Milliseconds, 1));
    let critical_ms = ms(r.duration("checks", "response_time_critical", Unit::Milliseconds, 1));
    let defaults = Defaults {
        interval: r.duration("checks", "default_check_interval_ms", Unit::Milliseconds, 1),
        critical_interval: r.duration("checks", "critical_service_check_interval_ms", Unit::Milliseconds, 1),
        timeout: r.duration("checks", "health_check_timeout_ms", Unit::Milliseconds, 1),
        retries: r.number("checks", "service_check_retries", 0..=10) as u32,
        min_interval: r.duration("checks", "min_check_interval_ms", Unit::Milliseconds, 10),
        limits: Limits {
            latency: LatencyLimits { warning_ms, critical_ms },
            error_rate_warning: r.ratio("checks", "error_rate_warning"),
            error_rate_critical: r.ratio("checks", "error_rate_critical"),
            consecutive_failures_warning: r.number("checks", "consecutive_failures_warning", 1..=1000) as u32,
            consecutive_failures_critical: r.number("checks", "consecutive_failures_critical", 1..=1000) as u32,
            uptime_warning: r.percent("checks", "uptime_warning"),
            uptime_critical: r.percent("checks", "uptime_critical"),
            outage_failures: None,
        },
        registered: RegisteredDefaults {
            interval: r.optional_duration("checks", "service_check_interval", Unit::Seconds, 1000),
            timeout: r.duration("checks", "service_check_timeout", Unit::Seconds, 1),
            min_interval: r.duration("checks", "min_registered_interval_ms", Unit::Milliseconds, 10),
            filesystem_allow: r.list("egress", "filesystem_allow").into_iter().map(PathBuf::from).collect(),
            egress: EgressPolicy::default(),
        },
    };
    if defaults.registered.filesystem_allow.iter().any(|root| !root.is_absolute()) {
        r.refuse("egress", "filesystem_allow", "must be absolute paths");
    }
    if defaults.registered.timeout > Duration::from_secs(60) {
        r.refuse("checks", "service_check_timeout", "must be at most 60 seconds");
    }
    if defaults.registered.interval.is_some_and(|interval| interval < defaults.registered.min_interval) {
        r.refuse("checks", "service_check_interval", "must not be below min_registered_interval_ms");
    }
    if defaults.limits.uptime_warning <= defaults.limits.uptime_critical {
        r.refuse("checks", "uptime_warning", "must be above uptime_critical: lower is worse");
    }
    let limits = &defaults.limits;
    if warning_ms >= critical_ms {
        r.refuse("checks", "response_time_warning", "must be below response_time_critical");
    }
    if limits.error_rate_warning >= limits.error_rate_critical {
        r.refuse("checks", "error_rate_warning", "must be below error_rate_critical");
    }
    if limits.consecutive_failures_warning >= limits.consecutive_failures_critical {
        r.refuse("checks", "consecutive_failures_warning", "must be below consecutive_failures_critical");
    }
    for (key, interval) in [
        ("default_check_interval_ms", defaults.interval),
        ("critical_service_check_interval_ms", defaults.critical_interval),
    ] {
        if interval < defaults.min_interval {
            r.refuse("checks", key, "must not be below min_check_interval_ms");
        }
    }
    if defaults.timeout > Duration::from_secs(60) {
        r.refuse("checks", "health_check_timeout_ms", "must be at most 60000");
    }
    defaults
}

fn flap(r: &mut Reader) -> FlapPolicy {
    let flap = FlapPolicy {
        window: r.number("checks", "flap_window_checks", 3..=64) as u32,
        high_percent: r.number("checks", "flap_high_percent", 0..=100) as u32,
        low_percent: r.number("checks", "flap_low_percent", 0..=100) as u32,
    };
    if flap.high_percent != 0 && flap.low_percent >= flap.high_percent {
        r.refuse("checks", "flap_low_percent", "must be below flap_high_percent");
    }
    flap
}

/// The services that variables of their own define: source 001 has one for each.
fn environment_services(r: &mut Reader, defaults: &Defaults) -> Vec<Arc<Service>> {
    const PREFIXES: [&str; 6] = ["DH_ADMIN", "DH_RAG_QUERY", "DH_AVATAR", "OLLAMA", "TEI", "WEAVIATE"];
    let timeout = r.optional_duration("checks", "http_request_timeout", Unit::Seconds, 1);
    let interval = r.optional_duration("checks", "service_health_check_interval", Unit::Seconds, 1);
    let ms = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1000.0);
    let mut services = Vec::new();
    for prefix in PREFIXES {
        let key = format!("{}_health_endpoint", prefix.to_ascii_lowercase());
        let url = r.text("checks", &key);
        if url.is_empty() {
            continue;
        }
        let spec = ServiceSpec {
            name: prefix.to_owned(),
            url: Some(url),
            timeout_ms: ms(timeout),
            check_interval_ms: ms(interval),
            ..ServiceSpec::default()
        };
        services.extend(defined(r, &key, spec, defaults));
    }
    services.extend(components(r, defaults));
    services
}

/// The service that a variable defines, if it does.
fn defined(r: &mut Reader, key: &str, spec: ServiceSpec, defaults: &Defaults) -> Option<Arc<Service>> {
    match spec.into_service(defaults, Origin::Environment) {
        Ok(service) => Some(Arc::new(service)),
        Err(problems) => {
            let told: Vec<String> = problems.iter().map(|p| format!("{} {}", p.field, p.message)).collect();
            r.refuse("checks", key, &format!("defines no service: {}", told.join("; ")));
            None
        }
    }
}

/// The components of source 004: CONTRACT.md 5.5.
fn components(r: &mut Reader, defaults: &Defaults) -> Vec<Arc<Service>> {
    /// CONTRACT.md 5.5.
    const TIMEOUT: Duration = Duration::from_secs(5);
    /// Our choice: with that timeout an outage is told of within 29 s, as critical ones are promised to be.
    const INTERVAL: Duration = Duration::from_secs(10);
    const BINANCE: &str = "https://api.binance.com/api/v3/ping";
    let ms = |span: Duration| span.as_secs_f64() * 1000.0;
    let base = r.text("checks", "base_service_url");
    let postgres = r.text("checks", "postgres_health_url");
    let base = base.trim_end_matches('/');
    if base.is_empty() {
        return Vec::new();
    }
    let below = |path: &str| format!("{base}{path}");
    let postgres = if postgres.is_empty() { below("/health") } else { postgres };
    let redis = r.text("redis", "redis_url");
    let mut list = vec![
        ("main_backend", below("/health"), "trading", "base_service_url"),
        ("scheduler", below("/health/scheduler"), "trading", "base_service_url"),
        ("risk_guard", below("/health/risk"), "trading", "base_service_url"),
        ("ai_system", below("/health/ai"), "trading", "base_service_url"),
        ("system_health_monitor", below("/health/system"), "trading", "base_service_url"),
    ];
    // Sentinels and clusters are asked by the store's own client; a probe asks one server.
    if redis.starts_with("redis://") || redis.starts_with("rediss://") {
        list.push(("redis", redis, "infrastructure", "base_service_url"));
    }
    list.push(("postgres", postgres, "infrastructure", "postgres_health_url"));
    list.push(("binance_api", BINANCE.to_owned(), "infrastructure", "base_service_url"));
    let mut services = Vec::new();
    for (name, url, category, key) in list {
        let (critical, http) = (name != "system_health_monitor", !url.starts_with("redis"));
        let spec = ServiceSpec {
            name: name.to_owned(),
            url: Some(url),
            category: Some(category.to_owned()),
            critical: Some(critical),
            check_interval_ms: (critical && defaults.critical_interval > INTERVAL).then_some(ms(INTERVAL)),
            timeout_ms: Some(ms(TIMEOUT)),
            follow_redirects: http.then_some(true),
            ..ServiceSpec::default()
        };
        services.extend(defined(r, key, spec, defaults));
    }
    services
}

/// The dead-man signal, if it has an address.
fn heartbeat(r: &mut Reader, sender: &Sender) -> Option<HeartbeatConfig> {
    let interval = r.duration("notify", "heartbeat_interval_ms", Unit::Milliseconds, 1000);
    let url = r.text("notify", "heartbeat_url");
    let config = HeartbeatConfig { url: url.as_str().into(), interval, sender: sender.clone() };
    if url.is_empty() {
        return None;
    }
    if Heartbeat::new(&config).is_err() {
        r.refuse("notify", "heartbeat_url", "is not an http or https address");
    }
    Some(config)
}

/// Addresses that tell our own trouble from a target's: probed like services, watched by nobody.
fn references(r: &mut Reader, defaults: &Defaults) -> ReferenceConfig {
    /// Longest a reference target may take: our choice, a verdict waits for it.
    const TIMEOUT_MS: f64 = 1000.0;
    let mut targets = Vec::new();
    for (place, url) in r.list("checks", "reference_targets").into_iter().enumerate() {
        let known = ["tcp://", "http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        let spec = ServiceSpec {
            name: format!("reference-{}", place + 1),
            url: Some(url),
            timeout_ms: Some(TIMEOUT_MS),
            ..ServiceSpec::default()
        };
        match spec.into_service(defaults, Origin::Environment) {
            Ok(service) if known => targets.push(Arc::new(service)),
            // Limits that contradict each other are told where they stand.
            Err(problems) if known && problems.iter().all(|problem| problem.field != "url") => {}
            _ => r.refuse("checks", "reference_targets", "must be tcp://host:port, http:// or https:// addresses"),
        }
    }
    ReferenceConfig {
        targets,
        interval: r.duration("checks", "reference_check_interval_ms", Unit::Milliseconds, 100),
        window: r.duration("checks", "impaired_window_ms", Unit::Milliseconds, 1000),
    }
}

fn store(r: &mut Reader) -> StoreConfig {
    let url = r.text("records", "metrics_storage_url");
    let records = if url == "sqlite::memory:" {
        RecordsAddress::SqliteMemory
    } else if let Some(path) = url.strip_prefix("sqlite:///").filter(|path| !path.is_empty()) {
        RecordsAddress::Sqlite(path.into())
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        RecordsAddress::Postgres(url.into())
    } else {
        r.refuse(
            "records",
            "metrics_storage_url",
            "must be sqlite:///relative/path, sqlite:////absolute/path, sqlite::memory: or postgres://user:pass@host/db",
        );
        RecordsAddress::SqliteMemory
    };
    let days = |r: &mut Reader, key: &str, least: u64| r.duration("retention", key, Unit::Days, least * 86_400_000);
    let outage_days = days(r, "outage_retention_days", 0);
    let redis_url = r.text("redis", "redis_url");
    let is_cluster = redis_url.contains("+cluster://");
    let redis = RedisConfig {
        explicit: r.is_explicit("redis", "redis_url"),
        url: (!redis_url.is_empty()).then(|| SecretString::from(redis_url)),
        // A Cluster knows database 0 only; the default of 3 is not the operator's wish.
        database: if is_cluster && !r.is_explicit("redis", "metrics_redis_db") {
            0
        } else {
            i64::try_from(r.number("redis", "metrics_redis_db", 0..=16_383)).unwrap_or(0)
        },
        ttl: r.duration("redis", "health_data_ttl_seconds", Unit::Seconds, 1000),
        prefix: r.text("redis", "redis_key_prefix"),
    };
    if let Err(error) = crate::store::redis::Redis::new(&redis) {
        r.refuse("redis", "redis_url", &error.to_string());
    }
    if is_cluster && redis.database != 0 {
        r.refuse("redis", "metrics_redis_db", "must be 0 with a Cluster, which knows no other database");
    }
    StoreConfig {
        records,
        persist_checks: r.boolean("records", "enable_metrics_persistence"),
        redis,
        streams: streams(r),
        check_retention: days(r, "metrics_retention_days", 1).max(days(r, "cleanup_retention_days", 1)),
        outage_retention: (!outage_days.is_zero()).then_some(outage_days),
        cleanup_interval: r.duration("retention", "cleanup_interval", Unit::Seconds, 60_000),
    }
}

fn streams(r: &mut Reader) -> StreamsConfig {
    for key in ["event_stream_prefix", "event_group_prefix", "event_dlq_prefix", "event_source"] {
        if r.text("events", key).chars().any(|c| c.is_whitespace() || c.is_control()) {
            r.refuse("events", key, "must not hold blanks or control characters");
        }
    }
    if r.text("events", "event_source").is_empty() {
        r.refuse("events", "event_source", "must not be empty: it names us to other parties");
    }
    if r.text("events", "event_stream_prefix") == r.text("events", "event_dlq_prefix") {
        r.refuse("events", "event_dlq_prefix", "must differ from event_stream_prefix");
    }
    StreamsConfig {
        stream_prefix: r.text("events", "event_stream_prefix"),
        group_prefix: r.text("events", "event_group_prefix"),
        dead_prefix: r.text("events", "event_dlq_prefix"),
        source: r.text("events", "event_source"),
        longest: r.number("events", "event_stream_maxlen", 1..=100_000_000) as usize,
        max_age: r.duration("events", "event_max_age_seconds", Unit::Seconds, 1),
        from_beginning: r.boolean("events", "eventbus_reset_to_beginning"),
        claim_idle: r.duration("events", "event_claim_idle_ms", Unit::Milliseconds, 10),
    }
}

/// A name that this process keeps for its life, however often settings are read.
fn instance_id() -> String {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let choose = || {
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("{host}-{}", random.get(..8).unwrap_or_default())
    };
    CHOSEN.get_or_init(choose).clone()
}

/// The addresses of this machine, as the kernel lists them; none where it does not.
fn local_addresses() -> Vec<std::net::IpAddr> {
    let mut found = Vec::new();
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = None;
    for line in routes.lines() {
        if let Some(address) = line.trim_start_matches([' ', '|']).strip_prefix("-- ") {
            last = address.parse::<std::net::Ipv4Addr>().ok();
        } else if line.contains("host LOCAL") {
            found.extend(last.take().map(std::net::IpAddr::V4));
        }
    }
    for line in std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().lines() {
        let number = line.get(..32).and_then(|digits| u128::from_str_radix(digits, 16).ok());
        found.extend(number.map(|number| std::net::IpAddr::V6(number.into())));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// How many descriptors this process may hold.
fn open_file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20)
}

/// The text of a file.
///
/// # Errors
/// One line naming it.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}
