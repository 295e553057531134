//! Installed, upgraded and uninstalled, while the program that does it is killed: the same again
//! finishes, and uninstalling leaves nothing.

use super::vms::{main_process, soon_none};
use super::{FEWER, POINTS, Row, points_or};
use crate::remains::{half_written, remains_installed};
use crate::{OWNER, as_owner, as_root, command, run};
use e2e::tracer::{Traced, Tracer};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where programs lie that are another version's: what is installed of them differs.
const OTHER: &str = "/srv/other";
const INSTALL: &str = "banger system install --owner dev";
const UNINSTALL: &str = "banger system uninstall --yes --force --purge";

/// With the program that does it killed.
pub(super) fn installing_killed() -> [Row; 2] {
    let rows = [
        sample("system install", POINTS, purge, INSTALL),
        sample("system upgrade", FEWER, put_other, INSTALL),
    ];
    fs::remove_dir_all(OTHER).unwrap();
    rows
}

/// Likewise.
pub(super) fn uninstalling_killed() -> Row {
    sample("system uninstall", FEWER, install, UNINSTALL)
}

fn sample(name: &'static str, points: usize, before: fn(), asked: &str) -> Row {
    before();
    let (code, whole) = asked_with(asked, None);
    assert_eq!(code, 0, "{name}");
    let mut row = Row::new(name, "itself", whole);
    for (nth, at) in whole.spread(points_or(points)).enumerate() {
        before();
        let (code, traced) = asked_with(asked, Some(at));
        let mut lost = Vec::new();
        if code != 0 && traced.struck.is_none() {
            lost.push("failed by itself".to_owned());
        }
        // Every other time, what was begun is not finished first.
        if nth % 2 == 0 || asked == UNINSTALL {
            lost.extend(not_again(asked));
        }
        if asked != UNINSTALL {
            lost.extend(not_again(UNINSTALL));
        }
        let left = soon_none(remains_installed);
        row.add(at, traced, &lost, &left);
    }
    println!("{}", row.line());
    row
}

/// Asks again; what does not work then.
fn not_again(asked: &str) -> Vec<String> {
    let mut lost = Vec::new();
    let again = run("root", &["sh", "-c", asked]);
    if again.code != 0 {
        lost.push(format!("not again: {again:#?}"));
    }
    if asked == INSTALL {
        let served = run(OWNER, &["banger", "vm", "list"]);
        if served.code != 0 {
            lost.push(format!("does not serve: {served:#?}"));
        }
        for name in ["bangerd", "bangerd-root"] {
            let program = fs::read_link(format!("/proc/{}/exe", main_process(name)));
            let is_installed = program
                .as_ref()
                .is_ok_and(|program| program == &Path::new("/usr/lib/banger").join(name));
            if !is_installed {
                lost.push(format!("runs still: {program:?}"));
            }
        }
        lost.extend(half_written());
    }
    lost
}

pub(super) fn purge() {
    as_root(&["sh", "-c", UNINSTALL]);
}

pub(super) fn install() {
    as_root(&["sh", "-c", INSTALL]);
}

/// Another version is installed than the one that is at hand.
fn put_other() {
    let other = Path::new(OTHER);
    if !other.exists() {
        let dist = std::env::var("BANGER_E2E_DIST").unwrap();
        as_root(&["cp", "-a", &dist, OTHER]);
        for name in ["bangerd", "bangerd-root", "banger-agent", "banger"] {
            // What comes after a program's end is not looked at.
            let longer = format!("echo >> {OTHER}/{name}");
            as_root(&["sh", "-c", &longer]);
        }
    }
    as_root(&[
        &format!("{OTHER}/banger"),
        "system",
        "install",
        "--owner",
        OWNER,
    ]);
    as_owner(&["banger", "vm", "list"]);
}

/// Runs a command as root with its program killed at a stop, if one is given; its exit code.
fn asked_with(asked: &str, at: Option<usize>) -> (i32, Traced) {
    // The shell says who the program will be and waits; its parent is another, for the tracer
    // and a parent in one process would take each other's news.
    let script = format!("sh -c 'echo $$; read go; exec {asked} >/dev/null 2>&1'; exit $?");
    let mut shell: Command = command("root", &["sh", "-c", &script]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut number = String::new();
    let mut said = BufReader::new(shell.stdout.take().unwrap());
    said.read_line(&mut number).unwrap();
    let number: i32 = number.trim().parse().unwrap();
    let tracer = Tracer::of(move || Some(number), at, Vec::new());
    // Its end is the line's.
    drop(shell.stdin.take());
    let code = shell.wait().unwrap().code().unwrap_or(-1);
    (code, tracer.end())
}
