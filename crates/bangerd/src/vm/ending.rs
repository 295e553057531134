//! What a VMM's end means for its VM: pure.

use super::pulse::Memory;
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
    /// It took most of what must stay free on the host's disk.
    HostFull {
        /// What was left.
        free: ByteSize,
    },
}

/// A life's end: the state it leads to, one word, one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) state: VmState,
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// The word for a VMM that the kernel killed for want of memory.
pub(crate) const OOM: &str = "oom";

/// The word for a VM that was ended before it had filled the host's disk.
pub(crate) const HOST_FULL: &str = "host_full";

/// What to do where the host's disk is nearly full.
pub(crate) const MAKE_ROOM: &str =
    "remove what is not needed: `banger system df` shows what that is";

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

/// Judges an end; `memory` is how the host's was when it came.
pub(crate) fn judge(asked: Asked, exit: &VmmExit, memory: Memory) -> Ending {
    let is_ours = !matches!(asked, Asked::Nothing | Asked::Stop);
    let is_sudden = matches!(exit.reason, ExitReason::Killed | ExitReason::Unknown);
    if !is_ours && is_sudden && memory == Memory::RanOut {
        return Ending {
            state: VmState::Crashed,
            reason: OOM,
            detail: "the kernel killed its VMM: memory ran out".to_owned(),
        };
    }
    let (state, reason, detail) = match (asked, exit.reason) {
        (Asked::Kill, _) => (VmState::Stopped, "killed", "it was killed".to_owned()),
        (Asked::Ttl, _) => (VmState::Stopped, "ttl", "its time was up".to_owned()),
        (Asked::HostFull { free }, _) => (
            VmState::Crashed,
            HOST_FULL,
            format!("{free} are left of the host's disk, and it took most of what was free"),
        ),
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
        (_, ExitReason::Killed) if memory == Memory::Unknown => (
            VmState::Crashed,
            "killed",
            format!("the VMM ended: {exit}; perhaps memory ran out, this kernel does not tell"),
        ),
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
    fn want_of_memory_is_told_where_it_is_known_and_only_of_sudden_ends() {
        use ExitReason::{Crashed, GuestPanic, Killed, Unknown};
        let word = |asked, reason, memory| judge(asked, &exit(reason), memory).reason;
        for (asked, reason, memory, wanted) in [
            (Asked::Nothing, Killed, Memory::RanOut, OOM),
            (Asked::Stop, Killed, Memory::RanOut, OOM),
            (Asked::Nothing, Unknown, Memory::RanOut, OOM),
            (Asked::Kill, Killed, Memory::RanOut, "killed"),
            (Asked::StopDeadline, Killed, Memory::RanOut, "forced"),
            (Asked::Nothing, GuestPanic, Memory::RanOut, "panicked"),
            (Asked::Nothing, Crashed, Memory::RanOut, "crashed"),
            (Asked::Nothing, Killed, Memory::Sufficed, "killed"),
        ] {
            assert_eq!(word(asked, reason, memory), wanted, "{asked:?} {reason:?}");
        }
        let unsure = judge(Asked::Nothing, &exit(Killed), Memory::Unknown);
        assert!(
            unsure.detail.contains("perhaps memory ran out"),
            "{unsure:?}"
        );
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
            let ending = judge(asked, &exit(reason), Memory::Sufficed);
            assert_eq!(
                (ending.state, ending.reason),
                (state, word),
                "{asked:?} {reason:?}"
            );
        }
    }
}
