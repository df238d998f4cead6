//! A jail: what Firecracker's own jailer is told, and what is put where the process will see it.
//!
//! ```text
//! <VM's directory>/console.log ─(the same file)─┐
//! <VM's directory>/jail/firecracker/<id>/root/  ├ console.log metrics.json          its own
//!                                               ├ vmlinux initramfs rootfs seed.img  links to the image's files, else copies
//!                                               └ api.sock agent.sock                made by it
//! ```
//! The network namespace is that of every VMM, entered before exec; the PID namespace is made there too ([`crate::process`]): the
//! jailer's own way to make one forks, and the process that was recorded would not be the VMM (ADR 4). Everything lies below
//! the VM's directory and goes with it; only the cgroup does not ([`remove_cgroup`]).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use airlock_domain::config::Jailer;
use airlock_domain::vmm::VmmSpec;

use super::calls::{self, Seen};
use crate::Removed;

const BASE: &str = "jail";
/// Cgroup that holds those of all VMs.
const PARENT_CGROUP: &str = "airlock";
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const ROOTFS: &str = "rootfs";
const SEED: &str = "seed.img";
/// What anybody may read.
const READABLE: u32 = 0o004;

/// The root of the jail in a VM's directory; none if it has no jail.
pub fn root_of(dir: &Path) -> Option<PathBuf> {
    let program = fs::read_dir(dir.join(BASE)).ok()?.next()?.ok()?;
    Some(program.path().join(dir.file_name()?).join("root"))
}

/// Makes the jail of a VM for a program, and everything in it. What an earlier attempt left is replaced. The error names the file.
pub fn prepare(spec: &VmmSpec, program: &Path, uid: u32) -> Result<Seen, (PathBuf, io::Error)> {
    let base = spec.dir.join(BASE);
    let named = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    match fs::remove_dir_all(&base) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((base, error)),
        _ => {}
    }
    let id = spec.dir.file_name().ok_or_else(|| (spec.dir.clone(), io::ErrorKind::InvalidInput.into()))?;
    let exec = program.file_name().ok_or_else(|| (program.to_owned(), io::ErrorKind::InvalidInput.into()))?;
    let root = base.join(exec).join(id).join("root");
    fs::create_dir_all(&root).map_err(named(&root))?;
    for (source, name) in [(calls::kernel(spec), KERNEL), (&spec.initramfs, INITRAMFS), (&spec.rootfs, ROOTFS)] {
        share(source, &root.join(name), uid).map_err(named(source))?;
    }
    let seed = spec.seed_drive();
    if let Some(seed) = &seed {
        // The VM's own file, which nobody else may read: it becomes the jail's.
        chown(seed, Some(uid), Some(uid)).map_err(named(seed))?;
        fs::hard_link(seed, root.join(SEED)).map_err(named(seed))?;
    }
    for name in [calls::CONSOLE, calls::METRICS] {
        let path = root.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|_| chown(&path, Some(uid), Some(uid))).map_err(named(&path))?;
    }
    let console = spec.dir.join(calls::CONSOLE);
    let _ = fs::remove_file(&console);
    fs::hard_link(root.join(calls::CONSOLE), &console).map_err(named(&console))?;
    Ok(Seen {
        kernel: KERNEL.into(),
        initramfs: INITRAMFS.into(),
        rootfs: ROOTFS.into(),
        seed: seed.map(|_| SEED.into()),
    })
}

/// The same file if the two are on one file system and anybody may read it, else a copy that the jail's user owns.
fn share(source: &Path, target: &Path, uid: u32) -> io::Result<()> {
    if fs::metadata(source)?.mode() & READABLE != 0 && fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    tracing::debug!(source = %source.display(), "copied into the jail");
    fs::copy(source, target)?;
    chown(target, Some(uid), Some(uid))
}

/// The jailer's arguments; those of Firecracker follow. `program` is an absolute path.
pub fn args(spec: &VmmSpec, jailer: &Jailer, program: &Path, uid: u32, has_cgroup2: bool) -> Vec<OsString> {
    let id = spec.dir.file_name().unwrap_or_default();
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("--id", id.into());
    option("--exec-file", program.into());
    option("--uid", uid.to_string().into());
    option("--gid", uid.to_string().into());
    option("--chroot-base-dir", spec.dir.join(BASE).into());
    option("--resource-limit", format!("no-file={}", jailer.max_files).into());
    // A snapshot's memory is a file of the guest's size.
    let file_mib = u64::from(jailer.max_file_mib.max(spec.memory_mib.saturating_add(64)));
    option("--resource-limit", format!("fsize={}", file_mib << 20).into());
    if has_cgroup2 {
        option("--cgroup-version", "2".into());
        option("--parent-cgroup", PARENT_CGROUP.into());
        let memory = u64::from(spec.memory_mib.saturating_add(jailer.overhead_mib)) << 20;
        option("--cgroup", format!("memory.max={memory}").into());
        option("--cgroup", "memory.swap.max=0".into());
        if let Some(percent) = jailer.cpu_percent {
            option("--cgroup", format!("cpu.max={} 100000", u64::from(percent) * 1000).into());
        }
    }
    args.push("--".into());
    args
}

/// Where cgroup v2 is mounted with a memory controller to give; none where limits cannot be set.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let place = cgroup2_place(&mounts)?;
    let controllers = fs::read_to_string(place.join("cgroup.controllers")).ok()?;
    controllers.split_whitespace().any(|controller| controller == "memory").then_some(place)
}

fn cgroup2_place(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
}

/// Removes the cgroup of a VM whose process is gone.
pub fn remove_cgroup(dir: &Path) -> io::Result<Removed> {
    let (Some(place), Some(id)) = (cgroup2(), dir.file_name()) else { return Ok(Removed::WasAbsent) };
    match fs::remove_dir(place.join(PARENT_CGROUP).join(id)) {
        Ok(()) => Ok(Removed::Yes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::WasAbsent),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_mounts() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        assert_eq!(cgroup2_place(v1), None);
        let v2 = "tmpfs /x tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup2_place(v2), Some("/sys/fs/cgroup".into()));
    }
}
