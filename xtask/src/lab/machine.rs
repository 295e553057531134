//! QEMU as the emulated host: its command line, its start, and the wait for what it says.
//!
//! It runs in a directory that has everything under fixed names (`vmlinux`, `initrd`, `disk`,
//! `push.img`, and for a saved state `ram` and `state`), so its command line is the same for all
//! labs of a kind and can stand in the key of what was saved from one.

use super::place::Key;
use super::process::{Process, first_ready};
use super::qmp::Qmp;
use anyhow::{Context, Result, bail};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::inotify;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Features that QEMU emulates slowly or wrongly, or that cost the nested guest.
const FAST_CPU: &str = "max,la57=off,smap=off,smep=off,erms=off,fsrm=off,pku=off,\
                        family=23,model=49,stepping=0";
const COUNT_CPU: &str = "max,+svm,+npt,-pku,-xsavec,-xsaves";
const APPEND: &str = "console=ttyS0 quiet oops=panic panic=-1 mitigations=off init_on_alloc=0 \
                      net.ifnames=0 tsc=reliable no_timer_check random.trust_cpu=on";

/// How the host is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flavour {
    /// Two CPUs, each with a thread: to try things. Times mean nothing.
    Fast,
    /// One CPU: for tests. With two, an emulated host that runs guests dies now and then.
    Steady,
    /// One CPU whose clock counts instructions: for figures that repeat.
    Count,
}

impl Flavour {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Steady => "steady",
            Self::Count => "count",
        }
    }

    /// How long a boot may take.
    pub(super) fn boot_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Fast | Self::Steady => 300,
            Self::Count => 900,
        })
    }
}

/// Where the machine's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nowhere else.
    Anonymous,
    /// In the file `ram`, written through: to be saved.
    Shared,
    /// In the file `ram`, whose pages are copied when written: a saved one.
    Private,
}

/// An emulated host to start.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) flavour: Flavour,
    pub(super) memory_mib: u32,
    /// 2 MiB pages set aside for guests.
    pub(super) huge_pages: u32,
    /// Whether it reaches this host's network.
    pub(super) online: bool,
    pub(super) memory: Memory,
    /// Whether writes to the disk stay, or are thrown away with the process.
    pub(super) keeps_disk: bool,
    /// Waits for a saved state instead of booting.
    pub(super) incoming: bool,
    /// A word more for the kernel.
    pub(super) word: &'static str,
    /// After this time the process is killed, whatever happens.
    pub(super) life: Duration,
}

/// A started QEMU, killed when dropped unless it is released.
#[derive(Debug)]
pub(super) struct Started {
    qemu: Option<Process>,
    pub(super) qmp: Qmp,
}

impl Started {
    pub(super) fn qemu(&self) -> &Process {
        self.qemu.as_ref().expect("it is there until released")
    }

    /// Lets the process live on.
    pub(super) fn release(mut self) -> Process {
        self.qemu.take().expect("it is there until released")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(qemu) = &self.qemu
            && let Err(error) = qemu.end(Duration::from_secs(5))
        {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Machine {
    /// Everything QEMU is told that a saved state depends on, and QEMU's own version.
    pub(super) fn key(&self, base: &str) -> Result<String> {
        let version = Command::new("qemu-system-x86_64").arg("--version").output();
        let version = version.context("run qemu-system-x86_64 (package qemu-system-x86)")?;
        let mut key = Key::default();
        key.add("state 1");
        key.add(base);
        key.add(version.stdout);
        for argument in self.arguments() {
            key.add(argument);
        }
        Ok(key.finish())
    }

    fn arguments(&self) -> Vec<String> {
        let (accel, icount, cpu, cpus, clock) = match self.flavour {
            Flavour::Fast => ("tcg,thread=multi,tb-size=512", None, FAST_CPU, 2, ""),
            Flavour::Steady => ("tcg,thread=single,tb-size=1024", None, FAST_CPU, 1, ""),
            Flavour::Count => (
                "tcg,thread=single,tb-size=1024",
                Some("shift=0"),
                COUNT_CPU,
                1,
                " clocksource=tsc",
            ),
        };
        let memory = self.memory_mib;
        let ram = match self.memory {
            Memory::Anonymous => format!("memory-backend-ram,id=ram0,size={memory}M"),
            Memory::Shared | Memory::Private => format!(
                "memory-backend-file,id=ram0,size={memory}M,mem-path=ram,share={}",
                on_off(self.memory == Memory::Shared)
            ),
        };
        let append = format!(
            "{APPEND}{clock} hugepages={} {}",
            self.huge_pages, self.word
        );
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-name", "banger-lab", "-nodefaults", "-no-user-config"]);
        add(&["-display", "none", "-no-reboot", "-accel", accel]);
        if let Some(icount) = icount {
            add(&["-icount", icount]);
        }
        let machine = "q35,usb=off,smm=off,vmport=off,memory-backend=ram0";
        add(&["-machine", machine, "-cpu", cpu]);
        add(&["-smp", &cpus.to_string(), "-m", &format!("{memory}M")]);
        add(&["-object", &ram, "-kernel", "vmlinux", "-initrd", "initrd"]);
        add(&["-append", append.trim_end()]);
        let drive = |id: &str, file: &str, more: &str| {
            format!("if=none,id={id},file={file},format=raw,{more}")
        };
        let kept = on_off(!self.keeps_disk);
        let root = format!("cache=unsafe,discard=unmap,snapshot={kept}");
        add(&["-drive", &drive("root", "disk", &root)]);
        add(&["-device", "virtio-blk-pci,drive=root"]);
        add(&["-drive", &drive("push", "push.img", "readonly=on")]);
        add(&["-device", "virtio-blk-pci,drive=push"]);
        let restrict = on_off(!self.online);
        let net = format!("user,id=net,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22");
        add(&["-netdev", &net]);
        add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        add(&["-device", "virtio-rng-pci", "-serial", "file:serial.log"]);
        add(&["-chardev", "socket,id=qmp,path=qmp.sock"]);
        add(&["-mon", "chardev=qmp,mode=control"]);
        if self.incoming {
            add(&["-incoming", "defer"]);
        }
        arguments
    }

    /// Starts QEMU in `dir`; it returns once its monitor answers. `starting` is told of the process
    /// that has QEMU below it, before QEMU itself is known.
    pub(super) fn start(
        &self,
        dir: &Path,
        starting: impl FnOnce(&Process) -> Result<()>,
    ) -> Result<Started> {
        let serial = dir.join("serial.log");
        File::create(&serial).with_context(|| format!("make {serial:?}"))?;
        let log_path = dir.join("qemu.log");
        let log = File::create(&log_path).with_context(|| format!("make {log_path:?}"))?;
        let socket = dir.join("qmp.sock");
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        // A socket's path is limited to 108 bytes; by way of the held directory it is short.
        let held = File::open(dir).with_context(|| format!("open {dir:?}"))?;
        let short = format!("/proc/self/fd/{}/qmp.sock", held.as_raw_fd());
        let listener =
            UnixListener::bind(&short).with_context(|| format!("listen at {socket:?}"))?;
        let child = Command::new("timeout")
            .arg("--kill-after=5")
            .arg(self.life.as_secs().to_string())
            .arg("qemu-system-x86_64")
            .args(self.arguments())
            .current_dir(dir)
            // For the file that holds what is written to the disk and thrown away.
            .env("TMPDIR", dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start QEMU")?;
        let starter = Process::hold(i32::try_from(child.id())?)?;
        starting(&starter)?;
        match Qmp::accept(&listener, &starter) {
            Ok((qmp, qemu)) => Ok(Started {
                qemu: Some(qemu),
                qmp,
            }),
            Err(error) => {
                starter.end(Duration::from_secs(5))?;
                let said = fs::read_to_string(&log_path).unwrap_or_default();
                bail!("start QEMU: {error:#}: {}", said.trim())
            }
        }
    }
}

fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// Waits until the serial console in `dir` has a line with this text, and returns that line.
pub(super) fn wait_for_line(
    dir: &Path,
    qemu: &Process,
    text: &str,
    limit: Duration,
) -> Result<String> {
    let serial = dir.join("serial.log");
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, &serial, inotify::WatchFlags::MODIFY)
        .with_context(|| format!("watch {serial:?}"))?;
    let deadline = Instant::now() + limit;
    loop {
        // Looked at after the watch was set: what comes in between is not missed.
        let said = fs::read(&serial).with_context(|| format!("read {serial:?}"))?;
        let said = String::from_utf8_lossy(&said);
        let whole_lines = said.rsplit_once('\n').map_or("", |(lines, _)| lines);
        if let Some(line) = whole_lines.lines().find(|line| line.contains(text)) {
            return Ok(line.trim().to_owned());
        }
        match first_ready(&[watch.as_fd(), qemu.as_fd()], deadline)? {
            Some(0) => drain(&watch)?,
            Some(_) => bail!(
                "the host ended before it said {text:?}; last:\n{}",
                tail(&said)
            ),
            None => bail!(
                "the host did not say {text:?} in {limit:?}; last:\n{}",
                tail(&said)
            ),
        }
    }
}

/// Takes all events out, so that the next wait is for a new one.
fn drain(watch: &impl AsFd) -> Result<()> {
    let mut buffer = [0; 4096];
    match rustix::io::read(watch, &mut buffer) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno).context("read events"),
    }
}

/// The last lines of a console.
pub(super) fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let from = lines.len().saturating_sub(20);
    lines[from..].join("\n")
}
