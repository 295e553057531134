//! Watches the system calls of a process, all of its threads, and strikes at the so manieth: the
//! thread that makes it is held there while SIGKILL is sent, so nothing of the process runs on.

use crate::seize::seize;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;
use rustix::process::WaitOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What wakes the tracer when its time is up: a signal that no process does anything at.
const WAKE: Signal = Signal::SIGURG;
/// The signal that stands for a system call: TRAP with the bit that `TRACESYSGOOD` asks for.
const CALL: i32 = 0x85;
/// How often is looked for a process that is to come.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traced {
    /// How many stops were seen: every call has two, before it and after it.
    pub stops: usize,
    /// When it was struck, if it was.
    pub struck: Option<Instant>,
}

impl Traced {
    /// So many stops at which to strike, spread over all that were seen.
    pub fn spread(self, points: usize) -> impl Iterator<Item = usize> {
        (1..=points).map(move |point| self.stops * point / (points + 1))
    }
}

/// Watches a process that is there or is to come.
#[derive(Debug)]
pub struct Tracer {
    process: Arc<AtomicI32>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Traced>,
}

impl Tracer {
    /// Kills the process that `find` gives, and `others` with it, at the stop with this number,
    /// if one is given. Returns once every thread of a process that is there is held.
    pub fn of(
        mut find: impl FnMut() -> Option<i32> + Send + 'static,
        at: Option<usize>,
        others: Vec<i32>,
    ) -> Self {
        let process = Arc::new(AtomicI32::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = channel();
        let (found, over) = (Arc::clone(&process), Arc::clone(&is_over));
        // What is traced belongs to the thread that began it; with its end all is let go.
        let thread = std::thread::spawn(move || {
            let mut first = find();
            if first.is_none() {
                ready.send(()).unwrap();
            }
            while first.is_none() && !over.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_AGAIN);
                first = find();
            }
            let Some(number) = first else {
                return Traced::default();
            };
            found.store(number, Ordering::SeqCst);
            seize(Pid::from_raw(number));
            // Nobody waits any more for one that was to come.
            ready.send(()).ok();
            let victims = [vec![number], others].concat();
            trace(at, &victims, &over)
        });
        // An error says that the thread has ended: it panicked, which `end` tells.
        is_ready.recv().ok();
        Self {
            process,
            is_over,
            thread,
        }
    }

    /// Lets the process go on by itself, if it still does.
    pub fn end(self) -> Traced {
        self.is_over.store(true, Ordering::SeqCst);
        while !self.thread.is_finished() {
            let process = self.process.load(Ordering::SeqCst);
            if process != 0 {
                // One that is gone ends the thread.
                kill(Pid::from_raw(process), WAKE).ok();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.thread.join().unwrap()
    }
}

/// Goes on until the process has ended, or its time is up.
fn trace(at: Option<usize>, victims: &[i32], is_over: &AtomicBool) -> Traced {
    let mut traced = Traced::default();
    while let Some((thread, stop)) = wait() {
        let resumed = match stop {
            Stop::Signal(Some(WAKE)) if is_over.load(Ordering::SeqCst) => break,
            Stop::Signal(signal) => ptrace::syscall(thread, signal),
            Stop::Event => ptrace::syscall(thread, None),
            Stop::End => Ok(()),
            Stop::Call => {
                if at == Some(traced.stops) {
                    traced.struck = Some(Instant::now());
                    for victim in victims {
                        // One that is gone needs no killing.
                        kill(Pid::from_raw(*victim), Signal::SIGKILL).ok();
                    }
                }
                traced.stops += 1;
                ptrace::syscall(thread, None)
            }
        };
        // One that was killed while it was held.
        assert!(matches!(resumed, Ok(()) | Err(Errno::ESRCH)), "{resumed:?}");
    }
    traced
}

/// Why a thread does not run.
enum Stop {
    Call,
    /// A signal is to be delivered. One of Firecracker to its vCPU has no name here and is kept
    /// from it, which then goes on to its next exit.
    Signal(Option<Signal>),
    Event,
    End,
}

/// The next thing that happens to what this thread traces; none if that is nothing any more. Not
/// the ends of children of other threads.
fn wait() -> Option<(Pid, Stop)> {
    let whose = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let whose = WaitOptions::from_bits_retain(whose.bits().cast_unsigned());
    let (thread, status) = loop {
        match rustix::process::wait(whose) {
            Ok(Some(news)) => break news,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                assert_eq!(errno, rustix::io::Errno::CHILD, "wait for what is traced");
                return None;
            }
        }
    };
    let stop = match status.stopping_signal() {
        None => Stop::End,
        Some(CALL) => Stop::Call,
        Some(_) if status.as_raw() >> 16 != 0 => Stop::Event,
        Some(signal) => Stop::Signal(Signal::try_from(signal).ok()),
    };
    Some((Pid::from_raw(thread.as_raw_nonzero().get()), stop))
}
