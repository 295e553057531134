//! What a process gives up before it works, or before it becomes another program.
//!
//! Capabilities and `no_new_privs` belong to a thread: what is dropped here is dropped for the
//! calling thread and for those that it starts. So this is for before threads exist, or for a
//! process that has one.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::signals::last_errno;

pub use rustix::thread::CapabilitySet;

/// Every capability but `keep` goes from the bounding set, out of which no later program can get
/// one back. Needs CAP_SETPCAP if there is one to drop; else it is `PERM`.
pub fn drop_bounding(keep: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1_u64.rotate_left(bit));
        match capability_is_in_bounding_set(one) {
            Ok(true) if !keep.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The thread's own sets become those of `keep` that it has. What it executes gets the same if
/// `hand_on` (by the ambient set), else nothing that its file or uid does not give.
pub fn restrict(keep: CapabilitySet, hand_on: bool) -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let kept = capabilities(None)?.permitted & keep;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: if hand_on {
                kept
            } else {
                CapabilitySet::empty()
            },
        },
    )?;
    if hand_on {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1_u64.rotate_left(bit));
            if kept.contains(one) {
                configure_capability_in_ambient_set(one, true)?;
            }
        }
    }
    Ok(())
}

/// No program executed from here on gets privileges by set-id bits or file capabilities.
pub fn forbid_new_privileges() -> Result<(), Errno> {
    set_no_new_privs(true)
}

/// No core file, not traceable by others of the same uid, and files private unless said
/// otherwise (umask 077). Holds for the whole process; an exec makes it traceable again.
pub fn harden_process() -> Result<(), Errno> {
    limit(Resource::Core, 0)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

/// Sets both limits of a resource, for the whole process and what it starts.
pub fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    setrlimit(
        resource,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )
}

/// The program executed next gets these descriptors, under their numbers, and no other above 2.
pub fn keep_across_exec(keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    // SAFETY: marks descriptors; none is closed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    keep.iter()
        .filter(|fd| fd.as_raw_fd() > 2)
        .try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()))
}

#[cfg(test)]
mod tests;
