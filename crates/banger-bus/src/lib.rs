//! The D-Bus calls that the root helper makes: a scope for each VM from systemd, one DNS zone
//! on one link from systemd-resolved. Not a general D-Bus library: nothing else can be said.
//!
//! A [`Bus`] is one connection, used by one thread; everything it does has a limit.
//! No service is ever started by asking for it.
//!
//! Invariants: what is read is capped at [`MAX_MESSAGE`] and checked before it is believed; a signal
//! counts only from the connection that answered our call, because on the system bus anybody may
//! send us any signal; every name is checked before it is sent.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod connection;
mod error;
mod message;
mod resolved;
mod systemd;
mod wire;

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests;

pub use connection::Bus;
pub use error::BusError;
pub use message::MAX_MESSAGE;
pub use systemd::{DeviceKind, DeviceRule, ScopeSpec};
