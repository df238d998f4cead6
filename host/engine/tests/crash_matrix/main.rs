//! The crash matrix: every plan x every step x every fault, on a host in memory and on real kernel objects.
//!
//! ```text
//! session accepted -> first life, with one fault -> (death: the next daemon) -> pass -> judged -> pass: nothing to do
//! ```
//! Each cell is judged by what is there ([`site::Site::look`]), not by what the code under test says about it: nothing left and no
//! lease, or a live VM with everything in its place that the pass adopts, and nothing else touched: not the live VM
//! beside it, not a foreign TAP, directory or process. `needs_attention` is right only for an undo that never succeeds, and only
//! until it does. The last line of each level is one JSON object; `cargo xtask crash-matrix` reads it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cell;
mod fake;
mod judge;
mod life;
mod real;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod sweep;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use airlock_domain::step::Step;
use cell::{Cell, Plan};
use site::{Site, Thing};
use support::faulty::{Fault, Strike};

/// How many sites of the real level work at once, each with a namespace and a state directory of its own.
const REAL_SITES: usize = 4;

#[test]
fn crash_matrix_fake() {
    report("fake", 1, |_| fake::FakeSite::new());
}

#[test]
fn crash_matrix_real() {
    real::be_a_victim_if_asked();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: crash_matrix_real needs root");
        return;
    }
    report("real", REAL_SITES, real::RealSite::new);
}

/// An undo that lies leaves its thing behind, and the judge names it: the matrix is not blind.
async fn sees_what_is_left(site: &mut impl Site, step: Step, thing: Thing) {
    let strike = Strike { step, fault: Fault::UndoLies };
    let error = judge::run(site, Cell { plan: Plan::Destroy, strike }, false).await.unwrap_err().to_string();
    assert!(error.starts_with("adopted: false, left: {") && error.contains(&format!("{thing:?}")), "{error}");
}

const LEFT: [(Step, Thing); 3] =
    [(Step::CreateTap, Thing::Tap), (Step::PrepareDisk, Thing::Directory), (Step::SpawnVmm, Thing::Vmm)];

#[tokio::test]
async fn what_is_left_in_memory_is_seen() {
    for (step, thing) in LEFT {
        sees_what_is_left(&mut fake::FakeSite::new().await, step, thing).await;
    }
}

#[tokio::test]
async fn what_is_left_on_the_kernel_is_seen() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: what_is_left_on_the_kernel_is_seen needs root");
        return;
    }
    for (number, (step, thing)) in LEFT.into_iter().enumerate() {
        sees_what_is_left(&mut real::RealSite::new(number).await, step, thing).await;
    }
}

/// Runs every cell, spread over some sites, prints what leaked, and fails if anything did.
fn report<S: Site, F: Future<Output = S>>(level: &str, sites: usize, make: impl Fn(usize) -> F + Sync) {
    let cells = Cell::all();
    let done = AtomicUsize::new(0);
    let started = std::time::Instant::now();
    let leaks: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..sites)
            .map(|number| {
                let (cells, done, make) = (&cells, &done, &make);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let mut site = make(number).await;
                        let mut leaks = Vec::new();
                        for (at, cell) in cells.iter().enumerate().filter(|(at, _)| at % sites == number) {
                            // Sometimes somebody sits in the VM's directory already.
                            if let Err(error) = judge::run(&mut site, *cell, (at / sites).is_multiple_of(2)).await {
                                println!("{level}: {cell}: {error:#}");
                                leaks.push(cell.to_string());
                                // What it left would be blamed on the next one.
                                drop(site);
                                site = make(number).await;
                            }
                            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                            if done.is_multiple_of(25) || done == cells.len() {
                                println!("{level}: {done} of {} cells", cells.len());
                            }
                        }
                        if let Err(error) = judge::sweep(&mut site).await {
                            println!("{level}: site {number} at its end: {error:#}");
                            leaks.push(format!("site {number} at its end"));
                        }
                        leaks
                    })
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{level}: {} cells in {:.1} s", cells.len(), started.elapsed().as_secs_f64());
    println!("{}", serde_json::json!({"level": level, "cells": cells.len(), "leaks": leaks.len()}));
    assert!(leaks.is_empty(), "{level}: leaking cells: {leaks:#?}");
}
