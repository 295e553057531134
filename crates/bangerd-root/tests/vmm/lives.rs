//! A VM's life, and what its VMM can and cannot do.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use banger_priv::{RefusalKind, Reply, Request, SendSignal, Signal};
use rustix::fs::fstat;

use crate::bench::{Bench, OWNER, refused, vm};
use crate::guest::{Guest, get, wait_ended};

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn cgroup(file: &str) -> String {
    let path = format!("/sys/fs/cgroup/banger.slice/banger-vm-00000001.scope/{file}");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Alone but for threads of the kernel's, which KVM puts into its user's group.
fn is_alone_in_cgroup(pid: u32) {
    let inside = cgroup("cgroup.procs");
    for one in inside.lines().filter(|one| *one != pid.to_string()) {
        let command = fs::read(format!("/proc/{one}/cmdline")).unwrap_or_default();
        assert!(command.is_empty(), "{}", String::from_utf8_lossy(&command));
    }
    assert!(inside.lines().any(|one| one == pid.to_string()), "{inside}");
}

/// The bounding set of the helper as a service. It cannot drop any, and the VMM cannot get any.
const OF_SERVICE: &str = "00000000082010e3";
/// The jailer's part of it: CHOWN DAC_OVERRIDE SETGID SETUID SYS_ADMIN MKNOD.
const OF_JAILER: &str = "00000000082000c3";

/// P7, P8, P9: nothing inherited, and nothing that it could use.
fn is_confined(pid: u32, bounding: &str) {
    let uid = "1900000000 1900000000 1900000000 1900000000";
    assert_eq!(
        (status(pid, "Uid"), status(pid, "Gid")),
        (uid.into(), uid.into())
    );
    assert_eq!(status(pid, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "CapBnd"), bounding);
    assert_eq!(
        (status(pid, "NoNewPrivs"), status(pid, "Seccomp")),
        ("1".into(), "2".into())
    );
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let own = [
        "/dev/kvm",
        "/null",
        "/kernel",
        "/initrd",
        "/disk0",
        "/log",
        "anon_inode:",
        "socket:",
    ];
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // One that is closed meanwhile is no matter.
        let Ok(link) = fs::read_link(fd.unwrap().path()) else {
            continue;
        };
        let link = link.to_str().unwrap();
        let is_console = link.ends_with(".console");
        assert!(
            is_console || own.iter().any(|known| link.starts_with(known)),
            "{link}"
        );
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let places: BTreeSet<&str> = mounts
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    let expected = [
        "/",
        "/disk0",
        "/initrd",
        "/kernel",
        "/log",
        "/machine.json",
        "/run/vsock.sock_5001",
    ];
    assert_eq!(places, BTreeSet::from(expected));
    for line in mounts
        .lines()
        .filter(|line| line.split(' ').nth(4) != Some("/"))
    {
        let options = line.split(' ').nth(5).unwrap();
        let access = if line.contains(" /disk0 ") {
            "rw"
        } else {
            "ro"
        };
        assert!(
            options.starts_with(&format!("{access},nosuid,nodev,noexec")),
            "{line}"
        );
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max core file size        0   ")),
        "{limits}"
    );
    assert!(
        limits.contains("Max file size             67108864"),
        "{limits}"
    );
}

#[test]
#[ignore = "needs a lab"]
fn lab_vm_boots_confined_is_signalled_and_leaves_nothing() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let (pid, pidfd) = guest.start(&bench);
    let (reply, fds) = bench
        .ask(&Request::EnsureSocketAccess(vm.clone()), &[])
        .unwrap();
    assert!(matches!(reply, Reply::Vmm(vmm) if vmm.pid == pid));
    assert_eq!(fds.len(), 3);
    for socket in &fds[..2] {
        let stat = fstat(socket).unwrap();
        assert_eq!((stat.st_uid, stat.st_mode & 0o7077), (OWNER, 0));
    }
    let version = get(&fds[0], "/version");
    assert!(version.contains("1.12.1"), "{version}");
    guest.wait_ready();
    is_confined(pid, OF_SERVICE);
    let scope = "/banger.slice/banger-vm-00000001.scope";
    let at = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(at.trim(), format!("0::{scope}"));
    assert_eq!(cgroup("pids.max"), "17");
    assert_eq!(cgroup("memory.swap.max"), "0");
    let most: u64 = cgroup("memory.max").parse().unwrap();
    assert!((256 << 20..263 << 20).contains(&most), "{most}");
    is_alone_in_cgroup(pid);

    // Asked again, by a daemon that was started anew.
    let (_, again) = bench
        .ask(&Request::EnsureSocketAccess(vm.clone()), &[])
        .unwrap();
    assert!(get(&again[0], "/version").contains("1.12.1"));
    refused(guest.launch(&bench), RefusalKind::Exists, "launched before");
    let cleanup = Request::CleanupJailerChroot(vm.clone());
    refused(bench.ask(&cleanup, &[]), RefusalKind::Busy, "it runs");

    let signal = SendSignal {
        vm: vm.clone(),
        signal: Signal::Term,
    };
    assert_eq!(
        bench.must(&Request::SignalProcess(signal.clone())),
        Reply::Nothing
    );
    wait_ended(&pidfd);
    refused(
        bench.ask(&Request::SignalProcess(signal), &[]),
        RefusalKind::Unknown,
        "no VMM",
    );
    assert_eq!(bench.must(&cleanup), Reply::Ended { code: Some(143) });
    refused(
        bench.ask(&cleanup, &[]),
        RefusalKind::Unknown,
        "nothing was made",
    );
    drop(guest);
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
}

#[test]
#[ignore = "needs a lab"]
fn lab_vm_outlives_a_killed_helper_and_is_killed_by_the_next() {
    let mut bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let (pid, pidfd) = guest.start(&bench);
    bench.kill_helper();
    bench.start_helper();
    let (reply, fds) = bench
        .ask(&Request::EnsureSocketAccess(vm.clone()), &[])
        .unwrap();
    assert!(matches!(reply, Reply::Vmm(vmm) if vmm.pid == pid));
    guest.wait_ready();
    assert!(get(&fds[0], "/version").contains("1.12.1"));
    for _ in 0..2 {
        assert_eq!(
            bench.must(&Request::KillProcess(vm.clone())),
            Reply::Nothing
        );
    }
    wait_ended(&pidfd);
    // How it ended is the reaper's to know, which was not this helper.
    assert_eq!(
        bench.must(&Request::CleanupJailerChroot(vm.clone())),
        Reply::Ended { code: None }
    );
    drop(guest);
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
}

#[test]
#[ignore = "needs a lab"]
fn lab_vm_without_systemd_has_a_group_made_by_hand() {
    let bench = Bench::without_systemd();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let (pid, _) = guest.start(&bench);
    guest.wait_ready();
    is_confined(pid, OF_JAILER);
    is_alone_in_cgroup(pid);
    assert_eq!(
        (cgroup("pids.max"), cgroup("memory.swap.max")),
        ("17".into(), "0".into())
    );
    bench.must(&Request::KillProcess(vm.clone()));
    assert_eq!(
        bench.must(&Request::CleanupJailerChroot(vm)),
        Reply::Ended { code: Some(137) }
    );
    drop(guest);
    bench.is_clean();
}

/// P6: a VMM that was stopped ends all the same.
#[test]
#[ignore = "needs a lab"]
fn lab_kill_process_ends_a_stopped_vmm() {
    let bench = Bench::new();
    let vm = vm(1);
    let mut guest = Guest::new(&bench, &vm);
    let (_, pidfd) = guest.start(&bench);
    rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::STOP).unwrap();
    bench.must(&Request::KillProcess(vm.clone()));
    assert_eq!(
        bench.must(&Request::CleanupJailerChroot(vm.clone())),
        Reply::Ended { code: Some(137) }
    );
    drop(guest);
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
}

/// P9: two VMs have two uids, and neither can enter the other's jail.
#[test]
#[ignore = "needs a lab"]
fn lab_vms_have_uids_of_their_own() {
    let bench = Bench::new();
    let vms = [vm(1), vm(2)];
    let mut guests = vms.each_ref().map(|vm| Guest::new(&bench, vm));
    let pids = guests.each_mut().map(|guest| guest.start(&bench).0);
    for vm in &vms {
        bench
            .ask(&Request::EnsureSocketAccess(vm.clone()), &[])
            .unwrap();
    }
    let uids = pids.map(|pid| fs::metadata(format!("/proc/{pid}")).unwrap().uid());
    assert_eq!(uids, [1_900_000_000, 1_900_000_001]);
    for (vm, uid) in vms.iter().zip(uids) {
        let jail = bench.path("state/jail").join(vm.id.as_str());
        let facts = fs::metadata(jail).unwrap();
        assert_eq!(
            (facts.uid(), facts.permissions().mode() & 0o777),
            (0, 0o700)
        );
        let facts = fs::metadata(bench.root(vm)).unwrap();
        assert_eq!(
            (facts.uid(), facts.permissions().mode() & 0o777),
            (uid, 0o700)
        );
    }
    for vm in &vms {
        bench.must(&Request::KillProcess(vm.clone()));
        bench.must(&Request::CleanupJailerChroot(vm.clone()));
        Bench::wait_scope_gone(vm);
    }
    drop(guests);
    bench.is_clean();
}
