//! Faults of the host: the machine's port, the bridge, the VMM and how it is started.

use airlock_protocol::Stage;

use crate::faults::fault::{Fault, Since, fault};

pub fn faults() -> Vec<Fault> {
    let mut all = nic();
    all.extend(vmm());
    all
}

fn nic() -> Vec<Fault> {
    vec![
        fault("nic-wrong-mac", "link_missing", Stage::LinkFound)
            .how("the VMM's NIC has another MAC than the lease")
            .before_vmm("edit 's/,mac=06:00/,mac=06:77/'")
            .quick(),
        fault("nic-missing", "link_missing", Stage::LinkFound)
            .how("the VMM has no NIC")
            .before_vmm(
                "kept=(); for arg in \"${args[@]}\"; do case $arg in tap,*|virtio-net*) unset 'kept[-1]';; *) kept+=(\"$arg\");; esac; done; args=(\"${kept[@]}\")",
            ),
        fault("tap-down-at-boot", "tap_down", Stage::TapUp)
            .how("`ip link set $TAP down` before the VMM starts")
            .before_vmm("ip link set \"$TAP\" down"),
        fault("tap-out-of-bridge-at-boot", "tap_not_in_bridge", Stage::TapUp)
            .how("`ip link set $TAP nomaster` before the VMM starts")
            .before_vmm("ip link set \"$TAP\" nomaster")
            .quick(),
        fault("tap-busy", "tap_busy", Stage::VmmStarted)
            .how("another VMM is attached to the TAP")
            .before_vmm(
                "\"$real\" -M none -display none -S -netdev tap,id=n,ifname=\"$TAP\",script=no,downscript=no >/dev/null 2>&1 & \
                 until [ \"$(cat /proc/net/dev | grep -c \"$TAP\")\" = 1 ] && ip link show \"$TAP\" | grep -q LOWER_UP; do sleep 0.02; done; \
                 (sleep 2; kill $!) >/dev/null 2>&1 &",
            )
            .shows(Since::Exit, 1000),
    ]
}

fn vmm() -> Vec<Fault> {
    vec![
        fault("vmm-machine-unknown", "vmm_config_rejected", Stage::VmmStarted)
            .how("the VMM is started with a machine type that it does not have")
            .before_vmm("edit 's/^q35,.*/nosuch/'")
            .shows(Since::Exit, 1000)
            .quick(),
        fault("vmm-device-unknown", "vmm_config_rejected", Stage::VmmStarted)
            .how("the VMM is started with an unknown device")
            .before_vmm("args+=(-device virtio-nosuch)")
            .shows(Since::Exit, 1000),
        fault("vmm-memory-refused", "memory_insufficient", Stage::VmmStarted)
            .how("the VMM may have 1 GiB of address space (ulimit -v)")
            .before_vmm("ulimit -v 1048576; edit 's/^256$/4096/'")
            .shows(Since::Exit, 1000),
        fault("vmm-socket-stale", "vmm_socket_stale", Stage::VmmStarted)
            .how("something else is in the place of the VMM's socket")
            .before_vmm("mkdir qmp.sock")
            .shows(Since::Exit, 1000),
        fault("vmm-killed-at-boot", "vmm_exited", Stage::KernelStarted)
            .how("`kill -9` of the VMM when its kernel started")
            .on_host(Stage::VmmStarted, "sleep 0.4; kill -9 $PID")
            .shows(Since::Exit, 1000)
            .quick(),
        fault("vmm-crashed-at-boot", "vmm_exited", Stage::AgentUp)
            .how("`kill -SEGV` of the VMM before its agent is up")
            .image(|image| image.wrap_agent("$bb sleep 60"))
            .on_host(Stage::HandedOver, "kill -SEGV $PID")
            .shows(Since::Exit, 1000),
    ]
}
