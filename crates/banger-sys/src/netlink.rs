//! Netlink: one request, its answers, one acknowledgement.
//!
//! The few messages needed are written here by hand; errors carry the kernel's own
//! explanation where it gives one (NETLINK_EXT_ACK). A socket belongs to the network
//! namespace it was opened in, and hears nobody but the kernel.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod addresses;
mod links;
pub(crate) mod message;

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv,
    send, socket_with,
};

use crate::signals::last_errno;
pub use addresses::{Address, Route};
pub use links::{Ipv4Setting, Link, Links, Port};
use message::{Body, HEADER, Message, attribute, split_message, text, u32_at};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
const DUMP_INTERRUPTED: u16 = 0x10;
/// In an acknowledgement: attributes follow.
const ACK_ATTRIBUTES: u16 = 0x200;
/// NLMSGERR_ATTR_MSG.
const ACK_TEXT: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Room for any one datagram of a dump.
const ROOM: usize = 32 << 10;
/// How often a list is asked for again that changed while it was read.
const DUMP_TRIES: u32 = 8;

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

type Refusal = (Errno, Option<String>);

fn unexplained(errno: Errno) -> Refusal {
    (errno, None)
}

/// A request: what it is for, its kind, its flags beside REQUEST, and what it says.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) operation: &'static str,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Body,
}

impl Request {
    pub(crate) fn new(operation: &'static str, kind: u16, flags: u16, body: Body) -> Self {
        Self {
            operation,
            kind,
            flags,
            body,
        }
    }

    fn failed(&self, (errno, explanation): Refusal) -> NetlinkError {
        NetlinkError {
            operation: self.operation,
            explanation,
            errno,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket to `protocol`; `None` is NETLINK_ROUTE.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let fd = open_socket(protocol)?;
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            set_option(&fd, option)?;
        }
        // A connected socket gets nothing from other processes.
        connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Asks for something to be done.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<(), NetlinkError> {
        self.get(request, |_| Some(())).map(drop)
    }

    /// Asks and gives the answers as `parse` reads them. An answer it cannot read is BADMSG.
    pub(crate) fn get<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 1..DUMP_TRIES {
            match self.exchange(request, &parse) {
                // A dump from which something may be missing.
                Err((Errno::INTR, _)) => {}
                result => return result.map_err(|refusal| request.failed(refusal)),
            }
        }
        self.exchange(request, &parse)
            .map_err(|refusal| request.failed(refusal))
    }

    fn exchange<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let sequence = self.next_sequence();
        // A dump ends with DONE, everything else with an acknowledgement that must be asked for.
        let dump = request.flags & DUMP == DUMP;
        let flags = REQUEST | request.flags | if dump { 0 } else { ACK };
        self.send(&request.body.message(request.kind, flags, sequence)?)?;
        let (mut answers, mut whole, mut room) = (Vec::new(), true, vec![0; ROOM]);
        loop {
            let mut datagram = receive(&self.fd, &mut room).map_err(unexplained)?;
            while let Some(message) = split_message(&mut datagram) {
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & DUMP_INTERRUPTED == 0;
                if let Some(outcome) = outcome(&message) {
                    outcome?;
                    return if whole {
                        Ok(answers)
                    } else {
                        Err(unexplained(Errno::INTR))
                    };
                }
                answers.push(parse(message.body).ok_or(unexplained(Errno::BADMSG))?);
            }
        }
    }

    /// Sends `requests` as one transaction between `begin` and `end` (two kinds of message with one
    /// body); all are done or, with the first one's error, none.
    pub(crate) fn transact(
        &mut self,
        frame: (u16, u16, &Body),
        requests: &[Request],
    ) -> Result<(), NetlinkError> {
        let whole = Request::new("commit", 0, 0, Body::default());
        let failed = |refusal| whole.failed(refusal);
        let (begin, end, body) = frame;
        let first = self.next_sequence();
        let mut bytes = body.message(begin, REQUEST, first).map_err(failed)?;
        for request in requests {
            let sequence = self.next_sequence();
            let flags = REQUEST | ACK | request.flags;
            let message = request.body.message(request.kind, flags, sequence);
            bytes.extend(message.map_err(|refusal| request.failed(refusal))?);
        }
        let last = self.next_sequence();
        bytes.extend(body.message(end, REQUEST, last).map_err(failed)?);
        self.send(&bytes).map_err(failed)?;
        let (mut pending, mut room) = (requests.len(), vec![0; ROOM]);
        while pending > 0 {
            let datagram = receive(&self.fd, &mut room);
            let mut datagram = datagram.map_err(|errno| failed((errno, None)))?;
            while let Some(message) = split_message(&mut datagram) {
                let place = message.sequence.wrapping_sub(first);
                if place > last.wrapping_sub(first) {
                    continue;
                }
                // The frame's own messages are answered only when they fail.
                let of = usize::try_from(place).ok().and_then(|n| n.checked_sub(1));
                let request = of.and_then(|n| requests.get(n)).unwrap_or(&whole);
                outcome(&message)
                    .unwrap_or(Err(unexplained(Errno::BADMSG)))
                    .map_err(|refusal| request.failed(refusal))?;
                pending = pending.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Refusal> {
        send(&self.fd, bytes, SendFlags::empty())
            .map(drop)
            .map_err(unexplained)
    }
}

/// What `message` says of how a request went; `None` if it is an answer or says nothing.
fn outcome(message: &Message<'_>) -> Option<Result<(), Refusal>> {
    if !matches!(message.kind, ERROR | DONE) {
        return None;
    }
    let Some(code) = u32_at(message.body, 0).map(u32::cast_signed) else {
        return Some(Err(unexplained(Errno::BADMSG)));
    };
    if code == 0 {
        return Some(Ok(()));
    }
    // NETLINK_CAP_ACK cuts the echoed request to its header.
    let offset = if message.kind == ERROR { 4 + HEADER } else { 4 };
    let explanation = (message.flags & ACK_ATTRIBUTES != 0)
        .then(|| attribute(message.body, offset, ACK_TEXT).map(text))
        .flatten();
    let error = std::io::Error::from_raw_os_error(code.wrapping_neg());
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::BADMSG);
    Some(Err((errno, explanation)))
}

/// A socket that hears what happens in `protocol`'s `group` (1 to 32).
pub(crate) fn open_listener(protocol: Protocol, group: u32) -> Result<OwnedFd, Errno> {
    let fd = open_socket(Some(protocol))?;
    let mask = 1_u32
        .checked_shl(group.wrapping_sub(1))
        .ok_or(Errno::INVAL)?;
    bind(&fd, &SocketAddrNetlink::new(0, mask))?;
    Ok(fd)
}

fn open_socket(protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )
}

/// Waits for a datagram. One that does not fit is an error, not cut.
pub(crate) fn receive<'a>(fd: &OwnedFd, room: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let (_, length) = rustix::io::retry_on_intr(|| recv(fd, &mut room[..], RecvFlags::TRUNC))?;
    room.get(..length).ok_or(Errno::MSGSIZE)
}

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
