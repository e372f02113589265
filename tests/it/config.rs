//! Bad configuration: one clear line each, with where, what and how to mend it; nothing is started.

use std::path::Path;

use as_infrastructure_service::config::{Settings, Sources};

use as_infrastructure_service::domain::registry::Registry;

use crate::support::{command, free_port, load, variables};

/// The problems of `more` on top of a good environment.
fn problems(more: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    load(variables(folder.path(), more)).map(|_| ()).unwrap_err().0
}

#[track_caller]
fn check(more: &[(&str, &str)], parts: &[&str]) {
    let problems = problems(more);
    assert!(
        problems.iter().any(|problem| parts.iter().all(|part| problem.contains(part))),
        "{more:?}: {parts:?} is not in {problems:#?}"
    );
}

#[test]
fn values_are_refused_by_name_with_the_rule() {
    check(&[("PORT", "70000")], &["PORT: server.port", "0 to 65535"]);
    check(&[("PORT", "http")], &["PORT", "whole number"]);
    check(&[("DEFAULT_CHECK_INTERVAL_MS", "5 parsecs")], &["DEFAULT_CHECK_INTERVAL_MS", "duration", "30s"]);
    check(&[("DEFAULT_CHECK_INTERVAL_MS", "500")], &["default_check_interval_ms", "min_check_interval_ms"]);
    check(&[("ERROR_RATE_WARNING", "5%"), ("ERROR_RATE_CRITICAL", "0.05")], &["error_rate_warning", "below"]);
    check(&[("ERROR_RATE_WARNING", "120%")], &["error_rate_warning", "ratio"]);
    check(&[("RESPONSE_TIME_WARNING", "3000")], &["response_time_warning", "below response_time_critical"]);
    check(&[("LOG_LEVEL", "loud")], &["log_level", "none of trace"]);
    check(&[("LOG_FORMAT", "xml")], &["log_format", "text, json"]);
    check(&[("AUTH_SCOPE", "none")], &["auth_scope", "all, internal, writes"]);
    check(&[("METRICS_STORAGE_URL", "mysql://x")], &["metrics_storage_url", "postgres://"]);
    check(&[("REDIS_URL", "http://x")], &["redis_url", "not a Redis address"]);
    check(&[("EGRESS_ALLOW", "10.0.0.0/33")], &["egress_allow", "CIDR"]);
    check(&[("HOST", "localhost")], &["server.host", "IP address"]);
    check(&[("ALERT_NOTIFICATION_CHANNELS", "pigeon")], &["alert_notification_channels", "no channel"]);
    check(&[("ALERT_NOTIFICATION_CHANNELS", "webhook")], &["alert_webhook_url", "must be set"]);
    check(&[("ALERT_NOTIFICATION_CHANNELS", "email")], &["smtp_host", "must be set when the channel email"]);
    check(&[("ALERT_WEBHOOK_URL", "ftp://x")], &["alert_webhook_url", "http or https"]);
    check(&[("ENABLE_ALERTING", "maybe")], &["enable_alerting", "true or false"]);
    check(&[("EVENT_SOURCE", "")], &["event_source", "must not be empty"]);
    check(&[("EVENT_STREAM_PREFIX", "a b:")], &["event_stream_prefix", "blanks"]);
    check(&[("EVENT_DLQ_PREFIX", "quantum:stream:")], &["event_dlq_prefix", "differ"]);
    check(&[("EVENT_STREAM_MAXLEN", "0")], &["event_stream_maxlen", "1 to"]);
    check(&[("ENVIRONMENT", "Prod!")], &["environment", "a-z"]);
    check(&[("INFRA__CHECKS__TYPO", "1")], &["INFRA__CHECKS__TYPO", "unknown key"]);
    check(&[("ALERT_COOLDOWN_MINUTES", "5"), ("ALERT_COOLDOWN_MS", "1000")], &["alert_cooldown_ms", "disagrees"]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let all = [
        ("PORT", "x"),
        ("LOG_FORMAT", "x"),
        ("AUTH_SCOPE", "x"),
        ("HOST", "x"),
        ("EGRESS_ALLOW", "x"),
        ("INFRA__A__B", "x"),
    ];
    let told = problems(&all);
    assert_eq!(told.len(), all.len(), "{told:#?}");
}

#[test]
fn keys_are_never_open_by_accident() {
    let production = ("ENVIRONMENT", "production");
    check(&[production], &["internal_service_key", "must be set outside development"]);
    check(&[production, ("INTERNAL_SERVICE_KEY", "")], &["internal_service_key", "must be set"]);
    check(&[production, ("INTERNAL_SERVICE_KEY", "short")], &["internal_service_key", "16 characters"]);
    check(&[("INTERNAL_SERVICE_KEY", "short")], &["internal_service_key", "16 characters"]);
    let published = "nmc-internal-services-auth-key-phase1";
    check(&[production, ("INTERNAL_SERVICE_KEY", published)], &["internal_service_key", "published"]);
    let own = ("INTERNAL_SERVICE_KEY", "an-own-key-of-24-characters");
    check(&[production, own, ("READONLY_SERVICE_KEYS", published)], &["readonly_service_keys", "published"]);
    let folder = tempfile::tempdir().unwrap();
    assert!(load(variables(folder.path(), &[production, own])).is_ok());
}

#[test]
fn values_are_read_in_every_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let read = |more: &[(&str, &str)]| load(variables(folder.path(), more)).unwrap().0;
    let seconds = |settings: Settings| settings.defaults.interval.as_secs_f64();
    assert_eq!(seconds(read(&[("DEFAULT_CHECK_INTERVAL_MS", "45000")])), 45.0);
    assert_eq!(seconds(read(&[("DEFAULT_CHECK_INTERVAL_MS", "45s")])), 45.0);
    assert_eq!(seconds(read(&[("INFRA__CHECKS__DEFAULT_CHECK_INTERVAL_MS", "45000.0")])), 45.0);
    assert_eq!(read(&[("ALERT_COOLDOWN_MS", "1500")]).engine.alert.cooldown.as_millis(), 1500);
    assert_eq!(read(&[("ALERT_COOLDOWN_MINUTES", "2")]).engine.alert.cooldown.as_secs(), 120);
    assert_eq!(read(&[("ERROR_RATE_CRITICAL", "10%")]).defaults.limits.error_rate_critical, 0.1);
    assert_eq!(read(&[("HEALTH_SERVICE_PORT", "8000"), ("PORT", "81")]).api.port, 81);
    assert_eq!(read(&[("HEALTH_SERVICE_PORT", "8000")]).api.port, 8000);
    assert_eq!(read(&[("MAX_CONSECUTIVE_FAILURES", "7")]).defaults.limits.consecutive_failures_critical, 7);
}

#[test]
fn files_go_over_the_defaults_and_the_environment_over_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::create_dir(&config).unwrap();
    let write = |name: &str, text: &str| std::fs::write(config.join(name), text).unwrap();
    let read = |more: &[(&str, &str)]| {
        let sources = Sources::new(variables(folder.path(), more), Some(config.clone()));
        Settings::load(&sources)
    };
    write("development.toml", "[server]\nport = 4000\nhost = \"127.0.0.1\"\n");
    write("local.toml", "[server]\nport = 5000\n");
    let settings = read(&[]).unwrap();
    assert_eq!((settings.api.port, settings.api.host.as_str()), (5000, "127.0.0.1"));
    assert_eq!(read(&[("PORT", "6000")]).unwrap().api.port, 6000);
    write("local.toml", "[server]\nprot = 5000\n[host]\nx = 1\n");
    let told = read(&[]).unwrap_err().0.join("\n");
    assert!(told.contains("local.toml: unknown key server.prot"), "{told}");
    assert!(told.contains("unknown key host.x"), "{told}");
    write("local.toml", "[server\n");
    assert!(read(&[]).unwrap_err().0[0].contains("local.toml"));
}

#[test]
fn every_default_is_what_the_contract_says_and_stands_in_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, listed) = load(variables(folder.path(), &[])).unwrap();
    let registry = Registry::new(listed.services, &listed.critical_path).unwrap();
    let defaults = as_infrastructure_service::domain::spec::Defaults::default();
    assert_eq!(format!("{:?}", settings.defaults.limits), format!("{:?}", defaults.limits));
    assert_eq!(
        (settings.defaults.interval, settings.defaults.critical_interval, settings.defaults.timeout),
        (defaults.interval, defaults.critical_interval, defaults.timeout)
    );
    assert_eq!((settings.defaults.retries, settings.defaults.min_interval), (defaults.retries, defaults.min_interval));
    let (own, reference) = (&settings.defaults.registered, &defaults.registered);
    assert_eq!(
        (own.interval, own.timeout, own.min_interval),
        (reference.interval, reference.timeout, reference.min_interval)
    );
    assert_eq!(own.filesystem_allow, reference.filesystem_allow);
    assert_eq!((settings.api.port, settings.api.max_body_bytes, settings.api.max_in_flight), (3106, 262_144, 512));
    assert_eq!(settings.engine.detection.promise.as_secs(), 30);
    assert_eq!(settings.engine.host, as_infrastructure_service::domain::host::HostPolicy::default());
    let names: Vec<&str> = registry.services().iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names.len(), 9);
    assert_eq!(
        registry.critical_path().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["twilio-server", "as-call-service", "as-connection-service", "web-ui"]
    );
    for service in registry.services().iter().filter(|service| service.critical) {
        assert_eq!(service.worst_case_detection(&settings.engine.detection).as_secs(), 28, "{}", service.name);
    }
}

fn services_problem(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    std::fs::write(&file, text).unwrap();
    problems(&[("SERVICES_FILE", &file.display().to_string())]).join("\n")
}

#[test]
fn a_services_file_is_refused_with_line_service_and_field() {
    let check = |text: &str, parts: &[&str]| {
        let told = services_problem(text);
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?} is not in {told}");
    };
    let one =
        |name: &str, more: &str| format!("[[service]]\nname = \"{name}\"\nurl = \"http://localhost:1\"\n{more}\n");
    check(&one("a", "colour = 1"), &["services.toml:4", "unknown field `colour`"]);
    check(&one("a", "critical = \"yes\""), &["services.toml:4", "boolean"]);
    check(&(one("a", "") + &one("A", "")), &["services.toml:5", "A is defined twice"]);
    check(&one("a", "depends_on = [\"b\"]"), &["services.toml:1: a depends on b, which is not a service"]);
    check(&(one("a", "depends_on = [\"b\"]") + &one("b", "depends_on = [\"a\"]")), &["dependency cycle a -> b -> a"]);
    check(&one("a", "expected_response_pattern = \"(\""), &["services.toml:1: a: expected_response_pattern"]);
    check(&one("a", "timeout_ms = 0"), &["a: timeout_ms must be over 0"]);
    check(&one("a", "headers = { X-Key = \"${NOT_SET}\" }"), &["a: headers", "NOT_SET, which is not set"]);
    check("critical_path = [\"x\"]", &["critical_path names x, which is not a service"]);
    check("[[service]\n", &["services.toml:1"]);
    let missing = problems(&[("SERVICES_FILE", "no/such/file.toml")]).join("");
    assert!(missing.contains("no/such/file.toml") && missing.contains("SERVICES_FILE"), "{missing}");
}

#[test]
fn a_folder_of_files_is_read_as_one_and_secrets_come_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let services = folder.path().join("services");
    std::fs::create_dir(&services).unwrap();
    let write = |name: &str, text: &str| std::fs::write(services.join(name), text).unwrap();
    write("b.toml", "[[service]]\nname = \"second\"\nurl = \"http://${U}:${P}@localhost:1\"\n");
    write("a.toml", "[[service]]\nname = \"first\"\nurl = \"http://localhost:1\"\nheaders = { X = \"$${Y}${U}\" }\n");
    write("c.txt", "not toml");
    let path = services.display().to_string();
    let more = [("SERVICES_FILE", path.as_str()), ("U", "user"), ("P", "p@ss:word")];
    let (_, listed) = load(variables(folder.path(), &more)).unwrap();
    let registry = Registry::new(listed.services, &listed.critical_path).unwrap();
    let names: Vec<&str> = registry.services().iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let second = &registry.services()[1];
    assert_eq!(second.url, "http://localhost:1/health");
    assert!(!format!("{second:?}").contains("X = "), "secrets do not print");
}

async fn exits(folder: &Path, more: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(folder).envs(more.iter().copied()).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn the_binary_exits_with_one_line_and_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, told) = exits(folder.path(), &[("PORT", &port)]).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("in use") && told.lines().count() == 1, "{told}");

    let free = free_port().to_string();
    let nobody = format!("postgres://nobody@127.0.0.1:{}/x", free_port());
    let (code, told) = exits(folder.path(), &[("PORT", &free), ("METRICS_STORAGE_URL", &nobody)]).await;
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("METRICS_STORAGE_URL") && told.lines().count() == 1, "{told}");

    let (code, told) = exits(folder.path(), &[("PORT", "x"), ("ENVIRONMENT", "production")]).await;
    assert_eq!(code, Some(2), "{told}");
    std::fs::write(folder.path().join(".env"), "PORT=abc\n").unwrap();
    let (code, told) = exits(folder.path(), &[]).await;
    assert!(code == Some(2) && told.contains("server.port"), "{told}");
}
