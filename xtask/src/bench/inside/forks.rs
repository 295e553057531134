//! What it takes a small process to have `/bin/true` run and to learn how it ended. This is run in
//! the guest.

use super::Forks;
use super::timed::took;
use crate::bench::report::millis;
use anyhow::Result;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub(super) fn measure(runs: usize) -> Result<Forks> {
    let mut forks = Forks {
        fork_ms: Vec::new(),
        spawn_ms: Vec::new(),
    };
    for turn in 0..=runs {
        // With a user to become (root is it already), the standard library forks.
        let forked = took(Command::new("/bin/true").uid(0))?;
        let spawned = took(&mut Command::new("/bin/true"))?;
        if turn > 0 {
            forks.fork_ms.push(millis(forked));
            forks.spawn_ms.push(millis(spawned));
        }
    }
    Ok(forks)
}
