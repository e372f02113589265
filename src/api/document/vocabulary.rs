//! The words of the domain as schemas. They are described here, since the domain knows nothing of documents.

use std::borrow::Cow;

use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::api::administer::Origin;
use crate::domain::alert::{AlertStatus, AlertType, Severity};
use crate::domain::assertion::Op;
use crate::domain::event::EventKind;
use crate::domain::maintenance::WindowSource;
use crate::domain::notification::NoticeKind;
use crate::domain::observation::{Kind, Reason};
use crate::domain::outage::OutageSeverity;
use crate::domain::probe::Protocol;
use crate::domain::rollup::Resolution;
use crate::domain::service::{ServiceName, Source};
use crate::domain::spec::Miss;
use crate::domain::status::Status;
use crate::domain::time::Stamp;

/// Implements the schema of a domain type, under its name and with what it means.
macro_rules! described {
    ($($type:ty, $name:literal, $meaning:literal: $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.description(Some($meaning)).build().into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    )*};
}

/// One of some words.
fn words<W: Into<serde_json::Value>>(words: impl IntoIterator<Item = W>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.into_iter().map(Into::into)))
}

/// The words of an enum as they are written.
fn written<W: serde::Serialize>(all: impl IntoIterator<Item = W>) -> ObjectBuilder {
    words(all.into_iter().filter_map(|one| serde_json::to_value(one).ok()))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn instant() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

described! {
    Stamp, "Timestamp", "RFC 3339 in UTC, with milliseconds": instant();
    ServiceName, "ServiceName", "Matched ignoring case, shown as registered":
        text().pattern(Some(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"));
    Status, "Status", "How a service is": written([Status::Healthy, Status::Degraded, Status::Unhealthy, Status::Unknown]);
    Reason, "Reason", "Why a check came out as it did": words(Reason::ALL.map(Reason::as_str));
    AlertType, "AlertType", "The rule that raised an alert": words(AlertType::ALL.map(AlertType::as_str));
    AlertStatus, "AlertStatus", "Where an alert is in its life": words(AlertStatus::ALL.map(AlertStatus::as_str));
    Severity, "Severity", "How bad an alert is": words(Severity::ALL.map(Severity::as_str));
    OutageSeverity, "OutageSeverity", "How bad an outage is": words(OutageSeverity::ALL.map(OutageSeverity::as_str));
    Protocol, "Protocol", "How a service is probed": words(Protocol::ALL.map(Protocol::as_str));
    Kind, "CheckKind", "What a check was made for": written([Kind::Scheduled, Kind::Confirm, Kind::Manual]);
    Resolution, "Resolution", "Length of one point of a history": words(["minute", "hour", "day"]);
    EventKind, "EventType", "What happened": words(EventKind::ALL.map(EventKind::as_str));
    NoticeKind, "NoticeKind", "What a message to a receiver says": words([
        NoticeKind::AlertRaised, NoticeKind::AlertSeverityRaised, NoticeKind::AlertEscalated, NoticeKind::AlertReminder,
        NoticeKind::AlertResolved, NoticeKind::Digest, NoticeKind::Test,
    ].map(NoticeKind::as_str));
    Source, "ServiceSource", "Where a service was defined": written([Source::File, Source::Api, Source::Environment]);
    WindowSource, "WindowSource", "Where a window was defined": written([WindowSource::File, WindowSource::Api]);
    Origin, "SettingSource", "Where a setting was last written":
        written([Origin::Default, Origin::File, Origin::Environment, Origin::Stored]);
    Miss, "Miss", "What an answer other than expected makes a service": written([Miss::Degraded, Miss::Unhealthy]);
    Op, "Comparison", "How a selected value is compared":
        written([Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge, Op::Matches, Op::Exists]);
}

/// Any JSON value.
pub(in crate::api) struct Anything;

impl PartialSchema for Anything {
    fn schema() -> RefOr<Schema> {
        Object::with_type(utoipa::openapi::schema::SchemaType::AnyValue).into()
    }
}

impl ToSchema for Anything {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Anything")
    }
}
