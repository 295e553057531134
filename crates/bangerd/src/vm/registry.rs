//! The VMs there are, and how a user's word finds one.

use super::handle::VmHandle;
use crate::problem::Refusal;
use banger_api::VmState;
use banger_names::{VmId, VmName};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All VMs of this daemon.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    vms: Mutex<HashMap<VmId, VmHandle>>,
}

impl Registry {
    /// Adds a VM.
    pub(crate) fn add(&self, vm: VmHandle) {
        self.lock().insert(vm.id.clone(), vm);
    }

    /// Takes a VM out.
    pub(crate) fn take_out(&self, id: &VmId) {
        self.lock().remove(id);
    }

    /// All VMs, the oldest first.
    pub(crate) fn all(&self) -> Vec<VmHandle> {
        let mut vms: Vec<VmHandle> = self.lock().values().cloned().collect();
        vms.sort_by_cached_key(|vm| (vm.truth.borrow().record.created_unix_ms, vm.id.clone()));
        vms
    }

    /// The VM of this name, id or unique id prefix.
    pub(crate) fn find(&self, wanted: &str) -> Result<VmHandle, Refusal> {
        let vms = self.lock();
        let exact = vms
            .values()
            .find(|vm| vm.name().as_str() == wanted || vm.id.as_str() == wanted);
        if let Some(vm) = exact {
            return Ok(vm.clone());
        }
        if wanted.strip_prefix("vm-").is_none_or(str::is_empty) {
            return Err(Refusal::no_vm(&cut(wanted)));
        }
        let mut fitting = vms.values().filter(|vm| vm.id.as_str().starts_with(wanted));
        match (fitting.next(), fitting.count()) {
            (Some(vm), 0) => Ok(vm.clone()),
            (Some(_), more) => Err(Refusal::conflict(format!(
                "find VM {wanted:?}: {} ids begin so",
                more + 1
            ))
            .hint("give more of the id")),
            (None, _) => Err(Refusal::no_vm(&cut(wanted))),
        }
    }

    /// The address on the host's bridge of the running VM of this name.
    pub(crate) fn address_of(&self, name: &VmName) -> Option<Ipv4Addr> {
        let vms = self.lock();
        let vm = vms.values().find(|vm| vm.name() == *name)?;
        let now = vm.truth.borrow();
        (now.record.state == VmState::Running)
            .then_some(now.record.address)
            .flatten()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, VmHandle>> {
        // Every change is one call on the map: a panic leaves no half of it.
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
