//! A VM's disk as a device-mapper snapshot: over a read-only loop of the base image, kept in a
//! loop of the VM's own copy-on-write file.
//!
//! The device's UUID is the mark of the VM and its start; by that alone it is found again. The loops
//! detach by themselves with the device, or with a helper that ends between two steps. What is
//! on the device is never read here.

use std::os::fd::{AsFd, OwnedFd};

use banger_ids::{VmId, VmRef};
use banger_priv::{CreateSnapshot, OpenSnapshot, Refusal, RefusalKind, Reply, Snapshot};
use banger_sys::dirs::{Wanted, prove};
use banger_sys::dm::{By, DeviceMapper, DmError, Info, Removed, Target};
use banger_sys::loopdev::Loop;
use rustix::fs::{
    CWD, Dev, FileType, Mode, OFlags, ResolveFlags, Stat, fcntl_getfl, fstat, major, minor, openat2,
};
use rustix::io::Errno;

use super::vmm;
use crate::entry::SnapshotEntry;
use crate::helper::{Helper, Outcome, done};
use crate::ops::reclaim::Swept;
use crate::policy::{MAX_IMAGE, VM_LOCK_LIMIT};
use crate::refusal::{failed, refuse};
use crate::undo::{Undo, attempt};

/// What is copied at a time, in sectors: a page.
const CHUNK: u32 = 8;
/// Bytes of a sector.
const SECTOR: u64 = 512;

pub(crate) fn create_dm_snapshot(
    helper: &Helper,
    asked: CreateSnapshot,
    fds: Vec<OwnedFd>,
) -> Outcome {
    let vm = &asked.vm;
    let what = format!("make the snapshot of {vm}");
    let files = <[OwnedFd; 2]>::try_from(fds);
    let files = files.map_err(|_| refuse(RefusalKind::Invalid, format!("{what}: of two files")))?;
    let [base, store] = &files;
    let image = check_file(helper, base, OFlags::RDONLY, &format!("{what}: base"))?;
    let written = check_file(helper, store, OFlags::RDWR, &format!("{what}: store"))?;
    if (image.st_dev, image.st_ino) == (written.st_dev, written.st_ino) {
        return Err(refuse(
            RefusalKind::Invalid,
            format!("{what}: of one file twice"),
        ));
    }
    let bytes = u64::try_from(image.st_size).unwrap_or_default();
    let entry = helper.ledger().entry_or_new(vm)?;
    if entry.snapshot.is_some() {
        return Err(refuse(RefusalKind::Exists, format!("{what}: it has one")));
    }
    let mapper = DeviceMapper::open().map_err(|error| failed(&what, &error))?;
    let there = mapper
        .info(By::Name(&vm.dm_name()))
        .map_err(|error| failed(&what, &error))?;
    if let Some(there) = there {
        // Another start's that is still going away, or somebody else's.
        let kind = match vm_of(&there.uuid) {
            Some(other) if other.id == vm.id => RefusalKind::Busy,
            _ => RefusalKind::Foreign,
        };
        return Err(refuse(kind, format!("{what}: {:?} is there", there.name)));
    }
    attempt(|undo: &mut Undo<'_>| {
        let mut entry = entry;
        entry.snapshot = Some(SnapshotEntry { bytes });
        helper.ledger().write(entry)?;
        undo.push("forget the snapshot", || forget(helper, vm));
        undo.push("remove the device", || {
            remove(&mapper, vm, true)
                .map(drop)
                .map_err(|error| failed("remove it", &error))
        });
        let base = Loop::attach(base.as_fd(), true).map_err(|error| failed(&what, &error))?;
        let store = Loop::attach(store.as_fd(), false).map_err(|error| failed(&what, &error))?;
        join(&mapper, &asked, bytes, [&base, &store]).map_err(|error| failed(&what, &error))
    })?;
    done(Reply::Snapshot(Snapshot { bytes }))
}

/// Proves that it is an image of the owner's, of whole sectors.
fn check_file(
    helper: &Helper,
    file: &OwnedFd,
    access: OFlags,
    what: &str,
) -> Result<Stat, Refusal> {
    let no = |kind, why: &str| refuse(kind, format!("{what}: {why}"));
    let wanted = Wanted {
        kind: FileType::RegularFile,
        owner: Some(helper.config.owner),
        forbidden: 0o6002,
    };
    let stat = prove(file, wanted).map_err(|error| no(RefusalKind::Foreign, &error.to_string()))?;
    let flags = fcntl_getfl(file).map_err(|error| failed(what, &error))?;
    if flags & (OFlags::RWMODE | OFlags::PATH) != access {
        return Err(no(
            RefusalKind::Invalid,
            "opened in another mode than is meant",
        ));
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or_default();
    if bytes == 0 || bytes > MAX_IMAGE || bytes.checked_rem(SECTOR) != Some(0) {
        return Err(no(RefusalKind::Limit, &format!("of {bytes} bytes")));
    }
    Ok(stat)
}

fn join(
    mapper: &DeviceMapper,
    asked: &CreateSnapshot,
    bytes: u64,
    [base, store]: [&Loop; 2],
) -> Result<Info, DmError> {
    let vm = &asked.vm;
    let (uuid, number) = (vm.mark(), |of: &Loop| {
        format!("{}:{}", major(of.device()), minor(of.device()))
    });
    let keeps = if asked.persistent { "P" } else { "N" };
    let target = Target {
        start: 0,
        length: bytes.checked_div(SECTOR).unwrap_or_default(),
        kind: "snapshot".to_owned(),
        params: format!("{} {} {keeps} {CHUNK}", number(base), number(store)),
    };
    mapper.create(&vm.dm_name(), &uuid)?;
    mapper.load(By::Uuid(&uuid), &[target], false)?;
    mapper.resume(By::Uuid(&uuid))
}

fn forget(helper: &Helper, vm: &VmRef) -> Result<(), Refusal> {
    let forgotten = helper.ledger().update(vm, |entry| entry.snapshot = None);
    forgotten.map(drop)
}

/// Removes the device; `None` when there is none.
fn remove(mapper: &DeviceMapper, vm: &VmRef, deferred: bool) -> Result<Option<Removed>, DmError> {
    match mapper.remove(By::Uuid(&vm.mark()), deferred) {
        Err(DmError::Kernel {
            errno: Errno::NXIO, ..
        }) => Ok(None),
        removed => removed.map(Some),
    }
}

pub(crate) fn remove_dm_snapshot(helper: &Helper, vm: VmRef) -> Outcome {
    take_away(helper, &vm, false)
}

/// Gone already is no error; afterwards the ledger has no snapshot of the VM.
pub(crate) fn cleanup_dm_snapshot(helper: &Helper, vm: VmRef) -> Outcome {
    take_away(helper, &vm, true)
}

fn take_away(helper: &Helper, vm: &VmRef, deferred: bool) -> Outcome {
    helper.ledger().entry(vm)?;
    let what = format!("remove the snapshot of {vm}");
    let removed = DeviceMapper::open().and_then(|mapper| remove(&mapper, vm, deferred));
    match removed {
        Ok(_) => {}
        Err(DmError::Kernel {
            errno: Errno::BUSY, ..
        }) => return Err(refuse(RefusalKind::Busy, format!("{what}: it is in use"))),
        Err(error) => return Err(failed(what, &error)),
    }
    forget(helper, vm)?;
    done(Reply::Nothing)
}

/// The VM's device, which nobody may be using.
pub(super) fn idle_device(vm: &VmRef) -> Result<Dev, Refusal> {
    let what = format!("use the snapshot of {vm}");
    let info = DeviceMapper::open().and_then(|mapper| mapper.info(By::Uuid(&vm.mark())));
    let info = info.map_err(|error| failed(&what, &error))?;
    match info {
        None => Err(refuse(RefusalKind::Unknown, format!("{what}: it is gone"))),
        Some(info) if info.open_count != 0 => {
            Err(refuse(RefusalKind::Busy, format!("{what}: it is in use")))
        }
        Some(info) if !info.active || info.suspended || info.deferred_remove => Err(refuse(
            RefusalKind::Busy,
            format!("{what}: it is going away"),
        )),
        Some(info) => Ok(info.device),
    }
}

pub(crate) fn open_snapshot(helper: &Helper, asked: OpenSnapshot) -> Outcome {
    let vm = &asked.vm;
    let what = format!("open the snapshot of {vm}");
    let entry = helper.ledger().entry(vm)?;
    if entry.snapshot.is_none() {
        return Err(refuse(RefusalKind::Unknown, format!("{what}: it has none")));
    }
    if vmm::is_running(helper, &entry) {
        return Err(refuse(RefusalKind::Busy, format!("{what}: the VM runs")));
    }
    let device = idle_device(vm)?;
    let access = if asked.write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    let fd = open_exclusively(device, access).map_err(|error| match error {
        Errno::BUSY => refuse(RefusalKind::Busy, format!("{what}: it is in use")),
        error => failed(&what, &error),
    })?;
    // Held, so the number is no other device's; it must be the same one still.
    let mapper = DeviceMapper::open().map_err(|error| failed(&what, &error))?;
    let info = mapper
        .info(By::Uuid(&vm.mark()))
        .map_err(|error| failed(&what, &error))?;
    if info.is_none_or(|info| info.device != device) {
        return Err(refuse(
            RefusalKind::Foreign,
            format!("{what}: it is another device now"),
        ));
    }
    Ok((Reply::Nothing, vec![fd]))
}

/// For a block device, exclusively means: while nobody has claimed it, as a mount would.
fn open_exclusively(device: Dev, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = format!("/dev/dm-{}", minor(device));
    let fd = openat2(CWD, path, flags, Mode::empty(), resolve)?;
    let Stat {
        st_mode, st_rdev, ..
    } = fstat(&fd)?;
    if FileType::from_raw_mode(st_mode) != FileType::BlockDevice || st_rdev != device {
        return Err(Errno::NODEV);
    }
    Ok(fd)
}

/// The VM and start whose mark this is.
fn vm_of(uuid: &str) -> Option<VmRef> {
    let (id, generation) = uuid.strip_prefix("banger-")?.rsplit_once('-')?;
    let vm = VmRef {
        id: VmId::parse(id).ok()?,
        generation: generation.parse().ok()?,
    };
    (vm.mark() == uuid).then_some(vm)
}

/// Removes devices with our mark of VMs that are neither in the ledger nor in `keep`.
pub(crate) fn reclaim(helper: &Helper, keep: &[VmRef]) -> Swept {
    let mut swept = Swept::default();
    let devices = DeviceMapper::open().and_then(|mapper| Ok((mapper.list()?, mapper)));
    let (devices, mapper) = match devices {
        Ok(found) => found,
        Err(error) => {
            swept.left.push(failed("list snapshots", &error).message);
            return swept;
        }
    };
    for vm in devices.iter().filter_map(|device| vm_of(&device.uuid)) {
        // Under the lock: one that is being made just now is in the ledger already.
        let outcome = helper.lock_vm(&vm.id, VM_LOCK_LIMIT).and_then(|_lock| {
            let is_recorded = helper.ledger().entries().iter().any(|entry| entry.vm == vm);
            if keep.contains(&vm) || is_recorded {
                return Ok(None);
            }
            remove(&mapper, &vm, true)
                .map_err(|error| failed(format!("remove the snapshot of {vm}"), &error))
        });
        match outcome {
            Ok(Some(_)) => swept.removed.push(format!("snapshot of {vm}")),
            Ok(None) => {}
            Err(error) => swept.left.push(error.message),
        }
    }
    swept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_marks_name_a_vm() {
        let vm = vm_of("banger-vm-00c0ffee-3");
        assert_eq!(
            vm.map(|vm| vm.mark()).as_deref(),
            Some("banger-vm-00c0ffee-3")
        );
        for foreign in [
            "",
            "banger-",
            "banger-vm-00c0ffee",
            "banger-vm-00c0ffee-",
            "banger-vm-00c0ffee-03",
            "banger-vm-00c0ffee-+3",
            "banger-vm-00c0ffee-4294967296",
            "banger-vm-00C0FFEE-3",
            "banger-vm-../c0ffe-3",
            "banger-vm-00c0ffee-3\n",
            "LVM-vm-00c0ffee-3",
        ] {
            assert_eq!(vm_of(foreign), None, "{foreign:?}");
        }
    }
}
