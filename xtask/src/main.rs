//! Chores of the repository that take more than a line: `cargo xtask help`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore talks to the person who typed it"
)]

mod bench;
mod build;
mod chaos;
mod lab;
mod lint;
mod power;
mod refused;
mod root_helper;
mod smoke;
mod soak;
mod suite;
mod tcb;
mod trial;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask CHORE

  build        build the programs into target/dist
  try          build, provision, boot a VM and run a command in it
  test [NAME]  unit tests, then real VMs through the real command line;
               NAME picks tests by a part of their name
  lint         formatting, clippy and the rules of ARCHITECTURE.md
  smoke [NAME] the promises on a KVM host: in the lab, by Firecracker (JOBS=4)
  soak         one daemon under many clients and garbage [--short]
  chaos        the daemon refused by the kernel at many system calls of all that it is asked
               (that alone: chaos refused); then, in the lab, the root helper killed, and refused,
               at many of its verbs', and daemon, helper, VMMs, builder and installer killed at
               many of theirs in whatever is asked (BANGER_CHAOS_POINTS=20)
  power        power cuts: the daemon's writes recorded in the lab, and replayed up to many moments
               (by root, who may mount)
  tcb          how large the trusted base is, against its budget
  bench boot   our boot and exec against the raw engine's [--runs N] [--json FILE],
               in the lab by Firecracker with --lab [--lean BANGER_HOME],
               of that the installed services alone with --jailed
  lab VERB     an emulated host with systemd, KVM and Firecracker (cargo xtask lab help)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<ExitCode> {
    match args {
        // What runs in the lab has an exit code of its own, as has the lab's death.
        ["lab", args @ ..] => return lab::run(args),
        ["bench", "boot", options @ ..] => return bench::boot(options),
        ["bench", "inside", args @ ..] => return bench::inside(args),
        ["build"] => build::dist().map(drop),
        ["try"] => trial::run(),
        ["test", filter @ ..] => suite::run(filter),
        ["lint"] => lint::run(),
        ["smoke", filter @ ..] => smoke::run(filter),
        ["soak", args @ ..] => soak::run(args),
        ["chaos"] => refused::run().and_then(|()| chaos::run()),
        ["chaos", "refused"] => refused::run(),
        ["power"] => power::run(),
        ["tcb"] => tcb::run(),
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("no such chore: {}\n\n{HELP}", args.join(" ")),
    }?;
    Ok(ExitCode::SUCCESS)
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

/// Builds these test programs of a package, to be run elsewhere; one named as the package is that of
/// its unit tests.
fn built<const N: usize>(package: &str, names: [&str; N]) -> Result<[PathBuf; N]> {
    let mut command = cargo(&["test", "--no-run", "--message-format=json"]);
    command.args(["--package", package]);
    for name in names {
        match package.replace('-', "_") == name {
            true => command.arg("--lib"),
            false => command.args(["--test", name]),
        };
    }
    let output = command
        .output()
        .with_context(|| format!("build the tests of {package}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("build the tests of {package}: {said}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let find = |name: &str| {
        let of_test = |message: &&Value| message["target"]["name"] == name;
        let mut found = messages.iter().filter(of_test);
        let path = found.find_map(|message| message["executable"].as_str());
        path.map(PathBuf::from)
            .with_context(|| format!("cargo built no {name:?}"))
    };
    let paths = names.iter().map(|name| find(name));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    <[PathBuf; N]>::try_from(paths).map_err(|_| anyhow::anyhow!("as many as names"))
}

/// What a VM needs: what it is, how to look for it, how to make it.
const PROVISIONS: [(&str, &[&str], &[&str]); 2] = [
    ("get a kernel", &["kernel", "default"], &["kernel", "pull"]),
    (
        "build the debian image",
        &["image", "inspect", "debian"],
        &["image", "build", "debian"],
    ),
];

/// Makes one of [`PROVISIONS`] unless it is there; `banger` makes a command.
fn provide(banger: &dyn Fn(&[&str]) -> Command, look: &[&str], make: &[&str]) -> Result<()> {
    if banger(look).output()?.status.success() {
        return Ok(());
    }
    must(&mut banger(make))
}
