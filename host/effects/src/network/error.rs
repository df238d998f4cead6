//! What goes wrong with the private network, each with the catalogue's cause where it has one.

use std::io;

use crate::netns::NetnsError;

use super::nft::NftError;

/// Settings of the uplink's namespace are its owner's.
const ENABLE_FORWARDING: &str =
    "run there: sysctl -w net.ipv4.ip_forward=1 (Airlock does not change it), or set network.egress.uplink = \"none\"";

/// What was being done to the network, to what, and the system's reason.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace itself.
    #[error("open the namespace of bridge {bridge}")]
    Namespace {
        /// The bridge that would have been in it.
        bridge: String,
        /// What went wrong.
        #[source]
        source: NetnsError,
    },
    /// No netlink socket in the namespace.
    #[error("open netlink in namespace {namespace}")]
    Netlink {
        /// The namespace.
        namespace: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A link or address cannot be read.
    #[error("read {what} in namespace {namespace}")]
    Read {
        /// What was asked for.
        what: String,
        /// The namespace.
        namespace: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The bridge cannot be created.
    #[error("create bridge {bridge} in namespace {namespace}")]
    CreateBridge {
        /// The bridge.
        bridge: String,
        /// The namespace.
        namespace: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The bridge is not there (any more).
    #[error("namespace {namespace} has no bridge {bridge}")]
    BridgeMissing {
        /// The bridge.
        bridge: String,
        /// The namespace.
        namespace: String,
    },
    /// A link of that name exists and is something else.
    #[error("{name} in namespace {namespace} is not a {wanted}")]
    NotA {
        /// The link.
        name: String,
        /// The namespace.
        namespace: String,
        /// `bridge` or `TAP`.
        wanted: &'static str,
    },
    /// The bridge's address cannot be set or corrected.
    #[error("set address {address} on bridge {bridge}")]
    SetBridgeAddress {
        /// The address with prefix length.
        address: String,
        /// The bridge.
        bridge: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A link cannot be set up.
    #[error("set {link} up")]
    SetUp {
        /// The link.
        link: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A link cannot be taken down.
    #[error("set {link} down")]
    SetDown {
        /// The link.
        link: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A kernel setting of the namespace cannot be written.
    #[error("write {value:?} to {path}")]
    Sysctl {
        /// The file below `/proc/sys`.
        path: String,
        /// The value.
        value: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// `/dev/net/tun` cannot be opened.
    #[error("open /dev/net/tun for TAP {tap}")]
    OpenTun {
        /// The TAP that was to be made.
        tap: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// An ioctl on the TAP failed.
    #[error("{request} on TAP {tap}")]
    Tun {
        /// The ioctl's name.
        request: &'static str,
        /// The TAP.
        tap: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The TAP has no virtio-net header: ARP would pass, every IP packet would be lost.
    #[error("TAP {tap} has flags {flags:#x}, without IFF_VNET_HDR")]
    NoVnetHdr {
        /// The TAP.
        tap: String,
        /// Its IFF_* flags as read back.
        flags: i32,
    },
    /// The TAP belongs to somebody else.
    #[error("TAP {tap} belongs to {owner:?}, not to {wanted:?}")]
    TapNameCollision {
        /// The TAP.
        tap: String,
        /// Whose alias it carries (empty: nobody's).
        owner: String,
        /// Whose alias was asked for.
        wanted: String,
    },
    /// The proof of ownership cannot be written.
    #[error("set alias {alias:?} on TAP {tap}")]
    SetAlias {
        /// The TAP.
        tap: String,
        /// The alias.
        alias: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The TAP cannot become a port of the bridge.
    #[error("attach TAP {tap} to bridge {bridge}")]
    AttachToBridge {
        /// The TAP.
        tap: String,
        /// The bridge.
        bridge: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The port cannot be isolated from the other guests.
    #[error("isolate bridge port {tap}")]
    Isolate {
        /// The TAP.
        tap: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The TAP cannot be deleted.
    #[error("delete TAP {tap}")]
    DeleteTap {
        /// The TAP.
        tap: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no such TAP to guard.
    #[error("namespace {namespace} has no TAP {tap}")]
    TapMissing {
        /// The TAP.
        tap: String,
        /// The namespace.
        namespace: String,
    },
    /// Rules cannot be applied or listed.
    #[error("{doing} in namespace {namespace}")]
    Nft {
        /// What was being done, e.g. `guard TAP fc-0123456789`.
        doing: String,
        /// The namespace, or the uplink as the configuration has it.
        namespace: String,
        /// What went wrong.
        #[source]
        source: NftError,
    },
    /// The namespace that lends its uplink is not usable.
    #[error("enter the namespace of uplink {uplink}")]
    Uplink {
        /// The uplink as the configuration has it.
        uplink: String,
        /// What went wrong.
        #[source]
        source: NetnsError,
    },
    /// The namespace that lends its uplink routes nothing, and its settings are not ours to change.
    #[error("net.ipv4.ip_forward is 0 in the namespace of uplink {uplink}")]
    UplinkNotForwarding {
        /// The uplink as the configuration has it.
        uplink: String,
    },
    /// The addresses of the veth pair are somebody else's, perhaps another installation's.
    #[error("transit {transit} overlaps an address of {link} at uplink {uplink}")]
    TransitTaken {
        /// The transit net.
        transit: String,
        /// The link that has the address.
        link: String,
        /// The uplink as the configuration has it.
        uplink: String,
    },
    /// The name of our link there is taken.
    #[error("link {link} at uplink {uplink} belongs to {alias:?}")]
    UplinkNameCollision {
        /// The link.
        link: String,
        /// Whose alias it carries (empty: nobody's).
        alias: String,
        /// The uplink as the configuration has it.
        uplink: String,
    },
    /// The veth pair cannot be made.
    #[error("create link {link} to uplink {uplink}")]
    CreateUplink {
        /// The link's end there.
        link: String,
        /// The uplink as the configuration has it.
        uplink: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// An end of the veth pair cannot be set up.
    #[error("set {what} of uplink's link {link}")]
    ConfigureUplink {
        /// `the alias`, `the address`, `up` or `the default route`.
        what: &'static str,
        /// The link.
        link: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A link that is no TAP cannot be deleted.
    #[error("delete link {link}")]
    DeleteLink {
        /// The link.
        link: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The DHCP server cannot serve, or cannot answer.
    #[error("{doing} for DHCP on {bridge} in namespace {namespace}")]
    Dhcp {
        /// What was being done, e.g. `bind to UDP port 67`.
        doing: &'static str,
        /// The bridge.
        bridge: String,
        /// The namespace.
        namespace: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No socket in the namespace, or it cannot be bound.
    #[error("open a socket in namespace {namespace} for {purpose}")]
    Socket {
        /// The namespace.
        namespace: String,
        /// What for, e.g. `listen on 192.168.100.1:4080`.
        purpose: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// The catalogue's cause code, where the catalogue has one.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::OpenTun { source, .. } if is(source, &[libc::ENOENT, libc::ENODEV, libc::ENXIO]) => {
                Some("tun_missing")
            }
            Self::OpenTun { .. } => Some("tun_permission"),
            Self::Tun { source, .. } if is(source, &[libc::EPERM, libc::EACCES]) => Some("tun_permission"),
            Self::Tun { source, .. } if is(source, &[libc::EBUSY]) => Some("tap_busy"),
            Self::BridgeMissing { .. } | Self::CreateBridge { .. } => Some("bridge_missing"),
            Self::SetBridgeAddress { .. } => Some("bridge_address_mismatch"),
            Self::NoVnetHdr { .. } => Some("tap_no_vnet_hdr"),
            Self::TapNameCollision { .. } => Some("tap_name_collision"),
            Self::AttachToBridge { source, .. } if is(source, &[libc::EXFULL]) => Some("bridge_ports_exhausted"),
            Self::AttachToBridge { source, .. } if is(source, &[libc::ENODEV]) => Some("bridge_missing"),
            Self::AttachToBridge { .. } | Self::Isolate { .. } => Some("tap_not_in_bridge"),
            Self::SetAlias { .. } | Self::TapMissing { .. } => Some("tap_missing"),
            Self::SetUp { .. } => Some("tap_down"),
            Self::Dhcp { .. } => Some("dhcp_timeout"),
            Self::TransitTaken { .. } => Some("subnet_overlap"),
            Self::UplinkNotForwarding { .. } => Some("forward_policy_drop"),
            Self::CreateUplink { .. } | Self::ConfigureUplink { .. } | Self::UplinkNameCollision { .. } => {
                Some("nat_missing")
            }
            _ => None,
        }
    }

    /// What to do about it, where more can be said than the catalogue says of the cause.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Nft { source: NftError::NotInstalled, .. } => Some("apt-get install nftables"),
            Self::UplinkNotForwarding { .. } => Some(ENABLE_FORWARDING),
            Self::TransitTaken { .. } => Some("set network.egress.transit to a /30 that nothing there uses"),
            Self::UplinkNameCollision { .. } => Some("remove that link, or choose another network.namespace"),
            Self::Dhcp { source, .. } if is(source, &[libc::EADDRINUSE]) => {
                Some("end the other DHCP server inside the installation's namespace")
            }
            Self::Uplink { .. } => Some("make that namespace (ip netns add), or name another in network.egress.uplink"),
            _ => None,
        }
    }
}

fn is(error: &io::Error, codes: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
