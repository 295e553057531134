//! The kernel's random pool: bytes added with credit, and the generator reseeded at once.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::io::Errno;

/// The most bytes that one call mixes in.
pub const MAX_SEED: usize = 512;

/// `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` with its flexible array cut at [`MAX_SEED`].
#[repr(C)]
struct PoolInfo {
    /// Credit, in bits.
    entropy_count: libc::c_int,
    /// Bytes used of `buf`.
    buf_size: libc::c_int,
    buf: [u8; MAX_SEED],
}

/// Mixes `seed` into the pool, credits eight bits a byte, and reseeds the generator, so that
/// the next read of random bytes depends on it. Needs CAP_SYS_ADMIN.
///
/// `device` is `/dev/urandom` or `/dev/random`, open. A seed over [`MAX_SEED`] bytes is `INVAL`.
pub fn add_credited(device: BorrowedFd<'_>, seed: &[u8]) -> Result<(), Errno> {
    let mut info = PoolInfo {
        entropy_count: 0,
        buf_size: 0,
        buf: [0; MAX_SEED],
    };
    info.buf
        .get_mut(..seed.len())
        .ok_or(Errno::INVAL)?
        .copy_from_slice(seed);
    let bytes = i32::try_from(seed.len()).map_err(|_| Errno::INVAL)?;
    info.buf_size = bytes;
    info.entropy_count = bytes.saturating_mul(8);
    // SAFETY: the kernel reads two ints and `buf_size` bytes behind them; `info` is laid out
    // as `struct rand_pool_info`, and `buf_size` is at most the array's length.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    info.buf.fill(0);
    check(added)?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Opens `/dev/urandom` for [`add_credited`].
pub fn open_device() -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/urandom")
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        return Err(banger_sys::signals::last_errno());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn add_credited_refuses_seeds_over_the_cap() {
        let device = open_device().unwrap();
        assert_eq!(
            add_credited(device.as_fd(), &[0; MAX_SEED + 1]),
            Err(Errno::INVAL)
        );
    }

    #[test]
    fn add_credited_reaches_the_kernel() {
        let device = open_device().unwrap();
        match add_credited(device.as_fd(), &[7; 32]) {
            Ok(()) => {}
            // In a container without CAP_SYS_ADMIN the kernel's refusal shows that it understood the call.
            Err(Errno::PERM) => eprintln!("no CAP_SYS_ADMIN: only the refusal was seen"),
            Err(errno) => panic!("{errno}"),
        }
        // A regular file is no random device: the ioctl number is checked by somebody else.
        let file = tempfile::tempfile().unwrap();
        assert_eq!(add_credited(file.as_fd(), &[7; 32]), Err(Errno::NOTTY));
    }
}
