//! `cargo xtask try`: from a fresh checkout to a command inside a VM, each step timed.

use crate::{PROVISIONS, build, must, provide};
use anyhow::Result;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Builds, provisions, boots, and says what to type next.
pub(crate) fn run() -> Result<()> {
    let mut steps = Vec::new();
    let mut timed = |name: &'static str, step: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        eprintln!("==> {name}");
        let start = Instant::now();
        step()?;
        steps.push((name, start.elapsed()));
        Ok(())
    };

    let mut dist = None;
    timed("build the programs", &mut || {
        dist = Some(build::dist()?);
        Ok(())
    })?;
    let dist = dist.unwrap_or_default();
    let banger = |args: &[&str]| {
        let mut command = Command::new(dist.join("banger"));
        if !std::io::stderr().is_terminal() {
            command.args(["--progress", "plain"]);
        }
        command.args(args);
        command
    };
    for (name, look, make) in PROVISIONS {
        timed(name, &mut || provide(&banger, look, make))?;
    }
    timed("boot a VM and run a command in it", &mut || {
        must(&mut banger(&[
            "run",
            "--",
            "sh",
            "-c",
            "uname -a; cat /etc/os-release",
        ]))
    })?;

    report(&steps, &dist);
    Ok(())
}

fn report(steps: &[(&str, Duration)], dist: &Path) {
    println!();
    for (name, took) in steps {
        println!("{:>8.1} s  {name}", took.as_secs_f64());
    }
    println!(
        "\nThat command ran in a VM of its own, which is gone. Next:\n\n  \
         export PATH={}:$PATH\n  \
         banger run\n  \
         banger run . -- ls -la\n  \
         banger vm create dev --start && banger ssh dev",
        dist.display()
    );
}
