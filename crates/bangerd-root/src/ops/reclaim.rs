//! Ending and removing what is ours and belongs to no VM of a list: by the ledger first, then by
//! the marks that objects carry, for those that the ledger does not know.

use banger_ids::VmRef;
use banger_priv::{Reclaim, Refusal, RefusalKind, Reply};

use crate::helper::{Helper, Outcome, done};
use crate::ops::{jail, rules, snapshot, tap, vmm};
use crate::policy::{MAX_RECLAIMED, VM_LOCK_LIMIT};
use crate::refusal::{refuse, sanitised};

/// What a search for our marks did.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// What was ended or removed, in words.
    pub(crate) removed: Vec<String>,
    /// What was not, and why.
    pub(crate) left: Vec<String>,
}

impl Swept {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.removed.append(&mut other.removed);
        self.left.append(&mut other.left);
    }

    /// Notes `what` as removed or left.
    pub(crate) fn note<T>(&mut self, what: String, result: Result<T, Refusal>) {
        match result {
            Ok(_) => self.removed.push(what),
            Err(refusal) => self.left.push(format!("{what}: {}", refusal.message)),
        }
    }
}

/// Does it, and goes on past what cannot be removed; then it is refused, naming that.
pub(crate) fn reclaim(helper: &Helper, asked: Reclaim) -> Outcome {
    let Swept { mut removed, left } = sweep(helper, &asked.keep);
    if !left.is_empty() {
        let message = format!("reclaim: left {}", left.join("; "));
        return Err(refuse(RefusalKind::Failed, message));
    }
    removed.truncate(MAX_RECLAIMED);
    for line in &mut removed {
        *line = sanitised(line, 200);
    }
    done(Reply::Reclaimed(removed))
}

/// Everything of VMs that are not in `keep`, in this generation.
pub(crate) fn sweep(helper: &Helper, keep: &[VmRef]) -> Swept {
    let mut swept = Swept::default();
    let entries = helper.ledger().entries();
    for entry in entries.iter().filter(|entry| !keep.contains(&entry.vm)) {
        let vm = &entry.vm;
        match helper.lock_vm(&vm.id, VM_LOCK_LIMIT) {
            Ok(_lock) => end(helper, vm, &mut swept),
            Err(refusal) => swept.left.push(refusal.message),
        }
    }
    // Each room looks for what carries its marks; processes first, for they hold the rest.
    swept.append(vmm::reclaim(helper, keep));
    swept.append(snapshot::reclaim(helper, keep));
    swept.append(jail::reclaim(helper, keep));
    match tap::reclaim(helper, keep) {
        Ok(more) => swept.append(more),
        Err(refusal) => swept.left.push(refusal.message),
    }
    let restored = rules::restore(helper, &mut helper.network());
    if let Err(refusal) = restored {
        swept.left.push(refusal.message);
    }
    if swept.left.is_empty() {
        match helper.ledger().drop_torn(keep) {
            Ok(mut removed) => swept.removed.append(&mut removed),
            Err(refusal) => swept.left.push(refusal.message),
        }
    }
    swept
}

/// Everything of one VM, by the ledger. What fails keeps its record and what depends on it.
fn end(helper: &Helper, vm: &VmRef, swept: &mut Swept) {
    let Ok(entry) = helper.ledger().entry(vm) else {
        return;
    };
    if entry.process.is_some() {
        let ended = vmm::kill_process(helper, vm.clone());
        swept.note(format!("VMM of {vm}"), ended);
    }
    if entry.snapshot.is_some() {
        let cleaned = snapshot::cleanup_dm_snapshot(helper, vm.clone());
        swept.note(format!("snapshot of {vm}"), cleaned);
    }
    if entry.jail.is_some() {
        let cleaned = jail::cleanup_jailer_chroot(helper, vm.clone());
        swept.note(format!("jail of {vm}"), cleaned);
    }
    if entry.tap.is_some() {
        let removed = tap::remove_tap(helper, vm.clone());
        swept.note(format!("tap of {vm}"), removed);
    }
}
