//! What was asked of the interface and how it was answered: counts and times by route, for `/metrics`. Routes are told
//! by their templates, never by what a client sent: what leads to no route is counted under one word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

/// Upper bounds of `infra_http_request_duration_seconds`, in seconds: our choice, around the promises of CONTRACT.md
/// section 18.
pub const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0];

/// Requests that came to no route: refused at the gate, or to an unknown path.
const NO_ROUTE: &str = "none";

/// Filled in by the router when a request has come to a route; the gate reads it, however the handler ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Reached(Arc<OnceLock<MatchedPath>>);

/// Notes the route a request has come to.
pub(super) async fn note_route(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if let (Some(Reached(slot)), Some(route)) = (extensions.get::<Reached>(), extensions.get::<MatchedPath>()) {
        let _ = slot.set(route.clone());
    }
    next.run(request).await
}

/// Answers by route.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<HashMap<Arc<str>, Route>>);

/// What is counted of one route.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// Method, code, count.
    pub answers: Vec<(&'static str, u16, u64)>,
    pub buckets: [u64; BOUNDS.len() + 1],
    pub sum: Duration,
}

impl Traffic {
    fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer whose head was ready after `took`.
    pub(super) fn note(&self, reached: &Reached, method: &Method, code: StatusCode, took: Duration) {
        let name = reached.0.get().map_or(NO_ROUTE, MatchedPath::as_str);
        let (method, code) = (word(method), code.as_u16());
        let bucket = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        let mut routes = self.held();
        if !routes.contains_key(name) {
            routes.insert(name.into(), Route::default());
        }
        let Some(route) = routes.get_mut(name) else { return };
        match route.answers.iter_mut().find(|(known, of, _)| (*known, *of) == (method, code)) {
            Some((_, _, count)) => *count += 1,
            None => route.answers.push((method, code, 1)),
        }
        if let Some(count) = route.buckets.get_mut(bucket) {
            *count += 1;
        }
        route.sum += took;
    }

    /// Every route that was asked for, by name.
    pub(super) fn seen(&self) -> Vec<(Arc<str>, Route)> {
        let mut seen: Vec<_> = self.held().iter().map(|(name, route)| (name.clone(), route.clone())).collect();
        seen.sort_by(|(a, _), (b, _)| a.cmp(b));
        seen
    }
}

/// The method as one of a closed list.
fn word(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}
