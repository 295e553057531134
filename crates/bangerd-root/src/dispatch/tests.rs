//! What is refused before anything of the host is looked at.

use super::*;
use crate::helper::{Config, Roots};
use crate::ledger::Ledger;
use banger_ids::VmId;
use banger_priv::{FileRole, Launch, OpenSnapshot, SendSignal, Signal};
use banger_sys::dirs::Dir;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A helper that has made nothing yet.
fn fresh() -> (Helper, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let open = || Dir::open(directory.path().to_str().unwrap()).unwrap();
    let roots = Roots {
        jail: open(),
        programs: directory.path().to_owned(),
        files: Vec::new(),
    };
    let config = Config {
        owner: 1000,
        systemd: false,
        roots,
    };
    (
        Helper::new(config, Ledger::load(open()).unwrap()),
        directory,
    )
}

fn vm(bits: u32) -> VmRef {
    let id = VmId::from_bits(bits);
    VmRef { id, generation: 1 }
}

fn refused(helper: &Helper, request: Request, fds: Vec<OwnedFd>) -> RefusalKind {
    let said = format!("{request:?}");
    match dispatch(helper, request, fds) {
        Err(refusal) => refusal.kind,
        Ok(done) => panic!("{said}: {done:?}"),
    }
}

fn launch(cpus: u8, memory_mib: u32) -> Request {
    Request::LaunchFirecracker(Launch {
        vm: vm(1),
        cpus,
        memory_mib,
        files: Vec::new(),
    })
}

#[test]
fn r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for() {
    let (helper, directory) = fresh();
    let mut requests = vec![
        Request::EnsureNat(vm(1)),
        Request::ClearNat(vm(1)),
        Request::RemoveDmSnapshot(vm(1)),
        Request::CleanupDmSnapshot(vm(1)),
        Request::EnsureSocketAccess(vm(1)),
        Request::KillProcess(vm(1)),
        Request::CleanupJailerChroot(vm(1)),
        Request::OpenSnapshot(OpenSnapshot {
            vm: vm(1),
            write: true,
        }),
    ];
    requests.extend(Signal::ALL.map(|signal| {
        let vm = vm(1);
        Request::SignalProcess(SendSignal { vm, signal })
    }));
    for request in requests {
        let said = format!("{request:?}");
        assert_eq!(
            refused(&helper, request, Vec::new()),
            RefusalKind::Unknown,
            "{said}"
        );
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn s10_descriptors_that_a_verb_does_not_take_are_refused_before_it_begins() {
    let (helper, directory) = fresh();
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let one_role = Request::LaunchFirecracker(Launch {
        vm: vm(1),
        cpus: 1,
        memory_mib: 128,
        files: vec![FileRole::Kernel],
    });
    for (request, fds) in [
        (Request::Status {}, 1),
        (Request::KillProcess(vm(1)), 1),
        (one_role.clone(), 0),
        (one_role, 2),
    ] {
        let fds = (0..fds).map(|_| file()).collect();
        assert_eq!(refused(&helper, request, fds), RefusalKind::Invalid);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn launch_refuses_a_machine_past_the_limits() {
    let (helper, directory) = fresh();
    for (cpus, memory) in [
        (0, 128),
        (33, 128),
        (255, 128),
        (1, 0),
        (1, 15),
        (1, u32::MAX),
    ] {
        let kind = refused(&helper, launch(cpus, memory), Vec::new());
        assert_eq!(kind, RefusalKind::Limit, "{cpus} {memory}");
    }
    // Within them the next gate refuses: the files are missing.
    assert_eq!(
        refused(&helper, launch(1, 128), Vec::new()),
        RefusalKind::Invalid
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn r30_requests_for_one_vm_go_one_after_the_other() {
    let (helper, _directory) = fresh();
    let held = helper.lock_vm(&vm(1).id, Duration::ZERO).unwrap();
    let at_once = helper.lock_vm(&vm(1).id, Duration::ZERO).unwrap_err();
    assert_eq!(at_once.kind, RefusalKind::Busy);
    drop(helper.lock_vm(&vm(2).id, Duration::ZERO).unwrap());
    let (begin, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| {
            begin.send(()).unwrap();
            let _lock = helper.lock_vm(&vm(1).id, Duration::from_secs(60)).unwrap();
            Instant::now()
        });
        begun.recv().unwrap();
        let released = Instant::now();
        drop(held);
        assert!(next.join().unwrap() >= released);
    });
}
