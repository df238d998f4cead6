//! QEMU's command line for a VM: a pure function, pinned by a test.

use std::ffi::OsString;
use std::path::Path;

use airlock_domain::vmm::{Nic, VmmSpec};
use airlock_protocol::paths::CONTROL_PORT_NAME;

use super::Accel;

pub(super) const CONSOLE: &str = "console.log";
pub(super) const CONTROL_SOCKET: &str = "agent.sock";
pub(super) const API_SOCKET: &str = "qmp.sock";

/// Kernel arguments that belong to this machine and not to the VM. The self-tests of the kernel's ciphers cost 0.2 s to 0.4 s
/// of emulation at every boot and say nothing new.
const CMDLINE: &str = "console=ttyS0 reboot=t panic=-1 quiet loglevel=4 random.trust_cpu=on mitigations=off net.ifnames=0 \
                       cryptomgr.notests";
/// Under TCG the time stamp counter is the host's clock, timer checks only burn time, and code patching for SMP costs translation.
const CMDLINE_TCG: &str = "tsc=reliable no_timer_check noreplace-smp";

/// The kernel command line: the machine's part, then the VM's.
pub fn kernel_cmdline(spec: &VmmSpec, accel: Accel) -> String {
    match accel {
        Accel::Tcg => format!("{CMDLINE} {CMDLINE_TCG} {}", spec.cmdline),
        Accel::Kvm => format!("{CMDLINE} {}", spec.cmdline),
    }
}

/// Arguments for QEMU, to be run in the VM's directory.
pub fn qemu_args(spec: &VmmSpec, accel: Accel) -> Vec<OsString> {
    let mut args = Args::default();
    args.machine(spec, accel);
    args.kernel(spec, accel);
    // Read-only and shared by all VMs: the host's page cache holds it once, and nothing is copied.
    args.option("-blockdev", keyed("driver=file,node-name=root-file,read-only=on,aio=threads,filename=", &spec.rootfs));
    args.option("-blockdev", "driver=raw,node-name=root,read-only=on,file=root-file");
    args.option("-device", "virtio-blk-pci,drive=root");
    for (slot, nic) in spec.nics.iter().enumerate() {
        args.nic(slot, nic);
    }
    args.option("-device", "virtio-rng-pci");
    args.option("-device", "virtio-serial-pci");
    args.option("-chardev", format!("socket,id=agent,path={CONTROL_SOCKET},server=on,wait=off"));
    args.option("-device", format!("virtserialport,chardev=agent,name={CONTROL_PORT_NAME}"));
    args.0
}

/// Arguments for a guest without disk, network and control channel: only its console speaks.
pub fn probe_args(spec: &VmmSpec, accel: Accel) -> Vec<OsString> {
    let mut args = Args::default();
    args.machine(spec, accel);
    args.kernel(spec, accel);
    args.0
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    /// What every machine has, also one that is only a probe: no default devices, console to a file, QMP, no way out.
    fn machine(&mut self, spec: &VmmSpec, accel: Accel) {
        self.option("-name", format!("airlock-{}", spec.vm_id));
        self.option("-machine", "q35,usb=off,hpet=off,vmport=off");
        match accel {
            Accel::Tcg => {
                self.option("-cpu", "Nehalem");
                self.option("-accel", "tcg,thread=multi,tb-size=512");
            }
            Accel::Kvm => {
                self.option("-cpu", "host");
                self.option("-accel", "kvm");
            }
        }
        self.option("-smp", spec.vcpus.to_string());
        self.option("-m", spec.memory_mib.to_string());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            self.0.push(flag.into());
        }
        // Not -nographic: with it the firmware writes to the console too, and the first byte must be the kernel's.
        self.option("-display", "none");
        self.option("-monitor", "none");
        self.option("-qmp", format!("unix:{API_SOCKET},server=on,wait=off"));
        self.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        self.option("-chardev", format!("file,id=console,path={CONSOLE}"));
        self.option("-serial", "chardev:console");
    }

    fn kernel(&mut self, spec: &VmmSpec, accel: Accel) {
        self.option("-kernel", spec.kernel.as_os_str());
        self.option("-initrd", spec.initramfs.as_os_str());
        self.option("-append", kernel_cmdline(spec, accel));
    }

    /// Slot order is the order of PCI addresses, so the guest's kernel meets the interfaces in it.
    fn nic(&mut self, slot: usize, nic: &Nic) {
        let id = format!("net{slot}");
        match &nic.tap {
            Some(tap) => self.option("-netdev", format!("tap,id={id},ifname={tap},script=no,downscript=no")),
            // A hub of its own with nobody else in it: a cable that leads nowhere.
            None => self.option("-netdev", format!("hubport,id={id},hubid={slot}")),
        }
        // No option ROM: nothing is ever booted from the network.
        self.option("-device", format!("virtio-net-pci,netdev={id},mac={},romfile=", nic.mac));
    }
}

/// `key=path` for an option with commas: a comma inside is doubled (QEMU's `qemu-options`).
fn keyed(key: &str, path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut text = key.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        text.push(byte);
        if byte == b',' {
            text.push(byte);
        }
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmmSpec {
        VmmSpec {
            vm_id: "01234567-89ab-4def-8123-456789abcdef".parse().unwrap(),
            dir: "/state/vms/vm-0".into(),
            kernel: "/images/a/vmlinuz".into(),
            initramfs: "/images/a/initramfs".into(),
            rootfs: "/images/a,b/rootfs.erofs".into(),
            cmdline: "ip=192.168.100.8::192.168.100.1:255.255.255.0::eth0:off airlock.vm=x".into(),
            memory_mib: 1024,
            vcpus: 2,
            nics: vec![
                Nic { tap: None, mac: "06:00:00:00:00:01".parse().unwrap() },
                Nic { tap: Some("fc-0123456789".into()), mac: "06:00:c0:a8:64:08".parse().unwrap() },
            ],
        }
    }

    #[test]
    fn the_command_line_is_reviewed_text() {
        let args = qemu_args(&spec(), Accel::Tcg);
        let text: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let expected = include_str!("args.snapshot");
        assert_eq!(text.join("\n"), expected.trim_end(), "if the change is meant, write it to args.snapshot");
    }

    #[test]
    fn kvm_differs_only_in_processor_and_timer_arguments() {
        let (tcg, kvm) = (qemu_args(&spec(), Accel::Tcg), qemu_args(&spec(), Accel::Kvm));
        let changed: Vec<_> = tcg.iter().zip(&kvm).filter(|(a, b)| a != b).map(|(_, b)| b.to_str().unwrap()).collect();
        assert_eq!(tcg.len(), kvm.len());
        assert_eq!(changed[..2], ["host", "kvm"]);
        assert_eq!(changed[2], kernel_cmdline(&spec(), Accel::Kvm));
        assert!(!changed[2].contains("tsc=") && changed[2].ends_with("airlock.vm=x"));
        assert_eq!(changed.len(), 3);
    }
}
