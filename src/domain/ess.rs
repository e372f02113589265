//! The emergency stop of source 004: reads what other parties say of it, and decides what that means for us
//! (CONTRACT.md 14.2 and 14.3). Whether an entry comes late, twice or out of order, and whether it can be read at all, is
//! settled here; what follows from it is the judge's.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::maintenance::spec::instant;
use super::observation::clean;
use super::time::{from_ms, span};

/// Largest entry that is read: our choice; those of source 004 are some hundred bytes.
const ENTRY_BYTES: usize = 64 * 1024;
/// Longest id of an event: our choice, three UUIDs.
const ID_CHARS: usize = 128;
/// Entries remembered as dealt with: our choice, some 2 MB. Older ones are caught by their age.
pub const REMEMBERED: usize = 10_000;

/// What others tell us: CONTRACT.md 14.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    Tripped,
    ManualReset,
    Rearmed,
}

impl Inbound {
    pub const ALL: [Self; 3] = [Self::Tripped, Self::ManualReset, Self::Rearmed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tripped => "ess.tripped",
            Self::ManualReset => "ess.manual_reset",
            Self::Rearmed => "ess.rearmed",
        }
    }
}

/// An entry of a stream as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `<unix ms>-<number>`, given by Redis.
    pub id: String,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub kind: Inbound,
    /// The same on every copy.
    pub key: String,
    /// When it was said; not after now, so that a wrong clock elsewhere overrules nothing of later.
    pub at: DateTime<Utc>,
    /// `Unknown` when none was given.
    pub reason: String,
    pub payload: Map<String, Value>,
}

/// What a message means.
#[derive(Debug, Clone, PartialEq)]
pub enum Ess {
    Trip {
        reason: String,
        facts: Map<String, Value>,
    },
    Lift,
    /// It was dealt with before.
    Repeated,
    /// Why it means nothing any more.
    Stale(&'static str),
}

/// What is known of earlier messages.
#[derive(Debug, Default)]
pub struct Known {
    seen: HashSet<String>,
    in_order: VecDeque<String>,
    pub last_trip: Option<DateTime<Utc>>,
    pub last_lift: Option<DateTime<Utc>>,
}

impl Message {
    /// Reads an entry: its fields with the payload as JSON text in one of them, or the fields themselves as the payload.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence without a subject.
    pub fn read(kind: Inbound, entry: &Entry, now: DateTime<Utc>) -> Result<Self, String> {
        if entry.fields.is_empty() {
            return Err("was trimmed away before it was read".to_owned());
        }
        if entry.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > ENTRY_BYTES {
            return Err(format!("is over {} KiB", ENTRY_BYTES / 1024));
        }
        let mut fields = Map::new();
        for (name, value) in &entry.fields {
            let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned());
            fields.insert(text(name)?.to_owned(), Value::from(text(value)?));
        }
        let field = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let key = match field("event_id") {
            Some(id) if id.chars().count() > ID_CHARS => return Err(format!("event_id is over {ID_CHARS} characters")),
            Some(id) => format!("{}:{id}", kind.as_str()),
            None => format!("{}@{}", kind.as_str(), entry.id),
        };
        let added = entry.id.split('-').next().and_then(|ms| ms.parse().ok()).map(from_ms);
        let at = field("timestamp").and_then(instant).or(added).unwrap_or(now).min(now);
        let payload = match (fields.get("payload"), field("payload")) {
            (None, _) => fields,
            (Some(_), None) => Map::new(),
            (Some(_), Some(text)) => match serde_json::from_str(text) {
                Ok(Value::Object(payload)) => payload,
                Ok(_) => return Err("payload is not a JSON object".to_owned()),
                Err(error) => return Err(format!("payload is not JSON: {error}")),
            },
        };
        let reason = match payload.get("reason") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(reason)) => clean(reason),
            // An emergency stop is one whatever its reason looks like.
            Some(_) => String::new(),
        };
        let reason = if reason.trim().is_empty() { "Unknown".to_owned() } else { reason };
        Ok(Self { kind, key, at, reason, payload })
    }
}

impl Known {
    /// Decides about a message; `max_age`: older ones mean nothing.
    pub fn decide(&self, message: &Message, now: DateTime<Utc>, max_age: Duration) -> Ess {
        if self.seen.contains(&message.key) {
            return Ess::Repeated;
        }
        if span(message.at, now) > max_age {
            return Ess::Stale("it is too old");
        }
        // Of two said in the same instant the trip counts: rather a stop too many.
        match message.kind {
            Inbound::Tripped if self.last_lift.is_some_and(|lift| message.at < lift) => {
                Ess::Stale("the stop was lifted after it")
            }
            Inbound::Tripped => Ess::Trip { reason: message.reason.clone(), facts: message.payload.clone() },
            Inbound::ManualReset | Inbound::Rearmed if self.last_trip.is_some_and(|trip| message.at < trip) => {
                Ess::Stale("the stop was tripped again after it")
            }
            Inbound::ManualReset | Inbound::Rearmed => Ess::Lift,
        }
    }

    /// Notes a message that was dealt with.
    pub fn note(&mut self, message: &Message) {
        let last = if message.kind == Inbound::Tripped { &mut self.last_trip } else { &mut self.last_lift };
        *last = (*last).max(Some(message.at));
        self.remember(message.key.clone());
    }

    /// A message with this key was dealt with.
    pub fn remember(&mut self, key: String) {
        if self.seen.insert(key.clone()) {
            self.in_order.push_back(key);
        }
        if self.in_order.len() > REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_769_855_400_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Entry { id: format!("{NOW}-0"), fields: fields.collect() }
    }

    fn read(fields: &[(&str, &str)]) -> Result<Message, String> {
        Message::read(Inbound::Tripped, &entry(fields), from_ms(NOW))
    }

    fn message(kind: Inbound, id: &str, ms_ago: i64) -> Message {
        let at = from_ms(NOW - ms_ago);
        Message { kind, key: id.to_owned(), at, reason: "Unknown".to_owned(), payload: Map::new() }
    }

    #[test]
    fn both_forms_are_read() {
        let wrapped = read(&[
            ("event_type", "ess.tripped"),
            ("event_id", "e-1"),
            ("timestamp", "2026-01-31T10:00:00.250"),
            ("payload", r#"{"reason":"Fire in hall 2","trip_count":3}"#),
        ])
        .unwrap();
        assert_eq!((wrapped.key.as_str(), wrapped.reason.as_str()), ("ess.tripped:e-1", "Fire in hall 2"));
        assert_eq!(wrapped.at.timestamp_millis(), NOW - 30 * 60_000 + 250);
        assert_eq!(Value::Object(wrapped.payload), json!({"reason": "Fire in hall 2", "trip_count": 3}));
        let flat = read(&[("reason", "Fire"), ("severity", "high")]).unwrap();
        assert_eq!((flat.key.as_str(), flat.reason.as_str()), ("ess.tripped@1769855400000-0", "Fire"));
        assert_eq!(flat.at, from_ms(NOW));
        assert_eq!(Value::Object(flat.payload), json!({"reason": "Fire", "severity": "high"}));
    }

    #[test]
    fn a_stop_without_a_reason_or_a_usable_time_is_a_stop() {
        for fields in [
            &[("payload", "{}")][..],
            &[("payload", "")],
            &[("payload", r#"{"reason":null}"#)],
            &[("payload", r#"{"reason":7}"#)],
            &[("x", "")],
        ] {
            assert_eq!(read(fields).unwrap().reason, "Unknown");
        }
        for timestamp in ["yesterday", "", "99999-01-01", "2099-01-01T00:00:00Z"] {
            assert_eq!(read(&[("timestamp", timestamp), ("payload", "{}")]).unwrap().at, from_ms(NOW));
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let check = |fields: &[(&str, &str)], wanted: &str| {
            let error = read(fields).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        check(&[("payload", "{")], "payload is not JSON");
        check(&[("payload", "[1]")], "payload is not a JSON object");
        check(&[("payload", &"[".repeat(1000))], "payload is not JSON");
        check(&[("event_id", &"e".repeat(129)), ("payload", "{}")], "event_id is over 128");
        check(&[("payload", &format!("{{\"a\":\"{}\"}}", "x".repeat(ENTRY_BYTES)))], "is over 64 KiB");
        let foreign = Entry { id: "1-0".to_owned(), fields: vec![(b"payload".to_vec(), vec![0xff])] };
        assert_eq!(Message::read(Inbound::Tripped, &foreign, from_ms(NOW)), Err("is not UTF-8".to_owned()));
        check(&[], "was trimmed away");
    }

    #[test]
    fn late_repeated_and_overtaken_messages_mean_nothing() {
        let mut known = Known::default();
        let decide = |known: &Known, message: &Message| known.decide(message, from_ms(NOW), DAY);
        let is_trip = |ess: Ess| matches!(ess, Ess::Trip { .. });
        assert!(is_trip(decide(&known, &message(Inbound::Tripped, "a", DAY.as_millis() as i64))));
        let old = message(Inbound::Tripped, "a", DAY.as_millis() as i64 + 1);
        assert_eq!(decide(&known, &old), Ess::Stale("it is too old"));

        known.note(&message(Inbound::Tripped, "a", 500));
        assert_eq!(decide(&known, &message(Inbound::Tripped, "a", 500)), Ess::Repeated);
        assert_eq!(decide(&known, &message(Inbound::Rearmed, "b", 500)), Ess::Lift);
        let early = message(Inbound::ManualReset, "c", 501);
        assert_eq!(decide(&known, &early), Ess::Stale("the stop was tripped again after it"));

        known.note(&message(Inbound::Rearmed, "b", 400));
        let overtaken = message(Inbound::Tripped, "d", 401);
        assert_eq!(decide(&known, &overtaken), Ess::Stale("the stop was lifted after it"));
        assert!(is_trip(decide(&known, &message(Inbound::Tripped, "e", 400))));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for n in 0..=REMEMBERED {
            known.remember(n.to_string());
        }
        assert_eq!((known.seen.len(), known.in_order.len()), (REMEMBERED, REMEMBERED));
        assert!(!known.seen.contains("0") && known.seen.contains("1"));
    }
}
