//! One question to a name server and its answer (RFC 1035), as much as a probe needs. Pure.
//!
//! Not the C library's resolver: a static program would load the image's name-service modules, and its waits cannot be cut.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PORT: u16 = 53;
/// Name servers that are asked, as in resolv.conf(5).
const MAX_SERVERS: usize = 3;
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const CLASS_IN: u16 = 1;
/// Recursion desired.
const FLAG_RD: u16 = 0x0100;
const FLAG_QR: u16 = 0x8000;
const FLAG_TC: u16 = 0x0200;
const NO_SUCH_NAME: u8 = 3;

/// Why there is no question or no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// No host name (RFC 1035 section 2.3.4: labels of 1 to 63 bytes, 253 in all).
    #[error("{name:?} is no host name")]
    Name {
        /// The name.
        name: String,
    },
    /// The server said no.
    #[error("the name server says {}", rcode_name(*rcode))]
    Rcode {
        /// RCODE.
        rcode: u8,
    },
    /// The name exists without IPv4 address.
    #[error("the name has no IPv4 address")]
    NoAddress,
    /// Not the answer's form.
    #[error("the name server's answer cannot be read")]
    Malformed,
}

impl DnsError {
    /// Whether another server would say the same.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::NoAddress | Self::Rcode { rcode: NO_SUCH_NAME })
    }
}

fn rcode_name(rcode: u8) -> String {
    match rcode {
        1 => "format error".to_owned(),
        2 => "server failure".to_owned(),
        NO_SUCH_NAME => "no such name".to_owned(),
        4 => "not implemented".to_owned(),
        5 => "refused".to_owned(),
        other => format!("error {other}"),
    }
}

/// The name servers of a resolv.conf(5).
pub fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::from((address.parse::<IpAddr>().ok()?, PORT)))
    };
    resolv_conf.lines().filter_map(address).take(MAX_SERVERS).collect()
}

/// The question for the IPv4 addresses of `name`.
pub fn question(id: u16, name: &str) -> Result<Vec<u8>, DnsError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let mut labels = Vec::new();
    for label in bare.split('.') {
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match u8::try_from(label.len()) {
            Ok(len @ 1..=63) if label.bytes().all(is_label) => labels.push(len),
            _ => return Err(DnsError::Name { name: name.to_owned() }),
        }
        labels.extend_from_slice(label.as_bytes());
    }
    if bare.len() > 253 {
        return Err(DnsError::Name { name: name.to_owned() });
    }
    Ok(with_header(id, &labels, TYPE_A))
}

/// The question for the root's name servers, which every name server can answer.
pub fn root_question(id: u16) -> Vec<u8> {
    with_header(id, &[], TYPE_NS)
}

fn with_header(id: u16, labels: &[u8], kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + labels.len() + 5);
    for word in [id, FLAG_RD, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(labels);
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

/// The IPv4 addresses of an answer; `None` if it is no answer to `question`.
pub fn addresses(answer: &[u8], question: &[u8]) -> Option<Result<Vec<Ipv4Addr>, DnsError>> {
    let flags = word(answer, 2)?;
    let is_ours = answer.get(..2) == question.get(..2) && flags & FLAG_QR != 0;
    if !is_ours {
        return None;
    }
    let rcode = u8::try_from(flags & 0x000f).unwrap_or(0);
    if rcode != 0 {
        return Some(Err(DnsError::Rcode { rcode }));
    }
    // An answer that was cut has the first records whole; one with none of them says too little.
    Some(match records(answer) {
        Some(addresses) if !addresses.is_empty() => Ok(addresses),
        Some(_) if flags & FLAG_TC == 0 => Err(DnsError::NoAddress),
        _ => Err(DnsError::Malformed),
    })
}

/// Addresses in the answer section; `None` if its form is broken.
fn records(answer: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let (questions, count) = (word(answer, 4)?, word(answer, 6)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = after_name(answer, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..count {
        at = after_name(answer, at)?;
        let (kind, class, len) = (word(answer, at)?, word(answer, at + 2)?, usize::from(word(answer, at + 8)?));
        let data = answer.get(at + 10..at + 10 + len)?;
        if let (TYPE_A, CLASS_IN, &[a, b, c, d]) = (kind, class, data) {
            addresses.push(Ipv4Addr::new(a, b, c, d));
        }
        at += 10 + len;
    }
    Some(addresses)
}

/// Where the name that begins at `at` ends: behind its last label or its first pointer.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(*len),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer of a real server's form: the question, a CNAME, two addresses, names by pointer.
    fn answer(id: u16, flags: u16) -> Vec<u8> {
        let mut message = question(id, "www.example.org").unwrap();
        message[2..4].copy_from_slice(&(FLAG_QR | flags).to_be_bytes());
        message[6..8].copy_from_slice(&3u16.to_be_bytes());
        for (kind, data) in
            [(5u16, &[3, b'c', b'd', b'n', 0xc0, 16][..]), (TYPE_A, &[10, 0, 0, 1]), (TYPE_A, &[10, 0, 0, 2])]
        {
            message.extend_from_slice(&[0xc0, 12]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn reads_addresses_behind_an_alias() {
        let asked = question(7, "www.example.org").unwrap();
        let expected = vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        assert_eq!(addresses(&answer(7, 0), &asked), Some(Ok(expected)));
        assert_eq!(addresses(&answer(8, 0), &asked), None, "another question's answer");
        assert_eq!(addresses(&asked, &asked), None, "a question is no answer");
        let refused = addresses(&answer(7, 3), &asked).unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "the name server says no such name");
        let mut empty = asked.clone();
        empty[2] |= 0x80;
        assert_eq!(addresses(&empty, &asked), Some(Err(DnsError::NoAddress)));
        let whole = answer(7, 0);
        assert_eq!(addresses(&whole[..whole.len() - 1], &asked), Some(Err(DnsError::Malformed)));
    }

    #[test]
    fn only_host_names_are_asked_for() {
        for name in ["", ".", "a..b", "a b", "ü.example", "a\0b", &"a".repeat(64), &"a.".repeat(127)] {
            let result = question(1, name);
            assert_eq!(result.is_err(), name != "a.".repeat(127), "{name:?} {result:?}");
        }
        assert!(question(1, &"ab.".repeat(100)).is_err());
        assert_eq!(question(1, "a.example.").unwrap(), question(1, "a.example").unwrap());
        assert_eq!(root_question(1).len(), 17);
    }

    #[test]
    fn servers_are_those_of_the_file() {
        let text = "# by airlock\nsearch x\nnameserver 192.168.100.1\n nameserver\tfe80::1\nnameserver nonsense\noptions ndots:1\n";
        assert_eq!(servers(text), vec!["192.168.100.1:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
        assert_eq!(servers(&"nameserver 10.0.0.1\n".repeat(9)).len(), 3);
        assert_eq!(servers(""), vec![]);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..100) {
            let asked = question(7, "www.example.org").unwrap();
            let _ = addresses(&bytes, &asked);
            let mut real = answer(7, 0);
            for (at, byte) in bytes.iter().enumerate().take(5) {
                let place = (usize::from(*byte) + at * 31) % real.len();
                real[place] ^= byte;
            }
            let _ = addresses(&real[..real.len().min(cut)], &asked);
            let _ = addresses(&real, &asked);
        }
    }
}
