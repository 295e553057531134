//! Loop devices: a file as a block device, held by its descriptor.
//!
//! With autoclear the kernel takes the device down when its last opener closes it, however that
//! one ends. A device is detached only when it still has the backing file that the caller means.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, ResolveFlags, fstat, major, openat2};
use rustix::io::Errno;

use crate::signals::last_errno;

const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// The block devices' major number of loop devices.
const MAJOR: u32 = 7;
/// How many free devices may be lost to others before giving up.
const TRIES: u32 = 64;

// What the kernel reads and writes by these is as large as they are.
const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// Why a loop device was not had, or not let go.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The kernel refused.
    #[error("{operation}")]
    Kernel {
        /// What was asked, as "configure loop device".
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// The device exists, its node in `/dev` does not.
    #[error("open /dev/loop{0}: there is no such node")]
    NoNode(u32),
    /// `/dev/loopN` is something else.
    #[error("refuse /dev/loop{0}: not that loop device")]
    NotLoop(u32),
    /// Every device offered was taken by somebody else first.
    #[error("attach a loop device: each free one was taken at once")]
    Contended,
    /// The device has another backing file than the one meant, or none.
    #[error("refuse to detach /dev/loop{0}: it does not back what is meant")]
    NotOurs(u32),
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> LoopError {
    move |errno| LoopError::Kernel { operation, errno }
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Default)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [[u8; 8]; 8],
    crypt_name: [u64; 8],
    encrypt_key: [u64; 4],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Default)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// How a file is attached. Autoclear always.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Nobody writes through the device.
    pub read_only: bool,
    /// Asks to bypass the page cache; [`Status::direct_io`] says whether the kernel could.
    pub direct_io: bool,
}

/// What the kernel says of an attached device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `st_dev` of the backing file.
    pub backing_device: u64,
    /// `st_ino` of the backing file.
    pub backing_inode: u64,
    /// First byte of the file that the device shows.
    pub offset: u64,
    /// Bytes shown; 0 for all.
    pub size_limit: u64,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether it goes with its last opener.
    pub autoclear: bool,
    /// Whether it bypasses the page cache.
    pub direct_io: bool,
    /// The name given at attaching, cut at 63 bytes; anything, so no proof.
    pub name: Vec<u8>,
}

/// An open loop device. While it is held it stays attached.
#[derive(Debug)]
pub struct Loop {
    fd: OwnedFd,
    number: u32,
    device: Dev,
}

impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Loop {
    /// Attaches `backing`, a regular file opened to read and, unless `read_only`, to write.
    pub fn attach(backing: BorrowedFd<'_>, setup: Setup) -> Result<Self, LoopError> {
        let control =
            open("/dev/loop-control", OFlags::RDWR).map_err(failed("open /dev/loop-control"))?;
        let mut flags = LO_FLAGS_AUTOCLEAR;
        if setup.read_only {
            flags |= LO_FLAGS_READ_ONLY;
        }
        if setup.direct_io {
            flags |= LO_FLAGS_DIRECT_IO;
        }
        let config = Config {
            fd: u32::try_from(backing.as_raw_fd()).map_err(|_| failed("attach")(Errno::BADF))?,
            info: Info {
                flags,
                ..Info::default()
            },
            ..Config::default()
        };
        for _ in 0..TRIES {
            // SAFETY: GET_FREE takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let number = u32::try_from(number)
                .map_err(|_| failed("find a free loop device")(last_errno()))?;
            // A device opened to read only is configured read-only.
            let access = if setup.read_only {
                OFlags::RDONLY
            } else {
                OFlags::RDWR
            };
            let device = match Self::open_for(number, access) {
                // Being removed by somebody else.
                Err(LoopError::Kernel {
                    errno: Errno::NXIO, ..
                }) => continue,
                device => device?,
            };
            // SAFETY: CONFIGURE reads one `loop_config`, which `config` is laid out as.
            let result =
                unsafe { libc::ioctl(device.fd.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
            match check(result) {
                Ok(()) => return Ok(device),
                // Somebody else was quicker.
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(failed("configure loop device")(errno)),
            }
        }
        Err(LoopError::Contended)
    }

    /// Opens `/dev/loop<number>`, attached or not, and proves that it is that device.
    pub fn open(number: u32) -> Result<Self, LoopError> {
        Self::open_for(number, OFlags::RDONLY)
    }

    fn open_for(number: u32, access: OFlags) -> Result<Self, LoopError> {
        let fd = open(&format!("/dev/loop{number}"), access).map_err(|errno| match errno {
            Errno::NOENT => LoopError::NoNode(number),
            errno => failed("open loop device")(errno),
        })?;
        let stat = fstat(&fd).map_err(failed("stat loop device"))?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        if !is_block || major(stat.st_rdev) != MAJOR {
            return Err(LoopError::NotLoop(number));
        }
        Ok(Self {
            fd,
            number,
            device: stat.st_rdev,
        })
    }

    /// The N of `/dev/loopN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The device's number, for tables and nodes.
    pub fn device(&self) -> Dev {
        self.device
    }

    /// What it is attached to; `None` if to nothing.
    pub fn status(&self) -> Result<Option<Status>, LoopError> {
        let mut info = Info::default();
        // SAFETY: GET_STATUS64 writes one `loop_info64`, which `info` is laid out as.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
        match check(result) {
            Ok(()) => {}
            Err(Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(failed("ask loop device")(errno)),
        }
        // A node that bears another device's name.
        if info.number != self.number {
            return Err(LoopError::NotLoop(self.number));
        }
        let name = info
            .file_name
            .as_flattened()
            .split(|byte| *byte == 0)
            .next();
        Ok(Some(Status {
            backing_device: info.device,
            backing_inode: info.inode,
            offset: info.offset,
            size_limit: info.size_limit,
            read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
            autoclear: info.flags & LO_FLAGS_AUTOCLEAR != 0,
            direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0,
            name: name.unwrap_or_default().to_owned(),
        }))
    }

    /// Detaches the device if the file that backs it has this `st_dev` and `st_ino`.
    ///
    /// While others have it open the kernel detaches it when the last of them closes it.
    pub fn detach(&self, backing_device: u64, backing_inode: u64) -> Result<(), LoopError> {
        let status = self.status()?.ok_or(LoopError::NotOurs(self.number))?;
        if (status.backing_device, status.backing_inode) != (backing_device, backing_inode) {
            return Err(LoopError::NotOurs(self.number));
        }
        // SAFETY: CLR_FD takes no argument.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), LOOP_CLR_FD) })
            .map_err(failed("detach loop device"))
    }
}

fn open(path: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, flags, Mode::empty(), resolve)
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        return Err(last_errno());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
