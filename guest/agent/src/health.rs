//! `GET /health` on every IPv4 address of the guest.
//!
//! A port that is taken is reported as a failed `agent_up` (`agent_port_conflict`) and tried again by the restarted agent.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use airlock_protocol::health::Health;

use crate::addresses::addresses;
use crate::timeline::Timeline;
use crate::{BUILD_ID, clock, http};

/// Opens the port.
pub fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

/// Answers for ever.
pub fn serve(listener: &TcpListener, vm_id: String, timeline: Arc<Timeline>) {
    http::serve(listener, "health", move |mut stream| {
        let _ = answer(&mut stream, &vm_id, &timeline);
    });
}

fn answer(stream: &mut TcpStream, vm_id: &str, timeline: &Timeline) -> std::io::Result<()> {
    let Some(request) = http::read_request(stream)? else { return Ok(()) };
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/health") => {
            let body = serde_json::to_vec(&health(vm_id, timeline))?;
            http::respond(stream, "200 OK", "application/json", &body)
        }
        (_, "/health") => http::respond(stream, "405 Method Not Allowed", "text/plain", b"GET only\n"),
        _ => http::respond(stream, "404 Not Found", "text/plain", b"there is only /health\n"),
    }
}

fn health(vm_id: &str, timeline: &Timeline) -> Health {
    Health {
        status: "ok".to_owned(),
        build_id: BUILD_ID.to_owned(),
        vm_id: vm_id.to_owned(),
        addresses: addresses(),
        uptime_s: Duration::from_micros(clock::boottime_us()).as_secs_f64(),
        timeline: timeline.reports(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Outbox;
    use std::io::{Read, Write};
    use std::path::Path;

    fn ask(port: u16, text: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_while_a_slow_client_holds_a_connection() {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let outbox = Arc::new(Outbox::new().unwrap());
        let timeline = Arc::new(Timeline::open(Path::new("/nonexistent"), Path::new("/nonexistent"), outbox));
        timeline.reached(airlock_protocol::Stage::AgentUp, &[]);
        crate::spawn("test", move || serve(&listener, "vm-1".into(), timeline)).unwrap();

        let mut slow = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        slow.write_all(b"GET /hea").unwrap();
        let answer = ask(port, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let health: Health = serde_json::from_str(body).unwrap();
        assert_eq!((health.status.as_str(), health.vm_id.as_str(), health.timeline.len()), ("ok", "vm-1", 1));
        assert!(ask(port, "POST /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(port, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    }
}
