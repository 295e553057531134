//! Where a VM's files are, and how they come and go.

use banger_api::Dirs;
use banger_engine::{Jail, Place};
use banger_names::{ByteSize, VmId};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories of one VM: sockets below the runtime directory, all else below the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmPlace {
    /// Sockets; 0700, new for every life.
    pub(crate) run: PathBuf,
    /// Disk, logs, keys; 0700, as long as the VM.
    pub(crate) state: PathBuf,
}

impl VmPlace {
    /// The place of the VM `id`.
    pub(crate) fn of(dirs: &Dirs, id: &VmId) -> Self {
        Self {
            run: run_root(dirs).join(id.as_str()),
            state: state_root(dirs).join(id.as_str()),
        }
    }

    /// The writable disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.state.join("disk.img")
    }

    /// What a snapshot keeps of what the VM wrote.
    pub(crate) fn store(&self) -> PathBuf {
        self.state.join("snapshot.cow")
    }

    /// The initramfs with this life's boot configuration.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.state.join("boot.initrd")
    }

    /// The private ssh host key.
    pub(crate) fn host_key(&self) -> PathBuf {
        self.state.join("ssh_host_ed25519_key")
    }

    /// What the engine may use.
    pub(crate) fn for_engine(&self, log_cap: ByteSize, jail: Option<Arc<dyn Jail>>) -> Place {
        Place {
            run_dir: self.run.clone(),
            log_dir: self.state.clone(),
            log_cap: log_cap.0,
            jail,
        }
    }

    /// Makes the state directory; one that exists belongs to another VM and is refused.
    pub(crate) fn make_state(&self) -> io::Result<()> {
        if let Some(root) = self.state.parent() {
            make_private(root, true)?;
        }
        make_private(&self.state, false)
    }

    /// Makes an empty run directory.
    pub(crate) fn make_run(&self) -> io::Result<()> {
        self.remove_run()?;
        if let Some(root) = self.run.parent() {
            make_private(root, true)?;
        }
        make_private(&self.run, false)
    }

    /// Removes the run directory, if it is there.
    pub(crate) fn remove_run(&self) -> io::Result<()> {
        remove_tree(&self.run)
    }

    /// Removes the state directory, if it is there, for good: whoever deletes the row next must not
    /// have it on the disk before this, or a loss of power leaves a directory that nobody knows.
    pub(crate) fn remove_state(&self) -> io::Result<()> {
        remove_tree(&self.state)?;
        match self.state.parent().map(std::fs::File::open) {
            Some(Ok(root)) => root.sync_all(),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What the disk takes on the host.
    pub(crate) fn disk_used(&self) -> ByteSize {
        let blocks = |path| std::fs::symlink_metadata(path).map_or(0, |meta| meta.blocks());
        let blocks = blocks(self.disk()).saturating_add(blocks(self.store()));
        ByteSize(blocks.saturating_mul(512))
    }
}

/// Where the run directories of all VMs are.
pub(crate) fn run_root(dirs: &Dirs) -> PathBuf {
    dirs.runtime.join("vm")
}

/// Where the state directories of all VMs are.
pub(crate) fn state_root(dirs: &Dirs) -> PathBuf {
    dirs.state.join("vms")
}

fn make_private(path: &Path, may_exist: bool) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(may_exist)
        .mode(0o700)
        .create(path)
}

/// Removes a directory and what is in it, following no link. One that is gone is no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
