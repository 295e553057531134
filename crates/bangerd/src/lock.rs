//! The locks that make the daemon the only one of its user: one in the runtime directory, where
//! clients look for it, and one in the state directory, which daemons of other runtime
//! directories (a login without `XDG_RUNTIME_DIR`, say) share.

use crate::startup::StartError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a daemon that no longer serves may take to end.
const ENDING_LIMIT: Duration = Duration::from_secs(15);

/// How often its end is looked for.
const RETRY: Duration = Duration::from_millis(20);

/// The held lock. Its file stays when it is dropped: removing it would let two daemons hold
/// locks on two files of one name.
#[derive(Debug)]
pub(crate) struct DaemonLock {
    _file: File,
}

impl DaemonLock {
    /// Takes the lock at `path`, waiting for a holder that does not serve `socket`: it ends, and
    /// the client that started us would wait in vain for it.
    pub(crate) fn await_end(path: &Path, socket: &Path) -> Result<Self, StartError> {
        let deadline = Instant::now() + ENDING_LIMIT;
        loop {
            match Self::take(path) {
                Err(StartError::AlreadyRuns { .. })
                    if Instant::now() < deadline && UnixStream::connect(socket).is_err() =>
                {
                    std::thread::sleep(RETRY);
                }
                taken => return taken,
            }
        }
    }

    /// Takes the lock at `path` and writes this process's id into it.
    pub(crate) fn take(path: &Path) -> Result<Self, StartError> {
        let io = |source: std::io::Error| StartError::Io {
            what: "lock",
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| io(errno.into()))?;
        let mut file = File::from(fd);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // The pid only helps a person; a daemon that has just started may not have written it.
                let _read = (&mut file).take(32).read_to_string(&mut pid);
                return Err(StartError::AlreadyRuns {
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_who_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bangerd.lock");
        let held = DaemonLock::take(&path).unwrap();
        let refused = DaemonLock::take(&path).unwrap_err();
        assert!(
            matches!(refused, StartError::AlreadyRuns { pid: Some(pid) } if pid == std::process::id()),
            "{refused:?}"
        );
        drop(held);
        assert!(DaemonLock::take(&path).is_ok());
    }
}
