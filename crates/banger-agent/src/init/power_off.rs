//! The guest's end, in order.

use std::fs;
use std::time::{Duration, Instant};

use banger_guest_sys::init::send_to_all;
use banger_sys::signals::{self, SIGCHLD, SIGKILL, SIGTERM};
use rustix::mount::{MountFlags, mount_remount};
use rustix::system::{RebootCommand, reboot};

use super::mounts::Disk;
use crate::log;
use crate::reaper::Reaper;

/// How long processes may take to end after TERM, and to vanish after KILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
const KILL_GRACE: Duration = Duration::from_secs(1);

/// Tells init, which waits for signals, to end the guest.
pub(super) fn ask_self() {
    let own = rustix::process::getpid();
    if let Err(errno) = signals::send(own, SIGTERM) {
        log::error(&format!("ask init to power off: {errno}"));
    }
}

/// Ends all processes, then the machine.
pub(super) fn in_order(reaper: &Reaper, disk: Option<&Disk>) {
    log::info("powering off");
    for (signal, grace) in [(SIGTERM, TERM_GRACE), (SIGKILL, KILL_GRACE)] {
        // No process left is what is wanted.
        if send_to_all(signal).is_err() || has_emptied(reaper, grace) {
            break;
        }
    }
    at_once(disk);
}

/// Whether all children (as init has them: all processes) have ended within `grace`.
fn has_emptied(reaper: &Reaper, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    while reaper.reap_all() {
        let left = deadline.saturating_duration_since(Instant::now());
        match signals::wait(&[SIGCHLD], Some(left)) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
    true
}

/// Writes everything back and ends the machine.
pub(super) fn at_once(disk: Option<&Disk>) {
    rustix::fs::sync();
    let read_only = MountFlags::RDONLY;
    // A process that survived KILL may hold a file open for writing; then the sync has to do.
    if let Err(errno) = mount_remount("/", read_only, c"") {
        log::error(&format!("make the root read-only: {errno}"));
    }
    if let Some(Err(errno)) = disk.map(Disk::remount_read_only) {
        log::error(&format!("make the disk read-only: {errno}"));
    }
    if can_power_off() {
        // In a thread: where the kernel cannot after all, the call ends its caller, which must not be init.
        let attempt = std::thread::spawn(|| reboot(RebootCommand::PowerOff));
        if let Ok(Err(errno)) = attempt.join() {
            log::error(&format!("power off: {errno}"));
        }
    }
    // Machines that cannot be switched off (microVMs) end when they are reset.
    if let Err(errno) = reboot(RebootCommand::Restart) {
        log::error(&format!("restart: {errno}"));
    }
}

/// Whether the machine has ACPI's soft-off. Without it the kernel would halt, for ever.
fn can_power_off() -> bool {
    fs::read("/sys/firmware/acpi/tables/FACP").is_ok_and(|table| has_soft_off(&table))
}

/// By the fixed ACPI description table: either it is not of the reduced kind, or it names a sleep
/// control register (ACPI 6.4, table 5.9).
fn has_soft_off(table: &[u8]) -> bool {
    const FLAGS: usize = 112;
    const HARDWARE_REDUCED: u32 = 1 << 20;
    const SLEEP_CONTROL_ADDRESS: usize = 248;
    let Some(flags) = table[..].get(FLAGS..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    let is_reduced = u32::from_le_bytes(*flags) & HARDWARE_REDUCED != 0;
    let address = table
        .get(SLEEP_CONTROL_ADDRESS..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    !is_reduced || address != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_is_read_from_the_table() {
        let mut table = vec![0; 276];
        assert!(has_soft_off(&table));
        table[114] = 0x10;
        assert!(!has_soft_off(&table), "reduced, no register");
        table[248] = 1;
        assert!(has_soft_off(&table));
        assert!(!has_soft_off(&table[..40]), "cut");
    }
}
