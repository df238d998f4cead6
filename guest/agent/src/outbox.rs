//! Messages on their way to the host, put here by any thread and taken by the control channel's.
//!
//! While no host is there (before its `hello`, after it hung up) nothing is kept: the next `hello` gets everything that
//! still matters again, so memory is bounded and nothing stale is sent. What is remembered for later hosts is remembered and
//! queued in one step ([`Outbox::publish`]), so that a host gets it once: in its greeting or behind it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use airlock_protocol::message::GuestMessage;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::lock;

/// The queue and the descriptor that wakes its reader.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    host_is_there: bool,
    /// Hosts that greeted so far.
    hosts: u64,
    messages: VecDeque<GuestMessage>,
}

impl Outbox {
    /// An empty queue with no host.
    pub fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), wake })
    }

    /// Sends `message` if a host is there.
    pub fn push(&self, message: GuestMessage) {
        let mut queue = lock(&self.queue);
        if queue.host_is_there {
            queue.messages.push_back(message);
            let _ = self.wake.write(1);
        }
    }

    /// Remembers something for every later host and sends it to the one that is there. `remember` runs under the lock, as a
    /// greeting does; it says nothing if there is nothing new.
    pub fn publish(&self, remember: impl FnOnce() -> Option<GuestMessage>) {
        let mut queue = lock(&self.queue);
        if let Some(message) = remember()
            && queue.host_is_there
        {
            queue.messages.push_back(message);
            let _ = self.wake.write(1);
        }
    }

    /// Names the host that is there, or was there last.
    pub fn host(&self) -> u64 {
        lock(&self.queue).hosts
    }

    /// Sends `message` if `host` is still the one that is there: an answer is for who asked.
    pub fn push_to(&self, host: u64, message: GuestMessage) {
        let mut queue = lock(&self.queue);
        if queue.host_is_there && queue.hosts == host {
            queue.messages.push_back(message);
            let _ = self.wake.write(1);
        }
    }

    /// A host said `hello`: `greeting` is made under the lock, so that no message can be neither in it nor behind it.
    pub fn host_came(&self, greeting: impl FnOnce() -> Vec<GuestMessage>) {
        let mut queue = lock(&self.queue);
        queue.host_is_there = true;
        queue.hosts += 1;
        queue.messages = greeting().into();
        let _ = self.wake.write(1);
    }

    /// The host hung up.
    pub fn host_left(&self) {
        let mut queue = lock(&self.queue);
        queue.host_is_there = false;
        queue.messages.clear();
    }

    /// The oldest message.
    pub fn pop(&self) -> Option<GuestMessage> {
        lock(&self.queue).messages.pop_front()
    }

    /// Readable when there may be something to pop.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes the wake-up off the descriptor.
    pub fn clear_wake(&self) {
        let _ = self.wake.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(n: u64) -> GuestMessage {
        GuestMessage::Pong { n }
    }

    fn all(outbox: &Outbox) -> Vec<GuestMessage> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    #[test]
    fn each_host_gets_its_greeting_and_what_follows() {
        let outbox = Outbox::new().unwrap();
        outbox.push(pong(1));
        assert_eq!(all(&outbox), vec![], "there is no host yet");
        outbox.host_came(|| vec![pong(2)]);
        outbox.push(pong(3));
        assert_eq!(outbox.pop(), Some(pong(2)));
        // The next one comes before the first had everything.
        outbox.host_came(|| vec![pong(4)]);
        outbox.push(pong(5));
        assert_eq!(all(&outbox), vec![pong(4), pong(5)]);
        outbox.push(pong(6));
        outbox.host_left();
        outbox.push(pong(7));
        assert_eq!(all(&outbox), vec![]);
    }

    #[test]
    fn an_answer_is_for_the_host_that_asked() {
        let outbox = Outbox::new().unwrap();
        outbox.host_came(Vec::new);
        let first = outbox.host();
        outbox.push_to(first, pong(1));
        assert_eq!(all(&outbox), vec![pong(1)]);
        outbox.host_left();
        outbox.push_to(first, pong(2));
        outbox.host_came(Vec::new);
        outbox.push_to(first, pong(3));
        outbox.push_to(outbox.host(), pong(4));
        assert_eq!(all(&outbox), vec![pong(4)]);
    }

    #[test]
    fn what_is_published_without_a_host_is_remembered_and_not_sent() {
        let (outbox, mut remembered) = (Outbox::new().unwrap(), Vec::new());
        let mut publish =
            |n: Option<u64>| outbox.publish(|| n.map(pong).inspect(|message| remembered.push(message.clone())));
        publish(Some(1));
        outbox.host_came(Vec::new);
        publish(Some(2));
        publish(None);
        assert_eq!((all(&outbox), remembered), (vec![pong(2)], vec![pong(1), pong(2)]));
    }
}
