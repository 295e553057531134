//! Real QEMU processes. The tests at the top need no guest; those in `booted` need a kernel
//! and an initramfs, given by `BANGER_TEST_KERNEL` and `BANGER_TEST_INITRD`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of tests may panic as a test may"
)]

mod booted;
mod place;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use banger_engine::{Accel, Cache, Drive, EngineError, EngineKind, ExitReason, NetworkMode};
use place::{TestPlace, alive, engine};

const SOON: Duration = Duration::from_secs(30);

/// Waits for what must come soon.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work)
        .await
        .expect("ends within 30 s")
}

#[tokio::test]
async fn choose_explains_itself_and_refuses_an_unusable_kvm() {
    let engine = engine().await;
    assert_eq!(engine.kind(), EngineKind::Qemu);
    let text = engine.describe();
    assert!(text.starts_with("QEMU "), "{text}");
    assert!(text.contains("emulation (TCG): asked for"), "{text}");
    assert_eq!(engine.drive_device(1), "/dev/vdb");
    assert!(engine.guest_network(NetworkMode::None).is_none());
    assert!(engine.guest_network(NetworkMode::User).is_some());
    let findings = banger_engine::Host::look().findings(false);
    assert!(findings.iter().any(|finding| finding.subject == "qemu"));
    if let banger_engine::Kvm::Unusable { reason, .. } = banger_engine::probe_kvm() {
        let error = place::qemu(Some(Accel::Kvm)).unwrap_err();
        assert!(error.to_string().contains(&reason), "{error}");
        let chosen = place::qemu(None).unwrap().describe();
        assert!(chosen.contains(&reason), "{chosen}");
    }
}

#[tokio::test]
async fn start_pause_resume_kill_leave_private_sockets_and_logs_only() {
    let place = TestPlace::new();
    let machine = engine()
        .await
        .start(&place.idle(), &place.place)
        .await
        .unwrap();
    for name in ["agent.sock", "qmp.sock", "console.sock"] {
        let mode = std::fs::metadata(place.place.run_dir.join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let pid = machine.process().pid;
    let group = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group: i32 = place::stat_field(&group, 5).parse().unwrap();
    assert_eq!(group, pid, "QEMU has its own process group");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "QEMU has no environment");

    machine.pause().await.unwrap();
    machine.resume().await.unwrap();
    let (first, second) = tokio::join!(soon(machine.wait()), async {
        machine.kill().await.unwrap();
        soon(machine.wait()).await
    });
    assert_eq!(first, second);
    assert_eq!(first.reason, ExitReason::Killed);
    assert_eq!(first.signal, Some(9));
    assert!(!alive(pid), "it is reaped");
    machine.kill().await.expect("killing twice is no error");
    let error = soon(machine.agent_ready()).await.unwrap_err();
    assert!(matches!(error, EngineError::Exited(_)), "{error}");
    let Err(error) = soon(machine.connect(1)).await else {
        panic!("connected to the dead")
    };
    assert!(matches!(error, EngineError::Exited(_)), "{error}");
    assert!(machine.pause().await.is_err());
    for name in ["console.log", "vmm.log"] {
        let mode = std::fs::metadata(place.place.log_dir.join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_kill_from_outside_is_told_from_a_term() {
    let place = TestPlace::new();
    let machine = engine()
        .await
        .start(&place.idle(), &place.place)
        .await
        .unwrap();
    place::signal(machine.process().pid, rustix::process::Signal::KILL);
    let exit = soon(machine.wait()).await;
    assert_eq!((exit.reason, exit.signal), (ExitReason::Killed, Some(9)));

    let machine = engine()
        .await
        .start(&place.idle(), &place.place)
        .await
        .unwrap();
    place::signal(machine.process().pid, rustix::process::Signal::TERM);
    let exit = soon(machine.wait()).await;
    assert_eq!((exit.reason, exit.code), (ExitReason::Killed, Some(0)));

    let machine = engine()
        .await
        .start(&place.idle(), &place.place)
        .await
        .unwrap();
    place::signal(machine.process().pid, rustix::process::Signal::ABORT);
    let exit = soon(machine.wait()).await;
    assert_eq!((exit.reason, exit.signal), (ExitReason::Crashed, Some(6)));
}

#[tokio::test]
async fn start_names_what_is_missing_and_leaves_nothing() {
    let place = TestPlace::new();
    let engine = engine().await;
    let mut spec = place.idle();
    spec.kernel = "/nonexistent/vmlinux".into();
    let error = engine.start(&spec, &place.place).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("open the kernel \"/nonexistent/vmlinux\"")
    );
    place.assert_no_sockets();

    let mut spec = place.idle();
    spec.mem_mib = 1;
    let error = engine.start(&spec, &place.place).await.unwrap_err();
    assert!(matches!(error, EngineError::Spec(_)), "{error}");

    // QEMU itself refuses: a kernel that is none.
    let mut spec = place.idle();
    std::fs::write(place.dir.path().join("junk"), "no kernel").unwrap();
    spec.kernel = place.dir.path().join("junk");
    let error = soon(engine.start(&spec, &place.place)).await.unwrap_err();
    let EngineError::Exited(exit) = &error else {
        panic!("{error}")
    };
    assert_eq!((exit.reason, exit.code), (ExitReason::Crashed, Some(1)));
    assert!(exit.detail.contains("kernel"), "{}", exit.detail);
    place.assert_no_sockets();
}

#[tokio::test]
async fn start_refuses_a_run_dir_that_others_can_enter() {
    let place = TestPlace::new();
    std::fs::set_permissions(&place.place.run_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = engine()
        .await
        .start(&place.idle(), &place.place)
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Place { .. }), "{error}");
}

#[tokio::test]
async fn a_start_given_up_half_way_leaves_nothing() {
    let place = TestPlace::new();
    let engine = engine().await;
    let spec = place.idle();
    for wait in [0, 1, 2, 4, 8] {
        let start = engine.start(&spec, &place.place);
        match tokio::time::timeout(Duration::from_millis(wait), start).await {
            Err(_) => {}
            Ok(machine) => machine.unwrap().kill().await.unwrap(),
        }
        assert!(place.processes().is_empty(), "a QEMU of this test runs on");
    }
}

#[tokio::test]
async fn drives_are_shared_read_only_and_exclusive_writable() {
    let place = TestPlace::new();
    let other = TestPlace::new();
    let engine = engine().await;
    let base = place.image("base,odd=\"name\".img");
    let mut spec = place.idle();
    spec.drives = vec![drive(&base, true)];
    let first = engine.start(&spec, &place.place).await.unwrap();
    let second = engine.start(&spec, &other.place).await.unwrap();
    second.kill().await.unwrap();

    let mut writer = other.idle();
    writer.drives = vec![drive(&base, false)];
    let error = soon(engine.start(&writer, &other.place)).await.unwrap_err();
    assert!(error.to_string().contains("lock"), "{error}");
    other.assert_no_sockets();
    first.kill().await.unwrap();
    let third = engine.start(&writer, &other.place).await.unwrap();
    third.kill().await.unwrap();
}

fn drive(path: &Path, read_only: bool) -> Drive {
    Drive {
        path: path.to_owned(),
        read_only,
        cache: Cache::Unsafe,
    }
}

#[tokio::test]
async fn a_dropped_machine_runs_on_and_is_adopted() {
    let place = TestPlace::new();
    let engine = engine().await;
    let machine = engine.start(&place.idle(), &place.place).await.unwrap();
    let id = machine.process().clone();
    drop(machine);
    assert!(alive(id.pid), "dropping does not kill");

    let stored = serde_json::to_string(&id).unwrap();
    let id = serde_json::from_str(&stored).unwrap();
    let machine = soon(engine.adopt(&id, &place.place)).await.unwrap();
    machine.pause().await.unwrap();
    drop(machine);
    let machine = soon(engine.adopt(&id, &place.place)).await.unwrap();
    machine.resume().await.unwrap();
    // Its last message goes to a pipe that nobody reads any more.
    place::signal(id.pid, rustix::process::Signal::TERM);
    let exit = soon(machine.wait()).await;
    assert_eq!((exit.reason, exit.signal), (ExitReason::Killed, None));
    machine.kill().await.unwrap();
    assert!(!alive(id.pid), "reaped though its first holder is gone");
    let error = engine.adopt(&id, &place.place).await.unwrap_err();
    assert!(matches!(error, EngineError::NotOurs { .. }), "{error}");
}

#[tokio::test]
async fn adopt_refuses_a_foreign_process_with_the_same_number() {
    let place = TestPlace::new();
    let engine = engine().await;
    let machine = engine.start(&place.idle(), &place.place).await.unwrap();
    let mut id = machine.process().clone();
    id.start_ticks += 1;
    let error = engine.adopt(&id, &place.place).await.unwrap_err();
    assert!(error.to_string().contains("another process has its number"));
    assert!(alive(id.pid), "nothing was sent to it");
    machine.kill().await.unwrap();
}
