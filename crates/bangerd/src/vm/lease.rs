//! A VM that lives no longer than whoever holds its lease.

use super::handle::{Command, VmHandle};
use crate::problem::Refusal;

/// Holds a VM. Dropped in whatever way (error, cancellation, panic), it has the VM killed
/// and removed; [`VmLease::end`] does so and waits, [`VmLease::keep`] lets it live.
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
            Some(vm) => vm.remove(true).await,
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
            // Fails only if the driver has ended, and then the VM is gone.
            let _sent = vm.commands.send(Command::Remove {
                force: true,
                waiter: None,
            });
        }
    }
}
