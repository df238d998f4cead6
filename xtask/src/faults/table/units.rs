//! Faults of a guest as the field builds it: a full systemd whose oneshot unit runs a script that reads `ip=` (images `seed` and
//! `seed-quiet`), each with one thing changed in its root.

use std::borrow::Cow;

use airlock_protocol::Stage;

use crate::faults::fault::{Fault, Since, fault};
use crate::faults::site::Special;

const SCRIPT: &str = "usr/local/sbin/network-setup.sh";
const UNIT: &str = "etc/systemd/system/network-setup.service";
/// Slower than our own init by far.
const SLOW: Special = Special { config: "boot_deadline_s = 45\n", network: Cow::Borrowed(""), mounts: "", path: None };
const SILENT_MS: u64 = 47_000;

/// Before it comes to the bridge's own port, where the daemon listens.
const DROP_DHCP: &str = "nft add table bridge other
    nft add chain bridge other drops '{ type filter hook input priority 0; }'
    nft add rule bridge other drops udp dport 67 drop
";

pub fn faults() -> Vec<Fault> {
    let seed = |name, cause, stage| fault(name, cause, stage).of("seed").daemon(SLOW);
    let says = |fault: Fault, text| fault.shows(Since::Sign(text), 1500);
    vec![
        says(seed("seed-link-missing", "link_missing", Stage::LinkFound), "ERROR: Device")
            .how("the script waits for another interface than there is (scenario A: no `found after`)")
            .image(|image| {
                image
                    .change_root(&format!("sed -i -e 's/^IFS=: read.*/&\\ndevice=eth7/' -e 's/-ge 60/-ge 4/' {SCRIPT}"))
            }),
        says(seed("seed-link-renamed", "link_renamed", Stage::LinkFound), "ERROR: Device")
            .how("something in the guest gives the interface another name before the script looks for it")
            .image(|image| {
                image.change_root(&format!("sed -i -e '2i ip link set eth0 name lan0' -e 's/-ge 60/-ge 4/' {SCRIPT}"))
            }),
        seed("seed-static-fallback", "address_mismatch", Stage::AddressSet)
            .shows(Since::Asked, SILENT_MS)
            .how("the script takes the address 192.168.100.10 and not the one of `ip=`")
            .image(|image| image.change_root(&format!("sed -i 's/^IFS=: read.*/&\\nclient=192.168.100.10/' {SCRIPT}"))),
        seed("dhcp-silent", "dhcp_timeout", Stage::AddressSet)
            .of("dhcp-networkd")
            .shows(Since::Asked, SILENT_MS)
            .how("systemd-networkd asks for its address, and something on the bridge drops the question")
            .before_vmm(DROP_DHCP),
        says(seed("seed-link-up-fails", "link_up_failed", Stage::LinkUp), "ERROR: Failed to bring up")
            .how("the unit has no CAP_NET_ADMIN (scenario A: no `is UP`)")
            .image(|image| {
                image.change_root(&format!("sed -i 's/^Type=/CapabilityBoundingSet=~CAP_NET_ADMIN\\n&/' {UNIT}"))
            }),
        says(seed("seed-address-fails", "address_set_failed", Stage::AddressSet), "ERROR: Failed to assign")
            .how("the script gives its address an impossible prefix (scenario A: no `IP address assigned`)")
            .image(|image| image.change_root(&format!("sed -i 's/^prefix=0/prefix=99/' {SCRIPT}"))),
        seed("seed-route-fails", "route_set_failed", Stage::RouteSet)
            .shows(Since::Asked, SILENT_MS)
            .how("`ip=` with a gateway outside the subnet, under the script")
            .before_vmm("edit '/^console=/s|(ip=[0-9.]+)::[0-9.]+:|\\1::10.9.9.9:|'"),
        seed("seed-quiet-does-nothing", "unit_output_not_on_console", Stage::LinkUp)
            .of("seed-quiet")
            .how("the script ends at once, and its output goes to the journal only (scenario B)")
            .image(|image| image.change_root(&format!("sed -i '1a exit 0' {SCRIPT}")))
            .shows(Since::Asked, SILENT_MS),
        says(seed("unit-not-executable", "unit_failed", Stage::LinkUp), "Failed to start")
            .how("the unit's script has mode 0644 (203/EXEC)")
            .image(|image| image.change_root(&format!("chmod 0644 {SCRIPT}"))),
        says(seed("unit-without-interpreter", "unit_failed", Stage::LinkUp), "Failed to start")
            .how("the interpreter of the unit's script is not there (203/EXEC)")
            .image(|image| image.change_root(&format!("sed -i '1s|.*|#!/bin/nosuch|' {SCRIPT}"))),
        seed("unit-not-enabled", "unit_not_enabled", Stage::ConfigRead)
            .how("nothing wants the unit")
            .image(|image| image.change_root("rm etc/systemd/system/multi-user.target.wants/network-setup.service"))
            .shows(Since::Asked, SILENT_MS),
        says(seed("emergency-mode", "systemd_emergency", Stage::HandedOver), "emergency mode")
            .how("fstab names a disk that is not there")
            .image(|image| {
                image.change_root("echo '/dev/vdq /data ext4 x-systemd.device-timeout=2s 0 2' >> etc/fstab")
            }),
    ]
}
