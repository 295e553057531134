//! The store from outside: what it accepts, what it refuses, and that nothing half-made stays.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod archive;
mod concurrency;
mod debian;
mod hostile_tar;
mod images;
mod kernels;
