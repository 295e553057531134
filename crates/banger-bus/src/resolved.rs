//! systemd-resolved: one zone, and nothing else, is asked of one server behind one link.

use crate::message::Object;
use crate::wire::Writer;
use crate::{Bus, BusError};
use std::net::SocketAddrV4;

const MANAGER: Object<'_> = Object {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};
const NO_SUCH_LINK: &str = "org.freedesktop.resolve1.NoSuchLink";
/// `AF_INET`, as the kernel and so resolved count it.
const AF_INET: u32 = 2;

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
}
