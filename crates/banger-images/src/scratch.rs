//! Temporary directories that cannot outlive their process for long: each is held by a lock on
//! itself, and whoever opens the store next removes those that nobody holds.

use crate::ImagesError;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The beginning of every scratch directory's name.
const PREFIX: &str = "scratch-";
/// The link to a directory elsewhere that belongs to a scratch directory, and how such are named.
const ANNEX: &str = "annex";
const ANNEX_PREFIX: &str = "banger-scratch-";

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Holds the lock that tells this directory from a dead process's.
    _lock: OwnedFd,
}

impl Scratch {
    /// Makes a directory of the given mode in `parent`. The caller holds the lock that sweepers of
    /// `parent` take, so that nobody sweeps it between its making and its locking.
    pub(crate) fn create(parent: &Path, mode: u32) -> Result<Self, ImagesError> {
        loop {
            let path = parent.join(format!("{PREFIX}{:016x}", random_u64(parent)?));
            match DirBuilder::new().mode(mode).create(&path) {
                Ok(()) => {
                    let lock = lock_directory(&path)
                        .and_then(|lock| lock.ok_or_else(|| io::ErrorKind::WouldBlock.into()));
                    return match lock {
                        Ok(lock) => Ok(Self { path, _lock: lock }),
                        Err(error) => {
                            // Empty, and nobody's: if it stays, the next sweep takes it.
                            fs::remove_dir(&path).unwrap_or_default();
                            Err(ImagesError::io("lock", &path)(error))
                        }
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ImagesError::io("create", &path)(error)),
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory below `parent`, which is one of the system's for temporary files, that goes
    /// when this one goes. Others can pass through it but not list it.
    pub(crate) fn annex(&mut self, parent: &Path) -> Result<PathBuf, ImagesError> {
        let annex = parent.join(format!("{ANNEX_PREFIX}{:016x}", random_u64(parent)?));
        // The link comes first, so that whoever sweeps knows of the directory.
        let link = self.join(ANNEX);
        std::os::unix::fs::symlink(&annex, &link).map_err(ImagesError::io("create", &link))?;
        DirBuilder::new()
            .mode(0o711)
            .create(&annex)
            // The umask may have taken the bits that others need.
            .and_then(|()| fs::set_permissions(&annex, Permissions::from_mode(0o711)))
            .map_err(ImagesError::io("create", &annex))?;
        Ok(annex)
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failure leaves what the next sweep removes; there is nobody to tell.
        remove_annex(&self.path)
            .and_then(|()| remove_tree(&self.path))
            .unwrap_or_default();
    }
}

/// Removes the directory elsewhere that belongs to a scratch directory, if it has one, is named as ours
/// are, and is ours.
fn remove_annex(scratch: &Path) -> io::Result<()> {
    let Ok(annex) = fs::read_link(scratch.join(ANNEX)) else {
        return Ok(());
    };
    let is_named = annex
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(ANNEX_PREFIX));
    let is_ours = fs::symlink_metadata(&annex)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw());
    if is_named && is_ours {
        remove_tree(&annex)?;
    }
    Ok(())
}

/// Takes the lock of every scratch directory in `parent` that no process holds. The caller holds
/// `parent`'s lock; dropping what is returned removes the directories.
pub(crate) fn claim_dead(parent: &Path) -> Result<Vec<Scratch>, ImagesError> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(parent).map_err(ImagesError::io("list", parent))? {
        let path = entry.map_err(ImagesError::io("list", parent))?.path();
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !is_ours {
            continue;
        }
        // One that vanishes meanwhile, or cannot be opened, is somebody else's to clean.
        if let Ok(Some(lock)) = lock_directory(&path) {
            dead.push(Scratch { path, _lock: lock });
        }
    }
    Ok(dead)
}

/// Opens and locks a directory; `None` when another process has it.
fn lock_directory(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a tree. An unprivileged image build killed half-way leaves files of its user namespace's
/// uids, which only that namespace's root may remove: mmdebstrap has a helper for just that.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Command::new("/usr/bin/mmdebstrap")
                .args(["--unshare-helper", "rm", "-rf", "--one-file-system", "--"])
                .args(fs::read_dir(path)?.flatten().map(|entry| entry.path()))
                .env_clear()
                .env("PATH", crate::child::PATH)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// 64 random bits from the kernel.
fn random_u64(at: &Path) -> Result<u64, ImagesError> {
    let mut bytes = [0_u8; 8];
    let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| ImagesError::io("draw a random name in", at)(error.into()))?;
    debug_assert_eq!(count, bytes.len(), "short requests to getrandom are whole");
    Ok(u64::from_ne_bytes(bytes))
}

/// Flushes a directory's entries to the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), ImagesError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(ImagesError::io("flush", path))
}
