//! What is asked of an engine: a machine and the place it may use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{EngineError, Jail};

/// A machine to start. Paths are absolute.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u32,
    /// Memory in MiB, 64 to 1 TiB.
    pub mem_mib: u32,
    /// Whether Firecracker takes the memory from the host's reserved 2 MiB pages, if enough are free.
    pub huge_pages: bool,
    /// An ELF vmlinux, for QEMU with a PVH entry (Debian's has one).
    pub kernel: PathBuf,
    /// The initial RAM file system; several cpio archives may be joined in it.
    pub initrd: PathBuf,
    /// Added after the engine's own kernel arguments, so that it wins over them.
    pub cmdline_extra: String,
    /// Disks in order: the first is `drive_device(0)` in the guest.
    pub drives: Vec<Drive>,
    /// What a flush means to the disk that the jail has itself ([`Jail::root_path`]), which
    /// then comes before all others. Only where there is a jail.
    pub jail_root: Option<Cache>,
    /// The network card, if any.
    pub network: NetworkMode,
    /// The tap of a card with [`NetworkMode::Nat`].
    pub tap: Option<Tap>,
}

/// A tap that was made for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name on the host.
    pub name: String,
    /// The guest's MAC address, as `06:fc:ac:1e:00:02`.
    pub mac: String,
}

/// One raw disk image.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The image file (or block device).
    pub path: PathBuf,
    /// Read-only images may be shared by many machines; writable ones are locked for one.
    pub read_only: bool,
    /// What a flush in the guest means.
    pub cache: Cache,
}

/// What a flush in the guest means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: for disks that are thrown away.
    Unsafe,
    /// It reaches the host's disk.
    Writeback,
}

/// The machine's network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// None.
    None,
    /// User-mode networking: the guest reaches what the host's user reaches. That includes
    /// services on the host's loopback, which answer at the gateway's address.
    User,
    /// A tap on the host's bridge, made by whoever makes the jail.
    Nat,
}

/// The directories a machine may use.
#[derive(Debug, Clone)]
pub struct Place {
    /// A private directory (0700, ours) made and removed by the caller; the sockets go here.
    pub run_dir: PathBuf,
    /// Where `console.log` and `vmm.log` go, each with one predecessor (`.1`).
    pub log_dir: PathBuf,
    /// The most bytes a log and its predecessor take together.
    pub log_cap: u64,
    /// Where a Firecracker runs; as our own process if left out.
    pub jail: Option<Arc<dyn Jail>>,
}

impl MachineSpec {
    /// Checks the numbers and that every file can be opened as the machine will open it.
    pub(crate) fn check(&self, jail: Option<&Arc<dyn Jail>>) -> Result<(), EngineError> {
        if !(1..=64).contains(&self.cpus) {
            return Err(EngineError::Spec(format!(
                "{} CPUs are not within 1 and 64",
                self.cpus
            )));
        }
        if !(64..=1024 * 1024).contains(&self.mem_mib) {
            return Err(EngineError::Spec(format!(
                "{} MiB of memory are not within 64 and 1048576",
                self.mem_mib
            )));
        }
        if self.drives.len() > 16 {
            return Err(EngineError::Spec(format!(
                "{} drives are more than 16",
                self.drives.len()
            )));
        }
        if self.cmdline_extra.contains(['\0', '\n']) || self.cmdline_extra.len() > 1024 {
            return Err(EngineError::Spec(
                "the extra kernel arguments have a line break or are longer than 1024 bytes".into(),
            ));
        }
        if self.jail_root.is_some() && jail.is_none() {
            return Err(EngineError::Spec(
                "its disk is in a jail, and it runs in none".into(),
            ));
        }
        openable("kernel", &self.kernel, false)?;
        openable("initrd", &self.initrd, false)?;
        for drive in &self.drives {
            openable("drive", &drive.path, !drive.read_only)?;
        }
        Ok(())
    }
}

/// The guest's device file for the virtio disk at this index.
pub(crate) fn virtio_disk(index: usize) -> String {
    // At most 16 drives (checked at the start): one letter is enough.
    let letter = u8::try_from(index).map_or('z', |index| char::from(b'a' + index.min(25)));
    format!("/dev/vd{letter}")
}

fn openable(what: &'static str, path: &Path, write: bool) -> Result<(), EngineError> {
    if !path.is_absolute() || path.to_str().is_none() {
        return Err(EngineError::Spec(format!(
            "the {what}'s path {path:?} is not absolute UTF-8"
        )));
    }
    let open = std::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .and_then(|file| file.metadata());
    let fail = |source| EngineError::File {
        what,
        path: path.to_owned(),
        source,
    };
    if open.map_err(fail)?.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(())
}
