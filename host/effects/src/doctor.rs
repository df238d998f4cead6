//! What this host can and cannot do, as facts with remedies. Nothing is changed; what a check makes it removes.

mod firecracker;

use std::ffi::CString;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use airlock_domain::network::{NetworkSpec, Uplink, uplink_peer};
use serde::Serialize;

use crate::netns::Netns;
use crate::network;
use crate::probe;
use crate::process::find_program;
use crate::vmm::qemu::{Accel, QemuDriver};
use crate::vmm::{VmmDriver, chain};

pub use firecracker::{firecracker, probed};

/// Programs that building a golden image needs, each with its Debian package.
const BUILD_TOOLS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("mkfs.erofs", "erofs-utils"), ("depmod", "kmod")];
/// Free disk below this makes a start fail sooner or later (console, evidence, database), in MiB.
const DISK_MIB: u64 = 2 * 1024;
/// Memory that one browser VM needs with its VMM, in MiB.
const MEMORY_MIB: u64 = 1536;
/// The oldest kernel that can do.
const KERNEL: (u32, u32) = (5, 4);
/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` of capabilities(7).
const CAP_NET_ADMIN: u64 = 12;
const CAP_SYS_ADMIN: u64 = 21;

/// One thing about this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Stable short name, e.g. `kvm`.
    pub name: &'static str,
    /// Whether a start works with it as it is.
    pub ok: bool,
    /// Whether a start fails without it; otherwise it only gets slower or less convenient.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; none if nothing is to be done.
    pub remedy: Option<String>,
}

impl Fact {
    fn good(name: &'static str, required: bool, detail: impl Into<String>) -> Self {
        Self { name, ok: true, required, detail: detail.into(), remedy: None }
    }

    fn bad(name: &'static str, required: bool, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, ok: false, required, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Every check, in the order in which a start would meet them.
pub async fn examine(state_dir: &Path, network: &NetworkSpec) -> Vec<Fact> {
    let mut facts =
        vec![kernel(), capabilities(), tun(), namespaces(), nftables().await, overlap(network), egress(network).await];
    facts.extend([qemu().await, kvm()]);
    facts.extend(build_tools());
    facts.extend([disk(state_dir), memory()]);
    facts
}

/// The kernel's release. Older ones lack what processes are watched with (`waitid` of a pidfd, Linux 5.4).
pub fn kernel() -> Fact {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    match version(&release) {
        Some(found) if found >= KERNEL => Fact::good("kernel", true, format!("Linux {release}")),
        found => {
            let remedy = format!("run Linux {}.{} or later", KERNEL.0, KERNEL.1);
            let detail = format!("Linux {release}");
            Fact { required: found.is_some(), ..Fact::bad("kernel", true, detail, remedy) }
        }
    }
}

/// Major and minor number at the start of a release such as `6.1.0-13-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where the daemon listens: a public address shows everybody who gets there a login, and passes tokens in clear text.
pub fn listener(listen: SocketAddr) -> Fact {
    if listen.ip().to_canonical().is_loopback() {
        return Fact::good("listener", false, format!("the API listens on {listen}, for this host only"));
    }
    let whom = if listen.ip().is_unspecified() { "on every address of this host" } else { "for other machines" };
    Fact::bad(
        "listener",
        false,
        format!("the API listens on {listen}, {whom}, without TLS"),
        "set listen = \"127.0.0.1:4000\" and put a TLS proxy before it (public_url says its address)",
    )
}

/// `/dev/kvm` can be opened. Whether it boots a guest only a probe with a golden image tells.
pub fn kvm() -> Fact {
    match probe::device_verdict() {
        None => Fact::good("kvm", false, "/dev/kvm opens; a probe guest decides at the first start"),
        Some(verdict) => {
            let remedy = match verdict.cause.as_deref() {
                Some("kvm_permission") => {
                    "add this user to the group kvm; until then VMs are emulated, which is slower"
                }
                _ => "enable (nested) virtualization on this machine; until then VMs are emulated, which is slower",
            };
            Fact::bad("kvm", false, verdict.reason, remedy)
        }
    }
}

/// `/dev/net/tun` can be opened.
pub fn tun() -> Fact {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Fact::good("tun", true, "/dev/net/tun opens"),
        Err(error) => {
            let remedy = if error.kind() == std::io::ErrorKind::PermissionDenied {
                "run as root, or give this user access to /dev/net/tun"
            } else {
                "load the module: modprobe tun"
            };
            Fact::bad("tun", true, format!("open /dev/net/tun: {error}"), remedy)
        }
    }
}

/// The capabilities that namespaces and TAPs need.
pub fn capabilities() -> Fact {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    let missing: Vec<&str> = [("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN)]
        .into_iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        Fact::good("capabilities", true, "CAP_NET_ADMIN and CAP_SYS_ADMIN")
    } else {
        Fact::bad("capabilities", true, format!("without {}", missing.join(" and ")), "run as root (sudo)")
    }
}

/// A network namespace can be made and removed.
pub fn namespaces() -> Fact {
    let name = format!("airlock-doctor-{}", std::process::id());
    let made = Netns::create(&name).map(drop).and_then(|()| Netns::delete(&name).map(drop));
    match made {
        Ok(()) => Fact::good("namespaces", true, "a network namespace was made and removed"),
        Err(error) => Fact::bad(
            "namespaces",
            true,
            chain(&error),
            "run as root; in a container allow unshare(2) and mounts (CAP_SYS_ADMIN)",
        ),
    }
}

/// nft is there, and this kernel takes every kind of rule that isolates guests.
pub async fn nftables() -> Fact {
    match network::try_rules(&format!("airlock-doctor-nft-{}", std::process::id())).await {
        Ok(()) => {
            let version = network::nft_version().await.unwrap_or_else(|| "of an unknown version".to_owned());
            Fact::good("nftables", true, format!("nft {version}; the rules that isolate guests can be made"))
        }
        Err(error) => {
            let remedy =
                error.remedy().unwrap_or("run as root, with a kernel that has nf_tables (netdev, inet, nat, fib)");
            Fact::bad("nftables", true, chain(&error), remedy)
        }
    }
}

/// The way out of guests can be made as the configuration says.
pub async fn egress(network: &NetworkSpec) -> Fact {
    let uplink = &network.egress.uplink;
    if *uplink == Uplink::None {
        return Fact::good("egress", false, "guests reach their gateway only (network.egress.uplink is none)");
    }
    match network::examine_uplink(network).await {
        Ok(drops) if drops.is_empty() => {
            Fact::good("egress", true, format!("{uplink} forwards, transit {}", network.egress.transit))
        }
        Ok(drops) => {
            let peer = uplink_peer(&network.namespace);
            Fact::bad(
                "egress",
                false,
                format!("chain {} at {uplink} drops what it is not told to forward", drops.join(" and ")),
                format!("let that firewall forward what comes from {peer}, and the replies to it"),
            )
        }
        Err(error) => {
            let remedy = error.remedy().unwrap_or("run as root, or set network.egress.uplink = \"none\"");
            Fact::bad("egress", true, chain(&error), remedy)
        }
    }
}

/// The pool of guest addresses overlaps no route of the host. With a namespace of its own nothing breaks on this host, but a
/// person who looks for `192.168.100.8` finds another machine.
pub fn overlap(network: &NetworkSpec) -> Fact {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let (gateway, prefix) = (u32::from(network.subnet.gateway()), u32::from(network.subnet.prefix()));
    match overlapping_route(&table, gateway, prefix) {
        None => Fact::good("subnet", false, format!("no route of this host overlaps {}", network.subnet)),
        Some(device) => Fact::bad(
            "subnet",
            false,
            format!("{} overlaps a route of {device}", network.subnet),
            "choose another network.subnet, e.g. 172.31.77.1/24",
        ),
    }
}

/// Device of the first route in `/proc/net/route` that shares addresses with the subnet; the default route shares none.
fn overlapping_route(table: &str, gateway: u32, prefix: u32) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // Addresses are hexadecimal in the byte order of the network, printed as one host integer.
        let number = |index: usize| Some(u32::from_str_radix(fields.get(index)?, 16).ok()?.swap_bytes());
        let (destination, mask) = (number(1)?, number(7)?);
        let common = mask & (u32::MAX << (32 - prefix));
        (mask != 0 && destination & common == gateway & common).then(|| fields[0].to_owned())
    })
}

/// QEMU is installed.
pub async fn qemu() -> Fact {
    match QemuDriver::new(Accel::Tcg).check().await {
        Ok(info) => Fact::good("qemu", true, format!("QEMU {}", info.version)),
        Err(error) => Fact::bad("qemu", true, chain(&error), "apt-get install qemu-system-x86"),
    }
}

/// The programs that building a golden image needs.
pub fn build_tools() -> Vec<Fact> {
    let fact = |(program, package)| match find_program(program) {
        Some(path) => Fact::good(program, false, path.display().to_string()),
        None => Fact::bad(
            program,
            false,
            format!("{program} is not in PATH, so no golden image can be built"),
            format!("apt-get install {package}"),
        ),
    };
    BUILD_TOOLS.into_iter().map(fact).collect()
}

/// Room on the disk of the state directory (or of its nearest parent that exists).
pub fn disk(state_dir: &Path) -> Fact {
    let existing = state_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let path = CString::new(existing.as_os_str().as_bytes()).unwrap_or_default();
    match nix::sys::statvfs::statvfs(path.as_c_str()) {
        Ok(stat) => {
            let mib = stat.blocks_available() * stat.fragment_size() / (1024 * 1024);
            let detail = format!("{mib} MiB free at {}", existing.display());
            if mib >= DISK_MIB {
                Fact::good("disk", true, detail)
            } else {
                let remedy = format!("free at least {DISK_MIB} MiB, or choose another --state-dir");
                Fact::bad("disk", true, detail, remedy)
            }
        }
        Err(errno) => {
            Fact::bad("disk", true, format!("statvfs {}: {errno}", existing.display()), "choose another --state-dir")
        }
    }
}

/// Memory for one VM.
pub fn memory() -> Fact {
    let mib = crate::memory::Memory::read().available_mib;
    let detail = format!("{mib} MiB available");
    if mib >= MEMORY_MIB {
        Fact::good("memory", true, detail)
    } else {
        Fact::bad("memory", true, detail, format!("one browser VM needs about {MEMORY_MIB} MiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestNetns, skip_unless_root};

    #[test]
    fn finds_overlapping_routes_and_only_those() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            lan1\t0064A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            vpn0\t0000100A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let find = |gateway: [u8; 4], prefix| overlapping_route(table, u32::from_be_bytes(gateway), prefix);
        assert_eq!(find([192, 168, 100, 1], 24).as_deref(), Some("lan1"));
        assert_eq!(find([192, 168, 100, 1], 29).as_deref(), Some("lan1"));
        assert_eq!(find([192, 168, 0, 1], 16).as_deref(), Some("lan1"));
        assert_eq!(find([10, 16, 9, 1], 24).as_deref(), Some("vpn0"));
        assert_eq!(find([172, 31, 77, 1], 24), None);
    }

    #[test]
    fn a_kernel_is_known_by_its_release() {
        assert_eq!(version("6.1.0-13-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert!(version("5.10").unwrap() > version("5.4.1").unwrap());
        assert_eq!((version(""), version("six")), (None, None));
        assert!(kernel().ok, "{}", kernel().detail);
    }

    #[test]
    fn a_public_listener_is_told_with_what_to_do() {
        let of = |text: &str| listener(text.parse().unwrap());
        for local in ["127.0.0.1:4000", "127.9.9.9:1", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
            assert!(of(local).ok, "{local}");
        }
        for (public, says) in
            [("0.0.0.0:4000", "every address"), ("[::]:4000", "every address"), ("192.0.2.1:80", "other machines")]
        {
            let fact = of(public);
            assert!(!fact.ok && !fact.required && fact.detail.contains(says) && fact.remedy.is_some(), "{fact:?}");
        }
    }

    #[tokio::test]
    async fn every_bad_fact_says_what_to_do_and_nothing_is_left() {
        let guard = TestNetns::new();
        let dir = tempfile::tempdir().unwrap();
        let facts = examine(dir.path(), &guard.spec()).await;
        assert!(facts.iter().all(|fact| fact.ok == fact.remedy.is_none()), "{facts:?}");
        assert!(!Netns::exists(&format!("airlock-doctor-{}", std::process::id())));
        if !skip_unless_root() {
            let of = |name| facts.iter().find(|fact| fact.name == name).unwrap();
            assert!(of("capabilities").ok && of("namespaces").ok && of("tun").ok, "{facts:?}");
            assert!(of("nftables").ok && of("egress").ok, "{facts:?}");
        }
        assert!(!Netns::exists(&format!("airlock-doctor-nft-{}", std::process::id())));
    }

    #[tokio::test]
    async fn an_uplink_that_does_not_forward_is_told_before_a_start() {
        if skip_unless_root() {
            return;
        }
        let (own, isp) = (TestNetns::new(), TestNetns::new());
        let there = Netns::create(isp.name()).unwrap();
        let mut network = own.spec();
        network.egress.uplink = Uplink::Namespace(isp.name().to_owned());
        let set = |value: &'static str| {
            there.run(move || std::fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap()).unwrap();
        };
        set("0");
        let fact = egress(&network).await;
        assert!(!fact.ok && fact.required && fact.remedy.unwrap().contains("ip_forward=1"), "{}", fact.detail);
        set("1");
        let fact = egress(&network).await;
        assert!(fact.ok, "{}", fact.detail);
        network.egress.uplink = Uplink::Namespace(format!("{}-gone", isp.name()));
        let fact = egress(&network).await;
        assert!(fact.detail.ends_with("No such file or directory (os error 2)"), "{}", fact.detail);
    }

    #[test]
    fn a_program_is_found_by_path_or_not_at_all() {
        assert!(find_program("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(find_program("airlock-no-such-program"), None);
        assert_eq!(find_program("/etc/passwd"), None);
        assert!(disk(Path::new("/proc/no/such/dir")).detail.contains("/proc"));
    }
}
