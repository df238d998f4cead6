//! Who may refresh a credential: one holder at a time, told apart by a fence that only grows.
//!
//! ```text
//! free ── grant(holder) ─> held, fence + 1 ── renew ─> held longer
//!   ↑                        │  └─ time is over: the next grant takes it, with the next fence
//!   └──── release, delete ───┘
//! ```
//! A write needs the newest fence. A holder whose time is over may still write as long as nobody was granted after it: it may hold
//! the only refresh token that the vendor still takes, and nobody else can have another. Whoever was granted later makes its fence
//! stale, whatever it still believes. Time is the host's monotonic clock; of a lease that an earlier boot gave nobody knows how long
//! it lasts, so it is over.

/// What is recorded of a credential's lease. The fence outlives the credential, so that no number is given twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialLease {
    /// How often it was granted.
    pub fence: i64,
    /// Who has it; nobody after a release.
    pub holder: Option<Holder>,
}

/// Who has a lease, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// As it named itself.
    pub name: String,
    /// End on the monotonic clock of one boot, in milliseconds.
    pub until_ms: i64,
    /// Which boot.
    pub boot_id: String,
}

/// Now, on the clock that leases run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now<'b> {
    /// Milliseconds on the monotonic clock.
    pub mono_ms: i64,
    /// Of this boot.
    pub boot_id: &'b str,
}

/// Why it was not granted, renewed or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// Somebody has it.
    #[error("{holder:?} holds the lease for {left_ms} ms more")]
    Held {
        /// Who.
        holder: String,
        /// For how long, unless it is renewed.
        left_ms: i64,
    },
    /// Somebody was granted it later, or it was released.
    #[error("fence {fence} is stale: the newest is {newest}{}", if *.released { ", and it was released" } else { "" })]
    StaleFence {
        /// The one that was given.
        fence: i64,
        /// The newest one.
        newest: i64,
        /// Whether the newest one was given back.
        released: bool,
    },
    /// Its time is over.
    #[error("the lease with fence {fence} is over")]
    Over {
        /// Its fence.
        fence: i64,
    },
}

impl CredentialLease {
    fn left_ms(&self, now: Now<'_>) -> Option<(&Holder, i64)> {
        let holder = self.holder.as_ref().filter(|holder| holder.boot_id == now.boot_id)?;
        let left = holder.until_ms.saturating_sub(now.mono_ms);
        (left > 0).then_some((holder, left))
    }

    /// Gives it to `holder`, unless somebody has it: the same name as well, for two that call themselves the same are still two.
    pub fn grant(&self, holder: &str, ttl_ms: i64, now: Now<'_>) -> Result<Self, LeaseRefusal> {
        if let Some((held, left_ms)) = self.left_ms(now) {
            return Err(LeaseRefusal::Held { holder: held.name.clone(), left_ms });
        }
        Ok(Self { fence: self.fence + 1, holder: Some(held(holder, ttl_ms, now)) })
    }

    /// Makes it last from now on. One that is over is not renewed: it is to be asked for again.
    pub fn renew(&self, fence: i64, ttl_ms: i64, now: Now<'_>) -> Result<Self, LeaseRefusal> {
        self.check_fence(fence)?;
        let (holder, _) = self.left_ms(now).ok_or(LeaseRefusal::Over { fence })?;
        Ok(Self { fence, holder: Some(held(&holder.name, ttl_ms, now)) })
    }

    /// Gives it back.
    pub fn release(&self, fence: i64) -> Result<Self, LeaseRefusal> {
        self.check_fence(fence)?;
        Ok(self.revoked())
    }

    /// Nobody has it any more, whoever had it.
    pub fn revoked(&self) -> Self {
        Self { fence: self.fence, holder: None }
    }

    /// Whether whoever has this fence may write.
    pub fn check_fence(&self, fence: i64) -> Result<(), LeaseRefusal> {
        if fence == self.fence && self.holder.is_some() {
            return Ok(());
        }
        Err(LeaseRefusal::StaleFence { fence, newest: self.fence, released: self.holder.is_none() && self.fence > 0 })
    }
}

fn held(name: &str, ttl_ms: i64, now: Now<'_>) -> Holder {
    Holder { name: name.to_owned(), until_ms: now.mono_ms.saturating_add(ttl_ms), boot_id: now.boot_id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(mono_ms: i64) -> Now<'static> {
        Now { mono_ms, boot_id: "boot" }
    }

    #[test]
    fn one_holder_at_a_time_and_an_end_by_time() {
        let first = CredentialLease::default().grant("a", 100, at(0)).unwrap();
        assert_eq!(first.fence, 1);
        assert_eq!(first.grant("b", 100, at(40)), Err(LeaseRefusal::Held { holder: "a".into(), left_ms: 60 }));
        assert!(first.grant("a", 100, at(40)).is_err(), "the same name is no proof");
        assert_eq!(first.renew(1, 100, at(99)).unwrap().holder.unwrap().until_ms, 199);
        assert_eq!(first.renew(1, 100, at(100)), Err(LeaseRefusal::Over { fence: 1 }));
        first.check_fence(1).unwrap();
        let second = first.grant("b", 100, at(100)).unwrap();
        assert_eq!(second.check_fence(1), Err(LeaseRefusal::StaleFence { fence: 1, newest: 2, released: false }));
        assert!(second.release(1).is_err() && second.renew(1, 1, at(101)).is_err());
        let free = second.release(2).unwrap();
        assert!(free.check_fence(2).is_err() && free.check_fence(0).is_err());
        assert_eq!(free.grant("c", 1, at(101)).unwrap().fence, 3);
    }

    #[test]
    fn a_lease_of_an_earlier_boot_is_over() {
        let lease = CredentialLease::default().grant("a", 1_000_000, at(5_000_000)).unwrap();
        let next = Now { mono_ms: 10, boot_id: "next" };
        assert_eq!(lease.renew(1, 5, next), Err(LeaseRefusal::Over { fence: 1 }));
        assert_eq!(lease.grant("b", 5, next).unwrap().fence, 2);
    }

    #[test]
    fn nobody_writes_before_anybody_was_granted() {
        assert!(CredentialLease::default().check_fence(0).is_err());
    }

    /// What two holders and the world may do, in any order.
    #[derive(Debug, Clone)]
    enum Op {
        Grant { who: usize, ttl_ms: i64 },
        Renew { who: usize, ttl_ms: i64 },
        Release { who: usize },
        Read { who: usize },
        Write { who: usize },
        Capture,
        Delete,
        Pass { ms: i64 },
        Reboot,
    }

    fn op() -> impl Strategy<Value = Op> {
        let (who, ttl) = (0..2usize, 1..50i64);
        prop_oneof![
            3 => (who.clone(), ttl.clone()).prop_map(|(who, ttl_ms)| Op::Grant { who, ttl_ms }),
            1 => (who.clone(), ttl).prop_map(|(who, ttl_ms)| Op::Renew { who, ttl_ms }),
            1 => who.clone().prop_map(|who| Op::Release { who }),
            3 => who.clone().prop_map(|who| Op::Read { who }),
            4 => who.prop_map(|who| Op::Write { who }),
            1 => Just(Op::Capture),
            1 => Just(Op::Delete),
            3 => (1..40i64).prop_map(|ms| Op::Pass { ms }),
            1 => Just(Op::Reboot),
        ]
    }

    proptest! {
        /// Whatever the order: fences only grow, two never hold at once, and a write that is taken replaces exactly what its writer
        /// read, by the one who was granted last.
        #[test]
        fn no_update_is_lost_and_no_stale_holder_writes(ops in proptest::collection::vec(op(), 1..120)) {
            let mut lease = CredentialLease::default();
            // Version of the credential; versions are never given twice, as the store keeps them.
            let (mut version, mut last_version) = (Some(1i64), 1i64);
            let (mut mono_ms, mut boot) = (0i64, 0u32);
            let mut fence_of = [0i64; 2];
            let mut read_of = [0i64; 2];
            let mut granted_last = None;
            for op in ops {
                let boot_id = boot.to_string();
                let now = Now { mono_ms, boot_id: &boot_id };
                let before = lease.clone();
                match op {
                    Op::Grant { who, ttl_ms } => if let Ok(next) = lease.grant(&who.to_string(), ttl_ms, now) {
                        prop_assert!(before.left_ms(now).is_none(), "somebody held it");
                        lease = next;
                        fence_of[who] = lease.fence;
                        granted_last = Some(who);
                    },
                    Op::Renew { who, ttl_ms } => if let Ok(next) = lease.renew(fence_of[who], ttl_ms, now) {
                        prop_assert_eq!(granted_last, Some(who));
                        lease = next;
                    },
                    Op::Release { who } => if let Ok(next) = lease.release(fence_of[who]) {
                        prop_assert_eq!(granted_last, Some(who));
                        lease = next;
                        granted_last = None;
                    },
                    Op::Read { who } => read_of[who] = version.unwrap_or(0),
                    Op::Write { who } => {
                        let allowed = lease.check_fence(fence_of[who]).is_ok();
                        prop_assert_eq!(allowed, granted_last == Some(who));
                        if allowed && version == Some(read_of[who]) {
                            last_version += 1;
                            version = Some(last_version);
                        }
                    }
                    Op::Capture => {
                        last_version += 1;
                        version = Some(last_version);
                    }
                    Op::Delete => {
                        version = None;
                        lease = lease.revoked();
                        granted_last = None;
                    }
                    Op::Pass { ms } => mono_ms += ms,
                    Op::Reboot => { boot += 1; mono_ms = 0; }
                }
                prop_assert!(lease.fence >= before.fence && lease.fence <= before.fence + 1);
            }
        }
    }
}
