//! Where the lab keeps things, all below `target/lab`:
//!
//! ```text
//! store/            a kernel and the base image, as banger itself keeps them
//! cache/            firecracker-VERSION/ keys/ host-KEY/{disk,initrd} state-KEY/{ram,state,disk}
//! run/NAME/         a running lab: lab.json, logs, sockets; links to what it was started from
//! last/NAME/        the logs of the lab that last had this name
//! tmp/              what is being made
//! ```
//!
//! Nothing in the cache is looked for anew: to have Debian's newest, remove `target/lab`.

use crate::top;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// How many things of a kind are kept in the cache: a few branches' worth.
const KEPT: usize = 4;

/// A directory of the lab's, made (0700) if it isn't there.
pub(super) fn directory(parts: &[&str]) -> Result<PathBuf> {
    let mut path = top().join("target").join("lab");
    path.extend(parts);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("make {path:?}"))?;
    Ok(path)
}

/// The lab's data files in the repository.
pub(super) fn sources() -> PathBuf {
    top().join("xtask").join("lab")
}

/// Reads one of them; lines that begin with `#` are left out.
pub(super) fn source_lines(name: &str) -> Result<Vec<String>> {
    let path = sources().join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// A file that is locked as long as it is held, by whichever process.
pub(super) fn lock(name: &str, or_fail: Option<&str>) -> Result<File> {
    let path = directory(&["run"])?.join(format!("{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {path:?}"))?;
    match or_fail {
        None => flock(&file, FlockOperation::LockExclusive)?,
        Some(why) => {
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                bail!("{why}");
            }
        }
    }
    Ok(file)
}

/// A directory for making something in, removed with the value. It is locked, so that the next to
/// work here can tell what was left by a process that did not live to remove it.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A directory to work in; what dead processes left is removed.
pub(super) fn scratch() -> Result<Scratch> {
    let _lock = lock(".tmp", None)?;
    let tmp = directory(&["tmp"])?;
    for entry in fs::read_dir(&tmp).with_context(|| format!("read {tmp:?}"))? {
        let path = entry?.path();
        let held = File::open(&path).with_context(|| format!("open {path:?}"))?;
        if flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {path:?}"))?;
        }
    }
    let dir = tempfile::Builder::new()
        .prefix("work-")
        .tempdir_in(&tmp)
        .context("make a directory to work in")?;
    let held = File::open(dir.path())?;
    flock(&held, FlockOperation::LockExclusive)?;
    Ok(Scratch { dir, _lock: held })
}

/// Copies a file, with its holes, as cheaply as the file system can.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    crate::must(
        std::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", "--"])
            .arg(from)
            .arg(to),
    )
}

/// Makes a link, in place of another if need be.
pub(super) fn link(target: &Path, at: &Path) -> Result<()> {
    if at.is_symlink() {
        fs::remove_file(at).with_context(|| format!("remove {at:?}"))?;
    }
    symlink(target, at).with_context(|| format!("link {at:?}"))
}

/// Moves a directory that is complete into the cache, and drops the oldest of its kind. What a
/// running lab has open stays usable for it.
pub(super) fn keep(made: &Path, kind: &str, key: &str) -> Result<PathBuf> {
    let cache = directory(&["cache"])?;
    let target = cache.join(format!("{kind}-{key}"));
    fs::rename(made, &target).with_context(|| format!("put {target:?} into the cache"))?;
    let mut of_kind = Vec::new();
    for entry in fs::read_dir(&cache).with_context(|| format!("read {cache:?}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(kind).is_some_and(|k| k.starts_with('-')) {
            of_kind.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    of_kind.sort();
    for (_, old) in of_kind.iter().rev().skip(KEPT) {
        if *old != target {
            fs::remove_dir_all(old).with_context(|| format!("remove {old:?}"))?;
        }
    }
    Ok(target)
}

/// What something is made from, as a short name for it.
#[derive(Default)]
pub(super) struct Key(Sha256);

impl Key {
    /// Adds a part; the same parts in another division give another key.
    pub(super) fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// Adds a file, or all files below a directory with their names.
    pub(super) fn add_tree(&mut self, path: &Path) -> Result<()> {
        let meta = fs::metadata(path).with_context(|| format!("read {path:?}"))?;
        if !meta.is_dir() {
            self.add(fs::read(path).with_context(|| format!("read {path:?}"))?);
            return Ok(());
        }
        let entries = fs::read_dir(path).with_context(|| format!("read {path:?}"))?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            self.add(name.as_encoded_bytes());
            self.add_tree(&path.join(name))?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> String {
        hex(&self.0.finalize())[..16].to_owned()
    }
}

/// Bytes as hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_files_and_parts_apart() {
        let dir = tempfile::tempdir().unwrap();
        let key = || {
            let mut key = Key::default();
            key.add_tree(dir.path()).unwrap();
            key.finish()
        };
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/a"), "1").unwrap();
        let first = key();
        assert_eq!(key(), first, "the same files");
        fs::write(dir.path().join("etc/a"), "2").unwrap();
        assert_ne!(key(), first, "another content");
        fs::rename(dir.path().join("etc/a"), dir.path().join("etc/b")).unwrap();
        fs::write(dir.path().join("etc/b"), "1").unwrap();
        assert_ne!(key(), first, "another name");

        let of = |parts: &[&str]| {
            let mut key = Key::default();
            parts.iter().for_each(|part| key.add(part));
            key.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    }
}
