//! Empty disks for VMs: an ext4 file system of any size in milliseconds, copied from a template.

use crate::ext4;
use crate::files::private_file;
use crate::progress::{NoProgress, Step};
use crate::{ImagesError, Store, sparse};
use banger_names::ByteSize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Sizes are rounded up to whole ones of these, so that there are few templates.
const UNIT: u64 = 1 << 20;
const SIZE_MIN: u64 = 16 << 20;
const SIZE_MAX: u64 = 8 << 40;

impl Store {
    /// Makes `path` (0600, must not exist): an empty ext4 file system of at least `size`, with a
    /// journal. It takes about a megabyte until it is written to. No program is run.
    pub fn overlay_disk(&self, path: &Path, size: ByteSize) -> Result<(), ImagesError> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size.0) {
            return Err(ImagesError::refused(
                path.display().to_string(),
                format!(
                    "a disk of {size} is not between {} and {}",
                    ByteSize(SIZE_MIN),
                    ByteSize(SIZE_MAX)
                ),
            ));
        }
        let size = size.0.next_multiple_of(UNIT);
        let template = self.template(size)?;
        let from = File::open(&template).map_err(ImagesError::io("open", &template))?;
        let to = private_file(path)?;
        let mut step = Step::begin(&NoProgress, "make disk", "", None);
        let result = sparse::copy(&from, &to, size, &mut step);
        if result.is_err() {
            // The error that matters is already in hand.
            fs::remove_file(path).unwrap_or_default();
        }
        result.map_err(|error| error.at(path))
    }

    /// The template for a size, made if it is not there.
    fn template(&self, size: u64) -> Result<PathBuf, ImagesError> {
        let target = self.cache().join(format!("overlay-{size}.ext4"));
        if target.is_file() {
            return Ok(target);
        }
        let scratch = self.cache_scratch()?;
        let path = scratch.join("template");
        let file = private_file(&path)?;
        ext4::build_empty(size, &file, &path)?;
        // Else a power cut could leave an empty file of that name, and every later disk with it.
        file.sync_all().map_err(ImagesError::io("flush", &path))?;
        fs::rename(&path, &target).map_err(ImagesError::io("create", &target))?;
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    #[test]
    fn overlay_disk_is_sparse_private_and_clean() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), &dir.path().join("cache")).unwrap();
        for (name, size) in [
            ("small", ByteSize::mib(64)),
            ("large", ByteSize::gib(20)),
            ("odd", ByteSize((100 << 20) + 5)),
        ] {
            let path = dir.path().join(name);
            store.overlay_disk(&path, size).unwrap();
            let meta = fs::metadata(&path).unwrap();
            assert_eq!(meta.len(), size.0.next_multiple_of(UNIT));
            assert!(
                meta.blocks() * 512 < 8 << 20,
                "{} bytes",
                meta.blocks() * 512
            );
            assert_eq!(meta.permissions().mode() & 0o777, 0o600);
            let check = Command::new("e2fsck")
                .arg("-fn")
                .arg(&path)
                .output()
                .unwrap();
            assert!(
                check.status.success(),
                "{}",
                String::from_utf8_lossy(&check.stdout)
            );
            assert!(
                store.overlay_disk(&path, size).is_err(),
                "made over an existing file"
            );
        }
    }

    #[test]
    fn overlay_disk_refuses_sizes_out_of_range() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), &dir.path().join("cache")).unwrap();
        for size in [0, 1, SIZE_MIN - 1, SIZE_MAX + 1, u64::MAX] {
            let path = dir.path().join("disk");
            assert!(store.overlay_disk(&path, ByteSize(size)).is_err());
            assert!(!path.exists());
        }
    }
}
