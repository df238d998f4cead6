//! The guest's configuration on its kernel command line: `ip=` in the kernel's own syntax plus the `airlock.*` keys.
//!
//! | key | meaning |
//! |---|---|
//! | `ip=` | address, gateway, netmask, host name, DNS; see [`crate::ip_param`] |
//! | `airlock.vm=` | VM id |
//! | `airlock.mac=` | MAC of the interface that gets the address; without it the device named in `ip=` is used |
//! | `airlock.root=` | block device of the root, e.g. `/dev/vda` |
//! | `airlock.dns=` | DNS servers, comma-separated, IPv4 or IPv6, before those of `ip=`; see [`NetworkKeys`] |
//! | `airlock.search=` | search domains, comma-separated |
//! | `airlock.mtu=` | MTU of the interface |
//!
//! The host writes it with [`BootConfig::to_cmdline`] and [`NetworkKeys::to_cmdline`], init reads it with
//! [`BootConfig::parse`] and [`NetworkKeys::parse`]; they are inverse.

use std::net::IpAddr;

use crate::ip_param::{IpParam, IpParamError, is_host_name};
use crate::mac::{MacAddr, MacParseError};

/// What the host tells one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootConfig {
    /// Network configuration.
    pub ip: IpParam,
    /// VM id, echoed by the agent.
    pub vm_id: String,
    /// MAC of our interface.
    pub mac: Option<MacAddr>,
    /// Root block device.
    pub root: String,
}

/// Why a command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootConfigError {
    /// No `ip=` at all (`cmdline_ip_missing`).
    #[error("the kernel command line has no ip=")]
    IpMissing,
    /// `ip=` cannot be parsed (`cmdline_ip_malformed`).
    #[error("parse ip={value}")]
    Ip {
        /// Text behind `ip=`.
        value: String,
        /// What is wrong.
        #[source]
        source: IpParamError,
    },
    /// `ip=` has no client address and no server may be asked (`cmdline_ip_malformed`).
    #[error("ip={value} names no client address")]
    IpWithoutClient {
        /// Text behind `ip=`.
        value: String,
    },
    /// `airlock.mac=` cannot be parsed.
    #[error("parse airlock.mac=")]
    Mac(#[from] MacParseError),
    /// One of the keys of [`NetworkKeys`] cannot be used.
    #[error("{key}= holds {value:?}, not {wanted}")]
    Key {
        /// The key.
        key: &'static str,
        /// The part of its value that is wrong.
        value: String,
        /// What should stand there.
        wanted: &'static str,
    },
}

impl BootConfigError {
    /// The catalogue's cause code.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::IpMissing => "cmdline_ip_missing",
            Self::Ip { .. } | Self::IpWithoutClient { .. } | Self::Mac(_) | Self::Key { .. } => "cmdline_ip_malformed",
        }
    }
}

impl BootConfig {
    /// Reads a kernel command line. Of a key that stands twice the last one counts, as in the kernel.
    pub fn parse(cmdline: &str) -> Result<Self, BootConfigError> {
        let value_of = |key| value_of(cmdline, key);
        let value = value_of("ip").ok_or(BootConfigError::IpMissing)?;
        let ip: IpParam = value.parse().map_err(|source| BootConfigError::Ip { value: value.to_owned(), source })?;
        if ip.client.is_none() && !ip.autoconf.is_some_and(|a| a.asks_a_server()) {
            return Err(BootConfigError::IpWithoutClient { value: value.to_owned() });
        }
        Ok(Self {
            ip,
            vm_id: value_of("airlock.vm").unwrap_or_default().to_owned(),
            mac: value_of("airlock.mac").map(str::parse).transpose()?,
            root: value_of("airlock.root").unwrap_or("/dev/vda").to_owned(),
        })
    }

    /// The arguments for the kernel command line.
    pub fn to_cmdline(&self) -> String {
        let mac = self.mac.map(|mac| format!(" airlock.mac={mac}")).unwrap_or_default();
        format!("ip={} airlock.vm={}{mac} airlock.root={}", self.ip, self.vm_id, self.root)
    }
}

/// What the guest's network needs and `ip=` has no field for. All empty is the usual case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkKeys {
    /// DNS servers, asked before those of `ip=`.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// MTU of the interface in bytes; the driver's own if absent.
    pub mtu: Option<u16>,
}

impl NetworkKeys {
    /// The smallest MTU that IPv4 can live with (RFC 791).
    pub const MIN_MTU: u16 = 68;

    /// Reads the keys out of a kernel command line.
    pub fn parse(cmdline: &str) -> Result<Self, BootConfigError> {
        let list = |key| value_of(cmdline, key).unwrap_or_default().split(',').filter(|part| !part.is_empty());
        let wrong = |key, value: &str, wanted| BootConfigError::Key { key, value: value.to_owned(), wanted };
        let dns = list("airlock.dns").map(|part| part.parse().map_err(|_| wrong("airlock.dns", part, "an address")));
        let search = list("airlock.search").map(|part| match is_host_name(part) {
            true => Ok(part.to_owned()),
            false => Err(wrong("airlock.search", part, "a domain")),
        });
        let mtu = value_of(cmdline, "airlock.mtu").map(|text| {
            let mtu = text.parse().ok().filter(|mtu| *mtu >= Self::MIN_MTU);
            mtu.ok_or_else(|| wrong("airlock.mtu", text, "a number from 68 to 65535"))
        });
        Ok(Self {
            dns: dns.collect::<Result<_, _>>()?,
            search: search.collect::<Result<_, _>>()?,
            mtu: mtu.transpose()?,
        })
    }

    /// The arguments for the kernel command line, each with a space before it.
    pub fn to_cmdline(&self) -> String {
        let dns: Vec<String> = self.dns.iter().map(IpAddr::to_string).collect();
        let mtu = self.mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
        let keys = [("dns", dns.join(",")), ("search", self.search.join(",")), ("mtu", mtu)];
        keys.iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!(" airlock.{key}={value}"))
            .collect()
    }
}

/// The kernel's own `init=`: the program that is to be PID 1 of the root.
pub fn wanted_init(cmdline: &str) -> Option<&str> {
    value_of(cmdline, "init").filter(|path| path.starts_with('/'))
}

/// The value of a key; of one that stands twice the last counts, and quotes around a value are no part of it, both as in
/// the kernel.
fn value_of<'a>(cmdline: &'a str, key: &str) -> Option<&'a str> {
    let values = args(cmdline).filter_map(|arg| arg.trim_matches('"').strip_prefix(key)?.strip_prefix('='));
    values.map(|value| value.trim_matches('"')).next_back()
}

/// The arguments of a command line. Double quotes protect spaces, as in the kernel's `next_arg()`; they are left in place.
fn args(cmdline: &str) -> impl DoubleEndedIterator<Item = &str> {
    let mut quoted = false;
    let parts: Vec<&str> = cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            c.is_ascii_whitespace() && !quoted
        })
        .filter(|arg| !arg.is_empty())
        .collect();
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::error::Error;

    const LINE: &str = "console=ttyS0 quiet ip=192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off airlock.vm=v1 airlock.mac=06:00:c0:a8:64:08 airlock.root=/dev/vda";

    #[test]
    fn reads_our_command_line() {
        let config = BootConfig::parse(LINE).unwrap();
        assert_eq!(config.vm_id, "v1");
        assert_eq!(config.mac.map(|m| m.to_string()).as_deref(), Some("06:00:c0:a8:64:08"));
        assert!(LINE.ends_with(&config.to_cmdline()));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(BootConfig::parse("console=ttyS0 quiet"), Err(BootConfigError::IpMissing));
        assert_eq!(BootConfig::parse("ip=").unwrap_err().cause(), "cmdline_ip_malformed");
        assert_eq!(BootConfig::parse("ip=off").unwrap_err().cause(), "cmdline_ip_malformed");
        assert_eq!(BootConfig::parse("ip=10.0.0.2 airlock.mac=06").unwrap_err().cause(), "cmdline_ip_malformed");
        let err = BootConfig::parse("ip=10.0.0.2::10.0.0.300").unwrap_err();
        assert!(err.source().unwrap().to_string().contains("gw-ip"));
        assert_eq!(BootConfig::parse("ip=10.0.0.2 ip=10.0.0.3").unwrap().ip.to_string(), "10.0.0.3");
        assert_eq!(BootConfig::parse("x=\"a ip=10.0.0.9 b\""), Err(BootConfigError::IpMissing));
        assert_eq!(BootConfig::parse("ip=\"10.0.0.2\"").unwrap().ip.to_string(), "10.0.0.2");
    }

    #[test]
    fn the_other_keys_are_read_or_named() {
        let parse = |text: &str| NetworkKeys::parse(text);
        assert_eq!(parse(LINE), Ok(NetworkKeys::default()));
        let keys = parse("quiet airlock.dns=10.0.0.1,2001:db8::53,9.9.9.9 airlock.search=a.example,b airlock.mtu=1400")
            .unwrap();
        assert_eq!(keys.dns.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.0.0.1", "2001:db8::53", "9.9.9.9"]);
        assert_eq!(
            (keys.search.as_slice(), keys.mtu),
            (["a.example".to_owned(), "b".to_owned()].as_slice(), Some(1400))
        );
        for (text, wrong) in [
            ("airlock.dns=dns.example", "airlock.dns"),
            ("airlock.search=a..b", "airlock.search"),
            ("airlock.mtu=67", "airlock.mtu"),
            ("airlock.mtu=70000", "airlock.mtu"),
            ("airlock.mtu=", "airlock.mtu"),
        ] {
            assert!(matches!(parse(text), Err(BootConfigError::Key { key, .. }) if key == wrong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(client in 1..0xe000_0000u32, mac: Option<[u8; 6]>, vm in "[a-z0-9-]{1,36}", other in "[a-z.=0-9 ]{0,40}") {
            let config = BootConfig {
                ip: IpParam { client: Some(client.into()), ..IpParam::default() },
                vm_id: vm,
                mac: mac.map(MacAddr),
                root: "/dev/vda".into(),
            };
            prop_assert_eq!(BootConfig::parse(&format!("{other} {}", config.to_cmdline())), Ok(config));
        }

        #[test]
        fn the_other_keys_round_trip(dns: Vec<IpAddr>, search in proptest::collection::vec("[a-z]{1,9}(\\.[a-z]{1,9})?", 0..3), mtu in proptest::option::of(68u16..)) {
            let keys = NetworkKeys { dns, search, mtu };
            prop_assert_eq!(NetworkKeys::parse(&format!("{LINE}{}", keys.to_cmdline())), Ok(keys));
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,200}") {
            let _ = BootConfig::parse(&text);
            let _ = NetworkKeys::parse(&text);
        }
    }
}
