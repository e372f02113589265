//! Section `[notify]`: the receivers of the simple set-up, one a channel, those of `[[notify.receiver]]` tables, and the
//! `[[notify.route]]`s to them. A problem is told with its file, table and field, and never with a value that may be secret.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::Tz;
use config::{Map, Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::read_file;
use super::reader::{Reader, Unit};
use super::services_file::expand;
use crate::domain::alert::{AlertType, Severity};
use crate::domain::observation::clean;
use crate::domain::routing::{QuietHours, Route, Routing};
use crate::notify::email::{EmailConfig, SmtpTls};
use crate::notify::webhook::WebhookConfig;
use crate::notify::words::Template;
use crate::notify::{ChannelConfig, ChannelKind, LOG, NotifyConfig, ReceiverConfig, Sender, Wanted, pagerduty};

type Variables = BTreeMap<String, String>;

/// Longest time limit of one delivery: HARDENING.md, notify.2.
const LONGEST_DELIVERY: Duration = Duration::from_secs(10);
/// Time limit of a delivery over HTTP, if not set: our choice, that of the webhook.
const HTTP_DELIVERY: Duration = Duration::from_secs(5);
/// The lists and the event stream: always on, and no receiver.
const DASHBOARD: &str = "dashboard";
/// CONTRACT.md 4.5.
const SMTP_PORT: u16 = 587;
const SLACK_CHANNEL: &str = "#alerts";
/// Longest name of a receiver: our choice.
const NAME_CHARS: usize = 64;

const TLS: [(&str, SmtpTls); 3] = [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls), ("none", SmtpTls::None)];

/// A `[[notify.receiver]]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ReceiverTable {
    name: String,
    channel: String,
    url: Option<SecretString>,
    headers: BTreeMap<String, String>,
    secrets: Vec<SecretString>,
    slack_channel: Option<String>,
    routing_key: Option<SecretString>,
    to: Vec<String>,
    #[serde(flatten)]
    smtp: SmtpTable,
    subject: Option<String>,
    template: Option<String>,
    timeout_ms: Option<u64>,
    quiet_hours: Option<QuietTable>,
}

/// A mail server as written.
#[derive(Deserialize, Default)]
#[serde(default)]
struct SmtpTable {
    smtp_host: Option<String>,
    smtp_port: Option<u16>,
    smtp_user: Option<String>,
    smtp_password: Option<SecretString>,
    smtp_from: Option<String>,
    smtp_tls: Option<String>,
    smtp_ca_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuietTable {
    from: String,
    to: String,
    timezone: Option<String>,
    unless: Option<String>,
}

/// A `[[notify.route]]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteTable {
    receivers: Vec<String>,
    severities: Vec<String>,
    types: Vec<String>,
    categories: Vec<String>,
    tags: Vec<String>,
    services: Vec<String>,
}

/// A field, and what is wrong with it as a sentence without a subject.
type Problem = (&'static str, String);

pub(super) fn read(r: &mut Reader, variables: &Variables, sender: Sender) -> NotifyConfig {
    let smtp = simple_smtp(r);
    let mut receivers = simple(r, variables, &smtp);
    for (place, table) in r.tables("notify", "receiver") {
        let Some(table) = parse::<ReceiverTable>(r, &place, table, variables) else { continue };
        let shown = if table.name.is_empty() { place } else { format!("{place} ({})", clean(&table.name)) };
        match receiver(table, &smtp) {
            Ok(found) if receivers.iter().any(|other| other.name.eq_ignore_ascii_case(&found.name)) => {
                r.problems.push(super::Problem::general(format!(
                    "{shown}: name is taken by another receiver; choose another"
                )));
            }
            Ok(found) => receivers.push(found),
            Err((field, problem)) => r.problems.push(super::Problem::general(format!("{shown}: {field} {problem}"))),
        }
    }
    let mut config = NotifyConfig {
        wanted: wanted(r),
        sender,
        receivers,
        routing: Routing::default(),
        min_severity: r.choice(
            "notify",
            "notify_min_severity",
            &Severity::ALL.map(|severity| (severity.as_str(), severity)),
        ),
        rate_per_minute: r.number("notify", "notification_rate_per_minute", 1..=10_000) as u32,
        group_wait: r.duration("notify", "notification_group_wait_ms", Unit::Milliseconds, 0),
        retry_min: r.duration("notify", "notification_retry_min_ms", Unit::Milliseconds, 10),
        retry_max: r.duration("notify", "notification_retry_max_ms", Unit::Milliseconds, 10),
        merge_after: r.duration("notify", "notification_merge_after_ms", Unit::Milliseconds, 0),
    };
    if config.retry_min > config.retry_max {
        r.refuse("notify", "notification_retry_min_ms", "must not be above notification_retry_max_ms");
    }
    match config.in_force() {
        Ok(on) => config.routing.receivers = on,
        Err(kind) => {
            let rule = format!("must be set when the channel {} is asked for", kind.as_str());
            r.refuse("notify", address_key(kind), &rule);
        }
    }
    config.routing.routes = routes(r, variables, &config.receivers);
    config
}

/// The key that gives a channel of the simple set-up its address.
fn address_key(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Webhook => "alert_webhook_url",
        ChannelKind::Email => "smtp_host",
        ChannelKind::Slack => "slack_webhook_url",
        ChannelKind::Discord => "discord_webhook_url",
        ChannelKind::Teams => "teams_webhook_url",
        ChannelKind::PagerDuty => "pagerduty_routing_key",
        ChannelKind::Alertmanager => "alertmanager_url",
    }
}

fn wanted(r: &mut Reader) -> Wanted {
    let mut channels = Vec::new();
    for word in r.list("notify", "alert_notification_channels") {
        match ChannelKind::parse(&word) {
            Some(kind) => channels.push(kind),
            None if [LOG, DASHBOARD].iter().any(|always| always.eq_ignore_ascii_case(&word)) => {}
            None => {
                let known = ChannelKind::ALL.map(ChannelKind::as_str).join(", ");
                let rule = format!("names {word:?}, which is no channel; there are log, dashboard, {known}");
                r.refuse("notify", "alert_notification_channels", &rule);
            }
        }
    }
    let mut switch = |key| (!r.text("notify", key).is_empty()).then(|| r.boolean("notify", key));
    let (email, slack) = (switch("enable_email_alerts"), switch("enable_slack_alerts"));
    Wanted { channels: r.is_explicit("notify", "alert_notification_channels").then_some(channels), email, slack }
}

/// The mail server of the simple set-up; the tables share it.
fn simple_smtp(r: &mut Reader) -> SmtpTable {
    let text = |r: &Reader, key| Some(r.text("notify", key)).filter(|text| !text.is_empty());
    SmtpTable {
        smtp_host: text(r, "smtp_host"),
        smtp_port: Some(r.number("notify", "smtp_port", 1..=65_535) as u16),
        smtp_user: text(r, "smtp_user"),
        smtp_password: text(r, "smtp_password").map(SecretString::from),
        smtp_from: text(r, "smtp_from"),
        smtp_tls: text(r, "smtp_tls"),
        smtp_ca_file: text(r, "smtp_ca_file"),
    }
}

/// One receiver for each channel that has an address, named as its channel.
fn simple(r: &mut Reader, variables: &Variables, smtp: &SmtpTable) -> Vec<ReceiverConfig> {
    // Read whether or not mail is on: what is wrong is told when it is written.
    let recipients = r.list("notify", "alert_email");
    if recipients.is_empty() || recipients.iter().any(|address| address.parse::<lettre::message::Mailbox>().is_err()) {
        r.refuse("notify", "alert_email", "must be mail addresses, such as noc@example.com");
    }
    let headers = simple_headers(r, variables);
    let secrets: Vec<SecretString> =
        r.list("notify", "alert_webhook_secrets").into_iter().map(SecretString::from).collect();
    if let Err(rule) = check_secrets(&secrets) {
        r.refuse("notify", "alert_webhook_secrets", rule);
    }
    let timeout = r.duration("notify", "alert_webhook_timeout_ms", Unit::Milliseconds, 100);
    if timeout > LONGEST_DELIVERY {
        r.refuse("notify", "alert_webhook_timeout_ms", "must be at most 10000");
    }
    let mut receivers = Vec::new();
    for kind in ChannelKind::ALL {
        let address = r.text("notify", address_key(kind));
        if address.is_empty() {
            continue;
        }
        let url = SecretString::from(address);
        let channel = match kind {
            ChannelKind::Webhook => {
                Ok(ChannelConfig::Webhook(WebhookConfig { url, headers: headers.clone(), secrets: secrets.clone() }))
            }
            ChannelKind::Email => email(smtp, recipients.clone()).map(ChannelConfig::Email),
            ChannelKind::Slack => Ok(ChannelConfig::Slack { url, channel: r.text("notify", "slack_channel") }),
            ChannelKind::Discord => Ok(ChannelConfig::Discord { url }),
            ChannelKind::Teams => Ok(ChannelConfig::Teams { url }),
            ChannelKind::PagerDuty => Ok(ChannelConfig::PagerDuty { url: pagerduty::EVENTS.into(), routing_key: url }),
            ChannelKind::Alertmanager => Ok(ChannelConfig::Alertmanager { url }),
        };
        let checked = channel.and_then(|channel| match channel.check() {
            Ok(()) => Ok(channel),
            Err(unusable) => Err((unusable.field, unusable.problem)),
        });
        match checked {
            Ok(channel) => receivers.push(ReceiverConfig {
                name: kind.as_str().to_owned(),
                timeout: if kind == ChannelKind::Webhook { timeout } else { usual_timeout(kind) },
                channel,
                template: None,
                quiet: None,
            }),
            Err((field, problem)) => {
                let key = match field {
                    "to" => "alert_email",
                    "url" => address_key(kind),
                    field => field,
                };
                r.refuse("notify", key, &problem);
            }
        }
    }
    receivers
}

fn usual_timeout(kind: ChannelKind) -> Duration {
    if kind == ChannelKind::Email { LONGEST_DELIVERY } else { HTTP_DELIVERY }
}

/// `Name: value; Name: value`, values from the environment.
fn simple_headers(r: &mut Reader, variables: &Variables) -> Vec<(String, SecretString)> {
    let mut headers = Vec::new();
    for header in r.text("notify", "alert_webhook_headers").split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let Some((name, value)) = header.split_once(':') else {
            r.refuse("notify", "alert_webhook_headers", "must be \"Name: value\" parts separated by ';'");
            continue;
        };
        let value = expand(value.trim(), variables);
        match value.and_then(|value| usable_header(name.trim(), value)) {
            Ok(header) => headers.push(header),
            Err(problem) => r.refuse("notify", "alert_webhook_headers", &problem),
        }
    }
    headers
}

/// Headers that are the protocol's, or ours: CONTRACT.md 5.1 and section 13.
const OURS: [&str; 12] = [
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "host",
    "idempotency-key",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

fn usable_header(name: &str, value: String) -> Result<(String, SecretString), String> {
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(format!("{lower:?} cannot be set: it is the protocol's or ours"));
    }
    let usable =
        name.parse::<reqwest::header::HeaderName>().is_ok() && value.parse::<reqwest::header::HeaderValue>().is_ok();
    if usable { Ok((name.to_owned(), value.into())) } else { Err(format!("{:?} is not a usable header", clean(name))) }
}

/// Signing secrets: none, one, or two while they rotate.
fn check_secrets(secrets: &[SecretString]) -> Result<(), &'static str> {
    if secrets.len() > 2 {
        return Err("must be one secret, or two while they rotate");
    }
    match secrets.iter().any(|secret| secret.expose_secret().trim().is_empty()) {
        true => Err("must not be empty: anyone could sign with an empty secret"),
        false => Ok(()),
    }
}

/// A table with the environment in its texts, as the type it is for.
fn parse<T: DeserializeOwned>(
    r: &mut Reader,
    place: &str,
    mut table: Map<String, Value>,
    variables: &Variables,
) -> Option<T> {
    for (field, value) in &mut table {
        // Templates have a syntax of their own.
        if !matches!(field.as_str(), "template" | "subject")
            && let Err(problem) = expand_all(value, variables)
        {
            r.problems.push(super::Problem::general(format!("{place}: {} {problem}", clean(field))));
            return None;
        }
    }
    let parsed = serde_path_to_error::deserialize(Value::new(None, ValueKind::Table(table)));
    parsed
        .map_err(|error| {
            let (field, inner) = (error.path().to_string(), error.inner().to_string());
            // Of the rest only the place: what does not fit may be a secret.
            let told = match inner.split_once("unknown field") {
                Some((_, rest)) => format!("unknown field{rest}; see [notify] in config/default.toml"),
                None if inner.contains("missing") => format!("{field} lacks a field: {inner}"),
                None => format!("{field} is of the wrong type; see [notify] in config/default.toml"),
            };
            r.problems.push(super::Problem::general(format!("{place}: {}", told.replace('\n', " "))));
        })
        .ok()
}

fn expand_all(value: &mut Value, variables: &Variables) -> Result<(), String> {
    match &mut value.kind {
        ValueKind::String(text) => *text = expand(text, variables)?,
        ValueKind::Array(items) => items.iter_mut().try_for_each(|item| expand_all(item, variables))?,
        ValueKind::Table(fields) => fields.values_mut().try_for_each(|field| expand_all(field, variables))?,
        _ => {}
    }
    Ok(())
}

fn receiver(table: ReceiverTable, shared: &SmtpTable) -> Result<ReceiverConfig, Problem> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if table.name.is_empty() || table.name.len() > NAME_CHARS || !table.name.chars().all(well_formed) {
        return Err(("name", format!("must be 1 to {NAME_CHARS} letters, digits, '-' or '_'")));
    }
    let lower = table.name.to_ascii_lowercase();
    if [LOG, DASHBOARD].contains(&lower.as_str()) || ChannelKind::parse(&lower).is_some() {
        return Err(("name", format!("is reserved; choose another, such as {lower}-team")));
    }
    let known = || ChannelKind::ALL.map(ChannelKind::as_str).join(", ");
    let kind = ChannelKind::parse(&table.channel).ok_or_else(|| ("channel", format!("must be one of {}", known())))?;
    if let Some(field) = table.strangers(kind).next() {
        return Err((field, format!("is of no use to the channel {}; leave it out", kind.as_str())));
    }
    let template = |field, text: Option<&String>| {
        text.map(|text| Template::new(text, kind)).transpose().map_err(|problem| (field, problem))
    };
    let words = template("template", table.template.as_ref())?;
    let subject = template("subject", table.subject.as_ref())?;
    let timeout = table.timeout_ms.map_or(usual_timeout(kind), Duration::from_millis);
    if !(Duration::from_millis(100)..=LONGEST_DELIVERY).contains(&timeout) {
        return Err(("timeout_ms", "must be from 100 to 10000".to_owned()));
    }
    let quiet = table.quiet_hours.as_ref().map(quiet_hours).transpose().map_err(|problem| ("quiet_hours", problem))?;
    let needed = |field, given: Option<SecretString>| {
        given.filter(|text| !text.expose_secret().is_empty()).ok_or_else(|| (field, "must be set".to_owned()))
    };
    let channel = match kind {
        ChannelKind::Webhook => {
            check_secrets(&table.secrets).map_err(|rule| ("secrets", rule.to_owned()))?;
            let headers = table.headers.into_iter().map(|(name, value)| usable_header(&name, value));
            let headers = headers.collect::<Result<_, _>>().map_err(|problem| ("headers", problem))?;
            ChannelConfig::Webhook(WebhookConfig { url: needed("url", table.url)?, headers, secrets: table.secrets })
        }
        ChannelKind::Email => {
            let config = email(&table.smtp.or(shared)?, table.to)?;
            ChannelConfig::Email(EmailConfig { subject, ..config })
        }
        ChannelKind::Slack => ChannelConfig::Slack {
            url: needed("url", table.url)?,
            channel: table.slack_channel.unwrap_or_else(|| SLACK_CHANNEL.to_owned()),
        },
        ChannelKind::Discord => ChannelConfig::Discord { url: needed("url", table.url)? },
        ChannelKind::Teams => ChannelConfig::Teams { url: needed("url", table.url)? },
        ChannelKind::PagerDuty => ChannelConfig::PagerDuty {
            url: table.url.unwrap_or_else(|| pagerduty::EVENTS.into()),
            routing_key: needed("routing_key", table.routing_key)?,
        },
        ChannelKind::Alertmanager => ChannelConfig::Alertmanager { url: needed("url", table.url)? },
    };
    channel.check().map_err(|unusable| (unusable.field, unusable.problem))?;
    Ok(ReceiverConfig { name: table.name, channel, timeout, template: words, quiet })
}

impl ReceiverTable {
    /// Fields that are set and mean nothing to the channel.
    fn strangers(&self, kind: ChannelKind) -> impl Iterator<Item = &'static str> {
        use ChannelKind::{Alertmanager, Email, PagerDuty, Slack, Webhook};
        let set = [
            ("url", self.url.is_some(), kind != Email),
            ("headers", !self.headers.is_empty(), kind == Webhook),
            ("secrets", !self.secrets.is_empty(), kind == Webhook),
            ("slack_channel", self.slack_channel.is_some(), kind == Slack),
            ("routing_key", self.routing_key.is_some(), kind == PagerDuty),
            ("to", !self.to.is_empty(), kind == Email),
            ("smtp_host", self.smtp.smtp_host.is_some(), kind == Email),
            ("smtp_from", self.smtp.smtp_from.is_some(), kind == Email),
            (self.smtp.of_a_server().unwrap_or_default(), self.smtp.of_a_server().is_some(), kind == Email),
            ("subject", self.subject.is_some(), kind == Email),
            ("template", self.template.is_some(), kind != Alertmanager),
        ];
        set.into_iter().filter(|(_, is_set, useful)| *is_set && !useful).map(|(field, _, _)| field)
    }
}

impl SmtpTable {
    /// A field that belongs to a server of one's own.
    fn of_a_server(&self) -> Option<&'static str> {
        let set = [
            ("smtp_port", self.smtp_port.is_some()),
            ("smtp_user", self.smtp_user.is_some()),
            ("smtp_password", self.smtp_password.is_some()),
            ("smtp_tls", self.smtp_tls.is_some()),
            ("smtp_ca_file", self.smtp_ca_file.is_some()),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(field, _)| field)
    }

    /// Itself, if it names a server, else the shared one: a login never goes to another server than its own.
    fn or(self, shared: &Self) -> Result<Self, Problem> {
        if self.smtp_host.is_some() {
            return Ok(self);
        }
        if let Some(field) = self.of_a_server() {
            return Err((field, "belongs to a server: set smtp_host beside it".to_owned()));
        }
        Ok(Self {
            smtp_host: shared.smtp_host.clone(),
            smtp_port: shared.smtp_port,
            smtp_user: shared.smtp_user.clone(),
            smtp_password: shared.smtp_password.clone(),
            smtp_from: self.smtp_from.or_else(|| shared.smtp_from.clone()),
            smtp_tls: shared.smtp_tls.clone(),
            smtp_ca_file: shared.smtp_ca_file.clone(),
        })
    }
}

fn email(smtp: &SmtpTable, to: Vec<String>) -> Result<EmailConfig, Problem> {
    let host = smtp.smtp_host.clone().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| ("smtp_host", "must be set, here or as SMTP_HOST".to_owned()))?;
    let word = smtp.smtp_tls.as_deref().unwrap_or("starttls").to_ascii_lowercase();
    let tls = TLS.into_iter().find(|(name, _)| *name == word).map(|(_, tls)| tls);
    let tls = tls.ok_or_else(|| ("smtp_tls", "must be starttls, tls or none".to_owned()))?;
    let login = match (smtp.smtp_user.clone(), smtp.smtp_password.clone()) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(("smtp_password", "must be set beside smtp_user".to_owned())),
        (None, Some(_)) => return Err(("smtp_user", "must be set beside smtp_password".to_owned())),
    };
    let ca_pem = smtp.smtp_ca_file.as_ref().map(|path| read_file(Path::new(path))).transpose();
    let ca_pem = ca_pem.map_err(|problem| ("smtp_ca_file", format!("is of no use: {problem}")))?;
    let port = smtp.smtp_port.unwrap_or(SMTP_PORT);
    Ok(EmailConfig { host, port, tls, login, from: smtp.smtp_from.clone(), to, ca_pem, subject: None })
}

fn quiet_hours(table: &QuietTable) -> Result<QuietHours, String> {
    let time = |text: &str| {
        NaiveTime::parse_from_str(text, "%H:%M")
            .map_err(|_| format!("holds {:?}, not a time such as 22:00", clean(text)))
    };
    let (from, to) = (time(&table.from)?, time(&table.to)?);
    if from == to {
        return Err("must not end when it begins".to_owned());
    }
    let zone = table.timezone.as_deref().unwrap_or("UTC");
    let timezone =
        zone.parse::<Tz>().map_err(|_| format!("names {:?}, not a time zone such as Europe/Berlin", clean(zone)))?;
    let unless = table.unless.as_deref().map_or(Ok(Severity::Critical), severity)?;
    Ok(QuietHours { from, to, timezone, unless })
}

fn severity(word: &str) -> Result<Severity, String> {
    let found = Severity::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(word));
    found.ok_or_else(|| none_of(word, &Severity::ALL.map(Severity::as_str)))
}

fn alert_type(word: &str) -> Result<AlertType, String> {
    let found = AlertType::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(word));
    found.ok_or_else(|| none_of(word, &AlertType::ALL.map(AlertType::as_str)))
}

fn none_of(word: &str, words: &[&str]) -> String {
    format!("names {:?}, which is none of {}", clean(word), words.join(", "))
}

fn routes(r: &mut Reader, variables: &Variables, receivers: &[ReceiverConfig]) -> Vec<Route> {
    let mut routes = Vec::new();
    for (place, table) in r.tables("notify", "route") {
        let Some(table) = parse::<RouteTable>(r, &place, table, variables) else { continue };
        match route(table, receivers) {
            Ok(route) => routes.push(route),
            Err((field, problem)) => r.problems.push(super::Problem::general(format!("{place}: {field} {problem}"))),
        }
    }
    routes
}

fn route(table: RouteTable, receivers: &[ReceiverConfig]) -> Result<Route, Problem> {
    let known = || [LOG].into_iter().chain(receivers.iter().map(|receiver| receiver.name.as_str()));
    if table.receivers.is_empty() {
        return Err(("receivers", "must name at least one receiver".to_owned()));
    }
    if let Some(name) = table.receivers.iter().find(|name| !known().any(|receiver| receiver == *name)) {
        return Err(("receivers", none_of(name, &known().collect::<Vec<_>>())));
    }
    let in_the_middle = |pattern: &String| pattern.strip_suffix('*').unwrap_or(pattern).contains('*');
    if table.services.iter().any(in_the_middle) {
        return Err(("services", "may have a * at the end of a name only".to_owned()));
    }
    let severities = table.severities.iter().map(|word| severity(word)).collect::<Result<_, _>>();
    let kinds = table.types.iter().map(|word| alert_type(word)).collect::<Result<_, _>>();
    Ok(Route {
        receivers: table.receivers,
        severities: severities.map_err(|problem| ("severities", problem))?,
        kinds: kinds.map_err(|problem| ("types", problem))?,
        categories: table.categories,
        tags: table.tags,
        services: table.services,
    })
}
