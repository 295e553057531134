//! The lab: a Debian host with systemd, KVM, Firecracker and jailer, in emulation, on machines that
//! have none of that. QEMU emulates AMD's nested virtualisation, so the host in it has a `/dev/kvm`
//! that boots real guests.
//!
//! A [`Lab`] is one running host, started from a saved ready state or by a boot. Its disk is thrown
//! away with it. It does not reach the network unless asked to. The emulation is not perfectly
//! robust: when a lab dies under a command, that is told apart ([`HostDied`]) from the command's failure.

mod base;
mod check;
mod command;
mod firecracker;
mod machine;
mod place;
mod process;
mod qmp;
mod record;
mod saved;
mod ssh;
mod steps;

use anyhow::{Context, Result, bail};
use base::Base;
use machine::{Machine, Memory, Started, wait_for_line};
use process::Process;
use record::{Record, State, run_directory};
use ssh::{Door, quote};
use std::fs::{self, DirBuilder};
use std::io::{Read, Seek};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use steps::step;

pub(crate) use command::run;
pub(crate) use machine::Flavour;
pub(crate) use ssh::{HostDied, TimedOut};

/// How long a lab may run. It hangs or breaks the longer it is used; use a fresh one.
const LIFE: Duration = Duration::from_secs(4 * 3600);
/// How long the first connection to a resumed lab may take.
const CONNECT: Duration = Duration::from_secs(120);
/// How long QEMU may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// The most output of a command that is kept.
const OUTPUT_MAX: u64 = 64 << 20;

/// Which lab to start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// What it is called; no two that run have one name.
    pub(crate) name: String,
    pub(crate) flavour: Flavour,
    pub(crate) memory_mib: u32,
    /// How many 2 MiB pages are set aside for guests.
    pub(crate) huge_pages: u32,
    /// Boots it even if a saved state would do.
    pub(crate) fresh: bool,
    /// Lets it reach this host's network.
    pub(crate) online: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            flavour: Flavour::Fast,
            memory_mib: 4096,
            huge_pages: 640,
            fresh: false,
            online: false,
        }
    }
}

/// What a command in a lab said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// The command's own exit code.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A running lab. It is taken down when dropped, unless it is left running.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    dir: PathBuf,
    record: Record,
    qemu: Process,
    is_left: bool,
}

impl Lab {
    /// Starts a lab and returns when it takes commands, printing what took how long.
    pub(crate) fn up(options: &Options) -> Result<Self> {
        let name = options.name.as_str();
        let dir = run_directory(name)?;
        let busy = format!("lab {name:?} is being started by another process");
        let _lock = place::lock(&format!(".name-{name}"), Some(&busy))?;
        if Record::read(&dir)?.is_some_and(|record| record.alive().is_some()) {
            bail!("lab {name:?} runs already (cargo xtask lab down --name {name})");
        }
        remove(name, &dir)?;
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("make {dir:?}"))?;
        let started = Self::start(options, &dir);
        if started.is_err() {
            // Its logs say why; the error that matters is in hand.
            remove(name, &dir).ok();
        }
        started.with_context(|| format!("start lab {name:?} (logs: target/lab/last/{name})"))
    }

    fn start(options: &Options, dir: &Path) -> Result<Self> {
        let base = Base::find_or_make()?;
        let is_resumed = !options.fresh;
        let machine = Machine {
            flavour: options.flavour,
            memory_mib: options.memory_mib,
            huge_pages: options.huge_pages,
            online: options.online,
            memory: if is_resumed {
                Memory::Private
            } else {
                Memory::Anonymous
            },
            keeps_disk: false,
            incoming: is_resumed,
            word: "",
            life: LIFE,
        };
        saved::wire(&base, dir)?;
        if is_resumed {
            let state = saved::find_or_make(&base, &machine)?;
            for name in ["disk", "ram", "state"] {
                place::link(&state.join(name), &dir.join(name))?;
            }
        } else {
            place::link(&base.disk, &dir.join("disk"))?;
        }
        let mut record = None;
        let mut started = step("start QEMU", || {
            machine.start(dir, |starter| {
                let first = starting_record(options, starter)?;
                first.write(dir)?;
                record = Some(first);
                Ok(())
            })
        })?;
        let mut record = record.context("QEMU was started without a record")?;
        record.process = started.qemu().id.clone();
        record.port = started.qmp.forwarded_port()?;
        record.write(dir)?;
        if is_resumed {
            step("resume", || started.qmp.load())?;
        } else {
            let limit = options.flavour.boot_limit();
            let ready = |started: &Started| wait_for_line(dir, started.qemu(), "lab: ready", limit);
            step("boot", || ready(&started))?;
        }
        let door = Door {
            dir,
            port: record.port,
            qemu: started.qemu(),
        };
        step("ssh", || greet(&door, options.flavour))?;
        record.state = State::Ready;
        record.write(dir)?;
        Ok(Self {
            name: options.name.clone(),
            dir: dir.to_owned(),
            record,
            qemu: started.release(),
            is_left: false,
        })
    }

    /// A lab that was left running. Dropping the value leaves it so.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let dir = run_directory(name)?;
        let hint = format!("cargo xtask lab up --name {name}");
        let Some(record) = Record::read(&dir)? else {
            bail!("there is no lab {name:?} ({hint})");
        };
        let Some(qemu) = record.alive() else {
            return Err(HostDied::before(name, &dir).into());
        };
        if record.state == State::Starting {
            bail!("lab {name:?} is still starting");
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
            record,
            qemu,
            is_left: true,
        })
    }

    /// Leaves it running when the value is dropped.
    pub(crate) fn leave(mut self) {
        self.is_left = true;
    }

    fn door(&self) -> Door<'_> {
        Door {
            dir: &self.dir,
            port: self.record.port,
            qemu: &self.qemu,
        }
    }

    /// Brings files and directories in, below the directory `to`, which is made; owned by root.
    pub(crate) fn push(&self, paths: &[PathBuf], to: &str) -> Result<()> {
        self.door()
            .push(paths, to, self.record.flavour.boot_limit())
    }

    /// Brings files and directories out, into the local directory `to`, which is made.
    pub(crate) fn pull(&self, paths: &[&str], to: &Path) -> Result<()> {
        self.door()
            .pull(paths, to, self.record.flavour.boot_limit())
    }

    /// Runs a command as root, its words as they are, and returns what it said. Errors are
    /// [`HostDied`] and [`TimedOut`], but for faults of this machine.
    pub(crate) fn run(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        let mut files = [tempfile::tempfile()?, tempfile::tempfile()?];
        let mut ssh = self.door().command("root", &shell_line(argv), false);
        ssh.stdout(files[0].try_clone()?)
            .stderr(files[1].try_clone()?);
        let code = self.door().to_end(ssh, limit)?;
        let mut read = [Vec::new(), Vec::new()];
        for (file, bytes) in files.iter_mut().zip(&mut read) {
            file.rewind()?;
            file.take(OUTPUT_MAX).read_to_end(bytes)?;
        }
        let [stdout, stderr] = read;
        Ok(Output {
            code,
            stdout,
            stderr,
        })
    }

    /// Takes it down: the process that was recorded is ended, its disk is gone; logs stay.
    pub(crate) fn down(mut self) -> Result<()> {
        self.is_left = true;
        end(&self.name, &self.dir, &self.qemu)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.is_left
            && let Err(error) = end(&self.name, &self.dir, &self.qemu)
        {
            eprintln!("lab: take down {:?}: {error:#}", self.name);
        }
    }
}

fn starting_record(options: &Options, starter: &Process) -> Result<Record> {
    Ok(Record {
        state: State::Starting,
        process: starter.id.clone(),
        flavour: options.flavour,
        memory_mib: options.memory_mib,
        port: 0,
        started_unix: now()?.as_secs(),
    })
}

/// Opens the shared connection, and gives the host what a resumed one lacks: the time, and
/// randomness of its own.
fn greet(door: &Door<'_>, flavour: Flavour) -> Result<()> {
    let limit = CONNECT.max(flavour.boot_limit());
    door.open("root", limit)?;
    let mut seed = [0; 64];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let remote = format!(
        "date -s @{:.3} >/dev/null && echo {} >/dev/urandom && test -c /dev/kvm",
        now()?.as_secs_f64(),
        place::hex(&seed)
    );
    match door.to_end(door.command("root", &remote, false), limit)? {
        0 => Ok(()),
        code => bail!("the lab has no clock to set or no /dev/kvm (exit code {code})"),
    }
}

fn now() -> Result<Duration> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970")
}

/// Words as one line that the remote shell reads back as the same words.
fn shell_line(argv: &[&str]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
    words.join(" ")
}

/// Ends a lab's process; and removes its directory, unless another lab has got the name since.
fn end(name: &str, dir: &Path, qemu: &Process) -> Result<()> {
    let _lock = place::lock(&format!(".name-{name}"), None)?;
    qemu.end(GRACE)?;
    match Record::read(dir)? {
        Some(record) if record.process == qemu.id => remove(name, dir),
        _ => Ok(()),
    }
}

/// Takes down whatever is recorded under a name: running, half started or dead.
fn take_down(name: &str) -> Result<()> {
    let dir = run_directory(name)?;
    let busy = "it is being started by another process";
    let _lock = place::lock(&format!(".name-{name}"), Some(busy))?;
    if let Some(process) = Record::read(&dir)?.and_then(|record| record.alive()) {
        process.end(GRACE)?;
    }
    remove(name, &dir)
}

/// Removes the directory of a lab that has ended, but for its logs.
fn remove(name: &str, dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let last = place::directory(&["last"])?.join(name);
    if last.exists() {
        fs::remove_dir_all(&last).with_context(|| format!("remove {last:?}"))?;
    }
    fs::create_dir(&last).with_context(|| format!("make {last:?}"))?;
    for log in ["serial.log", "qemu.log", "ssh.log", "lab.json"] {
        let from = dir.join(log);
        if from.exists() {
            fs::rename(&from, last.join(log)).with_context(|| format!("keep {from:?}"))?;
        }
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {dir:?}"))
}
