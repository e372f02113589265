//! TLS for every protocol but HTTP: one handshake, what the certificates say, and the probe that looks at nothing else.
//!
//! The verifier records its refusal instead of ending the handshake, so that an expired, self-signed or misnamed
//! certificate still tells its dates. Nothing is sent to a server that was refused: [`secure`] ends there.
//!
//! Why not the verifier of the HTTP client: it ends the handshake at the refusal, and the dates are lost with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::dial::{Dialer, Way, broken};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::{Target, TlsOptions};

const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Longest `ca_file` that is read: our choice. Four times the bundle of all public authorities.
const CA_FILE_BYTES: u64 = 1024 * 1024;
/// Names told of a certificate that is for others: our choice, so that the sentence stays within its limit.
const NAMES_TOLD: usize = 3;

/// A connection on which requests may be sent, and what the certificate said.
#[derive(Debug)]
pub(super) struct Secured {
    pub stream: TlsStream<TcpStream>,
    pub certificate: CertificateSeen,
}

/// What the certificate of a server says.
#[derive(Debug, Default)]
pub(super) struct CertificateSeen {
    /// When it, or one of its chain, expires first; unix seconds.
    pub expires: Option<i64>,
    pub finding: Option<Finding>,
}

impl CertificateSeen {
    /// `reply` with what the certificate adds to it.
    pub fn beside(self, mut reply: Reply) -> Reply {
        reply.certificate_expires = self.expires;
        reply.findings.extend(self.finding);
        reply
    }
}

/// The handshake, and what is said of the chain and the host name.
///
/// # Errors
/// `tls`, `local_resource`, or as [`Dialer::connect`].
pub(super) async fn send(
    dialer: &Dialer,
    target: &Target,
    options: &TlsOptions,
    way: &Way,
) -> Result<Reply, ProbeFailure> {
    let stream = dialer.connect(target, way).await?;
    let (mut stream, refusal) = shake_hands(stream, &target.host, options, &[], way, || way.sent()).await?;
    way.answered_by(|phases| phases.tls);
    let now = now();
    let shown = Shown::of(chain(&stream), now, refusal.is_none());
    let finding = match &refusal {
        Some(error) => Some(Finding::unhealthy(Reason::Tls, format!("TLS: {}", shown.told(error)))),
        None => shown.judge(now, options),
    };
    // Leaving without a word is an error in the log of many servers.
    let _ = stream.shutdown().await;
    Ok(CertificateSeen { expires: shown.expires, finding }.beside(Reply::well()))
}

/// Speaks TLS on `stream`, offering the protocols of `alpn`. A certificate near its end is a finding.
///
/// # Errors
/// `tls`: no handshake, or chain or host name refused while [`TlsOptions::verify`]; nothing was sent then.
/// `local_resource`: the trusted certificates cannot be read.
pub(super) async fn secure(
    stream: TcpStream,
    host: &str,
    options: &TlsOptions,
    alpn: &[&[u8]],
    way: &Way,
) -> Result<Secured, ProbeFailure> {
    let (stream, refusal) = shake_hands(stream, host, options, alpn, way, || {}).await?;
    let now = now();
    let shown = Shown::of(chain(&stream), now, refusal.is_none());
    if let Some(error) = refusal {
        return Err(ProbeFailure::new(Reason::Tls, shown.told(&error)));
    }
    let certificate = CertificateSeen { expires: shown.expires, finding: shown.judge(now, options) };
    Ok(Secured { stream, certificate })
}

/// What a certificate says that somebody else has verified.
pub(super) fn look_at(der: &[u8], now: i64, options: &TlsOptions) -> CertificateSeen {
    let shown = Shown::of(&[CertificateDer::from(der)], now, true);
    CertificateSeen { expires: shown.expires, finding: shown.judge(now, options) }
}

/// What `not_after` means at `now`, both in unix seconds. Days are counted whole, as they are shown.
pub(super) fn judge_dates(not_after: i64, now: i64, options: &TlsOptions) -> Option<Finding> {
    let date = day(not_after);
    if now > not_after {
        return Some(Finding::unhealthy(Reason::Tls, format!("TLS: certificate expired on {date}")));
    }
    let days = not_after.saturating_sub(now) / DAY_SECONDS;
    let reached = |limit: u32| limit > 0 && days <= i64::from(limit);
    let unit = if days == 1 { "day" } else { "days" };
    let text = format!("TLS: certificate expires in {days} {unit} ({date})");
    if reached(options.critical_days) {
        Some(Finding::unhealthy(Reason::Tls, text))
    } else if reached(options.warning_days) {
        Some(Finding::degraded(Reason::Tls, text))
    } else {
        None
    }
}

/// TLS for HTTP: the usual verification with the exceptions of `options`. `sessions` is asked at each handshake.
///
/// # Errors
/// `local_resource`: the trusted certificates cannot be read.
pub(super) async fn http_config(
    options: &TlsOptions,
    sessions: Arc<dyn rustls::client::ClientSessionStore>,
) -> Result<ClientConfig, ProbeFailure> {
    let local = |text: String| ProbeFailure::new(Reason::LocalResource, text);
    let name = match &options.server_name {
        Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| local(error.to_string()))?),
        None => None,
    };
    let judge = if options.verify { Some(verifier(options.ca_file.as_deref()).await?) } else { None };
    let strict = Strict { name, judge };
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| local(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(strict))
        .with_no_client_auth();
    config.resumption = Resumption::store(sessions);
    Ok(config)
}

/// A verifier that refuses at once, by another name than the host's where one is set.
#[derive(Debug)]
struct Strict {
    name: Option<ServerName<'static>>,
    /// `None`: every certificate will do.
    judge: Option<Arc<Verifier>>,
}

impl ServerCertVerifier for Strict {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(server_name);
        match &self.judge {
            Some(judge) => judge.verify_server_cert(end_entity, intermediates, name, ocsp_response, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

/// Now, in the unit certificates are dated in.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn day(at: i64) -> String {
    DateTime::from_timestamp(at, 0).map_or_else(|| at.to_string(), |date| date.format("%Y-%m-%d").to_string())
}

fn chain(stream: &TlsStream<TcpStream>) -> &[CertificateDer<'static>] {
    stream.get_ref().1.peer_certificates().unwrap_or_default()
}

/// The handshake alone, and what the verifier said against the certificate. `begins` is told at its first byte.
async fn shake_hands(
    stream: TcpStream,
    host: &str,
    options: &TlsOptions,
    alpn: &[&[u8]],
    way: &Way,
    begins: impl FnOnce(),
) -> Result<(TlsStream<TcpStream>, Option<rustls::Error>), ProbeFailure> {
    let name = options.server_name.as_deref().unwrap_or(host).trim_end_matches('.');
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| ProbeFailure::new(Reason::Tls, format!("{name} is not a name that certificates can have")))?;
    let recorder = Arc::new(Recorder {
        judge: if options.verify { Some(verifier(options.ca_file.as_deref()).await?) } else { None },
        refusal: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ProbeFailure::new(Reason::LocalResource, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    // Every probe pays a full handshake, as a new client would, and sees the certificate of today.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    begins();
    way.handshaking();
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| no_handshake(&error))?;
    way.handshaken();
    Ok((stream, recorder.refusal()))
}

/// Why a certificate is refused, where the library's own words are those of its code.
pub(super) fn in_words(refusal: &CertificateError) -> String {
    let CertificateError::Other(other) = refusal else { return refusal.to_string() };
    match other.to_string().as_str() {
        "CaUsedAsEndEntity" => "the certificate is an authority's (CA:TRUE), not a server's".to_owned(),
        text => text.to_owned(),
    }
}

/// Why there is no handshake.
fn no_handshake(error: &std::io::Error) -> ProbeFailure {
    let local = broken(error);
    if local.reason == Reason::LocalResource {
        return local;
    }
    let text = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
        Some(other) => other.to_string(),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "closed during the handshake".to_owned(),
        None => error.to_string(),
    };
    ProbeFailure::new(Reason::Tls, text)
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// A verifier that notes what it would refuse, for one handshake.
#[derive(Debug)]
struct Recorder {
    /// `None`: every certificate will do.
    judge: Option<Arc<Verifier>>,
    refusal: Mutex<Option<rustls::Error>>,
}

impl Recorder {
    fn refusal(&self) -> Option<rustls::Error> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first refusal counts.
    fn record(&self, error: rustls::Error) {
        if self.judge.is_some() {
            self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// A peer without the key of its certificate ends the handshake; a certificate whose key cannot be read (an X.509
    /// of version 1, say) is a refusal like others.
    fn signed(
        &self,
        checked: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match checked {
            Err(error @ rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => Err(error),
            Err(error @ rustls::Error::InvalidCertificate(_)) => {
                self.record(error);
                Ok(HandshakeSignatureValid::assertion())
            }
            checked => checked,
        }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(judge) = &self.judge
            && let Err(error) = judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            self.record(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        self.signed(verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        self.signed(verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

/// When a file was written, and its length: what tells that it was replaced.
type Stamp = (SystemTime, u64);

/// A verifier that is loaded once, by whoever asks first.
#[derive(Debug, Default)]
struct Loading {
    stamp: Option<Stamp>,
    loaded: OnceLock<Result<Arc<Verifier>, String>>,
}

/// Verifiers by `ca_file`: building one reads all certificates of the system, which no probe should wait for twice.
/// As many as the configuration names files.
static VERIFIERS: LazyLock<Mutex<HashMap<Option<PathBuf>, Arc<Loading>>>> = LazyLock::new(Mutex::default);

/// Trusts the system's authorities and those of `ca_file`, which is read again when it has changed.
async fn verifier(ca_file: Option<&Path>) -> Result<Arc<Verifier>, ProbeFailure> {
    let local = |text: String| ProbeFailure::new(Reason::LocalResource, text);
    let stamp = match ca_file {
        Some(file) => Some(stamp(file).await.map_err(|error| local(unreadable(file, &error)))?),
        None => None,
    };
    let loading = {
        let mut known = VERIFIERS.lock().unwrap_or_else(PoisonError::into_inner);
        let loading = known.entry(ca_file.map(Path::to_owned)).or_default();
        if loading.stamp != stamp || matches!(loading.loaded.get(), Some(Err(_))) {
            *loading = Arc::new(Loading { stamp, loaded: OnceLock::new() });
        }
        loading.clone()
    };
    if let Some(Ok(verifier)) = loading.loaded.get() {
        return Ok(verifier.clone());
    }
    let file = ca_file.map(Path::to_owned);
    tokio::task::spawn_blocking(move || loading.loaded.get_or_init(|| load(file.as_deref())).clone())
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(local)
}

async fn stamp(file: &Path) -> std::io::Result<Stamp> {
    let about = tokio::fs::metadata(file).await?;
    if !about.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    if about.len() > CA_FILE_BYTES {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok((about.modified()?, about.len()))
}

fn load(ca_file: Option<&Path>) -> Result<Arc<Verifier>, String> {
    let mut more = Vec::new();
    if let Some(file) = ca_file {
        let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
        more = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(file, &error))?;
        if more.is_empty() {
            return Err(unreadable(file, &"no certificate in it"));
        }
    }
    let verifier = Verifier::new_with_extra_roots(more, PROVIDER.clone());
    verifier.map(Arc::new).map_err(|error| match ca_file {
        Some(file) => unreadable(file, &error),
        None => error.to_string(),
    })
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot read ca_file {}: {error}", file.display())
}

/// What a server showed, as far as it can be read.
#[derive(Debug, Default)]
struct Shown {
    /// When the first of the chain expires.
    expires: Option<i64>,
    /// Of the leaf.
    names: Vec<String>,
    issuer: String,
    self_signed: bool,
}

impl Shown {
    /// Reads the leaf and what leads from it to a root. The root is not looked at, as its dates bind nobody; nor, in a
    /// chain that was `accepted`, an authority that has expired: the way that was accepted goes round it.
    fn of(chain: &[CertificateDer<'_>], now: i64, accepted: bool) -> Self {
        let mut certificates = chain.iter().map(|der| X509Certificate::from_der(der).ok().map(|(_, read)| read));
        let Some(leaf) = certificates.next().flatten() else { return Self::default() };
        let is_root = |certificate: &X509Certificate| certificate.subject().as_raw() == certificate.issuer().as_raw();
        let mut expires = leaf.validity().not_after.timestamp();
        let mut issuer = leaf.issuer().as_raw().to_vec();
        let mut others: Vec<X509Certificate> = certificates.flatten().collect();
        // Each is used once: a circle ends.
        while let Some(at) = others.iter().position(|other| other.subject().as_raw() == issuer) {
            let authority = others.swap_remove(at);
            let ends = authority.validity().not_after.timestamp();
            if is_root(&authority) || (accepted && now > ends) {
                break;
            }
            expires = expires.min(ends);
            issuer = authority.issuer().as_raw().to_vec();
        }
        Self {
            expires: Some(expires),
            names: names(&leaf),
            issuer: leaf.issuer().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            self_signed: is_root(&leaf),
        }
    }

    /// The finding on the dates, if any. A date that cannot be read is one where a warning was asked for.
    fn judge(&self, now: i64, options: &TlsOptions) -> Option<Finding> {
        match self.expires {
            Some(expires) => judge_dates(expires, now, options),
            None if options.warning_days > 0 => {
                Some(Finding::degraded(Reason::Tls, "TLS: the dates of the certificate cannot be read"))
            }
            None => None,
        }
    }

    /// Why the certificate was refused.
    fn told(&self, error: &rustls::Error) -> String {
        let expiry = self.expires.map(|at| format!("; expires {}", day(at))).unwrap_or_default();
        let rustls::Error::InvalidCertificate(refusal) = error else { return format!("not trusted: {error}{expiry}") };
        let date = |at: UnixTime| day(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        match refusal {
            CertificateError::Expired => {
                format!("certificate expired on {}", self.expires.map(day).unwrap_or_default())
            }
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("certificate expired on {}", date(*not_after))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("certificate is not valid before {}{expiry}", date(*not_before))
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("certificate is for other names ({})", self.names.join(", "))
            }
            CertificateError::UnknownIssuer if self.self_signed => format!("not trusted: self-signed{expiry}"),
            CertificateError::UnknownIssuer => {
                let issuer: String = self.issuer.chars().take(80).collect();
                format!("not trusted: unknown issuer {issuer}{expiry}")
            }
            other => format!("not trusted: {}{expiry}", in_words(other)),
        }
    }
}

/// The first names a certificate is for, and how many more there are.
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = leaf.subject_alternative_name() else { return Vec::new() };
    let mut names = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    let mut told: Vec<String> = names.by_ref().take(NAMES_TOLD).collect();
    let more = names.count();
    if more > 0 {
        told.push(format!("{more} more"));
    }
    told
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::Status;

    const EXPIRES: i64 = 1_769_855_400;

    fn options(warning_days: u32, critical_days: u32) -> TlsOptions {
        TlsOptions { verify: true, ca_file: None, server_name: None, warning_days, critical_days }
    }

    fn check(seconds_left: i64, options: &TlsOptions, expected: Option<(Status, &str)>) {
        let found = judge_dates(EXPIRES, EXPIRES - seconds_left, options);
        let found = found.as_ref().map(|finding| (finding.status, finding.text.as_str()));
        assert_eq!(found, expected, "{seconds_left} s left");
    }

    #[test]
    fn days_left_at_both_sides_of_each_limit() {
        let both = options(14, 3);
        check(15 * DAY_SECONDS, &both, None);
        let told = "TLS: certificate expires in 14 days (2026-01-31)";
        check(15 * DAY_SECONDS - 1, &both, Some((Status::Degraded, told)));
        let told = "TLS: certificate expires in 4 days (2026-01-31)";
        check(4 * DAY_SECONDS, &both, Some((Status::Degraded, told)));
        let told = "TLS: certificate expires in 3 days (2026-01-31)";
        check(4 * DAY_SECONDS - 1, &both, Some((Status::Unhealthy, told)));
        check(0, &both, Some((Status::Unhealthy, "TLS: certificate expires in 0 days (2026-01-31)")));
        check(-1, &both, Some((Status::Unhealthy, "TLS: certificate expired on 2026-01-31")));
    }

    #[test]
    fn without_limits_only_the_end_counts() {
        check(0, &options(0, 0), None);
        check(-1, &options(0, 0), Some((Status::Unhealthy, "TLS: certificate expired on 2026-01-31")));
    }

    #[test]
    fn damaged_certificates_do_no_harm() {
        let good = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap().cert;
        let der = good.der().to_vec();
        assert!(look_at(&der, EXPIRES, &options(14, 3)).expires.is_some());
        for at in 0..der.len() {
            for bits in [0x01, 0x80, 0xff] {
                let mut damaged = der.clone();
                damaged[at] ^= bits;
                look_at(&damaged, EXPIRES, &options(14, 3));
            }
            look_at(&der[..at], EXPIRES, &options(14, 3));
        }
        let finding = look_at(b"no certificate", EXPIRES, &options(14, 3)).finding.unwrap();
        assert_eq!(finding.status, Status::Degraded);
    }
}
