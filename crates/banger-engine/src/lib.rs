//! What runs a VM: engines behind one trait.
//!
//! An [`Engine`] starts a [`Machine`] from a [`MachineSpec`] in a [`Place`], or takes a
//! running one over after a restart of the daemon. It knows no VM names and no images.
//!
//! What holds for every engine:
//! - A machine outlives its [`Machine`] value: dropping it lets go, [`Machine::kill`] ends it.
//! - Nothing is waited for by polling: sockets exist before the VMM does or their appearance
//!   is an event, ends come by pidfd.
//! - What the guest writes (console) and what the VMM writes are kept apart, and capped.
//! - A failed start leaves no process and no socket; logs stay, they say why.
#![forbid(unsafe_code)]

mod choose;
mod error;
mod exit;
mod firecracker;
mod held;
mod host;
mod jail;
mod kvm;
mod log;
mod log_times;
mod process;
mod program;
mod qemu;
mod socket;
mod spec;
mod unreachable;

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use banger_guest::boot::{Channel, Network};
use tokio::io::{AsyncRead, AsyncWrite};

pub use choose::{Accel, EngineKind, Wish};
pub use error::EngineError;
pub use exit::{ExitReason, VmmExit};
pub use host::{Finding, Host, Level};
pub use jail::{Jail, JailError, JailFile, JailRole, JailSockets};
pub use kvm::{Kvm, probe_kvm};
pub use log_times::LogTimes;
pub use process::{ProcessId, is_stopped};
pub use spec::{Cache, Drive, MachineSpec, NetworkMode, Place, Tap};
pub use unreachable::unreachable;

/// A stream of bytes to and from the guest's agent.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A stream of any engine.
pub type BoxStream = Box<dyn Stream>;

/// A way to run machines.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// Which one this is.
    fn kind(&self) -> EngineKind;

    /// One line for people: name, version, acceleration and why that one.
    fn describe(&self) -> String;

    /// The kernel modules that its devices need for a VM with this network, by name (as in
    /// `/proc/modules`); what those depend on must be inserted too.
    fn guest_modules(&self, network: NetworkMode) -> Vec<&'static str>;

    /// How the guest's first network card is to be configured, where the engine decides that;
    /// `None` without a card, and for one whose tap somebody else made.
    fn guest_network(&self, mode: NetworkMode) -> Option<Network>;

    /// How the agent will be reached.
    fn channel(&self) -> Channel;

    /// The guest's device file for the drive at this index.
    fn drive_device(&self, index: usize) -> String;

    /// Starts a machine. It returns once the VMM has set itself up; the guest then boots.
    /// What fails from then on is told by [`Machine::agent_ready`] and [`Machine::wait`].
    async fn start(
        &self,
        spec: &MachineSpec,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError>;

    /// Takes over a machine that runs since before this daemon: proves by pidfd, start time
    /// and boot id that the process is the recorded one, or has the jail prove it, then reconnects.
    /// One that is proved and does not answer is taken over all the same.
    async fn adopt(
        &self,
        process: &ProcessId,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError>;
}

/// A running machine. Dropping it lets go of the machine without ending it.
#[async_trait]
pub trait Machine: Send + Sync + fmt::Debug {
    /// The VMM's process, to be stored for [`Engine::adopt`].
    fn process(&self) -> &ProcessId;

    /// Resolves when the guest's agent answers, or with the VMM's end. Has no deadline.
    async fn agent_ready(&self) -> Result<(), EngineError>;

    /// Opens a stream to the agent's port, connecting anew if the wire was lost. Has no deadline.
    async fn connect(&self, port: u32) -> Result<BoxStream, EngineError>;

    /// Presses Ctrl-Alt-Del: PID 1 in the guest gets INT, or the kernel restarts at once if
    /// PID 1 did not ask for that signal. Either way the machine ends.
    async fn ctrl_alt_del(&self) -> Result<(), EngineError>;

    /// Stops the virtual CPUs.
    async fn pause(&self) -> Result<(), EngineError>;

    /// Lets them run again.
    async fn resume(&self) -> Result<(), EngineError>;

    /// Whether the VMM's process has not ended. [`Machine::wait`] may tell its end later, when what it
    /// leaves is removed.
    fn is_alive(&self) -> bool;

    /// Asks the VMM, not its guest, for a sign of life. What keeps it from answering is the error;
    /// one that is stuck may take as long as it likes.
    async fn answers(&self) -> Result<(), EngineError>;

    /// Ends the VMM by KILL and waits until it is gone. Done already is no error.
    async fn kill(&self) -> Result<(), EngineError>;

    /// Waits for the VMM's end. May be awaited by several tasks and after the end.
    async fn wait(&self) -> VmmExit;
}

/// Takes over a machine of this engine, as [`Engine::adopt`] does; whatever the host has now.
pub async fn adopt(
    kind: EngineKind,
    process: &ProcessId,
    place: &Place,
) -> Result<Box<dyn Machine>, EngineError> {
    Ok(match kind {
        EngineKind::Qemu => Box::new(qemu::adopt(process, place).await?),
        EngineKind::Firecracker => Box::new(firecracker::adopt(process, place).await?),
    })
}

/// Firecracker in a jail, whatever this host shows of it: which program that is and whether
/// KVM works is the jail's matter.
pub fn jailed() -> Arc<dyn Engine> {
    Arc::new(firecracker::Firecracker::jailed(None))
}

/// Logs what no caller is there to be told: errors of background tasks and of undoing.
fn warn_io(what: &str, error: &io::Error) {
    tracing::warn!(error = %error, "{what}");
}
