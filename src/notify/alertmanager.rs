//! Alertmanager, API v2: what its own rules would send. It forgets an alert it does not hear of, so living ones are sent
//! again; and it knows an alert by its labels, so those must be the same each time.
//!
//! Severity is a label that may rise: from then on it is another alert there, and the message that tells of the rise ends
//! the milder ones. Why not this process as `instance`: its name may change with a restart, and the end would miss.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::http::{Http, address, wall_clock};
use super::{DeliveryError, Message, Sender, Unusable};
use crate::domain::alert::{Alert, Severity};
use crate::domain::notification::{DigestItem, NoticeKind};
use crate::domain::time::Stamp;

/// Between two times a living alert is told: as Prometheus does, its default.
pub const RESEND: Duration = Duration::from_secs(60);
/// A firing alert ends by itself after this long without news: as Prometheus does, four times the pace.
const FIRES_FOR: Duration = Duration::from_secs(240);
/// Alerts in one request: our choice, some 100 KB.
const BATCH: usize = 200;

/// A receiver that is an Alertmanager.
#[derive(Debug, Clone)]
pub struct Alertmanager {
    pub(super) http: Http,
    job: String,
}

/// One alert in the words of Alertmanager.
struct Told<'a> {
    kind: &'a str,
    component: &'a str,
    severity: Severity,
    title: &'a str,
    description: &'a str,
    alert_id: &'a str,
    starts: DateTime<Utc>,
    ends: Option<DateTime<Utc>>,
    /// It may be known there with a milder severity.
    has_risen: bool,
}

impl<'a> Told<'a> {
    fn of(alert: &'a Alert, has_risen: bool) -> Self {
        Self {
            kind: alert.kind.as_str(),
            component: alert.component.as_str(),
            severity: alert.severity,
            title: &alert.title,
            description: &alert.description,
            alert_id: &alert.id,
            starts: alert.triggered_at,
            ends: alert.resolved_at,
            has_risen,
        }
    }

    fn of_item(item: &'a DigestItem) -> Self {
        Self {
            kind: item.alert_kind.as_str(),
            component: &item.component,
            severity: item.severity,
            title: &item.title,
            description: &item.title,
            alert_id: &item.alert_id,
            starts: item.started,
            ends: item.kind.is_end().then_some(item.at),
            has_risen: item.kind != NoticeKind::AlertRaised || item.merged > 1,
        }
    }
}

/// Where alerts are posted under the address of an Alertmanager.
pub(super) fn endpoint(url: &SecretString) -> Result<SecretString, Unusable> {
    address(url)?;
    Ok(format!("{}/api/v2/alerts", url.expose_secret().trim_end_matches('/')).into())
}

impl Alertmanager {
    pub(super) fn new(http: Http, sender: &Sender) -> Self {
        Self { http, job: sender.service.clone() }
    }

    pub(super) async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        let notification = &message.notification;
        let alerts: Vec<Value> = match &notification.digest {
            Some(digest) => digest.items.iter().flat_map(|item| self.alerts(&Told::of_item(item))).collect(),
            None => {
                let notice = &notification.notice;
                let has_risen = notice.kind != NoticeKind::AlertRaised || message.merged > 1;
                let told = Told::of(&notice.alert, has_risen);
                self.alerts(&if notice.kind == NoticeKind::Test { Told { kind: "test", ..told } } else { told })
            }
        };
        self.post(&notification.id, &alerts).await
    }

    pub(super) async fn resend(&self, alerts: &[Arc<Alert>]) -> Result<(), DeliveryError> {
        let alerts: Vec<Value> = alerts.iter().flat_map(|alert| self.alerts(&Told::of(alert, false))).collect();
        self.post("resend", &alerts).await
    }

    async fn post(&self, id: &str, alerts: &[Value]) -> Result<(), DeliveryError> {
        for batch in alerts.chunks(BATCH) {
            Http::send(self.http.post(id).json(batch)).await?;
        }
        Ok(())
    }

    /// The alert, and the ends of what it may have been before.
    fn alerts(&self, told: &Told<'_>) -> Vec<Value> {
        let now = wall_clock();
        let milder = Severity::ALL.into_iter().filter(|severity| told.has_risen && *severity < told.severity);
        let ended = milder.map(|severity| self.alert(told, severity, now));
        let ends = told.ends.unwrap_or(now + FIRES_FOR);
        [self.alert(told, told.severity, ends)].into_iter().chain(ended).collect()
    }

    fn alert(&self, told: &Told<'_>, severity: Severity, ends: DateTime<Utc>) -> Value {
        json!({
            "labels": {
                "alertname": told.kind,
                "service": told.component,
                "severity": severity,
                "instance": told.component,
                "job": self.job,
            },
            "annotations": {
                "summary": told.title,
                "description": told.description,
                "alert_id": told.alert_id,
            },
            "startsAt": Stamp(told.starts),
            // Not before its start, which is an error there.
            "endsAt": Stamp(ends.max(told.starts)),
        })
    }
}
