//! The caps on everything that a mirror, an archive or a user's file can choose.

/// Caps on inputs. [`Limits::default`] is what the store uses; tests use smaller ones.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a root file system's tar archive after decompression, and of its files together.
    pub tar_bytes: u64,
    /// Entries in an archive.
    pub tar_entries: u64,
    /// Bytes of names, link targets and extended attributes in an archive, which are kept in memory.
    pub tree_bytes: u64,
    /// Decompressed bytes per compressed byte, once past [`Limits::ratio_floor`].
    pub ratio: u64,
    /// Decompressed bytes below which the ratio is not looked at.
    pub ratio_floor: u64,
    /// Bytes of an imported ext4 image.
    pub image_bytes: u64,
    /// Bytes of a `vmlinux`.
    pub vmlinux_bytes: u64,
    /// Bytes of a compressed kernel.
    pub bzimage_bytes: u64,
    /// Bytes of one kernel module after decompression.
    pub module_bytes: u64,
    /// Bytes of all modules of a kernel as stored.
    pub modules_bytes: u64,
    /// Bytes of the file system that stay free whatever is built: as much as a VM needs to start, so that
    /// no image costs one that runs its disk's room.
    pub reserve_bytes: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 64 * GIB,
            tar_entries: 1_000_000,
            tree_bytes: 512 * MIB,
            ratio: 300,
            ratio_floor: GIB,
            image_bytes: 1024 * GIB,
            vmlinux_bytes: 512 * MIB,
            bzimage_bytes: 128 * MIB,
            module_bytes: 64 * MIB,
            modules_bytes: 2 * GIB,
            reserve_bytes: GIB,
        }
    }
}
