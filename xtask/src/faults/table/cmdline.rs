//! Faults of the kernel's command line. The last `ip=` counts, so one behind Airlock's own takes its place.

use airlock_protocol::Stage;

use crate::faults::fault::{Fault, fault};

/// Each wrong in another way: name, value, what is wrong with it.
const MALFORMED: [(&str, &str, &str); 12] = [
    ("ip-empty", "", "empty"),
    ("ip-client-no-address", "192.168.100.300::192.168.100.1:255.255.255.0::eth0:off", "client-ip is no address"),
    ("ip-client-is-mask", "255.255.255.0::192.168.100.1:255.255.255.0::eth0:off", "client-ip is a netmask"),
    ("ip-client-missing", "::192.168.100.1:255.255.255.0::eth0:off", "client-ip is missing"),
    ("ip-server-no-address", "192.168.100.8:srv:192.168.100.1:255.255.255.0::eth0:off", "server-ip is a name"),
    ("ip-gateway-no-address", "192.168.100.8::gateway:255.255.255.0::eth0:off", "gw-ip is a name"),
    ("ip-netmask-holes", "192.168.100.8::192.168.100.1:255.0.255.0::eth0:off", "netmask has a hole"),
    ("ip-netmask-is-prefix", "192.168.100.8::192.168.100.1:24::eth0:off/x", "autoconf is no word"),
    ("ip-hostname-wrong", "192.168.100.8::192.168.100.1:255.255.255.0:a_b:eth0:off", "hostname is none"),
    (
        "ip-device-wrong",
        "192.168.100.8::192.168.100.1:255.255.255.0::a-name-that-is-too-long:off",
        "device is too long",
    ),
    ("ip-dns-no-address", "192.168.100.8::192.168.100.1:255.255.255.0::eth0:off:dns", "dns0-ip is a name"),
    (
        "ip-too-many-fields",
        "192.168.100.8::192.168.100.1:255.255.255.0::eth0:off:1.1.1.1:1.0.0.1:1.2.3.4:x",
        "eleven fields",
    ),
];

pub fn faults() -> Vec<Fault> {
    let malformed = MALFORMED.into_iter().map(|(name, value, what)| {
        let fault = fault(name, "cmdline_ip_malformed", Stage::ConfigRead).how(format!("`ip={value}`: {what}"));
        let fault = fault.cmdline(&format!("ip={value}"));
        if name == "ip-client-no-address" { fault.quick() } else { fault }
    });
    let mut all: Vec<Fault> = malformed.collect();
    all.extend([
        fault("ip-missing", "cmdline_ip_missing", Stage::ConfigRead)
            .how("the command line has no `ip=`")
            .before_vmm("edit '/^console=/s| ip=[^ ]*||'"),
        fault("mac-malformed", "cmdline_ip_malformed", Stage::ConfigRead)
            .how("`airlock.mac=06:00`")
            .cmdline("airlock.mac=06:00"),
        fault("gateway-outside-subnet", "route_set_failed", Stage::RouteSet)
            .how("`ip=` with the gateway 10.9.9.9")
            .before_vmm("edit '/^console=/s|(ip=[0-9.]+)::[0-9.]+:|\\1::10.9.9.9:|'"),
        fault("gateway-nobody", "gateway_unreachable", Stage::GatewayReachable)
            .how("`ip=` with a gateway of the subnet that is no machine")
            .before_vmm("edit '/^console=/s|(ip=[0-9.]+)::[0-9.]+:|\\1::192.168.100.250:|'"),
        fault("ip-asks-dhcp", "address_set_failed", Stage::AddressSet)
            .how("`ip=dhcp`, which Airlock does not do")
            .cmdline("ip=dhcp"),
    ]);
    all
}
