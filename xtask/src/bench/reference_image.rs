//! Builds the reference image: Debian 12 under systemd with the shell bootstrap, on an 8 GiB ext4 root.
//!
//! The result is cached under the text of everything that went into it; another recipe makes another image. It is built in
//! a temporary directory and renamed when whole, so a killed build leaves no image that looks finished.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::copy::free_bytes;
use crate::run;

const SUITE: &str = "bookworm";
const IMAGE_BYTES: u64 = 8 << 30;

/// What goes into the image: place, permission bits, text.
const FILES: &[(&str, u32, &str)] = &[
    ("usr/local/bin/network-setup.sh", 0o755, include_str!("../../../bench/reference/network-setup.sh")),
    ("etc/systemd/system/network-setup.service", 0o644, include_str!("../../../bench/reference/network-setup.service")),
    ("etc/systemd/network/10-eth0-dhcp.network", 0o644, include_str!("../../../bench/reference/10-eth0-dhcp.network")),
    (
        "etc/systemd/network/20-eth0-static.network",
        0o644,
        include_str!("../../../bench/reference/20-eth0-static.network"),
    ),
    ("opt/agent/agent.js", 0o644, include_str!("../../../bench/reference/agent.js")),
    ("etc/systemd/system/agent.service", 0o644, include_str!("../../../bench/reference/agent.service")),
    ("etc/fstab", 0o644, "/dev/vda / ext4 errors=remount-ro 0 1\n"),
    ("etc/hostname", 0o644, "reference\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 reference\n"),
    ("etc/resolv.conf", 0o644, "nameserver 192.168.100.1\n"),
    ("etc/machine-id", 0o444, ""),
];
const UNITS: &[&str] = &["systemd-networkd.service", "network-setup.service", "agent.service"];
const PACKAGES: &str = include_str!("../../../bench/reference/packages");

/// A built reference.
#[derive(Debug)]
pub struct ReferenceImage {
    /// Debian's kernel.
    pub kernel: PathBuf,
    /// The initramfs that Debian's tools made for it.
    pub initrd: PathBuf,
    /// The root, sparse, 8 GiB.
    pub root: PathBuf,
}

impl ReferenceImage {
    fn in_dir(dir: &Path) -> Self {
        Self { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd.img"), root: dir.join("rootfs.ext4") }
    }
}

/// Takes the image from `cache`, or builds it there.
pub fn prepare(cache: &Path) -> Result<ReferenceImage> {
    let dir = cache.join("reference");
    let recipe = recipe();
    if fs::read_to_string(dir.join("recipe")).is_ok_and(|text| text == recipe) {
        return Ok(ReferenceImage::in_dir(&dir));
    }
    for (tool, package) in [("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")] {
        run::output(Command::new("which").arg(tool))
            .with_context(|| format!("{tool} is missing: apt-get install {package}"))?;
    }
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let start = Instant::now();
    eprintln!("building the reference image (Debian {SUITE} with systemd; about a minute, once)");
    let temporary =
        tempfile::Builder::new().prefix("reference-").tempdir_in(cache).context("make a build directory")?;
    build(temporary.path(), cache, &recipe)?;
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove the old image {}", dir.display()))?;
    }
    fs::rename(temporary.keep(), &dir).with_context(|| format!("publish {}", dir.display()))?;
    eprintln!("built in {} s: {}", start.elapsed().as_secs(), dir.display());
    Ok(ReferenceImage::in_dir(&dir))
}

fn recipe() -> String {
    let files = FILES.iter().map(|(path, mode, text)| format!("== {path} {mode:o}\n{text}")).collect::<String>();
    format!("{SUITE} {IMAGE_BYTES}\n{}\n{PACKAGES}{files}", UNITS.join(" "))
}

fn build(out: &Path, cache: &Path, recipe: &str) -> Result<()> {
    // The tree is half a gigabyte of small files: memory is much faster, where there is enough of it.
    let shm = Path::new("/dev/shm");
    let base = if free_bytes(shm).is_ok_and(|free| free > 3 << 30) { shm } else { out };
    let work =
        tempfile::Builder::new().prefix("airlock-bench-").tempdir_in(base).context("make a directory for the tree")?;
    let tree = work.path().join("root");
    let packages: Vec<&str> =
        PACKAGES.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--mode=root", "--variant=important", "--dpkgopt=force-unsafe-io"])
        .arg("--aptopt=Acquire::Languages \"none\"")
        .arg(format!("--include={}", packages.join(",")))
        .arg(SUITE)
        .arg(&tree)
        .env("TMPDIR", work.path());
    run::run_logged(&mut mmdebstrap, &cache.join("reference-build.log"))?;

    for (path, mode, text) in FILES {
        write(&tree.join(path), *mode, text)?;
    }
    run::run(Command::new("chroot").arg(&tree).args(["systemctl", "enable"]).args(UNITS))?;
    run::run(Command::new("chroot").arg(&tree).args(["passwd", "--lock", "root"]))?;

    let image = ReferenceImage::in_dir(out);
    take_boot_file(&tree, "vmlinuz-", &image.kernel)?;
    take_boot_file(&tree, "initrd.img-", &image.initrd)?;
    let file = fs::File::create(&image.root).with_context(|| format!("create {}", image.root.display()))?;
    file.set_len(IMAGE_BYTES).context("make the image 8 GiB long")?;
    run::run(Command::new("mkfs.ext4").args(["-q", "-F", "-L", "root", "-d"]).arg(&tree).arg(&image.root))?;
    write(&out.join("recipe"), 0o644, recipe)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    // A link of the distribution (resolv.conf) would lead out of the tree.
    if path.is_symlink() {
        fs::remove_file(path).with_context(|| format!("remove the link {}", path.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn take_boot_file(tree: &Path, prefix: &str, target: &Path) -> Result<()> {
    let boot = tree.join("boot");
    for entry in fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::copy(entry.path(), target).with_context(|| format!("copy {}", entry.path().display()))?;
            return Ok(());
        }
    }
    bail!("no {prefix}* in the boot directory of the tree: was no kernel installed?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_prints_the_markers_of_the_description() {
        let script = FILES[0].2;
        for marker in [
            "=== Network Setup Script Started at $(date) ===",
            "Using ip command: $IP",
            "Kernel cmdline: $cmdline",
            "Found kernel IP parameter: $param",
            "Waiting for device $device to appear...",
            "Device $device found after $attempts attempts",
            "Device $device is UP",
            "IP address assigned",
            "Default route added",
            "=== Network setup complete at $(date) ===",
        ] {
            assert!(script.contains(&format!("say \"{marker}\"")), "{marker}");
        }
    }

    #[test]
    fn another_text_is_another_recipe() {
        let recipe = recipe();
        for (path, _, text) in FILES {
            assert!(recipe.contains(path) && recipe.contains(text));
        }
    }
}
