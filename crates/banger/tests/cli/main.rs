//! The built program against a daemon that answers as a test tells it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that meets the unexpected fails"
)]

mod attached;
mod attacks;
mod copying;
mod daemon;
mod fake;
mod hostile;
mod methods;
mod privileges;
mod reference;
mod shown;
mod ssh;
mod verbs;
