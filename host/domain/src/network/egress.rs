//! The way out of the private network: where it leads, over which addresses, and which private nets stay reachable.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Our end of the veth pair, inside the installation's namespace.
pub const UPLINK_LINK: &str = "uplink0";

/// Ranges that are no public internet (RFC 6890), so that guests do not reach them unless an operator says so. The whole of
/// 169.254.0.0/16 is among them: cloud metadata lives at 169.254.169.254.
pub const CLOSED: [Ipv4Net; 11] = [
    Ipv4Net::new_unchecked([0, 0, 0, 0], 8),
    Ipv4Net::new_unchecked([10, 0, 0, 0], 8),
    Ipv4Net::new_unchecked([100, 64, 0, 0], 10),
    Ipv4Net::new_unchecked([127, 0, 0, 0], 8),
    Ipv4Net::new_unchecked([169, 254, 0, 0], 16),
    Ipv4Net::new_unchecked([172, 16, 0, 0], 12),
    Ipv4Net::new_unchecked([192, 0, 0, 0], 24),
    Ipv4Net::new_unchecked([192, 168, 0, 0], 16),
    Ipv4Net::new_unchecked([198, 18, 0, 0], 15),
    Ipv4Net::new_unchecked([224, 0, 0, 0], 4),
    Ipv4Net::new_unchecked([240, 0, 0, 0], 4),
];

/// Those of [`CLOSED`] that people give to machines of their own. Only these can be opened, or carry the transit.
const PRIVATE: [Ipv4Net; 5] = [CLOSED[1], CLOSED[2], CLOSED[5], CLOSED[7], CLOSED[8]];

/// How guests reach the outside, `[network.egress]`. They never reach the machine that lends its uplink, allowed or not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSpec {
    /// Where their packets go.
    pub uplink: Uplink,
    /// The two addresses of the veth pair. Must be free in the uplink's namespace.
    pub transit: Transit,
    /// Private nets that guests may reach after all.
    pub allow: Vec<Ipv4Net>,
}

/// Where the packets of guests go, written `none`, `host` or `namespace:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Uplink {
    /// Nowhere: guests reach their gateway and nothing else.
    #[default]
    None,
    /// Into the namespace of the daemon.
    Host,
    /// Into the network namespace of that name.
    Namespace(String),
}

/// An IPv4 net without host bits, written `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    network: Ipv4Addr,
    prefix: u8,
}

/// The net of the veth pair: four addresses, of which the uplink has the first host and we have the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Transit(Ipv4Net);

/// Why a text says nothing about egress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not an uplink.
    #[error("{text:?} is not an uplink: none, host or namespace:NAME")]
    Uplink {
        /// The text that was given.
        text: String,
    },
    /// Not a net, or with bits behind the prefix.
    #[error("{text:?} is not a net like 10.1.0.0/16")]
    Net {
        /// The text that was given.
        text: String,
    },
    /// Not four private addresses.
    #[error("{text:?} is not a /30 of a private range, like 198.18.77.0/30")]
    Transit {
        /// The text that was given.
        text: String,
    },
}

impl Ipv4Net {
    const fn new_unchecked(network: [u8; 4], prefix: u8) -> Self {
        let [a, b, c, d] = network;
        Self { network: Ipv4Addr::new(a, b, c, d), prefix }
    }

    /// The net that `addr` is in.
    pub fn around(addr: Ipv4Addr, prefix: u8) -> Self {
        Self { network: Ipv4Addr::from(u32::from(addr) & mask(prefix)), prefix }
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        u32::from(self.network) & common == u32::from(other.network) & common
    }

    /// Whether all of it is in `other`.
    pub fn is_within(self, other: Self) -> bool {
        self.prefix >= other.prefix && self.overlaps(other)
    }

    /// Whether an operator may open it to guests: all of it in one range that people give to machines of their own.
    pub fn is_private(self) -> bool {
        PRIVATE.into_iter().any(|range| self.is_within(range))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl std::str::FromStr for Ipv4Net {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let error = || EgressError::Net { text: text.to_owned() };
        let (network, prefix) = text.split_once('/').ok_or_else(error)?;
        let network: Ipv4Addr = network.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(error)?;
        let net = Self::around(network, prefix);
        if net.network == network { Ok(net) } else { Err(error()) }
    }
}

impl std::fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Default for Transit {
    fn default() -> Self {
        Self(Ipv4Net::new_unchecked([198, 18, 77, 0], 30))
    }
}

impl Transit {
    /// The net.
    pub fn net(self) -> Ipv4Net {
        self.0
    }

    /// Prefix length of both addresses.
    pub fn prefix(self) -> u8 {
        self.0.prefix
    }

    /// The address on the uplink's side: our way out.
    pub fn uplink_side(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network) + 1)
    }

    /// The address on our side: what the uplink sees of all guests.
    pub fn our_side(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network) + 2)
    }
}

impl std::str::FromStr for Transit {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match text.parse::<Ipv4Net>() {
            Ok(net) if net.prefix == 30 && net.is_private() => Ok(Self(net)),
            _ => Err(EgressError::Transit { text: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for Transit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Uplink {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match (text, text.strip_prefix("namespace:")) {
            ("none", _) => Ok(Self::None),
            ("host", _) => Ok(Self::Host),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Namespace(name.to_owned())),
            _ => Err(EgressError::Uplink { text: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for Uplink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Namespace(name) => write!(f, "namespace:{name}"),
        }
    }
}

macro_rules! text_form {
    ($($name:ident),+) => {$(
        impl TryFrom<String> for $name {
            type Error = EgressError;
            fn try_from(text: String) -> Result<Self, EgressError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )+};
}

text_form!(Ipv4Net, Transit, Uplink);

/// Name of the veth's end in the uplink's namespace: one per installation, at most 15 characters. The alias of the link is the
/// proof of ownership, so two names that collide are an error and not a theft.
pub fn uplink_peer(namespace: &str) -> String {
    // FNV-1a, 32 bits.
    let hash = namespace.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("alk-{hash:08x}")
}

/// Alias of that end.
pub fn uplink_alias(namespace: &str) -> String {
    format!("airlock uplink of {namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn nets_have_no_host_bits() {
        assert_eq!(net("10.1.0.0/16").to_string(), "10.1.0.0/16");
        assert_eq!(net("0.0.0.0/0").to_string(), "0.0.0.0/0");
        for bad in ["", "10.1.0.0", "10.1.0.1/16", "10.1.0.0/33", "10.1/16", "fd00::/8"] {
            assert_eq!(bad.parse::<Ipv4Net>(), Err(EgressError::Net { text: bad.into() }));
        }
    }

    #[test]
    fn nets_overlap_both_ways() {
        for (a, b, overlap, within) in [
            ("10.1.0.0/16", "10.0.0.0/8", true, true),
            ("10.0.0.0/8", "10.1.0.0/16", true, false),
            ("10.1.0.0/16", "10.2.0.0/16", false, false),
            ("0.0.0.0/0", "10.2.0.0/16", true, false),
            ("10.2.0.1/32", "10.2.0.1/32", true, true),
        ] {
            assert_eq!((net(a).overlaps(net(b)), net(a).is_within(net(b))), (overlap, within), "{a} {b}");
        }
    }

    #[test]
    fn only_nets_of_peoples_own_machines_can_be_opened() {
        for (text, private) in [
            ("10.0.0.0/8", true),
            ("192.168.7.0/24", true),
            ("100.64.3.0/24", true),
            ("10.0.0.0/7", false),
            ("169.254.169.254/32", false),
            ("127.0.0.0/8", false),
            ("8.8.8.0/24", false),
        ] {
            assert_eq!(net(text).is_private(), private, "{text}");
        }
    }

    #[test]
    fn a_transit_has_two_ends() {
        let transit: Transit = "10.9.8.4/30".parse().unwrap();
        assert_eq!(transit.uplink_side(), Ipv4Addr::new(10, 9, 8, 5));
        assert_eq!(transit.our_side(), Ipv4Addr::new(10, 9, 8, 6));
        for bad in ["8.8.8.0/30", "10.9.8.0/29", "10.9.8.1/30", "169.254.0.0/30"] {
            assert_eq!(bad.parse::<Transit>(), Err(EgressError::Transit { text: bad.into() }));
        }
    }

    #[test]
    fn uplinks_round_trip() {
        for text in ["none", "host", "namespace:isp"] {
            assert_eq!(text.parse::<Uplink>().unwrap().to_string(), text);
        }
        assert!("namespace:".parse::<Uplink>().is_err() && "hosts".parse::<Uplink>().is_err());
    }

    #[test]
    fn every_installation_has_a_link_name_of_its_own() {
        assert_eq!(uplink_peer("airlock"), "alk-810b79a0");
        assert_ne!(uplink_peer("airlock-2"), uplink_peer("airlock"));
        assert!(uplink_peer(&"x".repeat(64)).len() <= 15);
    }
}
