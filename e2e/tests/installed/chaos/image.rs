//! An image imported, while its builder is killed: it is there whole or not at all, and the same
//! import then works and leaves nothing of the first.

use super::vms::soon_none;
use super::{FEWER, Row, points_or};
use crate::{HOME, OWNER, as_owner, as_root, run};
use e2e::Outcome;
use e2e::tracer::{Traced, Tracer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;

const ARCHIVE: &str = "/home/dev/small.tar";
/// Where the owner's builder has its lock: this owner is not logged in.
const LOCK: &str = "/tmp/banger-runtime-1000/builder/bangerd.lock";

pub(super) fn killed() -> Row {
    // It is never booted: enough that it is a file system's.
    let small = ["bin", "etc/os-release", "etc/passwd", "usr/bin/env"];
    as_owner(&[&["tar", "-C", "/", "-cf", ARCHIVE][..], &small].concat());
    let before = directories();
    let tracer = Tracer::of(builder, None, Vec::new());
    let done = import();
    assert_eq!(done.code, 0, "{done:#?}");
    let whole = tracer.end();
    clear(&before);
    let mut row = Row::new("image import", "builder", whole);
    for at in whole.spread(points_or(FEWER)) {
        let tracer = Tracer::of(builder, Some(at), Vec::new());
        let done = import();
        let traced = tracer.end();
        let (lost, left) = (lost(&done, traced), clear(&before));
        row.add(at, traced, &lost, &left);
    }
    fs::remove_file(ARCHIVE).unwrap();
    for dir in [
        "/tmp/banger-runtime-1000".into(),
        Path::new(HOME).join(".local"),
    ] {
        fs::remove_dir_all(dir).unwrap();
    }
    println!("{}", row.line());
    row
}

fn import() -> Outcome {
    run(
        OWNER,
        &["banger", "image", "import", ARCHIVE, "--tag", "small"],
    )
}

/// The builder that runs.
fn builder() -> Option<i32> {
    let number: i32 = fs::read_to_string(LOCK).ok()?.trim().parse().ok()?;
    let words = fs::read_to_string(format!("/proc/{number}/cmdline")).ok()?;
    words.ends_with("bangerd\0--builder\0").then_some(number)
}

/// What the first import did not keep its word about, and why a second does not work.
fn lost(done: &Outcome, traced: Traced) -> Vec<String> {
    let mut lost = Vec::new();
    let is_there = images().iter().any(|image| image["tags"][0] == "small");
    if done.code == 0 && !is_there {
        lost.push(format!("acknowledged, but not listed: {done:#?}"));
    }
    if done.code != 0 && traced.struck.is_none() {
        lost.push(format!("failed by itself: {done:#?}"));
    }
    let listed: Vec<_> = images()
        .iter()
        .map(|image| image["digest"].clone())
        .collect();
    for digest in listed {
        let shown = run(
            OWNER,
            &["banger", "image", "inspect", digest.as_str().unwrap()],
        );
        if shown.code != 0 {
            lost.push(format!("half an image: {shown:#?}"));
        }
    }
    let again = import();
    if again.code != 0 {
        lost.push(format!("not again: {again:#?}"));
    }
    lost
}

fn images() -> Vec<Value> {
    let listed = as_owner(&["banger", "--json", "image", "list"]);
    serde_json::from_str(&listed).unwrap()
}

/// Ends the builder and removes the image; what there is then that was not before.
fn clear(before: &[String]) -> Vec<String> {
    if let Some(builder) = builder() {
        kill(Pid::from_raw(builder), Signal::SIGTERM).ok();
    }
    run(OWNER, &["banger", "image", "rm", "--yes", "small"]);
    soon_none(|| {
        let mut left = directories();
        left.retain(|path| !before.contains(path));
        left.extend(builder().map(|builder| format!("process {builder}")));
        left
    })
}

/// What images and half-made ones have.
fn directories() -> Vec<String> {
    let look = "ls -d /var/lib/banger/data/images/* /var/lib/banger/data/tmp/* \
        /var/cache/banger/tmp/* /tmp/banger-scratch-* 2>/dev/null; true";
    let said = as_root(&["sh", "-c", look]);
    said.lines().map(str::to_owned).collect()
}
