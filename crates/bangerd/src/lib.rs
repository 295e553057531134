//! The daemon: keeps the owner's VMs, answers the command line, holds no root.
//!
//! From the outside in: [`startup`] makes the process fit to serve, [`listen`] takes
//! connections of the owner only, [`routes`] is the one table of what can be asked,
//! `handlers` turn requests into calls of [`daemon::Daemon`], and each VM has one driver
//! task (`vm::driver`) that alone changes it. `store` holds what was acknowledged; at
//! start `reconcile` brings it into line with what the kernel says is true.
#![forbid(unsafe_code)]

mod activity;
pub mod config;
pub mod daemon;
mod disk_use;
mod dns;
mod events;
mod files;
mod firewall;
mod handlers;
mod host;
pub mod listen;
mod lock;
mod log;
mod net_plan;
mod network;
mod notify;
mod options;
pub mod privilege;
mod problem;
mod provision;
mod reconcile;
mod relay;
pub mod routes;
mod shared_job;
mod ssh;
pub mod startup;
mod store;
mod vm;
