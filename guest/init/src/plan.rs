//! Which service is to be started when. Pure: `now` in milliseconds comes in, indices and pauses go out.
//!
//! ```text
//! blocked (waits for its socket) -> due(at) -> running(pid) -> due(later) ...   restart = always
//!                                                           -> stopped          restart = never
//! ```
//!
//! A service that fails is started again after a pause that grows with each quick failure and is forgotten after a long run.

use airlock_protocol::guest_config::{Restart, Service};

/// First pause before a restart; each quick failure doubles it.
const FIRST_PAUSE_MS: u64 = 100;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 10_000;
/// A run this long counts as healthy.
const HEALTHY_MS: u64 = 10_000;

/// The services of this guest, in start order.
#[derive(Debug)]
pub struct Roster {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    service: Service,
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Blocked,
    Due { at: u64 },
    Running { pid: i32, since: u64 },
    Stopped,
}

/// One service that ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended<'a> {
    /// Its name.
    pub name: &'a str,
    /// Milliseconds until it is started again; none if it is left.
    pub restart_in: Option<u64>,
}

impl Roster {
    /// All services, none started.
    pub fn new(services: Vec<Service>) -> Self {
        let entry = |service: Service| {
            let state = if service.wait_for_socket.is_some() { State::Blocked } else { State::Due { at: 0 } };
            Entry { service, state, failures: 0 }
        };
        Self { entries: services.into_iter().map(entry).collect() }
    }

    /// The service at `index`.
    pub fn service(&self, index: usize) -> Option<&Service> {
        self.entries.get(index).map(|entry| &entry.service)
    }

    /// Sockets that services wait for.
    pub fn awaited_sockets(&self) -> Vec<String> {
        let blocked = self.entries.iter().filter(|entry| entry.state == State::Blocked);
        blocked.filter_map(|entry| entry.service.wait_for_socket.clone()).collect()
    }

    /// A socket accepts connections: whoever waited for it may start.
    pub fn socket_ready(&mut self, path: &str, now: u64) {
        for entry in &mut self.entries {
            if entry.state == State::Blocked && entry.service.wait_for_socket.as_deref() == Some(path) {
                entry.state = State::Due { at: now };
            }
        }
    }

    /// Services to be started now, in order.
    pub fn due(&self, now: u64) -> Vec<usize> {
        let is_due = |entry: &Entry| matches!(entry.state, State::Due { at } if at <= now);
        self.entries.iter().enumerate().filter(|(_, entry)| is_due(entry)).map(|(index, _)| index).collect()
    }

    /// When the next service is due, if one is.
    pub fn next_due(&self) -> Option<u64> {
        self.entries.iter().filter_map(|entry| if let State::Due { at } = entry.state { Some(at) } else { None }).min()
    }

    /// The service at `index` runs.
    pub fn started(&mut self, index: usize, pid: i32, now: u64) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.state = State::Running { pid, since: now };
        }
    }

    /// The service at `index` could not be started. Returns when it is tried again.
    pub fn not_started(&mut self, index: usize, now: u64) -> Option<u64> {
        self.entries.get_mut(index).and_then(|entry| entry.after_end(now, 0))
    }

    /// A child ended; says which service it was, if it was one.
    pub fn ended(&mut self, pid: i32, now: u64) -> Option<Ended<'_>> {
        let entry = self.entries.iter_mut().find(|e| matches!(e.state, State::Running { pid: p, .. } if p == pid))?;
        let State::Running { since, .. } = entry.state else { return None };
        let restart_in = entry.after_end(now, now.saturating_sub(since));
        Some(Ended { name: &entry.service.name, restart_in })
    }
}

impl Entry {
    fn after_end(&mut self, now: u64, ran_ms: u64) -> Option<u64> {
        if self.service.restart == Restart::Never {
            self.state = State::Stopped;
            return None;
        }
        self.failures = if ran_ms >= HEALTHY_MS { 0 } else { self.failures.saturating_add(1) };
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = (FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS);
        self.state = State::Due { at: now + pause };
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, socket: Option<&str>, restart: Restart) -> Service {
        Service {
            name: name.to_owned(),
            command: vec!["/bin/true".to_owned()],
            user: None,
            env: Default::default(),
            working_dir: None,
            ports: Vec::new(),
            wait_for_socket: socket.map(str::to_owned),
            restart,
        }
    }

    #[test]
    fn starts_in_order_and_waits_for_sockets() {
        let mut roster = Roster::new(vec![
            service("agent", None, Restart::Always),
            service("wm", Some("/x"), Restart::Always),
            service("xvnc", None, Restart::Always),
        ]);
        assert_eq!(roster.due(0), vec![0, 2]);
        assert_eq!(roster.awaited_sockets(), vec!["/x"]);
        roster.started(0, 10, 0);
        roster.started(2, 12, 0);
        assert_eq!(roster.due(5), Vec::<usize>::new());
        roster.socket_ready("/x", 6);
        assert_eq!(roster.due(6), vec![1]);
        assert_eq!(roster.awaited_sockets(), Vec::<String>::new());
    }

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let mut roster = Roster::new(vec![service("agent", None, Restart::Always)]);
        let mut now = 0;
        let mut pauses = Vec::new();
        for pid in 1..=9 {
            roster.started(0, pid, now);
            now += 1;
            let pause = roster.ended(pid, now).unwrap().restart_in.unwrap();
            assert_eq!(roster.due(now + pause - 1), Vec::<usize>::new());
            assert_eq!(roster.next_due(), Some(now + pause));
            now += pause;
            assert_eq!(roster.due(now), vec![0]);
            pauses.push(pause);
        }
        assert_eq!(pauses, vec![100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        roster.started(0, 99, now);
        assert_eq!(roster.ended(99, now + HEALTHY_MS).unwrap().restart_in, Some(FIRST_PAUSE_MS));
    }

    #[test]
    fn other_children_and_one_shots() {
        let mut roster = Roster::new(vec![service("once", None, Restart::Never)]);
        roster.started(0, 5, 0);
        assert_eq!(roster.ended(6, 1), None);
        assert_eq!(roster.ended(5, 1), Some(Ended { name: "once", restart_in: None }));
        assert_eq!((roster.due(u64::MAX), roster.next_due()), (vec![], None));
    }

    #[test]
    fn a_service_that_cannot_be_started_is_tried_again() {
        let mut roster = Roster::new(vec![service("gone", None, Restart::Always)]);
        assert_eq!(roster.not_started(0, 50), Some(100));
        assert_eq!(roster.due(149), Vec::<usize>::new());
        assert_eq!(roster.due(150), vec![0]);
    }
}
