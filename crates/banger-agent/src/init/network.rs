//! Loopback, the first network card, and who answers names.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use banger_guest::boot::Network;
use banger_sys::netlink::{Links, NetlinkError};

use super::identity::replace;
use super::uevent::Uevents;
use super::{InitError, failed};

impl From<NetlinkError> for InitError {
    fn from(error: NetlinkError) -> Self {
        Self::Io {
            operation: error.to_string(),
            source: error.errno.into(),
        }
    }
}

/// A network as the configuration has it, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    resolv_conf: String,
}

/// Brings up loopback and, if there is a network, the first card.
pub(super) fn bring_up(
    network: Option<&Network>,
    uevents: &Uevents,
    deadline: Instant,
) -> Result<(), InitError> {
    let parsed = network.map(parse).transpose()?;
    let mut links = Links::open().map_err(failed("open netlink"))?;
    let loopback = links.index_of("lo")?;
    links.set_up(loopback)?;
    let Some(parsed) = parsed else {
        return Ok(());
    };
    let card = uevents
        .wait_for(deadline, first_card)
        .ok_or_else(|| InitError::NoDevice {
            device: "a network card".to_owned(),
        })?;
    let index = links.index_of(&card)?;
    links.set_up(index)?;
    links.add_address(index, parsed.address, parsed.prefix)?;
    links.add_default_route(parsed.gateway)?;
    if !parsed.resolv_conf.is_empty() && Path::new("/etc").is_dir() {
        replace("/etc/resolv.conf", &parsed.resolv_conf)?;
    }
    Ok(())
}

fn parse(network: &Network) -> Result<Parsed, InitError> {
    let bad = |what, value: &str| InitError::Value {
        what,
        value: value.to_owned(),
    };
    let (address, prefix) = network
        .address
        .split_once('/')
        .and_then(|(address, prefix)| {
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some((address.parse().ok()?, prefix))
        })
        .ok_or_else(|| bad("address", &network.address))?;
    let mut resolv_conf = String::new();
    for server in &network.dns {
        let server: std::net::IpAddr = server.parse().map_err(|_| bad("name server", server))?;
        resolv_conf.push_str(&format!("nameserver {server}\n"));
    }
    Ok(Parsed {
        address,
        prefix,
        gateway: network
            .gateway
            .parse()
            .map_err(|_| bad("gateway", &network.gateway))?,
        resolv_conf,
    })
}

/// The network device with the lowest index that is a card (has a device behind it).
fn first_card() -> Option<String> {
    std::fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let index = std::fs::read_to_string(entry.path().join("ifindex")).ok()?;
            let index: u32 = index.trim().parse().ok()?;
            Some((index, entry.file_name().into_string().ok()?))
        })
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, gateway: &str, dns: &[&str]) -> Network {
        Network {
            address: address.to_owned(),
            gateway: gateway.to_owned(),
            dns: dns.iter().map(|server| (*server).to_owned()).collect(),
        }
    }

    #[test]
    fn configurations_are_parsed_or_refused_by_field() {
        let parsed = parse(&network(
            "10.0.2.15/24",
            "10.0.2.2",
            &["10.0.2.3", "fd00::3"],
        ))
        .unwrap();
        assert_eq!(parsed.prefix, 24);
        assert_eq!(
            parsed.resolv_conf,
            "nameserver 10.0.2.3\nnameserver fd00::3\n"
        );
        for (bad, field) in [
            (network("10.0.2.15", "10.0.2.2", &[]), "address"),
            (network("10.0.2.15/33", "10.0.2.2", &[]), "address"),
            (network("10.0.2.15/24", "gw", &[]), "gateway"),
            (
                network("10.0.2.15/24", "10.0.2.2", &["x\nsearch evil"]),
                "name server",
            ),
        ] {
            match parse(&bad) {
                Err(InitError::Value { what, .. }) => assert_eq!(what, field),
                other => panic!("{other:?}"),
            }
        }
    }
}
