//! Microsoft Teams: an adaptive card to a workflow ("Post to a channel when a webhook request is received").

use serde_json::{Value, json};

use super::http::Http;
use super::words::{Words, fitting};
use super::{DeliveryError, Message};

/// Longest body: Teams, "limits and specifications", 28 KB for a message through a webhook.
const MOST_BODY: usize = 28_000;

/// A receiver of Teams messages.
#[derive(Debug, Clone)]
pub struct Teams {
    pub(super) http: Http,
}

impl Teams {
    pub(super) fn new(http: Http) -> Self {
        Self { http }
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        // Each line is wrapped, and JSON escapes: by how much depends on the text.
        let body = fitting(MOST_BODY, MOST_BODY, |budget| card(&words.text(message, budget)).to_string(), String::len);
        let request = self.http.post(&message.notification.id).header("content-type", "application/json");
        Http::send(request.body(body)).await
    }
}

/// Lines as runs of text, which unlike text blocks know no markup: links and mentions in values stay text.
fn card(text: &str) -> Value {
    let lines = text.lines().enumerate().map(|(line, text)| {
        json!({
            "type": "RichTextBlock",
            "spacing": "Small",
            "inlines": [{"type": "TextRun", "text": text, "weight": if line == 0 { "Bolder" } else { "Default" }}],
        })
    });
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": lines.collect::<Vec<_>>(),
            },
        }],
    })
}
