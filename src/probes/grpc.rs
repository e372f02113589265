//! gRPC: the standard health question, `grpc.health.v1.Health/Check`, over HTTP/2 on a connection of our own.
//!
//! Frame and message are written and read by hand: one field out, one field in. Why not a gRPC library: it connects by
//! itself, past the egress rule and the marks of the way.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{Either, select};
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::dial::{Dialer, Way, broken};
use super::tls;
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::{GrpcProbe, Target};

/// All that is read of one server: our choice, as much as of a body (CONTRACT.md 6.2).
const READ_BYTES: u64 = 64 * 1024;
/// Headers and trailers each: our choice; status and message need a fraction of it.
const HEAD_BYTES: u32 = 16 * 1024;
/// The answer itself: our choice. The message of the health protocol has two bytes.
const MESSAGE_BYTES: usize = 4096;
/// What the server is told of our patience: the longest time a check may take (CONTRACT.md 5.1, `timeout_ms`).
const PATIENCE: &str = "60S";
/// Time to take leave in good order, after the answer: our choice.
const GOODBYE: Duration = Duration::from_millis(200);
/// Flag and length before each message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

/// Asks for the health of a service, or of the server as a whole.
///
/// # Errors
/// As [`Dialer::connect`] and [`tls::secure`]; `protocol` if what came back is not gRPC.
pub(super) async fn send(
    dialer: &Dialer,
    probe: &GrpcProbe,
    way: &Way,
    traceparent: Option<&str>,
) -> Result<Reply, ProbeFailure> {
    let stream = dialer.connect(&probe.target, way).await?;
    match &probe.tls {
        None => converse(stream, probe, "http", way, traceparent).await,
        Some(options) => {
            let secured = tls::secure(stream, &probe.target.host, options, &[b"h2"], way).await?;
            let reply = converse(secured.stream, probe, "https", way, traceparent).await?;
            Ok(secured.certificate.beside(reply))
        }
    }
}

async fn converse<S>(
    stream: S,
    probe: &GrpcProbe,
    scheme: &str,
    way: &Way,
    traceparent: Option<&str>,
) -> Result<Reply, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(reader.take(READ_BYTES), writer);
    let mut builder = Builder::new();
    builder.enable_push(false).max_concurrent_streams(1).max_header_list_size(HEAD_BYTES);
    let (requests, connection) = builder.handshake(stream).await.map_err(|error| failure(&error))?;
    let exchange = std::pin::pin!(exchange(requests, probe, scheme, way, traceparent));
    match select(exchange, std::pin::pin!(connection)).await {
        Either::Left((reply, connection)) => {
            let _ = tokio::time::timeout(GOODBYE, connection).await;
            reply
        }
        // What has arrived before the end can still be read; else it fails by the error of the connection.
        Either::Right((_, exchange)) => exchange.await,
    }
}

/// One question and its whole answer.
async fn exchange(
    requests: SendRequest<Bytes>,
    probe: &GrpcProbe,
    scheme: &str,
    way: &Way,
    traceparent: Option<&str>,
) -> Result<Reply, ProbeFailure> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{}/grpc.health.v1.Health/Check", authority(&probe.target)))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", PATIENCE)
        .header("user-agent", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    if let Some(parent) = traceparent {
        request = request.header("traceparent", parent);
    }
    let request = request.body(()).map_err(|error| ProbeFailure::new(Reason::Protocol, error.to_string()))?;
    let mut requests = requests.ready().await.map_err(|error| failure(&error))?;
    way.sent();
    let (response, mut body): (_, SendStream<Bytes>) =
        requests.send_request(request, false).map_err(|error| failure(&error))?;
    body.send_data(question(&probe.service), true).map_err(|error| failure(&error))?;
    let (head, body) = response.await.map_err(|error| failure(&error))?.into_parts();
    if head.status != StatusCode::OK {
        return Err(strange(format!("HTTP {}, not gRPC", head.status.as_u16())));
    }
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/grpc") {
        return Err(strange(format!("content type {kind:?}, not gRPC")));
    }
    let (message, trailers) = read(body).await?;
    way.answered();
    // Without a message the status stands in the head: "Trailers-Only".
    let ending = if head.headers.contains_key("grpc-status") { &head.headers } else { &trailers };
    if let Some(finding) = refusal(ending)? {
        return Ok(Reply::with(finding));
    }
    let asked = if probe.service.is_empty() { "the server" } else { &probe.service };
    match health(&message)? {
        0 => Ok(Reply::with(Finding::degraded(Reason::Status, format!("gRPC: {asked} is UNKNOWN")))),
        1 => Ok(Reply::well()),
        2 => Ok(Reply::with(Finding::unhealthy(Reason::Status, format!("gRPC: {asked} is NOT_SERVING")))),
        3 => Ok(Reply::with(Finding::unhealthy(Reason::Status, format!("gRPC: {asked} is SERVICE_UNKNOWN")))),
        other => Err(strange(format!("health status {other} is none"))),
    }
}

fn strange(text: String) -> ProbeFailure {
    ProbeFailure::new(Reason::Protocol, text)
}

fn failure(error: &h2::Error) -> ProbeFailure {
    error.get_io().map_or_else(|| strange(error.to_string()), broken)
}

fn authority(target: &Target) -> String {
    let Target { host, port, .. } = target;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `HealthCheckRequest { service: 1 }` in its frame.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

/// The message with its prefix, and the trailers.
async fn read(mut body: RecvStream) -> Result<(Bytes, HeaderMap), ProbeFailure> {
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| failure(&error))?;
        if message.len() + chunk.len() > MESSAGE_BYTES {
            return Err(strange("an answer of more than 4 KiB".to_owned()));
        }
        message.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len()).map_err(|error| failure(&error))?;
    }
    let trailers = body.trailers().await.map_err(|error| failure(&error))?;
    Ok((message.freeze(), trailers.unwrap_or_default()))
}

/// The codes of gRPC ("Status codes and their use in gRPC").
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a call ended with, if not well.
///
/// # Errors
/// `protocol`: there is no status.
fn refusal(ending: &HeaderMap) -> Result<Option<Finding>, ProbeFailure> {
    let text = |name: &str| ending.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(code) = text("grpc-status") else { return Err(strange("no grpc-status".to_owned())) };
    if code == "0" {
        return Ok(None);
    }
    let name = code.parse::<usize>().ok().and_then(|code| CODES.get(code)).copied().unwrap_or(&code);
    let message = text("grpc-message")
        .map(|message| format!(": {}", percent_decode_str(&message).decode_utf8_lossy()))
        .unwrap_or_default();
    Ok(Some(Finding::unhealthy(Reason::Status, format!("gRPC {name}{message}"))))
}

/// `HealthCheckResponse { status: 1 }` out of its frame; 0 where it says nothing.
fn health(frame: &[u8]) -> Result<u64, ProbeFailure> {
    let odd = || strange("not a health answer".to_owned());
    let (prefix, mut message) = frame.split_at_checked(PREFIX_BYTES).ok_or_else(odd)?;
    let plain = [&[0], &u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes()[..]].concat();
    if prefix != plain {
        return Err(odd());
    }
    let mut status = 0;
    while message.has_remaining() {
        let key = varint(&mut message).ok_or_else(odd)?;
        let skip = match key & 7 {
            0 => {
                let value = varint(&mut message).ok_or_else(odd)?;
                if key >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => varint(&mut message).and_then(|length| usize::try_from(length).ok()).ok_or_else(odd)?,
            5 => 4,
            _ => return Err(odd()),
        };
        message = message.get(skip..).ok_or_else(odd)?;
    }
    Ok(status)
}

/// A number of protobuf: seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, message.len() as u8], message].concat()
    }

    #[test]
    fn the_question_names_the_service() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(question(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn the_status_is_found_among_other_fields() {
        let check =
            |message: &[u8], status: Option<u64>| assert_eq!(health(&framed(message)).ok(), status, "{message:?}");
        check(&[], Some(0));
        check(&[8, 1], Some(1));
        check(&[8, 1, 8, 2], Some(2));
        check(&[0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 3], Some(3));
        check(&[8], None);
        check(&[0x12, 200, 1], None);
        check(&[0x0b], None);
        check(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None);
        check(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None);
        assert!(health(&[]).is_err() && health(&[1, 0, 0, 0, 0]).is_err() && health(&[0, 0, 0, 0, 1]).is_err());
    }
}
