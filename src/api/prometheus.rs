//! Prometheus (CONTRACT.md section 16): the choice of a format, and a scrape as a stream.
//!
//! A scrape is read from the live view while it is written: no second copy of any number, no series of a service that
//! is gone. It goes out in parts, made one at a time off the async threads as fast as the client takes them, so that
//! memory does not grow with the number of services; each service is locked for as long as it takes to copy a few
//! numbers. [`families`] is the list of what is exposed, [`exposition`] puts it into words.
//!
//! Why not the names of blackbox_exporter for each service here: they would add nine series a service, 180,000 for
//! 20,000 of them and half as many bytes again, and say nothing that the `infra_` families do not say. `GET /probe` has
//! them, for the targets that somebody asks for.

mod exposition;
mod families;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use self::exposition::Writer;
pub(super) use self::exposition::{Gauge, page};
use self::families::Source;
use super::ApiState;
use super::error::ApiError;

/// Scrapes at once: our choice, two Prometheus servers, somebody who looks, and one to spare.
const AT_ONCE: usize = 4;
/// How long a scrape waits for its place: our choice.
const WAIT: Duration = Duration::from_secs(1);
/// A client that has not taken everything by then is given up: our choice, the longest scrape timeout in use.
const LONGEST: Duration = Duration::from_secs(60);
/// Parts that are ready before they are taken: our choice.
const READY: usize = 2;

/// The two formats of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    Open,
}

impl Format {
    pub(super) fn media(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Room for scrapes.
#[derive(Debug)]
pub(super) struct Scrapes {
    places: Arc<Semaphore>,
    /// One part at a time over all scrapes: they never take more than one core.
    turn: Semaphore,
}

impl Default for Scrapes {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), turn: Semaphore::new(1) }
    }
}

/// How much a client wants each of the formats there are, as `Accept` says; 0: not at all, or not named.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Wanted {
    open: f32,
    text: f32,
    json: f32,
}

impl Wanted {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut wanted = Self::default();
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in accepted.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0_f32, "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    // What is no number between 0 and 1 asks for nothing.
                    "q" => quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0),
                    "version" => version = value,
                    _ => {}
                }
            }
            let slot = match media.as_str() {
                // Who knows a newer version only would misread ours.
                "application/openmetrics-text" if matches!(version, "" | "1.0.0" | "0.0.1") => &mut wanted.open,
                "text/plain" => &mut wanted.text,
                "application/json" => &mut wanted.json,
                _ => continue,
            };
            *slot = slot.max(quality);
        }
        wanted
    }

    /// The format of text that is wanted most; 0.0.4 where none is named.
    pub(super) fn text(self) -> Format {
        if self.open > 0.0 && self.open >= self.text { Format::Open } else { Format::Text }
    }

    /// The same where JSON is the rule: `None` unless text is asked for. JSON goes before 0.0.4 when both are wanted
    /// alike, as common HTTP clients do.
    pub(super) fn text_or_json(self) -> Option<Format> {
        let named = self.open.max(self.text);
        let asks = named > 0.0 && (named > self.json || self.open >= self.json && self.open >= self.text);
        asks.then(|| self.text())
    }
}

/// Everything as text.
///
/// # Errors
/// 503 when too many scrapes are under way.
pub(super) async fn scrape(app: ApiState, format: Format) -> Result<Response, ApiError> {
    const BUSY: ApiError = ApiError::Unavailable("Too many scrapes at once");
    let place = timeout(WAIT, app.scrapes.places.clone().acquire_owned()).await;
    let place = place.ok().and_then(Result::ok).ok_or(BUSY)?;
    let (parts, mut ready) = mpsc::channel(READY);
    let head = [(CONTENT_TYPE, format.media())];
    tokio::spawn(async move {
        // Whoever takes nothing loses its place.
        let _ = timeout(LONGEST, write(app, format, parts)).await;
        drop(place);
    });
    let Some(first) = ready.recv().await else {
        return Err(ApiError::Internal("Failed to get metrics"));
    };
    if first.is_last {
        return Ok((head, first.text).into_response());
    }
    let body = stream::unfold(Left::After(first, ready), |left| async move {
        let (part, ready) = match left {
            Left::After(first, ready) => (first, ready),
            Left::Coming(mut ready) => match ready.recv().await {
                Some(part) => (part, ready),
                // Half of it must not pass for all of it: the connection is cut off.
                None => return Some((Err(CutShort), Left::Nothing)),
            },
            Left::Nothing => return None,
        };
        let left = if part.is_last { Left::Nothing } else { Left::Coming(ready) };
        Some((Ok(part.text), left))
    });
    Ok((head, Body::from_stream(body)).into_response())
}

/// A part of a scrape.
struct Part {
    text: Bytes,
    is_last: bool,
}

/// What is left of a scrape.
enum Left {
    /// A part that is there, and what follows it.
    After(Part, mpsc::Receiver<Part>),
    Coming(mpsc::Receiver<Part>),
    Nothing,
}

#[derive(Debug, thiserror::Error)]
#[error("the scrape was given up")]
struct CutShort;

/// Makes the parts of a scrape, as fast as they are taken.
async fn write(app: ApiState, format: Format, parts: mpsc::Sender<Part>) {
    let scrapes = app.scrapes.clone();
    let counters = app.engine.counters.clone();
    let mut writer: Option<Writer> = None;
    loop {
        let Ok(turn) = scrapes.turn.acquire().await else { return };
        let (app, taken) = (app.clone(), writer.take());
        let made = tokio::task::spawn_blocking(move || {
            let mut writer = taken.unwrap_or_else(|| Writer::new(Source::new(&app), format));
            let text = writer.next();
            (writer, text)
        });
        let (kept, text) = match made.await {
            Ok((kept, Ok(text))) => (kept, text),
            Ok((_, Err(error))) => {
                tracing::error!(%error, "metrics could not be written");
                return;
            }
            Err(_) => return counters.panic("metrics"),
        };
        drop(turn);
        let is_last = kept.has_ended();
        writer = Some(kept);
        if parts.send(Part { text: text.into(), is_last }).await.is_err() || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn text_is_what_is_wanted_most_and_json_is_the_rule() {
        let check = |accept: &str, expected: Option<Format>, of_text: Format| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            let wanted = Wanted::of(&headers);
            assert_eq!((wanted.text_or_json(), wanted.text()), (expected, of_text), "{accept}");
        };
        let (open, text) = (Some(Format::Open), Some(Format::Text));
        // Prometheus 2 and 3, as they ask.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            open,
            Format::Open,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            open,
            Format::Open,
        );
        check("text/plain", text, Format::Text);
        check("Text/Plain; Version=0.0.4", text, Format::Text);
        check("text/plain;version=0.0.4;q=1,*/*;q=0.1", text, Format::Text);
        check("application/openmetrics-text;q=0.2, text/plain;q=0.9", text, Format::Text);
        check("application/openmetrics-text;q=0, text/plain;q=0.1", text, Format::Text);
        check("application/openmetrics-text;version=2.0.0", None, Format::Text);
        check("application/json, text/plain, */*", None, Format::Text);
        check("application/json;q=0.5, text/plain", text, Format::Text);
        check("application/json, application/openmetrics-text", open, Format::Open);
        check("application/json, application/openmetrics-text;q=0.4", None, Format::Open);
        check("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None, Format::Text);
        check("text/plain;q=high", None, Format::Text);
        check(",;q=1,,text/plain;;q=", None, Format::Text);
        check("*/*", None, Format::Text);
        assert_eq!(Wanted::of(&HeaderMap::new()).text_or_json(), None);
    }
}
