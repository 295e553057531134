//! The protocol between the host and the guest's agent.
//!
//! Layers, each usable alone:
//! - [`frame`]: bytes to typed frames and back, with a cap on every length;
//! - [`request`]: what a host asks of the agent and what the agent answers;
//! - [`boot`]: what the agent is told before it serves (the boot configuration);
//! - [`exactly`]: a reader of a promised length, for who packs a tar;
//! - [`mux`]: many streams over one wire, without I/O; its host side and `client`, the host's
//!   side of the requests, come with the cargo feature `host` and tokio.
//!
//! A *stream* is one conversation: the host sends one [`request::Request`] frame, then both
//! sides send the frames that the request allows, and the agent ends it. Streams arrive
//! over whatever channel the engine offers: one vsock connection each, or, where the engine
//! has a single serial port, many over one wire by [`mux`].
//!
//! Everything that a guest sends is hostile: lengths are capped before memory is taken.
#![forbid(unsafe_code)]

pub mod boot;
#[cfg(feature = "host")]
pub mod client;
pub mod exactly;
pub mod frame;
pub mod mux;
pub mod request;
