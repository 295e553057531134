//! Packs files of the host into a tar stream.
//!
//! Every path is opened below one held directory without following any link, so a link is
//! packed as a link and nothing outside the directory is read. Modes and times are kept; owners are
//! not: in the VM the files belong to who unpacks them.

use crate::error::CliError;
use banger_guest::exactly::Exactly;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// The longest target of a link that is packed, in bytes (the kernel's PATH_MAX).
const MAX_TARGET: usize = 4096;

/// One file, directory or link to pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it is, relative to the tree's root.
    pub source: PathBuf,
    /// What it is called in the tar.
    pub name: PathBuf,
}

/// A directory whose files are packed; paths are resolved below it and nowhere else.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// What was looked at and not packed, for the user.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// Sockets, devices and pipes.
    pub special: Vec<PathBuf>,
}

impl Tree {
    /// Opens the directory `path` (following links to it: the user named it).
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            CliError::io(format!("open directory {path:?}"), &io::Error::from(errno))
        })?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// What is at `path` itself; `None` if there is nothing, or only through a link.
    pub(crate) fn look(&self, path: &Path) -> Result<Option<Stat>, CliError> {
        match self.open_below(path, OFlags::PATH) {
            Ok(fd) => rustix::fs::fstat(&fd)
                .map(Some)
                .map_err(|errno| self.fail("look at", path, errno)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(errno) => Err(self.fail("look at", path, errno)),
        }
    }

    /// Everything below `start` (relative to the root; empty for all), `start` itself first,
    /// directories before what is in them, each directory in the order of its names.
    pub(crate) fn walk(&self, start: &Path) -> Result<Vec<PathBuf>, CliError> {
        let mut found = Vec::new();
        let mut pending = vec![start.to_owned()];
        while let Some(path) = pending.pop() {
            let Some(stat) = self.look(&path)? else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let mut names = self.names(&path)?;
                names.sort_by(|a, b| b.cmp(a));
                pending.extend(names.into_iter().map(|name| path.join(name)));
            }
            if !path.as_os_str().is_empty() {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, CliError> {
        let fail = |errno| self.fail("list directory", path, errno);
        let fd = self
            .open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(fail)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Packs `items` in their order.
    pub(crate) fn pack<W: Write>(&self, items: &[Item], out: W) -> Result<(W, Skipped), CliError> {
        let mut builder = Builder::new(out);
        let mut skipped = Skipped::default();
        for item in items {
            self.pack_item(&mut builder, item, &mut skipped)?;
        }
        let out = builder
            .into_inner()
            .map_err(|source| CliError::io("write the end of the copy", &source))?;
        Ok((out, skipped))
    }

    fn pack_item<W: Write>(
        &self,
        builder: &mut Builder<W>,
        item: &Item,
        skipped: &mut Skipped,
    ) -> Result<(), CliError> {
        let path = &item.source;
        let fail = |verb, errno: Errno| self.fail(verb, path, errno);
        let fd = match self.open_below(path, OFlags::PATH) {
            Ok(fd) => fd,
            // It went away since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(fail("open", errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| fail("look at", errno))?;
        let mut header = header(&stat);
        let written = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, &item.name, io::empty())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::with_capacity(MAX_TARGET))
                    .map_err(|errno| fail("read link", errno))?;
                header.set_entry_type(EntryType::Symlink);
                let target = OsString::from_vec(target.into_bytes());
                builder.append_link(&mut header, &item.name, Path::new(&target))
            }
            FileType::RegularFile => {
                let file = self
                    .open_below(path, OFlags::RDONLY | OFlags::NONBLOCK)
                    .map_err(|errno| fail("open", errno))?;
                let stat = rustix::fs::fstat(&file).map_err(|errno| fail("look at", errno))?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                let content = Exactly::new(File::from(file), size);
                builder.append_data(&mut header, &item.name, content)
            }
            _ => {
                skipped.special.push(path.clone());
                return Ok(());
            }
        };
        written.map_err(|source| CliError::io(format!("copy {:?}", self.path.join(path)), &source))
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        rustix::fs::openat2(
            self.root.as_fd(),
            path,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn fail(&self, verb: &str, path: &Path, errno: Errno) -> CliError {
        CliError::io(
            format!("{verb} {:?}", self.path.join(path)),
            &io::Error::from(errno),
        )
    }
}

/// A header with a file's mode and time, root's, without its type and size.
fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn packed(root: &Path) -> Vec<(String, EntryType, u32, String)> {
        let tree = Tree::open(root).unwrap();
        let items: Vec<_> = tree
            .walk(Path::new(""))
            .unwrap()
            .into_iter()
            .map(|source| Item {
                name: source.clone(),
                source,
            })
            .collect();
        let (tar, _) = tree.pack(&items, Vec::new()).unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            let link = entry.link_name().unwrap().map(|l| l.display().to_string());
            let header = entry.header().clone();
            let name = entry.path().unwrap().display().to_string();
            entry.read_to_string(&mut content).unwrap();
            found.push((
                name,
                header.entry_type(),
                header.mode().unwrap(),
                link.unwrap_or(content),
            ));
        }
        found
    }

    #[test]
    fn pack_keeps_modes_and_links_and_skips_sockets() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("tree");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/run.sh"), "x").unwrap();
        std::fs::set_permissions(
            root.join("sub/run.sh"),
            std::fs::Permissions::from_mode(0o750),
        )
        .unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        let found = packed(&root);
        let names: Vec<_> = found.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(names, ["link", "sub", "sub/run.sh"]);
        assert_eq!(
            (found[0].1, found[0].3.as_str()),
            (EntryType::Symlink, "/etc/passwd")
        );
        assert_eq!((found[2].2, found[2].3.as_str()), (0o750, "x"));
    }

    #[test]
    fn pack_never_reads_through_a_linked_directory() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::fs::write(temp.path().join("outside/secret"), "secret").unwrap();
        let root = temp.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        symlink("../outside", root.join("sub")).unwrap();
        let tree = Tree::open(&root).unwrap();
        for path in ["sub/secret", "../outside/secret", "/etc/passwd"] {
            assert!(tree.look(Path::new(path)).unwrap().is_none(), "{path}");
            let item = Item {
                source: path.into(),
                name: "x".into(),
            };
            let packed = tree.pack(&[item], Vec::new());
            assert!(!packed.is_ok_and(|(tar, _)| tar.windows(6).any(|w| w == b"secret")));
        }
    }
}
