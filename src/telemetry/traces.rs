//! Traces of the service itself: sends finished spans to a collector over OTLP/HTTP, from a thread of its own.
//!
//! Spans wait in a bounded queue; when it is full they are dropped and counted, and nobody is delayed. A collector that is
//! away, slow or not one at all is told of once, and once more when it takes spans again. Why not the async client: the
//! thread that sends has no reactor, and nothing would ever be sent.

use std::future::Future;
use std::io::{Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use reqwest::Certificate;
use reqwest::blocking::Client;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use secrecy::ExposeSecret;

use super::TracesConfig;

/// Read of an answer at most: our choice. It says how many spans were refused, and perhaps why.
const ANSWER_BYTES: u64 = 64 * 1024;
/// A collector that comes and goes is told of this often at most: our choice.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What sends spans while the service runs.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
}

impl Traces {
    /// Starts the sending thread. Nothing is connected yet.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn start(config: &TracesConfig) -> Result<Self, String> {
        let tally = Arc::new(Tally { place: config.place(), ..Tally::default() });
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { client: client(config)?, gzip: config.gzip, tally: tally.clone() })
            .with_endpoint(config.endpoint.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(config.timeout)
            .with_headers(headers.collect())
            .build()
            .map_err(|error| error.to_string())?;
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue)
            .with_max_export_batch_size(config.batch)
            .with_scheduled_delay(config.delay)
            .build();
        let sending = BatchSpanProcessor::builder(Telling { exporter, tally: tally.clone() });
        let sending = sending.with_batch_config(batch).build();
        let attributes = config.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let resource = Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector));
        let provider = SdkTracerProvider::builder()
            .with_sampler(config.sampler.clone())
            .with_resource(resource.with_attributes(attributes).build())
            .with_span_processor(Queue { sending, tally: tally.clone(), most: config.queue })
            .build();
        Ok(Self { provider, tally })
    }

    /// What makes spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends what waits, for at most `limit`. Blocks.
    pub fn stop(self, limit: Duration) {
        let sent = self.provider.shutdown_with_timeout(limit).is_ok();
        let (lost, waiting) = (self.tally.lost.load(Ordering::Relaxed), self.tally.waiting.load(Ordering::Relaxed));
        if !sent || lost > 0 {
            let lost = lost + if sent { 0 } else { waiting as u64 };
            tracing::warn!(lost, "{lost} spans were never sent to {}", self.tally.place);
        }
    }
}

/// The certificates of a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub(super) fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(found) }
}

/// The client brings a small runtime along, which must not be made where async code runs: hence the thread.
fn client(config: &TracesConfig) -> Result<Client, String> {
    let authorities = config.certificate.as_deref().map(authorities).transpose()?.unwrap_or_default();
    let timeout = config.timeout;
    let build = move || {
        let builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout);
        authorities.into_iter().fold(builder, reqwest::blocking::ClientBuilder::add_root_certificate).build()
    };
    let built = std::thread::Builder::new().name("traces-client".to_owned()).spawn(build);
    let built = built.map_err(|error| error.to_string())?.join();
    built.map_err(|_| "the client of traces could not be built".to_owned())?.map_err(|error| error.to_string())
}

/// What became of spans, and whether it was told.
#[derive(Debug, Default)]
struct Tally {
    place: String,
    /// Handed over and not yet taken up by the sending thread.
    waiting: AtomicUsize,
    /// Dropped, or sent in vain.
    lost: AtomicU64,
    /// Dropped because the queue was full.
    dropped: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// The last refusal, in its own words.
    error: String,
    away: bool,
    away_at: Option<Instant>,
    full: bool,
}

impl Tally {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called on the sending thread alone: whoever ends a span holds locks of the subscriber, and must not write to the
    /// log.
    fn tell(&self, spans: usize, failure: Option<String>) {
        let place = &self.place;
        let mut told = self.told();
        match failure {
            Some(failure) => {
                self.lost.fetch_add(spans as u64, Ordering::Relaxed);
                let error = if told.error.is_empty() { failure } else { told.error.clone() };
                let lately = told.away_at.is_some_and(|at| at.elapsed() < TELL_EVERY);
                if !told.away && !lately {
                    (told.away, told.away_at) = (true, Some(Instant::now()));
                    tracing::warn!(
                        error,
                        "traces cannot be sent to {place}: {error}; spans are lost until it takes them"
                    );
                }
            }
            None => {
                told.error.clear();
                if std::mem::take(&mut told.away) {
                    let lost = self.lost.load(Ordering::Relaxed);
                    tracing::info!(lost, "traces are sent to {place} again; {lost} spans were lost");
                }
            }
        }
        if self.dropped.load(Ordering::Relaxed) > 0 && !told.full {
            told.full = true;
            tracing::warn!(
                "more spans than {place} takes: those beyond the queue are dropped; lower OTEL_TRACES_SAMPLER_ARG with \
                 OTEL_TRACES_SAMPLER=parentbased_traceidratio, or raise OTEL_BSP_MAX_QUEUE_SIZE"
            );
        }
    }
}

/// Counts what waits, and drops what finds no room.
#[derive(Debug)]
struct Queue {
    sending: BatchSpanProcessor,
    tally: Arc<Tally>,
    most: usize,
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.sending.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let waiting = &self.tally.waiting;
        if waiting.fetch_add(1, Ordering::AcqRel) < self.most {
            return self.sending.on_end(span);
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
        self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        self.tally.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.sending.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sending.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sending.set_resource(resource);
    }
}

/// Sends batches, and tells the log how that went.
#[derive(Debug)]
struct Telling {
    exporter: opentelemetry_otlp::SpanExporter,
    tally: Arc<Tally>,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        // After the attempt: what is under way when time runs out at the stop has not been sent.
        self.tally.waiting.fetch_sub(spans, Ordering::AcqRel);
        self.tally.tell(spans, result.as_ref().err().map(ToString::to_string));
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The way to the collector. No span of ours is ever made here: what sends traces is not traced.
#[derive(Debug)]
struct Collector {
    client: Client,
    gzip: bool,
    tally: Arc<Tally>,
}

impl Collector {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, mut body) = request.into_parts();
        if self.gzip {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&body)?;
            body = packed.finish()?.into();
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let answer = self.client.execute(Request::from_parts(head, body).try_into()?)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut read = Vec::new();
        answer.take(ANSWER_BYTES).read_to_end(&mut read)?;
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if status.is_success() && kind.trim_start().to_ascii_lowercase().starts_with("text/html") {
            return Err("it answers with a web page: it is no collector".into());
        }
        let mut response = Response::builder().status(status).body(Bytes::from(read))?;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.send(request);
        self.tally.told().error = match &sent {
            Ok(answer) if answer.status().is_success() => String::new(),
            Ok(answer) => format!("HTTP {}", answer.status().as_u16()),
            Err(error) => deepest(error.as_ref()),
        };
        Box::pin(std::future::ready(sent))
    }
}

/// The text of the last cause: the one that says most, and never an address.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match last.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "no answer in time".to_owned(),
        _ => last.to_string(),
    }
}
