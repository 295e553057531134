//! What changes a VM that is there: its name, its size, its labels; and starting it anew.

use crate::env::{TestEnv, problem};
use crate::fake_engine::Fault;
use banger_api::{
    EventKind, EventLine, ProblemCode, RenameVm, SetVm, StartVm, Step, StopVm, VmState, VmView,
};
use banger_names::ByteSize;
use hyper::Method;
use std::collections::BTreeMap;

impl TestEnv {
    async fn rename(&self, vm: &str, name: &str) -> Result<VmView, banger_api::Problem> {
        let asked = RenameVm {
            name: name.parse().unwrap(),
        };
        self.post(&format!("/v1/vms/{vm}/rename"), &asked).await
    }

    async fn set(&self, vm: &str, asked: &SetVm) -> Result<VmView, banger_api::Problem> {
        let path = format!("/v1/vms/{vm}");
        let set = self.client.call(Method::PATCH, &path, Some(asked)).await;
        set.map_err(problem)
    }

    pub(crate) async fn restart(&self, vm: &str) -> Result<VmView, banger_api::Problem> {
        let path = format!("/v1/vms/{vm}/restart");
        let asked = StopVm::default();
        match self.client.steps(&path, &asked, |_| {}).await {
            Ok(Step::Vm(vm)) => Ok(*vm),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(problem(error)),
        }
    }
}

#[tokio::test]
async fn a_renamed_vm_is_found_by_its_new_name_also_after_the_daemon() {
    let mut env = TestEnv::start().await;
    let made = env.create("old", true).await.unwrap();
    env.create("taken", false).await.unwrap();
    let refused = env.rename("old", "taken").await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict, "{refused:?}");
    assert!(refused.hint.is_some());
    assert_eq!(env.get("/v1/vms/old").await.unwrap().id, made.id);

    let renamed = env.rename("old", "new").await.unwrap();
    assert!(renamed.needs_restart, "its guest is called old");
    assert_eq!(renamed.pid, made.pid);
    let gone = env.get("/v1/vms/old").await.unwrap_err();
    assert_eq!(gone.code, ProblemCode::NotFound);
    // The old name is free, and taking one's own name is no change.
    env.create("old", false).await.unwrap();
    env.rename("new", "new").await.unwrap();

    env.lose();
    env.open().await;
    let found = env.get("/v1/vms/new").await.unwrap();
    assert_eq!((found.id, found.state), (made.id, VmState::Running));
    let restarted = env.restart("new").await.unwrap();
    assert!(!restarted.needs_restart && restarted.pid != made.pid);
}

#[tokio::test]
async fn renames_to_one_name_at_once_give_it_to_one_vm() {
    let env = TestEnv::start().await;
    for number in 0..6 {
        env.create(&format!("vm{number}"), false).await.unwrap();
    }
    let names: Vec<String> = (0..6).map(|number| format!("vm{number}")).collect();
    let tries = names.iter().map(|name| env.rename(name, "wanted"));
    let tries = futures_util::future::join_all(tries).await;
    assert_eq!(tries.iter().filter(|renamed| renamed.is_ok()).count(), 1);
}

#[tokio::test]
async fn what_set_changes_is_stored_and_a_size_waits_for_the_next_start() {
    let mut env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    let asked = SetVm {
        cpus: Some(2),
        memory: Some(ByteSize::mib(192)),
        labels: BTreeMap::from([
            ("team".into(), Some("blue".into())),
            ("tmp".into(), Some("x".into())),
        ]),
        ..SetVm::default()
    };
    let set = env.set("dev", &asked).await.unwrap();
    assert!(set.needs_restart);
    assert_eq!((set.cpus, set.memory), (2, ByteSize::mib(192)));
    assert_eq!(env.engine.last_spec().cpus, 1);
    let removes = SetVm {
        labels: BTreeMap::from([("tmp".into(), None), ("absent".into(), None)]),
        ..SetVm::default()
    };
    let set = env.set("dev", &removes).await.unwrap();
    assert_eq!(set.labels, BTreeMap::from([("team".into(), "blue".into())]));
    for wrong in [
        SetVm {
            cpus: Some(0),
            ..SetVm::default()
        },
        SetVm {
            memory: Some(ByteSize::mib(1)),
            ..SetVm::default()
        },
        SetVm {
            labels: BTreeMap::from([("a b".into(), Some(String::new()))]),
            ..SetVm::default()
        },
    ] {
        let refused = env.set("dev", &wrong).await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::Invalid, "{wrong:?}");
    }

    env.lose();
    env.open().await;
    assert_eq!(env.get("/v1/vms/dev").await.unwrap(), set);
    let restarted = env.restart("dev").await.unwrap();
    assert!(!restarted.needs_restart);
    let given = env.engine.last_spec();
    assert_eq!((given.cpus, given.mem_mib), (2, 192));
}

#[tokio::test]
async fn a_restart_boots_what_did_not_run_and_goes_on_without_its_client() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    assert_eq!(env.restart("dev").await.unwrap().state, VmState::Running);
    let starts = env.engine.starts();
    let client = env.client.clone();
    let asking = tokio::spawn(async move {
        let asked = StopVm::default();
        client
            .steps("/v1/vms/dev/restart", &asked, |_| {})
            .await
            .map(drop)
    });
    let stopping = "/v1/vms/dev/wait?until=stopped&timeout_ms=2000";
    env.get(stopping).await.ok();
    asking.abort();
    let running = "/v1/vms/dev/wait?until=running&timeout_ms=60000";
    env.get(running).await.unwrap();
    assert_eq!(env.engine.starts(), starts + 1);
}

#[tokio::test]
async fn waiting_for_a_port_ends_with_the_port_the_deadline_or_the_vm() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    let wait = |query: &str| format!("/v1/vms/dev/wait?{query}");
    let refused = env.get(&wait("port=80")).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict);
    assert_eq!(refused.hint.as_deref(), Some("banger vm start dev"));

    env.start_vm("dev").await.unwrap();
    env.get(&wait("port=80")).await.unwrap();
    let late = env.get(&wait("port=81&timeout_ms=100")).await.unwrap_err();
    assert_eq!(late.code, ProblemCode::TimedOut);
    assert!(late.message.contains("port 81"), "{late:?}");
    let path = wait("port=81");
    let (gone, killed) = tokio::join!(env.get(&path), async {
        // Asked before the VM ends: the fake agent has taken the three requests.
        env.engine.guest.taken(3).await;
        env.post("/v1/vms/dev/kill", &()).await
    });
    killed.unwrap();
    assert_eq!(gone.unwrap_err().code, ProblemCode::VmGone);
    let crashed = env.get(&wait("until=crashed&timeout_ms=50")).await;
    assert_eq!(crashed.unwrap_err().code, ProblemCode::TimedOut);
}

#[tokio::test]
async fn a_start_that_takes_longer_than_asked_is_undone() {
    let env = TestEnv::start().await;
    env.create("dev", false).await.unwrap();
    env.engine.fail(Some(Fault::Silent));
    let asked = StartVm {
        timeout_ms: Some(200),
    };
    let started = env.client.steps("/v1/vms/dev/start", &asked, |_| {}).await;
    let refused = problem(started.unwrap_err());
    assert_eq!(refused.code, ProblemCode::TimedOut, "{refused:?}");
    let stopped = "/v1/vms/dev/wait?until=stopped&timeout_ms=60000";
    assert_eq!(env.get(stopped).await.unwrap().state, VmState::Stopped);
    assert_eq!(env.engine.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn events_tell_a_life_in_order_and_outlive_the_daemon() {
    let mut env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    env.rename("dev", "box").await.unwrap();
    env.restart("box").await.unwrap();
    let pid = env.get("/v1/vms/box").await.unwrap().pid.unwrap();
    env.close().await;
    env.open().await;
    kill(pid);
    let crashed = "/v1/vms/box/wait?until=crashed&timeout_ms=60000";
    env.get(crashed).await.unwrap();
    env.delete("/v1/vms/box").await.unwrap();
    let mut seen = Vec::new();
    let see = |line: EventLine| {
        seen.push(line);
        Ok(())
    };
    env.client.get_lines("/v1/events", see).await.unwrap();
    let told: Vec<_> = seen
        .iter()
        .map(|line| match line {
            EventLine::Event(event) => format!("{} {}", event.event.as_str(), event.name),
            missed => panic!("{missed:?}"),
        })
        .collect();
    let expected = [
        "created dev",
        "started dev",
        "running dev",
        "renamed box",
        "stopping box",
        "stopped box",
        "started box",
        "running box",
        "restarted box",
        "crashed box",
        "removed box",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn who_follows_events_hears_the_next_ones_until_the_daemon_ends() {
    let mut env = TestEnv::start().await;
    env.create("before", false).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let client = env.client.clone();
    let following = tokio::spawn(async move {
        let see = |line: EventLine| {
            heard.send(line).unwrap();
            Ok(())
        };
        client.get_lines("/v1/events?follow=true", see).await
    });
    // Followed from now on, whenever that is: each tells of one VM more until one was heard.
    let first = loop {
        let name = format!("vm{}", env.rows());
        env.create(&name, false).await.unwrap();
        let wait = std::time::Duration::from_millis(200);
        if let Ok(Some(line)) = tokio::time::timeout(wait, hears.recv()).await {
            break line;
        }
    };
    assert!(matches!(first, EventLine::Event(event) if event.name.as_str() != "before"));
    env.close().await;
    following.await.unwrap().unwrap();
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn policy(text: &str) -> SetVm {
    SetVm {
        restart: Some(text.parse().unwrap()),
        ..SetVm::default()
    }
}

const RUNS: &str = "/v1/vms/dev/wait?until=running&timeout_ms=60000";
const CRASHED: &str = "/v1/vms/dev/wait?until=crashed&timeout_ms=60000";

#[tokio::test]
async fn a_vm_that_fails_is_started_again_until_its_policy_or_a_person_says_no() {
    let mut env = TestEnv::start().await;
    let pid = env.create("dev", true).await.unwrap().pid.unwrap();
    env.set("dev", &policy("on-failure:2")).await.unwrap();
    kill(pid);
    let crashed = env.get(CRASHED).await.unwrap();
    assert!(crashed.restarts_unix_ms.is_some(), "{crashed:?}");
    // The daemon may end and come back while it waits.
    env.close().await;
    env.open().await;
    let again = env.get(RUNS).await.unwrap();
    assert_eq!((again.restarts, again.restarts_unix_ms), (1, None));

    // The VMM may end while there is no daemon.
    env.close().await;
    kill(again.pid.unwrap());
    env.open().await;
    let again = env.get(RUNS).await.unwrap();
    assert_eq!(again.restarts, 2);
    kill(again.pid.unwrap());
    let given_up = env.get(CRASHED).await.unwrap();
    assert_eq!(given_up.restarts_unix_ms, None, "{given_up:?}");

    // A person's start begins anew, and a person's stop is no failure.
    env.set("dev", &policy("always")).await.unwrap();
    let started = env.start_vm("dev").await.unwrap();
    assert_eq!(started.restarts, 0);
    kill(started.pid.unwrap());
    env.get(CRASHED).await.unwrap();
    let stopped = env.post("/v1/vms/dev/stop", &StopVm::default()).await;
    assert_eq!(stopped.unwrap().restarts_unix_ms, None);
    env.start_vm("dev").await.unwrap();
    let stopped = env.post("/v1/vms/dev/stop", &StopVm::default()).await;
    let stopped = stopped.unwrap();
    assert_eq!(
        (stopped.state, stopped.restarts_unix_ms),
        (VmState::Stopped, None)
    );
}

#[tokio::test]
async fn a_vm_whose_time_is_up_is_stopped_and_not_started_again() {
    let mut env = TestEnv::start().await;
    env.create("dev", true).await.unwrap();
    env.set("dev", &policy("always")).await.unwrap();
    let asked = SetVm {
        ttl_ms: Some(400),
        ..SetVm::default()
    };
    let set = env.set("dev", &asked).await.unwrap();
    assert!(set.expires_unix_ms.is_some());
    // Time runs on without a daemon.
    env.close().await;
    env.open().await;
    let stopped = "/v1/vms/dev/wait?until=stopped&timeout_ms=60000";
    let stopped = env.get(stopped).await.unwrap();
    let exit = stopped.exit.unwrap();
    assert_eq!(
        (stopped.state, exit.reason.as_str()),
        (VmState::Stopped, "ttl")
    );
    assert_eq!(
        (stopped.restarts_unix_ms, stopped.expires_unix_ms),
        (None, None)
    );
    let mut ttls = 0;
    let see = |line: EventLine| {
        ttls +=
            usize::from(matches!(line, EventLine::Event(event) if event.event == EventKind::Ttl));
        Ok(())
    };
    env.client.get_lines("/v1/events", see).await.unwrap();
    assert_eq!(ttls, 1);
}
