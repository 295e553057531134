//! `banger system install` with the kernel refusing one of its system calls, at points spread over all
//! of them: it says what failed, and one that is removed afterwards, whole or half, leaves nothing.

use crate::{OWNER, as_root, run};
use std::collections::BTreeSet;
use std::fs;

/// How many, unless `BANGER_CHAOS_POINTS` says otherwise.
const POINTS: usize = 1;

const LOG: &str = "/run/refused.strace";

/// Calls that fail in life, and the errors that they are given in turn.
const ERRORS: [(&str, &[&str]); 12] = [
    ("openat", &["ENOSPC", "EMFILE", "EIO", "ENOMEM"]),
    ("mkdir", &["ENOSPC", "EIO"]),
    ("mkdirat", &["ENOSPC", "EIO"]),
    ("rename", &["ENOSPC", "EIO"]),
    ("renameat", &["ENOSPC", "EIO"]),
    ("symlink", &["ENOSPC"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("copy_file_range", &["ENOSPC", "EIO"]),
    ("fchmod", &["EIO"]),
    ("pipe2", &["EMFILE"]),
    ("socketpair", &["EMFILE"]),
    ("waitid", &["EINTR"]),
];

pub(crate) fn an_installation_is_refused_at_any_step() {
    let points = std::env::var("BANGER_CHAOS_POINTS").ok();
    let points = points.map_or(POINTS, |points| points.parse().unwrap());
    let before = files();
    let (code, said) = install("trace=all");
    assert_eq!(code, 0, "{said}");
    let calls = calls(&fs::read_to_string(LOG).unwrap());
    let wrong = uninstall(&before);
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("install: {} calls that can be refused", calls.len());
    let (mut failed, mut all_wrong) = (0, Vec::new());
    for point in 0..points {
        let (name, nth, error) = &calls[calls.len() * (point + 1) / (points + 1)];
        let at = format!("{name} {nth}: {error}");
        let (code, said) = install(&format!("inject={name}:error={error}:when={nth}"));
        println!("install, {at}: {code} {:?}", said.trim());
        failed += usize::from(code != 0);
        let is_told = code == 0 || (code < 100 && said.contains("error:"));
        let mut wrong = uninstall(&before);
        wrong.extend((!is_told || said.contains("panicked")).then_some(said));
        if !wrong.is_empty() {
            println!("install, {at}: {wrong:#?}");
        }
        all_wrong.extend(wrong);
    }
    fs::remove_file(LOG).unwrap();
    println!(
        "install: {points} points, {failed} failed, {} wrong",
        all_wrong.len()
    );
    assert!(all_wrong.is_empty(), "{all_wrong:#?}");
}

/// Installs under strace; the exit code, and what it says on standard error.
fn install(what: &str) -> (i32, String) {
    let traced = ["strace", "-qq", "-e", "signal=none", "-o", LOG, "-e", what];
    let install = ["banger", "system", "install", "--owner", OWNER];
    let outcome = run("root", &[&traced[..], &install].concat());
    (outcome.code, outcome.stderr)
}

/// Takes everything away; what is there then that was not there before, and what is no more.
fn uninstall(before: &BTreeSet<String>) -> Vec<String> {
    let outcome = run(
        "root",
        &["banger", "system", "uninstall", "--yes", "--purge"],
    );
    // Without a record there is nothing installed, and that is said.
    let is_done = outcome.code == 0 || outcome.stderr.contains("not installed");
    let mut wrong = Vec::new();
    wrong.extend((!is_done).then(|| outcome.stderr.clone()));
    run("root", &["systemctl", "stop", "banger.slice"]);
    let after = files();
    let left = after.difference(before).map(|name| format!("left: {name}"));
    let lost = before
        .difference(&after)
        .map(|name| format!("lost: {name}"));
    wrong.extend(left.chain(lost));
    wrong
}

/// All that an installation could have touched.
fn files() -> BTreeSet<String> {
    let script = "find /etc/banger /etc/systemd/system /etc/modules-load.d /etc/udev/rules.d \
                  /usr/lib/banger /usr/local/bin /var/lib/banger /var/lib/bangerd-root \
                  /var/cache/banger /run/banger /run/banger-ipc /run/bangerd-root 2>/dev/null; \
                  systemctl list-units --all --plain --no-legend 'banger*'; ip -o link | cut -d: -f2; \
                  nft list tables; cut -d: -f1 /etc/group";
    let said = as_root(&["sh", "-c", script]);
    said.lines().map(str::to_owned).collect()
}

/// The calls of strace's log that can be refused, once the program's own work has begun.
fn calls(log: &str) -> Vec<(String, usize, &'static str)> {
    let mut found = Vec::new();
    let mut counts = [0; ERRORS.len()];
    for line in log.lines() {
        let name = line.split('(').next().unwrap_or_default();
        let Some(at) = ERRORS.iter().position(|(known, _)| *known == name) else {
            continue;
        };
        counts[at] += 1;
        // The loader's: without its libraries no program begins.
        if line.contains("/lib/x86_64-linux-gnu/") || line.contains("/etc/ld.so") {
            continue;
        }
        let (_, errors) = ERRORS[at];
        found.push((
            name.to_owned(),
            counts[at],
            errors[counts[at] % errors.len()],
        ));
    }
    found
}
