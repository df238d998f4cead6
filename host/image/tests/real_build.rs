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

use airlock_image::guest_programs::{GuestProgram, GuestSet, guest_programs};
use airlock_image::{
    BuildEvent, BuildOptions, BuildStage, GoldenImage, ImageError, LoadedRecipe, Registry, RootSource, build,
};

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

/// Images of its own, and the cache of all tests if there is one.
fn apart() -> State {
    let dir = tempfile::tempdir().unwrap();
    if let Some(shared) = std::env::var_os("AIRLOCK_TEST_STATE") {
        let cache = Path::new(&shared).join("cache");
        fs::create_dir_all(&cache).unwrap();
        std::os::unix::fs::symlink(cache, dir.path().join("cache")).unwrap();
    }
    State { path: dir.path().to_owned(), _temporary: Some(dir) }
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
    assert!(image.manifest.has_vsock(), "{:?}", image.manifest.modules);

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

/// What a developer of the guest does all day: only the initramfs is made anew.
#[test]
fn real_base_with_another_agent_is_built_in_seconds() {
    let state = apart();
    let (image, _) = build_quietly("base", &state, false);
    let changed: Vec<GuestProgram> = guest_programs()
        .iter()
        .map(|program| {
            let bytes: &'static [u8] = [program.bytes, b"changed"].concat().leak();
            GuestProgram { bytes, ..*program }
        })
        .collect();
    let guest = GuestSet { build_id: "0123456789abcdef", programs: changed.leak() };
    let options = BuildOptions { guest, ..BuildOptions::at(&state.path) };
    let begun = Instant::now();
    let again = build(&LoadedRecipe::load("base").unwrap(), &options, &mut |_| {}).unwrap();
    let elapsed = begun.elapsed();
    println!("base with another agent: {} ms", elapsed.as_millis());
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    let (old, new) = (&image.manifest, &again.manifest);
    assert_ne!(old.files.initramfs.sha256, new.files.initramfs.sha256);
    assert_eq!((&old.files.rootfs, &old.files.kernel), (&new.files.rootfs, &new.files.kernel));
    assert_eq!(new.build_id, guest.build_id);
    Registry::open(&state.path).unwrap().verify(&again).unwrap();
}

/// Another list of packages fetches only what is new, and an ext4 root of the same recipe is the same bytes twice.
#[test]
fn real_changed_package_list_reuses_what_was_fetched_and_ext4_is_reproducible() {
    let state = apart();
    build_quietly("base", &state, false);
    let debs = state.path.join("cache/downloads/debs");
    // The cache is kept between runs: an earlier one may have fetched it, and built with it.
    for file in fs::read_dir(&debs).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("hello_") {
            fs::remove_file(file).unwrap();
        }
    }
    let count = || fs::read_dir(&debs).unwrap().count();
    let before = count();
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/base.toml")).unwrap();
    let text = text.replace("[\"ca-certificates\"]", "[\"ca-certificates\", \"hello\"]");
    let text = text.replace("name = \"base\"", "name = \"more\"\nroot_fs = \"ext4\"\nroot_size_mib = 1024");
    let file = dir.path().join("more.toml");
    fs::write(&file, text).unwrap();
    let recipe = file.to_str().unwrap();
    let begun = Instant::now();
    let (image, reused) = build_quietly(recipe, &state, true);
    println!("one package more: {} ms", begun.elapsed().as_millis());
    assert!(image.manifest.packages.contains_key("hello") && !reused[&BuildStage::Packages]);
    // The kernel's modules differ (ext4 in the place of erofs), its package does not.
    assert_eq!(count(), before + 1, "only hello was fetched");
    assert_eq!(fs::metadata(image.rootfs_path()).unwrap().len(), 1 << 30);
    let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(image.rootfs_path()).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
    let elsewhere = State { path: state.path.join("elsewhere"), _temporary: None };
    fs::create_dir_all(elsewhere.path.join("cache")).unwrap();
    std::os::unix::fs::symlink(state.path.join("cache/downloads"), elsewhere.path.join("cache/downloads")).unwrap();
    let (copy, _) = build_quietly(recipe, &elsewhere, false);
    assert_eq!(copy.digest, image.digest);
    fs::remove_dir_all(&elsewhere.path).unwrap();
}

/// Refused archives in a whole build: the exact code, nothing published, nothing left, and the next build works.
#[test]
fn real_hostile_archives_are_refused_and_nothing_of_them_is_published() {
    let state = apart();
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/hostname"), "x\n").unwrap();
    std::os::unix::fs::symlink("/etc", tree.join("link")).unwrap();
    fs::write(tree.join("zeros"), vec![0; 80 << 20]).unwrap();
    let tar = |name: &str, args: &[&str]| {
        let file = dir.path().join(name);
        let mut tar = Command::new("tar");
        let status = tar.arg("-C").arg(&tree).arg("-cf").arg(&file).args(args).stderr(Stdio::null()).status();
        assert!(status.unwrap().success());
        file
    };
    let cut = tar("cut.tar", &["zeros"]);
    fs::File::options().write(true).open(&cut).unwrap().set_len(1 << 20).unwrap();
    let cases = [
        (tar("up.tar", &["-P", "--transform=s,^,../,", "etc/hostname"]), "archive_path_escapes"),
        (tar("absolute.tar", &["-P", "--transform=s,^,/,", "etc/hostname"]), "archive_path_escapes"),
        (tar("through.tar", &["link", "--transform=s,^etc/,link/,", "etc/hostname"]), "archive_link_escapes"),
        (tar("bomb.tar.gz", &["--gzip", "zeros"]), "archive_bomb"),
        (cut, "archive_damaged"),
        (dir.path().join("none.tar"), "archive_unreadable"),
    ];
    for (file, code) in cases {
        let loaded = LoadedRecipe::foreign("hostile", RootSource::Tar(file.clone())).unwrap();
        let err = build(&loaded, &BuildOptions::at(&state.path), &mut |_| {}).unwrap_err();
        assert_eq!(err.code(), code, "{}: {err}", file.display());
        println!("{code:<24} {err}: {}", std::error::Error::source(&err).unwrap());
    }
    let registry = Registry::open(&state.path).unwrap();
    assert_eq!(registry.find("hostile").unwrap_err().code(), "image_missing");
    for place in ["images", "cache"] {
        for entry in fs::read_dir(state.path.join(place)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with('.') && !name.contains("hostile@"), "{name} is left");
        }
    }
    let good = tar("good.tar.zst", &["--zstd", "etc"]);
    let loaded = LoadedRecipe::foreign("hostile", RootSource::Tar(good)).unwrap();
    let image = build(&loaded, &BuildOptions::at(&state.path), &mut |_| {}).unwrap();
    registry.verify(&image).unwrap();
}

/// A package of the npm registry, installed by the host's npm.
#[test]
fn real_npm_package_is_in_the_root_and_in_the_manifest() {
    let state = apart();
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/no-init.toml")).unwrap();
    let file = dir.path().join("tool.toml");
    fs::write(&file, text.replace("name = \"no-init\"", "name = \"tool\"\nnpm = [\"semver@7.6.3\"]")).unwrap();
    let (image, _) = build_quietly(file.to_str().unwrap(), &state, false);
    assert_eq!(image.manifest.npm["semver"], "7.6.3");
    let out = dir.path().join("out");
    let extract = format!("--extract={}", out.display());
    let fsck = Command::new("fsck.erofs").arg(extract).arg(image.rootfs_path()).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
    let package = fs::read_to_string(out.join("usr/local/lib/node_modules/semver/package.json")).unwrap();
    assert!(package.contains("\"version\": \"7.6.3\""));
    assert!(fs::symlink_metadata(out.join("usr/local/bin/semver")).unwrap().is_symlink());
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
