//! A 48-bit MAC address.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address, printed as `06:00:c0:a8:64:08`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The MAC of a leased address: `06:00` (locally administered, unicast) followed by the four octets of the address,
    /// so two live leases can never share one.
    pub fn from_lease(addr: Ipv4Addr) -> Self {
        let [a, b, c, d] = addr.octets();
        Self([0x06, 0x00, a, b, c, d])
    }
}

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a MAC address (six hex pairs separated by colons)")]
pub struct MacParseError {
    /// The text that was given.
    pub text: String,
}

impl FromStr for MacAddr {
    type Err = MacParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let err = || MacParseError { text: s.to_owned() };
        let mut out = [0u8; 6];
        let mut parts = s.trim().split(':');
        for byte in &mut out {
            let part = parts.next().ok_or_else(err)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(err());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| err())?;
        }
        if parts.next().is_some() { Err(err()) } else { Ok(Self(out)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacParseError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lease_gives_the_documented_mac() {
        assert_eq!(MacAddr::from_lease(Ipv4Addr::new(192, 168, 100, 8)).to_string(), "06:00:c0:a8:64:08");
    }

    #[test]
    fn refuses_what_is_not_a_mac() {
        for bad in [
            "",
            "06:00:c0:a8:64",
            "06:00:c0:a8:64:08:09",
            "6:0:c0:a8:64:8",
            "06-00-c0-a8-64-08",
            "zz:00:c0:a8:64:08",
            "+6:00:c0:a8:64:08",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse::<MacAddr>(), Ok(MacAddr(bytes)));
        }
    }
}
