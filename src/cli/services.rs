//! `services` and `check`: what is watched, by the file or by a running service; adding, removing, checking one.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Asking, Client, Failure, PATIENCE_WITH_CHECK, Request, segment};
use super::table::{Table, is_true, one_line, print_facts, text};
use super::times::span;
use crate::config::{Settings, Sources, load_services};
use crate::domain::probe::Protocol;
use crate::domain::service::Service;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Services {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the services of the file, or with --url those of a running service with their status (the default)
    List(List),
    /// Register a service with a running service
    Add(Box<Add>),
    /// Remove a service that was registered; its history and outages go too
    Remove(Remove),
}

#[derive(Debug, Args)]
struct List {
    /// Address of a running service, instead of the services file; the key is the first of INTERNAL_SERVICE_KEY
    #[arg(long)]
    url: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Only services of this category
    #[arg(long)]
    category: Option<String>,
    /// Only services of this protocol
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
}

#[derive(Debug, Args)]
struct Add {
    /// Name of the service
    #[arg(value_parser = segment)]
    id: String,
    /// What is probed, exactly: https://host/health, tcp://host:port, redis://host, ...
    address: String,
    /// Protocol, where the address does not say it
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Time between checks, such as 30s
    #[arg(long, value_parser = span)]
    interval: Option<Duration>,
    /// Time a check may take, such as 5s
    #[arg(long, value_parser = span)]
    timeout: Option<Duration>,
    /// The service is critical
    #[arg(long)]
    critical: bool,
    /// Category
    #[arg(long)]
    category: Option<String>,
    /// Names of the services that it needs
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    depends_on: Vec<String>,
    /// A tag; may be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Any other field of a service and its value in JSON, such as retries=0 or 'method="HEAD"'; may be given again
    #[arg(long = "field", value_name = "NAME=JSON", value_parser = field)]
    fields: Vec<(String, Value)>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Remove {
    /// Name of the service
    #[arg(value_parser = segment)]
    id: String,
    /// Only if the service still has this tag (the ETag of its record)
    #[arg(long, value_name = "TAG")]
    if_match: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Name of the service
    #[arg(value_parser = segment)]
    service: String,
    #[command(flatten)]
    asking: Asking,
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let known = || Protocol::ALL.map(Protocol::label).join(", ");
    Protocol::named(word).ok_or_else(|| format!("is not one of {}", known()))
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("must be name=json")?;
    let value = serde_json::from_str(value)
        .map_err(|_| format!("the value of {name} is not JSON; a text is written '{name}=\"text\"'"))?;
    Ok((name.trim().to_owned(), value))
}

pub async fn services(sources: &Sources, arguments: Services) -> Result<ExitCode, Failure> {
    match arguments.command {
        None => list(sources, &arguments.list).await,
        Some(Command::List(arguments)) => list(sources, &arguments).await,
        Some(Command::Add(arguments)) => add(sources, *arguments).await,
        Some(Command::Remove(arguments)) => remove(sources, &arguments).await,
    }
}

async fn list(sources: &Sources, arguments: &List) -> Result<ExitCode, Failure> {
    let mut rows = match &arguments.url {
        None => {
            let settings = Settings::load(sources)?;
            let listed = load_services(&settings.services, &settings.defaults)?;
            listed.services.iter().map(|service| row(service)).collect()
        }
        Some(url) => {
            let client = Client::open(sources, Some(url))?;
            let request = Request::get(&["health", "services"]).query("view", Some("list"));
            let mut answer = client.ask(request).await?;
            let list = answer.json.get_mut("services").map(Value::take);
            let Some(Value::Array(rows)) = list else {
                return Err(Failure::Service(vec!["no list of services came back; is it this service?".to_owned()]));
            };
            rows
        }
    };
    rows.retain(|row| {
        arguments.category.as_ref().is_none_or(|category| category.eq_ignore_ascii_case(&text(row, "category")))
            && arguments.protocol.is_none_or(|protocol| protocol_of(row) == Some(protocol))
    });
    if arguments.json {
        say!("{}", one_line(&Value::from(rows).to_string()));
        return Ok(ExitCode::SUCCESS);
    }
    let mark = |row: &Value, member: &str| if is_true(row, member) { "yes".to_owned() } else { String::new() };
    let mut table = Table::new(["NAME", "STATUS", "CRITICAL", "MAINTENANCE", "CATEGORY", "URL"]);
    for row in &rows {
        table.row([
            text(row, "name"),
            text(row, "status"),
            mark(row, "critical"),
            mark(row, "inMaintenance"),
            text(row, "category"),
            text(row, "url"),
        ]);
    }
    table.print("no services");
    Ok(ExitCode::SUCCESS)
}

/// A service of the file, as `--json` shows it.
fn row(service: &Service) -> Value {
    json!({
        "name": service.name, "url": service.url, "category": service.category, "critical": service.critical,
        "check_interval_ms": service.interval.as_millis() as u64, "timeout_ms": service.timeout.as_millis() as u64,
        "depends_on": service.needs().collect::<Vec<_>>(), "protocol": service.protocol,
    })
}

/// The protocol of a row: lists of 000 do not name it, but the address that is shown begins with it; files have none.
fn protocol_of(row: &Value) -> Option<Protocol> {
    let named = text(row, "protocol");
    let address = text(row, "url");
    match address.split_once("://").map(|(scheme, _)| scheme) {
        _ if !named.is_empty() => Protocol::named(&named),
        Some("rediss") => Some(Protocol::Redis),
        Some("grpcs") => Some(Protocol::Grpc),
        Some(scheme) => Protocol::named(scheme),
        None => address.is_empty().then_some(Protocol::Filesystem),
    }
}

fn milliseconds(span: Duration) -> Value {
    json!(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// The registration that the arguments ask for.
fn registration(arguments: Add) -> Result<Value, Failure> {
    let some = |list: Vec<String>| (!list.is_empty()).then(|| json!(list));
    let options = [
        ("id", Some(json!(arguments.id))),
        ("url", Some(json!(arguments.address))),
        ("protocol", arguments.protocol.map(|protocol| json!(protocol.label()))),
        ("check_interval_ms", arguments.interval.map(milliseconds)),
        ("timeout_ms", arguments.timeout.map(milliseconds)),
        ("critical", arguments.critical.then(|| json!(true))),
        ("category", arguments.category.map(Value::from)),
        ("depends_on", some(arguments.depends_on)),
        ("tags", some(arguments.tags)),
    ];
    let mut body = Map::new();
    body.extend(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    for (name, value) in arguments.fields {
        if body.insert(name.clone(), value).is_some() {
            return Err(Failure::wrong(format!("{name:?} is given twice")));
        }
    }
    Ok(Value::Object(body))
}

async fn add(sources: &Sources, arguments: Add) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let as_json = arguments.asking.json;
    let body = registration(arguments)?;
    let answer = client.ask(Request::new(Method::POST, &["services"]).body(body)).await?;
    if as_json {
        answer.print();
        return Ok(ExitCode::SUCCESS);
    }
    let record = &answer.json;
    let status = record.get("current_status").map(|latest| text(latest, "status")).unwrap_or_default();
    let status = if status.is_empty() { "not checked yet".to_owned() } else { status };
    let mut table = Table::new(["NAME", "STATUS", "URL"]);
    table.row([text(record, "id"), status, text(record, "url")]);
    table.print("");
    Ok(ExitCode::SUCCESS)
}

async fn remove(sources: &Sources, arguments: &Remove) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    // A tag is quoted on the wire; in a shell that is easily lost.
    let tag = arguments
        .if_match
        .as_deref()
        .map(|tag| if tag == "*" || tag.ends_with('"') { tag.to_owned() } else { format!("\"{tag}\"") });
    let path = ["services", &arguments.id];
    let answer = client.ask(Request::new(Method::DELETE, &path).if_match(tag.as_deref())).await?;
    if arguments.asking.json {
        answer.print();
    } else {
        say!("removed {}", arguments.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks one service now. What came about decides the exit code, not whether it could be asked for.
pub async fn check(sources: &Sources, arguments: &Check) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let path = ["services", &arguments.service, "check"];
    let answer = client.ask(Request::new(Method::POST, &path).patience(PATIENCE_WITH_CHECK)).await?;
    let result = &answer.json;
    let status = text(result, "status");
    if arguments.asking.json {
        answer.print();
    } else {
        let with_unit = |text: String, unit: &str| if text.is_empty() { text } else { format!("{text} {unit}") };
        let name = text(result, "endpoint_id");
        let name = if name.is_empty() { arguments.service.clone() } else { name };
        let phase =
            |name: &str| result.get("phases").map(|phases| with_unit(text(phases, name), "ms")).unwrap_or_default();
        let mut table = Table::new(["NAME", "STATUS", "REASON"]);
        table.row([name, status.clone(), text(result, "reason")]);
        table.print("");
        let observed = text(result, "observed_status");
        print_facts(&[
            // Said already, except where a maintenance window hides it.
            ("observed", if status == "UNKNOWN" { observed } else { String::new() }),
            ("error", text(result, "error")),
            ("response time", with_unit(text(result, "response_time"), "ms")),
            ("took", with_unit(text(result, "execution_time"), "s")),
            ("resolve", phase("resolve")),
            ("connect", phase("connect")),
            ("tls", phase("tls")),
            ("response", phase("response")),
        ]);
    }
    Ok(ExitCode::from(u8::from(!matches!(status.as_str(), "UP" | "DEGRADED"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_and_json() {
        assert_eq!(field("retries=0"), Ok(("retries".to_owned(), json!(0))));
        assert_eq!(field("tcp={\"send\":\"a=b\"}"), Ok(("tcp".to_owned(), json!({"send": "a=b"}))));
        assert!(field("retries").is_err());
        assert!(field("description=plain").is_err_and(|error| error.contains("description=\"text\"")));
    }

    #[test]
    fn the_address_tells_the_protocol() {
        let check = |url: &str, expected| assert_eq!(protocol_of(&json!({"url": url})), expected, "{url}");
        check("https://h/", Some(Protocol::Https));
        check("rediss://h:6379", Some(Protocol::Redis));
        check("grpcs://h:1", Some(Protocol::Grpc));
        check("", Some(Protocol::Filesystem));
        check("odd://h", None);
        assert_eq!(protocol_of(&json!({"url": "http://h", "protocol": "TCP"})), Some(Protocol::Tcp));
    }
}
