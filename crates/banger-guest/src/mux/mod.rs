//! Many streams over one wire, for engines that offer a single serial port.
//!
//! Three parts: [`codec`] turns bytes into frames; [`Session`] is the protocol of either end as
//! a state machine without I/O; `host` (feature `host`) runs the host's end on tokio. The guest's
//! end drives a [`Session`] from its poll loop.
//!
//! Rules of the wire:
//! - The host opens streams, the guest accepts or refuses them. Ids only grow within a session.
//! - Each direction of a stream has a window of [`WINDOW`] bytes, refilled by `Credit` as the
//!   reader takes bytes. So a reader that stops holds up its own stream, nobody else's, and an
//!   end never buffers more than a window a stream.
//! - The host begins with padding and a `Hello` of 16 random bytes. The padding completes any
//!   frame that an earlier host left cut; at the `Hello` the guest drops all streams and all that it
//!   has not sent yet, and answers `HelloAck` with the same bytes. The host discards everything
//!   until it has seen exactly that. A `Hello` may be waiting in the port before the guest has booted, so
//!   the `HelloAck` is also the sign that the agent is ready.
//! - Whatever breaks a rule ends the session: the host drops the wire, the guest drops all streams
//!   and waits for the next `Hello`.

pub mod codec;
#[cfg(feature = "host")]
mod host;
mod session;
#[cfg(test)]
mod tests;

#[cfg(feature = "host")]
pub use host::{MuxClient, MuxError, MuxStream};
pub use session::{Event, Read, Session, SessionError, Write};

/// How many bytes one end may send on a stream before the other has read some.
pub const WINDOW: usize = 256 * 1024;

/// How many streams may be open at once.
pub const MAX_STREAMS: usize = 1024;
