//! Descriptors that are not what their role says. The same through the whole verb, with block devices and
//! other users' files, is in `tests/vmm/refuses.rs`.

use super::*;
use rustix::fs::{CWD, Mode, mkfifoat, open};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn file(directory: &Path, name: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, "x").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).unwrap();
    path
}

fn opened(path: &Path, flags: OFlags) -> OwnedFd {
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn kind_of(owner: u32, role: FileRole, fd: OwnedFd) -> RefusalKind {
    let refused = prove_one(owner, &BTreeSet::new(), role, fd);
    refused
        .map(|_| format!("{role:?} was taken"))
        .unwrap_err()
        .kind
}

#[test]
fn f5_f9_f10_f18_files_unlike_their_roles_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    let (invalid, foreign) = (RefusalKind::Invalid, RefusalKind::Foreign);
    let (read, both, path) = (OFlags::RDONLY, OFlags::RDWR, OFlags::PATH);
    let disk = FileRole::Disk(0);
    let linked = file(at, "linked", 0o660);
    std::fs::hard_link(&linked, at.join("second")).unwrap();
    symlink("/etc/shadow", at.join("link")).unwrap();
    let link = at.join("link");
    let cases = [
        (disk, PathBuf::from("/dev/null"), both, foreign),
        (disk, fifo(at, "pipe"), both, foreign),
        (disk, at.to_owned(), read, foreign),
        (disk, linked, both, foreign),
        (disk, file(at, "all", 0o666), both, foreign),
        (disk, file(at, "setgid", 0o2660), both, foreign),
        (disk, file(at, "alone", 0o600), both, invalid),
        (disk, file(at, "unwritable", 0o660), read, invalid),
        (FileRole::Kernel, file(at, "writable", 0o644), both, invalid),
        (FileRole::Kernel, file(at, "group", 0o664), read, foreign),
        (FileRole::Machine, link, path | OFlags::NOFOLLOW, foreign),
        (FileRole::Log, file(at, "log", 0o660), path, foreign),
        (FileRole::Console, file(at, "console", 0o660), both, foreign),
        (FileRole::Ready, fifo(at, "ready"), path, foreign),
    ];
    for (role, path, flags, kind) in cases {
        let found = kind_of(own(), role, opened(&path, flags));
        assert_eq!(found, kind, "{role:?} {path:?}");
    }
    let good = file(at, "good", 0o660);
    assert!(prove_one(own(), &BTreeSet::new(), disk, opened(&good, both)).is_ok());
    // Somebody else's, and another VM's.
    assert_eq!(kind_of(own() + 1, disk, opened(&good, both)), foreign);
    let group = rustix::fs::stat(&good).unwrap().st_gid;
    let others = BTreeSet::from([group]);
    let another_vms = prove_one(own(), &others, disk, opened(&good, both)).unwrap_err();
    assert_eq!(another_vms.kind, foreign);
}

#[test]
fn f18_one_file_in_two_roles_too_many_disks_and_missing_ones_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let disk = file(place.path(), "disk", 0o660);
    let fd = || opened(&disk, OFlags::RDWR);
    let refused = |roles: &[FileRole]| {
        let fds = roles.iter().map(|_| fd()).collect();
        prove(own(), &BTreeSet::new(), roles, fds).unwrap_err()
    };
    let twice = refused(&[FileRole::Disk(0), FileRole::Disk(1)]);
    assert!(twice.message.contains("twice"), "{twice}");
    let many = refused(&[FileRole::Disk(jail::MAX_DISKS)]);
    assert!(many.message.contains("at most"), "{many}");
    let missing = refused(&[FileRole::Disk(0)]);
    assert!(missing.message.contains("missing"), "{missing}");
    let uneven = prove(own(), &BTreeSet::new(), &[FileRole::Kernel], Vec::new()).unwrap_err();
    assert_eq!(uneven.kind, RefusalKind::Invalid);
}
