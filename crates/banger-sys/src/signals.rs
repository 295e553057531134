//! Signals taken one by one by a thread that waits for them; no handlers.

use std::time::Duration;

use rustix::io::Errno;

/// A signal's number, as in `libc::SIGCHLD`.
pub type Number = libc::c_int;

pub use libc::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR2};

/// Blocks `signals` in this thread and in those it starts later, so that [`wait`] gets them.
pub fn block(signals: &[Number]) -> Result<(), Errno> {
    let set = set_of(signals)?;
    // SAFETY: `set` is an initialised set; the old mask is not asked for.
    let result =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if result != 0 {
        return Err(Errno::from_raw_os_error(result));
    }
    Ok(())
}

/// Waits for one of `signals`, which must be blocked in every thread; `None` after `timeout`.
pub fn wait(signals: &[Number], timeout: Option<Duration>) -> Result<Option<Number>, Errno> {
    let set = set_of(signals)?;
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(left.subsec_nanos()),
            }
        });
        let left = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `set` is initialised, no siginfo is asked for, and `left` is null or points
        // to a timespec that lives until the end of this loop's turn.
        let result = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), left) };
        if result > 0 {
            return Ok(Some(result));
        }
        match last_errno() {
            Errno::INTR => {}
            Errno::AGAIN => return Ok(None),
            errno => return Err(errno),
        }
    }
}

/// Sends the signal of this number to one process. For real-time signals, which have no name.
pub fn send(pid: rustix::process::Pid, signal: Number) -> Result<(), Errno> {
    // SAFETY: kill has no memory preconditions; `pid` is positive, so exactly one process is meant.
    if unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) } < 0 {
        return Err(last_errno());
    }
    Ok(())
}

/// The calling thread's `errno`.
pub fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn set_of(signals: &[Number]) -> Result<libc::sigset_t, Errno> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: `set` is initialised.
        if unsafe { libc::sigaddset(&raw mut set, signal) } < 0 {
            return Err(last_errno());
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_gets_a_blocked_signal_and_times_out_without_one() {
        // In a thread of its own: the mask of the test's other threads stays as it is.
        std::thread::spawn(|| {
            block(&[libc::SIGUSR2]).unwrap();
            assert_eq!(
                wait(&[libc::SIGUSR2], Some(Duration::from_millis(10))),
                Ok(None)
            );
            // SAFETY: the handle is this thread's own.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
            assert_eq!(wait(&[libc::SIGUSR2], None), Ok(Some(libc::SIGUSR2)));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn block_refuses_numbers_that_are_no_signal() {
        assert_eq!(block(&[4000]), Err(Errno::INVAL));
    }
}
