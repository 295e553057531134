//! Addresses and resolvers of VMs on the host's bridge: pure, given what is taken and known.

use banger_guest::boot::Network;
use banger_names::Subnet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// The port of the bridge's address where names of VMs are answered.
pub(crate) const NAMES_PORT: u16 = 8053;

/// As many name servers as a resolver looks at.
const MAX_RESOLVERS: usize = 3;

/// The lowest address of the subnet that no VM has.
pub(crate) fn lowest_free(subnet: &Subnet, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let hosts = u32::from(subnet.network())..u32::from(subnet.broadcast());
    hosts
        .map(Ipv4Addr::from)
        .find(|address| subnet.has_guest(*address) && !taken.contains(address))
}

/// What the guest at this address is told of its card.
pub(crate) fn guest_network(subnet: &Subnet, address: Ipv4Addr, resolvers: &[IpAddr]) -> Network {
    Network {
        address: format!("{address}/{}", subnet.prefix()),
        gateway: subnet.gateway().to_string(),
        dns: resolvers.iter().map(IpAddr::to_string).collect(),
    }
}

/// The name servers of a `resolv.conf` that a guest can ask: not those of the host's loopback,
/// and none by IPv6, which guests do not have.
pub(crate) fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    let server = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        let address: Ipv4Addr = words.next()?.parse().ok()?;
        let is_far = !address.is_loopback() && !address.is_unspecified();
        is_far.then_some(address.into())
    };
    let mut found = Vec::new();
    for address in resolv_conf.lines().filter_map(server) {
        if !found.contains(&address) && found.len() < MAX_RESOLVERS {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(addresses: &[&str]) -> BTreeSet<Ipv4Addr> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_lowest_free_address_is_neither_the_bridges_nor_a_vms() {
        let subnet = Subnet::parse("172.30.0.2/29").unwrap();
        let free = |used: &[&str]| lowest_free(&subnet, &taken(used)).map(|a| a.to_string());
        assert_eq!(free(&[]).unwrap(), "172.30.0.1");
        assert_eq!(free(&["172.30.0.1"]).unwrap(), "172.30.0.3");
        let all = [
            "172.30.0.1",
            "172.30.0.3",
            "172.30.0.4",
            "172.30.0.5",
            "172.30.0.6",
        ];
        assert_eq!(free(&all), None);
        assert_eq!(free(&all[..4]).unwrap(), "172.30.0.6");
        assert_eq!(free(&["10.0.0.1"]).unwrap(), "172.30.0.1");
    }

    #[test]
    fn a_guest_asks_the_hosts_upstream_resolvers() {
        let text = "# a comment\nnameserver 127.0.0.53\nnameserver 10.0.2.3\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::1\nnameserver 10.0.2.3 # twice\nsearch example\n nameserver\t9.9.9.9\n\
                    nameserver 0.0.0.0\nnameservers 1.2.3.4\nnameserver x\nnameserver 1.1.1.1\nnameserver 8.8.8.8";
        let found: Vec<String> = resolvers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["10.0.2.3", "9.9.9.9", "1.1.1.1"]);
        let subnet = Subnet::parse("172.30.0.1/24").unwrap();
        let network = guest_network(&subnet, Ipv4Addr::new(172, 30, 0, 9), &resolvers(text));
        assert_eq!(network.address, "172.30.0.9/24");
        assert_eq!(network.gateway, "172.30.0.1");
        assert_eq!(network.dns, found);
    }

    proptest! {
        #[test]
        fn an_address_is_always_a_guests_and_free(
            last in 1_u8..=254, prefix in 24_u8..=30, used in proptest::collection::btree_set(0_u8..=255, 0..80)
        ) {
            let Ok(subnet) = Subnet::parse(&format!("10.9.8.{last}/{prefix}")) else { return Ok(()) };
            let used: BTreeSet<Ipv4Addr> = used.into_iter().map(|n| Ipv4Addr::new(10, 9, 8, n)).collect();
            match lowest_free(&subnet, &used) {
                Some(address) => prop_assert!(subnet.has_guest(address) && !used.contains(&address)),
                None => {
                    let mut all = (0..=255).map(|n| Ipv4Addr::new(10, 9, 8, n));
                    prop_assert!(all.all(|a| !subnet.has_guest(a) || used.contains(&a)));
                }
            }
        }

        #[test]
        fn resolvers_never_fail(text in "\\PC*") {
            prop_assert!(resolvers(&text).len() <= MAX_RESOLVERS);
        }
    }
}
