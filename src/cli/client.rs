//! The client of a running service: where it is, the key it wants, one request at a time, and what its refusals mean to
//! the person who typed the command. What is asked and how it is shown is each command's own.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use url::Url;

use super::table::{one_line, printable, text};
use crate::app::AppError;
use crate::config::{ConfigError, PUBLISHED_KEY, Settings, Sources};

/// How long an answer is waited for: our choice, twice the default timeout of a check.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for an answer that waits for a check: the longest timeout of one (CONTRACT.md 5.1), and time for the rest.
pub const PATIENCE_WITH_CHECK: Duration = Duration::from_secs(70);
/// Largest answer that is read: our choice, far more than a thousand outages.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The environment in which the published key is known to both sides: CONTRACT.md section 2.
const DEVELOPMENT: &str = "development";

/// Where the running service is, and how its answer is shown.
#[derive(Debug, Args)]
pub struct Asking {
    /// Address of the running service; without it, this machine and the PORT of the settings. The key is the first of
    /// INTERNAL_SERVICE_KEY
    #[arg(long)]
    pub url: Option<String>,
    /// Print the JSON of the service as it came instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Why a command came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Arguments, settings, or our own fault.
    App(AppError),
    /// The service refused or is not there: what to say, line by line.
    Service(Vec<String>),
}

impl Failure {
    /// Arguments or settings that cannot be used.
    pub fn wrong(problem: impl Into<String>) -> Self {
        Self::App(AppError::Config(ConfigError(vec![problem.into()])))
    }

    /// Whoever was asked refused, or is not there.
    pub fn service(line: impl Into<String>) -> Self {
        Self::Service(vec![line.into()])
    }

    /// Says it, and how to exit.
    pub fn tell(&self) -> ExitCode {
        let (text, code) = match self {
            Self::App(error) => (error.to_string(), error.exit_code()),
            Self::Service(lines) => {
                (lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n"), ExitCode::from(1))
            }
        };
        for line in text.lines() {
            eprintln!("error: {line}");
        }
        code
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        Self::App(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::App(error.into())
    }
}

/// Reads a name or an id that becomes a part of a path. A dot alone would change the path instead.
///
/// # Errors
/// The text cannot be one.
pub fn segment(text: &str) -> Result<String, String> {
    if matches!(text, "" | "." | "..") { Err("is no name or id".to_owned()) } else { Ok(text.to_owned()) }
}

/// One request. Segments of the path are encoded when it is sent.
pub struct Request<'a> {
    method: Method,
    path: &'a [&'a str],
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    if_match: Option<&'a str>,
    patience: Duration,
}

impl<'a> Request<'a> {
    pub fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self { method, path, query: Vec::new(), body: None, if_match: None, patience: PATIENCE }
    }

    pub fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    /// Adds a parameter, if there is a value for it.
    pub fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    pub fn if_match(self, tag: Option<&'a str>) -> Self {
        Self { if_match: tag, ..self }
    }

    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// What the service answered to a request that it carried out.
#[derive(Debug)]
pub struct Answer {
    text: String,
    /// `null` for an answer without a body.
    pub json: Value,
}

impl Answer {
    /// Prints the answer as it came; one without a body prints nothing.
    pub fn print(&self) {
        if !self.text.is_empty() {
            say!("{}", one_line(&self.text));
        }
    }

    /// The `items` of a page.
    pub fn items(&self) -> &[Value] {
        self.json.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Prints a page as it came, or by `print`, with a word on what the page does not hold, and `hint` with it.
    pub fn list(&self, as_json: bool, print: impl FnOnce(&[Value]), hint: &str) {
        if as_json {
            return self.print();
        }
        let items = self.items();
        print(items);
        if let Some(total) = self.json.get("total").and_then(Value::as_u64)
            && total > items.len() as u64
        {
            eprintln!("{} of {total} are shown{hint}", items.len());
        }
    }
}

/// A way to one running service.
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// # Errors
    /// The address or the key cannot be used, or the settings that would name the port are wrong.
    pub fn open(sources: &Sources, url: Option<&str>) -> Result<Self, Failure> {
        let named = sources.variables.get("ENVIRONMENT").map(|named| named.trim().to_owned());
        let (base, environment) = match url {
            Some(url) => (url.to_owned(), named.filter(|named| !named.is_empty())),
            None => {
                let settings = Settings::load(sources)?;
                (super::own_address(&settings), Some(settings.api.environment))
            }
        };
        let base = Url::parse(&base).ok().filter(|base| matches!(base.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| Failure::wrong("--url must begin with http:// or https:// and name a host"))?;
        let mut key = key(sources, environment.as_deref().unwrap_or(DEVELOPMENT))?;
        key.set_sensitive(true);
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(PATIENCE)
            .default_headers(HeaderMap::from_iter([(HeaderName::from_static("x-service-key"), key)]))
            .build()
            .map_err(|error| AppError::Internal(error.to_string()))?;
        Ok(Self { http, base })
    }

    /// The address without what must not be shown.
    fn shown(&self) -> String {
        let mut shown = self.base.clone();
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.as_str().trim_end_matches('/').to_owned()
    }

    fn address(&self, request: &Request<'_>) -> Url {
        let mut address = self.base.clone();
        address.set_query(None);
        address.set_fragment(None);
        // Cannot fail: an http address has a path.
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend(request.path);
        }
        if !request.query.is_empty() {
            address.query_pairs_mut().extend_pairs(&request.query);
        }
        address
    }

    /// Sends the request and waits for the whole answer.
    ///
    /// # Errors
    /// [`Failure::Service`] when nothing answers, when the service refuses, and when the answer is none of its own.
    pub async fn ask(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let mut asking = self.http.request(request.method.clone(), self.address(&request)).timeout(request.patience);
        if let Some(body) = &request.body {
            asking = asking.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        if let Some(tag) = request.if_match {
            asking = asking.header(IF_MATCH, tag);
        }
        let url = self.shown();
        let answer = asking.send().await.map_err(|error| {
            if error.is_builder() {
                Failure::wrong("--if-match holds a character that no tag has")
            } else {
                Failure::service(format!("no answer from {url}; is the service running there?"))
            }
        })?;
        let status = answer.status();
        let wait = answer.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()).map(str::to_owned);
        let text = read(answer, &url).await?;
        let json: Option<Value> = serde_json::from_str(&text).ok();
        if !status.is_success() {
            return Err(refusal(&url, status, wait.as_deref(), &json.unwrap_or_default()));
        }
        match json {
            Some(json) => Ok(Answer { text, json }),
            None if text.is_empty() => Ok(Answer { text, json: Value::Null }),
            None => Err(Failure::service(format!("{url} answered with something else than JSON; is it this service?"))),
        }
    }
}

/// The key that is sent: CONTRACT.md section 2.
fn key(sources: &Sources, environment: &str) -> Result<HeaderValue, Failure> {
    let given = sources.variables.get("INTERNAL_SERVICE_KEY").map_or("", String::as_str);
    let first = given.split(',').map(str::trim).find(|key| !key.is_empty());
    let key = match first {
        Some(key) => key,
        None if environment == DEVELOPMENT => PUBLISHED_KEY,
        None => {
            return Err(Failure::wrong(
                "INTERNAL_SERVICE_KEY must be set outside development: the service asks for it",
            ));
        }
    };
    HeaderValue::from_str(key).map_err(|_| Failure::wrong("INTERNAL_SERVICE_KEY holds a character that no key has"))
}

/// The body, up to its cap.
///
/// # Errors
/// It is longer, or breaks off.
pub async fn body(mut answer: Response, url: &str) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let chunk = answer.chunk().await;
        let chunk = chunk.map_err(|_| Failure::service(format!("the answer of {url} broke off")))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(Failure::service(format!("the answer of {url} is over {} MiB", ANSWER_BYTES / 1024 / 1024)));
        }
        body.extend_from_slice(&chunk);
    }
}

/// The body as text.
async fn read(answer: Response, url: &str) -> Result<String, Failure> {
    String::from_utf8(body(answer, url).await?)
        .map_err(|_| Failure::service(format!("{url} answered with something else than JSON; is it this service?")))
}

/// What a refusal says: each field with its rule, else the message.
fn refusal(url: &str, status: StatusCode, wait: Option<&str>, body: &Value) -> Failure {
    let fields = body.get("detail").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let fields: Vec<String> = fields.iter().map(broken_rule).filter(|line| !line.is_empty()).collect();
    if !fields.is_empty() {
        return Failure::Service(fields);
    }
    let mut line = match text(body, "message") {
        told if told.is_empty() => format!("{url} answered HTTP {}; is it this service?", status.as_u16()),
        told => told,
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => line.push_str("; see INTERNAL_SERVICE_KEY"),
        _ => line.extend(wait.map(|wait| format!("; try again in {wait} s"))),
    }
    Failure::service(line)
}

/// `field: rule` of one item of a 422.
fn broken_rule(item: &Value) -> String {
    let place = item.get("loc").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let part = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
    // The first part says body, query or path.
    let field: Vec<String> = place.iter().skip(1).map(part).collect();
    match (field.join("."), text(item, "msg")) {
        (field, rule) if field.is_empty() => rule,
        (field, rule) => format!("{field}: {rule}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn client(base: &str) -> Client {
        crate::app::install_crypto_provider();
        match Client::open(&Sources::default(), Some(base)) {
            Ok(client) => client,
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn a_name_is_one_segment_whatever_it_holds() {
        let address = |base: &str, path: &[&str]| client(base).address(&Request::get(path)).to_string();
        assert_eq!(address("http://h:1", &["services", "a/b?c#d%é"]), "http://h:1/services/a%2Fb%3Fc%23d%25%C3%A9");
        assert_eq!(address("https://h/proxied/?x#y", &["services"]), "https://h/proxied/services");
        let request = Request::get(&["outages"]).query("endpoint_id", Some("a&b")).query("limit", None::<u32>);
        assert_eq!(client("http://h").address(&request).as_str(), "http://h/outages?endpoint_id=a%26b");
        assert_eq!(client("http://user:secret@h/").shown(), "http://h");
        for dots in ["", ".", ".."] {
            assert!(segment(dots).is_err());
        }
    }

    #[test]
    fn the_key_is_the_first_or_in_development_the_published_one() {
        let check = |given: Option<&str>, environment: &str, expected: Option<&str>| {
            let given = given.map(|key| ("INTERNAL_SERVICE_KEY".to_owned(), key.to_owned()));
            let sources = Sources::new(given.into_iter().collect(), None);
            let key = key(&sources, environment).ok();
            assert_eq!(key.as_ref().and_then(|key| key.to_str().ok()), expected);
        };
        check(None, "development", Some(PUBLISHED_KEY));
        check(Some(" , "), "development", Some(PUBLISHED_KEY));
        check(Some("one, two"), "development", Some("one"));
        check(Some("one,two"), "production", Some("one"));
        check(None, "production", None);
        check(Some("a\nb"), "development", None);
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let check = |code: u16, body: Value, expected: &[&str]| {
            let status = StatusCode::from_u16(code).unwrap_or_default();
            match refusal("http://h", status, Some("1"), &body) {
                Failure::Service(lines) => assert_eq!(lines, expected),
                Failure::App(error) => panic!("{error}"),
            }
        };
        check(404, json!({"message": "Not Found", "detail": "Not Found"}), &["Not Found; try again in 1 s"]);
        check(401, json!({"message": "no"}), &["no; see INTERNAL_SERVICE_KEY"]);
        check(502, Value::Null, &["http://h answered HTTP 502; is it this service?; try again in 1 s"]);
        let items = json!([
            {"loc": ["body", "timeout"], "msg": "must be greater than 0"},
            {"loc": ["body", "headers", 0], "msg": "is odd"},
            {"msg": "must be an object"},
        ]);
        let expected = ["timeout: must be greater than 0", "headers.0: is odd", "must be an object"];
        check(422, json!({"message": "timeout: must be greater than 0", "detail": items}), &expected);
    }
}
