//! Every verb with a fault at each of its steps: the kernel refuses one system call, or the
//! helper is killed at it. Faults are injected by strace, into the real program.

use crate::host::{Host, State, bridge, create_tap, needs_rules, reclaim, vm};
use banger_priv::Request;
use banger_priv_client::ClientError;

/// The system calls that change something: netlink, ioctl of the tap, the ledger's files, nft.
const CALLS: [&str; 6] = [
    "sendto", "ioctl", "openat2", "renameat", "unlinkat", "execveat",
];

/// Steps, ever fewer of the later ones: each takes seconds on an emulated host. `BANGER_FAULTS` says
/// how many: `few` for a first look, or `all`.
fn steps() -> impl Iterator<Item = u32> {
    let apart = match std::env::var("BANGER_FAULTS").as_deref() {
        Ok("few") => 16,
        Ok("all") => 0,
        _ => 3,
    };
    std::iter::successors(Some(1), move |step| Some(step + 1 + apart * step / 8))
        .take_while(|step| *step < 300)
}

/// The calls to be refused; of few, those that change the most.
fn refused_calls() -> &'static [&'static str] {
    match std::env::var("BANGER_FAULTS").as_deref() {
        Ok("few") => &CALLS[..1],
        _ => &CALLS,
    }
}

/// Attaches strace to the helper for as long as `work` takes.
fn with_fault<T>(host: &Host, fault: &str, work: impl FnOnce() -> T) -> T {
    let pid = host.helper_pid().to_string();
    let log = host.path("strace");
    let mut strace = std::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none", "-e", fault, "-o"])
        .arg(&log)
        .args(["-p", &pid])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It traces once the kernel says so, of every thread.
    let traced = format!("TracerPid:\t{}\n", strace.id());
    let is_traced = |task: std::io::Result<std::fs::DirEntry>| {
        let status = task.unwrap().path().join("status");
        std::fs::read_to_string(status).is_ok_and(|status| status.contains(&traced))
    };
    let tasks = format!("/proc/{pid}/task");
    while !std::fs::read_dir(&tasks).unwrap().all(is_traced) {
        assert!(strace.try_wait().unwrap().is_none(), "strace ended");
        std::thread::yield_now();
    }
    let result = work();
    // The kernel lets go of whom it traced. Told to end by a signal, strace may wait for the dead.
    strace.kill().unwrap();
    strace.wait().unwrap();
    result
}

fn prepared(before: &[Request]) -> Host {
    let host = Host::new();
    host.run("ip link add up0 type dummy");
    host.run("ip address add 192.168.77.2/24 dev up0");
    host.run("ip link set up0 up");
    host.run("ip route add default via 192.168.77.1");
    for request in before {
        host.done(request);
    }
    host
}

fn tap() -> Request {
    create_tap(&vm(7), 2)
}

fn nat() -> Request {
    Request::EnsureNat(vm(7))
}

/// Has the kernel refuse each step of `request`, which is asked for after `before`; hands the
/// refusal to `check`, with the state before it.
fn refuse_each(before: &[Request], request: &Request, check: impl Fn(&Host, State, &str)) {
    for call in refused_calls() {
        refuse_on(prepared(before), call, request, &check);
    }
}

/// Has the kernel refuse each such call of `request` on this host, which then ends.
fn refuse_on(mut host: Host, call: &str, request: &Request, check: impl Fn(&Host, State, &str)) {
    let mut refusals = 0;
    for step in steps() {
        let state = host.state();
        let fault = format!("inject={call}:error=ENOMEM:when={step}");
        match with_fault(&host, &fault, || host.call(request)) {
            Ok(_) => break,
            Err(ClientError::Refused(refusal)) => {
                check(&host, state, &format!("{call} {step}: {refusal}"));
            }
            Err(error) => panic!("{call} {step}: {error}\n{}", host.log()),
        }
        refusals += 1;
    }
    println!("{call}: {refusals} refusals");
    host.done(request);
    // Nobody else was there: whatever a refusal left half done was the helper's own.
    assert!(!host.log().contains("somebody else"), "{}", host.log());
    let (said, is_clean) = host.tear_down();
    assert!(is_clean, "{call}: {said}");
}

fn as_before(host: &Host, state: State, when: &str) {
    host.state().assert_is(&state, when);
}

#[test]
fn net_ensure_bridge_fault_at_any_step_leaves_host_and_ledger_as_before() {
    needs_rules!();
    refuse_each(&[], &bridge(), as_before);
}

#[test]
fn net_create_tap_fault_at_any_step_leaves_host_and_ledger_as_before() {
    needs_rules!();
    refuse_each(&[bridge()], &tap(), as_before);
}

#[test]
fn net_ensure_nat_fault_at_any_step_leaves_host_and_ledger_as_before() {
    needs_rules!();
    refuse_each(&[bridge(), tap()], &nat(), as_before);
}

#[test]
fn net_remove_tap_fault_at_any_step_leaves_what_the_next_one_takes() {
    needs_rules!();
    refuse_each(
        &[bridge(), tap(), nat()],
        &Request::RemoveTap(vm(7)),
        |host, _, _| {
            host.done(&Request::RemoveTap(vm(7)));
            assert!(host.status().vms.is_empty());
            host.done(&tap());
            host.done(&nat());
        },
    );
}

#[test]
fn net_clear_nat_fault_at_any_step_leaves_what_the_next_one_takes() {
    needs_rules!();
    refuse_each(
        &[bridge(), tap(), nat()],
        &Request::ClearNat(vm(7)),
        |host, _, _| {
            host.done(&Request::ClearNat(vm(7)));
            host.done(&nat());
        },
    );
}

/// The system calls by which resolved is told, and which change the ledger.
const RESOLVER_CALLS: [&str; 7] = [
    "socket", "connect", "sendto", "recvfrom", "write", "renameat", "openat2",
];

fn route() -> Request {
    Request::SyncResolverRouting(banger_priv::ResolverRouting { port: 8053 })
}

/// As [`refuse_each`], on the lab's own network, for only there does systemd-resolved see the bridge.
fn refuse_each_of_resolver(
    before: &[Request],
    request: &Request,
    check: impl Fn(&Host, State, &str),
) {
    if std::env::var_os("BANGER_LAB").is_none() {
        println!("skipped: it changes the host's own resolver; BANGER_LAB says that this is a lab");
        return;
    }
    for call in RESOLVER_CALLS {
        let host = Host::on_this_machine();
        for request in before {
            host.done(request);
        }
        refuse_on(host, call, request, &check);
    }
}

fn is_routed(host: &Host) -> bool {
    host.run("resolvectl status br-fc").contains("8053")
}

#[test]
fn lab_sync_resolver_routing_fault_at_any_step_leaves_host_and_ledger_as_before() {
    refuse_each_of_resolver(&[bridge()], &route(), |host, state, when| {
        assert!(!is_routed(host), "{when}");
        as_before(host, state, when);
    });
}

#[test]
fn lab_clear_resolver_routing_fault_at_any_step_leaves_what_the_next_one_takes() {
    let clear = Request::ClearResolverRouting {};
    refuse_each_of_resolver(&[bridge(), route()], &clear, |host, _, when| {
        host.done(&clear);
        assert!(!is_routed(host), "{when}");
        host.done(&route());
        assert!(is_routed(host), "{when}");
    });
}

/// Kills the helper at each step of `request`: the next one makes up for it.
fn kill_at_each(before: &[Request], request: &Request) {
    for call in ["sendto", "ioctl", "renameat"] {
        let mut kills = 0;
        for step in steps() {
            let mut host = prepared(&[]);
            let clean = host.state();
            for request in before {
                host.done(request);
            }
            let fault = format!("inject={call}:signal=KILL:when={step}");
            let answer = with_fault(&host, &fault, || host.call(request));
            if answer.is_ok() {
                break;
            }
            assert!(matches!(answer, Err(ClientError::Lost(_))), "{answer:?}");
            kills += 1;
            host.wait();
            host.start();
            host.done(&reclaim(&[]));
            assert!(!host.run("ip -o link show").contains("tap-"));
            // What was half made is completed, and what is complete is taken away.
            host.done(&bridge());
            host.done(&tap());
            let (said, is_clean) = host.tear_down();
            assert!(is_clean, "{said}");
            host.state().assert_is(&clean, &format!("{call} {step}"));
        }
        println!("{call}: {kills} kills");
    }
}

#[test]
fn net_c1_ensure_bridge_killed_at_any_step_leaks_nothing() {
    needs_rules!();
    kill_at_each(&[], &bridge());
}

#[test]
fn net_c1_create_tap_killed_at_any_step_leaks_nothing() {
    needs_rules!();
    kill_at_each(&[bridge()], &tap());
}

#[test]
fn net_c1_ensure_nat_killed_at_any_step_leaks_nothing() {
    needs_rules!();
    kill_at_each(&[bridge(), tap()], &nat());
}

#[test]
fn net_c1_remove_tap_killed_at_any_step_leaks_nothing() {
    needs_rules!();
    kill_at_each(&[bridge(), tap(), nat()], &Request::RemoveTap(vm(7)));
}
