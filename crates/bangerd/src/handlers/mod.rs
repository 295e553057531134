//! What answers the requests in [`crate::routes`]: each converts between the wire and the
//! daemon and decides nothing.

pub(crate) mod body;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod kernels;
pub(crate) mod logs;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod steps;
pub(crate) mod streams;
pub(crate) mod system;
mod upgrade;
pub(crate) mod vms;
pub(crate) mod wait;
