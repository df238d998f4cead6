//! Faults of the installation: images, disk, limits, devices of the host, a daemon that dies.

use std::borrow::Cow;
use std::fs;
use std::time::Instant;

use airlock_protocol::Stage;
use anyhow::{Context, Result};

use crate::faults::cell::{self, Follower, World, said_by};
use crate::faults::disk::SmallDisk;
use crate::faults::fault::{Fault, Said, Since, fault};
use crate::faults::leftovers::{self, Leftovers};
use crate::faults::site::{Site, Special};

const NONE: Special = Special { config: "", network: Cow::Borrowed(""), mounts: "", path: None };

pub fn faults() -> Vec<Fault> {
    let refused = |fault: Fault| fault.shows(Since::Asked, 1000);
    let mut all = vec![
        refused(fault("image-missing", "image_missing", Stage::DiskReady))
            .how("the provider's image was never built")
            .own(|world| offered(world, |site| Ok(fs::remove_file(site.images().join("faulty.current"))?)))
            .quick(),
        refused(fault("image-file-missing", "image_missing", Stage::DiskReady))
            .how("the image's kernel file is gone")
            .own(|world| published(world, |dir| Ok(fs::remove_file(dir.join("vmlinuz"))?))),
        refused(fault("image-cut", "image_corrupt", Stage::DiskReady)).how("the image's initramfs ends too early").own(
            |world| {
                published(world, |dir| {
                    let file = fs::File::options().write(true).open(dir.join("initramfs"))?;
                    Ok(file.set_len(4096)?)
                })
            },
        ),
        refused(fault("image-manifest-edited", "image_corrupt", Stage::DiskReady))
            .how("somebody edited the image's manifest: its digest is another one")
            .own(|world| {
                published(world, |dir| {
                    let text = fs::read_to_string(dir.join("manifest.toml"))?;
                    Ok(fs::write(dir.join("manifest.toml"), text.replace("memory_mib = 256", "memory_mib = 512"))?)
                })
            }),
        refused(fault("memory-refused", "memory_insufficient", Stage::Leased))
            .how("the host's memory is reserved (`limits.reserve_mib`) and nobody may wait")
            .daemon(Special { network: "[limits]\nqueue = 0\nreserve_mib = 100000000\n".into(), ..NONE }),
        refused(fault("pool-exhausted", "address_pool_exhausted", Stage::Leased))
            .how("a pool of five addresses, and a sixth machine")
            .own(exhaust_pool),
        // Not even the machine can be written down: there is no stage yet.
        Fault { stage: None, ..refused(fault("disk-full", "disk_full", Stage::DiskReady)) }
            .how("the state directory's disk has no byte left")
            .own(fill_disk),
        refused(fault("vmm-missing", "vmm_binary_missing", Stage::VmmStarted))
            .how("QEMU is not in `PATH`")
            .daemon(Special { path: Some("/nowhere"), ..NONE })
            .quick(),
        refused(fault("vmm-too-old", "vmm_version_unsupported", Stage::VmmStarted))
            .how("QEMU says that it is version 4.2.1")
            .daemon(NONE)
            .before_vmm("case \"$*\" in *--version*) echo 'QEMU emulator version 4.2.1'; exit;; esac"),
    ];
    all.extend(tap());
    all.extend(kvm());
    all.extend(interrupted());
    all
}

/// What a TAP is made with.
fn tap() -> Vec<Fault> {
    let refused = |fault: Fault| fault.shows(Since::Asked, 1000);
    vec![
        refused(fault("tun-missing", "tun_missing", Stage::TapUp))
            .how("there is no `/dev/net/tun` where the daemon runs")
            .daemon(Special { mounts: "mount -t tmpfs none /dev/net", ..NONE }),
        refused(fault("tun-forbidden", "tun_permission", Stage::TapUp))
            .how("the daemon may not open `/dev/net/tun` (its file system is mounted `nodev`)")
            .daemon(Special {
                mounts: "mount -t tmpfs -o nodev none /dev/net; mknod -m 666 /dev/net/tun c 10 200",
                ..NONE
            }),
        refused(fault("bridge-full", "bridge_ports_exhausted", Stage::TapUp))
            .how("1024 other interfaces are in the bridge")
            .own(fill_bridge),
    ]
}

/// `/dev/kvm` as the VMM sees it; the driver is told to use it.
fn kvm() -> Vec<Fault> {
    let config = "driver = \"qemu-kvm\"\n";
    let shows = |fault: Fault| fault.shows(Since::Exit, 1000);
    vec![
        shows(fault("kvm-missing", "kvm_missing", Stage::VmmStarted))
            .how("there is no `/dev/kvm`")
            .daemon(Special { config, ..NONE })
            .before_vmm(IN_OTHER_DEV.to_owned() + "hide_kvm() { :; }; other_dev hide_kvm"),
        shows(fault("kvm-forbidden", "kvm_permission", Stage::VmmStarted))
            .how("`/dev/kvm` belongs to somebody else, and the VMM has no power over other people's files")
            .daemon(Special { config, ..NONE })
            .before_vmm(
                IN_OTHER_DEV.to_owned()
                    + "forbid_kvm() { mknod -m 0 /dev/kvm c 10 232; chown 65534 /dev/kvm; \
                       drop=(setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all); }; other_dev forbid_kvm",
            ),
        shows(fault("kvm-is-no-kvm", "kvm_unusable", Stage::VmmStarted))
            .how("`/dev/kvm` opens and is not what it should be (`/dev/null`)")
            .daemon(Special { config, ..NONE })
            .before_vmm(IN_OTHER_DEV.to_owned() + "fake_kvm() { mknod -m 666 /dev/kvm c 1 3; }; other_dev fake_kvm"),
    ]
}

/// Goes on in a mount namespace with a `/dev` that has what a VMM needs, and `/dev/kvm` as the named function makes it.
const IN_OTHER_DEV: &str = "other_dev() {
  export -f $1
  export WHAT=$1
  exec unshare --mount bash -euc '
    mount -t tmpfs none /dev
    mkdir /dev/net
    mknod -m 666 /dev/net/tun c 10 200
    mknod -m 666 /dev/null c 1 3
    mknod -m 666 /dev/zero c 1 5
    mknod -m 666 /dev/urandom c 1 9
    drop=()
    $WHAT
    exec \"${drop[@]}\" \"$@\"' - \"$real\" \"${args[@]}\"
}
";

fn interrupted() -> Vec<Fault> {
    let after = |fault: Fault| fault.shows(Since::Acted, 3000);
    vec![
        after(fault("daemon-killed-in-start", "daemon_interrupted", Stage::VmmStarted))
            .how("`kill -9` of the daemon while it starts the VMM; judged by the next daemon")
            .own(|world| interrupted_by(world, "sleep 5", "", "vmm_started")),
        after(fault("vmm-died-without-daemon", "vmm_exited", Stage::AgentUp))
            .how("daemon killed, then the VMM; judged by the next daemon")
            .own(|world| interrupted_by(world, "", "kill -9 $PID", "handed_over")),
        after(fault("tap-lost-without-daemon", "tap_missing", Stage::AgentUp))
            .how("daemon killed, then the TAP deleted; judged by the next daemon")
            .own(|world| interrupted_by(world, "", "ip link del $TAP", "handed_over")),
    ]
}

/// A start on an image that something happened to before.
fn offered(world: &World, change: fn(&Site) -> Result<()>) -> Result<Said> {
    let site = &world.site;
    site.offer("base", None)?;
    change(site)?;
    refusal_of(site, "the start was not refused")
}

/// A start on a published image that somebody damaged.
fn published(world: &World, damage: fn(&std::path::Path) -> Result<()>) -> Result<Said> {
    let site = &world.site;
    site.offer("base", Some(|image| image.config(|config| config["faults"] = true.into())))?;
    let current = fs::read_to_string(site.images().join("faulty.current"))?;
    let dir = site.images().join(current.trim());
    damage(&dir)?;
    let said = refusal_of(site, "the start was not refused");
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    said
}

/// What a start is refused with, after which there is nothing more than before.
fn refusal_of(site: &Site, unless: &'static str) -> Result<Said> {
    let (before, asked) = (Leftovers::of(site)?, Instant::now());
    let refusal = cell::start(site)?.err().context(unless)?;
    let took = asked.elapsed();
    leftovers::check_refusal(site, &refusal)?;
    before.await_no_more(site)?;
    Ok(said_by(&refusal, took))
}

/// What a start is refused with, or fails for.
fn failure_of(site: &Site) -> Result<Said> {
    let asked = Instant::now();
    match cell::start(site)? {
        Err(refusal) => {
            let took = asked.elapsed();
            leftovers::check_refusal(site, &refusal)?;
            Ok(said_by(&refusal, took))
        }
        Ok(started) => cell::failure(site, &started.session_id, asked),
    }
}

fn exhaust_pool(world: &World) -> Result<Said> {
    let special = Special { network: "subnet = \"10.77.0.1/29\"\n[limits]\nqueue = 0\n".into(), ..NONE };
    let site = Site::open(&world.places, &special)?;
    site.offer("base", None)?;
    let mut machines = Vec::new();
    for _ in 0..5 {
        let started = cell::start(&site)?;
        let started = started.map_err(|error| anyhow::anyhow!("a start within the pool is refused: {error:?}"))?;
        // Only then does its directory not come between two counts.
        let mut boot = Follower::new(&site, &started.session_id, Instant::now())?;
        boot.await_vmm()?;
        machines.push(boot.vm_id().to_owned());
    }
    let said = refusal_of(&site, "the sixth start was not refused")?;
    machines.iter().try_for_each(|vm_id| cell::destroy(&site, vm_id))?;
    site.close()?;
    Ok(said)
}

/// Both ends of 512 cables.
const FILL_BRIDGE: &str = "for port in {0..511}; do
        echo link add one$port master br0 type veth peer name two$port; echo link set two$port master br0
    done | ip -force -batch - 2>/dev/null || true";

fn fill_bridge(world: &World) -> Result<Said> {
    let site = Site::open(&world.places, &NONE)?;
    site.offer("base", None)?;
    // The last ones are refused; how many there may be is the kernel's business.
    site.on_host(FILL_BRIDGE, &[])?;
    let said = failure_of(&site)?;
    site.close()?;
    Ok(said)
}

fn fill_disk(world: &World) -> Result<Said> {
    let disk = SmallDisk::mount()?;
    let state = tempfile::Builder::new().prefix("state-").tempdir_in(disk.path())?;
    let site = Site::within(state, &world.places, &NONE)?;
    site.offer("base", None)?;
    disk.fill()?;
    let said = failure_of(&site)?;
    disk.empty()?;
    site.close()?;
    Ok(said)
}

/// Kills the daemon in the middle of a start, does something, and takes the verdict of the next daemon.
fn interrupted_by(world: &World, before_vmm: &str, act: &str, once: &str) -> Result<Said> {
    let mut site = Site::open(&world.places, &NONE)?;
    site.offer("base", None)?;
    site.before_vmm(before_vmm)?;
    let started = cell::start(&site)?.map_err(|error| anyhow::anyhow!("refused: {error:?}"))?;
    let (session, pid, tap) = {
        let mut boot = Follower::new(&site, &started.session_id, Instant::now())?;
        match once {
            "vmm_started" => boot.await_vmm()?,
            stage => boot.await_stage(stage.parse()?)?,
        }
        (started.session_id, boot.pid().to_string(), boot.tap().to_owned())
    };
    site.daemon.kill()?;
    if !act.is_empty() {
        site.on_host(act, &[("PID", &pid), ("TAP", &tap)])?;
    }
    let asked = Instant::now();
    site.restart(&world.places)?;
    let said = cell::failure(&site, &session, asked)?;
    site.close()?;
    Ok(said)
}
