//! The kernel's `ip=` parameter, in full.
//!
//! Source of the rules: the kernel's `Documentation/admin-guide/nfs/nfsroot.rst` and `net/ipv4/ipconfig.c`:
//! `ip=<client-ip>:<server-ip>:<gw-ip>:<netmask>:<hostname>:<device>:<autoconf>:<dns0-ip>:<dns1-ip>:<ntp0-ip>`.
//! Trailing fields may be left out, any field may be empty, and `<autoconf>` may stand alone (`ip=dhcp`).
//! One value is printed back as the same text by [`std::fmt::Display`].

use std::fmt;
use std::net::Ipv4Addr;
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
            Self::TooManyFields { .. } | Self::Empty => None,
            Self::Address { field, .. } => Some(field),
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
        let address = |index: usize| text(index).map(|text| parse_address(FIELDS[index], text)).transpose();
        Ok(Self {
            client: address(0)?,
            server: address(1)?,
            gateway: address(2)?,
            netmask: text(3).map(parse_netmask).transpose()?,
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

fn parse_address(field: &'static str, text: &str) -> Result<Ipv4Addr, IpParamError> {
    text.parse().map_err(|_| IpParamError::Address { field, value: text.to_owned() })
}

fn parse_netmask(text: &str) -> Result<Netmask, IpParamError> {
    let bits = u32::from(parse_address("netmask", text)?);
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return Err(IpParamError::Netmask { value: text.to_owned() });
    }
    u8::try_from(bits.leading_ones()).map(Netmask).map_err(|_| IpParamError::Netmask { value: text.to_owned() })
}

fn parse_hostname(text: &str) -> Result<String, IpParamError> {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let ok = text.len() <= 253 && text.split('.').all(label_ok);
    if ok { Ok(text.to_owned()) } else { Err(IpParamError::Hostname { value: text.to_owned() }) }
}

fn parse_device(text: &str) -> Result<String, IpParamError> {
    // dev_valid_name() in net/core/dev.c; an address in this field is a shifted value, never a name someone meant.
    let ok = text.len() <= MAX_DEVICE
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        && text.parse::<Ipv4Addr>().is_err();
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<IpParam, IpParamError> {
        text.parse()
    }

    #[test]
    fn reads_the_line_we_write() {
        let ip = parse("192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off:192.168.100.1").unwrap();
        assert_eq!(ip.client, Some(Ipv4Addr::new(192, 168, 100, 8)));
        assert_eq!(ip.netmask.map(Netmask::prefix), Some(24));
        assert_eq!(ip.hostname.as_deref(), Some("vm-8"));
        assert_eq!(ip.autoconf, Some(Autoconf::Off));
        assert_eq!(ip.dns0, Some(Ipv4Addr::new(192, 168, 100, 1)));
        assert_eq!(ip.to_string(), "192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off:192.168.100.1");
    }

    #[test]
    fn takes_every_bare_word() {
        for (word, value) in Autoconf::ALL {
            let ip = parse(word).unwrap();
            assert_eq!(ip, IpParam { autoconf: Some(value), ..IpParam::default() });
            assert_eq!(ip.to_string(), word);
        }
        assert_eq!(parse("::::::dhcp").unwrap(), parse("dhcp").unwrap());
        assert_eq!(parse("10.0.0.1").unwrap().client, Some(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            ("300.1.1.1::::::off", "client-ip"),
            ("10.0.0.2:nfs:10.0.0.1", "server-ip"),
            ("10.0.0.2::gateway", "gw-ip"),
            ("10.0.0.2::10.0.0.1:24", "netmask"),
            ("10.0.0.2::10.0.0.1:255.0.255.0", "netmask"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:-bad-", "hostname"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm_8", "hostname"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:a-name-longer-than-15", "device"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth/0", "device"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:10.0.0.9", "device"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:static", "autoconf"),
            ("dhpc", "autoconf"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off:dns", "dns0-ip"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off::8.8.8", "dns1-ip"),
            ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off:::ntp", "ntp0-ip"),
        ] {
            assert_eq!(parse(text).unwrap_err().field(), Some(field), "{text}");
        }
        assert_eq!(parse("").unwrap_err(), IpParamError::Empty);
        assert_eq!(parse(":::::::::::").unwrap_err(), IpParamError::TooManyFields { count: 12 });
    }

    fn any_param() -> impl Strategy<Value = IpParam> {
        let addr = || proptest::option::of(any::<u32>().prop_map(Ipv4Addr::from));
        (
            (addr(), addr(), addr(), proptest::option::of((0u8..=32).prop_map(Netmask))),
            proptest::option::of("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,8})?"),
            proptest::option::of("[a-z][a-z0-9]{0,14}"),
            proptest::option::of((0..Autoconf::ALL.len()).prop_map(|i| Autoconf::ALL[i].1)),
            (addr(), addr(), addr()),
        )
            .prop_map(|((client, server, gateway, netmask), hostname, device, autoconf, (dns0, dns1, ntp0))| IpParam {
                client,
                server,
                gateway,
                netmask,
                hostname,
                device,
                autoconf,
                dns0,
                dns1,
                ntp0,
            })
            .prop_filter("an empty value has no text", |ip| *ip != IpParam::default())
    }

    proptest! {
        #[test]
        fn round_trips(ip in any_param()) {
            prop_assert_eq!(ip.to_string().parse::<IpParam>(), Ok(ip));
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,200}", fields in "[0-9a-z.:]{0,80}") {
            let _ = parse(&text);
            let _ = parse(&fields);
        }
    }
}
