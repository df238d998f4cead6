//! Which codes of the catalogue the faults produce, which only the corpus of consoles has, and why no fault produces the others.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use airlock_domain::Cause;

use super::fault::Fault;

/// The table of the corpus; it is read as text, because it is Rust for the tests of another crate.
const CORPUS: &str = include_str!("../../../host/domain/tests/consoles/expected.rs");

/// Codes without a fault, and why.
const NO_FAULT: &[(Cause, &str)] = &[
    (Cause::AddressInUse, "leases are unique rows: no second machine gets one, and no rule says it"),
    (Cause::MacCollision, "a MAC is made of its lease, which is unique: no rule says it"),
    (Cause::EntropyBlocked, "kernels since 5.6 do not wait, and every machine has virtio-rng"),
    (Cause::VirtioDmaFailed, "needs a kernel that is older than this VMM supports"),
    (Cause::AddressExists, "refused is only the very address that is set already, and then the machine is well"),
    (Cause::LogLostTmpfs, "shows as nothing, so nothing proves it"),
    (Cause::AgentRestarting, "said by managers of other images; under ours it is `agent_crashed`"),
    (Cause::CloneTorn, "needs a writable ext4 root that was edited while it was in use; ours are shared and read-only"),
    (Cause::BrowserSandbox, "said by Chromium as root; ours is Firefox as an ordinary user"),
    (Cause::ReachableButPending, "no fault: the machine boots"),
    (Cause::Inconclusive, "no fault: nothing proves any"),
    (Cause::LoginUrlTimeout, LOGIN),
    (Cause::LoginCliExited, LOGIN),
    (Cause::LoginCliNeedsTty, LOGIN),
    (Cause::LoginCallbackPortBusy, LOGIN),
    (Cause::LoginCallbackUnreachable, LOGIN),
    (Cause::LoginInvalidCode, LOGIN),
    (Cause::LoginDeviceFlowNotEnabled, LOGIN),
    (Cause::LoginAccountNotEligible, LOGIN),
    (Cause::LoginToolMissing, LOGIN),
    (Cause::LoginExpired, LOGIN),
    (Cause::LoginDenied, LOGIN),
    (Cause::CredentialMissing, LOGIN),
    (Cause::CredentialStale, LOGIN),
    (Cause::CredentialMalformed, LOGIN),
    (Cause::CredentialRejected, LOGIN),
];
const LOGIN: &str = "an outcome of a sign-in in a healthy machine, typed by the login flow";

/// The catalogue as a table: how many faults and how many consoles each code has, and why there is no fault.
pub fn table(faults: &[Fault]) -> String {
    let produced = count(faults.iter().map(|fault| fault.cause));
    let corpus = count(corpus());
    let of = |counted: &BTreeMap<&str, usize>, cause: &Cause| counted.get(cause.code()).copied().unwrap_or_default();
    let with = |wanted: fn(usize, usize) -> bool| {
        Cause::ALL.iter().filter(|cause| wanted(of(&produced, cause), of(&corpus, cause))).count()
    };
    let mut text = format!(
        "\n## Codes\n\nOf {} codes of the catalogue {} are produced by faults, {} are known from the corpus of consoles only \
         (`host/domain/tests/consoles`), {} from neither.\n\n| code | faults | consoles | why no fault |\n|---|---:|---:|---|\n",
        Cause::ALL.len(),
        with(|faults, _| faults > 0),
        with(|faults, consoles| faults == 0 && consoles > 0),
        with(|faults, consoles| faults == 0 && consoles == 0),
    );
    for cause in Cause::ALL {
        let why = NO_FAULT.iter().find(|(known, _)| known == cause).map_or("", |(_, why)| why);
        let _ = writeln!(text, "| `{cause}` | {} | {} | {why} |", of(&produced, cause), of(&corpus, cause));
    }
    text
}

/// The verdict of each console.
fn corpus() -> impl Iterator<Item = &'static str> {
    // `    ("name", "verdict", Some(Stage::LinkFound), &[]),`
    CORPUS.lines().filter_map(|line| line.trim_start().strip_prefix("(\"")?.split('"').nth(2))
}

fn count<'a>(codes: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    codes.fold(BTreeMap::new(), |mut counted, code| {
        *counted.entry(code).or_default() += 1;
        counted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::table::all;

    #[test]
    fn every_code_has_a_fault_or_a_reason_and_never_both() {
        let produced = count(all().iter().map(|fault| fault.cause).collect::<Vec<_>>().into_iter());
        for cause in Cause::ALL {
            let excused = NO_FAULT.iter().filter(|(known, _)| known == cause).count();
            assert_eq!(excused, usize::from(!produced.contains_key(cause.code())), "{cause}");
        }
    }

    #[test]
    fn the_table_of_the_corpus_is_read() {
        assert!(corpus().count() > 100);
        let unknown: Vec<&str> = corpus().filter(|code| *code != "healthy" && code.parse::<Cause>().is_err()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
