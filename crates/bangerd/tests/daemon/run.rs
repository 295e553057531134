//! Runs: whatever ends them, nothing is left.

use crate::env::{TestEnv, spec};
use crate::fake_engine::Fault;
use banger_api::client::FrameStream;
use banger_api::stream::StreamEvent;
use banger_api::{Problem, ProblemCode, RunVm};
use banger_engine::Cache;
use banger_guest::frame::{Frame, Kind};
use banger_guest::request::{Exec, Exit};
use bangerd::daemon::Limits;
use std::time::Duration;

fn asked(argv: &[&str], workspace: Option<&str>) -> RunVm {
    RunVm {
        vm: spec("run"),
        exec: Exec {
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            ..Exec::default()
        },
        workspace: workspace.map(str::to_owned),
    }
}

async fn begin(env: &TestEnv, asked: &RunVm) -> FrameStream {
    env.client.upgrade("/v1/run", asked).await.unwrap()
}

/// Receives until the event that `wanted` takes.
async fn until(stream: &mut FrameStream, wanted: impl Fn(&StreamEvent) -> bool) {
    loop {
        let frame = stream.recv().await.unwrap().expect("the stream goes on");
        assert_eq!(
            frame.kind,
            Kind::Reply,
            "{:?}",
            String::from_utf8_lossy(&frame.payload)
        );
        if wanted(&frame.parse().unwrap()) {
            return;
        }
    }
}

async fn until_open(stream: &mut FrameStream) {
    until(stream, |event| *event == StreamEvent::Open).await;
}

async fn until_booted(stream: &mut FrameStream) {
    until(stream, |event| matches!(event, StreamEvent::Booted(_))).await;
}

/// Begins a run whose VM's name an earlier run may still hold, and receives until it has booted.
async fn booted_when_free(env: &TestEnv, asked: &RunVm) -> FrameStream {
    loop {
        let Ok(mut stream) = env.client.upgrade("/v1/run", asked).await else {
            continue;
        };
        while let Some(frame) = stream.recv().await.unwrap() {
            if frame.kind == Kind::Failure {
                let problem: Problem = frame.parse().unwrap();
                assert_eq!(problem.code, ProblemCode::Conflict, "{problem:?}");
                break;
            }
            if matches!(frame.parse().unwrap(), StreamEvent::Booted(_)) {
                return stream;
            }
        }
    }
}

/// Receives the problem that must end the stream.
async fn ends_with_problem(stream: &mut FrameStream) -> Problem {
    loop {
        let frame = stream.recv().await.unwrap().expect("a problem comes first");
        if frame.kind == Kind::Failure {
            assert_eq!(stream.recv().await.unwrap(), None);
            return frame.parse().unwrap();
        }
    }
}

#[tokio::test]
async fn run_passes_output_and_exit_and_leaves_nothing() {
    let env = TestEnv::start().await;
    let mut stream = begin(&env, &asked(&["exit", "7"], None)).await;
    until_open(&mut stream).await;
    assert_eq!(env.engine.last_spec().drives[1].cache, Cache::Unsafe);
    assert_eq!(
        stream.recv().await.unwrap().unwrap(),
        Frame::new(Kind::Stdout, *b"out")
    );
    assert_eq!(
        stream.recv().await.unwrap().unwrap(),
        Frame::new(Kind::Stderr, *b"err")
    );
    let exit: Exit = stream.recv().await.unwrap().unwrap().parse().unwrap();
    assert_eq!(exit.code, Some(7));
    // The end of the stream says that nothing is left: no waiting from here on.
    assert_eq!(stream.recv().await.unwrap(), None);
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn workspace_arrives_whole_and_input_sent_early_is_kept() {
    let env = TestEnv::start().await;
    let mut stream = begin(&env, &asked(&["cat"], Some("/src"))).await;
    until_booted(&mut stream).await;
    for _ in 0..40 {
        stream
            .send(&Frame::new(Kind::Data, vec![b'w'; 60_000]))
            .await
            .unwrap();
    }
    stream.send(&Frame::new(Kind::Data, [])).await.unwrap();
    stream
        .send(&Frame::new(Kind::Stdin, *b"early"))
        .await
        .unwrap();
    stream.send(&Frame::new(Kind::Stdin, [])).await.unwrap();
    until_open(&mut stream).await;
    assert_eq!(env.engine.guest.copied.lock().unwrap().len(), 40 * 60_000);
    assert_eq!(stream.recv().await.unwrap().unwrap().payload, b"early");
    assert_eq!(stream.recv().await.unwrap().unwrap().kind, Kind::Exit);
    assert_eq!(stream.recv().await.unwrap(), None);
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn client_that_leaves_at_any_stage_leaves_nothing() {
    let env = TestEnv::start().await;
    // While it boots.
    env.engine.fail(Some(Fault::Silent));
    let stream = begin(&env, &asked(&["hang"], None)).await;
    env.engine.started(1).await;
    drop(stream);
    env.removed("run").await;
    env.assert_nothing_left().await;
    // Before the daemon has done anything.
    env.engine.fail(None);
    drop(begin(&env, &asked(&["hang"], None)).await);
    // The run before is over when its name is free again.
    let mut stream = booted_when_free(&env, &asked(&["hang"], Some("/w"))).await;
    // In the midst of the workspace.
    stream
        .send(&Frame::new(Kind::Data, *b"half"))
        .await
        .unwrap();
    drop(stream);
    env.removed("run").await;
    env.assert_nothing_left().await;
    // While the command runs, silent or writing more than anybody reads.
    for command in ["hang", "flood"] {
        let mut stream = begin(&env, &asked(&[command], None)).await;
        until_open(&mut stream).await;
        drop(stream);
        env.removed("run").await;
        env.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn client_that_leaves_while_its_vm_is_made_reads_the_end_after_its_removal() {
    let env = TestEnv::start().await;
    for round in 0..60 {
        let stream = begin(&env, &asked(&["hang"], None)).await;
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        let (mut reader, mut writer) = stream.split();
        writer.shutdown().await.unwrap();
        while reader.recv().await.unwrap().is_some() {}
        assert_eq!(env.rows(), 0, "round {round}");
        env.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn client_that_does_not_read_keeps_nothing_and_then_reads_whole_frames() {
    let env = TestEnv::start().await;
    let mut stream = begin(&env, &asked(&["flood"], None)).await;
    until_open(&mut stream).await;
    env.post("/v1/vms/run/kill", &()).await.unwrap();
    let removed = tokio::time::timeout(Duration::from_secs(20), env.removed("run"));
    removed
        .await
        .expect("the VM goes though its client is silent");
    env.assert_nothing_left().await;
    let problem = ends_with_problem(&mut stream).await;
    assert_eq!(problem.code, ProblemCode::VmGone, "{problem:?}");
}

#[tokio::test]
async fn client_that_does_not_read_does_not_keep_the_daemon() {
    let mut env = TestEnv::start().await;
    let mut stream = begin(&env, &asked(&["flood"], None)).await;
    until_open(&mut stream).await;
    let closed = tokio::time::timeout(Duration::from_secs(15), env.close());
    closed
        .await
        .expect("the daemon ends though a client is silent");
    assert_eq!(env.rows(), 0);
}

#[tokio::test]
async fn vmm_that_dies_ends_the_run_with_the_reason() {
    let env = TestEnv::start().await;
    let mut stream = begin(&env, &asked(&["hang"], None)).await;
    until_open(&mut stream).await;
    let pid = rustix::process::Pid::from_raw(env.engine.living()[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
    let problem = ends_with_problem(&mut stream).await;
    assert_eq!(problem.code, ProblemCode::VmGone);
    assert!(problem.message.contains("signal 11"), "{}", problem.message);
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn failures_before_the_command_leave_nothing() {
    let limits = Limits {
        boot: Duration::from_millis(300),
        ..Limits::default()
    };
    let env = TestEnv::start_with(limits).await;
    for (fault, code) in [
        (Some(Fault::Start), ProblemCode::Internal),
        (Some(Fault::EndsInBoot), ProblemCode::VmGone),
        (Some(Fault::Silent), ProblemCode::TimedOut),
        (None, ProblemCode::NotFound),
    ] {
        env.engine.fail(fault);
        let mut stream = begin(&env, &asked(&["missing"], None)).await;
        assert_eq!(ends_with_problem(&mut stream).await.code, code, "{fault:?}");
        env.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn disk_that_cannot_be_made_leaves_nothing() {
    let env = TestEnv::start().await;
    // Nobody, not even root, makes a file below a file.
    std::fs::create_dir_all(&env.dirs.state).unwrap();
    let vms = env.dirs.state.join("vms");
    let _none = std::fs::remove_dir(&vms);
    std::fs::write(&vms, "").unwrap();
    let mut stream = begin(&env, &asked(&["hang"], None)).await;
    ends_with_problem(&mut stream).await;
    assert_eq!(env.rows(), 0);
    std::fs::remove_file(&vms).unwrap();
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn run_refuses_frames_out_of_place_and_relative_workspaces() {
    let env = TestEnv::start().await;
    let refused = env
        .client
        .upgrade("/v1/run", &asked(&["cat"], Some("w")))
        .await;
    assert_eq!(
        crate::env::problem(refused.unwrap_err()).code,
        ProblemCode::Invalid
    );
    let mut stream = begin(&env, &asked(&["cat"], None)).await;
    until_open(&mut stream).await;
    stream.send(&Frame::new(Kind::Data, *b"x")).await.unwrap();
    assert_eq!(
        ends_with_problem(&mut stream).await.code,
        ProblemCode::Invalid
    );
    env.assert_nothing_left().await;
}
