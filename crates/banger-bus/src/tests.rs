//! The client against a bus that misbehaves: a thread at the other end of a socket pair, which logs
//! us in as a bus does and then plays what the test says.

mod fake_bus;
mod faults;
mod signals;
mod values;
