//! The corpus: serial logs of `consoles/`, written for the project from the fault catalogue, and real ones (`real-*`), with what each
//! must be diagnosed as; and what must hold for any log that is made of them by dropping, repeating, moving or cutting lines.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use airlock_domain::Cause;
use airlock_domain::diagnosis::{Case, Classifier, Judgement, Verdict, classify, diagnose};
use airlock_protocol::Stage;
use proptest::prelude::*;

/// Log, verdict, stage, and causes that must be among `also`.
type Row = (&'static str, &'static str, Option<Stage>, &'static [&'static str]);

include!("consoles/expected.rs");

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/consoles").join(format!("{name}.log"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

static LOGS: LazyLock<Vec<(&'static Row, Vec<u8>)>> =
    LazyLock::new(|| EXPECTED.iter().map(|row| (row, read(row.0))).collect());

fn judge(log: &[u8]) -> Verdict {
    let console = classify(log);
    diagnose(&Case { console: Some(&console), ..Case::default() })
}

#[test]
fn every_log_of_the_corpus_is_diagnosed_right() {
    let mut wrong = Vec::new();
    for ((name, verdict, stage, also), log) in LOGS.iter() {
        let seen = judge(log);
        let codes: Vec<&str> = seen.also.iter().map(|cause| cause.code()).collect();
        let right =
            seen.verdict.code() == *verdict && seen.stage == *stage && also.iter().all(|code| codes.contains(code));
        if !right {
            wrong.push(format!(
                "{name}: wanted {verdict} at {stage:?} also {also:?}\n{}",
                serde_json::to_string_pretty(&seen).unwrap()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), LOGS.len(), wrong.join("\n"));
}

#[test]
fn the_table_has_every_log_and_no_other() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/consoles");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let logs: BTreeSet<String> = names.filter_map(|name| name.strip_suffix(".log").map(str::to_owned)).collect();
    let listed: BTreeSet<String> = EXPECTED.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(logs, listed);
}

#[test]
fn evidence_is_in_the_log_where_it_says() {
    for ((name, ..), log) in LOGS.iter() {
        let text = String::from_utf8_lossy(log);
        let lines: Vec<&str> = text.split('\n').collect();
        let seen = judge(log);
        if seen.verdict.fault().is_some_and(|cause| cause != Cause::NoConsoleOutput) {
            assert!(seen.evidence.iter().any(|evidence| evidence.line.is_some()), "{name}: no line");
        }
        for line in seen.evidence.iter().filter_map(|evidence| evidence.line) {
            assert!((1..=lines.len() as u64).contains(&line), "{name}: line {line} of {}", lines.len());
        }
        assert!(!seen.remedy.is_empty() && !seen.summary.is_empty(), "{name}");
    }
}

#[test]
fn pieces_of_any_size_are_the_same_log() {
    for (row, log) in LOGS.iter() {
        for size in [1, 7, 4096] {
            let mut classifier = Classifier::new();
            log.chunks(size).for_each(|piece| classifier.feed(piece));
            let console = classifier.finish();
            assert_eq!(diagnose(&Case { console: Some(&console), ..Case::default() }), judge(log), "{}", row.0);
        }
    }
}

/// What the lines that are left do prove, beside the whole log's own cause: its symptoms, and what is a less exact name of it.
fn may_be_said(whole: &Verdict, row: &Row) -> BTreeSet<Cause> {
    use Cause as C;
    let mut may: BTreeSet<Cause> = whole.also.iter().copied().collect();
    may.extend([C::Inconclusive, C::ReachableButPending]);
    if let Judgement::Cause(cause) = whole.verdict {
        may.insert(cause);
        may.extend(less_exact(cause));
    }
    // A log of which nothing is left shows no output; a script whose words are all gone said nothing.
    may.insert(C::NoConsoleOutput);
    // Without its last boot a log is about the one before.
    let log = read(row.0);
    let text = String::from_utf8_lossy(&log);
    for (end, _) in text.match_indices("[    0.000000] Linux version").skip(1) {
        let before = judge(&text.as_bytes()[..end]);
        may.extend(before.also);
        may.extend(before.verdict.fault());
    }
    if row.0 == "ours-forged-panic" {
        // Where nothing is left that contradicts it, nobody can tell who wrote it.
        may.extend([C::KernelPanic, C::RootDeviceMissing]);
    }
    if row.0.starts_with("script-") || read(row.0).windows(13).any(|window| window == b"network-setup") {
        may.extend([C::UnitOutputNotOnConsole, C::UnitFailed]);
    }
    may
}

/// The same fault, when a line that says more is missing.
fn less_exact(cause: Cause) -> &'static [Cause] {
    use Cause as C;
    match cause {
        C::LinkRenamed => &[C::LinkMissing],
        C::AddressExists => &[C::AddressSetFailed],
        C::CloneTorn => &[C::RootFsCorrupt],
        // It is another address than the leased one, whoever set that first.
        C::AddressOwnerConflict => &[C::AddressMismatch],
        C::LinkNoCarrier => &[C::DhcpTimeout],
        C::DhcpTimeout => &[C::LinkNoCarrier],
        C::AddressConflict => &[C::AddressMismatch],
        _ => &[],
    }
}

#[derive(Debug, Clone)]
enum Change {
    Drop(usize, usize),
    Repeat(usize, usize),
    Swap(usize, usize),
    CutLine(usize, usize),
    CutLog(usize),
    CutBegin(usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    let at = 0usize..10_000;
    prop_oneof![
        4 => (at.clone(), 1usize..6).prop_map(|(at, count)| Change::Drop(at, count)),
        2 => (at.clone(), at.clone()).prop_map(|(at, to)| Change::Repeat(at, to)),
        2 => (at.clone(), at.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        3 => (at.clone(), 0usize..200).prop_map(|(at, length)| Change::CutLine(at, length)),
        1 => at.clone().prop_map(Change::CutLog),
        1 => at.prop_map(Change::CutBegin),
    ]
}

fn changed(log: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for change in changes {
        let count = lines.len().max(1);
        match *change {
            Change::Drop(at, many) => {
                let at = at % count;
                lines.drain(at.min(lines.len())..(at + many).min(lines.len()));
            }
            Change::Repeat(at, to) => {
                if let Some(line) = lines.get(at % count).cloned() {
                    lines.insert(to % count, line);
                }
            }
            Change::Swap(a, b) => {
                if !lines.is_empty() {
                    lines.swap(a % count, b % count);
                }
            }
            Change::CutLine(at, length) => {
                if let Some(line) = lines.get_mut(at % count) {
                    line.truncate(length);
                }
            }
            Change::CutLog(at) => lines.truncate(at % count),
            Change::CutBegin(at) => {
                lines.drain(..(at % count).min(lines.len()));
            }
        }
    }
    lines.join(&b'\n')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged log is never diagnosed as something that it does not show.
    #[test]
    fn no_damage_makes_a_wrong_cause(at in any::<prop::sample::Index>(), changes in proptest::collection::vec(any_change(), 1..5)) {
        let (row, log) = at.get(&LOGS[..]);
        let whole = judge(log);
        let damaged = changed(log, &changes);
        let seen = judge(&damaged);
        if let Judgement::Cause(cause) = seen.verdict {
            prop_assert!(
                may_be_said(&whole, row).contains(&cause),
                "{}: {} became {}\n{}", row.0, whole.verdict, seen.verdict, serde_json::to_string_pretty(&seen).unwrap()
            );
        }
    }

    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        judge(&bytes);
    }

    /// Bytes among lines that mean something reach further than bytes alone.
    #[test]
    fn no_bytes_among_lines_break_it(at in any::<prop::sample::Index>(), noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60)) {
        let (_, log) = at.get(&LOGS[..]);
        let mut log = log.clone();
        for (place, byte) in noise {
            if !log.is_empty() {
                let place = place.index(log.len());
                log[place] = byte;
            }
        }
        let seen = judge(&log);
        prop_assert!(seen.evidence.len() <= 8 && seen.evidence.iter().all(|evidence| evidence.text.len() < 2000));
    }
}
