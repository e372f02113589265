//! Addresses: `url`, `port`, `health_endpoint` and `protocol` of a definition become one place to connect to.
//!
//! Whatever the protocol, the host is read by the same parser, so that a number written in an odd way is the address it
//! stands for and is judged as that.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use super::{Defaults, Problems, ServiceSpec, URL_CHARS};
use crate::domain::probe::{Protocol, Target};
use crate::domain::service::Source;

/// Said of an address that the egress rule denies.
pub const NOT_ALLOWED: &str = "points to an address that is not allowed; see EGRESS_ALLOW";

/// Where a definition points to.
pub(super) struct Address {
    pub protocol: Protocol,
    /// The address as the `url` crate reads it, under a scheme of the web; with user and password. Files have none.
    pub full: Option<Url>,
    /// The scheme that was written or stands for the protocol: `redis` and `rediss` differ.
    pub scheme: String,
    pub host: String,
    pub port: u16,
    /// Without user and password, and without the health path.
    pub base: String,
    /// The health path that was joined.
    pub path: String,
    /// What is shown: the whole address without user and password.
    pub shown: String,
}

impl Address {
    pub fn target(&self, source: Source) -> Target {
        Target { host: self.host.clone(), port: self.port, trust: source.trust() }
    }
}

impl ServiceSpec {
    /// Reads the address, and judges where it points to.
    pub(super) fn address(&self, source: Source, defaults: &Defaults, problems: &mut Problems) -> Option<Address> {
        let named = match self.protocol.as_deref().map(|word| (word, Protocol::named(word))) {
            None => None,
            Some((_, Some(protocol))) => Some(protocol),
            Some((word, None)) => {
                let known: Vec<&str> = Protocol::ALL.iter().map(|known| known.label()).collect();
                let word = super::clean(word);
                problems.add("protocol", format!("{word:?} is not one of {}", known.join(", ")));
                return None;
            }
        };
        let text = match (self.url.as_deref().map(str::trim), named) {
            (None, Some(Protocol::Filesystem)) => return Some(files()),
            (None, _) => {
                problems.add("url", "is required");
                return None;
            }
            (Some(text), _) if text.len() > URL_CHARS => {
                problems.add("url", "must be at most 2048 characters");
                return None;
            }
            (Some(_), Some(Protocol::Filesystem)) => return Some(files()),
            (Some(text), _) if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') => {
                problems.add("url", "must not hold spaces, backslashes or control characters");
                return None;
            }
            (Some(text), _) if text.contains("${") => {
                problems.add("url", "holds ${...}: variables are put in in the services file only");
                return None;
            }
            (Some(text), _) => text,
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => (named.unwrap_or(Protocol::Http).label().to_owned(), text),
        };
        let by_scheme = match scheme.as_str() {
            "rediss" => Some(Protocol::Redis),
            "grpcs" => Some(Protocol::Grpc),
            scheme => Protocol::named(scheme).filter(|protocol| *protocol != Protocol::Filesystem),
        };
        let Some(by_scheme) = by_scheme else {
            let scheme = super::clean(&scheme);
            problems.add("url", format!("scheme {scheme:?} is not supported"));
            return None;
        };
        let web = [Protocol::Http, Protocol::Https];
        let protocol = match named {
            Some(named) if named != by_scheme && !(web.contains(&named) && web.contains(&by_scheme)) => {
                let (named, scheme) = (named.label(), super::clean(&scheme));
                problems.add("protocol", format!("is {named}, but the address begins with {scheme}://"));
                return None;
            }
            _ => by_scheme,
        };
        let (full, port) = self.parse(protocol, rest, problems)?;
        let host = match full.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        if source == Source::Api {
            self.judge_registered(protocol, &full, &host, port, defaults, problems);
        }
        Some(if web.contains(&protocol) {
            self.web_address(protocol, full, host, port, source, problems)?
        } else {
            if self.health_endpoint.is_some() {
                problems.add("health_endpoint", "goes with http and https only");
            }
            let in_brackets = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let place = if port == 0 { in_brackets } else { format!("{in_brackets}:{port}") };
            let path = full.path().trim_end_matches('/');
            let shown = format!("{scheme}://{place}{path}");
            Address { protocol, scheme, host, port, base: shown.clone(), path: String::new(), shown, full: Some(full) }
        })
    }

    /// The address under a scheme of the web, and its port; 0 for protocols without ports.
    fn parse(&self, protocol: Protocol, rest: &str, problems: &mut Problems) -> Option<(Url, u16)> {
        let scheme = if protocol == Protocol::Https { "https" } else { "http" };
        let parsed = Url::parse(&format!("{scheme}://{rest}"));
        let mut full = match parsed {
            Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => url,
            Ok(_) => {
                problems.add("url", "names no host");
                return None;
            }
            Err(error) => {
                problems.add("url", format!("is not an address: {error}"));
                return None;
            }
        };
        // The parser drops a port that is its scheme's own: another scheme gives it away.
        let written = full.port().or_else(|| Url::parse(&format!("ftp://{rest}")).ok()?.port());
        let port = match (protocol, written, self.port, protocol.default_port()) {
            (Protocol::Icmp, None, None, _) => 0,
            (Protocol::Icmp, ..) => {
                problems.add("port", "has no meaning with icmp");
                return None;
            }
            (_, Some(0), ..) | (_, None, Some(0), _) => {
                problems.add("port", "must be from 1 to 65535");
                return None;
            }
            (_, Some(port), ..) | (_, None, Some(port), _) | (_, None, None, Some(port)) => port,
            (_, None, None, None) => {
                let name = protocol.label();
                problems.add("url", format!("needs a port: {name} has none of its own"));
                return None;
            }
        };
        if port != 0 && full.port_or_known_default() != Some(port) {
            // Cannot fail: the address has a host.
            let _ = full.set_port(Some(port));
        }
        Some((full, port))
    }

    /// What a registration over the API may not point to (CONTRACT.md 6.4). Names are judged when they are resolved.
    fn judge_registered(
        &self,
        protocol: Protocol,
        full: &Url,
        host: &str,
        port: u16,
        defaults: &Defaults,
        problems: &mut Problems,
    ) {
        let log_in = matches!(protocol, Protocol::Redis | Protocol::Postgres);
        if !log_in && (!full.username().is_empty() || full.password().is_some()) {
            problems.add("url", "must not hold a user or password; use headers");
        }
        let egress = &defaults.registered.egress;
        let local =
            host.trim_end_matches('.').rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
        let address = if local { Some(IpAddr::from([127, 0, 0, 1])) } else { host.parse().ok() };
        let permitted = match address {
            Some(ip) => egress.permits(SocketAddr::new(ip, port), Source::Api.trust()),
            None => egress.permits_name(host),
        };
        // The name a DNS service asks for is not connected to: its resolver is.
        if !permitted && protocol != Protocol::Dns {
            problems.add("url", NOT_ALLOWED);
        }
    }

    fn web_address(
        &self,
        protocol: Protocol,
        mut full: Url,
        host: String,
        port: u16,
        source: Source,
        problems: &mut Problems,
    ) -> Option<Address> {
        let bare = full.path() == "/" && full.query().is_none();
        let path = match &self.health_endpoint {
            Some(path) if !path.starts_with('/') => {
                problems.add("health_endpoint", "must begin with '/'");
                return None;
            }
            Some(path) => path.clone(),
            // Through the API the address is exact.
            None if bare && source == Source::File => "/health".to_owned(),
            None => String::new(),
        };
        let without_login = |url: &Url| {
            let mut shown = url.clone();
            let _ = shown.set_username("");
            let _ = shown.set_password(None);
            shown.to_string()
        };
        let base = without_login(&full).trim_end_matches('/').to_owned();
        if !path.is_empty() {
            let joined = format!("{}{path}", full.path().trim_end_matches('/'));
            let (path, query) = joined.split_once('?').map_or((joined.as_str(), None), |(p, q)| (p, Some(q)));
            full.set_path(path);
            if query.is_some() {
                full.set_query(query);
            }
        }
        full.set_fragment(None);
        let scheme = full.scheme().to_owned();
        Some(Address { protocol, scheme, host, port, base, path, shown: without_login(&full), full: Some(full) })
    }
}

/// Files have no address.
fn files() -> Address {
    Address {
        protocol: Protocol::Filesystem,
        full: None,
        scheme: "filesystem".to_owned(),
        host: String::new(),
        port: 0,
        base: String::new(),
        path: String::new(),
        shown: String::new(),
    }
}
