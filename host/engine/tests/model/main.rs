//! The model test: random histories of starts, ends, deaths, restarts, passes and changes by hand, on a host in memory and a real
//! store. Each ends with a restart without faults, after which what is seen must be what is wanted: every VM that nothing ended is
//! adopted and has exactly its things, every other one has nothing, and no foreign thing was touched.
//!
//! A history that fails is shrunk and printed with the seed; `AIRLOCK_MODEL_SEED=<seed>` repeats a run.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod history;
mod ops;
#[path = "../support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use airlock_engine::store::Store;
use history::{History, Tally};
use ops::{Op, any_op};
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use support::{open_store, scratch};
use tempfile::TempDir;

/// Histories of a run, over all threads.
const HISTORIES: u32 = 10_000;
/// Threads, each with a store of its own.
const THREADS: u32 = 4;
/// The most operations of a history.
const LONGEST: usize = 9;
/// Histories after which a thread takes a new store.
const PER_STORE: u32 = 100;

#[test]
fn random_histories_end_with_what_is_wanted_and_nothing_else() {
    let seed = match std::env::var("AIRLOCK_MODEL_SEED") {
        Ok(seed) => seed.parse().expect("AIRLOCK_MODEL_SEED is a number"),
        Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
    };
    println!("model: seed {seed}");
    let (tally, started) = (Tally::default(), Instant::now());
    let failures: Vec<String> = thread::scope(|scope| {
        let tally = &tally;
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || run(seed, number, tally))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    });
    println!(
        "model: {} histories in {:.1} s: {tally:?}",
        THREADS * (HISTORIES / THREADS),
        started.elapsed().as_secs_f64()
    );
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
    // Whatever is never tried would pass as well.
    for (what, count) in tally.counts() {
        assert!(count.load(Ordering::Relaxed) >= 50, "hardly any {what}: {tally:?}");
    }
}

/// The histories of one thread; the error is the shortest one that fails.
fn run(seed: u64, thread: u32, tally: &Tally) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&thread.to_le_bytes());
    let config =
        Config { cases: HISTORIES / THREADS, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let place: RefCell<Option<(Store, TempDir, u32)>> = RefCell::default();
    let ran = runner.run(&vec(any_op(), 1..=LONGEST), |ops: Vec<Op>| {
        runtime.block_on(async {
            // Taken out: what a history that failed left is seen by no other.
            let (store, dir, used) = match place.take().filter(|(.., used)| *used < PER_STORE) {
                Some(place) => place,
                None => {
                    let dir = scratch();
                    (open_store(dir.path()).await, dir, 0)
                }
            };
            let mut history = History::new(store.clone(), dir.path(), tally);
            for op in &ops {
                history.perform(op).await;
            }
            history.judge().await.map_err(TestCaseError::fail)?;
            place.replace(Some((store, dir, used + 1)));
            Ok(())
        })
    });
    ran.map_err(|error| match error {
        TestError::Fail(reason, ops) => format!("{reason}\nafter {ops:#?}"),
        TestError::Abort(reason) => format!("aborted: {reason}"),
    })
}
