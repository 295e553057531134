//! The one task that changes a VM. It takes commands, does one thing at a time, and says
//! through a watch what is true.
//!
//! The state machine stands in [`super`]; each state that takes time has its own function,
//! which returns the next [`Phase`]: `idle` and `running` here, booting in [`super::boot`],
//! stopping in [`super::stop`].

use super::ending::{self, Asked};
use super::handle::{Command, Snapshot, VmHandle, Waiter};
use super::moment::Moment;
use super::place::VmPlace;
use super::policy;
use super::pulse::Pulse;
use super::record::VmRecord;
use super::snapshot;
use crate::activity::ActivityGuard;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use banger_api::{EventKind, Problem, ProblemCode, VmState};
use banger_engine::{Machine, VmmExit};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a VMM may take to be gone after KILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// How long a guest whose time is up may take to power off.
const TTL_LIMIT: Duration = Duration::from_secs(10);

/// How long until what could not be done at an end, to store it or to have the helper clear up, is
/// tried again; then twice as long each time, up to [`LONGEST_NAP`].
const FINISH_AGAIN: Duration = Duration::from_secs(3);

/// The longest sleep until a moment that counts the host's sleep, which timers do not.
const LONGEST_NAP: Duration = Duration::from_secs(60);

/// Whose restart it is that the policy wants.
pub(super) const BY_ITSELF: &str = "policy";

/// What the driver does next.
#[derive(Debug)]
pub(super) enum Phase {
    /// No VMM: wait for commands.
    Idle,
    /// Boot for these.
    Boot(Starters),
    /// Wait for the agent of a VMM that was adopted while it booted.
    Await,
    /// The agent answers: wait for commands and for the end.
    Running,
    /// Power off.
    Stop(Stopping),
    /// Remove for this waiter. The VMM is gone.
    Remove(Option<Waiter>),
    /// The driver ends.
    Done,
}

/// Who wants a VM booted.
#[derive(Debug, Default)]
pub(super) struct Starters {
    /// Who hears how it went.
    pub(super) waiters: Vec<Waiter>,
    /// Whether the boot goes on when none of them is there any more.
    pub(super) is_wanted_anyway: bool,
    /// Whose restart it is, if it is one.
    pub(super) restart: Option<&'static str>,
}

/// How a VM is to be powered off, and for whom.
#[derive(Debug)]
pub(super) struct Stopping {
    /// How long the guest may take.
    pub(super) limit: Duration,
    /// Who hears how it went.
    pub(super) waiters: Vec<Waiter>,
    /// Whether it is booted again, and who waits for that.
    pub(super) then_boot: Option<Starters>,
    /// Whether its time was up.
    pub(super) is_expired: bool,
}

impl Stopping {
    fn for_good(limit: Duration, waiter: Waiter) -> Self {
        Self {
            limit,
            waiters: vec![waiter],
            then_boot: None,
            is_expired: false,
        }
    }

    fn and_boot(limit: Duration, waiter: Waiter) -> Self {
        Self {
            limit,
            waiters: Vec::new(),
            then_boot: Some(Starters {
                waiters: vec![waiter],
                is_wanted_anyway: true,
                restart: Some("asked"),
            }),
            is_expired: false,
        }
    }
}

/// A VM's driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(super) daemon: Arc<Daemon>,
    pub(super) record: VmRecord,
    pub(super) place: VmPlace,
    pub(super) machine: Option<Arc<dyn Machine>>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) truth: watch::Sender<Snapshot>,
    /// Watches whether the VMM answers.
    pub(super) pulse: Option<Pulse>,
    /// The state of which an event told last.
    pub(super) told: VmState,
    /// Why the last end is not in the database yet.
    unstored: Option<Refusal>,
    /// Whether the helper still has what it made for the last life.
    is_unreleased: bool,
    /// How long until either is tried again.
    finish_in: Duration,
    pub(super) busy: Option<ActivityGuard>,
}

impl Driver {
    /// Starts the driver of a VM whose row exists; `machine` is its VMM if it was adopted.
    pub(crate) fn spawn(
        daemon: &Arc<Daemon>,
        record: VmRecord,
        machine: Option<Arc<dyn Machine>>,
    ) -> VmHandle {
        let (sender, commands) = mpsc::unbounded_channel();
        let (truth, watch) = watch::channel(Snapshot {
            record: Arc::new(record.clone()),
            machine: machine.clone(),
            pulse: None,
            is_removed: false,
        });
        let handle = VmHandle {
            id: record.id.clone(),
            commands: sender,
            truth: watch,
        };
        let phase = match (&machine, record.state) {
            (None, _) => Phase::Idle,
            (Some(_), VmState::Starting) => Phase::Await,
            (Some(_), _) => Phase::Running,
        };
        let driver = Self {
            place: VmPlace::of(daemon.dirs(), &record.id),
            daemon: Arc::clone(daemon),
            told: record.state,
            unstored: None,
            is_unreleased: false,
            finish_in: FINISH_AGAIN,
            busy: machine.is_some().then(|| daemon.activity().begin()),
            record,
            machine,
            commands,
            truth,
            pulse: None,
        };
        daemon.tasks().spawn(driver.run(phase));
        handle
    }

    async fn run(mut self, mut phase: Phase) {
        self.publish();
        loop {
            phase = match phase {
                Phase::Idle => self.idle().await,
                Phase::Boot(starters) => self.boot(starters).await,
                Phase::Await => self.await_adopted().await,
                Phase::Running => self.running().await,
                Phase::Stop(stopping) => self.stop(stopping).await,
                Phase::Remove(waiter) => self.remove(waiter).await,
                Phase::Done => return,
            };
        }
    }

    async fn idle(&mut self) -> Phase {
        loop {
            // Who waits for its next start keeps the daemon alive.
            if self.record.retry.is_some() {
                self.stay();
            } else {
                self.busy = None;
            }
            let retry = self.record.retry.clone();
            let command = tokio::select! {
                command = self.commands.recv() => command,
                () = until(|now| retry.as_ref().map(|retry| retry.left(now))) => {
                    return Phase::Boot(Starters {
                        waiters: Vec::new(),
                        is_wanted_anyway: true,
                        restart: Some(BY_ITSELF),
                    });
                }
                () = tokio::time::sleep(self.finish_in), if self.unstored.is_some() || self.is_unreleased => {
                    self.finish_end().await;
                    continue;
                }
            };
            let Some(command) = command else {
                return Phase::Done;
            };
            match command {
                Command::Start(waiter) => {
                    return Phase::Boot(Starters {
                        waiters: vec![waiter],
                        ..Starters::default()
                    });
                }
                Command::Restart { waiter, .. } => {
                    return Phase::Boot(Starters {
                        waiters: vec![waiter],
                        is_wanted_anyway: true,
                        restart: None,
                    });
                }
                Command::Change { change, waiter } => self.change(&change, waiter).await,
                Command::Stop { waiter, .. } | Command::Kill { waiter, .. } => {
                    if self.unstored.is_some() {
                        self.store_end().await;
                    }
                    let given_up = self.give_up_retry().await;
                    answer(waiter, given_up.and_then(|()| self.end_stored()));
                }
                Command::Remove { waiter, .. } => return Phase::Remove(waiter),
                Command::Detach(waiter) => {
                    answer(waiter, Ok(()));
                    return Phase::Done;
                }
            }
        }
    }

    /// Stays as it is: nobody starts it again but a person.
    async fn give_up_retry(&mut self) -> Result<(), Refusal> {
        let Some(retry) = self.record.retry.take() else {
            return Ok(());
        };
        if let Err(refusal) = self.store().await {
            self.record.retry = Some(retry);
            return Err(refusal);
        }
        self.publish();
        Ok(())
    }

    async fn running(&mut self) -> Phase {
        let Some(machine) = self.machine.clone() else {
            return Phase::Idle;
        };
        loop {
            let record = &self.record;
            let command = tokio::select! {
                exit = machine.wait() => return self.ended(Asked::Nothing, &exit).await,
                () = until(|now| policy::time_left(record, now)) => {
                    self.tell(EventKind::Ttl, None);
                    return Phase::Stop(Stopping {
                        limit: TTL_LIMIT,
                        waiters: Vec::new(),
                        then_boot: None,
                        is_expired: true,
                    });
                }
                command = self.commands.recv() => command,
            };
            match command {
                Some(Command::Start(waiter)) => answer(waiter, Ok(())),
                Some(Command::Stop { limit, waiter }) => {
                    return Phase::Stop(Stopping::for_good(limit, waiter));
                }
                Some(Command::Restart { limit, waiter }) => {
                    return Phase::Stop(Stopping::and_boot(limit, waiter));
                }
                Some(Command::Change { change, waiter }) => self.change(&change, waiter).await,
                Some(Command::Kill { asked, waiter }) => {
                    return self.kill_for(asked, vec![waiter]).await;
                }
                Some(Command::Remove {
                    force: false,
                    waiter,
                }) => {
                    answer_some(waiter, Err(self.runs("remove")));
                }
                Some(Command::Remove {
                    force: true,
                    waiter,
                }) => {
                    return self.kill_and_remove(waiter).await;
                }
                Some(Command::Detach(waiter)) => return self.detach(waiter),
                None => return Phase::Done,
            }
        }
    }

    /// Kills the VMM; the waiters hear how that went.
    pub(super) async fn kill_for(&mut self, asked: Asked, waiters: Vec<Waiter>) -> Phase {
        let killed = self.kill_machine(asked).await;
        for waiter in waiters {
            answer(waiter, killed.clone().and_then(|()| self.end_stored()));
        }
        self.after_kill(&killed)
    }

    /// Kills the VMM, then removes the VM.
    pub(super) async fn kill_and_remove(&mut self, waiter: Option<Waiter>) -> Phase {
        match self.kill_machine(Asked::Kill).await {
            Ok(()) => Phase::Remove(waiter),
            Err(refusal) => {
                tracing::error!(vm = %self.record.id, %refusal, "remove");
                answer_some(waiter, Err(refusal));
                Phase::Running
            }
        }
    }

    pub(super) fn after_kill(&self, killed: &Result<(), Refusal>) -> Phase {
        match killed {
            Ok(()) => Phase::Idle,
            // It is still there: go on watching it.
            Err(_) => Phase::Running,
        }
    }

    /// Lets go of the VMM: it runs on and is adopted by the next daemon.
    pub(super) fn detach(&mut self, waiter: Waiter) -> Phase {
        self.machine = None;
        answer(waiter, Ok(()));
        Phase::Done
    }

    /// Kills the VMM and records the end.
    pub(super) async fn kill_machine(&mut self, asked: Asked) -> Result<(), Refusal> {
        if let Some(exit) = self.kill_vmm().await? {
            self.ended(asked, &exit).await;
        }
        Ok(())
    }

    /// Kills the VMM, if there is one, and says how it ended; records nothing.
    pub(super) async fn kill_vmm(&self) -> Result<Option<VmmExit>, Refusal> {
        let Some(machine) = &self.machine else {
            return Ok(None);
        };
        let why = match tokio::time::timeout(KILL_LIMIT, machine.kill()).await {
            Ok(Ok(())) => return Ok(Some(machine.wait().await)),
            Ok(Err(error)) => Refusal::from(error).0,
            Err(_) => Problem::new(ProblemCode::TimedOut, "its VMM does not end"),
        };
        let name = self.record.plan.name.as_str();
        let mut refusal = Refusal::new(why.code, format!("kill VM {name:?}")).hint(
            "its VMM may wait for a disk that hangs (sudo dmesg); repeat the command when it answers",
        );
        refusal.0.causes.push(why.message);
        refusal.0.causes.extend(why.causes);
        Err(refusal)
    }

    /// Records that the VMM has ended and clears what belonged to this life.
    pub(super) async fn ended(&mut self, asked: Asked, exit: &VmmExit) -> Phase {
        let memory = self.memory_at(exit).await;
        let mut ending = ending::judge(asked, exit, memory);
        if asked != Asked::Kill
            && !ending::is_clean(ending.reason)
            && snapshot::has_failed(&self.daemon, &self.record).await
        {
            ending = ending::disk_full(self.record.plan.disk);
        }
        tracing::info!(vm = %self.record.id, reason = ending.reason, "ended");
        if ending.reason == ending::OOM {
            self.tell(EventKind::Oom, Some((ending::OOM, &ending.detail)));
        }
        self.record.end(ending.state, ending.reason, ending.detail);
        if asked == Asked::Nothing {
            self.record.decide_retry();
        }
        self.settle().await;
        Phase::Idle
    }

    /// Clears what belonged to a life that is over, and stores and publishes the record.
    pub(super) async fn settle(&mut self) {
        self.machine = None;
        self.finish_in = FINISH_AGAIN;
        self.release_end().await;
        let place = self.place.clone();
        let cleared = tokio::task::spawn_blocking(move || place.remove_run()).await;
        if let Ok(Err(error)) = cleared {
            tracing::warn!(vm = %self.record.id, %error, "remove the run directory");
        }
        self.store_end().await;
        self.publish();
    }

    /// Does what could not be done when the life ended.
    async fn finish_end(&mut self) {
        self.finish_in = (self.finish_in * 2).min(LONGEST_NAP);
        if self.is_unreleased {
            self.release_end().await;
        }
        self.store_end().await;
    }

    /// Has the helper clear up after a life. What fails is tried again.
    async fn release_end(&mut self) {
        let released = self.release().await;
        if let Err(refusal) = &released {
            tracing::error!(vm = %self.record.id, %refusal, causes = ?refusal.0.causes, "release");
        }
        self.is_unreleased = released.is_err();
    }

    /// Stores the end, which is true whether or not it can be stored. The next daemon sees it too,
    /// but not why: who asked for it hears of it, and it is tried again.
    async fn store_end(&mut self) {
        let stored = self.store_if_kept().await;
        if let Err(refusal) = &stored {
            tracing::error!(vm = %self.record.id, %refusal, causes = ?refusal.0.causes, "store the end");
        }
        self.unstored = stored.err();
    }

    /// Whether the VM's last end is in the database.
    pub(super) fn end_stored(&self) -> Result<(), Refusal> {
        let Some(mut refusal) = self.unstored.clone() else {
            return Ok(());
        };
        let name = self.record.plan.name.as_str();
        let message = format!("record that VM {name:?} has ended");
        let cause = std::mem::replace(&mut refusal.0.message, message);
        refusal.0.causes.insert(0, cause);
        Err(refusal)
    }

    /// Stores the record.
    pub(super) async fn store(&self) -> Result<(), Refusal> {
        Ok(self.daemon.database().update(&self.record).await?)
    }

    /// Stores the record of a VM that is meant to last. The next daemon removes one that is
    /// not, whatever its row says, so its row need not be true in all.
    pub(super) async fn store_if_kept(&self) -> Result<(), Refusal> {
        if self.record.plan.ephemeral {
            return Ok(());
        }
        self.store().await
    }

    /// Keeps the daemon alive until the VM is idle.
    pub(super) fn stay(&mut self) {
        if self.busy.is_none() {
            self.busy = Some(self.daemon.activity().begin());
        }
    }

    /// Refuses what needs a VM that does not run.
    pub(super) fn runs(&self, verb: &str) -> Refusal {
        let name = self.record.plan.name.as_str();
        let state = self.record.state.as_str();
        Refusal::conflict(format!("{verb} VM {name:?}: it is {state}"))
            .hint(format!("banger vm stop {name}, or use --force"))
    }
}

/// Sleeps until nothing is left; for ever where there is no end.
async fn until(left: impl Fn(&Moment) -> Option<Duration>) {
    loop {
        match left(&Moment::now()) {
            None => return std::future::pending().await,
            Some(Duration::ZERO) => return,
            Some(left) => tokio::time::sleep(left.min(LONGEST_NAP)).await,
        }
    }
}

/// Tells a waiter. One that is gone has no use for it.
pub(super) fn answer(waiter: Waiter, outcome: Result<(), Refusal>) {
    let _unheard = waiter.send(outcome);
}

/// Tells a waiter, if there is one.
pub(super) fn answer_some(waiter: Option<Waiter>, outcome: Result<(), Refusal>) {
    if let Some(waiter) = waiter {
        answer(waiter, outcome);
    }
}
