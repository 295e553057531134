//! Control groups (version 2): directories whose files limit, list and kill what runs in them.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::time::Instant;

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fstatfs};
use rustix::io::{Errno, pread, write};
use rustix::process::Pid;

use crate::dirs::{Dir, PathError};
use crate::wait::wait_for;

const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Why a control group did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// What was opened is not in a version 2 tree.
    #[error("refuse {0:?}: not a control group of version 2")]
    NotUnified(String),
    /// A name was refused.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The kernel refused.
    #[error("{operation} {file:?}")]
    Kernel {
        /// What was asked, as "write".
        operation: &'static str,
        /// The group's file.
        file: String,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
}

fn failed(operation: &'static str, file: &str) -> impl FnOnce(Errno) -> CgroupError {
    let file = file.to_owned();
    move |errno| CgroupError::Kernel {
        operation,
        file,
        errno,
    }
}

/// A held group.
#[derive(Debug)]
pub struct Cgroup(Dir);

impl Cgroup {
    /// Opens the group at `path`, as `/proc/PID/cgroup` shows it (`/` is the root), beneath
    /// `mount`, where the tree is mounted, as `/sys/fs/cgroup`.
    pub fn open(mount: &str, path: &str) -> Result<Self, CgroupError> {
        let not_unified = || CgroupError::NotUnified(format!("{mount}{path}"));
        let mut dir = Dir::open(mount)?;
        let file_system = fstatfs(&dir).map_err(failed("stat", mount))?;
        if u64::try_from(file_system.f_type) != Ok(CGROUP2_SUPER_MAGIC) {
            return Err(not_unified());
        }
        let relative = path.strip_prefix('/').ok_or_else(not_unified)?;
        if !relative.is_empty() {
            for name in relative.split('/') {
                dir = dir.child(name)?;
            }
        }
        Ok(Self(dir))
    }

    /// Makes the group `name` in this one; it must not exist.
    pub fn create(&self, name: &str) -> Result<Self, CgroupError> {
        Ok(Self(self.0.create_child(name, 0o755)?))
    }

    /// Removes the group `name`, in which nothing runs and no group is.
    pub fn remove(&self, name: &str) -> Result<(), CgroupError> {
        Ok(self.0.remove_child(name)?)
    }

    /// Writes one of the group's files, as `memory.max`.
    pub fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let fd = self.0.open_file(file, OFlags::WRONLY)?;
        let written = write(fd, value.as_bytes()).map_err(failed("write", file))?;
        if written != value.len() {
            return Err(failed("write", file)(Errno::IO));
        }
        Ok(())
    }

    /// Moves a process, with its threads, into the group. A child that was not waited for, so
    /// that the pid is its own.
    pub fn add(&self, pid: Pid) -> Result<(), CgroupError> {
        self.set("cgroup.procs", &pid.as_raw_nonzero().to_string())
    }

    /// Kills everything in the group and beneath it, what is being forked included.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.set("cgroup.kill", "1")
    }

    /// Whether anything runs in the group or beneath it.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        self.wait_empty(Instant::now()).map(|empty| !empty)
    }

    /// Waits until nothing runs in the group or beneath it, or until `deadline`; whether it is
    /// empty. A group that is removed meanwhile is empty.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool, CgroupError> {
        const FILE: &str = "cgroup.events";
        let events = self.0.open_file(FILE, OFlags::RDONLY)?;
        loop {
            // Reading arms the next event: nothing is missed between the two calls.
            let mut text = [0_u8; 256];
            let length = match pread(&events, &mut text, 0) {
                Ok(length) => length,
                Err(Errno::NODEV) => return Ok(true),
                Err(errno) => return Err(failed("read", FILE)(errno)),
            };
            let text = text.get(..length).unwrap_or_default();
            match text
                .split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(b"populated "))
            {
                Some(b"0") => return Ok(true),
                Some(_) => {}
                None => return Err(failed("read", FILE)(Errno::IO)),
            }
            if !wait_for(&events, PollFlags::PRI, Some(deadline))
                .map_err(failed("wait for", FILE))?
            {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests;
