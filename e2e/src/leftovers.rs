//! What VMs left behind in a test's surroundings: processes, files, sockets.

use crate::TestEnv;
use std::fs;
use std::path::Path;

/// Everything that a VM made and that is still there, a line each.
pub(crate) fn of(env: &TestEnv) -> Vec<String> {
    let mut left: Vec<String> = vmms(env)
        .into_iter()
        .map(|pid| format!("process {pid}: {}", command_line(pid)))
        .collect();
    for dir in ["run/vm", "state/vms", "data/tmp"] {
        entries(&env.join(dir), &mut left);
    }
    left
}

/// The processes, other than the daemon and its clients, whose working directory lies in a
/// VM's runtime directory of these surroundings.
pub(crate) fn vmms(env: &TestEnv) -> Vec<u32> {
    let home = env.join("run/vm");
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // The link of a removed directory reads "PATH (deleted)": still ours.
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&home))
        })
        .collect()
}

fn entries(dir: &Path, left: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        left.push(format!("file {}", entry.path().display()));
    }
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .replace('\0', " ")
}
