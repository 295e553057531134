//! System calls of another process, read: which one, about what, and how it can fail.

use nix::errno::Errno::{self, EINTR, EIO, EMFILE, ENOMEM, ENOSPC};
use nix::libc::{self, user_regs_struct};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What tells calls of different runs of the same thing apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// The call's name.
    pub name: &'static str,
    /// The path below the root, with `*` for what is another one in each run; or what kind of
    /// thing the descriptor is.
    pub what: String,
    kind: Kind,
}

impl Call {
    /// The errors that it may end with.
    pub fn errors(&self) -> &'static [Errno] {
        match self.kind {
            Kind::Open { makes: true } => &[ENOSPC, EIO, EMFILE, ENOMEM],
            Kind::Open { makes: false } => &[EIO, EMFILE, ENOMEM],
            Kind::Write => &[ENOSPC, EIO],
            Kind::Entry => &[ENOSPC, EIO, ENOMEM],
            Kind::Read => &[EIO],
            Kind::Descriptor => &[EMFILE, ENOMEM],
            Kind::Accept => &[EMFILE, ENOMEM, EINTR],
            Kind::Memory => &[ENOMEM],
            Kind::Wait => &[EINTR],
        }
    }
}

/// How a call can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Open {
        makes: bool,
    },
    Write,
    /// Makes, moves or removes a name.
    Entry,
    Read,
    Descriptor,
    Accept,
    Memory,
    /// May block, and be interrupted.
    Wait,
}

/// What a call's descriptor or path stands for.
enum Thing {
    /// A file, by its path.
    Path(PathBuf),
    /// A socket, pipe or the like.
    Other(String),
}

/// Reads calls of one process.
pub(crate) struct Calls {
    proc: PathBuf,
    root: PathBuf,
    memory: File,
}

/// Where a call names what it is about: the argument with a descriptor, a path, or both.
#[derive(Clone, Copy)]
enum About {
    Nothing,
    Fd(usize),
    Path(usize),
    At(usize, usize),
}

impl Calls {
    /// Of the process `pid`; paths are told from `root` on, others are of no interest.
    pub(crate) fn new(pid: u32, root: &Path) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let memory = File::open(proc.join("mem")).unwrap();
        Self {
            root: fs::canonicalize(root).unwrap(),
            memory,
            proc,
        }
    }

    /// The call that begins with these registers, if it is one that can be refused.
    pub(crate) fn read(&self, regs: &user_regs_struct) -> Option<Call> {
        let arguments = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let (name, kind, about) = known(i64::try_from(regs.orig_rax).ok()?, &arguments)?;
        let thing = match about {
            About::Nothing => Thing::Other(String::new()),
            About::Fd(fd) if kind == Kind::Wait && !self.blocks(arguments[fd]) => return None,
            About::Fd(fd) => self.behind(arguments[fd])?,
            About::Path(path) => Thing::Path(self.text(arguments[path])?),
            About::At(fd, path) => {
                let path = self.text(arguments[path])?;
                match self.behind(arguments[fd]) {
                    Some(Thing::Path(dir)) => Thing::Path(dir.join(path)),
                    _ => Thing::Path(path),
                }
            }
        };
        let (kind, what) = match (kind, thing) {
            // A file keeps nobody waiting, nothing else is full or broken.
            (Kind::Wait, Thing::Path(_)) => return None,
            (Kind::Wait | Kind::Accept | Kind::Memory | Kind::Descriptor, Thing::Other(what)) => {
                (kind, what)
            }
            (Kind::Read | Kind::Write, Thing::Other(what)) => {
                let About::Fd(fd) = about else { return None };
                let is_stream = matches!(&*what, "socket" | "pipe");
                if !is_stream || !self.blocks(arguments[fd]) {
                    return None;
                }
                (Kind::Wait, what)
            }
            (_, Thing::Other(_)) => return None,
            (_, Thing::Path(path)) => (kind, self.told(&path)?),
        };
        Some(Call { name, what, kind })
    }

    /// What a descriptor stands for.
    fn behind(&self, fd: u64) -> Option<Thing> {
        let fd = i32::try_from(fd.cast_signed()).ok()?;
        let link = fs::read_link(self.proc.join("fd").join(fd.to_string())).ok()?;
        if link.is_absolute() {
            return Some(Thing::Path(link));
        }
        let text = link.to_string_lossy();
        let kind = text.split(":[").next().unwrap_or_default();
        Some(Thing::Other(kind.to_owned()))
    }

    /// Whether a call on this descriptor can wait, and so be interrupted.
    fn blocks(&self, fd: u64) -> bool {
        let info = self.proc.join("fdinfo").join(fd.to_string());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| i64::from_str_radix(text.trim(), 8).ok());
        flags.is_some_and(|flags| flags & i64::from(libc::O_NONBLOCK) == 0)
    }

    /// The text that an address points to.
    fn text(&self, address: u64) -> Option<PathBuf> {
        let mut bytes = [0; 512];
        let count = self.memory.read_at(&mut bytes, address).ok()?;
        let end = bytes[..count].iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned().into())
    }

    /// A path below the root, without what differs from run to run.
    fn told(&self, path: &Path) -> Option<String> {
        let below = path.strip_prefix(&self.root).ok()?;
        Some(without_chance(&below.to_string_lossy()))
    }
}

/// The text with `*` for each word of eight or more digits, decimal or hexadecimal.
fn without_chance(text: &str) -> String {
    let mut told = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_chance = word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit());
        told.push_str(if is_chance { "*" } else { word });
        told.push_str(&part[word.len()..]);
    }
    told
}

/// What the calls are that can be refused, and what each is about.
fn known(number: i64, arguments: &[u64; 6]) -> Option<(&'static str, Kind, About)> {
    use About::{At, Fd, Nothing, Path};
    let flags = |of: usize| arguments[of].cast_signed();
    let open = |flags: i64| Kind::Open {
        makes: flags & i64::from(libc::O_CREAT) != 0,
    };
    Some(match number {
        libc::SYS_open => ("open", open(flags(1)), Path(0)),
        libc::SYS_openat => ("openat", open(flags(2)), At(0, 1)),
        libc::SYS_write => ("write", Kind::Write, Fd(0)),
        libc::SYS_writev => ("writev", Kind::Write, Fd(0)),
        libc::SYS_pwrite64 => ("pwrite64", Kind::Write, Fd(0)),
        libc::SYS_fsync => ("fsync", Kind::Write, Fd(0)),
        libc::SYS_fdatasync => ("fdatasync", Kind::Write, Fd(0)),
        libc::SYS_ftruncate => ("ftruncate", Kind::Write, Fd(0)),
        libc::SYS_fallocate => ("fallocate", Kind::Write, Fd(0)),
        libc::SYS_copy_file_range => ("copy_file_range", Kind::Write, Fd(2)),
        libc::SYS_sendfile => ("sendfile", Kind::Write, Fd(0)),
        libc::SYS_rename => ("rename", Kind::Entry, Path(1)),
        libc::SYS_renameat => ("renameat", Kind::Entry, At(2, 3)),
        libc::SYS_renameat2 => ("renameat2", Kind::Entry, At(2, 3)),
        libc::SYS_mkdir => ("mkdir", Kind::Entry, Path(0)),
        libc::SYS_mkdirat => ("mkdirat", Kind::Entry, At(0, 1)),
        libc::SYS_symlink => ("symlink", Kind::Entry, Path(1)),
        libc::SYS_symlinkat => ("symlinkat", Kind::Entry, At(1, 2)),
        libc::SYS_link => ("link", Kind::Entry, Path(1)),
        libc::SYS_linkat => ("linkat", Kind::Entry, At(2, 3)),
        libc::SYS_unlink => ("unlink", Kind::Read, Path(0)),
        libc::SYS_unlinkat => ("unlinkat", Kind::Read, At(0, 1)),
        libc::SYS_rmdir => ("rmdir", Kind::Read, Path(0)),
        libc::SYS_fchmod => ("fchmod", Kind::Read, Fd(0)),
        libc::SYS_chmod => ("chmod", Kind::Read, Path(0)),
        libc::SYS_fchmodat => ("fchmodat", Kind::Read, At(0, 1)),
        libc::SYS_read => ("read", Kind::Read, Fd(0)),
        libc::SYS_pread64 => ("pread64", Kind::Read, Fd(0)),
        libc::SYS_getdents64 => ("getdents64", Kind::Read, Fd(0)),
        libc::SYS_statx => ("statx", Kind::Read, At(0, 1)),
        libc::SYS_newfstatat => ("newfstatat", Kind::Read, At(0, 1)),
        libc::SYS_socket => ("socket", Kind::Descriptor, Nothing),
        libc::SYS_socketpair => ("socketpair", Kind::Descriptor, Nothing),
        libc::SYS_pipe2 => ("pipe2", Kind::Descriptor, Nothing),
        libc::SYS_eventfd2 => ("eventfd2", Kind::Descriptor, Nothing),
        libc::SYS_epoll_create1 => ("epoll_create1", Kind::Descriptor, Nothing),
        libc::SYS_pidfd_open => ("pidfd_open", Kind::Descriptor, Nothing),
        libc::SYS_memfd_create => ("memfd_create", Kind::Descriptor, Nothing),
        libc::SYS_fcntl if flags(1) == i64::from(libc::F_DUPFD_CLOEXEC) => {
            ("fcntl", Kind::Descriptor, Nothing)
        }
        libc::SYS_accept4 => ("accept4", Kind::Accept, Nothing),
        libc::SYS_mmap => ("mmap", Kind::Memory, Nothing),
        libc::SYS_clone => ("clone", Kind::Memory, Nothing),
        libc::SYS_clone3 => ("clone3", Kind::Memory, Nothing),
        libc::SYS_bind => ("bind", Kind::Memory, Nothing),
        libc::SYS_epoll_ctl if flags(1) == i64::from(libc::EPOLL_CTL_ADD) => {
            ("epoll_ctl", Kind::Memory, Nothing)
        }
        libc::SYS_epoll_wait => ("epoll_wait", Kind::Wait, Nothing),
        libc::SYS_waitid if flags(3) & i64::from(libc::WNOHANG) == 0 => {
            ("waitid", Kind::Wait, Nothing)
        }
        libc::SYS_wait4 if flags(2) & i64::from(libc::WNOHANG) == 0 => {
            ("wait4", Kind::Wait, Nothing)
        }
        libc::SYS_poll => ("poll", Kind::Wait, Nothing),
        libc::SYS_flock if flags(1) & i64::from(libc::LOCK_NB) == 0 => {
            ("flock", Kind::Wait, Nothing)
        }
        libc::SYS_recvfrom => ("recvfrom", Kind::Wait, Fd(0)),
        libc::SYS_recvmsg => ("recvmsg", Kind::Wait, Fd(0)),
        libc::SYS_sendto => ("sendto", Kind::Wait, Fd(0)),
        libc::SYS_sendmsg => ("sendmsg", Kind::Wait, Fd(0)),
        libc::SYS_connect => ("connect", Kind::Wait, Fd(0)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::without_chance;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        assert_eq!(
            without_chance("state/vms/vm-100f2cfd/console.log.times"),
            "state/vms/vm-*/console.log.times"
        );
        assert_eq!(
            without_chance("data/scratch-00ff00ff00ff00ff/x"),
            "data/scratch-*/x"
        );
    }
}
