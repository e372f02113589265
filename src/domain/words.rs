//! What is stored of a check, in the words of source 003 (CONTRACT.md 6.3 and 7.4): the API and the exports say the same.

use super::check::Check;
use super::observation::Reason;
use super::probe::Protocol;
use super::service::Service;
use super::status::Status;
use super::time::round2;

/// Said instead of an error while a window is in force, and of a service that is not probed: CONTRACT.md 7.4.
pub const IN_MAINTENANCE: &str = "Service is in maintenance";
pub const INACTIVE: &str = "Service is inactive";

/// A status in the words of 003.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Healthy => "UP",
        Status::Degraded => "DEGRADED",
        Status::Unhealthy => "DOWN",
        Status::Unknown => "UNKNOWN",
    }
}

/// The status of a stored check.
pub fn check_word(check: &Check) -> &'static str {
    if check.maintenance { word(Status::Unknown) } else { word(check.status) }
}

/// Milliseconds of an answer.
pub fn ms(us: Option<u32>) -> Option<f64> {
    us.map(|us| round2(f64::from(us) / 1000.0))
}

/// What a stored check says was wrong: it is kept in the words of 000.
pub fn check_message(service: &Service, check: &Check) -> Option<String> {
    if check.maintenance {
        return Some(IN_MAINTENANCE.to_owned());
    }
    if check.status == Status::Healthy {
        return None;
    }
    let text = check.error.as_deref().unwrap_or_default();
    let first = text.split(", ").next().unwrap_or_default();
    let detail = |prefix: &str| first.strip_prefix(prefix).unwrap_or(first).to_owned();
    Some(match check.reason {
        Reason::Status if check.http_status != 0 => match service.expected.codes.as_slice() {
            [code] => format!("Expected status code {code}, got {}", check.http_status),
            _ => format!("Unexpected status code: {}", check.http_status),
        },
        Reason::ConnectRefused => "Connection failed: connection refused".to_owned(),
        Reason::ConnectTimeout | Reason::Timeout if service.protocol == Protocol::Icmp => {
            "Ping failed: no reply".to_owned()
        }
        Reason::ConnectTimeout | Reason::Timeout => "Connection timeout".to_owned(),
        Reason::Dns => detail("connection_error: "),
        Reason::Tls if first.starts_with("connection_error: ") => {
            format!("Connection failed: {}", detail("connection_error: "))
        }
        Reason::Protocol => format!("Unexpected error: {}", text.strip_prefix("unknown_error: ").unwrap_or(text)),
        Reason::EgressDenied => "Address not allowed".to_owned(),
        _ => first.to_owned(),
    })
}
