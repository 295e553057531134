//! The bridge of all guests, with its address and what goes with it.
//!
//! It has a hardware address of its own, derived from its address, so that it does not change
//! with its ports; and one port that is always up, because systemd-resolved takes no name servers
//! from a link without carrier.

use banger_ids::{BridgeName, Subnet, guest_mac};
use banger_priv::{BridgeUp, EnsureBridge, Refusal, RefusalKind, Reply};
use banger_sys::netlink::{Address, Ipv4Setting, Link, Links, NetlinkError, Route};
use rustix::io::Errno;

use crate::entry::BridgeEntry;
use crate::helper::{Helper, Network, Outcome, done};
use crate::ops::{marks, nat, resolver, rules};
use crate::policy::SHORTEST_NETWORK;
use crate::refusal::{failed, refuse};
use crate::undo::{Undo, attempt};

/// Makes the bridge and its rules, or completes them, or proves that they stand as asked.
pub(crate) fn ensure_bridge(helper: &Helper, asked: EnsureBridge) -> Outcome {
    let mut network = helper.network();
    let recorded = helper.ledger().bridge().cloned();
    let same = |entry: &BridgeEntry| entry.name == asked.bridge && entry.subnet == asked.subnet;
    if let Some(other) = recorded.as_ref().filter(|entry| !same(entry)) {
        let entries = helper.ledger().entries();
        if let Some(user) = entries.iter().find(|entry| entry.tap.is_some()) {
            let (name, subnet) = (&other.name, &other.subnet);
            let message = format!(
                "make {asked:?}: {name} at {subnet} has the tap of {}",
                user.vm
            );
            return Err(refuse(RefusalKind::Exists, message));
        }
    }
    let mut links = open()?;
    let mut own = find_own(&mut links, &asked, recorded.as_ref())?;
    let strays = check(&mut links, &asked, &own, recorded.as_ref())?;
    // Also of a lost record: rules are for one bridge only, and none may be without.
    if strays || !recorded.as_ref().is_none_or(same) {
        remove(helper, &mut network)?;
        own = find_own(&mut links, &asked, None)?;
    }
    let kept = recorded.filter(same);
    let entry = kept.clone().unwrap_or_else(|| BridgeEntry {
        name: asked.bridge.clone(),
        subnet: asked.subnet,
        uplinks: Vec::new(),
        resolver_port: None,
    });
    let is_new = own.bridge.is_none();
    attempt(|undo| {
        helper.ledger().write_bridge(Some(entry.clone()))?;
        undo.push("restore the record of the bridge", move || {
            helper.ledger().write_bridge(kept)
        });
        build(helper, &mut network, &entry, own, undo)?;
        nat::sync_uplinks(helper)
    })
    .inspect_err(|_| network.rules = None)?;
    done(Reply::Bridge(BridgeUp { is_new }))
}

/// What stands of the two links, proved ours.
struct Own {
    bridge: Option<Link>,
    carrier: Option<Link>,
}

fn find_own(
    links: &mut Links,
    asked: &EnsureBridge,
    recorded: Option<&BridgeEntry>,
) -> Result<Own, Refusal> {
    // The kernel takes an alias only once a link stands. Until then the record, written before,
    // and the hardware address, which the link was made with, tell that it is ours.
    let half_made = recorded.is_some_and(|entry| entry.name == asked.bridge);
    let mut find = |name: &str, kind: &str, mac: [u8; 6]| {
        let wrong = |error: NetlinkError| failed(format!("find {name}"), &error);
        let Some(link) = links.find(name).map_err(wrong)? else {
            return Ok(None);
        };
        let is_marked = link.alias.as_deref() == Some(marks::BRIDGE);
        let is_begun = half_made && link.alias.is_none() && link.mac == Some(mac);
        if link.kind.as_deref() == Some(kind) && (is_marked || is_begun) {
            return Ok(Some(link));
        }
        let message = format!("use {name}: a link of this name stands that is not ours");
        Err(refuse(RefusalKind::Foreign, message))
    };
    Ok(Own {
        bridge: find(asked.bridge.as_str(), "bridge", bridge_mac(asked.subnet))?,
        carrier: find(&carrier(&asked.bridge), "dummy", carrier_mac(asked.subnet))?,
    })
}

/// The name of the port that is always up: as long as the bridge's own, and never a bridge's.
fn carrier(bridge: &BridgeName) -> String {
    bridge.as_str().replacen("br-", "up-", 1)
}

fn bridge_mac(subnet: Subnet) -> [u8; 6] {
    guest_mac(subnet.gateway())
}

fn carrier_mac(subnet: Subnet) -> [u8; 6] {
    guest_mac(subnet.network())
}

/// Whether a bridge of ours stands that is not the one asked for; refused is what the one asked
/// for may not stand beside.
fn check(
    links: &mut Links,
    asked: &EnsureBridge,
    own: &Own,
    recorded: Option<&BridgeEntry>,
) -> Result<bool, Refusal> {
    let wrong = |error: NetlinkError| failed("look at the host's network", &error);
    let all = links.links().map_err(wrong)?;
    let addresses = links.addresses().map_err(wrong)?;
    let routes = links.routes().map_err(wrong)?;
    let name_of = |index: u32| {
        let link = all.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("link {index}"), |link| link.name.clone())
    };
    let marked = all.iter().filter(|link| is_marked(link));
    let own = [&own.bridge, &own.carrier].map(|link| link.as_ref().map(|link| link.index));
    let strays: Vec<u32> = marked
        .map(|link| link.index)
        .filter(|index| !own.contains(&Some(*index)))
        .collect();
    let subnet = asked.subnet;
    let [bridge, _] = own;
    if recorded.is_none_or(|entry| entry.subnet == subnet) {
        check_own_address(subnet, bridge, &addresses)?;
    }
    let ours: Vec<u32> = own.into_iter().flatten().chain(strays.clone()).collect();
    check_overlap(subnet, &ours, &addresses, &routes, name_of)?;
    Ok(!strays.is_empty())
}

fn is_marked(link: &Link) -> bool {
    matches!(link.kind.as_deref(), Some("bridge" | "dummy"))
        && link.alias.as_deref() == Some(marks::BRIDGE)
}

/// A bridge of ours that has an address must have exactly the one asked for.
fn check_own_address(
    subnet: Subnet,
    own: Option<u32>,
    addresses: &[Address],
) -> Result<(), Refusal> {
    let is_wrong = |found: &&Address| {
        own == Some(found.link)
            && (found.address, found.prefix) != (subnet.gateway(), subnet.prefix())
    };
    match addresses.iter().find(is_wrong) {
        Some(Address {
            address, prefix, ..
        }) => {
            let message = format!("use {subnet}: the bridge stands with {address}/{prefix}");
            Err(refuse(RefusalKind::Exists, message))
        }
        None => Ok(()),
    }
}

/// No other link may have an address or a route that shares one with the subnet. Default routes,
/// and those that VPNs put in their place, are no networks.
fn check_overlap(
    subnet: Subnet,
    ours: &[u32],
    addresses: &[Address],
    routes: &[Route],
    name_of: impl Fn(u32) -> String,
) -> Result<(), Refusal> {
    let overlaps = |network, prefix| prefix >= SHORTEST_NETWORK && subnet.overlaps(network, prefix);
    let of_address = addresses.iter().find_map(|found| {
        let is_other = !ours.contains(&found.link) && overlaps(found.address, found.prefix);
        let link = name_of(found.link);
        is_other.then(|| format!("{}/{} of {link}", found.address, found.prefix))
    });
    let of_route = || {
        routes.iter().find_map(|route| {
            let is_own = route.link.is_some_and(|link| ours.contains(&link));
            let is_other = !is_own && overlaps(route.destination, route.prefix);
            let way = route.link.map_or("nowhere".to_owned(), &name_of);
            is_other.then(|| {
                let (to, prefix) = (route.destination, route.prefix);
                format!("the route to {to}/{prefix} through {way}")
            })
        })
    };
    match of_address.or_else(of_route) {
        Some(other) => {
            let message = format!("use {subnet}: it overlaps {other}");
            Err(refuse(RefusalKind::Foreign, message))
        }
        None => Ok(()),
    }
}

/// Makes what is missing. The rules come first, so that nothing is ever without them.
fn build<'a>(
    helper: &'a Helper,
    network: &mut Network,
    entry: &BridgeEntry,
    own: Own,
    undo: &mut Undo<'a>,
) -> Result<(), Refusal> {
    let (name, subnet) = (entry.name.as_str().to_owned(), entry.subnet);
    let wrong = |error: NetlinkError| failed(format!("make {name}"), &error);
    let had_rules = rules::exist()?;
    if !had_rules {
        undo.push("delete the rules", || {
            rules::delete(&mut Network::default()).map(drop)
        });
    }
    rules::enforce(helper, network, entry)?;
    let mut links = open()?;
    let mac = bridge_mac(subnet);
    let index = make(
        &mut links,
        &name,
        own.bridge,
        mac,
        Links::create_bridge,
        undo,
    )?;
    let settings = [
        (Ipv4Setting::Forwarding, 1),
        (Ipv4Setting::AcceptRedirects, 0),
        (Ipv4Setting::RpFilter, 1),
        (Ipv4Setting::ArpIgnore, 1),
    ];
    links.set_ipv4(index, &settings).map_err(wrong)?;
    match links.add_address(index, subnet.gateway(), subnet.prefix()) {
        Err(error) if error.errno != Errno::EXIST => return Err(wrong(error)),
        _ => {}
    }
    let (carrier, mac) = (carrier(&entry.name), carrier_mac(subnet));
    let carrier = make(
        &mut links,
        &carrier,
        own.carrier,
        mac,
        Links::create_dummy,
        undo,
    )?;
    links.set_master(carrier, Some(index)).map_err(wrong)?;
    links.set_up(carrier).map_err(wrong)?;
    links.set_up(index).map_err(wrong)
}

/// The bridge on record and its index; refused if none is recorded or it does not stand.
pub(crate) fn standing(helper: &Helper) -> Result<(BridgeEntry, u32), Refusal> {
    let entry = helper.ledger().bridge().cloned();
    let entry = entry.ok_or_else(|| refuse(RefusalKind::Unknown, "there is no bridge"))?;
    let name = entry.name.as_str();
    let wrong = |error: NetlinkError| failed(format!("find {name}"), &error);
    match open()?.find(name).map_err(wrong)? {
        Some(link) if link.alias.as_deref() == Some(marks::BRIDGE) => Ok((entry, link.index)),
        Some(_) => {
            let message = format!("use {name}: it is not the bridge that was made");
            Err(refuse(RefusalKind::Foreign, message))
        }
        None => Err(refuse(RefusalKind::Unknown, format!("{name} is gone"))),
    }
}

/// Removes every link with the bridge's mark, the rules, and what was changed for them. Gives
/// what was removed.
pub(crate) fn remove(helper: &Helper, network: &mut Network) -> Result<Vec<String>, Refusal> {
    let mut removed = Vec::new();
    nat::revert_uplinks(helper)?;
    resolver::revert(helper)?;
    let mut links = open()?;
    let wrong = |error: NetlinkError| failed("remove the bridge", &error);
    let entry = helper.ledger().bridge().cloned();
    for link in links.links().map_err(wrong)? {
        let is_begun = |entry: &BridgeEntry| {
            let (name, carrier) = (entry.name.as_str(), carrier(&entry.name));
            link.alias.is_none()
                && ((link.name == name && link.mac == Some(bridge_mac(entry.subnet)))
                    || (link.name == carrier && link.mac == Some(carrier_mac(entry.subnet))))
        };
        let is_ours = is_marked(&link) || entry.as_ref().is_some_and(is_begun);
        if is_ours {
            links.delete(link.index).map_err(wrong)?;
            removed.push(link.name);
        }
    }
    if rules::delete(network)? {
        removed.push("the tables banger of nft".to_owned());
    }
    helper.ledger().write_bridge(None)?;
    Ok(removed)
}

/// The index of the link `name`, made by `create` if it does not stand; marked, and without
/// IPv6 addresses.
fn make(
    links: &mut Links,
    name: &str,
    own: Option<Link>,
    mac: [u8; 6],
    create: fn(&mut Links, &str, [u8; 6]) -> Result<u32, NetlinkError>,
    undo: &mut Undo<'_>,
) -> Result<u32, Refusal> {
    let wrong = |error: NetlinkError| failed(format!("make {name}"), &error);
    let index = match own {
        Some(link) => link.index,
        None => {
            // Before it is made: the kernel may have made it and fail to say so.
            let made = name.to_owned();
            undo.push(format!("delete {name}"), move || delete_made(&made, mac));
            create(links, name, mac).map_err(wrong)?
        }
    };
    links.set_alias(index, marks::BRIDGE).map_err(wrong)?;
    match links.disable_ipv6_addresses(index) {
        Err(error) if error.errno != Errno::AFNOSUPPORT => Err(wrong(error)),
        _ => Ok(index),
    }
}

/// Deletes the link `name` if it is the one with this hardware address.
fn delete_made(name: &str, mac: [u8; 6]) -> Result<(), Refusal> {
    let wrong = |error: NetlinkError| failed(format!("delete {name}"), &error);
    let mut links = open()?;
    match links.find(name).map_err(wrong)? {
        Some(link) if link.mac == Some(mac) => links.delete(link.index).map_err(wrong),
        _ => Ok(()),
    }
}

/// A socket to the kernel's links.
pub(crate) fn open() -> Result<Links, Refusal> {
    Links::open().map_err(|errno| failed("open netlink", &errno))
}

#[cfg(test)]
mod tests;
