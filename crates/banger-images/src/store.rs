//! The store on disk, and who may change it when.
//!
//! ```text
//! DATA/lock                 flock(2)ed while anything is committed
//! DATA/index.json           names to contents
//! DATA/tmp/scratch-*        work in progress, each locked by its process
//! DATA/kernels/KEY/         kernel.json vmlinux [vmlinuz] [modules/]
//! DATA/images/DIGEST/       image.json rootfs.ext4
//! CACHE/                    what can be made again: disk templates, initramfs archives
//! ```
//! A content directory appears by one rename of a flushed scratch directory, then the index is
//! replaced; a crash in between leaves a whole content without a name.

use crate::index::Index;
use crate::known_digest::KnownDigest;
use crate::limits::Limits;
use crate::scratch::{Scratch, claim_dead};
use crate::{ImagesError, sparse};
use banger_names::{ByteSize, Digest};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Images and kernels of one owner. Any number of processes may have the same store open.
#[derive(Debug, Clone)]
pub struct Store {
    data: PathBuf,
    cache: PathBuf,
    limits: Limits,
    agent: KnownDigest,
}

impl Store {
    /// Opens the store, making its directories (0700) where needed, and removes what dead processes
    /// left half-made.
    pub fn open(data_dir: &Path, cache_dir: &Path) -> Result<Self, ImagesError> {
        Self::open_with_limits(data_dir, cache_dir, Limits::default())
    }

    /// [`Store::open`] with other caps.
    pub fn open_with_limits(
        data_dir: &Path,
        cache_dir: &Path,
        limits: Limits,
    ) -> Result<Self, ImagesError> {
        for directory in [
            data_dir,
            &data_dir.join("tmp"),
            &data_dir.join("kernels"),
            &data_dir.join("images"),
            cache_dir,
            &cache_dir.join("tmp"),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(ImagesError::io("create", directory))?;
        }
        let absolute =
            |path: &Path| fs::canonicalize(path).map_err(ImagesError::io("resolve", path));
        let store = Self {
            data: absolute(data_dir)?,
            cache: absolute(cache_dir)?,
            limits,
            agent: KnownDigest::default(),
        };
        let lock = store.lock()?;
        let mut dead = claim_dead(&store.data.join("tmp"))?;
        dead.extend(claim_dead(&store.cache.join("tmp"))?);
        store.remove_unnamed_kernels()?;
        Index::remove_unfinished(&store.data)?;
        drop(lock);
        // Each is ours alone now; removing may take a while and needs no lock.
        drop(dead);
        Ok(store)
    }

    /// Where the contents are.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Where the things that can be made again are.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// What is known of the agent's program.
    pub(crate) fn agent_digest(&self) -> &KnownDigest {
        &self.agent
    }

    /// The caps in force.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for and takes the lock under which the store changes.
    pub(crate) fn lock(&self) -> Result<File, ImagesError> {
        let path = self.data.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(ImagesError::io("open", &path))?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(|error| ImagesError::io("lock", &path)(error.into()))?;
        Ok(file)
    }

    /// A private directory to work in, on the same file system as the contents.
    pub(crate) fn scratch(&self) -> Result<Scratch, ImagesError> {
        self.scratch_in(&self.data.join("tmp"))
    }

    /// A private directory on the file system of the cache.
    pub(crate) fn cache_scratch(&self) -> Result<Scratch, ImagesError> {
        self.scratch_in(&self.cache.join("tmp"))
    }

    /// Makes a scratch directory, and removes those that could not be removed when they should.
    fn scratch_in(&self, parent: &Path) -> Result<Scratch, ImagesError> {
        let lock = self.lock()?;
        let dead = claim_dead(parent)?;
        let made = Scratch::create(parent, 0o700);
        drop(lock);
        drop(dead);
        made
    }

    /// Reads the index without the lock: it is only ever replaced whole.
    pub(crate) fn index(&self) -> Result<Index, ImagesError> {
        Index::read(&self.data)
    }

    /// Fails unless `needed` bytes can be written and the reserve still stays free.
    pub(crate) fn check_space(&self, needed: u64) -> Result<(), ImagesError> {
        let free = sparse::free_bytes(&self.data)?;
        let wanted = needed.saturating_add(self.limits.reserve_bytes);
        if free < wanted {
            return Err(ImagesError::NoSpace {
                path: self.data.clone(),
                needed: ByteSize(wanted),
                available: ByteSize(free),
            });
        }
        Ok(())
    }

    /// Moves a finished, flushed directory of a scratch to its place, and has `index`, which names
    /// it, replace the one that is there. What is there already is the same content and stays; what
    /// is new and gets no name goes back into the scratch. The caller holds the lock.
    pub(crate) fn place(
        &self,
        finished: &Path,
        target: &Path,
        index: &Index,
    ) -> Result<(), ImagesError> {
        let parent = target.parent().unwrap_or(&self.data);
        let is_new = match fs::rename(finished, target) {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                false
            }
            Err(error) => return Err(ImagesError::io("move into", target)(error)),
        };
        let named = crate::scratch::sync_directory(parent).and_then(|()| index.replace(&self.data));
        if named.is_err() && is_new {
            // Without a name nobody would ever remove it. Why it has none is what is told.
            fs::rename(target, finished).unwrap_or_default();
        }
        named?;
        crate::scratch::sync_directory(&self.data)
    }

    /// Removes a content directory: first out of sight by a rename, so that nobody sees a half.
    /// The caller holds the lock.
    pub(crate) fn discard(&self, content: &Path) -> Result<(), ImagesError> {
        let grave = Scratch::create(&self.data.join("tmp"), 0o700)?;
        fs::rename(content, grave.join("removed")).map_err(ImagesError::io("remove", content))?;
        content
            .parent()
            .map_or(Ok(()), crate::scratch::sync_directory)
    }

    /// Removes kernels that a crash left without a name: nothing can refer to them.
    fn remove_unnamed_kernels(&self) -> Result<(), ImagesError> {
        let index = self.index()?;
        let directory = self.data.join("kernels");
        for digest in content_keys(&directory)? {
            if !index.kernels.values().any(|key| *key == digest) {
                self.discard(&directory.join(digest.hex()))?;
            }
        }
        Ok(())
    }
}

/// The digests that the content directories below `directory` are named by.
pub(crate) fn content_keys(directory: &Path) -> Result<Vec<Digest>, ImagesError> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory).map_err(ImagesError::io("list", directory))? {
        let name = entry
            .map_err(ImagesError::io("list", directory))?
            .file_name();
        // Other names are not ours: they are neither shown nor touched.
        if let Ok(digest) = Digest::parse(&format!("sha256:{}", name.to_string_lossy())) {
            keys.push(digest);
        }
    }
    keys.sort();
    Ok(keys)
}
