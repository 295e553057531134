//! Tells, step by step, how long things took.

use anyhow::Result;
use std::time::Instant;

/// Does a step and prints its time when it is done.
pub(super) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed().as_secs_f64();
    let verdict = if result.is_ok() { "" } else { ": FAILED" };
    eprintln!("lab: {took:>7.2} s  {name}{verdict}");
    result
}
