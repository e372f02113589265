//! A check's stored result, and its compact form in the check log of Records.
//!
//! The log holds one blob per second of checks. In it a check takes 8 bytes of name hash and 6 to 8 more when it was
//! answered; only failures carry their text.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::observation::{Kind, Observation, Reason};
use super::service::ServiceName;
use super::status::Status;
use super::time::from_ms;

/// The stored result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub at_ms: i64,
    /// `Unknown`: inconclusive.
    pub status: Status,
    pub reason: Reason,
    pub kind: Kind,
    /// 0 without an answer of a protocol that has codes.
    pub http_status: u16,
    /// Microseconds; `None` without an answer.
    pub response_us: Option<u32>,
    /// Healthy checks in a row up to this one, or not healthy ones as a negative number.
    pub streak: i32,
    /// In the words of source 000; only on failures. Shared by equal neighbours.
    pub error: Option<Arc<str>>,
    /// The service was in maintenance: not counted.
    #[serde(default)]
    pub maintenance: bool,
    /// A redirect was followed on the way.
    #[serde(default)]
    pub redirected: bool,
}

impl Check {
    pub fn at(&self) -> DateTime<Utc> {
        from_ms(self.at_ms)
    }

    /// Whole milliseconds, 0 without an answer.
    pub fn response_ms(&self) -> u64 {
        self.response_us.map_or(0, |us| u64::from(us) / 1000)
    }

    pub fn consecutive_failures(&self) -> u32 {
        if self.streak < 0 { self.streak.unsigned_abs() } else { 0 }
    }

    pub fn consecutive_successes(&self) -> u32 {
        u32::try_from(self.streak).unwrap_or(0)
    }
}

/// What a check came out of and led to: kept in the log only where checks are exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckContext {
    /// Number of the check among those of its service; only rises.
    pub sequence: u64,
    /// Status before it.
    pub from: Status,
    /// The outage it belongs to.
    pub outage: Option<Uuid>,
    /// The gravest living alert of the service after it; of failures only.
    pub alert: Option<String>,
}

/// One check as it is read back from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedCheck {
    /// The hash of the service's name.
    pub service: u64,
    pub check: Check,
    pub context: Option<CheckContext>,
}

/// The id of a check is made of facts: the same wherever it is seen.
pub fn check_id(service: u64, check: &Check) -> Uuid {
    let mut tail = [0; 10];
    tail[..8].copy_from_slice(&service.to_be_bytes());
    tail[8] = check.kind as u8;
    uuid::Builder::from_unix_timestamp_millis(check.at_ms.max(0).cast_unsigned(), &tail).into_uuid()
}

/// The response time of `seen` in microseconds, as checks store it.
pub fn response_us(seen: &Observation) -> Option<u32> {
    seen.phases.response.map(|response| u32::try_from(response.as_micros()).unwrap_or(u32::MAX))
}

/// A name's 64-bit hash (FNV-1a over its lower-case form): the phase of its service and its key in the check log.
/// Stable for ever: stored data depends on it.
pub fn name_hash(name: &ServiceName) -> u64 {
    name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Checks of about one second, ready to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckBatch {
    /// Place in the log, given once: a batch written twice is one batch.
    pub mark: i64,
    pub from_ms: i64,
    pub to_ms: i64,
    pub count: usize,
    pub blob: Vec<u8>,
}

impl CheckBatch {
    pub fn push(&mut self, service: u64, check: &Check, context: Option<&CheckContext>) {
        if self.count == 0 {
            (self.from_ms, self.to_ms) = (check.at_ms, check.at_ms);
        }
        self.to_ms = self.to_ms.max(check.at_ms);
        self.count += 1;
        self.blob.extend_from_slice(&service.to_le_bytes());
        let flags = self.blob.len() + zigzag_length(check.at_ms - self.from_ms);
        write_check(&mut self.blob, check, self.from_ms, 0);
        if let (Some(context), Some(flags)) = (context, self.blob.get_mut(flags)) {
            *flags |= HAS_CONTEXT;
            write_context(&mut self.blob, context);
        }
    }

    /// The checks of a stored blob in order; `None` when it is not one of ours.
    pub fn decode(from_ms: i64, blob: &[u8]) -> Option<Vec<LoggedCheck>> {
        let mut rest = blob;
        let mut checks = Vec::new();
        while !rest.is_empty() {
            let (service, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            let (check, has_context) = read_check(&mut rest, from_ms, 0)?;
            let context = if has_context { Some(read_context(&mut rest)?) } else { None };
            checks.push(LoggedCheck { service: u64::from_le_bytes(*service), check, context });
        }
        Some(checks)
    }
}

/// Checks of one service in a row, packed for the check history: each is told by its difference from the one before.
/// A healthy check takes about 11 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRun {
    pub service: u64,
    pub from_ms: i64,
    pub to_ms: i64,
    pub count: usize,
    pub blob: Vec<u8>,
}

impl CheckRun {
    /// Packs `checks`, oldest first; `None` for no checks.
    pub fn of(service: u64, checks: &[Check]) -> Option<Self> {
        let (first, last) = (checks.first()?, checks.last()?);
        if !checks.is_sorted_by_key(|check| check.at_ms) {
            // The wall clock was set back: a run is in the order of time.
            let mut sorted = checks.to_vec();
            sorted.sort_by_key(|check| check.at_ms);
            return Self::of(service, &sorted);
        }
        let mut blob = Vec::with_capacity(checks.len() * 12);
        let (mut at_ms, mut streak) = (first.at_ms, 0);
        for check in checks {
            write_check(&mut blob, check, at_ms, streak);
            (at_ms, streak) = (check.at_ms, check.streak);
        }
        Some(Self { service, from_ms: first.at_ms, to_ms: last.at_ms, count: checks.len(), blob })
    }

    /// The checks of a stored run, oldest first; `None` when it is not one of ours.
    pub fn decode(from_ms: i64, blob: &[u8]) -> Option<Vec<Check>> {
        let mut rest = blob;
        let mut checks = Vec::new();
        let (mut at_ms, mut streak) = (from_ms, 0);
        while !rest.is_empty() {
            let (check, _) = read_check(&mut rest, at_ms, streak)?;
            (at_ms, streak) = (check.at_ms, check.streak);
            checks.push(check);
        }
        Some(checks)
    }
}

/// Set in the byte of the flags, which is the first after the time: the context follows.
const HAS_CONTEXT: u8 = 0x80;
/// Set in the byte of the reason.
const IN_MAINTENANCE: u8 = 0x80;
const WAS_REDIRECTED: u8 = 0x40;

/// Appends a check, its time and streak as differences from `at_ms` and `streak`.
fn write_check(out: &mut Vec<u8>, check: &Check, at_ms: i64, streak: i32) {
    put(out, zigzag(check.at_ms - at_ms));
    out.push(
        status_code(check.status)
            | ((check.kind as u8) << 2)
            | (u8::from(check.response_us.is_some()) << 4)
            | (u8::from(check.error.is_some()) << 5)
            | (u8::from(check.http_status != 0) << 6),
    );
    let maintenance = if check.maintenance { IN_MAINTENANCE } else { 0 };
    let redirected = if check.redirected { WAS_REDIRECTED } else { 0 };
    out.push(check.reason as u8 | maintenance | redirected);
    put(out, zigzag(i64::from(check.streak) - i64::from(streak)));
    if let Some(us) = check.response_us {
        put(out, u64::from(us));
    }
    if check.http_status != 0 {
        put(out, u64::from(check.http_status));
    }
    if let Some(error) = &check.error {
        put(out, error.len() as u64);
        out.extend_from_slice(error.as_bytes());
    }
}

/// The check, and whether its context follows.
fn read_check(rest: &mut &[u8], at_ms: i64, streak: i32) -> Option<(Check, bool)> {
    let at_ms = at_ms.checked_add(unzigzag(take(rest)?))?;
    let (&[flags, reason], after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    let streak = i32::try_from(i64::from(streak).checked_add(unzigzag(take(rest)?))?).ok()?;
    let response_us = if flags & 0x10 != 0 { Some(u32::try_from(take(rest)?).ok()?) } else { None };
    let http_status = if flags & 0x40 != 0 { u16::try_from(take(rest)?).ok()? } else { 0 };
    let error = if flags & 0x20 != 0 { Some(Arc::from(take_text(rest)?)) } else { None };
    let kind = match (flags >> 2) & 3 {
        0 => Kind::Scheduled,
        1 => Kind::Confirm,
        _ => Kind::Manual,
    };
    let status = status_of(flags & 3)?;
    let (maintenance, redirected) = (reason & IN_MAINTENANCE != 0, reason & WAS_REDIRECTED != 0);
    let reason = *Reason::ALL.get(usize::from(reason & !(IN_MAINTENANCE | WAS_REDIRECTED)))?;
    let check = Check { at_ms, status, reason, kind, http_status, response_us, streak, error, maintenance, redirected };
    Some((check, flags & HAS_CONTEXT != 0))
}

const HAS_OUTAGE: u8 = 0x04;
const HAS_ALERT: u8 = 0x08;

fn write_context(out: &mut Vec<u8>, context: &CheckContext) {
    put(out, context.sequence);
    let outage = if context.outage.is_some() { HAS_OUTAGE } else { 0 };
    let alert = if context.alert.is_some() { HAS_ALERT } else { 0 };
    out.push(status_code(context.from) | outage | alert);
    if let Some(outage) = &context.outage {
        out.extend_from_slice(outage.as_bytes());
    }
    if let Some(alert) = &context.alert {
        put(out, alert.len() as u64);
        out.extend_from_slice(alert.as_bytes());
    }
}

fn read_context(rest: &mut &[u8]) -> Option<CheckContext> {
    let sequence = take(rest)?;
    let (flags, after) = rest.split_first()?;
    *rest = after;
    let outage = if flags & HAS_OUTAGE != 0 {
        let (bytes, after) = rest.split_first_chunk::<16>()?;
        *rest = after;
        Some(Uuid::from_bytes(*bytes))
    } else {
        None
    };
    let alert = if flags & HAS_ALERT != 0 { Some(take_text(rest)?.to_owned()) } else { None };
    Some(CheckContext { sequence, from: status_of(flags & 3)?, outage, alert })
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(take(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

fn status_code(status: Status) -> u8 {
    match status {
        Status::Unknown => 0,
        Status::Healthy => 1,
        Status::Degraded => 2,
        Status::Unhealthy => 3,
    }
}

fn status_of(code: u8) -> Option<Status> {
    [Status::Unknown, Status::Healthy, Status::Degraded, Status::Unhealthy].get(usize::from(code)).copied()
}

/// Bytes that [`put`] takes for a zigzag number.
fn zigzag_length(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// LEB128.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_check() -> impl Strategy<Value = Check> {
        (
            0i64..10_000,
            0usize..4,
            0usize..15,
            0u8..3,
            any::<u16>(),
            any::<Option<u32>>(),
            any::<i32>(),
            prop::option::of("[a-z ]{0,40}"),
            any::<(bool, bool)>(),
        )
            .prop_map(|(at_ms, status, reason, kind, http_status, response_us, streak, error, flags)| Check {
                at_ms: 1_700_000_000_000 + at_ms,
                status: Status::ALL[status],
                reason: Reason::ALL[reason],
                kind: [Kind::Scheduled, Kind::Confirm, Kind::Manual][usize::from(kind)],
                http_status,
                response_us,
                streak,
                error: error.map(Arc::from),
                maintenance: flags.0,
                redirected: flags.1,
            })
    }

    fn any_logged() -> impl Strategy<Value = LoggedCheck> {
        let context = (any::<u64>(), 0usize..4, any::<Option<u128>>(), prop::option::of("[A-Z0-9-]{0,40}")).prop_map(
            |(sequence, from, outage, alert)| CheckContext {
                sequence,
                from: Status::ALL[from],
                outage: outage.map(Uuid::from_u128),
                alert,
            },
        );
        (any::<u64>(), any_check(), prop::option::of(context)).prop_map(|(service, check, context)| LoggedCheck {
            service,
            check,
            context,
        })
    }

    proptest! {
        #[test]
        fn what_goes_into_the_log_comes_out(checks in prop::collection::vec(any_logged(), 0..50)) {
            let mut batch = CheckBatch::default();
            checks.iter().for_each(|logged| batch.push(logged.service, &logged.check, logged.context.as_ref()));
            prop_assert_eq!(CheckBatch::decode(batch.from_ms, &batch.blob), Some(checks));
        }

        #[test]
        fn a_run_comes_out_in_the_order_of_time(mut checks in prop::collection::vec(any_check(), 1..60)) {
            let run = CheckRun::of(7, &checks).unwrap();
            checks.sort_by_key(|check| check.at_ms);
            prop_assert_eq!((run.from_ms, run.to_ms), (checks[0].at_ms, checks[checks.len() - 1].at_ms));
            prop_assert_eq!(CheckRun::decode(run.from_ms, &run.blob), Some(checks));
        }

        #[test]
        fn a_damaged_blob_is_refused_or_read_never_a_panic(blob in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CheckBatch::decode(0, &blob);
            let _ = CheckRun::decode(0, &blob);
        }
    }

    #[test]
    fn a_healthy_check_takes_at_most_sixteen_bytes() {
        let mut batch = CheckBatch::default();
        let check = Check {
            at_ms: 1_700_000_000_000,
            status: Status::Healthy,
            reason: Reason::Ok,
            kind: Kind::Scheduled,
            http_status: 200,
            response_us: Some(12_345),
            streak: 60,
            error: None,
            maintenance: false,
            redirected: false,
        };
        for _ in 0..100 {
            batch.push(7, &check, None);
        }
        let run: Vec<Check> = (0..60)
            .map(|n| Check { at_ms: check.at_ms + i64::from(n) * 15_000, streak: 5000 + n, ..check.clone() })
            .collect();
        let packed = CheckRun::of(7, &run).unwrap();
        assert!(packed.blob.len() <= 60 * 12, "{} bytes for 60 checks", packed.blob.len());
        assert!(batch.blob.len() <= 1600, "{} bytes for 100 checks", batch.blob.len());
    }
}
