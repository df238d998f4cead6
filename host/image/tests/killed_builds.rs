//! Builds that die and builds that meet: real processes, the real recipe `base`. Needs root and a package mirror.
//!
//! `AIRLOCK_TEST_STATE` names a state directory whose cache makes it quick; it is only read.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use airlock_image::job::{BuildState, latest_build};
use airlock_image::{BuildOptions, Cancel, ImageError, LoadedRecipe, Registry, build};

/// The example that builds; it lies beside the directory of the tests.
fn builder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples/build_image")
}

fn run(state: &Path, dies_at: Option<u32>) -> Output {
    let mut command = Command::new(builder());
    command.arg("base").arg(state).args(dies_at.map(|count| count.to_string())).stdin(Stdio::null());
    command.output().unwrap()
}

/// A state directory with what the shared cache has, and nothing else of it.
fn state() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    if let Some(shared) = std::env::var_os("AIRLOCK_TEST_STATE") {
        for entry in fs::read_dir(Path::new(&shared).join("cache")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if entry.path().is_dir() && !name.starts_with('.') {
                assert!(
                    Command::new("cp").arg("-a").arg(entry.path()).arg(cache.join(name)).status().unwrap().success()
                );
            }
        }
    }
    dir
}

/// Names of what is unfinished below the state directory.
fn unfinished(state: &Path) -> Vec<String> {
    let entries = ["images", "cache"].iter().flat_map(|dir| fs::read_dir(state.join(dir)).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

/// `kill -9` at every event of a warm build, which is before and after each of its stages: what is published is whole, at any
/// time, and the last build is as if nothing had happened.
#[test]
fn real_builds_killed_at_any_point_leave_no_partial_image() {
    let state = state();
    let state = state.path();
    assert!(run(state, None).status.success(), "the cache is warm");
    let registry = Registry::open(state).unwrap();
    let wanted = registry.find("base").unwrap();
    let text = String::from_utf8(run(state, None).stdout).unwrap();
    let events = u32::try_from(text.lines().count() - 1).unwrap();
    assert!(events > 12, "{text}");
    for dies_at in 1..=events {
        fs::remove_dir_all(state.join("images")).unwrap();
        fs::create_dir(state.join("images")).unwrap();
        let died = run(state, Some(dies_at));
        assert_eq!(died.status.signal(), Some(9), "{died:?}");
        // Either nothing, or the whole image; never a part under a name that counts.
        for (reference, image) in registry.all().unwrap() {
            assert_eq!(reference, wanted.reference(), "event {dies_at}");
            registry.verify(&image.unwrap()).unwrap();
        }
        if let Ok(image) = registry.find("base") {
            registry.verify(&image).unwrap();
        }
        let again = run(state, None);
        assert!(again.status.success(), "event {dies_at}: {}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(registry.find("base").unwrap(), wanted, "event {dies_at}");
        assert_eq!(unfinished(state), [""; 0], "event {dies_at}");
    }
}

#[test]
fn real_builds_of_one_name_at_once_come_to_one_sound_image() {
    let state = state();
    let state = state.path();
    assert!(run(state, None).status.success());
    let children: Vec<_> = (0..4)
        .map(|_| Command::new(builder()).arg("base").arg(state).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let last = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap().lines().last().unwrap().to_owned();
    let registry = Registry::open(state).unwrap();
    let image = registry.find("base").unwrap();
    registry.verify(&image).unwrap();
    assert!(outputs.iter().all(|output| output.status.success() && last(output) == image.reference()), "{outputs:?}");
    assert_eq!((registry.all().unwrap().len(), unfinished(state)), (1, Vec::new()));
}

/// A build holds the lock; another one that does not wait is refused, one that waits can be cancelled, and what was asked to end
/// in the middle leaves nothing.
#[test]
fn real_builds_refuse_wait_and_end_when_they_are_asked() {
    let state = state();
    let state = state.path();
    let loaded = LoadedRecipe::load("base").unwrap();
    let (mut refused, mut cancelled) = (None, None);
    let outer = Cancel::new();
    let options = BuildOptions { cancel: outer.clone(), refresh: true, ..BuildOptions::at(state) };
    let outcome = airlock_image::job::recorded(state, "base", &mut |_, _| {}, |observe| {
        build(&loaded, &options, &mut |event| {
            let is_apt = matches!(&event, airlock_image::BuildEvent::Log { line, .. } if line.starts_with("I: "));
            if is_apt && refused.is_none() {
                // In the middle of the first tool of this build.
                let impatient = BuildOptions { wait: false, ..BuildOptions::at(state) };
                refused = build(&loaded, &impatient, &mut |_| {}).err();
                let waiting = BuildOptions::at(state);
                let inner = waiting.cancel.clone();
                cancelled = build(&loaded, &waiting, &mut |event| {
                    if matches!(event, airlock_image::BuildEvent::Log { .. }) {
                        inner.cancel();
                    }
                })
                .err();
                outer.cancel();
            }
            observe(event);
        })
    });
    let refused = refused.unwrap();
    assert_eq!(refused.code(), "build_running");
    assert!(refused.to_string().contains(&format!("build of base in process {}", std::process::id())), "{refused}");
    assert!(matches!(cancelled, Some(ImageError::Cancelled)), "{cancelled:?}");
    assert!(matches!(outcome, Err(ImageError::Cancelled)), "{outcome:?}");
    assert_eq!(latest_build(state, "base").unwrap().state, BuildState::Cancelled);
    assert!(Registry::open(state).unwrap().all().unwrap().is_empty());
    assert_eq!(unfinished(state), [""; 0]);
}
