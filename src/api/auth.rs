//! Who may do what (CONTRACT.md section 2). Judged before routing and before a body is read; every path is closed unless
//! it is listed as open here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::ApiError;

/// Wrong keys one address may send in a minute: CONTRACT.md section 2.
const GUESSES: u32 = 20;
const GUESS_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered as guessing: our choice, some 300 KB.
const GUESSERS: usize = 4096;

/// What a key is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthScope {
    All,
    Internal,
    Writes,
}

/// Digests of the keys: the keys themselves are not kept.
#[derive(Clone)]
pub struct Keys {
    full: Vec<[u8; 32]>,
    readonly: Vec<[u8; 32]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} full, {} read-only)", self.full.len(), self.readonly.len())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Full,
    ReadOnly,
}

impl Keys {
    pub fn new(full: &[String], readonly: &[String]) -> Self {
        let digests = |keys: &[String]| keys.iter().map(|key| digest(key.as_bytes())).collect();
        Self { full: digests(full), readonly: digests(readonly) }
    }

    /// Compares with every key, in constant time.
    fn access(&self, given: &[u8]) -> Option<Access> {
        let given = digest(given);
        let among =
            |keys: &[[u8; 32]]| bool::from(keys.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given)));
        match (among(&self.full), among(&self.readonly)) {
            (true, _) => Some(Access::Full),
            (false, true) => Some(Access::ReadOnly),
            (false, false) => None,
        }
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Classes of routes: the one list of what is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Never looks at a key.
    Open,
    /// Read by pages and people.
    Public,
    /// Any other read.
    Read,
    Write,
}

pub(super) fn class(method: &Method, path: &str) -> Class {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Class::Write;
    }
    let first = path.split('/').nth(1).unwrap_or_default();
    match path {
        "/livez" | "/readyz" | "/health/live" => Class::Open,
        "/" => Class::Public,
        // It tells where everything is: CONTRACT.md section 20.
        "/api/v1/sd" => Class::Read,
        "/openapi.json" => Class::Public,
        _ if ["health", "status", "api", "docs", "redoc"].contains(&first) => Class::Public,
        _ => Class::Read,
    }
}

/// Counts wrong keys by address.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Guesses {
    /// Notes a wrong key; `true` when there have been too many.
    fn wrong(&self, from: IpAddr) -> bool {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= GUESSERS && !seen.contains_key(&from) {
            seen.retain(|_, (since, _)| now.duration_since(*since) < GUESS_WINDOW);
            if seen.len() >= GUESSERS {
                seen.clear();
            }
        }
        let (since, count) = seen.entry(from).or_insert((now, 0));
        if now.duration_since(*since) >= GUESS_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > GUESSES
    }
}

/// Judges a request by its method, path (without trailing slash) and headers alone.
pub(super) fn authorize(
    keys: &Keys,
    scope: AuthScope,
    guesses: &Guesses,
    from: IpAddr,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Access, ApiError> {
    let class = class(method, path);
    if class == Class::Open {
        return Ok(Access::ReadOnly);
    }
    let open = match scope {
        AuthScope::All => false,
        AuthScope::Internal => class == Class::Public,
        AuthScope::Writes => class != Class::Write,
    };
    let access = match presented(headers)? {
        Some(key) => match keys.access(key) {
            Some(access) => access,
            None if guesses.wrong(from) => return Err(ApiError::Guessing { retry_after: GUESS_WINDOW }),
            None => return Err(ApiError::Unauthenticated("Invalid internal service key")),
        },
        None if open => return Ok(Access::ReadOnly),
        None => return Err(ApiError::Unauthenticated("Internal service authentication required")),
    };
    Ok(access)
}

/// Lets readers read only. Runs on routes that exist, with a method they have: to a reader too an unknown path is 404
/// and a wrong method 405.
pub(super) async fn writes_need_a_full_key(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && request.extensions().get::<Access>() != Some(&Access::Full) {
        return ApiError::Forbidden.into_response();
    }
    next.run(request).await
}

/// Tells the keys of requests apart in a record of who did what, and does not lead back to one: four bytes of a digest.
pub(super) fn fingerprint(headers: &HeaderMap) -> String {
    let key = presented(headers).ok().flatten().unwrap_or_default();
    let digest = digest(&[b"caller:", key].concat());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The one key of a request. Two occurrences, equal or not, are refused.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, ApiError> {
    let mut found: Option<&[u8]> = None;
    for name in ["x-service-key", "x-api-key", "authorization"] {
        for value in headers.get_all(name) {
            let bytes = value.as_bytes();
            let key = if name == "authorization" {
                match bytes.split_at_checked(7) {
                    Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key,
                    _ => bytes,
                }
            } else {
                bytes
            };
            if found.replace(key).is_some() {
                return Err(ApiError::Unauthenticated("Invalid internal service key"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_routes() {
        let check =
            |method: Method, path: &str, expected| assert_eq!(class(&method, path), expected, "{method} {path}");
        check(Method::GET, "/livez", Class::Open);
        check(Method::POST, "/livez", Class::Write);
        check(Method::GET, "/health", Class::Public);
        check(Method::HEAD, "/health/services", Class::Public);
        check(Method::GET, "/healthz", Class::Read);
        check(Method::GET, "/status/critical", Class::Public);
        check(Method::GET, "/services", Class::Read);
        check(Method::GET, "/api/v1/services/status", Class::Public);
        check(Method::GET, "/api/v1/sd", Class::Read);
        check(Method::GET, "/probe", Class::Read);
        check(Method::OPTIONS, "/health", Class::Write);
        check(Method::GET, "/LIVEZ", Class::Read);
        check(Method::GET, "/livez;x", Class::Read);
    }

    #[test]
    fn twenty_wrong_keys_a_minute_are_answered_and_no_more() {
        let guesses = Guesses::default();
        let from: IpAddr = [127, 0, 0, 1].into();
        assert!((0..20).all(|_| !guesses.wrong(from)));
        assert!(guesses.wrong(from));
        assert!(!guesses.wrong([127, 0, 0, 2].into()));
    }
}
