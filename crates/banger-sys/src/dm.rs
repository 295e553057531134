//! Device-mapper by its ioctls: create, load, resume, ask, remove.
//!
//! A device is made with a name and a UUID, and asked for by either. By UUID is the proof of
//! whose it is: the kernel looks it up and acts in one step. Messages are bytes in the kernel's
//! layout; nothing waits for udev, and callers make nodes from the number they are given.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod message;

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Dev, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::signals::last_errno;
use message::{Answer, Request};

const READONLY: u32 = 1 << 0;
const SUSPEND: u32 = 1 << 1;
const ACTIVE_PRESENT: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// udev's rules read these flags from the upper half of an event's cookie: no subsystem, disk or
/// other rules for the device, so that no blkid of root's parses what is on it.
/// The lower half, on which somebody could wait, is 0.
const UDEV_LEAVE_ALONE: u32 = (0x2 | 0x4 | 0x8) << 16;

/// A command's number, as `_IOWR(0xfd, number, struct dm_ioctl)`.
type Command = libc::Ioctl;
const VERSION: Command = 0xc138_fd00;
const LIST_DEVICES: Command = 0xc138_fd02;
const DEV_CREATE: Command = 0xc138_fd03;
const DEV_REMOVE: Command = 0xc138_fd04;
const DEV_SUSPEND: Command = 0xc138_fd06;
const DEV_STATUS: Command = 0xc138_fd07;
const TABLE_LOAD: Command = 0xc138_fd09;

/// Why device-mapper did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// The kernel refused. `NXIO`: there is no such device; `BUSY`: it exists already, or is in use.
    #[error("{operation}")]
    Kernel {
        /// What was asked, as "load dm table".
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// A name, UUID, type or list of parameters that does not fit or has foreign characters.
    #[error("refuse {0:?}: it cannot be part of a dm request")]
    Unfit(String),
    /// An answer that is cut or not as documented.
    #[error("read the answer of dm: it is cut or malformed")]
    Malformed,
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> DmError {
    move |errno| DmError::Kernel { operation, errno }
}

/// How a device is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'a> {
    /// By its name, which proves nothing.
    Name(&'a str),
    /// By its UUID.
    Uuid(&'a str),
}

/// A piece of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector (of 512 bytes).
    pub start: u64,
    /// Sectors.
    pub length: u64,
    /// Its type, as `snapshot`.
    pub kind: String,
    /// Its parameters.
    pub params: String,
}

/// What the kernel says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its UUID; empty if it has none.
    pub uuid: String,
    /// Its number.
    pub device: Dev,
    /// How many have it open, mounts and other devices included.
    pub open_count: i32,
    /// Whether it has a live table.
    pub active: bool,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether it goes when its last opener closes it.
    pub deferred_remove: bool,
}

/// What became of a device to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Now,
    /// It goes when its last opener closes it.
    Deferred,
}

/// The kernel's device-mapper.
#[derive(Debug)]
pub struct DeviceMapper(OwnedFd);

impl DeviceMapper {
    /// Opens `/dev/mapper/control` and checks that the interface is recent enough.
    pub fn open() -> Result<Self, DmError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let control = openat2(CWD, "/dev/mapper/control", flags, Mode::empty(), resolve)
            .map_err(failed("open /dev/mapper/control"))?;
        let mapper = Self(control);
        mapper.ask("ask dm for its version", VERSION, Request::default())?;
        Ok(mapper)
    }

    /// Makes a device without a table.
    pub fn create(&self, name: &str, uuid: &str) -> Result<Info, DmError> {
        let request = Request {
            name,
            uuid,
            ..Request::default()
        };
        self.ask("create dm device", DEV_CREATE, request)?.info()
    }

    /// Loads a table, which takes effect at the next [`DeviceMapper::resume`].
    pub fn load(&self, by: By<'_>, targets: &[Target], read_only: bool) -> Result<(), DmError> {
        let request = Request {
            flags: if read_only { READONLY } else { 0 },
            targets,
            ..Request::about(by)
        };
        self.ask("load dm table", TABLE_LOAD, request).map(drop)
    }

    /// Makes the loaded table live, and a suspended device work again.
    pub fn resume(&self, by: By<'_>) -> Result<Info, DmError> {
        let request = Request {
            event_nr: UDEV_LEAVE_ALONE,
            ..Request::about(by)
        };
        self.ask("resume dm device", DEV_SUSPEND, request)?.info()
    }

    /// Removes a device; one in use at its last close if `deferred`, else that is `BUSY`.
    pub fn remove(&self, by: By<'_>, deferred: bool) -> Result<Removed, DmError> {
        let request = Request {
            flags: if deferred { DEFERRED_REMOVE } else { 0 },
            event_nr: UDEV_LEAVE_ALONE,
            ..Request::about(by)
        };
        let answer = self.ask("remove dm device", DEV_REMOVE, request)?;
        Ok(if answer.flags & DEFERRED_REMOVE == 0 {
            Removed::Now
        } else {
            Removed::Deferred
        })
    }

    /// What a device is; `None` if there is none.
    pub fn info(&self, by: By<'_>) -> Result<Option<Info>, DmError> {
        match self.ask("ask for dm device", DEV_STATUS, Request::about(by)) {
            Ok(answer) => answer.info().map(Some),
            Err(DmError::Kernel {
                errno: Errno::NXIO, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All devices there are.
    pub fn list(&self) -> Result<Vec<Info>, DmError> {
        let request = Request {
            lists: true,
            ..Request::default()
        };
        let names = self
            .ask("list dm devices", LIST_DEVICES, request)?
            .names()?;
        names
            .iter()
            .filter_map(|name| self.info(By::Name(name)).transpose())
            .collect()
    }

    fn ask(
        &self,
        operation: &'static str,
        command: Command,
        request: Request<'_>,
    ) -> Result<Answer, DmError> {
        let mut bytes = request.encode()?;
        // SAFETY: the kernel reads and writes at most as many bytes as the header's `data_size`
        // says, which `encode` sets to the length of the buffer.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), command, bytes.as_mut_ptr()) };
        if result < 0 {
            return Err(failed(operation)(last_errno()));
        }
        let answer = Answer::decode(bytes)?;
        if answer.flags & BUFFER_FULL != 0 {
            return Err(DmError::Malformed);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
