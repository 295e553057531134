//! Who waits for which process.
//!
//! As init, orphans of the whole guest become the agent's children, so waits for "any child" are needed;
//! these would steal the exit status of commands from whoever runs them. So one thread does all
//! waiting ([`Reaper::reap_all`]) and keeps what belongs to a [`Process`]. Beside another init the
//! agent has its own children only, and each is waited for by itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use banger_sys::spawn::{Program, SpawnError, spawn};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, wait, waitid,
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Starts processes and knows how they end.
#[derive(Debug, Clone)]
pub struct Reaper(Mode);

#[derive(Debug, Clone)]
enum Mode {
    Own,
    All(Arc<Registry>),
}

#[derive(Debug, Default)]
struct Registry {
    /// Processes that somebody has, with their ending once it is known.
    processes: Mutex<HashMap<Pid, Option<Ending>>>,
    ended: Condvar,
}

/// A started process. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    mode: Mode,
    ending: Option<Ending>,
}

impl Reaper {
    /// For a process that waits for its own children only.
    pub fn own() -> Self {
        Self(Mode::Own)
    }

    /// For init: [`Reaper::reap_all`] must be called after every SIGCHLD.
    pub fn all() -> Self {
        Self(Mode::All(Arc::default()))
    }

    /// Starts a program.
    pub fn spawn(&self, program: &Program<'_>) -> Result<Process, SpawnError> {
        let child = match &self.0 {
            Mode::Own => spawn(program)?,
            Mode::All(registry) => {
                // Held until the child is known, so that it cannot be reaped as an orphan before.
                let mut processes = registry.lock();
                let child = spawn(program)?;
                processes.insert(child.pid, None);
                child
            }
        };
        Ok(Process {
            pid: child.pid,
            pidfd: child.pidfd,
            mode: self.0.clone(),
            ending: None,
        })
    }

    /// Waits for every child that has ended; whether any child is left.
    pub fn reap_all(&self) -> bool {
        let Mode::All(registry) = &self.0 else {
            return true;
        };
        let mut processes = registry.lock();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let ending = status
                        .exit_status()
                        .map(Ending::Code)
                        .or_else(|| status.terminating_signal().map(Ending::Signal));
                    if let (Some(slot), Some(ending)) = (processes.get_mut(&pid), ending) {
                        *slot = Some(ending);
                        registry.ended.notify_all();
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, Option<Ending>>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Its process id, and that of its process group and session.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> Ending {
        if let Some(ending) = self.ending {
            return ending;
        }
        let ending = match &self.mode {
            Mode::Own => self.wait_alone(),
            Mode::All(registry) => {
                let mut processes = registry.lock();
                loop {
                    match processes.get(&self.pid) {
                        Some(Some(ending)) => break *ending,
                        _ => {
                            processes = registry
                                .ended
                                .wait(processes)
                                .unwrap_or_else(PoisonError::into_inner);
                        }
                    }
                }
            }
        };
        self.ending = Some(ending);
        ending
    }

    fn wait_alone(&self) -> Ending {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    return status
                        .exit_status()
                        .map(Ending::Code)
                        .or_else(|| status.terminating_signal().map(Ending::Signal))
                        .unwrap_or(Ending::Code(255));
                }
                Ok(None) | Err(Errno::INTR) => {}
                // Not our child any more: its ending is unknown.
                Err(_) => return Ending::Code(255),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ending.is_none() {
            // It may have ended meanwhile; the wait tells.
            let _ = kill_process(self.pid, Signal::KILL);
            self.wait();
        }
        if let Mode::All(registry) = &self.mode {
            registry.lock().remove(&self.pid);
        }
    }
}
