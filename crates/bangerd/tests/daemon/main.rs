//! The daemon, driven over its socket. The engine is a fake that runs real processes and a
//! real agent protocol and can fail where it is told to; everything else is the real thing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what went wrong by failing"
)]

mod env;
mod fake_agent;
mod fake_engine;
mod fake_helper;
mod fake_snapshot;
mod helped;
mod lifecycle;
mod process;
mod restart;
mod roles;
mod run;
mod snapshot;
mod verbs;
mod watch;
