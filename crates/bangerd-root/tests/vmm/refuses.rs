//! What is refused, named by the catalogue of attacks, with nothing changed by it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use banger_priv::{FileRole, Reclaim, RefusalKind, Reply, Request, SendSignal, Signal};
use rustix::fs::OFlags;
use serde_json::json;

use crate::bench::{Bench, OWNER, refused, vm};
use crate::guest::{Guest, make_fifo, make_file, open, root_drive};

/// F9, F18: a file that is not what its role says, or not the owner's alone.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_refuses_files_unlike_their_roles() {
    let bench = Bench::new();
    let vm = vm(1);
    let file = |name: &str, mode| {
        let path = bench.path("files").join(name);
        make_file(&path, b"x", mode);
        path
    };
    let fifo = |name: &str| {
        let path = bench.path("files").join(name);
        make_fifo(&path, 0o660);
        path
    };
    let linked = file("linked", 0o660);
    fs::hard_link(&linked, bench.path("files").join("link")).unwrap();
    let foreign = file("foreign", 0o660);
    chown(&foreign, Some(OWNER + 1), Some(OWNER)).unwrap();
    let link = bench.path("files").join("symlink");
    symlink("/etc/shadow", &link).unwrap();
    let o = OFlags::empty();
    let (read, write, both, path) = (o, OFlags::WRONLY, OFlags::RDWR, OFlags::PATH);
    let (invalid, other) = (RefusalKind::Invalid, RefusalKind::Foreign);
    let cases: [(FileRole, PathBuf, OFlags, RefusalKind, &str); 17] = [
        (FileRole::Disk(0), "/dev/vda".into(), both, other, "type"),
        (FileRole::Disk(0), "/dev/null".into(), both, other, "type"),
        (FileRole::Disk(0), linked, both, other, "one name"),
        (FileRole::Disk(0), foreign, both, other, "somebody else"),
        (FileRole::Disk(0), file("a", 0o666), both, other, "mode"),
        (FileRole::Disk(0), file("b", 0o600), both, invalid, "mode"),
        (
            FileRole::Disk(0),
            file("c", 0o660),
            read,
            invalid,
            "another mode",
        ),
        (
            FileRole::Disk(8),
            file("d", 0o660),
            both,
            invalid,
            "at most 8",
        ),
        (FileRole::Disk(0), file("e", 0o4660), both, other, "mode"),
        (
            FileRole::Kernel,
            file("f", 0o644),
            both,
            invalid,
            "another mode",
        ),
        (FileRole::Kernel, file("g", 0o640), read, invalid, "mode"),
        (FileRole::Kernel, file("h", 0o664), read, other, "mode"),
        (
            FileRole::Machine,
            link,
            path | OFlags::NOFOLLOW,
            other,
            "type",
        ),
        (FileRole::Machine, fifo("i"), path, other, "type"),
        // F5: a log that is no FIFO.
        (FileRole::Log, file("j", 0o660), path, other, "type"),
        (FileRole::Console, file("k", 0o660), write, other, "type"),
        (FileRole::Ready, fifo("l"), path, other, "type"),
    ];
    for (role, path, flags, kind, words) in cases {
        let mut guest = Guest::with_drives(&bench, &vm, &json!([]));
        guest.replace(role, open(&path, flags));
        refused(guest.launch(&bench), kind, words);
    }
    for missing in 0..5 {
        let mut guest = Guest::with_drives(&bench, &vm, &json!([]));
        drop(guest.files.remove(missing));
        refused(guest.launch(&bench), invalid, "missing");
    }
    let mut twice = Guest::with_drives(&bench, &vm, &json!([]));
    let again = twice.files[0].1.try_clone().unwrap();
    twice.files.push((FileRole::ReadOnlyDisk(0), again));
    refused(twice.launch(&bench), invalid, "twice");
    drop(twice);
    for entry in fs::read_dir(bench.path("files")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    bench.is_clean();
}

/// F18: another VM's disk.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_refuses_another_vms_disk() {
    let bench = Bench::new();
    let mut first = Guest::new(&bench, &vm(1));
    first.start(&bench);
    let mut second = Guest::with_drives(&bench, &vm(2), &root_drive("/disk0"));
    let disk = bench.path("files").join(format!("{}.disk", vm(1).id));
    second.replace(FileRole::Disk(0), open(&disk, OFlags::RDWR));
    refused(second.launch(&bench), RefusalKind::Foreign, "another VM's");
    bench.must(&Request::KillProcess(vm(1)));
    bench.must(&Request::CleanupJailerChroot(vm(1)));
    Bench::wait_scope_gone(&vm(1));
    drop((first, second));
    bench.is_clean();
}

/// F2, F6, F8 (CVE-2026-1386): a jail that is there is never adopted, and never entered by removal.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_refuses_a_jail_that_is_there() {
    let bench = Bench::new();
    let vm = vm(1);
    let guest = Guest::new(&bench, &vm);
    let jail = bench.path("state/jail").join(vm.id.as_str());
    let sentinel = bench.path("sentinel");
    fs::create_dir(&sentinel).unwrap();
    fs::write(sentinel.join("file"), "precious").unwrap();

    fs::create_dir(&jail).unwrap();
    fs::set_permissions(&jail, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(&sentinel, jail.join("firecracker")).unwrap();
    refused(guest.launch(&bench), RefusalKind::Exists, "it exists");
    // It is nobody's: swept, without following the link.
    let sweep = Request::Reclaim(Reclaim { keep: Vec::new() });
    assert_eq!(
        bench.must(&sweep),
        Reply::Reclaimed(vec![format!("jail of {}", vm.id)])
    );

    symlink(&sentinel, &jail).unwrap();
    refused(guest.launch(&bench), RefusalKind::Exists, "it exists");
    bench.must(&sweep);

    fs::create_dir(&jail).unwrap();
    fs::create_dir(jail.join("home")).unwrap();
    let mount = |arguments: &[&std::ffi::OsStr]| {
        assert!(
            Command::new("mount")
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    };
    mount(&[
        "--bind".as_ref(),
        sentinel.as_os_str(),
        jail.join("home").as_os_str(),
    ]);
    refused(guest.launch(&bench), RefusalKind::Exists, "it exists");
    refused(bench.ask(&sweep, &[]), RefusalKind::Failed, "remove jail");
    assert_eq!(
        fs::read_to_string(sentinel.join("file")).unwrap(),
        "precious"
    );
    assert!(
        Command::new("umount")
            .arg(jail.join("home"))
            .status()
            .unwrap()
            .success()
    );
    bench.must(&sweep);
    assert!(sentinel.join("file").exists() && !jail.exists());
    drop(guest);
    bench.is_clean();
}

/// R21: programs that somebody but root could have put there.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_refuses_programs_that_are_not_roots_alone() {
    let bench = Bench::new();
    let guest = Guest::new(&bench, &vm(1));
    let programs = bench.path("programs");
    let program = programs.join("firecracker");
    let good = programs.join("good");
    fs::rename(&program, &good).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let refuse = |why: &str| {
        refused(guest.launch(&bench), RefusalKind::Failed, why);
        if program.symlink_metadata().is_ok() {
            fs::remove_file(&program).unwrap();
        }
    };
    refuse("No such file");
    symlink(&good, &program).unwrap();
    refuse("firecracker");
    symlink("/proc/self/fd/0", &program).unwrap();
    refuse("firecracker");
    fs::copy(&good, &program).unwrap();
    mode(&program, 0o775).unwrap();
    refuse("somebody but root");
    fs::copy(&good, &program).unwrap();
    mode(&program, 0o4755).unwrap();
    refuse("set-id");
    fs::copy(&good, &program).unwrap();
    chown(&program, Some(OWNER), Some(OWNER)).unwrap();
    refuse("somebody but root");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    mode(&program, 0o755).unwrap();
    refuse("not an ELF");
    fs::copy(&good, &program).unwrap();
    mode(&programs, 0o777).unwrap();
    refuse("somebody but root");
    mode(&programs, 0o755).unwrap();
    drop(guest);
    bench.is_clean();
}

/// R22: while root swaps the program for another all the time, what runs is one that was verified.
#[test]
#[ignore = "needs a lab"]
fn lab_launch_runs_only_the_program_that_was_verified() {
    let bench = Bench::new();
    let programs = bench.path("programs");
    fs::copy("/bin/sh", programs.join("evil")).unwrap();
    fs::set_permissions(programs.join("evil"), fs::Permissions::from_mode(0o775)).unwrap();
    let stop = AtomicBool::new(false);
    let genuine = fs::read(programs.join("firecracker")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (first, second) = (programs.join("firecracker"), programs.join("evil"));
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &first, cwd, &second, flags).unwrap();
            }
        });
        let mut ran = 0;
        for _ in 0..6 {
            let mut guest = Guest::new(&bench, &vm(1));
            if guest.launch(&bench).is_ok() {
                ran += 1;
                drop(bench.ask(&Request::EnsureSocketAccess(vm(1)), &[]));
                let copy = fs::read(bench.root(&vm(1)).join("firecracker")).unwrap();
                assert!(copy == genuine, "it ran something else");
                bench.must(&Request::KillProcess(vm(1)));
                bench.must(&Request::CleanupJailerChroot(vm(1)));
            }
            guest.log();
        }
        stop.store(true, Ordering::Relaxed);
        println!("{ran} of 6 were verified");
    });
    Bench::wait_scope_gone(&vm(1));
    bench.is_clean();
}

/// P3, R18: a process that looks like a VMM is never signalled.
#[test]
#[ignore = "needs a lab"]
fn lab_signals_leave_a_foreign_firecracker_alone() {
    let bench = Bench::new();
    let socket = bench.root(&vm(1)).join("run/api.sock");
    let mut foreign = Command::new("bash")
        .args(["-c", "exec -a \"$0\" sleep 600"])
        .arg(format!("firecracker --api-sock {}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for signal in Signal::ALL {
        let asked = SendSignal { vm: vm(1), signal };
        refused(
            bench.ask(&Request::SignalProcess(asked), &[]),
            RefusalKind::Unknown,
            "",
        );
    }
    refused(
        bench.ask(&Request::KillProcess(vm(1)), &[]),
        RefusalKind::Unknown,
        "",
    );
    assert_eq!(
        bench.must(&Request::Reclaim(Reclaim { keep: Vec::new() })),
        Reply::Reclaimed(Vec::new())
    );
    assert!(foreign.try_wait().unwrap().is_none());
    foreign.kill().unwrap();
    foreign.wait().unwrap();
    bench.is_clean();
}

/// F10, CVE-2026-7374: a socket that the VM replaced by something else is not handed out.
#[test]
#[ignore = "needs a lab"]
fn lab_ensure_socket_access_refuses_what_is_no_socket_of_the_vms() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    guest.start(&bench);
    let ask = || bench.ask(&Request::EnsureSocketAccess(vm.clone()), &[]);
    ask().unwrap();
    let target = bench.path("target");
    fs::write(&target, "").unwrap();
    let run = bench.root(&vm).join("run");
    let socket = run.join("api.sock");
    fs::rename(&socket, run.join("aside")).unwrap();
    symlink(&target, &socket).unwrap();
    refused(ask(), RefusalKind::Foreign, "type");
    fs::remove_file(&socket).unwrap();
    make_fifo(&socket, 0o600);
    refused(ask(), RefusalKind::Foreign, "type");
    fs::remove_file(&socket).unwrap();
    // A socket of a third one's.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o700)).unwrap();
    refused(ask(), RefusalKind::Foreign, "somebody else");
    fs::remove_file(&socket).unwrap();
    // The directory itself.
    fs::rename(&run, bench.root(&vm).join("gone")).unwrap();
    symlink("/run", &run).unwrap();
    refused(ask(), RefusalKind::Failed, "open directory");
    let facts = fs::metadata(&target).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&facts), 0);
    bench.must(&Request::KillProcess(vm.clone()));
    bench.must(&Request::CleanupJailerChroot(vm.clone()));
    Bench::wait_scope_gone(&vm);
    drop(guest);
    bench.is_clean();
}

/// F6, F8: a jail that its VM filled with links and root with mounts is removed without leaving it.
#[test]
#[ignore = "needs a lab"]
fn lab_cleanup_jailer_chroot_stays_in_the_jail() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    guest.start(&bench);
    bench
        .ask(&Request::EnsureSocketAccess(vm.clone()), &[])
        .unwrap();
    bench.must(&Request::KillProcess(vm.clone()));
    let sentinel = bench.path("sentinel");
    fs::create_dir(&sentinel).unwrap();
    for number in 0..1000 {
        fs::write(sentinel.join(number.to_string()), "").unwrap();
    }
    let root = bench.root(&vm);
    symlink(&sentinel, root.join("link")).unwrap();
    fs::rename(root.join("run"), root.join("aside")).unwrap();
    symlink(&sentinel, root.join("run")).unwrap();
    fs::create_dir_all(root.join("deep/mounted")).unwrap();
    let mut mount = Command::new("mount");
    mount
        .arg("--bind")
        .arg(&sentinel)
        .arg(root.join("deep/mounted"));
    assert!(mount.status().unwrap().success());
    let cleanup = Request::CleanupJailerChroot(vm.clone());
    refused(bench.ask(&cleanup, &[]), RefusalKind::Failed, "mounted");
    assert_eq!(fs::read_dir(&sentinel).unwrap().count(), 1000);
    assert!(
        Command::new("umount")
            .arg(root.join("deep/mounted"))
            .status()
            .unwrap()
            .success()
    );
    bench.must(&cleanup);
    assert_eq!(fs::read_dir(&sentinel).unwrap().count(), 1000);
    Bench::wait_scope_gone(&vm);
    drop(guest);
    bench.is_clean();
}
