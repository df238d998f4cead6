//! The guest's configuration on its kernel command line: `ip=` in the kernel's own syntax plus the `airlock.*` keys.
//!
//! | key | meaning |
//! |---|---|
//! | `ip=` | address, gateway, netmask, host name, DNS; see [`crate::ip_param`] |
//! | `airlock.vm=` | VM id |
//! | `airlock.mac=` | MAC of the interface that gets the address; without it the device named in `ip=` is used |
//! | `airlock.root=` | block device of the root, e.g. `/dev/vda` |
//!
//! The host writes it with [`BootConfig::to_cmdline`], init reads it with [`BootConfig::parse`]; the two are inverse.

use crate::ip_param::{IpParam, IpParamError};
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
}

impl BootConfigError {
    /// The catalogue's cause code.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::IpMissing => "cmdline_ip_missing",
            Self::Ip { .. } | Self::IpWithoutClient { .. } | Self::Mac(_) => "cmdline_ip_malformed",
        }
    }
}

impl BootConfig {
    /// Reads a kernel command line. Of a key that stands twice the last one counts, as in the kernel.
    pub fn parse(cmdline: &str) -> Result<Self, BootConfigError> {
        let value_of = |key: &str| args(cmdline).filter_map(|arg| arg.strip_prefix(key)?.strip_prefix('=')).next_back();
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
    }

    proptest! {
        #[test]
        fn round_trips(client: [u8; 4], mac: Option<[u8; 6]>, vm in "[a-z0-9-]{1,36}", other in "[a-z.=0-9 ]{0,40}") {
            let config = BootConfig {
                ip: IpParam { client: Some(client.into()), ..IpParam::default() },
                vm_id: vm,
                mac: mac.map(MacAddr),
                root: "/dev/vda".into(),
            };
            prop_assert_eq!(BootConfig::parse(&format!("{other} {}", config.to_cmdline())), Ok(config));
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,200}") {
            let _ = BootConfig::parse(&text);
        }
    }
}
