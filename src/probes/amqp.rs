//! AMQP 0-9-1: the protocol header out, `Connection.Start` back. No log-in: that a broker takes up the conversation is
//! what is asked.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dial::{Dialer, Way, broken};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::Target;

/// `AMQP`, 0, then the version: AMQP 0-9-1, 2.3.1.
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// Type of a frame that carries a method: AMQP 0-9-1, 2.3.5.
const METHOD_FRAME: u8 = 1;
/// Class 10, method 10: AMQP 0-9-1, `connection.start`.
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
/// Last byte of each frame.
const FRAME_END: u8 = 0xce;
/// Largest frame that is read: our choice. A broker's greeting has some hundred bytes.
const FRAME_BYTES: usize = 64 * 1024;

/// Greets the broker and hears its greeting.
pub(super) async fn send(dialer: &Dialer, target: &Target, way: &Way) -> Result<Reply, ProbeFailure> {
    let mut stream = dialer.connect(target, way).await?;
    way.sent();
    let reply = greet(&mut stream).await?;
    way.answered();
    Ok(reply)
}

async fn greet(stream: &mut TcpStream) -> Result<Reply, ProbeFailure> {
    stream.write_all(&PROTOCOL_HEADER).await.map_err(|error| broken(&error))?;
    // As long as a protocol header; no frame is shorter.
    let mut head = [0; 8];
    stream.read_exact(&mut head).await.map_err(|error| closed_early(&error))?;
    if let [b'A', b'M', b'Q', b'P', _, major, minor, revision] = head {
        let text = format!("The broker speaks AMQP {major}-{minor}-{revision}, not 0-9-1");
        return Ok(Reply::with(Finding::degraded(Reason::Status, text)));
    }
    let mut frame = head.as_slice().chain(stream);
    let reading = async {
        let (kind, channel) = (frame.read_u8().await?, frame.read_u16().await?);
        let size = usize::try_from(frame.read_u32().await?).unwrap_or(usize::MAX);
        if kind != METHOD_FRAME || channel != 0 || size > FRAME_BYTES {
            return Ok(false);
        }
        let mut payload = vec![0; size];
        frame.read_exact(&mut payload).await?;
        Ok(payload.starts_with(&CONNECTION_START) && frame.read_u8().await? == FRAME_END)
    };
    match reading.await {
        Ok(true) => Ok(Reply::well()),
        Ok(false) => Err(ProbeFailure::new(Reason::Protocol, "not an answer of AMQP")),
        Err(error) => Err(closed_early(&error)),
    }
}

fn closed_early(error: &std::io::Error) -> ProbeFailure {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return ProbeFailure::new(Reason::Protocol, "closed before it answered");
    }
    broken(error)
}
