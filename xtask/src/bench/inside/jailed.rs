//! `banger run -- true` by the installed services, jailed and on the bridge, turn by turn with the
//! same boot by bare Firecracker and by the bare jailer. This is run as root.

use super::bare::Bare;
use super::timed::{Run, must, said};
use super::{Jailed, LabBroke, VM, base};
use crate::bench::report::millis;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a VM is given, on all sides of a ratio.
const SIZE: [&str; 4] = ["--network", "nat", "--memory", "256M"];

/// The owner of the installation, by number.
const OWNER: u32 = 1000;

/// Where the kernel tells of what is executed.
const TRACE: &str = "/sys/kernel/tracing";

pub(super) fn measure(kernel: &str, storage: &str, runs: usize) -> Result<Jailed> {
    let bare = like_ours(kernel, storage)?;
    let mut found = Jailed {
        raw_ms: Vec::new(),
        jailer_ms: Vec::new(),
        ready_ms: Vec::new(),
        whole_ms: Vec::new(),
        daemon_ms: Vec::new(),
        executed: Vec::new(),
    };
    for turn in 0..=runs {
        // Nothing of ours runs then: a guest that hangs says that the emulation broke.
        let broke = |error: anyhow::Error| match error.downcast() {
            Ok(hung) => LabBroke(hung).into(),
            Err(error) => error,
        };
        let raw = bare.firecracker().map_err(broke)?;
        let jailer = bare.jailer().map_err(broke)?;
        let ours = run(kernel, storage)?;
        eprintln!(
            "{storage}, turn {turn}: raw {raw:.1?}, jailer {jailer:.1?}, banger run ready {:.1?} \
             (the daemon: {} ms), end {:.1?}",
            ours.ready, ours.daemon_ms, ours.whole
        );
        if turn > 0 {
            found.raw_ms.push(millis(raw));
            found.jailer_ms.push(millis(jailer));
            found.ready_ms.push(millis(ours.ready));
            found.whole_ms.push(millis(ours.whole));
            found.daemon_ms.push(ours.daemon_ms);
        }
    }
    found.executed = executed(|| run(kernel, storage).map(drop))?;
    Ok(found)
}

/// The command line, as the owner.
fn banger(args: &[&str]) -> Command {
    let mut command = Command::new("/usr/lib/banger/banger");
    command
        .args(args)
        .uid(OWNER)
        .gid(OWNER)
        .env_clear()
        .env("HOME", "/home/dev")
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Starts a VM, takes its machine file, initramfs and (once it is stopped) disk, and removes it.
fn like_ours(kernel: &str, storage: &str) -> Result<Bare> {
    let create = ["vm", "create", "--name", VM, "--kernel", kernel, "--start"];
    let create = [&create[..], &SIZE, &["--storage", storage]].concat();
    must(&mut banger(&create))?;
    let view = said(&mut banger(&["--json", "vm", "inspect", VM]))?;
    let view: Value = serde_json::from_str(&view).context("read the VM's view")?;
    let field = |name: &str| view[name].as_str().with_context(|| format!("no {name}"));
    if !field("engine")?.contains("jailed") {
        bail!("the VM is run by {:?}, not in a jail", view["engine"]);
    }
    let run = Path::new("/run/banger/vm").join(field("id")?);
    let state = Path::new("/var/lib/banger/state/vms").join(field("id")?);
    let machine = fs::read(run.join("machine.json")).context("read machine.json")?;
    let machine = serde_json::from_slice(&machine)?;
    let dir = base()?.join("bare").join(storage);
    let rootfs = rootfs(field("image_digest")?);
    let bare = Bare::new(&dir, machine, vmlinux()?, rootfs)?;
    bare.take(&state.join("boot.initrd"), "initrd")?;
    must(&mut banger(&["vm", "stop", VM]))?;
    if storage == "overlay" {
        bare.take(&state.join("disk.img"), "fresh.img")?;
    }
    must(&mut banger(&["vm", "rm", "--force", VM]))?;
    Ok(bare)
}

fn rootfs(digest: &str) -> PathBuf {
    let images = Path::new("/var/lib/banger/data/images");
    images
        .join(digest.trim_start_matches("sha256:"))
        .join("rootfs.ext4")
}

/// The kernel: one was brought here.
fn vmlinux() -> Result<PathBuf> {
    let kernels = fs::read_dir("/var/lib/banger/data/kernels")?;
    let mut paths = kernels
        .flatten()
        .map(|entry| entry.path().join("vmlinux"))
        .filter(|path| path.is_file());
    match (paths.next(), paths.next()) {
        (Some(path), None) => Ok(path),
        _ => bail!("not one kernel in the store"),
    }
}

fn run(kernel: &str, storage: &str) -> Result<Run> {
    let words = ["-v", "run", "--kernel", kernel, "--storage", storage];
    Run::timed(&mut banger(&[&words[..], &SIZE, &["--", "true"]].concat()))
}

/// The programs that the whole host executes while `work` is done, in order, by the kernel's word.
fn executed(work: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let trace = Path::new(TRACE);
    let event = trace.join("events/sched/sched_process_exec/enable");
    if !event.exists() {
        must(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACE]))?;
    }
    fs::write(&event, "1").context("trace what is executed")?;
    fs::write(trace.join("trace"), "")?;
    let done = work();
    fs::write(&event, "0")?;
    done?;
    let told = fs::read_to_string(trace.join("trace")).context("read the trace")?;
    let names = told.lines().filter_map(|line| {
        let (_, rest) = line.split_once("sched_process_exec: filename=")?;
        Some(rest.split_once(" pid=")?.0.to_owned())
    });
    Ok(names.collect())
}
