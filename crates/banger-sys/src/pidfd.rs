//! Processes proved before they are touched.
//!
//! A pid is a number that comes round again. A [`Proven`] process is a pidfd of which start time
//! and control group were read while it was held and lived, and matched what was recorded.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::dirs::{Dir, PathError};
use crate::wait::wait_for;

/// The most bytes of a file in `/proc` that are read.
const PROC_CAP: usize = 64 * 1024;
/// The position of the start time among the fields that follow the program's name, which is
/// the second; it is the 22nd of all.
const START_TIME: usize = 19;

/// Why a process was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such process any more.
    #[error("reach process: it is gone")]
    Gone,
    /// The pid is another process now, or that process is in another control group.
    #[error("refuse process {pid}: its {what} is not the one on record")]
    Foreign {
        /// The pid.
        pid: i32,
        /// What differs.
        what: &'static str,
    },
    /// `/proc` could not be read.
    #[error("read facts of a process")]
    Facts(#[source] PathError),
    /// `/proc` has another form than documented.
    #[error("read facts of a process: malformed")]
    Malformed,
    /// The kernel refused.
    #[error("{operation}")]
    Kernel {
        /// What was asked, as "signal process".
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> ProcessError {
    move |errno| match errno {
        Errno::SRCH => ProcessError::Gone,
        errno => ProcessError::Kernel { operation, errno },
    }
}

/// What tells one process from all others with its pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When it started, in clock ticks since boot. An exec does not change it.
    pub started: u64,
    /// Its control group in version 2's tree, absolute; `None` where there is no such tree.
    pub cgroup: Option<String>,
}

impl Facts {
    /// Reads them. Certain for a child that was not waited for; of others see [`Proven::open`].
    pub fn of(pid: Pid) -> Result<Self, ProcessError> {
        let gone = |error: PathError| match error.errno() {
            Some(Errno::NOENT | Errno::SRCH) => ProcessError::Gone,
            _ => ProcessError::Facts(error),
        };
        let dir = Dir::open(&format!("/proc/{}", pid.as_raw_nonzero())).map_err(gone)?;
        let read = |name| {
            let text = dir.read(name, PROC_CAP).map_err(gone)?;
            Ok::<_, ProcessError>(String::from_utf8_lossy(&text).into_owned())
        };
        Ok(Self {
            started: start_time(&read("stat")?).ok_or(ProcessError::Malformed)?,
            cgroup: unified_cgroup(&read("cgroup")?),
        })
    }
}

/// The program's name is in brackets and may have any character in it, brackets too.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(START_TIME)?.parse().ok()
}

fn unified_cgroup(lines: &str) -> Option<String> {
    lines
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

/// A process that is the one on record, held so that it cannot become another.
#[derive(Debug)]
pub struct Proven {
    fd: OwnedFd,
    pid: Pid,
}

impl AsFd for Proven {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Proven {
    /// Holds `pid` and proves that it lives and has exactly these facts.
    pub fn open(pid: i32, facts: &Facts) -> Result<Self, ProcessError> {
        // 0 and less are groups to the kernel, and 1 is nobody's child.
        let pid = (pid > 1)
            .then(|| Pid::from_raw(pid))
            .flatten()
            .ok_or(ProcessError::Foreign {
                pid,
                what: "number",
            })?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("hold process"))?;
        let proven = Self { fd, pid };
        let found = Facts::of(pid)?;
        // The facts are those of the held process only if it lives still: else its pid may
        // have been given away before they were read.
        if !proven.is_alive()? {
            return Err(ProcessError::Gone);
        }
        let differs = |what| {
            Err(ProcessError::Foreign {
                pid: pid.as_raw_nonzero().get(),
                what,
            })
        };
        if found.started != facts.started {
            return differs("start time");
        }
        if found.cgroup != facts.cgroup {
            return differs("control group");
        }
        Ok(proven)
    }

    /// Its pid, for the record.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The pidfd itself, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> Result<bool, ProcessError> {
        wait_ended(&self.fd, Some(Instant::now())).map(|ended| !ended)
    }

    /// Sends it a signal; [`ProcessError::Gone`] if it was waited for already.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        pidfd_send_signal(&self.fd, signal).map_err(failed("signal process"))
    }

    /// Waits for its end until `deadline`; whether it came.
    pub fn wait(&self, deadline: Instant) -> Result<bool, ProcessError> {
        wait_ended(&self.fd, Some(deadline))
    }
}

/// Waits until the process of `pidfd` has ended or, if that is earlier, `deadline` has come;
/// whether it has ended. Does not take a child's exit status: see [`reap`].
pub fn wait_ended(pidfd: impl AsFd, deadline: Option<Instant>) -> Result<bool, ProcessError> {
    wait_for(pidfd, PollFlags::IN, deadline).map_err(failed("wait for process"))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Waits for the end of a child and takes its exit status, so that it is no zombie.
pub fn reap(pidfd: impl AsFd) -> Result<Ended, ProcessError> {
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED))
            .map_err(failed("wait for child"))?
            .ok_or(ProcessError::Gone)?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ok(Ended::Exited(code)),
        (None, Some(signal)) => Ok(Ended::Killed(signal)),
        (None, None) => Err(ProcessError::Malformed),
    }
}

#[cfg(test)]
mod tests;
