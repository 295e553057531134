//! The real helper, as root, in a network namespace of its own: connections, links, rules.
//!
//! `BANGERD_ROOT` names another program than the one that was built beside this. Where the kernel
//! cannot have the rules (its `nft` knows no bridge), what needs them is skipped, and says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test looks at the host from outside, and may panic"
)]

mod connections;
mod faults;
mod host;
mod links;
mod refusals;
