//! What is made for Prometheus and Grafana, against what is really exposed: every expression of rules and dashboards
//! names metrics, labels and values of a real scrape; promtool takes the rules, the configuration and the tests of the
//! rules; a real Prometheus scrapes, discovers and probes by the configuration as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Phases, Reason, Reply};
use as_infrastructure_service::domain::status::Status;
use regex::Regex;
use serde_json::Value;

use crate::elastic::Elastic;
use crate::grafana;
use crate::support::{Binary, KEY, Script, Stub, TestApp, eventually, free_port};

/// Labels of counters of which a quiet minute shows no sample: the contract, section 16.
const UNSEEN: [(&str, &[&str]); 6] = [
    ("infra_panics_total", &["task"]),
    ("infra_notifications_total", &["channel", "result"]),
    ("infra_events_published_total", &["type"]),
    ("infra_events_consumed_total", &["type"]),
    ("infra_events_dead_lettered_total", &["type"]),
    ("infra_checks_total", &["service", "result", "reason"]),
];
/// Exposed only where there is a Redis, or a host that can be looked at.
const ELSEWHERE: [(&str, &[&str]); 4] = [
    ("infra_redis_up", &[]),
    ("infra_host_cpu_usage_ratio", &[]),
    ("infra_host_memory_usage_ratio", &[]),
    ("infra_host_disk_usage_ratio", &[]),
];
/// Labels that Prometheus gives to every series.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];
/// Words of closed sets that stand in no quiet scrape: the contract, section 16.
const WORDS: [(&str, &[&str]); 1] = [("result", &["dead", "refused"])];

pub fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

/// One expression, where it stands, and what its texts say of its labels.
#[derive(Debug, Clone)]
pub struct Expression {
    pub place: String,
    pub text: String,
    /// Labels that a legend or an annotation shows.
    pub shown: Vec<String>,
}

/// What is exposed: labels of each metric with their values.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn words(pattern: &str, text: &str) -> Vec<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// One rule of the file: what it records or tells, its expression, and the rest of its text.
struct Rule {
    name: String,
    alerts: bool,
    text: String,
    expression: Expression,
}

/// Why not a YAML parser: promtool is one, and here only the form of our own file is to be known.
fn rules() -> Vec<Rule> {
    let file = std::fs::read_to_string(config("prometheus/rules.yml")).unwrap();
    let start = Regex::new(r"(?m)^      - (record|alert): (\S+)$").unwrap();
    let starts: Vec<_> = start.captures_iter(&file).collect();
    let ends = starts.iter().skip(1).map(|next| next.get(0).unwrap().start()).chain([file.len()]);
    let expression = Regex::new(r"(?m)^        expr: (?:\|\n((?:          .*\n)+)|(.*)\n)").unwrap();
    starts
        .iter()
        .zip(ends)
        .map(|(found, end)| {
            let text = file[found.get(0).unwrap().start()..end].to_owned();
            let parts = expression.captures(&text).unwrap_or_else(|| panic!("{text}"));
            let expr = parts.get(1).or_else(|| parts.get(2)).unwrap().as_str().trim().to_owned();
            let shown = words(r"\$labels\.(\w+)", &text);
            let place = format!("rule {}", &found[2]);
            Rule {
                name: found[2].to_owned(),
                alerts: &found[1] == "alert",
                expression: Expression { place, text: expr, shown },
                text,
            }
        })
        .collect()
}

fn exposed(scrape: &str) -> Exposed {
    let labels = Regex::new(r#"(\w+)="((?:[^"\\]|\\.)*)""#).unwrap();
    let mut exposed = Exposed::new();
    for line in scrape.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let parts: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            for part in parts {
                exposed.entry(format!("{name}{part}")).or_default();
            }
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let known = exposed.get_mut(name).unwrap_or_else(|| panic!("{name} is not announced"));
            for label in labels.captures_iter(line) {
                known.entry(label[1].to_owned()).or_default().insert(label[2].to_owned());
            }
        }
    }
    exposed
}

/// What a service shows that is healthy, degraded and down by turns, with an outage, alerts, a certificate and an
/// Elasticsearch.
async fn scrape() -> Exposed {
    let elastic = Elastic::start().await;
    let url = elastic.url();
    let file = "[[service]]\nname = \"auth\"\nurl = \"http://127.0.0.1:1\"\ncritical = true\n\
                [[service]]\nname = \"web\"\nurl = \"https://127.0.0.1:1\"\ndepends_on = [\"auth\"]\n";
    let exporting = [("ELASTICSEARCH_ENABLED", "true"), ("ELASTICSEARCH_HOSTS", url.as_str())];
    let app = TestApp::with_file(file, &exporting).await;
    for ms in [5, 1500, 4000] {
        app.answer("auth", ms).await;
        app.answer("web", ms).await;
        app.clock.advance(Duration::from_secs(15));
    }
    let ms = |ms| Some(Duration::from_millis(ms));
    let phases = Phases { resolve: ms(1), connect: ms(2), tls: ms(3), response: ms(4) };
    let reply = Reply { code: 200, certificate_expires: Some(4_000_000_000), ..Reply::default() };
    app.take_in("web", Observation { reply: Ok(reply), phases }).await;
    app.fail("auth", 6).await;
    app.take_in("auth", Observation::failed(Reason::LocalResource, "")).await;
    app.clock.advance(Duration::from_secs(120));
    app.get("/health/services").await;
    let accept = [("x-service-key", KEY), ("accept", "text/plain")];
    let scraped = eventually("documents to be sent", async || {
        app.app.engine.export_now().await.ok()?;
        let scraped = app.ask("GET", "/metrics", &accept, "").await.text;
        scraped.contains("\ninfra_export_documents_total{").then_some(scraped)
    })
    .await;
    let mut exposed = exposed(&scraped);
    let known = |metric: &str, label: &str| exposed[metric].get(label).cloned().unwrap_or_default();
    assert!(known("infra_service_status", "status").len() == Status::ALL.len());
    assert!(known("infra_checks_total", "result").contains("inconclusive"));
    assert!(known("infra_outages_total", "severity").contains("critical"));
    for (name, labels) in UNSEEN {
        let family = exposed.get_mut(name).unwrap_or_else(|| panic!("{name} is not announced"));
        labels.iter().for_each(|label| _ = family.entry((*label).to_owned()).or_default());
    }
    for (name, labels) in ELSEWHERE {
        let labels = labels.iter().map(|label| ((*label).to_owned(), BTreeSet::new()));
        exposed.entry(name.to_owned()).or_default().extend(labels);
    }
    exposed.insert("up".to_owned(), BTreeMap::new());
    exposed
}

/// What is wrong with an expression; with nothing wrong, the labels that its metrics have.
fn judge(expression: &Expression, exposed: &Exposed) -> Result<BTreeSet<String>, String> {
    let Expression { place, text, shown } = expression;
    let selector = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}").unwrap();
    let matcher = Regex::new(r#"(\w+)(=~|!~|!=|=)"([^"]*)""#).unwrap();
    // Texts hold words that are no names, and a selector may stand without its metric nowhere here.
    let bare = Regex::new(r#""[^"]*""#).unwrap().replace_all(text, "\"\"");
    let metrics = words(r"\b((?:infra|process|up|service:|instance:)[a-zA-Z0-9_:]*)\b", &bare);
    let mut labels: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    let mut named = 0;
    for metric in metrics.iter().filter(|word| !matches!(word.as_str(), "service" | "instance")) {
        let family = exposed.get(metric).ok_or_else(|| format!("{place}: nothing exposes {metric}: {text}"))?;
        labels.extend(family.keys().cloned());
        named += 1;
    }
    if named == 0 && text != "vector(0.99)" {
        return Err(format!("{place} names no metric: {text}"));
    }
    for found in selector.captures_iter(text) {
        let (metric, matchers) = (&found[1], &found[2]);
        let family = exposed.get(metric).ok_or_else(|| format!("{place}: nothing exposes {metric}"))?;
        for one in matcher.captures_iter(matchers) {
            let (label, operator, value) = (&one[1], &one[2], &one[3]);
            let is_own = OF_PROMETHEUS.contains(&label);
            let Some(values) = family.get(label) else {
                if is_own {
                    continue;
                }
                return Err(format!("{place}: {metric} has no label {label}: {text}"));
            };
            let told = WORDS.iter().any(|(of, words)| *of == label && words.contains(&value));
            for word in value.split('|').filter(|word| !word.contains(['$', '*'])) {
                if operator.starts_with('=') && !told && !values.contains(word) {
                    return Err(format!("{place}: {label} of {metric} is never {word}, only {values:?}"));
                }
            }
        }
    }
    let listed = words(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)", text);
    let listed = listed.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|label| !label.is_empty());
    for label in listed.chain(shown.iter().map(String::as_str)) {
        if !labels.contains(label) {
            return Err(format!("{place}: none of its metrics has the label {label}: {text}"));
        }
    }
    Ok(labels)
}

#[tokio::test]
async fn every_expression_names_what_is_really_exposed() {
    let mut exposed = scrape().await;
    let mut wrong = Vec::new();
    for rule in rules() {
        match judge(&rule.expression, &exposed) {
            Err(problem) => wrong.push(problem),
            Ok(labels) if !rule.alerts => {
                let of = |label: &String| {
                    let values = exposed.values().filter_map(|family| family.get(label)).flatten().cloned();
                    (label.clone(), values.collect())
                };
                exposed.insert(rule.name, labels.iter().map(of).collect());
            }
            Ok(_) => {}
        }
    }
    // Dashboards do without the rules: whoever has none of them sees the same.
    let recorded: Vec<String> = exposed.keys().filter(|name| name.contains(':')).cloned().collect();
    recorded.iter().for_each(|name| _ = exposed.remove(name));
    let dashboards = grafana::expressions();
    assert!(dashboards.len() > 60, "{}", dashboards.len());
    wrong.extend(dashboards.iter().filter_map(|expression| judge(expression, &exposed).err()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_name_that_nothing_exposes_is_found() {
    let exposed = scrape().await;
    let check = |text: &str, shown: &[&str], expected: Option<&str>| {
        let shown = shown.iter().map(|label| (*label).to_owned()).collect();
        let judged = judge(&Expression { place: "here".to_owned(), text: text.to_owned(), shown }, &exposed);
        match (judged, expected) {
            (Ok(_), None) => {}
            (Err(problem), Some(part)) => assert!(problem.contains(part), "{problem}"),
            (judged, _) => panic!("{text}: {judged:?}"),
        }
    };
    check("sum by (status) (infra_services)", &["status"], None);
    check("infra_service", &[], Some("nothing exposes infra_service"));
    check("rate(infra_checks[5m])", &[], Some("nothing exposes infra_checks"));
    check("infra_outage_open{name=\"x\"}", &[], Some("no label name"));
    check("infra_service_availability_ratio{window=\"2h\"}", &[], Some("never 2h"));
    check("infra_checks_total{result=~\"healthy|fine\"}", &[], Some("never fine"));
    check("sum by (colour) (infra_services)", &[], Some("label colour"));
    check("infra_services", &["service"], Some("label service"));
    check("infra_probe_duration_seconds_bucket{le=\"0.25\"}", &["le", "protocol"], None);
    check("infra_probe_duration_seconds", &[], Some("nothing exposes"));
    check("1 + 1", &[], Some("names no metric"));
}

/// Runs promtool, which must be content.
fn promtool(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("promtool").current_dir(folder).args(arguments).output();
    let output = output.expect("promtool comes with Debian's prometheus; tests/run installs it");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// The folder as it is, with a key.
fn copied() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["prometheus.yml", "rules.yml"] {
        std::fs::copy(config("prometheus").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("infrastructure.key"), KEY).unwrap();
    folder
}

#[test]
fn promtool_takes_the_rules_and_the_configuration() {
    let folder = copied();
    assert!(promtool(folder.path(), &["check", "rules", "rules.yml"]).contains("SUCCESS"));
    promtool(folder.path(), &["check", "config", "prometheus.yml"]);
}

#[test]
fn the_rules_tell_when_they_should_and_are_silent_when_they_should() {
    let folder = config("prometheus");
    for file in ["tests/services.yml", "tests/monitor.yml"] {
        promtool(&folder, &["test", "rules", file]);
    }
}

#[test]
fn every_alert_is_explained_and_tested_both_ways() {
    let tests = ["services", "monitor"].map(|name| config(&format!("prometheus/tests/{name}.yml")));
    let tests = tests.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let alerts: Vec<Rule> = rules().into_iter().filter(|rule| rule.alerts).collect();
    assert_eq!(alerts.len(), 26);
    for Rule { name, text, .. } in &alerts {
        for part in ["\n          severity: ", "\n          summary: ", "\n          description: "] {
            assert!(text.contains(part), "{name} has no {}", part.trim());
        }
        let firing = format!("alertname: {name}\n        exp_alerts:\n          - ");
        let silent = format!("alertname: {name}\n        exp_alerts: []");
        assert!(tests.contains(&firing) && tests.contains(&silent), "{name} is not tested both ways");
    }
}

#[test]
fn promtool_understands_every_expression_of_the_dashboards() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = "groups:\n  - name: dashboards\n    rules:\n".to_owned();
    for (number, expression) in grafana::expressions().iter().enumerate() {
        let mut text = expression.text.clone();
        for (variable, value) in [
            ("$__rate_interval", "5m"),
            ("$__interval", "5m"),
            ("$category", ".*"),
            ("$service", "a"),
            ("$instance", ".*"),
        ] {
            text = text.replace(variable, value);
        }
        assert!(!text.contains('$'), "{}: {text}", expression.place);
        // JSON is YAML.
        let text = serde_json::to_string(&text).unwrap();
        file.push_str(&format!("      - record: \"dashboards:{number}\"\n        expr: {text}\n"));
    }
    std::fs::write(folder.path().join("dashboards.yml"), file).unwrap();
    promtool(folder.path(), &["check", "rules", "dashboards.yml"]);
}

#[tokio::test]
async fn a_real_prometheus_scrapes_discovers_and_probes_by_the_configuration() {
    let stub = Stub::start(Script::ok()).await;
    let services = format!(
        "[[service]]\nname = \"auth\"\nurl = \"{}\"\n[[service]]\nname = \"port\"\nurl = \"tcp://{}\"\n",
        stub.url(),
        stub.address
    );
    let allowed = [("EGRESS_ALLOW", "127.0.0.0/8"), ("READONLY_SERVICE_KEYS", "a-key-that-reads-only")];
    let service = Binary::start(&services, &allowed).await;
    let folder = copied();
    let file = std::fs::read_to_string(folder.path().join("prometheus.yml")).unwrap();
    let own = format!("127.0.0.1:{}", service.port);
    let file = file.replace("127.0.0.1:3106", &own).replace("15s", "1s").replace("60s", "1s");
    std::fs::write(folder.path().join("prometheus.yml"), file).unwrap();
    std::fs::write(folder.path().join("infrastructure.key"), "a-key-that-reads-only").unwrap();
    let port = free_port();
    let mut server = tokio::process::Command::new("prometheus");
    server.current_dir(folder.path()).kill_on_drop(true);
    server.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]);
    let _server = server.arg(format!("--web.listen-address=127.0.0.1:{port}")).spawn().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str| -> Option<Value> {
        client.get(format!("http://127.0.0.1:{port}/api/v1/{path}")).send().await.ok()?.json().await.ok()
    };
    // A number that Prometheus has, once it has it.
    let value = async |query: &str, wanted: &str| {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        eventually(&query, async || {
            let answer = ask(&format!("query?query={query}")).await?;
            let found = answer["data"]["result"].as_array()?.first()?["value"][1].as_str()?.to_owned();
            (found == wanted).then_some(())
        })
        .await;
    };
    value("up{job=\"as-infrastructure-service\"}", "1").await;
    value("infra_service_up{service=\"auth\"}", "1").await;
    value("up{job=\"infrastructure-probes\",service=\"auth\"}", "1").await;
    value(&format!("probe_success{{instance=~\"{}.*\",service=\"auth\"}}", stub.url()), "1").await;
    // The module comes with the target: asked over HTTP, an address of TCP would be refused.
    value("probe_success{service=\"port\"}", "1").await;
    value("infra:availability_objective:ratio", "0.99").await;
    let rules = ask("rules").await.unwrap();
    let rules: Vec<&Value> = rules["data"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(rules.len(), 34);
    let failed: Vec<_> = rules.iter().filter(|rule| rule["health"] == "err").collect();
    assert!(failed.is_empty(), "{failed:?}");
}
