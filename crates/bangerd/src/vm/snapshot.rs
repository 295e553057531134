//! A VM's disk as a snapshot of its image: a device that the helper makes of the image and a
//! copy-on-write file of the VM's.
//!
//! The file is the VM's for its life, the device only for one start. The guest has an ext4 root
//! of its own, as large as the image, of which as much can be written as the file has room for.
//! A file that is full takes the whole snapshot with it: its device fails from then on.

use super::fsck::{self, FsckError};
use super::place::VmPlace;
use super::record::VmRecord;
use crate::daemon::Daemon;
use crate::privilege::Helper;
use crate::problem::Refusal;
use banger_api::{NetworkMode, ProblemCode, StorageMode};
use banger_engine::{Engine, EngineKind};
use banger_names::{ByteSize, VmRef};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What is copied at a time: a block of ext4.
const CHUNK: u64 = 4096;

/// How many copied chunks the kernel records in one chunk: 16 bytes each.
const RECORDS: u64 = CHUNK / 16;

/// Refuses storage that a VM with this network cannot have here.
pub(crate) async fn check_engine(
    daemon: &Daemon,
    storage: StorageMode,
    network: NetworkMode,
) -> Result<(), Refusal> {
    if storage == StorageMode::Overlay {
        return Ok(());
    }
    let engine = daemon.engine(network).await?;
    require(daemon, engine.as_ref()).map(drop)
}

/// The helper, where it runs this engine's VMs in jails.
pub(super) fn require<'a>(daemon: &'a Daemon, engine: &dyn Engine) -> Result<&'a Helper, Refusal> {
    match daemon.helper() {
        Some(helper) if engine.kind() == EngineKind::Firecracker => Ok(helper),
        _ => Err(Refusal::new(
            ProblemCode::HostUnsupported,
            format!(
                "give a VM a snapshot of its image: that needs Firecracker in its jail, and it \
                 would run by {}",
                engine.describe()
            ),
        )
        .hint("use --network nat or none, or --storage overlay")),
    }
}

/// Makes the copy-on-write file: sparse, with room for `disk` bytes of changes.
pub(super) fn make_store(path: &Path, disk: ByteSize) -> Result<(), Refusal> {
    let make = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(path)?.set_len(store_bytes(disk))
    };
    make().map_err(|error| Refusal::io(format!("make the copy-on-write file {path:?}"), &error))
}

/// The size of a file for `disk` bytes of changes: a header, the chunks, and the records of those,
/// of which the kernel wants the next one's room, too.
fn store_bytes(disk: ByteSize) -> u64 {
    let chunks = disk.0.div_ceil(CHUNK);
    let areas = chunks.div_ceil(RECORDS).saturating_add(1);
    let all = areas.saturating_mul(RECORDS.saturating_add(1));
    all.saturating_add(1).saturating_mul(CHUNK)
}

/// Has the helper make the device of this start, and checks its file system if the last life may
/// have left it unclean.
pub(super) async fn attach(
    helper: &Helper,
    record: &mut VmRecord,
    base: &Path,
    place: &VmPlace,
) -> Result<(), Refusal> {
    let Some(vm) = record.last_start() else {
        return Err(Refusal::internal(
            "make a snapshot",
            &std::io::Error::other("the VM was not started"),
        ));
    };
    let open = |path: &Path, write: bool| {
        let opened = OpenOptions::new().read(true).write(write).open(path);
        opened.map_err(|error| Refusal::io(format!("open {path:?}"), &error))
    };
    let files = [open(base, false)?, open(&place.store(), true)?];
    // Known before it is true: what a daemon that dies here leaves is in the helper's own ledger.
    record.is_helped = true;
    let persistent = !record.plan.ephemeral;
    let length = helper
        .create_snapshot(&vm, persistent, files.map(OwnedFd::from))
        .await?;
    if record.needs_check {
        let name = record.plan.name.as_str();
        check(helper, &vm, name, length, place).await?;
        record.needs_check = false;
    }
    Ok(())
}

/// Checks the file system on a VM's device, which nobody uses, and repairs what can be.
async fn check(
    helper: &Helper,
    vm: &VmRef,
    name: &str,
    length: u64,
    place: &VmPlace,
) -> Result<(), Refusal> {
    let device = helper.open_snapshot(vm, true).await?;
    let dir = place.state.clone();
    let checked =
        tokio::task::spawn_blocking(move || fsck::check(&File::from(device), length, &dir)).await;
    let checked = checked.map_err(|error| Refusal::internal("check a VM's disk", &error))?;
    let error = match checked {
        Ok(done) => {
            tracing::info!(%vm, exit = done.code, blocks = done.written, said = ?done.said, "checked the disk");
            return Ok(());
        }
        Err(error) => error,
    };
    tracing::error!(%vm, %error, "check the disk");
    let doing = format!("start VM {name:?}: {error}");
    Err(match &error {
        FsckError::Device(source) if is_full(source) => Refusal::new(
            ProblemCode::Conflict,
            format!(
                "start VM {name:?}: its disk was full, and such a snapshot cannot be read again"
            ),
        )
        .hint(format!(
            "banger vm rm {name}, and make it anew with a larger --disk"
        )),
        FsckError::Uncorrectable { said, .. } => {
            let mut refusal = Refusal::new(ProblemCode::Conflict, doing).hint(format!(
                "its disk was left as it is; banger vm rm {name}, and make it anew"
            ));
            refusal.0.causes.extend(said.iter().cloned());
            refusal
        }
        FsckError::Missing => {
            Refusal::new(ProblemCode::HostUnsupported, doing).hint("sudo apt-get install e2fsprogs")
        }
        FsckError::TimedOut => Refusal::new(ProblemCode::TimedOut, doing),
        FsckError::Device(source) | FsckError::Io { source, .. } => Refusal::io(doing, source),
    })
}

/// Whether the VM's device, which nobody uses any more, fails: there was no room for what was
/// written. In doubt it does not.
pub(super) async fn has_failed(daemon: &Daemon, record: &VmRecord) -> bool {
    let (Some(helper), Some(vm), true) = (
        daemon.helper(),
        record.last_start(),
        record.plan.storage == StorageMode::Snapshot,
    ) else {
        return false;
    };
    let device = match helper.open_snapshot(&vm, false).await {
        Ok(device) => device,
        Err(error) => {
            tracing::info!(%vm, refusal = %error.refusal(), "look at the disk of a VM that ended");
            return false;
        }
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut block = [0; 4096];
        rustix::io::pread(&device, &mut block, 0)
    });
    matches!(read.await, Ok(Err(Errno::IO)))
}

fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_room_for_its_changes_and_their_records() {
        for (disk, areas) in [(64, 64 + 1), (400, 400 + 1)] {
            let bytes = store_bytes(ByteSize::mib(disk));
            assert_eq!(bytes, (1 + areas * 257) * 4096);
            assert_eq!(bytes % 512, 0);
            assert!(bytes < (disk + disk / 100 + 3) << 20, "bounded: {bytes}");
        }
    }
}
