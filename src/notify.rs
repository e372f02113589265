//! Channels: deliver one notification, say what came of it. Whom to tell, when, and again is the outbox's business.

pub mod webhook;

use std::time::Duration;

use crate::domain::alert::Severity;
use crate::domain::notification::Notification;
use crate::domain::routing::{QuietHours, Routing};

/// Settings of the channels: section `[notify]`.
#[derive(Debug, Clone)]
pub struct NotifyConfig {
    pub webhook: Option<webhook::WebhookConfig>,
    pub min_severity: Severity,
    /// Who is told of what.
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

/// One message on its way: the row, and what belongs to this attempt only.
#[derive(Debug, Clone)]
pub struct Message {
    pub notification: Notification,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many rows this message stands for.
    pub merged: usize,
}

/// Why a receiver did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// No connection, no answer, or it asks for patience.
    #[error("{detail}")]
    Away { detail: String, retry_after: Option<Duration>, unreachable: bool },
    /// It answered that it does not want it.
    #[error("refused with HTTP {code}")]
    Refused { code: u16 },
}

/// A named receiver: a channel, and what is particular about it.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// The word in ids, labels, routes and `/health`.
    pub name: String,
    pub channel: Channel,
    pub quiet: Option<QuietHours>,
}

impl Receiver {
    /// The log, always there.
    pub fn log() -> Self {
        Self { name: "log".to_owned(), channel: Channel::Log, quiet: None }
    }

    /// Many alerts at once may come as one message.
    pub fn takes_digests(&self) -> bool {
        self.channel.takes_digests()
    }

    /// Only so many messages a minute may go there. A log line disturbs nobody.
    pub fn is_limited(&self) -> bool {
        !matches!(self.channel, Channel::Log)
    }
}

/// A configured channel.
#[derive(Debug, Clone)]
pub enum Channel {
    /// One log line. Always on.
    Log,
    Webhook(Box<webhook::Webhook>),
}

impl Channel {
    /// Many alerts at once may come as one message. Not in the log, where a line costs nothing.
    pub fn takes_digests(&self) -> bool {
        !matches!(self, Self::Log)
    }

    /// Who gets the messages, without credentials.
    pub fn recipients(&self) -> Vec<String> {
        match self {
            Self::Log => Vec::new(),
            Self::Webhook(webhook) => vec![webhook.origin()],
        }
    }

    /// Hands `message` over.
    ///
    /// # Errors
    /// The receiver is away or refuses; the message stays owed.
    pub async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        match self {
            Self::Log => {
                write_line(message);
                Ok(())
            }
            Self::Webhook(webhook) => webhook.deliver(message).await,
        }
    }

    /// Whether a receiver that was unreachable accepts connections again. Cheap, and never a delivery.
    pub async fn is_reachable(&self) -> bool {
        match self {
            Self::Log => true,
            Self::Webhook(webhook) => webhook.is_reachable().await,
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
