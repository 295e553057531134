//! A VM that lives no longer than whoever holds its lease.

use super::handle::{Command, VmHandle};
use super::policy;
use crate::problem::Refusal;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Holds a VM. Dropped in whatever way (error, cancellation, panic), it has the VM killed
/// and removed; [`VmLease::end`] does so and waits, [`VmLease::keep`] lets it live. A removal
/// that fails is tried again: there is nobody else to ask for it.
#[derive(Debug)]
pub(crate) struct VmLease {
    vm: Option<VmHandle>,
}

impl VmLease {
    /// Ties `vm` to the value returned.
    pub(crate) fn new(vm: VmHandle) -> Self {
        Self { vm: Some(vm) }
    }

    /// The VM.
    pub(crate) fn vm(&self) -> &VmHandle {
        self.vm
            .as_ref()
            .expect("only end and keep take it, and they consume the lease")
    }

    /// Kills and removes the VM, and waits until it is gone.
    pub(crate) async fn end(mut self) -> Result<(), Refusal> {
        match self.vm.take() {
            // The command is in the driver's queue from the first poll on.
            Some(vm) => {
                let removed = vm.remove(true).await;
                if removed.is_err() {
                    tokio::spawn(insist(vm));
                }
                removed
            }
            None => Ok(()),
        }
    }

    /// Lets the VM live.
    pub(crate) fn keep(mut self) -> VmHandle {
        self.vm
            .take()
            .expect("only end and keep take it, and they consume the lease")
    }
}

impl Drop for VmLease {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.take() {
            let (waiter, outcome) = oneshot::channel();
            // Fails only if the driver has ended, and then the VM is gone.
            let _sent = vm.commands.send(Command::Remove {
                force: true,
                waiter: Some(waiter),
            });
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(async move {
                    if let Ok(Err(_)) = outcome.await {
                        insist(vm).await;
                    }
                });
            }
        }
    }
}

/// Has a VM removed whose removal failed, until it is gone or the daemon ends. The driver says in
/// the log what fails.
async fn insist(vm: VmHandle) {
    for failed in 0.. {
        tokio::time::sleep(policy::wait(failed)).await;
        if vm.remove(true).await.is_ok() || vm.commands.is_closed() {
            return;
        }
    }
}
