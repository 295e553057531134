//! System calls that only the guest's first process makes, behind safe types: entropy, vsock, a fork.
//!
//! As `banger-sys` this room has `unsafe`; nothing of it runs as root on a host.

#![allow(
    unsafe_code,
    reason = "the workspace denies it everywhere else; this crate and banger-sys are where it lives"
)]

pub mod entropy;
pub mod init;
pub mod vsock;
