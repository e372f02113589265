//! How settings are shown, and which of them may change while the service runs.

use serde_json::Value;

/// The keys with an L in CONTRACT.md section 4, by section.
const CHANGEABLE: [(&str, &[&str]); 10] = [
    ("log", &["log_level"]),
    ("retention", &["metrics_retention_days", "cleanup_retention_days", "outage_retention_days"]),
    (
        "checks",
        &[
            "default_check_interval_ms",
            "critical_service_check_interval_ms",
            "health_check_timeout_ms",
            "service_check_interval",
            "service_check_timeout",
            "service_check_retries",
            "confirm_interval_ms",
            "response_time_warning",
            "response_time_critical",
            "error_rate_warning",
            "error_rate_critical",
            "consecutive_failures_warning",
            "consecutive_failures_critical",
            "uptime_warning",
            "uptime_critical",
            "reference_targets",
            "reference_check_interval_ms",
            "impaired_window_ms",
        ],
    ),
    (
        "outages",
        &["outage_detection_threshold", "recovery_threshold", "outage_verification_enabled", "long_outage_minutes"],
    ),
    (
        "alerts",
        &[
            "enable_alerting",
            "alert_check_interval_ms",
            "alert_cooldown_minutes",
            "alert_escalation_minutes",
            "alert_max_escalations",
            "multiple_services_down_threshold",
            "error_rate_window_ms",
            "error_rate_min_checks",
        ],
    ),
    (
        "host",
        &["system_check_interval", "critical_cpu_threshold", "critical_memory_threshold", "critical_disk_threshold"],
    ),
    (
        "notify",
        &[
            "alert_notification_channels",
            "enable_email_alerts",
            "enable_slack_alerts",
            "alert_email",
            "notify_min_severity",
            "notification_group_wait_ms",
            "notification_rate_per_minute",
        ],
    ),
    ("events", &["health_check_interval"]),
    ("elasticsearch", &["elasticsearch_sync_interval", "elasticsearch_sync_batch_size"]),
    ("avatar", &["active_avatar"]),
];

/// Last words of keys whose values are secrets.
const SECRET_ENDS: [&str; 8] = ["key", "keys", "password", "secret", "secrets", "token", "tokens", "headers"];
/// Addresses that are secrets as a whole: whoever knows one may post there.
const SECRET_ADDRESSES: [&str; 2] = ["webhook_url", "heartbeat_url"];
/// What is shown in place of a secret, and of the query of an address: CONTRACT.md 9.9.
const HIDDEN: &str = "***";

/// The setting may change while the service runs.
pub fn is_changeable(section: &str, key: &str) -> bool {
    CHANGEABLE.iter().any(|(of, keys)| *of == section && keys.contains(&key))
}

/// The least a setting may be changed to while the service runs, in its unit (CONTRACT.md 9.9): what a start accepts for
/// the sake of tests is a mistake in a running service.
pub fn least(key: &str) -> Option<f64> {
    match key {
        "response_time_warning" | "response_time_critical" => Some(100.0),
        "outage_retention_days" => None,
        _ if key.ends_with("retention_days") => Some(1.0),
        _ if key.contains("interval") && key.ends_with("_ms") => Some(1000.0),
        _ if key.contains("interval") => Some(1.0),
        _ => None,
    }
}

/// A value as anyone may see it: secrets hidden, addresses without user, password and query.
pub fn masked(key: &str, value: Value) -> Value {
    let last = key.rsplit('_').next().unwrap_or(key);
    if SECRET_ENDS.contains(&last) || SECRET_ADDRESSES.iter().any(|address| key.ends_with(address)) {
        return Value::from(HIDDEN);
    }
    match value {
        Value::String(text) => Value::from(bare(&text)),
        Value::Array(items) => items.into_iter().map(|item| masked(key, item)).collect(),
        plain => plain,
    }
}

/// An address without user, password and query; any other text as it is.
fn bare(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    // To the last @: a password may hold anything.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    match rest.split_once(['?', '#']) {
        Some((place, _)) => format!("{scheme}://{place}?{HIDDEN}"),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_addresses_lose_their_credentials() {
        let check = |key: &str, value: Value, shown: Value| assert_eq!(masked(key, value), shown, "{key}");
        for key in ["internal_service_key", "readonly_service_keys", "smtp_password", "alert_webhook_secrets"] {
            check(key, json!("secret"), json!("***"));
        }
        for key in ["alert_webhook_url", "slack_webhook_url", "heartbeat_url", "alert_webhook_headers"] {
            check(key, json!("https://a/b"), json!("***"));
        }
        check("redis_key_prefix", json!("app:"), json!("app:"));
        check("redis_url", json!("redis://u:p@h:1/0"), json!("redis://h:1/0"));
        check("redis_url", json!("redis+sentinel://:p/@x@h:1,i:2/m"), json!("redis+sentinel://h:1,i:2/m"));
        check("metrics_storage_url", json!("postgres://h/db?password=p"), json!("postgres://h/db?***"));
        check("metrics_storage_url", json!("sqlite:///health_metrics.db"), json!("sqlite:///health_metrics.db"));
        check("reference_targets", json!(["http://u:p@h", "tcp://h:1"]), json!(["http://h", "tcp://h:1"]));
        check("port", json!(1), json!(1));
    }

    #[test]
    fn what_may_change_is_a_list() {
        assert!(is_changeable("checks", "uptime_warning"));
        assert!(!is_changeable("alerts", "uptime_warning"));
        assert!(!is_changeable("server", "port"));
    }

    #[test]
    fn a_running_service_accepts_sane_numbers_only() {
        let check = |key: &str, expected: Option<f64>| assert_eq!(least(key), expected, "{key}");
        check("default_check_interval_ms", Some(1000.0));
        check("service_check_interval", Some(1.0));
        check("metrics_retention_days", Some(1.0));
        check("outage_retention_days", None);
        check("response_time_critical", Some(100.0));
        check("health_check_timeout_ms", None);
    }
}
