//! QEMU's command line for a VM: a pure function, pinned by a test.

use std::ffi::OsString;
use std::path::Path;

use airlock_domain::vmm::{Nic, Transport, VmmSpec};
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

/// The kernel command line: the machine's part, then the VM's. `tsc_khz` is the rate of the host's time stamp counter, for
/// machines that have nothing to measure it by.
pub fn kernel_cmdline(spec: &VmmSpec, accel: Accel, tsc_khz: Option<u32>) -> String {
    let rate = tsc_khz.filter(|_| needs_tsc_khz(spec, accel)).map(|khz| format!("tsc_early_khz={khz} "));
    match accel {
        Accel::Tcg => format!("{CMDLINE} {CMDLINE_TCG} {}{}", rate.unwrap_or_default(), spec.cmdline),
        Accel::Kvm => format!("{CMDLINE} {}", spec.cmdline),
    }
}

/// Whether the guest must be told the rate of its time stamp counter.
pub fn needs_tsc_khz(spec: &VmmSpec, accel: Accel) -> bool {
    (spec.transport, accel) == (Transport::Mmio, Accel::Tcg)
}

/// Arguments for QEMU, to be run in the VM's directory.
pub fn qemu_args(spec: &VmmSpec, accel: Accel, tsc_khz: Option<u32>) -> Vec<OsString> {
    let mut args = Args { mmio: spec.transport == Transport::Mmio, ..Args::default() };
    args.machine(spec, accel);
    args.kernel(spec, accel, tsc_khz);
    // Read-only and shared by all VMs: the host's page cache holds it once, and nothing is copied.
    args.drive("root", &spec.rootfs);
    if let Some(seed) = spec.seed_drive() {
        // Behind the root, which is /dev/vda; this one is found by its label.
        args.drive("seed", &seed);
    }
    for (slot, nic) in spec.nics.iter().enumerate() {
        args.nic(slot, nic);
    }
    args.virtio("rng", "");
    args.virtio("serial", "");
    args.option("-chardev", format!("socket,id=agent,path={CONTROL_SOCKET},server=on,wait=off"));
    args.option("-device", format!("virtserialport,chardev=agent,name={CONTROL_PORT_NAME}"));
    args.list
}

/// Arguments for a guest without disk, network and control channel: only its console speaks.
pub fn probe_args(spec: &VmmSpec, accel: Accel) -> Vec<OsString> {
    let mut args = Args::default();
    args.machine(spec, accel);
    args.kernel(spec, accel, None);
    args.list
}

#[derive(Default)]
struct Args {
    list: Vec<OsString>,
    mmio: bool,
}

impl Args {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.list.push(name.into());
        self.list.push(value.into());
    }

    /// A virtio device with these properties, each with a comma before it. Without PCI, QEMU gives it the next free transport,
    /// and the guest meets them in that order.
    fn virtio(&mut self, kind: &str, properties: &str) {
        let bus = if self.mmio { "device" } else { "pci" };
        self.option("-device", format!("virtio-{kind}-{bus}{properties}"));
    }

    fn drive(&mut self, name: &str, path: &Path) {
        let file = format!("driver=file,node-name={name}-file,read-only=on,aio=threads,filename=");
        self.option("-blockdev", keyed(&file, path));
        self.option("-blockdev", format!("driver=raw,node-name={name},read-only=on,file={name}-file"));
        self.virtio("blk", &format!(",drive={name}"));
    }

    /// What every machine has, also one that is only a probe: no default devices, console to a file, QMP, no way out.
    fn machine(&mut self, spec: &VmmSpec, accel: Accel) {
        self.option("-name", format!("airlock-{}", spec.vm_id));
        if self.mmio {
            // ACPI names the devices, since Debian's kernel reads none from its command line (VIRTIO_MMIO_CMDLINE_DEVICES); timer
            // chip and clock make it a machine that every kernel knows how to start on.
            self.option("-machine", "microvm,acpi=on,pcie=off,usb=off,pic=on,pit=on,rtc=on");
            // The virtio of today, not that of before 1.0, which is QEMU's default here.
            self.option("-global", "virtio-mmio.force-legacy=false");
        } else {
            self.option("-machine", "q35,usb=off,hpet=off,vmport=off");
        }
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
            self.list.push(flag.into());
        }
        // Not -nographic: with it the firmware writes to the console too, and the first byte must be the kernel's.
        self.option("-display", "none");
        self.option("-monitor", "none");
        self.option("-qmp", format!("unix:{API_SOCKET},server=on,wait=off"));
        self.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        self.option("-chardev", format!("file,id=console,path={CONSOLE}"));
        self.option("-serial", "chardev:console");
    }

    fn kernel(&mut self, spec: &VmmSpec, accel: Accel, tsc_khz: Option<u32>) {
        self.option("-kernel", spec.kernel.as_os_str());
        self.option("-initrd", spec.initramfs.as_os_str());
        self.option("-append", kernel_cmdline(spec, accel, tsc_khz));
    }

    /// Slot order is the order of addresses, so the guest's kernel meets the interfaces in it.
    fn nic(&mut self, slot: usize, nic: &Nic) {
        let id = format!("net{slot}");
        match &nic.tap {
            Some(tap) => self.option("-netdev", format!("tap,id={id},ifname={tap},script=no,downscript=no")),
            // A hub of its own with nobody else in it: a cable that leads nowhere.
            None => self.option("-netdev", format!("hubport,id={id},hubid={slot}")),
        }
        // No option ROM: nothing is ever booted from the network. Without PCI there is none.
        let no_rom = if self.mmio { "" } else { ",romfile=" };
        self.virtio("net", &format!(",netdev={id},mac={}{no_rom}", nic.mac));
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
            kernel_elf: None,
            initramfs: "/images/a/initramfs".into(),
            rootfs: "/images/a,b/rootfs.erofs".into(),
            cmdline: "ip=192.168.100.8::192.168.100.1:255.255.255.0::eth0:off airlock.vm=x".into(),
            memory_mib: 1024,
            vcpus: 2,
            nics: vec![
                Nic { tap: None, mac: "06:00:00:00:00:01".parse().unwrap() },
                Nic { tap: Some("fc-0123456789".into()), mac: "06:00:c0:a8:64:08".parse().unwrap() },
            ],
            transport: Transport::Pci,
            uid: None,
            seed: None,
        }
    }

    fn text(spec: &VmmSpec, accel: Accel) -> String {
        let args = qemu_args(spec, accel, Some(2_600_000));
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_command_line_is_reviewed_text() {
        let expected = include_str!("args.snapshot");
        assert_eq!(text(&spec(), Accel::Tcg), expected.trim_end(), "if the change is meant, write it to args.snapshot");
    }

    #[test]
    fn kvm_differs_only_in_processor_and_timer_arguments() {
        let args = |accel| qemu_args(&spec(), accel, Some(2_600_000));
        let (tcg, kvm) = (args(Accel::Tcg), args(Accel::Kvm));
        let changed: Vec<_> = tcg.iter().zip(&kvm).filter(|(a, b)| a != b).map(|(_, b)| b.to_str().unwrap()).collect();
        assert_eq!(tcg.len(), kvm.len());
        assert_eq!(changed[..2], ["host", "kvm"]);
        assert_eq!(changed[2], kernel_cmdline(&spec(), Accel::Kvm, None));
        assert!(!changed[2].contains("tsc=") && changed[2].ends_with("airlock.vm=x"));
        assert_eq!(changed.len(), 3);
    }

    #[test]
    fn without_pci_the_same_devices_come_in_the_same_order() {
        let mmio = VmmSpec { transport: Transport::Mmio, ..spec() };
        let text = text(&mmio, Accel::Tcg);
        let devices: Vec<&str> =
            text.lines().filter(|line| line.starts_with("virtio-") && line.contains("-device")).collect();
        assert_eq!(
            devices,
            [
                "virtio-blk-device,drive=root",
                "virtio-net-device,netdev=net0,mac=06:00:00:00:00:01",
                "virtio-net-device,netdev=net1,mac=06:00:c0:a8:64:08",
                "virtio-rng-device",
                "virtio-serial-device",
            ]
        );
        assert!(text.contains("\nmicrovm,acpi=on,") && !text.contains("-pci") && !text.contains("romfile"));
        assert!(text.contains(" tsc_early_khz=2600000 ip="));
        assert!(!kernel_cmdline(&mmio, Accel::Kvm, Some(1)).contains("tsc_early_khz"));
    }

    #[test]
    fn a_seed_is_a_second_drive_behind_the_root() {
        let seed = airlock_domain::seed::Seed {
            meta_data: String::new(),
            user_data: String::new(),
            network_config: String::new(),
        };
        let text = text(&VmmSpec { seed: Some(seed), ..spec() }, Accel::Tcg);
        assert!(text.contains("filename=/state/vms/vm-0/seed.img\n-blockdev\ndriver=raw,node-name=seed,read-only=on,"));
        let place = |device: &str| text.find(device).unwrap();
        assert!(place("virtio-blk-pci,drive=root") < place("virtio-blk-pci,drive=seed"));
    }
}
