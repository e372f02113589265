//! PagerDuty, Events API v2: each alert is an incident under the alert's own id, triggered, triggered again
//! when it rises, and resolved. An acknowledgement over our API is not passed on: it tells nobody anything.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::http::Http;
use super::words::Words;
use super::{DeliveryError, Message, Sender};
use crate::domain::alert::Severity;
use crate::domain::notification::NoticeKind;
use crate::domain::time::Stamp;

/// Where events go, the service region of the USA; a receiver of a table can name another.
pub const EVENTS: &str = "https://events.pagerduty.com/v2/enqueue";
/// Longest summary in characters: Events API v2.
const MOST_SUMMARY: usize = 1024;
/// Longest text beside it: our choice, far below the 512 KB of an event.
const MOST_TEXT: usize = 16_000;

/// A receiver of PagerDuty events.
#[derive(Debug, Clone)]
pub struct PagerDuty {
    pub(super) http: Http,
    routing_key: SecretString,
    source: String,
}

impl PagerDuty {
    pub(super) fn new(http: Http, routing_key: &SecretString, sender: &Sender) -> Self {
        Self { http, routing_key: routing_key.clone(), source: sender.service.clone() }
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        let notice = &message.notification.notice;
        match notice.kind {
            // Nobody has to clear away a test.
            NoticeKind::Test => {
                self.enqueue(message, words, "trigger").await?;
                self.enqueue(message, words, "resolve").await
            }
            kind if kind.is_end() => self.enqueue(message, words, "resolve").await,
            _ => self.enqueue(message, words, "trigger").await,
        }
    }

    async fn enqueue(&self, message: &Message, words: &Words, action: &str) -> Result<(), DeliveryError> {
        let notice = &message.notification.notice;
        let alert = &notice.alert;
        let severity = match (notice.kind, alert.severity) {
            (NoticeKind::Test, _) | (_, Severity::Low) => "info",
            (_, Severity::Medium) => "warning",
            (_, Severity::High) => "error",
            (_, Severity::Critical) => "critical",
        };
        let body = json!({
            "routing_key": self.routing_key.expose_secret(),
            "event_action": action,
            "dedup_key": alert.id,
            "client": self.source,
            "payload": {
                "summary": message.notification.title().chars().take(MOST_SUMMARY).collect::<String>(),
                "source": alert.component.as_str(),
                "severity": severity,
                "timestamp": Stamp(notice.at),
                "component": alert.component.as_str(),
                "class": alert.kind.as_str(),
                "custom_details": {"text": words.text(message, MOST_TEXT), "impacted": alert.details.impacted.len()},
            },
        });
        Http::send(self.http.post(&message.notification.id).json(&body)).await
    }
}
