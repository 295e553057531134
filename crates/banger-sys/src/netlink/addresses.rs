//! IPv4 addresses, routes and neighbours.

use std::net::Ipv4Addr;

use super::links::{AF_INET, Links, neighbour_body};
use super::message::{Body, array_at, attribute, u32_at};
use super::{CREATE, DUMP, EXCLUSIVE, NetlinkError, REPLACE, Request};

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS_FIXED: usize = 8;
/// `struct rtmsg`: family, destination and source lengths, tos, table, protocol, scope, type, flags.
const ROUTE_FIXED: usize = 12;

/// An IPv4 address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// How many of its bits name the network.
    pub prefix: u8,
}

/// An IPv4 route of any table, those to the machine's own addresses included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; the bits after the prefix are 0.
    pub destination: Ipv4Addr,
    /// How many bits of the destination count; 0 is a default route.
    pub prefix: u8,
    /// The index of the link it leads through (the first of several); none for blackholes.
    pub link: Option<u32>,
    /// The routing table: 254 is the main one, 255 has the machine's own addresses.
    pub table: u32,
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

impl Links {
    /// Adds an IPv4 address to link `index`. EXIST if the link has it.
    pub fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits(prefix));
        let mut body = Body::default()
            // Flags 0, scope 0: the universe.
            .bytes(&[AF_INET, prefix, 0, 0])
            .u32(index)
            .attribute(libc::IFA_LOCAL, &address.octets())
            .attribute(libc::IFA_ADDRESS, &address.octets());
        if prefix < 31 {
            body = body.attribute(libc::IFA_BROADCAST, &broadcast.octets());
        }
        let flags = CREATE | EXCLUSIVE;
        self.0
            .ask(&Request::new("add address", libc::RTM_NEWADDR, flags, body))
    }

    /// Every IPv4 address of every link.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let body = Body::default().bytes(&[AF_INET, 0, 0, 0]).u32(0);
        let request = Request::new("list addresses", libc::RTM_GETADDR, DUMP, body);
        self.0.get(&request, |body| {
            let find = |kind| attribute(body, ADDRESS_FIXED, kind);
            let address = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
            Some(Address {
                link: u32_at(body, 4)?,
                address: Ipv4Addr::from(array_at::<4>(address, 0)?),
                prefix: *body.get(1)?,
            })
        })
    }

    /// Adds the default IPv4 route through `gateway`, which a link must reach already.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let body = Body::default()
            .bytes(&[
                AF_INET,
                0,
                0,
                0,
                libc::RT_TABLE_MAIN,
                libc::RTPROT_BOOT,
                libc::RT_SCOPE_UNIVERSE,
                libc::RTN_UNICAST,
            ])
            .u32(0)
            .attribute(libc::RTA_GATEWAY, &gateway.octets());
        let flags = CREATE | EXCLUSIVE;
        self.0.ask(&Request::new(
            "add default route",
            libc::RTM_NEWROUTE,
            flags,
            body,
        ))
    }

    /// Every IPv4 route of every table.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let body = Body::default()
            .bytes(&[AF_INET, 0, 0, 0, 0, 0, 0, 0])
            .u32(0);
        let request = Request::new("list routes", libc::RTM_GETROUTE, DUMP, body);
        self.0.get(&request, read_route)
    }

    /// Tells the machine that `address` on link `index` is `mac`, so that it need not ask and
    /// cannot be told otherwise. The link must be up; the entry goes when it is set down.
    pub fn add_neighbour(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let body = neighbour_body(AF_INET, index, libc::NUD_PERMANENT, 0)
            .attribute(libc::NDA_DST, &address.octets())
            .attribute(libc::NDA_LLADDR, &mac);
        let flags = CREATE | REPLACE;
        self.0.ask(&Request::new(
            "add neighbour",
            libc::RTM_NEWNEIGH,
            flags,
            body,
        ))
    }

    /// Forgets the neighbour `address` on link `index`. NOENT if there is none.
    pub fn remove_neighbour(&mut self, index: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let body = neighbour_body(AF_INET, index, 0, 0).attribute(libc::NDA_DST, &address.octets());
        self.0.ask(&Request::new(
            "remove neighbour",
            libc::RTM_DELNEIGH,
            0,
            body,
        ))
    }
}

fn read_route(body: &[u8]) -> Option<Route> {
    let find = |kind| attribute(body, ROUTE_FIXED, kind);
    let number = |kind| find(kind).and_then(|value| u32_at(value, 0));
    let first_hop = || {
        // struct rtnexthop: length, flags, hops, index.
        find(libc::RTA_MULTIPATH).and_then(|hops| u32_at(hops, 4))
    };
    let destination = match find(libc::RTA_DST) {
        Some(value) => array_at::<4>(value, 0)?,
        None => [0; 4],
    };
    Some(Route {
        destination: Ipv4Addr::from(destination),
        prefix: *body.get(1)?,
        link: number(libc::RTA_OIF).or_else(first_hop),
        table: number(libc::RTA_TABLE).or_else(|| body.get(4).copied().map(u32::from))?,
    })
}
