//! What every operation works with: where things are, the ledger, and who may work on which VM.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use banger_ids::VmId;
use banger_priv::{Refusal, RefusalKind, Reply};
use banger_sys::dirs::Dir;

use crate::ledger::Ledger;
use crate::ops::vmm::Children;
use crate::refusal::refuse;

/// What an operation answers: a reply and descriptors beside it, or why not.
pub(crate) type Outcome = Result<(Reply, Vec<OwnedFd>), Refusal>;

/// A reply without descriptors.
pub(crate) fn done(reply: Reply) -> Outcome {
    Ok((reply, Vec::new()))
}

/// Decided once, when the helper starts.
#[derive(Debug)]
pub(crate) struct Config {
    /// The one user, beside root, who may ask; what is passed in must be theirs.
    pub(crate) owner: u32,
    /// Whether this host runs systemd, so that VMs get scopes.
    pub(crate) systemd: bool,
    /// Where things are.
    pub(crate) roots: Roots,
}

/// Directories.
#[derive(Debug)]
pub(crate) struct Roots {
    /// Where jails are made: root's, 0700.
    pub(crate) jail: Dir,
    /// Where Firecracker and its jailer are.
    pub(crate) programs: PathBuf,
    /// Beneath which the files lie that the owner passes in.
    pub(crate) files: Vec<String>,
}

/// What is remembered of the rules that were loaded; whoever has it may change links and rules.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// How many rules each of the two tables had then; `None` before the first time.
    pub(crate) rules: Option<[usize; 2]>,
}

/// The helper.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) config: Config,
    ledger: Mutex<Ledger>,
    network: Mutex<Network>,
    busy: Mutex<BTreeSet<VmId>>,
    freed: Condvar,
    /// VMMs that this process started.
    pub(crate) children: Children,
}

/// The right to work on a VM, until dropped.
#[derive(Debug)]
pub(crate) struct VmLock<'a> {
    helper: &'a Helper,
    id: VmId,
}

impl Helper {
    pub(crate) fn new(config: Config, ledger: Ledger) -> Self {
        Self {
            config,
            ledger: Mutex::new(ledger),
            network: Mutex::new(Network::default()),
            busy: Mutex::new(BTreeSet::new()),
            freed: Condvar::new(),
            children: Children::default(),
        }
    }

    /// The ledger. To be held for a moment only: never while waiting for anything.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A thread that panicked left the ledger as the file system has it.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change links and rules. Taken before the ledger.
    pub(crate) fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else works on this VM; after `limit` it is busy.
    pub(crate) fn lock_vm(&self, id: &VmId, limit: Duration) -> Result<VmLock<'_>, Refusal> {
        let deadline = Instant::now().checked_add(limit);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(id) {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                let message = format!("work on {id}: another request for it goes on");
                return Err(refuse(RefusalKind::Busy, message));
            };
            let waited = self.freed.wait_timeout(busy, left);
            busy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        busy.insert(id.clone());
        let id = id.clone();
        Ok(VmLock { helper: self, id })
    }
}

impl Drop for VmLock<'_> {
    fn drop(&mut self) {
        let busy = self.helper.busy.lock();
        busy.unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        self.helper.freed.notify_all();
    }
}
