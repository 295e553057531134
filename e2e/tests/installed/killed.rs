//! The daemon killed in the middle of what it is asked, at moments spread over the whole of it:
//! nothing acknowledged is lost, nothing is left, and it answers again at once.

use crate::{OWNER, as_owner, as_root, command, remains, run};
use e2e::eventually;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How often for each operation, unless `BANGER_CHAOS_POINTS` says otherwise.
const POINTS: u32 = 1;

/// Where the VM is when an operation on it begins.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nowhere,
    Stopped,
    Running,
}

/// What is asked, of which VM, and whether that must still be there afterwards.
const OPERATIONS: [(&str, &[&str], Before, bool); 5] = [
    ("run", &["run", "--", "true"], Before::Nowhere, false),
    (
        "create --start",
        &["vm", "create", "--name", "struck", "--start"],
        Before::Nowhere,
        false,
    ),
    ("start", &["vm", "start", "struck"], Before::Stopped, true),
    ("stop", &["vm", "stop", "struck"], Before::Running, true),
    (
        "rm --force",
        &["vm", "rm", "--force", "struck"],
        Before::Running,
        false,
    ),
];

pub(crate) fn the_daemon_is_killed_at_any_moment() {
    let points = std::env::var("BANGER_CHAOS_POINTS").ok();
    let points = points.map_or(POINTS, |points| points.parse().unwrap());
    println!(
        "{:<16} {:>7} {:>6} {:>6} {:>7} {:>16}",
        "operation", "takes s", "killed", "lost", "leaked", "answers after s"
    );
    for (name, argv, before, is_kept) in OPERATIONS {
        prepare(before);
        let start = Instant::now();
        assert!(begin(argv).wait().unwrap().success(), "{name}");
        let takes = start.elapsed();
        clear();
        let (mut lost, mut leaked, mut slowest) = (0, 0, Duration::ZERO);
        for point in 1..=points {
            prepare(before);
            let mut asked = begin(argv);
            // No wait for anything: this is the moment at which it happens to be struck.
            std::thread::sleep(takes * point / (points + 1));
            as_root(&["systemctl", "kill", "--signal=KILL", "bangerd.service"]);
            let struck = Instant::now();
            asked.wait().unwrap();
            eventually("the daemon answers again", || {
                run(OWNER, &["banger", "vm", "list"]).code == 0
            });
            slowest = slowest.max(struck.elapsed());
            let is_there = run(OWNER, &["banger", "vm", "inspect", "struck"]).code == 0;
            lost += u32::from(is_kept && !is_there);
            leaked += u32::from(!clear());
        }
        println!(
            "{name:<16} {:>7.1} {points:>6} {lost:>6} {leaked:>7} {:>16.1}",
            takes.as_secs_f64(),
            slowest.as_secs_f64()
        );
        assert_eq!((lost, leaked), (0, 0), "{name}");
    }
}

fn prepare(before: Before) {
    if before == Before::Nowhere {
        return;
    }
    as_owner(&["banger", "vm", "create", "--name", "struck", "--start"]);
    if before == Before::Stopped {
        as_owner(&["banger", "vm", "stop", "struck"]);
    }
}

fn begin(argv: &[&str]) -> Child {
    command(OWNER, &[&["banger"], argv].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Removes the VM, if it is there; whether nothing is left then.
fn clear() -> bool {
    run(OWNER, &["banger", "vm", "rm", "--force", "struck"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_left = || {
        let vms = as_owner(&["banger", "--json", "vm", "list"]);
        vms.trim() != "[]" || !remains().is_empty()
    };
    while is_left() {
        if Instant::now() > deadline {
            println!("left: {:?}", remains());
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}
