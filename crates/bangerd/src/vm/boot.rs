//! From nothing to an agent that answers.

use super::driver::{BY_ITSELF, Driver, Phase, Starters, answer, answer_some};
use super::ending::{self, Asked};
use super::handle::{Command, Waiter};
use super::launch;
use super::moment::Moment;
use super::pulse::Memory;
use crate::files;
use crate::problem::Refusal;
use banger_api::{EventKind, ProblemCode, VmState};
use banger_engine::{EngineError, Machine};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the end of a VMM may take to be known once its channel broke.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How a boot ended before the agent answered.
enum Broken {
    /// It failed, and this is why.
    Failed(Refusal),
    /// Nobody waits for it any more.
    Abandoned,
    /// A command wants the VM ended.
    Killed(Waiter),
    /// A command wants the VM removed.
    Removed(Option<Waiter>),
    /// The daemon ends.
    Detached(Waiter),
}

impl Driver {
    /// Boots for `starters`; more may come while it goes on.
    pub(super) async fn boot(&mut self, mut starters: Starters) -> Phase {
        self.stay();
        let began = Instant::now();
        if let Err(refusal) = self.daemon.check_reach(&self.record) {
            // Nothing is known to have ended: all stays as it is recorded.
            self.record.retry = None;
            for waiter in starters.waiters {
                answer(waiter, Err(refusal.clone()));
            }
            return Phase::Idle;
        }
        if let Err(refusal) = self.release().await {
            return self.boot_failed(starters, refusal).await;
        }
        self.record.begin(starters.restart == Some(BY_ITSELF));
        if let Err(refusal) = self.store_if_kept().await {
            return self.boot_failed(starters, refusal).await;
        }
        self.publish();
        let machine = match launch::launch(&self.daemon, &mut self.record, &self.place).await {
            Ok(machine) => machine,
            Err(refusal) => return self.boot_failed(starters, refusal).await,
        };
        self.record.process = Some(machine.process().clone());
        self.machine = Some(Arc::clone(&machine));
        // From here on a crash of the daemon leaves a VMM that the next one can find.
        if let Err(refusal) = self.store().await {
            return self.boot_failed(starters, refusal).await;
        }
        self.publish();
        match self.until_ready(&machine, &mut starters).await {
            Ok(()) => self.boot_done(began, starters).await,
            Err(broken) => self.boot_broken(broken, starters).await,
        }
    }

    /// Waits for the agent of a VMM that a former daemon had started.
    pub(super) async fn await_adopted(&mut self) -> Phase {
        let Some(machine) = self.machine.clone() else {
            return Phase::Idle;
        };
        let began = Instant::now();
        let mut starters = Starters {
            is_wanted_anyway: true,
            ..Starters::default()
        };
        match self.until_ready(&machine, &mut starters).await {
            Ok(()) => self.boot_done(began, starters).await,
            Err(broken) => self.boot_broken(broken, starters).await,
        }
    }

    /// Waits until the agent answers, the VMM ends, time is over or a command intervenes.
    /// A boot that is not wanted anyway is abandoned when all waiters are gone.
    async fn until_ready(
        &mut self,
        machine: &Arc<dyn Machine>,
        starters: &mut Starters,
    ) -> Result<(), Broken> {
        let limit = self.daemon.limits().boot;
        let deadline = tokio::time::sleep(limit);
        let ready = machine.agent_ready();
        tokio::pin!(deadline, ready);
        loop {
            let command = tokio::select! {
                ready = &mut ready => return match ready {
                    Ok(()) => Ok(()),
                    Err(error) => Err(Broken::Failed(self.not_ready(machine, error).await)),
                },
                () = &mut deadline => {
                    return Err(Broken::Failed(Refusal::new(
                        ProblemCode::TimedOut,
                        format!(
                            "boot VM {:?}: its agent did not answer within {} s",
                            self.record.plan.name.as_str(),
                            limit.as_secs()
                        ),
                    )));
                }
                () = all_gone(starters) => return Err(Broken::Abandoned),
                command = self.commands.recv() => command,
            };
            match command {
                // What boots is as new as what a restart would make of it.
                Some(Command::Start(waiter) | Command::Restart { waiter, .. }) => {
                    starters.waiters.push(waiter);
                }
                Some(Command::Change { change, waiter }) => self.change(&change, waiter).await,
                Some(Command::Stop { waiter, .. } | Command::Kill { waiter, .. }) => {
                    return Err(Broken::Killed(waiter));
                }
                Some(Command::Remove {
                    force: true,
                    waiter,
                }) => {
                    return Err(Broken::Removed(waiter));
                }
                Some(Command::Remove {
                    force: false,
                    waiter,
                }) => {
                    answer_some(waiter, Err(self.runs("remove")));
                }
                Some(Command::Detach(waiter)) => return Err(Broken::Detached(waiter)),
                None => return Err(Broken::Abandoned),
            }
        }
    }

    /// Why the agent did not answer: a VMM that ends breaks the channel first, and its end
    /// tells more than that.
    async fn not_ready(&self, machine: &Arc<dyn Machine>, error: EngineError) -> Refusal {
        let exit = match error {
            EngineError::Exited(ref exit) => Some(exit.clone()),
            _ => tokio::time::timeout(END_LIMIT, machine.wait()).await.ok(),
        };
        let Some(exit) = exit else {
            return error.into();
        };
        let name = self.record.plan.name.as_str();
        let message = format!("boot VM {name:?}: the VMM ended: {exit}");
        Refusal::new(ProblemCode::VmGone, message)
    }

    async fn boot_done(&mut self, began: Instant, starters: Starters) -> Phase {
        self.record.state = VmState::Running;
        self.record.lease.get_or_insert_with(Moment::now);
        self.record.boot_ms = u64::try_from(began.elapsed().as_millis()).ok();
        if let Err(refusal) = self.store_if_kept().await {
            return self.boot_failed(starters, refusal).await;
        }
        self.publish();
        if let Some(whose) = starters.restart {
            self.tell(EventKind::Restarted, Some((whose, "")));
        }
        tracing::info!(vm = %self.record.id, boot_ms = self.record.boot_ms, "runs");
        for waiter in starters.waiters {
            answer(waiter, Ok(()));
        }
        Phase::Running
    }

    async fn boot_broken(&mut self, broken: Broken, starters: Starters) -> Phase {
        let name = self.record.plan.name.clone();
        match broken {
            Broken::Failed(refusal) => self.boot_failed(starters, refusal).await,
            Broken::Abandoned => {
                let killed = self.kill_machine(Asked::Kill).await;
                self.after_kill(&killed)
            }
            Broken::Killed(killer) => {
                let killed = self.kill_machine(Asked::Kill).await;
                for waiter in starters.waiters {
                    answer(waiter, Err(cancelled(name.as_str(), "stopped")));
                }
                answer(killer, killed.clone());
                self.after_kill(&killed)
            }
            Broken::Removed(remover) => {
                for waiter in starters.waiters {
                    answer(waiter, Err(cancelled(name.as_str(), "removed")));
                }
                self.kill_and_remove(remover).await
            }
            Broken::Detached(waiter) => {
                for starter in starters.waiters {
                    answer(
                        starter,
                        Err(Refusal::cancelled("boot a VM: the daemon ends")),
                    );
                }
                self.detach(waiter)
            }
        }
    }

    /// Ends what there is of the VMM, records the failure and tells why. A start that came by
    /// itself is tried again by the policy; one that a person asked for has told that person.
    async fn boot_failed(&mut self, starters: Starters, mut refusal: Refusal) -> Phase {
        let had_vmm = self.machine.is_some();
        let killed = self.kill_vmm().await;
        if let Err(error) = &killed {
            tracing::error!(vm = %self.record.id, %error, "kill a VM that failed to boot");
            refusal.0.causes.push(error.0.message.clone());
            for waiter in starters.waiters {
                answer(waiter, Err(refusal.clone()));
            }
            // It is still there: go on watching it.
            return Phase::Running;
        }
        if had_vmm {
            // Read after the end, so that the console's last words are there.
            let state = self.place.state.clone();
            let lines = tokio::task::spawn_blocking(move || files::console_tail(&state)).await;
            refusal.0.causes.extend(lines.unwrap_or_default());
        }
        let mut detail = refusal.0.message.clone();
        let mut reason = "failed";
        if let Ok(Some(exit)) = killed
            && self.memory_at(&exit).await == Memory::RanOut
        {
            reason = ending::OOM;
            detail.push_str("; the kernel killed it: memory ran out");
            self.tell(EventKind::Oom, Some((reason, &detail)));
            refusal.0.message.clone_from(&detail);
        }
        self.record.end(VmState::Crashed, reason, detail);
        if starters.restart == Some(BY_ITSELF) {
            self.record.decide_retry();
        }
        self.settle().await;
        for waiter in starters.waiters {
            answer(waiter, Err(refusal.clone()));
        }
        Phase::Idle
    }
}

fn cancelled(name: &str, how: &str) -> Refusal {
    Refusal::cancelled(format!("boot VM {name:?}: it was {how} before it ran"))
}

/// Returns when every waiter is gone; never for a boot that is wanted anyway.
async fn all_gone(starters: &mut Starters) {
    if starters.is_wanted_anyway {
        return std::future::pending().await;
    }
    for waiter in &mut starters.waiters {
        waiter.closed().await;
    }
}
