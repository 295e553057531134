//! Listening sockets made before the VMM runs, in a directory nobody else can enter.
//!
//! Because they exist first and are inherited by the VMM, connecting never has to be
//! retried. Paths go through a held directory, so their length does not matter.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::net::UnixStream;

use crate::EngineError;

/// A held run directory, checked to be private and ours.
#[derive(Debug)]
pub(crate) struct RunDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl RunDir {
    /// Holds a directory if it is ours, 0700 and no symlink.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let refuse = |rule: String| EngineError::Place {
            what: "run directory",
            path: path.to_owned(),
            rule,
        };
        if !path.is_absolute() {
            return Err(refuse("it is not an absolute path".into()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| refuse(io::Error::from(errno).to_string()))?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|errno| refuse(io::Error::from(errno).to_string()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refuse(format!("user {} owns it", stat.st_uid)));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(refuse(format!(
                "its mode {:o} lets others in",
                stat.st_mode & 0o7777
            )));
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a listening socket of mode 0600, in place of one left by an earlier run.
    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener, EngineError> {
        let listen = || -> io::Result<UnixListener> {
            self.remove(name)?;
            let listener = UnixListener::bind(self.inside(name))?;
            rustix::fs::chmodat(&self.fd, name, Mode::from_raw_mode(0o600), AtFlags::empty())?;
            Ok(listener)
        };
        listen().map_err(EngineError::io(format!(
            "listen at {:?}",
            self.path.join(name)
        )))
    }

    /// Connects to a socket in the directory.
    pub(crate) async fn connect(&self, name: &str) -> Result<UnixStream, EngineError> {
        UnixStream::connect(self.inside(name))
            .await
            .map_err(EngineError::io(format!(
                "connect to {:?}",
                self.path.join(name)
            )))
    }

    /// Removes a socket, and nothing but a socket. That there is none is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
            }
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    /// A short path that leads through the held directory (a socket's may have 107 bytes).
    fn inside(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn private(dir: &Path, mode: u32) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn sockets_are_0600_whatever_the_length_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        private(&deep, 0o700);
        let run = RunDir::open(&deep).unwrap();
        let first = run.listen("a.sock").unwrap();
        drop(first);
        let _listener = run.listen("a.sock").unwrap();
        let mode = std::fs::metadata(deep.join("a.sock"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert!(run.connect("a.sock").await.is_ok());
        run.remove("a.sock").unwrap();
        run.remove("a.sock").unwrap();
        assert!(run.connect("a.sock").await.is_err());
    }

    #[test]
    fn run_dir_refuses_open_modes_and_symlinks_and_keeps_foreign_files() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        private(&run, 0o750);
        let error = RunDir::open(&run).unwrap_err().to_string();
        assert!(error.contains("lets others in"), "{error}");
        private(&run, 0o700);
        std::os::unix::fs::symlink(&run, dir.path().join("link")).unwrap();
        assert!(RunDir::open(&dir.path().join("link")).is_err());
        std::fs::write(run.join("a.sock"), "kept").unwrap();
        assert!(RunDir::open(&run).unwrap().listen("a.sock").is_err());
        assert_eq!(std::fs::read(run.join("a.sock")).unwrap(), b"kept");
    }
}
