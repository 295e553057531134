//! What went wrong, in the form that every failure has on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kinds of failure. The HTTP status and the command line's exit code follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request is wrong in itself.
    Invalid,
    /// No such VM, image, kernel, file, program or user.
    NotFound,
    /// The name is taken, or the thing is in use or in the wrong state.
    Conflict,
    /// The caller may not do this.
    Permission,
    /// This host cannot do it (a program, KVM or a kernel feature is missing).
    HostUnsupported,
    /// This daemon is confined and makes no kernels and images; a builder on its store does.
    NeedsBuilder,
    /// A signature, digest or host key is not the one expected.
    Verification,
    /// A limit is reached: disk, memory, descriptors, count.
    Exhausted,
    /// A deadline passed.
    TimedOut,
    /// The caller gave up.
    Cancelled,
    /// The guest could not execute the program (exit code 126).
    NotExecutable,
    /// The VM ended while it was needed.
    VmGone,
    /// A fault of banger itself.
    Internal,
}

impl ProblemCode {
    /// The HTTP status that carries it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid | Self::NotExecutable => 400,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::VmGone => 409,
            Self::Verification => 422,
            Self::NeedsBuilder => 424,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::HostUnsupported => 501,
            Self::TimedOut => 504,
            Self::Exhausted => 507,
        }
    }
}

/// A failure: one line on what failed on which object, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// One line: what failed, on which object.
    pub message: String,
    /// What lay behind it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The next command to type, or what to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The body of every failed request: `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// The failure.
    pub error: Problem,
}

impl Problem {
    /// A problem without causes or hint.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A problem from an error: `message` says what failed, the error and its sources are the causes.
    pub fn because(
        code: ProblemCode,
        message: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let causes = std::iter::successors(Some(error), |e| e.source())
            .map(ToString::to_string)
            .collect();
        Self {
            causes,
            ..Self::new(code, message)
        }
    }
}
