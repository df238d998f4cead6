//! The rules as they are handed to nft, whole: read them here.

use super::*;
use crate::network::EgressSpec;

fn spec() -> GuardSpec {
    GuardSpec::of_vm("01234567-89ab-4def-8123-456789abcdef".parse().unwrap(), Ipv4Addr::new(192, 168, 100, 8))
}

/// Without the indentation of this file.
fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

const GUARD: &str = r#"
    add rule netdev airlock fc-0123456789 ether saddr != 06:00:c0:a8:64:08 counter drop comment "foreign_mac"
    add rule netdev airlock fc-0123456789 ether type ip6 counter drop comment "ipv6"
    add rule netdev airlock fc-0123456789 ether type vlan counter drop comment "vlan"
    add rule netdev airlock fc-0123456789 ether type != ip ether type != arp counter drop comment "other_protocol"
    add rule netdev airlock fc-0123456789 arp saddr ether 06:00:c0:a8:64:08 arp saddr ip 192.168.100.8 accept
    add rule netdev airlock fc-0123456789 arp saddr ether 06:00:c0:a8:64:08 arp saddr ip 0.0.0.0 accept
    add rule netdev airlock fc-0123456789 ether type arp counter drop comment "foreign_arp"
    add rule netdev airlock fc-0123456789 udp sport 67 counter drop comment "dhcp_server"
    add rule netdev airlock fc-0123456789 ip saddr 192.168.100.8 ip daddr 192.168.100.0/24 ip daddr != 192.168.100.1 counter drop comment "other_guest"
    add rule netdev airlock fc-0123456789 ip saddr 192.168.100.8 accept
    add rule netdev airlock fc-0123456789 ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    add rule netdev airlock fc-0123456789 counter drop comment "foreign_address"
"#;

#[test]
fn a_guard_holds_a_port_to_its_lease() {
    let expected = format!(
        r#"
        add chain netdev airlock fc-0123456789 {{ type filter hook ingress device "fc-0123456789" priority 0; policy drop; }}
        flush chain netdev airlock fc-0123456789
        {GUARD}"#
    );
    assert_eq!(guard(NetworkSpec::default().subnet, &spec()), lines(&expected));
}

#[test]
fn a_guard_can_be_made_on_top_of_anything_and_removed_from_nothing() {
    let removed = "
        add chain netdev airlock fc-0123456789
        flush chain netdev airlock fc-0123456789
        delete chain netdev airlock fc-0123456789
        ";
    assert_eq!(remove_guard("fc-0123456789"), lines(removed));
    let expected = format!(
        r#"{removed}
        add chain netdev airlock fc-0123456789 {{ type filter hook ingress device "fc-0123456789" priority 0; policy drop; }}
        {GUARD}"#
    );
    assert_eq!(guard_anew(NetworkSpec::default().subnet, &spec()), lines(&expected));
}

#[test]
fn the_names_of_the_drops_are_those_in_the_rules() {
    let text = guard(NetworkSpec::default().subnet, &spec());
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('"').nth(1)).skip(1).collect();
    assert_eq!(names, GUARD_DROPS);
    assert_eq!(text.matches("add rule").count(), GUARD_RULES);
}

#[test]
fn without_egress_guests_reach_the_gateway_and_nothing_else() {
    let expected = r#"
        add table netdev airlock
        add table inet airlock
        delete table inet airlock
        table inet airlock {
            chain input {
                type filter hook input priority filter; policy drop;
                meta nfproto ipv6 counter drop comment "ipv6_to_gateway"
                iifname "lo" accept
                ct state established,related accept
                iifname "br0" ip daddr 192.168.100.1 icmp type echo-request accept
                iifname "br0" ip daddr { 192.168.100.1, 255.255.255.255 } udp sport 68 udp dport 67 accept
                iifname "br0" ip daddr 192.168.100.1 tcp dport 4080 accept
                iifname "br0" counter drop comment "guest_to_gateway"
                counter drop comment "uplink_to_gateway"
            }
            chain prerouting {
                type filter hook prerouting priority filter; policy accept;
                iifname "br0" fib daddr type unicast counter drop comment "no_egress"
            }
            chain forward {
                type filter hook forward priority filter; policy drop;
                meta nfproto ipv6 counter drop comment "ipv6_routed"
                iifname "br0" oifname "br0" counter drop comment "guest_to_guest"
                counter drop comment "unasked_from_uplink"
            }
        }
    "#;
    assert_eq!(lines(&base(&NetworkSpec::default())), lines(expected));
}

#[test]
fn rules_are_counted_by_chain() {
    let counts = rule_counts(&base(&NetworkSpec::default()));
    assert_eq!(
        counts,
        BTreeMap::from([("forward".to_owned(), 3), ("input".to_owned(), 8), ("prerouting".to_owned(), 1)])
    );
}

fn with_egress(allow: &[&str]) -> NetworkSpec {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    let egress = EgressSpec { uplink: Uplink::Host, allow, ..EgressSpec::default() };
    NetworkSpec { egress, served_ports: Vec::new(), ..NetworkSpec::default() }
}

#[test]
fn with_egress_they_reach_public_addresses_and_what_is_allowed() {
    let expected = r#"
        add table netdev airlock
        add table inet airlock
        delete table inet airlock
        table inet airlock {
            set allowed { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16, 172.20.0.0/24 }; }
            set closed { type ipv4_addr; flags interval; auto-merge; elements = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4 }; }
            chain outside {
                ip daddr 169.254.169.254 counter drop comment "metadata"
                ip daddr @allowed accept
                ip daddr @closed counter drop comment "private_net"
                accept
            }
            chain input {
                type filter hook input priority filter; policy drop;
                meta nfproto ipv6 counter drop comment "ipv6_to_gateway"
                iifname "lo" accept
                ct state established,related accept
                iifname "br0" ip daddr 192.168.100.1 icmp type echo-request accept
                iifname "br0" ip daddr { 192.168.100.1, 255.255.255.255 } udp sport 68 udp dport 67 accept
                iifname "br0" counter drop comment "guest_to_gateway"
                counter drop comment "uplink_to_gateway"
            }
            chain forward {
                type filter hook forward priority filter; policy drop;
                meta nfproto ipv6 counter drop comment "ipv6_routed"
                iifname "br0" oifname "br0" counter drop comment "guest_to_guest"
                iifname "br0" oifname "uplink0" jump outside
                iifname "uplink0" oifname "br0" ct state established,related accept
                counter drop comment "unasked_from_uplink"
            }
            chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                ip saddr 192.168.100.0/24 oifname "uplink0" masquerade
            }
        }
    "#;
    assert_eq!(lines(&base(&with_egress(&["10.1.0.0/16", "172.20.0.0/24"]))), lines(expected));
}

#[test]
fn the_machine_that_lends_its_uplink_is_no_destination() {
    let expected = r#"
        add table inet airlock-airlock
        delete table inet airlock-airlock
        table inet airlock-airlock {
            set allowed { type ipv4_addr; flags interval; auto-merge; }
            set closed { type ipv4_addr; flags interval; auto-merge; elements = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4 }; }
            chain outside {
                ip daddr 169.254.169.254 counter drop comment "metadata"
                ip daddr @allowed accept
                ip daddr @closed counter drop comment "private_net"
                accept
            }
            chain input {
                type filter hook input priority filter; policy accept;
                iifname "alk-810b79a0" counter drop comment "guest_to_uplink_host"
            }
            chain forward {
                type filter hook forward priority filter; policy accept;
                iifname "alk-810b79a0" ip saddr 198.18.77.2 jump outside
                iifname "alk-810b79a0" counter drop comment "foreign_source"
                oifname "alk-810b79a0" ct state established,related accept
                oifname "alk-810b79a0" counter drop comment "unasked_to_guests"
            }
            chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                ip saddr 198.18.77.2 oifname != "alk-810b79a0" masquerade
            }
        }
    "#;
    assert_eq!(lines(&uplink(&with_egress(&[]))), lines(expected));
    assert_eq!(remove_table(&uplink_table("t1")), "add table inet airlock-t1\ndelete table inet airlock-t1\n");
}
