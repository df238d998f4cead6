//! Faults that befall a machine that was ready; it is asked for its diagnosis afterwards.

use airlock_protocol::Stage;

use crate::faults::fault::{Fault, Since, live};
use crate::faults::image::Image;
use crate::faults::site::Special;

/// What a second machine on the bridge with the guest's address takes.
const SECOND_MACHINE: &str = "ip netns add $NETNS-second
    ip link add second0 type veth peer name eth0 netns $NETNS-second
    ip link set second0 master br0 up
    ip -n $NETNS-second link set eth0 address 02:00:00:00:00:99 up
    ip -n $NETNS-second addr add $ADDRESS/24 dev eth0";

/// A monitor of QEMU behind two pipes; somebody has to hold them open.
const MONITOR: &str = "mkfifo monitor.in monitor.out; exec 8<>monitor.in 9<>monitor.out; args+=(-monitor pipe:monitor)";

pub fn faults() -> Vec<Fault> {
    let mut all = port();
    all.extend(bridge());
    all.extend(guest());
    all
}

fn port() -> Vec<Fault> {
    vec![
        live("tap-down", "tap_down")
            .at(Stage::TapUp)
            .how("`ip link set $TAP down` under a ready machine")
            .on_host(Stage::Ready, "ip link set $TAP down")
            .quick(),
        live("tap-out-of-bridge", "tap_not_in_bridge")
            .at(Stage::TapUp)
            .how("`ip link set $TAP nomaster` under a ready machine")
            .on_host(Stage::Ready, "ip link set $TAP nomaster"),
        live("tap-deleted", "tap_missing")
            .at(Stage::TapUp)
            .how("`ip link del $TAP` under a ready machine")
            .on_host(Stage::Ready, "ip link del $TAP"),
        live("tap-of-somebody-else", "tap_name_collision")
            .at(Stage::TapUp)
            .how("the TAP has another owner's alias")
            .on_host_until_asked("ip link set $TAP alias somebody", "ip link set $TAP alias $VM"),
        live("tap-without-vnet-hdr", "tap_no_vnet_hdr")
            .at(Stage::TapUp)
            .how("the VMM attaches to its TAP with `vnet_hdr=off`")
            .before_vmm("edit 's/^(tap,.*)$/\\1,vnet_hdr=off/'")
            .on_host(Stage::Ready, "true"),
        live("nic-unplugged", "link_no_carrier")
            .at(Stage::LinkUp)
            .how("the VMM pulls the plug of its NIC (`set_link net0 off` in its monitor)")
            .before_vmm(MONITOR)
            .on_host(Stage::Ready, "echo 'set_link net0 off' > /proc/$PID/cwd/monitor.in"),
        live("address-of-two-machines", "address_conflict")
            .at(Stage::AddressSet)
            .how("another machine on the bridge answers ARP for the guest's address")
            .on_host_until_asked(SECOND_MACHINE, "ip netns del $NETNS-second"),
    ]
}

/// Somebody's policy routes what has no mark to the guest another way. What the host sends has one, and gets there; what the
/// guest answers came from where nothing without a mark would go.
const OTHER_WAY_WITHOUT_MARK: &str = "ip link add other0 type bridge; ip link set other0 up
    ip route add $ADDRESS/32 dev other0 src 192.168.100.1 table 77
    ip rule add pref 90 fwmark 7 lookup main
    ip rule add pref 91 to $ADDRESS/32 lookup 77
    nft add table ip marks
    nft add chain ip marks output '{ type route hook output priority mangle; }'
    nft add rule ip marks output ip daddr $ADDRESS meta mark set 7";

/// The bridge is everybody's: these have a daemon of their own.
fn bridge() -> Vec<Fault> {
    let own = |fault: Fault| fault.at(Stage::TapUp).daemon(Special::default());
    vec![
        own(live("bridge-deleted", "bridge_missing"))
            .how("`ip link del br0` under a ready machine")
            .on_host(Stage::Ready, "ip link del br0"),
        own(live("bridge-without-address", "bridge_address_mismatch"))
            .how("`ip addr flush dev br0` under a ready machine")
            .on_host(Stage::Ready, "ip addr flush dev br0"),
        own(live("bridge-with-foreign-address", "bridge_address_mismatch"))
            .how("the bridge has 10.44.0.1/24 instead of the gateway's address")
            .on_host(Stage::Ready, "ip addr flush dev br0; ip addr add 10.44.0.1/24 dev br0"),
        own(live("route-takes-pool", "subnet_overlap"))
            .at(Stage::Leased)
            .how("a route of the namespace leads the guest's address elsewhere")
            .on_host(
                Stage::Ready,
                "ip link add other0 type bridge; ip link set other0 up; ip route add $ADDRESS/32 dev other0",
            ),
        own(live("reverse-path-filtered", "rp_filter_drop"))
            .at(Stage::Reachable)
            .how("policy routing of the namespace leads what has no mark elsewhere: strict filtering of reverse paths drops every answer of the guest")
            .on_host(Stage::Ready, OTHER_WAY_WITHOUT_MARK),
    ]
}

fn guest() -> Vec<Fault> {
    let conflict = |fault: Fault| {
        fault.image(|image| {
            image.with_shell()?;
            image.config(|config| config["on_address_conflict"] = "fail".into())
        })
    };
    let fails = |fault: Fault| conflict(fault).fails().shows(Since::Sign("address_owner_conflict"), 1000);
    let later = Image::with_shell;
    vec![
        fails(live("address-removed", "address_owner_conflict"))
            .how("somebody in the guest removes its address (`on_address_conflict = \"fail\"`)")
            .in_guest("(busybox sleep 0.3; busybox ip addr flush dev eth0) >/dev/null 2>&1 &"),
        fails(live("address-replaced", "address_owner_conflict"))
            .how("somebody in the guest puts another address in the place of its own")
            .in_guest(
                "(busybox sleep 0.3; busybox ip addr flush dev eth0; busybox ip addr add 192.168.100.10/24 dev eth0) >/dev/null 2>&1 &",
            ),
        live("clock-off-by-a-year", "clock_wrong")
            .at(Stage::Reachable)
            .image(later)
            .how("the guest's clock is set back by a year")
            .in_guest("busybox date -s @$(($(busybox date +%s) - 31536000))"),
        fails(live("guest-link-down", "address_owner_conflict"))
            .how("somebody in the guest takes its interface down")
            .in_guest("(busybox sleep 0.3; busybox ip link set eth0 down) >/dev/null 2>&1 &"),
        live("guest-drops-host", "l2_ok_l3_dead")
            .at(Stage::Reachable)
            .how("the guest answers ARP and loses every packet (a route sends its answers nowhere)")
            .in_guest("(busybox sleep 0.3; busybox ip route add blackhole 192.168.100.1/32) >/dev/null 2>&1 &"),
        live("second-owner", "address_owner_conflict")
            .of("thief-fail")
            .unchanged()
            .how("a DHCP client of the image takes the interface two seconds after the boot (`udhcpc`, image `thief-fail`)")
            .on_host(Stage::Ready, "true")
            .fails()
            .shows(Since::Sign("address_owner_conflict"), 1000),
    ]
}
