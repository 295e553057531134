//! All threads of a process held by ptrace, for whoever watches its system calls.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs;

/// Seizes and stops every thread of a process, if it is still there; those that are born from then on
/// are held from their beginning. Stops at system calls are told apart from those by TRAP.
pub fn seize(process: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    let mut known = HashSet::new();
    loop {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
            return;
        };
        let number = |task: fs::DirEntry| task.file_name().to_str().unwrap().parse().unwrap();
        let fresh: Vec<i32> = tasks
            .flatten()
            .map(number)
            .filter(|task| known.insert(*task))
            .collect();
        if fresh.is_empty() {
            return;
        }
        for task in fresh.into_iter().map(Pid::from_raw) {
            match ptrace::seize(task, options).and_then(|()| ptrace::interrupt(task)) {
                Ok(()) | Err(Errno::ESRCH) => {}
                // One that was held before has made it.
                Err(Errno::EPERM) if task != process => {}
                Err(errno) => panic!("hold thread {task} of {process}: {errno}"),
            }
        }
    }
}
