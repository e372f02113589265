//! Slack, and what speaks like it: an incoming webhook (CONTRACT.md section 13).

use serde_json::json;

use super::http::Http;
use super::words::Words;
use super::{DeliveryError, Message};

/// Longest text: Slack advises 4,000 characters and cuts at 40,000.
const MOST_TEXT: usize = 4000;

/// A receiver of Slack messages.
#[derive(Debug, Clone)]
pub struct Slack {
    pub(super) http: Http,
    /// Such as `#alerts`; newer webhooks are bound to one and ignore it.
    channel: String,
}

impl Slack {
    pub(super) fn new(http: Http, channel: &str) -> Self {
        Self { http, channel: channel.to_owned() }
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        let text = words.text(message, MOST_TEXT);
        let body = json!({"channel": self.channel, "username": "health-monitor", "text": text});
        Http::send(self.http.post(&message.notification.id).json(&body)).await
    }
}

/// The three characters that begin mentions, links and entities.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
