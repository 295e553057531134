//! `banger run -- true` and raw Firecracker, turn by turn.

use super::timed::{Hung, Run, Timed, took};
use super::{Boots, LabBroke, SIZE, Vm, banger, base};
use crate::bench::report::millis;
use anyhow::{Context, Result};
use banger_guest::frame::READY_PORT;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the agent says on the console when it serves.
const READY: &str = "banger-agent: ready";

/// How long after its call the agent's line is waited for.
const LINE_LIMIT: Duration = Duration::from_millis(200);

/// The socket of the VM's vsock, as its machine file names it.
const VSOCK: &str = "vsock.sock";

pub(super) fn measure(kernel: &str, runs: usize) -> Result<Boots> {
    let raw = RawVm::like_ours(kernel)?;
    let mut boots = Boots {
        raw_ms: Vec::new(),
        raw_line_ms: Vec::new(),
        ready_ms: Vec::new(),
        whole_ms: Vec::new(),
        daemon_ms: Vec::new(),
    };
    for turn in 0..=runs {
        // Nothing of ours runs then: a guest that hangs says that the emulation broke.
        let bare = raw.boot().map_err(|error| match error.downcast() {
            Ok(hung) => LabBroke(hung).into(),
            Err(error) => error,
        })?;
        let ours = run(kernel)?;
        eprintln!(
            "{kernel}, turn {turn}: raw {:.1?}, banger run ready {:.1?} (the daemon: {} ms), end {:.1?}",
            bare.called, ours.ready, ours.daemon_ms, ours.whole
        );
        if turn > 0 {
            boots.raw_ms.push(millis(bare.called));
            boots.raw_line_ms.extend(bare.line.map(millis));
            boots.ready_ms.push(millis(ours.ready));
            boots.whole_ms.push(millis(ours.whole));
            boots.daemon_ms.push(ours.daemon_ms);
        }
    }
    Ok(boots)
}

/// When a bare boot came to what, after the spawn.
struct Bare {
    /// The agent's call.
    called: Duration,
    /// Its line on the console; `None` where the guest's console shows nothing of user space.
    line: Option<Duration>,
}

fn run(kernel: &str) -> Result<Run> {
    let words = ["-v", "run", "--kernel", kernel];
    Run::timed(&mut banger(&[&words[..], &SIZE, &["--", "true"]].concat())?)
}

/// What the daemon had Firecracker boot, to be booted by hand.
struct RawVm {
    dir: PathBuf,
    disk: PathBuf,
    fresh_disk: PathBuf,
}

impl RawVm {
    /// Starts a VM and takes its machine file and initramfs; its disk once it is stopped.
    fn like_ours(kernel: &str) -> Result<Self> {
        let vm = Vm::start(kernel)?;
        let dir = base()?.join("raw").join(kernel);
        fs::create_dir_all(&dir).with_context(|| format!("make {dir:?}"))?;
        let machine = fs::read(vm.run.join("machine.json")).context("read machine.json")?;
        let mut machine: Value = serde_json::from_slice(&machine)?;
        let initrd = dir.join("boot.initrd");
        fs::copy(vm.state.join("boot.initrd"), &initrd).context("copy the initramfs")?;
        vm.stop()?;
        let fresh_disk = dir.join("fresh.img");
        let ours = vm.state.join("disk.img");
        copy_sparse(&ours, &fresh_disk)?;
        vm.remove()?;

        let disk = dir.join("disk.img");
        machine["boot-source"]["initrd_path"] = json!(initrd);
        let drives = machine["drives"].as_array_mut().context("no drives")?;
        let writable = drives
            .iter_mut()
            .find(|drive| drive["path_on_host"] == json!(ours))
            .context("the VM's disk is not among its drives")?;
        writable["path_on_host"] = json!(disk);
        // As for a VM that goes away with its run; this one was made to stay.
        writable["cache_type"] = json!("Unsafe");
        fs::write(dir.join("machine.json"), machine.to_string())?;
        Ok(Self {
            dir,
            disk,
            fresh_disk,
        })
    }

    /// Boots to the agent's call, which is what the daemon too waits for, and to its line on the
    /// console, and kills the VMM.
    fn boot(&self) -> Result<Bare> {
        copy_sparse(&self.fresh_disk, &self.disk)?;
        let socket = self.dir.join(VSOCK);
        let calls = self.dir.join(format!("{VSOCK}_{READY_PORT}"));
        for old in [&socket, &calls] {
            if old.exists() {
                fs::remove_file(old)?;
            }
        }
        let calls = UnixListener::bind(&calls).with_context(|| format!("listen at {calls:?}"))?;
        // Firecracker's log would stand among what the guest says.
        File::create(self.dir.join("log"))?;
        let mut command = Command::new("firecracker");
        command
            .args(["--no-api", "--config-file", "machine.json"])
            .args(["--log-path", "log"])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Timed::spawn(&mut command)?;
        let mut console = process.child().stdout.take().context("no console")?;
        let called = process.readable(&calls, "the agent's call")?;
        let line = match process.line(&mut console, READY, called + LINE_LIMIT) {
            Ok((_, took)) => Some(took),
            Err(error) if error.is::<Hung>() => None,
            Err(error) => return Err(error),
        };
        Ok(Bare { called, line })
    }
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--"]).arg(from).arg(to);
    took(&mut copy).map(drop)
}
