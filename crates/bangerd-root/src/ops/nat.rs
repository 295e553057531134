//! The way out of a VM: its elements in the rules, and forwarding on the links that lead out.
//!
//! A guest's packets come in through the bridge, which forwards; the answers come in through an
//! uplink, which must forward too. On a host that is no router that is switched on for the uplinks
//! alone, while a VM needs it, and rules keep others from using it.

use banger_ids::VmRef;
use banger_priv::{Refusal, RefusalKind, Reply};
use banger_sys::dirs::Dir;
use banger_sys::netlink::{Ipv4Setting, Link, Links, NetlinkError};

use crate::helper::{Helper, Outcome, done};
use crate::ops::{bridge, marks, rules};
use crate::policy::SHORTEST_NETWORK;
use crate::refusal::{failed, refuse};
use crate::undo::attempt;

/// The table of routes that counts when nothing else is said.
const MAIN: u32 = 254;

/// Lets the VM out. Its address is the one that its tap was made for.
pub(crate) fn ensure_nat(helper: &Helper, vm: VmRef) -> Outcome {
    let mut network = helper.network();
    let entry = helper.ledger().entry(&vm)?;
    let no_tap = || refuse(RefusalKind::Unknown, format!("let {vm} out: it has no tap"));
    let tap = entry.tap.as_ref().ok_or_else(no_tap)?;
    let address = tap.address;
    bridge::standing(helper)?;
    marks::find_tap(&mut bridge::open()?, &vm)?.ok_or_else(no_tap)?;
    rules::restore(helper, &mut network)?;
    attempt(|undo| {
        let before = entry.clone();
        set(helper, &vm, true)?;
        undo.push("revert uplinks", || sync_uplinks(helper));
        undo.push(format!("restore the record of {vm}"), move || {
            helper.ledger().write(before)
        });
        if !tap.has_nat {
            undo.push("take it from the rules", move || {
                rules::remove(&rules::nat_of(address))
            });
        }
        rules::add(&rules::nat_of(address))?;
        sync_uplinks(helper)
    })?;
    done(Reply::Nothing)
}

/// Ends that.
pub(crate) fn clear_nat(helper: &Helper, vm: VmRef) -> Outcome {
    let mut network = helper.network();
    let entry = helper.ledger().entry(&vm)?;
    if let Some(tap) = entry.tap {
        let cleared = rules::remove(&rules::nat_of(tap.address))
            .and_then(|()| set(helper, &vm, false))
            .and_then(|()| sync_uplinks(helper));
        rules::settle(helper, &mut network, cleared)?;
    }
    done(Reply::Nothing)
}

fn set(helper: &Helper, vm: &VmRef, has_nat: bool) -> Result<(), Refusal> {
    let change = |entry: &mut crate::entry::VmEntry| {
        if let Some(tap) = &mut entry.tap {
            tap.has_nat = has_nat;
        }
    };
    helper.ledger().update(vm, change).map(drop)
}

/// Has exactly the links forward that guests need for it. To be called with the right to change
/// links, after the ledger says who is let out.
pub(crate) fn sync_uplinks(helper: &Helper) -> Result<(), Refusal> {
    let is_needed = {
        let entries = helper.ledger().entries();
        let mut taps = entries.iter().filter_map(|entry| entry.tap.as_ref());
        taps.any(|tap| tap.has_nat)
    };
    if is_needed && !is_router()? {
        set_uplinks(helper, &ways_out()?)
    } else {
        revert_uplinks(helper)
    }
}

/// Has every link as it was.
pub(crate) fn revert_uplinks(helper: &Helper) -> Result<(), Refusal> {
    set_uplinks(helper, &[])
}

fn set_uplinks(helper: &Helper, wanted: &[Link]) -> Result<(), Refusal> {
    let Some(entry) = helper.ledger().bridge().cloned() else {
        return Ok(());
    };
    let mut links = bridge::open()?;
    for name in &entry.uplinks {
        if wanted.iter().any(|link| link.name == *name) {
            continue;
        }
        let wrong = |error: NetlinkError| failed(format!("end forwarding on {name}"), &error);
        // Somebody made this host a router since: then it is not for us to end.
        let is_ours = !is_router()?;
        if let Some(link) = links.find(name).map_err(wrong)?.filter(|_| is_ours) {
            forward(&mut links, link.index, 0).map_err(wrong)?;
        }
        rules::remove(&rules::uplink(name).into_iter().collect::<Vec<_>>())?;
        let mut ledger = helper.ledger();
        ledger.update_bridge(|entry| entry.uplinks.retain(|other| other != name))?;
    }
    for link in wanted {
        let is_recorded = entry.uplinks.contains(&link.name);
        if link.forwards_ipv4 {
            continue;
        }
        if !is_recorded {
            let mut ledger = helper.ledger();
            ledger.update_bridge(|entry| entry.uplinks.push(link.name.clone()))?;
        }
        rules::add(&rules::uplink(&link.name).into_iter().collect::<Vec<_>>())?;
        forward(&mut links, link.index, 1)
            .map_err(|error| failed(format!("begin forwarding on {}", link.name), &error))?;
    }
    Ok(())
}

fn forward(links: &mut Links, index: u32, value: u32) -> Result<(), NetlinkError> {
    links.set_ipv4(index, &[(Ipv4Setting::Forwarding, value)])
}

/// The links of default routes, and of those that VPNs put in their place.
fn ways_out() -> Result<Vec<Link>, Refusal> {
    let mut links = bridge::open()?;
    let wrong = |error: NetlinkError| failed("find the way out", &error);
    let routes = links.routes().map_err(wrong)?;
    let mut all = links.links().map_err(wrong)?;
    all.retain(|link| {
        routes.iter().any(|route| {
            let is_way_out = route.table == MAIN && route.prefix < SHORTEST_NETWORK;
            is_way_out && route.link == Some(link.index)
        })
    });
    Ok(all)
}

/// Whether somebody has every link forward.
fn is_router() -> Result<bool, Refusal> {
    let text = Dir::open("/proc/sys/net/ipv4").and_then(|dir| dir.read("ip_forward", 16));
    let text = text.map_err(|error| failed("see whether this host is a router", &error))?;
    Ok(text.trim_ascii() != b"0")
}
