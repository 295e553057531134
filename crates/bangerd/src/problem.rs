//! The one place where failures become [`Problem`]s: code, message, causes and the next command.

use crate::config::ConfigError;
use crate::privilege::HelperError;
use crate::store::StoreError;
use crate::vm::plan::PlanError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use banger_api::{Problem, ProblemBody, ProblemCode};
use banger_engine::EngineError;
use banger_guest::request::{Failure, FailureCode};
use banger_images::ImagesError;

/// A failure on its way to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub Problem);

impl Refusal {
    /// A failure of this kind.
    pub(crate) fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self(Problem::new(code, message))
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint))
    }

    /// The request is wrong in itself.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Invalid, message)
    }

    /// The thing is in use or in the wrong state.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Conflict, message)
    }

    /// The caller gave up.
    pub(crate) fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Cancelled, message)
    }

    /// There is no such VM.
    pub(crate) fn no_vm(wanted: &str) -> Self {
        Self::new(
            ProblemCode::NotFound,
            format!("find VM {wanted:?}: there is none"),
        )
        .hint("banger vm list")
    }

    /// A failure of banger itself: `message` says what failed, `error` why.
    pub(crate) fn internal(
        message: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self(Problem::because(ProblemCode::Internal, message, error))
    }

    /// An I/O failure on this host; a full disk and missing descriptors are told apart.
    pub(crate) fn io(message: impl Into<String>, error: &std::io::Error) -> Self {
        let mut problem = Problem::because(io_code(error), message, error);
        problem.hint = io_hint(error);
        Self(problem)
    }

    /// What the agent in a guest refused. Its text is hostile until the client sanitises it.
    pub(crate) fn of_guest(failure: Failure) -> Self {
        let (code, hint) = match failure.code {
            FailureCode::Invalid => (ProblemCode::Invalid, None),
            FailureCode::NotFound | FailureCode::NoSuchUser => (ProblemCode::NotFound, None),
            FailureCode::NotExecutable => (ProblemCode::NotExecutable, None),
            FailureCode::Unsupported => (
                ProblemCode::HostUnsupported,
                Some("use an image that has what is missing, as `banger image build debian` makes"),
            ),
            FailureCode::Limit => (ProblemCode::Exhausted, None),
            FailureCode::Io => (ProblemCode::Internal, None),
        };
        let mut problem = Problem::new(code, failure.message);
        problem.hint = hint.map(str::to_owned);
        Self(problem)
    }
}

/// What to do about a full disk.
const FULL: &str = "free some disk space: `banger image ls`, `banger vm list`";

/// What to do about a limit on open files that is reached.
pub(crate) const NO_FILES: &str = "stop some VMs or end commands that wait, or start bangerd from a shell with a larger `ulimit -n`";

fn io_hint(error: &std::io::Error) -> Option<String> {
    let hint = match error {
        _ if is_full(error) => FULL,
        _ if lacks_files(error) => NO_FILES,
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Whether this process, or the host, has no descriptor left: EMFILE and ENFILE, which have no
/// kind of their own.
pub(crate) fn lacks_files(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

fn io_code(error: &std::io::Error) -> ProblemCode {
    use std::io::ErrorKind;
    match error.kind() {
        _ if is_full(error) => ProblemCode::Exhausted,
        ErrorKind::OutOfMemory => ProblemCode::Exhausted,
        ErrorKind::PermissionDenied => ProblemCode::Permission,
        ErrorKind::NotFound => ProblemCode::NotFound,
        _ if lacks_files(error) => ProblemCode::Exhausted,
        _ => ProblemCode::Internal,
    }
}

/// The error's own line and those of its sources, the line being the message.
fn with_sources(code: ProblemCode, error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::because(code, error.to_string(), error);
    problem.causes.remove(0);
    problem
}

impl From<ImagesError> for Refusal {
    fn from(error: ImagesError) -> Self {
        let code = match &error {
            ImagesError::Io { source, .. } => io_code(source),
            ImagesError::MissingTool { .. }
            | ImagesError::Unsupported { .. }
            | ImagesError::NoSource { .. } => ProblemCode::HostUnsupported,
            ImagesError::Verification { .. } => ProblemCode::Verification,
            ImagesError::Cancelled { .. } => ProblemCode::Cancelled,
            ImagesError::NotFound { .. } => ProblemCode::NotFound,
            ImagesError::Ambiguous { .. } => ProblemCode::Conflict,
            ImagesError::Refused { .. }
            | ImagesError::RefusedEntry { .. }
            | ImagesError::Name(_) => ProblemCode::Invalid,
            ImagesError::NoSpace { .. } => ProblemCode::Exhausted,
            ImagesError::Command { .. } => ProblemCode::Internal,
        };
        let mut problem = with_sources(code, &error);
        problem.hint = match &error {
            ImagesError::NotFound { kind: "image", .. } => {
                Some("banger image ls, or banger image build debian".into())
            }
            ImagesError::NotFound { kind: "kernel", .. } => {
                Some("banger kernel ls, or banger kernel pull".into())
            }
            other => other.hint(),
        };
        Self(problem)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        if let EngineError::Jail { source, .. } = &error
            && let Some(helper) = source.downcast_ref::<HelperError>()
        {
            return helper.refusal();
        }
        let code = match &error {
            EngineError::Missing { .. } | EngineError::Kvm { .. } | EngineError::Unfit { .. } => {
                ProblemCode::HostUnsupported
            }
            EngineError::Spec(_) => ProblemCode::Invalid,
            EngineError::File { source, .. } | EngineError::Io { source, .. } => io_code(source),
            EngineError::Exited(_) | EngineError::NotOurs { .. } => ProblemCode::VmGone,
            EngineError::Silent { .. } => ProblemCode::TimedOut,
            EngineError::Place { .. }
            | EngineError::Control { .. }
            | EngineError::Jail { .. }
            | EngineError::Agent(_) => ProblemCode::Internal,
        };
        let mut problem = with_sources(code, &error);
        problem.hint = match error.fix() {
            Some(fix) => Some(fix.to_owned()),
            None if code == ProblemCode::Internal => Some("banger doctor".into()),
            None => match &error {
                EngineError::File { source, .. } | EngineError::Io { source, .. } => {
                    io_hint(source)
                }
                _ => None,
            },
        };
        Self(problem)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Taken { ref what, ref text } => {
                Self::conflict(format!("name a VM {text:?}: the {what} is taken"))
                    .hint("choose another with --name, or `banger vm rm` the other VM")
            }
            other if other.is_full() => {
                Self(with_sources(ProblemCode::Exhausted, &other).hint(FULL))
            }
            other @ StoreError::NoAddress { .. } => Self(
                with_sources(ProblemCode::Exhausted, &other)
                    .hint("remove VMs (`banger vm list`), or set a larger network.subnet"),
            ),
            other => Self(with_sources(ProblemCode::Internal, &other)),
        }
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        let correct = Some("correct the file, then repeat the command".to_owned());
        let (code, hint) = match &error {
            ConfigError::Io { source, .. } => (io_code(source), io_hint(source)),
            ConfigError::Unsafe { .. } => (ProblemCode::Permission, correct),
            ConfigError::Syntax { .. } => (ProblemCode::Invalid, correct),
        };
        let mut problem = with_sources(code, &error);
        problem.hint = hint;
        Self(problem)
    }
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        let code = match &error {
            PlanError::NoSpace { .. } => ProblemCode::Exhausted,
            PlanError::NoHelper => ProblemCode::HostUnsupported,
            _ => ProblemCode::Invalid,
        };
        let hint = error.hint();
        let mut problem = with_sources(code, &error);
        problem.hint = hint;
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.0.code == ProblemCode::Internal {
            tracing::warn!(problem = ?self.0, "refused");
        }
        (status, Json(ProblemBody { error: self.0 })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_and_missing_descriptors_are_exhaustion() {
        for errno in [28, 122, 24, 23, 12] {
            let error = std::io::Error::from_raw_os_error(errno);
            assert_eq!(
                Refusal::io("write", &error).0.code,
                ProblemCode::Exhausted,
                "errno {errno}"
            );
        }
    }

    #[test]
    fn only_a_full_disk_is_answered_by_freeing_disk_space() {
        let hint = |errno| {
            Refusal::io("write", &std::io::Error::from_raw_os_error(errno))
                .0
                .hint
        };
        assert!(hint(28).is_some() && hint(122).is_some());
        assert!(hint(24).unwrap().contains("ulimit"));
        assert_eq!(hint(12), None);
    }

    #[test]
    fn messages_are_not_repeated_in_causes() {
        let error = ImagesError::Io {
            what: "write",
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(5),
        };
        let problem = Refusal::from(error).0;
        assert_eq!(problem.message, "write \"/x\"");
        assert_eq!(problem.causes.len(), 1);
    }
}
