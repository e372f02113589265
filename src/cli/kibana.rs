//! Puts the saved objects and the alert rules of `config/kibana` into a running Kibana, and reads its answers item by
//! item: an import is answered 200 even when objects of it were refused.
//!
//! Why not the readable ids of the rules: Kibana encrypts rules and takes UUIDs alone for what it encrypts, until late in
//! version 8. Each rule has one of its own in the file, so that a second run finds what the first one made.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Certificate, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::client::{Failure, body};
use super::table::text;
use crate::app::AppError;
use crate::config::Sources;

/// Index patterns, visualisations and the dashboard, one saved object a line: CONTRACT.md section 17.3.
pub const OBJECTS: &str = include_str!("../../config/kibana/saved-objects.ndjson");
/// The alert rules, a list of ids and request bodies: CONTRACT.md section 17.4.
pub const RULES: &str = include_str!("../../config/kibana/rules.json");

/// How long a connection to Kibana is waited for: our choice, as for a running service.
const CONNECTING: Duration = Duration::from_secs(10);
/// Members of a rule that are settled when it is made; a change of it must not name them.
const SETTLED: [&str; 3] = ["consumer", "rule_type_id", "enabled"];
/// Members of an action that Kibana takes back as it gave them; others are its own.
const OF_ACTION: [&str; 6] = ["group", "id", "params", "frequency", "alerts_filter", "uuid"];

/// What rules send through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Email,
    Slack,
}

impl Channel {
    pub fn named(word: &str) -> Option<Self> {
        [Self::Email, Self::Slack].into_iter().find(|channel| channel.as_str() == word)
    }

    /// The word that stands in the file for the connector's id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Slack => "slack",
        }
    }
}

/// The connectors of one Kibana, and who gets the e-mails.
#[derive(Debug)]
pub struct Wiring {
    pub connectors: BTreeMap<Channel, String>,
    /// Of operations and of management; there when the e-mail connector is.
    pub addresses: Option<(String, String)>,
}

impl Wiring {
    /// The actions of the file that can be carried out here, with ids and addresses of this Kibana.
    fn actions(&self, of_file: &[Value]) -> Vec<Value> {
        let mut actions = Vec::new();
        for action in of_file {
            let id = Channel::named(&text(action, "id")).and_then(|channel| self.connectors.get(&channel));
            let Some(id) = id else { continue };
            let mut action = action.clone();
            action["id"] = json!(id);
            if let (Some((operations, management)), Some(to)) = (&self.addresses, action["params"]["to"].as_array_mut())
            {
                // The first receiver of each e-mail is operations, the second, of the critical ones, management.
                for (receiver, address) in to.iter_mut().zip([operations, management]) {
                    *receiver = json!(address);
                }
            }
            actions.push(action);
        }
        actions
    }
}

/// One rule of the file.
#[derive(Debug, Deserialize)]
struct Rule {
    /// What it is called here and in the documents.
    id: String,
    /// What it is called in Kibana.
    uuid: String,
    body: Map<String, Value>,
}

/// What Kibana answered, whatever its status.
struct Answer {
    status: StatusCode,
    json: Value,
}

impl Answer {
    /// Its own words, or the status without any.
    fn told(&self) -> String {
        match text(&self.json, "message") {
            told if told.is_empty() => format!("HTTP {}", self.status.as_u16()),
            told => format!("HTTP {}, {told}", self.status.as_u16()),
        }
    }
}

/// A way to one Kibana, and to one space of it.
pub struct Kibana {
    http: reqwest::Client,
    base: Url,
    shown: String,
}

impl Kibana {
    /// # Errors
    /// The address, the credentials or the certificates cannot be used.
    pub fn open(
        sources: &Sources,
        url: &str,
        space: Option<&str>,
        ca_file: Option<&Path>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let base = Url::parse(url).ok().filter(|base| matches!(base.scheme(), "http" | "https"));
        let mut base =
            base.ok_or_else(|| Failure::wrong("--kibana-url must begin with http:// or https:// and name a host"))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(Failure::wrong(
                "--kibana-url must not hold a user or a password: they come from KIBANA_USERNAME and KIBANA_PASSWORD",
            ));
        }
        base.set_query(None);
        base.set_fragment(None);
        if let Some(space) = space {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
            if space.is_empty() || !space.chars().all(is_name) {
                return Err(Failure::wrong("--space must be the id of a space: lower case letters, digits, - and _"));
            }
            // Cannot fail: an http address has a path.
            if let Ok(mut path) = base.path_segments_mut() {
                path.pop_if_empty().extend(["s", space]);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("kbn-xsrf"), HeaderValue::from_static("true"));
        // The same for OpenSearch Dashboards, which takes the objects too.
        headers.insert(HeaderName::from_static("osd-xsrf"), HeaderValue::from_static("true"));
        headers.extend(credentials(sources)?.map(|credentials| (AUTHORIZATION, credentials)));
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECTING)
            .timeout(patience)
            .default_headers(headers);
        if let Some(path) = ca_file {
            http = http.tls_certs_merge(authorities(path)?);
        }
        let http = http.build().map_err(|error| AppError::Internal(error.to_string()))?;
        let shown = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, base, shown })
    }

    /// Imports the objects, then makes or changes the rules. What one item comes to does not hold up the next; what
    /// concerns all of them does.
    ///
    /// # Errors
    /// What was refused, one line each, and what Kibana could not be asked.
    pub async fn apply(&self, objects: bool, rules: bool, wiring: Option<&Wiring>) -> Result<ExitCode, Failure> {
        let mut problems = Vec::new();
        let result = async {
            if objects {
                problems.extend(self.import().await?);
            }
            if rules {
                problems.extend(self.put_rules(wiring).await?);
            }
            Ok(())
        };
        match result.await {
            Ok(()) if problems.is_empty() => Ok(ExitCode::SUCCESS),
            Ok(()) => Err(Failure::Service(problems)),
            Err(Failure::Service(lines)) => {
                problems.extend(lines);
                Err(Failure::Service(problems))
            }
            Err(other) => Err(other),
        }
    }

    fn address(&self, path: &[&str]) -> Url {
        let mut address = self.base.clone();
        // Cannot fail: an http address has a path.
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        address
    }

    /// Sends the request. Refusals of one item are answers; only what concerns every request is an error.
    async fn ask(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let url = &self.shown;
        let answer = request.send().await.map_err(|error| {
            Failure::service(if error.is_timeout() {
                format!("{url} did not answer in time; --timeout gives it longer")
            } else if is_distrusted(&error) {
                format!("the certificate of {url} is not trusted; --ca-file names a file of certificates that it is trusted by")
            } else {
                format!("no answer from {url}; is Kibana running there?")
            })
        })?;
        let status = answer.status();
        let said = body(answer, url).await?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(Failure::service(format!(
                "{url} does not accept the credentials; see KIBANA_API_KEY, or KIBANA_USERNAME and KIBANA_PASSWORD"
            )));
        }
        match serde_json::from_slice::<Value>(&said) {
            Ok(json) if json.is_object() => Ok(Answer { status, json }),
            _ => Err(Failure::service(format!(
                "{url} answered HTTP {} with something else than JSON; is it Kibana?",
                status.as_u16()
            ))),
        }
    }

    /// What of the import was refused.
    async fn import(&self) -> Result<Vec<String>, Failure> {
        let file = Part::text(OBJECTS).file_name("saved-objects.ndjson").mime_str("application/ndjson");
        let file = file.map_err(|error| AppError::Internal(error.to_string()))?;
        let mut address = self.address(&["saved_objects", "_import"]);
        address.set_query(Some("overwrite=true"));
        let request = self.http.post(address).multipart(Form::new().part("file", file));
        let answer = self.ask(request).await?;
        if answer.status != StatusCode::OK {
            return Ok(vec![format!("the objects were not imported: {}", answer.told())]);
        }
        let sent = OBJECTS.lines().count() as u64;
        let taken = answer.json.get("successCount").and_then(Value::as_u64).unwrap_or_default();
        say!("imported {taken} of {sent} objects");
        let errors = answer.json.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut problems: Vec<String> = errors.iter().map(not_imported).collect();
        if problems.is_empty() && (taken != sent || answer.json.get("success") != Some(&Value::Bool(true))) {
            problems.push(format!("{taken} of {sent} objects were imported, and Kibana does not say why"));
        }
        Ok(problems)
    }

    /// Makes each rule, or changes the one that is there. What was refused.
    async fn put_rules(&self, wiring: Option<&Wiring>) -> Result<Vec<String>, Failure> {
        let rules: Vec<Rule> = serde_json::from_str(RULES).map_err(|error| AppError::Internal(error.to_string()))?;
        let mut problems = Vec::new();
        let mut bare = false;
        for rule in rules {
            let Rule { id, uuid, mut body } = rule;
            let of_file = body.get("actions").and_then(Value::as_array).cloned().unwrap_or_default();
            let actions = wiring.map(|wiring| wiring.actions(&of_file)).unwrap_or_default();
            let is_bare = actions.is_empty();
            body.insert("actions".to_owned(), Value::Array(actions));
            let address = self.address(&["alerting", "rule", &uuid]);
            let made = self.ask(with_json(self.http.post(address.clone()), &body)).await?;
            match made.status {
                StatusCode::OK => {
                    say!("made rule {id} ({uuid}){}", if is_bare { ", without actions" } else { "" });
                    bare |= is_bare;
                    continue;
                }
                StatusCode::CONFLICT => {}
                StatusCode::NOT_FOUND => {
                    problems.push(format!("rule {id} was not made: {}; is this a Kibana with alerting?", made.told()));
                    continue;
                }
                _ => {
                    problems.push(format!("rule {id} was not made: {}", made.told()));
                    continue;
                }
            }
            if wiring.is_none() {
                let there = self.ask(self.http.get(address.clone())).await?;
                if there.status != StatusCode::OK {
                    problems.push(format!("rule {id} is there and could not be read: {}", there.told()));
                    continue;
                }
                keep_actions(&mut body, &there.json);
            }
            for member in SETTLED {
                body.remove(member);
            }
            let changed = self.ask(with_json(self.http.put(address), &body)).await?;
            match changed.status {
                StatusCode::OK if wiring.is_none() => say!("changed rule {id} ({uuid}), its actions kept"),
                StatusCode::OK => say!("changed rule {id} ({uuid})"),
                _ => problems.push(format!("rule {id} is there and was not changed: {}", changed.told())),
            }
        }
        if bare {
            say!("new rules have no actions: --connector email=ID and --connector slack=ID give them some");
        }
        Ok(problems)
    }
}

fn with_json(request: RequestBuilder, body: &Map<String, Value>) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(Value::Object(body.clone()).to_string())
}

/// Takes the actions of the rule that is there over into what is sent: a change replaces them all.
fn keep_actions(body: &mut Map<String, Value>, there: &Value) {
    let actions = there.get("actions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let kept: Vec<Value> = actions
        .iter()
        .map(|action| {
            let members =
                OF_ACTION.into_iter().filter_map(|name| Some((name, action.get(name).filter(|it| !it.is_null())?)));
            members.map(|(name, value)| (name.to_owned(), value.clone())).collect::<Map<_, _>>().into()
        })
        .collect();
    // How often an action is carried out stands with the rule or with its actions, never with both.
    if kept.iter().any(|action| action.get("frequency").is_some()) {
        body.remove("notify_when");
        body.remove("throttle");
    }
    body.insert("actions".to_owned(), Value::Array(kept));
}

/// Why one object was refused.
fn not_imported(problem: &Value) -> String {
    let error = problem.get("error").unwrap_or(&Value::Null);
    let reason = match (text(error, "type").as_str(), text(error, "message")) {
        ("missing_references", _) => {
            let missing = error.get("references").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let missing: Vec<String> =
                missing.iter().map(|one| format!("{} {}", text(one, "type"), text(one, "id"))).collect();
            format!("it needs {}, which is missing there", missing.join(", "))
        }
        ("conflict" | "ambiguous_conflict", _) => "another object stands in its place".to_owned(),
        ("unsupported_type", _) => "this Kibana does not know its type".to_owned(),
        (_, message) if !message.is_empty() => message,
        (kind, _) => kind.to_owned(),
    };
    format!("{} {} was not imported: {reason}", text(problem, "type"), text(problem, "id"))
}

/// What the requests are signed with, if anything.
fn credentials(sources: &Sources) -> Result<Option<HeaderValue>, Failure> {
    let variable = |name: &str| sources.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let (user, password) = (variable("KIBANA_USERNAME"), variable("KIBANA_PASSWORD"));
    let (name, signed) = match (variable("KIBANA_API_KEY"), user, password) {
        (None, None, None) => return Ok(None),
        (Some(key), None, None) => ("KIBANA_API_KEY", format!("ApiKey {key}")),
        (None, Some(user), Some(password)) => {
            ("KIBANA_USERNAME", format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        }
        (Some(_), ..) => {
            return Err(Failure::wrong("KIBANA_API_KEY and KIBANA_USERNAME exclude each other: set one of them"));
        }
        (None, ..) => return Err(Failure::wrong("KIBANA_USERNAME and KIBANA_PASSWORD are set together or not at all")),
    };
    let mut signed = HeaderValue::from_str(&signed)
        .map_err(|_| Failure::wrong(format!("{name} holds a character that no key has")))?;
    signed.set_sensitive(true);
    Ok(Some(signed))
}

/// The other side showed a certificate that nobody vouches for.
fn is_distrusted(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // What an error of reading and writing carries is not among its causes.
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = carried.map(|carried| carried as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    false
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let wrong = |problem: String| Failure::wrong(format!("--ca-file {}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("holds no certificates in PEM".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_file_can_be_read() {
        let rules: Vec<Rule> = serde_json::from_str(RULES).unwrap_or_default();
        assert_eq!(rules.len(), 5);
    }

    #[test]
    fn kept_actions_lose_what_kibana_adds_and_never_say_twice_how_often() {
        let given = json!({"actions": [
            {"group": "query matched", "id": "a", "params": {}, "connector_type_id": ".slack", "frequency": null},
        ]});
        let mut body = Map::from_iter([("notify_when".to_owned(), json!("onActionGroupChange"))]);
        keep_actions(&mut body, &given);
        assert_eq!(body["actions"], json!([{"group": "query matched", "id": "a", "params": {}}]));
        assert!(body.contains_key("notify_when"));
        let given = json!({"actions": [{"group": "g", "id": "a", "params": {}, "frequency": {"summary": false}}]});
        keep_actions(&mut body, &given);
        assert_eq!(body["actions"][0]["frequency"], json!({"summary": false}));
        assert!(!body.contains_key("notify_when"));
    }
}
