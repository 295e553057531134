//! The helper's snapshots: a VM's disk as a device over its image.

use super::{Helper, HelperError, gone_is_fine};
use banger_names::VmRef;
use banger_priv::{CreateSnapshot, OpenSnapshot, Reply, Request};
use std::os::fd::OwnedFd;

impl Helper {
    /// Joins an image, opened for reading, and a copy-on-write file, opened for both, to the VM's
    /// device; gives its size in bytes. Persistent: what the file has from earlier is kept.
    pub(crate) async fn create_snapshot(
        &self,
        vm: &VmRef,
        persistent: bool,
        [base, store]: [OwnedFd; 2],
    ) -> Result<u64, HelperError> {
        const DOING: &str = "make the snapshot of the VM's image";
        let request = Request::CreateDmSnapshot(CreateSnapshot {
            vm: vm.clone(),
            persistent,
        });
        match self.ask(DOING, request, vec![base, store]).await? {
            (Reply::Snapshot(made), _) => Ok(made.bytes),
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// The VM's device, which nobody else has open.
    pub(crate) async fn open_snapshot(
        &self,
        vm: &VmRef,
        write: bool,
    ) -> Result<OwnedFd, HelperError> {
        const DOING: &str = "open the VM's snapshot";
        let request = Request::OpenSnapshot(OpenSnapshot {
            vm: vm.clone(),
            write,
        });
        match self.ask(DOING, request, Vec::new()).await? {
            (Reply::Nothing, files) => match <[OwnedFd; 1]>::try_from(files) {
                Ok([device]) => Ok(device),
                Err(files) => Err(self.strange(DOING, &(Reply::Nothing, files))),
            },
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// Removes the device, at once or as soon as its last user is gone. Gone already is no error.
    pub(crate) async fn cleanup_snapshot(&self, vm: &VmRef) -> Result<(), HelperError> {
        let request = Request::CleanupDmSnapshot(vm.clone());
        gone_is_fine(self.done("remove the VM's snapshot", request).await)
    }
}
