//! The kill matrix of a capture: whoever dies, wherever, the credential is either in the vault and its session completed, or the
//! session is still open, the guest still has the files, and the next daemon takes them from it.
//!
//! ```text
//! sent -> awaiting_user -> capturing -> [sealed, committed, completed] -> acknowledged -> undone -> receipt
//! ```
//! Dying are the daemon (everything in its memory is gone), the agent (its connection and its outbox are gone; the files are in the
//! guest) and the VMM (the guest is gone with the files). `fake` dies at every place where the daemon waits, on a host in memory with
//! the real database and vault; `real` kills processes with SIGKILL: a daemon with the real engine, a VMM's stand-in, a guest's
//! connection.
//!
//! The last line of each level is one JSON object.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fake;
mod guest;
mod outcome;
mod real;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;

/// What a level tried and what came of it.
#[derive(Debug, Default)]
struct Matrix {
    /// Cells by who died in them.
    killed: BTreeMap<&'static str, usize>,
    /// Cells whose daemon died before the commit, and behind it.
    died_before: usize,
    died_behind: usize,
    inconsistent: Vec<String>,
}

impl Matrix {
    /// A cell in which the daemon left the session as `completed` when it died; none if it did not die, or left nothing to say.
    fn add(&mut self, killed: &'static str, cell: anyhow::Result<Option<bool>>, name: impl FnOnce() -> String) {
        *self.killed.entry(killed).or_default() += 1;
        match cell {
            Ok(Some(true)) => self.died_behind += 1,
            Ok(Some(false)) => self.died_before += 1,
            Ok(None) => {}
            Err(error) => self.inconsistent.push(format!("{}: {error:#}", name())),
        }
    }

    fn report(&self, level: &str, at_least: usize) {
        let points: usize = self.killed.values().sum();
        println!(
            "{}",
            serde_json::json!({"capture_kill": level, "points": points, "killed": self.killed, "daemon_died":
                {"before_commit": self.died_before, "behind_commit": self.died_behind},
                "consistent": points.saturating_sub(self.inconsistent.len())})
        );
        assert!(self.inconsistent.is_empty(), "{:#?}", self.inconsistent);
        assert!(points >= at_least, "only {points} points");
        assert!(self.died_before > 0 && self.died_behind > 0, "no death on one side of the commit");
    }
}

#[tokio::test]
async fn capture_kill_fake() {
    fake::run().await.report("fake", 100);
}

#[test]
fn capture_kill_real() {
    real::be_a_daemon_if_asked();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: capture_kill_real needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(real::run()).report("real", 30);
}
