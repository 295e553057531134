//! What the helper is and made. Looking is also when rules that somebody flushed are restored.

use banger_priv::{Reply, Status, VmStatus};

use crate::helper::{Helper, Outcome, done};
use crate::log;
use crate::ops::{rules, vmm};

/// Tells it.
pub(crate) fn status(helper: &Helper) -> Outcome {
    let restored = rules::restore(helper, &mut helper.network());
    if let Err(refusal) = restored {
        log::line(&refusal.message);
    }
    let entries = helper.ledger().entries();
    let vms = entries.into_iter().map(|entry| VmStatus {
        is_running: vmm::is_running(helper, &entry),
        address: entry.tap.map(|tap| tap.address),
        has_snapshot: entry.snapshot.is_some(),
        vm: entry.vm,
    });
    done(Reply::Status(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vms: vms.collect(),
    }))
}
