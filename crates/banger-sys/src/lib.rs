//! System calls behind safe types: spawn, signals, links, mounts, device-mapper.
//!
//! The room with `unsafe`: every other crate forbids it, but `banger-guest-sys`, for what only the guest
//! does. What `rustix` already offers
//! safely (mount, reboot, module insertion, the clock, terminals) is not wrapped again.
//! Nothing here knows what the callers are for; no function takes a name of theirs.

#![allow(
    unsafe_code,
    reason = "the workspace denies it everywhere else; this crate and banger-guest-sys are where it lives"
)]

pub mod caps;
pub mod cgroup;
pub mod conntrack;
pub mod dirs;
pub mod dm;
pub mod loopdev;
pub mod mounts;
pub mod netlink;
pub mod nft;
pub mod peer;
pub mod pidfd;
pub mod signals;
pub mod spawn;
pub mod tap;
pub mod wait;
