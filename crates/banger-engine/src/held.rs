//! A VMM in our hands, of whatever kind: its end is watched, judged and told to all who wait.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::exit::{Announced, Facts, judge};
use crate::log::tail;
use crate::process::{Ended, Process};
use crate::{EngineError, ExitReason, Jail, Place, ProcessId, VmmExit};

/// The log of what the guest writes.
pub(crate) const CONSOLE_LOG: &str = "console.log";

/// The log of what the VMM says.
pub(crate) const VMM_LOG: &str = "vmm.log";

/// How much of `vmm.log` an end is judged by, in bytes.
const LAST_LINES: u64 = 2048;

/// How long the last words of an ended VMM are waited for. They are in its pipes already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a VMM may take to end once it has said that it does. All that its guest wrote is the host's
/// by then.
const STOPS: Duration = Duration::from_millis(500);

/// How long one that was killed then is waited for, before that is tried again.
const KILLED: Duration = Duration::from_secs(10);

/// How long a VMM that is taken over is waited for. One that is stuck is taken over unheard.
pub(crate) const ASLEEP: Duration = Duration::from_millis(300);

/// The tasks that read what a VMM says; they end when it does.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Its console; gives the reason of the kernel's panic, if there was one.
    pub(crate) console: JoinHandle<Option<String>>,
    /// All else.
    pub(crate) others: Vec<JoinHandle<()>>,
    /// Fires when the VMM says that it is about to end; dropped, it never will.
    pub(crate) stopping: oneshot::Receiver<()>,
}

/// For [`Sources::stopping`] of a VMM that does not say so.
pub(crate) fn never() -> oneshot::Receiver<()> {
    oneshot::channel().1
}

/// What a VMM said of its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LastWords {
    /// Why it ends.
    pub(crate) announced: Option<Announced>,
    /// What explains that to people, at most 2 KiB.
    pub(crate) detail: String,
}

/// A VMM's process, and who can end it.
#[derive(Debug, Clone)]
pub(crate) enum Vmm {
    /// We, it is our own.
    Ours(Process),
    /// Its jail.
    Jailed(Process, Arc<dyn Jail>),
}

impl Vmm {
    fn process(&self) -> &Process {
        match self {
            Self::Ours(process) | Self::Jailed(process, _) => process,
        }
    }

    async fn kill(&self) -> Result<(), EngineError> {
        match self {
            Self::Ours(process) => process
                .kill()
                .map_err(EngineError::io(format!("kill process {}", process.id.pid))),
            Self::Jailed(_, jail) => jail.kill().await.map_err(EngineError::jail("kill the VMM")),
        }
    }

    /// Waits for the end, and removes what it leaves.
    async fn ended(&self, stopping: oneshot::Receiver<()>) -> Ended {
        let unseen = |error| {
            crate::warn_io("watch the VMM's process", &error);
            false
        };
        let was_stuck = self.gone(stopping).await.unwrap_or_else(unseen);
        let ended = match self {
            Self::Ours(process) => process.reap(),
            Self::Jailed(_, jail) => match jail.clean_up().await {
                Ok(code) => code.map_or(Ended::default(), Ended::of_shell_code),
                Err(error) => {
                    tracing::warn!(error = %error, "remove the jail of a VMM that has ended");
                    Ended::default()
                }
            },
        };
        // How it was killed says nothing of its guest's end, of which it has told.
        if was_stuck { Ended::default() } else { ended }
    }

    /// Waits until the process is gone. One that says that it ends, and does not, is killed, for its
    /// guest is gone; whether that had to be done.
    async fn gone(&self, stopping: oneshot::Receiver<()>) -> io::Result<bool> {
        let gone = self.process().gone();
        tokio::pin!(gone);
        tokio::select! {
            gone = &mut gone => return gone.map(|()| false),
            Ok(()) = stopping => {}
        }
        let mut patience = STOPS;
        loop {
            if let Ok(gone) = tokio::time::timeout(patience, &mut gone).await {
                return gone.map(|()| patience != STOPS);
            }
            patience = KILLED;
            let pid = self.process().id.pid;
            tracing::warn!(pid, "a VMM whose guest is gone does not end: it is killed");
            if let Err(error) = self.kill().await {
                tracing::warn!(error = %error, "kill a VMM whose guest is gone");
            }
        }
    }
}

/// A held VMM. Dropping it stops reading what the VMM says. The watch for the end goes on:
/// a child must be reaped whoever holds it.
#[derive(Debug)]
pub(crate) struct Held {
    vmm: Vmm,
    kill_asked: Arc<AtomicBool>,
    exit: watch::Receiver<Option<VmmExit>>,
    readers: Vec<AbortHandle>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Held {
    /// Watches a VMM until its end. `understand` is then given the last lines of `vmm.log`.
    pub(crate) fn watch(
        vmm: Vmm,
        sources: Sources,
        place: &Place,
        understand: impl FnOnce(String) -> LastWords + Send + 'static,
    ) -> Self {
        let mut readers = vec![sources.console.abort_handle()];
        readers.extend(sources.others.iter().map(JoinHandle::abort_handle));
        let kill_asked = Arc::new(AtomicBool::new(false));
        let (tell, exit) = watch::channel(None);
        let asked = Arc::clone(&kill_asked);
        let vmm_log = place.log_dir.join(VMM_LOG);
        let watched = vmm.clone();
        drop(tokio::spawn(async move {
            let ended = watched.ended(sources.stopping).await;
            let panic = last_of(sources.console, sources.others).await;
            let words = understand(last_lines(vmm_log).await);
            let kill_asked = asked.load(Ordering::SeqCst);
            tell.send_replace(Some(told(ended, kill_asked, panic, words)));
        }));
        Self {
            vmm,
            kill_asked,
            exit,
            readers,
        }
    }

    /// The VMM's process.
    pub(crate) fn process(&self) -> &ProcessId {
        &self.vmm.process().id
    }

    /// See [`crate::Machine::is_alive`].
    pub(crate) fn is_alive(&self) -> bool {
        let ended = self.vmm.process().ends_within(Duration::ZERO);
        !ended.unwrap_or(false)
    }

    /// See [`crate::Machine::kill`].
    pub(crate) async fn kill(&self) -> Result<(), EngineError> {
        self.kill_asked.store(true, Ordering::SeqCst);
        self.vmm.kill().await?;
        self.wait().await;
        Ok(())
    }

    /// See [`crate::Machine::wait`].
    pub(crate) async fn wait(&self) -> VmmExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        let told = ended.ok().and_then(|exit| exit.clone());
        // The watch ends without telling only where the whole runtime does.
        told.unwrap_or(VmmExit {
            code: None,
            signal: None,
            reason: ExitReason::Unknown,
            detail: String::new(),
        })
    }

    /// Does `work` with the guest's agent, unless the VMM ends first.
    pub(crate) async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, EngineError> {
        let error = tokio::select! {
            exit = self.wait() => return Err(EngineError::Exited(exit)),
            done = work => match done {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
        };
        match self.exit.borrow().clone() {
            Some(exit) => Err(EngineError::Exited(exit)),
            None => Err(EngineError::Agent(error)),
        }
    }

    /// Waits for a VMM that starts to answer, or for the end of one that cannot.
    pub(crate) async fn answers<T>(
        &self,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let error = tokio::select! {
            exit = self.wait() => return Err(EngineError::Exited(exit)),
            answered = answer => match answered {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            },
        };
        // A dying VMM closes its sockets first; its end tells more than that.
        match tokio::time::timeout(Duration::from_secs(1), self.wait()).await {
            Ok(exit) => Err(EngineError::Exited(exit)),
            Err(_) => Err(error),
        }
    }
}

/// Waits until all was read; gives the reason of a panic.
async fn last_of(
    console: JoinHandle<Option<String>>,
    others: Vec<JoinHandle<()>>,
) -> Option<String> {
    let read = async {
        let panic = console.await.unwrap_or_default();
        for other in others {
            drop(other.await);
        }
        panic
    };
    tokio::time::timeout(LAST_WORDS, read)
        .await
        .unwrap_or_default()
}

/// What a VMM said last.
pub(crate) async fn last_lines(vmm_log: PathBuf) -> String {
    tail(vmm_log, LAST_LINES).await
}

fn told(ended: Ended, kill_asked: bool, panic: Option<String>, words: LastWords) -> VmmExit {
    let reason = judge(&Facts {
        code: ended.code,
        signal: ended.signal,
        kill_asked,
        announced: words.announced,
        panic_on_console: panic.is_some(),
    });
    let detail = match panic {
        Some(panic) if reason == ExitReason::GuestPanic => panic,
        _ => words.detail,
    };
    VmmExit {
        code: ended.code,
        signal: ended.signal,
        reason,
        detail,
    }
}
