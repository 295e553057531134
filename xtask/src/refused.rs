//! `cargo xtask chaos refused`: the kernel refuses system calls of the daemon, at many points of all
//! that it is asked to do, with real VMs on this machine. Its short form is among the end-to-end tests.

use crate::{build, cargo, must, smoke};
use anyhow::Result;

/// At how many points of each operation, unless `BANGER_CHAOS_POINTS` says otherwise.
const POINTS: &str = "20";

/// Runs it; prints what came of each operation with each error.
pub(crate) fn run() -> Result<()> {
    let dist = build::dist()?;
    let store = smoke::store(&dist)?;
    let mut test = cargo(&["test", "--package", "e2e", "--test", "refused"]);
    test.args(["--", "--nocapture"])
        .env("BANGER_E2E_DIST", &dist)
        .env("BANGER_E2E_STORE", &store);
    if smoke::chaos_points().is_none() {
        test.env("BANGER_CHAOS_POINTS", POINTS);
    }
    must(&mut test)
}
