//! Tells the service manager how the daemon is: ready, alive, ending. Says nothing where
//! nobody asked (`NOTIFY_SOCKET` is not set), as when the command line started it.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A connection would be answered.
    Ready,
    /// Still alive.
    Alive,
    /// On the way to the end.
    Stopping,
}

/// Tells the service manager. That it cannot be told is not the daemon's end: the manager's
/// own deadline decides what it means.
pub(crate) fn tell(state: State) {
    let message = match state {
        State::Ready => "READY=1",
        State::Alive => "WATCHDOG=1",
        State::Stopping => "STOPPING=1",
    };
    if let Some(name) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(name.as_bytes(), message)
    {
        tracing::warn!(%error, message, "tell the service manager");
    }
}

/// How often the service manager wants to hear that the daemon is alive, halved so that one
/// late word costs nothing.
pub(crate) fn alive_every() -> Option<Duration> {
    let is_for_us =
        env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let usec: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (is_for_us && usec > 1).then(|| Duration::from_micros(usec / 2))
}

fn send(name: &[u8], message: &str) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it_by_path_and_by_abstract_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("banger-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        send(format!("@{name}").as_bytes(), "WATCHDOG=1").unwrap();
        let mut buffer = [0; 32];
        let count = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        let count = by_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"WATCHDOG=1");
        assert!(send(b"/nonexistent/notify", "READY=1").is_err());
    }
}
