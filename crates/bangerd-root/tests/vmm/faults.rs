//! A launch that fails at each of its steps leaves nothing of it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use banger_priv::{CreateSnapshot, FileRole, RefusalKind, Request};
use rustix::fs::OFlags;

use crate::bench::{Bench, LIMIT, refused, vm, wait_traced};
use crate::guest::{Guest, boot_file, make_file, open};

/// The last step but one: the scope's name is taken by somebody's.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_without_its_scope_leaves_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut taken = Command::new("systemd-run")
        .args([
            "--scope",
            "--quiet",
            "--unit",
            &vm.scope(),
            "sh",
            "-c",
            "echo; exec sleep 600",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(taken.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let mut guest = Guest::new(&bench, &vm);
    refused(guest.launch(&bench), RefusalKind::Failed, "control group");
    assert_eq!(guest.console() + &guest.log(), "", "nothing ran");
    bench.is_clean();
    taken.kill().unwrap();
    taken.wait().unwrap();
    Bench::wait_scope_gone(&vm);
    // And nothing is in the way of the next try.
    guest.start(&bench);
    bench.must(&Request::KillProcess(vm.clone()));
    bench.must(&Request::CleanupJailerChroot(vm.clone()));
    Bench::wait_scope_gone(&vm);
    drop(guest);
    bench.is_clean();
}

/// The stage cannot show a file: it is not where the owner's files are.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_without_a_mount_leaves_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let elsewhere = bench.path("elsewhere");
    make_file(&elsewhere, &[0; 512], 0o660);
    guest.replace(FileRole::Disk(0), open(&elsewhere, OFlags::RDWR));
    refused(
        guest.launch(&bench),
        RefusalKind::Failed,
        "none of the directories",
    );
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
    assert_eq!(
        std::os::unix::fs::MetadataExt::gid(&fs::metadata(&elsewhere).unwrap()),
        1000
    );
}

/// The jailer cannot be executed.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_without_its_jailer_leaves_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let jailer = bench.path("programs").join("jailer");
    fs::write(&jailer, b"\x7fELF and nothing that runs").unwrap();
    refused(
        guest.launch(&bench),
        RefusalKind::Failed,
        "execute the jailer",
    );
    assert_eq!(guest.console() + &guest.log(), "", "nothing ran");
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
}

/// The ledger cannot be written: nothing is begun.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_and_snapshot_without_the_ledger_leave_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let guest = Guest::new(&bench, &vm);
    let ledger = bench.path("run/ledger");
    let chattr = |flag: &str| {
        let done = Command::new("chattr").arg(flag).arg(&ledger).status();
        assert!(done.unwrap().success());
    };
    chattr("+i");
    refused(guest.launch(&bench), RefusalKind::Failed, "ledger");
    let store = bench.path("files").join("store");
    make_file(&store, &[0; 4096], 0o600);
    let asked = CreateSnapshot {
        vm,
        persistent: false,
    };
    let (base, store_file) = (
        open(&boot_file("rootfs.ext4"), OFlags::RDONLY),
        open(&store, OFlags::RDWR),
    );
    let asked = bench.ask(
        &Request::CreateDmSnapshot(asked),
        &[base.as_fd(), store_file.as_fd()],
    );
    refused(asked, RefusalKind::Failed, "ledger");
    chattr("-i");
    fs::remove_file(&store).unwrap();
    bench.is_clean();
}

/// The kernel refuses the snapshot's table: the store has a header that it does not know.
#[test]
#[ignore = "needs a lab"]
fn lab_snapshot_without_its_table_leaves_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let store = bench.path("files").join("store");
    // A header of a store that no kernel knows.
    let mut text = vec![0xff_u8; 1 << 20];
    text[..4].copy_from_slice(b"SnAp");
    make_file(&store, &text, 0o600);
    let asked = CreateSnapshot {
        vm,
        persistent: true,
    };
    let base = open(&boot_file("rootfs.ext4"), OFlags::RDONLY);
    let store_file = open(&store, OFlags::RDWR);
    let done = bench.ask(
        &Request::CreateDmSnapshot(asked),
        &[base.as_fd(), store_file.as_fd()],
    );
    refused(done, RefusalKind::Failed, "load dm table");
    drop((base, store_file));
    fs::remove_file(&store).unwrap();
    bench.is_clean();
}

/// The stage ends just while systemd moves it into its scope, which then never becomes empty, for it
/// always was: systemd would keep it, and its name, for ever.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_of_a_stage_that_ends_on_its_way_leaves_no_scope() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let group = format!("/sys/fs/cgroup/banger.slice/{}", vm.scope());
    let mut slowed = Command::new("strace")
        .args(["-p", "1", "-qq", "-o", "/dev/null", "-e", "trace=openat"])
        .args(["-e", "inject=openat:delay_enter=3000000", "-P"])
        .arg(format!("{group}/cgroup.procs"))
        .spawn()
        .unwrap();
    wait_traced(1, slowed.id());
    let channel = bench.send(&guest.request(), &guest.fds());
    let start = Instant::now();
    while !Path::new(&group).exists() {
        assert!(start.elapsed() < LIMIT);
        std::thread::yield_now();
    }
    let stage = bench.children();
    assert_eq!(stage.len(), 1, "{stage:?}");
    let stage = rustix::process::Pid::from_raw(stage[0]).unwrap();
    rustix::process::kill_process(stage, rustix::process::Signal::KILL).unwrap();
    refused(bench.answer(&channel), RefusalKind::Failed, "VMM");
    slowed.kill().unwrap();
    slowed.wait().unwrap();
    bench.is_clean();
    guest.start(&bench);
    bench.must(&Request::KillProcess(vm.clone()));
    bench.must(&Request::CleanupJailerChroot(vm.clone()));
    Bench::wait_scope_gone(&vm);
    drop(guest);
    bench.is_clean();
}

/// The VMM ends before its sockets are there: told at once, with the cleaning left to be asked for.
#[test]
#[ignore = "needs a lab"]
fn lab_ensure_socket_access_tells_of_a_vmm_that_ended() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let machine = bench.path("files").join(format!("{}.machine", vm.id));
    fs::set_permissions(&machine, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(Path::new(&machine), "{").unwrap();
    guest.start(&bench);
    let ask = Request::EnsureSocketAccess(vm.clone());
    let refusal = bench.ask(&ask, &[]).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unknown, "{refusal}");
    bench.must(&Request::KillProcess(vm.clone()));
    let ended = bench.must(&Request::CleanupJailerChroot(vm.clone()));
    assert!(format!("{ended:?}").contains("Some("), "{ended:?}");
    Bench::wait_scope_gone(&vm);
    drop(guest);
    bench.is_clean();
}
