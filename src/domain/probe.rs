//! What is sent, by protocol (CONTRACT.md 6.1): settled definitions, made by [`super::spec`].

use std::net::SocketAddr;
use std::path::PathBuf;

use regex::Regex;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::assertion::Assertions;
use super::egress::Trust;

/// Whether regular checks share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    #[default]
    Reuse,
    Fresh,
}

/// The closed list of HTTP methods a probe may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
}

/// The protocols, in the words of source 003.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Http,
    Https,
    Tcp,
    Udp,
    Dns,
    Icmp,
    Redis,
    Postgres,
    Filesystem,
    Amqp,
    Grpc,
    Tls,
}

impl Protocol {
    pub const ALL: [Self; 12] = [
        Self::Http,
        Self::Https,
        Self::Tcp,
        Self::Udp,
        Self::Dns,
        Self::Icmp,
        Self::Redis,
        Self::Postgres,
        Self::Filesystem,
        Self::Amqp,
        Self::Grpc,
        Self::Tls,
    ];

    /// Upper case, as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Dns => "DNS",
            Self::Icmp => "ICMP",
            Self::Redis => "REDIS",
            Self::Postgres => "POSTGRES",
            Self::Filesystem => "FILESYSTEM",
            Self::Amqp => "AMQP",
            Self::Grpc => "GRPC",
            Self::Tls => "TLS",
        }
    }

    /// Lower case, as labels and schemes have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
            Self::Icmp => "icmp",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Filesystem => "filesystem",
            Self::Amqp => "amqp",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
        }
    }

    /// The word or scheme of a definition, ignoring case; source 002's words are taken too.
    pub fn named(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Some(match word.as_str() {
            "http_service" => Self::Http,
            "database" | "postgresql" => Self::Postgres,
            "message_queue" => Self::Amqp,
            word => return Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(word)),
        })
    }

    /// The port of an address that names none; `None`: one must be given, or there is none.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https | Self::Tls => Some(443),
            Self::Dns => Some(53),
            Self::Redis => Some(6379),
            Self::Postgres => Some(5432),
            Self::Amqp => Some(5672),
            Self::Grpc | Self::Tcp | Self::Udp | Self::Icmp | Self::Filesystem => None,
        }
    }
}

/// Whom a probe connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    /// 0 for protocols without ports.
    pub port: u16,
    pub trust: Trust,
}

/// How TLS is spoken, and when a certificate is too old.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Chain and host name are verified.
    pub verify: bool,
    /// Trusted beside the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// Name to ask for and to verify; `None`: the host's.
    pub server_name: Option<String>,
    /// Days left from which a certificate is degraded; 0: never.
    pub warning_days: u32,
    /// Days left from which it is unhealthy; 0: when it has expired.
    pub critical_days: u32,
}

impl TlsOptions {
    /// The usual verification, and no opinion on how long a certificate lasts.
    pub const UNJUDGED: Self =
        Self { verify: true, ca_file: None, server_name: None, warning_days: 0, critical_days: 0 };
}

/// One HTTP or HTTPS request, and what of its answer is looked at.
#[derive(Debug, Clone)]
pub struct HttpProbe {
    /// With user and password, if any: never shown. See [`super::service::Service::url`].
    pub url: Url,
    pub method: Method,
    pub body: Option<SecretString>,
    pub headers: Vec<(String, SecretString)>,
    pub connection: Connection,
    /// What the answer is held against beside its code.
    pub assertions: Assertions,
    pub follow_redirects: bool,
    /// The request carries a `traceparent` header of ours.
    pub traceparent: bool,
    pub trust: Trust,
    /// Only where it differs from the default.
    pub tls: Option<Box<TlsOptions>>,
}

#[derive(Debug, Clone)]
pub struct TcpProbe {
    pub target: Target,
    /// Bytes to send once connected.
    pub send: Option<Vec<u8>>,
    /// Searched in the first 64 KiB of what comes back.
    pub expect: Option<Regex>,
    pub tls: Option<Box<TlsOptions>>,
}

#[derive(Debug, Clone)]
pub struct UdpProbe {
    pub target: Target,
    pub send: Vec<u8>,
    pub expect: Option<Regex>,
    /// False: no refusal within a second is well.
    pub expect_reply: bool,
}

/// Record types a DNS probe may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

#[derive(Debug, Clone)]
pub struct DnsProbe {
    /// The name that is asked for.
    pub name: String,
    pub record_type: RecordType,
    /// `None`: the first of the system's.
    pub resolver: Option<SocketAddr>,
    /// Each must be among the answers.
    pub expected_ip: Vec<std::net::IpAddr>,
    pub trust: Trust,
}

#[derive(Debug, Clone)]
pub struct RedisProbe {
    pub target: Target,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub database: i64,
    /// `rediss://`.
    pub tls: Option<Box<TlsOptions>>,
}

#[derive(Debug, Clone)]
pub struct PostgresProbe {
    pub target: Target,
    pub user: String,
    pub password: Option<SecretString>,
    pub database: String,
    pub query: String,
    /// `sslmode` of the address: `None` for `disable`; `prefer` (the default) falls back to plain.
    pub tls: Option<Box<TlsOptions>>,
    /// TLS is preferred, not required.
    pub tls_optional: bool,
}

#[derive(Debug, Clone)]
pub struct GrpcProbe {
    pub target: Target,
    /// Empty: the server as a whole.
    pub service: String,
    /// The question carries a `traceparent` header.
    pub traceparent: bool,
    /// `grpcs://`, or a `tls` table.
    pub tls: Option<Box<TlsOptions>>,
}

#[derive(Debug, Clone)]
pub struct FilesystemProbe {
    pub paths: Vec<PathBuf>,
    /// What the paths must lie below, wherever links lead; nothing: anywhere.
    pub roots: Vec<PathBuf>,
    pub check_writable: bool,
    /// Less free space than this is degraded.
    pub min_free_percent: Option<f64>,
    pub min_free_bytes: Option<u64>,
}

/// What is sent, by protocol.
#[derive(Debug, Clone)]
pub enum Probe {
    Http(Box<HttpProbe>),
    Tcp(Box<TcpProbe>),
    Udp(Box<UdpProbe>),
    Dns(Box<DnsProbe>),
    Icmp(Target),
    Redis(Box<RedisProbe>),
    Postgres(Box<PostgresProbe>),
    Filesystem(Box<FilesystemProbe>),
    Amqp(Target),
    Grpc(Box<GrpcProbe>),
    Tls(Target, Box<TlsOptions>),
}

impl Probe {
    /// The target is to know the trace that the check belongs to.
    pub fn sends_traceparent(&self) -> bool {
        match self {
            Self::Http(probe) => probe.traceparent,
            Self::Grpc(probe) => probe.traceparent,
            _ => false,
        }
    }
}
