//! The fake helper's snapshots: a device is a file with the image's content, kept over a VM's
//! starts as a real one's copy-on-write file keeps it.

use crate::fake_helper::refuse;
use banger_names::VmId;
use banger_priv::{CreateSnapshot, OpenSnapshot, RefusalKind, Reply, Snapshot, VmRef};
use banger_priv_client::ClientError;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// The devices that there are.
    made: BTreeSet<VmRef>,
    /// What was written by each VM.
    disks: BTreeMap<VmId, File>,
    do_fail: bool,
}

impl Snapshots {
    pub(crate) fn create(
        &mut self,
        asked: &CreateSnapshot,
        files: &[OwnedFd],
    ) -> Result<Reply, ClientError> {
        if self.made.iter().any(|vm| vm.id == asked.vm.id) {
            return Err(refuse(RefusalKind::Busy, "it is there"));
        }
        let [base, store] = files else {
            panic!("{} files for a snapshot", files.len());
        };
        let [mut base, store] = [base, store].map(|fd| File::from(fd.try_clone().unwrap()));
        let kept = store.metadata().unwrap();
        assert_eq!(kept.permissions().mode() & 0o7777, 0o600);
        assert!(kept.blocks() == 0 && kept.len() % 512 == 0, "{kept:?}");
        let bytes = base.metadata().unwrap().len();
        if !asked.persistent || !self.disks.contains_key(&asked.vm.id) {
            let mut disk = tempfile::tempfile().unwrap();
            base.seek(SeekFrom::Start(0)).unwrap();
            std::io::copy(&mut base, &mut disk).unwrap();
            self.disks.insert(asked.vm.id.clone(), disk);
        }
        self.made.insert(asked.vm.clone());
        Ok(Reply::Snapshot(Snapshot { bytes }))
    }

    pub(crate) fn open(&self, asked: &OpenSnapshot) -> Result<OwnedFd, ClientError> {
        if !self.made.contains(&asked.vm) {
            return Err(refuse(RefusalKind::Unknown, "it has none"));
        }
        if self.do_fail {
            // Its first page is never mapped, so that reading it is an error as of a device.
            return Ok(File::open("/proc/self/mem").unwrap().into());
        }
        let disk = &self.disks[&asked.vm.id];
        Ok(disk.try_clone().unwrap().into())
    }

    pub(crate) fn cleanup(&mut self, vm: &VmRef) {
        self.made.remove(vm);
    }

    pub(crate) fn keep(&mut self, keep: &[VmRef]) {
        self.made.retain(|vm| keep.contains(vm));
    }

    pub(crate) fn has(&self, vm: &VmRef) -> bool {
        self.made.contains(vm)
    }

    pub(crate) fn left(&self) -> impl Iterator<Item = String> {
        self.made.iter().map(|vm| format!("snapshot of {vm}"))
    }

    pub(crate) fn on_disk(&self, vm: &str, work: impl FnOnce(&File)) {
        work(&self.disks[&VmId::parse(vm).unwrap()]);
    }

    pub(crate) fn fail(&mut self, do_fail: bool) {
        self.do_fail = do_fail;
    }
}
