//! Powering off: asked first, forced at the deadline, and the two told apart.

use super::driver::{Driver, Phase, Starters, Stopping, answer, answer_some};
use super::ending::Asked;
use super::handle::{Command, Waiter};
use crate::problem::Refusal;
use banger_api::VmState;
use banger_engine::Machine;
use banger_guest::client;
use banger_guest::frame::AGENT_PORT;
use banger_guest::request::Request;
use std::sync::Arc;
use std::time::Duration;

/// How long the agent may take to say that it powers off, before the guest is asked by
/// Ctrl-Alt-Del.
const AGENT_LIMIT: Duration = Duration::from_secs(2);

/// What ended the wait for the guest.
enum Wait {
    Ended,
    Deadline,
    Killed(Waiter),
    Removed(Option<Waiter>),
    Detached(Waiter),
}

impl Driver {
    /// Asks the guest to power off and waits up to the limit; then kills it.
    pub(super) async fn stop(&mut self, mut stopping: Stopping) -> Phase {
        let Some(machine) = self.machine.clone() else {
            return Phase::Idle;
        };
        self.record.state = VmState::Stopping;
        if let Err(error) = self.store_if_kept().await {
            tracing::warn!(vm = %self.record.id, %error, "store the stop");
        }
        self.publish();
        let wait = self.until_off(&machine, &mut stopping).await;
        let Stopping {
            waiters,
            then_boot,
            is_expired,
            ..
        } = stopping;
        let (in_time, late) = match is_expired {
            true => (Asked::Ttl, Asked::Ttl),
            false => (Asked::Stop, Asked::StopDeadline),
        };
        match wait {
            Wait::Ended => {
                let exit = machine.wait().await;
                let phase = self.ended(in_time, &exit).await;
                for waiter in waiters {
                    answer(waiter, self.end_stored());
                }
                then_boot.map_or(phase, Phase::Boot)
            }
            Wait::Deadline => {
                let killed = self.kill_machine(late).await;
                for waiter in waiters {
                    answer(waiter, killed.clone().and_then(|()| self.end_stored()));
                }
                match (killed, then_boot) {
                    (Ok(()), Some(starters)) => Phase::Boot(starters),
                    (killed, starters) => {
                        tell(starters, &killed);
                        self.after_kill(&killed)
                    }
                }
            }
            Wait::Killed(waiter) => {
                tell(then_boot, &Err(self.not_again("killed")));
                let waiters = waiters.into_iter().chain([waiter]).collect();
                self.kill_for(Asked::Kill, waiters).await
            }
            Wait::Removed(remover) => {
                tell(then_boot, &Err(self.not_again("removed")));
                let name = self.record.plan.name.clone();
                for waiter in waiters {
                    let why = format!("stop VM {:?}: it was removed meanwhile", name.as_str());
                    answer(waiter, Err(Refusal::cancelled(why)));
                }
                self.kill_and_remove(remover).await
            }
            Wait::Detached(waiter) => {
                // The next daemon adopts it as running; the guest is on its way down anyway.
                tell(
                    then_boot,
                    &Err(self.not_again("left by a daemon that ends")),
                );
                self.detach(waiter)
            }
        }
    }

    fn not_again(&self, how: &str) -> Refusal {
        let name = self.record.plan.name.as_str();
        Refusal::cancelled(format!("restart VM {name:?}: it was {how} meanwhile"))
    }

    async fn until_off(&mut self, machine: &Arc<dyn Machine>, stopping: &mut Stopping) -> Wait {
        let asking = ask_to_power_off(machine);
        let deadline = tokio::time::sleep(stopping.limit);
        tokio::pin!(asking, deadline);
        let mut asked = false;
        loop {
            let command = tokio::select! {
                _ = machine.wait() => return Wait::Ended,
                () = &mut deadline => return Wait::Deadline,
                () = &mut asking, if !asked => {
                    asked = true;
                    continue;
                }
                command = self.commands.recv() => command,
            };
            match command {
                Some(Command::Start(waiter)) => match &mut stopping.then_boot {
                    Some(starters) => starters.waiters.push(waiter),
                    None => answer(waiter, Err(self.runs("start"))),
                },
                // The first caller's patience counts.
                Some(Command::Stop { waiter, .. }) => {
                    // The last word of what comes after.
                    tell(stopping.then_boot.take(), &Err(self.not_again("stopped")));
                    stopping.waiters.push(waiter);
                }
                Some(Command::Restart { waiter, .. }) => {
                    let starters = stopping.then_boot.get_or_insert_default();
                    starters.is_wanted_anyway = true;
                    starters.restart = Some("asked");
                    starters.waiters.push(waiter);
                }
                Some(Command::Change { change, waiter }) => self.change(&change, waiter).await,
                Some(Command::Kill { waiter, .. }) => return Wait::Killed(waiter),
                Some(Command::Remove {
                    force: true,
                    waiter,
                }) => return Wait::Removed(waiter),
                Some(Command::Remove {
                    force: false,
                    waiter,
                }) => {
                    answer_some(waiter, Err(self.runs("remove")));
                }
                Some(Command::Detach(waiter)) => return Wait::Detached(waiter),
                None => return Wait::Deadline,
            }
        }
    }
}

/// Tells whoever waits for a boot that does not come.
fn tell(starters: Option<Starters>, outcome: &Result<(), Refusal>) {
    for waiter in starters.into_iter().flat_map(|starters| starters.waiters) {
        answer(waiter, outcome.clone());
    }
}

/// Asks the agent, and by Ctrl-Alt-Del a guest whose agent does not answer.
async fn ask_to_power_off(machine: &Arc<dyn Machine>) {
    let agent = async {
        let stream = machine
            .connect(AGENT_PORT)
            .await
            .map_err(|e| e.to_string())?;
        client::request(stream, &Request::PowerOff)
            .await
            .map_err(|e| e.to_string())
    };
    match tokio::time::timeout(AGENT_LIMIT, agent).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => tracing::info!(error, "the agent does not power off"),
        Err(_) => tracing::info!("the agent does not answer"),
    }
    if let Err(error) = machine.ctrl_alt_del().await {
        tracing::info!(%error, "press Ctrl-Alt-Del");
    }
}
