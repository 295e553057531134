//! The same boot without us: by Firecracker alone, and by the jailer alone. All that either needs
//! is made before it is timed, from its spawn to the agent's call.

use super::timed::{Timed, must, said};
use anyhow::{Context, Result};
use banger_guest::frame::READY_PORT;
use serde_json::{Value, json};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The user of the jailer's VMM, which owns the tap.
const JAILED: u32 = 65_000;

/// The tap.
const TAP: &str = "bench0";

/// The jailer's name for its VMM.
const ID: &str = "bench";

/// Files that a VM was given, and its machine as its jail showed it.
pub(super) struct Bare {
    dir: PathBuf,
    machine: Value,
    kernel: PathBuf,
    base: PathBuf,
}

/// Files that are shown at other places until this is dropped: a second name is nothing that the
/// helper takes.
struct Shown(Vec<PathBuf>);

impl Drop for Shown {
    fn drop(&mut self) {
        for place in &self.0 {
            // What stays is in the way of the next one, which says so.
            must(Command::new("umount").arg(place)).ok();
        }
    }
}

impl Shown {
    fn show(&mut self, from: &Path, place: PathBuf) -> Result<()> {
        File::create(&place)?;
        must(Command::new("mount").arg("--bind").arg(from).arg(&place))?;
        self.0.push(place);
        Ok(())
    }
}

/// A device-mapper snapshot that is removed when dropped.
struct Snapshot {
    loops: Vec<String>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // The next one is refused by name if this does not succeed.
        must(Command::new("dmsetup").args(["remove", "--retry", ID])).ok();
        for device in &self.loops {
            must(Command::new("losetup").args(["-d", device])).ok();
        }
    }
}

impl Bare {
    /// Makes `dir` and the tap that the machine is given in the place of its own.
    pub(super) fn new(
        dir: &Path,
        mut machine: Value,
        kernel: PathBuf,
        base: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {dir:?}"))?;
        machine["network-interfaces"][0]["host_dev_name"] = json!(TAP);
        for drive in machine["drives"].as_array_mut().context("no drives")? {
            // As for a VM that goes away with its run; this one was made to stay.
            drive["cache_type"] = json!("Unsafe");
        }
        if !Path::new("/sys/class/net").join(TAP).exists() {
            let user = JAILED.to_string();
            let ip = |words: &[&str]| must(Command::new("ip").args(words));
            ip(&["tuntap", "add", TAP, "mode", "tap", "user", &user])?;
            ip(&["link", "set", TAP, "up"])?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            machine,
            kernel,
            base,
        })
    }

    /// Copies a file that will be gone.
    pub(super) fn take(&self, from: &Path, name: &str) -> Result<()> {
        copy_sparse(from, &self.dir.join(name))?;
        Ok(fs::set_permissions(
            self.dir.join(name),
            Permissions::from_mode(0o644),
        )?)
    }

    fn is_snapshot(&self) -> bool {
        !self.dir.join("fresh.img").exists()
    }

    /// Boots by Firecracker alone and kills it.
    pub(super) fn firecracker(&self) -> Result<Duration> {
        let dir = self.dir.join("raw");
        fresh(&dir)?;
        let (_snapshot, disk) = self.disk(&dir)?;
        let mut machine = self.machine.clone();
        machine["boot-source"]["kernel_image_path"] = json!(self.kernel);
        machine["boot-source"]["initrd_path"] = json!(self.dir.join("initrd"));
        machine["vsock"]["uds_path"] = json!("vsock.sock");
        if self.is_snapshot() {
            machine["drives"][0]["path_on_host"] = json!(disk);
        } else {
            machine["drives"][0]["path_on_host"] = json!(self.base);
            machine["drives"][1]["path_on_host"] = json!(disk);
        }
        fs::write(dir.join("machine.json"), machine.to_string())?;
        let mut command = Command::new("firecracker");
        command
            .args(["--no-api", "--config-file", "machine.json"])
            .args(["--log-path", "log"])
            .current_dir(&dir);
        File::create(dir.join("log"))?;
        let calls = UnixListener::bind(dir.join(format!("vsock.sock_{READY_PORT}")))?;
        called(&mut command, &calls)
    }

    /// Boots by the jailer and kills what it became.
    pub(super) fn jailer(&self) -> Result<Duration> {
        let jails = self.dir.join("jails");
        fresh(&jails)?;
        let root = jails.join("firecracker").join(ID).join("root");
        fs::create_dir_all(root.join("run"))?;
        fs::hard_link(self.dir.join("initrd"), root.join("initrd"))?;
        let mut shown = Shown(Vec::new());
        shown.show(&self.kernel, root.join("kernel"))?;
        let (_snapshot, disk) = self.disk(&self.dir)?;
        let machine = self.machine.clone();
        if self.is_snapshot() {
            let node = root.join("rootfs");
            must(Command::new("cp").args(["-LR", "--"]).arg(&disk).arg(&node))?;
            chown(&node, Some(JAILED), Some(JAILED))?;
        } else {
            fs::rename(&disk, root.join("disk1"))?;
            chown(root.join("disk1"), Some(JAILED), Some(JAILED))?;
            shown.show(&self.base, root.join("disk0"))?;
        }
        fs::write(root.join("machine.json"), machine.to_string())?;
        chown(root.join("run"), Some(JAILED), Some(JAILED))?;
        let ready = root.join(format!("run/vsock.sock_{READY_PORT}"));
        let calls = UnixListener::bind(&ready)?;
        chown(&ready, Some(JAILED), Some(JAILED))?;
        let id = JAILED.to_string();
        let mut command = Command::new("jailer");
        command
            .args(["--id", ID, "--exec-file", "/usr/lib/banger/firecracker"])
            .args(["--uid", &id, "--gid", &id, "--chroot-base-dir"])
            .arg(&jails)
            .args(["--cgroup-version", "2", "--", "--no-api"])
            .args(["--config-file", "/machine.json"]);
        called(&mut command, &calls)
    }

    /// A disk as a VM has it at its first start.
    fn disk(&self, dir: &Path) -> Result<(Option<Snapshot>, PathBuf)> {
        if !self.is_snapshot() {
            let disk = dir.join("disk.img");
            copy_sparse(&self.dir.join("fresh.img"), &disk)?;
            return Ok((None, disk));
        }
        let base = &self.base;
        let bytes = fs::metadata(base)?.len();
        let store = self.dir.join("store.cow");
        // Without what an earlier boot wrote.
        File::create(&store)?.set_len(bytes + bytes / 64)?;
        let mut snapshot = Snapshot { loops: Vec::new() };
        for (path, read_only) in [(base, true), (&store, false)] {
            let mut losetup = Command::new("losetup");
            losetup.args(["--find", "--show"]);
            if read_only {
                losetup.arg("--read-only");
            }
            let device = said(losetup.arg(path))?;
            snapshot.loops.push(device.trim().to_owned());
        }
        let table = format!(
            "0 {} snapshot {} N 8",
            bytes / 512,
            snapshot.loops.join(" ")
        );
        must(Command::new("dmsetup").args(["create", ID, "--table", &table]))?;
        Ok((Some(snapshot), Path::new("/dev/mapper").join(ID)))
    }
}

/// How long after its spawn the agent calls. What was spawned is killed then.
fn called(command: &mut Command, calls: &UnixListener) -> Result<Duration> {
    let mut process = Timed::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let called = process.readable(calls, "the agent's call")?;
    process.end_now()?;
    Ok(called)
}

/// Makes an empty directory.
fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {dir:?}"))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("make {dir:?}"))
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    must(
        Command::new("cp")
            .args(["--sparse=always", "--"])
            .arg(from)
            .arg(to),
    )
}
