//! Writes docs/faults.md: each fault, what Airlock said of it, and how long that took.

use std::fmt::Write as _;
use std::path::Path;

use airlock_protocol::Stage;
use anyhow::{Context, Result};

use super::fault::Since;
use super::outcome::Outcome;
use super::{coverage, table};

const HEAD: &str = "# Faults\n\n\
    Written by `cargo xtask faults --write-docs`; not to be edited. Every fault is produced on a real machine (QEMU without hardware\n\
    virtualization) or on real objects of the host. *Since* says from when the time to the verdict counts: the moment the start was\n\
    asked for (refusals, and what is only ever silent: there the boot's deadline speaks), the moment something was done, the moment\n\
    the console showed it, or the VMM's exit. Beside each fault lives a machine that must be judged `healthy`, and after it nothing of the\n\
    broken one may be left. A row is the fault's last outcome.\n\n";

/// Writes the page.
pub fn write(path: &Path, faults: &[Outcome]) -> Result<()> {
    let text = page(faults) + &coverage::table(&table::all());
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn page(faults: &[Outcome]) -> String {
    let right = faults.iter().filter(|outcome| outcome.ok).count();
    let worst = |wanted: fn(Since) -> bool| {
        let chosen = faults.iter().filter(|outcome| outcome.since.is_some_and(wanted));
        chosen.filter_map(|outcome| outcome.ms).max().unwrap_or_default()
    };
    let mut text = HEAD.to_owned();
    let _ = write!(
        text,
        "**{right}/{} right.** Worst time to a verdict: {} ms after the console or the VMM showed it, {} ms after something was done, \
         {} ms where only the deadline could tell or the start was refused.\n\n",
        faults.len(),
        worst(|since| matches!(since, Since::Sign(_) | Since::Exit)),
        worst(|since| since == Since::Acted),
        worst(|since| since == Since::Asked),
    );
    text += "| fault | how it is produced | expected | said | at stage | ms | since | |\n|---|---|---|---|---|---:|---|---|\n";
    for outcome in faults {
        let _ = writeln!(
            text,
            "| {} | {} | `{}` | {} | {} | {} | {} | {} |",
            outcome.name,
            outcome.how.replace('|', "\\|"),
            outcome.expected,
            outcome.said.as_ref().map_or("-".to_owned(), |said| format!("`{said}`")),
            outcome.stage.map_or("-", Stage::name),
            outcome.ms.map_or("-".to_owned(), |ms| ms.to_string()),
            outcome.since.map_or("-", since),
            if outcome.ok { "right" } else { "**wrong**" },
        );
    }
    text
}

const fn since(since: Since) -> &'static str {
    match since {
        Since::Asked => "asked for",
        Since::Acted => "done",
        Since::Sign(_) => "on the console",
        Since::Exit => "VMM gone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_expected_and_what_was_said() {
        let outcome = Outcome {
            name: "tap-down".into(),
            how: "ip link set a|b".into(),
            expected: "tap_down".into(),
            said: Some("link_no_carrier".into()),
            expected_stage: None,
            stage: Some(Stage::LinkUp),
            ms: Some(12),
            within_ms: 10,
            since: Some(Since::Acted),
            ok: false,
            wrong: None,
        };
        let page = page(&[outcome]);
        assert!(page.contains("**0/1 right.**"), "{page}");
        assert!(
            page.ends_with(
                "| tap-down | ip link set a\\|b | `tap_down` | `link_no_carrier` | link_up | 12 | done | **wrong** |\n"
            ),
            "{page}"
        );
    }
}
