//! Guests with a kernel: `BANGER_TEST_KERNEL` names an ELF vmlinux whose VT, 8250 and i8042
//! are built in (Debian's cloud kernel). The initramfs is the host's static busybox and a
//! script. `BANGER_TEST_INITRD`, for the agent's channel only, names one with the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use banger_engine::{Cache, Drive, Engine, ExitReason, Machine, MachineSpec, NetworkMode};
use banger_guest::boot::{BOOT_CONFIG_PATH, BootConfig, Init, Root};
use banger_guest::frame::AGENT_PORT;

use crate::place::{TestPlace, engine};
use crate::soon;

fn required(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("set {variable}; see this file's head")))
}

/// One cpio (newc) archive of these files, executable.
fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: usize, data: &[u8]| {
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ]
        .map(|field: usize| format!("{field:08X}"));
        archive.extend(format!("070701{}{name}\0", fields.concat()).bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    for dir in ["bin", "dev", "proc"] {
        entry(dir, 0o040_755, &[]);
    }
    for (name, data) in files {
        if let Some((dir, _)) = name.rsplit_once('/') {
            entry(dir, 0o040_755, &[]);
        }
        entry(name, 0o100_755, data);
    }
    entry("TRAILER!!!", 0, &[]);
    archive
}

/// A machine that runs a shell script as PID 1.
fn scripted(place: &TestPlace, script: &str) -> MachineSpec {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let script = format!(
        "#!/bin/busybox sh\nPATH=/bin; /bin/busybox --install /bin\n\
         mount -t devtmpfs d /dev; mount -t proc p /proc\n{script}\n"
    );
    let initrd = place.dir.path().join("test.cpio");
    let archive = cpio(&[("bin/busybox", &busybox), ("init", script.as_bytes())]);
    std::fs::write(&initrd, archive).unwrap();
    MachineSpec {
        kernel: required("BANGER_TEST_KERNEL"),
        initrd,
        mem_mib: 128,
        huge_pages: false,
        jail_root: None,
        ..place.idle()
    }
}

async fn start(place: &TestPlace, spec: &MachineSpec) -> Box<dyn Machine> {
    engine().await.start(spec, &place.place).await.unwrap()
}

fn console(place: &TestPlace) -> String {
    let log = std::fs::read(place.place.log_dir.join("console.log")).unwrap();
    String::from_utf8_lossy(&log).into_owned()
}

/// Waits until a line was written to the console's log, by watching the log's directory.
async fn console_says(place: &TestPlace, text: &str) {
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    let flags = rustix::fs::inotify::WatchFlags::MODIFY;
    rustix::fs::inotify::add_watch(&watch, &place.place.log_dir, flags).unwrap();
    let watch = Arc::new(watch);
    while !console(place).contains(text) {
        let watch = Arc::clone(&watch);
        let event = tokio::task::spawn_blocking(move || {
            let mut events = [0; 4096];
            rustix::io::read(&*watch, &mut events).unwrap()
        });
        soon(event).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel: set BANGER_TEST_KERNEL to an ELF vmlinux"]
async fn power_off_restart_and_panic_are_told_apart() {
    let place = TestPlace::new();
    for (script, reason) in [
        ("poweroff -f", ExitReason::GuestPowerOff),
        ("reboot -f", ExitReason::GuestPowerOff),
        ("exit 3", ExitReason::GuestPanic),
        ("echo c > /proc/sysrq-trigger", ExitReason::GuestPanic),
    ] {
        let machine = start(&place, &scripted(&place, script)).await;
        let exit = soon(machine.wait()).await;
        assert_eq!((exit.reason, exit.code), (reason, Some(0)), "{script}");
        assert_eq!(exit.detail, "", "{script}");
        let panicked = console(&place).contains("Kernel panic - not syncing");
        assert_eq!(panicked, reason == ExitReason::GuestPanic, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel: set BANGER_TEST_KERNEL to an ELF vmlinux"]
async fn ctrl_alt_del_reaches_pid_1_as_int() {
    let place = TestPlace::new();
    let script = "echo 0 > /proc/sys/kernel/ctrl-alt-del\n\
                  trap 'echo got INT; poweroff -f' INT\necho ready\n\
                  while :; do sleep 1; done";
    let machine = start(&place, &scripted(&place, script)).await;
    console_says(&place, "ready").await;
    machine.ctrl_alt_del().await.unwrap();
    let exit = soon(machine.wait()).await;
    assert_eq!(exit.reason, ExitReason::GuestPowerOff);
    assert!(console(&place).contains("got INT"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel: set BANGER_TEST_KERNEL to an ELF vmlinux"]
async fn a_console_flood_stays_capped_and_the_monitor_answers() {
    let place = TestPlace::new();
    let script = "echo ready; while :; do cat /bin/busybox; done > /dev/ttyS0";
    let machine = start(&place, &scripted(&place, script)).await;
    console_says(&place, "ready").await;
    // The log turns over while the guest floods it.
    let old = place.place.log_dir.join("console.log.1");
    while !old.exists() {
        machine.pause().await.unwrap();
        machine.resume().await.unwrap();
    }
    let asked = Instant::now();
    machine.pause().await.unwrap();
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    machine.kill().await.unwrap();
    let total: u64 = ["console.log", "console.log.1"]
        .map(|name| {
            std::fs::metadata(place.place.log_dir.join(name))
                .unwrap()
                .len()
        })
        .iter()
        .sum();
    assert!(total <= place.place.log_cap, "{total}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel: set BANGER_TEST_KERNEL to an ELF vmlinux"]
async fn a_dropped_guest_runs_on_and_its_panic_is_told_after_adoption() {
    let place = TestPlace::new();
    let script = "echo 0 > /proc/sys/kernel/ctrl-alt-del; trap 'exit 1' INT; echo ready\n\
                  while :; do sleep 1; done";
    let machine = start(&place, &scripted(&place, script)).await;
    console_says(&place, "ready").await;
    let id = machine.process().clone();
    drop(machine);
    let engine = engine().await;
    let machine = soon(engine.adopt(&id, &place.place)).await.unwrap();
    machine.ctrl_alt_del().await.unwrap();
    let exit = soon(machine.wait()).await;
    assert_eq!(exit.reason, ExitReason::GuestPanic, "{exit}");
    let log = console(&place);
    assert!(log.contains("ready"), "adoption appends: {log}");
    assert!(log.contains("Attempted to kill init"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots the agent: set BANGER_TEST_KERNEL and BANGER_TEST_INITRD"]
async fn the_agent_answers_before_and_after_adoption() {
    let place = TestPlace::new();
    let engine = engine().await;
    let spec = with_agent(&place, &*engine);
    let asked = Instant::now();
    let machine = engine.start(&spec, &place.place).await.unwrap();
    println!("start to the monitor's answer: {:?}", asked.elapsed());
    tokio::time::timeout(std::time::Duration::from_secs(60), machine.agent_ready())
        .await
        .expect("answers within a minute")
        .unwrap();
    println!("start to the agent's answer: {:?}", asked.elapsed());
    drop(soon(machine.connect(AGENT_PORT)).await.unwrap());
    assert!(soon(machine.connect(1)).await.is_err(), "no such port");

    let id = machine.process().clone();
    drop(machine);
    let machine = soon(engine.adopt(&id, &place.place)).await.unwrap();
    soon(machine.agent_ready()).await.unwrap();
    drop(soon(machine.connect(AGENT_PORT)).await.unwrap());
    machine.kill().await.unwrap();
}

/// The agent's own initramfs with a boot configuration behind it; its disk is empty, which the
/// agent reports but survives.
fn with_agent(place: &TestPlace, engine: &dyn Engine) -> MachineSpec {
    let disk = place.image("disk.img");
    let config = BootConfig {
        channel: engine.channel(),
        root: Root::Disk {
            device: engine.drive_device(0),
        },
        init: Init::Agent,
        hostname: "test".into(),
        network: engine.guest_network(NetworkMode::User),
        seed: "00".repeat(32),
        clock_unix_ms: 1_700_000_000_000,
    };
    let json = serde_json::to_vec(&config).unwrap();
    let mut initrd = std::fs::read(required("BANGER_TEST_INITRD")).unwrap();
    initrd.resize(initrd.len().next_multiple_of(512), 0);
    initrd.extend(cpio(&[(BOOT_CONFIG_PATH.trim_start_matches('/'), &json)]));
    let path = place.dir.path().join("agent.cpio");
    std::fs::write(&path, initrd).unwrap();
    MachineSpec {
        kernel: required("BANGER_TEST_KERNEL"),
        initrd: path,
        mem_mib: 256,
        huge_pages: false,
        jail_root: None,
        drives: vec![Drive {
            path: disk,
            read_only: false,
            cache: Cache::Unsafe,
        }],
        ..place.idle()
    }
}
