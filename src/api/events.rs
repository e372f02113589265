//! `GET /events`: the event log as Server-Sent Events (CONTRACT.md 14.4).
//!
//! A reader holds no queue of its own. It holds its place in the ring of the newest events and is served from there, as
//! fast as it takes them; one that the ring has overtaken is told so and closed. Each event is put into words once, for
//! all readers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ApiState;
use super::bodies::settings::EventsQuery;
use super::error::{ApiError, Invalid};
use super::input::Asked;
use crate::domain::event::{Event, EventKind, Payload};
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;
use crate::engine::Engine;
use crate::events::Logged;

/// Readers at once: CONTRACT.md 9.9.
pub(super) const READERS: usize = 256;
/// A comment keeps the connection open: CONTRACT.md 14.4.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events taken from the ring at once: our choice.
const TAKEN: usize = 64;
/// When a reader that lost us may come back, in milliseconds: our choice.
const RETRY_MS: u64 = 1000;

/// `GET /events`
#[utoipa::path(get, path = "/events", operation_id = "followEvents",
    params(EventsQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The same, as browsers send it")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(super) async fn follow(
    State(app): State<ApiState>,
    asked: Asked,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = Wanted {
        kinds: asked.words("types", "types of events", EventKind::parse)?,
        services: asked.words("service", "names of services", |name| ServiceName::new(name).ok())?,
    };
    let place = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().ok().and_then(number).ok_or_else(not_a_place)?),
        None => asked.text("last_event_id").map(|id| number(id).ok_or_else(not_a_place)).transpose()?,
    };
    if app.stop.is_cancelled() {
        return Err(ApiError::Unavailable("The service is stopping"));
    }
    let permit = app.readers.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::Unavailable("Too many readers of events"))?;
    let body = Body::from_stream(frames(Reader::new(app, wanted, place, permit)));
    Ok(([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")], body).into_response())
}

fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok().filter(|number| *number >= 0)
}

fn not_a_place() -> ApiError {
    ApiError::from(Invalid {
        place: "query",
        field: "last_event_id".to_owned(),
        rule: "must be the id of an event, a whole number of 0 or more".to_owned(),
        kind: "int_parsing",
        input: None,
    })
}

/// What a reader asked for; `None`: everything.
struct Wanted {
    kinds: Option<Vec<EventKind>>,
    services: Option<Vec<ServiceName>>,
}

impl Wanted {
    fn has(&self, event: &Event) -> bool {
        let of_service = |names: &Vec<ServiceName>| event.service.as_ref().is_some_and(|name| names.contains(name));
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && self.services.as_ref().is_none_or(of_service)
    }
}

/// One reader and its place in the log.
struct Reader {
    engine: Arc<Engine>,
    stop: CancellationToken,
    wanted: Wanted,
    /// Number of the last event it was given, or that was none of its business.
    place: i64,
    newest: watch::Receiver<i64>,
    ready: VecDeque<Bytes>,
    /// Something was last said then.
    spoke: Instant,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// `place`: after which event to go on; `None`: after the newest.
    fn new(app: ApiState, wanted: Wanted, place: Option<i64>, permit: OwnedSemaphorePermit) -> Self {
        let events = &app.engine.live.events;
        let newest = events.follow();
        let last = events.newest();
        let mut ready = VecDeque::new();
        let from = match place {
            None => last,
            Some(0) => events.before_oldest(),
            // Numbers beyond the newest are those of a log that is no more.
            Some(asked) if asked > last || events.after(asked, 0).is_none() => {
                let oldest = events.before_oldest();
                ready.push_back(Bytes::from(format!(
                    "id: {oldest}\nevent: gap\ndata: {{\"last_event_id\":{asked}}}\n\n"
                )));
                oldest
            }
            Some(asked) => asked,
        };
        ready.push_front(Bytes::from(format!("retry: {RETRY_MS}\n\n")));
        if place.is_none() {
            // So that a reader that loses us before the first event misses none.
            ready.push_back(at_place(from));
        }
        Self {
            newest,
            wanted,
            place: from,
            ready,
            spoke: Instant::now(),
            ended: false,
            stop: app.stop.clone(),
            engine: app.engine,
            _permit: permit,
        }
    }

    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            if let Some(frame) = self.ready.pop_front() {
                self.spoke = Instant::now();
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            self.newest.mark_unchanged();
            let Some(events) = self.engine.live.events.after(self.place, TAKEN) else {
                self.ended = true;
                self.ready
                    .push_back(Bytes::from(format!("event: lagged\ndata: {{\"last_event_id\":{}}}\n\n", self.place)));
                continue;
            };
            if let Some(last) = events.last() {
                self.place = last.sequence;
                let wanted = events.iter().filter(|event| self.wanted.has(event));
                let instance = &self.engine.config().instance;
                self.ready.extend(wanted.map(|event| frame(event, instance)));
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.newest.changed() => {}
                () = sleep_until(self.spoke + KEEP_ALIVE) => self.ready.push_back(at_place(self.place)),
            }
        }
    }
}

fn frames(reader: Reader) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold(reader, |mut reader| async move {
        let frame = reader.next().await?;
        Some((Ok(frame), reader))
    })
}

/// A comment, and how far the log has been read: where a reader that wants little of it may go on.
fn at_place(place: i64) -> Bytes {
    Bytes::from(format!(": here\nid: {place}\n\n"))
}

/// An event on the wire: the envelope of CONTRACT.md 14.4.
#[derive(Serialize)]
struct Envelope<'a> {
    event_id: Uuid,
    sequence: i64,
    #[serde(rename = "type")]
    kind: EventKind,
    timestamp: Stamp,
    service: Option<&'a ServiceName>,
    instance: &'a str,
    /// Reserved for replicas.
    fencing_token: Option<u64>,
    correlation_id: Option<Uuid>,
    payload: &'a Payload,
}

fn frame(event: &Logged, instance: &str) -> Bytes {
    event.frame(|event| {
        let envelope = Envelope {
            event_id: event.id,
            sequence: event.sequence,
            kind: event.kind,
            timestamp: Stamp(event.at),
            service: event.service.as_ref(),
            instance,
            fencing_token: None,
            correlation_id: event.correlation(),
            payload: &event.payload,
        };
        // JSON holds no line break outside of strings, and none inside: one line it is.
        let data = serde_json::to_string(&envelope).unwrap_or_default();
        Bytes::from(format!("id: {}\nevent: {}\ndata: {data}\n\n", event.sequence, event.kind.as_str()))
    })
}
