//! Boots one golden image directory with every effect of this crate and prints when what happened, in milliseconds since the
//! request: `cargo run -p airlock-effects --example boot -- IMAGE_DIR [EXTRA_KERNEL_ARGUMENTS]`. For measuring; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use airlock_domain::VmId;
use airlock_domain::network::{NetworkSpec, TapSpec, boot_config};
use airlock_domain::vmm::{Nic, VmmSpec};
use airlock_effects::control::ControlChannel;
use airlock_effects::network::Network;
use airlock_effects::vmm::VmmDriver;
use airlock_effects::vmm::qemu::{Accel, QemuDriver};
use airlock_effects::{console, http};
use airlock_protocol::message::{GuestMessage, HostMessage, VERSION};
use airlock_protocol::paths::HEALTH_PORT;
use airlock_protocol::stage::ConsoleParser;
use airlock_protocol::{MacAddr, Stage};

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let image = PathBuf::from(args.next().expect("usage: boot IMAGE_DIR [EXTRA_KERNEL_ARGUMENTS]"));
    let extra = args.next().unwrap_or_default();
    let dir = std::env::temp_dir().join(format!("airlock-boot-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let spec = NetworkSpec {
        namespace: format!("alk-boot-{}", std::process::id()),
        bridge: "br0".into(),
        subnet: "192.168.100.1/24".parse().unwrap(),
        ..NetworkSpec::default()
    };
    let network = Network::open(&spec).await.unwrap();
    let vm_id: VmId = "01234567-89ab-4def-8123-456789abcdef".parse().unwrap();
    let (addr, tap) = (Ipv4Addr::new(192, 168, 100, 8), TapSpec::of_vm(vm_id, 0));
    let start = Instant::now();
    let say = |what: &str| println!("{:8.1}  {what}", start.elapsed().as_secs_f64() * 1000.0);

    network.ensure_tap(&tap).await.unwrap();
    say("tap");
    let kernel = [image.join("vmlinux"), image.join("vmlinuz")].into_iter().find(|path| path.exists()).unwrap();
    let vmm = VmmSpec {
        vm_id,
        dir: dir.clone(),
        kernel,
        kernel_elf: None,
        initramfs: image.join("initramfs"),
        rootfs: image.join("rootfs.erofs"),
        cmdline: format!("{} {extra}", boot_config(vm_id, spec.subnet, addr).to_cmdline()),
        memory_mib: 1024,
        vcpus: 2,
        nics: vec![Nic { tap: Some(tap.name.clone()), mac: MacAddr::from_lease(addr) }],
        transport: Default::default(),
        uid: None,
        seed: None,
    };
    let driver = QemuDriver::new(Accel::Tcg);
    let mut tail = console::tail(&driver.paths(&dir).console, 0).unwrap();
    let vm = driver.spawn(&vmm, &network).await.unwrap();
    say("vmm accepted");
    let (sender, mut receiver) =
        ControlChannel::connect(&vm.paths.control_socket, vm.paths.control_port, Duration::from_secs(1))
            .await
            .unwrap()
            .split();
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis().try_into().unwrap();
    sender.send(&HostMessage::Hello { version: VERSION, now_ms, vnc_password: None }).await.unwrap();

    let mut parser = ConsoleParser::new();
    let mut up = false;
    while !up {
        tokio::select! {
            chunk = tail.next() => for report in parser.feed(&chunk.unwrap().unwrap()) {
                up |= report.stage == Stage::AgentUp;
                say(&format!("{} {} (guest {} ms)", report.stage, report.ok, report.t_us / 1000));
            },
            exit = vm.process.exited() => panic!("the VMM {exit}"),
        }
    }
    let health = http::get_health(&network, SocketAddr::from((addr, HEALTH_PORT)), Duration::from_secs(2)).await;
    say(&format!("health {:?}", health.map(|health| health.addresses)));
    if let Some(Ok(GuestMessage::Hello { timeline, .. })) = receiver.recv().await {
        say(&format!("hello with {} reports", timeline.len()));
    }
    let exit = driver.terminate(&vm, Duration::from_secs(2)).await.unwrap();
    say(&format!("the VMM {exit}"));
    network.delete_tap(&tap).await.unwrap();
    network.delete().await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    say("gone");
}
