//! The two sockets that Firecracker makes in its jail: waited for, proved, and made the owner's.
//!
//! The directory that they are in is the VM's uid's, so nothing in it is believed. What is handed
//! out is a descriptor, found through no link, of which the kernel says that it is of a socket and the
//! VM's; or the owner's, when asked for again: the VM cannot make one of those.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use banger_ids::VmRef;
use banger_priv::jail::{API_SOCKET, VSOCK_SOCKET};
use banger_priv::{Refusal, RefusalKind, Reply, Vmm};
use banger_sys::dirs::{self, PathError, Wanted};
use banger_sys::pidfd::Proven;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat, inotify};
use rustix::io::Errno;

use super::{jail, vmm};
use crate::helper::{Helper, Outcome};
use crate::policy::SOCKETS_LIMIT;
use crate::refusal::{failed, refuse};

/// Permissions that a socket of the owner's must not give.
const FOREIGN: u32 = 0o077;

pub(crate) fn ensure_socket_access(helper: &Helper, vm: VmRef) -> Outcome {
    let entry = helper.ledger().entry(&vm)?;
    let process = vmm::running(&entry)?;
    let what = format!("open the sockets of {vm}");
    let run = jail::open_run(helper, &vm).map_err(|error| failed(&what, &error))?;
    let events = watch(run.as_fd()).map_err(|error| failed(&what, &error))?;
    let now = Instant::now();
    let deadline = now.checked_add(SOCKETS_LIMIT).unwrap_or(now);
    let mut fds = Vec::new();
    for path in [API_SOCKET, VSOCK_SOCKET] {
        let name = path.rsplit('/').next().unwrap_or_default();
        let socket = loop {
            match run.open_socket(name, None) {
                Ok(socket) => break socket,
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(refuse_socket(&what, &error)),
            }
            wait(&events, &process, deadline, &what)?;
        };
        hand_over(&socket, entry.uid, helper.config.owner)
            .map_err(|error| refuse_socket(&what, &error))?;
        fds.push(socket);
    }
    let pid = process.pid().as_raw_nonzero().get().unsigned_abs();
    fds.push(process.into_fd());
    Ok((Reply::Vmm(Vmm { pid }), fds))
}

fn refuse_socket(what: &str, error: &PathError) -> Refusal {
    let mut refusal = failed(what, error);
    if error.errno().is_none() {
        refusal.kind = RefusalKind::Foreign;
    }
    refusal
}

/// Listens for names that appear in the held directory, whatever its own name is.
fn watch(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let events = inotify::init(flags)?;
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let appearing = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&events, path, appearing | inotify::WatchFlags::ONLYDIR)?;
    Ok(events)
}

/// Waits for the next name to appear; the VMM's end and the deadline are refusals.
fn wait(events: &OwnedFd, process: &Proven, deadline: Instant, what: &str) -> Result<(), Refusal> {
    let left = deadline.saturating_duration_since(Instant::now());
    let message = |why: &str| format!("{what}: {why}");
    let timeout = Timespec::try_from(left).map_err(|error| failed(what, &error))?;
    let mut fds = [
        PollFd::new(events, PollFlags::IN),
        PollFd::new(process, PollFlags::IN),
    ];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => {
            return Err(refuse(
                RefusalKind::TimedOut,
                message("Firecracker made none"),
            ));
        }
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(failed(what, &error)),
    }
    if process.is_alive().is_ok_and(|alive| !alive) {
        let why = "Firecracker has ended; the console and its log say why";
        return Err(refuse(RefusalKind::Unknown, message(why)));
    }
    // What appeared is found by looking; the events only have to be gone.
    match rustix::io::read(events, &mut [0_u8; 4096]) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(failed(what, &error)),
    }
}

/// Makes a socket of the VM's the owner's.
fn hand_over(socket: &OwnedFd, uid: u32, owner: u32) -> Result<(), PathError> {
    let of = |owner| Wanted {
        kind: FileType::Socket,
        owner: Some(owner),
        forbidden: FOREIGN,
    };
    if fstat(socket).is_ok_and(|stat| stat.st_uid == owner) {
        return dirs::prove(socket, of(owner)).map(drop);
    }
    dirs::chown(socket, of(uid), Some(owner), None)
}
