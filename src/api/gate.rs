//! What every request passes before and after its handler: size limits, request id, keys, a place among the requests
//! answered at once, and on the way out the error body. Authentication comes before routing and before the body is read.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::{BodyExt, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use super::administer::Caller;
use super::auth::{Guesses, authorize, fingerprint};
use super::error::ApiError;
use super::traffic::Reached;
use super::{ApiState, router, trace};

/// CONTRACT.md section 3.
const URI_BYTES: usize = 8 * 1024;
const HEADER_BYTES: usize = 32 * 1024;
const HEADERS: usize = 100;
/// Requests for the routes that must always have room, answered at once: our choice.
const RESERVED: usize = 64;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole interface, from request to answer.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    state: ApiState,
    router: Router,
    guesses: Guesses,
    reserved: Arc<Semaphore>,
    cors: Option<CorsLayer>,
}

impl Gate {
    pub fn new(state: ApiState) -> Self {
        let origins = &state.config.cors_allowed_origins;
        let cors = (!origins.is_empty()).then(|| {
            let allowed = if origins.iter().any(|origin| origin == "*") {
                AllowOrigin::any()
            } else {
                AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse::<HeaderValue>().ok()))
            };
            CorsLayer::new().allow_origin(allowed).allow_methods(AllowMethods::any()).allow_headers(AllowHeaders::any())
        });
        Self {
            inner: Arc::new(Inner {
                router: router(state.clone()),
                guesses: Guesses::default(),
                reserved: Arc::new(Semaphore::new(RESERVED)),
                cors,
                state,
            }),
        }
    }

    pub(super) fn state(&self) -> &ApiState {
        &self.inner.state
    }

    /// Answers one request that came from `peer`.
    pub async fn call<B>(&self, peer: IpAddr, request: Request<B>) -> Response
    where
        B: axum::body::HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let request = request.map(Body::new);
        match &self.inner.cors {
            None => self.answer(peer, request).await,
            Some(cors) => {
                let gate = self.clone();
                let inner = tower::service_fn(move |request| {
                    let gate = gate.clone();
                    async move { Ok::<_, Infallible>(gate.answer(peer, request).await) }
                });
                let mut service = cors.layer(inner);
                match service.call(request).await {
                    Ok(response) => response.map(Body::new),
                    Err(never) => match never {},
                }
            }
        }
    }

    async fn answer(&self, peer: IpAddr, request: Request<Body>) -> Response {
        let id = request_id(request.headers());
        let span = trace::begin(&request, &id, peer);
        let response = self.respond(peer, request, id).instrument(span.clone()).await;
        trace::end(&span, &response);
        response
    }

    async fn respond(&self, peer: IpAddr, mut request: Request<Body>, id: String) -> Response {
        let began = Instant::now();
        let reached = Reached::default();
        request.extensions_mut().insert(reached.clone());
        let (method, path) = (request.method().clone(), without_trailing_slash(request.uri().path()).to_owned());
        let response = match self.admit(peer, &method, &path, &mut request).await {
            Ok(permit) => {
                if !matches!(method, Method::GET | Method::HEAD) {
                    let caller = Caller { request_id: id.clone(), peer, key: fingerprint(request.headers()) };
                    request.extensions_mut().insert(caller);
                }
                let routed = AssertUnwindSafe(self.inner.router.clone().oneshot(request)).catch_unwind().await;
                drop(permit);
                match routed {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(_) => {
                        self.inner.state.engine.counters.panic("api");
                        tracing::error!(%method, path, request.id = %id, "a handler panicked");
                        ApiError::Internal(sentence(&path)).into_response()
                    }
                }
            }
            Err(error) => error.into_response(),
        };
        self.inner.state.traffic.note(&reached, &method, response.status(), began.elapsed());
        self.finish(response, &id, &method)
    }

    /// Judges a request by its head, then makes it complete: path without trailing slash, body read within its limits.
    async fn admit(
        &self,
        peer: IpAddr,
        method: &Method,
        path: &str,
        request: &mut Request<Body>,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        let config = &self.inner.state.config;
        if request.uri().path_and_query().map_or(0, |uri| uri.as_str().len()) > URI_BYTES {
            return Err(ApiError::UriTooLong);
        }
        let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if head > HEADER_BYTES || request.headers().len() > HEADERS {
            return Err(ApiError::HeadersTooLarge);
        }
        let access = authorize(&config.keys, config.scope, &self.inner.guesses, peer, method, path, request.headers())?;
        request.extensions_mut().insert(access);
        let must_have_room = matches!(path, "/livez" | "/readyz" | "/health" | "/status/critical");
        let lane = if must_have_room { &self.inner.reserved } else { &self.inner.state.lane };
        let permit = lane.clone().try_acquire_owned().map_err(|_| {
            self.inner.state.engine.counters.api_refused.fetch_add(1, Ordering::Relaxed);
            ApiError::Unavailable("Too many requests at once")
        })?;
        if let Some(uri) = replace_path(request.uri(), path) {
            *request.uri_mut() = uri;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let body = std::mem::take(request.body_mut());
            let body = read_body(request.headers(), body, config.max_body_bytes, config.request_timeout).await?;
            *request.body_mut() = Body::from(body);
        }
        Ok(permit)
    }

    /// Gives the answer its request id, and an error its body.
    fn finish(&self, mut response: Response, id: &str, method: &Method) -> Response {
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            if error.status().is_server_error() && error.status() != StatusCode::SERVICE_UNAVAILABLE {
                tracing::error!(request.id = id, "request failed: {error}");
            }
            let body = error.body(id, self.inner.state.engine.clock.now()).to_string();
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            *response.body_mut() = if *method == Method::HEAD { Body::empty() } else { Body::from(body) };
        }
        if let Ok(value) = HeaderValue::from_str(id) {
            response.headers_mut().insert(REQUEST_ID.clone(), value);
        }
        response
    }
}

/// The caller's id if it is one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
    };
    given.filter(usable).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn without_trailing_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(without) => without,
    }
}

/// `uri` with `path`; `None` when it has that path already.
fn replace_path(uri: &Uri, path: &str) -> Option<Uri> {
    if uri.path() == path {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{path}{query}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// A body of JSON within its limits of size and time.
async fn read_body(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Bytes, ApiError> {
    const TOO_LARGE: ApiError = ApiError::TooLarge("Request body too large");
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::UnsupportedMedia("Compressed request bodies are not accepted"));
    }
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(TOO_LARGE);
    }
    let read = tokio::time::timeout(time, Limited::new(body, limit).collect());
    let bytes = match read.await {
        Err(_) => return Err(ApiError::RequestTimeout),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(TOO_LARGE),
        Ok(Err(_)) => return Err(ApiError::RequestTimeout),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let media = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let is_json = media.is_none_or(|media| {
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        media == "application/json" || media.ends_with("+json")
    });
    if !bytes.is_empty() && !is_json {
        return Err(ApiError::UnsupportedMedia("Request bodies are application/json"));
    }
    Ok(bytes)
}

/// What a caller is told of a fault of ours (CONTRACT.md section 3).
fn sentence(path: &str) -> &'static str {
    match path {
        "/health" => "Health check failed",
        "/health/services" => "Failed to get services health",
        "/health/system" => "Health check failed: internal error",
        "/services" => "Failed to get service discovery",
        "/services/dependencies" => "Failed to get service dependencies",
        "/metrics" => "Failed to get metrics",
        "/status/critical" => "Failed to get critical status",
        "/status/dashboard" => "Failed to get dashboard status",
        _ if path.starts_with("/health/service/") => "Failed to get service health",
        _ if path.starts_with("/metrics/service/") => "Failed to get service metrics",
        _ => "Internal server error",
    }
}

/// An answer made before there is a request to answer: the connection is refused.
pub(super) fn too_many_connections() -> &'static [u8] {
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
}
