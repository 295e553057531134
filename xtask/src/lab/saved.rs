//! A host's ready state, saved once and resumed in under a second: its memory as a file that is
//! mapped privately, its devices as QEMU writes them, and its disk as it was at that moment.
//!
//! Sound only because no guest runs in the host when it is saved. The key of a state is all that
//! QEMU was told, so what is resumed is the same machine.

use super::base::Base;
use super::machine::{Machine, Memory, wait_for_line};
use super::place::{self, copy_sparse, link};
use super::ssh::Door;
use super::steps::step;
use anyhow::{Context, Result, bail};
use rustix::fd::AsRawFd;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Run before the state is taken: the boot is over, and what a test will run is in memory.
const SETTLE: &str = "exec >&2; state=$(systemctl is-system-running --wait); \
    [ \"$state\" = running ] || { systemctl --failed --no-legend; exit 1; }; \
    cat /usr/local/bin/firecracker /usr/local/bin/jailer >/dev/null; \
    firecracker --version >/dev/null; jailer --version >/dev/null; \
    tar --version >/dev/null; nft list ruleset; sync; blockdev --flushbufs /dev/vdb";

/// The directory with the state of such a machine, made if it isn't in the cache.
pub(super) fn find_or_make(base: &Base, machine: &Machine) -> Result<PathBuf> {
    let key = machine.key(&base.key)?;
    let _lock = place::lock(&format!(".state-{key}"), None)?;
    let cached = place::directory(&["cache"])?.join(format!("state-{key}"));
    if cached.is_dir() {
        return Ok(cached);
    }
    step("boot and save a ready state", || make(base, machine, &key))
}

fn make(base: &Base, machine: &Machine, key: &str) -> Result<PathBuf> {
    let work = place::scratch()?;
    let dir = work.path();
    wire(base, dir)?;
    copy_sparse(&base.disk, &dir.join("disk"))?;
    let ram = Ram::create(u64::from(machine.memory_mib) << 20, dir)?;

    let machine = Machine {
        memory: Memory::Shared,
        keeps_disk: true,
        incoming: false,
        life: Duration::from_secs(1200),
        ..machine.clone()
    };
    let mut started = machine.start(dir, |_| Ok(()))?;
    ram.unlink()?;
    let limit = machine.flavour.boot_limit();
    wait_for_line(dir, started.qemu(), "lab: ready", limit)?;
    let port = started.qmp.forwarded_port()?;
    let door = Door {
        dir,
        port,
        qemu: started.qemu(),
    };
    let settled = door.to_end(door.command("root", SETTLE, false), limit)?;
    if settled != 0 {
        bail!("the emulated host does not come to rest (exit code {settled})");
    }
    started.qmp.save()?;
    if !started.qemu().ends_within(Duration::from_secs(30))? {
        bail!("QEMU does not end after it was saved");
    }
    let state = dir.join("saved");
    fs::create_dir(&state)?;
    ram.copy_to(&state.join("ram"))?;
    for name in ["disk", "state"] {
        fs::rename(dir.join(name), state.join(name))?;
    }
    place::keep(&state, "state", key)
}

/// The file that is a machine's memory. Once QEMU has it open it needs no name, so that nothing is
/// left of it whatever happens.
struct Ram {
    file: File,
    path: PathBuf,
}

impl Ram {
    /// Makes it, in memory if there is room (the boot would wait for a disk), and links it as `ram`
    /// into the machine's directory.
    fn create(bytes: u64, dir: &Path) -> Result<Self> {
        let in_memory = Path::new("/dev/shm");
        let has_room = rustix::fs::statvfs(in_memory)
            .is_ok_and(|found| found.f_bavail * found.f_frsize > 2 * bytes);
        let (file, path) = tempfile::Builder::new()
            .prefix("banger-lab-")
            .tempfile_in(if has_room { in_memory } else { dir })?
            .keep()?;
        let ram = Self { file, path };
        ram.file.set_len(bytes)?;
        link(&ram.path, &dir.join("ram"))?;
        Ok(ram)
    }

    fn unlink(&self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("remove {:?}", self.path))
    }

    fn copy_to(&self, to: &Path) -> Result<()> {
        let held = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        copy_sparse(Path::new(&held), to)
    }
}

/// Links what every machine needs into its directory, and makes the disk that files come in by.
pub(super) fn wire(base: &Base, dir: &Path) -> Result<()> {
    /// The most that can be pushed at once.
    const PUSH_BYTES: u64 = 8 << 30;
    link(&base.vmlinux, &dir.join("vmlinux"))?;
    link(&base.initrd, &dir.join("initrd"))?;
    link(&base.keys.join("user"), &dir.join("key"))?;
    link(&base.keys.join("known_hosts"), &dir.join("known_hosts"))?;
    File::create(dir.join("push.img"))?.set_len(PUSH_BYTES)?;
    Ok(())
}
