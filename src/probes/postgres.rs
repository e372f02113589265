//! PostgreSQL: log in, then one query in a read-only transaction.
//!
//! TLS is asked for by hand, so that certificates are judged as everywhere (see [`super::tls`]); the rest is
//! tokio-postgres on that connection. Why not read-only by start-up `options`: PgBouncer refuses to connect then, and a
//! session setting would stay behind in its pool; a transaction is read-only with both.

use std::error::Error as _;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, join, select};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::DbError;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};

use super::dial::{Dialer, Way, broken};
use super::tls::{self, CertificateSeen};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::{PostgresProbe, TlsOptions};

/// All that is read of one server: our choice, as much as of a body (CONTRACT.md 6.2). A longer result is cut off.
const READ_BYTES: u64 = 64 * 1024;
/// The request for TLS: its length, and the number PostgreSQL gave it ("SSLRequest" in its protocol).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// What the query runs in. The server ends it after the longest time a check may take: CONTRACT.md 5.1, `timeout_ms`.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = 60000";
/// Time to take leave in good order, after the answer: our choice.
const GOODBYE: Duration = Duration::from_millis(200);

/// Logs in, and sends the query.
///
/// # Errors
/// As [`Dialer::connect`] and [`tls::secure`]; `protocol` if what came back is not PostgreSQL.
pub(super) async fn send(dialer: &Dialer, probe: &PostgresProbe, way: &Way) -> Result<Reply, ProbeFailure> {
    let mut stream = dialer.connect(&probe.target, way).await?;
    let Some(options) = &probe.tls else { return converse(stream, probe, way).await };
    if offers_tls(&mut stream).await? {
        let (stream, certificate) = secured(stream, probe, options, way).await?;
        return Ok(certificate.beside(converse(stream, probe, way).await?));
    }
    if probe.tls_optional {
        return converse(stream, probe, way).await;
    }
    way.answered();
    Ok(Reply::with(Finding::unhealthy(Reason::Tls, "TLS: the server offers none")))
}

/// Asks for TLS. Nothing but the one letter is read: what follows it is the handshake.
async fn offers_tls(stream: &mut TcpStream) -> Result<bool, ProbeFailure> {
    stream.write_all(&SSL_REQUEST).await.map_err(|error| broken(&error))?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(|error| broken(&error))?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        _ => Err(ProbeFailure::new(Reason::Protocol, "not an answer of PostgreSQL")),
    }
}

async fn secured(
    stream: TcpStream,
    probe: &PostgresProbe,
    options: &TlsOptions,
    way: &Way,
) -> Result<(impl AsyncRead + AsyncWrite + Unpin, CertificateSeen), ProbeFailure> {
    let secured = tls::secure(stream, &probe.target.host, options, &[], way).await?;
    Ok((secured.stream, secured.certificate))
}

async fn converse<S>(stream: S, probe: &PostgresProbe, way: &Way) -> Result<Reply, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(reader.take(READ_BYTES), writer);
    let mut config = Config::new();
    config.user(&probe.user).dbname(&probe.database).application_name(env!("CARGO_PKG_NAME"));
    config.ssl_mode(SslMode::Disable);
    if let Some(password) = &probe.password {
        config.password(password.expose_secret());
    }
    let told = |error: tokio_postgres::Error| {
        let finding = judge(&error, probe)?;
        way.answered();
        Ok(Reply::with(finding))
    };
    let (client, connection) = match config.connect_raw(stream, NoTls).await {
        Ok(connected) => connected,
        Err(error) => return told(error),
    };
    let connection = std::pin::pin!(connection);
    let exchange = std::pin::pin!(async {
        let result = query(&client, probe, way).await;
        (result, client)
    });
    // The connection comes first: it knows why it ended, the query only that it did.
    let result = match select(connection, exchange).await {
        Either::Left((Err(error), _)) => Err(error),
        Either::Left((Ok(()), exchange)) => exchange.await.0,
        Either::Right(((result, client), connection)) => {
            let goodbye = async {
                let _ = client.batch_execute("ROLLBACK").await;
                drop(client);
            };
            let _ = tokio::time::timeout(GOODBYE, join(goodbye, connection)).await;
            result
        }
    };
    result.map_or_else(told, |()| Ok(Reply::well()))
}

/// Until the first row, or the end of a statement without rows: a result is there.
async fn query(client: &Client, probe: &PostgresProbe, way: &Way) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(BEGIN).await?;
    way.sent();
    // One statement and no more: what follows a COMMIT would not be read-only.
    let values: [(&str, Type); 0] = [];
    let mut rows = std::pin::pin!(client.query_typed_raw(&probe.query, values).await?);
    if let Some(row) = rows.next().await {
        row?;
    }
    way.answered();
    Ok(())
}

/// What an error says of the server.
///
/// # Errors
/// It was no answer of PostgreSQL.
fn judge(error: &tokio_postgres::Error, probe: &PostgresProbe) -> Result<Finding, ProbeFailure> {
    if let Some(said) = error.as_db_error() {
        return Ok(refused(said, probe));
    }
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    // The crate keeps the kind of its errors to itself, but for their first words.
    if matches!(error.to_string().as_str(), "authentication error" | "invalid configuration") {
        return Ok(Finding::unhealthy(Reason::Status, format!("log-in refused: {cause}")));
    }
    match error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(cause) => Err(broken(cause)),
        None => Err(ProbeFailure::new(Reason::Protocol, cause)),
    }
}

/// An error the server answered with: by its SQLSTATE (PostgreSQL, appendix A).
fn refused(said: &DbError, probe: &PostgresProbe) -> Finding {
    let code = said.code().code();
    let mut text = said.message().to_owned();
    if let Some(password) = &probe.password
        && !password.expose_secret().is_empty()
    {
        text = text.replace(password.expose_secret(), "***");
    }
    match code {
        // admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections.
        "57P01" | "57P02" | "57P03" | "53300" => {
            Finding::degraded(Reason::Status, format!("PostgreSQL: {text} ({code})"))
        }
        // invalid_catalog_name, invalid_authorization_specification and its kind.
        "3D000" => Finding::unhealthy(Reason::Status, format!("log-in refused: {text} ({code})")),
        _ if code.starts_with("28") => Finding::unhealthy(Reason::Status, format!("log-in refused: {text} ({code})")),
        _ => Finding::unhealthy(Reason::Status, format!("PostgreSQL: {text} ({code})")),
    }
}
