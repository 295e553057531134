//! VMs by the helper on a real host: device-mapper, systemd, jailer, Firecracker, a guest.
//!
//! As root in a lab, one test at a time: `cargo xtask lab push` brings this program, the helper
//! (`BANGER_TEST_HELPER`) and a directory with `vmlinux` and `initrd` (`BANGER_TEST_BOOT`) in;
//! `firecracker` and `jailer` are the lab's. Run with `--ignored --test-threads 1`. Every test
//! ends with the host as it was.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks at the host from outside, and may panic"
)]

mod bench;
mod chaos;
mod faults;
mod guest;
mod lives;
mod refuses;
mod snapshots;
