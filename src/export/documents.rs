//! Documents as the indices hold them (CONTRACT.md 17.1). Pure: the same fact always makes the same document under the
//! same id, so that one sent twice is one.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::domain::check::{LoggedCheck, check_id};
use crate::domain::maintenance::{MaintenanceWindow, Span};
use crate::domain::notification::Delivery;
use crate::domain::outage::Outage;
use crate::domain::service::{Service, ServiceName};
use crate::domain::time::Stamp;
use crate::domain::words::{check_message, check_word, ms, word};

/// The three kinds of indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    Status,
    Outage,
    Maintenance,
}

impl Index {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Outage => "outage",
            Self::Maintenance => "maintenance",
        }
    }

    /// The kind of the index of this name.
    pub fn of(name: &str) -> Self {
        if name.starts_with(STATUS) {
            Self::Status
        } else if name.starts_with(OUTAGE) {
            Self::Outage
        } else {
            Self::Maintenance
        }
    }
}

const STATUS: &str = "isp-service-status-";
const OUTAGE: &str = "isp-service-outage-";
const MAINTENANCE: &str = "isp-maintenance-windows";

/// What is to be done with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It never changes: one that is there is the same.
    Create,
    /// It replaces what is there.
    Index,
    Delete,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Index => "index",
            Self::Delete => "delete",
        }
    }
}

/// One document on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Name of its index.
    pub index: String,
    pub id: String,
    pub action: Action,
    /// JSON; nothing for a deletion.
    pub body: Option<String>,
}

impl Document {
    /// Bytes of it in a request, about.
    pub fn bytes(&self) -> usize {
        64 + self.index.len() + self.id.len() + self.body.as_ref().map_or(0, String::len)
    }

    /// Its one or two lines.
    pub fn write(&self, to: &mut Vec<u8>) {
        let head = json!({self.action.as_str(): {"_index": self.index, "_id": self.id}});
        to.extend_from_slice(head.to_string().as_bytes());
        to.push(b'\n');
        if let Some(body) = &self.body {
            to.extend_from_slice(body.as_bytes());
            to.push(b'\n');
        }
    }
}

/// What every document is made with.
#[derive(Debug, Clone)]
pub struct Maker {
    pub date_format: String,
    /// Name of this process.
    pub instance: String,
}

impl Maker {
    fn dated(&self, prefix: &str, at: DateTime<Utc>) -> String {
        format!("{prefix}{}", at.format(&self.date_format))
    }

    /// A stored check.
    pub fn check(&self, service: &Service, logged: &LoggedCheck) -> Document {
        let check = &logged.check;
        let id = check_id(logged.service, check).to_string();
        let context = logged.context.as_ref();
        let body = json!({
            "id": id,
            "endpoint_id": service.name,
            "endpoint_name": service.display_name,
            "endpoint_url": service.url,
            "protocol": service.protocol.as_str(),
            "status": check_word(check),
            "response_time": ms(check.response_us),
            "error_message": check_message(service, check),
            "timestamp": Stamp(check.at()),
            "@timestamp": Stamp(check.at()),
            "tags": service.tags,
            "metadata": {
                "reason": check.reason,
                "kind": check.kind,
                "sequence": context.map(|context| context.sequence),
                "from": context.map(|context| word(context.from)),
                "to": word(check.status),
                "outage_id": context.and_then(|context| context.outage),
                "alert_id": context.and_then(|context| context.alert.as_deref()),
                "instance": self.instance,
                "fencing_token": null,
            },
        });
        let index = self.dated(STATUS, check.at());
        Document { index, id, action: Action::Create, body: Some(body.to_string()) }
    }

    /// An outage as it is now. `service`: as it is defined, if it still is. `told`: what receivers have taken about it.
    /// `alert`: the living alert about it.
    pub fn outage(
        &self,
        outage: &Outage,
        service: Option<&Service>,
        told: &[Delivery],
        alert: Option<&str>,
    ) -> Document {
        let mut channels: Vec<&str> = Vec::new();
        for delivery in told {
            if !channels.contains(&delivery.channel.as_str()) {
                channels.push(&delivery.channel);
            }
        }
        let seconds = outage.ended.map(|ended| outage.duration(ended).as_secs());
        let body = json!({
            "id": outage.id,
            "endpoint_id": outage.service,
            "endpoint_name": service.map(|service| &service.display_name),
            "endpoint_url": service.map(|service| &service.url),
            "protocol": service.map(|service| service.protocol.as_str()),
            "severity": outage.severity.as_str(),
            "description": format!("Service outage detected: {}", outage.error_message),
            "start_time": Stamp(outage.started),
            "end_time": outage.ended.map(Stamp),
            "resolved": !outage.is_open(),
            "resolved_at": outage.ended.map(Stamp),
            "resolved_by": outage.resolved_by,
            "resolution_notes": outage.resolution_notes,
            "duration_seconds": seconds,
            "notification_channels": channels,
            "notification_sent": !told.is_empty(),
            "created_at": Stamp(outage.confirmed),
            "updated_at": Stamp(outage.updated.unwrap_or(outage.confirmed)),
            "@timestamp": Stamp(outage.started),
            "tags": service.map_or(&[][..], |service| &service.tags),
            "metadata": {
                "reason": outage.reason,
                "outage_id": outage.id,
                "alert_id": alert.or_else(|| told.first().map(|delivery| delivery.alert_id.as_str())),
                "instance": self.instance,
                "fencing_token": null,
            },
        });
        let index = self.dated(OUTAGE, outage.started);
        Document { index, id: outage.id.to_string(), action: Action::Index, body: Some(body.to_string()) }
    }

    /// An outage that was erased with its service.
    pub fn no_outage(&self, id: Uuid, started: DateTime<Utc>) -> Document {
        Document { index: self.dated(OUTAGE, started), id: id.to_string(), action: Action::Delete, body: None }
    }
}

/// One service of a maintenance window. `when`: the time shown, for one that recurs the next or present one.
pub fn window(window: &MaintenanceWindow, when: Span, service: &Service) -> Document {
    let body = json!({
        "id": window.id,
        "endpoint_id": service.name,
        "endpoint_name": service.display_name,
        "description": window.description,
        "start_time": Stamp(when.from),
        "end_time": Stamp(when.to),
        "created_by": window.created_by,
        "created_at": Stamp(window.created_at),
        "updated_at": Stamp(window.updated_at),
        "@timestamp": Stamp(when.from),
    });
    Document {
        index: MAINTENANCE.to_owned(),
        id: window_id(window.id, &service.name),
        action: Action::Index,
        body: Some(body.to_string()),
    }
}

/// A service that a window covers no more.
pub fn no_window(window: Uuid, service: &ServiceName) -> Document {
    let id = window_id(window, service);
    Document { index: MAINTENANCE.to_owned(), id, action: Action::Delete, body: None }
}

fn window_id(window: Uuid, service: &ServiceName) -> String {
    format!("{window}:{service}")
}

/// When a window is shown to be; one that recurs: in force now, else the next time, else the whole of it.
pub fn shown_time(window: &MaintenanceWindow, now: DateTime<Utc>) -> Span {
    let whole = Span { from: window.start, to: window.end };
    let Some(recurrence) = &window.recurrence else { return whole };
    let lasting = TimeDelta::minutes(i64::from(recurrence.duration_minutes));
    let around = window.spans(now - lasting, now + lasting);
    let present = around.into_iter().find(|part| part.contains(now));
    let next = || window.next_start(now).map(|from| Span { from, to: (from + lasting).min(window.end) });
    present.or_else(next).unwrap_or(whole)
}
