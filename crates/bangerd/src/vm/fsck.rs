//! Checks a VM's file system, which its guest wrote and so may be anything.
//!
//! Nobody here may open the device by a name, and `e2fsck` takes nothing else. So it works on a
//! copy without a name, in a process that has nothing but that copy: an empty environment, no
//! way to more privileges, no other process, little memory and time. Only what it changed is
//! written back, and only after it succeeded: a file system that it gives up stays as it was.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, prlimit};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program; no search path is trusted. The installed daemon may execute no other place's.
const PROGRAM: &str = "/usr/sbin/e2fsck";

/// How long it may take. Generous: an emulated host is slow.
const LIMIT: Duration = Duration::from_secs(180);

/// How much memory it may take.
const MEMORY: u64 = 1 << 30;

/// How many seconds of a CPU.
const CPU: u64 = 120;

/// How much of what it says is kept.
const KEPT: u64 = 16 << 10;

/// How many of its lines are told.
const LINES: usize = 6;

/// What is read at a time, and what is compared: a block of ext4.
const CHUNK: usize = 1 << 20;
const BLOCK: usize = 4096;

/// A check that left a sound file system.
#[derive(Debug)]
pub(super) struct Checked {
    /// `e2fsck`'s exit code: 0, or 1 or 2 for what was repaired.
    pub(super) code: i32,
    /// How many blocks it changed.
    pub(super) written: u64,
    /// Its last words.
    pub(super) said: Vec<String>,
}

/// Why a file system is not known to be sound.
#[derive(Debug, thiserror::Error)]
pub(super) enum FsckError {
    /// The device cannot be read or written.
    #[error("read or write the disk")]
    Device(#[source] io::Error),
    /// Something else cannot be.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is no `e2fsck`.
    #[error("check the disk: {PROGRAM} is missing")]
    Missing,
    /// It took too long.
    #[error("check the disk: e2fsck took longer than {} s", LIMIT.as_secs())]
    TimedOut,
    /// It cannot repair it without somebody to ask.
    #[error("its file system is damaged, and e2fsck does not repair it by itself ({status})")]
    Uncorrectable {
        /// How it ended.
        status: String,
        /// Its last words.
        said: Vec<String>,
    },
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> FsckError {
    move |source| FsckError::Io {
        what,
        source: source.into(),
    }
}

/// Checks and repairs the file system on `device`, of `length` bytes, opened for both. `dir` has room for a copy of
/// what it holds, for as long as this takes.
pub(super) fn check(device: &File, length: u64, dir: &Path) -> Result<Checked, FsckError> {
    if !Path::new(PROGRAM).is_file() {
        return Err(FsckError::Missing);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let copy = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR);
    let copy = File::from(copy.map_err(failed("make a copy of the disk"))?);
    copy.set_len(length)
        .map_err(failed("make a copy of the disk"))?;
    each_block(device, length, |at, block| {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        copy.write_all_at(block, at)
            .map_err(failed("write a copy of the disk"))
    })?;
    let (code, said) = run(&copy, length)?;
    let mut written = 0;
    let mut checked = vec![0; BLOCK];
    each_block(device, length, |at, block| {
        let checked = checked.get_mut(..block.len()).unwrap_or_default();
        copy.read_exact_at(checked, at)
            .map_err(failed("read the copy of the disk"))?;
        if checked != block {
            written += 1;
            device
                .write_all_at(checked, at)
                .map_err(FsckError::Device)?;
        }
        Ok(())
    })?;
    if written > 0 {
        device.sync_all().map_err(FsckError::Device)?;
    }
    Ok(Checked {
        code,
        written,
        said,
    })
}

/// Shows each block of the device.
fn each_block(
    device: &File,
    length: u64,
    mut look: impl FnMut(u64, &[u8]) -> Result<(), FsckError>,
) -> Result<(), FsckError> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let want = usize::try_from(length - at).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = buffer.get_mut(..want).unwrap_or_default();
        device.read_exact_at(chunk, at).map_err(FsckError::Device)?;
        for block in chunk.chunks(BLOCK) {
            look(at, block)?;
            at += block.len() as u64;
        }
    }
    Ok(())
}

/// Runs the program on the copy, which is its standard input and all that it has.
fn run(copy: &File, length: u64) -> Result<(i32, Vec<String>), FsckError> {
    let input = copy
        .try_clone()
        .map_err(failed("hold a copy of the disk"))?;
    let (mut reader, writer) = io::pipe().map_err(failed("make a pipe"))?;
    let errors = writer.try_clone().map_err(failed("make a pipe"))?;
    // What a thread gives up its children do not have; and this one does nothing else.
    let spawned = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true)?;
        Command::new(PROGRAM)
            .args(["-p", "/proc/self/fd/0"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(input))
            .stdout(writer)
            .stderr(errors)
            .spawn()
    });
    let spawned = spawned.join().unwrap_or_else(|_| Err(Errno::CHILD.into()));
    let mut child = Killed(spawned.map_err(failed("run e2fsck"))?);
    let pid = i32::try_from(child.0.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed("run e2fsck")(Errno::SRCH))?;
    bound(pid, length).map_err(failed("limit e2fsck"))?;
    // It says little; more than is kept would fill the pipe, and it would not end in time.
    let listener = std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = reader.by_ref().take(KEPT).read_to_end(&mut said);
        let rest = read.and_then(|_| io::copy(&mut reader, &mut io::sink()));
        rest.map(|_| said)
    });
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("watch e2fsck"))?;
    if !ends(&pidfd).map_err(failed("wait for e2fsck"))? {
        return Err(FsckError::TimedOut);
    }
    let status = child.0.wait().map_err(failed("wait for e2fsck"))?;
    let said = listener.join().unwrap_or_else(|_| Ok(Vec::new()));
    let said = lines(&said.map_err(failed("listen to e2fsck"))?);
    match status.code() {
        // 1: repaired; 2: and the system should be restarted if it were mounted.
        Some(code @ 0..=3) => Ok((code, said)),
        _ => Err(FsckError::Uncorrectable {
            status: status.to_string(),
            said,
        }),
    }
}

/// Whether a process ends in time.
fn ends(pidfd: &OwnedFd) -> Result<bool, Errno> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            // The signal of the very end may come to this thread.
            Err(Errno::INTR) => {}
            ended => return ended.map(|count| count > 0),
        }
    }
}

/// Sets the limits of a process that has just begun.
fn bound(pid: Pid, length: u64) -> Result<(), Errno> {
    for (resource, limit) in [
        (Resource::Cpu, CPU),
        (Resource::As, MEMORY),
        (Resource::Fsize, length),
        (Resource::Nproc, 0),
        (Resource::Nofile, 16),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        prlimit(Some(pid), resource, limit)?;
    }
    Ok(())
}

/// The last lines, without what a terminal would take for a command.
fn lines(said: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(said);
    let clean = |line: &str| -> String {
        let shown = line.trim().chars().take(200);
        shown
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect()
    };
    let all: Vec<String> = text.lines().map(clean).collect();
    let all: Vec<String> = all.into_iter().filter(|line| !line.is_empty()).collect();
    all.get(all.len().saturating_sub(LINES)..)
        .unwrap_or_default()
        .to_vec()
}

/// A child that does not outlive the wait for it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Waited for already, it is not signalled: its number may be another's.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
