//! What `bench boot --lab` runs in the lab: this very program, pushed there, so that all figures of
//! a table are taken by one program on one clock. It prints what it found as a line of JSON.

mod bare;
mod boots;
mod containers;
mod execs;
mod forks;
mod jailed;
mod timed;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Exit code when the lab is at fault, not what was measured in it (EX_SOFTWARE).
pub(super) const LAB_BROKE: u8 = 70;

/// Boots of one kernel, in milliseconds, turn by turn.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Boots {
    /// Raw Firecracker: from its spawn to the call by which the agent says that it is ready.
    pub(super) raw_ms: Vec<f64>,
    /// The same to the agent's line on the console; empty if that shows nothing of user space.
    pub(super) raw_line_ms: Vec<f64>,
    /// `banger run`: from its spawn to when it knows that the agent is ready.
    pub(super) ready_ms: Vec<f64>,
    /// `banger run`: from its spawn to its end; the VM is gone by then.
    pub(super) whole_ms: Vec<f64>,
    /// What the daemon says the boot took, of `ready_ms`.
    pub(super) daemon_ms: Vec<f64>,
}

/// Boots by the installed services with one kind of storage, in milliseconds, turn by turn.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Jailed {
    /// Raw Firecracker: from its spawn to the agent's call.
    pub(super) raw_ms: Vec<f64>,
    /// The bare jailer: likewise.
    pub(super) jailer_ms: Vec<f64>,
    /// `banger run`: from its spawn to when it knows that the agent is ready.
    pub(super) ready_ms: Vec<f64>,
    /// `banger run`: from its spawn to its end; the VM is gone by then.
    pub(super) whole_ms: Vec<f64>,
    /// What the daemon says the boot took, of `ready_ms`.
    pub(super) daemon_ms: Vec<f64>,
    /// The programs that the host executed during one more run.
    pub(super) executed: Vec<String>,
}

/// Ways to run `/bin/true` in one running guest, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Execs {
    /// `banger exec`: a process, from its spawn to its end.
    pub(super) command_ms: Vec<f64>,
    /// A client that is there already, through the daemon.
    pub(super) daemon_ms: Vec<f64>,
    /// Straight to the agent, over a new connection of Firecracker's vsock.
    pub(super) channel_ms: Vec<f64>,
    /// What the guest itself needs.
    pub(super) guest: Forks,
}

/// How long it takes a process to have another run `/bin/true`, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Forks {
    /// By fork and exec, which is what the agent does.
    pub(super) fork_ms: Vec<f64>,
    /// By `posix_spawn`, which does not copy the parent.
    pub(super) spawn_ms: Vec<f64>,
}

/// Containers of the same userland, from the runtime's spawn to its end, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Containers {
    pub(super) crun_ms: Vec<f64>,
    pub(super) runc_ms: Vec<f64>,
}

/// The bare Firecracker did not boot.
#[derive(Debug)]
struct LabBroke(timed::Hung);

impl fmt::Display for LabBroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for LabBroke {}

/// Measures what the words say. The exit code is [`LAB_BROKE`] if the emulation is at fault.
pub(crate) fn inside(args: &[&str]) -> Result<ExitCode> {
    match found(args) {
        Ok(found) => {
            println!("{found}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<LabBroke>() => {
            eprintln!("bench: {error:#}");
            Ok(ExitCode::from(LAB_BROKE))
        }
        Err(error) => Err(error),
    }
}

/// The figures as a line of JSON.
fn found(args: &[&str]) -> Result<String> {
    let count = |text: &str| text.parse::<usize>().context("how often?");
    match args {
        ["boots", kernel, runs] => to_line(&boots::measure(kernel, count(runs)?)?),
        ["execs", kernel, runs] => to_line(&execs::measure(kernel, count(runs)?)?),
        ["jailed", kernel, storage, runs] => {
            to_line(&jailed::measure(kernel, storage, count(runs)?)?)
        }
        ["forks", runs] => to_line(&forks::measure(count(runs)?)?),
        ["containers", runs] => to_line(&containers::measure(count(runs)?)?),
        _ => bail!("this is for the lab: cargo xtask bench boot --lab"),
    }
}

fn to_line(figures: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(figures)?)
}

/// Where everything is that was pushed: beside this program.
fn base() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(program
        .parent()
        .context("a program without a directory")?
        .to_owned())
}

/// The real command line, with the home that was pushed. Our standard output is for figures.
fn banger(args: &[&str]) -> Result<Command> {
    let base = base()?;
    let mut command = Command::new(base.join("dist/banger"));
    command
        .args(args)
        .env("BANGER_HOME", base.join("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// The VM that some figures are taken from.
const VM: &str = "bench";

/// What a VM is given, on both sides of a ratio.
const SIZE: [&str; 4] = ["--network", "none", "--memory", "256M"];

/// A VM that runs, and where the daemon keeps it.
struct Vm {
    run: PathBuf,
    state: PathBuf,
}

impl Vm {
    fn start(kernel: &str) -> Result<Self> {
        let create = ["vm", "create", "--name", VM, "--kernel", kernel, "--start"];
        timed::must(&mut banger(&[&create[..], &SIZE].concat())?)?;
        let view = timed::said(&mut banger(&["--json", "vm", "inspect", VM])?)?;
        let view: serde_json::Value = serde_json::from_str(&view).context("read the VM's view")?;
        let id = view["id"].as_str().context("the VM has no id")?;
        let engine = view["engine"].as_str().unwrap_or_default();
        if !engine.starts_with("Firecracker") {
            bail!("the VM is run by {engine:?}, not by Firecracker");
        }
        let home = base()?.join("home");
        Ok(Self {
            run: home.join("run/vm").join(id),
            state: home.join("state/vms").join(id),
        })
    }

    fn stop(&self) -> Result<()> {
        timed::must(&mut banger(&["vm", "stop", VM])?)
    }

    fn remove(self) -> Result<()> {
        timed::must(&mut banger(&["vm", "rm", "--force", VM])?)
    }
}
