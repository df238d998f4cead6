//! One contract for the real host and the fake one; then what only the real one can show.

use std::sync::Arc;
use std::sync::Mutex;

use airlock_domain::seed::Seed;
use airlock_domain::vmm::{DriverKind, Nic, VmmSpec};
use airlock_protocol::MacAddr;

use super::*;
use crate::network::Network;
use crate::process::is_alive;
use crate::testing::{TestNetns, skip_unless_root};
use crate::vmm::Drivers;
use crate::vmm::fake::FakeDriver;

const ID: &str = "01234567-89ab-4def-8123-456789abcdef";

fn seed() -> Seed {
    Seed {
        meta_data: "instance-id: i\n".into(),
        user_data: "#cloud-config\n{}\n".into(),
        network_config: "{\"version\": 2}\n".into(),
    }
}

fn plan(state_dir: &std::path::Path) -> VmPlan {
    let vm_id: VmId = ID.parse().unwrap();
    let address = Ipv4Addr::new(192, 168, 100, 8);
    let file = |name: &str| {
        let path = state_dir.join(name);
        std::fs::write(&path, "x").unwrap();
        path
    };
    let vmm = VmmSpec {
        vm_id,
        dir: state_dir.join("vms").join(vm_id.dir_name()),
        kernel: file("kernel"),
        kernel_elf: None,
        initramfs: file("initramfs"),
        rootfs: file("rootfs"),
        cmdline: String::new(),
        memory_mib: 64,
        vcpus: 1,
        nics: vec![Nic { tap: Some(vm_id.tap_name()), mac: MacAddr::from_lease(address) }],
        transport: Default::default(),
        uid: None,
        seed: Some(seed()),
    };
    VmPlan { address, driver: DriverKind::QemuTcg, driver_reason: "a test".into(), vmm }
}

/// A real host of one test: namespace, state directory, drivers whose VMM is a process that waits.
struct Host {
    _guard: TestNetns,
    network: Network,
    state: tempfile::TempDir,
    effects: LinuxEffects,
}

impl Host {
    async fn new() -> Self {
        let guard = TestNetns::new();
        let network = Network::open(&guard.spec()).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let drivers = Arc::new(Drivers::only(Arc::new(FakeDriver::new())));
        let effects = LinuxEffects::new(network.clone(), drivers, state.path());
        Self { _guard: guard, network, state, effects }
    }
}

async fn apply(effects: &dyn Effects, step: Step, plan: &VmPlan) -> Result<Option<ProcessId>, EffectError> {
    let recorded = Mutex::new(None);
    let record = |process| -> Recording<'_> {
        *recorded.lock().unwrap() = Some(process);
        Box::pin(async { Ok(()) })
    };
    effects.apply(step, plan, &record).await?;
    let process = *recorded.lock().unwrap();
    Ok(process)
}

/// Every step twice, every undo twice, in order; and after each step what the host shows of it.
async fn keeps_the_contract(effects: &dyn Effects, plan: &VmPlan) {
    let vm_id = plan.vmm.vm_id;
    let nothing = effects.observe().await.unwrap();
    assert!(nothing.taps.is_empty() && nothing.guards.is_empty() && nothing.dirs.is_empty());
    assert!(nothing.in_vm_dir.is_empty());
    let mut traces = VmTraces { vm_id, driver: plan.driver, process: None };
    // Before anything was done there is nothing to undo, and that is fine.
    for step in Step::ALL.into_iter().rev() {
        effects.undo(step, &traces).await.unwrap();
    }
    for step in Step::ALL {
        let recorded = apply(effects, step, plan).await.unwrap();
        traces.process = recorded.or(traces.process);
        assert_eq!(apply(effects, step, plan).await.unwrap(), None, "a second {step} starts nothing");
        let seen = effects.observe().await.unwrap();
        let tap = seen.taps.iter().find(|tap| tap.alias == ID);
        assert_eq!(tap.is_some(), step >= Step::CreateTap, "{step}");
        assert_eq!(tap.is_some_and(|tap| tap.in_service), step >= Step::GuardTap, "no frame before the rules: {step}");
        assert_eq!(seen.guards.len(), usize::from(step >= Step::GuardTap), "{step}");
        assert_eq!(seen.dirs, if step >= Step::PrepareDisk { vec![vm_id.dir_name()] } else { vec![] }, "{step}");
        assert_eq!(seen.in_vm_dir.len(), usize::from(step >= Step::SpawnVmm), "{step}");
    }
    let seen = effects.observe().await.unwrap();
    assert_eq!(seen.guards[0].sender, Some((MacAddr::from_lease(plan.address), plan.address)));
    assert_eq!(seen.in_vm_dir, [(traces.process.unwrap(), vm_id.dir_name())]);
    assert!(seen.processes.contains(&traces.process.unwrap()));
    effects.repair(vm_id, plan.address).await.unwrap();
    assert_eq!(effects.observe().await.unwrap().taps, seen.taps, "what is in order stays");
    for step in Step::ALL.into_iter().rev() {
        effects.undo(step, &traces).await.unwrap();
        effects.undo(step, &traces).await.unwrap();
    }
    let left = effects.observe().await.unwrap();
    assert!(left.taps.is_empty() && left.guards.is_empty() && left.dirs.is_empty() && left.in_vm_dir.is_empty());
    assert!(!left.processes.contains(&traces.process.unwrap()));
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let state = tempfile::tempdir().unwrap();
    let fake = FakeEffects::new();
    keeps_the_contract(&fake, &plan(state.path())).await;
    assert!(fake.world().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_keeps_the_contract() {
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    keeps_the_contract(&host.effects, &plan(host.state.path())).await;
}

/// Somebody else's TAP of the same name, in service: neither used nor changed, and nothing that a VM waits for.
async fn leaves_a_foreign_tap_alone(effects: &dyn Effects, plan: &VmPlan) {
    let before = effects.observe().await.unwrap();
    assert!(before.taps[0].in_service && before.guards.len() == 1);
    let error = apply(effects, Step::CreateTap, plan).await.unwrap_err();
    assert_eq!(error.cause(), Some("tap_name_collision"));
    let traces = VmTraces { vm_id: plan.vmm.vm_id, driver: plan.driver, process: None };
    for step in Step::ALL.into_iter().rev() {
        effects.undo(step, &traces).await.unwrap();
    }
    let after = effects.observe().await.unwrap();
    assert_eq!((after.taps, after.guards), (before.taps, before.guards));
}

#[tokio::test]
async fn the_fake_leaves_a_foreign_tap_alone() {
    let state = tempfile::tempdir().unwrap();
    let (fake, plan) = (FakeEffects::new(), plan(state.path()));
    let name = plan.vmm.vm_id.tap_name();
    fake.world().taps.insert(name.clone(), ("somebody".into(), true));
    fake.world().guards.insert(name, (MacAddr::from_lease(plan.address), plan.address));
    leaves_a_foreign_tap_alone(&fake, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_leaves_a_foreign_tap_alone() {
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    let plan = plan(host.state.path());
    let foreign =
        airlock_domain::network::TapSpec { name: plan.vmm.vm_id.tap_name(), alias: "somebody".into(), owner_uid: 0 };
    host.network.create_tap_port(&foreign).await.unwrap();
    let theirs = Ipv4Addr::new(192, 168, 100, 9);
    let guard = airlock_domain::firewall::GuardSpec::of_vm(plan.vmm.vm_id, theirs);
    let guard = airlock_domain::firewall::GuardSpec { alias: "somebody".into(), ..guard };
    host.network.guard_tap(&guard).await.unwrap();
    leaves_a_foreign_tap_alone(&host.effects, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_cannot_be_recorded_never_runs() {
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    let plan = plan(host.state.path());
    for step in Step::ALL.into_iter().filter(|step| *step < Step::SpawnVmm) {
        apply(&host.effects, step, &plan).await.unwrap();
    }
    let held = Mutex::new(None);
    let record = |process| -> Recording<'_> {
        // It is there, with its final id, but it is not the VMM yet.
        assert!(is_alive(process));
        *held.lock().unwrap() = Some(process);
        Box::pin(async { Err("the disk is full".into()) })
    };
    let error = host.effects.apply(Step::SpawnVmm, &plan, &record).await.unwrap_err();
    assert_eq!(crate::testing::chain(&error), [format!("record the VMM of VM {ID}"), "the disk is full".into()]);
    let held = held.lock().unwrap().unwrap();
    let gone = crate::process::ProcessHandle::open(held).unwrap();
    if let Some(process) = gone {
        tokio::time::timeout(std::time::Duration::from_secs(5), process.exited()).await.unwrap();
    }
    assert!(!is_alive(held));
    assert!(!plan.vmm.dir.join("console.log").exists(), "its program never ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_drive_is_its_owner_s_alone_and_goes_with_its_vm() {
    use std::os::unix::fs::PermissionsExt;
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    let plan = plan(host.state.path());
    let drive = plan.vmm.seed_drive().unwrap();
    for step in [Step::PrepareDisk, Step::WriteVmConfig] {
        apply(&host.effects, step, &plan).await.unwrap();
    }
    let first = std::fs::read(&drive).unwrap();
    assert_eq!(std::fs::metadata(&drive).unwrap().permissions().mode() & 0o777, 0o600);
    apply(&host.effects, Step::WriteVmConfig, &plan).await.unwrap();
    assert_eq!(std::fs::read(&drive).unwrap(), first, "the same seed is the same drive");
    let traces = VmTraces { vm_id: plan.vmm.vm_id, driver: plan.driver, process: None };
    for step in [Step::WriteVmConfig, Step::PrepareDisk] {
        host.effects.undo(step, &traces).await.unwrap();
    }
    assert!(!plan.vmm.dir.exists());

    let none = VmPlan { vmm: VmmSpec { seed: None, ..plan.vmm.clone() }, ..plan };
    for step in [Step::PrepareDisk, Step::WriteVmConfig] {
        apply(&host.effects, step, &none).await.unwrap();
    }
    assert!(!drive.exists() && none.vmm.dir.join("vm.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_file_is_named() {
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    let plan = plan(host.state.path());
    std::fs::remove_file(&plan.vmm.rootfs).unwrap();
    let error = apply(&host.effects, Step::PrepareDisk, &plan).await.unwrap_err();
    assert_eq!(error.cause(), Some("image_missing"));
    assert!(crate::testing::chain(&error)[1].contains("os error 2"));
    assert!(host.effects.observe().await.unwrap().dirs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_in_a_vms_directory_is_seen_and_a_vm_can_be_described() {
    if skip_unless_root() {
        return;
    }
    let host = Host::new().await;
    let plan = plan(host.state.path());
    for step in Step::ALL {
        apply(&host.effects, step, &plan).await.unwrap();
    }
    let spec = crate::process::SpawnSpec {
        program: "sleep".into(),
        args: vec!["1000".into()],
        dir: plan.vmm.dir.clone(),
        output: None,
        netns: None,
        pid_namespace: false,
    };
    let operator = crate::process::spawn(spec).await.unwrap();
    let seen = host.effects.observe().await.unwrap();
    assert_eq!(seen.in_vm_dir.len(), 2);
    let described = host.effects.describe(plan.vmm.vm_id).await;
    assert_eq!((&described["tap"]["alias"], &described["vmm"]["alive"]), (&ID.into(), &true.into()), "{described}");
    let (vmm, _) = seen.in_vm_dir.iter().find(|(process, _)| *process != operator.id()).unwrap();
    let traces = VmTraces { vm_id: plan.vmm.vm_id, driver: plan.driver, process: Some(*vmm) };
    for step in Step::ALL.into_iter().rev() {
        host.effects.undo(step, &traces).await.unwrap();
    }
    let seen = host.effects.observe().await.unwrap();
    assert_eq!(seen.in_vm_dir, [(operator.id(), plan.vmm.vm_id.dir_name())], "also in a directory that is gone");
    operator.kill().unwrap();
    operator.exited().await;
}
