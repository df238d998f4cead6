//! The real binary with bare guests: consoles, exits, TAPs, adoption, snapshots, jails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::config::{Balloon, FirecrackerConfig, Jailer};
use airlock_domain::network::TapSpec;
use airlock_domain::vmm::{Nic, VmmSpec};
use serde_json::json;

use super::super::{Client, FirecrackerDriver, api, exit, jail};
use super::guest::{self, TICK, Then, WORDS};
use crate::console;
use crate::process::{self, ProcessHandle, SpawnSpec};
use crate::vmm::tests::Bench;
use crate::vmm::{VmmDriver, VmmHandle};

const SOON: Duration = Duration::from_secs(10);

/// What the tests were given to run.
pub struct Binary {
    program: PathBuf,
    jailer: Option<PathBuf>,
}

impl Binary {
    /// None where none is given, having said what is skipped.
    pub fn given(what: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("AIRLOCK_FIRECRACKER") else {
            println!("skipped: AIRLOCK_FIRECRACKER is not set: {what}");
            return None;
        };
        Some(Self { program: program.into(), jailer: std::env::var_os("AIRLOCK_JAILER").map(Into::into) })
    }

    /// The same, with a jailer.
    pub fn given_with_jailer(what: &str) -> Option<Self> {
        let binary = Self::given(what)?;
        if binary.jailer.is_none() {
            println!("skipped: AIRLOCK_JAILER is not set: {what}");
            return None;
        }
        Some(binary)
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn config(&self) -> FirecrackerConfig {
        FirecrackerConfig { program: self.program.clone(), ..Default::default() }
    }

    pub fn driver(&self) -> FirecrackerDriver {
        FirecrackerDriver::new(self.config())
    }

    pub fn jailed_driver(&self) -> FirecrackerDriver {
        let jailer = self.jailer.clone().map(|program| Jailer { program, ..Default::default() });
        FirecrackerDriver::new(FirecrackerConfig { jailer, ..self.config() })
    }

    /// A process with nothing but its API, in a directory.
    pub async fn start(&self, dir: &Path) -> ProcessHandle {
        let spec = SpawnSpec {
            program: self.program.clone().into(),
            args: ["--api-sock", "api.sock"].map(Into::into).to_vec(),
            dir: dir.to_owned(),
            output: Some(dir.join("vmm.log")),
            netns: None,
            pid_namespace: false,
        };
        process::spawn(spec).await.unwrap()
    }
}

/// Ends a process also when its test fails.
struct Ended<'a>(&'a ProcessHandle);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// A bare guest in a fresh process: `console.log` is its serial port.
async fn boot(dir: &Path, client: &mut Client, then: Then) {
    std::fs::write(dir.join("vmlinux"), guest::elf(then)).unwrap();
    for (path, body) in [
        ("/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 64})),
        ("/serial", json!({"serial_out_path": "console.log"})),
        ("/boot-source", json!({"kernel_image_path": "vmlinux"})),
    ] {
        client.put(path, &body, SOON).await.unwrap();
    }
    client.put("/actions", &json!({"action_type": "InstanceStart"}), SOON).await.unwrap();
}

/// Waits until the console holds a text.
async fn says(console: &Path, text: &str) {
    let mut tail = console::tail(console, 0).unwrap();
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(text) {
            seen.push_str(&String::from_utf8_lossy(&tail.next().await.unwrap().unwrap()));
        }
    };
    let read = tokio::time::timeout(SOON, reading).await;
    assert!(read.is_ok(), "{} never says {text:?} but {seen:?}", console.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_resets_ends_firecracker_with_0_which_nobody_takes_for_success() {
    let Some(binary) = Binary::given("exit of a guest that resets") else { return };
    let dir = tempfile::tempdir().unwrap();
    let process = binary.start(dir.path()).await;
    let _ended = Ended(&process);
    let mut client = Client::connect(&dir.path().join("api.sock")).await.unwrap();
    boot(dir.path(), &mut client, Then::Reset).await;
    let exit = tokio::time::timeout(SOON, process.exited()).await.unwrap();
    assert_eq!(exit.code, Some(0));
    assert!(!exit::is_expected(exit, false) && exit::meaning(exit).is_some());
    assert_eq!(std::fs::read_to_string(dir.path().join("console.log")).unwrap(), WORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_halts_ends_nothing_so_a_guest_powers_off_by_a_reset() {
    let Some(binary) = Binary::given("a guest that halts") else { return };
    let dir = tempfile::tempdir().unwrap();
    let process = binary.start(dir.path()).await;
    let _ended = Ended(&process);
    let mut client = Client::connect(&dir.path().join("api.sock")).await.unwrap();
    boot(dir.path(), &mut client, Then::Halt).await;
    says(&dir.path().join("console.log"), WORDS).await;
    // A reset behind the same words ends it in a few milliseconds.
    let ended = tokio::time::timeout(Duration::from_millis(500), process.exited()).await;
    assert!(ended.is_err(), "{ended:?}");
    let info: api::InstanceInfo = client.get("/", SOON).await.unwrap();
    assert_eq!(info.state, api::InstanceState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tap_is_answered_204_as_the_driver_knows() {
    let Some(binary) = Binary::given("204 for a TAP that does not exist") else { return };
    let Some(bench) = Bench::new("real Firecracker").await else { return };
    let spec = bench.spec("vm-no-tap");
    let process = SpawnSpec {
        program: binary.program().into(),
        args: ["--api-sock", "api.sock"].map(Into::into).to_vec(),
        dir: spec.dir.clone(),
        output: None,
        netns: Some(bench.network.netns()),
        pid_namespace: false,
    };
    let process = process::spawn(process).await.unwrap();
    let _ended = Ended(&process);
    let mut client = Client::connect(&spec.dir.join("api.sock")).await.unwrap();
    let nic = json!({"iface_id": "net0", "host_dev_name": "fc-none-here"});
    client.put("/network-interfaces/net0", &nic, SOON).await.unwrap();
    assert!(bench.network.has_tap("fc-none-here").await.unwrap(), "it made one of its own");
    assert!(!bench.network.is_attached_port("fc-none-here").await.unwrap(), "which is no port of ours");
}

/// A VM of the driver with a TAP of its own.
async fn with_tap(bench: &Bench, name: &str, uid: Option<u32>) -> VmmSpec {
    let spec = bench.spec(name);
    std::fs::write(spec.kernel_elf.as_ref().unwrap(), guest::elf(Then::CountUntilKey)).unwrap();
    let tap = TapSpec::of_vm(spec.vm_id, uid.unwrap_or(0));
    bench.network.ensure_tap(&tap).await.unwrap();
    let nics = vec![Nic { tap: Some(tap.name), mac: "06:00:c0:a8:64:08".parse().unwrap() }];
    VmmSpec { nics, uid, ..spec }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_everything_runs_and_is_adopted_from_its_directory_and_record() {
    let Some(binary) = Binary::given("a VM with every device, and its adoption") else { return };
    let Some(bench) = Bench::new("real Firecracker").await else { return };
    let config = FirecrackerConfig { balloon: Some(Balloon::default()), mmds: true, ..binary.config() };
    let spec = with_tap(&bench, "vm-all", None).await;
    let vm = FirecrackerDriver::new(config).spawn(&spec, &bench.network).await.unwrap();
    let _ended = Ended(&vm.process);
    says(&vm.paths.console, WORDS).await;
    assert!(bench.network.is_attached_port(&spec.vm_id.tap_name()).await.unwrap());

    // A later daemon knows pid, start time and directory.
    let driver = binary.driver();
    let process = ProcessHandle::open(vm.process.id()).unwrap().unwrap();
    let adopted = VmmHandle { vm_id: spec.vm_id, process, paths: driver.paths(&spec.dir) };
    let mut client = Client::connect(&adopted.paths.api_socket).await.unwrap();
    let info: api::InstanceInfo = client.get("/", SOON).await.unwrap();
    assert_eq!((info.state, info.id), (api::InstanceState::Running, spec.vm_id.to_string()));
    let stats: api::BalloonStats = client.get("/balloon/statistics", SOON).await.unwrap();
    assert_eq!(stats.target_mib, 0);
    let mmds: serde_json::Value = client.get("/mmds", SOON).await.unwrap();
    assert_eq!(mmds["airlock"]["vm_id"], spec.vm_id.to_string());
    let metrics = api::Action { action_type: api::ActionType::FlushMetrics };
    client.put("/actions", &metrics, SOON).await.unwrap();
    let flushed = std::fs::read_to_string(spec.dir.join("metrics.json")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(flushed.lines().next().unwrap()).is_ok(), "{flushed}");
    let exit = driver.terminate(&adopted, SOON).await.unwrap();
    assert_eq!((exit.code, exit.signal), (Some(0), None), "by its keyboard");
    assert!(!bench.network.is_attached_port(&spec.vm_id.tap_name()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_runs_again_with_another_tap_and_another_socket_in_a_fresh_process_only() {
    let Some(binary) = Binary::given("snapshot create, load, overrides") else { return };
    let Some(bench) = Bench::new("real Firecracker").await else { return };
    let spec = with_tap(&bench, "vm-origin", None).await;
    let driver = binary.driver();
    let origin = driver.spawn(&spec, &bench.network).await.unwrap();
    let _ended = Ended(&origin.process);
    says(&origin.paths.console, WORDS).await;
    let mut client = Client::connect(&origin.paths.api_socket).await.unwrap();
    client.patch("/vm", &api::Vm { state: "Paused" }, SOON).await.unwrap();
    let files = bench.dir();
    let create = api::SnapshotCreate {
        snapshot_type: "Full",
        snapshot_path: files.join("vm.snapshot"),
        mem_file_path: files.join("vm.memory"),
    };
    client.put("/snapshot/create", &create, SOON).await.unwrap();
    driver.terminate(&origin, Duration::ZERO).await.unwrap();

    let clone_tap = TapSpec::of_vm("11234567-89ab-4def-8123-456789abcdef".parse().unwrap(), 0);
    bench.network.ensure_tap(&clone_tap).await.unwrap();
    let load = api::SnapshotLoad {
        snapshot_path: create.snapshot_path,
        mem_backend: api::MemoryBackend { backend_type: "File", backend_path: create.mem_file_path },
        resume_vm: true,
        network_overrides: vec![api::NetworkOverride {
            iface_id: "net0".into(),
            host_dev_name: clone_tap.name.clone(),
        }],
        vsock_override: Some(api::VsockOverride { uds_path: "clone.sock".into() }),
        clock_realtime: true,
    };
    let in_namespace = |dir: PathBuf| SpawnSpec {
        program: binary.program().into(),
        args: ["--api-sock", "api.sock"].map(Into::into).to_vec(),
        output: Some(dir.join("vmm.log")),
        dir,
        netns: Some(bench.network.netns()),
        pid_namespace: false,
    };
    let dir = bench.spec("vm-clone").dir;
    let process = process::spawn(in_namespace(dir.clone())).await.unwrap();
    let _ended_too = Ended(&process);
    let mut client = Client::connect(&dir.join("api.sock")).await.unwrap();
    client.put("/serial", &json!({"serial_out_path": "console.log"}), SOON).await.unwrap();
    client.put("/snapshot/load", &load, SOON).await.unwrap();
    // It goes on where it was: the words were said by the other one.
    says(&dir.join("console.log"), &TICK.to_string()).await;
    assert!(!std::fs::read_to_string(dir.join("console.log")).unwrap().contains(WORDS));
    assert!(bench.network.is_attached_port(&clone_tap.name).await.unwrap());
    assert!(dir.join("clone.sock").exists());
    let info: api::InstanceInfo = client.get("/", SOON).await.unwrap();
    assert_eq!(info.state, api::InstanceState::Running);

    let dir = bench.spec("vm-used").dir;
    let process = process::spawn(in_namespace(dir.clone())).await.unwrap();
    let _ended_as_well = Ended(&process);
    let mut client = Client::connect(&dir.join("api.sock")).await.unwrap();
    client.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 64}), SOON).await.unwrap();
    let error = client.put("/snapshot/load", &load, SOON).await.unwrap_err();
    assert!(error.fault().unwrap().contains("not allowed after configuring"), "{:?}", error.fault());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vm_is_the_same_vm_and_sees_nothing_else() {
    let Some(binary) = Binary::given_with_jailer("user, root, namespaces, limits and files of a jail") else { return };
    let Some(bench) = Bench::new("real Firecracker in a jail").await else { return };
    let uid = 700_123;
    let spec = with_tap(&bench, "vm-jailed", Some(uid)).await;
    let vm = binary.jailed_driver().spawn(&spec, &bench.network).await.unwrap();
    let _ended = Ended(&vm.process);
    says(&vm.paths.console, WORDS).await;
    assert!(bench.network.is_attached_port(&spec.vm_id.tap_name()).await.unwrap());

    let of = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", vm.process.id().pid)).unwrap();
    let status = of("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").starts_with(&uid.to_string()) && field("Gid:").starts_with(&uid.to_string()), "{status}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NSpid:").split_whitespace().nth(1), Some("1"), "the first of a namespace of its own");
    let limits = of("limits");
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains("1024")), "{limits}");
    let link = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", vm.process.id().pid)).unwrap();
    let here = bench.network.netns().run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(link("ns/net"), here);
    assert_ne!(link("ns/mnt"), std::fs::read_link("/proc/self/ns/mnt").unwrap());

    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let root = jail::root_of(&spec.dir).unwrap();
    assert_eq!(inode(&root.join("rootfs")), inode(&spec.rootfs), "linked, not copied");
    assert_eq!(inode(&root.join("console.log")), inode(&spec.dir.join("console.log")), "readable where operators look");
    // A daemon that knows nothing of jails finds it as well.
    assert_eq!(binary.driver().paths(&spec.dir), vm.paths);
    let exit = binary.driver().terminate(&vm, SOON).await.unwrap();
    assert_eq!((exit.code, exit.signal), (Some(0), None));
}
