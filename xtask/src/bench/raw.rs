//! The raw engine: QEMU started by hand with the daemon's own command line for a like VM.

use super::home::Home;
use super::report::millis;
use anyhow::{Context, Result, bail};
use banger_guest::client;
use banger_guest::frame::AGENT_PORT;
use banger_guest::mux::MuxClient;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the agent says on the console when it serves.
const READY: &str = "banger-agent: ready";

/// A guest that says nothing for so long is not measured.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct RawVm {
    dir: PathBuf,
    argv: Vec<String>,
    disk: PathBuf,
    fresh_disk: PathBuf,
}

/// A raw engine that is killed when dropped.
struct Booted {
    qemu: Child,
    took: Duration,
}

impl Drop for Booted {
    fn drop(&mut self) {
        // It is a child that has not been waited for: its id is still its own.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

impl RawVm {
    /// Starts a VM named `bench`, takes its command line, initramfs and (once stopped) disk.
    pub(super) fn like_ours(home: &Home) -> Result<Self> {
        home.must(&["vm", "create", "--name", "bench", "--start"])?;
        let view = home.json(&["vm", "inspect", "bench"])?;
        let pid = view["pid"].as_u64().context("the VM has no process")?;
        let id = view["id"].as_str().context("the VM has no id")?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let dir = home.path().join("raw");
        fs::create_dir(&dir)?;

        let state = home.path().join("state/vms").join(id);
        let initrd = dir.join("boot.initrd");
        fs::copy(state.join("boot.initrd"), &initrd)?;
        home.must(&["vm", "stop", "bench"])?;
        let fresh_disk = dir.join("fresh.img");
        copy_sparse(&state.join("disk.img"), &fresh_disk)?;
        let disk = dir.join("disk.img");

        let to_ours = [
            (state.join("disk.img"), &disk),
            (state.join("boot.initrd"), &initrd),
        ];
        let argv = line
            .split_terminator('\0')
            .map(|word| {
                let word = to_ours.iter().fold(word.to_owned(), |word, (from, to)| {
                    word.replace(&from.display().to_string(), &to.display().to_string())
                });
                by_hand(&word)
            })
            .collect();
        Ok(Self {
            dir,
            argv,
            disk,
            fresh_disk,
        })
    }

    /// Boots to the agent's ready line and kills the VMM; the time from spawn to that line.
    pub(super) fn boot(&self) -> Result<Duration> {
        Ok(self.start()?.took)
    }

    fn start(&self) -> Result<Booted> {
        copy_sparse(&self.fresh_disk, &self.disk)?;
        let (program, args) = self.argv.split_first().context("an empty command line")?;
        let start = Instant::now();
        let mut qemu = Command::new(program)
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let console = qemu.stdout.take().context("no console")?;
        let mut booted = Booted {
            qemu,
            took: Duration::ZERO,
        };
        let mut tail = String::new();
        for line in BufReader::new(console).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if line.contains(READY) {
                booted.took = start.elapsed();
                return Ok(booted);
            }
            if start.elapsed() > PATIENCE {
                bail!("no ready line in {PATIENCE:?}; last: {tail:?}");
            }
            tail = line;
        }
        bail!("the raw engine ended before the ready line; last: {tail:?}")
    }

    /// Times of the smallest question and answer over the agent's channel, in milliseconds.
    pub(super) fn echo_round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let _booted = self.start()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let wire = tokio::net::UnixStream::connect(self.dir.join("agent.sock")).await?;
            let mux = tokio::time::timeout(PATIENCE, MuxClient::connect(wire)).await??;
            let mut times = Vec::new();
            for turn in 0..=count {
                let start = Instant::now();
                let stream = mux.open(AGENT_PORT).await?;
                client::health(stream).await?;
                if turn > 0 {
                    times.push(millis(start.elapsed()));
                }
            }
            Ok(times)
        })
    }
}

/// The daemon hands sockets over as open descriptors; by hand the console goes to standard
/// output and the others are sockets that QEMU makes itself.
fn by_hand(word: &str) -> String {
    let Some(rest) = word.strip_prefix("socket,id=") else {
        return word.to_owned();
    };
    let id = rest.split(',').next().unwrap_or_default();
    match id {
        "console" => "stdio,id=console,signal=off".to_owned(),
        _ => format!("socket,id={id},path={id}.sock,server=on,wait=off"),
    }
}

fn copy_sparse(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    crate::must(
        Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", "--"])
            .arg(from)
            .arg(to),
    )
}
