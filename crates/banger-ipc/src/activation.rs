//! What systemd hands a service: its socket, and an ear. The socket's file is systemd's to make.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use banger_sys::peer::inherited;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, sendto,
    socket_with,
};
use rustix::process::getpid;

/// The first descriptor that systemd passes.
const FIRST: i32 = 3;

/// What the environment says, if it says it to this very process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Activation {
    sockets: i32,
    notify: Option<String>,
    watchdog: Option<Duration>,
}

impl Activation {
    /// Reads `LISTEN_PID`, `LISTEN_FDS`, `NOTIFY_SOCKET`, `WATCHDOG_PID` and `WATCHDOG_USEC`, as
    /// `variable` gives them. What is addressed to another process, or malformed, counts as absent.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let own = getpid().as_raw_nonzero().to_string();
        let for_us = |name: &str| variable(name).is_some_and(|pid| pid == own);
        let number = |name: &str| variable(name).and_then(|text| text.parse::<u32>().ok());
        let sockets = number("LISTEN_FDS").filter(|_| for_us("LISTEN_PID"));
        let is_for_others = variable("WATCHDOG_PID").is_some_and(|pid| pid != own);
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && !is_for_others);
        Self {
            sockets: sockets
                .and_then(|count| i32::try_from(count).ok())
                .unwrap_or(0),
            notify: variable("NOTIFY_SOCKET").filter(|path| path.starts_with(['/', '@'])),
            watchdog: watchdog.map(|usec| Duration::from_micros(usec.into())),
        }
    }

    /// The socket that was passed: exactly one, a listening Unix stream socket. `None` if none was.
    pub fn listener(&self) -> Result<Option<OwnedFd>, Errno> {
        match self.sockets {
            0 => Ok(None),
            1 => match socket_at(FIRST)? {
                (socket, true) => Ok(Some(socket)),
                _ => Err(Errno::INVAL),
            },
            _ => Err(Errno::TOOMANYREFS),
        }
    }

    /// How often systemd wants to hear from this process; half of the time after which it is
    /// taken for dead.
    pub fn heartbeat(&self) -> Option<Duration> {
        self.watchdog.and_then(|limit| limit.checked_div(2))
    }

    /// Tells systemd `state`, as `READY=1`, if it wants to know.
    pub fn notify(&self, state: &str) -> Result<(), Errno> {
        self.notify
            .as_deref()
            .map_or(Ok(()), |path| notify(path, state))
    }
}

/// The connected or listening Unix stream socket that this program was started with as `fd`,
/// and whether it listens.
pub fn socket_at(fd: i32) -> Result<(OwnedFd, bool), Errno> {
    let socket = inherited(fd)?;
    if !is_unix_stream(&socket)? {
        return Err(Errno::INVAL);
    }
    let listens = socket_acceptconn(&socket)?;
    Ok((socket, listens))
}

fn is_unix_stream(socket: &OwnedFd) -> Result<bool, Errno> {
    Ok(socket_domain(socket)? == AddressFamily::UNIX && socket_type(socket)? == SocketType::STREAM)
}

fn notify(path: &str, state: &str) -> Result<(), Errno> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    };
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendto(&socket, state.as_bytes(), flags, &address).map(drop)
}

/// Takes a connection; waits for one.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| accept_with(&listener, SocketFlags::CLOEXEC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn read(variables: &[(&str, &str)]) -> Activation {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Activation::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn s16_what_is_not_addressed_to_this_process_is_ignored() {
        let own = std::process::id().to_string();
        assert_eq!(
            read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", &own)]).sockets,
            1
        );
        for (fds, pid) in [
            ("1", "1"),
            ("1", ""),
            ("1", "0"),
            ("-1", own.as_str()),
            ("4294967295", own.as_str()),
            ("x", own.as_str()),
            ("", own.as_str()),
        ] {
            let found = read(&[("LISTEN_FDS", fds), ("LISTEN_PID", pid)]);
            assert_eq!(found.sockets, 0, "{fds:?} {pid:?}");
        }
        assert_eq!(
            read(&[("LISTEN_FDS", "1")]).listener().unwrap().map(|_| ()),
            None
        );
        let two = read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", &own)]);
        assert_eq!(two.listener().unwrap_err(), Errno::TOOMANYREFS);
        assert_eq!(
            read(&[("WATCHDOG_USEC", "9"), ("WATCHDOG_PID", "1")]).heartbeat(),
            None
        );
        let ours = read(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", &own)]);
        assert_eq!(ours.heartbeat(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn s16_only_unix_stream_sockets_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(socket_at(listener.as_raw_fd()).unwrap().1);
        assert!(!socket_at(stream.as_raw_fd()).unwrap().1);
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = tempfile::tempfile().unwrap();
        for fd in [
            datagram.as_raw_fd(),
            tcp.as_raw_fd(),
            file.as_raw_fd(),
            100_000,
            -1,
        ] {
            assert!(socket_at(fd).is_err(), "{fd}");
        }
    }

    #[test]
    fn systemd_is_told_where_it_listens_and_nobody_where_it_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let ear = UnixDatagram::bind(&path).unwrap();
        let activation = read(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        activation.notify("READY=1").unwrap();
        let mut room = [0; 32];
        let length = ear.recv(&mut room).unwrap();
        assert_eq!(room.get(..length), Some(&b"READY=1"[..]));
        read(&[]).notify("READY=1").unwrap();
        assert_eq!(read(&[("NOTIFY_SOCKET", "relative")]).notify, None);
    }
}
