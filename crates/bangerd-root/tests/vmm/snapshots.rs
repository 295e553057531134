//! Device-mapper snapshots: made, used by a guest, handed out, and gone.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use banger_priv::{CreateSnapshot, OpenSnapshot, Reclaim, RefusalKind, Reply, Request, VmRef};
use rustix::fs::OFlags;

use crate::bench::{Bench, Done, OWNER, refused, vm};
use crate::guest::{Guest, boot_file, make_file, open, root_drive};

const STORE_BYTES: u64 = 16 << 20;

/// A copy-on-write file of the owner's.
fn store(bench: &Bench, name: &str) -> OwnedFd {
    let path = bench.path("files").join(name);
    if !path.exists() {
        make_file(&path, b"", 0o600);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(STORE_BYTES)
            .unwrap();
    }
    open(&path, OFlags::RDWR)
}

fn base() -> OwnedFd {
    open(&boot_file("rootfs.ext4"), OFlags::RDONLY)
}

fn create(bench: &Bench, vm: &VmRef, base: &OwnedFd, store: &OwnedFd) -> Done {
    let asked = CreateSnapshot {
        vm: vm.clone(),
        persistent: true,
    };
    bench.ask(
        &Request::CreateDmSnapshot(asked),
        &[base.as_fd(), store.as_fd()],
    )
}

fn open_snapshot(bench: &Bench, vm: &VmRef, write: bool) -> Done {
    let vm = vm.clone();
    bench.ask(&Request::OpenSnapshot(OpenSnapshot { vm, write }), &[])
}

#[test]
#[ignore = "needs a lab"]
fn lab_snapshot_boots_a_guest_and_is_handed_out_only_when_idle() {
    let bench = Bench::new();
    let vm = vm(1);
    let store_file = store(&bench, "store");
    let (reply, _) = create(&bench, &vm, &base(), &store_file).unwrap();
    let bytes = fs::metadata(boot_file("rootfs.ext4")).unwrap().len();
    assert!(matches!(reply, Reply::Snapshot(made) if made.bytes == bytes));
    refused(
        create(&bench, &vm, &base(), &store_file),
        RefusalKind::Exists,
        "it has one",
    );

    // R14: in use by the daemon's worker, then by the VMM.
    let (_, held) = open_snapshot(&bench, &vm, true).unwrap();
    let mut magic = [0; 2];
    rustix::io::pread(&held[0], &mut magic, 1024 + 56).unwrap();
    assert_eq!(magic, [0x53, 0xef], "the descriptor is of the file system");
    refused(
        open_snapshot(&bench, &vm, false),
        RefusalKind::Busy,
        "in use",
    );
    let remove = Request::RemoveDmSnapshot(vm.clone());
    refused(bench.ask(&remove, &[]), RefusalKind::Busy, "in use");
    let mut guest = Guest::with_drives(&bench, &vm, &root_drive("/rootfs"));
    refused(guest.launch(&bench), RefusalKind::Busy, "in use");
    drop(held);
    guest.start(&bench);
    guest.wait_ready();
    let node = fs::symlink_metadata(bench.root(&vm).join("rootfs")).unwrap();
    assert_eq!((node.uid(), node.mode()), (1_900_000_000, 0o60600));
    refused(
        open_snapshot(&bench, &vm, false),
        RefusalKind::Busy,
        "the VM runs",
    );
    refused(bench.ask(&remove, &[]), RefusalKind::Busy, "in use");

    bench.must(&Request::KillProcess(vm.clone()));
    bench.must(&Request::CleanupJailerChroot(vm.clone()));
    bench.must(&remove);
    drop(guest);
    fs::remove_file(bench.path("files").join("store")).unwrap();
    Bench::wait_scope_gone(&vm);
    bench.is_clean();
}

#[test]
#[ignore = "needs a lab"]
fn lab_snapshot_goes_with_its_last_user_and_keeps_what_was_written() {
    let bench = Bench::new();
    let vm = vm(1);
    let store_file = store(&bench, "store");
    create(&bench, &vm, &base(), &store_file).unwrap();
    let (_, held) = open_snapshot(&bench, &vm, true).unwrap();
    let text = [7_u8; 4096];
    assert_eq!(rustix::io::pwrite(&held[0], &text, 8 << 20), Ok(4096));
    rustix::fs::fsync(&held[0]).unwrap();
    bench.must(&Request::CleanupDmSnapshot(vm.clone()));
    refused(
        create(&bench, &vm, &base(), &store_file),
        RefusalKind::Busy,
        "is there",
    );
    drop(held);
    bench.is_clean();
    create(&bench, &vm, &base(), &store_file).unwrap();
    let (_, held) = open_snapshot(&bench, &vm, false).unwrap();
    let mut again = [0_u8; 4096];
    assert_eq!(rustix::io::pread(&held[0], &mut again, 8 << 20), Ok(4096));
    assert!(again == text, "the store is persistent");
    assert!(
        rustix::io::pwrite(&held[0], &text, 0).is_err(),
        "opened to read"
    );
    drop(held);
    bench.must(&Request::CleanupDmSnapshot(vm));
    fs::remove_file(bench.path("files").join("store")).unwrap();
    bench.is_clean();
}

/// F9, F18: a store or base that is not a file of the owner's with one name.
#[test]
#[ignore = "needs a lab"]
fn lab_create_dm_snapshot_refuses_foreign_files() {
    let bench = Bench::new();
    let vm = vm(1);
    let file = |name: &str| bench.path("files").join(name);
    let good = store(&bench, "store");
    let null = open(Path::new("/dev/null"), OFlags::RDWR);
    let disk = open(Path::new("/dev/vda"), OFlags::RDONLY);
    let roots = bench.path("run/ledger").join("x");
    fs::write(&roots, [0; 512]).unwrap();
    let root_owned = open(&roots, OFlags::RDONLY);
    make_file(&file("odd"), &[0; 513], 0o600);
    make_file(&file("empty"), b"", 0o600);
    make_file(&file("linked"), &[0; 512], 0o600);
    fs::hard_link(file("linked"), file("link")).unwrap();
    for (base, store, kind, words) in [
        (&disk, &good, RefusalKind::Foreign, "type"),
        (&base(), &null, RefusalKind::Foreign, "type"),
        (&root_owned, &good, RefusalKind::Foreign, "somebody else"),
        (&good, &good, RefusalKind::Invalid, "another mode"),
        (&base(), &base(), RefusalKind::Invalid, "another mode"),
        (
            &open(&file("odd"), OFlags::RDONLY),
            &good,
            RefusalKind::Limit,
            "513",
        ),
        (
            &base(),
            &open(&file("empty"), OFlags::RDWR),
            RefusalKind::Limit,
            "of 0",
        ),
        (
            &base(),
            &open(&file("linked"), OFlags::RDWR),
            RefusalKind::Foreign,
            "one name",
        ),
        (
            &open(&file("store"), OFlags::RDONLY),
            &good,
            RefusalKind::Invalid,
            "twice",
        ),
    ] {
        refused(create(&bench, &vm, base, store), kind, words);
    }
    fs::remove_file(&roots).unwrap();
    for name in ["store", "odd", "empty", "linked", "link"] {
        fs::remove_file(file(name)).unwrap();
    }
    bench.is_clean();
}

/// R12: a device and a loop of somebody else's stay, whatever they are called.
#[test]
#[ignore = "needs a lab"]
fn lab_cleanup_dm_snapshot_leaves_a_foreign_device_of_our_name() {
    let bench = Bench::new();
    let vm = vm(1);
    let name = vm.dm_name();
    let dmsetup = |arguments: &[&str]| {
        assert!(
            Command::new("dmsetup")
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    };
    dmsetup(&["create", &name, "--table", "0 8 zero"]);
    let store_file = store(&bench, "store");
    refused(
        create(&bench, &vm, &base(), &store_file),
        RefusalKind::Foreign,
        "is there",
    );
    refused(
        bench.ask(&Request::CleanupDmSnapshot(vm.clone()), &[]),
        RefusalKind::Unknown,
        "",
    );
    let swept = bench.must(&Request::Reclaim(Reclaim { keep: Vec::new() }));
    assert_eq!(swept, Reply::Reclaimed(Vec::new()));
    dmsetup(&["remove", &name]);
    // Ours, but of a VM that nobody knows any more (C11).
    dmsetup(&["create", &name, "--uuid", &vm.mark(), "--table", "0 8 zero"]);
    let swept = bench.must(&Request::Reclaim(Reclaim {
        keep: vec![vm.clone()],
    }));
    assert_eq!(swept, Reply::Reclaimed(Vec::new()));
    let swept = bench.must(&Request::Reclaim(Reclaim { keep: Vec::new() }));
    assert_eq!(swept, Reply::Reclaimed(vec![format!("snapshot of {vm}")]));
    fs::remove_file(bench.path("files").join("store")).unwrap();
    bench.is_clean();
    assert_eq!(fs::metadata(bench.path("files")).unwrap().uid(), OWNER);
}
