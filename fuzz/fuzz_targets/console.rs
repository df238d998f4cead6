//! Any bytes as a console: nothing breaks, evidence stays short, and the same bytes in pieces are the same log.

#![no_main]

use airlock_domain::diagnosis::{Case, Classifier, ConsoleFacts, Verdict, classify, diagnose};
use libfuzzer_sys::fuzz_target;

fn judge(console: &ConsoleFacts) -> Verdict {
    diagnose(&Case { console: Some(console), ..Case::default() })
}

fuzz_target!(|log: &[u8]| {
    let whole = judge(&classify(log));
    assert!(whole.evidence.len() <= 8 && whole.evidence.iter().all(|seen| seen.text.len() < 2000), "{whole:?}");
    assert!(!whole.summary.is_empty() && !whole.remedy.is_empty(), "{whole:?}");
    let size = usize::from(log.first().copied().unwrap_or_default()) % 61 + 1;
    let mut classifier = Classifier::new();
    log.chunks(size).for_each(|piece| classifier.feed(piece));
    assert_eq!(judge(&classifier.finish()), whole, "in pieces of {size}");
    // The same from the VMM, beside a console that says nothing.
    let said = classify(log);
    diagnose(&Case { vmm_log: Some(&said), ..Case::default() });
});
