//! What guests may send, as text for `nft -f -`. Two tables called `airlock` in the installation's namespace and one in the
//! namespace that lends its uplink (`docs/adr/0003-*`):
//!
//! * `netdev airlock`: a chain per TAP, its *guard*. Only this hook sees ARP and knows the port, so this is where a guest is held
//!   to its own MAC and address. It runs before the bridge.
//! * `inet airlock`: what reaches the gateway, what is routed, and the NAT of our end.
//! * `inet airlock-<namespace>`, beyond the uplink: the same closed nets once more (behind the uplink's own address translation
//!   the destination may be another), nothing for that machine itself, and the NAT of its end.
//!
//! Everything is one transaction: nft applies a text whole or not at all. A rule that drops counts, and its comment is the name
//! under which the drops are reported.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use airlock_protocol::MacAddr;

use crate::ids::VmId;
use crate::network::dhcp::SERVER_PORT;
use crate::network::{CLOSED, Ipv4Net, NetworkSpec, Subnet, UPLINK_LINK, Uplink, uplink_peer};

/// Name of both tables in the installation's namespace.
pub const TABLE: &str = "airlock";

/// What a guard may count, in the order of its rules.
pub const GUARD_DROPS: [&str; 8] =
    ["foreign_mac", "ipv6", "vlan", "other_protocol", "foreign_arp", "dhcp_server", "other_guest", "foreign_address"];

/// Rules of a guard, those that accept included.
pub const GUARD_RULES: usize = 12;

/// From a DHCP client to a server (RFC 2131).
const TO_DHCP_SERVER: &str = "udp sport 68 udp dport 67";

/// What one TAP's guest is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSpec {
    /// Interface name.
    pub tap: String,
    /// Its alias: the whole VM id, the proof of ownership.
    pub alias: String,
    /// The only MAC it may send from.
    pub mac: MacAddr,
    /// The only address it may send from.
    pub address: Ipv4Addr,
}

impl GuardSpec {
    /// The guard of the VM that leased `address`.
    pub fn of_vm(vm_id: VmId, address: Ipv4Addr) -> Self {
        Self { tap: vm_id.tap_name(), alias: vm_id.to_string(), mac: MacAddr::from_lease(address), address }
    }
}

/// Makes a guard, or gives it other values, while its chain is none or a whole one. The cheap form: nothing that does not exist
/// is removed, and nft need not wait for the kernel's readers.
pub fn guard(subnet: Subnet, spec: &GuardSpec) -> String {
    let tap = &spec.tap;
    format!("{}flush chain netdev {TABLE} {tap}\n{}", hook(tap), guard_rules(subnet, spec))
}

/// Makes a guard whatever is in its place: a chain without its hook cannot be given one.
pub fn guard_anew(subnet: Subnet, spec: &GuardSpec) -> String {
    format!("{}{}{}", remove_guard(&spec.tap), hook(&spec.tap), guard_rules(subnet, spec))
}

/// Removes a guard, also one that is not there: kernels before 6.13 remove it with its device, later ones keep it.
pub fn remove_guard(tap: &str) -> String {
    // nft 1.0.6 has no `destroy`; adding what exists already is no error.
    format!("add chain netdev {TABLE} {tap}\nflush chain netdev {TABLE} {tap}\ndelete chain netdev {TABLE} {tap}\n")
}

fn hook(tap: &str) -> String {
    format!("add chain netdev {TABLE} {tap} {{ type filter hook ingress device \"{tap}\" priority 0; policy drop; }}\n")
}

fn guard_rules(subnet: Subnet, GuardSpec { tap, mac, address, .. }: &GuardSpec) -> String {
    let (pool, gateway) = (subnet.net(), subnet.gateway());
    // A tagged frame looks like its inner protocol to every match but that of the Ethernet type: those come first.
    let rules: [String; GUARD_RULES] = [
        format!("ether saddr != {mac} {}", drop("foreign_mac")),
        format!("ether type ip6 {}", drop("ipv6")),
        format!("ether type vlan {}", drop("vlan")),
        format!("ether type != ip ether type != arp {}", drop("other_protocol")),
        format!("arp saddr ether {mac} arp saddr ip {address} accept"),
        // RFC 5227: who looks for an address before using it has none yet.
        format!("arp saddr ether {mac} arp saddr ip 0.0.0.0 accept"),
        format!("ether type arp {}", drop("foreign_arp")),
        // No guest answers what others ask of a DHCP server.
        format!("udp sport {SERVER_PORT} {}", drop("dhcp_server")),
        format!("ip saddr {address} ip daddr {pool} ip daddr != {gateway} {}", drop("other_guest")),
        format!("ip saddr {address} accept"),
        // RFC 2131: a DHCP client without an address.
        format!("ip saddr 0.0.0.0 ip daddr 255.255.255.255 {TO_DHCP_SERVER} accept"),
        drop("foreign_address"),
    ];
    rules.iter().map(|rule| format!("add rule netdev {TABLE} {tap} {rule}\n")).collect()
}

fn drop(name: &str) -> String {
    format!("counter drop comment \"{name}\"")
}

/// The rules of the installation's namespace. Replaces all of `inet airlock`, which cuts no connection (they are not kept in the
/// table), and leaves the guards alone.
pub fn base(spec: &NetworkSpec) -> String {
    let NetworkSpec { bridge, subnet, served_ports, egress, .. } = spec;
    let (gateway, out) = (subnet.gateway(), egress.uplink != Uplink::None);
    let mut text = format!("add table netdev {TABLE}\n{}", open_table(TABLE));
    if out {
        text += &closed_nets(&egress.allow);
    }
    let served: String = served_ports
        .iter()
        .map(|port| format!("\t\tiifname \"{bridge}\" ip daddr {gateway} tcp dport {port} accept\n"))
        .collect();
    let _ = write!(
        text,
        "\tchain input {{\n\
         \t\ttype filter hook input priority filter; policy drop;\n\
         \t\tmeta nfproto ipv6 {ipv6}\n\
         \t\tiifname \"lo\" accept\n\
         \t\tct state established,related accept\n\
         \t\tiifname \"{bridge}\" ip daddr {gateway} icmp type echo-request accept\n\
         \t\tiifname \"{bridge}\" ip daddr {{ {gateway}, 255.255.255.255 }} {TO_DHCP_SERVER} accept\n\
         {served}\
         \t\tiifname \"{bridge}\" {guest}\n\
         \t\t{other}\n\
         \t}}\n",
        ipv6 = drop("ipv6_to_gateway"),
        guest = drop("guest_to_gateway"),
        other = drop("uplink_to_gateway"),
    );
    // Without a way out nothing is routed, and what is not routed meets no forward chain: it is counted where it comes in.
    let (ways, dead_end) = if out {
        let ways = format!(
            "\t\tiifname \"{bridge}\" oifname \"{UPLINK_LINK}\" jump outside\n\
             \t\tiifname \"{UPLINK_LINK}\" oifname \"{bridge}\" ct state established,related accept\n"
        );
        (ways, String::new())
    } else {
        let dead_end = format!(
            "\tchain prerouting {{\n\
             \t\ttype filter hook prerouting priority filter; policy accept;\n\
             \t\tiifname \"{bridge}\" fib daddr type unicast {}\n\
             \t}}\n",
            drop("no_egress"),
        );
        (String::new(), dead_end)
    };
    let _ = write!(
        text,
        "{dead_end}\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy drop;\n\
         \t\tmeta nfproto ipv6 {ipv6}\n\
         \t\tiifname \"{bridge}\" oifname \"{bridge}\" {guest}\n\
         {ways}\
         \t\t{unasked}\n\
         \t}}\n",
        ipv6 = drop("ipv6_routed"),
        guest = drop("guest_to_guest"),
        unasked = drop("unasked_from_uplink"),
    );
    if out {
        text += &format!(
            "\tchain postrouting {{\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tip saddr {pool} oifname \"{UPLINK_LINK}\" masquerade\n\
             \t}}\n",
            pool = subnet.net(),
        );
    }
    text + "}\n"
}

/// The chains of a text made here, each with the number of its rules: what must be found where it was applied.
pub fn rule_counts(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut chain = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            counts.insert(name.to_owned(), 0);
            chain = Some(name);
        } else if line == "}" {
            chain = None;
        } else if let Some(count) = chain.and_then(|name| counts.get_mut(name)).filter(|_| !line.starts_with("type ")) {
            *count += 1;
        }
    }
    counts
}

/// Name of the table beyond the uplink.
pub fn uplink_table(namespace: &str) -> String {
    format!("{TABLE}-{namespace}")
}

/// The rules beyond the uplink. They speak of our link and our one address only; everything else there is somebody else's.
pub fn uplink(spec: &NetworkSpec) -> String {
    let (peer, from) = (uplink_peer(&spec.namespace), spec.egress.transit.our_side());
    format!(
        "{open}{closed}\
         \tchain input {{\n\
         \t\ttype filter hook input priority filter; policy accept;\n\
         \t\tiifname \"{peer}\" {to_host}\n\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname \"{peer}\" ip saddr {from} jump outside\n\
         \t\tiifname \"{peer}\" {foreign}\n\
         \t\toifname \"{peer}\" ct state established,related accept\n\
         \t\toifname \"{peer}\" {unasked}\n\
         \t}}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {from} oifname != \"{peer}\" masquerade\n\
         \t}}\n\
         }}\n",
        open = open_table(&uplink_table(&spec.namespace)),
        closed = closed_nets(&spec.egress.allow),
        to_host = drop("guest_to_uplink_host"),
        foreign = drop("foreign_source"),
        unasked = drop("unasked_to_guests"),
    )
}

/// Removes an `inet` table, also one that is not there.
pub fn remove_table(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Starts an `inet` table anew: whatever was in it goes with the same transaction.
fn open_table(table: &str) -> String {
    format!("{}table inet {table} {{\n", remove_table(table))
}

/// The chain that lets a packet out, unless its destination is no public address and not allowed.
fn closed_nets(allow: &[Ipv4Net]) -> String {
    let set = |name: &str, nets: &[Ipv4Net]| {
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let elements = if nets.is_empty() { String::new() } else { format!(" elements = {{ {} }};", nets.join(", ")) };
        format!("\tset {name} {{ type ipv4_addr; flags interval; auto-merge;{elements} }}\n")
    };
    format!(
        "{}{}\
         \tchain outside {{\n\
         \t\tip daddr 169.254.169.254 {}\n\
         \t\tip daddr @allowed accept\n\
         \t\tip daddr @closed {}\n\
         \t\taccept\n\
         \t}}\n",
        set("allowed", allow),
        set("closed", &CLOSED),
        drop("metadata"),
        drop("private_net"),
    )
}

#[cfg(test)]
mod tests;
