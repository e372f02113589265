//! What a probe saw, unjudged, and the closed list of reasons a check can carry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::status::Status;

/// Why a check came out as it did: the closed list of CONTRACT.md 6.3. Exactly one per check, `ok` when healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    #[default]
    Ok,
    Status,
    Latency,
    Assertion,
    Dns,
    ConnectRefused,
    ConnectTimeout,
    Timeout,
    Tls,
    Protocol,
    BodyLimit,
    EgressDenied,
    LocalResource,
    Inconclusive,
    Cancelled,
}

impl Reason {
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Status,
        Self::Latency,
        Self::Assertion,
        Self::Dns,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::Timeout,
        Self::Tls,
        Self::Protocol,
        Self::BodyLimit,
        Self::EgressDenied,
        Self::LocalResource,
        Self::Inconclusive,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Status => "status",
            Self::Latency => "latency",
            Self::Assertion => "assertion",
            Self::Dns => "dns",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::BodyLimit => "body_limit",
            Self::EgressDenied => "egress_denied",
            Self::LocalResource => "local_resource",
            Self::Inconclusive => "inconclusive",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A probe that got no usable reply: itself what we came to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    pub reason: Reason,
    /// For people; at most [`DETAIL_CHARS`] characters without control characters.
    pub detail: String,
}

impl ProbeFailure {
    pub fn new(reason: Reason, detail: impl AsRef<str>) -> Self {
        Self { reason, detail: clean(detail.as_ref()) }
    }
}

/// Longest text taken over from a target: CONTRACT.md 6.3.
pub const DETAIL_CHARS: usize = 200;

/// Text from a target, cut at [`DETAIL_CHARS`] and stripped of control, format and line-separating characters.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| is_seen(*c)).take(DETAIL_CHARS).collect()
}

/// Neither a control character nor one that hides or turns its neighbours.
fn is_seen(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Something to read on one line, of at most so many characters.
pub fn is_label(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && text.chars().all(is_seen)
}

/// At most so many characters that may be printed, line breaks and tabs among them.
pub fn is_prose(text: &str, most: usize) -> bool {
    text.chars().count() <= most && text.chars().all(|c| is_seen(c) || matches!(c, '\n' | '\r' | '\t'))
}

/// Something that is wrong with an answer beside its code and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Degraded or unhealthy.
    pub status: Status,
    pub reason: Reason,
    /// A sentence; what it quotes of the target is cleaned.
    pub text: String,
}

impl Finding {
    pub fn degraded(reason: Reason, text: impl AsRef<str>) -> Self {
        Self { status: Status::Degraded, reason, text: clean(text.as_ref()) }
    }

    pub fn unhealthy(reason: Reason, text: impl AsRef<str>) -> Self {
        Self { status: Status::Unhealthy, reason, text: clean(text.as_ref()) }
    }
}

/// Facts read from a JSON body; they never change the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    pub version: Option<String>,
    pub database_connected: Option<bool>,
    pub external_services_ok: Option<bool>,
}

/// How an HTTP answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpCourse {
    /// Redirects that were followed.
    pub redirects: usize,
    /// 9, 10 or 11.
    pub version: u8,
    /// What the answer said of its length, if it did.
    pub length: Option<u64>,
    /// It came over TLS.
    pub secured: bool,
    /// The peer's address was one of IPv6; `None` where the connection does not tell.
    pub ipv6: Option<bool>,
    /// Bytes of its body after decoding, where it was read to its end.
    pub body: Option<usize>,
    /// From the response head to the end of what was read.
    pub transfer: Duration,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The HTTP status code; 0 for protocols without one.
    pub code: u16,
    pub findings: Vec<Finding>,
    pub facts: Facts,
    /// A redirect was followed on the way.
    pub redirected: bool,
    /// What came back, for people: a JSON object of at most 1 KiB as text, or the first [`DETAIL_CHARS`] characters.
    pub details: Option<Box<str>>,
    /// When the certificate that was shown, or one of its chain, expires first; unix seconds.
    pub certificate_expires: Option<i64>,
    /// Of HTTP only.
    pub http: Option<HttpCourse>,
}

impl Reply {
    /// A good answer of a protocol without codes.
    pub fn well() -> Self {
        Self::default()
    }

    /// An answer that is not as it should be.
    pub fn with(finding: Finding) -> Self {
        Self { findings: vec![finding], ..Self::default() }
    }
}

/// Where the time of one probe went; `None` where the phase did not take place (a reused connection has only the last).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Phases {
    pub resolve: Option<Duration>,
    pub connect: Option<Duration>,
    pub tls: Option<Duration>,
    /// From the request being sent on an established connection to the response head: the number that is judged.
    pub response: Option<Duration>,
}

/// Why a probe was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    #[default]
    Scheduled,
    /// A quick re-check after a failure.
    Confirm,
    Manual,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Confirm => "confirm",
            Self::Manual => "manual",
        }
    }
}

/// What one probe saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub reply: Result<Reply, ProbeFailure>,
    pub phases: Phases,
}

impl Observation {
    /// It says nothing about the target.
    pub fn is_inconclusive(&self) -> bool {
        matches!(&self.reply, Err(failure) if matches!(failure.reason, Reason::LocalResource | Reason::Inconclusive))
    }

    /// An answer after `response`, on an established connection.
    pub fn answered(code: u16, response: Duration) -> Self {
        Self {
            reply: Ok(Reply { code, ..Reply::default() }),
            phases: Phases { response: Some(response), ..Phases::default() },
        }
    }

    /// No usable answer.
    pub fn failed(reason: Reason, detail: impl AsRef<str>) -> Self {
        Self { reply: Err(ProbeFailure::new(reason, detail)), phases: Phases::default() }
    }

    /// The response time, in whole milliseconds rounded down: what limits are compared with.
    pub fn response_ms(&self) -> Option<u64> {
        self.phases.response.map(|response| u64::try_from(response.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_target_cannot_forge_a_line_or_grow() {
        let hostile = format!("a\r\nb\x1b[31mc\u{2028}d\u{202e}{}", "x".repeat(500));
        let cleaned = clean(&hostile);
        assert!(cleaned.starts_with("ab[31mcd"));
        assert_eq!(cleaned.chars().count(), DETAIL_CHARS);
    }
}
