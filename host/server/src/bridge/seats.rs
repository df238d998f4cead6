//! How many viewers each session has, so that one link cannot take the daemon's memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use airlock_domain::SessionId;

/// Who looks at which session's screen. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<Mutex<HashMap<SessionId, usize>>>);

/// One viewer's place; free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    session: SessionId,
}

impl Seats {
    /// A place in front of the session's screen, if fewer than `most` are taken.
    pub fn take(&self, session: SessionId, most: usize) -> Option<Seat> {
        let mut taken = self.taken();
        let count = taken.entry(session).or_default();
        (*count < most).then(|| {
            *count += 1;
            Seat { seats: self.clone(), session }
        })
    }

    /// Viewers of all sessions.
    pub fn count(&self) -> usize {
        self.taken().values().sum()
    }

    /// The map is whole after every statement that holds the lock.
    fn taken(&self) -> MutexGuard<'_, HashMap<SessionId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.seats.taken().entry(self.session) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn places_are_taken_and_freed() {
        let seats = Seats::default();
        let (one, other) = (SessionId::from_uuid(Uuid::from_u128(1)), SessionId::from_uuid(Uuid::from_u128(2)));
        let first = seats.take(one, 2).unwrap();
        let second = seats.take(one, 2).unwrap();
        assert!(seats.take(one, 2).is_none());
        let elsewhere = seats.take(other, 2).unwrap();
        assert_eq!(seats.count(), 3);
        drop(first);
        assert!(seats.take(one, 2).is_some());
        drop((second, elsewhere));
        assert_eq!(seats.count(), 0);
        assert!(seats.taken().is_empty(), "nothing is remembered of sessions without viewers");
    }
}
