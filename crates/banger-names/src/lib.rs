//! Names, ids and sizes: parsed once, then trusted by their type.
//!
//! Every value here can be made only by parsing, so a function that takes one
//! need not check it again. Nothing here does I/O. What root works with is in `banger-ids`, which
//! everybody else has from here.
#![forbid(unsafe_code)]

mod digest;
mod duration;
mod name;
mod size;

pub use banger_ids::{BridgeName, InvalidName, Subnet, VmId, VmRef, guest_mac};
pub use digest::Digest;
pub use duration::{format_duration, parse_duration};
pub use name::{KernelName, Tag, VmName};
pub use size::ByteSize;
