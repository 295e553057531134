//! Frames and descriptors over a Unix socket whose other end the kernel names.
//!
//! A frame is 4 bytes of length, most significant first, and that many bytes, at most
//! [`MAX_FRAME`]; descriptors (at most [`MAX_FDS`]) come with its bytes. A frame that breaks a
//! limit ends the connection: where the next one would begin is not known. Everything has a
//! deadline; nothing here knows what frames say.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod activation;
mod channel;
mod peer;

pub use activation::{Activation, accept, socket_at};
pub use channel::{Channel, Frame, IpcError, MAX_FDS, MAX_FRAME};
pub use peer::Peer;
