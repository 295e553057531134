//! Failures as the user sees them: one line, causes, a hint, and the exit code.
//!
//! Every failure becomes a [`CliError`]; [`CliError::exit_code`] is the only place where a
//! kind of failure becomes a number.

use banger_api::client::ClientError;
use banger_api::{DirsError, InstallError, Problem, ProblemCode};
use banger_guest::frame::FrameError;
use banger_names::InvalidName;
use std::error::Error as StdError;
use std::io;

/// What kind of failure, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// No such VM, image, kernel or file.
    NotFound,
    /// The name is taken, or the thing is busy or in the wrong state.
    Conflict,
    /// Not allowed.
    Permission,
    /// No daemon answers and none could be started.
    DaemonUnreachable,
    /// It would destroy something and nobody said yes.
    ConfirmationNeeded,
    /// This host cannot do it.
    HostUnsupported,
    /// A signature, digest or key is not the one expected.
    Verification,
    /// A limit is reached.
    Exhausted,
    /// A deadline passed.
    TimedOut,
    /// The deadline passed that the user had set for this command.
    OutOfTime,
    /// The user gave up; the code is 128 and the signal's number.
    Cancelled(u8),
    /// The guest cannot execute the program.
    NotExecutable,
    /// The program does not exist in the guest.
    ProgramNotFound,
    /// Whoever read our output is gone: end as quietly as a tool that SIGPIPE kills.
    OutputClosed,
    /// Messages were shown already; only the code is left to be returned.
    Reported(u8),
    /// A fault of banger itself.
    Internal,
}

/// A failure: what failed on which object, why, and the next command to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    /// What kind.
    pub kind: Kind,
    /// One line. Hostile until sanitised.
    pub message: String,
    /// What lay behind it, outermost first. Hostile until sanitised.
    pub causes: Vec<String>,
    /// The next command to type, or what to change.
    pub hint: Option<String>,
}

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// A failure of kind [`Kind::Failed`].
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// A wrong command line that clap could not see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A failed system call, with the kind that its cause suggests.
    pub(crate) fn io(message: impl Into<String>, source: &io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Permission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Exhausted,
            _ => Kind::Failed,
        };
        Self::new(kind, message).because(source)
    }

    /// Output could not be written: quiet when the reader is gone.
    pub(crate) fn output(source: &io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::OutputClosed, "write the output: its reader is gone");
        }
        Self::io("write the output", source)
    }

    /// The same for a sink of the client's, which hands it back as it is.
    pub(crate) fn into_io(self) -> io::Error {
        match self.kind {
            Kind::OutputClosed => io::ErrorKind::BrokenPipe.into(),
            _ => io::Error::other(self),
        }
    }

    /// Adds `error` and its sources as causes.
    #[must_use]
    pub(crate) fn because(mut self, error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same; what was timed out because of the user's own `--timeout` is told apart.
    #[must_use]
    pub(crate) fn of_deadline(mut self, timeout: Option<std::time::Duration>) -> Self {
        if timeout.is_some() && self.kind == Kind::TimedOut {
            self.kind = Kind::OutOfTime;
        }
        self
    }

    /// The exit code. `attached` is for `run`, `exec` and `ssh`, whose codes are the guest's
    /// command's unless it is 125 to 127 (or 124, when the command itself was timed out).
    pub(crate) fn exit_code(&self, attached: bool) -> u8 {
        match self.kind {
            Kind::Cancelled(signal) => 128 + signal,
            Kind::OutputClosed => 141,
            Kind::Reported(code) => code,
            Kind::OutOfTime => 124,
            Kind::NotExecutable if attached => 126,
            Kind::ProgramNotFound if attached => 127,
            _ if attached => 125,
            Kind::Usage => 2,
            Kind::NotFound | Kind::ProgramNotFound => 3,
            Kind::Conflict => 4,
            Kind::Permission => 5,
            Kind::DaemonUnreachable => 6,
            Kind::ConfirmationNeeded => 7,
            Kind::HostUnsupported => 8,
            Kind::Verification => 9,
            Kind::Failed
            | Kind::Exhausted
            | Kind::TimedOut
            | Kind::NotExecutable
            | Kind::Internal => 1,
        }
    }

    /// The kind as it stands in `{"error":{"code":...}}`.
    pub(crate) fn code(&self) -> &'static str {
        match self.kind {
            Kind::Failed | Kind::Reported(_) => "failed",
            Kind::Usage => "usage",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Permission => "permission",
            Kind::DaemonUnreachable => "daemon_unreachable",
            Kind::ConfirmationNeeded => "confirmation_needed",
            Kind::HostUnsupported => "host_unsupported",
            Kind::Verification => "verification",
            Kind::Exhausted => "exhausted",
            Kind::TimedOut | Kind::OutOfTime => "timed_out",
            Kind::Cancelled(_) => "cancelled",
            Kind::NotExecutable => "not_executable",
            Kind::ProgramNotFound => "program_not_found",
            Kind::OutputClosed => "output_closed",
            Kind::Internal => "internal",
        }
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let kind = match problem.code {
            ProblemCode::Invalid => Kind::Usage,
            ProblemCode::NotFound => Kind::NotFound,
            ProblemCode::Conflict | ProblemCode::VmGone => Kind::Conflict,
            ProblemCode::Permission => Kind::Permission,
            ProblemCode::HostUnsupported | ProblemCode::NeedsBuilder => Kind::HostUnsupported,
            ProblemCode::Verification => Kind::Verification,
            ProblemCode::Exhausted => Kind::Exhausted,
            ProblemCode::TimedOut => Kind::TimedOut,
            ProblemCode::Cancelled => Kind::Failed,
            ProblemCode::NotExecutable => Kind::NotExecutable,
            ProblemCode::Internal => Kind::Internal,
        };
        Self {
            kind,
            message: problem.message,
            causes: problem.causes,
            hint: problem.hint,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => problem.into(),
            ClientError::Unreachable { ref source, .. } => {
                let kind = match source.kind() {
                    io::ErrorKind::PermissionDenied => Kind::Permission,
                    _ => Kind::DaemonUnreachable,
                };
                Self::new(kind, error.to_string())
                    .because(source)
                    .hint("banger doctor")
            }
            ClientError::Impostor { ref socket, .. } => {
                Self::new(Kind::Permission, format!("{error}; nothing was sent to it")).hint(
                    format!(
                        "find out who listens there: ss -xlp src {}",
                        socket.display()
                    ),
                )
            }
            ClientError::Wire { ref source, what } => match source.downcast_ref::<io::Error>() {
                Some(io) if what == "pass the answer on" => Self::output(io),
                _ => Self::failed(error.to_string()).because(source.as_ref()),
            },
        }
    }
}

impl From<DirsError> for CliError {
    fn from(error: DirsError) -> Self {
        let message = error.to_string();
        match error {
            DirsError::Relative { name, .. } => Self::new(Kind::Usage, message).hint(format!(
                "{name}=$PWD/... names a place below this directory"
            )),
            DirsError::NoHome => Self::failed(message).hint("export HOME=/path/to/your/home"),
            DirsError::Io { source, .. } => Self::io(message, &source),
            DirsError::Unsafe { path, .. } => Self::new(Kind::Permission, message)
                .hint(format!("remove {path:?}, or chmod 0700 it if it is yours")),
        }
    }
}

impl From<InstallError> for CliError {
    fn from(error: InstallError) -> Self {
        let message = error.to_string();
        let kind = match &error {
            InstallError::Io { source, .. } => return Self::io(message, source),
            InstallError::Unsafe { .. } => Kind::Permission,
            InstallError::UnknownMode(_) => Kind::Usage,
            InstallError::NotInstalled => Kind::NotFound,
        };
        let hint = match kind {
            Kind::Usage => "leave BANGER_MODE out: what is installed is used",
            Kind::NotFound => "sudo banger system install",
            _ => "sudo banger system install writes it anew; --rootless does without it",
        };
        Self::new(kind, message).hint(hint)
    }
}

impl From<InvalidName> for CliError {
    fn from(error: InvalidName) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<FrameError> for CliError {
    fn from(error: FrameError) -> Self {
        Self::failed("talk to the daemon").because(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_kind() {
        for (kind, plain, attached) in [
            (Kind::Failed, 1, 125),
            (Kind::Usage, 2, 125),
            (Kind::NotFound, 3, 125),
            (Kind::Conflict, 4, 125),
            (Kind::Permission, 5, 125),
            (Kind::DaemonUnreachable, 6, 125),
            (Kind::ConfirmationNeeded, 7, 125),
            (Kind::HostUnsupported, 8, 125),
            (Kind::Verification, 9, 125),
            (Kind::TimedOut, 1, 125),
            (Kind::OutOfTime, 124, 124),
            (Kind::NotExecutable, 1, 126),
            (Kind::ProgramNotFound, 3, 127),
            (Kind::Cancelled(2), 130, 130),
            (Kind::OutputClosed, 141, 141),
        ] {
            let error = CliError::new(kind, "x");
            assert_eq!(error.exit_code(false), plain, "{kind:?}");
            assert_eq!(error.exit_code(true), attached, "{kind:?} attached");
        }
    }

    #[test]
    fn a_gone_reader_is_told_from_a_broken_daemon() {
        let wire = |what| ClientError::Wire {
            what,
            source: Box::new(io::Error::from(io::ErrorKind::BrokenPipe)),
        };
        assert_eq!(
            CliError::from(wire("pass the answer on")).kind,
            Kind::OutputClosed
        );
        assert_eq!(CliError::from(wire("write the stream")).kind, Kind::Failed);
    }
}
