//! Who takes over and what is written, as tables; facts and files in directories that stand for roots.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use airlock_protocol::guest_config::{Addressing, NetworkOwner};

use super::*;
use crate::succession::place;

const CMDLINE: &str = "ip=192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off:192.168.100.1 airlock.vm=v8 \
                       airlock.mac=06:00:c0:a8:64:08";

fn config(extra: &str) -> (BootConfig, NetworkKeys) {
    let cmdline = format!("{CMDLINE} {extra}");
    (BootConfig::parse(&cmdline).unwrap(), NetworkKeys::parse(&cmdline).unwrap())
}

fn interface() -> Interface {
    Interface { dev: "eth0".into(), mac: "06:00:c0:a8:64:08".parse().unwrap() }
}

fn facts(present: &[&str]) -> RootFacts {
    RootFacts { present: present.iter().map(|path| (*path).to_owned()).collect(), ..RootFacts::default() }
}

fn with_init(path: &str, real: &str, present: &[&str]) -> RootFacts {
    RootFacts { inits: vec![FoundInit { path: path.into(), real: real.into() }], ..facts(present) }
}

fn text_at<'a>(placed: &'a [Placed], path: &str) -> Option<&'a str> {
    placed.iter().find(|placed| placed.path == path).and_then(|placed| match &placed.content {
        Content::Text(text) => Some(text.as_str()),
        Content::Link(_) => None,
    })
}

/// A directory that stands for a root and goes with the test.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("airlock-root-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, path: &str, mode: u32, text: &str) {
        let path = self.0.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.0.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(&path[1..])).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_kind_of_init_is_known_and_gets_its_mode() {
    for (facts, kind, mode) in [
        (with_init("/sbin/init", "/usr/lib/systemd/systemd", &[]), "systemd", Mode::Unit),
        (with_init("/lib/systemd/systemd", "/lib/systemd/systemd", &["/etc/inittab"]), "systemd", Mode::Unit),
        (with_init("/sbin/init", "/sbin/init", &["/etc/inittab"]), "sysvinit", Mode::Child),
        (with_init("/sbin/init", "/bin/busybox", &["/etc/inittab"]), "busybox", Mode::Child),
        (with_init("/sbin/init", "/usr/sbin/openrc-init", &["/etc/inittab"]), "openrc", Mode::Child),
        (with_init("/sbin/init", "/sbin/runit-init", &[]), "runit", Mode::Child),
        // A script that executes systemd in the end: the child lives under any PID 1.
        (with_init("/sbin/init", "/sbin/init", &[]), "program", Mode::Child),
        (facts(&["/etc/inittab"]), "none", Mode::Pid1),
    ] {
        let found = successor(&facts);
        assert_eq!((found.kind, found.mode), (kind, mode), "{facts:?}");
        assert_eq!(found.init.as_deref(), facts.inits.first().map(|init| init.path.as_str()));
    }
}

#[test]
fn inits_are_looked_for_where_the_kernel_does_and_only_programs_count() {
    let root = Root::new();
    root.file("/sbin/init", 0o644, "not executable");
    fs::create_dir_all(root.0.join("etc/init")).unwrap();
    assert_eq!(RootFacts::of(&root.0, None).inits, vec![]);

    root.file("/usr/lib/systemd/systemd", 0o755, "");
    // Absolute links lead below the root, not to the machine that looks.
    root.link("/lib", "/usr/lib");
    root.link("/bin/init", "../lib/systemd/systemd");
    let inits = RootFacts::of(&root.0, None).inits;
    let paths: Vec<&str> = inits.iter().map(|init| init.path.as_str()).collect();
    assert_eq!(paths, ["/bin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"]);
    assert!(inits.iter().all(|init| init.real == "/usr/lib/systemd/systemd"));

    root.file("/opt/app", 0o755, "");
    assert_eq!(RootFacts::of(&root.0, Some("/opt/app")).inits[0].path, "/opt/app");
    assert_eq!(RootFacts::of(&root.0, Some("/opt/gone")).inits[0].path, "/bin/init");
    root.link("/opt/loop", "loop");
    assert_eq!(RootFacts::of(&root.0, Some("/opt/loop")).inits.len(), 3);
}

/// What `/etc/resolv.conf` is in the image; then, with or without systemd-resolved, what both readers of names find.
#[test]
fn resolv_conf_works_whatever_it_was() {
    const OURS: &str = "search a.example\nnameserver 192.168.100.1\n";
    let enabled = "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service";
    type Row = (&'static str, fn(&Root), bool, &'static str);
    let table: [Row; 7] = [
        ("missing", |_| {}, false, "/etc/resolv.conf"),
        ("a file", |root| root.file("/etc/resolv.conf", 0o644, "nameserver 8.8.8.8\n"), false, "/etc/resolv.conf"),
        ("a dangling link", |root| root.link("/etc/resolv.conf", "/nowhere/resolv.conf"), false, "/etc/resolv.conf"),
        ("a link without end", |root| root.link("/etc/resolv.conf", "resolv.conf"), false, "/etc/resolv.conf"),
        (
            "a link to a file of the image",
            |root| {
                root.file("/etc/resolv.static", 0o644, "nameserver 8.8.8.8\n");
                root.link("/etc/resolv.conf", "resolv.static");
            },
            false,
            "/etc/resolv.conf",
        ),
        (
            "the stub resolver's link",
            |root| root.link("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
            true,
            "/run/systemd/resolve/stub-resolv.conf",
        ),
        (
            "another program's link, through /var/run",
            |root| {
                root.link("/var/run", "/run");
                root.link("/etc/resolv.conf", "/var/run/NetworkManager/resolv.conf");
            },
            false,
            "/run/NetworkManager/resolv.conf",
        ),
    ];
    for (what, prepare, stub, target) in table {
        for resolved in [false, true] {
            let root = Root::new();
            prepare(&root);
            if resolved {
                root.link(enabled, "/usr/lib/systemd/system/systemd-resolved.service");
            }
            let facts = RootFacts::of(&root.0, None);
            let (boot, keys) = config("airlock.search=a.example");
            let placed = identity_files::files(&facts, &Identity::of(&boot, &keys));
            placed.iter().for_each(|placed| place(&root.0, placed).unwrap());
            assert_eq!(root.read(target), OURS, "{what}");
            let behind = facts::resolve(&root.0, "/etc/resolv.conf");
            assert_eq!(behind.as_deref(), Some(target), "{what}: the name leads to what was written");
            let drop_in = root.0.join("run/systemd/resolved.conf.d/airlock.conf");
            assert_eq!(drop_in.exists(), stub && resolved, "{what}");
            if drop_in.exists() {
                assert_eq!(fs::read_to_string(drop_in).unwrap(), "[Resolve]\nDNS=192.168.100.1\nDomains=a.example\n");
            }
        }
    }
}

#[test]
fn the_image_s_hosts_are_added_to() {
    let (boot, keys) = config("");
    let identity = Identity::of(&boot, &keys);
    let hosts = |text: Option<&str>| {
        let mut facts = facts(&[]);
        facts.texts.extend(text.map(|text| ("/etc/hosts".to_owned(), text.to_owned())));
        text_at(&identity_files::files(&facts, &identity), "/etc/hosts").unwrap().to_owned()
    };
    assert_eq!(hosts(None), identity.hosts());
    assert_eq!(hosts(Some("\n")), identity.hosts());
    assert_eq!(hosts(Some("127.0.0.1 localhost\n10.1.1.1 db")), "127.0.0.1 localhost\n10.1.1.1 db\n127.0.1.1\tvm-8\n");
    assert_eq!(hosts(Some("127.0.1.1 other vm-8 # x\n")), "127.0.1.1 other vm-8 # x\n");
    assert!(hosts(Some("127.0.0.1 localhost # vm-8\n")).ends_with("127.0.1.1\tvm-8\n"));
}

#[test]
fn a_unit_is_written_for_systemd_only_and_every_target_wants_it() {
    let (boot, keys) = config("");
    let placed = |facts: &RootFacts| {
        placements(
            facts,
            &successor(facts),
            (NetworkOwner::Airlock, Addressing::Static),
            (&boot, &keys),
            Some(&interface()),
        )
    };
    let of_systemd = placed(&with_init("/sbin/init", "/usr/lib/systemd/systemd", &[]));
    let unit = text_at(&of_systemd, "/run/systemd/system/airlock.service").unwrap();
    assert!(unit.contains("ExecStart=/run/airlock/bin/airlock-init supervise\n"));
    assert!(unit.contains("DefaultDependencies=no\n") && unit.contains("IgnoreOnIsolate=yes\n"));
    for target in ["sysinit", "default", "rescue", "emergency"] {
        let link =
            Placed::link(format!("/run/systemd/system/{target}.target.wants/airlock.service"), "../airlock.service");
        assert!(of_systemd.contains(&link), "{target}");
    }
    let of_busybox = placed(&with_init("/sbin/init", "/bin/busybox", &[]));
    assert!(of_busybox.iter().all(|placed| !placed.path.contains("systemd")), "{of_busybox:?}");
    // The identity is written in every case.
    assert_eq!(text_at(&of_busybox, "/etc/hostname"), Some("vm-8\n"));
    assert_eq!(text_at(&placed(&facts(&[])), "/etc/machine-id").map(str::len), Some(33));
}

const ALL_MANAGERS: [&str; 5] = [
    "/usr/lib/systemd/systemd-networkd",
    "/usr/sbin/NetworkManager",
    "/usr/sbin/dhcpcd",
    "/usr/sbin/ifup",
    "/usr/bin/cloud-init",
];

#[test]
fn managers_are_told_where_they_are_installed_and_not_when_they_own() {
    use NetworkOwner::*;
    assert_eq!(hands_off::files(&facts(&[]), Airlock, &interface()), vec![]);
    let told = |owner| {
        let placed = hands_off::files(&facts(&ALL_MANAGERS), owner, &interface());
        let of = |path: &str| text_at(&placed, path).is_some();
        [
            of("/run/systemd/network/00-airlock.network"),
            of("/run/NetworkManager/conf.d/00-airlock.conf"),
            of("/etc/dhcpcd.conf"),
            of("/run/network/ifstate"),
            of("/etc/cloud/cloud.cfg.d/99_airlock.cfg"),
        ]
    };
    for (owner, expected) in [
        (Airlock, [true, true, true, true, true]),
        (Kernel, [true, true, true, true, true]),
        (SystemdNetworkd, [false, true, true, true, true]),
        (SystemdNetworkdGenerator, [false, true, true, true, true]),
        (Netplan, [false, false, true, true, true]),
        (Dhcpcd, [true, true, false, true, true]),
        (Ifupdown, [true, true, true, false, true]),
        (NetworkManager, [true, false, true, true, true]),
        (CloudInit, [false, false, true, false, false]),
    ] {
        assert_eq!(told(owner), expected, "{owner:?}");
    }
    let mut facts = facts(&ALL_MANAGERS);
    facts.texts.insert("/etc/dhcpcd.conf".into(), "hostname\n".into());
    let placed = hands_off::files(&facts, Airlock, &interface());
    assert_eq!(text_at(&placed, "/etc/dhcpcd.conf"), Some("denyinterfaces eth0\nhostname\n"));
    assert_eq!(
        text_at(&placed, "/run/systemd/network/00-airlock.network"),
        Some("[Match]\nMACAddress=06:00:c0:a8:64:08\n\n[Link]\nUnmanaged=yes\n")
    );
}

#[test]
fn each_owner_gets_the_lease_in_its_own_words() {
    use NetworkOwner::*;
    let written = |owner, path: &str, extra: &str| {
        let (boot, keys) = config(extra);
        let placed = addressing::files(&facts(&[]), (owner, Addressing::Static), (&boot, &keys), &interface());
        text_at(&placed, path).unwrap_or_else(|| panic!("{owner:?}: {placed:?}")).to_owned()
    };
    let more = "airlock.mtu=1400 airlock.search=a.example airlock.dns=9.9.9.9";
    assert_eq!(
        written(SystemdNetworkd, "/run/systemd/network/00-airlock.network", more),
        "[Match]\nMACAddress=06:00:c0:a8:64:08\n\n[Link]\nMTUBytes=1400\n\n[Network]\nLinkLocalAddressing=no\n\
         IPv6AcceptRA=no\nAddress=192.168.100.8/24\nGateway=192.168.100.1\nDNS=9.9.9.9 192.168.100.1\n\
         Domains=a.example\n"
    );
    assert_eq!(
        written(Ifupdown, "/etc/network/interfaces", ""),
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n  address 192.168.100.8\n  \
         netmask 255.255.255.0\n  gateway 192.168.100.1\n  dns-nameservers 192.168.100.1\n"
    );
    assert!(written(Dhcpcd, "/etc/dhcpcd.conf", "").contains(
        "interface eth0\nnoipv6\nnoipv4ll\nnoarp\nstatic ip_address=192.168.100.8/24\nstatic routers=192.168.100.1\n"
    ));
    assert_eq!(
        written(Netplan, "/run/netplan/90-airlock.yaml", ""),
        "network:\n  version: 2\n  ethernets:\n    eth0:\n      match: {macaddress: \"06:00:c0:a8:64:08\"}\n      \
         addresses: [\"192.168.100.8/24\"]\n      routes: [{to: \"0.0.0.0/0\", via: \"192.168.100.1\"}]\n      \
         nameservers: {addresses: [\"192.168.100.1\"], search: []}\n"
    );
    let (boot, keys) = config("");
    let kept = Placed::text(
        "/run/systemd/network/00-airlock.link",
        "[Match]\nMACAddress=06:00:c0:a8:64:08\n\n[Link]\nName=eth0\n",
    );
    for owner in [Dhcpcd, Ifupdown, Script, SystemdNetworkdGenerator] {
        assert!(
            addressing::files(&facts(&ALL_MANAGERS), (owner, Addressing::Static), (&boot, &keys), &interface())
                .contains(&kept)
        );
    }
    // cloud-init reads the host's drive, and names the interface itself.
    for owner in [Airlock, CloudInit, Kernel] {
        assert_eq!(
            addressing::files(&facts(&ALL_MANAGERS), (owner, Addressing::Static), (&boot, &keys), &interface()),
            vec![]
        );
    }
}

#[test]
fn an_owner_that_asks_is_told_no_address() {
    use NetworkOwner::*;
    let (boot, keys) = config("airlock.dns=9.9.9.9 airlock.mtu=1400");
    let mut facts = facts(&ALL_MANAGERS);
    facts.texts.insert("/etc/dhcpcd.conf".into(), "hostname\n".into());
    let placed = |owner| addressing::files(&facts, (owner, Addressing::Dhcp), (&boot, &keys), &interface());
    let network = "/run/systemd/network/00-airlock.network";
    for (owner, path, says) in [
        (SystemdNetworkd, network, "[Match]\nMACAddress=06:00:c0:a8:64:08\n\n[Network]\nDHCP=ipv4\n"),
        (Dhcpcd, "/etc/dhcpcd.conf", "hostname\n\ninterface eth0\nnoipv6\nnoipv4ll\nnoarp\n"),
        (Ifupdown, "/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n"),
        (
            NetworkManager,
            "/run/NetworkManager/conf.d/00-airlock.conf",
            "no-auto-default=except:mac:06:00:c0:a8:64:08\n",
        ),
    ] {
        let placed = placed(owner);
        let text = text_at(&placed, path).unwrap_or_else(|| panic!("{owner:?}: {placed:?}"));
        assert!(text.contains(says), "{owner:?}: {text}");
        let told: Vec<&str> =
            placed.iter().filter_map(|placed| text_at(std::slice::from_ref(placed), &placed.path)).collect();
        assert!(told.iter().all(|text| !text.contains("192.168.100") && !text.contains("1400")), "{owner:?}: {told:?}");
    }
    let keeps_its_name = |owner| text_at(&placed(owner), "/run/systemd/network/00-airlock.link").is_some();
    assert!(keeps_its_name(Dhcpcd) && keeps_its_name(Ifupdown) && !keeps_its_name(SystemdNetworkd));
    assert_eq!(placed(Airlock), vec![]);
}

#[test]
fn placing_makes_room_and_follows_the_links_of_directories_only() {
    let root = Root::new();
    root.link("/var/run", "/run");
    root.file("/outside", 0o644, "untouched");
    root.link("/etc/hostname", "/outside");
    place(&root.0, &Placed::text("/etc/hostname", "vm\n")).unwrap();
    place(&root.0, &Placed::text("/var/run/x/y", "text")).unwrap();
    for _ in 0..2 {
        place(&root.0, &Placed::link("/run/unit", "/dev/null")).unwrap();
    }
    assert_eq!((root.read("/outside").as_str(), root.read("/etc/hostname").as_str()), ("untouched", "vm\n"));
    assert_eq!(root.read("/run/x/y"), "text");
    assert_eq!(fs::read_link(root.0.join("run/unit")).unwrap(), Path::new("/dev/null"));
    fs::create_dir_all(root.0.join("etc/machine-id")).unwrap();
    let error = place(&root.0, &Placed::text("/etc/machine-id", "x")).unwrap_err();
    assert!(error.to_string().starts_with("replace ") && error.errno() == Some(nix::errno::Errno::EISDIR), "{error}");
}
