//! The commands. Each returns its exit code; the one that matters is `run`. Those that ask a running service over its
//! API are in `cli/`, one resource a file.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::app::{self, AppError, install_crypto_provider};
use crate::config::{ConfigError, Settings, Sources, load_services};
use crate::domain::classify::classify;
use crate::domain::observation::Observation;
use crate::domain::service::{Service, ServiceName, Source};
use crate::domain::spec::{FilesystemTable, ServiceSpec};
use crate::domain::status::Status;
use crate::domain::time::round2;
use crate::probes::{self, Clients};

/// Prints a line; a reader that has gone away (`| head`) is no error of ours.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod client;
mod export;
mod kibana;
mod maintenance;
mod outages;
mod services;
mod table;
mod times;

use self::client::Failure;

/// How long `healthcheck` waits for the running service: our choice, below the usual container limit.
const ASKING: Duration = Duration::from_secs(3);

/// Watches internal services, judges their health, opens and closes outages, raises and resolves alerts, and serves it
/// all as JSON on port 3106.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Settings: config/default.toml lists every key; each is also an environment variable (PORT, REDIS_URL, \
INTERNAL_SERVICE_KEY, ...).\nExit codes: 0 clean, 1 the asked-for thing is not well, is not there or was refused, 2 \
arguments or configuration, 3 records store unusable, 70 internal."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Also start nine small services that answer, slow down, fail and recover
    #[arg(long)]
    demo: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the services and serve the API (the default)
    Run {
        /// Also start nine small services that answer, slow down, fail and recover
        #[arg(long)]
        demo: bool,
    },
    /// Read every setting and the services file, list what is wrong, start nothing
    CheckConfig,
    /// Ask the running service whether it lives; for the container's own probe
    Healthcheck,
    /// Send one probe to a service of the file or to an address, and show what came back
    Probe {
        /// Name of a service, or an address: http://, https://, tcp://, udp://, dns://, icmp://, redis://, postgres://,
        /// amqp://, grpc://, tls://, filesystem:///path
        target: String,
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// List what is watched; add and remove services of a running service
    Services(services::Services),
    /// Have a running service check one of its services now; 0 when it is up or degraded
    Check(services::Check),
    /// Outages of a running service: list, show, resolve
    Outages(outages::Outages),
    /// Maintenance windows of a running service: list, add, end, remove
    Maintenance(maintenance::Maintenance),
    /// Print the OpenAPI document of the API; needs neither settings nor a running service
    Openapi,
    /// Dashboards and rules for other systems
    Export(export::Export),
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    install_crypto_provider();
    if matches!(cli.command, Some(Command::Openapi)) {
        return openapi();
    }
    let sources = match Sources::of_process() {
        Ok(sources) => sources,
        Err(error) => return Failure::from(error).tell(),
    };
    match cli.command.unwrap_or(Command::Run { demo: cli.demo }) {
        Command::Run { demo } => run(&sources, demo || cli.demo),
        Command::CheckConfig => check_config(&sources),
        Command::Healthcheck => asked(healthcheck(&sources)),
        Command::Probe { target, json } => asked(probe(&sources, &target, json)),
        Command::Services(arguments) => asked(services::services(&sources, arguments)),
        Command::Check(arguments) => asked(services::check(&sources, &arguments)),
        Command::Outages(arguments) => asked(outages::outages(&sources, arguments)),
        Command::Maintenance(arguments) => asked(maintenance::maintenance(&sources, arguments)),
        Command::Openapi => openapi(),
        Command::Export(arguments) => asked(export::export(&sources, arguments)),
    }
}

fn openapi() -> ExitCode {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    // A copy that is cut off is worse than none.
    match writeln!(out, "{}", crate::api::openapi().trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("not written: {error}");
            ExitCode::from(1)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn asked<E: Into<Failure>>(work: impl Future<Output = Result<ExitCode, E>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::from(AppError::Internal(error.to_string())));
    let done = runtime.and_then(|runtime| runtime.block_on(work).map_err(Into::into));
    done.unwrap_or_else(|failure| failure.tell())
}

fn run(sources: &Sources, demo: bool) -> ExitCode {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let started = runtime.map_err(|error| AppError::Internal(error.to_string())).and_then(|runtime| {
        let result = runtime.block_on(app::run(sources, demo));
        // Blocking reads of files may still be under way; they must not hold the stop.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).tell(),
    }
}

/// Takes all the descriptors this process may have: each check in flight and each kept connection holds one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where more is asked for than is allowed; then the present limit stands.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn check_config(sources: &Sources) -> ExitCode {
    let mut problems = Vec::new();
    match Settings::load(sources) {
        Err(ConfigError(found)) => problems.extend(found),
        Ok(settings) => match load_services(&settings.services, &settings.defaults) {
            Err(ConfigError(found)) => problems.extend(found),
            Ok(listed) => {
                say!("configuration is valid: {} services", listed.services.len());
                if listed.services.is_empty() {
                    say!("warning: nothing is watched");
                }
                if settings.published_key {
                    say!("warning: {}", crate::engine::PUBLISHED_KEY_WARNING);
                }
                for service in listed.services.iter().filter(|service| service.critical && service.active) {
                    let policy = &settings.engine.detection;
                    let worst = service.worst_case_detection(policy);
                    if worst > policy.promise {
                        say!(
                            "warning: {} is told of after {} ms in the worst case, {} ms are promised",
                            service.name,
                            worst.as_millis(),
                            policy.promise.as_millis()
                        );
                    }
                }
            }
        },
    }
    for problem in &problems {
        say!("{problem}");
    }
    ExitCode::from(if problems.is_empty() { 0 } else { 2 })
}

/// Where the service of these settings listens, as this machine reaches it.
fn own_address(settings: &Settings) -> String {
    let host = match settings.api.host.as_str() {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    format!("http://{host}:{}", settings.api.port)
}

async fn healthcheck(sources: &Sources) -> Result<ExitCode, AppError> {
    let url = format!("{}/livez", own_address(&Settings::load(sources)?));
    let client = reqwest::Client::builder().no_proxy().timeout(ASKING).build();
    let client = client.map_err(|error| AppError::Internal(error.to_string()))?;
    let alive = client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success());
    if !alive {
        eprintln!("no answer from {url}");
    }
    Ok(ExitCode::from(u8::from(!alive)))
}

/// The definition of an address that is probed as it is given.
fn addressed(target: &str) -> ServiceSpec {
    let spec = ServiceSpec { name: "probe".to_owned(), url: Some(target.to_owned()), ..ServiceSpec::default() };
    match (target.split_once("://"), url::Url::parse(target)) {
        (Some((scheme, path)), _) if scheme.eq_ignore_ascii_case("filesystem") => ServiceSpec {
            url: None,
            protocol: Some(scheme.to_owned()),
            filesystem: Some(FilesystemTable { paths: Some(vec![path.into()]), ..FilesystemTable::default() }),
            ..spec
        },
        // A path of the web is given as the health path: an address without one would get the usual one.
        (_, Ok(mut base)) if matches!(base.scheme(), "http" | "https") => {
            let path = base.path().to_owned();
            base.set_path("");
            ServiceSpec { url: Some(base.to_string()), health_endpoint: Some(path), ..spec }
        }
        _ => spec,
    }
}

/// The service to probe: one of the file, or an address under default settings.
fn find(sources: &Sources, target: &str) -> Result<(Settings, Service), AppError> {
    let settings = Settings::load(sources)?;
    let wrong = |problem: String| AppError::Config(ConfigError(vec![problem]));
    if target.contains("://") {
        let service = addressed(target).into_service(&settings.defaults, Source::File).map_err(|problems| {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.field, problem.message)).collect();
            wrong(lines.join("; "))
        })?;
        return Ok((settings, service));
    }
    let listed = load_services(&settings.services, &settings.defaults)?;
    let found = ServiceName::new(target).ok();
    let found = found.and_then(|name| listed.services.iter().find(|service| service.name == name).cloned());
    let service = found
        .ok_or_else(|| wrong(format!("{target} is no service of the file and no address such as http:// or tcp://")))?;
    Ok((settings, (*service).clone()))
}

async fn probe(sources: &Sources, target: &str, as_json: bool) -> Result<ExitCode, AppError> {
    let (settings, service) = find(sources, target)?;
    let clients = Clients::new(settings.egress).map_err(|error| AppError::Internal(error.to_string()))?;
    let seen = probes::observe(&clients, &service, true, async |_: Observation| {}).await;
    let verdict = classify(&seen, service.limits.latency, &service.expected);
    let status = verdict.status.unwrap_or(Status::Unknown);
    let ms = |phase: Option<Duration>| phase.map(|phase| round2(phase.as_secs_f64() * 1000.0));
    let phases = BTreeMap::from([
        ("1 resolve", ms(seen.phases.resolve)),
        ("2 connect", ms(seen.phases.connect)),
        ("3 tls", ms(seen.phases.tls)),
        ("4 response", ms(seen.phases.response)),
    ]);
    let code = seen.reply.as_ref().ok().map(|reply| reply.code).filter(|code| *code != 0);
    let version = seen.reply.as_ref().ok().and_then(|reply| reply.facts.version.clone());
    if as_json {
        let shown: Value = json!({
            "target": service.url, "status": status, "reason": verdict.reason, "httpStatus": code, "issues": verdict.issues,
            "version": version,
            "phases": {
                "resolve": ms(seen.phases.resolve), "connect": ms(seen.phases.connect), "tls": ms(seen.phases.tls),
                "response": ms(seen.phases.response),
            },
        });
        say!("{shown}");
    } else {
        let shown = if service.url.is_empty() { target } else { &service.url };
        say!("{shown}: {} ({})", status.as_str(), verdict.reason.as_str());
        if let Some(code) = code {
            say!("  HTTP {code}");
        }
        for (phase, time) in phases.iter().filter_map(|(phase, time)| Some((phase, (*time)?))) {
            say!("  {:<9} {time} ms", phase.get(2..).unwrap_or(phase));
        }
        for issue in verdict.issues.iter().chain(verdict.error_message.iter().filter(|_| verdict.issues.is_empty())) {
            say!("  {issue}");
        }
    }
    Ok(ExitCode::from(u8::from(!status.is_up())))
}
