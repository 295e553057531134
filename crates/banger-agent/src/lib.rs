//! The program inside the guest.
//!
//! As PID 1 of banger's initramfs it makes the guest usable ([`init`]): modules, root, network, clock,
//! random numbers. Then it serves hosts over the engine's [`channel`]: [`serve`] dispatches each stream's
//! request to [`exec`], [`copy`], [`ssh`] or [`port`]. Threads, no async; no lookups through the C library,
//! since the program is static and the image's libraries are not its own.
//!
//! The host is trusted with the guest. The guest's own processes are not trusted with the agent: they reach
//! neither its channel nor its files.
#![forbid(unsafe_code)]

pub mod channel;
pub mod copy;
pub mod exec;
pub mod init;
pub mod log;
pub mod port;
pub mod reaper;
pub mod serve;
pub mod ssh;
pub mod stream;
