//! A process that is timed from its spawn, with a bound on every wait.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take, on the lab's clock. The longest takes two seconds; and a lab that
/// hangs comes to this limit only after many times that.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// What `banger -v run` says when the agent is ready.
const BOOTED: &str = " booted in ";

/// A `banger -v run`, from its spawn.
pub(super) struct Run {
    /// To when it knew that the agent was ready.
    pub(super) ready: Duration,
    /// To its end.
    pub(super) whole: Duration,
    /// What the daemon said of the boot, in milliseconds.
    pub(super) daemon_ms: f64,
}

impl Run {
    /// Runs such a command to its end, which must be a success.
    pub(super) fn timed(command: &mut Command) -> Result<Self> {
        let mut process = Timed::spawn(command.stderr(Stdio::piped()))?;
        let mut stderr = process.child().stderr.take().context("no standard error")?;
        let (line, ready) = process.line(&mut stderr, BOOTED, LIMIT)?;
        let (status, whole) = process.end()?;
        if !status.success() {
            bail!("banger run ended with {status}");
        }
        let daemon_ms = line
            .split_once(BOOTED)
            .and_then(|(_, rest)| rest.split_once(" ms"))
            .and_then(|(number, _)| number.parse().ok())
            .with_context(|| format!("no time in {line:?}"))?;
        Ok(Self {
            ready,
            whole,
            daemon_ms,
        })
    }
}

/// A process did not do in time what was waited for.
#[derive(Debug)]
pub(super) struct Hung(String);

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in time", self.0)
    }
}

impl std::error::Error for Hung {}

/// A child that is killed when it is let go of before its end.
#[derive(Debug)]
pub(super) struct Timed {
    child: Child,
    ended: OwnedFd,
    began: Instant,
    name: String,
}

impl Drop for Timed {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It is a child that has not been waited for: its number is still its own.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

impl Timed {
    pub(super) fn spawn(command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self {
            child,
            ended,
            began,
            name,
        })
    }

    /// Its end, and how long after the spawn that was.
    pub(super) fn end(mut self) -> Result<(ExitStatus, Duration)> {
        if !is_ready(&self.ended, self.began + LIMIT)? {
            return Err(Hung(format!("{} did not end", self.name)).into());
        }
        let took = self.began.elapsed();
        Ok((self.child.wait()?, took))
    }

    /// The first whole line with `text` in it that comes out of `stream`, and how long after the
    /// spawn that was; it may not be longer than `limit`.
    pub(super) fn line(
        &self,
        stream: &mut (impl Read + AsFd),
        text: &str,
        limit: Duration,
    ) -> Result<(String, Duration)> {
        let mut said = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if !is_ready(&*stream, self.began + limit)? {
                let said = tail(&String::from_utf8_lossy(&said));
                let hung = format!("{} did not say {text:?}, but {said:?}", self.name);
                return Err(Hung(hung).into());
            }
            let count = stream.read(&mut chunk)?;
            let took = self.began.elapsed();
            said.extend_from_slice(&chunk[..count]);
            let all = String::from_utf8_lossy(&said);
            let whole = all.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                return Ok((line.trim().to_owned(), took));
            }
            if count == 0 {
                bail!("{} ended and said {:?}", self.name, tail(&all));
            }
        }
    }

    /// How long after the spawn `fd` had something to read.
    pub(super) fn readable(&self, fd: impl AsFd, what: &str) -> Result<Duration> {
        let mut fds = [
            PollFd::new(&fd, PollFlags::IN),
            PollFd::new(&self.ended, PollFlags::IN),
        ];
        wait(&mut fds, self.began + LIMIT)?;
        let took = self.began.elapsed();
        match fds.map(|fd| !fd.revents().is_empty()) {
            [true, _] => Ok(took),
            [false, true] => bail!("{} ended before {what}", self.name),
            [false, false] => Err(Hung(format!("{} did not come to {what}", self.name)).into()),
        }
    }

    /// Kills it and waits for its end.
    pub(super) fn end_now(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

fn is_ready(fd: impl AsFd, deadline: Instant) -> Result<bool> {
    wait(&mut [PollFd::new(&fd, PollFlags::IN)], deadline)
}

/// Whether one of them was ready before the deadline.
fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a limit out of range")?;
        match poll(fds, Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for a process"),
        }
    }
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(500);
    text.chars().skip(skip).collect()
}

/// Runs a command to its end, which must be a success; how long it took.
pub(super) fn took(command: &mut Command) -> Result<Duration> {
    let (status, took) = Timed::spawn(command)?.end()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(took)
}

/// [`took`], when nobody asks how long.
pub(super) fn must(command: &mut Command) -> Result<()> {
    took(command).map(drop)
}

/// What a command that must succeed writes to standard output.
pub(super) fn said(command: &mut Command) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    must(command.stdout(file.reopen()?))?;
    Ok(std::fs::read_to_string(file.path())?)
}
