//! The tables of the protocols (CONTRACT.md 6.1), and the probe they make of a definition.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::address::Address;
use super::{BODY_BYTES, Defaults, Problems, ServiceSpec, clean};
use crate::domain::probe::{
    DnsProbe, FilesystemProbe, GrpcProbe, HttpProbe, PostgresProbe, Probe, Protocol, RecordType, RedisProbe, TcpProbe,
    TlsOptions, UdpProbe,
};
use crate::domain::service::Source;

/// Days before the end of a certificate from which a `tls` service is degraded, and unhealthy: CONTRACT.md 6.1 and 20.
const WARNING_DAYS: u32 = 14;
const CRITICAL_DAYS: u32 = 3;
/// What a UDP service is sent: CONTRACT.md 6.1.
const DATAGRAM: &str = "ping";
/// Largest datagram that is sent: our choice, below what any network splits.
const DATAGRAM_BYTES: usize = 1200;
const QUERY_CHARS: usize = 1000;
/// CONTRACT.md 6.1; most paths: our choice.
const DEFAULT_PATH: &str = "/tmp";
const PATHS: usize = 16;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpTable {
    pub send: Option<String>,
    pub expect: Option<String>,
    pub tls: Option<bool>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpTable {
    pub send: Option<String>,
    pub expect: Option<String>,
    pub expect_reply: Option<bool>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsTable {
    pub record_type: Option<String>,
    pub resolver: Option<String>,
    pub expected_ip: Option<OneOrMany>,
}

/// A text, or a list of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsTable {
    pub expiry_warning_days: Option<u32>,
    pub expiry_critical_days: Option<u32>,
    pub verify: Option<bool>,
    pub ca_file: Option<PathBuf>,
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpTable {}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTable {
    pub password: Option<String>,
    pub db: Option<i64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresTable {
    pub query: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesystemTable {
    pub paths: Option<Vec<PathBuf>>,
    pub check_writable: Option<bool>,
    pub min_free_percent: Option<f64>,
    pub min_free_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcTable {
    pub service: Option<String>,
}

impl ServiceSpec {
    /// A table of another protocol is refused; `tls` goes with everything that can speak it.
    pub(super) fn only_tables_of(&self, protocol: Protocol, problems: &mut Problems) {
        use Protocol::{Dns, Filesystem, Grpc, Https, Icmp, Postgres, Redis, Tcp, Tls, Udp};
        let tables: [(&str, bool, &[Protocol]); 9] = [
            ("tcp", self.tcp.is_some(), &[Tcp]),
            ("udp", self.udp.is_some(), &[Udp]),
            ("dns", self.dns.is_some(), &[Dns]),
            ("tls", self.tls.is_some(), &[Tls, Https, Grpc, Redis, Postgres, Tcp]),
            ("icmp", self.icmp.is_some(), &[Icmp]),
            ("redis", self.redis.is_some(), &[Redis]),
            ("postgres", self.postgres.is_some(), &[Postgres]),
            ("filesystem", self.filesystem.is_some(), &[Filesystem]),
            ("grpc", self.grpc.is_some(), &[Grpc]),
        ];
        for (table, given, of) in tables {
            if given && !of.contains(&protocol) {
                problems.add(table, format!("is a table of another protocol than {}", protocol.label()));
            }
        }
    }

    /// What is sent, by protocol.
    pub(super) fn probe(
        &self,
        address: &Address,
        http: impl FnOnce(Url, Option<Box<TlsOptions>>) -> HttpProbe,
        source: Source,
        defaults: &Defaults,
        problems: &mut Problems,
    ) -> Option<Probe> {
        let target = address.target(source);
        let secure = address.scheme.ends_with('s') && matches!(address.scheme.as_str(), "rediss" | "grpcs");
        let tls = |problems: &mut Problems| self.tls_options(address.protocol, source, problems).map(Box::new);
        Some(match address.protocol {
            Protocol::Http => Probe::Http(Box::new(http(address.full.clone()?, None))),
            Protocol::Https => {
                let tls = if self.tls.is_some() { Some(tls(problems)?) } else { None };
                Probe::Http(Box::new(http(address.full.clone()?, tls)))
            }
            Protocol::Tcp => {
                let table = self.tcp.clone().unwrap_or_default();
                let send = match &table.send {
                    Some(text) => Some(unescaped("tcp.send", text, BODY_BYTES, problems)?),
                    None => None,
                };
                let expect = table.expect.as_deref().and_then(|text| problems.pattern("tcp.expect", text));
                let tls = if table.tls == Some(true) { Some(tls(problems)?) } else { None };
                if self.tls.is_some() && tls.is_none() {
                    problems.add("tls", "goes with tcp.tls = true");
                }
                Probe::Tcp(Box::new(TcpProbe { target, send, expect, tls }))
            }
            Protocol::Udp => {
                let table = self.udp.clone().unwrap_or_default();
                let expect_reply = table.expect_reply.unwrap_or(true);
                if !expect_reply && table.expect.is_some() {
                    problems.add("udp.expect", "needs a reply, and expect_reply is false");
                }
                let text = table.send.as_deref().unwrap_or(DATAGRAM);
                let send = unescaped("udp.send", text, DATAGRAM_BYTES, problems)?;
                let expect = table.expect.as_deref().and_then(|text| problems.pattern("udp.expect", text));
                Probe::Udp(Box::new(UdpProbe { target, send, expect, expect_reply }))
            }
            Protocol::Dns => Probe::Dns(Box::new(self.dns_probe(address, source, defaults, problems)?)),
            Protocol::Icmp => Probe::Icmp(target),
            Protocol::Amqp => Probe::Amqp(target),
            Protocol::Tls => Probe::Tls(target, tls(problems)?),
            Protocol::Grpc => {
                let service = self.grpc.as_ref().and_then(|table| table.service.clone()).unwrap_or_default();
                if service.len() > 200 {
                    problems.add("grpc.service", "must be at most 200 characters");
                }
                let tls = if secure || self.tls.is_some() { Some(tls(problems)?) } else { None };
                let traceparent = self.traceparent.unwrap_or(false);
                Probe::Grpc(Box::new(GrpcProbe { target, service, traceparent, tls }))
            }
            Protocol::Redis => {
                let tls = if secure { Some(tls(problems)?) } else { None };
                if self.tls.is_some() && tls.is_none() {
                    problems.add("tls", "goes with rediss://");
                }
                Probe::Redis(Box::new(self.redis_probe(address, source, tls, problems)?))
            }
            Protocol::Postgres => Probe::Postgres(Box::new(self.postgres_probe(address, source, problems)?)),
            Protocol::Filesystem => Probe::Filesystem(Box::new(self.filesystem_probe(source, defaults, problems)?)),
        })
    }

    /// The `tls` table; its file may be named by the operator only.
    fn tls_options(&self, protocol: Protocol, source: Source, problems: &mut Problems) -> Option<TlsOptions> {
        let table = self.tls.clone().unwrap_or_default();
        if source == Source::Api && table.ca_file.is_some() {
            problems.add("tls.ca_file", "can be set in the services file only");
            return None;
        }
        let is_name = |name: &String| !name.is_empty() && name.len() <= 253 && url::Host::parse(name).is_ok();
        if !table.server_name.as_ref().is_none_or(is_name) {
            problems.add("tls.server_name", "must be a host name");
            return None;
        }
        let own = protocol == Protocol::Tls;
        let options = TlsOptions {
            verify: table.verify.unwrap_or(true),
            ca_file: table.ca_file,
            server_name: table.server_name,
            warning_days: table.expiry_warning_days.unwrap_or(if own { WARNING_DAYS } else { 0 }),
            critical_days: table.expiry_critical_days.unwrap_or(if own { CRITICAL_DAYS } else { 0 }),
        };
        if options.warning_days > 3650 || options.critical_days > 3650 {
            problems.add("tls.expiry_warning_days", "must be at most 3650 days");
        } else if options.warning_days != 0 && options.critical_days >= options.warning_days {
            problems.add("tls.expiry_critical_days", "must be below expiry_warning_days");
        }
        Some(options)
    }

    fn dns_probe(
        &self,
        address: &Address,
        source: Source,
        defaults: &Defaults,
        problems: &mut Problems,
    ) -> Option<DnsProbe> {
        let table = self.dns.clone().unwrap_or_default();
        let word = table.record_type.as_deref().unwrap_or("A").to_ascii_uppercase();
        let record_type = serde_json::from_value::<RecordType>(word.into());
        if record_type.is_err() {
            problems.add("dns.record_type", "must be one of A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT");
        }
        let resolver = match table.resolver.as_deref().map(str::trim) {
            None => None,
            Some(text) => {
                let alone = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                match text.parse::<SocketAddr>().or_else(|_| alone.map(|ip| SocketAddr::new(ip, 53))) {
                    Ok(at) => Some(at),
                    Err(_) => {
                        problems.add("dns.resolver", "must be ip or ip:port");
                        None
                    }
                }
            }
        };
        let fenced = |at: &SocketAddr| !defaults.registered.egress.permits(*at, source.trust());
        if source == Source::Api && resolver.as_ref().is_some_and(fenced) {
            problems.add("dns.resolver", "is an address that is not allowed; see EGRESS_ALLOW");
        }
        let expected: Vec<String> = match table.expected_ip {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => text.split(',').map(|one| one.trim().to_owned()).collect(),
            Some(OneOrMany::Many(list)) => list,
        };
        let mut expected_ip = Vec::new();
        for text in &expected {
            match text.parse() {
                Ok(ip) => expected_ip.push(ip),
                Err(_) => problems.add("dns.expected_ip", format!("{:?} is not an address", clean(text))),
            }
        }
        if !expected_ip.is_empty() && !matches!(record_type, Ok(RecordType::A | RecordType::Aaaa)) {
            problems.add("dns.expected_ip", "goes with record types A and AAAA only");
        }
        Some(DnsProbe {
            name: address.host.clone(),
            record_type: record_type.ok()?,
            resolver,
            expected_ip,
            trust: source.trust(),
        })
    }

    fn redis_probe(
        &self,
        address: &Address,
        source: Source,
        tls: Option<Box<TlsOptions>>,
        problems: &mut Problems,
    ) -> Option<RedisProbe> {
        let table = self.redis.clone().unwrap_or_default();
        let full = address.full.as_ref()?;
        let in_path = full.path().trim_matches('/');
        let in_path = match in_path {
            "" => None,
            text => match text.parse::<i64>() {
                Ok(database) => Some(database),
                Err(_) => {
                    problems.add("url", "must end with the number of a database, as in redis://host:6379/3");
                    return None;
                }
            },
        };
        if in_path.is_some() && table.db.is_some() && in_path != table.db {
            problems.add("redis.db", "disagrees with the database in url");
        }
        let database = table.db.or(in_path).unwrap_or(0);
        if !(0..=16_383).contains(&database) {
            problems.add("redis.db", "must be from 0 to 16383");
        }
        Some(RedisProbe {
            target: address.target(source),
            user: login(full.username()),
            password: table.password.or_else(|| login(full.password()?)).map(SecretString::from),
            database,
            tls,
        })
    }

    fn postgres_probe(&self, address: &Address, source: Source, problems: &mut Problems) -> Option<PostgresProbe> {
        let query = self.postgres.as_ref().and_then(|table| table.query.clone());
        let query = query.unwrap_or_else(|| "SELECT 1".to_owned());
        if query.trim().is_empty() || query.chars().count() > QUERY_CHARS || query.contains('\0') {
            problems.add("postgres.query", "must be 1 to 1000 characters of SQL");
        }
        let full = address.full.as_ref()?;
        let mut mode = "prefer".to_owned();
        for (name, value) in full.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("sslmode", "disable" | "prefer" | "require" | "verify-ca" | "verify-full") => {
                    mode = value.into_owned();
                }
                ("sslmode", _) => problems.add("url", "sslmode must be disable, prefer, require or verify-full"),
                (name, _) => problems.add("url", format!("has the parameter {}, which is not known", clean(name))),
            }
        }
        if mode == "disable" && self.tls.is_some() {
            problems.add("tls", "cannot stand beside sslmode=disable");
        }
        let mut tls = if mode == "disable" {
            None
        } else {
            Some(Box::new(self.tls_options(Protocol::Postgres, source, problems)?))
        };
        // As libpq means the words: only the verify-* ones look at the certificate; a table asks for it too.
        if let Some(tls) = tls.as_mut().filter(|_| self.tls.is_none()) {
            tls.verify = mode.starts_with("verify");
        }
        let user = login(full.username()).unwrap_or_else(|| "postgres".to_owned());
        let database = login(full.path().trim_matches('/')).unwrap_or_else(|| user.clone());
        Some(PostgresProbe {
            target: address.target(source),
            password: full.password().and_then(login).map(SecretString::from),
            tls_optional: mode == "prefer" && self.tls.is_none(),
            user,
            database,
            query,
            tls,
        })
    }

    fn filesystem_probe(
        &self,
        source: Source,
        defaults: &Defaults,
        problems: &mut Problems,
    ) -> Option<FilesystemProbe> {
        let table = self.filesystem.clone().unwrap_or_default();
        let paths = table.paths.unwrap_or_else(|| vec![PathBuf::from(DEFAULT_PATH)]);
        if paths.is_empty() || paths.len() > PATHS {
            problems.add("filesystem.paths", "must be 1 to 16 paths");
        }
        for path in paths.iter().take(PATHS) {
            let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !path.is_absolute() || !plain || path.as_os_str().len() > 1024 {
                problems.add("filesystem.paths", "must be absolute paths without . or .., at most 1024 characters");
            } else if source == Source::Api
                && !defaults.registered.filesystem_allow.iter().any(|root| within(path, root))
            {
                let shown = clean(&path.display().to_string());
                problems.add("filesystem.paths", format!("{shown:?} is not below a root of FILESYSTEM_ALLOW"));
            }
        }
        if table.min_free_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            problems.add("filesystem.min_free_percent", "must be from 0 to 100");
        }
        let roots = if source == Source::Api { defaults.registered.filesystem_allow.clone() } else { Vec::new() };
        Some(FilesystemProbe {
            paths,
            roots,
            check_writable: table.check_writable.unwrap_or(true),
            min_free_percent: table.min_free_percent,
            min_free_bytes: table.min_free_bytes,
        })
    }
}

fn within(path: &Path, root: &Path) -> bool {
    path.starts_with(root)
}

/// A part of an address without its percent signs; `None` when it is empty.
fn login(part: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    (!decoded.is_empty()).then_some(decoded)
}

/// Text with `\r`, `\n`, `\t`, `\\` and `\xNN` made into the bytes they stand for.
fn unescaped(field: &str, text: &str, most: usize, problems: &mut Problems) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let byte = match (c, if c == '\\' { rest.next() } else { None }) {
            ('\\', Some('r')) => b'\r',
            ('\\', Some('n')) => b'\n',
            ('\\', Some('t')) => b'\t',
            ('\\', Some('\\')) => b'\\',
            ('\\', Some('x')) => {
                let digits: String = rest.by_ref().take(2).collect();
                match u8::from_str_radix(&digits, 16) {
                    Ok(byte) if digits.len() == 2 => byte,
                    _ => {
                        problems.add(field, "holds \\x without two hexadecimal digits");
                        return None;
                    }
                }
            }
            ('\\', _) => {
                problems.add(field, "holds a backslash that is none of \\r \\n \\t \\\\ \\xNN");
                return None;
            }
            (plain, _) => {
                out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        out.push(byte);
    }
    if out.is_empty() || out.len() > most {
        problems.add(field, format!("must be 1 to {most} bytes"));
        return None;
    }
    Some(out)
}
