//! What can go wrong between the helper and a service on the bus.

use std::io;

/// The most characters of a service's own words that an error repeats.
const MAX_TEXT: usize = 256;

/// Why a service did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The socket failed; the connection is of no more use.
    #[error("{operation} over the system bus")]
    Io {
        /// What was being done, as `StartTransientUnit`.
        operation: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The limit passed first. What was asked may yet happen.
    #[error("{0} over the system bus: no answer in time")]
    TimedOut(&'static str),
    /// The bus hung up.
    #[error("{0}: the system bus closed the connection")]
    Closed(&'static str),
    /// The bus does not take us for who we are; its words.
    #[error("log in to the system bus: it said {0:?}")]
    NotAccepted(String),
    /// The bus or a service sent what it must not; the connection is of no more use.
    #[error("read the system bus: {0}")]
    Malformed(&'static str),
    /// An argument that cannot be sent; nothing was.
    #[error("{what} {text:?} is not fit to send")]
    Unfit {
        /// What the text was meant to be, as `unit name`.
        what: &'static str,
        /// The text, sanitised and cut.
        text: String,
    },
    /// A unit of this name is loaded.
    #[error("start {0:?}: it exists already")]
    UnitExists(String),
    /// The service does not run.
    #[error("{0}: the service is not on the system bus")]
    ServiceMissing(&'static str),
    /// The service refused, by D-Bus error name and its own words, sanitised and cut.
    #[error("{operation}: {text:?} ({name})")]
    Refused {
        /// What was asked, as `SetLinkDNSEx`.
        operation: &'static str,
        /// As `org.freedesktop.resolve1.NoSuchLink`.
        name: String,
        /// The service's words.
        text: String,
    },
    /// The scope's start job did not end as `done`; its result, as `failed`.
    #[error("start {unit:?}: the job ended as {result:?}")]
    JobFailed {
        /// The unit.
        unit: String,
        /// The result.
        result: String,
    },
}

impl BusError {
    pub(crate) fn unfit(what: &'static str, text: &str) -> Self {
        let text = printable(text);
        Self::Unfit { what, text }
    }
}

/// `text` with everything but printable ASCII replaced, cut to [`MAX_TEXT`] characters.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().take(MAX_TEXT).map(shown).collect()
}
