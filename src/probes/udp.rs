//! UDP: one datagram out and, unless none is expected, one back. Also the connected socket that DNS asks through.
//!
//! The socket is connected, so that only the peer's datagrams come in and a port without a listener is told as a
//! refusal: on an unconnected one the system keeps that to itself.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::dial::{Dialer, Way, broken};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply, clean};
use crate::domain::probe::UdpProbe;

/// Largest datagram there is, so that none is cut.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Without a refusal for this long, a peer that owes no reply is well: CONTRACT.md 6.1.
const QUIET: Duration = Duration::from_secs(1);
/// Left of the deadline to say so: our choice.
const MARGIN: Duration = Duration::from_millis(20);

/// Sends one datagram. `deadline` is that of the whole check: a peer that owes no reply is listened to for no longer.
pub(super) async fn send(
    dialer: &Dialer,
    probe: &UdpProbe,
    way: &Way,
    deadline: Instant,
) -> Result<Reply, ProbeFailure> {
    let addresses = dialer.addresses(&probe.target, way).await?;
    let socket = connected(&addresses).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let count = if probe.expect_reply {
        way.sent();
        socket.send(&probe.send).await.map_err(|error| refused(&error))?;
        let count = socket.recv(&mut buffer).await.map_err(|error| refused(&error))?;
        way.answered();
        count
    } else {
        // Nothing is timed: silence has no response time, and must not count as an answer that is late.
        socket.send(&probe.send).await.map_err(|error| refused(&error))?;
        let until = (Instant::now() + QUIET).min(deadline.checked_sub(MARGIN).unwrap_or(deadline));
        match timeout_at(until, socket.recv(&mut buffer)).await {
            Ok(received) => received.map_err(|error| refused(&error))?,
            Err(_) => return Ok(Reply::well()),
        }
    };
    let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
    let as_expected = probe.expect.as_ref().is_none_or(|pattern| pattern.is_match(&text));
    let reply = if as_expected {
        Reply::well()
    } else {
        Reply::with(Finding::degraded(Reason::Assertion, "Expected reply not found"))
    };
    Ok(Reply { details: Some(clean(&text).into()), ..reply })
}

/// A socket of its own port, connected to the first of `addresses` there is a way to.
///
/// # Errors
/// As [`refused`].
pub(super) async fn connected(addresses: &[SocketAddr]) -> Result<UdpSocket, ProbeFailure> {
    let mut last = Error::other("no addresses");
    for address in addresses {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let opening = async {
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            Ok(socket)
        };
        match opening.await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(refused(&last))
}

/// Why a datagram, or a connection in its place, did not come through: nobody at the port, no way to the host, or our
/// own want of sockets.
pub(super) fn refused(error: &Error) -> ProbeFailure {
    let unreachable = [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH];
    match error.raw_os_error() {
        _ if error.kind() == ErrorKind::ConnectionRefused => {
            ProbeFailure::new(Reason::ConnectRefused, error.to_string())
        }
        Some(code) if unreachable.iter().any(|errno| errno.raw_os_error() == code) => {
            ProbeFailure::new(Reason::ConnectTimeout, error.to_string())
        }
        _ => broken(error),
    }
}
