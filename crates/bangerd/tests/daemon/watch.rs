//! What is seen of VMMs that hang, and what a restart of the daemon makes of them.

use crate::env::{PATIENCE, TestEnv};
use crate::fake_engine::Fault;
use banger_api::{EventKind, EventLine, EventView, HungView, ProblemCode, RenameVm, VmState};
use banger_guest::request::Exec;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

impl TestEnv {
    /// The events so far, of this kind.
    async fn told(&self, kind: EventKind) -> Vec<EventView> {
        let mut told = Vec::new();
        let read = self.client.get_lines("/v1/events", |line| {
            if let EventLine::Event(event) = line
                && event.event == kind
            {
                told.push(event);
            }
            Ok(())
        });
        read.await.unwrap();
        told
    }

    /// Waits until the VM is found to hang, or to answer.
    async fn until_hung(&self, vm: &str, wanted: bool) -> Option<HungView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.get(&format!("/v1/vms/{vm}")).await.unwrap();
            if view.hung.is_some() == wanted {
                return view.hung;
            }
            assert!(Instant::now() < deadline, "{view:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn signal(pid: Option<u32>, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn a_stopped_vmm_is_told_within_two_seconds_and_again_when_it_goes_on() {
    let env = TestEnv::start().await;
    let vm = env.create("dev", true).await.unwrap();
    env.create("other", true).await.unwrap();
    let began = now_ms();
    signal(vm.pid, Signal::STOP);
    let hung = env.until_hung("dev", true).await.unwrap();
    let late = hung.since_unix_ms - began;
    println!("a stopped VMM was told after {late} ms");
    assert!(late <= 2000, "{late} ms");
    assert!(hung.why.contains("stopped"), "{hung:?}");
    let view = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((view.state, view.pid), (VmState::Running, vm.pid));
    assert!(env.get("/v1/vms/other").await.unwrap().hung.is_none());

    signal(vm.pid, Signal::CONT);
    env.until_hung("dev", false).await;
    let told = env.told(EventKind::Hung).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].name, vm.name);
    assert_eq!(env.told(EventKind::Recovered).await.len(), 1);
}

#[tokio::test]
async fn a_vmm_that_is_silent_is_told_within_two_seconds_and_refused_nothing() {
    let env = TestEnv::start().await;
    let vm = env.create("dev", true).await.unwrap();
    let began = now_ms();
    env.engine.guest.is_stuck.send_replace(true);
    let hung = env.until_hung("dev", true).await.unwrap();
    let late = hung.since_unix_ms - began;
    println!("a silent VMM was told after {late} ms");
    assert!(late <= 2000, "{late} ms");
    // What works all the same is not refused.
    let exec = Exec {
        argv: vec!["exit".into(), "0".into()],
        ..Exec::default()
    };
    env.client.upgrade("/v1/vms/dev/exec", &exec).await.unwrap();
    env.engine.guest.is_stuck.send_replace(false);
    env.until_hung("dev", false).await;
    assert_eq!(env.get("/v1/vms/dev").await.unwrap().pid, vm.pid);
}

#[tokio::test]
async fn a_vmm_whose_control_is_stuck_is_told_within_two_seconds_though_its_guest_works() {
    let env = TestEnv::start().await;
    env.engine.work_in("fc_vcpu 0");
    env.create("dev", true).await.unwrap();
    let began = now_ms();
    env.engine.guest.is_stuck.send_replace(true);
    let hung = env.until_hung("dev", true).await.unwrap();
    let late = hung.since_unix_ms - began;
    println!("a VMM whose control is stuck was told after {late} ms");
    assert!(late <= 2000, "{late} ms");
    assert_eq!(hung.why, "its VMM does not answer");
}

#[tokio::test]
async fn a_vmm_that_is_busy_itself_may_take_longer_to_answer() {
    let env = TestEnv::start().await;
    env.engine.work_in("control");
    env.create("dev", true).await.unwrap();
    let began = now_ms();
    env.engine.guest.is_stuck.send_replace(true);
    let hung = env.until_hung("dev", true).await.unwrap();
    let late = hung.since_unix_ms - began;
    println!("a VMM that is busy was told after {late} ms");
    assert!(late >= 4000, "{late} ms");
    assert_eq!(hung.why, "its VMM is busy and does not answer");
}

#[tokio::test]
async fn a_vm_that_cannot_be_taken_over_is_kept_shown_as_hung_and_can_be_killed() {
    let mut env = TestEnv::start().await;
    let vm = env.create("dev", true).await.unwrap();
    env.lose();
    env.engine.fail(Some(Fault::Unreachable));
    env.open().await;
    let hung = env.until_hung("dev", true).await.unwrap();
    assert!(hung.why.contains("told to hide"), "{hung:?}");
    let view = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((view.state, view.pid), (VmState::Running, vm.pid));
    assert_eq!(env.engine.living().len(), 1);
    let refused = env.delete("/v1/vms/dev").await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict, "{refused:?}");

    // The next daemon has more luck.
    env.lose();
    env.engine.fail(None);
    env.open().await;
    assert!(env.get("/v1/vms/dev").await.unwrap().hung.is_none());
    assert_eq!(env.get("/v1/vms/dev").await.unwrap().pid, vm.pid);

    env.lose();
    env.engine.fail(Some(Fault::Unreachable));
    env.open().await;
    env.until_hung("dev", true).await;
    env.post("/v1/vms/dev/kill", &()).await.unwrap();
    let view = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((view.state, view.hung), (VmState::Stopped, None));
    assert!(env.engine.living().is_empty());
}

/// The lines of a reader that asked by hand, read until the event of this number.
fn read_until(reader: UnixStream, last: u64) -> Vec<EventLine> {
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
    let body = lines.by_ref().skip_while(|line| !line.is_empty()).skip(1);
    let mut seen = Vec::new();
    for line in body {
        seen.push(serde_json::from_str(&line).unwrap());
        if matches!(seen.last(), Some(EventLine::Event(event)) if event.seq >= last) {
            break;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_events_that_does_not_read_holds_up_nobody_and_learns_what_it_missed() {
    let env = TestEnv::start().await;
    env.create("dev0", false).await.unwrap();
    let mut slow = UnixStream::connect(env.dirs.socket()).unwrap();
    slow.write_all(b"GET /v1/events?follow=true&since_unix_ms=0 HTTP/1.0\r\n\r\n")
        .unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let client = env.client.clone();
    let following = tokio::spawn(async move {
        let see = |line: EventLine| {
            heard.send(line).unwrap();
            Ok(())
        };
        let path = "/v1/events?follow=true&since_unix_ms=0";
        client.get_lines(path, see).await
    });
    // More than the ring and the socket hold.
    const RENAMES: u64 = 1600;
    for number in 0..RENAMES {
        let asked = RenameVm {
            name: format!("dev{}", number + 1).parse().unwrap(),
        };
        let path = format!("/v1/vms/dev{number}/rename");
        env.post(&path, &asked).await.unwrap();
    }
    // The created one is the first.
    let last = RENAMES + 1;
    for seq in 1..=last {
        let line = tokio::time::timeout(PATIENCE, hears.recv()).await;
        let EventLine::Event(event) = line.unwrap().unwrap() else {
            panic!("one that reads misses nothing");
        };
        assert_eq!(event.seq, seq);
    }
    let seen = tokio::task::spawn_blocking(move || read_until(slow, last));
    let seen = seen.await.unwrap();
    let (mut next, mut missed) = (1, 0);
    for line in &seen {
        match line {
            EventLine::Missed { count } => {
                missed += count;
                next += count;
            }
            EventLine::Event(event) => {
                assert_eq!(event.seq, next, "what was missed was counted");
                next += 1;
            }
        }
    }
    println!(
        "of {last} events a reader that slept got {}, and was told of {missed} missed",
        seen.len()
    );
    assert_eq!(next, last + 1);
    assert!(missed > 0, "it missed none");
    following.abort();
}
