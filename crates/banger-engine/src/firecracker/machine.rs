//! One Firecracker in our hands: what is asked of it, and how what it says of its end is
//! understood.

use std::os::fd::OwnedFd;

use async_trait::async_trait;

use super::api::Api;
use super::faults::{self, FaultName};
use super::vsock::Vsock;
use crate::exit::Announced;
use crate::held::{ASLEEP, Held, LastWords};
use crate::program::Version;
use crate::{BoxStream, EngineError, Machine, ProcessId, VmmExit};

/// What it logs when its guest is gone and only its own threads are left to end. These wait for each
/// other for ever where the API has just been asked something: its thread waits for an answer from the
/// one that waits for its end (`run_with_api` in Firecracker's `api_server_adapter.rs`; seen in 1.12.1).
pub(super) const STOPPING: &str = "Vmm is stopping.";

/// What it logs when it ends without an error of its own: the guest restarted, or panicked.
const ENDED_WELL: &str = "Firecracker exiting successfully";

/// What it logs when it gives up.
const ENDED_BADLY: &str = "Firecracker exiting with error";

/// What it logs when the guest's CPU gives up. It then ends as if all were well.
const CPU_SHUTDOWN: &str = "KVM_EXIT_SHUTDOWN";

/// A held Firecracker.
#[derive(Debug)]
pub(crate) struct FirecrackerMachine {
    held: Held,
    api: Api,
    vsock: Vsock,
    /// The locks on its drives, where it does not have them itself.
    _locks: Vec<OwnedFd>,
}

impl FirecrackerMachine {
    pub(super) fn new(held: Held, api: Api, vsock: Vsock) -> Self {
        Self {
            held,
            api,
            vsock,
            _locks: Vec::new(),
        }
    }

    /// Waits a little for the API of a Firecracker that runs; one that is stuck may come back.
    pub(super) async fn greet_if_awake(&self) -> Result<(), EngineError> {
        let greeted = self.held.answers(self.api.version());
        match tokio::time::timeout(ASLEEP, greeted).await {
            Ok(greeted) => greeted.map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Holds these locks for as long as the machine is held.
    pub(super) fn with_locks(self, locks: Vec<OwnedFd>) -> Self {
        Self {
            _locks: locks,
            ..self
        }
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn process(&self) -> &ProcessId {
        self.held.process()
    }

    async fn agent_ready(&self) -> Result<(), EngineError> {
        self.held.unless_ended(self.vsock.ready()).await
    }

    async fn connect(&self, port: u32) -> Result<BoxStream, EngineError> {
        let stream = self.held.unless_ended(self.vsock.open(port)).await?;
        Ok(Box::new(stream))
    }

    async fn ctrl_alt_del(&self) -> Result<(), EngineError> {
        self.api.ctrl_alt_del().await
    }

    async fn pause(&self) -> Result<(), EngineError> {
        // Asked of the process itself: the file it was started from may be another by now.
        may_pause(self.api.version().await?)?;
        self.api.pause().await
    }

    async fn resume(&self) -> Result<(), EngineError> {
        self.api.resume().await
    }

    fn is_alive(&self) -> bool {
        self.held.is_alive()
    }

    async fn answers(&self) -> Result<(), EngineError> {
        self.api.version().await.map(drop)
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.held.kill().await
    }

    async fn wait(&self) -> VmmExit {
        self.held.wait().await
    }
}

/// Refuses to pause where a pause would lose the agent.
fn may_pause(version: Version) -> Result<(), EngineError> {
    match faults::of(version).find(|fault| fault.name == FaultName::VsockPause) {
        None => Ok(()),
        Some(fault) => Err(EngineError::Control {
            command: "pause",
            reason: format!("in Firecracker {version}, {}", fault.what),
        }),
    }
}

/// Understands the end of Firecracker's log. The exit code alone tells too little: it is 0
/// after some crashes of the guest, and unknown for an adopted process.
pub(super) fn last_words(last_lines: String) -> LastWords {
    let announced = if last_lines.contains(CPU_SHUTDOWN) {
        Some(Announced::TripleFault)
    } else if last_lines.contains(ENDED_WELL) {
        Some(Announced::Reset)
    } else if last_lines.contains(ENDED_BADLY) {
        Some(Announced::Error)
    } else if last_lines.contains(STOPPING) {
        // It got no further. An error that made it stop would have been told before.
        let is_error = last_lines.contains(":ERROR]");
        Some(if is_error {
            Announced::Error
        } else {
            Announced::Reset
        })
    } else {
        None
    };
    let detail = match announced {
        Some(Announced::Reset) => String::new(),
        Some(Announced::TripleFault) => "the guest's CPU shut down after a triple fault".into(),
        _ => complaints(&last_lines),
    };
    LastWords { announced, detail }
}

/// The errors, without what stands before their text. Its warnings are chatter: one comes with
/// every start.
fn complaints(lines: &str) -> String {
    let texts = lines.lines().filter_map(|line| {
        match line.split_once(']') {
            // A line of its log: a date, then the instance, the thread and the level.
            Some((head, text)) if head.contains('[') => {
                let is_error = head.ends_with(":ERROR") && !text.contains(ENDED_BADLY);
                is_error.then_some(text.trim())
            }
            _ => Some(line.trim()),
        }
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_a_triple_fault_and_an_error_are_told_apart() {
        let well = "2026-01-01T00:00:00.1 [anonymous-instance:main:INFO] Vmm is stopping.\n\
                    2026-01-01T00:00:00.2 [anonymous-instance:main:INFO] Firecracker exiting successfully. exit_code=0";
        assert_eq!(
            last_words(well.into()),
            LastWords {
                announced: Some(Announced::Reset),
                detail: String::new()
            }
        );
        let fault = format!(
            "x [anonymous-instance:fc_vcpu 0:INFO] Received KVM_EXIT_SHUTDOWN signal\n{well}"
        );
        assert_eq!(last_words(fault).announced, Some(Announced::TripleFault));
        let stuck = "x [anonymous-instance:main:INFO] Vmm is stopping.\n";
        assert_eq!(last_words(stuck.into()).announced, Some(Announced::Reset));
        let broken = format!("x [anonymous-instance:fc_vcpu 0:ERROR] no\n{stuck}");
        assert_eq!(last_words(broken).announced, Some(Announced::Error));
        assert_eq!(last_words(String::new()), LastWords::default());
    }

    #[test]
    fn pause_is_refused_where_it_would_lose_the_agent() {
        may_pause(Version::new(1, 12, 1)).unwrap();
        let error = may_pause(Version::new(1, 16, 1)).unwrap_err().to_string();
        assert!(
            error.contains("1.16.1") && error.contains("hang"),
            "{error}"
        );
    }

    #[test]
    fn an_error_is_told_without_dates_and_chatter() {
        let log = "x [anonymous-instance:main:INFO] Running Firecracker v1.12.1\n\
                   x [anonymous-instance:fc_vcpu 0:WARN] immediate_exit was disabled\n\
                   x [anonymous-instance:main:ERROR] RunWithApiError error: no such file /a\n\
                   x [anonymous-instance:main:ERROR] Firecracker exiting with error. exit_code=1\n\
                   Error: RunWithApi(BuildFromJson)";
        let words = last_words(log.into());
        assert_eq!(words.announced, Some(Announced::Error));
        assert_eq!(
            words.detail,
            "RunWithApiError error: no such file /a\nError: RunWithApi(BuildFromJson)"
        );
    }
}
