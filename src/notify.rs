//! Channels: deliver one notification, say what came of it. Whom to tell, when, and again is the outbox's business.
//!
//! A receiver is a channel with an address and a name. What all of them share lives in two places: `http` sends and judges
//! answers, `words` finds the text. A secret is only ever in the part of a request it is for.

pub mod alertmanager;
pub mod discord;
pub mod email;
pub mod heartbeat;
mod http;
pub mod pagerduty;
pub mod slack;
pub mod teams;
pub mod webhook;
pub mod words;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};

use self::words::{Template, Words};
use crate::domain::alert::{Alert, Severity};
use crate::domain::notification::{DigestItem, NoticeKind, Notification};
use crate::domain::routing::{QuietHours, Routing};
use crate::domain::time::Stamp;

/// The receiver that is always there.
pub const LOG: &str = "log";

/// Settings of the channels: section `[notify]`.
#[derive(Debug, Clone)]
pub struct NotifyConfig {
    /// Every receiver that has an address, on or not; the log has none.
    pub receivers: Vec<ReceiverConfig>,
    /// Who of the simple set-up is asked for.
    pub wanted: Wanted,
    /// Who sends.
    pub sender: Sender,
    pub min_severity: Severity,
    /// Who is told of what, and which receivers are on.
    pub routing: Routing,
    /// Messages a minute to one receiver, at most; what is owed beyond it goes out as one.
    pub rate_per_minute: u32,
    /// Changes of one alert this close together go out as one.
    pub group_wait: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// A receiver away for longer gets each alert's final state instead of every step.
    pub merge_after: Duration,
}

impl NotifyConfig {
    /// The names of the receivers that are on: the log, those of the simple set-up that are wanted, all of the tables.
    ///
    /// # Errors
    /// The channel that is asked for by name and has no address.
    pub fn in_force(&self) -> Result<Vec<String>, ChannelKind> {
        let has = |kind: ChannelKind| self.receivers.iter().any(|receiver| receiver.name == kind.as_str());
        if let Some(kind) = ChannelKind::ALL.into_iter().find(|kind| self.wanted.demands(*kind) && !has(*kind)) {
            return Err(kind);
        }
        let on = self
            .receivers
            .iter()
            .filter(|receiver| ChannelKind::parse(&receiver.name).is_none_or(|simple| self.wanted.wants(simple)));
        Ok([LOG.to_owned()].into_iter().chain(on.map(|receiver| receiver.name.clone())).collect())
    }
}

/// Which channels of the simple set-up are asked for: settings that may change while running.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `None`: nobody has said, every channel with an address is on.
    pub channels: Option<Vec<ChannelKind>>,
    /// True adds the channel, false removes it.
    pub email: Option<bool>,
    pub slack: Option<bool>,
}

impl Wanted {
    fn switch(&self, kind: ChannelKind) -> Option<bool> {
        match kind {
            ChannelKind::Email => self.email,
            ChannelKind::Slack => self.slack,
            _ => None,
        }
    }

    /// It is on, if it has an address.
    fn wants(&self, kind: ChannelKind) -> bool {
        self.switch(kind).unwrap_or(self.channels.as_ref().is_none_or(|named| named.contains(&kind)))
    }

    /// It was asked for by name: it must have an address.
    fn demands(&self, kind: ChannelKind) -> bool {
        self.switch(kind).unwrap_or(self.channels.as_ref().is_some_and(|named| named.contains(&kind)))
    }
}

/// Who sends, as messages name it.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    pub service: String,
    /// This process.
    pub instance: String,
}

/// The closed list of channels, the log aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Webhook,
    Email,
    Slack,
    Discord,
    Teams,
    PagerDuty,
    Alertmanager,
}

impl ChannelKind {
    pub const ALL: [Self; 7] =
        [Self::Webhook, Self::Email, Self::Slack, Self::Discord, Self::Teams, Self::PagerDuty, Self::Alertmanager];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Email => "email",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Teams => "teams",
            Self::PagerDuty => "pagerduty",
            Self::Alertmanager => "alertmanager",
        }
    }

    /// The channel of a word, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(word))
    }
}

/// Settings of one receiver.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// The word in ids, labels, routes and `/health`.
    pub name: String,
    pub channel: ChannelConfig,
    /// Time limit of one delivery, all of it.
    pub timeout: Duration,
    /// Text of its messages, instead of the built-in one.
    pub template: Option<Template>,
    pub quiet: Option<QuietHours>,
}

/// Address and secrets of a receiver. No URL is ever shown: its path or query may hold a token.
#[derive(Debug, Clone)]
pub enum ChannelConfig {
    Webhook(webhook::WebhookConfig),
    Email(email::EmailConfig),
    Slack { url: SecretString, channel: String },
    Discord { url: SecretString },
    Teams { url: SecretString },
    PagerDuty { url: SecretString, routing_key: SecretString },
    Alertmanager { url: SecretString },
}

impl ChannelConfig {
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::Webhook(_) => ChannelKind::Webhook,
            Self::Email(_) => ChannelKind::Email,
            Self::Slack { .. } => ChannelKind::Slack,
            Self::Discord { .. } => ChannelKind::Discord,
            Self::Teams { .. } => ChannelKind::Teams,
            Self::PagerDuty { .. } => ChannelKind::PagerDuty,
            Self::Alertmanager { .. } => ChannelKind::Alertmanager,
        }
    }

    /// Whether a channel can be made of it; connects to nothing.
    ///
    /// # Errors
    /// The field that is unusable, and why.
    pub fn check(&self) -> Result<(), Unusable> {
        match self {
            Self::Webhook(webhook::WebhookConfig { url, .. })
            | Self::Slack { url, .. }
            | Self::Discord { url }
            | Self::Teams { url }
            | Self::PagerDuty { url, .. }
            | Self::Alertmanager { url } => http::address(url).map(|_| ()),
            Self::Email(config) => config.check(),
        }
    }
}

/// A setting a receiver cannot be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Unusable {
    pub field: &'static str,
    /// A sentence without a subject, and without the value.
    pub problem: String,
}

impl Unusable {
    fn new(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

/// A receiver that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("receiver {name}: {source}")]
pub struct ReceiverError {
    pub name: String,
    pub source: Unusable,
}

/// Builds the receivers that are on, in the order of the routing; asked again when settings have changed.
///
/// # Errors
/// The first that cannot be built: an unusable setting, or TLS cannot be set up on this machine.
pub fn receivers(config: &NotifyConfig) -> Result<Vec<Receiver>, ReceiverError> {
    let on = config.routing.receivers.iter().filter_map(|name| {
        if name == LOG {
            return Some(Ok(Receiver::log()));
        }
        let receiver = config.receivers.iter().find(|receiver| receiver.name == *name)?;
        Some(Receiver::new(receiver, &config.sender))
    });
    on.collect()
}

/// One message on its way: the row, and what belongs to this attempt only.
#[derive(Debug, Clone)]
pub struct Message {
    pub notification: Notification,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many rows this message stands for.
    pub merged: usize,
}

impl Message {
    fn kind(&self) -> NoticeKind {
        if self.notification.digest.is_some() { NoticeKind::Digest } else { self.notification.notice.kind }
    }
}

/// An alert of a digest, as receivers see it.
fn item(item: &DigestItem) -> Value {
    json!({
        "alert_id": item.alert_id,
        "service": item.component,
        "kind": item.kind,
        "severity": item.severity,
        "timestamp": Stamp(item.at),
        "title": item.title,
        "impacted": item.impacted,
    })
}

/// Why a receiver did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// No connection, no answer, or it asks for patience.
    #[error("{detail}")]
    Away { detail: String, retry_after: Option<Duration>, unreachable: bool },
    /// It answered that it does not want it.
    #[error("refused with {detail}")]
    Refused { detail: String },
}

impl DeliveryError {
    fn away(detail: impl Into<String>, unreachable: bool) -> Self {
        Self::Away { detail: detail.into(), retry_after: None, unreachable }
    }
}

/// A named receiver: a channel, and what is particular about it.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// The word in ids, labels, routes and `/health`.
    pub name: String,
    pub channel: Channel,
    pub quiet: Option<QuietHours>,
    words: Words,
}

impl Receiver {
    /// The log, always there.
    pub fn log() -> Self {
        Self { name: LOG.to_owned(), channel: Channel::Log, quiet: None, words: Words::plain(LOG) }
    }

    fn new(config: &ReceiverConfig, sender: &Sender) -> Result<Self, ReceiverError> {
        let channel = Channel::new(&config.channel, config.timeout, sender);
        let channel = channel.map_err(|source| ReceiverError { name: config.name.clone(), source })?;
        let words = Words::new(&config.name, config.channel.kind(), config.template.clone());
        Ok(Self { name: config.name.clone(), channel, quiet: config.quiet.clone(), words })
    }

    /// Many alerts at once may come as one message.
    pub fn takes_digests(&self) -> bool {
        self.channel.takes_digests()
    }

    /// Only so many messages a minute may go there. A log line disturbs nobody.
    pub fn is_limited(&self) -> bool {
        !matches!(self.channel, Channel::Log)
    }

    /// Messages whose template failed and that went out with the built-in text.
    pub fn template_failures(&self) -> u64 {
        self.words.failures()
    }

    /// Hands `message` over, within the receiver's time limit.
    ///
    /// # Errors
    /// The receiver is away or refuses; the message stays owed.
    pub async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        let words = &self.words;
        match &self.channel {
            Channel::Log => {
                write_line(message);
                Ok(())
            }
            Channel::Webhook(webhook) => webhook.deliver(message, words).await,
            Channel::Email(email) => email.deliver(message, words).await,
            Channel::Slack(slack) => slack.deliver(message, words).await,
            Channel::Discord(discord) => discord.deliver(message, words).await,
            Channel::Teams(teams) => teams.deliver(message, words).await,
            Channel::PagerDuty(pagerduty) => pagerduty.deliver(message, words).await,
            Channel::Alertmanager(alertmanager) => alertmanager.deliver(message).await,
        }
    }
}

/// A configured channel.
#[derive(Debug, Clone)]
pub enum Channel {
    /// One log line. Always on.
    Log,
    Webhook(Box<webhook::Webhook>),
    Email(Box<email::Email>),
    Slack(Box<slack::Slack>),
    Discord(Box<discord::Discord>),
    Teams(Box<teams::Teams>),
    PagerDuty(Box<pagerduty::PagerDuty>),
    Alertmanager(Box<alertmanager::Alertmanager>),
}

impl Channel {
    fn new(config: &ChannelConfig, timeout: Duration, sender: &Sender) -> Result<Self, Unusable> {
        let http = |url| http::Http::new(url, timeout);
        Ok(match config {
            ChannelConfig::Webhook(config) => {
                Self::Webhook(Box::new(webhook::Webhook::new(config, http(&config.url)?, sender)))
            }
            ChannelConfig::Email(config) => Self::Email(Box::new(email::Email::new(config, timeout, sender)?)),
            ChannelConfig::Slack { url, channel } => Self::Slack(Box::new(slack::Slack::new(http(url)?, channel))),
            ChannelConfig::Discord { url } => Self::Discord(Box::new(discord::Discord::new(http(url)?))),
            ChannelConfig::Teams { url } => Self::Teams(Box::new(teams::Teams::new(http(url)?))),
            ChannelConfig::PagerDuty { url, routing_key } => {
                Self::PagerDuty(Box::new(pagerduty::PagerDuty::new(http(url)?, routing_key, sender)))
            }
            ChannelConfig::Alertmanager { url } => {
                let http = http::Http::new(&alertmanager::endpoint(url)?, timeout)?;
                Self::Alertmanager(Box::new(alertmanager::Alertmanager::new(http, sender)))
            }
        })
    }

    /// Many alerts at once may come as one message. Not in the log, where a line costs nothing, and not where each alert
    /// is an incident of its own.
    pub fn takes_digests(&self) -> bool {
        !matches!(self, Self::Log | Self::PagerDuty(_))
    }

    /// Who gets the messages, without credentials.
    pub fn recipients(&self) -> Vec<String> {
        match self {
            Self::Log => Vec::new(),
            Self::Email(email) => email.recipients(),
            _ => self.http().map(http::Http::origin).into_iter().collect(),
        }
    }

    /// Whether a receiver that was unreachable accepts connections again. Cheap, and never a delivery.
    pub async fn is_reachable(&self) -> bool {
        match self {
            Self::Log => true,
            Self::Email(email) => email.is_reachable().await,
            _ => match self.http() {
                Some(http) => http.is_reachable().await,
                None => true,
            },
        }
    }

    /// How often it wants to hear of every living alert again; it takes silence for an end.
    pub fn resend_every(&self) -> Option<Duration> {
        matches!(self, Self::Alertmanager(_)).then_some(alertmanager::RESEND)
    }

    /// Tells of the living `alerts` again.
    ///
    /// # Errors
    /// The receiver is away or refuses; the next time comes anyway.
    pub async fn resend(&self, alerts: &[Arc<Alert>]) -> Result<(), DeliveryError> {
        match self {
            Self::Alertmanager(alertmanager) => alertmanager.resend(alerts).await,
            _ => Ok(()),
        }
    }

    fn http(&self) -> Option<&http::Http> {
        match self {
            Self::Log | Self::Email(_) => None,
            Self::Webhook(webhook) => Some(&webhook.http),
            Self::Slack(slack) => Some(&slack.http),
            Self::Discord(discord) => Some(&discord.http),
            Self::Teams(teams) => Some(&teams.http),
            Self::PagerDuty(pagerduty) => Some(&pagerduty.http),
            Self::Alertmanager(alertmanager) => Some(&alertmanager.http),
        }
    }
}

fn write_line(message: &Message) {
    let notice = &message.notification.notice;
    let alert = &notice.alert;
    let component = alert.component.as_str();
    let severity = alert.severity.as_str();
    let (alert_id, kind) = (alert.id.as_str(), notice.kind.as_str());
    if notice.kind.is_end() {
        tracing::info!(alert.id = alert_id, alert.kind = kind, component, severity, "RESOLVED {}", alert.title);
    } else {
        tracing::warn!(
            alert.id = alert_id,
            alert.kind = kind,
            component,
            severity,
            impacted = alert.details.impacted.len(),
            "ALERT {}: {}",
            alert.title,
            alert.description
        );
    }
}
