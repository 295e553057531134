//! Mounts made by descriptor, in a namespace that nobody else sees.
//!
//! The kernel clones a mount only in the mount namespace that its descriptor was opened in, and
//! mounts only onto a descriptor of the caller's. So the order is: [`MountClone::of`] each file, then
//! [`enter_private`], then [`MountClone::attach`] onto what was opened in there. A clone whose owner
//! ends before it is attached is gone.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::process::{chdir, fchdir};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::signals::last_errno;

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Why a mount was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{operation}")]
pub struct MountError {
    /// What was asked, as "attach mount".
    pub operation: &'static str,
    /// The kernel's reason; `STALE`: a directory is not the same one after a step.
    #[source]
    pub errno: Errno,
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> MountError {
    move |errno| MountError { operation, errno }
}

/// What a mount does not allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// No writing.
    pub read_only: bool,
    /// Set-id bits and file capabilities have no effect.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
}

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of one file's or directory's mount, without what is mounted beneath it.
#[derive(Debug)]
pub struct MountClone(OwnedFd);

impl MountClone {
    /// Clones what `fd` is of (an `O_PATH` one will do). It must have been opened in the
    /// caller's mount namespace; else it is `INVAL` (see [`crate::dirs::Dir::find`]).
    pub fn of(fd: impl AsFd, restrictions: Restrictions) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let clone = Self(open_tree(fd, c"", flags).map_err(failed("clone mount"))?);
        clone.restrict(restrictions)?;
        Ok(clone)
    }

    fn restrict(&self, restrictions: Restrictions) -> Result<(), MountError> {
        let attributes = Attributes {
            set: [
                (restrictions.read_only, MOUNT_ATTR_RDONLY),
                (restrictions.no_suid, MOUNT_ATTR_NOSUID),
                (restrictions.no_dev, MOUNT_ATTR_NODEV),
                (restrictions.no_exec, MOUNT_ATTR_NOEXEC),
            ]
            .iter()
            .filter(|(wanted, _)| *wanted)
            .fold(0, |set, (_, flag)| set | flag),
            clear: 0,
            // A clone is a peer of what it was cloned from: what is mounted beneath one would
            // show beneath the other.
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        // SAFETY: the path is an empty string, and the kernel reads one `mount_attr`, whose size
        // is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<Attributes>(),
            )
        };
        if result < 0 {
            return Err(failed("restrict mount")(last_errno()));
        }
        Ok(())
    }

    /// Mounts the clone onto `target`: a file over a file, a directory over a directory.
    pub fn attach(self, target: impl AsFd) -> Result<(), MountError> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, c"", target, c"", flags).map_err(failed("attach mount"))
    }
}

/// Puts the calling thread into a mount namespace of its own, out of which no mount spreads and
/// into which none comes, and gives the directory that `dir` is, as opened in there.
///
/// Descriptors from before belong to the old namespace; that of `dir` is found again by being
/// the working directory meanwhile, so by no path. The working directory is `/` afterwards.
/// Only the calling thread changes.
pub fn enter_private(dir: impl AsFd) -> Result<OwnedFd, MountError> {
    // The working directory of other threads stays what it was.
    // SAFETY: the descriptor table stays shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.map_err(failed("part from other threads"))?;
    fchdir(&dir).map_err(failed("enter directory"))?;
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed("make mount namespace"))?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failed("make mounts private"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = openat(CWD, c".", flags, Mode::empty()).map_err(failed("open directory"))?;
    let (before, after) = (
        fstat(&dir).map_err(failed("stat directory"))?,
        fstat(&inside).map_err(failed("stat directory"))?,
    );
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino) {
        return Err(failed("find directory in its namespace")(Errno::STALE));
    }
    chdir(c"/").map_err(failed("leave directory"))?;
    Ok(inside)
}

#[cfg(test)]
mod tests;
