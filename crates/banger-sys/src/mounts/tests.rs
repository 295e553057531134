//! Binds made by descriptor, and from which namespaces that works.

use std::os::fd::AsFd;

use super::*;
use crate::dirs::Dir;
use crate::dirs::tests::{in_mount_namespace, is_root};
use rustix::fs::openat;

const READ_ONLY: Restrictions = Restrictions {
    read_only: true,
    no_suid: true,
    no_dev: true,
    no_exec: true,
};

struct Place {
    temporary: tempfile::TempDir,
    jail: Dir,
    disk: std::fs::File,
}

fn place() -> Place {
    let temporary = tempfile::tempdir_in("/tmp").unwrap();
    let at = |name: &str| temporary.path().join(name);
    std::fs::create_dir(at("jail")).unwrap();
    std::fs::write(at("disk"), "from outside").unwrap();
    std::fs::write(at("jail/disk"), "").unwrap();
    let jail = Dir::open(at("jail").to_str().unwrap()).unwrap();
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .open(at("disk"))
        .unwrap();
    Place {
        temporary,
        jail,
        disk,
    }
}

fn target(jail: &OwnedFd) -> OwnedFd {
    openat(jail, "disk", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn a_bind_is_seen_in_its_namespace_only_and_as_restricted() {
    if !is_root() {
        return;
    }
    let place = place();
    let path = place.temporary.path().join("jail/disk");
    let seen_before = mounts();
    std::thread::scope(|scope| {
        let inside = || {
            let clone = MountClone::of(&place.disk, READ_ONLY).unwrap();
            let jail = enter_private(&place.jail).unwrap();
            clone.attach(target(&jail)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "from outside");
            let refused = std::fs::write(&path, "x").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
            let line = mounts();
            let line = line
                .lines()
                .find(|line| line.contains(path.to_str().unwrap()))
                .unwrap();
            assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
            assert!(!line.contains("shared:"), "{line}");
            assert!(!mounts().contains("shared:") && !mounts().contains("master:"));
        };
        scope.spawn(inside).join().unwrap();
    });
    assert_eq!(mounts(), seen_before);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn a_writable_bind_writes_and_device_nodes_work_where_wanted() {
    if !is_root() {
        return;
    }
    let place = place();
    let null = place.temporary.path().join("null");
    let kind = rustix::fs::FileType::CharacterDevice;
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, &null, kind, Mode::RWXU, device).unwrap();
    let open_null = |restrictions| {
        let node = rustix::fs::open(&null, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let clone = MountClone::of(node, restrictions).unwrap();
        let jail = enter_private(&place.jail).unwrap();
        clone.attach(target(&jail)).unwrap();
        openat(&jail, "disk", OFlags::RDONLY, Mode::empty()).map(drop)
    };
    std::thread::scope(|scope| {
        let devices = scope.spawn(|| open_null(Restrictions::default()));
        assert_eq!(devices.join().unwrap(), Ok(()));
        let no_dev = Restrictions {
            no_dev: true,
            ..Restrictions::default()
        };
        let no_devices = scope.spawn(move || open_null(no_dev));
        assert_eq!(no_devices.join().unwrap(), Err(Errno::ACCESS));
        let writable = scope.spawn(|| {
            let clone = MountClone::of(&place.disk, Restrictions::default()).unwrap();
            let jail = enter_private(&place.jail).unwrap();
            clone.attach(target(&jail)).unwrap();
            std::fs::write(place.temporary.path().join("jail/disk"), "through the bind").unwrap();
        });
        writable.join().unwrap();
    });
    let text = std::fs::read_to_string(place.temporary.path().join("disk")).unwrap();
    assert_eq!(text, "through the bind");
}

#[test]
fn what_another_namespace_opened_is_found_again_before_it_is_cloned() {
    if !is_root() {
        return;
    }
    let place = place();
    let path = place.temporary.path().to_str().unwrap();
    // As a service does that has a mount namespace of its own.
    let foreign = in_mount_namespace(|| std::fs::File::open(format!("{path}/disk")).unwrap());
    let refused = MountClone::of(&foreign, READ_ONLY).unwrap_err();
    assert_eq!(refused.errno, Errno::INVAL);
    let found = Dir::open(path).unwrap().find(foreign.as_fd()).unwrap();
    MountClone::of(found, READ_ONLY).unwrap();
}

#[test]
fn a_descriptor_from_before_is_no_target() {
    if !is_root() {
        return;
    }
    let place = place();
    let before = openat(&place.jail, "disk", OFlags::PATH, Mode::empty()).unwrap();
    std::thread::scope(|scope| {
        let inside = || {
            let clone = MountClone::of(&place.disk, READ_ONLY).unwrap();
            let jail = enter_private(&place.jail).unwrap();
            assert_eq!(clone.attach(&before).unwrap_err().errno, Errno::INVAL);
            // A file is no place for a directory.
            let clone = MountClone::of(&jail, READ_ONLY).unwrap();
            assert_eq!(clone.attach(target(&jail)).unwrap_err().errno, Errno::INVAL);
        };
        scope.spawn(inside).join().unwrap();
    });
    assert_eq!(
        MountClone::of(&before, READ_ONLY).map(drop),
        Ok(()),
        "it was opened here"
    );
}
