//! File systems: the kernel's own, the root, and the move into it.

use std::ffi::CStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use banger_guest::boot::Root;
use rustix::fs::{CWD, Mode, OFlags, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, mount,
    mount_move, unmount,
};
use rustix::process::{chdir, chroot};

use super::uevent::Uevents;
use super::{InitError, failed};

const NEW_ROOT: &str = "/mnt/root";
const BASE: &str = "/mnt/base";
const UPPER: &str = "/mnt/upper";

/// What is moved into the new root.
const KERNEL_FILE_SYSTEMS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A hold on the writable disk below an overlay, which is mounted nowhere to be seen.
#[derive(Debug)]
pub(super) struct Disk(Option<OwnedFd>);

impl Disk {
    /// Makes the disk read-only once the root is, so that its file system is left clean.
    pub(super) fn remount_read_only(&self) -> Result<(), Errno> {
        let Some(mounted) = &self.0 else {
            return Ok(());
        };
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(mounted, c"", flags)?;
        fsconfig_set_flag(&context, c"ro")?;
        fsconfig_reconfigure(&context)
    }
}

/// `/proc`, `/sys` and `/dev`, in the initramfs.
pub(super) fn mount_kernel_file_systems() -> Result<(), InitError> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for (kind, target, flags, data) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("proc", "/proc", safe, ""),
        ("sysfs", "/sys", safe, ""),
    ] {
        mount_new(kind, target, flags, data)?;
    }
    Ok(())
}

fn mount_new(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), InitError> {
    fs::create_dir_all(target).map_err(failed(format!("make {target}")))?;
    let data = std::ffi::CString::new(data).expect("mount options are written here");
    match mount(kind, target, kind, flags, Some(data.as_c_str())) {
        Ok(()) => Ok(()),
        Err(errno) => Err(failed(format!("mount {kind} on {target}"))(errno)),
    }
}

/// Mounts the root on [`NEW_ROOT`], waiting for its devices.
pub(super) fn mount_root(
    root: &Root,
    uevents: &Uevents,
    deadline: Instant,
) -> Result<Disk, InitError> {
    let wait = |device: &str| {
        uevents
            .wait_for(deadline, || Path::new(device).exists().then_some(()))
            .ok_or_else(|| InitError::NoDevice {
                device: device.to_owned(),
            })
    };
    match root {
        Root::Disk { device } => {
            wait(device)?;
            mount_ext4(device, NEW_ROOT, MountFlags::RELATIME, Some(ON_ERROR))?;
            Ok(Disk(None))
        }
        Root::Overlay { base, upper } => {
            wait(base)?;
            wait(upper)?;
            mount_ext4(base, BASE, MountFlags::RDONLY, None)?;
            mount_ext4(upper, UPPER, MountFlags::RELATIME, Some(ON_ERROR))?;
            join_overlay()
        }
    }
}

/// A writable root that fails (the host's disk is full, say) ends the guest with that reason.
/// The alternative, a root that turns read-only, leaves writers waiting for ever.
const ON_ERROR: &CStr = c"errors=panic";

fn mount_ext4(
    device: &str,
    target: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), InitError> {
    fs::create_dir_all(target).map_err(failed(format!("make {target}")))?;
    mount(device, target, "ext4", flags, options)
        .map_err(failed(format!("mount {device} on {target}")))
}

fn join_overlay() -> Result<Disk, InitError> {
    let (upper, work) = (format!("{UPPER}/upper"), format!("{UPPER}/work"));
    for dir in [&upper, &work] {
        if !Path::new(dir).is_dir() {
            fs::create_dir(dir).map_err(failed(format!("make {dir}")))?;
        }
    }
    let options = format!("lowerdir={BASE},upperdir={upper},workdir={work}");
    mount_new("overlay", NEW_ROOT, MountFlags::RELATIME, &options)?;
    let hold = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let disk =
        rustix::fs::open(UPPER, hold, Mode::empty()).map_err(failed(format!("hold {UPPER}")))?;
    // The overlay has mounts of its own; these would only show in the guest.
    for layer in [UPPER, BASE] {
        unmount(layer, UnmountFlags::DETACH).map_err(failed(format!("detach {layer}")))?;
    }
    Ok(Disk(Some(disk)))
}

/// Moves into the new root; what the initramfs held is freed.
pub(super) fn enter_root() -> Result<(), InitError> {
    for target in KERNEL_FILE_SYSTEMS {
        let moved = format!("{NEW_ROOT}{target}");
        make_mount_point(Path::new(&moved))?;
        mount_move(target, &moved).map_err(failed(format!("move {target} to {moved}")))?;
    }
    chdir(NEW_ROOT).map_err(failed("enter the root"))?;
    free_initramfs(Path::new("/"))?;
    mount_move(".", "/").map_err(failed("move the root"))?;
    chroot(".").map_err(failed("change the root"))?;
    chdir("/").map_err(failed("enter the root"))
}

/// An image may have anything there; a link would lead back into the initramfs.
fn make_mount_point(path: &Path) -> Result<(), InitError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path).map_err(failed(format!("remove {path:?}")))?,
        Err(_) => {}
    }
    fs::create_dir(path).map_err(failed(format!("make {path:?}")))
}

/// Removes the initramfs' files. Mounts on it are another device, or refuse by being busy.
fn free_initramfs(dir: &Path) -> Result<(), InitError> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev());
    let own = device(dir).map_err(failed("free the initramfs"))?;
    let mut left: Vec<PathBuf> = vec![dir.to_owned()];
    let mut dirs = Vec::new();
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path)
            .map_err(failed("free the initramfs"))?
            .flatten()
        {
            let path = entry.path();
            if device(&path).ok() != Some(own) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path.clone());
                dirs.push(path);
            } else {
                fs::remove_file(&path).map_err(failed(format!("remove {path:?}")))?;
            }
        }
    }
    for dir in dirs.into_iter().rev() {
        // Not empty where the root is mounted: that stays.
        drop(fs::remove_dir(dir));
    }
    Ok(())
}

/// What a running system has beyond the kernel's own; each is a step that may fail by itself.
pub(super) fn mount_runtime_file_systems() -> Vec<Result<(), InitError>> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let private = MountFlags::NOSUID | MountFlags::NOEXEC;
    let control = safe | MountFlags::NOEXEC | MountFlags::RELATIME;
    let mut results = vec![
        mount_new("devpts", "/dev/pts", private, "gid=5,mode=620,ptmxmode=666"),
        mount_new("tmpfs", "/dev/shm", safe, "mode=1777"),
        mount_new("tmpfs", "/run", safe, "mode=0755"),
        mount_new("cgroup2", "/sys/fs/cgroup", control, "nsdelegate"),
    ];
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        results.push(match symlinkat(target, CWD, link) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(format!("link {link}"))(errno)),
        });
    }
    results.push(make_lock_dir().map_err(failed("make /run/lock")));
    results
}

fn make_lock_dir() -> std::io::Result<()> {
    fs::create_dir("/run/lock")?;
    fs::set_permissions(
        "/run/lock",
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
}
