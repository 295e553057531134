//! The helper killed at sampled system calls of its verbs, beside a VM that must not notice: the next
//! helper and one `priv.reclaim` leave nothing of what was begun.
//!
//! `BANGER_CHAOS_POINTS` says at how many calls of each verb. Long: run by `cargo xtask chaos`.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use banger_names::{BridgeName, Subnet, VmRef};
use banger_priv::{CreateSnapshot, CreateTap, EnsureBridge, Reclaim, Reply, Request};
use rustix::fs::OFlags;

use crate::bench::{Bench, LIMIT, vm, wait_traced};
use crate::guest::{Guest, boot_file, make_file, open, root_drive};

const POINTS: usize = 20;
const STORE_BYTES: u64 = 32 << 20;

#[derive(Debug, Clone, Copy)]
enum Verb {
    CreateTap,
    EnsureNat,
    CreateDmSnapshot,
    LaunchFirecracker,
    KillProcess,
    CleanupJailerChroot,
    Reclaim,
}

use Verb::{
    CleanupJailerChroot, CreateDmSnapshot, CreateTap as Tap, EnsureNat, KillProcess,
    LaunchFirecracker, Reclaim as Sweep,
};

/// Each verb, and what has to be done before it.
const VERBS: [(Verb, &[Verb]); 7] = [
    (Tap, &[]),
    (EnsureNat, &[Tap]),
    (CreateDmSnapshot, &[]),
    (LaunchFirecracker, &[CreateDmSnapshot]),
    (KillProcess, &[CreateDmSnapshot, LaunchFirecracker]),
    (
        CleanupJailerChroot,
        &[CreateDmSnapshot, LaunchFirecracker, KillProcess],
    ),
    (Sweep, WHOLE),
];
/// All that a VM can have.
const WHOLE: &[Verb] = &[Tap, EnsureNat, CreateDmSnapshot, LaunchFirecracker];

/// A VM's files.
struct Files {
    guest: Guest,
    base: OwnedFd,
    store: OwnedFd,
}

impl Files {
    fn new(bench: &Bench, vm: &VmRef) -> Self {
        let mut guest = Guest::with_drives(bench, vm, &root_drive("/rootfs"));
        let store = bench.path("files").join(format!("{}.store", vm.id));
        make_file(&store, b"", 0o600);
        let file = fs::File::options().write(true).open(&store).unwrap();
        file.set_len(STORE_BYTES).unwrap();
        guest.own(&store);
        Self {
            guest,
            base: open(&boot_file("rootfs.ext4"), OFlags::RDONLY),
            store: open(&store, OFlags::RDWR),
        }
    }

    /// A verb about this VM.
    fn request(&self, verb: Verb) -> (Request, Vec<BorrowedFd<'_>>) {
        let vm = self.guest.vm.clone();
        let last = if vm == crate::bench::vm(1) { 2 } else { 3 };
        match verb {
            Tap => {
                let address = Ipv4Addr::new(172, 30, 0, last);
                (Request::CreateTap(CreateTap { vm, address }), Vec::new())
            }
            EnsureNat => (Request::EnsureNat(vm), Vec::new()),
            CreateDmSnapshot => {
                let persistent = false;
                let asked = CreateSnapshot { vm, persistent };
                let fds = vec![self.base.as_fd(), self.store.as_fd()];
                (Request::CreateDmSnapshot(asked), fds)
            }
            LaunchFirecracker => (self.guest.request(), self.guest.fds()),
            KillProcess => (Request::KillProcess(vm), Vec::new()),
            CleanupJailerChroot => (Request::CleanupJailerChroot(vm), Vec::new()),
            Sweep => (sweep(), Vec::new()),
        }
    }
}

/// All but the VM beside.
fn sweep() -> Request {
    let keep = vec![vm(2)];
    Request::Reclaim(Reclaim { keep })
}

/// What came of one verb.
#[derive(Default)]
struct Row {
    points: usize,
    calls: usize,
    killed: usize,
    lost: usize,
    leaked: usize,
}

/// The so manieth call of this name.
type Call = (String, usize);

/// Has the helper killed at this system call of `verb`, or once it answered. Gives the calls that
/// were seen, and whether the kill came first.
fn strike(bench: &mut Bench, verb: Verb, before: &[Verb], at: Option<&Call>) -> (Vec<Call>, bool) {
    let files = Files::new(bench, &vm(1));
    for earlier in before {
        let (request, fds) = files.request(*earlier);
        bench.ask(&request, &fds).unwrap();
    }
    let log = bench.path("strace");
    let (channel, thread) = bench.connect_alone();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "signal=none", "-p", &thread.to_string(), "-o"]);
    strace.arg(&log);
    if let Some((name, count)) = at {
        strace.args(["-e", &format!("inject={name}:signal=KILL:when={count}")]);
    }
    let mut strace = strace.spawn().unwrap();
    wait_traced(thread, strace.id());
    let (request, fds) = files.request(verb);
    Bench::send_over(&channel, &request, &fds);
    let answered = matches!(channel.receive(Some(LIMIT), LIMIT), Ok(Some(_)));
    strace.kill().unwrap();
    strace.wait().unwrap();
    bench.kill_helper();
    let calls = calls(&fs::read_to_string(&log).unwrap());
    fs::remove_file(log).unwrap();
    (calls, !answered)
}

/// What strace wrote, but for the call that the thread waited in when it began.
fn calls(log: &str) -> Vec<Call> {
    let mut seen: Vec<Call> = Vec::new();
    for line in log.lines().skip(1) {
        let name = line.split('(').next().unwrap();
        let count = seen.iter().filter(|(other, _)| other == name).count();
        seen.push((name.to_owned(), count + 1));
    }
    seen
}

/// Starts a helper and has it sweep. What is left, and what is missing.
fn recover(bench: &mut Bench, beside: &OwnedFd) -> (Vec<String>, Vec<String>) {
    bench.start_helper();
    let swept = bench.ask(&sweep(), &[]);
    let (mut left, mut lost) = bench.settle();
    if let Err(refusal) = swept {
        left.push(format!("refused: {}", refusal.message));
    }
    let Reply::Status(status) = bench.must(&Request::Status {}) else {
        panic!("no status");
    };
    let stands = |found: &&banger_priv::VmStatus| {
        found.vm == vm(2) && found.is_running && found.has_snapshot && found.address.is_some()
    };
    if status.vms.iter().find(stands).is_none() || has_ended(beside) {
        lost.push(format!("the VM beside: {:?}", status.vms));
    }
    if status.vms.len() > 1 {
        left.push(format!("in the ledger: {:?}", status.vms));
    }
    (left, lost)
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec::default();
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) != Ok(0)
}

/// Strikes at calls spread evenly over the whole of the verb.
fn sample(bench: &mut Bench, verb: Verb, before: &[Verb], points: usize, beside: &OwnedFd) -> Row {
    let mut row = Row::default();
    let mut whole = Vec::new();
    for point in 0..=points {
        // The first time it is left alone, to see its calls.
        let at = (whole.len() * point.saturating_sub(1)) / points.max(1);
        let at: Option<Call> = whole.get(at).cloned();
        let (calls, killed) = strike(bench, verb, before, at.as_ref());
        if point == 0 {
            row.calls = calls.len();
            whole = calls;
        }
        let (left, lost) = recover(bench, beside);
        if !left.is_empty() || !lost.is_empty() {
            println!("{verb:?}, killed at {at:?}: left {left:#?}, lost {lost:#?}");
            bench.take_as_it_is();
        }
        row.points += 1;
        row.killed += usize::from(killed);
        row.leaked += left.len();
        row.lost += lost.len();
    }
    row
}

#[test]
#[ignore = "needs a lab, and takes long"]
fn lab_chaos_helper_killed_at_any_call_leaks_nothing() {
    let points = std::env::var("BANGER_CHAOS_POINTS");
    let points = points.map_or(POINTS, |text| text.parse().unwrap());
    let mut bench = Bench::new();
    bench.sees_rules();
    bench.must(&Request::EnsureBridge(EnsureBridge {
        bridge: BridgeName::parse("br-fc").unwrap(),
        subnet: Subnet::parse("172.30.0.1/24").unwrap(),
    }));
    let mut beside = Files::new(&bench, &vm(2));
    for verb in &WHOLE[..3] {
        let (request, fds) = beside.request(*verb);
        bench.ask(&request, &fds).unwrap();
    }
    let (_, vmm) = beside.guest.start(&bench);
    beside.guest.wait_ready();
    let original = bench.take_as_it_is();

    let mut rows = Vec::new();
    for (verb, before) in VERBS {
        let start = Instant::now();
        let row = sample(&mut bench, verb, before, points, &vmm);
        println!("{verb:?}: {:.0} s", start.elapsed().as_secs_f64());
        rows.push((verb, row));
    }
    println!("verb                  calls  points  killed  lost  leaked");
    for (verb, row) in &rows {
        let verb = format!("{verb:?}");
        println!(
            "{verb:<20}  {:>5}  {:>6}  {:>6}  {:>4}  {:>6}",
            row.calls, row.points, row.killed, row.lost, row.leaked
        );
    }
    bench.must(&Request::Reclaim(Reclaim { keep: Vec::new() }));
    drop(beside);
    bench.tear_down();
    bench.is_again(original);
    assert!(
        rows.iter()
            .all(|(_, row)| row.lost + row.leaked == 0 && row.killed > 0)
    );
}
