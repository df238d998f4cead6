//! What makes this VM itself: hostname, hosts, resolver, machine-id, derived from its command line.
//!
//! The files replace whatever the image holds, also a dangling link (a resolv.conf that points at a stub resolver).

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use airlock_protocol::BootConfig;
use airlock_protocol::boot_config::NetworkKeys;

use crate::kernel::KernelError;

/// Who this VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Host name, without domain if none was given.
    pub hostname: String,
    /// Lines of resolv.conf.
    pub resolv_conf: String,
    /// 32 hex digits, as machine-id(5) wants them.
    pub machine_id: String,
}

impl Identity {
    /// The identity that the command line gives. Without a host name it is `airlock`.
    pub fn of(boot: &BootConfig, keys: &NetworkKeys) -> Self {
        Self {
            hostname: boot.ip.hostname.clone().unwrap_or_else(|| "airlock".to_owned()),
            resolv_conf: resolv_conf(boot, keys),
            machine_id: machine_id(&boot.vm_id),
        }
    }

    /// Writes the files below `root` and sets the host name of the running kernel.
    pub fn write(&self, root: &Path) -> Result<(), KernelError> {
        self.set_hostname()?;
        self.write_files(root)
    }

    /// Sets the host name of the running kernel.
    pub fn set_hostname(&self) -> Result<(), KernelError> {
        nix::unistd::sethostname(&self.hostname)
            .map_err(|errno| KernelError::file("set hostname", &self.hostname)(errno.into()))
    }

    /// The text of hosts(5) when there is nothing to keep.
    pub fn hosts(&self) -> String {
        let name = &self.hostname;
        let short = name.split('.').next().unwrap_or(name);
        let names = if short == name { name.clone() } else { format!("{name} {short}") };
        format!("127.0.0.1\tlocalhost {names}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    }

    fn write_files(&self, root: &Path) -> Result<(), KernelError> {
        replace(&root.join("etc/hostname"), &format!("{}\n", self.hostname))?;
        replace(&root.join("etc/hosts"), &self.hosts())?;
        replace(&root.join("etc/resolv.conf"), &self.resolv_conf)?;
        replace(&root.join("etc/machine-id"), &format!("{}\n", self.machine_id))
    }
}

/// The lines of resolv.conf(5). The resolver reads three servers at most (MAXNS), in order; more than these are kept for
/// whoever reads more.
fn resolv_conf(boot: &BootConfig, keys: &NetworkKeys) -> String {
    let search = if keys.search.is_empty() { String::new() } else { format!("search {}\n", keys.search.join(" ")) };
    servers(boot, keys).iter().fold(search, |text, server| format!("{text}nameserver {server}\n"))
}

/// The DNS servers of this VM, each once, ours before those of `ip=`.
pub(crate) fn servers(boot: &BootConfig, keys: &NetworkKeys) -> Vec<IpAddr> {
    let of_ip = [boot.ip.dns0, boot.ip.dns1].into_iter().flatten().map(IpAddr::from);
    let mut servers: Vec<IpAddr> = Vec::new();
    for server in keys.dns.iter().copied().chain(of_ip) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// Puts a new file in the place of whatever has this name; a link is replaced, not followed.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), KernelError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(KernelError::file("create", parent))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(KernelError::file("replace", path)(error));
        }
        _ => {}
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(KernelError::file("write", path))
}

/// The VM id if it is a UUID, else its FNV-1a hash (128 bits), so that two VMs never share a machine-id.
fn machine_id(vm_id: &str) -> String {
    let digits: String = vm_id.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    if digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return digits;
    }
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = vm_id.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cmdline: &str) -> Identity {
        Identity::of(&BootConfig::parse(cmdline).unwrap(), &NetworkKeys::parse(cmdline).unwrap())
    }

    #[test]
    fn comes_from_the_command_line() {
        let id = identity(
            "ip=10.0.0.2::10.0.0.1:255.255.255.0:vm-2.example:eth0:off:10.0.0.1:9.9.9.9 airlock.vm=0f8fad5b-d9cb-469f-a165-70867728950e",
        );
        assert_eq!(id.hostname, "vm-2.example");
        assert_eq!(id.resolv_conf, "nameserver 10.0.0.1\nnameserver 9.9.9.9\n");
        assert_eq!(id.machine_id, "0f8fad5bd9cb469fa16570867728950e");
    }

    #[test]
    fn servers_are_listed_once_and_ours_come_first() {
        let id = identity(
            "ip=10.0.0.2::::::off:10.0.0.1:9.9.9.9 airlock.dns=2001:db8::53,10.0.0.1 airlock.search=a.example,b",
        );
        assert_eq!(
            id.resolv_conf,
            "search a.example b\nnameserver 2001:db8::53\nnameserver 10.0.0.1\nnameserver 9.9.9.9\n"
        );
        assert_eq!(identity("ip=10.0.0.2").resolv_conf, "");
    }

    #[test]
    fn other_ids_give_other_machine_ids() {
        let (a, b) = (machine_id("vm-a"), machine_id("vm-b"));
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.bytes().all(|c| c.is_ascii_hexdigit()));
    }

    #[test]
    fn replaces_a_dangling_resolv_conf() {
        let root = std::env::temp_dir().join(format!("airlock-identity-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
        let id = identity("ip=10.0.0.2:::255.255.255.0:vm-2::off:10.0.0.1 airlock.vm=x");
        let written = id.write_files(&root);
        let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap();
        let (resolv, hosts, link) = (read("resolv.conf"), read("hosts"), root.join("etc/resolv.conf").is_symlink());
        fs::remove_dir_all(&root).unwrap();
        written.unwrap();
        assert_eq!(resolv, "nameserver 10.0.0.1\n");
        assert!(!link);
        assert!(hosts.starts_with("127.0.0.1\tlocalhost vm-2\n"));
    }
}
