//! What the next daemon finds.

use crate::env::{TestEnv, entries, spec};
use crate::fake_engine::Fault;
use banger_api::{CheckStatus, HostView, ProblemCode, RunVm, TidyView, VmState, VmView};
use banger_guest::frame::Kind;
use banger_guest::request::Exec;

#[tokio::test]
async fn running_vm_is_adopted_with_its_process() {
    let mut env = TestEnv::start().await;
    let before = env.create("dev", true).await.unwrap();
    env.close().await;
    assert_eq!(env.engine.living().len(), 1);
    env.open().await;
    let after = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((after.state, after.pid), (VmState::Running, before.pid));
    let exec = Exec {
        argv: vec!["exit".into(), "3".into()],
        ..Exec::default()
    };
    let mut stream = env.client.upgrade("/v1/vms/dev/exec", &exec).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(frame) = stream.recv().await.unwrap() {
        kinds.push(frame.kind);
    }
    assert_eq!(kinds.last(), Some(&Kind::Exit));
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn vm_whose_process_is_gone_is_crashed_and_stays() {
    let mut env = TestEnv::start().await;
    let vm = env.create("dev", true).await.unwrap();
    env.create("idle", false).await.unwrap();
    env.lose();
    let pid = i32::try_from(vm.pid.unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while !env.engine.living().is_empty() {
        tokio::task::yield_now().await;
    }
    env.open().await;
    let after = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!(after.state, VmState::Crashed);
    let why = after.exit.unwrap();
    assert!(why.detail.contains("without bangerd"), "{why:?}");
    let idle = env.get("/v1/vms/idle").await.unwrap();
    assert_eq!(idle.state, VmState::Created);
    assert_eq!(env.start_vm("dev").await.unwrap().state, VmState::Running);
}

#[tokio::test]
async fn leftovers_of_a_killed_daemon_are_removed() {
    let mut env = TestEnv::start().await;
    let run = RunVm {
        vm: spec("run"),
        exec: Exec {
            argv: vec!["hang".into()],
            ..Exec::default()
        },
        workspace: None,
    };
    let mut stream = env.client.upgrade("/v1/run", &run).await.unwrap();
    while stream.recv().await.unwrap().unwrap().kind != Kind::Reply
        || env.engine.guest.taken.borrow().eq(&0)
    {}
    env.lose();
    // Without a row and without a state directory.
    let stray = env.dirs.runtime.join("vm/vm-00000001");
    std::fs::create_dir(&stray).unwrap();
    std::fs::write(stray.join("socket"), "x").unwrap();
    let foreign = env.dirs.state.join("vms/mine");
    std::fs::create_dir(&foreign).unwrap();
    env.open().await;
    let vms: Vec<VmView> = env.client.get("/v1/vms").await.unwrap();
    assert!(vms.is_empty());
    assert!(env.engine.living().is_empty());
    assert_eq!(env.rows(), 0);
    assert_eq!(entries(&env.dirs.state.join("vms")), [foreign]);
    assert!(!stray.exists());
}

#[tokio::test]
async fn a_lost_database_loses_no_vm() {
    for damage in ["gone", "emptied", "noise"] {
        let mut env = TestEnv::start().await;
        let dev = env.create("dev", true).await.unwrap();
        env.create("idle", false).await.unwrap();
        env.close().await;
        let path = env.dirs.state.join("bangerd.db");
        for name in ["bangerd.db-wal", "bangerd.db-shm"] {
            std::fs::remove_file(env.dirs.state.join(name)).ok();
        }
        match damage {
            "gone" => std::fs::remove_file(&path).unwrap(),
            "emptied" => std::fs::write(&path, "").unwrap(),
            _ => std::fs::write(&path, vec![b'x'; 30_000]).unwrap(),
        }
        // What is left of a run, whose record has no copy.
        let stray = env.dirs.state.join("vms/vm-00000001");
        std::fs::create_dir(&stray).unwrap();
        std::fs::write(stray.join("disk.img"), "x").unwrap();
        env.open().await;
        let after = env.get("/v1/vms/dev").await.unwrap();
        assert_eq!(
            (after.state, after.pid, &after.id),
            (VmState::Running, dev.pid, &dev.id)
        );
        assert_eq!(
            env.get("/v1/vms/idle").await.unwrap().state,
            VmState::Created
        );
        let host: HostView = env.client.get("/v1/host").await.unwrap();
        let check = |name: &str| host.checks.iter().find(|check| check.name == name);
        let database = check("state.database").unwrap();
        let is_aside = database.status == CheckStatus::Warning;
        assert_eq!(is_aside, damage == "noise", "{database:?}");
        assert!(
            check("state.unknown")
                .unwrap()
                .message
                .contains("vm-00000001")
        );
        assert!(stray.join("disk.img").exists());
        let tidied: TidyView = env.client.post("/v1/tidy", &()).await.unwrap();
        assert_eq!(
            (tidied.removed.len(), tidied.left.len()),
            (1, 0),
            "{tidied:?}"
        );
        assert!(!stray.exists());
        env.delete("/v1/vms/idle").await.unwrap();
        // The next daemon finds all as it should be.
        env.close().await;
        env.open().await;
        let vms: Vec<VmView> = env.client.get("/v1/vms").await.unwrap();
        assert_eq!(vms.len(), 1);
        env.delete("/v1/vms/dev?force=true").await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_database_is_looked_at_and_left_alone() {
    let mut env = TestEnv::start().await;
    let dev = env.create("dev", true).await.unwrap();
    env.create("idle", false).await.unwrap();
    env.close().await;
    let path = env.dirs.state.join("bangerd.db");
    let version = |version: u32| {
        let database = rusqlite::Connection::open(&path).unwrap();
        database
            .pragma_update(None, "user_version", version)
            .unwrap();
    };
    let was: u32 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    version(99);
    let copy = env
        .dirs
        .state
        .join("vms")
        .join(dev.id.as_str())
        .join("vm.json");
    let before = std::fs::read(&copy).unwrap();
    env.open().await;
    let seen = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((seen.state, seen.pid), (VmState::Running, dev.pid));
    for path in ["/v1/vms/dev?force=true", "/v1/vms/idle"] {
        let refused = env.delete(path).await.unwrap_err();
        assert!(refused.message.contains("version 99"), "{refused:?}");
    }
    assert_eq!(
        env.start_vm("idle").await.unwrap_err().code,
        ProblemCode::Conflict
    );
    env.close().await;
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    assert_eq!(env.engine.living().len(), 1);
    version(was);
    env.open().await;
    assert_eq!(env.get("/v1/vms/dev").await.unwrap().pid, dev.pid);
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    env.delete("/v1/vms/idle").await.unwrap();
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn shutdown_ends_runs_and_lets_others_live() {
    let mut env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    let run = RunVm {
        vm: spec("run"),
        exec: Exec {
            argv: vec!["hang".into()],
            ..Exec::default()
        },
        workspace: None,
    };
    let mut stream = env.client.upgrade("/v1/run", &run).await.unwrap();
    env.engine.started(2).await;
    env.close().await;
    let mut last = None;
    while let Ok(Some(frame)) = stream.recv().await {
        last = Some(frame);
    }
    let problem: banger_api::Problem = last.unwrap().parse().unwrap();
    assert_eq!(problem.code, ProblemCode::Cancelled);
    assert_eq!(env.rows(), 1);
    assert_eq!(env.engine.living().len(), 1);
}

#[tokio::test]
async fn stop_that_the_daemons_end_cuts_short_says_so() {
    let mut env = TestEnv::start().await;
    env.engine.fail(Some(Fault::NeverOff));
    env.create("dev", true).await.unwrap();
    let client = env.client.clone();
    let stop = tokio::spawn(async move {
        let limit = banger_api::StopVm {
            timeout_ms: Some(60_000),
        };
        client
            .post::<_, banger_api::VmView>("/v1/vms/dev/stop", &limit)
            .await
    });
    env.engine.guest.taken(1).await;
    env.close().await;
    let problem = crate::env::problem(stop.await.unwrap().unwrap_err());
    assert_eq!(problem.code, ProblemCode::Cancelled);
    assert_eq!(env.engine.living().len(), 1);
}
