//! E-mail: one plain text mail a message, to all recipients (CONTRACT.md section 13).
//!
//! Why not lettre's transport: it ends each mail with a QUIT that it waits for, and its time limit covers connecting only.
//! Here one deadline covers everything up to the server's yes, and how the two part afterwards changes nothing.

use std::time::Duration;

use lettre::Message as Mail;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

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
    /// Sender and recipients.
    pub(super) fn mailboxes(&self) -> Result<(Mailbox, Vec<Mailbox>), Unusable> {
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

/// A receiver of mails.
#[derive(Clone)]
pub struct Email {
    host: String,
    port: u16,
    starttls: Option<TlsParameters>,
    tls: Option<TlsParameters>,
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
        let parameters = match config.tls {
            SmtpTls::None => None,
            SmtpTls::StartTls | SmtpTls::Tls => Some(trust(config)?),
        };
        let (starttls, tls) = match config.tls {
            SmtpTls::StartTls => (parameters, None),
            SmtpTls::Tls | SmtpTls::None => (None, parameters),
        };
        let (host, login, subject) = (config.host.clone(), config.login.clone(), config.subject.clone());
        let domain = word(&sender.service);
        Ok(Self { host, port: config.port, starttls, tls, login, from, to, subject, domain, deadline })
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
            Ok(Err(error)) => Err(self.judge(&error).await),
            Ok(Ok(mut connection)) => {
                // It has the mail: whether it also says goodbye is its own affair.
                let _ = timeout(GOODBYE, connection.abort()).await;
                Ok(())
            }
        }
    }

    /// Everything up to the server's yes.
    async fn hand_over(&self, mail: &Mail) -> Result<AsyncSmtpConnection, Error> {
        let (hello, place) = (ClientId::default(), (self.host.as_str(), self.port));
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(place, Some(self.deadline), &hello, self.tls.clone(), None).await?;
        if let Some(parameters) = &self.starttls {
            connection.starttls(parameters.clone(), &hello).await?;
        }
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await?;
        }
        connection.send(mail.envelope(), &mail.formatted()).await?;
        Ok(connection)
    }

    /// The answers of a server may repeat what it was told: only their codes are passed on.
    async fn judge(&self, error: &Error) -> DeliveryError {
        match error.status() {
            Some(code) if error.is_permanent() => DeliveryError::Refused { detail: format!("SMTP {code}") },
            Some(code) => DeliveryError::away(format!("SMTP {code}"), false),
            None if error.is_client() => DeliveryError::away("does not offer the TLS or login asked for", false),
            None if error.is_response() => DeliveryError::away("does not speak SMTP", false),
            None if error.is_tls() => DeliveryError::away("TLS failed", false),
            None if self.is_reachable().await => DeliveryError::away("connection broken", false),
            None => DeliveryError::away("no connection", true),
        }
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

/// Whom to believe on the other side.
fn trust(config: &EmailConfig) -> Result<TlsParameters, Unusable> {
    let mut parameters = TlsParameters::builder(config.host.clone());
    if let Some(pem) = &config.ca_pem {
        let authorities = Certificate::from_pem(pem.as_bytes());
        let authorities = authorities.map_err(|_| Unusable::new("smtp_ca_file", "holds no certificates in PEM"))?;
        parameters = parameters.add_root_certificate(authorities);
    }
    parameters.build().map_err(|error| Unusable::new("smtp_tls", format!("cannot be set up here: {error}")))
}

/// Only what may stand in an id of a mail as it is.
fn word(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.chars().map(|c| if allowed(c) { c } else { '.' }).collect()
}
