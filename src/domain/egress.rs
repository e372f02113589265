//! Which addresses may be connected to (CONTRACT.md 6.4): judged on the socket address about to be dialled, after DNS,
//! for each hop. Never on the text of a host: parsers disagree on what a host is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

/// How far a host is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Written by the operator in the services file.
    Operator,
    /// Registered through the API, or the target of a redirect to another host.
    Fenced,
}

/// One entry of `EGRESS_ALLOW`: `CIDR`, `CIDR:port` or `CIDR:from-to`, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    net: IpNet,
    ports: std::ops::RangeInclusive<u16>,
}

impl std::str::FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("{text:?} is not CIDR, CIDR:port or CIDR:from-to (IPv6 in brackets)");
        let (net, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (net, after) = rest.split_once(']').ok_or_else(refuse)?;
            // `[fd00::]/8:80` is common too: the length may stand behind the bracket.
            match after.strip_prefix('/') {
                Some(after) => {
                    let (length, ports) = after.split_once(':').unwrap_or((after, ""));
                    (format!("{net}/{length}"), ports.to_owned())
                }
                None => (net.to_owned(), after.strip_prefix(':').unwrap_or(after).to_owned()),
            }
        } else if text.matches(':').count() > 1 {
            (text.to_owned(), String::new())
        } else {
            let (net, ports) = text.split_once(':').unwrap_or((text, ""));
            (net.to_owned(), ports.to_owned())
        };
        let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).map_err(|_| refuse())?;
        let ports = match ports.split_once('-') {
            _ if ports.is_empty() => 0..=u16::MAX,
            Some((from, to)) => from.parse().map_err(|_| refuse())?..=to.parse().map_err(|_| refuse())?,
            None => {
                let port = ports.parse().map_err(|_| refuse())?;
                port..=port
            }
        };
        if ports.is_empty() {
            return Err(refuse());
        }
        Ok(Self { net, ports })
    }
}

/// The rules of one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    pub allow: Vec<Allow>,
    /// `ENVIRONMENT=development`: fenced hosts may reach private addresses.
    pub development: bool,
    /// Our own listener; fenced hosts never reach it.
    pub own: Option<SocketAddr>,
    /// The addresses of this machine, where the listener is on all of them.
    pub local: Vec<IpAddr>,
}

/// Names under which clouds serve metadata.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

impl EgressPolicy {
    /// Whether `address` may be connected to.
    pub fn permits(&self, address: SocketAddr, trust: Trust) -> bool {
        let ip = plain(address.ip());
        if is_metadata(ip) {
            return trust == Trust::Operator
                && self
                    .allow
                    .iter()
                    .any(|entry| entry.net == IpNet::from(ip) && entry.ports.contains(&address.port()));
        }
        if trust == Trust::Operator {
            return true;
        }
        if is_link_local(ip) || ip.is_multicast() || ip.is_unspecified() || is_broadcast(ip) || self.is_own(address) {
            return false;
        }
        let named = || self.allow.iter().any(|entry| entry.net.contains(&ip) && entry.ports.contains(&address.port()));
        is_public(ip) || self.development || named()
    }

    /// Whether a host may be looked up at all: metadata names are refused before they cost a query.
    pub fn permits_name(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        !METADATA_NAMES.contains(&host.as_str())
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.is_some_and(|own| {
            let ip = plain(address.ip());
            own.port() == address.port()
                && (ip.is_loopback()
                    || plain(own.ip()) == ip
                    || (own.ip().is_unspecified() && self.local.contains(&ip)))
        })
    }
}

/// IPv4 inside IPv6 is judged as IPv4: mapped, compatible, NAT64, 6to4.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let o = v6.octets();
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    if v6.to_ipv4_mapped().is_some() || (o[..12] == [0; 12] && !v6.is_loopback() && !v6.is_unspecified()) {
        return v4(o[12], o[13], o[14], o[15]);
    }
    if o[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0] {
        return v4(o[12], o[13], o[14], o[15]);
    }
    if o[..2] == [0x20, 0x02] {
        return v4(o[2], o[3], o[4], o[5]);
    }
    ip
}

/// All of 169.254.0.0/16, and the IPv6 address of EC2: CONTRACT.md 6.4. Others' metadata addresses beside them.
fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200) || v4 == Ipv4Addr::new(192, 0, 0, 192)
        }
        IpAddr::V6(v6) => v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

/// Globally reachable, by the IANA special-purpose registries.
fn is_public(ip: IpAddr) -> bool {
    const NOT_PUBLIC: [(Ipv4Addr, u8); 12] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        (Ipv4Addr::new(240, 0, 0, 0), 4),
    ];
    match ip {
        IpAddr::V4(v4) => !NOT_PUBLIC.iter().any(|(net, length)| Ipv4Net::new_assert(*net, *length).contains(&v4)),
        // Global unicast is 2000::/3, less documentation and the IETF's own block.
        IpAddr::V6(v6) => {
            let s = v6.segments();
            s[0] & 0xe000 == 0x2000
                && !(s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8))
                && !(s[0] == 0x3fff && s[1] < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn production(allow: &str) -> EgressPolicy {
        EgressPolicy {
            allow: allow.split(',').filter(|entry| !entry.is_empty()).map(|entry| entry.parse().unwrap()).collect(),
            development: false,
            own: Some("0.0.0.0:3106".parse().unwrap()),
            local: vec!["8.8.4.4".parse().unwrap()],
        }
    }

    #[test]
    fn the_fence_for_hosts_of_the_api() {
        let check = |policy: &EgressPolicy, address: &str, permitted| {
            assert_eq!(policy.permits(address.parse().unwrap(), Trust::Fenced), permitted, "{address}");
        };
        let closed = production("");
        for denied in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::]:80",
            "[fd00:ec2::254]:80",
            "[fe80::1]:80",
            "224.0.0.1:80",
            "0.0.0.0:80",
            "[::]:80",
            "255.255.255.255:80",
            "127.0.0.1:80",
            "[::1]:80",
            "10.0.0.1:80",
            "172.31.255.255:80",
            "192.168.1.1:80",
            "100.64.0.1:80",
            "[fc00::1]:80",
            "[2001:db8::1]:80",
            "198.51.100.10:80",
            "[::ffff:10.0.0.1]:80",
            "240.0.0.1:80",
        ] {
            check(&closed, denied, false);
        }
        for permitted in ["8.8.8.8:80", "172.32.0.1:80", "[2606:4700::1]:443", "100.128.0.1:80"] {
            check(&closed, permitted, true);
        }
        let opened = production("10.99.0.0/24:8080,169.254.0.0/16,127.0.0.0/8");
        check(&opened, "10.99.0.7:8080", true);
        check(&opened, "10.99.0.7:22", false);
        check(&opened, "10.99.1.7:8080", false);
        check(&opened, "169.254.169.254:80", false);
        check(&opened, "127.0.0.1:80", true);
        check(&opened, "127.0.0.1:3106", false);
        check(&opened, "8.8.4.4:3106", false);
        check(&opened, "8.8.4.4:3107", true);
        check(&production("169.254.169.254"), "169.254.169.254:80", false);
    }

    #[test]
    fn hosts_of_the_services_file_reach_all_but_metadata() {
        let check = |policy: &EgressPolicy, address: &str, permitted| {
            assert_eq!(policy.permits(address.parse().unwrap(), Trust::Operator), permitted, "{address}");
        };
        check(&production(""), "10.0.0.1:80", true);
        check(&production(""), "127.0.0.1:3106", true);
        check(&production(""), "169.254.169.254:80", false);
        check(&production("169.254.0.0/16"), "169.254.169.254:80", false);
        check(&production("169.254.169.254/32:80"), "169.254.169.254:80", true);
        check(&production("169.254.169.254"), "169.254.169.254:80", true);
        check(&production("169.254.169.254/32:81"), "169.254.169.254:80", false);
        assert!(!production("").permits_name("Metadata.Google.Internal."));
    }

    #[test]
    fn entries_are_read_or_refused() {
        for good in ["10.0.0.0/8", "10.0.0.1", "10.0.0.0/8:80-90", "[fd00::/8]:443", "[fd00::]/8:443", "fd00::/8"] {
            assert!(good.parse::<Allow>().is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.0/33", "host:80", "10.0.0.0/8:x", "10.0.0.0/8:90-80", "[fd00::/8", "10.0.0.0/8:70000"] {
            assert!(bad.parse::<Allow>().is_err(), "{bad}");
        }
    }
}
