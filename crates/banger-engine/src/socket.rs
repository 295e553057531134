//! The run directory, which nobody else can enter, and the sockets and FIFOs in it.
//!
//! What is made before the VMM runs needs no waiting for. Paths go through the held
//! directory, so their length does not matter.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use crate::EngineError;

/// The file of a socket that a VMM made.
#[derive(Debug, Clone)]
pub(crate) enum SocketFile {
    /// By its name in the run directory.
    InRunDir(Arc<RunDir>, &'static str),
    /// Held, opened with `O_PATH`; and what it is, for people.
    Held(Arc<OwnedFd>, &'static str),
}

impl SocketFile {
    /// Connects to it.
    pub(crate) async fn connect(&self) -> Result<UnixStream, EngineError> {
        match self {
            Self::InRunDir(run, name) => run.connect(name).await,
            // The link leads to the held file, whatever is at its path by now.
            Self::Held(file, what) => {
                UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd()))
                    .await
                    .map_err(EngineError::io(format!("connect to the jail's {what}")))
            }
        }
    }
}

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

    /// Makes a FIFO of mode 0600, in place of one left by an earlier run; gives its reading
    /// end and an end for a VMM to write to.
    ///
    /// The VMM's end never blocks and reads too, so a VMM whose reader is gone neither waits
    /// nor gets a SIGPIPE: what the FIFO cannot hold is dropped until somebody reads again.
    pub(crate) fn make_fifo(&self, name: &str) -> Result<(Receiver, OwnedFd), EngineError> {
        let make = || -> io::Result<(Receiver, OwnedFd)> {
            self.remove(name)?;
            rustix::fs::mkfifoat(&self.fd, name, Mode::from_raw_mode(0o600))?;
            Ok((self.reader(name)?, self.open_file(name, OFlags::RDWR)?))
        };
        make().map_err(EngineError::io(format!(
            "make the FIFO {:?}",
            self.path.join(name)
        )))
    }

    /// Lets our group use a file too; in this directory that alone lets nobody reach it.
    pub(crate) fn share(&self, name: &str) -> Result<(), EngineError> {
        rustix::fs::chmodat(&self.fd, name, Mode::from_raw_mode(0o660), AtFlags::empty()).map_err(
            |errno| EngineError::io(format!("share {:?}", self.path.join(name)))(errno.into()),
        )
    }

    /// Holds a file without opening it.
    pub(crate) fn open_path(&self, name: &str) -> Result<OwnedFd, EngineError> {
        self.open_file(name, OFlags::PATH)
            .map_err(EngineError::io(format!("hold {:?}", self.path.join(name))))
    }

    /// Opens a file for reading.
    pub(crate) fn open_read(&self, name: &str) -> Result<OwnedFd, EngineError> {
        self.open_file(name, OFlags::RDONLY)
            .map_err(EngineError::io(format!("open {:?}", self.path.join(name))))
    }

    /// Reads from a FIFO that a running VMM writes to.
    pub(crate) fn read_fifo(&self, name: &str) -> Result<Receiver, EngineError> {
        self.reader(name).map_err(EngineError::io(format!(
            "read from the FIFO {:?}",
            self.path.join(name)
        )))
    }

    fn reader(&self, name: &str) -> io::Result<Receiver> {
        // Refuses what is not a FIFO.
        Receiver::from_owned_fd(self.open_file(name, OFlags::RDONLY)?)
    }

    fn open_file(&self, name: &str, access: OFlags) -> io::Result<OwnedFd> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?)
    }

    /// Writes a file of mode 0600, in place of one left by an earlier run.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), EngineError> {
        let write = || -> io::Result<()> {
            self.remove(name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
            std::fs::File::from(file).write_all(content)
        };
        write().map_err(EngineError::io(format!("write {:?}", self.path.join(name))))
    }

    /// Whether there is a socket of this name.
    pub(crate) fn has_socket(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
    }

    /// Watches for names that appear in the directory.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        add_watch(&watch, self.inside("."), WatchFlags::CREATE)?;
        Ok(watch)
    }

    /// Removes what engines make here, and nothing else: a socket, a FIFO, a file of our own.
    /// That there is none is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket | FileType::Fifo => {
                    Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
                }
                FileType::RegularFile if name.ends_with(".json") => {
                    Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
                }
                _ => Err(io::ErrorKind::AlreadyExists.into()),
            },
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

    #[tokio::test]
    async fn a_fifo_without_a_reader_neither_blocks_nor_ends_its_writer() {
        use tokio::io::AsyncReadExt;
        let dir = tempfile::tempdir().unwrap();
        private(dir.path(), 0o700);
        let run = RunDir::open(dir.path()).unwrap();
        let (reader, writer) = run.make_fifo("a.fifo").unwrap();
        drop(reader);
        let mut writer = std::fs::File::from(writer);
        let mut held = 0;
        let error = loop {
            match writer.write(&[b'x'; 4096]) {
                Ok(count) => held += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut reader = run.read_fifo("a.fifo").unwrap();
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), held, "what was held is there, then the end");
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(run.read_fifo("file").is_err(), "not a FIFO");
        assert!(run.make_fifo("file").is_err(), "not ours to remove");
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
