//! Links: bridges, their ports, and what the kernel knows of each.

use rustix::io::Errno;

use super::message::{Body, array_at, attribute, text, u32_at};
use super::{CREATE, DUMP, EXCLUSIVE, NetlinkError, REPLACE, Request, Socket};

/// `libc::AF_INET` and its like, in the size that messages have them.
pub(super) const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
/// `struct ifinfomsg`: family, pad, type, index, flags, change mask.
const LINK_FIXED: usize = 16;
const UP: u32 = libc::IFF_UP.unsigned_abs();
/// IFF_LOWER_UP, which `libc` has only as an ioctl's short flags.
const CARRIER: u32 = 1 << 16;

// linux/if_link.h: IFLA_BR_* and IFLA_BRPORT_*, IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE.
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;
const PORT_LEARNING: u16 = 8;
const PORT_UNICAST_FLOOD: u16 = 9;
const PORT_MULTICAST_FLOOD: u16 = 27;
const PORT_BROADCAST_FLOOD: u16 = 30;
const PORT_ISOLATED: u16 = 33;
const PORT_LOCKED: u16 = 39;
const INET_CONF: u16 = 1;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, which no later link of this network namespace gets by chance soon.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it, as "bridge", "tun", "dummy"; hardware has none.
    pub kind: Option<String>,
    /// The text that was put on it.
    pub alias: Option<String>,
    /// The index of the bridge (or bond, or VRF) it is a port of.
    pub master: Option<u32>,
    /// Its own hardware address.
    pub mac: Option<[u8; 6]>,
    /// Whether it was set up.
    pub is_up: bool,
    /// Whether something is at its other end.
    pub has_carrier: bool,
    /// Whether IPv4 packets that come in through it are passed on.
    pub forwards_ipv4: bool,
    /// What it may do as port of a bridge.
    pub port: Option<Port>,
}

/// What a port of a bridge may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Frames do not pass between it and other isolated ports.
    pub is_isolated: bool,
    /// Only frames from addresses that were put on it by hand come in. Needs Linux 5.18.
    pub is_locked: bool,
    /// The bridge believes source addresses that it sees here.
    pub is_learning: bool,
    /// Frames to addresses nobody knows go out here.
    pub is_flooded: bool,
}

/// A setting of one link, as `/proc/sys/net/ipv4/conf/LINK` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv4Setting {
    /// Pass on packets that come in through it.
    Forwarding,
    /// Believe ICMP redirects.
    AcceptRedirects,
    /// 1: drop packets whose source is not reached through it.
    RpFilter,
    /// 1: answer ARP only for addresses of the link itself.
    ArpIgnore,
}

/// A socket to the kernel's links, addresses and routes.
#[derive(Debug)]
pub struct Links(pub(super) Socket);

impl Links {
    /// Opens the socket.
    pub fn open() -> Result<Self, Errno> {
        Socket::open(None).map(Self)
    }

    /// The link `name`, if there is one.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let body = link_body(0).link_name(libc::IFLA_IFNAME, name);
        let request = Request::new("find link", libc::RTM_GETLINK, 0, body);
        match self.0.get(&request, read_link) {
            Ok(mut links) => Ok(links.pop()),
            Err(error) if error.errno == Errno::NODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of the link `name`; NODEV if there is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let link = self.find(name)?.ok_or(NetlinkError {
            operation: "find link",
            explanation: None,
            errno: Errno::NODEV,
        })?;
        Ok(link.index)
    }

    /// Every link.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::new("list links", libc::RTM_GETLINK, DUMP, link_body(0));
        self.0.get(&request, read_link)
    }

    /// Makes a bridge, down, that has its own hardware address and leaves multicast alone, and
    /// gives its index. EXIST if the name is taken. It has no alias yet: the kernel takes none here.
    pub fn create_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<u32, NetlinkError> {
        let settings = Body::default().attribute(BRIDGE_MULTICAST_SNOOPING, &[0]);
        let info = Body::default()
            .text(libc::IFLA_INFO_KIND, "bridge")
            .nested(libc::IFLA_INFO_DATA, settings);
        self.create("create bridge", name, mac, info)
    }

    /// Makes a dummy link, down, and gives its index. Up, it always has a carrier.
    pub fn create_dummy(&mut self, name: &str, mac: [u8; 6]) -> Result<u32, NetlinkError> {
        let info = Body::default().text(libc::IFLA_INFO_KIND, "dummy");
        self.create("create dummy link", name, mac, info)
    }

    fn create(
        &mut self,
        operation: &'static str,
        name: &str,
        mac: [u8; 6],
        info: Body,
    ) -> Result<u32, NetlinkError> {
        let body = link_body(0)
            .link_name(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &mac)
            .nested(libc::IFLA_LINKINFO, info);
        let flags = CREATE | EXCLUSIVE;
        self.0
            .ask(&Request::new(operation, libc::RTM_NEWLINK, flags, body))?;
        self.index_of(name)
    }

    /// Deletes link `index`, with its addresses and neighbours. Ports of a bridge stay.
    pub fn delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        let body = link_body(index);
        self.0
            .ask(&Request::new("delete link", libc::RTM_DELLINK, 0, body))
    }

    /// Sets link `index` up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set("set link up", state_body(index, UP))
    }

    /// Sets link `index` down.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set("set link down", state_body(index, 0))
    }

    /// Puts `alias` (at most 255 bytes) on link `index`.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        // Without a NUL: an empty value takes the alias off.
        let body = link_body(index).attribute(libc::IFLA_IFALIAS, alias.as_bytes());
        self.set("set link alias", body)
    }

    /// Makes link `index` a port of the bridge `master`, or of nothing.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        let master = master.unwrap_or(0).to_ne_bytes();
        let body = link_body(index).attribute(libc::IFLA_MASTER, &master);
        self.set("set link master", body)
    }

    /// Lets port `index` of a bridge exchange frames with the bridge itself only, and only for
    /// hardware addresses that [`Self::add_port_mac`] puts on it.
    pub fn confine_port(&mut self, index: u32) -> Result<(), NetlinkError> {
        let settings = [
            (PORT_ISOLATED, 1),
            (PORT_LOCKED, 1),
            (PORT_LEARNING, 0),
            (PORT_UNICAST_FLOOD, 0),
            (PORT_MULTICAST_FLOOD, 0),
            (PORT_BROADCAST_FLOOD, 0),
        ];
        let settings = settings
            .into_iter()
            .fold(Body::default(), |body, (kind, value)| {
                body.attribute(kind, &[value])
            });
        let body = family_body(AF_BRIDGE, index).nested(libc::IFLA_PROTINFO, settings);
        self.set("confine bridge port", body)
    }

    /// Tells the bridge that `mac` is at its port `index`, for as long as the link is a port.
    pub fn add_port_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        // NOARP is a static entry; a PERMANENT one would be an address of the bridge itself.
        let body = neighbour_body(AF_BRIDGE, index, libc::NUD_NOARP, libc::NTF_MASTER)
            .attribute(libc::NDA_LLADDR, &mac);
        let request = Request::new(
            "add address to bridge port",
            libc::RTM_NEWNEIGH,
            CREATE | REPLACE,
            body,
        );
        self.0.ask(&request)
    }

    /// Sets `settings` of link `index`. Unlike a write to /proc, turning on forwarding changes
    /// nothing else.
    pub fn set_ipv4(
        &mut self,
        index: u32,
        settings: &[(Ipv4Setting, u32)],
    ) -> Result<(), NetlinkError> {
        let settings = settings
            .iter()
            .fold(Body::default(), |body, (kind, value)| {
                body.attribute(ipv4_setting(*kind), &value.to_ne_bytes())
            });
        let inet = Body::default().nested(INET_CONF, settings);
        let family = Body::default().nested(u16::from(AF_INET), inet);
        let body = link_body(index).nested(libc::IFLA_AF_SPEC, family);
        self.set("set IPv4 of link", body)
    }

    /// Keeps link `index` from giving itself IPv6 addresses when it comes up. AFNOSUPPORT where the
    /// kernel has no IPv6.
    pub fn disable_ipv6_addresses(&mut self, index: u32) -> Result<(), NetlinkError> {
        let inet6 = Body::default().attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
        let family = Body::default().nested(10, inet6);
        let body = link_body(index).nested(libc::IFLA_AF_SPEC, family);
        self.set("set IPv6 address mode of link", body)
    }

    fn set(&mut self, operation: &'static str, body: Body) -> Result<(), NetlinkError> {
        self.0
            .ask(&Request::new(operation, libc::RTM_SETLINK, 0, body))
    }
}

fn link_body(index: u32) -> Body {
    family_body(0, index)
}

fn family_body(family: u8, index: u32) -> Body {
    let fixed = Body::default().bytes(&[family, 0, 0, 0]).u32(index);
    fixed.u32(0).u32(0)
}

fn state_body(index: u32, flags: u32) -> Body {
    Body::default().u32(0).u32(index).u32(flags).u32(UP)
}

/// `struct ndmsg`: family, pads, index, state, flags, type.
pub(super) fn neighbour_body(family: u8, index: u32, state: u16, flags: u8) -> Body {
    Body::default()
        .bytes(&[family, 0, 0, 0])
        .u32(index)
        .bytes(&state.to_ne_bytes())
        .bytes(&[flags, 0])
}

/// IPV4_DEVCONF_* of linux/ip.h.
fn ipv4_setting(setting: Ipv4Setting) -> u16 {
    match setting {
        Ipv4Setting::Forwarding => 1,
        Ipv4Setting::AcceptRedirects => 4,
        Ipv4Setting::RpFilter => 8,
        Ipv4Setting::ArpIgnore => 19,
    }
}

fn read_link(body: &[u8]) -> Option<Link> {
    let find = |kind| attribute(body, LINK_FIXED, kind);
    let flags = u32_at(body, 8)?;
    let info = find(libc::IFLA_LINKINFO).unwrap_or(&[]);
    let is_port =
        attribute(info, 0, libc::IFLA_INFO_SLAVE_KIND).is_some_and(|kind| text(kind) == "bridge");
    let inet = find(libc::IFLA_AF_SPEC)
        .and_then(|families| attribute(families, 0, u16::from(AF_INET)))
        .and_then(|inet| attribute(inet, 0, INET_CONF));
    Some(Link {
        index: u32_at(body, 4)?,
        name: text(find(libc::IFLA_IFNAME)?),
        kind: attribute(info, 0, libc::IFLA_INFO_KIND).map(text),
        alias: find(libc::IFLA_IFALIAS).map(text),
        master: find(libc::IFLA_MASTER).and_then(|value| u32_at(value, 0)),
        mac: find(libc::IFLA_ADDRESS)
            .filter(|value| value.len() == 6)
            .and_then(|value| array_at(value, 0)),
        is_up: flags & UP != 0,
        has_carrier: flags & CARRIER != 0,
        // An array of u32, the first of which is forwarding.
        forwards_ipv4: inet.and_then(|conf| u32_at(conf, 0)) == Some(1),
        port: attribute(info, 0, libc::IFLA_INFO_SLAVE_DATA)
            .filter(|_| is_port)
            .map(read_port),
    })
}

fn read_port(data: &[u8]) -> Port {
    let is_set = |kind| attribute(data, 0, kind).is_some_and(|value| value != [0]);
    Port {
        is_isolated: is_set(PORT_ISOLATED),
        is_locked: is_set(PORT_LOCKED),
        is_learning: is_set(PORT_LEARNING),
        is_flooded: is_set(PORT_UNICAST_FLOOD)
            || is_set(PORT_MULTICAST_FLOOD)
            || is_set(PORT_BROADCAST_FLOOD),
    }
}
