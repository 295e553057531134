//! systemd-resolved: one zone, and nothing else, is asked of one server behind one link.

use crate::message::{Message, Object};
use crate::wire::Writer;
use crate::{Bus, BusError};
use std::net::{Ipv4Addr, SocketAddrV4};

const MANAGER: Object<'_> = Object {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};
const NO_SUCH_LINK: &str = "org.freedesktop.resolve1.NoSuchLink";
/// `AF_INET`, as the kernel and so resolved count it.
const AF_INET: u32 = 2;

/// What resolved does over a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRouting {
    /// The IPv4 servers it asks.
    pub servers: Vec<SocketAddrV4>,
    /// The domains it asks them for, without `~`; true: for routing only, not for searching.
    pub domains: Vec<(String, bool)>,
    /// Whether it asks them for names that no link is for.
    pub is_default_route: bool,
}

impl Bus {
    /// Makes resolved ask `server` for names in `zone` over link `ifindex`, and for nothing else; no
    /// LLMNR and no multicast DNS there. To be undone with [`Bus::revert_link`], also after
    /// an error. The order is such that no other name is asked over the link in between.
    pub fn route_zone(
        &mut self,
        ifindex: u32,
        zone: &str,
        server: SocketAddrV4,
    ) -> Result<(), BusError> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !(1..=63).contains(&zone.len()) || !zone.bytes().all(is_plain) {
            return Err(BusError::unfit("zone", zone));
        }
        self.begin();
        let link = || Writer::default().u32(ifindex);
        let domains = link().array(8, |list| list.align(8).str(zone).bool(true));
        let servers = link().array(8, |list| {
            let server_name = "";
            list.align(8)
                .u32(AF_INET)
                .array(1, |bytes| bytes.raw(&server.ip().octets()))
                .u16(server.port())
                .str(server_name)
        });
        let calls = [
            ("SetLinkDefaultRoute", "ib", link().bool(false)),
            ("SetLinkLLMNR", "is", link().str("no")),
            ("SetLinkMulticastDNS", "is", link().str("no")),
            ("SetLinkDomains", "ia(sb)", domains),
            ("SetLinkDNSEx", "ia(iayqs)", servers),
        ];
        for (member, signature, body) in calls {
            self.call(&MANAGER, member, signature, body)?;
        }
        Ok(())
    }

    /// Makes resolved forget what was set for link `ifindex`. A link that is gone is fine.
    pub fn revert_link(&mut self, ifindex: u32) -> Result<(), BusError> {
        self.begin();
        let body = Writer::default().u32(ifindex);
        match self.call(&MANAGER, "RevertLink", "i", body) {
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_LINK => Ok(()),
            other => other.map(drop),
        }
    }

    /// Reads back what resolved does over link `ifindex`.
    pub fn link_routing(&mut self, ifindex: u32) -> Result<LinkRouting, BusError> {
        self.begin();
        let found = self.call(&MANAGER, "GetLink", "i", Writer::default().u32(ifindex))?;
        let link = Object {
            path: found.body("o")?.str()?,
            interface: "org.freedesktop.resolve1.Link",
            ..MANAGER
        };
        let servers = read_servers(&self.property(&link, "DNSEx")?)?;
        let domains = read_domains(&self.property(&link, "Domains")?)?;
        let default = self.property(&link, "DefaultRoute")?;
        Ok(LinkRouting {
            servers,
            domains,
            is_default_route: default.body("v")?.variant("b")?.bool()?,
        })
    }
}

/// The IPv4 servers of a `DNSEx` property; others cannot be ours.
fn read_servers(reply: &Message) -> Result<Vec<SocketAddrV4>, BusError> {
    let mut list = reply.body("v")?.variant("a(iayqs)")?.array(8)?;
    let mut servers = Vec::new();
    while !list.is_empty() {
        list.align(8)?;
        let family = list.u32()?;
        let length = list.length()?;
        let address = <[u8; 4]>::try_from(list.take(length)?);
        let port = list.u16()?;
        list.str()?;
        if let (AF_INET, Ok(address)) = (family, address) {
            // 0 is how resolved says that none was set.
            let port = if port == 0 { 53 } else { port };
            servers.push(SocketAddrV4::new(Ipv4Addr::from(address), port));
        }
    }
    Ok(servers)
}

fn read_domains(reply: &Message) -> Result<Vec<(String, bool)>, BusError> {
    let mut list = reply.body("v")?.variant("a(sb)")?.array(8)?;
    let mut domains = Vec::new();
    while !list.is_empty() {
        list.align(8)?;
        domains.push((list.str()?.to_owned(), list.bool()?));
    }
    Ok(domains)
}
