//! Names, resolver and machine-id in a root that belongs to somebody else: added to rather than replaced.
//!
//! | `/etc/resolv.conf` is | what is written |
//! |---|---|
//! | a file, missing, or a link that leads anywhere below / but /run | a file in its place |
//! | a link into /run (a stub resolver's, resolvconf's, NetworkManager's) | the file it leads to; the link stays |
//! | the latter, and systemd-resolved is enabled | the same, and the servers as a drop-in for it |
//!
//! So names resolve before the image's resolver runs, after it runs, and if it never does.

use super::{Placed, RootFacts};
use crate::identity::Identity;

/// The files of an identity.
pub fn files(facts: &RootFacts, identity: &Identity) -> Vec<Placed> {
    let hosts = facts.texts.get("/etc/hosts").map(String::as_str);
    let mut files = vec![
        Placed::text("/etc/hostname", format!("{}\n", identity.hostname)),
        Placed::text("/etc/hosts", merged_hosts(hosts, identity)),
        Placed::text("/etc/machine-id", format!("{}\n", identity.machine_id)),
    ];
    files.extend(resolver(facts, identity));
    files
}

/// The image's own lines stay; the host's name is added if nobody has it.
fn merged_hosts(existing: Option<&str>, identity: &Identity) -> String {
    let Some(existing) = existing.filter(|text| !text.trim().is_empty()) else { return identity.hosts() };
    let short = identity.hostname.split('.').next().unwrap_or_default();
    let names = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name == identity.hostname)
    };
    if existing.lines().any(names) {
        return existing.to_owned();
    }
    let alias = if short == identity.hostname { String::new() } else { format!(" {short}") };
    format!("{}\n127.0.1.1\t{}{alias}\n", existing.trim_end(), identity.hostname)
}

fn resolver(facts: &RootFacts, identity: &Identity) -> Vec<Placed> {
    let text = identity.resolv_conf.as_str();
    let Some(target) = facts.resolv_conf_link.as_deref().filter(|target| target.starts_with("/run/")) else {
        return vec![Placed::text("/etc/resolv.conf", text)];
    };
    let mut files = vec![Placed::text(target, text)];
    let enabled = facts.any(&[
        "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
        "/etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
        "/etc/systemd/system/dbus-org.freedesktop.resolve1.service",
    ]);
    if enabled && target.starts_with("/run/systemd/resolve/") && !text.is_empty() {
        files.push(Placed::text("/run/systemd/resolved.conf.d/airlock.conf", resolved_conf(text)));
    }
    files
}

/// resolved.conf(5) of the same servers and domains.
fn resolved_conf(resolv_conf: &str) -> String {
    let values = |key: &str| {
        let lines = resolv_conf.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    };
    let (servers, search) = (values("nameserver "), values("search "));
    let domains = if search.is_empty() { String::new() } else { format!("Domains={search}\n") };
    format!("[Resolve]\nDNS={servers}\n{domains}")
}
