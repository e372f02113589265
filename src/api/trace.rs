//! The span of a request, where the service itself is traced: method, route and outcome, under the caller's `traceparent`.
//! Neither query, headers nor body are looked at. Whoever may not ask is traced as well: the span says 401.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::{HeaderMap, HeaderName, Method, Request, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A path is kept to so many characters: our choice, more than any route of ours takes with a name in it.
const PATH_CHARS: usize = 200;

/// The headers of a request, as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Methods beyond those served are anybody's invention (the conventions of OpenTelemetry: `_OTHER`).
fn method(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::PATCH | Method::OPTIONS => {
            method.as_str()
        }
        _ => "_OTHER",
    }
}

/// The span of `request`; none where the service is not traced.
pub(super) fn begin(request: &Request<Body>, id: &str, peer: IpAddr) -> Span {
    let span = info_span!(
        "request",
        otel.kind = "server",
        otel.name = method(request.method()),
        otel.status_code = Empty,
        http.request.method = method(request.method()),
        http.route = Empty,
        http.response.status_code = Empty,
        url.scheme = "http",
        url.path = request.uri().path().chars().take(PATH_CHARS).collect::<String>(),
        client.address = %peer,
        error.type = Empty,
        infra.request.id = id,
    );
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
        // Refused only for a span that has begun, which this one has not.
        let _ = span.set_parent(parent);
    }
    span
}

/// Gives the span its name as soon as it is known who answers.
pub(super) fn routed(request: Request<Body>) -> Request<Body> {
    let span = Span::current();
    if !span.is_disabled()
        && let Some(route) = request.extensions().get::<MatchedPath>()
    {
        span.record("http.route", route.as_str());
        span.record("otel.name", format!("{} {}", method(request.method()), route.as_str()));
    }
    request
}

/// Notes how it ended. A refusal is the caller's fault and no error of ours.
pub(super) fn end(span: &Span, response: &Response<Body>) {
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
}
