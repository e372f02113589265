//! The generic JSON webhook: a CloudEvents 1.0 envelope, signed as Standard Webhooks when there is a secret
//! (CONTRACT.md section 13).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::{DeliveryError, Message};
use crate::domain::time::{Stamp, from_ms};

/// Longest wait a receiver may ask for with `Retry-After`: our choice, the longest back-off of ours.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest time a look at whether the receiver is back may take: our choice.
const LOOK: Duration = Duration::from_secs(1);

/// Settings of the webhook.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// May hold a token: never shown.
    pub url: SecretString,
    pub headers: Vec<(String, SecretString)>,
    pub timeout: Duration,
    /// One or two signing secrets, two while they rotate.
    pub secrets: Vec<SecretString>,
    /// Name and instance of this service, for the envelope.
    pub source: String,
    pub instance: String,
}

/// A receiver of webhooks.
#[derive(Debug, Clone)]
pub struct Webhook {
    config: WebhookConfig,
    url: Url,
    client: reqwest::Client,
}

/// Why the webhook cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("is not an http or https address")]
    Address,
    #[error("cannot build the client: {0}")]
    Client(#[from] reqwest::Error),
}

impl Webhook {
    /// Scheme, host and port: paths of webhooks often hold a token.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Whether a webhook can be made of `config`.
    ///
    /// # Errors
    /// The address is unusable.
    pub fn check(config: &WebhookConfig) -> Result<Url, WebhookError> {
        let url = Url::parse(config.url.expose_secret()).map_err(|_| WebhookError::Address)?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(WebhookError::Address);
        }
        Ok(url)
    }

    /// # Errors
    /// The address is unusable, or TLS cannot be set up on this machine.
    pub fn new(config: WebhookConfig) -> Result<Self, WebhookError> {
        let url = Self::check(&config)?;
        let client = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(config.timeout)
            .build()?;
        Ok(Self { config, url, client })
    }

    pub(super) async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        let id = message.notification.id.clone();
        let body = self.body(message);
        let sent_at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/cloudevents+json")
            .header("Idempotency-Key", &id);
        for (name, value) in &self.config.headers {
            request = request.header(name, value.expose_secret());
        }
        if !self.config.secrets.is_empty() {
            let signatures: Vec<String> =
                self.config.secrets.iter().map(|secret| sign(secret, &id, sent_at, &body)).collect();
            request = request
                .header("webhook-id", &id)
                .header("webhook-timestamp", sent_at.to_string())
                .header("webhook-signature", signatures.join(" "));
        }
        // The error of the client names the URL, which may hold a token.
        let response = request.body(body).send().await.map_err(|error| DeliveryError::Away {
            detail: if error.is_timeout() { "no answer in time".to_owned() } else { "no connection".to_owned() },
            retry_after: None,
            unreachable: error.is_connect(),
        })?;
        let code = response.status().as_u16();
        match code {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(DeliveryError::Away {
                detail: format!("HTTP {code}"),
                retry_after: retry_after(response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok())),
                unreachable: false,
            }),
            _ => Err(DeliveryError::Refused { code }),
        }
    }

    pub(super) async fn is_reachable(&self) -> bool {
        let Some(host) = self.url.host_str() else { return false };
        let port = self.url.port_or_known_default().unwrap_or(0);
        // Resolved off this thread, and under the same limit.
        let host = host.trim_matches(['[', ']']);
        matches!(timeout(LOOK, TcpStream::connect((host, port))).await, Ok(Ok(_)))
    }

    fn body(&self, message: &Message) -> Vec<u8> {
        let notification = &message.notification;
        let notice = &notification.notice;
        let alert = &notice.alert;
        let kind = notice.kind.as_str();
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
        json!({
            "specversion": "1.0",
            "id": notification.id,
            "source": self.config.source,
            "type": format!("infra.{kind}"),
            "time": Stamp(notice.at),
            "subject": alert.component.as_str(),
            "datacontenttype": "application/json",
            "data": {
                "kind": kind,
                "attempt": message.attempt,
                "merged": message.merged,
                "instance": self.config.instance,
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
                "text": notification.text(),
            },
        })
        .to_string()
        .into_bytes()
    }
}

/// `v1,<base64 HMAC-SHA256 of id.timestamp.body>`; a secret beginning with `whsec_` is base64, as that format has it.
fn sign(secret: &SecretString, id: &str, timestamp: u64, body: &[u8]) -> String {
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

/// Seconds, or a date.
fn retry_after(value: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&chrono::Utc);
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
            crate::domain::time::span(from_ms(i64::try_from(now.as_millis()).ok()?), date)
        }
    };
    Some(wait.min(LONGEST_WAIT))
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

    #[test]
    fn a_receiver_may_ask_for_patience_within_reason() {
        assert_eq!(retry_after(Some("7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(Some("86400")), Some(LONGEST_WAIT));
        assert_eq!(retry_after(Some("Fri, 31 Dec 1999 23:59:59 GMT")), Some(Duration::ZERO));
        assert_eq!(retry_after(Some("soon")), None);
        assert_eq!(retry_after(None), None);
    }
}
