//! VMMs that were started but never recorded: the daemon died in between.
//!
//! Proof that a process is such a VMM are facts of the kernel alone: it runs as our user, its
//! working directory is the VM's own run directory or it has a file of the VM's own
//! directories open, and what it executes is a VMM. Its command line proves nothing and is
//! not read. It is held by a pidfd before it is looked at and killed through it.

use crate::vm::place::VmPlace;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The programs that can be a VMM of ours, by the beginning of their file's name.
const VMMS: [&str; 2] = ["qemu-system-", "firecracker"];

/// How long a killed stray may take to be gone, in milliseconds.
const GONE_LIMIT_MS: i64 = 10_000;

/// Kills the VMMs that use the directories of `place`. Blocks until they are gone.
pub(super) fn kill(place: &VmPlace) -> io::Result<()> {
    if !place.run.exists() && !place.state.exists() {
        return Ok(());
    }
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if u32::try_from(number) == Ok(own) {
            continue;
        }
        let Some(pid) = Pid::from_raw(number) else {
            continue;
        };
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue; // gone meanwhile
        };
        // Held first and looked at then: what is seen is the held process's, or nothing is.
        if is_vmm_of(&entry.path(), place) {
            tracing::warn!(pid = number, "killing a VMM that no record knows");
            end(&held)?;
        }
    }
    Ok(())
}

fn is_vmm_of(process: &Path, place: &VmPlace) -> bool {
    // Only of processes of our user (or of any, for root) do these links resolve.
    let Ok(exe) = std::fs::read_link(process.join("exe")) else {
        return false;
    };
    let is_vmm = exe
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| VMMS.iter().any(|vmm| name.starts_with(vmm)));
    if !is_vmm {
        return false;
    }
    let is_in = |path: PathBuf| path.starts_with(&place.run) || path.starts_with(&place.state);
    if std::fs::read_link(process.join("cwd")).is_ok_and(is_in) {
        return true;
    }
    let Ok(files) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| std::fs::read_link(file.path()).is_ok_and(is_in))
}

fn end(held: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(held, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let limit = rustix::event::Timespec {
        tv_sec: GONE_LIMIT_MS / 1000,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(
        held,
        rustix::event::PollFlags::IN,
    )];
    if rustix::event::poll(&mut fds, Some(&limit))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "a killed VMM does not end",
        ));
    }
    // Reaps it if it is our child; it usually is not.
    let _reaped = rustix::process::waitid(
        WaitId::PidFd(held.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
    Ok(())
}
