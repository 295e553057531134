//! A VM's tap: a port of the bridge behind which one address and one MAC address can be.

use banger_ids::{VmRef, guest_mac};
use banger_priv::{CreateTap, Refusal, RefusalKind, Reply, Tap};
use banger_sys::netlink::{Link, NetlinkError};
use banger_sys::{conntrack, tap};
use rustix::io::Errno;

use crate::entry::{TapEntry, VmEntry};
use crate::helper::{Helper, Outcome, done};
use crate::ops::reclaim::Swept;
use crate::ops::{bridge, marks, nat, rules};
use crate::refusal::{failed, refuse};
use crate::undo::{Undo, attempt};

/// Makes the tap, up, with its rules in force before; one that stands as asked is fine.
pub(crate) fn create_tap(helper: &Helper, asked: CreateTap) -> Outcome {
    let CreateTap { vm, address } = asked;
    let mut network = helper.network();
    let (bridge, bridge_index) = bridge::standing(helper)?;
    if !bridge.subnet.has_guest(address) {
        let message = format!(
            "make a tap for {vm}: {address} is no guest's in {}",
            bridge.subnet
        );
        return Err(refuse(RefusalKind::Invalid, message));
    }
    let mut entry = helper.ledger().entry_or_new(&vm)?;
    let before = entry.clone();
    let standing = marks::find_tap(&mut bridge::open()?, &vm)?;
    let tap = entry.tap.get_or_insert(TapEntry {
        address,
        has_nat: false,
    });
    if tap.address != address {
        let message = format!("make a tap for {vm}: it has one for {}", tap.address);
        return Err(refuse(RefusalKind::Exists, message));
    }
    rules::restore(helper, &mut network)?;
    let is_whole = |link: &Link| {
        let port = link
            .port
            .filter(|port| port.is_isolated && !port.is_learning);
        link.is_up && link.master == Some(bridge_index) && port.is_some()
    };
    if before.tap.is_none() || !standing.as_ref().is_some_and(is_whole) {
        attempt(|undo| {
            helper.ledger().write(entry.clone())?;
            undo.push(format!("restore the record of {vm}"), move || {
                helper.ledger().write(before)
            });
            if let Some(link) = standing {
                // Of a lost record, so that its owner may be another's uid by now; or changed.
                delete(link.index)?;
            }
            build(&entry, address, bridge_index, undo)
        })?;
    }
    let mac = guest_mac(address)
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    let name = vm.tap();
    done(Reply::Tap(Tap { name, mac }))
}

fn build(
    entry: &VmEntry,
    address: std::net::Ipv4Addr,
    bridge: u32,
    undo: &mut Undo<'_>,
) -> Result<(), Refusal> {
    let name = entry.vm.tap();
    let wrong = |error: NetlinkError| failed(format!("make {name}"), &error);
    let kernel = |errno: Errno| failed(format!("make {name}"), &errno);
    let mut links = bridge::open()?;
    // Gone with its descriptor, however this ends, until it is told to persist.
    let tap = tap::Tap::create(&name, entry.uid, entry.uid).map_err(kernel)?;
    let index = links.index_of(&name).map_err(wrong)?;
    links
        .set_alias(index, &marks::of_tap(&entry.vm))
        .map_err(wrong)?;
    match links.disable_ipv6_addresses(index) {
        Err(error) if error.errno != Errno::AFNOSUPPORT => return Err(wrong(error)),
        _ => {}
    }
    links.set_master(index, Some(bridge)).map_err(wrong)?;
    links.confine_port(index).map_err(wrong)?;
    let mac = guest_mac(address);
    links.add_port_mac(index, mac).map_err(wrong)?;
    // Each before it is done: the kernel may have done it and fail to say so.
    undo.push("forget its neighbour", move || {
        forget_neighbour(bridge, address)
    });
    links.add_neighbour(bridge, address, mac).map_err(wrong)?;
    let elements = rules::elements_of(entry);
    let added = elements.clone();
    undo.push("take it from the rules", move || rules::remove(&added));
    rules::add(&elements)?;
    links.set_up(index).map_err(wrong)?;
    tap.persist().map_err(kernel)
}

/// Removes the tap, its rules and what the host remembers of its connections. Gone already is
/// fine; of another generation is not.
pub(crate) fn remove_tap(helper: &Helper, vm: VmRef) -> Outcome {
    let mut network = helper.network();
    let taken = take_down(helper, &vm);
    rules::settle(helper, &mut network, taken)?;
    done(Reply::Nothing)
}

fn take_down(helper: &Helper, vm: &VmRef) -> Result<(), Refusal> {
    let entry = helper.ledger().entry(vm).ok();
    if let Some(link) = marks::find_tap(&mut bridge::open()?, vm)? {
        delete(link.index)?;
    }
    let Some((mut entry, mut tap)) = entry.and_then(|entry| Some((entry.clone(), entry.tap?)))
    else {
        return Ok(());
    };
    tap.has_nat = true;
    entry.tap = Some(tap.clone());
    rules::remove(&rules::elements_of(&entry))?;
    if let Ok((_, index)) = bridge::standing(helper) {
        forget_neighbour(index, tap.address)?;
    }
    let forgotten = conntrack::forget(tap.address);
    forgotten.map_err(|error| failed(format!("remove the tap of {vm}"), &error))?;
    helper.ledger().update(vm, |entry| entry.tap = None)?;
    nat::sync_uplinks(helper)
}

/// Removes taps with our mark of VMs that are neither in the ledger nor in `keep`.
pub(crate) fn reclaim(helper: &Helper, keep: &[VmRef]) -> Result<Swept, Refusal> {
    let _network = helper.network();
    let mut swept = Swept::default();
    let mut links = bridge::open()?;
    let wrong = |error: NetlinkError| failed("look for taps", &error);
    for link in links.links().map_err(wrong)? {
        let Some(vm) = marks::vm_of(&link) else {
            continue;
        };
        if keep.contains(&vm) || helper.ledger().entry(&vm).is_ok() {
            continue;
        }
        match links.delete(link.index) {
            Ok(()) => swept.removed.push(link.name),
            Err(error) => swept.left.push(format!("{}: {error}", link.name)),
        }
    }
    Ok(swept)
}

fn delete(index: u32) -> Result<(), Refusal> {
    let deleted = bridge::open()?.delete(index);
    deleted.map_err(|error| failed("delete a tap", &error))
}

fn forget_neighbour(bridge: u32, address: std::net::Ipv4Addr) -> Result<(), Refusal> {
    match bridge::open()?.remove_neighbour(bridge, address) {
        Err(error) if error.errno != Errno::NOENT => Err(failed("forget a neighbour", &error)),
        _ => Ok(()),
    }
}
