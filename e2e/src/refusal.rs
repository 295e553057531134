//! The kernel made to refuse: one system call of a running process fails, chosen by what it is about.
//!
//! By ptrace. strace can inject errors too, but counts calls for each thread alone and cannot tell
//! the write to a file from the one that wakes an event loop, which no kernel refuses. Programs that
//! the process starts are left alone.

use crate::seize::seize;
use crate::syscall::{Call, Calls};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a refusal that lasts goes on: long enough for what the daemon does at once about the
/// first one, short enough for the client to get its answer.
const LASTS: Duration = Duration::from_secs(2);

/// What the kernel is to refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The call's name and what it is about.
    pub call: Call,
    /// The so manieth such call, from 1.
    pub nth: usize,
    /// With which error.
    pub errno: Errno,
    /// Whether all calls that can fail so do so for a while from then on: a disk that is full.
    pub lasts: bool,
}

/// A process under watch.
#[derive(Debug)]
pub struct Watch {
    /// Ends when its standard input does: the thread's sign to let go.
    end: Child,
    thread: JoinHandle<Seen>,
}

/// What was seen of it.
#[derive(Debug)]
pub struct Seen {
    /// Every call that can be refused, in order.
    pub calls: Vec<Call>,
    /// How many were.
    pub refused: usize,
}

impl Watch {
    /// Attaches to every thread of the process `pid`. Paths are told from `root` on.
    pub fn attach(pid: u32, root: &Path, fault: Option<Fault>) -> Self {
        let (attached, is_attached) = mpsc::channel();
        let calls = Calls::new(pid, root);
        // Waiting is a thread's own business: its children are not taken for others'.
        let thread = std::thread::spawn(move || {
            let mut end = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let stdin = end.stdin.take();
            let sentinel = Pid::from_raw(i32::try_from(end.id()).unwrap());
            end.stdin = None;
            let tracer = Tracer {
                calls,
                fault,
                counted: 0,
                lasting_since: None,
                pending: HashMap::new(),
                seen: Vec::new(),
                refused: 0,
            };
            seize(Pid::from_raw(i32::try_from(pid).unwrap()));
            attached.send((end, stdin)).unwrap();
            tracer.run(sentinel)
        });
        let (mut end, stdin) = is_attached.recv().unwrap();
        end.stdin = stdin;
        Self { end, thread }
    }

    /// Lets go of the process.
    pub fn end(mut self) -> Seen {
        drop(self.end.stdin.take());
        // The thread has waited for its child; once it has ended the kernel lets go of the rest.
        self.thread.join().unwrap()
    }
}

/// Whether this kernel lets a user watch processes that are not the watcher's descendants.
pub fn is_allowed() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    // Without that module there is no such file.
    let is_open = scope.map_or(true, |scope| scope.trim() == "0");
    is_open || rustix::process::geteuid().is_root()
}

/// What goes on in the watching thread.
struct Tracer {
    calls: Calls,
    fault: Option<Fault>,
    /// How many calls like the fault's there were.
    counted: usize,
    lasting_since: Option<Instant>,
    /// Threads in a call that is being refused.
    pending: HashMap<Pid, Errno>,
    seen: Vec<Call>,
    refused: usize,
}

impl Tracer {
    fn run(mut self, sentinel: Pid) -> Seen {
        let mut is_over = false;
        // A call that is half refused is finished first.
        while !is_over || !self.pending.is_empty() {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let Ok(status) = waitpid(None, Some(flags)) else {
                break;
            };
            let (tid, signal) = match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    is_over |= pid == sentinel;
                    self.pending.remove(&pid);
                    continue;
                }
                WaitStatus::PtraceSyscall(tid) => {
                    // A thread that was killed meanwhile is told of by the next wait.
                    self.at_call(tid).unwrap_or_default();
                    (tid, None)
                }
                WaitStatus::PtraceEvent(tid, ..) => (tid, None),
                WaitStatus::Stopped(tid, signal) => (tid, Some(signal)),
                _ => continue,
            };
            // Again: gone, if at all.
            ptrace::syscall(tid, signal).unwrap_or_default();
        }
        Seen {
            calls: self.seen,
            refused: self.refused,
        }
    }

    /// A thread stands at the beginning or at the end of a call.
    fn at_call(&mut self, tid: Pid) -> nix::Result<()> {
        let mut regs = ptrace::getregs(tid)?;
        if let Some(errno) = self.pending.remove(&tid) {
            regs.rax = (-i64::from(errno as i32)).cast_unsigned();
            return ptrace::setregs(tid, regs);
        }
        // What the kernel shows as the result of a call that has not begun.
        let is_begin = regs.rax.cast_signed() == -i64::from(Errno::ENOSYS as i32);
        if !is_begin {
            return Ok(());
        }
        let Some(call) = self.calls.read(&regs) else {
            return Ok(());
        };
        if let Some(errno) = self.refuses(&call) {
            // No call has this number: the kernel does nothing.
            regs.orig_rax = u64::MAX;
            ptrace::setregs(tid, regs)?;
            self.pending.insert(tid, errno);
            self.refused += 1;
        }
        self.seen.push(call);
        Ok(())
    }

    fn refuses(&mut self, call: &Call) -> Option<Errno> {
        let fault = self.fault.as_ref()?;
        if let Some(since) = self.lasting_since {
            let is_struck = since.elapsed() < LASTS && call.errors().contains(&fault.errno);
            return is_struck.then_some(fault.errno);
        }
        if *call != fault.call {
            return None;
        }
        self.counted += 1;
        if self.counted != fault.nth {
            return None;
        }
        if fault.lasts {
            self.lasting_since = Some(Instant::now());
        }
        Some(fault.errno)
    }
}
