//! VMs with a snapshot of their image: made, checked after a bad end, refused by name.

use crate::env::{TestEnv, problem, spec};
use crate::fake_helper::{FakeHelper, Fault};
use banger_api::{
    CreateVm, NetworkMode, Problem, ProblemCode, Step, StopVm, StorageMode, VmSpec, VmState, VmView,
};
use banger_names::ByteSize;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;

async fn helped() -> (TestEnv, Arc<FakeHelper>) {
    let mut env = TestEnv::start().await;
    env.close().await;
    let helper = FakeHelper::new();
    env.helper = Some(helper.handle());
    env.open().await;
    (env, helper)
}

fn snapshot(name: &str) -> VmSpec {
    VmSpec {
        storage: Some(StorageMode::Snapshot),
        disk: None,
        ..spec(name)
    }
}

async fn make(env: &TestEnv, vm: VmSpec, start: bool) -> Result<VmView, Problem> {
    let asked = CreateVm {
        vm,
        start,
        ..CreateVm::default()
    };
    match env.client.steps("/v1/vms", &asked, |_| {}).await {
        Ok(Step::Vm(vm)) => Ok(*vm),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(problem(error)),
    }
}

async fn stopped(env: &TestEnv, vm: &str) -> VmView {
    let path = format!("/v1/vms/{vm}/wait?until=stopped&timeout_ms=60000");
    env.get(&path).await.unwrap()
}

/// Changes the file system by `debugfs`.
fn edit(disk: &File, request: &str) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
    let debugfs = Command::new("/usr/sbin/debugfs")
        .args(["-w", "-R", request, &path])
        .output()
        .unwrap();
    assert!(debugfs.status.success(), "{debugfs:?}");
}

fn superblock(disk: &File) -> [u8; 1024] {
    let mut block = [0; 1024];
    disk.read_exact_at(&mut block, 1024).unwrap();
    block
}

#[tokio::test]
async fn a_snapshot_lives_as_long_as_its_vm_and_its_device_as_a_start() {
    let (env, helper) = helped().await;
    let made = make(&env, snapshot("dev"), true).await.unwrap();
    assert_eq!(made.storage, StorageMode::Snapshot);
    assert_eq!(made.root_size, Some(made.disk));
    let store = env.dirs.state.join("vms").join(made.id.as_str());
    let store = std::fs::metadata(store.join("snapshot.cow")).unwrap();
    assert!(store.len() > made.disk.0 && store.blocks() == 0);
    assert_eq!(helper.left().len(), 4, "{:?}", helper.left());
    env.post("/v1/vms/dev/stop", &StopVm::default())
        .await
        .unwrap();
    assert_eq!(helper.left(), Vec::<String>::new());
    env.start_vm("dev").await.unwrap();
    assert_eq!(helper.asked("priv.open_snapshot"), 0, "it ended cleanly");
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    env.assert_nothing_left().await;
    assert_eq!(helper.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_running_snapshot_is_adopted() {
    let (mut env, helper) = helped().await;
    make(&env, snapshot("dev"), true).await.unwrap();
    env.lose();
    env.open().await;
    assert_eq!(
        env.get("/v1/vms/dev").await.unwrap().state,
        VmState::Running
    );
    assert_eq!(helper.left().len(), 4, "{:?}", helper.left());
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    assert_eq!(helper.left(), Vec::<String>::new());
}

#[tokio::test]
async fn after_a_bad_end_the_disk_is_checked_and_repaired() {
    let (env, helper) = helped().await;
    let made = make(&env, snapshot("dev"), true).await.unwrap();
    let mut before = [0; 1024];
    helper.on_disk(made.id.as_str(), |disk| {
        before = superblock(disk);
        // Not unmounted, and with a wrong count of free blocks.
        edit(disk, "set_super_value state 0");
        edit(disk, "set_super_value free_blocks_count 12");
        assert_ne!(superblock(disk)[0x0c..0x10], before[0x0c..0x10]);
    });
    helper.crash_all();
    let ended = stopped(&env, "dev").await;
    assert_eq!(ended.exit.unwrap().reason, "killed");
    env.start_vm("dev").await.unwrap();
    helper.on_disk(made.id.as_str(), |disk| {
        let after = superblock(disk);
        assert_eq!(after[0x0c..0x10], before[0x0c..0x10], "free blocks");
        assert_eq!(after[0x3a..0x3c], [1, 0], "clean");
    });
    env.delete("/v1/vms/dev?force=true").await.unwrap();
    assert_eq!(helper.left(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_repaired_is_refused_by_name_and_left_as_it_was() {
    let (env, helper) = helped().await;
    let made = make(&env, snapshot("dev"), true).await.unwrap();
    let mut damaged = [0; 1024];
    helper.on_disk(made.id.as_str(), |disk| {
        disk.write_all_at(&[0xff; 1024], 1024).unwrap();
        damaged = superblock(disk);
    });
    helper.crash_all();
    stopped(&env, "dev").await;
    let refused = env.start_vm("dev").await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict);
    assert!(refused.message.contains("\"dev\""), "{refused:?}");
    assert!(refused.message.contains("damaged"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("banger vm rm dev"));
    helper.on_disk(made.id.as_str(), |disk| {
        assert!(superblock(disk) == damaged)
    });
    assert_eq!(helper.left(), Vec::<String>::new());
    env.delete("/v1/vms/dev").await.unwrap();
    env.assert_nothing_left().await;
}

#[tokio::test]
async fn a_full_snapshot_is_told_at_its_end_and_at_the_next_start() {
    let (env, helper) = helped().await;
    make(&env, snapshot("dev"), true).await.unwrap();
    helper.fail_disks(true);
    helper.crash_all();
    let exit = stopped(&env, "dev").await.exit.unwrap();
    assert_eq!(exit.reason, "disk_full");
    assert!(exit.detail.contains("disk is full"), "{exit:?}");
    let refused = env.start_vm("dev").await.unwrap_err();
    assert!(refused.message.contains("disk was full"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("--disk"));
    env.delete("/v1/vms/dev").await.unwrap();
    assert_eq!(helper.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_fault_at_any_step_of_a_start_leaves_no_snapshot() {
    for fault in [Fault::Refuses, Fault::Vanishes] {
        let (env, helper) = helped().await;
        make(&env, snapshot("dev"), false).await.unwrap();
        let mut steps = 0;
        loop {
            helper.fail_at(steps, fault);
            let started = env.start_vm("dev").await;
            if !helper.has_failed() {
                started.unwrap();
                break;
            }
            if started.is_ok() {
                env.post("/v1/vms/dev/kill", &()).await.unwrap();
            }
            let left = helper.left();
            assert_eq!(left, Vec::<String>::new(), "{fault:?} at step {steps}");
            steps += 1;
        }
        assert!(steps >= 6, "{steps}");
        env.delete("/v1/vms/dev?force=true").await.unwrap();
        assert_eq!(helper.left(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_snapshot_is_refused_where_it_cannot_be() {
    let env = TestEnv::start().await;
    let refused = make(&env, snapshot("dev"), false).await.unwrap_err();
    assert!(refused.message.contains("needs root"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("banger system install"));
    let (env, _helper) = helped().await;
    let huge = VmSpec {
        disk: Some(ByteSize::gib(500)),
        network: Some(NetworkMode::None),
        ..snapshot("dev")
    };
    let refused = make(&env, huge, false).await.unwrap_err();
    assert!(refused.message.contains("500 GiB"), "{refused:?}");
    env.assert_nothing_left().await;
}
