//! The dead-man signal on the wire: a small POST in the envelope of the webhook. Its absence is the message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::json;

use super::http::Http;
use super::{DeliveryError, Sender, Unusable};
use crate::domain::time::Stamp;

/// Longest one may take: our choice, half of the shortest useful interval and more than a network needs.
const DEADLINE: Duration = Duration::from_secs(5);

/// Settings of the heartbeat.
#[derive(Debug, Clone)]
pub struct HeartbeatConfig {
    /// May hold a token: never shown.
    pub url: SecretString,
    pub interval: Duration,
    pub sender: Sender,
}

/// Where heartbeats go.
#[derive(Debug)]
pub struct Heartbeat {
    http: Http,
    interval: Duration,
    sender: Sender,
    sent: AtomicU64,
}

impl Heartbeat {
    /// # Errors
    /// The address is unusable.
    pub fn new(config: &HeartbeatConfig) -> Result<Self, Unusable> {
        Ok(Self {
            http: Http::new(&config.url, DEADLINE.min(config.interval))?,
            interval: config.interval,
            sender: config.sender.clone(),
            sent: AtomicU64::new(0),
        })
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// # Errors
    /// It did not arrive.
    pub async fn send(&self, now: DateTime<Utc>, services: usize) -> Result<(), DeliveryError> {
        let sequence = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("heartbeat-{}-{sequence}", self.sender.instance);
        let body = json!({
            "specversion": "1.0", "id": id, "source": self.sender.service, "type": "infra.heartbeat",
            "time": Stamp(now), "subject": "monitor", "datacontenttype": "application/json",
            "data": {
                "kind": "heartbeat", "instance": self.sender.instance, "sequence": sequence, "services": services,
                "interval_seconds": self.interval.as_secs_f64(),
            },
        });
        let request = self.http.post(&id).header("content-type", "application/cloudevents+json").body(body.to_string());
        Http::send(request).await
    }
}
