//! The verbs, one function each, and what they share. No verb decides what is asked for.

pub(crate) mod bridge;
mod files;
pub(crate) mod jail;
mod marks;
pub(crate) mod nat;
pub(crate) mod reclaim;
pub(crate) mod resolver;
pub(crate) mod rules;
mod scope;
pub(crate) mod snapshot;
pub(crate) mod socket;
pub(crate) mod stage;
mod start;
pub(crate) mod status;
pub(crate) mod tap;
pub(crate) mod vmm;
