//! `outages`: those of a running service, one with its timeline, and closing one by hand.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Asking, Client, Failure, Request, segment};
use super::table::{Table, is_true, print_facts, printable, text};
use super::times::{When, past};
use crate::clock::Clock;
use crate::config::Sources;
use crate::domain::outage::OutageSeverity;
use crate::domain::time::{Stamp, spoken};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Outages {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List outages, newest first (the default)
    List(List),
    /// Show one outage and what happened in it
    Show(Show),
    /// Close an outage now; while the service still fails, a new one opens after as many failures as ever
    Resolve(Resolve),
}

#[derive(Debug, Args)]
struct List {
    /// Only those that are open
    #[arg(long)]
    active: bool,
    /// Only those of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those of this severity: critical, major, minor or warning
    #[arg(long, value_parser = severity)]
    severity: Option<OutageSeverity>,
    /// Only those that began since then: 24h (ago) or 2026-01-31T10:30:00Z
    #[arg(long, value_parser = past, value_name = "TIME")]
    since: Option<When>,
    /// At most so many, 100 if not said
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Show {
    /// Id of the outage
    #[arg(value_parser = segment)]
    id: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Resolve {
    /// Id of the outage
    #[arg(value_parser = segment)]
    id: String,
    /// What was done about it
    #[arg(long)]
    notes: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

fn severity(word: &str) -> Result<OutageSeverity, String> {
    let found = OutageSeverity::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(word));
    found.ok_or_else(|| "is not one of critical, major, minor, warning".to_owned())
}

pub async fn outages(sources: &Sources, arguments: Outages) -> Result<ExitCode, Failure> {
    match arguments.command {
        None => list(sources, &arguments.list).await,
        Some(Command::List(arguments)) => list(sources, &arguments).await,
        Some(Command::Show(arguments)) => show(sources, &arguments).await,
        Some(Command::Resolve(arguments)) => resolve(sources, &arguments).await,
    }
}

async fn list(sources: &Sources, arguments: &List) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let request = Request::get(&["outages"])
        .query("include_resolved", arguments.active.then_some(false))
        .query("endpoint_id", arguments.service.as_deref())
        .query("severity", arguments.severity.map(OutageSeverity::as_str))
        .query("start_time", arguments.since.map(|since| Stamp(since.after(Clock::System.now()))))
        .query("limit", arguments.limit);
    client.ask(request).await?.list(arguments.asking.json, print, "; --limit shows more, --service and --since fewer");
    Ok(ExitCode::SUCCESS)
}

fn print(outages: &[Value]) {
    let mut table = Table::new(["ID", "SERVICE", "SEVERITY", "STARTED", "ENDED", "LASTED", "DESCRIPTION"]);
    for outage in outages {
        table.row([
            text(outage, "id"),
            text(outage, "endpoint_id"),
            text(outage, "severity"),
            text(outage, "start_time"),
            ended(outage),
            lasted(outage),
            text(outage, "description"),
        ]);
    }
    table.print("no outages");
}

fn ended(outage: &Value) -> String {
    let at = text(outage, "resolved_at");
    if at.is_empty() && !is_true(outage, "resolved") { "open".to_owned() } else { at }
}

fn lasted(outage: &Value) -> String {
    let seconds = outage.get("duration_seconds").and_then(Value::as_u64);
    seconds.map(|seconds| spoken(Duration::from_secs(seconds))).unwrap_or_default()
}

async fn show(sources: &Sources, arguments: &Show) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let answer = client.ask(Request::get(&["outages", &arguments.id])).await?;
    if arguments.asking.json {
        answer.print();
        return Ok(ExitCode::SUCCESS);
    }
    let outage = &answer.json;
    say!("outage {}", printable(&text(outage, "id")));
    print_facts(&[
        ("service", text(outage, "endpoint_id")),
        ("severity", text(outage, "severity")),
        ("description", text(outage, "description")),
        ("root cause", text(outage, "root_cause")),
        ("suppressed by", text(outage, "suppressed_by")),
        ("started", text(outage, "start_time")),
        ("ended", ended(outage)),
        ("lasted", lasted(outage)),
        ("resolved by", text(outage, "resolved_by")),
        ("notes", text(outage, "resolution_notes")),
    ]);
    say!("");
    let mut table = Table::new(["TIME", "EVENT"]);
    for (at, event) in timeline(outage) {
        table.row([at, event]);
    }
    table.print("nothing is known of its course");
    Ok(ExitCode::SUCCESS)
}

/// What happened when, oldest first.
fn timeline(outage: &Value) -> Vec<(String, String)> {
    let entries = outage.get("timeline").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    entries.iter().map(|entry| (text(entry, "timestamp"), event(entry))).collect()
}

/// One entry in words. A kind of event that is not known here keeps its own.
fn event(entry: &Value) -> String {
    let kind = text(entry, "event");
    let told = |what: &str| {
        let attempts = entry.get("attempts").and_then(Value::as_u64).filter(|attempts| *attempts > 1);
        let attempts = attempts.map(|attempts| format!(", at attempt {attempts}")).unwrap_or_default();
        format!("{what} {} ({}{attempts})", text(entry, "channel"), text(entry, "kind"))
    };
    let (what, why) = match kind.as_str() {
        "first_failure" => ("first failed check".to_owned(), text(entry, "reason")),
        "confirmed" => ("confirmed".to_owned(), text(entry, "message")),
        "notified" => (told("told by"), String::new()),
        "recovery_notified" => (told("recovery told by"), String::new()),
        "resolved" => match text(entry, "by") {
            by if by.is_empty() => ("resolved".to_owned(), text(entry, "message")),
            by => (format!("resolved by {by}"), text(entry, "message")),
        },
        _ => (kind, text(entry, "message")),
    };
    if why.is_empty() { what } else { format!("{what}: {why}") }
}

async fn resolve(sources: &Sources, arguments: &Resolve) -> Result<ExitCode, Failure> {
    let client = Client::open(sources, arguments.asking.url.as_deref())?;
    let path = ["outages", &arguments.id, "resolve"];
    let mut request = Request::new(Method::POST, &path);
    if let Some(notes) = &arguments.notes {
        request = request.body(json!({"resolution_notes": notes}));
    }
    let answer = client.ask(request).await?;
    if arguments.asking.json {
        answer.print();
    } else {
        print(std::slice::from_ref(&answer.json));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let check = |entry: Value, expected: &str| assert_eq!(event(&entry), expected);
        check(json!({"event": "first_failure", "reason": "connect_refused"}), "first failed check: connect_refused");
        check(json!({"event": "confirmed", "message": "refused"}), "confirmed: refused");
        let told = json!({"event": "notified", "channel": "webhook", "kind": "alert_raised", "attempts": 1});
        check(told, "told by webhook (alert_raised)");
        let told = json!({"event": "recovery_notified", "channel": "email", "kind": "alert_resolved", "attempts": 3});
        check(told, "recovery told by email (alert_resolved, at attempt 3)");
        check(json!({"event": "resolved", "by": null, "message": "Service recovered"}), "resolved: Service recovered");
        check(json!({"event": "resolved", "by": "ann", "message": null}), "resolved by ann");
        check(json!({"event": "escalated", "message": "level 2"}), "escalated: level 2");
    }
}
