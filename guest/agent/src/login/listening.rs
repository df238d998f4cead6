//! Whether a port is listened on, read from the kernel's table of sockets.
//!
//! Never by a connection: some tools take any request on their callback port for the browser's answer and end the login.

use std::fs;

use airlock_protocol::Sensitive;

use crate::http::query_value;

/// State of a listening socket in `/proc/net/tcp` (proc(5)).
const TCP_LISTEN: &str = "0A";

/// Whether anybody listens on `port` of this machine.
pub fn is_listening(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().any(|table| fs::read_to_string(table).is_ok_and(|text| has_listener(&text, port)))
}

fn has_listener(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
        let [_, local, _, TCP_LISTEN] = fields[..] else { return false };
        local.rsplit_once(':').and_then(|(_, hex)| u16::from_str_radix(hex, 16).ok()) == Some(port)
    })
}

/// The port of the loopback redirect URI that a URL carries (RFC 8252 section 7.3).
pub fn redirect_port(url: &Sensitive) -> Option<u16> {
    let (_, query) = url.expose().split_once('?')?;
    let redirect = query_value(query.split('#').next()?, "redirect_uri")?;
    let authority = redirect.strip_prefix("http://")?.split(['/', '?']).next()?.to_owned();
    let (host, port) = authority.rsplit_once(':')?;
    matches!(host, "127.0.0.1" | "localhost" | "[::1]").then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_is_seen_without_being_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_listening(port));
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody connected");
        drop(listener);
        assert!(!is_listening(port));
    }

    #[test]
    fn only_listeners_count() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
             0: 0100007F:05AF 00000000:0000 0A 00000000:00000000\n\
             1: 0100007F:05B0 0100007F:05AF 01 00000000:00000000\n garbage\n";
        assert!(has_listener(table, 1455) && !has_listener(table, 1456));
    }

    #[test]
    fn the_port_is_that_of_a_loopback_redirect() {
        for (url, port) in [
            ("https://i/a?x=1&redirect_uri=http%3A%2F%2Flocalhost%3A1455%2Fauth%2Fcallback", Some(1455)),
            ("https://i/a?redirect_uri=http://127.0.0.1:8085/oauth2callback&y#f", Some(8085)),
            ("https://i/a?redirect_uri=http%3A%2F%2F%5B%3A%3A1%5D%3A9%2F", Some(9)),
            ("https://i/a?redirect_uri=https%3A%2F%2Fi%2Fcode", None),
            ("https://i/a?redirect_uri=http%3A%2F%2Fevil%3A80%2F", None),
            ("https://i/a", None),
        ] {
            assert_eq!(redirect_port(&Sensitive::new(url)), port, "{url}");
        }
    }
}
