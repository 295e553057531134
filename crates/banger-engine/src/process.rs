//! One process, told apart from every other that ever had its number, and its end.
//!
//! Everything goes through a pidfd, so no signal can reach a process that merely got the
//! same number later.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::EngineError;

/// A process's identity, fit to be stored and checked after a restart of the daemon or the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the host's boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The host's boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// A held process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pidfd: Arc<OwnedFd>,
}

/// How a process ended, as far as it can be known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Ended {
    /// As a shell tells it: a code, or 128 and the number of the signal that ended it. Codes
    /// of 148 to 158 are Firecracker's own.
    pub(crate) fn of_shell_code(code: u8) -> Self {
        match code {
            129..148 | 159 => Self {
                code: None,
                signal: Some(i32::from(code) - 128),
            },
            _ => Self {
                code: Some(code.into()),
                signal: None,
            },
        }
    }
}

impl Process {
    /// Holds a child that was not reaped yet, so that its number is still its own.
    pub(crate) fn of_child(pid: u32) -> Result<Self, EngineError> {
        let pid = i32::try_from(pid).expect("Linux pids fit an i32");
        let pidfd = open(pid).map_err(EngineError::io(format!("hold process {pid}")))?;
        let start_ticks =
            start_ticks(pid).map_err(EngineError::io(format!("read the start of {pid}")))?;
        let boot_id = boot_id().map_err(EngineError::io("read the host's boot id"))?;
        Ok(Self {
            id: ProcessId {
                pid,
                start_ticks,
                boot_id,
            },
            pidfd: Arc::new(pidfd),
        })
    }

    /// Holds the process of a pidfd that somebody gave who proved what it is. Its number and
    /// start are for people, as far as the host shows them: nothing is compared with them.
    pub(crate) fn of_pidfd(pidfd: OwnedFd) -> Self {
        let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = std::fs::read_to_string(info).unwrap_or_default();
        // A process that has ended has the number -1; so has one whose number is not shown.
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|pid| pid.trim().parse().ok())
            .unwrap_or(-1);
        Self {
            id: ProcessId {
                pid,
                start_ticks: start_ticks(pid).unwrap_or_default(),
                boot_id: boot_id().unwrap_or_default(),
            },
            pidfd: Arc::new(pidfd),
        }
    }

    /// Holds a recorded process again, if it is still the same one and runs.
    pub(crate) fn adopt(id: &ProcessId) -> Result<Self, EngineError> {
        let refuse = |reason: &str| EngineError::NotOurs {
            pid: id.pid,
            reason: reason.to_owned(),
        };
        let boot = boot_id().map_err(EngineError::io("read the host's boot id"))?;
        if boot != id.boot_id {
            return Err(refuse("the host was restarted since"));
        }
        // Held first and compared then: once held, the number cannot be given away
        // without the pidfd saying that its process ended.
        let pidfd = open(id.pid).map_err(|_| refuse("it is gone"))?;
        let started = start_ticks(id.pid).map_err(|_| refuse("it is gone"))?;
        if started != id.start_ticks {
            return Err(refuse("another process has its number"));
        }
        let process = Self {
            id: id.clone(),
            pidfd: Arc::new(pidfd),
        };
        let ended = process
            .ends_within(Duration::ZERO)
            .map_err(EngineError::io(format!("look at process {}", id.pid)))?;
        if ended {
            return Err(refuse("it has ended"));
        }
        Ok(process)
    }

    /// Sends KILL. A process that is gone already is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the end.
    pub(crate) async fn gone(&self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe code, for types that let go of their descriptor; Held cannot"
        )]
        let watch = AsyncFd::with_interest(Held(Arc::clone(&self.pidfd)), Interest::READABLE)?;
        // A pidfd becomes readable once, when the process has ended, and stays so.
        drop(watch.readable().await?);
        Ok(())
    }

    /// Kills, waits for the end on this thread and reaps: for the undoing of a failed start.
    pub(crate) fn kill_now(&self) {
        if self.kill().is_ok() {
            let _ended = rustix::io::retry_on_intr(|| {
                waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            });
        }
    }

    /// Waits on this thread, for at most this long; tells whether the process has ended.
    pub(crate) fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&limit))? > 0)
    }

    /// Reaps it if it has ended and is our child. An adopted one has another parent: its code stays unknown.
    pub(crate) fn reap(&self) -> Ended {
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), flags) {
            Ok(Some(status)) => Ended {
                code: status.exit_status(),
                signal: status.terminating_signal(),
            },
            Ok(None) | Err(_) => Ended::default(),
        }
    }
}

/// Lets tokio watch a shared pidfd.
#[derive(Debug)]
struct Held(Arc<OwnedFd>);

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Keeps what is started from the signals of our terminal's keys: in a process group of its own, unless
/// we lead a session, which has no terminal then. There it stays in our group, because one of its own
/// would be orphaned by our end, and a VMM in it that is stopped would get HUP.
pub(crate) fn keep_from_keys(command: &mut Command) {
    if !leads_a_session() {
        command.process_group(0);
    }
}

/// Whether our session is our own. By /proc: getsid(2) answers 0 for a session that began outside our pid
/// namespace (a shell run into a container), and rustix 1.1 takes no 0 for a process.
fn leads_a_session() -> bool {
    let session = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| parse_session(&stat));
    session == Some(getpid().as_raw_nonzero().get())
}

/// Whether the kernel holds one of the process's threads: stopped by a signal, or by a debugger.
/// Where its threads are not shown, nothing is known and it is not said. Blocks for a moment.
pub fn is_stopped(id: &ProcessId) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", id.pid)) else {
        return false;
    };
    let is_held = |stat: String| {
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some(matches!(state, 'T' | 't'))
    };
    let mut threads = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    threads.any(|stat| is_held(stat) == Some(true))
        && start_ticks(id.pid).ok() == Some(id.start_ticks)
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Field 22 of a `/proc/PID/stat` line.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    stat_field(stat, 22)?.parse().ok()
}

/// Field 6 of a `/proc/PID/stat` line: the session, 0 where it began outside our pid namespace.
fn parse_session(stat: &str) -> Option<i32> {
    stat_field(stat, 6)?.parse().ok()
}

/// Field `number`, 3 or higher, of a `/proc/PID/stat` line, counted as proc_pid_stat(5) counts. The name
/// (field 2) may hold blanks and brackets.
fn stat_field(stat: &str, number: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_hostile_names() {
        let stat =
            "77 (a) S 1 (b) R 1 2 3) S 1 77 78 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_ticks(stat), Some(4242));
        assert_eq!(parse_session(stat), Some(78));
        assert_eq!(parse_start_ticks("77 (a"), None);
        assert_eq!(parse_start_ticks("77 (a) S 1"), None);
    }

    #[test]
    fn a_shells_code_tells_a_signal_from_firecrackers_own_codes() {
        let told = |code| {
            let ended = Ended::of_shell_code(code);
            (ended.code, ended.signal)
        };
        assert_eq!(told(0), (Some(0), None));
        assert_eq!(told(137), (None, Some(9)));
        assert_eq!(told(143), (None, Some(15)));
        assert_eq!(
            told(148),
            (Some(148), None),
            "a system call that is not allowed"
        );
        assert_eq!(told(159), (None, Some(31)));
        assert_eq!(told(255), (Some(255), None));
    }

    #[test]
    fn adopt_refuses_foreign_start_time_boot_and_dead() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::of_child(child.id()).unwrap();
        assert!(Process::adopt(&process.id).is_ok());
        let other_start = ProcessId {
            start_ticks: process.id.start_ticks + 1,
            ..process.id.clone()
        };
        let error = Process::adopt(&other_start).unwrap_err().to_string();
        assert!(error.contains("another process has its number"), "{error}");
        let other_boot = ProcessId {
            boot_id: "0".into(),
            ..process.id.clone()
        };
        let error = Process::adopt(&other_boot).unwrap_err().to_string();
        assert!(error.contains("restarted"), "{error}");
        process.kill().unwrap();
        child.wait().unwrap();
        assert!(Process::adopt(&process.id).is_err());
        assert!(process.kill().is_ok(), "killing twice is no error");
    }
}
