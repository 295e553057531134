//! What the daemon asks of the root helper, and what the helper answers.
//!
//! [`Request`] is the whole list of verbs; a value that is not exactly one of them dies in
//! decoding. Descriptors travel beside a frame, in the order that its documentation says.
//! The helper derives every name from the [`VmRef`]; nothing here can carry a path of the host,
//! a device, a PID or free text.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod jail;
mod reply;
mod request;
mod signal;

/// The helper's socket. Its directory can be entered by all, the socket be used by [`GROUP`] alone.
pub const SOCKET: &str = "/run/banger-ipc/root.sock";

/// The group that may use [`SOCKET`]: only the daemon's unit has it, and no user is a member.
pub const GROUP: &str = "banger-ipc";

pub use banger_ids::VmRef;
pub use reply::{
    Answer, BridgeUp, OtherChain, Others, Refusal, RefusalKind, Reply, Snapshot, Status, Tap,
    VmStatus, Vmm,
};
pub use request::{
    CreateSnapshot, CreateTap, EnsureBridge, FileRole, Launch, OpenSnapshot, Reclaim, Request,
    ResolverRouting, SendSignal,
};
pub use signal::Signal;
