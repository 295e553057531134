//! The installation: two services and what they need, put in place and taken away as root.
//!
//! - [`units`] is the one table of what the services are allowed; the unit files are written from
//!   it, and so is `docs/privileges.md`;
//! - [`layout`] says where everything lies;
//! - [`host`] is what installing looks at and changes: files below a root, and a few programs;
//! - [`checks`] says whether this host can be installed on, each refusal with its fix;
//! - [`plan`] decides, [`steps`] carries out, undoing all when one step fails;
//! - [`remove`] takes everything away and [`traces`] proves it; [`health`] says how things stand.

pub(crate) mod checks;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod health;
pub(crate) mod host;
pub mod layout;
pub mod owner;
pub(crate) mod plan;
pub(crate) mod programs;
pub(crate) mod remove;
pub(crate) mod service;
pub(crate) mod steps;
pub(crate) mod traces;
pub mod units;
