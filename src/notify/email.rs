//! E-mail: one plain text mail a message, to all recipients (CONTRACT.md section 13).
//!
//! Why not lettre's transport: it ends each mail with a QUIT that it waits for, and its time limit covers connecting only.
//! Here one deadline covers everything up to the server's yes, and how the two part afterwards changes nothing.

mod wire;

use std::time::Duration;

use lettre::Message as Mail;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::wire::Bounded;
use super::http::is_reachable;
use super::words::{Template, Words};
use super::{DeliveryError, Message, Sender, Unusable};
use crate::domain::observation::clean;

/// Longest text of a mail: our choice, a digest of some 700 alerts.
const MOST_TEXT: usize = 60_000;
/// Longest wait for the server's goodbye: our choice.
const GOODBYE: Duration = Duration::from_millis(500);

/// How a connection is kept secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// In the clear at first, then TLS; without it nothing is sent.
    StartTls,
    /// TLS from the first byte.
    Tls,
    None,
}

/// Settings of a mail receiver.
#[derive(Debug, Clone)]
pub struct EmailConfig {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub login: Option<(String, SecretString)>,
    /// `None`: the first recipient.
    pub from: Option<String>,
    pub to: Vec<String>,
    /// Authorities to trust beside those of the system, PEM.
    pub ca_pem: Option<String>,
    /// Subject, instead of the title.
    pub subject: Option<Template>,
}

impl EmailConfig {
    pub(super) fn check(&self) -> Result<(), Unusable> {
        self.mailboxes()?;
        self.authorities().map(|_| ())
    }

    /// The authorities to trust beside those of the system.
    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let Some(pem) = &self.ca_pem else { return Ok(Vec::new()) };
        let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        if found.is_empty() {
            return Err(Unusable::new("smtp_ca_file", "holds no certificates in PEM"));
        }
        Ok(found)
    }

    /// Sender and recipients.
    fn mailboxes(&self) -> Result<(Mailbox, Vec<Mailbox>), Unusable> {
        let mailbox = |field, text: &str| {
            let parsed = text.trim().parse::<Mailbox>();
            parsed.map_err(|_| Unusable::new(field, format!("holds {:?}, which is no e-mail address", clean(text))))
        };
        let to = self.to.iter().map(|text| mailbox("to", text)).collect::<Result<Vec<_>, _>>()?;
        let first = to.first().ok_or_else(|| Unusable::new("to", "must name at least one e-mail address"))?.clone();
        let from = self.from.as_deref().map_or(Ok(first), |text| mailbox("smtp_from", text))?;
        Ok((from, to))
    }
}

/// What is needed to keep a connection secret.
#[derive(Clone)]
enum Security {
    StartTls(TlsParameters),
    Tls(TlsConnector, ServerName<'static>),
    None,
}

/// Why a mail was not handed over.
enum Failure {
    /// There is nobody to connect to.
    Unreachable,
    Tls,
    Smtp(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Smtp(error)
    }
}

/// A receiver of mails.
#[derive(Clone)]
pub struct Email {
    host: String,
    port: u16,
    security: Security,
    login: Option<(String, SecretString)>,
    from: Mailbox,
    to: Vec<Mailbox>,
    subject: Option<Template>,
    /// Right-hand side of the ids of mails.
    domain: String,
    deadline: Duration,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("host", &self.host).field("to", &self.recipients()).finish_non_exhaustive()
    }
}

impl Email {
    pub(super) fn new(config: &EmailConfig, deadline: Duration, sender: &Sender) -> Result<Self, Unusable> {
        let (from, to) = config.mailboxes()?;
        let unusable = |error: &dyn std::fmt::Display| Unusable::new("smtp_tls", format!("cannot be set up: {error}"));
        let security = match config.tls {
            SmtpTls::None => Security::None,
            SmtpTls::StartTls => Security::StartTls(trust(config)?),
            SmtpTls::Tls => {
                let tls = wire::tls(config.authorities()?).map_err(|error| unusable(&error))?;
                let name = ServerName::try_from(config.host.clone()).map_err(|error| unusable(&error))?;
                Security::Tls(tls.into(), name)
            }
        };
        let (host, login, subject) = (config.host.clone(), config.login.clone(), config.subject.clone());
        let domain = word(&sender.service);
        Ok(Self { host, port: config.port, security, login, from, to, subject, domain, deadline })
    }

    /// Addresses, without names.
    pub(super) fn recipients(&self) -> Vec<String> {
        self.to.iter().map(|mailbox| mailbox.email.to_string()).collect()
    }

    pub(super) async fn is_reachable(&self) -> bool {
        is_reachable(&self.host, self.port).await
    }

    pub(super) async fn deliver(&self, message: &Message, words: &Words) -> Result<(), DeliveryError> {
        let mail = self.mail(message, words)?;
        match timeout(self.deadline, self.hand_over(&mail)).await {
            Err(_) => Err(DeliveryError::away("no answer in time", false)),
            Ok(Err(failure)) => Err(judge(&failure)),
            Ok(Ok(mut connection)) => {
                // It has the mail: whether it also says goodbye is its own affair.
                let _ = timeout(GOODBYE, connection.abort()).await;
                Ok(())
            }
        }
    }

    /// Everything up to the server's yes.
    async fn hand_over(&self, mail: &Mail) -> Result<AsyncSmtpConnection, Failure> {
        let place = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(place).await.map_err(|_| Failure::Unreachable)?;
        let peer = stream.peer_addr().map_err(|_| Failure::Unreachable)?;
        let hello = ClientId::default();
        let mut connection = match &self.security {
            Security::Tls(tls, name) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(|_| Failure::Tls)?;
                AsyncSmtpConnection::connect_with_transport(Box::new(Bounded::new(stream, peer)), &hello).await?
            }
            Security::StartTls(_) | Security::None => {
                AsyncSmtpConnection::connect_with_transport(Box::new(Bounded::new(stream, peer)), &hello).await?
            }
        };
        if let Security::StartTls(parameters) = &self.security {
            let secured = connection.starttls(parameters.clone(), &hello).await;
            let in_words = |error: &Error| error.status().is_some() || error.is_client();
            secured.map_err(|error| if in_words(&error) { Failure::Smtp(error) } else { Failure::Tls })?;
        }
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await?;
        }
        connection.send(mail.envelope(), &mail.formatted()).await?;
        Ok(connection)
    }

    fn mail(&self, message: &Message, words: &Words) -> Result<Mail, DeliveryError> {
        let notification = &message.notification;
        let id = |of: &str| format!("<{}@{}>", word(of), self.domain);
        let subject = words.title(self.subject.as_ref(), message);
        let mut mail: MessageBuilder = Mail::builder()
            .from(self.from.clone())
            .subject(clean(&subject))
            // The same for each attempt, so that a copy can be told; all about one alert are one thread.
            .message_id(Some(id(&notification.id)))
            .references(id(&notification.notice.alert.id))
            .header(ContentType::TEXT_PLAIN)
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ));
        for recipient in &self.to {
            mail = mail.to(recipient.clone());
        }
        let built = mail.body(words.text(message, MOST_TEXT));
        built.map_err(|error| DeliveryError::Refused { detail: format!("no mail can be made of it: {error}") })
    }
}

/// The answers of a server may repeat what it was told: only their codes are passed on.
fn judge(failure: &Failure) -> DeliveryError {
    let error = match failure {
        Failure::Unreachable => return DeliveryError::away("no connection", true),
        Failure::Tls => return DeliveryError::away("TLS failed", false),
        Failure::Smtp(error) => error,
    };
    match error.status() {
        Some(code) if error.is_permanent() => DeliveryError::Refused { detail: format!("SMTP {code}") },
        Some(code) => DeliveryError::away(format!("SMTP {code}"), false),
        None if error.is_client() => DeliveryError::away("does not offer the TLS or login asked for", false),
        None => DeliveryError::away("broke off, or does not speak SMTP", false),
    }
}

/// Whom to believe on the other side, with STARTTLS.
fn trust(config: &EmailConfig) -> Result<TlsParameters, Unusable> {
    let mut parameters = TlsParameters::builder(config.host.clone());
    for authority in config.authorities()? {
        let certificate = Certificate::from_der(authority.to_vec());
        let certificate = certificate.map_err(|error| Unusable::new("smtp_ca_file", error))?;
        parameters = parameters.add_root_certificate(certificate);
    }
    parameters.build().map_err(|error| Unusable::new("smtp_tls", format!("cannot be set up here: {error}")))
}

/// Only what may stand in an id of a mail as it is.
fn word(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.chars().map(|c| if allowed(c) { c } else { '.' }).collect()
}
