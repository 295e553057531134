//! VMs that are kept: made, started, stopped, failed, removed.

use crate::env::{TestEnv, problem, spec};
use crate::fake_engine::{Fault, signal};
use banger_api::{CreateVm, ProblemCode, StopVm, VmSpec, VmState, VmView};
use banger_engine::Cache;
use banger_guest::frame::{Frame, Kind};
use banger_guest::request::{CopyOut, Dial, Exec, Exit};
use banger_names::ByteSize;
use bangerd::daemon::Limits;
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn vm_is_made_started_stopped_and_removed() {
    let env = TestEnv::start().await;
    let made = env.create("dev", false).await.unwrap();
    assert_eq!(made.state, VmState::Created);
    let second = env.create("other", false).await.unwrap();
    let listed: Vec<VmView> = env.client.get("/v1/vms").await.unwrap();
    assert_eq!(listed[0].id, made.id);
    assert_eq!(listed[1].id, second.id);

    let started = env.start_vm("dev").await.unwrap();
    assert_eq!(started.state, VmState::Running);
    assert!(started.boot_ms.is_some() && started.pid.is_some());
    let drives = env.engine.last_spec().drives;
    assert!(drives[0].read_only && !drives[1].read_only);
    assert_eq!(drives[1].cache, Cache::Writeback);
    // Starting again says so and starts nothing.
    let again = env.start_vm(started.id.as_str()).await.unwrap();
    assert_eq!(again.pid, started.pid);
    assert_eq!(env.engine.starts(), 1);

    let stopped = env
        .post("/v1/vms/dev/stop", &StopVm::default())
        .await
        .unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    assert_eq!(stopped.exit.unwrap().reason, "stopped");
    assert_eq!(stopped.pid, None);
    // The disk survives a stop and a start.
    let disk = env
        .dirs
        .state
        .join("vms")
        .join(made.id.as_str())
        .join("disk.img");
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = inode(&disk);
    env.start_vm("dev").await.unwrap();
    assert_eq!(inode(&disk), before);

    let refused = env.delete("/v1/vms/dev").await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict);
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    env.delete(&format!("/v1/vms/{}", second.id)).await.unwrap();
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn concurrent_creates_of_one_name_make_one() {
    let env = TestEnv::start().await;
    let tries = futures_util::future::join_all((0..8).map(|_| env.create("same", false))).await;
    let made = tries.iter().filter(|made| made.is_ok()).count();
    assert_eq!(made, 1);
    for refused in tries.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code, ProblemCode::Conflict);
    }
    assert_eq!(env.rows(), 1);
}

#[tokio::test]
async fn unnamed_vms_get_names_and_prefixes_find_them() {
    let env = TestEnv::start().await;
    let asked = banger_api::CreateVm {
        vm: banger_api::VmSpec {
            name: None,
            ..spec("unused")
        },
        start: false,
        timeout_ms: None,
    };
    let made = env.client.steps("/v1/vms", &asked, |_| {}).await.unwrap();
    let banger_api::Step::Vm(made) = made else {
        panic!("{made:?}")
    };
    assert!(made.name.as_str().starts_with("box-"));
    for wanted in [made.name.as_str(), made.id.as_str(), &made.id.as_str()[..6]] {
        let found = env.get(&format!("/v1/vms/{wanted}")).await.unwrap();
        assert_eq!(found.id, made.id);
    }
    for wanted in ["vm-", "nobody", "vm-zzzzzz", "..%2F..", "%1b%5b31m"] {
        let refused = env.get(&format!("/v1/vms/{wanted}")).await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::NotFound, "{wanted}");
        assert_eq!(refused.hint.as_deref(), Some("banger vm list"));
    }
}

#[tokio::test]
async fn create_with_a_boot_that_fails_leaves_nothing() {
    let limits = Limits {
        boot: Duration::from_millis(300),
        ..Limits::default()
    };
    let env = TestEnv::start_with(limits).await;
    let cases = [
        (Fault::Start, ProblemCode::Internal),
        (Fault::EndsInBoot, ProblemCode::VmGone),
        (Fault::Silent, ProblemCode::TimedOut),
    ];
    for (fault, code) in cases {
        env.engine.fail(Some(fault));
        let refused = env.create("dev", true).await.unwrap_err();
        assert_eq!(refused.code, code, "{fault:?}: {refused:?}");
        if fault == Fault::EndsInBoot {
            let last = refused.causes.last().unwrap();
            assert_eq!(last, "console: Kernel panic - not syncing");
        }
        env.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn start_that_fails_leaves_a_crashed_vm_that_can_start_later() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    env.engine.fail(Some(Fault::EndsInBoot));
    env.start_vm("dev").await.unwrap_err();
    let crashed = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!(crashed.state, VmState::Crashed);
    assert_eq!(crashed.exit.unwrap().reason, "failed");
    assert!(env.engine.living().is_empty());
    env.engine.fail(None);
    assert_eq!(env.start_vm("dev").await.unwrap().state, VmState::Running);
}

#[tokio::test]
async fn stop_that_is_forced_is_told_apart_from_one_that_is_not() {
    let env = TestEnv::start().await;
    env.engine.fail(Some(Fault::NeverOff));
    env.create("dev", true).await.unwrap();
    let stop = StopVm {
        timeout_ms: Some(50),
    };
    let stopped = env.post("/v1/vms/dev/stop", &stop).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    assert_eq!(stopped.exit.unwrap().reason, "forced");
    // Stopping what is stopped is done at once.
    env.post("/v1/vms/dev/stop", &stop).await.unwrap();
    env.engine.fail(None);
    env.start_vm("dev").await.unwrap();
    let killed = env.post("/v1/vms/dev/kill", &()).await.unwrap();
    assert_eq!(killed.exit.unwrap().reason, "killed");
}

#[tokio::test]
async fn kill_cuts_a_stop_and_a_boot_short() {
    let env = TestEnv::start().await;
    env.engine.fail(Some(Fault::NeverOff));
    env.create("dev", true).await.unwrap();
    let stop = StopVm {
        timeout_ms: Some(600_000),
    };
    let stopping = env.post("/v1/vms/dev/stop", &stop);
    let killing = async {
        env.engine.guest.taken(1).await;
        env.post("/v1/vms/dev/kill", &()).await
    };
    let (stopped, killed) = tokio::join!(stopping, killing);
    assert_eq!(stopped.unwrap().exit.unwrap().reason, "killed");
    assert_eq!(killed.unwrap().exit.unwrap().reason, "killed");

    env.engine.fail(Some(Fault::Silent));
    let killing = async {
        env.engine.started(2).await;
        env.post("/v1/vms/dev/kill", &()).await
    };
    let (booted, killed) = tokio::join!(env.start_vm("dev"), killing);
    assert_eq!(booted.unwrap_err().code, ProblemCode::Cancelled);
    assert_eq!(killed.unwrap().state, VmState::Stopped);
    assert!(env.engine.living().is_empty());
}

#[tokio::test]
async fn vmm_that_dies_makes_the_vm_crashed() {
    let env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    for (by, reason) in [(Signal::SEGV, "crashed"), (Signal::KILL, "killed")] {
        let pid = env.start_vm("dev").await.unwrap().pid.unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, by).unwrap();
        let crashed = env.get("/v1/vms/dev/wait?timeout_ms=2000").await.unwrap();
        assert_eq!(crashed.state, VmState::Crashed);
        assert_eq!(crashed.exit.unwrap().reason, reason);
    }
}

#[tokio::test]
async fn wait_ends_at_the_state_or_at_the_deadline() {
    let env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    let late = env
        .get("/v1/vms/dev/wait?until=stopped&timeout_ms=20")
        .await;
    assert_eq!(late.unwrap_err().code, ProblemCode::TimedOut);
    env.get("/v1/vms/dev/wait?until=running").await.unwrap();
    let waiting = env.get("/v1/vms/dev/wait?until=removed");
    let (gone, removed) = tokio::join!(waiting, env.delete("/v1/vms/dev?force=true"));
    gone.unwrap();
    removed.unwrap();
    let bad = env.get("/v1/vms/dev/wait?until=never").await.unwrap_err();
    assert_eq!(bad.code, ProblemCode::Invalid);
}

#[tokio::test]
async fn streams_carry_commands_copies_and_connections() {
    let env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    let exec = Exec {
        argv: vec!["cat".into()],
        ..Exec::default()
    };
    let mut stream = env.client.upgrade("/v1/vms/dev/exec", &exec).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().kind, Kind::Reply);
    stream
        .send(&Frame::new(Kind::Stdin, *b"hello"))
        .await
        .unwrap();
    assert_eq!(
        stream.recv().await.unwrap().unwrap(),
        Frame::new(Kind::Stdout, *b"hello")
    );
    stream.send(&Frame::new(Kind::Stdin, [])).await.unwrap();
    let exit: Exit = stream.recv().await.unwrap().unwrap().parse().unwrap();
    assert_eq!(exit.code, Some(0));
    assert_eq!(stream.recv().await.unwrap(), None);

    let copy = CopyOut {
        path: "/etc".into(),
    };
    let mut stream = env
        .client
        .upgrade("/v1/vms/dev/copy-out", &copy)
        .await
        .unwrap();
    let mut kinds = Vec::new();
    while let Some(frame) = stream.recv().await.unwrap() {
        kinds.push(frame.kind);
    }
    assert_eq!(kinds, [Kind::Reply, Kind::Data, Kind::Data, Kind::Exit]);

    let mut stream = env
        .client
        .upgrade("/v1/vms/dev/dial", &Dial { port: 22 })
        .await
        .unwrap();
    stream.recv().await.unwrap().unwrap();
    stream
        .send(&Frame::new(Kind::Data, *b"ping"))
        .await
        .unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().payload, b"ping");
    // A client that leaves ends the guest's side.
    let mut ended = env.engine.guest.ended.subscribe();
    let before = *ended.borrow();
    drop(stream);
    ended.wait_for(|&now| now > before).await.unwrap();
}

#[tokio::test]
async fn streams_refuse_what_is_out_of_place() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    let exec = |argv: &str| Exec {
        argv: vec![argv.into()],
        ..Exec::default()
    };
    let stopped = env.client.upgrade("/v1/vms/dev/exec", &exec("cat")).await;
    assert_eq!(problem(stopped.unwrap_err()).code, ProblemCode::Conflict);
    env.start_vm("dev").await.unwrap();
    let plain: Result<VmView, _> = env.post("/v1/vms/dev/exec", &exec("cat")).await;
    assert_eq!(plain.unwrap_err().code, ProblemCode::Invalid);

    let cases = [
        ("missing", ProblemCode::NotFound),
        ("lie", ProblemCode::Invalid),
        ("leave", ProblemCode::Internal),
    ];
    for (argv, code) in cases {
        let mut stream = env
            .client
            .upgrade("/v1/vms/dev/exec", &exec(argv))
            .await
            .unwrap();
        let mut last = None;
        while let Some(frame) = stream.recv().await.unwrap() {
            last = Some(frame);
        }
        let last = last.unwrap();
        assert_eq!(last.kind, Kind::Failure);
        assert_eq!(
            last.parse::<banger_api::Problem>().unwrap().code,
            code,
            "{argv}"
        );
    }
    let mut stream = env
        .client
        .upgrade("/v1/vms/dev/exec", &exec("cat"))
        .await
        .unwrap();
    stream.recv().await.unwrap().unwrap();
    stream
        .send(&Frame::new(Kind::Request, *b"{}"))
        .await
        .unwrap();
    let refused = stream.recv().await.unwrap().unwrap();
    assert_eq!(refused.kind, Kind::Failure);
    assert_eq!(stream.recv().await.unwrap(), None);
}

#[tokio::test]
async fn image_and_kernel_in_use_are_kept() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    for path in ["/v1/images/debian", "/v1/kernels/test-kernel"] {
        let refused = env.delete(path).await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::Conflict);
        assert_eq!(refused.hint.as_deref(), Some("banger vm rm dev"));
    }
    env.delete("/v1/vms/dev").await.unwrap();
    for path in ["/v1/images/debian", "/v1/kernels/test-kernel"] {
        let gone: serde_json::Value = env.client.delete(path).await.unwrap();
        assert!(gone["digest"].is_string());
    }
    let refused = env
        .client
        .get::<VmView>("/v1/images/debian")
        .await
        .unwrap_err();
    assert!(problem(refused).hint.unwrap().contains("image build"));
}

#[tokio::test]
async fn logs_are_followed_to_the_end_of_the_vm() {
    let env = TestEnv::start().await;
    let vm = env.create("dev", true).await.unwrap();
    let console = env
        .dirs
        .state
        .join("vms")
        .join(vm.id.as_str())
        .join("console.log");
    std::fs::write(&console, "one\n").unwrap();
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let following = env
        .client
        .get_bytes("/v1/vms/dev/logs?follow=true", |bytes| {
            tell.send(bytes.to_vec()).unwrap();
            Ok(())
        });
    let writing = async {
        assert_eq!(heard.recv().await.unwrap(), b"one\n");
        std::fs::rename(&console, console.with_extension("log.1")).unwrap();
        std::fs::write(&console, "two\n").unwrap();
        assert_eq!(heard.recv().await.unwrap(), b"two\n");
        env.post("/v1/vms/dev/kill", &()).await.unwrap();
    };
    let (followed, ()) = tokio::join!(following, writing);
    followed.unwrap();
}

#[test]
fn log_readers_that_do_not_read_hold_no_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let env = TestEnv::start().await;
        let vm = env.create("dev", false).await.unwrap();
        let dir = env.dirs.state.join("vms").join(vm.id.as_str());
        std::fs::write(dir.join("console.log"), vec![b'x'; 4 << 20]).unwrap();
        let mut readers = Vec::new();
        for _ in 0..8 {
            let mut reader = tokio::net::UnixStream::connect(env.dirs.socket())
                .await
                .unwrap();
            let request = b"GET /v1/vms/dev/logs HTTP/1.1\r\nhost: banger\r\n\r\n";
            reader.write_all(request).await.unwrap();
            reader.readable().await.unwrap();
            readers.push(reader);
        }
        let asked = tokio::time::timeout(Duration::from_secs(20), env.get("/v1/vms/dev"));
        asked.await.expect("others are served").unwrap();
    });
}

#[tokio::test]
async fn ssh_keys_are_made_and_pinned() {
    let env = TestEnv::start().await;
    if !std::path::Path::new("/usr/bin/ssh-keygen").is_file() {
        return; // the host has no OpenSSH client
    }
    let vm = env.create("dev", true).await.unwrap();
    let mut stream = env.client.upgrade("/v1/vms/dev/ssh", &()).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    assert_eq!(
        stream.recv().await.unwrap().unwrap().payload,
        b"SSH-2.0-fake\r\n"
    );
    assert_eq!(stream.recv().await.unwrap(), None);
    let ssh = env.engine.guest.ssh.lock().unwrap().clone().unwrap();
    assert!(ssh.host_key.contains("PRIVATE KEY"));
    assert!(ssh.authorized_keys[0].starts_with("ssh-ed25519 "));
    let view: banger_api::SshView = env.client.get("/v1/vms/dev/ssh").await.unwrap();
    assert_eq!(view.host, "dev.vm");
    let pinned = std::fs::read_to_string(&view.known_hosts).unwrap();
    let names = format!("dev.vm,{}.vm ssh-ed25519 ", vm.id);
    assert!(
        pinned.starts_with(&names) && pinned.lines().count() == 1,
        "{pinned}"
    );
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    assert_eq!(std::fs::read_to_string(&view.known_hosts).unwrap(), "");
}

#[tokio::test]
async fn create_refuses_bad_requests_before_anything_is_made() {
    let env = TestEnv::start().await;
    let bodies = [
        r#"{"vm":{"name":"vm-12345678"}}"#,
        r#"{"vm":{"name":"$(x)"}}"#,
        r#"{"vm":{"cpus":0}}"#,
        r#"{"vm":{"cpus":1e3}}"#,
        r#"{"vm":{"memory":18446744073709551615}}"#,
        r#"{"vm":{"unknown":1}}"#,
        r#"{"vm":{"image":"../../etc"}}"#,
        r#"{"vm":{"image":"nosuch"}}"#,
        r#"{"vm":{"kernel":"nosuch"}}"#,
        "[[[[",
    ];
    for body in bodies {
        let value = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
        let refused = env
            .client
            .steps("/v1/vms", &value, |_| {})
            .await
            .unwrap_err();
        let code = problem(refused).code;
        assert!(
            matches!(code, ProblemCode::Invalid | ProblemCode::NotFound),
            "{body}: {code:?}"
        );
    }
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn what_must_stay_free_of_the_hosts_disk_stays_and_what_runs_runs_on() {
    let mut env = TestEnv::start().await;
    let before = env.create("runs", true).await.unwrap();
    env.create("idle", false).await.unwrap();
    env.close().await;
    env.limits.reserve = ByteSize(u64::MAX);
    env.open().await;
    let made = env.create("more", false).await.unwrap_err();
    let started = env.start_vm("idle").await.unwrap_err();
    for refused in [made, started] {
        assert_eq!(refused.code, ProblemCode::Exhausted, "{refused:?}");
        assert!(refused.message.contains("free"), "{refused:?}");
        assert!(refused.hint.is_some(), "{refused:?}");
    }
    let after = env.get("/v1/vms/runs").await.unwrap();
    assert_eq!((after.state, after.pid), (VmState::Running, before.pid));
    for path in ["/v1/vms/idle", "/v1/vms/runs?force=true"] {
        env.delete(path).await.unwrap();
    }
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn what_fills_the_hosts_disk_ends_before_it_is_full_and_nothing_else_does() {
    let mut env = TestEnv::start().await;
    let greedy = env.create("greedy", true).await.unwrap();
    env.create("modest", true).await.unwrap();
    env.close().await;
    env.limits.reserve = ByteSize(u64::MAX);
    env.open().await;
    let disk = env.dirs.state.join("vms").join(greedy.id.as_str());
    let mut disk = File::options()
        .append(true)
        .open(disk.join("disk.img"))
        .unwrap();
    // What it has when the daemon sees it first is not held against it.
    let writing = async {
        for _ in 0..300 {
            disk.write_all(&[1; 1 << 20]).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await
    };
    let ended = tokio::select! {
        ended = env.get("/v1/vms/greedy/wait?until=stopped&timeout_ms=60000") => ended.unwrap(),
        () = writing => unreachable!("it never ends"),
    };
    let exit = ended.exit.unwrap();
    assert_eq!(
        (ended.state, &*exit.reason),
        (VmState::Crashed, "host_full")
    );
    assert!(exit.detail.contains("left of the host's disk"), "{exit:?}");
    let modest = env.get("/v1/vms/modest").await.unwrap();
    assert_eq!(modest.state, VmState::Running);
    for path in ["/v1/vms/greedy", "/v1/vms/modest?force=true"] {
        env.delete(path).await.unwrap();
    }
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn start_is_undone_when_its_client_leaves() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    env.engine.fail(Some(Fault::Silent));
    let client = env.client.clone();
    let starting =
        tokio::spawn(async move { client.steps("/v1/vms/dev/start", &(), |_| {}).await });
    env.engine.started(1).await;
    starting.abort();
    let stopped = env
        .get("/v1/vms/dev/wait?until=stopped&timeout_ms=60000")
        .await
        .unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    assert!(env.engine.living().is_empty());

    let client = env.client.clone();
    let asked = banger_api::CreateVm {
        vm: spec("other"),
        start: true,
        timeout_ms: None,
    };
    let creating = tokio::spawn(async move { client.steps("/v1/vms", &asked, |_| {}).await });
    env.engine.started(2).await;
    creating.abort();
    env.removed("other").await;
    env.delete("/v1/vms/dev").await.unwrap();
    env.assert_nothing_left().await;
}

#[test]
fn signal_of_a_gone_process_reaches_nobody() {
    let id = banger_engine::ProcessId {
        pid: i32::try_from(std::process::id()).unwrap(),
        start_ticks: 1,
        boot_id: String::new(),
    };
    signal(&id, Signal::KILL);
}

#[tokio::test]
async fn a_vm_that_the_hosts_memory_cannot_hold_is_refused_and_the_others_run_on() {
    let env = TestEnv::start().await;
    env.create("small", true).await.unwrap();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_ascii_whitespace().nth(1).unwrap();
    // No host has all of it available.
    let all = ByteSize::mib(total.parse::<u64>().unwrap() / 1024);
    let asked = CreateVm {
        vm: VmSpec {
            memory: Some(all),
            ..spec("big")
        },
        ..CreateVm::default()
    };
    env.client.steps("/v1/vms", &asked, |_| ()).await.unwrap();
    let refused = env.start_vm("big").await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Exhausted, "{refused:?}");
    assert!(refused.message.contains("\"big\""), "{refused:?}");
    assert_eq!(
        env.get("/v1/vms/small").await.unwrap().state,
        VmState::Running
    );
    for path in ["/v1/vms/big", "/v1/vms/small?force=true"] {
        env.delete(path).await.unwrap();
    }
    env.assert_nothing_left().await;
}
