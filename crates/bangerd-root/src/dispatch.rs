//! One match over every verb: which operation it is, on which VM, with how many descriptors.

use std::os::fd::OwnedFd;

use banger_ids::VmRef;
use banger_priv::{Refusal, RefusalKind, Request};

use crate::helper::{Helper, Outcome};
use crate::ops;
use crate::policy::VM_LOCK_LIMIT;
use crate::refusal::refuse;

/// Carries out `request`. Descriptors that it does not take were refused before it began.
pub(crate) fn dispatch(helper: &Helper, request: Request, fds: Vec<OwnedFd>) -> Outcome {
    check_descriptors(&request, fds.len())?;
    let _lock = vm_of(&request)
        .map(|vm| helper.lock_vm(&vm.id, VM_LOCK_LIMIT))
        .transpose()?;
    match request {
        Request::Status {} => ops::status::status(helper),
        Request::EnsureBridge(params) => ops::bridge::ensure_bridge(helper, params),
        Request::CreateTap(params) => ops::tap::create_tap(helper, params),
        Request::RemoveTap(vm) => ops::tap::remove_tap(helper, vm),
        Request::EnsureNat(vm) => ops::nat::ensure_nat(helper, vm),
        Request::ClearNat(vm) => ops::nat::clear_nat(helper, vm),
        Request::SyncResolverRouting(params) => {
            ops::resolver::sync_resolver_routing(helper, params)
        }
        Request::ClearResolverRouting {} => ops::resolver::clear_resolver_routing(helper),
        Request::CreateDmSnapshot(params) => ops::snapshot::create_dm_snapshot(helper, params, fds),
        Request::RemoveDmSnapshot(vm) => ops::snapshot::remove_dm_snapshot(helper, vm),
        Request::CleanupDmSnapshot(vm) => ops::snapshot::cleanup_dm_snapshot(helper, vm),
        Request::OpenSnapshot(params) => ops::snapshot::open_snapshot(helper, params),
        Request::LaunchFirecracker(params) => ops::vmm::launch_firecracker(helper, params, fds),
        Request::EnsureSocketAccess(vm) => ops::socket::ensure_socket_access(helper, vm),
        Request::SignalProcess(params) => ops::vmm::signal_process(helper, params),
        Request::KillProcess(vm) => ops::vmm::kill_process(helper, vm),
        Request::CleanupJailerChroot(vm) => ops::jail::cleanup_jailer_chroot(helper, vm),
        Request::Reclaim(params) => ops::reclaim::reclaim(helper, params),
    }
}

fn check_descriptors(request: &Request, passed: usize) -> Result<(), Refusal> {
    let wanted = match request {
        Request::CreateDmSnapshot(_) => 2,
        Request::LaunchFirecracker(params) => params.files.len(),
        _ => 0,
    };
    if passed != wanted {
        let message = format!("{passed} descriptors came with a request that takes {wanted}");
        return Err(refuse(RefusalKind::Invalid, message));
    }
    Ok(())
}

/// The VM that a request is about. `priv.reclaim` locks those it finds itself.
fn vm_of(request: &Request) -> Option<&VmRef> {
    match request {
        Request::Status {}
        | Request::EnsureBridge(_)
        | Request::SyncResolverRouting(_)
        | Request::ClearResolverRouting {}
        | Request::Reclaim(_) => None,
        Request::CreateTap(params) => Some(&params.vm),
        Request::CreateDmSnapshot(params) => Some(&params.vm),
        Request::OpenSnapshot(params) => Some(&params.vm),
        Request::LaunchFirecracker(params) => Some(&params.vm),
        Request::SignalProcess(params) => Some(&params.vm),
        Request::RemoveTap(vm)
        | Request::EnsureNat(vm)
        | Request::ClearNat(vm)
        | Request::RemoveDmSnapshot(vm)
        | Request::CleanupDmSnapshot(vm)
        | Request::EnsureSocketAccess(vm)
        | Request::KillProcess(vm)
        | Request::CleanupJailerChroot(vm) => Some(vm),
    }
}

#[cfg(test)]
mod tests;
