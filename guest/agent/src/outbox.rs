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
