//! A server with Elasticsearch's rules for `_bulk`, templates and policies, and with faults on demand. It keeps what it
//! takes, and counts how often it was asked to take each document.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What it does with bulk requests.
#[derive(Debug, Clone, Default)]
pub enum Mode {
    #[default]
    Normal,
    /// Takes everything and tells of it in the opposite order.
    Reversed,
    /// Takes everything and tells of the first half only.
    HalfTold,
    /// Takes everything and answers something else.
    Odd(u16, String),
    /// Takes everything and answers without end.
    Endless,
    /// Takes nothing and never answers.
    Hang,
}

#[derive(Debug, Default)]
pub struct State {
    pub mode: Mode,
    /// Statuses to answer for documents whose line contains a text, one after the other; then as usual.
    pub refuse: Vec<(String, Vec<u16>)>,
    /// By index and id.
    pub documents: BTreeMap<String, BTreeMap<String, Value>>,
    /// By id: how often it was sent.
    pub attempts: BTreeMap<String, usize>,
    /// Templates and policies by path.
    pub places: BTreeMap<String, Value>,
    /// Method and path of every request.
    pub log: Vec<String>,
    pub documents_in_bulk: Vec<usize>,
    /// Bodies larger than this (as they are when unpacked) are 413.
    pub most_bytes: Option<usize>,
    /// The only `authorization` that is accepted.
    pub login: Option<String>,
    pub last_login: Option<String>,
    /// What `GET /` answers.
    pub about: Value,
}

pub struct Elastic {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Drop for Elastic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Elastic {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    pub async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), tls).await
    }

    pub async fn start_at(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let about = json!({"version": {"number": "7.17.0"}, "tagline": "You Know, for Search"});
        let state = Arc::new(Mutex::new(State { about, ..State::default() }));
        let shared = state.clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let accepting = async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (state, tls) = (shared.clone(), tls.clone());
                let connection = async move {
                    let service = hyper::service::service_fn(move |request| answer(state.clone(), request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = match tls {
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            builder.serve_connection(TokioIo::new(stream), service).await
                        }
                        None => builder.serve_connection(TokioIo::new(stream), service).await,
                    };
                };
                tokio::spawn(stopped.clone().run_until_cancelled_owned(connection));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { address, state, stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    /// Documents of the indices whose names begin with `prefix`, by id.
    pub fn documents(&self, prefix: &str) -> BTreeMap<String, Value> {
        self.read(|state| {
            let indices = state.documents.iter().filter(|(name, _)| name.starts_with(prefix));
            indices.flat_map(|(_, documents)| documents.clone()).collect()
        })
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = head.uri.path().to_owned();
    let login = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let mode = {
        let mut state = state.lock().unwrap();
        state.log.push(format!("{} {path}", head.method));
        state.last_login.clone_from(&login);
        if state.login.is_some() && login != state.login {
            let refusal = json!({"error": {"type": "security_exception"}, "status": 401});
            return Ok(reply(401, &refusal));
        }
        match (head.method.as_str(), path.as_str()) {
            ("GET", "/") => return Ok(reply(200, &state.about)),
            ("GET", _) => {
                return Ok(match state.places.get(&path) {
                    Some(known) => reply(200, known),
                    None => reply(404, &json!({"status": 404})),
                });
            }
            ("PUT", _) => {
                assert_eq!(head.headers["content-type"], "application/json");
                state.places.insert(path, serde_json::from_slice(&body).unwrap());
                return Ok(reply(200, &json!({"acknowledged": true})));
            }
            _ => {}
        }
        assert_eq!((head.method.as_str(), path.as_str()), ("POST", "/_bulk"));
        assert_eq!(head.headers["content-type"], "application/x-ndjson");
        assert_eq!(head.headers["content-encoding"], "gzip");
        state.mode.clone()
    };
    if matches!(mode, Mode::Hang) {
        std::future::pending::<()>().await;
    }
    let (status, told) = take(&mut state.lock().unwrap(), &body);
    Ok(match mode {
        Mode::Odd(status, text) => {
            Response::builder().status(status).header("content-type", "text/html").body(Body::from(text)).unwrap()
        }
        Mode::Endless => {
            let piece = Bytes::from(vec![b' '; 1 << 20]);
            let pieces = futures_util::stream::repeat_with(move || Ok::<_, Infallible>(piece.clone()));
            Response::new(Body::from_stream(pieces))
        }
        _ => reply(status, &told),
    })
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).unwrap()
}

/// One bulk request.
fn take(state: &mut State, packed: &[u8]) -> (u16, Value) {
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    if state.most_bytes.is_some_and(|most| text.len() > most) {
        return (413, Value::Null);
    }
    assert!(text.ends_with('\n'), "a bulk request ends in a line end");
    let mut lines = text.lines();
    let mut items = Vec::new();
    while let Some(line) = lines.next() {
        let head: Value = serde_json::from_str(line).unwrap();
        let (action, place) = head.as_object().unwrap().iter().next().unwrap();
        let (index, id) = (place["_index"].as_str().unwrap().to_owned(), place["_id"].as_str().unwrap().to_owned());
        let body = if action == "delete" { "" } else { lines.next().unwrap() };
        *state.attempts.entry(id.clone()).or_default() += 1;
        let concerned = |(text, statuses): &&mut (String, Vec<u16>)| {
            (body.contains(text.as_str()) || id.contains(text.as_str())) && !statuses.is_empty()
        };
        let refused = state.refuse.iter_mut().find(concerned).map(|(_, statuses)| statuses.remove(0));
        let documents = state.documents.entry(index.clone()).or_default();
        let is_there = documents.contains_key(&id);
        let status = match (refused, action.as_str()) {
            (Some(status), _) => status,
            (None, "create") if is_there => 409,
            (None, "create" | "index") => {
                documents.insert(id.clone(), serde_json::from_str(body).unwrap());
                if is_there { 200 } else { 201 }
            }
            (None, "delete") => {
                if documents.remove(&id).is_some() {
                    200
                } else {
                    404
                }
            }
            (None, other) => panic!("no such action: {other}"),
        };
        let error = (status >= 400 && status != 404).then(|| json!({"type": "some_exception", "reason": "as asked"}));
        let mut item = json!({"_index": index, "_id": id, "status": status});
        if let Some(error) = error {
            item["error"] = error;
        }
        items.push(json!({action.as_str(): item}));
    }
    state.documents_in_bulk.push(items.len());
    match state.mode {
        Mode::Reversed => items.reverse(),
        Mode::HalfTold => items.truncate(items.len() / 2),
        _ => {}
    }
    let errors = items.iter().any(|item| item.as_object().unwrap().values().any(|item| item.get("error").is_some()));
    (200, json!({"took": 1, "errors": errors, "items": items}))
}
