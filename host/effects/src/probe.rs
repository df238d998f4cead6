//! Whether hardware virtualization really boots a guest here.
//!
//! `/dev/kvm` proves nothing: on paravirtual hosts it opens and stock kernels hang without a word. So the golden kernel and
//! initramfs are booted with KVM, without disk or network, and the first line of our own init decides. The verdict holds until
//! the host reboots and is kept in `kvm-probe.json`; a file that cannot be read or written only costs another probe. That of
//! [`firecracker`] is one of its own.

pub mod firecracker;

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use airlock_domain::ids::IdParseError;
use airlock_domain::vmm::VmmSpec;
use airlock_protocol::Stage;
use airlock_protocol::stage::ConsoleParser;
use serde::{Deserialize, Serialize};

use crate::console;
use crate::files::write_atomic;
use crate::process::{self, ProcessHandle, SpawnSpec};
use crate::vmm::qemu::{Accel, probe_args};
use crate::vmm::{chain, log_tail};

/// How long the guest may take to reach `init_started`. A usable host needs a fifth of this.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Names the probe's guest in its process list entry; no VM ever has it.
const PROBE_ID: &str = "00000000-0000-0000-0000-000000000000";
const CACHE: &str = "kvm-probe.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether KVM can be used, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeVerdict {
    /// A guest reached its init.
    pub usable: bool,
    /// The catalogue's cause code if it is not usable: `kvm_missing`, `kvm_permission` or `kvm_unusable`.
    pub cause: Option<String>,
    /// What was seen, for people.
    pub reason: String,
}

impl ProbeVerdict {
    fn usable(reason: String) -> Self {
        Self { usable: true, cause: None, reason }
    }

    /// Not usable, with the catalogue's cause code.
    pub fn unusable(cause: &str, reason: String) -> Self {
        Self { usable: false, cause: Some(cause.to_owned()), reason }
    }
}

/// A verdict and what it depends on: the host's boot, and whatever else changes it.
#[derive(Serialize, Deserialize)]
struct Cached {
    boot_id: String,
    verdict: ProbeVerdict,
}

/// This boot of the host.
fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// The verdict of this boot of the host: from `cache_dir`, else by [`boot_probe`] within [`PROBE_DEADLINE`].
pub async fn probe_kvm(kernel: &Path, initramfs: &Path, cache_dir: &Path) -> ProbeVerdict {
    // A missing or forbidden device is found out faster than a file is read, and may have been mended since.
    if let Some(verdict) = device_verdict() {
        return verdict;
    }
    let (boot_id, path) = (boot_id(), cache_dir.join(CACHE));
    if let Some(verdict) = recall(&path, &boot_id) {
        return verdict;
    }
    let verdict = boot_probe(kernel, initramfs, cache_dir, PROBE_DEADLINE).await;
    keep(&path, cache_dir, boot_id, verdict)
}

/// Writes a verdict down, and gives it back.
fn keep(path: &Path, cache_dir: &Path, key: String, verdict: ProbeVerdict) -> ProbeVerdict {
    let kept = Cached { boot_id: key, verdict };
    let written = std::fs::create_dir_all(cache_dir).and_then(|()| serde_json::to_vec(&kept).map_err(Into::into));
    match written.map(|json| write_atomic(path, &json, 0o644)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "the verdict of a probe is not kept"),
        Err(error) => tracing::warn!(%error, path = %path.display(), "the verdict of a probe is not kept"),
    }
    kept.verdict
}

/// The verdict that is kept, if it depends on the same.
fn recall(path: &Path, boot_id: &str) -> Option<ProbeVerdict> {
    let cached: Cached = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (!boot_id.is_empty() && cached.boot_id == boot_id).then_some(cached.verdict)
}

/// A verdict from the device file alone, if it suffices.
pub fn device_verdict() -> Option<ProbeVerdict> {
    let error = OpenOptions::new().read(true).write(true).open("/dev/kvm").err()?;
    let cause = match error.kind() {
        io::ErrorKind::NotFound => "kvm_missing",
        io::ErrorKind::PermissionDenied => "kvm_permission",
        _ if error.raw_os_error() == Some(libc::ENODEV) || error.raw_os_error() == Some(libc::ENXIO) => "kvm_missing",
        _ => "kvm_unusable",
    };
    Some(ProbeVerdict::unusable(cause, format!("open /dev/kvm: {error}")))
}

/// Boots the probe guest, not looking at the cache. Its files live in a directory below `scratch` that is removed at the end.
pub async fn boot_probe(kernel: &Path, initramfs: &Path, scratch: &Path, deadline: Duration) -> ProbeVerdict {
    let dir = scratch.join(format!("kvm-probe-{}", std::process::id()));
    let verdict = boot_in(kernel, initramfs, &dir, deadline).await;
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::warn!(%error, dir = %dir.display(), "the probe's directory is left behind");
    }
    verdict.unwrap_or_else(|reason| ProbeVerdict::unusable("kvm_unusable", reason))
}

async fn boot_in(kernel: &Path, initramfs: &Path, dir: &Path, deadline: Duration) -> Result<ProbeVerdict, String> {
    std::fs::create_dir_all(dir).map_err(|error| format!("create {}: {error}", dir.display()))?;
    let spec = VmmSpec {
        vm_id: PROBE_ID.parse().map_err(|error: IdParseError| error.to_string())?,
        dir: dir.to_owned(),
        kernel: kernel.to_owned(),
        kernel_elf: None,
        initramfs: initramfs.to_owned(),
        rootfs: dir.to_owned(),
        cmdline: "airlock.vm=probe".to_owned(),
        memory_mib: 256,
        vcpus: 1,
        nics: Vec::new(),
        transport: Default::default(),
        uid: None,
        seed: None,
    };
    let log = dir.join("vmm.log");
    let mut tail = console::tail(&dir.join("console.log"), 0).map_err(|error| chain(&error))?;
    let started = process::spawn(SpawnSpec {
        program: "qemu-system-x86_64".into(),
        args: probe_args(&spec, Accel::Kvm),
        dir: dir.to_owned(),
        output: Some(log.clone()),
        netns: None,
        pid_namespace: false,
    });
    let process = started.await.map_err(|error| chain(&error))?;
    let watched = tokio::time::timeout(deadline, watch_boot(&process, &mut tail)).await;
    let _ = process.kill();
    process.exited().await;
    let seen = tail.offset();
    Ok(match watched {
        Ok(Ok(())) => ProbeVerdict::usable("a probe guest reached its init with KVM".to_owned()),
        Ok(Err(reason)) => ProbeVerdict::unusable("kvm_unusable", format!("{reason}; QEMU said: {}", log_tail(&log))),
        Err(_) => ProbeVerdict::unusable(
            "kvm_unusable",
            format!("a probe guest did not reach its init within {deadline:?} ({seen} bytes on its console)"),
        ),
    })
}

/// Ends well at the first stage line of init, badly when the VMM ends.
async fn watch_boot(process: &ProcessHandle, tail: &mut console::Tail) -> Result<(), String> {
    let mut parser = ConsoleParser::new();
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = tail.next() => chunk.map_err(|error| chain(&error))?.unwrap_or_default(),
            exit = process.exited() => return Err(format!("the probe's VMM {exit}")),
        };
        if parser.feed(&chunk).iter().any(|report| report.ok && report.stage == Stage::InitStarted) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_kept_for_this_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CACHE);
        let verdict = ProbeVerdict::unusable("kvm_unusable", "seen".into());
        let kept = Cached { boot_id: "this".into(), verdict: verdict.clone() };
        std::fs::write(&path, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(recall(&path, "this"), Some(verdict));
        assert_eq!(recall(&path, "next"), None);
        assert_eq!(recall(&path, ""), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(recall(&path, "this"), None);
    }

    #[tokio::test]
    async fn a_guest_that_cannot_boot_is_no_reason_to_use_kvm_and_leaves_nothing() {
        if device_verdict().is_some() || which_qemu().is_none() {
            println!("skipped: needs /dev/kvm and qemu-system-x86_64");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let verdict = boot_probe(Path::new("/no/kernel"), Path::new("/no/initramfs"), dir.path(), PROBE_DEADLINE).await;
        assert!(!verdict.usable);
        // Either QEMU misses the kernel, or this host's KVM does not even come that far; QEMU says which.
        assert!(verdict.reason.contains("QEMU said: qemu-system"), "{}", verdict.reason);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    fn which_qemu() -> Option<std::path::PathBuf> {
        crate::process::find_program("qemu-system-x86_64")
    }
}
