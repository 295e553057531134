//! A moment that survives restarts of the daemon and of the host, and clocks that jump.

use super::record::now_unix_ms;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use std::time::Duration;

/// A moment, by two clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// The host's boot.
    boot_id: String,
    /// Milliseconds since that boot, sleep included.
    boot_ms: u64,
    /// Milliseconds since 1970.
    unix_ms: u64,
}

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        Self {
            boot_id: boot_id().to_owned(),
            boot_ms: part(clock.tv_sec) * 1000 + part(clock.tv_nsec) / 1_000_000,
            unix_ms: now_unix_ms(),
        }
    }

    /// How long before `now` this was. Within one boot of the host the clock on the wall, which
    /// people set, does not count; over a reboot there is no other, and one that was set back
    /// meanwhile counts as no time at all.
    pub(crate) fn until(&self, now: &Self) -> Duration {
        let ms = if self.boot_id == now.boot_id {
            now.boot_ms.saturating_sub(self.boot_ms)
        } else {
            now.unix_ms.saturating_sub(self.unix_ms)
        };
        Duration::from_millis(ms)
    }
}

/// The host's boot, which this process does not outlive. Where it cannot be read it is empty, and
/// is then taken for the same boot.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A moment of the boot `boot`, by both clocks in seconds.
    pub(crate) fn moment(boot: &str, boot_s: u64, unix_s: u64) -> Moment {
        Moment {
            boot_id: boot.to_owned(),
            boot_ms: boot_s * 1000,
            unix_ms: unix_s * 1000,
        }
    }

    #[test]
    fn clocks_that_jump_are_not_believed_where_a_better_one_is() {
        let then = moment("a", 100, 1_000_000);
        for (now, seconds) in [
            (moment("a", 160, 1_000_060), 60),
            // Set a year ahead, and back, in between.
            (moment("a", 160, 32_000_000), 60),
            (moment("a", 160, 5), 60),
            // The host was rebooted.
            (moment("b", 10, 1_000_300), 300),
            (moment("b", 10, 5), 0),
        ] {
            assert_eq!(then.until(&now), Duration::from_secs(seconds), "{now:?}");
        }
    }
}
