//! What only a machine's first process does: it forks itself, and signals everybody.

use banger_sys::signals::{Number, last_errno};
use rustix::io::Errno;

/// The first real-time signal's number that programs may use.
pub fn realtime_min() -> Number {
    libc::SIGRTMIN()
}

/// Sends a signal to every process but the caller and PID 1 (`kill(-1)`).
/// `SRCH` when there is none.
pub fn send_to_all(signal: Number) -> Result<(), Errno> {
    // SAFETY: kill has no memory preconditions.
    if unsafe { libc::kill(-1, signal) } < 0 {
        return Err(last_errno());
    }
    Ok(())
}

/// What [`fork_alone`] returns in each of the two processes.
#[derive(Debug)]
pub enum Forked {
    /// In the caller.
    Parent,
    /// In the new process.
    Child,
}

/// Forks a process that has one thread only; with more it is `BUSY`, since locks held by
/// other threads would stay held in the child for ever. Needs `/proc`.
pub fn fork_alone() -> Result<Forked, Errno> {
    let tasks = std::fs::read_dir("/proc/self/task")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if tasks.count() != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: there is one thread, so the child's copy of memory is as consistent as here.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent),
        _ => Err(last_errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_alone_refuses_a_process_with_threads() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || held.recv());
        assert_eq!(fork_alone().unwrap_err(), Errno::BUSY);
        drop(hold);
        assert!(thread.join().unwrap().is_err());
    }
}
