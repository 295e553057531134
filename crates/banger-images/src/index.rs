//! The store's index: which name means which content. One small JSON file, replaced by rename.

use crate::ImagesError;
use crate::scratch::sync_directory;
use banger_names::{Digest, KernelName, Tag};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The version of the format that this program writes and reads.
const VERSION: u32 = 1;
const FILE: &str = "index.json";
/// What it is written as before it takes its place.
const NEW: &str = "index.json.new";

/// Names to contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    version: u32,
    /// Kernel names, and the keys of their content below `kernels/`.
    pub(crate) kernels: BTreeMap<KernelName, Digest>,
    /// The kernel used when none is named.
    pub(crate) default_kernel: Option<KernelName>,
    /// Image tags and the digests of their ext4 files.
    pub(crate) tags: BTreeMap<Tag, Digest>,
}

/// Read first, so that an index from the future is told apart from a damaged one.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Index {
    /// Reads the index of a data directory; a new store has an empty one.
    pub(crate) fn read(data: &Path) -> Result<Self, ImagesError> {
        let path = data.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    version: VERSION,
                    kernels: BTreeMap::new(),
                    default_kernel: None,
                    tags: BTreeMap::new(),
                });
            }
            Err(error) => return Err(ImagesError::io("read", &path)(error)),
        };
        let refuse = |reason: String| ImagesError::refused(path.display().to_string(), reason);
        let found: VersionOnly =
            serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
        if found.version != VERSION {
            return Err(refuse(format!(
                "its version is {}, this program reads version {VERSION}",
                found.version
            )));
        }
        serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))
    }

    /// Replaces the index, durably. The caller holds the store's lock.
    pub(crate) fn write(&self, data: &Path) -> Result<(), ImagesError> {
        self.replace(data)?;
        sync_directory(data)
    }

    /// Replaces the index; when that fails, it has not been replaced. Flushes the file, not the
    /// directory. The caller holds the store's lock.
    pub(crate) fn replace(&self, data: &Path) -> Result<(), ImagesError> {
        let text = serde_json::to_vec_pretty(self).expect("an index has only string keys");
        write_durably(&data.join(NEW), &data.join(FILE), &text)
    }

    /// Removes one that a dead process did not put in its place. The caller holds the store's lock.
    pub(crate) fn remove_unfinished(data: &Path) -> Result<(), ImagesError> {
        let path = data.join(NEW);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImagesError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Writes `content` as `path` (0600) by way of `temporary`; flushes the file, not the directory.
pub(crate) fn write_durably(
    temporary: &Path,
    path: &Path,
    content: &[u8],
) -> Result<(), ImagesError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(ImagesError::io("write", temporary))?;
    fs::rename(temporary, path).map_err(ImagesError::io("replace", path))
}
