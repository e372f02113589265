//! ICMP: one echo request by a ping socket, else by a raw one; never a shell.
//!
//! A ping socket is given our replies alone. A raw one is given all ICMP of the machine, and in a flood of it the system
//! drops replies of ours: where both can be had, the ping socket is the better one, and it is tried first.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};
use uuid::Uuid;

use super::dial::{Dialer, Way};
use super::udp::refused;
use crate::domain::observation::{ProbeFailure, Reason, Reply};
use crate::domain::probe::Target;

/// What an echo request carries: our choice, as many bytes as `ping` sends.
const PAYLOAD: [u8; 56] = [0; 56];
/// Echo reply: RFC 792 and RFC 4443.
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
/// Longer than any check: the deadline is the caller's, and the library wants one too.
const LIBRARY_LIMIT: Duration = Duration::from_secs(3600);

/// The sockets of all ICMP probes: one for each family, opened once. A clone is the same sockets.
#[derive(Clone)]
pub(super) struct Pinger {
    /// Or why there is none, as a sentence.
    v4: Result<Client, String>,
    v6: Result<Client, String>,
    /// Of the next request, whichever its target: two under way to one host must differ.
    sequence: Arc<AtomicU16>,
    /// Tells our replies from those of other programs on this machine, where the system does not.
    identifier: PingIdentifier,
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("problem", &self.problem()).finish_non_exhaustive()
    }
}

impl Pinger {
    /// Opens the sockets; replies are taken in by the runtime this is called in, as long as a clone is kept.
    pub fn new() -> Self {
        let [.., high, low] = *Uuid::now_v7().as_bytes();
        Self {
            v4: open(ICMP::V4),
            v6: open(ICMP::V6),
            sequence: Arc::default(),
            identifier: PingIdentifier(u16::from_be_bytes([high, low])),
        }
    }

    /// Why no ICMP probe can be sent, and what helps; `None` when some can.
    pub fn problem(&self) -> Option<&str> {
        match (&self.v4, &self.v6) {
            (Err(problem), Err(_)) => Some(problem),
            _ => None,
        }
    }

    fn client(&self, ip: IpAddr) -> &Result<Client, String> {
        if ip.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// A ping socket, else a raw one.
fn open(kind: ICMP) -> Result<Client, String> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err("ICMP sockets were asked for outside a runtime".to_owned());
    }
    Client::new(&Config::builder().kind(kind).build()).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "no permission for ICMP: put this process's group into net.ipv4.ping_group_range, \
             or give the program CAP_NET_RAW"
                .to_owned()
        }
        _ => format!("no ICMP socket: {error}"),
    })
}

/// Sends one echo request to the first address of `target` there is a socket for.
pub(super) async fn send(dialer: &Dialer, target: &Target, way: &Way, pinger: &Pinger) -> Result<Reply, ProbeFailure> {
    let addresses = dialer.addresses(target, way).await?;
    let mut usable = Err(ProbeFailure::new(Reason::Dns, "no addresses"));
    for ip in addresses.iter().map(SocketAddr::ip) {
        match pinger.client(ip) {
            Ok(client) => {
                usable = Ok((client, ip));
                break;
            }
            Err(problem) => usable = Err(ProbeFailure::new(Reason::LocalResource, problem)),
        }
    }
    let (client, ip) = usable?;
    let mut request = client.pinger(ip, pinger.identifier).await;
    request.timeout(LIBRARY_LIMIT);
    let sequence = PingSequence(pinger.sequence.fetch_add(1, Ordering::Relaxed));
    way.sent();
    let (packet, _) = request.ping(sequence, &PAYLOAD).await.map_err(|error| failure(&error))?;
    way.answered();
    if is_reply(&packet) {
        return Ok(Reply::well());
    }
    // A router, or the host itself, sent the request back.
    Err(ProbeFailure::new(Reason::ConnectTimeout, "destination unreachable"))
}

fn is_reply(packet: &IcmpPacket) -> bool {
    match packet {
        IcmpPacket::V4(packet) => packet.get_icmp_type().0 == ECHO_REPLY_V4,
        IcmpPacket::V6(packet) => packet.get_icmpv6_type().0 == ECHO_REPLY_V6,
    }
}

fn failure(error: &SurgeError) -> ProbeFailure {
    match error {
        SurgeError::IOError(error) => refused(error),
        SurgeError::Timeout { .. } => ProbeFailure::new(Reason::Timeout, "no reply"),
        // Sixty-five thousand requests later the former one of this number still waits.
        SurgeError::IdenticalRequests { .. } | SurgeError::ClientDestroyed | SurgeError::NetworkError => {
            ProbeFailure::new(Reason::LocalResource, error.to_string())
        }
        SurgeError::IncorrectBufferSize | SurgeError::MalformedPacket(_) | SurgeError::EchoRequestPacket => {
            ProbeFailure::new(Reason::Protocol, error.to_string())
        }
    }
}
