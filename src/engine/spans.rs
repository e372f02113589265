//! The span of a check, where the service itself is traced: what it is of, and what it came to.

use tracing::field::Empty;
use tracing::{Span, info_span};
use url::Url;

use crate::domain::classify::Verdict;
use crate::domain::observation::Kind;
use crate::domain::service::Service;
use crate::domain::status::Status;

/// The span of a check: what a target that is sent `traceparent` becomes a child of.
pub(super) fn of(service: &Service, kind: Kind) -> Span {
    let span = info_span!(
        "check",
        otel.kind = "client",
        otel.status_code = Empty,
        infra.service = service.name.as_str(),
        infra.protocol = service.protocol.label(),
        infra.kind = kind.as_str(),
        infra.result = Empty,
        infra.reason = Empty,
        error.type = Empty,
        server.address = Empty,
        server.port = Empty,
    );
    if !span.is_disabled() {
        // The address alone: what else stands in it is the operator's.
        let url = Url::parse(&service.url).ok();
        if let Some(host) = url.as_ref().and_then(Url::host_str) {
            span.record("server.address", host);
        }
        if service.port != 0 {
            span.record("server.port", service.port);
        }
    }
    span
}

/// Notes on the span of a check what it came to.
pub(super) fn note_verdict(span: &Span, verdict: &Verdict) {
    if span.is_disabled() {
        return;
    }
    let reason = verdict.reason.as_str();
    span.record("infra.result", verdict.status.map_or("inconclusive", Status::as_str));
    span.record("infra.reason", reason);
    if verdict.status == Some(Status::Unhealthy) {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", reason);
    }
}
