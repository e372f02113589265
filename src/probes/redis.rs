//! Redis: log in and choose the database as the address says, then `PING`, spoken by hand on a connection of our own.
//!
//! Why not the client the stores use: it connects by itself, past the egress rule and the marks of the way.

use secrecy::ExposeSecret;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::dial::{Dialer, Way, broken};
use super::tls;
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::RedisProbe;

/// Longest answer that is read: our choice. Errors of Redis are shorter than this by far.
const LINE_BYTES: u64 = 4096;
/// Words of errors that pass: CONTRACT.md 6.1.
const PASSING: [&str; 3] = ["LOADING", "BUSY", "MASTERDOWN"];

/// Logs in, and sends one `PING`.
///
/// # Errors
/// As [`Dialer::connect`] and [`tls::secure`]; `protocol` if what came back is not Redis.
pub(super) async fn send(dialer: &Dialer, probe: &RedisProbe, way: &Way) -> Result<Reply, ProbeFailure> {
    let stream = dialer.connect(&probe.target, way).await?;
    match &probe.tls {
        None => converse(stream, probe, way).await,
        Some(options) => {
            let secured = tls::secure(stream, &probe.target.host, options, &[], way).await?;
            Ok(secured.certificate.beside(converse(secured.stream, probe, way).await?))
        }
    }
}

async fn converse<S>(stream: S, probe: &RedisProbe, way: &Way) -> Result<Reply, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::with_capacity(512, stream);
    let password = probe.password.as_ref().map(ExposeSecret::expose_secret);
    let log_in = match (&probe.user, password) {
        (None, None) => None,
        (None, Some(password)) => Some(command(&["AUTH", password])),
        (Some(user), password) => Some(command(&["AUTH", user, password.unwrap_or_default()])),
    };
    let database = probe.database.to_string();
    let select = (probe.database != 0).then(|| command(&["SELECT", &database]));
    for before in [log_in, select].into_iter().flatten() {
        if let Some(finding) = ask(&mut stream, &before, "OK", password).await? {
            way.answered();
            return Ok(Reply::with(finding));
        }
    }
    way.sent();
    let finding = ask(&mut stream, &command(&["PING"]), "PONG", password).await?;
    way.answered();
    let _ = stream.shutdown().await;
    Ok(finding.map_or_else(Reply::well, Reply::with))
}

/// A command as Redis reads it: an array of strings with their lengths.
fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// Sends one command; what is wrong with the answer, if it is an error and not `expected`.
async fn ask<S>(
    stream: &mut BufReader<S>,
    command: &[u8],
    expected: &str,
    password: Option<&str>,
) -> Result<Option<Finding>, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let strange = |what: &str| ProbeFailure::new(Reason::Protocol, what);
    let written = async {
        stream.write_all(command).await?;
        stream.flush().await
    };
    let written = written.await;
    // A server that is full says so and closes at once: its word counts more than our broken pipe.
    let mut line = Vec::new();
    let read = stream.take(LINE_BYTES).read_until(b'\n', &mut line).await;
    if line.is_empty() {
        written.map_err(|error| broken(&error))?;
    }
    read.map_err(|error| broken(&error))?;
    let text = String::from_utf8_lossy(&line);
    let Some(text) = text.strip_suffix("\r\n") else {
        return Err(match line.len() {
            0 => strange("closed before an answer"),
            _ => strange("not an answer of Redis"),
        });
    };
    if let Some(error) = text.strip_prefix('-') {
        return Ok(Some(refused(error, password)));
    }
    match text.strip_prefix('+') {
        Some(word) if word == expected => Ok(None),
        _ => Err(strange(&format!("expected {expected}, not {}", without(text, password)))),
    }
}

/// An error Redis answered with.
fn refused(error: &str, password: Option<&str>) -> Finding {
    let text = format!("Redis: {}", without(error, password));
    match error.split(' ').next() {
        Some(word) if PASSING.contains(&word) => Finding::degraded(Reason::Status, text),
        _ => Finding::unhealthy(Reason::Status, text),
    }
}

/// What a server says of an unknown command repeats its arguments, which may be a password.
fn without(text: &str, password: Option<&str>) -> String {
    let text = text.split(", with args beginning with").next().unwrap_or_default();
    match password {
        Some(password) if !password.is_empty() => text.replace(password, "***"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::Status;

    #[test]
    fn errors_that_pass_are_degraded() {
        let check = |error: &str, status: Status| assert_eq!(refused(error, None).status, status, "{error}");
        check("LOADING Redis is loading the dataset in memory", Status::Degraded);
        check("BUSY Redis is busy running a script.", Status::Degraded);
        check("MASTERDOWN Link with MASTER is down", Status::Degraded);
        check("BUSYGROUP Consumer Group name already exists", Status::Unhealthy);
        check("NOAUTH Authentication required.", Status::Unhealthy);
        check("WRONGPASS invalid username-password pair or user is disabled.", Status::Unhealthy);
        check("ERR max number of clients reached", Status::Unhealthy);
        check("", Status::Unhealthy);
    }

    #[test]
    fn an_echoed_password_is_not_told() {
        let told = refused("ERR no such thing as geheim here", Some("geheim")).text;
        assert_eq!(told, "Redis: ERR no such thing as *** here");
        let told = refused("ERR unknown command 'AUTH', with args beginning with: 'gehei", Some("geheim")).text;
        assert_eq!(told, "Redis: ERR unknown command 'AUTH'");
    }

    #[test]
    fn commands_carry_lengths_in_bytes() {
        assert_eq!(command(&["AUTH", "ü x"]), "*2\r\n$4\r\nAUTH\r\n$4\r\nü x\r\n".as_bytes());
    }
}
