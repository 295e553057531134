//! A host with a bridge and an uplink, and guests: the ends of taps that a VMM would hold.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use banger_sys::netlink::{Ipv4Setting, Links};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};

use crate::frame::{IPV4, Mac, ethernet, ipv4, udp};

/// `struct virtio_net_hdr`, before every frame.
const HEADER: usize = 10;
pub(crate) const BRIDGE: &str = "br-fc";
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
pub(crate) const GATEWAY_MAC: Mac = [6, 0xfc, 172, 16, 0, 1];
/// Somebody on the other side of the uplink.
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const WORLD_MAC: Mac = [2, 0, 0, 0, 0, 254];
pub(crate) const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) fn open_tun() -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open("/dev/net/tun", flags, Mode::empty()).unwrap()
}

/// Attaches `tun` to the tap `name` as Firecracker does. It is made if there is none.
pub(crate) fn attach(tun: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq of 40 bytes.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap());
    }
    Ok(())
}

/// One end of a tap.
#[derive(Debug)]
pub(crate) struct Guest {
    tap: OwnedFd,
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) address: Ipv4Addr,
}

impl Guest {
    fn new(links: &mut Links, name: &str, mac: Mac, address: Ipv4Addr) -> Self {
        // Made here and held: its carrier is there before anybody looks.
        let tap = open_tun();
        attach(&tap, name).unwrap();
        Self {
            tap,
            index: links.index_of(name).unwrap(),
            name: name.to_owned(),
            mac,
            address,
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        let bytes = [&[0; HEADER], frame].concat();
        assert_eq!(write(&self.tap, &bytes), Ok(bytes.len()));
    }

    /// Sends `text` from port 4000 to a UDP port of `to` by way of the gateway.
    pub(crate) fn send_udp(&self, to: Ipv4Addr, port: u16, text: &[u8]) {
        let packet = ipv4(self.address, to, 17, &udp(4000, port, text));
        self.send(&ethernet(GATEWAY_MAC, self.mac, IPV4, &packet));
    }

    /// What has come.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match read(&self.tap, &mut buffer) {
                Ok(length) => frames.push(buffer[HEADER..length].to_vec()),
                Err(Errno::AGAIN) => return frames,
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    pub(crate) fn got(&self, text: &[u8]) -> bool {
        self.received()
            .iter()
            .any(|frame| crate::frame::contains(frame, text))
    }
}

/// The host's links.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) links: Links,
    pub(crate) bridge: u32,
    pub(crate) uplink: Guest,
    _carrier: Guest,
}

impl Host {
    /// A host with bridge and uplink, forwarding on those two.
    pub(crate) fn new() -> Self {
        let mut links = Links::open().unwrap();
        let uplink = Guest::new(&mut links, "wan0", WORLD_MAC, WORLD);
        links.set_up(uplink.index).unwrap();
        links.add_address(uplink.index, UPLINK, 24).unwrap();
        links.add_default_route(WORLD).unwrap();
        links.add_neighbour(uplink.index, WORLD, WORLD_MAC).unwrap();
        let bridge = links.create_bridge(BRIDGE, GATEWAY_MAC).unwrap();
        links.add_address(bridge, GATEWAY, 24).unwrap();
        // A bridge that has a port with carrier when it is set up sends from then on; else only
        // when the kernel gets round to it.
        let carrier = Guest::new(&mut links, "carrier0", [2, 0, 0, 0, 0, 1], GATEWAY);
        links.set_master(carrier.index, Some(bridge)).unwrap();
        links.set_up(carrier.index).unwrap();
        links.set_up(bridge).unwrap();
        for index in [bridge, uplink.index] {
            links
                .set_ipv4(index, &[(Ipv4Setting::Forwarding, 1)])
                .unwrap();
        }
        Self {
            links,
            bridge,
            uplink,
            _carrier: carrier,
        }
    }

    /// A guest at `172.16.0.LAST`, at a confined port or at one that may do what it likes.
    pub(crate) fn guest(&mut self, last: u8, is_confined: bool) -> Guest {
        let address = Ipv4Addr::new(172, 16, 0, last);
        let mac = [6, 0xfc, 172, 16, 0, last];
        let links = &mut self.links;
        let guest = Guest::new(links, &format!("tap-{last:08x}"), mac, address);
        links.set_master(guest.index, Some(self.bridge)).unwrap();
        if is_confined {
            links.confine_port(guest.index).unwrap();
        }
        links.add_port_mac(guest.index, mac).unwrap();
        links.set_up(guest.index).unwrap();
        links.add_neighbour(self.bridge, address, mac).unwrap();
        guest
    }

    /// Answers what the uplink got last, with ports and addresses turned round.
    pub(crate) fn answer(&self, asked: &[u8], text: &[u8]) {
        let port = |at: usize| u16::from_be_bytes([asked[at], asked[at + 1]]);
        let packet = ipv4(
            WORLD,
            crate::frame::source_of(asked),
            17,
            &udp(port(36), port(34), text),
        );
        let to: Mac = asked[6..12].try_into().unwrap();
        self.uplink.send(&ethernet(to, WORLD_MAC, IPV4, &packet));
    }
}
