//! The accept loop: a cap on connections, a deadline for each request head, and a stop that lets answers finish. Why not
//! `axum::serve`: it has none of the three.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Gate;
use super::gate::too_many_connections;

/// Connections at once: our choice.
const CONNECTIONS: usize = 2048;
/// Read buffer of a connection, and headers read: above what the gate accepts, so that it is the gate that answers.
const BUFFER_BYTES: usize = 64 * 1024;
const HEADERS: usize = 500;
/// Answers under way at the stop may take this long: our choice.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// A client that is gone, or takes nothing, for so many milliseconds is given up: our choice. Streams have no end that
/// would find it out.
#[cfg(target_os = "linux")]
const TAKES_NOTHING_MS: u32 = 30_000;
/// Pause after an accept that failed for want of descriptors: our choice, so that the loop does not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets answers under way finish.
pub async fn serve(listener: TcpListener, gate: Gate, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(gate.state().config.request_timeout)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS);
    let places = Arc::new(Semaphore::new(CONNECTIONS.min(gate.state().config.max_connections)));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refuse(stream);
            continue;
        };
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, TAKES_NOTHING_MS) {
            tracing::debug!(%error, %peer, "no limit on a client that takes nothing");
        }
        let gate = gate.clone();
        let service = service_fn(move |request| {
            let gate = gate.clone();
            async move { Ok::<_, std::convert::Infallible>(gate.call(peer.ip(), request).await) }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %peer, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_ANSWERS, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections still open at the stop were closed");
    }
}

/// Tells a client that there is no room, without waiting for it.
fn refuse(mut stream: TcpStream) {
    tokio::spawn(async move {
        let answer = stream.write_all(too_many_connections());
        let _ = tokio::time::timeout(Duration::from_secs(1), answer).await;
    });
}

/// Listens on `address`.
///
/// # Errors
/// Why not, with the remedy.
pub async fn listen(host: &str, port: u16) -> Result<TcpListener, String> {
    let address: SocketAddr = match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => return Err(format!("server.host {host} is not an address to listen on")),
    };
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("server.port {port} is in use by another process; stop it or set PORT to another one")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("server.port {port} needs privileges; set PORT to 1024 or above")
        }
        std::io::ErrorKind::AddrNotAvailable => format!("server.host {host} is no address of this machine; set HOST"),
        _ => format!("server.port {port} cannot be listened on: {error}"),
    })
}
