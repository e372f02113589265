//! Elasticsearch and OpenSearch as receivers of documents (CONTRACT.md section 17): what is asked of the server, and what
//! its answers mean. What is owed, and how far it has got, is the engine's business.
//!
//! The server is not trusted: an answer is read up to a limit, its items are found by their ids and not by their place,
//! and whatever is not told of a document leaves it owed. No official client: none was ever released.

pub mod documents;
mod indices;

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use self::documents::{Action, Document};
use crate::domain::observation::clean;

/// Of an answer no more is read: our choice, some 1.5 KB for each item of the largest batch.
const MOST_ANSWER: usize = 16 << 20;
/// Bytes of one request before they are compressed: our choice, far below the server's own limit of 100 MB.
const MOST_REQUEST: usize = 5 << 20;
/// Of what the server says no more is told: our choice.
const MOST_SAID: usize = 300;
/// And of so much it is taken: our choice.
const LOOKED_AT: usize = 4096;

/// Settings of the export: section `[elasticsearch]`.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// Tried in turn.
    pub hosts: Vec<Url>,
    pub login: Login,
    /// False: any certificate is good enough.
    pub verify: bool,
    /// Certificates, PEM, that may have signed the server's; empty: those of the system.
    pub authorities: Vec<u8>,
    /// Of one request.
    pub timeout: Duration,
    /// Between two rounds.
    pub interval: Duration,
    /// Documents in one request.
    pub batch: usize,
    /// strftime, of the dates in the names of indices.
    pub date_format: String,
    pub shards: u64,
    pub replicas: u64,
    /// After how many days the server deletes.
    pub retention_days: u64,
    /// Bytes of the check log that may wait.
    pub backlog_bytes: u64,
}

/// Who we are to the server.
#[derive(Debug, Clone)]
pub enum Login {
    Nobody,
    User {
        name: String,
        password: SecretString,
    },
    /// As the server gives it out: base64 of id and key.
    ApiKey(SecretString),
}

/// The server did not do what it was asked; the same may succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExportError(String);

impl ExportError {
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Accepted,
    /// Not now; nothing was said, or it said why not.
    Later(String),
    /// Never as it is.
    Refused { status: u16, error: String },
}

/// The server, and what is known of it.
#[derive(Debug)]
pub struct Elasticsearch {
    config: ExportConfig,
    client: reqwest::Client,
    login: Option<HeaderValue>,
    /// What the server may send back and nobody may read: the login and its parts.
    secrets: Vec<SecretString>,
    /// The host that answered last.
    current: AtomicUsize,
}

#[derive(Deserialize)]
struct BulkAnswer {
    #[serde(default)]
    items: Option<Vec<HashMap<String, BulkItem>>>,
}

#[derive(Deserialize)]
struct BulkItem {
    #[serde(rename = "_id", default)]
    id: Option<String>,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    error: Option<Value>,
}

impl Elasticsearch {
    /// Builds the client; nothing is asked yet.
    ///
    /// # Errors
    /// The certificates or the login cannot be used.
    pub fn new(config: ExportConfig) -> Result<Self, ExportError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(config.timeout);
        if !config.verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if !config.authorities.is_empty() {
            let bundle = reqwest::Certificate::from_pem_bundle(&config.authorities);
            let certificates = bundle.ok().filter(|certificates| !certificates.is_empty());
            let certificates =
                certificates.ok_or_else(|| ExportError("the CA file holds no certificate".to_owned()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let mut secrets = Vec::new();
        let login = match &config.login {
            Login::Nobody => None,
            Login::User { name, password } => {
                use base64::Engine as _;
                let both = format!("{name}:{}", password.expose_secret());
                let both = base64::engine::general_purpose::STANDARD.encode(both);
                secrets.extend([both.clone().into(), password.clone()]);
                Some(format!("Basic {both}"))
            }
            Login::ApiKey(key) => {
                secrets.push(key.clone());
                Some(format!("ApiKey {}", key.expose_secret()))
            }
        };
        let login = login.map(|text| HeaderValue::from_str(&text)).transpose();
        let mut login = login.map_err(|_| ExportError("the API key holds characters no header may hold".to_owned()))?;
        login.iter_mut().for_each(|value| value.set_sensitive(true));
        let client = builder.build().map_err(|error| ExportError(format!("no client: {error}")))?;
        Ok(Self { config, client, login, secrets, current: AtomicUsize::new(0) })
    }

    pub fn config(&self) -> &ExportConfig {
        &self.config
    }

    /// Sends documents, and tells what became of each, in their order.
    ///
    /// # Errors
    /// No document's fate is known: no answer, or one that is not that of a bulk request.
    pub async fn bulk(&self, documents: &[Document]) -> Result<Vec<Fate>, ExportError> {
        let mut fates = vec![Fate::Later("not told".to_owned()); documents.len()];
        let mut parts = vec![(0, documents.len())];
        while let Some((from, to)) = parts.pop() {
            let Some(part) = documents.get(from..to).filter(|part| !part.is_empty()) else { continue };
            let bytes: usize = part.iter().map(Document::bytes).sum();
            let halves = [(from + part.len() / 2, to), (from, from + part.len() / 2)];
            if bytes > MOST_REQUEST && part.len() > 1 {
                parts.extend(halves);
                continue;
            }
            match self.bulk_once(part).await? {
                Some(told) => fates.splice(from..to, told).for_each(drop),
                None if part.len() > 1 => parts.extend(halves),
                None => fates[from] = Fate::Refused { status: 413, error: "too large for the server".to_owned() },
            }
        }
        Ok(fates)
    }

    /// One request; `None`: it was too large.
    async fn bulk_once(&self, documents: &[Document]) -> Result<Option<Vec<Fate>>, ExportError> {
        let mut plain = Vec::with_capacity(documents.iter().map(Document::bytes).sum());
        documents.iter().for_each(|document| document.write(&mut plain));
        let packed = tokio::task::spawn_blocking(move || {
            let mut packer = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
            packer.write_all(&plain).and_then(|()| packer.finish())
        });
        let packed = packed.await.map_err(|error| ExportError(error.to_string()))?;
        let packed = packed.map_err(|error| ExportError(format!("not compressed: {error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let path = "_bulk?filter_path=errors,items.*._id,items.*.status,items.*.error.type,items.*.error.reason";
        let (status, answer) = self.ask(Method::POST, path, headers, Some(packed)).await?;
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Ok(None),
            _ if status.is_success() => Ok(Some(fates(documents, &answer, |text| self.said(text))?)),
            _ => Err(self.refusal(status, &answer)),
        }
    }

    /// One request to the host that answered last; a host that does not answer is left for the next.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Vec<u8>), ExportError> {
        let current = self.current.load(Ordering::Relaxed);
        let host = self.config.hosts.get(current % self.config.hosts.len().max(1));
        let host = host.ok_or_else(|| ExportError("no host is set".to_owned()))?;
        let url = host.join(path).map_err(|error| ExportError(format!("{path}: {error}")))?;
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answered = async {
            // The error of the client names the whole address; the host is enough.
            let failed = |error: reqwest::Error| {
                let why = match (error.is_timeout(), error.is_connect()) {
                    (true, _) => "no answer in time",
                    (false, true) => "no connection",
                    (false, false) => "the answer broke off",
                };
                ExportError(format!("{}: {why}", host.origin().ascii_serialization()))
            };
            let mut response = request.send().await.map_err(failed)?;
            let (status, mut answer) = (response.status(), Vec::new());
            while let Some(piece) = response.chunk().await.map_err(failed)? {
                if answer.len() + piece.len() > MOST_ANSWER {
                    return Err(ExportError(format!(
                        "{}: an answer of more than {MOST_ANSWER} bytes",
                        host.origin().ascii_serialization()
                    )));
                }
                answer.extend_from_slice(&piece);
            }
            Ok((status, answer))
        };
        let result = answered.await;
        let is_away = match &result {
            Err(_) => true,
            Ok((status, _)) => status.is_server_error(),
        };
        if is_away {
            let _ = self.current.compare_exchange(current, current + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        result
    }

    /// A request that was refused as a whole.
    fn refusal(&self, status: StatusCode, answer: &[u8]) -> ExportError {
        let hint = match status.as_u16() {
            401 => "; check ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD, or ELASTICSEARCH_API_KEY",
            403 => "; the user may not do this",
            _ => "",
        };
        ExportError(format!("HTTP {}{hint}: {}", status.as_u16(), self.said(answer)))
    }

    /// The beginning of what the server said, fit for a log: nothing that hides or turns, and not our own login, which
    /// some send back.
    fn said(&self, answer: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(answer.get(..LOOKED_AT).unwrap_or(answer)).into_owned();
        for secret in self.secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "***");
        }
        clean(&text).chars().take(MOST_SAID).collect()
    }
}

/// What the answer to a bulk request says of each document. `said`: the server's words as they may be told.
fn fates(documents: &[Document], answer: &[u8], said: impl Fn(&[u8]) -> String) -> Result<Vec<Fate>, ExportError> {
    let unreadable = || ExportError(format!("the answer is not that of a bulk request: {}", said(answer)));
    let answer: BulkAnswer = serde_json::from_slice(answer).map_err(|_| unreadable())?;
    let items = answer.items.ok_or_else(unreadable)?;
    let told: HashMap<String, (String, BulkItem)> = items
        .into_iter()
        .flat_map(HashMap::into_iter)
        .filter_map(|(action, item)| Some((item.id.clone()?, (action, item))))
        .collect();
    let fate = |document: &Document| match told.get(&document.id) {
        Some((action, item)) if action == document.action.as_str() => document.action.fate(item.status, || {
            item.error.as_ref().map(|error| said(error.to_string().as_bytes())).unwrap_or_default()
        }),
        _ => Fate::Later("the answer does not name it".to_owned()),
    };
    Ok(documents.iter().map(fate).collect())
}

impl Action {
    fn fate(self, status: u16, error: impl FnOnce() -> String) -> Fate {
        match (self, status) {
            (_, 200..=299) | (Self::Create, 409) | (Self::Delete, 404) => Fate::Accepted,
            (_, 400..=499) if !matches!(status, 408 | 429) => Fate::Refused { status, error: error() },
            _ => Fate::Later(format!("status {status}: {}", error())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_as(text: &[u8]) -> String {
        String::from_utf8_lossy(text).into_owned()
    }

    fn document(id: &str, action: Action) -> Document {
        Document { index: "i".to_owned(), id: id.to_owned(), action, body: None }
    }

    #[test]
    fn items_are_found_by_their_ids_whatever_their_order() {
        let documents: Vec<Document> =
            ["a", "b", "c", "d"].into_iter().map(|id| document(id, Action::Create)).collect();
        let answer =
            br#"{"errors":true,"items":[{"create":{"_id":"d","status":201}},{"create":{"_id":"z","status":201}},
            {"create":{"_id":"b","status":429,"error":{"type":"t"}}},{"index":{"_id":"c","status":201}},
            {"create":{"_id":"a","status":409}}]}"#;
        let told = fates(&documents, answer, told_as).unwrap();
        assert_eq!(told[0], Fate::Accepted);
        assert_eq!(told[1], Fate::Later(r#"status 429: {"type":"t"}"#.to_owned()));
        assert_eq!(told[2], Fate::Later("the answer does not name it".to_owned()));
        assert_eq!(told[3], Fate::Accepted);
    }

    #[test]
    fn a_status_means_what_the_action_makes_of_it() {
        let check = |action: Action, status: u16, fate: &str| {
            let got = match action.fate(status, String::new) {
                Fate::Accepted => "accepted",
                Fate::Later(_) => "later",
                Fate::Refused { .. } => "refused",
            };
            assert_eq!(got, fate, "{action:?} {status}");
        };
        for action in [Action::Create, Action::Index, Action::Delete] {
            check(action, 200, "accepted");
            check(action, 201, "accepted");
            check(action, 400, "refused");
            check(action, 403, "refused");
            for status in [0, 100, 302, 408, 429, 500, 503, 600] {
                check(action, status, "later");
            }
        }
        check(Action::Create, 409, "accepted");
        check(Action::Index, 409, "refused");
        check(Action::Delete, 404, "accepted");
        check(Action::Index, 404, "refused");
    }

    #[test]
    fn what_is_no_answer_to_a_bulk_request_settles_nothing() {
        let documents = [document("a", Action::Create)];
        for odd in ["", "<html>busy</html>", "{}", "[]", r#"{"items":7}"#, r#"{"items":[{"create":{"status":"x"}}]}"#] {
            assert!(fates(&documents, odd.as_bytes(), told_as).is_err(), "{odd}");
        }
        let none = fates(&documents, br#"{"items":[]}"#, told_as).unwrap();
        assert!(matches!(none[..], [Fate::Later(_)]));
    }
}
