//! Links, addresses and routes through rtnetlink: one request, one acknowledgement.
//!
//! The few messages needed are written here by hand; errors carry the kernel's own
//! explanation where it gives one (NETLINK_EXT_ACK).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::signals::last_errno;

const NLM_F_ACK_REQUEST: u16 = 0x5;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const HEADER: usize = 16;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{operation}{}", explanation.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was asked, as "add address".
    pub operation: &'static str,
    /// The kernel's own words, if it had any.
    pub explanation: Option<String>,
    /// The error.
    #[source]
    pub errno: Errno,
}

/// A socket to the kernel's routing tables, in the network namespace it was opened in.
#[derive(Debug)]
pub struct Links {
    socket: OwnedFd,
    sequence: u32,
}

impl Links {
    /// Opens the socket.
    pub fn open() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&socket, option)?;
        }
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The index of the link `name`.
    pub fn index_of(&self, name: &str) -> Result<u32, NetlinkError> {
        let failed = |errno| NetlinkError {
            operation: "find link",
            explanation: None,
            errno,
        };
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        rustix::net::netdevice::name_to_index(&socket, name).map_err(failed)
    }

    /// Sets link `index` up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP.unsigned_abs();
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        // struct ifinfomsg: family, pad, type, index, flags, change mask.
        message.bytes(&[0; 4]).u32(index).u32(up).u32(up);
        self.ask("set link up", message)
    }

    /// Adds an IPv4 address to link `index`.
    pub fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
        let mut message = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE_EXCL);
        // struct ifaddrmsg: family, prefix length, flags, scope (0 is the universe), index.
        message.bytes(&[AF_INET, prefix, 0, 0]).u32(index);
        message.attribute(libc::IFA_LOCAL, &address.octets());
        message.attribute(libc::IFA_ADDRESS, &address.octets());
        if prefix < 31 {
            message.attribute(libc::IFA_BROADCAST, &broadcast.octets());
        }
        self.ask("add address", message)
    }

    /// Adds the default IPv4 route through `gateway`, which a link must reach already.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWROUTE, NLM_F_CREATE_EXCL);
        // struct rtmsg: family, destination and source lengths, tos, table, protocol, scope, type, flags.
        message
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
            .u32(0);
        message.attribute(libc::RTA_GATEWAY, &gateway.octets());
        self.ask("add default route", message)
    }

    fn ask(&mut self, operation: &'static str, message: Message) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let failed = |(errno, explanation)| NetlinkError {
            operation,
            explanation,
            errno,
        };
        let bytes = message.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty()).map_err(|errno| failed((errno, None)))?;
        let mut answer = [0_u8; 8192];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                recv(&self.socket, &mut answer[..], RecvFlags::empty())
            })
            .map_err(|errno| failed((errno, None)))?;
            if let Some(result) = read_ack(&answer[..length], self.sequence) {
                return result.map_err(failed);
            }
        }
    }
}

/// `libc::AF_INET`, in the size that messages have it.
const AF_INET: u8 = 2;

fn set_option(socket: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose length is 4 bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            4,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    Ok(())
}

/// A request under construction: netlink header, fixed part, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self(Vec::with_capacity(64));
        // struct nlmsghdr: length and sequence are filled in at the end; port 0.
        message.u32(0).u16(kind).u16(NLM_F_ACK_REQUEST | flags);
        message.u32(0).u32(0);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// Appends an attribute of four bytes, which is all that is needed so far and needs no padding.
    fn attribute(&mut self, kind: u16, value: &[u8; 4]) {
        self.u16(8).u16(kind).bytes(value);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a message is under 100 bytes");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

type Refusal = (Errno, Option<String>);

/// Finds the acknowledgement of `sequence` in a datagram; `None` if it is about something else.
fn read_ack(datagram: &[u8], sequence: u32) -> Option<Result<(), Refusal>> {
    let word = |at: usize| -> Option<[u8; 4]> { datagram.get(at..at + 4)?.try_into().ok() };
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(datagram.get(6..8)?.try_into().ok()?);
    if u32::from_ne_bytes(word(8)?) != sequence || i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(word(HEADER)?);
    if code == 0 {
        return Some(Ok(()));
    }
    let has_attributes = flags & 0x200 != 0;
    // NETLINK_CAP_ACK cuts the echoed request to its header.
    let attributes = datagram.get(HEADER + 4 + HEADER..).unwrap_or(&[]);
    let explanation = has_attributes.then(|| find_message(attributes)).flatten();
    Some(Err((
        Errno::from_raw_os_error(code.wrapping_neg()),
        explanation,
    )))
}

/// The NLMSGERR_ATTR_MSG (1) among `attributes`.
fn find_message(mut attributes: &[u8]) -> Option<String> {
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == 1 {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    /// Runs `test` in a thread with a fresh network namespace; says so and returns where that is refused.
    fn in_namespace(test: fn()) {
        std::thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes, no file descriptor table.
            let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            if let Err(errno) = entered {
                eprintln!("skipped: no fresh network namespace ({errno}); needs root");
                return;
            }
            test();
        })
        .join()
        .unwrap();
    }

    fn routes() -> String {
        std::fs::read_to_string("/proc/thread-self/net/route").unwrap()
    }

    #[test]
    fn net_loopback_gets_address_and_default_route() {
        in_namespace(|| {
            let mut links = Links::open().unwrap();
            let lo = links.index_of("lo").unwrap();
            links.set_up(lo).unwrap();
            links
                .add_address(lo, Ipv4Addr::new(10, 9, 8, 7), 24)
                .unwrap();
            links.add_default_route(Ipv4Addr::new(10, 9, 8, 1)).unwrap();
            let default = routes()
                .lines()
                .find(|line| line.split_whitespace().nth(1) == Some("00000000"))
                .map(str::to_owned)
                .expect("a default route");
            assert!(default.contains("0108090A"), "{default}");
            std::net::TcpListener::bind("10.9.8.7:0").unwrap();
        });
    }

    #[test]
    fn net_refusals_carry_the_kernels_words() {
        in_namespace(|| {
            let mut links = Links::open().unwrap();
            let refused = links
                .add_default_route(Ipv4Addr::new(10, 9, 8, 1))
                .unwrap_err();
            assert_eq!(refused.errno, Errno::NETUNREACH);
            assert_eq!(
                refused.to_string(),
                "add default route: Nexthop has invalid gateway"
            );
            let lo = links.index_of("lo").unwrap();
            links
                .add_address(lo, Ipv4Addr::new(10, 9, 8, 7), 24)
                .unwrap();
            let again = links
                .add_address(lo, Ipv4Addr::new(10, 9, 8, 7), 24)
                .unwrap_err();
            assert_eq!(again.errno, Errno::EXIST);
            assert_eq!(links.index_of("nope0").unwrap_err().errno, Errno::NODEV);
        });
    }

    #[test]
    fn find_message_survives_any_bytes() {
        assert_eq!(find_message(&[1, 0, 1, 0, 9]), None);
        assert_eq!(find_message(&[0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(find_message(&[255, 255, 1, 0]), None);
        assert_eq!(
            find_message(&[7, 0, 1, 0, b'h', b'i', 0, 0]),
            Some("hi".to_owned())
        );
    }
}
