//! What a failed test's surroundings looked like: the last lines of every log, and what the VMMs
//! were doing. Nothing of it needs the daemon to answer.

use crate::TestEnv;
use std::fs;
use std::path::{Path, PathBuf};

/// How much of a log is told.
const LAST_LINES: usize = 40;

pub(crate) fn of(env: &TestEnv) -> String {
    let mut told = Vec::new();
    let mut logs = Vec::new();
    find_logs(&env.join("state"), &mut logs);
    logs.sort();
    for log in logs {
        told.push(format!("== {}", log.display()));
        let bytes = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.escape_debug().to_string())
            .collect();
        told.extend_from_slice(&lines[lines.len().saturating_sub(LAST_LINES)..]);
    }
    for pid in env.vmms() {
        told.push(format!("== threads of VMM {pid}"));
        told.extend(threads(pid));
    }
    told.join("\n")
}

fn find_logs(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_logs(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
}

/// A line for each thread: its counters as the kernel has them (proc_pid_stat(5)), the function it
/// waits in, and the system call.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .map(|task| {
            ["stat", "wchan", "syscall"]
                .map(|name| {
                    let text = fs::read_to_string(task.path().join(name)).unwrap_or_default();
                    text.trim_end().to_owned()
                })
                .join(" | ")
        })
        .collect()
}
