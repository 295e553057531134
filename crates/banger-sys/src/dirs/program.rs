//! A program proved on the descriptor that will be executed.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fgetxattr, fstat, fstatfs, openat2};
use rustix::io::{Errno, pread};

use super::{NO_LINKS, PathError, check_path, failed, refused};

const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
const SET_ID_BITS: u32 = 0o6000;
const ANY_EXECUTE: u32 = 0o111;
const FOREIGN_WRITE: u32 = 0o022;

/// Opens the program at an absolute `path` and proves, on what it opened, that only root could
/// have put it there: a regular ELF file of root's, not writable by group or others, without
/// set-id bits or file capabilities, in directories of root's that group and others cannot
/// write, none of it on FUSE and none of it reached through a link.
///
/// The descriptor is for [`crate::spawn::exec`] or [`crate::spawn::spawn_exact`].
pub fn verified_program(path: &str) -> Result<OwnedFd, PathError> {
    let relative = path
        .strip_prefix('/')
        .ok_or_else(|| refused(path, "not absolute"))?;
    check_path(relative)?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd =
        openat2(CWD, "/", directory, Mode::empty(), NO_LINKS).map_err(failed("open", path))?;
    let mut names = relative.split('/').peekable();
    while let Some(name) = names.next() {
        check_roots_only(&fd, path, FileType::Directory)?;
        let flags = if names.peek().is_some() {
            directory
        } else {
            file
        };
        let resolve = NO_LINKS | ResolveFlags::BENEATH;
        fd = openat2(&fd, name, flags, Mode::empty(), resolve).map_err(failed("open", path))?;
    }
    let mode = check_roots_only(&fd, path, FileType::RegularFile)?;
    if mode & SET_ID_BITS != 0 || mode & ANY_EXECUTE == 0 {
        return Err(refused(path, "set-id bits, or not executable"));
    }
    match fgetxattr(&fd, c"security.capability", &mut [0_u8; 0]) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Ok(_) => return Err(refused(path, "it has file capabilities")),
        Err(errno) => return Err(failed("read capabilities of", path)(errno)),
    }
    let mut magic = [0_u8; 4];
    let length = pread(&fd, &mut magic, 0).map_err(failed("read", path))?;
    if length != magic.len() || magic != *b"\x7fELF" {
        return Err(refused(path, "not an ELF program"));
    }
    Ok(fd)
}

fn check_roots_only(fd: &OwnedFd, path: &str, kind: FileType) -> Result<u32, PathError> {
    let stat = fstat(fd).map_err(failed("stat", path))?;
    let file_system = fstatfs(fd).map_err(failed("stat", path))?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(refused(path, "not a regular file in directories"));
    }
    if stat.st_uid != 0 || stat.st_mode & FOREIGN_WRITE != 0 {
        return Err(refused(path, "somebody but root can write it or a parent"));
    }
    if u64::try_from(file_system.f_type) == Ok(FUSE_SUPER_MAGIC) {
        return Err(refused(path, "on a file system that a user can make up"));
    }
    Ok(stat.st_mode)
}
