//! `maintenance`: the windows of a running service; announcing one, ending one, removing one.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Asking, Client, Failure, Request, segment};
use super::table::{Table, is_true, text, texts};
use super::times::{When, moment};
use crate::clock::Clock;
use crate::config::Sources;
use crate::domain::time::Stamp;

/// Most windows that are listed at once: CONTRACT.md section 1.
const MOST: u32 = 1000;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Maintenance {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the windows that are in force or to come (the default)
    List(List),
    /// Announce a window: checks go on, alerts stay quiet
    Add(Box<Add>),
    /// End a window now
    End(Named),
    /// Remove a window
    Remove(Named),
}

#[derive(Debug, Args)]
struct List {
    /// Also those that are over
    #[arg(long)]
    past: bool,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
#[command(after_help = "Without --service, --tag and --category the window covers every service.")]
struct Add {
    /// When it begins: now, +2h (from now) or 2026-01-31T10:30:00Z; UTC if no offset is given
    #[arg(long, value_parser = moment, value_name = "TIME")]
    start: When,
    /// When it ends: +2h (from its start) or 2026-01-31T12:30:00Z
    #[arg(long, value_parser = moment, value_name = "TIME")]
    end: When,
    /// Names of the services it covers
    #[arg(long = "service", value_delimiter = ',', value_name = "NAMES")]
    services: Vec<String>,
    /// Covers the services with this tag; may be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Covers the services of this category; may be given again
    #[arg(long = "category", value_name = "CATEGORY")]
    categories: Vec<String>,
    /// What is done
    #[arg(long)]
    description: Option<String>,
    /// A short name
    #[arg(long)]
    name: Option<String>,
    /// In force only from each time this says, between start and end: seconds, minutes, hours, day, month, weekday
    #[arg(long, requires = "duration_minutes")]
    cron: Option<String>,
    /// For how long each time
    #[arg(long, requires = "cron", value_name = "MINUTES")]
    duration_minutes: Option<u32>,
    /// Time zone of --cron, such as Europe/Berlin; UTC if not said
    #[arg(long, requires = "cron", value_name = "ZONE")]
    timezone: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Named {
    /// Id of the window
    #[arg(value_parser = segment)]
    id: String,
    #[command(flatten)]
    asking: Asking,
}

pub async fn maintenance(sources: &Sources, arguments: Maintenance) -> Result<ExitCode, Failure> {
    match arguments.command {
        None => list(sources, &arguments.list).await,
        Some(Command::List(arguments)) => list(sources, &arguments).await,
        Some(Command::Add(arguments)) => add(sources, *arguments).await,
        Some(Command::End(arguments)) => end(sources, &arguments).await,
        Some(Command::Remove(arguments)) => remove(sources, &arguments).await,
    }
}

async fn list(sources: &Sources, arguments: &List) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let request =
        Request::get(&["maintenance"]).query("include_past", arguments.past.then_some(true)).query("limit", Some(MOST));
    client.ask(request).await?.list(arguments.asking.json, print, "");
    Ok(ExitCode::SUCCESS)
}

fn print(windows: &[Value]) {
    let mut table = Table::new(["ID", "IN FORCE", "START", "END", "RECURS", "COVERS", "NAME", "DESCRIPTION"]);
    for window in windows {
        table.row([
            text(window, "id"),
            if is_true(window, "is_active") { "yes" } else { "no" }.to_owned(),
            text(window, "start_time"),
            text(window, "end_time"),
            recurs(window),
            covers(window),
            text(window, "name"),
            text(window, "description"),
        ]);
    }
    table.print("no maintenance windows");
}

/// When a recurring window is in force; empty for one that is in force throughout.
fn recurs(window: &Value) -> String {
    let Some(recurrence) = window.get("recurrence").filter(|recurrence| recurrence.is_object()) else {
        return String::new();
    };
    let (cron, zone, minutes) =
        (text(recurrence, "cron"), text(recurrence, "timezone"), text(recurrence, "duration_minutes"));
    let next = text(window, "next_start");
    let next = if next.is_empty() { next } else { format!(", next {next}") };
    format!("{cron} ({zone}), {minutes} min{next}")
}

/// Whom a window covers: all, when it names nobody.
fn covers(window: &Value) -> String {
    let labelled = |label: &str, member: &str| {
        texts(window, member).into_iter().map(|word| format!("{label} {word}")).collect::<Vec<_>>()
    };
    let covered = [texts(window, "endpoint_ids"), labelled("tag", "tags"), labelled("category", "categories")].concat();
    if covered.is_empty() { "all services".to_owned() } else { covered.join(", ") }
}

/// The window that the arguments ask for.
fn window(arguments: Add) -> Value {
    let start = arguments.start.after(Clock::System.now());
    let some = |list: Vec<String>| (!list.is_empty()).then(|| json!(list));
    let recurrence = arguments.cron.zip(arguments.duration_minutes).map(|(cron, minutes)| {
        let timezone = arguments.timezone.as_deref().unwrap_or("UTC");
        json!({"cron": cron, "duration_minutes": minutes, "timezone": timezone})
    });
    // `now` as an end is now, not the start: the service refuses what ends before it begins.
    let end = match arguments.end {
        When::Offset(offset) if offset.is_zero() => Clock::System.now(),
        end => end.after(start),
    };
    let fields = [
        ("start_time", Some(json!(Stamp(start)))),
        ("end_time", Some(json!(Stamp(end)))),
        ("endpoint_ids", some(arguments.services)),
        ("tags", some(arguments.tags)),
        ("categories", some(arguments.categories)),
        ("name", arguments.name.map(Value::from)),
        ("description", arguments.description.map(Value::from)),
        ("recurrence", recurrence),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect::<Map<_, _>>())
}

async fn add(sources: &Sources, arguments: Add) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let as_json = arguments.asking.json;
    let request = Request::new(Method::POST, &["maintenance"]).body(window(arguments));
    shown(&client, request, as_json).await
}

async fn end(sources: &Sources, arguments: &Named) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let path = ["maintenance", &arguments.id];
    let request = Request::new(Method::PUT, &path).body(json!({"end_time": Stamp(Clock::System.now())}));
    shown(&client, request, arguments.asking.json).await
}

/// Sends a change and shows the window as it is now.
async fn shown(client: &Client, request: Request<'_>, as_json: bool) -> Result<ExitCode, Failure> {
    let answer = client.ask(request).await?;
    if as_json {
        answer.print();
    } else {
        print(std::slice::from_ref(&answer.json));
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(sources: &Sources, arguments: &Named) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let path = ["maintenance", &arguments.id];
    let answer = client.ask(Request::new(Method::DELETE, &path)).await?;
    if arguments.asking.json {
        answer.print();
    } else {
        say!("removed {}", arguments.id);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_says_whom_it_covers() {
        let check = |window: Value, expected: &str| assert_eq!(covers(&window), expected);
        check(json!({"endpoint_ids": []}), "all services");
        check(
            json!({"endpoint_ids": ["a", "b"], "tags": ["eu"], "categories": ["core"]}),
            "a, b, tag eu, category core",
        );
    }
}
