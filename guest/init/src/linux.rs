//! The kernel seam on the running kernel.
//!
//! Waits are bounded and end on events. A failure of one verb leaves the earlier ones as they are.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use airlock_protocol::guest_config::RootFs;
use airlock_protocol::paths::{GUEST_CONFIG, GUEST_RUN, GUEST_TIMELINE, INITRAMFS_CONFIG, INITRAMFS_MODULES};
use airlock_protocol::{GuestConfig, MacAddr, StageReport};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::time::{ClockId, clock_gettime};

use crate::handover::{Placed, RootFacts, Successor};
use crate::identity::Identity;
use crate::kernel::{Kernel, KernelError, Link, WantedLink};
use crate::net::arp;
use crate::net::rtnetlink::Rtnetlink;
use crate::root;
use crate::succession;

/// How long the interface may take to appear. Drivers probe while their module is loaded, so it is nearly always there.
const LINK_WITHIN: Duration = Duration::from_secs(2);
/// Index of `lo`, the first interface of every network namespace.
const LOOPBACK: i32 = 1;
/// How long the carrier may take.
const CARRIER_WITHIN: Duration = Duration::from_secs(2);
/// ARP requests to the gateway, and the pause after each.
const ARP_ATTEMPTS: u32 = 5;
const ARP_PAUSE: Duration = Duration::from_millis(200);

/// The running kernel.
#[derive(Debug, Default)]
pub struct LinuxKernel {
    console: Option<File>,
    timeline: Option<File>,
    netlink: Option<Rtnetlink>,
    /// Kept until the services run, see [`arp::open`].
    arp: Option<OwnedFd>,
    root_mounted: bool,
}

impl LinuxKernel {
    /// The running kernel; nothing is touched yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn netlink(&mut self) -> Result<&mut Rtnetlink, KernelError> {
        let netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => {
                // Programs in the guest talk over loopback whether or not our interface is found.
                let mut netlink = Rtnetlink::open()?;
                netlink.set_up(LOOPBACK, "lo")?;
                netlink
            }
        };
        Ok(self.netlink.insert(netlink))
    }
}

impl Kernel for LinuxKernel {
    fn now_us(&self) -> u64 {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
            let (secs, nanos) = (u64::try_from(now.tv_sec()).unwrap_or(0), u64::try_from(now.tv_nsec()).unwrap_or(0));
            secs * 1_000_000 + nanos / 1000
        })
    }

    fn mount_early(&mut self) -> Result<(), KernelError> {
        let (nosuid, strict) = (MsFlags::MS_NOSUID, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV);
        mount_once("devtmpfs", "/dev", nosuid, "mode=0755")?;
        // From here on every failure has a console.
        let console =
            OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC).open("/dev/console");
        self.console = Some(console.map_err(KernelError::file("open", "/dev/console"))?);
        mount_once("proc", "/proc", strict, "")?;
        mount_once("sysfs", "/sys", strict, "")?;
        // Our programs run from /run/airlock/bin, so /run may execute.
        mount_once("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
        mount_once("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666")?;
        mount_once("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
        make_dir(GUEST_RUN, 0o755)?;
        make_dir(&format!("{GUEST_RUN}/log"), 0o755)?;
        let timeline = OpenOptions::new().create(true).append(true).mode(0o644).open(GUEST_TIMELINE);
        self.timeline = Some(timeline.map_err(KernelError::file("open", GUEST_TIMELINE))?);
        Ok(())
    }

    fn emit(&mut self, report: &StageReport) {
        let line = report.to_console();
        // One write(2) per line, so that kernel messages cannot fall into the middle of it.
        let written = self.console.as_mut().map(|console| console.write(line.as_bytes()));
        if !matches!(written, Some(Ok(_))) {
            let _ = std::io::stderr().write(line.as_bytes());
        }
        if let Some(timeline) = &mut self.timeline {
            let json = serde_json::to_string(report).unwrap_or_default();
            let _ = timeline.write(format!("{json}\n").as_bytes());
        }
    }

    fn cmdline(&mut self) -> Result<String, KernelError> {
        fs::read_to_string("/proc/cmdline").map_err(KernelError::file("read", "/proc/cmdline"))
    }

    fn guest_config(&mut self) -> Result<GuestConfig, KernelError> {
        read_config(INITRAMFS_CONFIG)
    }

    fn running_config(&mut self) -> Result<GuestConfig, KernelError> {
        read_config(GUEST_CONFIG)
    }

    fn load_module(&mut self, file: &str) -> Result<(), KernelError> {
        let path = Path::new(INITRAMFS_MODULES).join(file);
        let module = File::open(&path).map_err(KernelError::file("open", &path))?;
        match finit_module(&module, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(source) => Err(KernelError::LoadModule { file: file.to_owned(), source }),
        }
    }

    fn find_link(&mut self, wanted: &WantedLink) -> Result<Link, KernelError> {
        self.netlink()?.find(wanted, LINK_WITHIN)
    }

    fn rename_link(&mut self, link: &Link, name: &str) -> Result<(), KernelError> {
        self.netlink()?.exchange_names(link, name)
    }

    fn set_mtu(&mut self, link: &Link, mtu: u16) -> Result<(), KernelError> {
        self.netlink()?.set_mtu(link, mtu)
    }

    fn set_link_up(&mut self, link: &Link) -> Result<(), KernelError> {
        let netlink = self.netlink()?;
        netlink.set_up(link.index, &link.name)?;
        netlink.wait_carrier(link, CARRIER_WITHIN)
    }

    fn set_address(&mut self, link: &Link, addr: IpAddr, prefix: u8) -> Result<(), KernelError> {
        self.netlink()?.add_address(link, addr, prefix)
    }

    fn set_default_route(&mut self, link: &Link, gateway: IpAddr) -> Result<(), KernelError> {
        self.netlink()?.set_default_route(link, gateway)
    }

    fn probe_gateway(&mut self, link: &Link, addr: Ipv4Addr, gateway: Ipv4Addr) -> Result<MacAddr, KernelError> {
        let failed = |source| KernelError::Arp { dev: link.name.clone(), gateway, source };
        let mac = link.mac.unwrap_or(MacAddr([0; 6]));
        let question = arp::Question { index: link.index, mac, addr, target: gateway };
        let socket = self.arp.insert(arp::open(link.index).map_err(failed)?);
        let owner = arp::probe(socket, question, ARP_ATTEMPTS, ARP_PAUSE).map_err(failed)?;
        owner.ok_or_else(|| KernelError::GatewaySilent { dev: link.name.clone(), gateway, asked: ARP_ATTEMPTS })
    }

    fn mount_root(&mut self, device: &str, fs: RootFs) -> Result<(), KernelError> {
        root::mount_root(device, fs)?;
        self.root_mounted = true;
        Ok(())
    }

    fn write_identity(&mut self, identity: &Identity) -> Result<(), KernelError> {
        identity.write(Path::new(if self.root_mounted { root::NEW_ROOT } else { "/" }))
    }

    fn install_programs(&mut self) -> Result<(), KernelError> {
        root::install_programs()
    }

    fn switch_root(&mut self) -> Result<(), KernelError> {
        root::switch_root()
    }

    fn set_hostname(&mut self, identity: &Identity) -> Result<(), KernelError> {
        identity.set_hostname()
    }

    fn inspect_root(&mut self, wanted: Option<&str>) -> RootFacts {
        RootFacts::of(Path::new("/"), wanted)
    }

    fn place(&mut self, placed: &Placed) -> Result<(), KernelError> {
        succession::place(Path::new("/"), placed)
    }

    fn execute_init(&mut self, successor: &Successor) -> Result<(), KernelError> {
        let failed = succession::execute_init(successor);
        failed.map(|never| match never {})
    }
}

fn read_config(path: &'static str) -> Result<GuestConfig, KernelError> {
    let text = fs::read(path).map_err(KernelError::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| KernelError::GuestConfig { path, source })
}

/// Mounts a virtual filesystem; one that is mounted already is what was wanted.
fn mount_once(fs: &'static str, target: &str, flags: MsFlags, data: &str) -> Result<(), KernelError> {
    make_dir(target, 0o755)?;
    let options = Some(data).filter(|data| !data.is_empty());
    match mount(Some(fs), target, Some(fs), flags, options) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(source) => Err(KernelError::Mount { device: fs.to_owned(), fs, target: target.to_owned(), source }),
    }
}

/// Creates a directory of this mode if it does not exist.
pub(crate) fn make_dir(path: &str, mode: u32) -> Result<(), KernelError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(KernelError::file("create", path)(error)),
        _ => Ok(()),
    }
}
