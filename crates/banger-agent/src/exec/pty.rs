//! Terminals for commands.

use std::os::fd::{AsFd, OwnedFd};

use banger_guest::request::Resize;
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A new terminal: the agent's end (not blocking) and the command's.
#[derive(Debug)]
pub(super) struct Pty {
    /// The agent's end.
    pub(super) master: OwnedFd,
    /// The command's end; to be closed once the command has it.
    pub(super) slave: OwnedFd,
}

/// Opens a terminal of this size that belongs to `uid`.
pub(super) fn open(size: Resize, uid: u32) -> Result<Pty, Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    if uid != 0 {
        // The mount's gid option has set the group already.
        fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>)?;
    }
    resize(&master, size)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok(Pty { master, slave })
}

/// Sets the size; the kernel tells the foreground processes by SIGWINCH.
pub(super) fn resize(master: impl AsFd, size: Resize) -> Result<(), Errno> {
    tcsetwinsize(
        master,
        Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
