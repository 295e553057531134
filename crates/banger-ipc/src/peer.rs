//! Who is at the other end, by the kernel's word and nobody else's.

use std::os::fd::AsFd;

use banger_sys::peer::credentials;
use rustix::io::Errno;

/// The process that connected, as it was then: passing the descriptor on or changing its uid
/// afterwards changes nothing here.
#[derive(Debug)]
pub struct Peer {
    /// Its pid, for people; 0 if it is in another pid namespace.
    pub pid: i32,
    /// Its effective uid, in the terms of this user namespace: root of another one is who made that.
    pub uid: u32,
}

/// Stands for every id that this user namespace does not have: never somebody.
pub(crate) const NOBODY: u32 = 65534;

impl Peer {
    /// Asks the kernel about the other end of `socket`.
    pub fn of(socket: impl AsFd) -> Result<Self, Errno> {
        let found = credentials(&socket)?;
        Ok(Self {
            pid: found.pid,
            uid: found.uid,
        })
    }

    /// Whether it is root or `owner`. An id that stands for many is neither.
    pub fn is_root_or(&self, owner: u32) -> bool {
        self.uid == 0 || (self.uid == owner && !matches!(owner, NOBODY | u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn peer(uid: u32) -> Peer {
        Peer { pid: 0, uid }
    }

    #[test]
    fn s4_unmapped_uids_are_nobody_even_if_configured() {
        assert!(peer(0).is_root_or(1000) && peer(1000).is_root_or(1000));
        for (uid, owner) in [
            (1001, 1000),
            (65534, 1000),
            (65534, 65534),
            (u32::MAX, u32::MAX),
            (u32::MAX, 1000),
        ] {
            assert!(!peer(uid).is_root_or(owner), "{uid} {owner}");
        }
    }

    #[test]
    fn s6_who_has_the_connection_later_is_not_who_made_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (served, _) = listener.accept().unwrap();
        let mut other = std::process::Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(std::os::fd::OwnedFd::from(client))
            .spawn()
            .unwrap();
        let found = Peer::of(&served).unwrap();
        assert_eq!(found.pid, std::process::id().cast_signed());
        drop(served);
        other.wait().unwrap();
    }

    #[test]
    fn s5_the_name_a_client_binds_to_is_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(";uid=0;");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (served, _) = listener.accept().unwrap();
        let (ours, theirs) = (Peer::of(&served).unwrap(), Peer::of(&client).unwrap());
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!((ours.uid, theirs.uid), (uid, uid));
        assert_eq!(ours.pid, std::process::id().cast_signed());
    }
}
