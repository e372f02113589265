//! Bad configuration: one clear line each, with where, what and how to mend it; nothing is started.

use std::path::Path;

use as_infrastructure_service::config::{Settings, Sources};

use as_infrastructure_service::domain::alert::Severity;
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

/// Settings from variables and `local.toml`.
fn with_file(text: &str, more: &[(&str, &str)]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("local.toml"), text).unwrap();
    let sources = Sources::new(variables(folder.path(), more), Some(folder.path().to_owned()));
    Settings::load(&sources).map_err(|error| error.to_string())
}

#[test]
fn channels_are_on_when_they_have_an_address_and_nobody_says_otherwise() {
    let check = |more: &[(&str, &str)], on: &[&str]| {
        let routing = with_file("", more).unwrap().engine.notify.routing;
        assert_eq!(routing.receivers, on, "{more:?}");
    };
    let (slack, smtp) = (("SLACK_WEBHOOK_URL", "http://s"), ("SMTP_HOST", "mail"));
    let others =
        [("PAGERDUTY_ROUTING_KEY", "r"), ("DISCORD_WEBHOOK_URL", "http://d"), ("TEAMS_WEBHOOK_URL", "http://t")];
    check(&[], &["log"]);
    check(&[slack], &["log", "slack"]);
    check(&[smtp, slack, ("ALERT_WEBHOOK_URL", "http://w")], &["log", "webhook", "email", "slack"]);
    check(&others, &["log", "discord", "teams", "pagerduty"]);
    check(&[smtp, slack, ("ALERT_NOTIFICATION_CHANNELS", "Slack,dashboard")], &["log", "slack"]);
    check(&[smtp, slack, ("ALERT_NOTIFICATION_CHANNELS", "log"), ("ENABLE_EMAIL_ALERTS", "yes")], &["log", "email"]);
    check(&[smtp, slack, ("ENABLE_EMAIL_ALERTS", "false")], &["log", "slack"]);
    check(&[("ALERTMANAGER_URL", "http://a")], &["log", "alertmanager"]);
}

#[test]
fn a_channel_of_the_simple_set_up_is_refused_by_the_name_of_its_key() {
    check(&[("ENABLE_EMAIL_ALERTS", "true")], &["notify.smtp_host must be set when the channel email is asked for"]);
    check(&[("ENABLE_SLACK_ALERTS", "true")], &["notify.slack_webhook_url must be set when the channel slack"]);
    for (channel, key) in [
        ("slack", "slack_webhook_url"),
        ("pagerduty", "pagerduty_routing_key"),
        ("discord", "discord_webhook_url"),
        ("teams", "teams_webhook_url"),
        ("alertmanager", "alertmanager_url"),
    ] {
        check(&[("ALERT_NOTIFICATION_CHANNELS", channel)], &[key, "must be set when the channel", channel]);
    }
    let smtp = ("SMTP_HOST", "mail");
    check(
        &[smtp, ("ALERT_EMAIL", "noc")],
        &["ALERT_EMAIL: notify.alert_email holds \"noc\", which is no e-mail address"],
    );
    check(&[smtp, ("ALERT_EMAIL", "")], &["notify.alert_email must name at least one"]);
    check(&[smtp, ("SMTP_FROM", "a b")], &["SMTP_FROM: notify.smtp_from", "no e-mail address"]);
    check(&[smtp, ("SMTP_TLS", "ssl")], &["SMTP_TLS: notify.smtp_tls must be starttls, tls or none"]);
    check(&[smtp, ("SMTP_USER", "u")], &["notify.smtp_password must be set beside smtp_user"]);
    check(&[smtp, ("SMTP_CA_FILE", "no/such.pem")], &["notify.smtp_ca_file", "no/such.pem"]);
    check(&[("TEAMS_WEBHOOK_URL", "teams.example.com")], &["notify.teams_webhook_url is not an http or https address"]);
    check(&[("NOTIFICATION_RATE_PER_MINUTE", "0")], &["notification_rate_per_minute", "1 to 10000"]);
    check(&[("INFRA__NOTIFY__RECEIVER", "x")], &["INFRA__NOTIFY__RECEIVER", "unknown key"]);
}

#[test]
fn receivers_and_routes_of_tables_are_read_with_the_environment_in_their_texts() {
    let file = r#"
        [[notify.receiver]]
        name = "oncall"
        channel = "slack"
        url = "https://hooks.example.com/${TOKEN}"
        template = "{{ title }}"
        quiet_hours = { from = "22:00", to = "07:00", timezone = "Europe/Berlin", unless = "high" }
        [[notify.receiver]]
        name = "noc"
        channel = "email"
        to = ["noc@example.com"]
        subject = "{{ severity }} {{ title }}"
        [[notify.route]]
        receivers = ["oncall", "log"]
        severities = ["Critical"]
        types = ["service_down"]
        services = ["as-*"]
    "#;
    let settings = with_file(file, &[("TOKEN", "t0ken"), ("SMTP_HOST", "mail"), ("ENABLE_EMAIL_ALERTS", "0")]).unwrap();
    let notify = settings.engine.notify;
    assert_eq!(notify.routing.receivers, ["log", "oncall", "noc"]);
    assert_eq!(notify.receivers.iter().map(|receiver| &*receiver.name).collect::<Vec<_>>(), ["email", "oncall", "noc"]);
    let quiet = notify.receivers[1].quiet.as_ref().unwrap();
    assert_eq!((quiet.timezone.name(), quiet.unless), ("Europe/Berlin", Severity::High));
    let route = &notify.routing.routes[0];
    assert_eq!(
        (&route.receivers[..], &route.severities[..]),
        (&["oncall".into(), "log".into()][..], &[Severity::Critical][..])
    );
    assert!(!format!("{notify:?}").contains("t0ken"), "secrets do not print");
}

#[test]
fn a_table_is_refused_with_file_number_name_and_field() {
    let check = |text: &str, parts: &[&str]| {
        let told = with_file(text, &[]).unwrap_err();
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?} is not in {told}");
        assert!(!told.contains("canary"), "{told}");
    };
    let slack = |name: &str, more: &str| {
        format!("[[notify.receiver]]\nname = \"{name}\"\nchannel = \"slack\"\nurl = \"http://s/canary\"\n{more}\n")
    };
    let email = |more: &str| format!("[[notify.receiver]]\nname = \"noc\"\nchannel = \"email\"\n{more}\n");
    let route = |text: &str| slack("team", "") + "[[notify.route]]\n" + text;
    check(&(slack("a", "") + &slack("A", "")), &["local.toml: notify.receiver 2 (A): name is taken"]);
    check(&slack("log", ""), &["notify.receiver 1 (log): name is reserved; choose another, such as log-team"]);
    check(&slack("Slack", ""), &["notify.receiver 1 (Slack): name is reserved"]);
    check(&slack("a b", ""), &["(a b): name must be 1 to 64 letters"]);
    check("[[notify.receiver]]\nname = \"x\"\nchannel = \"pigeon\"", &["(x): channel must be one of webhook, email"]);
    check("[[notify.receiver]]\nname = \"x\"\nchannel = \"slack\"", &["(x): url must be set"]);
    check(&slack("a", "colour = 1"), &["notify.receiver 1: unknown field `colour`", "config/default.toml"]);
    check(&slack("a", "timeout_ms = \"canary\""), &["notify.receiver 1:", "wrong type"]);
    check(&slack("a", "timeout_ms = 10001"), &["(a): timeout_ms must be from 100 to 10000"]);
    check(&slack("a", "routing_key = \"canary\""), &["(a): routing_key is of no use to the channel slack"]);
    check(&slack("a", "smtp_port = 25"), &["(a): smtp_port is of no use to the channel slack"]);
    check(&slack("a", "slack_channel = \"${NOT_SET}\""), &["slack_channel needs the environment variable NOT_SET"]);
    check(&slack("a", "template = \"{{ titel }}\""), &["(a): template fails for alert_raised: undefined value"]);
    check(&slack("a", "quiet_hours = { from = \"22:00\", to = \"7\" }"), &["quiet_hours holds \"7\"", "22:00"]);
    check(&slack("a", "quiet_hours = { from = \"22:00\", to = \"22:00\" }"), &["quiet_hours must not end when"]);
    check(
        &slack("a", "quiet_hours = { from = \"22:00\", to = \"7:00\", timezone = \"Mars\" }"),
        &["\"Mars\"", "Berlin"],
    );
    check(&slack("a", "quiet_hours = { from = \"22:00\" }"), &["notify.receiver 1: quiet_hours", "to"]);
    check(&email(""), &["(noc): smtp_host must be set, here or as SMTP_HOST"]);
    check(&email("smtp_host = \"m\""), &["(noc): to must name at least one"]);
    check(&email("smtp_port = 25"), &["(noc): smtp_port belongs to a server: set smtp_host"]);
    check(&email("smtp_host = \"m\"\nsmtp_password = \"canary\""), &["(noc): smtp_user must be set beside"]);
    check(
        &route("receivers = [\"nobody\"]"),
        &["local.toml: notify.route 1: receivers names \"nobody\", which is none of log, team"],
    );
    check(&route(""), &["notify.route 1: receivers must name at least one"]);
    check(&route("receivers = [\"team\"]\nseverities = [\"bad\"]"), &["severities names \"bad\"", "critical, high"]);
    check(&route("receivers = [\"team\"]\ntypes = [\"bad\"]"), &["types names \"bad\"", "service_down"]);
    check(&route("receivers = [\"team\"]\nservices = [\"a*b\"]"), &["services may have a * at the end"]);
    check("[notify]\nreceiver = 1", &["notify.receiver must be tables", "[[notify.receiver]]"]);
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
