//! Who is at the other end of a Unix socket, and descriptors that were there before this program.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::signals::last_errno;

/// Who connected, or made the pair: by the kernel's word, as of then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it is not in this pid namespace.
    pub pid: i32,
    /// Its effective uid; 65534 if it has none in this user namespace.
    pub uid: u32,
}

/// The credentials of the socket's other end.
pub fn credentials(socket: impl AsFd) -> Result<Credentials, Errno> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let size = libc::socklen_t::try_from(size_of_val(&found)).map_err(|_| Errno::INVAL)?;
    let mut length = size;
    // SAFETY: the kernel writes at most `length` bytes to `found`, a struct ucred, of which every
    // pattern of bits is a value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    if length != size {
        return Err(Errno::INVAL);
    }
    let libc::ucred { pid, uid, .. } = found;
    Ok(Credentials { pid, uid })
}

/// A copy, close-on-exec as the original is made too, of descriptor `fd`, which this program was
/// started with. BADF if there is none.
///
/// The one that it copies stays open: it is closed by nobody, so that no mistake in the number
/// can close what belongs to another part of this program.
pub fn inherited(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: only a number is handed to the kernel, which refuses it if nothing is open there;
    // the borrow ends before the function does.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    fcntl_dupfd_cloexec(borrowed, 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let found = credentials(&socket).unwrap();
        assert_eq!(found.pid, std::process::id().cast_signed());
        assert_eq!(found.uid, rustix::process::getuid().as_raw());
    }

    #[test]
    fn credentials_of_what_is_no_socket_are_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(credentials(&file), Err(Errno::NOTSOCK));
    }

    #[test]
    fn inherited_refuses_missing_descriptors() {
        for fd in [-1, RawFd::MIN, 100_000, RawFd::MAX] {
            assert_eq!(inherited(fd).unwrap_err(), Errno::BADF, "{fd}");
        }
    }
}
