//! Persistent taps: a link whose other end is an open /dev/net/tun.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

use crate::netlink::message::link_name;

const SET_INTERFACE: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const SET_PERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);
const SET_OWNER: Opcode = opcode::write::<libc::c_int>(b'T', 204);
const SET_GROUP: Opcode = opcode::write::<libc::c_int>(b'T', 206);
/// IFF_TAP, IFF_NO_PI, IFF_VNET_HDR: what a VMM opens it with; and IFF_TUN_EXCL: it must be new.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000 | 0x8000;

/// A new tap, which is gone if this is dropped before [`Self::persist`].
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Makes the tap `name`, down, which only `uid` with the group `gid` may attach to afterwards.
    /// BUSY if the name is taken, INVAL if no link can have it.
    pub fn create(name: &str, uid: u32, gid: u32) -> Result<Self, Errno> {
        let name = link_name(name).ok_or(Errno::INVAL)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open("/dev/net/tun", flags, Mode::empty())?;
        let mut request = [0_u8; 40];
        // struct ifreq: name, flags, and what is unused here.
        for (field, byte) in request
            .iter_mut()
            .zip(name.into_iter().chain(FLAGS.to_ne_bytes()))
        {
            *field = byte;
        }
        // SAFETY: TUNSETIFF reads and writes one struct ifreq, which has 40 bytes, plain numbers all.
        unsafe { ioctl(&fd, Updater::<SET_INTERFACE, [u8; 40]>::new(&mut request)) }?;
        set::<SET_OWNER>(&fd, uid)?;
        set::<SET_GROUP>(&fd, gid)?;
        Ok(Self(fd))
    }

    /// Lets the tap outlive this; netlink deletes it.
    pub fn persist(self) -> Result<(), Errno> {
        set::<SET_PERSIST>(&self.0, 1)
    }
}

fn set<const OPCODE: Opcode>(fd: &OwnedFd, value: u32) -> Result<(), Errno> {
    let value = usize::try_from(value).map_err(|_| Errno::INVAL)?;
    // SAFETY: the TUNSET* used here take a number in the argument itself; no memory is touched.
    unsafe { ioctl(fd, IntegerSetter::<OPCODE>::new_usize(value)) }
}
