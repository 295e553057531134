//! A process that is known for certain: held by a pidfd, and told from another that got its number
//! by the time it started.

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

/// Which process it is: a number is given away again, the three together are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    start_ticks: u64,
    boot_id: String,
}

/// A held process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pidfd: OwnedFd,
}

impl Process {
    /// Holds the process that has this number now.
    pub(super) fn hold(pid: i32) -> Result<Self> {
        let number = Pid::from_raw(pid).context("a process cannot have the number 0")?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())
            .with_context(|| format!("hold process {pid}"))?;
        let id = ProcessId {
            pid,
            start_ticks: start_ticks(pid)?,
            boot_id: boot_id()?,
        };
        Ok(Self { id, pidfd })
    }

    /// Holds a recorded process again; `None` if it has ended.
    pub(super) fn find(id: &ProcessId) -> Option<Self> {
        // Held first and compared then: once held, the number cannot be given away unnoticed.
        let process = Self::hold(id.pid).ok()?;
        let is_it = process.id == *id && !process.ends_within(Duration::ZERO).ok()?;
        is_it.then_some(process)
    }

    /// Whether it ends within this time.
    pub(super) fn ends_within(&self, limit: Duration) -> Result<bool> {
        Ok(first_ready(&[self.as_fd()], Instant::now() + limit)?.is_some())
    }

    /// Asks it to end, and kills it if it hasn't after `grace`; returns when it is gone.
    pub(super) fn end(&self, grace: Duration) -> Result<()> {
        for (signal, limit) in [
            (Signal::TERM, grace),
            (Signal::KILL, Duration::from_secs(20)),
        ] {
            match pidfd_send_signal(&self.pidfd, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno).context(format!("end process {}", self.id.pid)),
            }
            if self.ends_within(limit)? {
                return Ok(());
            }
        }
        anyhow::bail!("process {} does not end, even when killed", self.id.pid)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits until one of the descriptors can be read, and tells which; `None` at the deadline.
pub(super) fn first_ready(fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<Option<usize>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).context("wait for so long")?;
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut polled, Some(&limit)) {
            Ok(_) => return Ok(polled.iter().position(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for an event"),
        }
    }
}

/// When a process started, in clock ticks since the host's boot.
fn start_ticks(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name, in parentheses, may have blanks and parentheses of its own.
    let (_, after_name) = stat.rsplit_once(')').context("a stat without a name")?;
    let field = after_name.split_whitespace().nth(19);
    let field = field.with_context(|| format!("{path} is too short"))?;
    field.parse().with_context(|| format!("read {path}"))
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_found_until_it_ends_and_never_by_number_alone() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let held = Process::hold(pid).unwrap();
        assert!(Process::find(&held.id).is_some());
        let mut other = held.id.clone();
        other.start_ticks += 1;
        assert!(Process::find(&other).is_none(), "found by number alone");

        held.end(Duration::from_secs(10)).unwrap();
        assert!(Process::find(&held.id).is_none(), "found after its end");
        child.wait().unwrap();
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(first_ready(&[reader.as_fd()], deadline).unwrap(), None);
        assert!(Instant::now() >= deadline);
    }
}
