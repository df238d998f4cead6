//! The image's root: read-only device, overlay in memory, our programs, and the switch from the initramfs to it.
//!
//! ```text
//! rootfs (initramfs)            after the switch
//! /airlock/root/lower  device    -
//! /airlock/root/rw     tmpfs     -            (both stay mounted, reachable only through the overlay)
//! /newroot             overlay   /
//! /run /dev /proc /sys           moved
//! ```
//!
//! A failure leaves the initramfs as it is, with its programs installed, so that the agent can still run from it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use airlock_protocol::guest_config::RootFs;
use airlock_protocol::paths::{GUEST_BIN, GUEST_CONFIG, INITRAMFS_BIN, INITRAMFS_CONFIG};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::{chdir, chroot};

use crate::kernel::KernelError;
use crate::linux::make_dir;
use crate::net::readable_before;

/// Where the overlay is mounted before it becomes `/`.
pub const NEW_ROOT: &str = "/newroot";
const BACKING: &str = "/airlock/root";
/// How long the root device may take to appear.
const DEVICE_WITHIN: Duration = Duration::from_secs(2);
/// Other names of the agent, which is several small programs in one (see guest/agent).
const AGENT_NAMES: [&str; 3] = ["airlock-open", "xdg-open", "airlock-demo-tool"];

/// Mounts the device read-only and an overlay with its upper layer in memory on [`NEW_ROOT`].
pub fn mount_root(device: &str, fs: RootFs) -> Result<(), KernelError> {
    wait_for_device(Path::new(device), DEVICE_WITHIN)?;
    let lower = format!("{BACKING}/lower");
    let rw = format!("{BACKING}/rw");
    for dir in ["/airlock", BACKING, &lower, &rw, NEW_ROOT] {
        make_dir(dir, 0o755)?;
    }
    mount_at(device, fs.name(), &lower, MsFlags::MS_RDONLY, "")?;
    mount_at("tmpfs", "tmpfs", &rw, MsFlags::empty(), "mode=0755")?;
    let (upper, work) = (format!("{rw}/upper"), format!("{rw}/work"));
    make_dir(&upper, 0o755)?;
    make_dir(&work, 0o755)?;
    // The lower layer never changes and nothing is exported, so the features that follow changes are not needed.
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount_at("airlock", "overlay", NEW_ROOT, MsFlags::empty(), &options)?;
    // What X clients and everybody else expect, whatever the image holds.
    for (dir, mode) in [("tmp", 0o1777), ("tmp/.X11-unix", 0o1777)] {
        let path = Path::new(NEW_ROOT).join(dir);
        fs::create_dir_all(&path).map_err(KernelError::file("create", &path))?;
        let sticky = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, sticky).map_err(KernelError::file("set mode of", &path))?;
    }
    Ok(())
}

/// Shows our programs at [`GUEST_BIN`] (a bind mount: nothing is copied) and copies the configuration.
pub fn install_programs() -> Result<(), KernelError> {
    let agent = Path::new(INITRAMFS_BIN).join("airlock-agent");
    for name in AGENT_NAMES {
        let link = Path::new(INITRAMFS_BIN).join(name);
        // An image builder may have put a program or a link of this name there.
        if agent.exists() && link.symlink_metadata().is_err() {
            symlink("airlock-agent", &link).map_err(KernelError::file("create", &link))?;
        }
    }
    // Ourselves too, for the supervisor beside an image's own init; the name /init goes with the initramfs.
    let ours = Path::new(INITRAMFS_BIN).join("airlock-init");
    if Path::new("/init").exists() && !ours.exists() {
        fs::hard_link("/init", &ours).map_err(KernelError::file("create", &ours))?;
    }
    make_dir(GUEST_BIN, 0o755)?;
    mount_at(INITRAMFS_BIN, "none", GUEST_BIN, MsFlags::MS_BIND, "")?;
    if Path::new(INITRAMFS_CONFIG).exists() {
        fs::copy(INITRAMFS_CONFIG, GUEST_CONFIG).map_err(KernelError::file("copy", GUEST_CONFIG))?;
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(GUEST_CONFIG, mode).map_err(KernelError::file("set mode of", GUEST_CONFIG))?;
    }
    Ok(())
}

/// Moves /dev, /proc, /sys and /run below the overlay, frees the initramfs, and makes the overlay `/`.
pub fn switch_root() -> Result<(), KernelError> {
    for dir in ["/dev", "/proc", "/sys", "/run"] {
        let target = format!("{NEW_ROOT}{dir}");
        make_dir(&target, 0o755)?;
        move_mount(dir, &target)?;
    }
    free_initramfs();
    let failed = |doing| move |errno: Errno| KernelError::file(doing, NEW_ROOT)(errno.into());
    chdir(NEW_ROOT).map_err(failed("change to"))?;
    move_mount(".", "/")?;
    chroot(".").map_err(failed("change root to"))?;
    chdir("/").map_err(failed("change to / in"))
}

/// Gives the memory of modules and programs that are not needed any more back. What cannot be removed stays; the
/// programs are kept because [`GUEST_BIN`] shows them.
fn free_initramfs() {
    let _ = fs::remove_dir_all("/airlock/modules");
    let _ = fs::remove_file("/init");
}

fn mount_at(device: &str, fs: &'static str, target: &str, flags: MsFlags, data: &str) -> Result<(), KernelError> {
    let options = Some(data).filter(|data| !data.is_empty());
    mount(Some(device), target, Some(fs), flags, options).map_err(|source| KernelError::Mount {
        device: device.to_owned(),
        fs,
        target: target.to_owned(),
        source,
    })
}

fn move_mount(from: &str, to: &str) -> Result<(), KernelError> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(|source| KernelError::MoveMount {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

/// Waits until the device node exists, woken by its creation.
fn wait_for_device(device: &Path, within: Duration) -> Result<(), KernelError> {
    if device.exists() {
        return Ok(());
    }
    let dir = device.parent().unwrap_or(Path::new("/dev"));
    let watch = || -> Result<Inotify, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(inotify)
    };
    let failed = |errno: Errno| KernelError::file("watch", dir)(errno.into());
    let inotify = watch().map_err(failed)?;
    let deadline = Instant::now() + within;
    while !device.exists() {
        if !readable_before(std::os::fd::AsFd::as_fd(&inotify), deadline).map_err(failed)? {
            return Err(KernelError::RootMissing { device: device.display().to_string(), present: block_devices() });
        }
        inotify.read_events().map_err(failed)?;
    }
    Ok(())
}

fn block_devices() -> String {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry: fs::DirEntry| PathBuf::from(entry.file_name()).display().to_string()).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}
