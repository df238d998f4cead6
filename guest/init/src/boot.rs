//! The boot order, readable top to bottom.
//!
//! ```text
//! init_started -> config_read -> modules_loaded -> link_found -> link_up -> address_set -> route_set
//!              -> gateway_reachable -> root_mounted -> handed_over -> supervise, or the image's own init
//! ```
//!
//! When somebody else owns the interface, init finds the link and leaves it as it is: the agent reports what follows.
//!
//! What a failure does: it is reported with its errno, and everything that does not need the failed step still happens.
//! Without a link there is no address, but the root is mounted and the agent answers over the control channel; without a
//! root the agent runs from the initramfs; without a configuration there is still an agent and a way to power off.

use std::net::Ipv4Addr;

use airlock_protocol::boot_config::{BootConfigError, NetworkKeys};
use airlock_protocol::guest_config::{Handover, NetworkOwner, Restart, Service};
use airlock_protocol::ip_param::Netmask;
use airlock_protocol::paths::GUEST_BIN;
use airlock_protocol::{BootConfig, GuestConfig, Stage};

use crate::identity::Identity;
use crate::kernel::{Kernel, KernelError, Link, WantedLink, chain};
use crate::plan::Roster;
use crate::report::Reporter;
use crate::spawn::AGENT;

/// What the boot left for the supervisor.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Booted {
    /// The image's configuration, if it could be read.
    pub guest: Option<GuestConfig>,
    /// Whether the image's root is `/` now. Without it only the agent can be started.
    pub root: bool,
}

/// Boots the guest as far as it can.
pub fn boot(kernel: &mut impl Kernel) -> Booted {
    let mut reporter = Reporter::default();
    let report = &mut reporter;

    match kernel.mount_early() {
        Ok(()) => report.reached(kernel, Stage::InitStarted, &[]),
        Err(error) => report.failed(kernel, Stage::InitStarted, &error),
    }
    let Config { boot, keys, guest } = read_config(kernel, report);
    let modules = guest.as_ref().map(|guest| guest.modules.as_slice());
    if load_modules(kernel, report, Stage::ModulesLoaded, modules.unwrap_or_default())
        && let Some(modules) = modules
    {
        report.reached(kernel, Stage::ModulesLoaded, &[("count", modules.len().to_string())]);
    }
    let owner = guest.as_ref().map(|guest| guest.network_owner).unwrap_or_default();
    let link = boot.as_ref().and_then(|boot| find_link(kernel, report, boot, owner));
    if let (Some(boot), Some(link), NetworkOwner::Airlock) = (&boot, &link, owner) {
        bring_up_network(kernel, report, boot, &keys, link);
    }
    // What the network does not need comes behind it: the root's file system, the control channel.
    let later = guest.as_ref().map_or(&[][..], |guest| &guest.later_modules);
    let complete = load_modules(kernel, report, Stage::RootMounted, later);
    let (Some(boot), Some(guest)) = (&boot, &guest) else {
        let root = hand_over(kernel, report, false);
        return Booted { guest, root };
    };
    let mounted = mount_root(kernel, report, boot, &keys, guest, complete);
    let root = match guest.handover {
        Handover::Init if mounted => to_init::hand_over_to_init(kernel, report, (boot, &keys), guest, link.as_ref()),
        _ => hand_over(kernel, report, mounted),
    };
    Booted { guest: Some(guest.clone()), root }
}

/// What was read, as far as it could be.
#[derive(Debug, Default)]
struct Config {
    boot: Option<BootConfig>,
    keys: NetworkKeys,
    guest: Option<GuestConfig>,
}

/// Reads `/proc/cmdline` and the image's configuration. One stage for both; each failure is reported.
fn read_config(kernel: &mut impl Kernel, report: &mut Reporter) -> Config {
    let mut config = Config::default();
    let mut whole = true;
    match kernel.cmdline() {
        Ok(cmdline) => {
            let mut refused = |error: &BootConfigError| {
                report.refused(kernel, Stage::ConfigRead, error.cause(), chain(error));
                whole = false;
            };
            config.boot = BootConfig::parse(&cmdline).map_err(|error| refused(&error)).ok();
            // A wrong one of these is said, and the network comes up without all of them.
            config.keys = NetworkKeys::parse(&cmdline).map_err(|error| refused(&error)).unwrap_or_default();
        }
        Err(error) => report.failed(kernel, Stage::ConfigRead, &error),
    }
    match kernel.guest_config() {
        Ok(guest) => config.guest = Some(guest),
        Err(error) => report.failed(kernel, Stage::ConfigRead, &error),
    }
    if let (true, Some(boot), Some(guest)) = (whole, &config.boot, &config.guest) {
        let facts = [("vm", boot.vm_id.clone()), ("ip", boot.ip.to_string()), ("build", guest.build_id.clone())];
        report.reached(kernel, Stage::ConfigRead, &facts);
    }
    config
}

/// Loads every module of the list, also after one failed: a missing one must not cost what does not need it. A failure is
/// one of `stage`, by its cause. Returns whether all are loaded.
fn load_modules(kernel: &mut impl Kernel, report: &mut Reporter, stage: Stage, modules: &[String]) -> bool {
    let mut all = true;
    for file in modules {
        if let Err(error) = kernel.load_module(file) {
            report.failed_because(kernel, stage, "modules_mismatch", &error);
            all = false;
        }
    }
    all
}

/// The address on the command line, and the mask that the kernel's own code would take.
fn lease(boot: &BootConfig) -> Option<(Ipv4Addr, u8)> {
    let addr = boot.ip.client?;
    Some((addr, boot.ip.netmask.map_or_else(|| classful_prefix(addr), Netmask::prefix)))
}

/// Our interface. Not looked for when airlock-init owns it and has no address to put on it.
fn find_link(kernel: &mut impl Kernel, report: &mut Reporter, boot: &BootConfig, owner: NetworkOwner) -> Option<Link> {
    if owner == NetworkOwner::Airlock && lease(boot).is_none() {
        let detail = "ip= asks a server for the address; Airlock leases addresses itself".to_owned();
        report.failed_with(kernel, Stage::AddressSet, Some("EOPNOTSUPP".to_owned()), detail);
        return None;
    }
    let found = kernel.find_link(&wanted_link(boot));
    let found = found.and_then(|link| if owner.reads_ip() { name_as_asked(kernel, boot, link) } else { Ok(link) });
    match found {
        Ok(link) => {
            report.reached(kernel, Stage::LinkFound, &link_facts(&link, boot));
            Some(link)
        }
        Err(error) => {
            report.failed(kernel, Stage::LinkFound, &error);
            None
        }
    }
}

/// Who reads `ip=` itself looks for the interface by the name that stands there.
fn name_as_asked(kernel: &mut impl Kernel, boot: &BootConfig, mut link: Link) -> Result<Link, KernelError> {
    if let Some(name) = boot.ip.device.as_ref().filter(|name| **name != link.name) {
        kernel.rename_link(&link, name)?;
        link.name.clone_from(name);
    }
    Ok(link)
}

/// Carrier, address, route, gateway. Every failure lets the rest be tried, so that one boot shows all that is wrong.
fn bring_up_network(
    kernel: &mut impl Kernel,
    report: &mut Reporter,
    boot: &BootConfig,
    keys: &NetworkKeys,
    link: &Link,
) {
    let Some((addr, prefix)) = lease(boot) else { return };
    if let Some(mtu) = keys.mtu {
        // Before the link is up: some drivers do not take it later. It goes up without it, too.
        if let Err(error) = kernel.set_mtu(link, mtu) {
            report.failed(kernel, Stage::LinkUp, &error);
        }
    }
    match kernel.set_link_up(link) {
        Ok(()) => report.reached(kernel, Stage::LinkUp, &[("dev", link.name.clone())]),
        Err(error) => report.failed(kernel, Stage::LinkUp, &error),
    }
    match kernel.set_address(link, addr.into(), prefix) {
        Ok(()) => {
            let facts = [("dev", link.name.clone()), ("addr", format!("{addr}/{prefix}"))];
            report.reached(kernel, Stage::AddressSet, &facts);
        }
        Err(error) => report.failed(kernel, Stage::AddressSet, &error),
    }
    // A network without a gateway is complete here: the host reaches the guest on its own subnet.
    let Some(gateway) = boot.ip.gateway else {
        report.reached(kernel, Stage::RouteSet, &[("gateway", "none".to_owned())]);
        return report.reached(kernel, Stage::GatewayReachable, &[("gateway", "none".to_owned())]);
    };
    match kernel.set_default_route(link, gateway.into()) {
        Ok(()) => report.reached(kernel, Stage::RouteSet, &[("gateway", gateway.to_string())]),
        Err(error) => report.failed(kernel, Stage::RouteSet, &error),
    }
    match kernel.probe_gateway(link, addr, gateway) {
        Ok(mac) => {
            let facts = [("gateway", gateway.to_string()), ("mac", mac.to_string())];
            report.reached(kernel, Stage::GatewayReachable, &facts);
        }
        Err(error) => report.failed(kernel, Stage::GatewayReachable, &error),
    }
}

/// By MAC; else by the name in `ip=`; else the only one.
fn wanted_link(boot: &BootConfig) -> WantedLink {
    match (boot.mac, &boot.ip.device) {
        (Some(mac), _) => WantedLink::Mac(mac),
        (None, Some(name)) => WantedLink::Name(name.clone()),
        (None, None) => WantedLink::Only,
    }
}

fn link_facts(link: &Link, boot: &BootConfig) -> Vec<(&'static str, String)> {
    let mut facts = vec![("dev", link.name.clone())];
    facts.extend(link.mac.map(|mac| ("mac", mac.to_string())));
    // The interface has another name than ip= says: harmless here, and worth knowing.
    facts.extend(boot.ip.device.iter().filter(|name| **name != link.name).map(|name| ("asked", name.clone())));
    facts
}

/// The mask the kernel's own `ip=` code takes when none is given (net/ipv4/ipconfig.c: ic_setup_if): by address class.
pub(crate) fn classful_prefix(addr: Ipv4Addr) -> u8 {
    match addr.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// Root, overlay, identity. A VM whose identity could not be written still has its root. In a root that goes to its own init
/// the identity is written later, when its links can be followed. Whether the stage is `complete` without it, the modules say.
fn mount_root(
    kernel: &mut impl Kernel,
    report: &mut Reporter,
    boot: &BootConfig,
    keys: &NetworkKeys,
    guest: &GuestConfig,
    complete: bool,
) -> bool {
    if let Err(error) = kernel.mount_root(&boot.root, guest.root_fs) {
        report.failed(kernel, Stage::RootMounted, &error);
        return false;
    }
    let identity = Identity::of(boot, keys);
    let written = match guest.handover {
        Handover::Supervise => kernel.write_identity(&identity),
        Handover::Init => kernel.set_hostname(&identity),
    };
    match written {
        Ok(()) if !complete => {}
        Ok(()) => {
            let facts = [("dev", boot.root.clone()), ("fs", guest.root_fs.name().to_owned())];
            report.reached(kernel, Stage::RootMounted, &facts);
        }
        Err(error) => report.failed(kernel, Stage::RootMounted, &error),
    }
    true
}

/// Puts our programs where they survive and makes the new root `/`. Returns whether it did.
fn hand_over(kernel: &mut impl Kernel, report: &mut Reporter, root_mounted: bool) -> bool {
    let installed = kernel.install_programs();
    let switched = if root_mounted { kernel.switch_root() } else { Ok(()) };
    let outcome: Result<(), KernelError> = installed.and(switched);
    match outcome {
        Ok(()) if root_mounted => {
            report.reached(kernel, Stage::HandedOver, &[]);
            true
        }
        Ok(()) => {
            let detail = "no root to hand over to; the agent runs from the initramfs".to_owned();
            report.failed_with(kernel, Stage::HandedOver, None, detail);
            false
        }
        Err(error) => {
            report.failed(kernel, Stage::HandedOver, &error);
            false
        }
    }
}

/// What is to be supervised after `booted`: the agent always, the image's services if its root is there.
pub fn roster_of(booted: &Booted) -> Roster {
    let services =
        booted.guest.as_ref().filter(|_| booted.root).map(|guest| guest.services.clone()).unwrap_or_default();
    Roster::new(std::iter::once(agent_service()).chain(services).collect())
}

/// The agent as a service.
pub fn agent_service() -> Service {
    Service {
        name: AGENT.to_owned(),
        command: vec![format!("{GUEST_BIN}/airlock-agent")],
        user: None,
        env: Default::default(),
        working_dir: None,
        ports: Vec::new(),
        wait_for_socket: None,
        restart: Restart::Always,
    }
}

mod to_init;

#[cfg(test)]
mod tests;
