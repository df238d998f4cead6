//! What is behind the way out: two namespaces of the test, removed with it. Each has a listener on port 7.

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};

use airlock_effects::netns::Netns;

/// Two more machines as namespaces: the host that lends its uplink to the guests, and the internet behind it.
pub struct Internet {
    /// The namespace that lends its uplink.
    pub host: String,
    /// The namespace behind it.
    pub beyond: String,
    _listeners: Vec<TcpListener>,
}

impl Internet {
    /// Its address in the internet (RFC 5737).
    pub const ADDRESS: &str = "203.0.113.10";

    pub fn new() -> Self {
        let (host, beyond) = (format!("alt-host-{}", std::process::id()), format!("alt-inet-{}", std::process::id()));
        let listen = |name: &str| {
            let listener = Netns::create(name).unwrap().run(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
                TcpListener::bind("0.0.0.0:7").unwrap()
            });
            listener.unwrap()
        };
        let internet = Self { _listeners: vec![listen(&host), listen(&beyond)], host, beyond };
        let (host, beyond) = (internet.host.as_str(), internet.beyond.as_str());
        ip(host, &["link", "add", "wan", "type", "veth", "peer", "name", "lan", "netns", beyond]);
        ip(host, &["address", "add", "203.0.113.1/24", "dev", "wan"]);
        ip(beyond, &["address", "add", "203.0.113.10/24", "dev", "lan"]);
        for (name, link) in [(host, "wan"), (beyond, "lan"), (host, "lo"), (beyond, "lo")] {
            ip(name, &["link", "set", link, "up"]);
        }
        for address in ["10.20.30.40/32", "169.254.169.254/32"] {
            ip(beyond, &["address", "add", address, "dev", "lo"]);
        }
        ip(host, &["route", "add", "default", "via", "203.0.113.10"]);
        internet
    }
}

impl Internet {
    /// Answers every name with [`Internet::ADDRESS`], for as long as the test lives; returns the names that were asked for.
    pub fn name_server(&self) -> Arc<Mutex<Vec<String>>> {
        let socket = Netns::open(&self.beyond).unwrap().run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names = asked.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                let (name, answer) = answer(&query[..len]);
                names.lock().unwrap().push(name);
                let _ = socket.send_to(&answer, from);
            }
        });
        asked
    }
}

/// The name of a query, and an answer with one address, or with none to whoever does not ask for IPv4 (RFC 1035 section 4).
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name = format!("{name}{}.", String::from_utf8_lossy(&query[at + 1..end]));
        at = end;
    }
    let question = &query[12..at + 5];
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], question].concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10]);
    }
    (name, answer)
}

fn ip(namespace: &str, args: &[&str]) {
    assert!(Command::new("ip").args(["-n", namespace]).args(args).status().unwrap().success(), "{args:?}");
}

impl Drop for Internet {
    fn drop(&mut self) {
        for name in [&self.host, &self.beyond] {
            let _ = Netns::delete(name);
        }
    }
}
