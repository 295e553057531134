//! The helper killed at sampled system calls of its verbs, and the kernel refusing sampled ones,
//! beside a VM that must not notice. Killed: the next helper and one `priv.reclaim` leave nothing of
//! what was begun. Refused: host and ledger are as before, or what is left the next request takes.
//!
//! `BANGER_CHAOS_POINTS` says at how many calls of each verb. Long: run by `cargo xtask chaos`.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use banger_ids::{BridgeName, Subnet, VmRef};
use banger_priv::{
    Answer, CreateSnapshot, CreateTap, EnsureBridge, OpenSnapshot, Reclaim, Refusal, Reply,
    Request, SendSignal, Signal,
};
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
    RemoveTap,
    ClearNat,
    RemoveDmSnapshot,
    CleanupDmSnapshot,
    OpenSnapshot,
    EnsureSocketAccess,
    SignalProcess,
}

use Verb::{
    CleanupDmSnapshot, CleanupJailerChroot, ClearNat, CreateDmSnapshot, CreateTap as Tap,
    EnsureNat, EnsureSocketAccess, KillProcess, LaunchFirecracker, OpenSnapshot as Open,
    Reclaim as Sweep, RemoveDmSnapshot, RemoveTap, SignalProcess,
};

/// A verb, and what has to be done before it.
type Case = (Verb, &'static [Verb]);

/// Verbs that make or remove.
const VERBS: [Case; 7] = [
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
/// The rest of those that are about one VM.
const OTHERS: [Case; 7] = [
    (RemoveTap, &[Tap, EnsureNat]),
    (ClearNat, &[Tap, EnsureNat]),
    (RemoveDmSnapshot, &[CreateDmSnapshot]),
    (CleanupDmSnapshot, &[CreateDmSnapshot]),
    (Open, &[CreateDmSnapshot]),
    (EnsureSocketAccess, &[CreateDmSnapshot, LaunchFirecracker]),
    (SignalProcess, &[CreateDmSnapshot, LaunchFirecracker]),
];
/// What the kernel is not made to refuse: calls that cannot fail, or whose failure ends any program;
/// and those of the connection itself, which then ends.
const SPARED: [&str; 14] = [
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "madvise",
    "futex",
    "close",
    "poll",
    "restart_syscall",
    "recvmsg",
    "sendmsg",
    "rt_sigprocmask",
    "sigaltstack",
    "gettid",
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
            RemoveTap => (Request::RemoveTap(vm), Vec::new()),
            ClearNat => (Request::ClearNat(vm), Vec::new()),
            RemoveDmSnapshot => (Request::RemoveDmSnapshot(vm), Vec::new()),
            CleanupDmSnapshot => (Request::CleanupDmSnapshot(vm), Vec::new()),
            Open => {
                let asked = OpenSnapshot { vm, write: true };
                (Request::OpenSnapshot(asked), Vec::new())
            }
            EnsureSocketAccess => (Request::EnsureSocketAccess(vm), Vec::new()),
            SignalProcess => {
                let signal = Signal::Usr1;
                (
                    Request::SignalProcess(SendSignal { vm, signal }),
                    Vec::new(),
                )
            }
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
    struck: usize,
    lost: usize,
    leaked: usize,
}

/// The so manieth call of this name.
type Call = (String, usize);

/// What is done to a call.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Refused,
}

/// What came of a request.
struct Struck {
    /// The calls that were seen.
    calls: Vec<Call>,
    /// `None` if there was no answer.
    answer: Option<Result<Reply, Refusal>>,
}

/// Prepares for `verb`, and asks for it with a fault at this system call.
fn strike(bench: &Bench, files: &Files, verb: Verb, fault: Fault, at: Option<&Call>) -> Struck {
    let log = bench.path("strace");
    let (channel, thread) = bench.connect_alone();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "signal=none", "-p", &thread.to_string(), "-o"]);
    strace.arg(&log);
    if let Some((name, count)) = at {
        let what = match fault {
            Fault::Killed => "signal=KILL",
            Fault::Refused => "error=ENOMEM",
        };
        strace.args(["-e", &format!("inject={name}:{what}:when={count}")]);
    }
    let mut strace = strace.spawn().unwrap();
    wait_traced(thread, strace.id());
    let (request, fds) = files.request(verb);
    Bench::send_over(&channel, &request, &fds);
    let frame = channel.receive(Some(LIMIT), LIMIT).ok().flatten();
    strace.kill().unwrap();
    strace.wait().unwrap();
    let calls = calls(&fs::read_to_string(&log).unwrap());
    fs::remove_file(log).unwrap();
    let answer = frame.map(|frame| match serde_json::from_slice(&frame.body).unwrap() {
        Answer::Done(reply) => Ok(reply),
        Answer::Refused(refusal) => Err(refusal),
    });
    Struck { calls, answer }
}

/// The VM's files, once all that has to be done before was.
fn prepared(bench: &Bench, before: &[Verb]) -> Files {
    let files = Files::new(bench, &vm(1));
    for earlier in before {
        let (request, fds) = files.request(*earlier);
        bench.ask(&request, &fds).unwrap();
    }
    files
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

/// Which calls to strike at: spread evenly over the whole of the verb.
fn spread(whole: &[Call], points: usize) -> impl Iterator<Item = Call> {
    let last = whole.len().max(1) - 1;
    let at = move |point| {
        whole
            .get(point * last / points.max(2).saturating_sub(1))
            .cloned()
    };
    (0..points).filter_map(at)
}

fn kill_at_calls(bench: &mut Bench, (verb, before): Case, points: usize, beside: &OwnedFd) -> Row {
    let mut row = Row::default();
    let mut strike_at = |at: Option<&Call>| {
        let files = prepared(bench, before);
        let struck = strike(bench, &files, verb, Fault::Killed, at);
        bench.kill_helper();
        drop(files);
        let (left, lost) = recover(bench, beside);
        if !left.is_empty() || !lost.is_empty() {
            println!("{verb:?}, killed at {at:?}: left {left:#?}, lost {lost:#?}");
            bench.take_as_it_is();
        }
        row.points += 1;
        row.struck += usize::from(struck.answer.is_none());
        row.leaked += left.len();
        row.lost += lost.len();
        struck.calls
    };
    // The first time it is left alone, to see its calls.
    let whole = strike_at(None);
    for call in spread(&whole, points) {
        strike_at(Some(&call));
    }
    row.calls = whole.len();
    row
}

fn refuse_calls(bench: &mut Bench, (verb, before): Case, points: usize, beside: &OwnedFd) -> Row {
    let mut row = Row::default();
    let mut strike_at = |at: Option<&Call>| {
        let files = prepared(bench, before);
        let clean = bench.take_as_it_is();
        let struck = strike(bench, &files, verb, Fault::Refused, at);
        let mut wrong = match &struck.answer {
            Some(Err(refusal)) if makes(verb) => {
                let (left, lost) = bench.settle();
                let wrong = [left, lost].concat();
                let why = (!wrong.is_empty()).then(|| format!("as before: {refusal}"));
                wrong.into_iter().chain(why).collect()
            }
            Some(_) => Vec::new(),
            None => vec!["no answer".to_owned()],
        };
        let swept = bench.ask(&sweep(), &[]);
        drop(files);
        bench.take_for_clean(clean);
        let (left, mut lost) = bench.settle();
        wrong.extend(left);
        wrong.extend(swept.err().map(|refusal| refusal.message));
        lost.extend(has_ended(beside).then(|| "the VM beside".to_owned()));
        if !wrong.is_empty() || !lost.is_empty() {
            println!("{verb:?}, refused at {at:?}: wrong {wrong:#?}, lost {lost:#?}");
            bench.take_as_it_is();
        }
        row.points += 1;
        row.struck += usize::from(matches!(struck.answer, Some(Err(_))));
        row.leaked += wrong.len();
        row.lost += lost.len();
        struck.calls
    };
    let mut whole = strike_at(None);
    let count = whole.len();
    // The first wait is the connection's, for the request.
    let is_spared = |call: &Call| SPARED.contains(&call.0.as_str()) || *call == ("ppoll".into(), 1);
    whole.retain(|call| !is_spared(call));
    for call in spread(&whole, points) {
        strike_at(Some(&call));
    }
    row.calls = count;
    row
}

/// Whether nothing may be left of it when it is refused.
fn makes(verb: Verb) -> bool {
    matches!(
        verb,
        Tap | EnsureNat | CreateDmSnapshot | LaunchFirecracker | Open
    )
}

/// Runs `sample` for each case, beside a VM that has everything; prints what came of it.
fn beside_a_vm(
    cases: &[Case],
    points: usize,
    sample: impl Fn(&mut Bench, Case, usize, &OwnedFd) -> Row,
) {
    let points = std::env::var("BANGER_CHAOS_POINTS").map_or(points, |text| text.parse().unwrap());
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
    for case in cases {
        let start = Instant::now();
        let row = sample(&mut bench, *case, points, &vmm);
        println!("{:?}: {:.0} s", case.0, start.elapsed().as_secs_f64());
        rows.push((case.0, row));
    }
    println!("verb                  calls  points  struck  lost  leaked");
    for (verb, row) in &rows {
        let verb = format!("{verb:?}");
        println!(
            "{verb:<20}  {:>5}  {:>6}  {:>6}  {:>4}  {:>6}",
            row.calls, row.points, row.struck, row.lost, row.leaked
        );
    }
    bench.must(&Request::Reclaim(Reclaim { keep: Vec::new() }));
    drop(beside);
    bench.tear_down();
    bench.take_for_clean(original);
    bench.is_clean();
    let is_well = |row: &Row| row.lost + row.leaked == 0 && row.struck > 0;
    assert!(rows.iter().all(|(_, row)| is_well(row)));
}

#[test]
#[ignore = "needs a lab, and takes long"]
fn lab_chaos_helper_killed_at_any_call_leaks_nothing() {
    beside_a_vm(&VERBS, POINTS, kill_at_calls);
}

#[test]
#[ignore = "needs a lab, and takes long"]
fn lab_chaos_kernel_refusing_any_call_is_undone() {
    beside_a_vm(&[VERBS, OTHERS].concat(), POINTS, refuse_calls);
}
