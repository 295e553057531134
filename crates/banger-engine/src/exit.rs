//! How a VMM ended, and why: a pure judgement of facts collected elsewhere.

use std::fmt;

/// How a VMM's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmExit {
    /// The exit code. `None` if a signal ended it, or if it was adopted (only a process's
    /// parent learns its code).
    pub code: Option<i32>,
    /// The signal's number, if one ended it.
    pub signal: Option<i32>,
    /// Why.
    pub reason: ExitReason,
    /// The reason that a panicking guest gave; else the last lines of `vmm.log`, at most 2 KiB.
    /// Empty if nothing is said.
    pub detail: String,
}

/// Why a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest switched itself off, or asked for a restart (machines never restart).
    GuestPowerOff,
    /// The guest's kernel panicked.
    GuestPanic,
    /// It was killed: by us, by a signal such as KILL or TERM, by the host being short of memory.
    Killed,
    /// It ended by itself with an error, or by a fault.
    Crashed,
    /// Nothing tells.
    Unknown,
}

/// What is known of an end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The exit code, if we are the parent and it exited.
    pub(crate) code: Option<i32>,
    /// The signal, if we are the parent and one ended it.
    pub(crate) signal: Option<i32>,
    /// Whether [`crate::Machine::kill`] was called.
    pub(crate) kill_asked: bool,
    /// What the VMM itself announced.
    pub(crate) announced: Option<Announced>,
    /// Whether the kernel's panic line was seen on the console.
    pub(crate) panic_on_console: bool,
}

/// What a VMM announces before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset; a kernel that panics ends so too.
    Reset,
    /// The guest reported a panic.
    Panic,
    /// The guest's CPU gave up: a fault while handling a fault.
    TripleFault,
    /// A signal or a command from the host's side.
    Host,
    /// An error of the VMM's own.
    Error,
}

/// Judges why a VMM ended.
pub(crate) fn judge(facts: &Facts) -> ExitReason {
    // KILL leaves no announcement of its own; one seen before it came from the guest.
    match facts.announced {
        Some(Announced::PowerOff) => return ExitReason::GuestPowerOff,
        Some(Announced::Panic) => return ExitReason::GuestPanic,
        Some(Announced::Reset) if facts.panic_on_console => return ExitReason::GuestPanic,
        Some(Announced::Reset) => return ExitReason::GuestPowerOff,
        Some(Announced::Host) => return ExitReason::Killed,
        Some(Announced::TripleFault) if facts.panic_on_console => return ExitReason::GuestPanic,
        Some(Announced::Error | Announced::TripleFault) => return ExitReason::Crashed,
        None => {}
    }
    match (facts.signal, facts.code) {
        (Some(1 | 2 | 9 | 15), _) => ExitReason::Killed,
        (Some(_), _) => ExitReason::Crashed,
        (None, Some(code)) if code != 0 => ExitReason::Crashed,
        _ if facts.kill_asked => ExitReason::Killed,
        _ => ExitReason::Unknown,
    }
}

impl fmt::Display for VmmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            ExitReason::GuestPowerOff => "the guest powered off",
            ExitReason::GuestPanic => "the guest's kernel panicked",
            ExitReason::Killed => "it was killed",
            ExitReason::Crashed => "it failed",
            ExitReason::Unknown => "for an unknown reason",
        })?;
        match (self.signal, self.code) {
            (Some(signal), _) => write!(f, " (signal {signal})")?,
            (None, Some(code)) if code != 0 => write!(f, " (exit code {code})")?,
            _ => {}
        }
        let lines: Vec<&str> = self.detail.lines().collect();
        let last = lines
            .get(lines.len().saturating_sub(2)..)
            .unwrap_or_default();
        if last.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", last.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_panic_from_restart_and_kill_from_crash() {
        let base = Facts::default();
        let with = |announced, panic_on_console| Facts {
            announced: Some(announced),
            panic_on_console,
            code: Some(0),
            ..base.clone()
        };
        assert_eq!(
            judge(&with(Announced::PowerOff, true)),
            ExitReason::GuestPowerOff
        );
        assert_eq!(judge(&with(Announced::Reset, true)), ExitReason::GuestPanic);
        assert_eq!(
            judge(&with(Announced::Reset, false)),
            ExitReason::GuestPowerOff
        );
        assert_eq!(judge(&with(Announced::Host, false)), ExitReason::Killed);
        assert_eq!(
            judge(&with(Announced::TripleFault, false)),
            ExitReason::Crashed
        );
        let signal = |signal| Facts {
            signal: Some(signal),
            ..base.clone()
        };
        assert_eq!(judge(&signal(9)), ExitReason::Killed);
        assert_eq!(judge(&signal(11)), ExitReason::Crashed);
        assert_eq!(judge(&signal(31)), ExitReason::Crashed);
        let code = |code| Facts {
            code: Some(code),
            ..base.clone()
        };
        assert_eq!(judge(&code(1)), ExitReason::Crashed);
        assert_eq!(judge(&code(0)), ExitReason::Unknown);
        assert_eq!(
            judge(&Facts {
                kill_asked: true,
                ..base.clone()
            }),
            ExitReason::Killed
        );
        assert_eq!(judge(&base), ExitReason::Unknown);
    }
}
