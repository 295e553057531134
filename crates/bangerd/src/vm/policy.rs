//! Whether and when a VM that has ended is started again, and when its time is up: pure.

use super::moment::Moment;
use super::record::{Retry, VmRecord};
use banger_api::{RestartPolicy, VmState};
use std::time::Duration;

/// How long a VM must have run for its failures before that to be forgotten.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The wait before the first restart; it doubles with each that follows.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait before a restart.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What becomes of a VM that has ended by itself: when it is started again, if it is.
pub(super) fn retry(record: &VmRecord, now: &Moment) -> Option<Retry> {
    let ran = record.began.as_ref().map(|began| began.until(now));
    let has_run = record.boot_ms.is_some();
    let restarts = match ran {
        Some(ran) if has_run && ran >= FORGIVEN => 0,
        _ => record.restarts,
    };
    let is_wanted = match record.plan.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure { most } => {
            record.state == VmState::Crashed && most.is_none_or(|most| restarts < most)
        }
    };
    is_wanted.then(|| Retry {
        restarts: restarts.saturating_add(1),
        since: now.clone(),
        wait: wait(restarts),
    })
}

/// How long to wait before what failed `times` times before is tried again.
pub(super) fn wait(times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
}

/// How long the VM may still run; `None`: for ever.
pub(super) fn time_left(record: &VmRecord, now: &Moment) -> Option<Duration> {
    let ttl = Duration::from_millis(record.plan.ttl_ms?);
    let since = record.lease.as_ref()?;
    Some(ttl.saturating_sub(since.until(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::moment::tests::moment;
    use crate::vm::record::tests::record;

    /// A VM that crashed, or stopped, after so many seconds and so many restarts in a row.
    fn ended(policy: &str, state: VmState, ran: u64, restarts: u32) -> (VmRecord, Moment) {
        let mut vm = record("dev");
        vm.plan.restart = policy.parse().unwrap();
        vm.began = Some(moment("a", 1000, 0));
        vm.boot_ms = Some(1);
        vm.restarts = restarts;
        vm.end(state, "x", "");
        (vm, moment("a", 1000 + ran, 0))
    }

    fn waits(policy: &str, state: VmState, ran: u64, restarts: u32) -> Option<u64> {
        let (vm, now) = ended(policy, state, ran, restarts);
        retry(&vm, &now).map(|retry| retry.wait.as_secs())
    }

    #[test]
    fn policies_differ_by_how_a_vm_ended_and_how_often() {
        use VmState::{Crashed, Stopped};
        for (policy, state, restarts, wait) in [
            ("no", Crashed, 0, None),
            ("on-failure", Crashed, 0, Some(1)),
            ("on-failure", Stopped, 0, None),
            ("on-failure:2", Crashed, 1, Some(2)),
            ("on-failure:2", Crashed, 2, None),
            ("always", Crashed, 3, Some(8)),
            ("always", Stopped, 5, Some(32)),
            ("always", Stopped, 6, Some(60)),
            ("always", Crashed, 4_000_000, Some(60)),
        ] {
            assert_eq!(
                waits(policy, state, 5, restarts),
                wait,
                "{policy} {restarts}"
            );
        }
    }

    #[test]
    fn a_long_run_forgives_but_a_long_boot_does_not() {
        assert_eq!(waits("always", VmState::Crashed, 599, 5), Some(32));
        assert_eq!(waits("always", VmState::Crashed, 600, 5), Some(1));
        assert_eq!(waits("on-failure:2", VmState::Crashed, 600, 2), Some(1));
        let (mut vm, now) = ended("always", VmState::Crashed, 600, 5);
        vm.boot_ms = None;
        assert_eq!(retry(&vm, &now).unwrap().wait.as_secs(), 32);
    }

    #[test]
    fn a_wait_is_neither_cut_nor_stretched_by_a_clock_that_is_set() {
        let (vm, ended) = ended("always", VmState::Crashed, 5, 4);
        let retry = retry(&vm, &ended).unwrap();
        let left = |boot, boot_s, unix_s| retry.left(&moment(boot, boot_s, unix_s)).as_secs();
        assert_eq!(left("a", 1005, 0), 16);
        assert_eq!(left("a", 1011, 99_000_000), 10);
        assert_eq!(left("a", 1021, 0), 0);
        // After a reboot the clock on the wall is all there is; set back, it makes the wait anew.
        assert_eq!(left("b", 1, 10), 6);
        assert_eq!(left("b", 1, 0), 16);
    }

    #[test]
    fn time_is_up_by_the_clock_that_does_not_jump() {
        let mut vm = record("dev");
        let left = |vm: &VmRecord, now| time_left(vm, &now).map(|left| left.as_secs());
        assert_eq!(left(&vm, moment("a", 9, 9)), None);
        vm.plan.ttl_ms = Some(3_600_000);
        vm.lease = Some(moment("a", 100, 1_000_000));
        assert_eq!(left(&vm, moment("a", 700, 99_000_000)), Some(3000));
        assert_eq!(left(&vm, moment("a", 9000, 5)), Some(0));
        assert_eq!(left(&vm, moment("b", 1, 1_000_600)), Some(3000));
    }
}
