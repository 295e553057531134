//! VMs that run in the helper's jails, on its bridge.

use crate::env::{PATIENCE, TestEnv, spec};
use crate::fake_helper::{FakeHelper, Fault};
use banger_api::{
    CheckStatus, HostView, NetworkMode, ProblemCode, RunVm, StopVm, VmSpec, VmState, VmView,
};
use banger_guest::frame::Kind;
use banger_guest::request::{Exec, Exit};
use std::sync::Arc;
use std::time::Duration;

/// A daemon with a helper, which opens after it has a kernel and an image.
async fn helped() -> (TestEnv, Arc<FakeHelper>) {
    let mut env = TestEnv::start().await;
    env.close().await;
    let helper = FakeHelper::new();
    env.helper = Some(helper.handle());
    env.open().await;
    (env, helper)
}

async fn exec(env: &TestEnv, vm: &str) -> u8 {
    let exec = Exec {
        argv: vec!["exit".into(), "7".into()],
        ..Exec::default()
    };
    let path = format!("/v1/vms/{vm}/exec");
    let mut stream = env.client.upgrade(&path, &exec).await.unwrap();
    let mut last = None;
    while let Some(frame) = stream.recv().await.unwrap() {
        last = Some(frame);
    }
    let last = last.unwrap();
    assert_eq!(last.kind, Kind::Exit);
    last.parse::<Exit>().unwrap().code.unwrap()
}

async fn assert_nothing_left(env: &TestEnv, helper: &FakeHelper) {
    env.assert_nothing_left().await;
    assert_eq!(helper.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_vm_with_an_address_is_made_used_stopped_and_removed() {
    let (env, helper) = helped().await;
    let one = env.create("one", true).await.unwrap();
    assert_eq!(
        (one.state, one.network),
        (VmState::Running, NetworkMode::Nat)
    );
    assert_eq!(one.address.unwrap().to_string(), "172.30.0.2");
    assert!(one.pid.is_some() && one.engine.unwrap().contains("jailed"));
    let two = env.create("two", true).await.unwrap();
    assert_eq!(two.address.unwrap().to_string(), "172.30.0.3");
    assert_eq!(helper.asked("priv.ensure_bridge"), 1, "once is enough");
    assert_eq!(exec(&env, "one").await, 7);

    let stop = StopVm::default();
    let stopped = env.post("/v1/vms/one/stop", &stop).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    assert_eq!(stopped.exit.unwrap().reason, "stopped");
    assert_eq!(stopped.address, one.address, "it keeps its address");
    assert_eq!(helper.left().len(), 3, "the other's: {:?}", helper.left());
    let console = env
        .dirs
        .state
        .join("vms")
        .join(one.id.as_str())
        .join("console.log");
    assert!(
        std::fs::read_to_string(console)
            .unwrap()
            .contains("hello from the fake")
    );

    let vmm = env
        .dirs
        .state
        .join("vms")
        .join(one.id.as_str())
        .join("vmm.log");
    let vmm = std::fs::read_to_string(vmm).unwrap();
    assert!(vmm.contains("Running the fake"), "{vmm:?}");

    let again = env.start_vm("one").await.unwrap();
    assert_eq!(again.address, one.address);
    env.delete("/v1/vms/one?force=true").await.unwrap();
    // What was freed is given again.
    let three = env.create("three", false).await.unwrap();
    assert_eq!(three.address, one.address);
    for name in ["two", "three"] {
        env.delete(&format!("/v1/vms/{name}?force=true"))
            .await
            .unwrap();
    }
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn a_fault_at_any_step_of_a_start_leaves_nothing() {
    for fault in [Fault::Refuses, Fault::Vanishes] {
        let (env, helper) = helped().await;
        env.create("dev", false).await.unwrap();
        let mut steps = 0;
        loop {
            helper.fail_at(steps, fault);
            let started = env.start_vm("dev").await;
            if !helper.has_failed() {
                started.unwrap();
                break;
            }
            // Names and an undo that is repeated are not what a start fails for.
            if let Err(problem) = started {
                assert!(!problem.causes.is_empty(), "{problem:?}");
                let vm = env.get("/v1/vms/dev").await.unwrap();
                assert_eq!(vm.state, VmState::Crashed, "step {steps}");
            } else {
                env.post("/v1/vms/dev/kill", &()).await.unwrap();
            }
            assert_eq!(
                helper.left(),
                Vec::<String>::new(),
                "{fault:?} at step {steps}"
            );
            steps += 1;
        }
        assert!(steps >= 4, "{steps}");
        env.delete("/v1/vms/dev?force=true").await.unwrap();
        assert_nothing_left(&env, &helper).await;
    }
}

#[tokio::test]
async fn what_an_end_could_not_remove_is_removed_soon_or_by_the_next_start_or_removal() {
    let (env, helper) = helped().await;
    for verb in ["none", "start", "rm"] {
        env.create("dev", true).await.unwrap();
        helper.set_away(true);
        helper.crash_all();
        let path = "/v1/vms/dev/wait?until=stopped&timeout_ms=60000";
        let ended = env.get(path).await.unwrap();
        assert_eq!(ended.state, VmState::Crashed);
        assert!(!helper.left().is_empty());
        let refused = env.start_vm("dev").await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::HostUnsupported);
        assert!(refused.hint.unwrap().contains("bangerd-root"));
        let refused = env.delete("/v1/vms/dev").await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::HostUnsupported);
        helper.set_away(false);
        match verb {
            "none" => {
                let gone = async {
                    while !helper.left().is_empty() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::time::timeout(PATIENCE, gone).await.unwrap();
            }
            "start" => {
                env.start_vm("dev").await.unwrap();
                assert_eq!(exec(&env, "dev").await, 7);
            }
            _ => {}
        }
        env.delete("/v1/vms/dev?force=true").await.unwrap();
        assert_nothing_left(&env, &helper).await;
    }
}

#[tokio::test]
async fn a_running_vm_is_adopted_and_a_lost_run_is_reclaimed() {
    let (mut env, helper) = helped().await;
    let before = env.create("dev", true).await.unwrap();
    let run = RunVm {
        vm: spec("run"),
        exec: Exec {
            argv: vec!["hang".into()],
            ..Exec::default()
        },
        workspace: None,
    };
    let mut stream = env.client.upgrade("/v1/run", &run).await.unwrap();
    while stream.recv().await.unwrap().unwrap().kind != Kind::Reply {}
    helper.guest.taken(1).await;
    env.lose();
    env.open().await;
    let vms: Vec<VmView> = env.client.get("/v1/vms").await.unwrap();
    assert_eq!(vms.len(), 1);
    let after = vms.into_iter().next().unwrap();
    assert_eq!(
        (after.state, after.pid, after.address),
        (VmState::Running, before.pid, before.address)
    );
    assert_eq!(helper.left().len(), 3, "{:?}", helper.left());
    assert_eq!(exec(&env, "dev").await, 7);

    // In order, too; and it ends well under the third daemon.
    env.close().await;
    assert_eq!(helper.left().len(), 3);
    env.open().await;
    assert_eq!(exec(&env, "dev").await, 7);
    let stopped = env
        .post("/v1/vms/dev/stop", &StopVm::default())
        .await
        .unwrap();
    assert_eq!(stopped.exit.unwrap().reason, "stopped");
    assert_eq!(helper.left(), Vec::<String>::new());
    env.delete("/v1/vms/dev").await.unwrap();
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn a_vm_that_ended_without_the_daemon_is_crashed_and_its_rest_reclaimed() {
    let (mut env, helper) = helped().await;
    env.create("dev", true).await.unwrap();
    env.lose();
    helper.crash_all();
    env.open().await;
    let after = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!(after.state, VmState::Crashed);
    assert_eq!(helper.left(), Vec::<String>::new());
    env.start_vm("dev").await.unwrap();
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn a_jailed_vmm_that_cannot_be_seen_is_lost_and_found_again() {
    let (mut env, helper) = helped().await;
    let before = env.create("dev", true).await.unwrap();
    let see = |env: &TestEnv, by: i64| {
        env.change_record(|record| {
            let ticks = &mut record["process"]["start_ticks"];
            *ticks = (ticks.as_i64().unwrap() + by).into();
        });
    };
    // A daemon without the helper, to which its process shows nothing of itself.
    env.lose();
    see(&env, 1);
    env.helper = None;
    env.open().await;
    let lost = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!(lost.state, VmState::Crashed);
    let exit = lost.exit.unwrap();
    assert_eq!(exit.reason, "lost");
    assert!(exit.detail.contains("it may run still"), "{}", exit.detail);
    assert_eq!(helper.left().len(), 3, "nothing of it is ended");
    for verb in ["start", "rm"] {
        let refused = match verb {
            "start" => env.start_vm("dev").await.unwrap_err(),
            _ => env.delete("/v1/vms/dev").await.unwrap_err(),
        };
        assert!(refused.message.contains("may run still of VM \"dev\""));
        assert!(refused.hint.unwrap().contains("\"local\""));
        assert_eq!(
            env.get("/v1/vms/dev").await.unwrap().exit,
            Some(exit.clone())
        );
    }

    env.lose();
    see(&env, -1);
    env.helper = Some(helper.handle());
    env.open().await;
    let after = env.get("/v1/vms/dev").await.unwrap();
    assert_eq!((after.state, after.pid), (VmState::Running, before.pid));
    assert_eq!(after.exit, None);
    assert_eq!(exec(&env, "dev").await, 7);
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn a_bridge_that_was_taken_away_is_made_again() {
    let (env, helper) = helped().await;
    env.create("one", true).await.unwrap();
    helper.delete_bridge();
    env.create("two", true).await.unwrap();
    assert_eq!(helper.asked("priv.ensure_bridge"), 2);
    for name in ["one", "two"] {
        env.delete(&format!("/v1/vms/{name}?force=true"))
            .await
            .unwrap();
    }
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn without_a_network_there_is_a_jail_and_no_tap() {
    let (env, helper) = helped().await;
    let asked = banger_api::CreateVm {
        vm: VmSpec {
            network: Some(NetworkMode::None),
            ..spec("lone")
        },
        start: true,
        timeout_ms: None,
    };
    let made = env.client.steps("/v1/vms", &asked, |_| {}).await.unwrap();
    let banger_api::Step::Vm(made) = made else {
        panic!("{made:?}")
    };
    assert_eq!(made.address, None);
    assert_eq!(helper.left().len(), 1, "{:?}", helper.left());
    assert_eq!(helper.asked("priv.ensure_bridge"), 0);
    env.delete("/v1/vms/lone?force=true").await.unwrap();
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn the_doctor_knows_the_helper_and_that_it_is_away() {
    let (env, helper) = helped().await;
    let host: HostView = env.client.get("/v1/host").await.unwrap();
    assert_eq!(host.mode, "system");
    let check = |host: &HostView| {
        let mut checks = host.checks.iter();
        checks.find(|check| check.name == "helper").unwrap().clone()
    };
    assert_eq!(check(&host).status, CheckStatus::Ok);
    helper.set_away(true);
    let host: HostView = env.client.get("/v1/host").await.unwrap();
    let away = check(&host);
    assert_eq!(away.status, CheckStatus::Failed);
    assert!(away.fix.unwrap().contains("systemctl status bangerd-root"));
    let refused = env.create("dev", true).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::HostUnsupported);
    helper.set_away(false);
    assert_nothing_left(&env, &helper).await;
}

#[tokio::test]
async fn a_network_by_nat_is_refused_where_nobody_can_make_it() {
    let env = TestEnv::start().await;
    let asked = banger_api::CreateVm {
        vm: VmSpec {
            network: Some(NetworkMode::Nat),
            ..spec("dev")
        },
        start: false,
        timeout_ms: None,
    };
    let error = env
        .client
        .steps("/v1/vms", &asked, |_| {})
        .await
        .unwrap_err();
    let problem = crate::env::problem(error);
    assert_eq!(problem.code, ProblemCode::HostUnsupported);
    assert!(problem.hint.unwrap().contains("banger system install"));
    env.assert_nothing_left().await;
}
