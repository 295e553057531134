//! Files between the host and a VM, as tar streams in frames.
//!
//! [`pack`] reads the user's own files and follows no link; [`unpack`] writes what a guest
//! sends, which is hostile: nothing it says can reach outside the destination.

pub(crate) mod pack;
pub(crate) mod place;
pub(crate) mod sink;
mod tar_entry;
pub(crate) mod transfer;
pub(crate) mod unpack;
