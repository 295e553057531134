//! What is done with VMs, while the daemon, the helper, both or the VMM is killed.

use super::{POINTS, Row, points_or};
use crate::remains::{remains, remains_with_files};
use crate::{OWNER, as_owner, as_root, inspect, run};
use e2e::tracer::{Traced, Tracer};
use e2e::{Outcome, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

/// The VM that runs through it all, and the one that things are done with.
const BESIDE: &str = "beside";
const STRUCK: &str = "struck";
/// How long what is going away may take.
const SOON: Duration = Duration::from_secs(60);
const SLICE: &str = "/sys/fs/cgroup/banger.slice";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Daemon,
    Helper,
    Both,
    Vmm,
}

use Victim::{Both, Daemon, Helper, Vmm};

/// Where the VM is before, or after that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stands {
    Nowhere,
    Made,
    Runs,
    Ended,
}

struct Operation {
    name: &'static str,
    argv: &'static [&'static str],
    before: Stands,
    after: Stands,
    victims: &'static [Victim],
}

const ALL: &[Victim] = &[Daemon, Helper, Both, Vmm];

const OPERATIONS: [Operation; 6] = [
    Operation {
        name: "run",
        argv: &["run", "--", "true"],
        before: Stands::Nowhere,
        after: Stands::Nowhere,
        victims: ALL,
    },
    Operation {
        name: "create --start",
        argv: &["vm", "create", "--name", STRUCK, "--start"],
        before: Stands::Nowhere,
        after: Stands::Runs,
        victims: ALL,
    },
    Operation {
        name: "start",
        argv: &["vm", "start", STRUCK],
        before: Stands::Made,
        after: Stands::Runs,
        victims: ALL,
    },
    Operation {
        name: "stop",
        argv: &["vm", "stop", STRUCK],
        before: Stands::Runs,
        after: Stands::Ended,
        victims: ALL,
    },
    Operation {
        name: "rm --force",
        argv: &["vm", "rm", "--force", STRUCK],
        before: Stands::Runs,
        after: Stands::Nowhere,
        victims: ALL,
    },
    Operation {
        name: "prune",
        argv: &["vm", "prune", "--yes"],
        before: Stands::Ended,
        after: Stands::Nowhere,
        victims: &[Daemon, Helper, Both],
    },
];

/// Every operation with every victim.
pub(super) fn killed() -> Vec<Row> {
    as_owner(&["banger", "vm", "create", "--name", BESIDE, "--start"]);
    let beside = inspect(BESIDE);
    let mut rows = Vec::new();
    for operation in &OPERATIONS {
        let whole = observe(operation);
        clear(&beside);
        for (nth, victim) in operation.victims.iter().enumerate() {
            let seen = whole[if *victim == Both { 0 } else { nth }];
            let share = (points_or(POINTS) + nth) / operation.victims.len();
            let mut row = Row::new(operation.name, name_of(*victim), seen);
            for at in seen.spread(share) {
                strike(&mut row, operation, *victim, at, &beside);
            }
            println!("{}", row.line());
            rows.push(row);
        }
        let said = run(OWNER, &["banger", "exec", BESIDE, "--", "echo", "there"]);
        assert_eq!(said.stdout, "there\n", "{}: {said:#?}", operation.name);
    }
    as_owner(&["banger", "vm", "rm", "--force", BESIDE]);
    eventually("nothing is left at all", || remains_with_files().is_empty());
    rows
}

fn name_of(victim: Victim) -> &'static str {
    match victim {
        Daemon => "daemon",
        Helper => "helper",
        Both => "both",
        Vmm => "VMM",
    }
}

/// The operation left alone: what its victims do meanwhile, in their order.
fn observe(operation: &Operation) -> Vec<Traced> {
    prepare(operation.before);
    let watch = |victim: &Victim| trace(*victim, None);
    // Nobody can trace the daemon twice.
    let victims = operation.victims.iter().filter(|victim| **victim != Both);
    let tracers: Vec<_> = victims.map(|victim| (*victim, watch(victim))).collect();
    let start = Instant::now();
    let done = ask(operation);
    assert_eq!(done.code, 0, "{}: {done:#?}", operation.name);
    println!(
        "{}: {:.1} s while it is traced",
        operation.name,
        start.elapsed().as_secs_f64()
    );
    let mut seen: Vec<Traced> = Vec::new();
    for (victim, tracer) in tracers {
        if victim == Vmm {
            // In the place of both.
            seen.push(seen[0]);
        }
        seen.push(tracer.end());
    }
    seen
}

fn strike(row: &mut Row, operation: &Operation, victim: Victim, at: usize, beside: &Value) {
    prepare(operation.before);
    let tracer = trace(victim, Some(at));
    let done = ask(operation);
    let traced = tracer.end();
    let since = traced.struck.unwrap_or_else(|| {
        end(victim);
        Instant::now()
    });
    eventually("the daemon answers again", || {
        run(OWNER, &["banger", "vm", "list"]).code == 0
    });
    if matches!(victim, Daemon | Both) {
        row.answered(since.elapsed());
    }
    let lost = lost(operation, victim, &done, beside);
    let left = clear(beside);
    row.add(at, traced, &lost, &left);
}

fn ask(operation: &Operation) -> Outcome {
    run(OWNER, &[&["banger"], operation.argv].concat())
}

fn prepare(before: Stands) {
    let create = ["banger", "vm", "create", "--name", STRUCK];
    match before {
        Stands::Nowhere => {}
        Stands::Made => drop(as_owner(&create)),
        Stands::Runs => drop(as_owner(&[&create[..], &["--start"]].concat())),
        Stands::Ended => {
            as_owner(&create);
            let start = ["banger", "vm", "start", "--timeout", "1ms", STRUCK];
            assert_ne!(run(OWNER, &start).code, 0);
            settle();
        }
    }
}

fn trace(victim: Victim, at: Option<usize>) -> Tracer {
    let unit = |name| {
        let process = main_process(name);
        move || Some(process)
    };
    let (daemon, helper) = ("bangerd.service", "bangerd-root.service");
    match victim {
        Daemon => Tracer::of(unit(daemon), at, Vec::new()),
        Helper => Tracer::of(unit(helper), at, Vec::new()),
        Both => Tracer::of(unit(daemon), at, vec![main_process(helper)]),
        Vmm => {
            let vms = as_owner(&["banger", "--json", "vm", "list"]);
            let vms: Value = serde_json::from_str(&vms).unwrap();
            let struck = vms
                .as_array()
                .unwrap()
                .iter()
                .find(|vm| vm["name"] == STRUCK);
            let is_running = struck.filter(|vm| vm["state"] == "running");
            match is_running.map(scope) {
                Some(scope) => Tracer::of(move || process_in(&scope), at, Vec::new()),
                None => {
                    let known = scopes();
                    let fresh = move || scopes().difference(&known).next().cloned();
                    Tracer::of(move || process_in(&fresh()?), at, Vec::new())
                }
            }
        }
    }
}

/// Kills what was not struck while it was asked.
fn end(victim: Victim) {
    let units: &[&str] = match victim {
        Daemon => &["bangerd.service"],
        Helper => &["bangerd-root.service"],
        Both => &["bangerd.service", "bangerd-root.service"],
        Vmm => &[],
    };
    for unit in units {
        kill(Pid::from_raw(main_process(unit)), Signal::SIGKILL).ok();
    }
}

/// The process of a unit, which is started if it does not run.
pub(crate) fn main_process(unit: &str) -> i32 {
    let show = ["systemctl", "show", "--property=MainPID", "--value", unit];
    let shown = || as_root(&show).trim().parse().unwrap();
    match shown() {
        0 => {
            as_root(&["systemctl", "start", unit]);
            shown()
        }
        process => process,
    }
}

/// The name of a VM's scope.
fn scope(vm: &Value) -> String {
    format!("banger-vm-{}.scope", digits(vm))
}

fn digits(vm: &Value) -> &str {
    vm["id"].as_str().unwrap().trim_start_matches("vm-")
}

fn scopes() -> HashSet<String> {
    let names = fs::read_dir(SLICE).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".scope")).collect()
}

/// The first process of a scope.
fn process_in(scope: &str) -> Option<i32> {
    let processes = fs::read_to_string(format!("{SLICE}/{scope}/cgroup.procs")).ok()?;
    processes.lines().next()?.parse().ok()
}

/// What was acknowledged, or was there before, and is not; and what is said and is not so.
fn lost(operation: &Operation, victim: Victim, done: &Outcome, beside: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    let now = inspect(BESIDE);
    if (&now["state"], &now["pid"]) != (&beside["state"], &beside["pid"]) {
        lost.push(format!("the VM beside: {now}"));
    }
    let settled = settle();
    let is_acknowledged = done.code == 0;
    let stands = match settled.as_ref().map(|vm| vm["state"].as_str().unwrap()) {
        None => Stands::Nowhere,
        Some("created") => Stands::Made,
        Some("running") => Stands::Runs,
        Some(_) => Stands::Ended,
    };
    let was_kept = operation.before != Stands::Nowhere && operation.after != Stands::Nowhere;
    if was_kept && stands == Stands::Nowhere {
        lost.push("the VM".to_owned());
    }
    // One whose VMM was killed may have ended since it was said to run.
    let is_excused = victim == Vmm && stands == Stands::Ended;
    if is_acknowledged && stands != operation.after && !is_excused {
        lost.push(format!("acknowledged, but {stands:?}: {done:#?}"));
    }
    match stands {
        Stands::Nowhere => {}
        // An end is told when the helper has cleared up, which may have to be started again.
        Stands::Runs => lost.extend(soon_none(|| said_to_run().into_iter().collect())),
        _ => lost.extend(soon_none(|| of_others(remains(), beside))),
    }
    lost
}

/// What is wrong with the struck VM if it is said to run and does not.
fn said_to_run() -> Option<String> {
    let vm = settle().filter(|vm| vm["state"] == "running")?;
    let program = fs::read_to_string(format!("/proc/{}/comm", vm["pid"]));
    let runs = program.as_deref().is_ok_and(|name| name == "firecracker\n");
    (!runs).then(|| format!("said to run, but {program:?}: {vm}"))
}

/// The struck VM, once nothing is done with it any more.
fn settle() -> Option<Value> {
    let deadline = Instant::now() + SOON;
    loop {
        let vms = as_owner(&["banger", "--json", "vm", "list"]);
        let vms: Value = serde_json::from_str(&vms).unwrap();
        let mut vms = vms.as_array().unwrap().iter();
        let vm = vms.find(|vm| vm["name"] != BESIDE)?;
        let state = vm["state"].as_str().unwrap();
        let is_settled = ["created", "running", "stopped", "crashed"].contains(&state);
        if (is_settled && vm["name"] == STRUCK) || Instant::now() > deadline {
            return Some(vm.clone());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Removes the VM, if it is there; what is left then.
fn clear(beside: &Value) -> Vec<String> {
    run(OWNER, &["banger", "vm", "rm", "--force", STRUCK]);
    soon_none(|| {
        let listed = as_owner(&["banger", "--quiet", "vm", "list"]);
        let listed = listed.lines().map(|vm| format!("listed: {vm}"));
        of_others(listed.chain(remains_with_files()), beside)
    })
}

/// What is not of the VM beside.
fn of_others(left: impl IntoIterator<Item = String>, beside: &Value) -> Vec<String> {
    let address = format!("{} ", beside["address"].as_str().unwrap());
    let is_other = |line: &String| !line.contains(digits(beside)) && !line.contains(&address);
    left.into_iter().filter(is_other).collect()
}

/// What is still left when it should have gone.
pub(super) fn soon_none(left: impl Fn() -> Vec<String>) -> Vec<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let left = left();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
