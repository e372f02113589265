//! Logs: lines for people, or JSON. To standard output; the filter is `LOG_LEVEL`. And traces of the service itself, where
//! the `OTEL_*` variables want them: [`variables`] reads those, [`traces`] sends.
//!
//! Spans of this crate are made for traces and for nothing else: the log never hears of them, so that a line reads the
//! same with traces and without, and without traces a span costs the look at one flag.

pub mod traces;
mod variables;

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

use opentelemetry_sdk::trace::SdkTracer;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, FilterFn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

pub use self::variables::{Identity, TracesConfig};
use crate::clock::Clock;
use crate::domain::time::Stamp;

/// Settings of the log: section `[log]`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Parts of others that talk too much below `warn`.
const QUIET: &str = "hyper=warn,reqwest=warn,rustls=warn,h2=warn,hickory_resolver=warn,hickory_net=warn,hickory_proto=warn,tokio_postgres=warn,redis=warn,tokio_cron_scheduler=warn";

fn filter(level: &str) -> Result<EnvFilter, String> {
    let level = level.to_ascii_lowercase();
    let text = if level.contains(['=', ',']) { level } else { format!("{level},{QUIET}") };
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// # Errors
/// `level` is neither a level nor a filter.
pub fn check_level(level: &str) -> Result<(), String> {
    let is_word = !level.contains(['=', ',']);
    let known = ["trace", "debug", "info", "warn", "error", "off"].contains(&level.to_ascii_lowercase().as_str());
    if is_word && !known {
        return Err(format!("{level:?} is none of trace, debug, info, warn, error"));
    }
    filter(level).map(|_| ())
}

/// The way to change the level of the log while it is written.
#[derive(Clone, Default)]
pub struct Level(Option<Arc<dyn Fn(EnvFilter) + Send + Sync>>);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Level")
    }
}

impl Level {
    /// Writes at `level` from now on; one that is none changes nothing.
    pub fn set(&self, level: &str) {
        if let (Some(put), Ok(filter)) = (&self.0, filter(level)) {
            put(filter);
        }
    }
}

/// A span of this crate.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
}

/// What is written to the log.
fn lines<S: Subscriber>(filter: EnvFilter) -> impl Filter<S> {
    filter.and(FilterFn::new(|metadata: &Metadata<'_>| !is_ours(metadata)))
}

/// Starts logging, and making spans with `tracer`. A second call changes nothing.
pub fn start(config: &LogConfig, tracer: Option<SdkTracer>) -> Level {
    let spans = tracer.map(|tracer| {
        let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_context_activation(false);
        // Where in the code a span was made, on which thread and how long it waited is of no use to an operator.
        let spans = spans.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
        spans.with_filter(FilterFn::new(is_ours))
    });
    let filter = filter(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(lines(filter));
    let log = match config.format {
        LogFormat::Text => {
            tracing_subscriber::fmt::layer().with_target(false).with_ansi(std::io::stdout().is_terminal()).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer().event_format(JsonLines).boxed(),
    };
    let _ = Registry::default().with(log.with_filter(filter)).with(spans).try_init();
    Level(Some(Arc::new(move |filter| drop(handle.reload(lines(filter))))))
}

/// One JSON object a line: `timestamp`, `level`, `name`, `filename`, `line`, `function`, `message` and the fields
/// (CONTRACT.md 4.1).
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), json!(Stamp(Clock::System.now())));
        line.insert("level".to_owned(), json!(metadata.level().as_str()));
        line.insert("name".to_owned(), json!(metadata.target()));
        line.insert("filename".to_owned(), json!(metadata.file()));
        line.insert("line".to_owned(), json!(metadata.line()));
        line.insert("function".to_owned(), json!(metadata.module_path()));
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), json!(format!("{value:?}")));
    }
}
