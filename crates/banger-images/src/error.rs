//! Why an operation on images or kernels failed, named by cause.

use banger_names::{ByteSize, InvalidName};
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on images or kernels failed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The host's file system failed us.
    #[error("{what} {path:?}")]
    Io {
        /// What was being done, as `write`.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A program that the work needs is not installed.
    #[error("find the program {tool:?}: it is not installed")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program was run and failed.
    #[error("{what}: {program} ended with {status}: {stderr}")]
    Command {
        /// What it was run for, as `download the kernel`.
        what: &'static str,
        /// The program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The end of what it said, without control characters.
        stderr: String,
    },
    /// What the mirror gave is not signed by the archive's keys, or is not what was signed.
    #[error("verify the package archive: {reason}")]
    Verification {
        /// What apt said.
        reason: String,
    },
    /// The progress sink asked to stop.
    #[error("cancelled while trying to {what}")]
    Cancelled {
        /// What was being done.
        what: String,
    },
    /// There is no such image or kernel.
    #[error("find {kind} {name:?}: there is none")]
    NotFound {
        /// `image` or `kernel`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A digest prefix fits several.
    #[error("find {kind} {name:?}: {count} digests begin so")]
    Ambiguous {
        /// `image` or `kernel`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// How many fit.
        count: usize,
    },
    /// The input as a whole is damaged, hostile or of a kind that is not supported.
    #[error("accept {what:?}: {reason}")]
    Refused {
        /// The input's name.
        what: String,
        /// Why not.
        reason: String,
    },
    /// One entry of an archive is damaged or hostile.
    #[error("accept archive entry {entry:?}: {reason}")]
    RefusedEntry {
        /// The entry's name, cut to a displayable length.
        entry: String,
        /// Why not.
        reason: String,
    },
    /// There is too little room on the file system.
    #[error("write {path:?}: {needed} needed, {available} free")]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// How much was needed.
        needed: ByteSize,
        /// How much there was.
        available: ByteSize,
    },
    /// No package archive could be found for this host.
    #[error("find a Debian package archive for {suite:?}: {reason}")]
    NoSource {
        /// The suite that was wanted.
        suite: String,
        /// What is missing.
        reason: String,
    },
    /// The host cannot do this.
    #[error("{what}: {reason}")]
    Unsupported {
        /// What was wanted, as `build an image as an ordinary user`.
        what: &'static str,
        /// What is in the way.
        reason: String,
        /// What to do about it, as a sentence or command.
        fix: String,
    },
    /// A name that is no name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl ImagesError {
    /// What to do about it: a command or a short sentence, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingTool { package, .. } => Some(format!("sudo apt-get install {package}")),
            Self::NoSource { .. } => Some(
                "name a Debian mirror with --mirror URL (and install debian-archive-keyring)"
                    .into(),
            ),
            Self::Unsupported { fix, .. } => Some(fix.clone()),
            Self::NoSpace { .. } => {
                Some("remove images that are no longer needed with `banger image rm`".into())
            }
            Self::NotFound { kind, .. } => Some(format!("banger {kind} ls")),
            Self::Ambiguous { .. } => Some("give more digits of the digest".into()),
            Self::Verification { .. } => {
                Some("check the host's clock and the mirror; nothing was installed".into())
            }
            _ => None,
        }
    }

    /// For `map_err`: wraps an I/O error with what was done to which path.
    pub(crate) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether a file was not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// An input refused as a whole.
    pub(crate) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// An archive entry refused; its name is cut to 120 characters for display.
    pub(crate) fn entry(name: &[u8], reason: impl Into<String>) -> Self {
        let text = String::from_utf8_lossy(name);
        let mut entry: String = text.chars().take(120).collect();
        if entry.len() < text.len() {
            entry.push('…');
        }
        Self::RefusedEntry {
            entry,
            reason: reason.into(),
        }
    }
}
