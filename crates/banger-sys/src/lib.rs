//! System calls behind safe types: spawn, signals, links, entropy, vsock.
//!
//! The one room with `unsafe`: every other crate forbids it. What `rustix` already offers
//! safely (mount, reboot, module insertion, the clock, terminals) is not wrapped again.
//! Nothing here knows what the callers are for; no function takes a name of theirs.

#![allow(
    unsafe_code,
    reason = "the workspace denies it everywhere else; this crate is where it lives"
)]

pub mod entropy;
pub mod netlink;
pub mod signals;
pub mod spawn;
pub mod vsock;
