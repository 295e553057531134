//! The kernel refuses a system call of the daemon, at points spread over everything it is asked to do:
//! no panic, a clear answer, nothing acknowledged is lost, nothing is left. The same of an image's build
//! when the daemon is killed in it; all else is killed where banger is installed.
//!
//! `BANGER_CHAOS_POINTS` says at how many points of each operation (`make chaos`: 20), else it is a
//! few, and of those that boot a VM fewer; `BANGER_CHAOS_ONLY` names one operation.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot do its part fails there; the table is its result"
)]

#[path = "refused/bench.rs"]
mod bench;
#[path = "refused/points.rs"]
mod points;

use bench::{Bench, Came};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// Points of each operation, unless the environment says otherwise: one an error.
const POINTS: usize = 7;

/// Where the VM is when an operation on it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nowhere,
    Created,
    Stopped,
    Running,
}

/// What an operation that succeeds leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// No VM.
    None,
    /// The VM in this state.
    Vm(&'static str),
    /// The image.
    Image,
}

#[derive(Debug)]
struct Operation {
    name: &'static str,
    argv: &'static [&'static str],
    before: Before,
    after: After,
}

const fn operation(
    name: &'static str,
    argv: &'static [&'static str],
    before: Before,
    after: After,
) -> Operation {
    Operation {
        name,
        argv,
        before,
        after,
    }
}

/// Those of one list are told one after the other, in surroundings of their own.
const OPERATIONS: [&[Operation]; 2] = [
    &[
        operation("run", &["run", "--", "true"], Before::Nowhere, After::None),
        operation(
            "stop",
            &["vm", "stop", "struck"],
            Before::Running,
            After::Vm("stopped"),
        ),
        operation(
            "image import",
            &["image", "import", "--tag", "struck", "tiny.tar"],
            Before::Nowhere,
            After::Image,
        ),
        operation(
            "image build",
            &[
                "image",
                "build",
                "debian",
                "--tag",
                "struck",
                "--package",
                "tree",
            ],
            Before::Nowhere,
            After::Image,
        ),
    ],
    &[
        operation(
            "create",
            &["vm", "create", "--name", "struck"],
            Before::Nowhere,
            After::Vm("created"),
        ),
        operation("rm", &["vm", "rm", "struck"], Before::Created, After::None),
        operation(
            "start",
            &["vm", "start", "struck"],
            Before::Created,
            After::Vm("running"),
        ),
        operation(
            "rm --force",
            &["vm", "rm", "--force", "struck"],
            Before::Running,
            After::None,
        ),
        operation(
            "prune",
            &["vm", "prune", "--yes"],
            Before::Stopped,
            After::None,
        ),
    ],
];

impl Operation {
    /// Whether a VM boots for it.
    fn boots(&self) -> bool {
        self.name == "run"
            || self.after == After::Vm("running")
            || matches!(self.before, Before::Running | Before::Stopped)
    }

    /// Whether it takes a minute and more.
    fn is_long(&self) -> bool {
        self.name == "image build"
    }
}

/// What came of all points with one error.
#[derive(Debug, Default, Clone, Copy)]
struct Row {
    points: usize,
    struck: usize,
    failed: usize,
    succeeded: usize,
    panics: usize,
    unclear: usize,
    lost: usize,
    leaks: usize,
}

impl Row {
    fn add(&mut self, came: &Came) {
        self.points += 1;
        self.struck += usize::from(came.is_struck);
        self.failed += usize::from(!came.is_done);
        self.succeeded += usize::from(came.is_done);
        self.panics += came.panics.len();
        self.unclear += came.unclear.len();
        self.lost += came.lost.len();
        self.leaks += came.left.len();
    }

    fn is_well(self) -> bool {
        self.panics + self.unclear + self.lost + self.leaks == 0
    }
}

/// Whether the daemon may be watched; where not, that is said.
fn may_watch() -> bool {
    let may = e2e::refusal::is_allowed();
    if !may {
        println!("skipped: kernel.yama.ptrace_scope keeps the daemon from being watched");
    }
    may
}

type Rows = BTreeMap<(&'static str, String), Row>;

#[test]
fn whatever_the_kernel_refuses_the_daemon_loses_and_leaves_nothing() {
    if !may_watch() {
        return;
    }
    let asked = std::env::var("BANGER_CHAOS_POINTS").ok();
    let points = asked.as_ref().map(|text| text.parse().unwrap());
    let only = std::env::var("BANGER_CHAOS_ONLY").ok();
    let rows = Mutex::new(Rows::new());
    std::thread::scope(|scope| {
        for operations in OPERATIONS {
            let (rows, only) = (&rows, &only);
            scope.spawn(move || {
                let is_told = |operation: &&Operation| match &only {
                    Some(only) => only == operation.name,
                    None => points.is_some() || !operation.is_long(),
                };
                let told: Vec<&Operation> = operations.iter().filter(is_told).collect();
                if told.is_empty() {
                    return;
                }
                let bench = Bench::new();
                for operation in told {
                    strike(&bench, operation, points, rows);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    print(rows.iter());
    assert!(rows.values().all(|row| row.is_well()));
}

/// Does it once to see its calls, then again and again with one of them refused; without a number of
/// points, a few times.
fn strike(bench: &Bench, operation: &Operation, points: Option<usize>, rows: &Mutex<Rows>) {
    let start = Instant::now();
    let (calls, came) = bench.strike(operation, None);
    assert!(
        came.is_done && came.is_well(),
        "{}: {came:#?}",
        operation.name
    );
    let takes = start.elapsed().as_secs_f64();
    let mut faults = points::spread(&calls, points.unwrap_or(POINTS));
    if points.is_none() && operation.boots() {
        faults = faults.into_iter().step_by(2).collect();
    }
    for fault in &faults {
        let (_, came) = bench.strike(operation, Some(fault));
        let at = points::told(fault);
        let said = if came.is_done {
            "done"
        } else {
            came.said.trim()
        };
        println!("{}: {at}: {said:?}", operation.name);
        if !came.is_well() {
            println!("{}: {at}: {came:#?}", operation.name);
        }
        let key = (operation.name, points::error_of(fault));
        rows.lock().unwrap().entry(key).or_default().add(&came);
    }
    println!(
        "{}: {} calls; once {takes:.1} s, {} points {:.0} s",
        operation.name,
        calls.len(),
        faults.len(),
        start.elapsed().as_secs_f64()
    );
    // Also of a run that does not come to its end.
    let rows = rows.lock().unwrap();
    let of_this = rows.iter().filter(|((name, _), _)| *name == operation.name);
    print(of_this);
}

/// How often the daemon is killed, unless the environment says otherwise.
const KILLS: usize = 20;

#[test]
fn an_image_is_built_or_not_there_whenever_the_daemon_is_killed() {
    if !may_watch() {
        return;
    }
    let points = std::env::var("BANGER_CHAOS_POINTS").ok();
    let points = points.map_or(KILLS, |text| text.parse().unwrap());
    let mut operations = OPERATIONS.into_iter().flatten();
    let build = operations.find(|operation| operation.is_long()).unwrap();
    let bench = Bench::new();
    let start = Instant::now();
    let (whole, came) = bench.kill(build, None);
    assert!(came.is_done && came.is_well(), "{came:#?}");
    println!("once {:.1} s", start.elapsed().as_secs_f64());
    let mut row = Row::default();
    for at in whole.spread(points) {
        let (_, came) = bench.kill(build, Some(at));
        if !came.is_well() {
            println!("killed at {at} of {}: {came:#?}", whole.stops);
        }
        row.add(&came);
    }
    println!("in all {:.1} s", start.elapsed().as_secs_f64());
    print([(&(build.name, "killed".to_owned()), &row)].into_iter());
    assert!(row.is_well());
    let (_, came) = bench.kill(build, None);
    assert!(came.is_done && came.is_well(), "{came:#?}");
}

fn print<'a>(rows: impl Iterator<Item = (&'a (&'static str, String), &'a Row)>) {
    println!("operation      error    points struck failed succeeded panics unclear lost leaks");
    for ((name, error), row) in rows {
        println!(
            "{name:<14} {error:<8} {:>6} {:>6} {:>6} {:>9} {:>6} {:>7} {:>4} {:>5}",
            row.points,
            row.struck,
            row.failed,
            row.succeeded,
            row.panics,
            row.unclear,
            row.lost,
            row.leaks
        );
    }
}
