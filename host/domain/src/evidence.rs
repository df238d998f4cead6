//! Evidence bundles as data: their ids, how long they are kept, how much of a long console is worth keeping.
//!
//! A bundle is what is left of a VM that failed. It is removed by age, then by the size of all bundles, oldest first; never
//! while its VM is not destroyed, and never when it is the newest and the failure is less than an hour old: that one is what
//! somebody is about to look at.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::VmId;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How long the newest bundle is safe from every limit.
const SAFE_MS: i64 = 60 * 60 * 1000;

/// Identity of a bundle: `ev-` and the id of its VM. A VM has at most one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EvidenceId(VmId);

/// A text that is not the id of an evidence bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an evidence id (ev- and a UUID)")]
pub struct EvidenceIdError {
    /// The text that was given, cut.
    pub text: String,
}

impl EvidenceId {
    /// The bundle of this VM.
    pub const fn of(vm_id: VmId) -> Self {
        Self(vm_id)
    }

    /// Whose bundle it is.
    pub const fn vm_id(self) -> VmId {
        self.0
    }
}

impl FromStr for EvidenceId {
    type Err = EvidenceIdError;
    fn from_str(text: &str) -> Result<Self, EvidenceIdError> {
        let id = text.strip_prefix("ev-").and_then(|id| id.parse().ok());
        id.map(Self).ok_or_else(|| EvidenceIdError { text: text.chars().take(64).collect() })
    }
}

impl TryFrom<String> for EvidenceId {
    type Error = EvidenceIdError;
    fn try_from(text: String) -> Result<Self, EvidenceIdError> {
        text.parse()
    }
}

impl From<EvidenceId> for String {
    fn from(id: EvidenceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ev-{}", self.0)
    }
}

impl fmt::Debug for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The table `[evidence]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceLimits {
    /// Days after which a bundle is removed, 1 to 3650.
    pub keep_days: u32,
    /// MiB that all bundles together may take, 32 to 1048576. The largest bundle takes about 21.
    pub max_mib: u32,
}

impl Default for EvidenceLimits {
    fn default() -> Self {
        Self { keep_days: 14, max_mib: 1024 }
    }
}

/// What retention looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleFacts {
    /// Which bundle.
    pub id: EvidenceId,
    /// When it was saved, in milliseconds since the Unix epoch.
    pub saved_ms: i64,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
}

/// The bundles to remove now, oldest first. `held` are VMs that are not destroyed yet.
pub fn to_remove(
    bundles: &[BundleFacts],
    limits: EvidenceLimits,
    held: &HashSet<VmId>,
    now_ms: i64,
) -> Vec<EvidenceId> {
    let mut by_age = bundles.to_vec();
    by_age.sort_by_key(|bundle| (bundle.saved_ms, bundle.id));
    let newest = by_age.last().filter(|bundle| now_ms.saturating_sub(bundle.saved_ms) < SAFE_MS).map(|b| b.id);
    let oldest_ms = now_ms.saturating_sub(i64::from(limits.keep_days) * DAY_MS);
    let most = u64::from(limits.max_mib) << 20;
    let mut total = by_age.iter().fold(0u64, |sum, bundle| sum.saturating_add(bundle.bytes));
    let mut remove = Vec::new();
    for bundle in by_age {
        let safe = newest == Some(bundle.id) || held.contains(&bundle.id.vm_id());
        if !safe && (bundle.saved_ms < oldest_ms || total > most) {
            total = total.saturating_sub(bundle.bytes);
            remove.push(bundle.id);
        }
    }
    remove
}

/// How much of a long text is kept, in bytes: its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    /// Bytes of the beginning.
    pub head: u64,
    /// Bytes of the end.
    pub tail: u64,
}

impl Excerpt {
    /// Of a console: its boot, and what it said last.
    pub const CONSOLE: Self = Self { head: 1 << 20, tail: 15 << 20 };
    /// Of a VMM's log.
    pub const LOG: Self = Self { head: 256 << 10, tail: (4 << 20) - (256 << 10) };

    /// The smaller excerpt to try when this one does not fit on the disk: the end is worth most. None when nothing is left to try.
    #[must_use]
    pub fn smaller(self, length: u64) -> Option<Self> {
        let tail = self.tail.min(length) / 4;
        (tail >= 1024).then_some(Self { head: 0, tail })
    }

    /// The range of a text of `length` bytes that is left out; none if it is kept whole.
    pub fn cut(self, length: u64) -> Option<std::ops::Range<u64>> {
        (length > self.head + self.tail).then(|| self.head..length - self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn bundle(n: u128, saved_ms: i64, mib: u64) -> BundleFacts {
        BundleFacts { id: EvidenceId::of(VmId::from_uuid(Uuid::from_u128(n))), saved_ms, bytes: mib << 20 }
    }

    fn removed(bundles: &[BundleFacts], limits: EvidenceLimits, held: &[BundleFacts], now_ms: i64) -> Vec<u128> {
        let held = held.iter().map(|bundle| bundle.id.vm_id()).collect();
        let ids = to_remove(bundles, limits, &held, now_ms);
        ids.iter().map(|id| u128::from_be_bytes(*id.vm_id().as_bytes())).collect()
    }

    #[test]
    fn an_id_is_one_spelling_and_never_a_path() {
        let text = "ev-01234567-89ab-4def-8123-456789abcdef";
        let id: EvidenceId = text.parse().unwrap();
        assert_eq!((id.to_string().as_str(), serde_json::to_string(&id).unwrap()), (text, format!("{text:?}")));
        assert_eq!(id.vm_id().to_string(), &text[3..]);
        for bad in [
            "",
            "ev-",
            "../../etc/passwd",
            "ev-../x",
            &text[3..],
            &format!("{text}/.."),
            &format!("{text}\0"),
            &format!(".{text}"),
            &text.to_uppercase(),
        ] {
            assert!(bad.parse::<EvidenceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn age_then_size_oldest_first() {
        let limits = EvidenceLimits { keep_days: 2, max_mib: 32 };
        let now = 10 * DAY_MS;
        let old = bundle(1, now - 2 * DAY_MS - 1, 1);
        let all = [bundle(4, now - 3, 10), bundle(2, now - DAY_MS, 20), old, bundle(3, now - 4, 20)];
        assert_eq!(removed(&all, limits, &[], now), [1, 2]);
        assert_eq!(removed(&all, limits, &[all[1]], now), [1, 3]);
        assert_eq!(removed(&[bundle(1, now - 2 * DAY_MS, 1)], limits, &[], now), [0u128; 0]);
    }

    #[test]
    fn the_newest_is_safe_for_an_hour_however_large() {
        let limits = EvidenceLimits { keep_days: 1, max_mib: 32 };
        let now = 10 * DAY_MS;
        let huge = bundle(2, now, 100);
        assert_eq!(removed(&[bundle(1, now - 1, 1), huge], limits, &[], now), [1]);
        assert_eq!(removed(&[huge], limits, &[], now + SAFE_MS - 1), [0u128; 0]);
        assert_eq!(removed(&[huge], limits, &[], now + SAFE_MS), [2]);
    }

    #[test]
    fn an_excerpt_keeps_both_ends_and_shrinks_to_the_end() {
        assert_eq!(Excerpt::CONSOLE.cut(16 << 20), None);
        assert_eq!(Excerpt::CONSOLE.cut((16 << 20) + 5), Some(1 << 20..(1 << 20) + 5));
        let mut excerpt = Excerpt::CONSOLE;
        let mut tails = Vec::new();
        while let Some(smaller) = excerpt.smaller(100_000) {
            excerpt = smaller;
            tails.push((excerpt.head, excerpt.tail));
        }
        assert_eq!(tails, [(0, 25_000), (0, 6_250), (0, 1_562)]);
    }

    fn any_bundles() -> impl Strategy<Value = Vec<BundleFacts>> {
        proptest::collection::vec((-5 * DAY_MS..20 * DAY_MS, 0u64..400), 0..12).prop_map(|found| {
            found.into_iter().zip(1u128..).map(|((saved_ms, mib), n)| bundle(n, saved_ms, mib)).collect()
        })
    }

    proptest! {
        #[test]
        fn retention_holds_its_limits_and_its_promises(
            bundles in any_bundles(), mask in any::<u16>(), keep_days in 1u32..8, max_mib in 32u32..1500, now_ms in 0..15 * DAY_MS,
        ) {
            let limits = EvidenceLimits { keep_days, max_mib };
            let held: HashSet<VmId> =
                bundles.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1).map(|(_, b)| b.id.vm_id()).collect();
            let removed = to_remove(&bundles, limits, &held, now_ms);
            let (gone, kept): (Vec<&BundleFacts>, Vec<&BundleFacts>) = bundles.iter().partition(|bundle| removed.contains(&bundle.id));
            prop_assert!(gone.iter().all(|bundle| !held.contains(&bundle.id.vm_id())), "held");

            let newest = bundles.iter().max_by_key(|bundle| (bundle.saved_ms, bundle.id));
            let is_safe = |bundle: &BundleFacts| {
                held.contains(&bundle.id.vm_id())
                    || (Some(bundle) == newest && now_ms - bundle.saved_ms < SAFE_MS)
            };
            prop_assert!(!gone.iter().any(|bundle| is_safe(bundle)), "safe");
            prop_assert!(kept.iter().all(|b| is_safe(b) || b.saved_ms >= now_ms - i64::from(keep_days) * DAY_MS), "age");
            let total: u64 = kept.iter().map(|bundle| bundle.bytes).sum();
            prop_assert!(total <= u64::from(max_mib) << 20 || kept.iter().all(|bundle| is_safe(bundle)), "size");

            // Oldest first: nothing that may go is older than something that went.
            let last = gone.iter().map(|bundle| (bundle.saved_ms, bundle.id)).max();
            prop_assert!(kept.iter().all(|b| is_safe(b) || last.is_none_or(|last| (b.saved_ms, b.id) > last)), "order");
            // Nothing goes without need: with the last one that went still there, a limit would be broken.
            if let Some(last) = removed.last().and_then(|id| bundles.iter().find(|bundle| bundle.id == *id)) {
                let too_old = last.saved_ms < now_ms - i64::from(keep_days) * DAY_MS;
                prop_assert!(too_old || total + last.bytes > u64::from(max_mib) << 20, "need");
            }
            let rest: Vec<BundleFacts> = kept.into_iter().copied().collect();
            prop_assert_eq!(to_remove(&rest, limits, &held, now_ms), vec![], "settled");
        }
    }
}
