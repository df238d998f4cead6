//! A kernel for tests: does what it is told, fails at one verb, and records what is alive.

use std::net::{IpAddr, Ipv4Addr};

use airlock_protocol::guest_config::RootFs;
use airlock_protocol::{GuestConfig, MacAddr, StageReport};
use nix::errno::Errno;

use crate::handover::{Placed, RootFacts, Successor};
use crate::identity::Identity;
use crate::kernel::{Kernel, KernelError, Link, WantedLink};

/// What exists after a boot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Alive {
    pub modules: Vec<String>,
    pub link_up: bool,
    pub name: Option<String>,
    pub mtu: Option<u16>,
    pub address: Option<(IpAddr, u8)>,
    pub gateway: Option<IpAddr>,
    pub root: bool,
    pub identity: Option<Identity>,
    pub programs: bool,
    pub switched: bool,
    pub placed: Vec<Placed>,
    pub executed: Option<Successor>,
}

#[derive(Debug)]
pub struct FakeKernel {
    pub cmdline: String,
    pub config: GuestConfig,
    /// The verb that fails, and with what.
    pub fails: Option<(&'static str, Errno)>,
    pub alive: Alive,
    pub reports: Vec<StageReport>,
    pub wanted: Option<WantedLink>,
    /// What the root holds.
    pub root_facts: RootFacts,
    /// The `init=` that the root was inspected with.
    pub wanted_init: Option<String>,
    now: u64,
}

impl FakeKernel {
    pub fn new(cmdline: &str, config: GuestConfig) -> Self {
        let (cmdline, alive) = (cmdline.to_owned(), Alive::default());
        Self {
            cmdline,
            config,
            fails: None,
            alive,
            reports: Vec::new(),
            wanted: None,
            root_facts: RootFacts::default(),
            wanted_init: None,
            now: 0,
        }
    }

    fn verb(&self, name: &str) -> Result<(), KernelError> {
        match self.fails {
            Some((verb, errno)) if verb == name => {
                Err(KernelError::Netlink { doing: name.to_owned(), note: None, source: errno })
            }
            _ => Ok(()),
        }
    }
}

impl Kernel for FakeKernel {
    fn now_us(&self) -> u64 {
        self.now
    }

    fn mount_early(&mut self) -> Result<(), KernelError> {
        self.verb("mount_early")
    }

    fn emit(&mut self, report: &StageReport) {
        self.now += 1;
        self.reports.push(report.clone());
    }

    fn cmdline(&mut self) -> Result<String, KernelError> {
        self.verb("cmdline").map(|()| self.cmdline.clone())
    }

    fn guest_config(&mut self) -> Result<GuestConfig, KernelError> {
        self.verb("guest_config").map(|()| self.config.clone())
    }

    fn load_module(&mut self, file: &str) -> Result<(), KernelError> {
        self.verb("load_module")?;
        self.alive.modules.push(file.to_owned());
        Ok(())
    }

    fn find_link(&mut self, wanted: &WantedLink) -> Result<Link, KernelError> {
        self.wanted = Some(wanted.clone());
        self.verb("find_link")?;
        Ok(Link { index: 2, name: "eth0".into(), mac: Some(MacAddr([6, 0, 192, 168, 100, 8])), flags: 0 })
    }

    fn rename_link(&mut self, _: &Link, name: &str) -> Result<(), KernelError> {
        self.verb("rename_link")?;
        self.alive.name = Some(name.to_owned());
        Ok(())
    }

    fn set_mtu(&mut self, _: &Link, mtu: u16) -> Result<(), KernelError> {
        self.verb("set_mtu")?;
        self.alive.mtu = Some(mtu);
        Ok(())
    }

    fn set_link_up(&mut self, _: &Link) -> Result<(), KernelError> {
        // The link is up even if its carrier is missing, which is what this verb's failure means.
        self.alive.link_up = true;
        self.verb("set_link_up")
    }

    fn set_address(&mut self, _: &Link, addr: IpAddr, prefix: u8) -> Result<(), KernelError> {
        self.verb("set_address")?;
        self.alive.address = Some((addr, prefix));
        Ok(())
    }

    fn set_default_route(&mut self, _: &Link, gateway: IpAddr) -> Result<(), KernelError> {
        self.verb("set_default_route")?;
        self.alive.gateway = Some(gateway);
        Ok(())
    }

    fn probe_gateway(&mut self, _: &Link, _: Ipv4Addr, _: Ipv4Addr) -> Result<MacAddr, KernelError> {
        self.verb("probe_gateway").map(|()| MacAddr([2, 0, 0, 0, 0, 1]))
    }

    fn mount_root(&mut self, _: &str, _: RootFs) -> Result<(), KernelError> {
        self.verb("mount_root")?;
        self.alive.root = true;
        Ok(())
    }

    fn write_identity(&mut self, identity: &Identity) -> Result<(), KernelError> {
        self.verb("write_identity")?;
        self.alive.identity = Some(identity.clone());
        Ok(())
    }

    fn install_programs(&mut self) -> Result<(), KernelError> {
        self.verb("install_programs")?;
        self.alive.programs = true;
        Ok(())
    }

    fn switch_root(&mut self) -> Result<(), KernelError> {
        self.verb("switch_root")?;
        self.alive.switched = true;
        Ok(())
    }

    fn running_config(&mut self) -> Result<GuestConfig, KernelError> {
        self.verb("running_config").map(|()| self.config.clone())
    }

    fn set_hostname(&mut self, identity: &Identity) -> Result<(), KernelError> {
        self.verb("set_hostname")?;
        self.alive.identity = Some(identity.clone());
        Ok(())
    }

    fn inspect_root(&mut self, wanted: Option<&str>) -> RootFacts {
        self.wanted_init = wanted.map(str::to_owned);
        self.root_facts.clone()
    }

    fn place(&mut self, placed: &Placed) -> Result<(), KernelError> {
        self.verb("place")?;
        self.alive.placed.push(placed.clone());
        Ok(())
    }

    fn execute_init(&mut self, successor: &Successor) -> Result<(), KernelError> {
        self.verb("execute_init")?;
        self.alive.executed = Some(successor.clone());
        Ok(())
    }
}
