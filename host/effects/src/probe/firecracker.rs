//! Whether Firecracker really boots a guest here: the golden kernel and initramfs, started by the driver itself, without network.
//!
//! The verdict is kept in `firecracker-probe.json` until something that it depends on changes: the host's boot, the program, the
//! image.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::ids::IdParseError;
use airlock_domain::vmm::VmmSpec;

use super::{Cached, PROBE_DEADLINE, PROBE_ID, ProbeVerdict, boot_id, device_verdict, keep, recall, watch_boot};
use crate::console;
use crate::network::Network;
use crate::process::find_program;
use crate::vmm::{VmmDriver, chain, log_tail};

const CACHE: &str = "firecracker-probe.json";

/// The files of an image that a probe boots.
#[derive(Debug, Clone)]
pub struct ProbeImage {
    /// Kernel, ELF.
    pub kernel: PathBuf,
    /// Initial RAM filesystem.
    pub initramfs: PathBuf,
    /// Root filesystem; the probe's guest has it and does not come to mount it.
    pub rootfs: PathBuf,
}

/// The verdict: that of the program, of the device, what is kept in `cache_dir`, else that of a boot within [`PROBE_DEADLINE`].
pub async fn probe_firecracker(
    driver: &dyn VmmDriver,
    image: &ProbeImage,
    network: &Network,
    cache_dir: &Path,
) -> ProbeVerdict {
    let info = match driver.check().await {
        Ok(info) => info,
        Err(error) => {
            return ProbeVerdict::unusable(error.cause().unwrap_or("vmm_binary_missing"), chain(&error));
        }
    };
    if let Some(verdict) = device_verdict() {
        return verdict;
    }
    let path = cache_dir.join(CACHE);
    let key = format!("{} {} {} {}", boot_id(), info.version, print_of(&info.program), image.kernel.display());
    if let Some(verdict) = recall(&path, &key) {
        return verdict;
    }
    let verdict = boot_probe(driver, image, network, cache_dir, PROBE_DEADLINE).await;
    keep(&path, cache_dir, key, verdict)
}

/// The verdict that is kept of this boot of the host, whatever else it depends on; for reports.
pub fn last(cache_dir: &Path) -> Option<ProbeVerdict> {
    let Cached { boot_id: key, verdict } = serde_json::from_slice(&std::fs::read(cache_dir.join(CACHE)).ok()?).ok()?;
    key.split(' ').next().is_some_and(|boot| boot == boot_id()).then_some(verdict)
}

/// What changes when a program is replaced.
fn print_of(program: &Path) -> String {
    let found = find_program(program).and_then(|path| path.metadata().ok());
    found.map(|file| format!("{}:{}:{}", file.ino(), file.len(), file.mtime())).unwrap_or_default()
}

/// Boots the probe guest, not looking at what is kept. Its files live in a directory below `scratch` that is removed at the end.
pub async fn boot_probe(
    driver: &dyn VmmDriver,
    image: &ProbeImage,
    network: &Network,
    scratch: &Path,
    deadline: Duration,
) -> ProbeVerdict {
    let dir = scratch.join(format!("firecracker-probe-{}", std::process::id()));
    let verdict = boot_in(driver, image, network, &dir, deadline).await;
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::warn!(%error, dir = %dir.display(), "the probe's directory is left behind");
    }
    verdict.unwrap_or_else(|reason| ProbeVerdict::unusable("kvm_unusable", reason))
}

async fn boot_in(
    driver: &dyn VmmDriver,
    image: &ProbeImage,
    network: &Network,
    dir: &Path,
    deadline: Duration,
) -> Result<ProbeVerdict, String> {
    std::fs::create_dir_all(dir).map_err(|error| format!("create {}: {error}", dir.display()))?;
    let spec = VmmSpec {
        vm_id: PROBE_ID.parse().map_err(|error: IdParseError| error.to_string())?,
        dir: dir.to_owned(),
        kernel: image.kernel.clone(),
        kernel_elf: None,
        initramfs: image.initramfs.clone(),
        rootfs: image.rootfs.clone(),
        cmdline: "airlock.vm=probe".to_owned(),
        memory_mib: 256,
        vcpus: 1,
        nics: Vec::new(),
        transport: Default::default(),
        seed: None,
        uid: None,
    };
    let vm = driver.spawn(&spec, network).await.map_err(|error| chain(&error))?;
    // The console may be in a jail, so where it is is known only now; it is read from its beginning.
    let verdict = match console::tail(&vm.paths.console, 0) {
        Err(error) => Err(chain(&error)),
        Ok(mut tail) => match tokio::time::timeout(deadline, watch_boot(&vm.process, &mut tail)).await {
            Ok(Ok(())) => Ok(ProbeVerdict::usable("a probe guest reached its init with Firecracker".to_owned())),
            Ok(Err(reason)) => Err(format!("{reason}; Firecracker said: {}", log_tail(&vm.paths.log))),
            Err(_) => Err(format!(
                "a probe guest did not reach its init with Firecracker within {deadline:?} ({} bytes on its console)",
                tail.offset()
            )),
        },
    };
    let ended = driver.terminate(&vm, Duration::ZERO).await;
    let swept = driver.sweep(dir);
    ended.map_err(|error| chain(&error))?;
    swept.map_err(|error| format!("sweep {}: {error}", dir.display()))?;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::fake::FakeDriver;
    use crate::vmm::tests::Bench;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_guest_that_never_reaches_its_init_is_no_reason_to_use_firecracker_and_leaves_nothing() {
        let Some(bench) = Bench::new("the fake").await else { return };
        let spec = bench.spec("vm-probe");
        let image = ProbeImage { kernel: spec.kernel, initramfs: spec.initramfs, rootfs: spec.rootfs };
        let scratch = tempfile::tempdir().unwrap();
        let driver = FakeDriver::new();
        let deadline = Duration::from_millis(200);
        let began = std::time::Instant::now();
        let verdict = boot_probe(&driver, &image, &bench.network, scratch.path(), deadline).await;
        assert!(!verdict.usable && verdict.reason.contains("did not reach its init"), "{}", verdict.reason);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(driver.alive(), []);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn another_program_is_another_print() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("firecracker");
        let write = |text: &str| {
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        write("one");
        let first = print_of(&program);
        assert_eq!(first, print_of(&program));
        write("another");
        assert_ne!(first, print_of(&program));
    }
}
