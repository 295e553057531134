//! The virtio-serial port of a name.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};

use super::ChannelError;
use crate::init::uevent::Uevents;

const CLASS: &str = "/sys/class/virtio-ports";

/// Waits for the port called `name` and opens it, not blocking. The kernel lets one process have it.
pub(super) fn open(
    name: &str,
    uevents: &Uevents,
    deadline: Instant,
) -> Result<OwnedFd, ChannelError> {
    let path = uevents
        .wait_for(deadline, || find(name))
        .ok_or_else(|| ChannelError::NoPort {
            name: name.to_owned(),
        })?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| ChannelError::Io {
        operation: format!("open {path:?}"),
        source: errno.into(),
    })
}

/// The port's device node, once it has both its name and its node.
fn find(name: &str) -> Option<PathBuf> {
    fs::read_dir(CLASS).ok()?.flatten().find_map(|entry| {
        let known = fs::read_to_string(entry.path().join("name")).ok()?;
        let node = PathBuf::from("/dev").join(entry.file_name());
        (known.trim_end() == name && node.exists()).then_some(node)
    })
}
