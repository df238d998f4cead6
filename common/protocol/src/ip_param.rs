//! The kernel's `ip=` parameter, in full.
//!
//! Source of the rules: the kernel's `Documentation/admin-guide/nfs/nfsroot.rst` and `net/ipv4/ipconfig.c`:
//! `ip=<client-ip>:<server-ip>:<gw-ip>:<netmask>:<hostname>:<device>:<autoconf>:<dns0-ip>:<dns1-ip>:<ntp0-ip>`.
//! Trailing fields may be left out, any field may be empty, and `<autoconf>` may stand alone (`ip=dhcp`). `0.0.0.0` is an
//! empty field. One value is printed back as the same text by [`std::fmt::Display`].
//!
//! Stricter than the kernel, which takes anything and boots without a network: text that shifted by a field is refused, and
//! the field is named. The parameter knows IPv4 only; what it has no field for are the `airlock.*` keys of
//! [`crate::boot_config`].

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The ten fields, in the kernel's order; the names that errors use.
pub const FIELDS: [&str; 10] =
    ["client-ip", "server-ip", "gw-ip", "netmask", "hostname", "device", "autoconf", "dns0-ip", "dns1-ip", "ntp0-ip"];

/// Longest interface name, without the terminating zero (IFNAMSIZ - 1).
const MAX_DEVICE: usize = 15;

/// A parsed `ip=` value. Empty fields are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpParam {
    /// Address of the guest.
    pub client: Option<Ipv4Addr>,
    /// Address of the NFS server; not used by Airlock.
    pub server: Option<Ipv4Addr>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Netmask, always contiguous.
    pub netmask: Option<Netmask>,
    /// Host name, without or with its domain.
    pub hostname: Option<String>,
    /// Interface name. Airlock matches by MAC and treats this as a hint.
    pub device: Option<String>,
    /// How the rest is to be found.
    pub autoconf: Option<Autoconf>,
    /// First DNS server.
    pub dns0: Option<Ipv4Addr>,
    /// Second DNS server.
    pub dns1: Option<Ipv4Addr>,
    /// NTP server.
    pub ntp0: Option<Ipv4Addr>,
}

/// A contiguous IPv4 netmask, kept as its prefix length (0 to 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Netmask(u8);

impl Netmask {
    /// The mask of a prefix length.
    pub fn from_prefix(len: u8) -> Option<Self> {
        (len <= 32).then_some(Self(len))
    }

    /// Number of leading one bits.
    pub fn prefix(self) -> u8 {
        self.0
    }

    /// The mask in dotted form.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.0)).unwrap_or(0))
    }
}

/// The `<autoconf>` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autoconf {
    /// No autoconfiguration.
    Off,
    /// The same as [`Autoconf::Off`].
    None,
    /// Any protocol the kernel has.
    On,
    /// The same as [`Autoconf::On`].
    Any,
    /// DHCP.
    Dhcp,
    /// BOOTP.
    Bootp,
    /// RARP.
    Rarp,
    /// BOOTP and RARP, not DHCP.
    Both,
}

impl Autoconf {
    const ALL: [(&'static str, Self); 8] = [
        ("off", Self::Off),
        ("none", Self::None),
        ("on", Self::On),
        ("any", Self::Any),
        ("dhcp", Self::Dhcp),
        ("bootp", Self::Bootp),
        ("rarp", Self::Rarp),
        ("both", Self::Both),
    ];

    /// Whether the address is to be asked from a server.
    pub fn asks_a_server(self) -> bool {
        !matches!(self, Self::Off | Self::None)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
    }
}

impl fmt::Display for Autoconf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, value)| value == self).map_or("", |(name, _)| name))
    }
}

/// Why an `ip=` value is malformed (`cmdline_ip_malformed`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpParamError {
    /// More than ten fields.
    #[error("ip= has {count} fields; the kernel knows 10")]
    TooManyFields {
        /// How many were given.
        count: usize,
    },
    /// The value is empty.
    #[error("ip= is empty")]
    Empty,
    /// A field that must hold an IPv4 address does not.
    #[error("ip= field {field} is {value:?}, not an IPv4 address")]
    Address {
        /// Name of the field.
        field: &'static str,
        /// Its text.
        value: String,
    },
    /// A field that must name one machine does not: a netmask, a multicast or the broadcast address stands there.
    #[error("ip= field {field} is {value}, not the address of a machine")]
    NotAMachine {
        /// Name of the field.
        field: &'static str,
        /// The address.
        value: Ipv4Addr,
    },
    /// An IPv6 address, which the parameter has no form for.
    #[error("ip= holds an IPv6 address ({value:?}); the kernel's parameter is IPv4 only")]
    Ipv6 {
        /// The whole value.
        value: String,
    },
    /// The netmask has holes.
    #[error("ip= field netmask is {value:?}, not a contiguous mask")]
    Netmask {
        /// Its text.
        value: String,
    },
    /// The host name is not one.
    #[error("ip= field hostname is {value:?}, not a host name (RFC 1123)")]
    Hostname {
        /// Its text.
        value: String,
    },
    /// The device cannot be an interface name.
    #[error("ip= field device is {value:?}, not an interface name")]
    Device {
        /// Its text.
        value: String,
    },
    /// The autoconf word is unknown.
    #[error("ip= field autoconf is {value:?}, not one of off, none, on, any, dhcp, bootp, rarp, both")]
    Autoconf {
        /// Its text.
        value: String,
    },
}

impl IpParamError {
    /// The field that is wrong, if it is one field.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::TooManyFields { .. } | Self::Empty | Self::Ipv6 { .. } => None,
            Self::Address { field, .. } | Self::NotAMachine { field, .. } => Some(field),
            Self::Netmask { .. } => Some("netmask"),
            Self::Hostname { .. } => Some("hostname"),
            Self::Device { .. } => Some("device"),
            Self::Autoconf { .. } => Some("autoconf"),
        }
    }
}

impl FromStr for IpParam {
    type Err = IpParamError;

    /// Parses the value behind `ip=`.
    fn from_str(value: &str) -> Result<Self, IpParamError> {
        if value.is_empty() {
            return Err(IpParamError::Empty);
        }
        // dracut and systemd write IPv6 in brackets; without them `::` is what fields left empty look like, too.
        if value.contains(['[', ']']) || value.parse::<Ipv6Addr>().is_ok_and(|addr| addr.segments()[0] != 0) {
            return Err(IpParamError::Ipv6 { value: value.to_owned() });
        }
        let fields: Vec<&str> = value.split(':').collect();
        if let [alone] = fields[..] {
            // A value without a colon is either the autoconf word or the client address (ipconfig.c: ip_auto_config_setup).
            if let Some(autoconf) = Autoconf::parse(alone) {
                return Ok(Self { autoconf: Some(autoconf), ..Self::default() });
            }
            if !alone.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(IpParamError::Autoconf { value: alone.to_owned() });
            }
        }
        if fields.len() > FIELDS.len() {
            return Err(IpParamError::TooManyFields { count: fields.len() });
        }
        let text = |index: usize| fields.get(index).copied().filter(|text| !text.is_empty());
        let address = |index: usize| text(index).map_or(Ok(None), |text| parse_address(FIELDS[index], text));
        let machine = |index: usize| address(index).and_then(|addr| check_machine(FIELDS[index], addr));
        Ok(Self {
            client: machine(0)?,
            server: machine(1)?,
            gateway: machine(2)?,
            netmask: text(3).map_or(Ok(None), parse_netmask)?,
            hostname: text(4).map(parse_hostname).transpose()?,
            device: text(5).map(parse_device).transpose()?,
            autoconf: text(6)
                .map(|text| Autoconf::parse(text).ok_or_else(|| IpParamError::Autoconf { value: text.to_owned() }))
                .transpose()?,
            dns0: address(7)?,
            dns1: address(8)?,
            ntp0: address(9)?,
        })
    }
}

/// `0.0.0.0` is no address (ipconfig.c: `ANY` becomes `NONE`).
fn parse_address(field: &'static str, text: &str) -> Result<Option<Ipv4Addr>, IpParamError> {
    let addr: Ipv4Addr = text.parse().map_err(|_| IpParamError::Address { field, value: text.to_owned() })?;
    Ok(Some(addr).filter(|addr| !addr.is_unspecified()))
}

/// Multicast and everything above it (240/4 and the broadcast address, so every netmask too) is nobody's address.
fn check_machine(field: &'static str, addr: Option<Ipv4Addr>) -> Result<Option<Ipv4Addr>, IpParamError> {
    match addr {
        Some(value) if value.octets()[0] >= 224 => Err(IpParamError::NotAMachine { field, value }),
        addr => Ok(addr),
    }
}

fn parse_netmask(text: &str) -> Result<Option<Netmask>, IpParamError> {
    let Some(mask) = parse_address("netmask", text)? else { return Ok(None) };
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return Err(IpParamError::Netmask { value: text.to_owned() });
    }
    u8::try_from(bits.leading_ones())
        .map(|len| Some(Netmask(len)))
        .map_err(|_| IpParamError::Netmask { value: text.to_owned() })
}

fn parse_hostname(text: &str) -> Result<String, IpParamError> {
    if is_host_name(text) { Ok(text.to_owned()) } else { Err(IpParamError::Hostname { value: text.to_owned() }) }
}

/// Whether `text` is a host or domain name (RFC 1123, section 2.1).
pub(crate) fn is_host_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label_ok)
}

fn parse_device(text: &str) -> Result<String, IpParamError> {
    // dev_valid_name() in net/core/dev.c; an address or `off` in this field is a shifted value, never a name someone meant.
    let ok = text.len() <= MAX_DEVICE
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        && text.parse::<Ipv4Addr>().is_err()
        && Autoconf::parse(text).is_none();
    if ok { Ok(text.to_owned()) } else { Err(IpParamError::Device { value: text.to_owned() }) }
}

impl fmt::Display for IpParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |addr: Option<Ipv4Addr>| addr.map(|a| a.to_string()).unwrap_or_default();
        let fields = [
            address(self.client),
            address(self.server),
            address(self.gateway),
            self.netmask.map(|mask| mask.mask().to_string()).unwrap_or_default(),
            self.hostname.clone().unwrap_or_default(),
            self.device.clone().unwrap_or_default(),
            self.autoconf.map(|autoconf| autoconf.to_string()).unwrap_or_default(),
            address(self.dns0),
            address(self.dns1),
            address(self.ntp0),
        ];
        let used = fields.iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1);
        let bare_autoconf = used == 7 && fields[..6].iter().all(String::is_empty);
        if bare_autoconf { f.write_str(&fields[6]) } else { f.write_str(&fields[..used.max(1)].join(":")) }
    }
}

#[cfg(test)]
mod tests;
