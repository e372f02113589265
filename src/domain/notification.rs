//! What a receiver is told, and how owed messages join (CONTRACT.md section 13, section 20 "Group wait").

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alert::{Alert, AlertStatus};
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
    AlertResolved,
}

impl NoticeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlertRaised => "alert_raised",
            Self::AlertSeverityRaised => "alert_severity_raised",
            Self::AlertEscalated => "alert_escalated",
            Self::AlertResolved => "alert_resolved",
        }
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
}

impl Notification {
    pub fn new(notice: Notice, channel: &str, due: DateTime<Utc>) -> Self {
        let id = format!("{}:{}:{channel}", notice.alert.id, notice.alert.sequence);
        Self { id, channel: channel.to_owned(), notice, due }
    }

    /// Title and facts for people, after the notice of source 003.
    pub fn text(&self) -> String {
        let notice = &self.notice;
        let alert = &notice.alert;
        let resolved = notice.kind == NoticeKind::AlertResolved;
        let name = alert.component.as_str();
        let mut lines = vec![match (alert.kind.waits_for_outage(), resolved) {
            (true, false) => format!("SERVICE OUTAGE: {name}"),
            (true, true) => format!("SERVICE RECOVERED: {name}"),
            (false, false) => alert.title.clone(),
            (false, true) => format!("RECOVERED: {}", alert.title),
        }];
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
