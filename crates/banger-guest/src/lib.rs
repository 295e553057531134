//! The protocol between the host and the guest's agent.
//!
//! Three layers, each usable alone:
//! - [`frame`]: bytes to typed frames and back, with a cap on every length;
//! - [`request`]: what a host asks of the agent and what the agent answers;
//! - [`boot`]: what the agent is told before it serves (the boot configuration).
//!
//! A *stream* is one conversation: the host sends one [`request::Request`] frame, then both
//! sides send the frames that the request allows, and the agent ends it. Streams arrive
//! over whatever channel the engine offers: one vsock connection each, or, where the engine
//! has a single serial port, many over one wire by [`mux`].
//!
//! Everything that a guest sends is hostile: lengths are capped before memory is taken.
#![forbid(unsafe_code)]

pub mod boot;
pub mod frame;
pub mod request;
