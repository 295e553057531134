//! A VM's jail: a directory that is made fresh for each start, and removed as something that a
//! hostile program wrote to.
//!
//! It is root's alone; what the VM's uid can enter lies deeper. One that exists is never adopted:
//! the jailer would follow what somebody put there (CVE-2026-1386).

use banger_ids::{VmId, VmRef};
use banger_priv::{Refusal, RefusalKind, Reply, jail};
use banger_sys::dirs::{self, Dir, PathError, Wanted};
use rustix::fs::{Dev, FileType};
use rustix::io::Errno;

use super::files::Given;
use super::vmm;
use crate::helper::{Helper, Outcome, done};
use crate::ops::reclaim::Swept;
use crate::policy::{MAX_JAIL_ENTRIES, MAX_SEARCHED, VM_LOCK_LIMIT};
use crate::refusal::{failed, refuse};

/// What the jailer names its directories by: its program's name.
const PROGRAM: &str = "firecracker";
const RUN: &str = "run";

/// Where a place beneath the jail's root is, beneath the jail's directory.
pub(super) fn target(vm: &VmRef, place: &str) -> String {
    format!("{PROGRAM}/{}/root/{place}", vm.jail())
}

/// Makes the jail, with an empty file in the place of each of `files` and a node for `disk`.
pub(super) fn make(
    helper: &Helper,
    vm: &VmRef,
    uid: u32,
    files: &[Given],
    disk: Option<Dev>,
) -> Result<Dir, Refusal> {
    let what = || format!("make the jail of {vm}");
    let jail = helper.config.roots.jail.create_child(vm.jail(), 0o700);
    let jail = jail.map_err(|error| match error.errno() {
        Some(Errno::EXIST) => refuse(RefusalKind::Exists, format!("{}: it exists", what())),
        _ => failed(what(), &error),
    })?;
    match fill(&jail, vm, uid, files, disk) {
        Ok(()) => Ok(jail),
        Err(error) => {
            let refusal = failed(what(), &error);
            remove(helper, vm).map_or_else(
                |left| {
                    Err(refuse(
                        refusal.kind,
                        format!("{}; {}", refusal.message, left.message),
                    ))
                },
                |()| Err(refusal.clone()),
            )
        }
    }
}

fn fill(
    jail: &Dir,
    vm: &VmRef,
    uid: u32,
    files: &[Given],
    disk: Option<Dev>,
) -> Result<(), PathError> {
    let programs = jail.create_child("exec", 0o700)?;
    programs.create_new_file(PROGRAM, 0o600)?;
    let root = jail
        .create_child(PROGRAM, 0o700)?
        .create_child(vm.jail(), 0o700)?
        .create_child("root", 0o700)?;
    let run = root.create_child(RUN, 0o700)?;
    for place in files.iter().filter_map(Given::place) {
        match place.split_once('/') {
            Some((RUN, name)) => run.create_new_file(name, 0o600)?,
            _ => root.create_new_file(&place, 0o600)?,
        };
    }
    if let Some(disk) = disk {
        let name = jail::ROOTFS.trim_start_matches('/');
        root.create_block_node(name, 0o600, disk)?;
        let wanted = Wanted::of(FileType::BlockDevice);
        let node = root.open_path(name, wanted)?;
        dirs::chown(node, wanted, Some(uid), Some(uid))?;
    }
    Ok(())
}

/// The directory of the VMM's sockets.
pub(super) fn open_run(helper: &Helper, vm: &VmRef) -> Result<Dir, PathError> {
    let mut dir = helper.config.roots.jail.child(vm.jail())?;
    for name in target(vm, RUN).split('/') {
        dir = dir.child(name)?;
    }
    Ok(dir)
}

/// Removes the jail, if there is one: no link is followed, no mount entered.
pub(super) fn remove(helper: &Helper, vm: &VmRef) -> Result<(), Refusal> {
    remove_named(helper, vm.jail())
        .map_err(|error| failed(format!("remove the jail of {vm}"), &error))
}

fn remove_named(helper: &Helper, name: &str) -> Result<(), PathError> {
    helper.config.roots.jail.remove_tree(name, MAX_JAIL_ENTRIES)
}

/// Gone already is no error; afterwards the ledger has no jail of the VM.
pub(crate) fn cleanup_jailer_chroot(helper: &Helper, vm: VmRef) -> Outcome {
    let entry = helper.ledger().entry(&vm)?;
    vmm::check_ended(&entry)?;
    let code = helper.children.take(&vm);
    remove(helper, &vm)?;
    helper.ledger().update(&vm, |entry| {
        entry.jail = None;
        entry.process = None;
    })?;
    done(Reply::Ended { code })
}

/// Removes jails of VMs that are neither in the ledger nor in `keep`.
pub(crate) fn reclaim(helper: &Helper, keep: &[VmRef]) -> Swept {
    let names = helper.config.roots.jail.names(MAX_SEARCHED);
    let names = names.map_err(|error| failed("list jails", &error));
    let found = names.map(|names| {
        names
            .iter()
            .filter_map(|name| VmId::parse(name).ok())
            .collect()
    });
    sweep(helper, keep, "jail", found, |id| {
        remove_named(helper, id.as_str())
            .map_err(|error| failed(format!("remove jail {id}"), &error))
    })
}

/// Does `work` on each of `found` of which neither the ledger nor `keep` knows.
pub(super) fn sweep(
    helper: &Helper,
    keep: &[VmRef],
    what: &str,
    found: Result<Vec<VmId>, Refusal>,
    work: impl Fn(&VmId) -> Result<(), Refusal>,
) -> Swept {
    let mut swept = Swept::default();
    let found = found.unwrap_or_else(|error| {
        swept.left.push(error.message);
        Vec::new()
    });
    for id in found {
        // Under the lock: one that is being made just now is in the ledger already.
        let outcome = helper.lock_vm(&id, VM_LOCK_LIMIT).and_then(|_lock| {
            let is_known = |vm: &VmRef| vm.id == id;
            let recorded = helper.ledger().entries();
            if keep.iter().any(is_known) || recorded.iter().any(|entry| is_known(&entry.vm)) {
                return Ok(false);
            }
            work(&id).map(|()| true)
        });
        match outcome {
            Ok(true) => swept.removed.push(format!("{what} of {id}")),
            Ok(false) => {}
            Err(error) => swept.left.push(error.message),
        }
    }
    swept
}
