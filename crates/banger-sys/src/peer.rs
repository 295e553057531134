//! Who is at the other end of a Unix socket, and descriptors that were there before this program.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::signals::last_errno;

/// Linux 6.5's; `libc` does not have it everywhere.
const SO_PEERPIDFD: libc::c_int = 77;

/// Who connected, or made the pair: by the kernel's word, as of then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it is not in this pid namespace.
    pub pid: i32,
    /// Its effective uid; 65534 if it has none in this user namespace.
    pub uid: u32,
    /// Its effective gid, likewise.
    pub gid: u32,
}

/// The credentials of the socket's other end.
pub fn credentials(socket: impl AsFd) -> Result<Credentials, Errno> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    option(&socket, libc::SO_PEERCRED, &mut found)?;
    let libc::ucred { pid, uid, gid } = found;
    Ok(Credentials { pid, uid, gid })
}

/// A pidfd of the process at the socket's other end. NOPROTOOPT before Linux 6.5; SRCH or INVAL
/// if it is gone.
pub fn pidfd(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    let mut found: RawFd = -1;
    option(&socket, SO_PEERPIDFD, &mut found)?;
    // SAFETY: the kernel made this descriptor for this call; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(found) })
}

/// Reads a socket's option into plain numbers.
fn option<T: Copy>(socket: &impl AsFd, name: libc::c_int, value: &mut T) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::INVAL)?;
    let mut length = size;
    // SAFETY: the kernel writes at most `length` bytes to `value`, a c_int or struct ucred, of
    // which every pattern of bits is a value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    if length == size {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
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
        assert_eq!(found.gid, rustix::process::getgid().as_raw());
        match pidfd(&socket) {
            Ok(fd) => {
                assert!(!crate::pidfd::wait_ended(&fd, Some(std::time::Instant::now())).unwrap())
            }
            Err(errno) => assert_eq!(errno, Errno::NOPROTOOPT),
        }
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
