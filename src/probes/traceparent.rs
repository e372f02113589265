//! The W3C trace context that a probe carries where its service asks for it: the trace of the check, or a trace of nobody.

use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The value of `traceparent` for a request sent in the current span.
///
/// With traces on it names the check's span, and is flagged as the sampler has decided. With traces off its ids are random
/// and the `sampled` flag is not set: the flag says that the caller may have recorded the trace, and we have not (W3C
/// Trace Context, "Trace flags"). A target that goes by the flag then records no trace of a mere probe.
pub(super) fn traceparent() -> String {
    let context = Span::current().context();
    let span = context.span();
    let known = span.span_context();
    if known.is_valid() {
        let flags = known.trace_flags().to_u8() & 1;
        return format!("00-{}-{}-{flags:02x}", known.trace_id(), known.span_id());
    }
    let random = RandomIdGenerator::default();
    format!("00-{}-{}-00", random.new_trace_id(), random.new_span_id())
}
