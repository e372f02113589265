//! What a receiver is told, and how owed messages join (CONTRACT.md section 13, section 20 "Group wait").

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert::{Alert, AlertStatus, AlertType, Severity};
use super::outage::Outage;
use super::service::ServiceName;
use super::status::Status;

/// Why a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    AlertRaised,
    AlertSeverityRaised,
    AlertEscalated,
    /// Nobody has looked after it for long.
    AlertReminder,
    AlertResolved,
    /// Many at once, in one message.
    Digest,
    /// Asked for by an operator, to see whether it arrives.
    Test,
}

impl NoticeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlertRaised => "alert_raised",
            Self::AlertSeverityRaised => "alert_severity_raised",
            Self::AlertEscalated => "alert_escalated",
            Self::AlertReminder => "alert_reminder",
            Self::AlertResolved => "alert_resolved",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }

    /// It tells of an end.
    pub fn is_end(self) -> bool {
        self == Self::AlertResolved
    }
}

/// What was decided to be told, before channels are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    pub kind: NoticeKind,
    pub alert: Alert,
    pub outage: Option<Outage>,
    pub from: Status,
    pub to: Status,
    /// How its service is reached: URL without credentials, and protocol in upper case.
    pub url: Option<String>,
    pub protocol: Option<String>,
    pub at: DateTime<Utc>,
}

/// One row of the outbox: a notice on its way to one channel, under one key for life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// `<alert id>:<sequence>:<channel>`.
    pub id: String,
    pub channel: String,
    pub notice: Notice,
    /// Not before this instant: the group wait.
    pub due: DateTime<Utc>,
    /// Everything it stands for, when it is a digest; `notice` is then that of the first of them.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// Many messages in one: the root causes first, then the worst.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    pub items: Vec<DigestItem>,
    /// What is to be known of all of them.
    pub note: Option<String>,
}

/// One alert in a digest, with its latest news.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DigestItem {
    pub alert_id: String,
    pub outage_id: Option<Uuid>,
    pub component: String,
    pub kind: NoticeKind,
    pub alert_kind: AlertType,
    pub severity: Severity,
    pub title: String,
    pub at: DateTime<Utc>,
    /// When it was triggered.
    pub started: DateTime<Utc>,
    /// Services that fail for its sake.
    pub impacted: usize,
    /// Rows it stands for.
    pub merged: usize,
}

impl DigestItem {
    /// The news of `notification`, which stands for `merged` rows.
    pub fn of(notification: &Notification, merged: usize) -> Self {
        let notice = &notification.notice;
        let alert = &notice.alert;
        Self {
            alert_id: alert.id.clone(),
            outage_id: notice.outage.as_ref().map(|outage| outage.id).or(alert.outage_id),
            component: alert.component.as_str().to_owned(),
            kind: notice.kind,
            alert_kind: alert.kind,
            severity: alert.severity,
            title: alert.title.clone(),
            at: notice.at,
            started: alert.triggered_at,
            impacted: alert.details.impacted.len(),
            merged,
        }
    }
}

impl Digest {
    /// Why many in one message is no loss: the size they take is bounded, each can be read in the API.
    fn text(&self, most_bytes: usize) -> String {
        let ends = self.items.iter().filter(|item| item.kind.is_end()).count();
        let mut text = match (self.items.len() - ends, ends) {
            (news, 0) => format!("{news} ALERTS"),
            (0, ends) => format!("{ends} RECOVERED"),
            (news, ends) => format!("{news} ALERTS, {ends} RECOVERED"),
        };
        if let Some(note) = &self.note {
            text.push('\n');
            text.push_str(note);
        }
        for (place, item) in self.items.iter().enumerate() {
            let level = if item.kind.is_end() { "RECOVERED" } else { item.severity.level() };
            let mut line = format!("\n{level} {}", item.title);
            if item.impacted > 0 {
                line.push_str(&format!(" (and {} that depend on it)", item.impacted));
            }
            let more = format!("\n... and {} more; see /alerts/active", self.items.len() - place);
            if text.len() + line.len() + more.len() > most_bytes {
                text.push_str(&more);
                break;
            }
            text.push_str(&line);
        }
        text
    }
}

/// Longest text of a message: HARDENING.md SLO-7 allows 256 KB for the whole of it.
const MOST_TEXT: usize = 60_000;

impl Notification {
    pub fn new(notice: Notice, channel: &str, due: DateTime<Utc>) -> Self {
        let id = format!("{}:{}:{channel}", notice.alert.id, notice.alert.sequence);
        Self { id, channel: channel.to_owned(), notice, due, digest: None }
    }

    /// Ids of the alerts it tells of.
    pub fn about(&self) -> impl Iterator<Item = &str> {
        let many = self.digest.iter().flat_map(|digest| digest.items.iter().map(|item| item.alert_id.as_str()));
        many.chain(self.digest.is_none().then_some(self.notice.alert.id.as_str()))
    }

    /// How bad it is; of a digest, the worst of its alerts.
    pub fn severity(&self) -> Severity {
        let items = self.digest.iter().flat_map(|digest| digest.items.iter().map(|item| item.severity));
        items.max().unwrap_or(self.notice.alert.severity)
    }

    /// One line that says it all.
    pub fn title(&self) -> String {
        if let Some(digest) = &self.digest {
            return digest.text(0).lines().next().unwrap_or_default().to_owned();
        }
        let alert = &self.notice.alert;
        let (end, name) = (self.notice.kind.is_end(), alert.component.as_str());
        match (self.notice.kind, alert.kind.waits_for_outage(), end) {
            (NoticeKind::Test, _, _) => "TEST of the health monitor: no action is needed".to_owned(),
            (_, true, false) => format!("SERVICE OUTAGE: {name}"),
            (_, true, true) => format!("SERVICE RECOVERED: {name}"),
            (_, false, false) => alert.title.clone(),
            (_, false, true) => format!("RECOVERED: {}", alert.title),
        }
    }

    /// Title and facts for people, after the notice of source 003.
    pub fn text(&self) -> String {
        self.text_within(MOST_TEXT)
    }

    /// The same in at most so many bytes; a digest says how many alerts did not fit.
    pub fn text_within(&self, most_bytes: usize) -> String {
        let mut text = match &self.digest {
            Some(digest) => digest.text(most_bytes),
            None => self.text_of_one(),
        };
        if text.len() > most_bytes {
            text.truncate(text.floor_char_boundary(most_bytes.saturating_sub(3)));
            text.push('…');
        }
        text
    }

    fn text_of_one(&self) -> String {
        let notice = &self.notice;
        let alert = &notice.alert;
        let resolved = notice.kind.is_end();
        let mut lines = vec![self.title()];
        lines.push(format!("Alert: {}", alert.id));
        lines.push(format!("Severity: {}", if resolved { "RECOVERED" } else { alert.severity.level() }));
        lines.push(alert.description.clone());
        let started = notice.outage.as_ref().map_or(alert.triggered_at, |outage| outage.started);
        let utc = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S UTC");
        match alert.resolved_at.filter(|_| resolved) {
            Some(at) => {
                lines.push(format!("Recovered: {}", utc(at)));
                lines.push(format!("Duration: {}", super::time::spoken(super::time::span(started, at))));
            }
            None => lines.push(format!("Started: {}", utc(started))),
        }
        if let (Some(protocol), Some(url)) = (&notice.protocol, &notice.url) {
            lines.push(format!("{protocol}: {url}"));
        }
        if !alert.details.impacted.is_empty() {
            let names: Vec<&str> = alert.details.impacted.iter().map(ServiceName::as_str).collect();
            lines.push(format!("Impacted: {}", names.join(", ")));
        }
        lines.join("\n")
    }
}

/// A message that a receiver has taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Of the notification.
    pub id: String,
    pub alert_id: String,
    pub outage_id: Option<Uuid>,
    pub channel: String,
    pub kind: NoticeKind,
    /// When it was owed, and when it was taken.
    pub owed_at: DateTime<Utc>,
    pub delivered_at: DateTime<Utc>,
    pub attempts: u32,
    /// Without credentials.
    pub recipients: Vec<String>,
    pub text: String,
}

impl Notification {
    /// This message, taken at `at` after so many `attempts`: one delivery for each alert it tells of.
    pub fn deliveries(&self, at: DateTime<Utc>, attempts: u32, recipients: &[String]) -> Vec<Delivery> {
        let recipients = recipients.to_vec();
        let Some(digest) = &self.digest else {
            return vec![self.delivery(at, attempts, recipients)];
        };
        let one = |item: &DigestItem| Delivery {
            id: format!("{}#{}", self.id, item.alert_id),
            alert_id: item.alert_id.clone(),
            outage_id: item.outage_id,
            channel: self.channel.clone(),
            kind: item.kind,
            owed_at: item.at,
            delivered_at: at,
            attempts,
            recipients: recipients.clone(),
            text: item.title.clone(),
        };
        digest.items.iter().map(one).collect()
    }

    fn delivery(&self, at: DateTime<Utc>, attempts: u32, recipients: Vec<String>) -> Delivery {
        let notice = &self.notice;
        Delivery {
            id: self.id.clone(),
            alert_id: notice.alert.id.clone(),
            outage_id: notice.outage.as_ref().map(|outage| outage.id).or(notice.alert.outage_id),
            channel: self.channel.clone(),
            kind: notice.kind,
            owed_at: notice.at,
            delivered_at: at,
            attempts,
            recipients,
            text: self.text(),
        }
    }
}

/// What becomes of the owed rows of one alert and channel, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub enum Joined {
    /// Send this one; the rows it stands for are closed with it.
    Send { notification: Box<Notification>, closes: Vec<String> },
    /// A raise and its resolve met before anything was sent: nothing leaves.
    Nothing { closes: Vec<String> },
}

/// Joins rows that are to leave as one: the first kind, the latest state, the newest id.
///
/// `after_long`: the receiver was away for long, and is told of what began and ended meanwhile. `None` for no rows.
pub fn join(rows: &[Notification], after_long: bool) -> Option<Joined> {
    let (first, last) = (rows.first()?, rows.last()?);
    let closes = rows.iter().map(|row| row.id.clone()).collect();
    let resolved = last.notice.alert.status == AlertStatus::Resolved;
    if resolved && !after_long && first.notice.kind == NoticeKind::AlertRaised && rows.len() > 1 {
        return Some(Joined::Nothing { closes });
    }
    let mut joined = last.clone();
    if !resolved {
        joined.notice.kind = first.notice.kind;
    }
    joined.notice.from = first.notice.from;
    Some(Joined::Send { notification: Box::new(joined), closes })
}

#[cfg(test)]
mod tests {
    use super::super::alert::{Severity, Told};
    use super::super::judge::sample_alert;
    use super::super::time::from_ms;
    use super::*;

    fn row(kind: NoticeKind, sequence: u64, resolved: bool) -> Notification {
        let alert = Alert {
            id: "call-service-down-1".to_owned(),
            description: "Service has failed 3 consecutive health checks".to_owned(),
            triggered_at: from_ms(1_000_000),
            status: if resolved { AlertStatus::Resolved } else { AlertStatus::Active },
            resolved_at: resolved.then(|| from_ms(1_120_000)),
            told: Told::Owed,
            sequence,
            ..sample_alert("call", Severity::Critical)
        };
        let notice = Notice {
            kind,
            alert,
            outage: None,
            from: Status::Healthy,
            to: Status::Unhealthy,
            url: Some("http://localhost:3103/health".to_owned()),
            protocol: Some("HTTP".to_owned()),
            at: from_ms(1_000_000),
        };
        Notification::new(notice, "webhook", from_ms(1_001_000))
    }

    #[test]
    fn rows_that_leave_together_join() {
        use NoticeKind::{AlertRaised, AlertResolved, AlertSeverityRaised};
        let check = |rows: &[Notification], after_long, expected: Option<(NoticeKind, &str)>| {
            let told = match join(rows, after_long).unwrap() {
                Joined::Send { notification, closes } => {
                    assert_eq!(closes.len(), rows.len());
                    Some((notification.notice.kind, notification.id))
                }
                Joined::Nothing { .. } => None,
            };
            assert_eq!(told, expected.map(|(kind, id)| (kind, id.to_owned())));
        };
        let (raise, rise, resolve) =
            (row(AlertRaised, 1, false), row(AlertSeverityRaised, 2, false), row(AlertResolved, 3, true));
        check(std::slice::from_ref(&raise), false, Some((AlertRaised, "call-service-down-1:1:webhook")));
        check(&[raise.clone(), rise.clone()], false, Some((AlertRaised, "call-service-down-1:2:webhook")));
        check(&[raise.clone(), rise.clone(), resolve.clone()], false, None);
        check(&[raise, rise.clone(), resolve.clone()], true, Some((AlertResolved, "call-service-down-1:3:webhook")));
        check(std::slice::from_ref(&resolve), false, Some((AlertResolved, "call-service-down-1:3:webhook")));
        check(&[rise, resolve], false, Some((AlertResolved, "call-service-down-1:3:webhook")));
        assert_eq!(join(&[], false), None);
    }

    #[test]
    fn the_text_names_service_times_and_address() {
        let text = row(NoticeKind::AlertResolved, 3, true).text();
        assert_eq!(
            text,
            "SERVICE RECOVERED: call\nAlert: call-service-down-1\nSeverity: RECOVERED\n\
             Service has failed 3 consecutive health checks\nRecovered: 1970-01-01 00:18:40 UTC\nDuration: 2 minutes\n\
             HTTP: http://localhost:3103/health"
        );
    }
}
