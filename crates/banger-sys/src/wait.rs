//! Waiting for one descriptor, with a deadline that interruptions do not move.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until `fd` has one of `events` or has ended; `false` when `deadline` comes first. Without
/// one it waits for ever.
pub fn wait_for(
    fd: impl AsFd,
    events: PollFlags,
    deadline: Option<Instant>,
) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time that the kernel cannot be told is as good as for ever.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&fd, events)], timeout.as_ref()) {
            Ok(0) if left.is_none_or(|left| !left.is_zero()) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
