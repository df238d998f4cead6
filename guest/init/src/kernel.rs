//! The seam to the kernel: one verb per boot step, and the errors these verbs can have.
//!
//! Two implementations live: [`crate::linux::LinuxKernel`] and the recording fake of the tests.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use airlock_protocol::guest_config::RootFs;
use airlock_protocol::{GuestConfig, MacAddr, StageReport};
use nix::errno::Errno;

use crate::handover::{Placed, RootFacts, Successor};
use crate::identity::Identity;

/// What the boot order asks of the kernel.
pub trait Kernel {
    /// CLOCK_BOOTTIME in microseconds.
    fn now_us(&self) -> u64;
    /// Mounts /dev, /proc, /sys, /run, /dev/pts and /dev/shm, and opens the console.
    fn mount_early(&mut self) -> Result<(), KernelError>;
    /// Writes one report to the console and to the timeline file. Has no error: there is nowhere else to report it.
    fn emit(&mut self, report: &StageReport);
    /// The kernel command line.
    fn cmdline(&mut self) -> Result<String, KernelError>;
    /// The image's guest configuration from the initramfs.
    fn guest_config(&mut self) -> Result<GuestConfig, KernelError>;
    /// The same from the running guest, for a supervisor that was started after the initramfs was gone.
    fn running_config(&mut self) -> Result<GuestConfig, KernelError>;
    /// Loads one module of the initramfs; a module that is loaded already is no error.
    fn load_module(&mut self, file: &str) -> Result<(), KernelError>;
    /// Sets `lo` up and waits, within its bound, for the interface.
    fn find_link(&mut self, wanted: &WantedLink) -> Result<Link, KernelError>;
    /// Gives the interface another name; one that has it takes this one's.
    fn rename_link(&mut self, link: &Link, name: &str) -> Result<(), KernelError>;
    /// Sets the MTU of the interface.
    fn set_mtu(&mut self, link: &Link, mtu: u16) -> Result<(), KernelError>;
    /// Sets the interface up and waits, within its bound, for a carrier.
    fn set_link_up(&mut self, link: &Link) -> Result<(), KernelError>;
    /// Puts the address on the interface; the equal address being there already is no error.
    fn set_address(&mut self, link: &Link, addr: IpAddr, prefix: u8) -> Result<(), KernelError>;
    /// Makes `gateway` the default route.
    fn set_default_route(&mut self, link: &Link, gateway: IpAddr) -> Result<(), KernelError>;
    /// Asks for the gateway's MAC by ARP, a bounded number of times.
    fn probe_gateway(&mut self, link: &Link, addr: Ipv4Addr, gateway: Ipv4Addr) -> Result<MacAddr, KernelError>;
    /// Mounts the root device read-only and an overlay in memory above it.
    fn mount_root(&mut self, device: &str, fs: RootFs) -> Result<(), KernelError>;
    /// Writes hostname, hosts, resolv.conf and machine-id, into the overlay if it is mounted.
    fn write_identity(&mut self, identity: &Identity) -> Result<(), KernelError>;
    /// Puts our programs and the configuration below /run/airlock.
    fn install_programs(&mut self) -> Result<(), KernelError>;
    /// Moves the mounts below the new root and makes it `/`.
    fn switch_root(&mut self) -> Result<(), KernelError>;
    /// Sets the host name of the running kernel.
    fn set_hostname(&mut self, identity: &Identity) -> Result<(), KernelError>;
    /// Looks at what is `/` now; `wanted` is the kernel's own `init=`.
    fn inspect_root(&mut self, wanted: Option<&str>) -> RootFacts;
    /// Puts one file or link where the image's programs look for it.
    fn place(&mut self, placed: &Placed) -> Result<(), KernelError>;
    /// Starts the supervisor, if it is to be a child, and becomes the image's init. Success is never seen on a real kernel.
    fn execute_init(&mut self, successor: &Successor) -> Result<(), KernelError>;
}

/// How our interface is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedLink {
    /// By its hardware address.
    Mac(MacAddr),
    /// By its name.
    Name(String),
    /// The only one that is not `lo`.
    Only,
}

impl fmt::Display for WantedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "with MAC {mac}"),
            Self::Name(name) => write!(f, "named {name}"),
            Self::Only => f.write_str("of any name"),
        }
    }
}

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: i32,
    /// Name.
    pub name: String,
    /// Hardware address, if it has one of six octets.
    pub mac: Option<MacAddr>,
    /// `IFF_*` flags.
    pub flags: u32,
}

impl Link {
    /// Whether this is the loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }

    /// Whether the interface is up and its other end is there (IFF_LOWER_UP, see netdevice(7)).
    pub fn has_carrier(&self) -> bool {
        const IFF_LOWER_UP: u32 = 0x1_0000;
        self.flags & IFF_LOWER_UP != 0 && self.flags & libc::IFF_UP as u32 != 0
    }
}

/// Why a step failed. Each has its operands; [`KernelError::errno`] is what the stage line carries.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// mount(2) failed.
    #[error("mount {device} ({fs}) on {target}")]
    Mount {
        /// What was to be mounted.
        device: String,
        /// Filesystem type.
        fs: &'static str,
        /// Where.
        target: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A mount could not be moved below the new root.
    #[error("move mount {from} to {to}")]
    MoveMount {
        /// From here.
        from: String,
        /// To there.
        to: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A file or directory could not be used.
    #[error("{doing} {path}")]
    File {
        /// What was being done, in words.
        doing: &'static str,
        /// To what.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The guest configuration is not what we expect.
    #[error("parse {path}")]
    GuestConfig {
        /// The file.
        path: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel refused a module.
    #[error("load module {file}")]
    LoadModule {
        /// The module's file.
        file: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// rtnetlink refused a request or could not be used.
    #[error("{doing}{}", note.as_ref().map(|note| format!(" (kernel: {note})")).unwrap_or_default())]
    Netlink {
        /// What was asked, with its operands.
        doing: String,
        /// The kernel's own words (extended acknowledgement), if it had any.
        note: Option<String>,
        /// The error number.
        #[source]
        source: Errno,
    },
    /// Our interface did not appear in time (`link_missing`, `link_renamed`).
    #[error("no interface {wanted}; there are: {}", list(present))]
    LinkMissing {
        /// How we looked for it.
        wanted: WantedLink,
        /// What exists.
        present: Vec<Link>,
    },
    /// The interface is up but its other end is not (`link_no_carrier`).
    #[error("{dev} is up but has no carrier (NO-CARRIER)")]
    NoCarrier {
        /// The interface.
        dev: String,
    },
    /// ARP could not be used.
    #[error("ask for {gateway} by ARP on {dev}")]
    Arp {
        /// The interface.
        dev: String,
        /// Whom we asked for.
        gateway: Ipv4Addr,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Nobody answered (`gateway_unreachable`).
    #[error("no ARP answer from {gateway} on {dev} to {asked} requests")]
    GatewaySilent {
        /// The interface.
        dev: String,
        /// Whom we asked for.
        gateway: Ipv4Addr,
        /// How often.
        asked: u32,
    },
    /// The root device did not appear in time (`root_device_missing`).
    #[error("root device {device} does not exist; block devices: {present}")]
    RootMissing {
        /// The device we waited for.
        device: String,
        /// What exists.
        present: String,
    },
}

impl KernelError {
    /// The error number that names this failure on the console.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Mount { source, .. }
            | Self::MoveMount { source, .. }
            | Self::LoadModule { source, .. }
            | Self::Netlink { source, .. }
            | Self::Arp { source, .. } => Some(*source),
            Self::File { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::GuestConfig { .. } => Some(Errno::EINVAL),
            Self::LinkMissing { .. } | Self::RootMissing { .. } => Some(Errno::ENODEV),
            Self::NoCarrier { .. } => Some(Errno::ENETDOWN),
            Self::GatewaySilent { .. } => Some(Errno::EHOSTUNREACH),
        }
    }

    /// The catalogue's cause code, where stage and errno alone would name another one.
    pub const fn cause(&self) -> Option<&'static str> {
        match self {
            Self::RootMissing { .. } => Some("root_device_missing"),
            _ => None,
        }
    }

    /// A closure for `map_err` on file operations.
    pub fn file(doing: &'static str, path: impl AsRef<std::path::Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::File { doing, path, source }
    }
}

/// The links of a failure's detail: names with MACs, so that a renamed interface or a wrong MAC is seen at once.
fn list(links: &[Link]) -> String {
    if links.is_empty() {
        return "none".to_owned();
    }
    let one = |link: &Link| match link.mac {
        Some(mac) => format!("{} {mac}", link.name),
        None => link.name.clone(),
    };
    links.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// An error and all its sources on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_names_its_operands_and_leads_to_the_errno() {
        let cases = [
            (
                KernelError::Mount {
                    device: "/dev/vda".into(),
                    fs: "erofs",
                    target: "/lower".into(),
                    source: Errno::ENODEV,
                },
                "ENODEV",
                "mount /dev/vda (erofs) on /lower: ENODEV: No such device",
            ),
            (
                KernelError::file("read", "/proc/cmdline")(io::Error::from_raw_os_error(libc::EIO)),
                "EIO",
                "read /proc/cmdline: Input/output error (os error 5)",
            ),
            (
                KernelError::Netlink {
                    doing: "add default route".into(),
                    note: Some("Nexthop has invalid gateway".into()),
                    source: Errno::ENETUNREACH,
                },
                "ENETUNREACH",
                "add default route (kernel: Nexthop has invalid gateway): ENETUNREACH: Network is unreachable",
            ),
            (
                KernelError::LinkMissing {
                    wanted: WantedLink::Mac(MacAddr([6, 0, 1, 2, 3, 4])),
                    present: vec![Link {
                        index: 2,
                        name: "ens3".into(),
                        mac: Some(MacAddr([6, 0, 1, 2, 3, 5])),
                        flags: 0,
                    }],
                },
                "ENODEV",
                "no interface with MAC 06:00:01:02:03:04; there are: ens3 06:00:01:02:03:05",
            ),
        ];
        for (error, errno, text) in cases {
            assert_eq!(error.errno().map(|e| format!("{e:?}")).as_deref(), Some(errno));
            assert_eq!(chain(&error), text);
        }
    }
}
