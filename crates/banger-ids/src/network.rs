//! The network of VMs: its bridge's name and its subnet.

use crate::{InvalidName, text_type};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A bridge's name: `br-fc`, or `br-fc-` and 1 to 9 lower-case letters, digits or dashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BridgeName(String);

text_type!(BridgeName);

impl BridgeName {
    /// Parses a bridge's name.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("bridge", text, rule));
        let Some(rest) = text.strip_prefix("br-fc") else {
            return refuse("does not begin with \"br-fc\"");
        };
        let suffix = match rest.strip_prefix('-') {
            None if rest.is_empty() => return Ok(Self(text.to_owned())),
            None => return refuse("is not \"br-fc\" or \"br-fc-\" and a suffix"),
            Some(suffix) => suffix,
        };
        let allowed = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-');
        if suffix.is_empty() || suffix.len() > 9 || !suffix.bytes().all(allowed) {
            return refuse("has a suffix that is not 1 to 9 of a-z, 0-9 and -");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The VMs' subnet, as `172.30.0.1/24`: the bridge's own address in it and the prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    gateway: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Parses `A.B.C.D/N`: a private address (RFC 1918 or 100.64.0.0/10) that is a host's in its
    /// subnet, and a prefix length of 8 to 30 in plain digits, within the private range.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("subnet", text, rule));
        let Some((address, length)) = text.split_once('/') else {
            return refuse("is not ADDRESS/PREFIX");
        };
        let Ok(gateway) = address.parse::<Ipv4Addr>() else {
            return refuse("has no canonical IPv4 address");
        };
        let plain = matches!(length.len(), 1..=2)
            && length.bytes().all(|byte| byte.is_ascii_digit())
            && !length.starts_with('0');
        let prefix = match length.parse::<u8>() {
            Ok(prefix) if plain && (8..=32).contains(&prefix) => prefix,
            _ => return refuse("has a prefix length that is not 8 to 32 in plain digits"),
        };
        if prefix > 30 {
            return refuse("has no room for a VM: its prefix length is above 30");
        }
        let subnet = Self { gateway, prefix };
        let private = [(10, 0, 8), (172, 16, 12), (192, 168, 16), (100, 64, 10)];
        let within = |(a, b, bits): (u8, u8, u8)| {
            prefix >= bits
                && mask(bits) & u32::from(gateway) == u32::from(Ipv4Addr::new(a, b, 0, 0))
        };
        if !private.into_iter().any(within) {
            return refuse(
                "is not within a private range (10/8, 172.16/12, 192.168/16, 100.64/10)",
            );
        }
        if !subnet.is_host(gateway) {
            return refuse("has the subnet's own or its broadcast address");
        }
        Ok(subnet)
    }

    /// The bridge's address, the guests' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The prefix length, 8 to 30.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The subnet's own address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.gateway) & mask(self.prefix))
    }

    /// The address of everybody in it.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) | !mask(self.prefix))
    }

    /// Whether a guest may have this address: it is a host's in the subnet, and not the bridge's.
    pub fn has_guest(&self, address: Ipv4Addr) -> bool {
        address != self.gateway && self.is_host(address)
    }

    /// Whether it shares an address with `network/prefix`.
    pub fn overlaps(&self, network: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(self.prefix.min(prefix));
        u32::from(self.gateway) & mask == u32::from(network) & mask
    }

    fn is_host(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network())
            && address != self.network()
            && address != self.broadcast()
    }
}

/// The mask of a prefix length; of all bits past 32.
fn mask(prefix: u8) -> u32 {
    let host_bits = 32_u32.saturating_sub(prefix.into());
    u32::MAX.checked_shl(host_bits).unwrap_or(0)
}

impl TryFrom<String> for Subnet {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl std::str::FromStr for Subnet {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.gateway, self.prefix)
    }
}

/// The MAC address of the guest at this address: `06:fc` and the address, so that no two differ
/// in one only.
pub fn guest_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x06, 0xfc, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensure_bridge_refuses_foreign_names() {
        for good in ["br-fc", "br-fc-0", "br-fc-a-b", "br-fc-123456789"] {
            assert_eq!(BridgeName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "eth0",
            "docker0",
            "lo",
            "br-f",
            "br-fc/..",
            "br-fcx",
            "br-fc-",
            "br-fc-1234567890",
            "br-fc\0",
            "br-fc-A",
            "br-fc-%s",
            "br-fc-\n",
            "br-fc-é",
            " br-fc",
        ] {
            assert!(BridgeName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ensure_bridge_refuses_foreign_subnets() {
        for good in [
            "10.0.0.1/8",
            "172.30.0.1/24",
            "192.168.7.254/30",
            "100.64.0.1/10",
        ] {
            let good = good.replace("254/30", "253/30");
            assert_eq!(Subnet::parse(&good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "1",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/0",
            "10.0.0.1/7",
            "10.0.0.1/33",
            "10.0.0.1/31",
            "10.0.0.1/32",
            "10.0.0.1/24 ",
            "10.0.0.1/+24",
            "10.0.0.1/024",
            "10.0.0.1/0x18",
            "10.0.0.1/64",
            "010.0.0.1/24",
            "10.0.1/24",
            "127.0.0.1/8",
            "0.0.0.0/8",
            "169.254.169.254/16",
            "224.0.0.1/8",
            "255.255.255.255/24",
            "8.8.8.8/24",
            "172.15.0.1/16",
            "172.30.0.1/8",
            "192.168.0.1/8",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "::1/64",
            "10.0.0.1/24\n",
            "10.0.0.1/2４",
        ] {
            assert!(Subnet::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_subnet_knows_its_guests_and_neighbours() {
        let subnet = Subnet::parse("172.30.0.1/24").unwrap();
        let at = |last| Ipv4Addr::new(172, 30, 0, last);
        assert!(subnet.has_guest(at(2)) && subnet.has_guest(at(254)));
        for last in [0, 1, 255] {
            assert!(!subnet.has_guest(at(last)));
        }
        assert!(!subnet.has_guest(Ipv4Addr::new(172, 30, 1, 2)));
        assert!(subnet.overlaps(Ipv4Addr::new(172, 16, 0, 0), 12));
        assert!(subnet.overlaps(Ipv4Addr::new(172, 30, 0, 128), 25));
        assert!(subnet.overlaps(Ipv4Addr::UNSPECIFIED, 0));
        assert!(!subnet.overlaps(Ipv4Addr::new(172, 30, 1, 0), 24));
        assert_eq!(guest_mac(at(9)), [6, 0xfc, 172, 30, 0, 9]);
    }
}
