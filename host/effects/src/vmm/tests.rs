//! One contract for every driver, then what only QEMU does (what only Firecracker does is in `firecracker/tests`). QEMU runs without a guest worth the name: a kernel of a few bytes.

use std::path::PathBuf;
use std::time::Instant;

use airlock_domain::vmm::Nic;

use super::fake::FakeDriver;
use super::firecracker::bare_guest;
use super::qemu::{Accel, QemuDriver};
use super::*;
use crate::process::is_alive;
use crate::testing::{self, TestNetns};

const GRACE: Duration = Duration::from_secs(5);

/// Ends what a failing test would leave running.
pub(crate) fn refused(spawned: Result<VmmHandle, DriverError>) -> DriverError {
    match spawned {
        Err(error) => error,
        Ok(vm) => {
            vm.process.kill().unwrap();
            panic!("accepted: {vm:?}")
        }
    }
}

/// A network and a directory for VMs of tests.
pub(crate) struct Bench {
    guard: TestNetns,
    pub(crate) network: Network,
    dir: tempfile::TempDir,
}

impl Bench {
    /// The same, for QEMU.
    async fn with_qemu() -> Option<Self> {
        if crate::process::find_program("qemu-system-x86_64").is_none() {
            println!("skipped: qemu-system-x86_64 is not installed");
            return None;
        }
        Self::new("QEMU").await
    }

    /// None where it cannot run, having said so.
    pub(crate) async fn new(what: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: the driver tests of {what} need root");
            return None;
        }
        let guard = TestNetns::new();
        let network = Network::open(&guard.spec()).await.unwrap();
        Some(Self { guard, network, dir: tempfile::tempdir().unwrap() })
    }

    /// Where the tests' files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn spec(&self, name: &str) -> VmmSpec {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, content: &[u8]| -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        VmmSpec {
            vm_id: "01234567-89ab-4def-8123-456789abcdef".parse().unwrap(),
            dir,
            kernel: file("kernel", &multiboot_halt()),
            kernel_elf: Some(file("vmlinux", &bare_guest())),
            initramfs: file("initramfs", b"x"),
            rootfs: file("rootfs, with a comma", &[0; 4096]),
            cmdline: "airlock.vm=test".into(),
            memory_mib: 64,
            vcpus: 1,
            nics: Vec::new(),
            transport: Default::default(),
            uid: None,
            seed: None,
        }
    }
}

/// A multiboot kernel (Multiboot Specification 0.6.96, the a.out kludge) that halts with interrupts off.
fn multiboot_halt() -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    const FLAGS: u32 = 1 << 16;
    const MAGIC: u32 = 0x1BAD_B002;
    let header = [MAGIC, FLAGS, 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS), LOAD, LOAD, 0, 0, LOAD + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend([0xfa, 0xf4, 0xeb, 0xfd]); // cli; hlt; jmp -1
    image.resize(4096, 0);
    image
}

/// Starting, being seen, ending by request, ending twice: the same for every driver.
pub(crate) async fn keeps_the_contract(driver: &dyn VmmDriver, bench: &Bench) {
    let spec = bench.spec("vm-contract");
    driver.check().await.unwrap();
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    let id = vm.process.id();
    assert!(is_alive(id));
    assert_eq!(vm.paths, driver.paths(&spec.dir));
    assert!(vm.paths.console.exists());
    let inside = std::fs::read_link(format!("/proc/{}/ns/net", id.pid)).unwrap();
    assert_eq!(inside, bench.network.netns().run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap());
    // As a later daemon would: from the record alone.
    let adopted = ProcessHandle::open(id).unwrap().unwrap();
    let adopted = VmmHandle { vm_id: spec.vm_id, process: adopted, paths: driver.paths(&spec.dir) };
    driver.terminate(&adopted, GRACE).await.unwrap();
    assert!(!is_alive(id));
    let exit = driver.terminate(&vm, GRACE).await.unwrap();
    assert_eq!(exit, VmmExit { code: Some(0), signal: None }, "ended by request, not by force");

    // Killed from outside: an event within 100 ms, and terminate finds nothing to do.
    std::fs::remove_dir_all(&spec.dir).unwrap();
    std::fs::create_dir(&spec.dir).unwrap();
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    let killed = Instant::now();
    vm.process.kill().unwrap();
    let exit = tokio::time::timeout(GRACE, vm.process.exited()).await.unwrap();
    assert!(killed.elapsed() < Duration::from_millis(100), "{:?}", killed.elapsed());
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    assert_eq!(driver.terminate(&vm, GRACE).await.unwrap(), exit);

    // No time to be asked: still gone afterwards.
    std::fs::remove_dir_all(&spec.dir).unwrap();
    std::fs::create_dir(&spec.dir).unwrap();
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    driver.terminate(&vm, Duration::ZERO).await.unwrap();
    assert!(!is_alive(vm.process.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_the_contract() {
    let Some(bench) = Bench::with_qemu().await else { return };
    keeps_the_contract(&QemuDriver::new(Accel::Tcg), &bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_keeps_the_contract_and_knows_its_leaks() {
    let Some(bench) = Bench::new("the fake").await else { return };
    let driver = FakeDriver::new();
    keeps_the_contract(&driver, &bench).await;
    assert_eq!(driver.alive(), []);
    let vm = driver.spawn(&bench.spec("vm-leaked"), &bench.network).await.unwrap();
    assert_eq!(driver.alive(), [vm.vm_id]);
    driver.terminate(&vm, GRACE).await.unwrap();
    assert_eq!(driver.alive(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_attaches_to_its_taps_in_slot_order_and_lets_go() {
    let Some(bench) = Bench::with_qemu().await else { return };
    let tap = airlock_domain::network::TapSpec::of_vm(bench.spec("vm-tap").vm_id, 0);
    bench.network.ensure_tap(&tap).await.unwrap();
    let nic = |tap: Option<&str>, mac: &str| Nic { tap: tap.map(Into::into), mac: mac.parse().unwrap() };
    let nics = vec![nic(None, "06:00:00:00:00:01"), nic(Some(&tap.name), "06:00:c0:a8:64:08")];
    let spec = VmmSpec { nics, ..bench.spec("vm-tap") };
    let driver = QemuDriver::new(Accel::Tcg);
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    let seen = &bench.network.taps().await.unwrap()[0];
    assert!(seen.carrier && seen.vnet_hdr == Some(true) && seen.isolated, "{seen:?}");
    // The reconciler may look at a TAP in use.
    bench.network.ensure_tap(&tap).await.unwrap();

    let second = VmmSpec { dir: bench.spec("vm-second").dir, ..spec };
    let error = refused(driver.spawn(&second, &bench.network).await);
    assert_eq!(error.cause(), Some("tap_busy"), "{error}");

    driver.terminate(&vm, GRACE).await.unwrap();
    assert!(!bench.network.taps().await.unwrap()[0].carrier);
    assert_eq!(bench.guard.name(), bench.network.namespace());
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_says_itself_why_it_refused() {
    let Some(bench) = Bench::with_qemu().await else { return };
    let driver = QemuDriver::new(Accel::Tcg);
    let good = bench.spec("vm-bad");
    let missing = |path: &str| PathBuf::from(path);
    let cases = [
        (VmmSpec { kernel: missing("/no/kernel"), ..good.clone() }, "image_missing", "/no/kernel"),
        (VmmSpec { rootfs: missing("/no/rootfs"), ..good.clone() }, "image_missing", "/no/rootfs"),
        (VmmSpec { memory_mib: 1 << 30, ..good.clone() }, "memory_insufficient", "memory"),
        (
            VmmSpec {
                nics: vec![Nic {
                    tap: Some("fc-none-here".into()),
                    mac: airlock_protocol::MacAddr([6, 0, 0, 0, 0, 1]),
                }],
                ..good.clone()
            },
            "tap_missing",
            "fc-none-here",
        ),
    ];
    for (spec, cause, quote) in cases {
        std::fs::remove_dir_all(&spec.dir).unwrap();
        std::fs::create_dir(&spec.dir).unwrap();
        let started = Instant::now();
        let error = refused(driver.spawn(&spec, &bench.network).await);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!(error.to_string().contains(quote), "{error}");
        assert_eq!(error.cause(), Some(cause), "{error}");
    }
}

#[tokio::test]
async fn a_missing_or_foreign_program_has_a_name() {
    let missing = QemuDriver::with_program(Accel::Tcg, "airlock-no-such-qemu").check().await.unwrap_err();
    assert_eq!(missing.cause(), Some("vmm_binary_missing"));
    assert_eq!(testing::chain(&missing), ["find airlock-no-such-qemu", "No such file or directory (os error 2)"]);
    let foreign = QemuDriver::with_program(Accel::Tcg, "true").check().await.unwrap_err();
    assert_eq!(foreign.cause(), Some("vmm_version_unsupported"));
}

#[test]
fn a_log_is_quoted_by_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmm.log");
    assert!(log_tail(&path).contains("cannot be read"));
    std::fs::write(&path, "\n\n").unwrap();
    assert_eq!(log_tail(&path), "(nothing)");
    let long: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
    std::fs::write(&path, long).unwrap();
    let tail = log_tail(&path);
    assert!(tail.ends_with("line 99998 | line 99999") && tail.split(" | ").count() == LOG_LINES, "{tail}");
}
