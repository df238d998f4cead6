//! What whoever configures the guest's network says: a script with iproute2 or ifconfig, networkd, dhcpcd, dhclient, udhcpc,
//! ifupdown, OpenRC, cloud-init, the kernel's own autoconfiguration.

use airlock_protocol::Stage;

use super::From::{Any, Start};
use super::Grade::{Hard, Soft, Weak};
use super::{Rule, rule};
use crate::cause::Cause;

const CONFIG: Option<Stage> = Some(Stage::ConfigRead);
const FOUND: Option<Stage> = Some(Stage::LinkFound);
const UP: Option<Stage> = Some(Stage::LinkUp);
const ADDRESS: Option<Stage> = Some(Stage::AddressSet);
const ROUTE: Option<Stage> = Some(Stage::RouteSet);
const GATEWAY: Option<Stage> = Some(Stage::GatewayReachable);

// A table: one row is one rule and its example.
#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule(Cause::CmdlineIpMissing, CONFIG, Start, Soft, &["No kernel IP parameter found"],
        "No kernel IP parameter found, relying on DHCP/systemd-networkd"),
    rule(Cause::CmdlineIpMalformed, CONFIG, Start, Hard, &["ERROR: Missing required parameters (client_ip"],
        "ERROR: Missing required parameters (client_ip, gw_ip, or device)"),
    rule(Cause::CmdlineIpMalformed, CONFIG, Start, Hard, &["ERROR: Empty ip parameter extracted from cmdline"],
        "ERROR: Empty ip parameter extracted from cmdline"),
    rule(Cause::CmdlineIpMalformed, CONFIG, Any, Hard, &["systemd-network-generator", "Failed to parse"],
        "systemd-network-generator[81]: Failed to parse kernel command line: Invalid argument"),
    rule(Cause::LinkMissing, FOUND, Start, Hard, &["ERROR: Device ", " not found after "],
        "ERROR: Device eth0 not found after 30 seconds"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["Cannot find device \""], "Cannot find device \"eth0\""),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["ERROR while getting interface flags: No such device"],
        "eth0: ERROR while getting interface flags: No such device"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["SIOCSIFADDR: No such device"], "SIOCSIFADDR: No such device"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["SIOCGIFINDEX: No such device"],
        "udhcpc: SIOCGIFINDEX: No such device"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &[": interface not found"], "dhcpcd[240]: eth0: interface not found"),
    rule(Cause::LinkMissing, FOUND, Any, Hard, &["Not all expected physical devices present"],
        "RuntimeError: Not all expected physical devices present: {'06:00:c0:a8:64:08'}"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["IP-Config: No network devices available"],
        "[    1.340000] IP-Config: No network devices available"),
    rule(Cause::LinkMissing, FOUND, Any, Soft, &["ERROR: interface ", " does not exist"],
        " *   ERROR: interface eth0 does not exist"),
    rule(Cause::LinkUpFailed, UP, Start, Hard, &["ERROR: Failed to bring up "], "ERROR: Failed to bring up eth0"),
    rule(Cause::LinkUpFailed, UP, Any, Soft, &["SIOCSIFFLAGS: Operation not p"],
        "SIOCSIFFLAGS: Operation not permitted"),
    rule(Cause::LinkNoCarrier, UP, Any, Soft, &[": <NO-CARRIER,"],
        "2: eth0: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 1500 qdisc pfifo_fast state DOWN group default qlen 1000"),
    rule(Cause::LinkNoCarrier, UP, Any, Soft, &[": Lost carrier"], "systemd-networkd[210]: eth0: Lost carrier"),
    rule(Cause::LinkNoCarrier, UP, Any, Soft, &[": carrier lost"], "dhcpcd[240]: eth0: carrier lost"),
    rule(Cause::LinkNoCarrier, UP, Any, Soft, &["no interfaces have a carrier"],
        "dhcpcd[240]: no interfaces have a carrier"),
    rule(Cause::AddressSetFailed, ADDRESS, Start, Hard, &["ERROR: Failed to assign IP address"],
        "ERROR: Failed to assign IP address"),
    rule(Cause::AddressSetFailed, ADDRESS, Any, Hard, &[": Could not set ", " address: "],
        "systemd-networkd[210]: eth0: Could not set DHCPv4 address: Operation not permitted"),
    rule(Cause::AddressConflict, ADDRESS, Any, Hard, &["as an address conflict "],
        "systemd-networkd[210]: eth0: Dropping address 192.168.100.8, as an address conflict was detected."),
    rule(Cause::AddressConflict, ADDRESS, Any, Hard, &[": hardware address ", " claims "],
        "dhcpcd[240]: eth0: hardware address 06:00:c0:a8:64:63 claims 192.168.100.8"),
    rule(Cause::AddressConflict, ADDRESS, Any, Hard, &[": DAD detected "],
        "dhcpcd[240]: eth0: DAD detected 192.168.100.8"),
    rule(Cause::AddressConflict, ADDRESS, Any, Hard, &["some other host ", " already uses address "],
        "ERROR: [ifup-eth] Error, some other host (06:00:C0:A8:64:63) already uses address 192.168.100.8."),
    rule(Cause::AddressConflict, ADDRESS, Any, Hard, &["duplicate address detected"],
        "eth0: duplicate address detected: 192.168.100.8"),
    rule(Cause::AddressConflict, ADDRESS, Any, Soft, &["DHCPDECLINE of "],
        "dhclient[244]: DHCPDECLINE of 192.168.100.8 on eth0 to 255.255.255.255 port 67"),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &["IP-Config: Retrying forever"],
        "[   97.040000] IP-Config: Retrying forever (NFS root)..."),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &["IP-Config: no response after "],
        "IP-Config: no response after 60 secs - giving up"),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &["No DHCPOFFERS received"], "dhclient[244]: No DHCPOFFERS received."),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &["No working leases in persistent database"],
        "dhclient[244]: No working leases in persistent database - sleeping."),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &["o lease, failing"], "udhcpc: no lease, failing"),
    rule(Cause::DhcpTimeout, ADDRESS, Any, Soft, &[": using IPv4LL address "],
        "dhcpcd[240]: eth0: using IPv4LL address 169.254.12.7"),
    rule(Cause::RouteSetFailed, ROUTE, Any, Hard, &["Nexthop has invalid gateway"],
        "Error: Nexthop has invalid gateway."),
    rule(Cause::RouteSetFailed, ROUTE, Any, Soft, &["SIOCADDRT: Network is unreachable"],
        "SIOCADDRT: Network is unreachable"),
    rule(Cause::RouteSetFailed, ROUTE, Any, Soft, &["if_route", "Network is unreachable"],
        "dhcpcd[240]: if_route (ADD): Network is unreachable"),
    rule(Cause::RouteSetFailed, ROUTE, Any, Hard, &[": Could not set route", "unreachable"],
        "systemd-networkd[210]: eth0: Could not set route: Nexthop has invalid gateway. Network is unreachable"),
    rule(Cause::GatewayUnreachable, GATEWAY, Start, Soft, &["From ", "Destination Host Unreachable"],
        "From 192.168.100.8 icmp_seq=1 Destination Host Unreachable"),
    rule(Cause::DnsFailed, Some(Stage::Reachable), Any, Weak, &["Temporary failure in name resolution"],
        "ping: example.org: Temporary failure in name resolution"),
    rule(Cause::DnsFailed, Some(Stage::Reachable), Any, Weak, &["Could not resolve host: "],
        "curl: (6) Could not resolve host: example.org"),
    rule(Cause::DnsFailed, Some(Stage::Reachable), Any, Weak, &["getaddrinfo EAI_AGAIN"],
        "Error: getaddrinfo EAI_AGAIN example.org"),
];
