//! The promises of banger, each kept by real VMs. Read a test's name as the promise.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot do its part fails there, and tells what it measured"
)]

mod daemon;
mod guest;
mod lifecycle;
mod readme;
mod run;
mod ssh;
mod store;
mod verbs;
mod watch;
