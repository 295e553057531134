//! What VMs and installations leave on a host: objects of the kernel, files, processes. Mostly read
//! here, for programs started for it would take seconds in the lab, and it is asked all the time.

use crate::as_root;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The users that jailed VMs are given.
const USERS: RangeInclusive<u32> = 1_900_000_000..=1_900_099_999;

/// Where VMs and half-made things have files.
const FILES: [&str; 4] = [
    "/run/banger/vm",
    "/var/lib/banger/state/vms",
    "/var/lib/banger/data/tmp",
    "/var/cache/banger/tmp",
];

/// The directories of an installation.
const DIRS: [&str; 8] = [
    "/etc/banger",
    "/usr/lib/banger",
    "/run/banger",
    "/run/banger-ipc",
    "/run/bangerd-root",
    "/var/lib/banger",
    "/var/lib/bangerd-root",
    "/var/cache/banger",
];

/// What there is of VMs that run, a line each: what an unkept or stopped one may not leave.
pub(crate) fn remains() -> Vec<String> {
    let mut left = devices();
    left.extend(lines_with(
        "/proc/self/mounts",
        &["/var/lib/bangerd-root", "/var/lib/banger"],
    ));
    let rules = as_root(&["nft", "list", "ruleset"]);
    let rules = rules
        .split([',', '\n'])
        .filter(|rule| rule.contains("tap-"));
    left.extend(rules.map(|rule| rule.trim().to_owned()));
    // One that is dead and not yet forgotten is none.
    left.extend(units(&["banger-vm-*"]));
    let is_group = |name: &str| name.starts_with("banger-vm-");
    left.extend(found("/sys/fs/cgroup", &is_group));
    for dir in ["/run/bangerd-root/ledger", "/var/lib/bangerd-root/jail"] {
        left.extend(
            entries(dir)
                .filter(|path| name_of(path).starts_with("vm-"))
                .map(shown),
        );
    }
    left.extend(entries("/proc").filter_map(|process| of_vm(&process)));
    left
}

/// That, and files of VMs that are kept or not.
pub(crate) fn remains_with_files() -> Vec<String> {
    let mut left = remains();
    let files = FILES.iter().flat_map(|dir| entries(dir));
    left.extend(
        files
            .filter(|path| !name_of(path).starts_with('.'))
            .map(shown),
    );
    left
}

/// What is left of an installation, a line each.
pub(crate) fn remains_installed() -> Vec<String> {
    let dirs = DIRS.iter().map(PathBuf::from);
    let mut left: Vec<String> = dirs
        .filter(|dir| dir.symlink_metadata().is_ok())
        .map(shown)
        .collect();
    let is_ours = |name: &str| name.contains("banger");
    for dir in [
        "/etc/systemd",
        "/etc/modules-load.d",
        "/etc/udev/rules.d",
        "/usr/local/bin",
    ] {
        left.extend(found(dir, &is_ours));
    }
    left.extend(units(&["--all", "banger*"]));
    left.extend(lines_with("/etc/group", &["banger-ipc:"]));
    let links = entries("/sys/class/net").filter(|link| {
        let name = name_of(link);
        name.starts_with("br-fc") || name.starts_with("tap-")
    });
    left.extend(links.map(shown));
    let tables = as_root(&["nft", "list", "tables"]);
    left.extend(
        tables
            .lines()
            .filter(|table| table.contains("banger"))
            .map(str::to_owned),
    );
    left
}

/// What only a killed installation leaves beside what is installed.
pub(crate) fn half_written() -> Vec<String> {
    let is_half = |name: &str| name.starts_with(".banger-");
    ["/etc", "/usr/lib/banger", "/usr/local/bin"]
        .iter()
        .flat_map(|dir| found(dir, &is_half))
        .collect()
}

/// VMs' taps, the neighbours that were told of them, their snapshots and loop devices.
fn devices() -> Vec<String> {
    let mut left = Vec::new();
    let links = entries("/sys/class/net").filter(|link| name_of(link).starts_with("tap-"));
    left.extend(links.map(shown));
    for line in lines_with("/proc/net/arp", &["br-fc"]) {
        let flags = line.split_whitespace().nth(2);
        // ATF_COM and ATF_PERM.
        if flags == Some("0x6") {
            left.push(format!("neighbour {line}"));
        }
    }
    for device in entries("/sys/block") {
        let about = |file: &str| fs::read_to_string(device.join(file)).unwrap_or_default();
        let (name, backing) = (about("dm/name"), about("loop/backing_file"));
        if name.starts_with("fc-rootfs-") || backing.contains("banger") {
            left.push(format!("{} {name}{backing}", device.display()));
        }
    }
    left
}

/// A process that is a VM's user's, with its command line.
fn of_vm(process: &Path) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let effective: u32 = ids.split_whitespace().nth(1)?.parse().ok()?;
    let argv = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    let line = format!(
        "{effective} {} {}",
        name_of(process),
        argv.replace('\0', " ")
    );
    USERS.contains(&effective).then_some(line)
}

fn units(of: &[&str]) -> Vec<String> {
    let list = ["systemctl", "list-units", "--plain", "--no-legend"];
    let shown = as_root(&[&list, of].concat());
    shown.lines().map(str::to_owned).collect()
}

fn lines_with(file: &str, parts: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let has_one = |line: &&str| parts.iter().any(|part| line.contains(part));
    text.lines().filter(has_one).map(str::to_owned).collect()
}

/// What is in a directory and beneath it whose name is one of those.
fn found(dir: &str, is_one: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut left = Vec::new();
    let mut dirs = vec![PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        for path in entries(&dir) {
            if is_one(name_of(&path)) {
                left.push(shown(path.clone()));
            }
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                dirs.push(path);
            }
        }
    }
    left
}

/// What is in a directory, if it is there.
fn entries(dir: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}
