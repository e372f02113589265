//! Discord: a webhook of a channel. Nobody is mentioned, whatever a text says.

use serde_json::json;

use super::http::Http;
use super::words::Words;
use super::{DeliveryError, Message};

/// Longest content in characters: Discord, "Execute Webhook". Counted in bytes here, which is never less.
const MOST_CONTENT: usize = 2000;

/// A receiver of Discord messages.
#[derive(Debug, Clone)]
pub struct Discord {
    pub(super) http: Http,
}

impl Discord {
    pub(super) fn new(http: Http) -> Self {
        Self { http }
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        let body = json!({
            "username": "health-monitor",
            "content": words.text(message, MOST_CONTENT),
            "allowed_mentions": {"parse": []},
        });
        Http::send(self.http.post(&message.notification.id).json(&body)).await
    }
}

/// Characters that begin emphasis, links, quotes, spoilers or mentions.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '_' | '~' | '`' | '|' | '[' | ']' | '<' | '>') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
