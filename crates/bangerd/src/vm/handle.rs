//! How everybody but its driver sees a VM: commands in, truth out.

use super::ending::{self, Asked};
use super::moment::Moment;
use super::plan::VmChange;
use super::policy;
use super::record::VmRecord;
use crate::problem::Refusal;
use banger_api::{HungView, ProblemCode, VmState};
use banger_engine::Machine;
use banger_names::{ByteSize, VmId, VmName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Who waits for a command's outcome.
pub(crate) type Waiter = oneshot::Sender<Result<(), Refusal>>;

/// What can be asked of a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Boot it. When every waiter is gone before it runs, the boot is undone.
    Start(Waiter),
    /// Power it off, by force when the time is over.
    Stop {
        /// How long the guest may take.
        limit: Duration,
        /// Who waits.
        waiter: Waiter,
    },
    /// Power it off like `Stop`, then boot it, whether or not somebody waits.
    Restart {
        /// How long the guest may take to power off.
        limit: Duration,
        /// Who waits.
        waiter: Waiter,
    },
    /// Change what was decided about it.
    Change {
        /// How.
        change: Box<VmChange>,
        /// Who waits.
        waiter: Waiter,
    },
    /// End it at once.
    Kill {
        /// On whose behalf.
        asked: Asked,
        /// Who waits.
        waiter: Waiter,
    },
    /// Remove it.
    Remove {
        /// Whether one that runs is killed first.
        force: bool,
        /// Who waits; a dropped lease does not.
        waiter: Option<Waiter>,
    },
    /// Let go of it without touching it: the daemon ends.
    Detach(Waiter),
}

/// What is true of a VM.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Its record.
    pub(crate) record: Arc<VmRecord>,
    /// Its machine, while one runs.
    pub(crate) machine: Option<Arc<dyn Machine>>,
    /// Whether that answers.
    pub(crate) pulse: Option<watch::Receiver<Option<HungView>>>,
    /// Whether it is gone for good.
    pub(crate) is_removed: bool,
}

impl Snapshot {
    /// That its VMM does not answer, if that is so.
    pub(crate) fn hung(&self) -> Option<HungView> {
        self.pulse.as_ref()?.borrow().clone()
    }
}

/// A VM, as seen from outside its driver.
#[derive(Debug, Clone)]
pub(crate) struct VmHandle {
    pub(crate) id: VmId,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) truth: watch::Receiver<Snapshot>,
}

impl VmHandle {
    /// What is true now.
    pub(crate) fn now(&self) -> Snapshot {
        self.truth.borrow().clone()
    }

    /// Where it is in its life.
    pub(crate) fn state(&self) -> VmState {
        self.truth.borrow().record.state
    }

    /// Its name, which may change.
    pub(crate) fn name(&self) -> VmName {
        self.truth.borrow().record.plan.name.clone()
    }

    /// Whether its time is up.
    pub(crate) fn is_expired(&self) -> bool {
        let left = policy::time_left(&self.now().record, &Moment::now());
        left == Some(Duration::ZERO)
    }

    /// Boots it; done at once if it runs. Dropping the future undoes the boot unless
    /// somebody else waits for it too.
    pub(crate) async fn start(&self) -> Result<(), Refusal> {
        self.ask(Command::Start).await
    }

    /// Powers it off; done at once if it does not run. Goes on if the future is dropped.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<(), Refusal> {
        self.ask(|waiter| Command::Stop { limit, waiter }).await
    }

    /// Powers it off as [`VmHandle::stop`] does, if it runs, and boots it. Goes on if the future
    /// is dropped.
    pub(crate) async fn restart(&self, limit: Duration) -> Result<(), Refusal> {
        self.ask(|waiter| Command::Restart { limit, waiter }).await
    }

    /// Changes what was decided about it.
    pub(crate) async fn change(&self, change: VmChange) -> Result<(), Refusal> {
        self.ask(|waiter| Command::Change {
            change: Box::new(change),
            waiter,
        })
        .await
    }

    /// Ends it; done at once if it does not run.
    pub(crate) async fn kill(&self) -> Result<(), Refusal> {
        self.end(Asked::Kill).await
    }

    /// Ends it, for it took most of what must stay free on the host's disk, of which `free` are left.
    pub(crate) async fn end_for_room(&self, free: ByteSize) -> Result<(), Refusal> {
        self.end(Asked::HostFull { free }).await
    }

    /// Removes it. One that is removed already is done.
    pub(crate) async fn remove(&self, force: bool) -> Result<(), Refusal> {
        self.ask(|waiter| Command::Remove {
            force,
            waiter: Some(waiter),
        })
        .await
        .or_else(|refusal| {
            if self.truth.borrow().is_removed {
                Ok(())
            } else {
                Err(refusal)
            }
        })
    }

    /// Lets go of it.
    pub(crate) async fn detach(&self) -> Result<(), Refusal> {
        self.ask(Command::Detach).await
    }

    /// Its machine, if its agent answers.
    pub(crate) fn running(&self) -> Result<Arc<dyn Machine>, Refusal> {
        let now = self.now();
        match (&now.machine, now.record.state) {
            (Some(machine), VmState::Running) => Ok(Arc::clone(machine)),
            (_, state) => Err(Refusal::conflict(format!(
                "use VM {:?}: it is {}",
                now.record.plan.name.as_str(),
                state.as_str()
            ))
            .hint(format!("banger vm start {}", now.record.plan.name))),
        }
    }

    /// Resolves when its VMM has not answered for so long; never for one that has none.
    pub(crate) async fn hangs_for(&self, limit: Duration) -> HungView {
        let Some(mut pulse) = self.now().pulse else {
            return std::future::pending().await;
        };
        loop {
            let is_hung = pulse.wait_for(Option::is_some).await.is_ok();
            if !is_hung {
                // The watch has ended with the VMM.
                return std::future::pending().await;
            }
            let back = pulse.wait_for(Option::is_none);
            let is_back = tokio::time::timeout(limit, back).await.is_ok();
            if let Some(hung) = self.now().hung().filter(|_| !is_back) {
                return hung;
            }
        }
    }

    /// Why it is no longer there for somebody who used it.
    pub(crate) fn gone(&self) -> Refusal {
        let now = self.now();
        let why = match &now.record.exit {
            Some(exit) => format!("{}: {}", exit.reason, exit.detail),
            None => now.record.state.as_str().to_owned(),
        };
        Refusal::new(
            ProblemCode::VmGone,
            format!("VM {:?} ended ({why})", now.record.plan.name.as_str()),
        )
        .hint(match &now.record.exit {
            Some(exit) if exit.reason == ending::HOST_FULL => ending::MAKE_ROOM.to_owned(),
            _ => format!("banger vm logs {}", now.record.plan.name),
        })
    }

    async fn end(&self, asked: Asked) -> Result<(), Refusal> {
        self.ask(|waiter| Command::Kill { asked, waiter }).await
    }

    async fn ask(&self, command: impl FnOnce(Waiter) -> Command) -> Result<(), Refusal> {
        let (waiter, answer) = oneshot::channel();
        // A driver that has ended drops the waiter, and that is the answer.
        drop(self.commands.send(command(waiter)));
        match answer.await {
            Ok(outcome) => outcome,
            _ if self.truth.borrow().is_removed => Err(Refusal::no_vm(self.name().as_str())),
            // The driver's end without a removal is the daemon's.
            _ => Err(Refusal::cancelled(format!(
                "use VM {:?}: the daemon ends",
                self.name().as_str()
            ))),
        }
    }
}
