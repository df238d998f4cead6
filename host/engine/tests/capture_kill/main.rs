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
mod outcome;
mod real;
#[path = "../support/mod.rs"]
mod support;

#[tokio::test]
async fn capture_kill_fake() {
    let (cells, inconsistent) = fake::run().await;
    report("fake", cells, &inconsistent);
    assert!(cells > 100, "only {cells} cells");
}

#[test]
fn capture_kill_real() {
    real::be_a_daemon_if_asked();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: capture_kill_real needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (cells, inconsistent) = runtime.block_on(real::run());
    report("real", cells, &inconsistent);
    assert!(cells > 20, "only {cells} cells");
}

fn report(level: &str, cells: usize, inconsistent: &[String]) {
    println!("{}", serde_json::json!({"capture_kill": level, "cells": cells, "inconsistent": inconsistent.len()}));
    assert!(inconsistent.is_empty(), "{inconsistent:#?}");
}
