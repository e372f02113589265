//! TCP: a connection, and if asked for, some bytes sent and a pattern searched in what comes back, over TLS or plain.
//!
//! What comes back is read up to [`REPLY_BYTES`], until the pattern is found or the peer closes. A peer that answers
//! something else and keeps the connection open is cut off by the caller's deadline, as a slow body is over HTTP.

use regex::Regex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::dial::{Dialer, Way, broken};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply, clean};
use crate::domain::probe::TcpProbe;

/// Reply that is searched: CONTRACT.md 6.1.
const REPLY_BYTES: usize = 64 * 1024;
/// Pieces of a reply after each of which it is searched anew: our choice. A reply dripped in more pieces than this is
/// searched once more, when it has ended, so that single bytes cannot make the search cost a square of their number.
const SEARCHES: usize = 1000;
/// Memory asked for before there is a reply: our choice, more than most banners.
const FIRST_BYTES: usize = 1024;

/// Connects, and holds the conversation `probe` describes.
pub(super) async fn send(dialer: &Dialer, probe: &TcpProbe, way: &Way) -> Result<Reply, ProbeFailure> {
    let stream = dialer.connect(&probe.target, way).await?;
    let Some(options) = &probe.tls else {
        return converse(stream, probe, way).await;
    };
    let secured = super::tls::secure(stream, &probe.target.host, options, &[], way).await?;
    let mut reply = converse(secured.stream, probe, way).await?;
    reply.findings.extend(secured.certificate.finding);
    reply.certificate_expires = secured.certificate.expires;
    Ok(reply)
}

async fn converse<S>(mut stream: S, probe: &TcpProbe, way: &Way) -> Result<Reply, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if probe.send.is_none() && probe.expect.is_none() {
        way.answered_by(|phases| phases.connect);
        return Ok(Reply::well());
    }
    way.sent();
    if let Some(bytes) = &probe.send {
        let writing = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        writing.await.map_err(|error| broken(&error))?;
    }
    let heard = listen(&mut stream, probe.expect.as_ref()).await?;
    way.answered();
    let mut reply = match heard.end {
        End::Found => Reply::well(),
        End::Closed if heard.bytes.is_empty() => {
            return Err(ProbeFailure::new(Reason::Protocol, "closed without a byte"));
        }
        End::Closed => Reply::with(Finding::degraded(Reason::Assertion, "Expected reply not found")),
        End::Full => {
            let text = "Expected reply not found in the first 64 KiB";
            Reply::with(Finding::degraded(Reason::BodyLimit, text))
        }
    };
    // An answer to what was sent may repeat it, and what was sent may be secret: only banners are shown.
    if probe.send.is_none() {
        reply.details = Some(clean(&String::from_utf8_lossy(&heard.bytes)).into());
    }
    Ok(reply)
}

/// What came back, and why no more of it was read.
struct Heard {
    bytes: Vec<u8>,
    end: End,
}

enum End {
    /// The pattern is there; without a pattern, any byte.
    Found,
    Closed,
    /// [`REPLY_BYTES`] are there.
    Full,
}

async fn listen<S>(stream: S, expect: Option<&Regex>) -> Result<Heard, ProbeFailure>
where
    S: AsyncRead + Unpin,
{
    let mut stream = stream.take(REPLY_BYTES as u64);
    let mut bytes = Vec::with_capacity(FIRST_BYTES);
    let found = |bytes: &[u8]| expect.is_none_or(|pattern| pattern.is_match(&String::from_utf8_lossy(bytes)));
    let mut pieces = 0;
    loop {
        let count = match stream.read_buf(&mut bytes).await {
            Ok(count) => count,
            // Many peers end this way, without a farewell: what they said before counts.
            Err(error) if is_end(&error) && !bytes.is_empty() => 0,
            Err(error) => return Err(broken(&error)),
        };
        let ended = count == 0 || bytes.len() >= REPLY_BYTES;
        pieces += 1;
        if !bytes.is_empty() && (ended || pieces <= SEARCHES) && found(&bytes) {
            return Ok(Heard { bytes, end: End::Found });
        }
        if ended {
            let end = if bytes.len() >= REPLY_BYTES { End::Full } else { End::Closed };
            return Ok(Heard { bytes, end });
        }
    }
}

/// A reset, or TLS without its closing message.
fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof)
}
