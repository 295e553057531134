//! Forgetting connections, so that who gets an address later inherits none of them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::net::netlink;

use crate::netlink::message::{Body, attribute};
use crate::netlink::{DUMP, NetlinkError, Request, Socket};

// NFNL_SUBSYS_CTNETLINK is the high byte; the low one is IPCTNL_MSG_CT_GET or _DELETE.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
/// `struct nfgenmsg`: family (AF_INET), version, resource.
const FIXED: [u8; 4] = [2, 0, 0, 0];

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;

/// Ends every tracked IPv4 connection to or from `address`; gives their number. It reads the host's
/// whole table.
pub fn forget(address: Ipv4Addr) -> Result<usize, NetlinkError> {
    let list = "list connections";
    let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(|errno| NetlinkError {
        operation: list,
        explanation: None,
        errno,
    })?;
    let request = Request::new(list, GET, DUMP, Body::default().bytes(&FIXED));
    let found = socket.get(&request, |body| Some(deletion(body, address)))?;
    let mut count = 0_usize;
    for body in found.into_iter().flatten() {
        match socket.ask(&Request::new("forget connection", DELETE, 0, body)) {
            Ok(()) => count = count.saturating_add(1),
            // It ended by itself.
            Err(error) if error.errno == Errno::NOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// The request that deletes the connection in `body`, if `address` has a part in it. The kernel's
/// own words are sent back; the id makes sure that it is this one and no successor.
fn deletion(body: &[u8], address: Ipv4Addr) -> Option<Body> {
    let find = |kind| attribute(body, FIXED.len(), kind);
    let original = find(ORIGINAL)?;
    let involved = [Some(original), find(REPLY)]
        .into_iter()
        .flatten()
        .filter_map(|tuple| attribute(tuple, 0, TUPLE_IP))
        .flat_map(|ip| [attribute(ip, 0, SOURCE), attribute(ip, 0, DESTINATION)])
        .any(|end| end == Some(&address.octets()));
    let request = Body::default().bytes(&FIXED);
    let request = [ID, ZONE]
        .into_iter()
        .fold(request, |request, kind| match find(kind) {
            Some(value) => request.attribute(kind, value),
            None => request,
        });
    involved.then(|| request.nested_bytes(ORIGINAL, original))
}
