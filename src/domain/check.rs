//! A check's stored result, and its compact form in the check log of Records.
//!
//! The log holds one blob per second of checks. In it a check takes 8 bytes of name hash and 6 to 8 more when it was
//! answered; only failures carry their text.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    pub fn push(&mut self, service: u64, check: &Check) {
        if self.count == 0 {
            (self.from_ms, self.to_ms) = (check.at_ms, check.at_ms);
        }
        self.to_ms = self.to_ms.max(check.at_ms);
        self.count += 1;
        let out = &mut self.blob;
        out.extend_from_slice(&service.to_le_bytes());
        put(out, zigzag(check.at_ms - self.from_ms));
        let answered = check.response_us.is_some();
        out.push(
            status_code(check.status)
                | ((check.kind as u8) << 2)
                | (u8::from(answered) << 4)
                | (u8::from(check.error.is_some()) << 5)
                | (u8::from(check.http_status != 0) << 6),
        );
        out.push(check.reason as u8);
        put(out, zigzag(i64::from(check.streak)));
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

    /// The checks of a stored blob in order, with the hashes of their services; `None` when it is not one of ours.
    pub fn decode(from_ms: i64, blob: &[u8]) -> Option<Vec<(u64, Check)>> {
        let mut rest = blob;
        let mut checks = Vec::new();
        while !rest.is_empty() {
            let (service, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            let at_ms = from_ms.checked_add(unzigzag(take(&mut rest)?))?;
            let (&[flags, reason], after) = rest.split_first_chunk::<2>()?;
            rest = after;
            let streak = i32::try_from(unzigzag(take(&mut rest)?)).ok()?;
            let response_us = if flags & 0x10 != 0 { Some(u32::try_from(take(&mut rest)?).ok()?) } else { None };
            let http_status = if flags & 0x40 != 0 { u16::try_from(take(&mut rest)?).ok()? } else { 0 };
            let error = if flags & 0x20 != 0 {
                let length = usize::try_from(take(&mut rest)?).ok()?;
                let (text, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(Arc::from(std::str::from_utf8(text).ok()?))
            } else {
                None
            };
            let kind = match (flags >> 2) & 3 {
                0 => Kind::Scheduled,
                1 => Kind::Confirm,
                _ => Kind::Manual,
            };
            let status =
                *[Status::Unknown, Status::Healthy, Status::Degraded, Status::Unhealthy].get(usize::from(flags & 3))?;
            let reason = *Reason::ALL.get(usize::from(reason))?;
            let check = Check { at_ms, status, reason, kind, http_status, response_us, streak, error };
            checks.push((u64::from_le_bytes(*service), check));
        }
        Some(checks)
    }
}

fn status_code(status: Status) -> u8 {
    match status {
        Status::Unknown => 0,
        Status::Healthy => 1,
        Status::Degraded => 2,
        Status::Unhealthy => 3,
    }
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
        )
            .prop_map(|(at_ms, status, reason, kind, http_status, response_us, streak, error)| Check {
                at_ms: 1_700_000_000_000 + at_ms,
                status: Status::ALL[status],
                reason: Reason::ALL[reason],
                kind: [Kind::Scheduled, Kind::Confirm, Kind::Manual][usize::from(kind)],
                http_status,
                response_us,
                streak,
                error: error.map(Arc::from),
            })
    }

    proptest! {
        #[test]
        fn what_goes_into_the_log_comes_out(checks in prop::collection::vec((any::<u64>(), any_check()), 0..50)) {
            let mut batch = CheckBatch::default();
            checks.iter().for_each(|(service, check)| batch.push(*service, check));
            prop_assert_eq!(CheckBatch::decode(batch.from_ms, &batch.blob), Some(checks));
        }

        #[test]
        fn a_damaged_blob_is_refused_or_read_never_a_panic(blob in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CheckBatch::decode(0, &blob);
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
        };
        for _ in 0..100 {
            batch.push(7, &check);
        }
        assert!(batch.blob.len() <= 1600, "{} bytes for 100 checks", batch.blob.len());
    }
}
