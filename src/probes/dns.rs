//! DNS: one question to one resolver, over UDP and, when the answer does not fit a datagram, over TCP.
//!
//! Why not the resolver the dialer uses: it caches, retries, asks several servers and hides the response code; what is
//! probed here is one server's own answer. Why not EDNS: servers that do not know it answer with an error, and TCP is
//! there for long answers.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{self, Name};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dial::{Dialer, Way, broken};
use super::udp::{connected, refused};
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply, clean};
use crate::domain::probe::{DnsProbe, RecordType};

/// Where the system names its resolvers.
const RESOLVER_FILE: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Datagram that is read: our choice. Without EDNS an answer has at most 512 bytes (RFC 1035, 4.2.1).
const DATAGRAM_BYTES: usize = 4096;
/// Answers shown to people: CONTRACT.md 6.2.
const DETAILS_BYTES: usize = 1024;

/// Asks the question of `probe`.
pub(super) async fn send(dialer: &Dialer, probe: &DnsProbe, way: &Way) -> Result<Reply, ProbeFailure> {
    let resolver = match probe.resolver {
        Some(resolver) => {
            dialer.permit(resolver, probe.trust)?;
            resolver
        }
        // The operator of the machine chose this one: it is asked by every other probe already.
        None => system_resolver().await?,
    };
    let question = Question::new(probe)?;
    let mut answer = question.ask_by_datagram(resolver, way).await?;
    if answer.metadata.truncation {
        answer = question.ask_by_stream(resolver).await?;
    }
    way.answered();
    judge(probe, &answer)
}

/// A query, and the bytes it is sent as.
struct Question {
    message: Message,
    bytes: Vec<u8>,
}

impl Question {
    fn new(probe: &DnsProbe) -> Result<Self, ProbeFailure> {
        let unusable = |error: &dyn std::fmt::Display| {
            ProbeFailure::new(Reason::Dns, format!("{} cannot be asked for: {error}", probe.name))
        };
        let name = match probe.name.parse::<IpAddr>() {
            // The name of an address is the one it is kept under.
            Ok(ip) if probe.record_type == RecordType::Ptr => Name::from(ip),
            _ => Name::from_str_relaxed(&probe.name).map_err(|error| unusable(&error))?,
        };
        let mut name = name;
        name.set_fqdn(true);
        // A random number for each question; the port is random by its socket.
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, wire_type(probe.record_type)));
        let bytes = message.to_vec().map_err(|error| unusable(&error))?;
        Ok(Self { message, bytes })
    }

    async fn ask_by_datagram(&self, resolver: SocketAddr, way: &Way) -> Result<Message, ProbeFailure> {
        let socket = connected(&[resolver]).await?;
        way.sent();
        socket.send(&self.bytes).await.map_err(|error| refused(&error))?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let count = socket.recv(&mut buffer).await.map_err(|error| refused(&error))?;
            let datagram = buffer.get(..count).unwrap_or_default();
            // Another number is somebody's guess, or an answer to a question long past.
            if self.is_numbered(datagram) {
                return self.read(datagram);
            }
        }
    }

    async fn ask_by_stream(&self, resolver: SocketAddr) -> Result<Message, ProbeFailure> {
        let mut stream = TcpStream::connect(resolver).await.map_err(|error| refused(&error))?;
        let length = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        let talking = async {
            stream.write_all(&[length.to_be_bytes().as_slice(), &self.bytes].concat()).await?;
            let mut answer = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = talking.await.map_err(|error| broken(&error))?;
        if !self.is_numbered(&answer) {
            return Err(ProbeFailure::new(Reason::Protocol, "the answer is to another question"));
        }
        self.read(&answer)
    }

    fn is_numbered(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(&self.message.metadata.id.to_be_bytes())
    }

    /// An answer to this very question.
    fn read(&self, bytes: &[u8]) -> Result<Message, ProbeFailure> {
        let not_ours = |text: &str| Err(ProbeFailure::new(Reason::Protocol, text));
        let Ok(answer) = Message::from_vec(bytes) else {
            return not_ours("not a DNS message");
        };
        if answer.metadata.message_type != MessageType::Response {
            return not_ours("not an answer");
        }
        // A server that refuses or cannot read a question need not repeat it.
        let unrepeated = answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError;
        if !unrepeated && answer.queries != self.message.queries {
            return not_ours("the answer is to another question");
        }
        Ok(answer)
    }
}

/// What an answer says: the records of the type asked for, whichever name of a chain of aliases they stand under.
fn judge(probe: &DnsProbe, answer: &Message) -> Result<Reply, ProbeFailure> {
    if answer.metadata.response_code != ResponseCode::NoError {
        let detail = format!("{} for {}", code_word(answer.metadata.response_code), probe.name);
        return Err(ProbeFailure::new(Reason::Dns, detail));
    }
    let asked = wire_type(probe.record_type);
    let records: Vec<&rr::RData> =
        answer.answers.iter().filter(|record| record.record_type() == asked).map(|record| &record.data).collect();
    if records.is_empty() {
        let text = format!("No {asked} record for {}", probe.name);
        return Ok(Reply::with(Finding::degraded(Reason::Assertion, text)));
    }
    let missing: Vec<String> = probe
        .expected_ip
        .iter()
        .filter(|ip| !records.iter().any(|record| record.ip_addr() == Some(**ip)))
        .map(ToString::to_string)
        .collect();
    let reply = if missing.is_empty() {
        Reply::well()
    } else {
        let text = format!("Expected address not found: {}", missing.join(", "));
        Reply::with(Finding::degraded(Reason::Assertion, text))
    };
    Ok(Reply { details: Some(details(&records)), ..reply })
}

/// The answers as a JSON object, as many as there is room for.
fn details(records: &[&rr::RData]) -> Box<str> {
    let mut answers: Vec<String> = Vec::new();
    let mut text = json!({ "answers": answers }).to_string();
    for record in records {
        answers.push(clean(&record.to_string()));
        let longer = json!({ "answers": answers }).to_string();
        if longer.len() > DETAILS_BYTES {
            break;
        }
        text = longer;
    }
    text.into()
}

/// The words people know response codes by.
fn code_word(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => other.to_string(),
    }
}

fn wire_type(asked: RecordType) -> rr::RecordType {
    match asked {
        RecordType::A => rr::RecordType::A,
        RecordType::Aaaa => rr::RecordType::AAAA,
        RecordType::Cname => rr::RecordType::CNAME,
        RecordType::Mx => rr::RecordType::MX,
        RecordType::Ns => rr::RecordType::NS,
        RecordType::Ptr => rr::RecordType::PTR,
        RecordType::Soa => rr::RecordType::SOA,
        RecordType::Srv => rr::RecordType::SRV,
        RecordType::Txt => rr::RecordType::TXT,
    }
}

/// The first resolver of the system, read anew each time: a change is noticed by the next check.
async fn system_resolver() -> Result<SocketAddr, ProbeFailure> {
    let file = tokio::fs::read_to_string(RESOLVER_FILE).await.unwrap_or_default();
    let ip = first_nameserver(&file);
    ip.map(|ip| SocketAddr::new(ip, DNS_PORT))
        .ok_or_else(|| ProbeFailure::new(Reason::LocalResource, "no resolver configured"))
}

fn first_nameserver(file: &str) -> Option<IpAddr> {
    file.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn the_first_usable_nameserver_is_taken() {
        let check = |file: &str, ip: Option<&str>| {
            assert_eq!(first_nameserver(file), ip.map(|ip| ip.parse().unwrap()), "{file:?}");
        };
        check("search lan\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n", Some("10.0.0.1"));
        check("# nameserver 10.0.0.1\n  nameserver\tfd00::1 # here", Some("fd00::1"));
        check("nameserver here\nnameserver\n", None);
        check("", None);
    }

    #[test]
    fn details_stay_within_their_limit() {
        let record = rr::RData::TXT(rr::rdata::TXT::new(vec!["\"\u{202e}x".repeat(60)]));
        let text = details(&[&record; 100]);
        assert!(text.len() <= DETAILS_BYTES);
        assert!(!text.contains('\u{202e}'));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!read["answers"].as_array().unwrap().is_empty());
    }

    #[test]
    fn no_bytes_of_a_peer_are_believed_or_do_harm() {
        let probe = DnsProbe {
            name: "example.test".to_owned(),
            record_type: RecordType::A,
            resolver: None,
            expected_ip: Vec::new(),
            trust: crate::domain::egress::Trust::Operator,
        };
        let question = Question::new(&probe).unwrap();
        let mut answer = question.message.clone().into_response();
        let name = Name::from_str("example.test.").unwrap();
        answer.add_answer(rr::Record::from_rdata(name, 60, rr::RData::A(rr::rdata::A::new(192, 0, 2, 1))));
        let good = answer.to_vec().unwrap();
        assert!(question.read(&good).is_ok());
        for at in 0..good.len() {
            let _ = question.read(&good[..at]);
            for bit in 0..8 {
                let mut bent = good.clone();
                bent[at] ^= 1 << bit;
                if let Ok(read) = question.read(&bent) {
                    let _ = judge(&probe, &read);
                }
            }
        }
        assert!(question.read(&question.bytes).is_err(), "our own question is no answer");
    }
}
