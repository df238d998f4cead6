//! What the crash matrix and the model test share: faults around a host, and sessions whose VMs are made of nothing but steps.

#![allow(dead_code, reason = "neither test uses all of it")]

pub mod faulty;

use std::path::{Path, PathBuf};

use airlock_domain::admission::Limits;
use airlock_domain::session::{SessionEvent, SessionState};
use airlock_domain::vmm::{DriverKind, Nic, VmPlan, VmmSpec};
use airlock_domain::{SessionId, VmId};
use airlock_engine::Moment;
use airlock_engine::records::SessionRecord;
use airlock_engine::store::{Accepted, NewSession, Room, Store};
use airlock_protocol::MacAddr;
use uuid::Uuid;

/// The host that all rows carry.
pub const HOST: &str = "h1";
/// The golden image's files, below the state directory.
pub const IMAGE_FILES: [&str; 3] = ["kernel", "initramfs", "rootfs"];

/// A directory for state directories: in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    let dir = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
    dir.expect("make a scratch directory")
}

/// The store of a state directory.
pub async fn open_store(state_dir: &Path) -> Store {
    Store::open(&state_dir.join("airlock.db"), HOST).await.expect("open the store")
}

/// Accepts a session that lasts so long; its VM has a lease and the intents of its steps, nothing more.
pub async fn begin(store: &Store, vm_id: VmId, lasts_ms: i64) -> SessionRecord {
    let new = NewSession {
        id: SessionId::from_uuid(Uuid::new_v4()),
        vm_id,
        user_id: "u1".into(),
        provider: "shell".into(),
        idempotency_key: None,
        image: "base@sha256:00".into(),
        driver: DriverKind::QemuTcg,
        memory_mib: 64,
        now: Moment::now(),
        boot_id: "boot".into(),
        lasts_ms,
    };
    let room = Room {
        limits: Limits { sessions_per_user: 0, ..Limits::default() },
        subnet: "192.168.100.1/24".parse().expect("a subnet"),
        memory_mib: 1 << 30,
        available_mib: 1 << 30,
    };
    match store.accept(&new, &room).await.expect("accept a session") {
        Accepted::Begun(session) => session,
        other => panic!("not begun: {other:?}"),
    }
}

/// What the steps of a session's VM are applied with.
pub fn plan_of(session: &SessionRecord, state_dir: &Path) -> VmPlan {
    let (vm_id, address) = (session.vm_id, session.address.expect("a session with a VM has an address"));
    let [kernel, initramfs, rootfs] = IMAGE_FILES.map(|name| state_dir.join(name));
    let vmm = VmmSpec {
        vm_id,
        dir: vm_dir(state_dir, vm_id),
        kernel,
        kernel_elf: None,
        initramfs,
        rootfs,
        cmdline: String::new(),
        memory_mib: session.memory_mib,
        vcpus: 1,
        nics: vec![Nic { tap: Some(vm_id.tap_name()), mac: MacAddr::from_lease(address) }],
        transport: Default::default(),
        uid: None,
        seed: Some(airlock_domain::seed::Seed {
            meta_data: "instance-id: i\n".into(),
            user_data: "#cloud-config\n{}\n".into(),
            network_config: "{\"version\": 2}\n".into(),
        }),
    };
    VmPlan { address, driver: session.driver, driver_reason: "a test".into(), vmm }
}

/// The directory of a VM.
pub fn vm_dir(state_dir: &Path, vm_id: VmId) -> PathBuf {
    state_dir.join("vms").join(vm_id.dir_name())
}

/// Moves a session as its machine says, from wherever the store has it.
pub async fn move_session(store: &Store, id: SessionId, event: SessionEvent) {
    let session = store.session(id).await.expect("read a session").expect("the session is recorded");
    if let Some(to) = session.state.after(event) {
        let now = Moment::now().wall_ms;
        assert!(store.move_session(id, session.state, to, None, now).await.expect("move a session"));
    }
}

/// The session's machine is ready and its person may act.
pub async fn make_ready(store: &Store, session: &SessionRecord) {
    use airlock_engine::records::VmState;
    move_session(store, session.id, SessionEvent::BootBegan).await;
    let now = Moment::now().wall_ms;
    store.set_vm_state(session.vm_id, VmState::Ready, None, now).await.expect("record a VM as ready");
    move_session(store, session.id, SessionEvent::MachineReady).await;
    let session = store.session(session.id).await.expect("read a session").expect("the session is recorded");
    assert_eq!(session.state, SessionState::AwaitingUser);
}
