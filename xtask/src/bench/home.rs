//! A user's surroundings for a benchmark: the programs, a daemon of its own, the tests' store.

use super::report::millis;
use crate::{PROVISIONS, build, must, provide, top};
use anyhow::{Context, Result, bail};
use banger_api::client::Client;
use banger_guest::frame::Kind;
use banger_guest::request::Exec;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) struct Home {
    root: tempfile::TempDir,
    dist: PathBuf,
}

impl Home {
    /// Builds the programs and provisions kernel and image.
    pub(crate) fn new() -> Result<Self> {
        let dist = build::dist()?;
        let root = tempfile::Builder::new()
            .prefix("banger-bench-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")?;
        let store = top().join("target/e2e-store");
        for name in ["data", "cache"] {
            let dir = store.join(name);
            fs::create_dir_all(&dir).with_context(|| format!("make {dir:?}"))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            symlink(&dir, root.path().join(name))?;
        }
        let home = Self { root, dist };
        for (_, look, make) in PROVISIONS {
            provide(&|args| home.command(args), look, make)?;
        }
        Ok(home)
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// The directory of the programs.
    pub(super) fn dist(&self) -> &Path {
        &self.dist
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.dist.join("banger"));
        command.args(args).env("BANGER_HOME", self.path());
        command
    }

    /// Runs `banger ARGS`, which must succeed.
    pub(super) fn must(&self, args: &[&str]) -> Result<()> {
        must(&mut self.command(args))
    }

    /// Runs `banger --json ARGS` and reads what it shows.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.command(&["--json"]).args(args).output()?;
        if !output.status.success() {
            bail!(
                "banger {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("read banger {args:?}"))
    }

    /// Times of `true` run in the VM `bench` through the daemon's API, in milliseconds.
    pub(super) fn exec_round_trips(&self, count: usize) -> Result<Vec<f64>> {
        self.must(&["vm", "start", "bench"])?;
        let client = Client::new(self.path().join("run/bangerd.sock"));
        let exec = Exec {
            argv: vec!["/bin/true".into()],
            ..Exec::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let times = runtime.block_on(async {
            let mut times = Vec::new();
            for turn in 0..=count {
                let start = Instant::now();
                let mut stream = client.upgrade("/v1/vms/bench/exec", &exec).await?;
                loop {
                    match stream.recv().await? {
                        Some(frame) if frame.kind == Kind::Exit => break,
                        Some(frame) if frame.kind == Kind::Failure => {
                            bail!("exec: {}", String::from_utf8_lossy(&frame.payload));
                        }
                        Some(_) => {}
                        None => bail!("exec: the stream ended without an exit code"),
                    }
                }
                if turn > 0 {
                    times.push(millis(start.elapsed()));
                }
            }
            Ok(times)
        })?;
        self.must(&["vm", "stop", "bench"])?;
        Ok(times)
    }

    pub(crate) fn daemon_pid(&self) -> Result<String> {
        let lock = self.path().join("run/bangerd.lock");
        let pid = fs::read_to_string(&lock).with_context(|| format!("read {lock:?}"))?;
        Ok(pid.trim().to_owned())
    }

    /// What the daemon keeps in memory after all this.
    pub(crate) fn daemon_resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon_pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .context("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    /// The programs' sizes on disk.
    pub(super) fn program_sizes_mib(&self) -> Result<Vec<(&'static str, f64)>> {
        ["banger", "bangerd", "banger-agent"]
            .into_iter()
            .map(|name| {
                let bytes = fs::metadata(self.dist.join(name))?.len();
                let mib = f64::from(u32::try_from(bytes)?) / f64::from(1 << 20);
                Ok((name, mib))
            })
            .collect()
    }
}

impl Drop for Home {
    /// Removes the VM and ends the daemon that this home recorded.
    fn drop(&mut self) {
        // Nobody is there to tell when a benchmark is being torn down.
        self.command(&["vm", "rm", "--force", "bench"])
            .output()
            .ok();
        if let Ok(pid) = self.daemon_pid() {
            Command::new("kill").arg(pid).status().ok();
        }
    }
}
