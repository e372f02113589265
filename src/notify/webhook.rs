//! The generic JSON webhook: a CloudEvents 1.0 envelope, signed as Standard Webhooks when there is a secret
//! (CONTRACT.md section 13).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;

use super::http::{Http, wall_clock};
use super::words::Words;
use super::{DeliveryError, Message, Sender, item};
use crate::domain::notification::Digest;
use crate::domain::time::Stamp;

/// Longest body: HARDENING.md SLO-7.
const MOST_BODY: usize = 256 * 1024;
/// Longest text in it, which JSON may make longer: our choice.
const MOST_TEXT: usize = 30_000;
/// Impacted services named one by one: our choice, they stand in the body twice.
const MOST_NAMED: usize = 1000;

/// Settings of a webhook.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// May hold a token: never shown.
    pub url: SecretString,
    pub headers: Vec<(String, SecretString)>,
    /// One or two signing secrets, two while they rotate.
    pub secrets: Vec<SecretString>,
}

/// A receiver of webhooks.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub(super) http: Http,
    headers: Vec<(String, SecretString)>,
    secrets: Vec<SecretString>,
    sender: Sender,
}

impl Webhook {
    pub(super) fn new(config: &WebhookConfig, http: Http, sender: &Sender) -> Self {
        let WebhookConfig { headers, secrets, .. } = config.clone();
        Self { http, headers, secrets, sender: sender.clone() }
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        let id = message.notification.id.as_str();
        let body = self.body(message, words);
        let mut request = self.http.post(id).header(CONTENT_TYPE, "application/cloudevents+json");
        for (name, value) in &self.headers {
            request = request.header(name, value.expose_secret());
        }
        if !self.secrets.is_empty() {
            let sent_at = wall_clock().timestamp();
            let signatures: Vec<String> = self.secrets.iter().map(|secret| sign(secret, id, sent_at, &body)).collect();
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", sent_at.to_string())
                .header("webhook-signature", signatures.join(" "));
        }
        Http::send(request.body(body)).await
    }

    fn body(&self, message: &Message, words: &Words) -> Vec<u8> {
        let text = words.text(message, MOST_TEXT);
        let body = match &message.notification.digest {
            Some(digest) => self.digest(message, digest, &text),
            None => self.one(message, &text),
        };
        body.to_string().into_bytes()
    }

    fn envelope(&self, message: &Message, subject: Option<&str>, data: Value) -> Value {
        let mut envelope = json!({
            "specversion": "1.0",
            "id": message.notification.id,
            "source": self.sender.service,
            "type": format!("infra.{}", message.kind().as_str()),
            "time": Stamp(message.notification.notice.at),
        });
        if let Some(subject) = subject {
            envelope["subject"] = subject.into();
        }
        envelope["datacontenttype"] = "application/json".into();
        envelope["data"] = data;
        envelope
    }

    fn one(&self, message: &Message, text: &str) -> Value {
        let notice = &message.notification.notice;
        let mut alert = notice.alert.clone();
        let unnamed = alert.details.impacted.len().saturating_sub(MOST_NAMED);
        alert.details.impacted.truncate(MOST_NAMED);
        let outage = notice.outage.as_ref().map(|outage| {
            json!({
                "id": outage.id,
                "severity": outage.severity,
                "start_time": Stamp(outage.started),
                "end_time": outage.ended.map(Stamp),
                "description": format!("Service outage detected: {}", outage.error_message),
            })
        });
        let started = notice.outage.as_ref().map_or(alert.triggered_at, |outage| outage.started);
        let mut data = json!({
            "kind": message.kind(),
            "attempt": message.attempt,
            "merged": message.merged,
            "instance": self.sender.instance,
            "fencing_token": null,
            "service": alert.component.service(),
            "sequence": alert.sequence,
            "from": notice.from,
            "to": notice.to,
            "started_at": Stamp(started),
            "resolved_at": alert.resolved_at.map(Stamp),
            "alert": alert.record(),
            "outage": outage,
            "impacted": alert.details.impacted,
            "text": text,
        });
        if unnamed > 0 {
            data["impacted_omitted"] = unnamed.into();
        }
        self.envelope(message, Some(alert.component.as_str()), data)
    }

    /// As many items as fit; the rest is counted, and can be read in the API.
    fn digest(&self, message: &Message, digest: &Digest, text: &str) -> Value {
        let data = json!({
            "id": message.notification.id,
            "kind": message.kind(),
            "attempt": message.attempt,
            "merged": message.merged,
            "instance": self.sender.instance,
            "fencing_token": null,
            "items": [],
            "omitted": digest.items.len(),
            "text": text,
        });
        let mut envelope = self.envelope(message, None, data);
        let mut room = MOST_BODY.saturating_sub(envelope.to_string().len());
        let fitting = digest.items.iter().map(item).take_while(|item| {
            let length = item.to_string().len() + ",".len();
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        });
        let items: Vec<Value> = fitting.collect();
        envelope["data"]["omitted"] = (digest.items.len() - items.len()).into();
        envelope["data"]["items"] = items.into();
        envelope
    }
}

/// `v1,<base64 HMAC-SHA256 of id.timestamp.body>`; a secret beginning with `whsec_` is base64, as that format has it.
fn sign(secret: &SecretString, id: &str, timestamp: i64, body: &[u8]) -> String {
    let text = secret.expose_secret();
    let key = text
        .strip_prefix("whsec_")
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .unwrap_or_else(|| text.as_bytes().to_vec());
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
        return String::new(); // Not reached: HMAC takes keys of any length.
    };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // Made with Python: hmac.new(b"secret-of-sixteen", b"id-1.1700000000." + b"{}", "sha256").
        let signature = sign(&"secret-of-sixteen".into(), "id-1", 1_700_000_000, b"{}");
        assert_eq!(signature, "v1,3c4IMZxgug6EJoGsqyOR/Pf3QH20dwXPt0GizhzeMF4=");
    }
}
