//! What is refused before anything of the host is looked at.

use super::*;
use crate::helper::{Config, Roots};
use crate::ledger::Ledger;
use banger_ids::VmId;
use banger_priv::{CreateSnapshot, FileRole, Launch, OpenSnapshot, SendSignal, Signal};
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
        owner: rustix::process::geteuid().as_raw(),
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

#[test]
fn create_dm_snapshot_refuses_files_that_are_no_images() {
    let (helper, directory) = fresh();
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: u64| {
        let path = place.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        path
    };
    let (good, odd, empty) = (file("good", 4096), file("odd", 513), file("empty", 0));
    let (store, linked, shared) = (
        file("store", 4096),
        file("linked", 512),
        file("shared", 512),
    );
    std::fs::hard_link(&linked, place.path().join("second")).unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o666)).unwrap();
    let null = std::path::PathBuf::from("/dev/null");
    let (foreign, invalid, limit) = (
        RefusalKind::Foreign,
        RefusalKind::Invalid,
        RefusalKind::Limit,
    );
    let read = |path| OwnedFd::from(std::fs::File::open(path).unwrap());
    let write = |path| {
        let file = std::fs::File::options().read(true).write(true).open(path);
        OwnedFd::from(file.unwrap())
    };
    for (fds, kind) in [
        ([read(&null), write(&store)], foreign),
        ([read(&good), write(&null)], foreign),
        ([read(&linked), write(&store)], foreign),
        ([read(&good), write(&shared)], foreign),
        ([write(&good), write(&store)], invalid),
        ([read(&good), read(&store)], invalid),
        ([read(&good), write(&good)], invalid),
        ([read(&odd), write(&store)], limit),
        ([read(&good), write(&empty)], limit),
    ] {
        let request = Request::CreateDmSnapshot(CreateSnapshot {
            vm: vm(1),
            persistent: true,
        });
        let said = format!("{fds:?}");
        assert_eq!(refused(&helper, request, fds.into()), kind, "{said}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
