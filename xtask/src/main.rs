//! Chores of the repository that take more than a line: `cargo xtask help`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore talks to the person who typed it"
)]

mod bench;
mod build;
mod lint;
mod suite;
mod trial;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask CHORE

  build        build the programs into target/dist
  try          build, provision, boot a VM and run a command in it
  test [NAME]  unit tests, then real VMs through the real command line;
               NAME picks tests by a part of their name
  lint         formatting, clippy and the rules of ARCHITECTURE.md
  bench boot   our boot and exec against the raw engine's [--runs N] [--json FILE]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<()> {
    match args {
        ["build"] => build::dist().map(drop),
        ["try"] => trial::run(),
        ["test", filter @ ..] => suite::run(filter),
        ["lint"] => lint::run(),
        ["bench", "boot", options @ ..] => bench::boot(options),
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("no such chore: {}\n\n{HELP}", args.join(" ")),
    }
}

/// The repository's top directory.
fn top() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map(PathBuf::from).unwrap_or(xtask)
}

/// Runs a command to its end; anything but success is an error that names it.
fn must(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| anyhow::anyhow!("start {command:?}: {error}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// A `cargo` command in the repository's top directory.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(top());
    command
}

/// Gets the default kernel and builds the `debian` image unless they are there; `banger` makes a command.
fn provision(banger: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    for (look, make) in [
        (&["kernel", "default"][..], &["kernel", "pull"][..]),
        (
            &["image", "inspect", "debian"],
            &["image", "build", "debian"],
        ),
    ] {
        if !banger(look).output()?.status.success() {
            must(&mut banger(make))?;
        }
    }
    Ok(())
}
