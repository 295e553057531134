//! A machine that runs and cannot be reached: its end can be waited for and brought about, and
//! that is all.

use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::held::{Held, LastWords, Sources, Vmm, never};
use crate::process::Process;
use crate::{BoxStream, EngineError, Machine, Place, ProcessId, VmmExit};

/// Holds a recorded VMM that could not be taken over, for this reason; refuses if it is not the
/// recorded process any more, or if nobody shows whether it is.
pub fn unreachable(
    process: &ProcessId,
    place: &Place,
    why: String,
) -> Result<Box<dyn Machine>, EngineError> {
    let process = Process::adopt(process)?;
    let vmm = match &place.jail {
        None => Vmm::Ours(process),
        Some(jail) => Vmm::Jailed(process, jail.clone()),
    };
    let console: JoinHandle<Option<String>> = tokio::spawn(async { None });
    let sources = Sources {
        console,
        others: Vec::new(),
        stopping: never(),
    };
    let held = Held::watch(vmm, sources, place, |last_lines| LastWords {
        announced: None,
        detail: last_lines,
    });
    Ok(Box::new(Unreachable { held, why }))
}

#[derive(Debug)]
struct Unreachable {
    held: Held,
    why: String,
}

impl Unreachable {
    fn refuse<T>(&self, command: &'static str) -> Result<T, EngineError> {
        Err(EngineError::Control {
            command,
            reason: self.why.clone(),
        })
    }
}

#[async_trait]
impl Machine for Unreachable {
    fn process(&self) -> &ProcessId {
        self.held.process()
    }

    async fn agent_ready(&self) -> Result<(), EngineError> {
        Err(EngineError::Exited(self.held.wait().await))
    }

    async fn connect(&self, _: u32) -> Result<BoxStream, EngineError> {
        Err(EngineError::Agent(self.why.clone()))
    }

    async fn ctrl_alt_del(&self) -> Result<(), EngineError> {
        self.refuse("press Ctrl-Alt-Del")
    }

    async fn pause(&self) -> Result<(), EngineError> {
        self.refuse("pause")
    }

    async fn resume(&self) -> Result<(), EngineError> {
        self.refuse("resume")
    }

    fn is_alive(&self) -> bool {
        self.held.is_alive()
    }

    async fn answers(&self) -> Result<(), EngineError> {
        self.refuse("answer")
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.held.kill().await
    }

    async fn wait(&self) -> VmmExit {
        self.held.wait().await
    }
}
