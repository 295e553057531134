//! The image's own init as PID 1, with the agent beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use banger_guest_sys::init::{Forked, fork_alone, realtime_min};
use banger_sys::signals::{self, SIGTERM, SIGUSR2};
use rustix::process::{Pid, setsid};

use super::{InitError, failed, power_off};
use crate::log;

const INIT: &str = "/sbin/init";

/// A control group of its own: systemd would take the agent for a leftover in the root group, and
/// isolating a target would end it.
const CGROUP: &str = "/sys/fs/cgroup/banger-agent";

/// How long the image's init may take to power off before the agent does it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Forks: PID 1 becomes the image's init, the child (in which this returns) goes on as the agent.
/// To be called before there are threads. An error means that the agent is still PID 1.
pub(super) fn to_image_init() -> Result<(), InitError> {
    let metadata = fs::metadata(INIT).map_err(failed(format!("find the image's {INIT}")))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(failed(format!("execute the image's {INIT}"))(
            std::io::Error::from(std::io::ErrorKind::PermissionDenied),
        ));
    }
    match fork_alone().map_err(failed("fork"))? {
        Forked::Parent => {
            // The standard library empties the signal mask and resets SIGPIPE, the one signal it changed.
            let error = Command::new(INIT)
                .env_clear()
                .env("PATH", crate::exec::DEFAULT_PATH)
                .env("TERM", "linux")
                .exec();
            log::error(&format!("fatal: execute {INIT}: {error}"));
            power_off::at_once(None);
            Err(failed(format!("execute {INIT}"))(error))
        }
        Forked::Child => {
            settle();
            Ok(())
        }
    }
}

/// Makes the agent a process that the image's init leaves alone. Each of these may be missing in a
/// guest, which then only makes the agent less safe from its init.
fn settle() {
    let results = [
        setsid().map(drop).map_err(Into::into),
        fs::create_dir(CGROUP),
        fs::write(format!("{CGROUP}/cgroup.procs"), "0"),
        fs::write("/proc/self/oom_score_adj", "-1000"),
        fs::write("/proc/self/comm", "banger-agent"),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        log::error(&format!("settle beside the image's init: {error}"));
    }
}

/// Asks the image's init to power off, and does it at a deadline.
pub(super) fn ask_image_init() {
    let started = std::thread::Builder::new().spawn(|| {
        let is_systemd = fs::read_to_string("/proc/1/comm").is_ok_and(|comm| comm == "systemd\n");
        // systemd: start poweroff.target. BusyBox: power off. Others know neither.
        let signal = if is_systemd {
            realtime_min() + 4
        } else {
            SIGUSR2
        };
        if let Err(errno) = signals::send(Pid::INIT, signal) {
            log::error(&format!("ask {INIT} to power off: {errno}"));
        }
        // It ends the agent among all processes; so this goes on only if it does not come to that.
        std::thread::sleep(DEADLINE);
        log::error("the image's init does not power off");
        let _ = signals::send(Pid::INIT, SIGTERM);
        power_off::at_once(None);
    });
    if let Err(error) = started {
        log::error(&format!("start a thread to power off: {error}"));
    }
}
