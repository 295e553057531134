//! Directories held by descriptor: a name is resolved beneath one, through no link and into no
//! other mount, and what was checked is what is used.
//!
//! Every name is one component; the few functions that take a path check each of its
//! components. Links are never followed and `..` never walked, so nobody who can rename inside
//! a held directory can lead a caller out of it.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod program;
mod tree;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmodat, chownat,
    fchmod, fstat, mkdirat, mknodat, openat2, readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;

pub use program::verified_program;

const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);
const BENEATH: ResolveFlags = NO_LINKS
    .union(ResolveFlags::BENEATH)
    .union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why a path was not used.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The kernel refused.
    #[error("{operation} {name:?}")]
    Kernel {
        /// What was asked, as "open file".
        operation: &'static str,
        /// The name it was asked for.
        name: String,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// The name, or what bears it, is not what it must be.
    #[error("refuse {name:?}: {why}")]
    Refused {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
}

impl PathError {
    /// The kernel's reason, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Refused { .. } => None,
        }
    }
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(Errno) -> PathError {
    let name = name.to_owned();
    move |errno| PathError::Kernel {
        operation,
        name,
        errno,
    }
}

fn refused(name: &str, why: &'static str) -> PathError {
    PathError::Refused {
        name: name.to_owned(),
        why,
    }
}

fn check_name(name: &str) -> Result<(), PathError> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(refused(name, "not one plain name"));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), PathError> {
    path.split('/')
        .try_for_each(check_name)
        .map_err(|_| refused(path, "not a path of plain names"))
}

/// What a descriptor must be of before it is used.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its type.
    pub kind: FileType,
    /// Its owner's uid, where that matters.
    pub owner: Option<u32>,
    /// Mode bits of which none may be set, as `0o022`.
    pub forbidden: u32,
}

impl Wanted {
    /// Anything of this type.
    pub fn of(kind: FileType) -> Self {
        Self {
            kind,
            owner: None,
            forbidden: 0,
        }
    }
}

/// Proves by fstat that `fd` is as wanted and, unless it is a directory, has one name only: a
/// second one would be somebody's hard link to a file that was never meant.
pub fn prove(fd: impl AsFd, wanted: Wanted) -> Result<Stat, PathError> {
    let fd = fd.as_fd();
    let stat = fstat(fd).map_err(failed("stat", &label(fd)))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let why = if kind != wanted.kind {
        "not the type of file that is meant"
    } else if wanted.owner.is_some_and(|owner| owner != stat.st_uid) {
        "it belongs to somebody else"
    } else if stat.st_mode & wanted.forbidden != 0 {
        "its mode allows too much"
    } else if kind != FileType::Directory && stat.st_nlink != 1 {
        "it does not have exactly one name"
    } else {
        return Ok(stat);
    };
    Err(refused(&label(fd), why))
}

/// Gives what `fd` is of (an `O_PATH` one will do) to another user or group.
pub fn chown(
    fd: impl AsFd,
    wanted: Wanted,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), PathError> {
    let fd = fd.as_fd();
    prove(fd, wanted)?;
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(refused(&label(fd), "to nobody: that id means no change"));
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(failed("chown", &label(fd)))
}

/// Sets the permissions (at most `0o777`) of what `fd` is of; an `O_PATH` one will do.
/// Of what belongs to somebody else this needs CAP_FOWNER, which [`chown`] does not.
pub fn chmod(fd: impl AsFd, wanted: Wanted, mode: u32) -> Result<(), PathError> {
    let fd = fd.as_fd();
    prove(fd, wanted)?;
    let mode = plain_mode(&label(fd), mode)?;
    // fchmod refuses O_PATH, and fchmodat2 is newer than the kernels that must do.
    chmodat(CWD, link_of(fd), mode, AtFlags::empty()).map_err(failed("chmod", &label(fd)))
}

fn plain_mode(name: &str, mode: u32) -> Result<Mode, PathError> {
    if mode & !0o777 != 0 {
        return Err(refused(name, "more than permissions in its mode"));
    }
    Ok(Mode::from_raw_mode(mode))
}

fn link_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn label(fd: BorrowedFd<'_>) -> String {
    format!("descriptor {}", fd.as_raw_fd())
}

/// Reads the rest of `fd`. More than `cap` bytes are `FBIG`.
pub fn read_capped(fd: impl AsFd, cap: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut chunk))?;
        let read = chunk.get(..length).ok_or(Errno::IO)?;
        if read.is_empty() {
            return Ok(text);
        }
        text.extend_from_slice(read);
        if text.len() > cap {
            return Err(Errno::FBIG);
        }
    }
}

/// A directory, held.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens an absolute path without a link, `.`, `..` or empty name in it.
    pub fn open(path: &str) -> Result<Self, PathError> {
        match path.strip_prefix('/') {
            Some("") => {}
            Some(relative) => check_path(relative)?,
            None => return Err(refused(path, "not absolute")),
        }
        openat2(CWD, path, DIRECTORY, Mode::empty(), NO_LINKS)
            .map(Self)
            .map_err(failed("open directory", path))
    }

    /// Opens the directory `name` in this one.
    pub fn child(&self, name: &str) -> Result<Self, PathError> {
        check_name(name)?;
        self.at("open directory", name, DIRECTORY, Mode::empty())
            .map(Self)
    }

    /// Makes the directory `name`, which must not exist, with exactly this mode; or leaves nothing.
    pub fn create_child(&self, name: &str, mode: u32) -> Result<Self, PathError> {
        check_name(name)?;
        let mode = plain_mode(name, mode)?;
        mkdirat(self, name, Mode::RWXU).map_err(failed("make directory", name))?;
        let child = self.child(name).and_then(|child| {
            // Not somebody else's, put in its place meanwhile.
            child.verify(rustix::process::geteuid().as_raw(), 0o077)?;
            fchmod(&child, mode).map_err(failed("chmod", name))?;
            Ok(child)
        });
        // Where the kernel refused, it is ours and empty. The first refusal is told, not this one's.
        child.inspect_err(|error| drop(error.errno().map(|_| self.remove_child(name))))
    }

    /// Opens the regular file `name`; `flags` are the access mode and what goes with it.
    pub fn open_file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, PathError> {
        check_name(name)?;
        // Whatever it is, opening it must neither wait nor take it as a terminal.
        let flags = flags.difference(OFlags::CREATE) | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.at("open file", name, flags, Mode::empty())?;
        prove(&file, Wanted::of(FileType::RegularFile))?;
        Ok(file)
    }

    /// Makes the regular file `name`, which must not exist, with exactly this mode; opened to
    /// read and write.
    pub fn create_new_file(&self, name: &str, mode: u32) -> Result<OwnedFd, PathError> {
        check_name(name)?;
        let mode = plain_mode(name, mode)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.at("make file", name, flags, Mode::RUSR | Mode::WUSR)?;
        fchmod(&file, mode).map_err(failed("chmod", name))?;
        Ok(file)
    }

    /// The whole of the regular file `name`, of at most `cap` bytes.
    pub fn read(&self, name: &str, cap: usize) -> Result<Vec<u8>, PathError> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        read_capped(file, cap).map_err(failed("read", name))
    }

    /// An `O_PATH` descriptor of what `path`, relative and of plain names, leads to, proved.
    pub fn open_path(&self, path: &str, wanted: Wanted) -> Result<OwnedFd, PathError> {
        check_path(path)?;
        // With these flags a link at the end is opened itself: the proof tells.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = self.at("open", path, flags, Mode::empty())?;
        prove(&fd, wanted).map_err(|error| match error {
            PathError::Refused { why, .. } => refused(path, why),
            error => error,
        })?;
        Ok(fd)
    }

    /// An `O_PATH` descriptor of the socket at `path`, owned by `owner`. To be connected to by
    /// `/proc/self/fd`.
    pub fn open_socket(&self, path: &str, owner: Option<u32>) -> Result<OwnedFd, PathError> {
        let wanted = Wanted {
            owner,
            ..Wanted::of(FileType::Socket)
        };
        self.open_path(path, wanted)
    }

    /// Finds beneath this directory the very file that `fd` is of, and gives an `O_PATH`
    /// descriptor of it.
    ///
    /// For descriptors from a process in another mount namespace: the kernel binds only what
    /// was opened in the caller's. Where to look is the kernel's word; that it is the same file,
    /// device and inode say.
    pub fn find(&self, fd: impl AsFd) -> Result<OwnedFd, PathError> {
        let fd = fd.as_fd();
        let (here, there) = (path_of(self.as_fd())?, path_of(fd)?);
        let elsewhere = || refused(&label(fd), "not beneath the directory it must be in");
        let relative = there.strip_prefix(&here).map_err(|_| elsewhere())?;
        let relative = relative.to_str().ok_or_else(elsewhere)?;
        check_path(relative)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = self.at("open", relative, flags, Mode::empty())?;
        let is = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        if is(fd).map_err(failed("stat", &label(fd)))?
            != is(found.as_fd()).map_err(failed("stat", relative))?
        {
            return Err(elsewhere());
        }
        Ok(found)
    }

    /// Renames a file of this directory, in the place of what may bear the new name.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), PathError> {
        check_name(from)?;
        check_name(to)?;
        renameat(self, from, self, to).map_err(failed("rename", from))
    }

    /// Removes the name of anything but a directory.
    pub fn unlink(&self, name: &str) -> Result<(), PathError> {
        check_name(name)?;
        unlinkat(self, name, AtFlags::empty()).map_err(failed("unlink", name))
    }

    /// Removes an empty directory.
    pub fn remove_child(&self, name: &str) -> Result<(), PathError> {
        check_name(name)?;
        unlinkat(self, name, AtFlags::REMOVEDIR).map_err(failed("remove directory", name))
    }

    /// Makes a device node for `device`, as from [`crate::dm`], with exactly this mode.
    pub fn create_block_node(&self, name: &str, mode: u32, device: Dev) -> Result<(), PathError> {
        check_name(name)?;
        let mode = plain_mode(name, mode)?;
        let kind = FileType::BlockDevice;
        mknodat(self, name, kind, Mode::empty(), device).map_err(failed("make node", name))?;
        let node = self.open_path(name, Wanted::of(kind))?;
        chmod(node, Wanted::of(kind), mode.as_raw_mode())
    }

    /// The names in this directory, in no order; more than `cap` are refused.
    pub fn names(&self, cap: usize) -> Result<Vec<String>, PathError> {
        let listing = rustix::fs::Dir::read_from(self).map_err(failed("list", "."))?;
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(failed("list", "."))?;
            let name = entry.file_name().to_string_lossy();
            if matches!(&*name, "." | "..") {
                continue;
            }
            if names.len() >= cap {
                return Err(refused(&name, "more names than allowed"));
            }
            names.push(name.into_owned());
        }
        Ok(names)
    }

    /// Proves owner and mode of the directory itself.
    pub fn verify(&self, owner: u32, forbidden: u32) -> Result<(), PathError> {
        let wanted = Wanted {
            kind: FileType::Directory,
            owner: Some(owner),
            forbidden,
        };
        prove(self, wanted).map(drop)
    }

    fn at(
        &self,
        operation: &'static str,
        path: &str,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, PathError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(self, path, flags, mode, BENEATH).map_err(failed(operation, path))
    }
}

/// Where the kernel says a file is. Of a foreign mount namespace this is the path in that one.
fn path_of(fd: BorrowedFd<'_>) -> Result<PathBuf, PathError> {
    let path = readlinkat(CWD, link_of(fd), Vec::new()).map_err(failed("find", &label(fd)))?;
    let path = path
        .into_string()
        .map_err(|_| refused(&label(fd), "its path is not UTF-8"))?;
    if !matches!(
        Path::new(&path).components().next(),
        Some(Component::RootDir)
    ) {
        return Err(refused(&label(fd), "it has no path"));
    }
    Ok(path.into())
}

#[cfg(test)]
pub(crate) mod tests;
