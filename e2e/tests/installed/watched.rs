//! A jailed VMM is another user's and hidden from the daemon: what it uses, that it hangs, and that
//! the kernel killed it for memory are seen all the same.

use crate::{as_owner, as_root, inspect, remains};
use e2e::eventually;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// What it writes is counted; stopped it is told as hung, and killed for memory as that. How soon
/// is shown, not asserted: this host is emulated.
pub(crate) fn seen_for_what_it_is() {
    as_owner(&["banger", "vm", "create", "--name", "seen", "--start"]);
    let vm = inspect("seen");
    // At first the kernel counts what is written to a file for the daemon, which wrote to it before.
    eventually("what it writes is counted", || {
        let write = "dd if=/dev/zero of=/root/file bs=1M count=4 conv=fsync 2>/dev/null";
        as_owner(&["banger", "exec", "seen", "--", "sh", "-c", write]);
        let stats = as_owner(&["banger", "--json", "vm", "stats", "--no-stream", "seen"]);
        let stats: Value = serde_json::from_str(&stats).unwrap();
        stats[0]["disk_written"].as_u64().unwrap() >= 1 << 20
    });

    let pid = vm["pid"].to_string();
    let began = now_ms();
    as_root(&["kill", "-STOP", &pid]);
    let took = now_ms() - began;
    eventually("it is seen to hang", || inspect("seen")["hung"].is_object());
    let late = told("hung", began);
    println!("a jailed VMM that was stopped was told after {late} ms, {took} of them to stop it");
    let status = as_owner(&["sh", "-c", "banger system status || true"]);
    assert!(status.contains("state.hung"), "{status}");
    as_root(&["kill", "-CONT", &pid]);
    eventually("it is seen to be back", || {
        inspect("seen")["hung"].is_null()
    });
    told("recovered", began);
    let in_guest = |script| as_owner(&["banger", "exec", "seen", "--", "sh", "-c", script]);
    assert_eq!(in_guest("cat /proc/sys/kernel/hostname"), "seen\n");

    // The thread that controls it is held alone, and its guest works on.
    in_guest("(while :; do :; done) < /dev/null > /dev/null 2>&1 & echo $! > /run/works");
    let control = Pid::from_raw(pid.parse().unwrap());
    let began = now_ms();
    ptrace::seize(control, Options::empty()).unwrap();
    ptrace::interrupt(control).unwrap();
    // Nobody asks meanwhile: where there is one CPU, its guest would wait for that, and it be busy.
    std::thread::sleep(Duration::from_secs(4));
    eventually("its control is seen to hang", || {
        inspect("seen")["hung"].is_object()
    });
    let (late, why) = (told("hung", began), inspect("seen")["hung"]["why"].clone());
    println!(
        "a jailed VMM whose control was held while its guest worked was told after {late} ms: {why}"
    );
    ptrace::detach(control, None).unwrap();
    eventually("its control is seen to be back", || {
        inspect("seen")["hung"].is_null()
    });
    in_guest("kill $(cat /run/works)");
    let log = as_owner(&["banger", "vm", "logs", "--source", "vmm", "seen"]);
    assert!(!log.contains("Get request on"), "{log}");

    let digits = vm["id"].as_str().unwrap().trim_start_matches("vm-");
    let group = format!("/sys/fs/cgroup/banger.slice/banger-vm-{digits}.scope");
    let began = now_ms();
    // Less than it has: the kernel looks for somebody to kill, and there is only one.
    fs::write(format!("{group}/memory.max"), "64K").unwrap();
    eventually("its end is known", || inspect("seen")["state"] == "crashed");
    println!(
        "its death for memory was told after {} ms",
        told("oom", began)
    );
    let vm = inspect("seen");
    assert_eq!(vm["exit"]["reason"], "oom", "{vm}");
    eventually("nothing is left of its start", || remains().is_empty());
    as_owner(&["banger", "vm", "rm", "seen"]);
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}

/// How long after `began` this was told of the VM.
fn told(kind: &str, began: u64) -> u64 {
    let filter = format!("event={kind}");
    let shown = as_owner(&["banger", "--json", "events", "--filter", &filter]);
    let last: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    last["at_unix_ms"].as_u64().unwrap().saturating_sub(began)
}
