//! Who this guest is and what time it is: host name, machine id, clock.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::{InitError, failed};
use crate::serve::read_small;

const MAX_FILE: u64 = 1024 * 1024;

/// How far a good clock (kvm-clock, a battery clock) may be ahead of the figure that the host wrote
/// before it started the VMM, in ms: as long as that may have taken.
const AHEAD: i64 = 60_000;

/// Sets the clock unless it is a good one: that is better than a figure from before the boot.
pub(super) fn set_clock(started_unix_ms: u64) -> Result<(), InitError> {
    let since_boot = millis(clock_gettime(ClockId::Boottime));
    let wanted = i64::try_from(started_unix_ms)
        .unwrap_or(i64::MAX)
        .saturating_add(since_boot);
    let now = millis(clock_gettime(ClockId::Realtime));
    if is_good(now, wanted) {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: wanted / 1000,
        tv_nsec: wanted % 1000 * 1_000_000,
    };
    clock_settime(ClockId::Realtime, time).map_err(failed("set the clock"))
}

/// Whether `now` can be right, if it was at least `wanted` when the guest booted; both in ms.
fn is_good(now: i64, wanted: i64) -> bool {
    (-1000..=AHEAD).contains(&now.saturating_sub(wanted))
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1000)
        .saturating_add(time.tv_nsec / 1_000_000)
}

/// Sets the host name and lets the image's files know it.
pub(super) fn set_names(hostname: &str) -> Result<(), InitError> {
    let is_name = (1..=64).contains(&hostname.len())
        && hostname
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if !is_name {
        return Err(InitError::Value {
            what: "hostname",
            value: hostname.to_owned(),
        });
    }
    sethostname(hostname.as_bytes()).map_err(failed("set the host name"))?;
    if !Path::new("/etc").is_dir() {
        return Ok(());
    }
    replace("/etc/hostname", &format!("{hostname}\n"))?;
    let hosts = read_small("/etc/hosts", MAX_FILE).unwrap_or_default();
    if let Some(hosts) = with_name(&hosts, hostname) {
        replace("/etc/hosts", &hosts)?;
    }
    Ok(())
}

/// The hosts file with what it lacks; `None` if it lacks nothing.
fn with_name(hosts: &str, hostname: &str) -> Option<String> {
    let has = |wanted: &str| {
        hosts.lines().any(|line| {
            let line = line.split('#').next().unwrap_or("");
            line.split_whitespace().skip(1).any(|name| name == wanted)
        })
    };
    let mut text = hosts.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !has("localhost") {
        text.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    }
    if !has(hostname) {
        text.push_str(&format!("127.0.1.1 {hostname}\n"));
    }
    (text.len() > hosts.len()).then_some(text)
}

/// Gives the image a machine id unless it has one.
pub(super) fn write_machine_id() -> Result<(), InitError> {
    const PATH: &str = "/etc/machine-id";
    let known = read_small(PATH, MAX_FILE).unwrap_or_default();
    let known = known.trim();
    if !Path::new("/etc").is_dir() || !(known.is_empty() || known == "uninitialized") {
        return Ok(());
    }
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes[..], GetRandomFlags::empty()).map_err(failed("make a machine id"))?;
    // A version 4 UUID, as systemd makes them.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    replace(PATH, &format!("{:032x}\n", u128::from_be_bytes(bytes)))
}

/// Writes a file in the place of whatever is there; a link is replaced, not followed.
pub(super) fn replace(path: &str, text: &str) -> Result<(), InitError> {
    let write = || -> std::io::Result<()> {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(failed(format!("write {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_the_host_s_or_far_ahead_of_it_is_no_good() {
        let host = 1_795_333_698_000;
        assert!(is_good(host, host) && is_good(host + 6000, host));
        assert!(!is_good(0, host) && !is_good(host - 2000, host));
        assert!(!is_good(host + 3_600_000, host) && !is_good(i64::MAX, i64::MIN));
    }

    #[test]
    fn hosts_get_what_they_lack_only() {
        let whole =
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 box\n";
        assert_eq!(with_name("", "box").as_deref(), Some(whole));
        assert_eq!(with_name(whole, "box"), None);
        assert_eq!(
            with_name("127.0.0.1\tlocalhost # box", "box").as_deref(),
            Some("127.0.0.1\tlocalhost # box\n127.0.1.1 box\n")
        );
    }

    #[test]
    fn replace_takes_a_links_place() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(link.to_str().unwrap(), "new").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
    }

    #[test]
    fn set_names_refuses_what_is_no_name() {
        for bad in ["", "a b", "x\n127.0.0.1 evil", &"a".repeat(65)] {
            assert!(set_names(bad).is_err(), "{bad:?}");
        }
    }
}
