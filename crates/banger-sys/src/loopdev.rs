//! Loop devices: a file as a block device, held by its descriptor.
//!
//! With autoclear the kernel takes the device down when its last opener closes it, however that
//! one ends. No device is ever detached by its number.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, ResolveFlags, fstat, major, openat2};
use rustix::io::Errno;

use crate::signals::last_errno;

const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// The block devices' major number of loop devices.
const MAJOR: u32 = 7;
/// How many free devices may be lost to others before giving up.
const TRIES: u32 = 64;

// What the kernel reads and writes by these is as large as they are.
const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// Why a loop device was not had.
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

/// An open loop device. While it is held it stays attached.
#[derive(Debug)]
pub struct Loop {
    fd: OwnedFd,
    device: Dev,
}

impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Loop {
    /// Attaches `backing`, a regular file opened to read and, unless `read_only`, to write. Autoclear.
    pub fn attach(backing: BorrowedFd<'_>, read_only: bool) -> Result<Self, LoopError> {
        let control =
            open("/dev/loop-control", OFlags::RDWR).map_err(failed("open /dev/loop-control"))?;
        let mut flags = LO_FLAGS_AUTOCLEAR;
        if read_only {
            flags |= LO_FLAGS_READ_ONLY;
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
            let access = if read_only {
                OFlags::RDONLY
            } else {
                OFlags::RDWR
            };
            let device = match Self::open(number, access) {
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

    /// Opens `/dev/loop<number>`, attached or not, and proves that it is a loop device.
    fn open(number: u32, access: OFlags) -> Result<Self, LoopError> {
        let fd = open(&format!("/dev/loop{number}"), access).map_err(|errno| match errno {
            Errno::NOENT => LoopError::NoNode(number),
            errno => failed("open loop device")(errno),
        })?;
        let stat = fstat(&fd).map_err(failed("stat loop device"))?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        if !is_block || major(stat.st_rdev) != MAJOR {
            return Err(LoopError::NotLoop(number));
        }
        let device = stat.st_rdev;
        Ok(Self { fd, device })
    }

    /// The device's number, for tables and nodes.
    pub fn device(&self) -> Dev {
        self.device
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
pub(crate) mod tests;
