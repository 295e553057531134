//! What a VMM's end means for its VM: pure.

use banger_api::VmState;
use banger_engine::{ExitReason, VmmExit};
use banger_names::ByteSize;

/// What the daemon did to bring the end about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing: it ended by itself.
    Nothing,
    /// It was asked to stop and did in time.
    Stop,
    /// It was asked to stop, did not in time, and was killed.
    StopDeadline,
    /// It was killed.
    Kill,
    /// Its time was up.
    Ttl,
}

/// A life's end: the state it leads to, one word, one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) state: VmState,
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// Whether a life that ended for this reason left its disk as its guest closed it.
pub(crate) fn is_clean(reason: &str) -> bool {
    matches!(reason, "stopped" | "powered_off")
}

/// The end of a VM whose copy-on-write file has no room left, whatever its VMM said of it.
pub(crate) fn disk_full(disk: ByteSize) -> Ending {
    Ending {
        state: VmState::Crashed,
        reason: "disk_full",
        detail: format!(
            "its disk is full: the host had no more room for what it wrote, {disk} at most; \
             such a snapshot cannot be used again"
        ),
    }
}

/// Judges an end.
pub(crate) fn judge(asked: Asked, exit: &VmmExit) -> Ending {
    let (state, reason, detail) = match (asked, exit.reason) {
        (Asked::Kill, _) => (VmState::Stopped, "killed", "it was killed".to_owned()),
        (Asked::Ttl, _) => (VmState::Stopped, "ttl", "its time was up".to_owned()),
        (Asked::StopDeadline, _) => (
            VmState::Stopped,
            "forced",
            "the guest did not power off in time and was killed".to_owned(),
        ),
        (_, ExitReason::GuestPanic) => (VmState::Crashed, "panicked", exit.to_string()),
        (Asked::Stop, ExitReason::GuestPowerOff | ExitReason::Unknown) => (
            VmState::Stopped,
            "stopped",
            "the guest powered off when asked to".to_owned(),
        ),
        (Asked::Nothing, ExitReason::GuestPowerOff) => {
            (VmState::Stopped, "powered_off", exit.to_string())
        }
        (_, ExitReason::Killed) => (VmState::Crashed, "killed", format!("the VMM ended: {exit}")),
        (_, ExitReason::Crashed | ExitReason::Unknown) => (
            VmState::Crashed,
            "crashed",
            format!("the VMM ended: {exit}"),
        ),
    };
    Ending {
        state,
        reason,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(reason: ExitReason) -> VmmExit {
        VmmExit {
            code: None,
            signal: None,
            reason,
            detail: String::new(),
        }
    }

    #[test]
    fn stop_deadline_kill_and_crash_are_told_apart() {
        let cases = [
            (
                Asked::Stop,
                ExitReason::GuestPowerOff,
                VmState::Stopped,
                "stopped",
            ),
            (
                Asked::StopDeadline,
                ExitReason::Killed,
                VmState::Stopped,
                "forced",
            ),
            (Asked::Kill, ExitReason::Killed, VmState::Stopped, "killed"),
            (Asked::Ttl, ExitReason::Killed, VmState::Stopped, "ttl"),
            (
                Asked::Nothing,
                ExitReason::GuestPowerOff,
                VmState::Stopped,
                "powered_off",
            ),
            (
                Asked::Nothing,
                ExitReason::GuestPanic,
                VmState::Crashed,
                "panicked",
            ),
            (
                Asked::Stop,
                ExitReason::GuestPanic,
                VmState::Crashed,
                "panicked",
            ),
            (
                Asked::Nothing,
                ExitReason::Killed,
                VmState::Crashed,
                "killed",
            ),
            (
                Asked::Nothing,
                ExitReason::Crashed,
                VmState::Crashed,
                "crashed",
            ),
            (
                Asked::Nothing,
                ExitReason::Unknown,
                VmState::Crashed,
                "crashed",
            ),
        ];
        for (asked, reason, state, word) in cases {
            let ending = judge(asked, &exit(reason));
            assert_eq!(
                (ending.state, ending.reason),
                (state, word),
                "{asked:?} {reason:?}"
            );
        }
    }
}
