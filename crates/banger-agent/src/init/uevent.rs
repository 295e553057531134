//! The kernel's announcements of devices, so that nothing has to look for them again and again.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::stream::left_until;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// A socket that hears of devices from its opening on.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens. To be opened before the modules whose devices are waited for are inserted.
    pub fn listen() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Asks `find` now and after each announcement, until it finds something or `deadline` has passed.
    /// What the announcements say does not matter, so lost ones do not either.
    pub fn wait_for<T>(&self, deadline: Instant, mut find: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = find() {
                return Some(found);
            }
            if Instant::now() >= deadline {
                return None;
            }
            let timeout = left_until(deadline);
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
            let mut message = [0_u8; 4096];
            while let Ok((count, _)) = recv(&self.0, &mut message[..], RecvFlags::empty()) {
                if count == 0 {
                    break;
                }
            }
        }
    }
}
