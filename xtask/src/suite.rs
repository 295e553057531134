//! `cargo xtask test`: unit tests, then the end-to-end tests with real VMs, then a short soak,
//! then those of them that are also kept on an emulated host with KVM.

use crate::{build, cargo, must, smoke, soak, top};
use anyhow::{Context, Result};
use std::fs;
use std::time::Instant;

/// Runs all tests, or those whose name contains one of `filter`; then not on the emulated host,
/// where `cargo xtask smoke` does the same.
pub(crate) fn run(filter: &[&str]) -> Result<()> {
    let start = Instant::now();
    must(cargo(&["test", "--workspace", "--exclude", "e2e", "--quiet", "--"]).args(filter))?;
    let units = start.elapsed();

    let start = Instant::now();
    let dist = build::dist()?;
    let built = start.elapsed();

    // One store of kernels and images for all tests, kept between runs: it is made through
    // the command line itself, from the host's own package mirror.
    let start = Instant::now();
    let store = top().join("target").join("e2e-store");
    fs::create_dir_all(&store).with_context(|| format!("make {store:?}"))?;
    let mut tests = cargo(&["test", "--package", "e2e", "--", "--test-threads=2"]);
    tests
        .args(filter)
        .env("BANGER_E2E_DIST", &dist)
        .env("BANGER_E2E_STORE", &store);
    let outcome = must(&mut tests);
    println!(
        "unit tests {:.0} s, programs built {:.0} s, end-to-end tests {:.0} s",
        units.as_secs_f64(),
        built.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    outcome?;
    if filter.is_empty() {
        soak::run(&["--short"])?;
        smoke::run(&[])?;
    }
    Ok(())
}
