//! Writes a tar stream from a guest below one directory, and never anywhere else.
//!
//! The guest is hostile. A name is a list of plain parts, walked from the held destination one
//! directory at a time without following a link; an existing file is replaced, never written
//! through. Set-id bits are dropped and the umask holds; devices, pipes and sockets are left out;
//! counts and bytes are capped.

use super::tar_entry::{Entry, Type, for_each, refuse};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

/// The most entries a copy may have.
const MAX_ENTRIES: u64 = 4_000_000;

/// The most bytes of names kept to the end of the copy.
const MAX_REMEMBERED: usize = 64 * 1024 * 1024;

/// The deepest directory.
const MAX_DEPTH: usize = 128;

/// What a copy may be.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The first part that every name must have; it is taken off. Empty: none.
    pub top: Vec<u8>,
    /// What is written instead of the top: the name in the destination. `None`: what is in the
    /// top goes into the destination itself, so the top must be a directory.
    pub name: Option<Vec<u8>>,
    /// The most bytes of content.
    pub max_bytes: u64,
}

/// What a copy brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Files, directories and links written.
    pub written: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Devices, pipes and sockets left out.
    pub left_out: u64,
}

/// Unpacks `stream` below `destination`.
pub(crate) fn unpack<R: Read>(
    stream: R,
    destination: &OwnedFd,
    rules: &Rules,
) -> io::Result<Outcome> {
    let mut writer = Writer {
        destination,
        rules,
        outcome: Outcome::default(),
        files: HashSet::new(),
        modes: Vec::new(),
        remembered: 0,
    };
    for_each(stream, |entry| writer.write(entry))?;
    writer.finish()
}

struct Writer<'a> {
    destination: &'a OwnedFd,
    rules: &'a Rules,
    outcome: Outcome,
    /// Device and inode of the files written here: all that a hard link may lead to.
    files: HashSet<(u64, u64)>,
    /// Directories that get a narrower mode once all is written, by their parts: descriptors are
    /// few, and a tree of read-only directories (a module cache) is nothing odd.
    modes: Vec<(Vec<Vec<u8>>, Mode)>,
    /// Bytes of the names in `modes`.
    remembered: usize,
}

impl Writer<'_> {
    fn write(&mut self, entry: Entry<'_>) -> io::Result<()> {
        if self.outcome.written + self.outcome.left_out >= MAX_ENTRIES {
            return Err(refuse("more than 4,000,000 entries"));
        }
        let parts = self.place(&entry.name)?;
        let Some((leaf, parents)) = parts.split_last() else {
            return match entry.kind {
                Type::Directory => Ok(()),
                _ => Err(refuse("a file where a directory was expected")),
            };
        };
        let parent = self.descend(parents, true)?;
        let written = match entry.kind {
            Type::Directory => self.directory(&parent, leaf, parents, entry.mode),
            Type::File => self.file(&parent, leaf, entry),
            Type::Symlink => self.symlink(&parent, leaf, &entry.target),
            Type::HardLink => self.hard_link(&parent, leaf, &entry.target),
            Type::Special => {
                self.outcome.left_out += 1;
                return Ok(());
            }
        };
        written.map_err(|source| about(leaf, source))?;
        self.outcome.written += 1;
        Ok(())
    }

    /// Where a name of the stream belongs below the destination, as plain parts.
    fn place(&self, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut parts = plain_parts(name)?;
        if !self.rules.top.is_empty() {
            if parts.first() != Some(&self.rules.top) {
                return Err(about(name, refuse("a name outside what was asked for")));
            }
            parts.remove(0);
        }
        if let Some(name) = &self.rules.name {
            parts.insert(0, name.clone());
        }
        if parts.len() > MAX_DEPTH {
            return Err(refuse("a directory deeper than 128"));
        }
        Ok(parts)
    }

    /// Opens the directory at `parts`, through real directories only.
    fn descend(&self, parts: &[Vec<u8>], make: bool) -> io::Result<OwnedFd> {
        let mut directory = self.destination.try_clone()?;
        for part in parts {
            directory = match open_directory(&directory, part) {
                Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&directory, OsStr::from_bytes(part), mode)?;
                    open_directory(&directory, part)?
                }
                other => other.map_err(|source| about(part, source))?,
            };
        }
        Ok(directory)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        leaf: &[u8],
        parents: &[Vec<u8>],
        mode: u32,
    ) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        // Until all is written we must be able to write into it.
        match rustix::fs::mkdirat(parent, OsStr::from_bytes(leaf), mode | Mode::RWXU) {
            Ok(()) => {
                if !mode.contains(Mode::RWXU) {
                    let parts = [parents, &[leaf.to_vec()]].concat();
                    self.remembered += parts.iter().map(Vec::len).sum::<usize>();
                    if self.remembered > MAX_REMEMBERED {
                        return Err(refuse("too many read-only directories"));
                    }
                    self.modes.push((parts, mode));
                }
                Ok(())
            }
            Err(Errno::EXIST) => open_directory(parent, leaf).map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    fn file(&mut self, parent: &OwnedFd, leaf: &[u8], entry: Entry<'_>) -> io::Result<()> {
        let left = self.rules.max_bytes - self.outcome.bytes;
        if entry.size > left {
            return Err(refuse(&format!(
                "more than {} of content",
                banger_names::ByteSize(self.rules.max_bytes)
            )));
        }
        clear(parent, leaf)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut file = File::from(rustix::fs::openat(
            parent,
            OsStr::from_bytes(leaf),
            flags,
            mode,
        )?);
        let copied = io::copy(&mut entry.content.take(left), &mut file)?;
        self.outcome.bytes += copied;
        let time = Timespec {
            tv_sec: i64::try_from(entry.mtime).unwrap_or(0),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        // A time out of the file system's range is no reason to lose the file.
        let _ = rustix::fs::futimens(&file, &times);
        let stat = rustix::fs::fstat(&file)?;
        self.files.insert((stat.st_dev, stat.st_ino));
        Ok(())
    }

    fn symlink(&self, parent: &OwnedFd, leaf: &[u8], target: &[u8]) -> io::Result<()> {
        if target.is_empty() || target.contains(&0) {
            return Err(refuse("a link to nothing"));
        }
        clear(parent, leaf)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), parent, OsStr::from_bytes(leaf))?;
        Ok(())
    }

    fn hard_link(&self, parent: &OwnedFd, leaf: &[u8], target: &[u8]) -> io::Result<()> {
        let parts = self.place(target)?;
        let (target, parents) = parts
            .split_last()
            .ok_or_else(|| refuse("a hard link to a directory"))?;
        let foreign = || refuse("a hard link to a file that is not part of the copy");
        let from = self.descend(parents, false).map_err(|_| foreign())?;
        let target = OsStr::from_bytes(target);
        let stat =
            rustix::fs::statat(&from, target, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| foreign())?;
        if !self.files.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(foreign());
        }
        clear(parent, leaf)?;
        rustix::fs::linkat(
            &from,
            target,
            parent,
            OsStr::from_bytes(leaf),
            AtFlags::empty(),
        )?;
        Ok(())
    }

    /// Gives directories their modes, the innermost first.
    fn finish(self) -> io::Result<Outcome> {
        for (parts, mode) in self.modes.iter().rev() {
            let directory = self.descend(parts, false)?;
            let now = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode & 0o777);
            rustix::fs::fchmod(&directory, now & *mode)?;
        }
        Ok(self.outcome)
    }
}

/// A name's parts; refuses what could lead anywhere but down.
fn plain_parts(name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    if name.starts_with(b"/") {
        return Err(about(name, refuse("an absolute name")));
    }
    let mut parts = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(about(name, refuse("a name with \"..\""))),
            part if part.contains(&0) => return Err(refuse("a name with a zero byte")),
            part => parts.push(part.to_vec()),
        }
    }
    Ok(parts)
}

/// Opens a directory that is no link.
fn open_directory(parent: &impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(refuse("a name through a link or a file")),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes room for a file: removes a file or link that has its name, not a directory.
fn clear(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let name = OsStr::from_bytes(name);
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(io::Error::from(io::ErrorKind::IsADirectory))
        }
        Ok(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn about(name: &[u8], source: io::Error) -> io::Error {
    let name = String::from_utf8_lossy(name);
    io::Error::new(source.kind(), format!("{name:?}: {source}"))
}

#[cfg(test)]
#[path = "unpack/tests.rs"]
mod tests;
