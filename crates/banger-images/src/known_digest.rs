//! The digest of a file that is read at every boot and hardly ever changes: hashed once, then known
//! by what tells this very file and content from another.

use crate::ImagesError;
use crate::files::{open_regular, read_capped};
use banger_names::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What changes when a file's content does: a write sets the change time, a replacement has
/// another inode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The digest last computed, shared by all clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownDigest(Arc<Mutex<Option<(Mark, Digest)>>>);

impl KnownDigest {
    /// The digest of the regular file at `path`, of at most `cap` bytes.
    pub(crate) fn of(&self, path: &Path, cap: u64) -> Result<Digest, ImagesError> {
        let mark = || {
            let meta = open_regular(path)?.metadata();
            Ok::<_, ImagesError>(Mark::of(&meta.map_err(ImagesError::io("read", path))?))
        };
        let before = mark()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mark, digest)) = known.as_ref()
            && *mark == before
        {
            return Ok(digest.clone());
        }
        let digest = Digest::from_sha256(Sha256::digest(read_capped(path, cap)?).into());
        // Else it was written meanwhile, and nobody knows of which content that is the digest.
        *known = (mark()? == before).then(|| (before, digest.clone()));
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_digest_is_remembered_until_the_file_is_another() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("agent");
        fs::write(&path, "one").unwrap();
        let known = KnownDigest::default();
        let one = known.of(&path, 100).unwrap();
        assert_eq!(known.clone().of(&path, 100).unwrap(), one);
        assert!(known.0.lock().unwrap().is_some());

        let other = temp.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        let two = known.of(&path, 100).unwrap();
        assert_ne!(two, one);

        fs::write(&path, "three, longer").unwrap();
        assert_ne!(known.of(&path, 100).unwrap(), two);
        assert!(known.of(&path, 4).is_ok(), "known files are not read again");
        fs::write(&path, "four").unwrap();
        assert!(known.of(&path, 3).is_err());
    }
}
