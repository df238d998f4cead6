//! What nft lists, read as guards and counters. Unknown things in the list are skipped: it may come from a newer nft, and
//! somebody may have added rules by hand, which shows as a guard that is not whole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_domain::firewall::{GUARD_DROPS, GUARD_RULES, GuardSpec, base, rule_counts};
use airlock_domain::network::NetworkSpec;
use airlock_protocol::MacAddr;
use serde_json::Value;

use super::look::ForeignChain;

/// A guard as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GuardSeen {
    /// The TAP that its chain is named after. The TAP itself may be gone.
    pub tap: String,
    /// The MAC that it holds its guest to; none unless it is whole.
    pub mac: Option<MacAddr>,
    /// The address that it holds its guest to; none unless it is whole.
    pub address: Option<Ipv4Addr>,
    /// Hooked to a device, with exactly the rules of a guard in their order, and all of them name one MAC and one address.
    pub whole: bool,
    /// Frames dropped so far, by rule (`airlock_domain::firewall::GUARD_DROPS`).
    pub drops: BTreeMap<String, u64>,
}

impl GuardSeen {
    /// Whether it is the guard that was wanted.
    pub fn is(&self, wanted: &GuardSpec) -> bool {
        self.tap == wanted.tap && self.mac == Some(wanted.mac) && self.address == Some(wanted.address)
    }
}

/// The rules of the `inet` table as the kernel has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct FirewallSeen {
    /// Its chains with the number of their rules; empty if there is no table.
    pub chains: BTreeMap<String, usize>,
    /// Packets dropped so far, by rule.
    pub drops: BTreeMap<String, u64>,
}

impl FirewallSeen {
    /// Whether every chain of the rules that were wanted is there with all of its rules, and no other.
    pub fn is(&self, wanted: &NetworkSpec) -> bool {
        self.chains == rule_counts(&base(wanted))
    }
}

/// The guards in `nft -j list table netdev ...`.
pub(super) fn guards_seen(listed: &Value) -> Vec<GuardSeen> {
    let mut guards: BTreeMap<&str, GuardSeen> = BTreeMap::new();
    let mut rules: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for object in objects(listed) {
        if let Some(name) = text(&object["chain"]["name"]) {
            let chain = &object["chain"];
            // What happens to a frame that no rule takes is part of the guard.
            let whole = chain["hook"] == "ingress" && chain["policy"] == "drop";
            guards.insert(name, GuardSeen { tap: name.to_owned(), whole, ..GuardSeen::default() });
        } else if let Some(chain) = text(&object["rule"]["chain"]) {
            rules.entry(chain).or_default().push(&object["rule"]);
        }
    }
    for (name, guard) in &mut guards {
        take_rules(guard, rules.get(name).map(Vec::as_slice).unwrap_or_default());
    }
    guards.into_values().collect()
}

fn take_rules(guard: &mut GuardSeen, rules: &[&Value]) {
    let mut macs: Vec<&str> = Vec::new();
    let mut addresses: Vec<&str> = Vec::new();
    for (left, right) in rules.iter().flat_map(|rule| matches(rule)) {
        let field = (text(&left["payload"]["protocol"]), text(&left["payload"]["field"]));
        match (field, text(right)) {
            ((Some("ether"), Some("saddr")) | (Some("arp"), Some("saddr ether")), Some(mac)) => macs.push(mac),
            // Of who has no address yet.
            ((Some("ip" | "arp"), Some("saddr" | "saddr ip")), Some("0.0.0.0")) => {}
            ((Some("ip"), Some("saddr")) | (Some("arp"), Some("saddr ip")), Some(address)) => addresses.push(address),
            _ => {}
        }
    }
    guard.drops = drops(rules);
    let names: Vec<&str> =
        rules.iter().filter(|rule| is_drop(rule)).filter_map(|rule| text(&rule["comment"])).collect();
    let sender = the_only(&macs).zip(the_only(&addresses));
    guard.whole &= rules.len() == GUARD_RULES && names == GUARD_DROPS && (macs.len(), addresses.len()) == (3, 3);
    guard.whole &= sender.is_some();
    if let Some((mac, address)) = sender.filter(|_| guard.whole) {
        (guard.mac, guard.address) = (mac.parse().ok(), address.parse().ok());
    }
}

/// The chains and counters in `nft -j list table inet ...`.
pub(super) fn firewall_seen(listed: &Value) -> FirewallSeen {
    let mut chains = BTreeMap::new();
    let mut rules = Vec::new();
    for object in objects(listed) {
        if let Some(name) = text(&object["chain"]["name"]) {
            chains.entry(name.to_owned()).or_insert(0);
        } else if let Some(chain) = text(&object["rule"]["chain"]) {
            *chains.entry(chain.to_owned()).or_insert(0) += 1;
            rules.push(&object["rule"]);
        }
    }
    FirewallSeen { chains, drops: drops(&rules) }
}

/// The chains of other tables that drop what nobody accepts of what is forwarded, in `nft -j list chains`.
pub(super) fn forward_drops(listed: &Value, ours: &str) -> Vec<String> {
    objects(listed)
        .map(|object| &object["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop" && chain["table"] != ours)
        .filter_map(|chain| {
            Some(format!("{} {} {}", text(&chain["family"])?, text(&chain["table"])?, text(&chain["name"])?))
        })
        .collect()
}

/// The chains of other tables that are hooked somewhere on `hooks`, in `nft -j list chains`. Names that are no plain words are
/// left out: they could not be asked for.
pub(super) fn foreign_chains(listed: &Value, ours: &str, hooks: &[&str]) -> Vec<ForeignChain> {
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    objects(listed)
        .map(|object| &object["chain"])
        .filter(|chain| text(&chain["hook"]).is_some_and(|hook| hooks.contains(&hook)) && chain["table"] != ours)
        .filter(|chain| matches!(text(&chain["family"]), Some("ip" | "inet")))
        .filter_map(|chain| {
            let names = [text(&chain["family"])?, text(&chain["table"])?, text(&chain["name"])?];
            let policy_drops = chain["policy"] == "drop";
            names
                .iter()
                .all(|name| is_plain(name))
                .then(|| ForeignChain { names: names.map(str::to_owned), policy_drops })
        })
        .collect()
}

/// Whether a listed chain has a rule that drops or rejects.
pub(super) fn drops_anything(listed: &Value) -> bool {
    has_statement(listed, &["drop", "reject"])
}

/// Whether a listed chain has a rule that translates addresses.
pub(super) fn masquerades(listed: &Value) -> bool {
    has_statement(listed, &["masquerade", "snat"])
}

fn has_statement(listed: &Value, wanted: &[&str]) -> bool {
    let statements = objects(listed).flat_map(|object| object["rule"]["expr"].as_array().into_iter().flatten());
    statements.filter_map(Value::as_object).any(|statement| wanted.iter().any(|name| statement.contains_key(*name)))
}

fn objects(listed: &Value) -> impl Iterator<Item = &Value> {
    listed["nftables"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// Both sides of each match of a rule.
fn matches(rule: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let expressions = rule["expr"].as_array().into_iter().flatten();
    expressions.map(|one| &one["match"]).filter(|one| one.is_object()).map(|one| (&one["left"], &one["right"]))
}

fn is_drop(rule: &Value) -> bool {
    rule["expr"].as_array().is_some_and(|all| all.iter().any(|one| one.get("drop").is_some()))
}

/// Packets by name of the rule, over all rules that drop and have a name.
fn drops(rules: &[&Value]) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for rule in rules.iter().filter(|rule| is_drop(rule)) {
        let packets = rule["expr"].as_array().into_iter().flatten().find_map(|one| one["counter"]["packets"].as_u64());
        if let (Some(name), Some(packets)) = (text(&rule["comment"]), packets) {
            *drops.entry(name.to_owned()).or_insert(0) += packets;
        }
    }
    drops
}

fn the_only<'a>(values: &[&'a str]) -> Option<&'a str> {
    let first = *values.first()?;
    values.iter().all(|value| *value == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_things_in_a_list_are_skipped() {
        for odd in [
            json!(null),
            json!({}),
            json!({"nftables": 7}),
            json!({"nftables": [null, 1, {"rule": 3}, {"flowtable": {}}]}),
        ] {
            assert_eq!(guards_seen(&odd), []);
            assert_eq!(firewall_seen(&odd), FirewallSeen::default());
            assert_eq!(forward_drops(&odd, "airlock"), Vec::<String>::new());
            assert_eq!(foreign_chains(&odd, "airlock", &["forward"]), []);
            assert!(!drops_anything(&odd) && !masquerades(&odd));
        }
    }

    #[test]
    fn a_rule_in_no_form_of_ours_makes_a_guard_less_than_whole() {
        let list = json!({"nftables": [
            {"chain": {"family": "netdev", "table": "airlock", "name": "fc-1", "hook": "ingress", "policy": "drop"}},
            {"rule": {"chain": "fc-1", "comment": "ipv6", "expr": [{"counter": {"packets": 3, "bytes": 9}}, {"drop": null}]}},
            {"rule": {"chain": "fc-1", "comment": "ipv6", "expr": [{"counter": {"packets": 4, "bytes": 9}}, {"drop": null}]}},
            {"rule": {"chain": "fc-1", "comment": "let in", "expr": [{"counter": {"packets": 5}}, {"accept": null}]}},
            {"rule": {"chain": "fc-1", "expr": [{"xt": {"type": "match"}}, {"match": {"left": 7, "right": {"range": []}}}]}},
            {"rule": {"chain": "of no chain", "expr": []}},
        ]});
        let drops = BTreeMap::from([("ipv6".to_owned(), 7)]);
        let expected = GuardSeen { tap: "fc-1".into(), drops, ..GuardSeen::default() };
        assert_eq!(guards_seen(&list), [expected]);
    }
}
