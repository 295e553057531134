//! Why an engine could not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of an engine or of one of its machines.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No usable VMM is installed, or the one found cannot be asked its version.
    #[error("find {program}: {reason}; {fix}")]
    Missing {
        /// The program that was looked for.
        program: &'static str,
        /// What was seen.
        reason: String,
        /// What the user can do about it.
        fix: String,
    },
    /// KVM was asked for and cannot be used.
    #[error("use KVM: {reason}")]
    Kvm {
        /// Why not.
        reason: String,
        /// What the user can do about it, where anything can be done.
        fix: Option<String>,
    },
    /// The engine that was asked for cannot run this VM here.
    #[error("run a VM under {engine}: {reason}")]
    Unfit {
        /// The engine.
        engine: crate::EngineKind,
        /// Why it cannot.
        reason: String,
        /// What the user can do about it.
        fix: String,
    },
    /// The specification of the machine makes no sense.
    #[error("take the machine's specification: {0}")]
    Spec(String),
    /// A file the machine needs cannot be opened.
    #[error("open the {what} {path:?}")]
    File {
        /// What the file is to the machine, as "kernel".
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// The run or log directory is not as it must be.
    #[error("use {path:?} as the machine's {what}: {rule}")]
    Place {
        /// Which directory, as "run directory".
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The rule it breaks.
        rule: String,
    },
    /// A step on this host failed.
    #[error("{step}")]
    Io {
        /// The step, as a verb and an object.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The VMM's jail failed.
    #[error("{step} in its jail")]
    Jail {
        /// The step, as a verb and an object.
        step: &'static str,
        /// Why it failed.
        source: crate::JailError,
    },
    /// The process is not the one that was recorded, or is gone.
    #[error("adopt process {pid}: {reason}")]
    NotOurs {
        /// The recorded pid.
        pid: i32,
        /// What does not match.
        reason: String,
    },
    /// The VMM ended while something was still wanted of it.
    #[error("the VMM ended: {0}")]
    Exited(crate::VmmExit),
    /// The VMM refused a command or spoke out of turn.
    #[error("ask the VMM to {command}: {reason}")]
    Control {
        /// The command.
        command: &'static str,
        /// What was answered.
        reason: String,
    },
    /// The VMM did not answer in time.
    #[error("ask the VMM to {command}: no answer within {} s", .limit.as_secs())]
    Silent {
        /// The command.
        command: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The guest's agent cannot be reached.
    #[error("reach the guest's agent: {0}")]
    Agent(String),
}

impl EngineError {
    /// What the user can do about it, where the engine knows.
    pub fn fix(&self) -> Option<&str> {
        match self {
            Self::Missing { fix, .. } | Self::Unfit { fix, .. } => Some(fix),
            Self::Kvm { fix, .. } => fix.as_deref(),
            _ => None,
        }
    }

    /// For `map_err`: a failure of the jail at this step.
    pub(crate) fn jail(step: &'static str) -> impl FnOnce(crate::JailError) -> Self {
        move |source| Self::Jail { step, source }
    }

    /// For `map_err`: an I/O error of the step, written as a verb and an object.
    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}
