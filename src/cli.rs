//! The commands. Each returns its exit code; the one that matters is `run`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::app::{self, AppError, install_crypto_provider};
use crate::config::{ConfigError, Settings, Sources, load_services};
use crate::domain::classify::classify;
use crate::domain::observation::Observation;
use crate::domain::service::{Service, ServiceName, Source};
use crate::domain::spec::ServiceSpec;
use crate::domain::status::Status;
use crate::domain::time::round2;
use crate::probes::{self, Clients};

/// Prints a line; a reader that has gone away (`| head`) is no error of ours.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// How long `healthcheck` and `services` wait for the running service: our choice, below the usual container limit.
const ASKING: Duration = Duration::from_secs(3);

/// Watches internal services, judges their health, opens and closes outages, raises and resolves alerts, and serves it
/// all as JSON on port 3106.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Settings: config/default.toml lists every key; each is also an environment variable (PORT, REDIS_URL, \
INTERNAL_SERVICE_KEY, ...).\nExit codes: 0 clean, 1 the asked-for thing is not well, 2 configuration, 3 records store \
unusable, 70 internal."
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
        /// Name of a service, or http:// or https:// address
        target: String,
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// List the services of the file, or those of a running service with their status
    Services(Asking),
}

#[derive(Debug, Args)]
struct Asking {
    /// Address of a running service; the key comes from INTERNAL_SERVICE_KEY
    #[arg(long)]
    url: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let sources = match Sources::of_process() {
        Ok(sources) => sources,
        Err(error) => return fail(&error.into()),
    };
    match cli.command.unwrap_or(Command::Run { demo: cli.demo }) {
        Command::Run { demo } => run(&sources, demo || cli.demo),
        Command::CheckConfig => check_config(&sources),
        Command::Healthcheck => asked(healthcheck(&sources)),
        Command::Probe { target, json } => asked(probe(&sources, &target, json)),
        Command::Services(asking) => asked(services(&sources, &asking)),
    }
}

fn fail(error: &AppError) -> ExitCode {
    for line in error.to_string().lines() {
        eprintln!("error: {line}");
    }
    error.exit_code()
}

fn asked(work: impl Future<Output = Result<ExitCode, AppError>>) -> ExitCode {
    install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done =
        runtime.map_err(|error| AppError::Internal(error.to_string())).and_then(|runtime| runtime.block_on(work));
    done.unwrap_or_else(|error| fail(&error))
}

fn run(sources: &Sources, demo: bool) -> ExitCode {
    raise_file_limit();
    let started = Settings::load(sources).map_err(AppError::from).and_then(|settings| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| AppError::Internal(error.to_string()))?;
        let result = runtime.block_on(app::run(settings, demo));
        // Blocking reads of files may still be under way; they must not hold the stop.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
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

fn client() -> Result<reqwest::Client, AppError> {
    let client = reqwest::Client::builder().no_proxy().timeout(ASKING).build();
    client.map_err(|error| AppError::Internal(error.to_string()))
}

async fn healthcheck(sources: &Sources) -> Result<ExitCode, AppError> {
    let settings = Settings::load(sources)?;
    let host = match settings.api.host.as_str() {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let url = format!("http://{host}:{}/livez", settings.api.port);
    let alive = client()?.get(&url).send().await.is_ok_and(|answer| answer.status().is_success());
    if !alive {
        eprintln!("no answer from {url}");
    }
    Ok(ExitCode::from(u8::from(!alive)))
}

/// The service to probe: one of the file, or an address under default settings.
fn find(sources: &Sources, target: &str) -> Result<(Settings, Service), AppError> {
    let settings = Settings::load(sources)?;
    let wrong = |problem: String| AppError::Config(ConfigError(vec![problem]));
    if target.contains("://") {
        let spec = ServiceSpec {
            name: "probe".to_owned(),
            url: Some(target.to_owned()),
            // The address as it is given.
            health_endpoint: Some(url::Url::parse(target).map_or_else(|_| "/".to_owned(), |url| url.path().to_owned())),
            ..ServiceSpec::default()
        };
        let base = url::Url::parse(target).ok().map(|mut url| {
            url.set_path("");
            url.to_string()
        });
        let spec = ServiceSpec { url: base.or(spec.url), ..spec };
        let service = spec.into_service(&settings.defaults, Source::File).map_err(|problems| {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.field, problem.message)).collect();
            wrong(lines.join("; "))
        })?;
        return Ok((settings, service));
    }
    let listed = load_services(&settings.services, &settings.defaults)?;
    let found = ServiceName::new(target).ok();
    let found = found.and_then(|name| listed.services.iter().find(|service| service.name == name).cloned());
    let service =
        found.ok_or_else(|| wrong(format!("{target} is no service of the file and no http:// or https:// address")))?;
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
        say!("{}: {} ({})", service.url, status.as_str(), verdict.reason.as_str());
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

async fn services(sources: &Sources, asking: &Asking) -> Result<ExitCode, AppError> {
    let rows: Vec<Value> = match &asking.url {
        None => {
            let settings = Settings::load(sources)?;
            let listed = load_services(&settings.services, &settings.defaults)?;
            let row = |service: &Service| {
                json!({
                    "name": service.name, "url": service.url, "category": service.category, "critical": service.critical,
                    "check_interval_ms": service.interval.as_millis() as u64, "timeout_ms": service.timeout.as_millis() as u64,
                    "depends_on": service.needs().collect::<Vec<_>>(),
                })
            };
            listed.services.iter().map(|service| row(service)).collect()
        }
        Some(url) => {
            let key =
                sources.variables.get("INTERNAL_SERVICE_KEY").map_or(crate::config::PUBLISHED_KEY, String::as_str);
            let key = key.split(',').next().unwrap_or_default();
            let address = format!("{}/health/services?view=list", url.trim_end_matches('/'));
            let wrong = |problem: String| AppError::Config(ConfigError(vec![problem]));
            let answer = client()?.get(&address).header("x-service-key", key).send().await;
            let answer =
                answer.map_err(|_| wrong(format!("no answer from {address}; is the service running there?")))?;
            let code = answer.status();
            let body: Value = answer.json().await.unwrap_or_default();
            let told = body.get("message").and_then(Value::as_str).unwrap_or("no list of services came back");
            let list = body.get("services").and_then(Value::as_array).cloned();
            list.filter(|_| code.is_success()).ok_or_else(|| wrong(format!("{address}: HTTP {code}: {told}")))?
        }
    };
    if asking.json {
        say!("{}", Value::from(rows));
        return Ok(ExitCode::SUCCESS);
    }
    let text = |row: &Value, field: &str| row.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let width = rows.iter().map(|row| text(row, "name").len()).max().unwrap_or(0).max(4);
    for row in &rows {
        let mark = if row.get("critical").and_then(Value::as_bool).unwrap_or(false) { "critical" } else { "" };
        let status = text(row, "status");
        say!(
            "{:<width$}  {:<9}  {:<8}  {:<12}  {}",
            text(row, "name"),
            status,
            mark,
            text(row, "category"),
            text(row, "url")
        );
    }
    Ok(ExitCode::SUCCESS)
}
