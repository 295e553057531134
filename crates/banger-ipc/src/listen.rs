//! A listening socket in a directory that nobody else can change.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use banger_sys::dirs::{Dir, PathError, Wanted, chown};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, socket_with,
};
use rustix::process::{geteuid, umask};

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The directory, or what bears the name in it, is not what it must be.
    #[error("listen at {name:?}")]
    Path {
        /// The socket's name.
        name: String,
        /// What is wrong.
        #[source]
        source: PathError,
    },
    /// The kernel refused.
    #[error("{operation} {name:?}")]
    Kernel {
        /// What was asked.
        operation: &'static str,
        /// The socket's name.
        name: String,
        /// Its reason.
        #[source]
        errno: Errno,
    },
}

/// Where to listen, and who may connect.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory: the caller's own, 0700 or 0711, and reached through no link.
    pub directory: &'a str,
    /// The socket's name in it. A socket of this name is removed: the caller is the only server.
    pub name: &'a str,
    /// The group that may connect, beside the caller.
    pub group: Option<u32>,
}

/// Listens. The socket is 0600, or 0660 and the group's, before the first connection is possible.
///
/// Changes the process's umask for a moment: to be called before there are other threads.
pub fn listen(place: Place<'_>, backlog: i32) -> Result<OwnedFd, ListenError> {
    let name = place.name;
    let wrong = |source| ListenError::Path {
        name: name.to_owned(),
        source,
    };
    let failed = |operation| {
        move |errno| ListenError::Kernel {
            operation,
            name: name.to_owned(),
            errno,
        }
    };
    let own = geteuid().as_raw();
    let dir = Dir::open(place.directory).map_err(wrong)?;
    dir.verify(own, 0o066).map_err(wrong)?;
    match dir.open_socket(name, Some(own)) {
        Ok(_) => dir.unlink(name).map_err(wrong)?,
        Err(error) if error.errno() == Some(Errno::NOENT) => {}
        Err(error) => return Err(wrong(error)),
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed("make"))?;
    // By way of the held directory: its own path may be too long for an address, or change.
    let path = format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd());
    let address = SocketAddrUnix::new(path).map_err(failed("name"))?;
    let closed = if place.group.is_some() { 0o117 } else { 0o177 };
    let before = umask(rustix::fs::Mode::from_raw_mode(closed));
    let bound = bind(&socket, &address);
    umask(before);
    bound.map_err(failed("bind"))?;
    let wanted = Wanted {
        owner: Some(own),
        forbidden: closed,
        ..Wanted::of(FileType::Socket)
    };
    let file = dir.open_path(name, wanted).map_err(wrong)?;
    if place.group.is_some() {
        chown(&file, wanted, None, place.group).map_err(wrong)?;
    }
    rustix::net::listen(&socket, backlog).map_err(failed("listen at"))?;
    Ok(socket)
}

/// Takes a connection; waits for one.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| accept_with(&listener, SocketFlags::CLOEXEC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    fn place(directory: &std::path::Path) -> Place<'_> {
        let directory = directory.to_str().unwrap();
        Place {
            directory,
            name: "x.sock",
            group: None,
        }
    }

    fn private() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
        directory
    }

    #[test]
    fn s9_a_socket_is_narrow_from_birth_and_replaces_a_stale_one() {
        let directory = private();
        for _ in 0..2 {
            let listener = listen(place(directory.path()), 4).unwrap();
            let path = directory.path().join("x.sock");
            let mode = path.symlink_metadata().unwrap().mode();
            assert_eq!(mode & 0o7777, 0o600);
            let _client = UnixStream::connect(&path).unwrap();
            accept(&listener).unwrap();
        }
    }

    #[test]
    fn a_group_may_connect_where_one_is_named() {
        let directory = private();
        let group = Some(rustix::process::getegid().as_raw());
        let place = Place {
            group,
            ..place(directory.path())
        };
        let _listener = listen(place, 4).unwrap();
        let path = directory.path().join("x.sock");
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, 0o660);
    }

    #[test]
    fn s7_directories_that_others_could_change_are_refused() {
        let directory = private();
        for mode in [0o777, 0o770, 0o702, 0o755, 0o1777] {
            let permissions = PermissionsExt::from_mode(mode);
            std::fs::set_permissions(directory.path(), permissions).unwrap();
            assert!(listen(place(directory.path()), 4).is_err(), "{mode:o}");
        }
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let link = directory.path().join("link");
        symlink(directory.path(), &link).unwrap();
        assert!(listen(place(&link), 4).is_err());
        listen(place(directory.path()), 4).unwrap();
    }

    #[test]
    fn what_is_no_socket_of_ours_is_not_replaced() {
        let directory = private();
        let path = directory.path().join("x.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(place(directory.path()), 4).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert!(listen(place(directory.path()), 4).is_err());
        assert!(path.symlink_metadata().unwrap().is_symlink());
    }
}
