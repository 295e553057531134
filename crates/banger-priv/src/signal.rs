//! The signals that a VMM may be sent.

use serde::{Deserialize, Serialize};

/// A signal, by name: with or without `SIG`, in any case; never by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Signal {
    /// Asks to end.
    Term,
    /// Ends at once.
    Kill,
    /// Interrupt.
    Int,
    /// Hang-up.
    Hup,
    /// Quit.
    Quit,
    /// User-defined.
    Usr1,
    /// User-defined.
    Usr2,
    /// Abort.
    Abrt,
}

/// A signal that is not in the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("send signal {0:?}: only TERM, KILL, INT, HUP, QUIT, USR1, USR2 and ABRT can be sent")]
pub struct UnknownSignal(String);

impl Signal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Term,
        Self::Kill,
        Self::Int,
        Self::Hup,
        Self::Quit,
        Self::Usr1,
        Self::Usr2,
        Self::Abrt,
    ];

    /// The name, without `SIG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Quit => "QUIT",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Abrt => "ABRT",
        }
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: String) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let mut all = Self::ALL.into_iter();
        all.find(|signal| signal.name() == name)
            .ok_or_else(|| UnknownSignal(text.chars().take(40).collect()))
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_process_refuses_all_but_the_eight_names() {
        for signal in Signal::ALL {
            for text in [
                signal.name().to_owned(),
                format!("SIG{}", signal.name()),
                format!("sig{}", signal.name().to_lowercase()),
            ] {
                assert_eq!(Signal::try_from(text), Ok(signal));
            }
        }
        for bad in [
            "",
            "SIG",
            "STOP",
            "CONT",
            "9",
            "15",
            "RTMIN",
            "KILL\n",
            " KILL",
            "KILL ",
            "ＫＩＬＬ",
            "SIGSIGKILL",
            "KILL\0",
            "SEGV",
            "CHLD",
            "0",
            "-9",
        ] {
            assert!(Signal::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
