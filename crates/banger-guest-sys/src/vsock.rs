//! Listening on and connecting by AF_VSOCK, which `rustix` has no address type for.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use banger_sys::signals::last_errno;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, listen as start_listening, socket_with};

/// The context id of the hypervisor's host. A guest's own processes come from another id
/// (1, or the guest's), so a server for the host compares with this.
pub const HOST_CID: u32 = libc::VMADDR_CID_HOST;

/// `libc::AF_VSOCK`, in the size that addresses have it.
const FAMILY: libc::sa_family_t = 40;

/// A socket that listens on a vsock port.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on `port`, on whatever context id this machine has.
    pub fn bind(port: u32) -> Result<Self, Errno> {
        let socket = stream_socket()?;
        let mut address = empty_address();
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = port;
        // SAFETY: `address` is a whole sockaddr_vm and the length given is its size.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                address_length(),
            )
        };
        if bound < 0 {
            return Err(last_errno());
        }
        start_listening(&socket, 128)?;
        Ok(Self(socket))
    }

    /// Waits for a connection; gives it and the context id it comes from, as the kernel says.
    pub fn accept(&self) -> Result<(OwnedFd, u32), Errno> {
        let mut address = empty_address();
        let mut length = address_length();
        // SAFETY: `address` has room for `length` bytes, and both live through the call.
        let fd = unsafe {
            libc::accept4(
                self.0.as_fd().as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
                libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: accept4 succeeded, so `fd` is open and nobody else owns it.
        let connection = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok((connection, address.svm_cid))
    }
}

/// Connects to a port of the context `cid`, [`HOST_CID`] for the host's. The kernel gives up
/// after 2 s.
pub fn connect(cid: u32, port: u32) -> Result<OwnedFd, Errno> {
    let socket = stream_socket()?;
    let mut address = empty_address();
    address.svm_cid = cid;
    address.svm_port = port;
    // SAFETY: `address` is a whole sockaddr_vm and the length given is its size.
    let connected = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            address_length(),
        )
    };
    if connected < 0 {
        return Err(last_errno());
    }
    Ok(socket)
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn empty_address() -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = FAMILY;
    address
}

const fn address_length() -> libc::socklen_t {
    // The structure's size is part of the kernel's interface.
    const { assert!(size_of::<libc::sockaddr_vm>() == 16) };
    16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_says_why_not() {
        // No test machine is a guest whose host listens at this port.
        assert!(connect(HOST_CID, 1).is_err());
    }

    #[test]
    fn bind_listens_or_says_why_not() {
        match Listener::bind(libc::VMADDR_PORT_ANY) {
            Ok(_) => {}
            // Kernels without the vsock module.
            Err(Errno::AFNOSUPPORT | Errno::NODEV) => {
                eprintln!("no AF_VSOCK here: only the refusal was seen")
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}
