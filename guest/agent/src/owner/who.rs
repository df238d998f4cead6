//! Who changed the interface: the process that asked the kernel for it, or one of its parents, or whoever could have.

use std::fs;

use super::netlink::Change;

/// Names of processes (`/proc/PID/comm`, 15 bytes at most) and the manager that each belongs to.
const MANAGERS: &[(&str, &str)] = &[
    ("systemd-network", "networkd"),
    ("NetworkManager", "NetworkManager"),
    ("nm-dhcp-helper", "NetworkManager"),
    ("dhcpcd", "dhcpcd"),
    ("cloud-init", "cloud-init"),
    ("netplan", "netplan"),
    ("connmand", "connman"),
    ("ifup", "ifupdown"),
    ("ifdown", "ifupdown"),
    ("ifquery", "ifupdown"),
    ("dhclient", "ifupdown"),
    ("dhclient-script", "ifupdown"),
    ("udhcpc", "ifupdown"),
];
/// How far parents are followed.
const GENERATIONS: usize = 8;

/// Names who made `changes` to the interface `index`.
pub fn changed(changes: &[Change], index: usize) -> String {
    let own = std::process::id();
    let theirs = || changes.iter().rev().filter(|change| change.index == index && change.port != own);
    let asked = theirs().map(|change| change.port).filter(|port| *port != 0);
    if let Some(manager) = asked.clone().find_map(manager_of) {
        return manager.to_owned();
    }
    if let Some(name) = asked.clone().find_map(comm) {
        return name;
    }
    let running = running();
    match (running.as_slice(), theirs().any(|change| change.expires)) {
        ([], true) => "a DHCP client that is gone".to_owned(),
        ([], false) => "a process that is gone".to_owned(),
        (names, _) => names.join(" or "),
    }
}

/// The manager that a process, or one of its parents, belongs to.
fn manager_of(pid: u32) -> Option<&'static str> {
    let mut pid = pid;
    for _ in 0..GENERATIONS {
        if let Some(manager) = manager_named(&comm(pid)?) {
            return Some(manager);
        }
        pid = parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).filter(|pid| *pid > 1)?;
    }
    None
}

fn manager_named(comm: &str) -> Option<&'static str> {
    MANAGERS.iter().find(|(name, _)| *name == comm).map(|(_, manager)| *manager)
}

fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// The fourth field of /proc/PID/stat; the second is in brackets and may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The managers that run, each once.
fn running() -> Vec<&'static str> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut managers: Vec<_> = pids.filter_map(|pid| manager_named(&comm(pid)?)).collect();
    managers.sort_unstable();
    managers.dedup();
    managers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_what_it_is() {
        assert_eq!(manager_named("systemd-network"), Some("networkd"));
        assert_eq!(parent("812 (a) b) S 77 812 0"), Some(77));
        let change = Change { port: std::os::unix::process::parent_id(), index: 3, expires: false };
        let name = comm(change.port).unwrap();
        assert_eq!(changed(std::slice::from_ref(&change), 3), name);
        assert_ne!(changed(&[change], 4), name, "another interface is nobody's business");
    }

    #[test]
    fn no_name_is_longer_than_the_kernel_keeps() {
        assert!(MANAGERS.iter().all(|(name, _)| name.len() <= 15));
    }
}
