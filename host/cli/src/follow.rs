//! Follows a session's events (SSE) until it is over; reopens a stream that broke.

use std::time::Duration;

use airlock_api::session::{SessionView, StageView};
use airlock_protocol::Stage;
use futures_util::StreamExt;

use crate::client::Client;
use crate::failure::{FAILED, Failure, Outcome};

/// A broken stream is reopened this often in a row, with a growing pause.
const TRIES: u32 = 6;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    State(Box<SessionView>),
    Stage(StageView),
}

/// Calls `on_event` with everything from the start on, nothing twice; returns the final state.
pub async fn follow(client: &Client, id: &str, mut on_event: impl FnMut(&Event)) -> Outcome<SessionView> {
    loop {
        let watched = follow_until(client, id, |event| {
            on_event(event);
            false
        });
        if let Some(session) = watched.await? {
            return Ok(session);
        }
    }
}

/// The same, until `on_event` says that it is enough: then there is no final state yet.
pub async fn follow_until(
    client: &Client,
    id: &str,
    mut on_event: impl FnMut(&Event) -> bool,
) -> Outcome<Option<SessionView>> {
    let mut seen = Seen::default();
    let mut tries = 0;
    loop {
        let broken = match client.stream(&format!("/api/auth/session/{id}/events")).await {
            Ok(response) => {
                let mut bytes = response.bytes_stream();
                let mut parser = Parser::default();
                loop {
                    match bytes.next().await {
                        Some(Ok(chunk)) => {
                            tries = 0;
                            for event in
                                parser.feed(&chunk).into_iter().filter_map(parse).filter(|event| seen.is_new(event))
                            {
                                if on_event(&event) {
                                    return Ok(None);
                                }
                                if let Event::State(session) = event
                                    && session.is_over()
                                {
                                    return Ok(Some(*session));
                                }
                            }
                        }
                        Some(Err(error)) => break client.broken(&error),
                        None => {
                            break Failure::new(
                                FAILED,
                                "connection_lost",
                                "the daemon ended the event stream",
                                "see the daemon's log",
                            );
                        }
                    }
                }
            }
            // Refused, not lost: asking again changes nothing.
            Err(failure) if failure.detail.code != "daemon_unreachable" => return Err(failure),
            Err(failure) => failure,
        };
        tries += 1;
        if tries > TRIES {
            return Err(broken);
        }
        tokio::time::sleep(Duration::from_millis(250 << tries)).await;
    }
}

#[derive(Default)]
struct Seen {
    stages: Vec<(Stage, bool)>,
    state: Option<Box<SessionView>>,
}

impl Seen {
    fn is_new(&mut self, event: &Event) -> bool {
        match event {
            Event::Stage(stage) => {
                let key = (stage.stage, stage.ok);
                !self.stages.contains(&key) && {
                    self.stages.push(key);
                    true
                }
            }
            Event::State(session) => self.state.replace(session.clone()).as_ref() != Some(session),
        }
    }
}

fn parse((name, data): (String, String)) -> Option<Event> {
    match name.as_str() {
        "state" => serde_json::from_str(&data).ok().map(Event::State),
        "stage" => serde_json::from_str(&data).ok().map(Event::Stage),
        // An event of a newer daemon.
        _ => None,
    }
}

/// Cuts a byte stream into events (WHATWG HTML, section 9.2.6); comments and unknown fields are skipped.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    name: String,
    data: Vec<String>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Vec<(String, String)> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                    if !data.is_empty() {
                        events.push((name, data.join("\n")));
                    }
                }
                "event" => value.clone_into(&mut self.name),
                "data" => self.data.push(value.to_owned()),
                _ => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_whatever_the_chunks() {
        let stream = b": hello\n\nevent: stage\ndata: {\"stage\":\"planned\",\"ok\":true,\"atMs\":0}\n\nevent: new\ndata: 1\n\nevent: x\r\ndata: a\r\ndata: b\r\n\r\n";
        for size in [1, 3, 7, stream.len()] {
            let mut parser = Parser::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events.len(), 3, "{size}");
            assert_eq!(events[2], ("x".to_owned(), "a\nb".to_owned()));
            let Some(Event::Stage(stage)) = parse(events[0].clone()) else { panic!("{events:?}") };
            assert_eq!(stage.stage, Stage::Planned);
            assert_eq!(parse(events[1].clone()), None);
        }
    }

    #[test]
    fn a_reopened_stream_repeats_nothing() {
        let mut seen = Seen::default();
        let stage = Event::Stage(StageView { stage: Stage::Planned, ok: true, at_ms: 0.0, errno: None, detail: None });
        assert!(seen.is_new(&stage));
        assert!(!seen.is_new(&stage));
    }
}
