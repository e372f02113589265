//! Sends one POST and judges the answer, the same for every channel over HTTP. A redirect is not followed, an answer's
//! body is not read: its status says all, and what is not read can neither drip nor flood.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::{DeliveryError, Unusable};
use crate::domain::time::{from_ms, span};

/// Longest wait a receiver may ask for with `Retry-After`: our choice, the longest back-off of ours.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest time a look at whether a receiver is back may take: our choice.
const LOOK: Duration = Duration::from_secs(1);

/// An address to post to, and the client that does.
#[derive(Clone)]
pub struct Http {
    url: Url,
    client: reqwest::Client,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

/// The address in `url`.
///
/// # Errors
/// It is none for HTTP.
pub(super) fn address(url: &SecretString) -> Result<Url, Unusable> {
    let url = Url::parse(url.expose_secret()).ok();
    let usable = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    usable.ok_or_else(|| Unusable::new("url", "is not an http or https address"))
}

impl Http {
    /// `deadline`: for the whole of one delivery, connecting included.
    pub(super) fn new(url: &SecretString, deadline: Duration) -> Result<Self, Unusable> {
        let client = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(deadline)
            .build()
            .map_err(|error| Unusable::new("url", format!("has no client: {error}")))?;
        Ok(Self { url: address(url)?, client })
    }

    /// Scheme, host and port: paths of webhooks often hold a token.
    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// A request under the key of its message.
    pub(super) fn post(&self, message_id: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url.clone()).header("Idempotency-Key", message_id)
    }

    pub(super) async fn send(request: reqwest::RequestBuilder) -> Result<(), DeliveryError> {
        // The error of the client names the URL, which may hold a token.
        let response = request.send().await.map_err(|error| {
            let detail = if error.is_timeout() { "no answer in time" } else { "no connection" };
            DeliveryError::away(detail, error.is_connect())
        })?;
        let code = response.status().as_u16();
        match code {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(DeliveryError::Away {
                detail: format!("HTTP {code}"),
                retry_after: retry_after(response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok())),
                unreachable: false,
            }),
            300..=399 => Err(DeliveryError::Refused { detail: format!("HTTP {code}, a redirect: not followed") }),
            _ => Err(DeliveryError::Refused { detail: format!("HTTP {code}") }),
        }
    }

    pub(super) async fn is_reachable(&self) -> bool {
        let Some(host) = self.url.host_str() else { return false };
        is_reachable(host.trim_matches(['[', ']']), self.url.port_or_known_default().unwrap_or(0)).await
    }
}

/// Whether somebody accepts connections there.
pub(super) async fn is_reachable(host: &str, port: u16) -> bool {
    // Resolved off this thread, and under the same limit.
    matches!(timeout(LOOK, TcpStream::connect((host, port))).await, Ok(Ok(_)))
}

/// The wall clock, which receivers compare with their own.
pub(super) fn wall_clock() -> DateTime<Utc> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Seconds, which some write with decimals, or a date.
fn retry_after(value: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    let wait = match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => span(wall_clock(), DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&Utc)),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_ask_for_patience_within_reason() {
        let check = |text: &str, expected: Option<Duration>| assert_eq!(retry_after(Some(text)), expected, "{text}");
        check("7", Some(Duration::from_secs(7)));
        check("0.25", Some(Duration::from_millis(250)));
        check("86400", Some(LONGEST_WAIT));
        check("Fri, 31 Dec 1999 23:59:59 GMT", Some(Duration::ZERO));
        check("-1", None);
        check("NaN", None);
        check("soon", None);
        assert_eq!(retry_after(None), None);
    }

    #[test]
    fn an_address_is_shown_by_its_origin_only() {
        let address = |text: &str| address(&text.into());
        assert!(address("https://user:canary@hooks.example.com:8443/canary?t=canary").is_ok());
        for bad in ["ftp://x", "hooks.example.com", "", "http://"] {
            assert_eq!(address(bad).unwrap_err().to_string(), "url is not an http or https address", "{bad}");
        }
    }
}
