//! Builds `base` for real: Debian's packages, the kernel, erofs. Needs root and a package mirror.
//!
//! `AIRLOCK_TEST_STATE` names a state directory to keep, so that a second run shows the warm times.

// The lint knows test functions, not the functions they call.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use airlock_image::{BuildEvent, BuildOptions, BuildStage, GoldenImage, ImageError, LoadedRecipe, Registry, build};

struct State {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

fn state() -> State {
    match std::env::var_os("AIRLOCK_TEST_STATE") {
        Some(path) => State { path: path.into(), _temporary: None },
        None => {
            let dir = tempfile::tempdir().unwrap();
            State { path: dir.path().to_owned(), _temporary: Some(dir) }
        }
    }
}

fn build_quietly(recipe: &str, state: &State, refresh: bool) -> (GoldenImage, BTreeMap<BuildStage, bool>) {
    let mut reused = BTreeMap::new();
    let loaded = LoadedRecipe::load(recipe).unwrap();
    let options = BuildOptions { refresh, ..BuildOptions::at(&state.path) };
    let image = build(&loaded, &options, &mut |event| match event {
        BuildEvent::Finished { stage, elapsed, reused: from_cache } => {
            println!("{stage:<10} {:>6} ms{}", elapsed.as_millis(), if from_cache { "  reused" } else { "" });
            reused.insert(stage, from_cache);
        }
        BuildEvent::Started { .. } => {}
        BuildEvent::Log { line, .. } => println!("    {line}"),
    });
    (image.unwrap(), reused)
}

/// One build, everything a user can do with its outcome.
#[test]
fn real_base_is_built_reused_verified_and_its_damage_named() {
    let recipe = std::env::var("AIRLOCK_TEST_RECIPE").unwrap_or_else(|_| "base".to_owned());
    let state = state();
    let (image, _) = build_quietly(&recipe, &state, false);
    let registry = Registry::open(&state.path).unwrap();
    assert_eq!(registry.find(&recipe).unwrap(), image);
    assert_eq!(registry.find(&image.reference()).unwrap(), image);
    assert!(registry.is_current(&image));
    registry.verify(&image).unwrap();
    for path in [image.kernel_path(), image.initramfs_path(), image.rootfs_path()] {
        println!("{} {} KiB", path.display(), fs::metadata(&path).unwrap().len() / 1024);
    }
    assert!(image.manifest.packages.contains_key("libc6"));
    assert_eq!(image.manifest.kernel.config["CONFIG_IP_PNP"], "n");
    assert_eq!(image.manifest.modules.last().map(String::as_str), Some("erofs.ko"));

    // The second build fetches nothing and comes to the same image.
    let (again, reused) = build_quietly(&recipe, &state, false);
    assert_eq!(again.digest, image.digest);
    assert!([BuildStage::Kernel, BuildStage::Packages, BuildStage::RootImage].iter().all(|stage| reused[stage]));

    // A build from nothing, elsewhere, comes to the same root: same packages, same bytes.
    let elsewhere = State { path: state.path.join("elsewhere"), _temporary: None };
    let (copy, _) = build_quietly(&recipe, &elsewhere, false);
    assert_eq!(copy.digest, image.digest);
    fs::remove_dir_all(&elsewhere.path).unwrap();

    // Nothing unfinished is left.
    for dir in ["images", "cache"] {
        for entry in fs::read_dir(state.path.join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with('.'), "{name} is left");
        }
    }

    // Damage is found: by size when an image is looked up, by digest when it is verified.
    let initramfs = image.initramfs_path();
    let bytes = fs::read(&initramfs).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&initramfs, &flipped).unwrap();
    let err = registry.verify(&registry.find(&recipe).unwrap()).unwrap_err();
    assert!(matches!(&err, ImageError::ImageCorrupt { file, .. } if file == "initramfs"), "{err}");
    fs::write(&initramfs, &bytes[1..]).unwrap();
    assert_eq!(registry.find(&recipe).unwrap_err().code(), "image_corrupt");
    fs::remove_file(&initramfs).unwrap();
    assert_eq!(registry.find(&recipe).unwrap_err().code(), "image_missing");
    // The next build repairs it.
    let (repaired, _) = build_quietly(&recipe, &state, false);
    assert_eq!(repaired.digest, image.digest);
    registry.verify(&repaired).unwrap();
}

#[test]
fn real_package_that_does_not_exist_is_named_in_apts_words() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/base.toml")).unwrap();
    let file = dir.path().join("odd.toml");
    fs::write(&file, text.replace("ca-certificates", "no-such-package-here")).unwrap();
    let loaded = LoadedRecipe::load(file.to_str().unwrap()).unwrap();
    let options = BuildOptions::at(dir.path().join("state"));
    let err = build(&loaded, &options, &mut |_| {}).unwrap_err();
    assert_eq!(err.code(), "package_unknown", "{err}");
    assert!(err.to_string().contains("E: Unable to locate package no-such-package-here"), "{err}");
    assert!(Registry::open(&dir.path().join("state")).unwrap().list().unwrap().is_empty());
}

/// `kill -9` while packages are being installed: no process and no mount outlives it, nothing is published, and the next
/// build in the same state directory starts afresh.
#[test]
fn real_build_that_is_killed_leaves_nothing_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let state = State { path: dir.path().to_owned(), _temporary: None };
    // Examples are built with the tests, beside their directory.
    let builder = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples/build_image");
    let mut child = Command::new(builder).arg("base").arg(&state.path).stdout(Stdio::piped()).spawn().unwrap();
    let mut scratch = PathBuf::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if let Some(path) = line.trim().strip_prefix("working in ") {
            scratch = path.into();
        }
        if line.contains("installing essential packages") {
            break;
        }
    }
    assert!(!processes_naming(&scratch).is_empty(), "the test sees the processes that it is about");
    child.kill().unwrap();
    child.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes_naming(&scratch).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_naming(&scratch));
        std::thread::yield_now();
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*scratch.to_string_lossy()), "{mounts}");
    let registry = Registry::open(&state.path).unwrap();
    assert!(registry.list().unwrap().is_empty());
    assert_eq!(registry.find("base").unwrap_err().code(), "image_missing");

    let (image, _) = build_quietly("base", &state, false);
    registry.verify(&image).unwrap();
    assert!(!scratch.exists());
}

/// Processes with `path` in their arguments.
fn processes_naming(path: &Path) -> Vec<String> {
    let command = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(command);
    all.filter(|command| command.contains(&*path.to_string_lossy())).collect()
}
