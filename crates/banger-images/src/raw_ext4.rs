//! Tells whether a file can be an ext4 image, by its superblock and nothing more: what is inside is
//! for the guest's kernel to judge.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
const COMPAT_JOURNAL: u32 = 0x4;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_EXTENTS: u32 = 0x40;

/// First bytes of what people take for disk images, and what it is.
const OTHERS: [(&[u8], &str); 9] = [
    (b"QFI\xfb", "a qcow2 image"),
    (b"KDMV", "a VMDK image"),
    (b"# Disk DescriptorFile", "a VMDK descriptor"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"<<< ", "a VirtualBox image"),
    (b"hsqs", "a squashfs image"),
    (b"XFSB", "an XFS image"),
    (b"PK\x03\x04", "a zip archive"),
];

/// If the first bytes are those of some other kind of image: what it is.
pub(crate) fn foreign_format(head: &[u8]) -> Option<&'static str> {
    OTHERS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, name)| *name)
}

/// Whether the file has an ext superblock.
pub(crate) fn has_superblock(file: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    match file.read_exact_at(&mut magic, SUPERBLOCK + 56) {
        Ok(()) => Ok(u16::from_le_bytes(magic) == MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks the superblock against the file's length; the error is the reason against it.
pub(crate) fn check(file: &File, length: u64) -> Result<(), String> {
    let mut block = [0; 1024];
    file.read_exact_at(&mut block, SUPERBLOCK)
        .map_err(|error| format!("its superblock cannot be read: {error}"))?;
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (compat, incompat) = (word(92), word(96));
    if incompat & INCOMPAT_EXTENTS == 0 {
        return Err("it is an ext2 or ext3 file system, not ext4".into());
    }
    if incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
        return Err("it is an external journal".into());
    }
    if incompat & INCOMPAT_RECOVER != 0 && compat & COMPAT_JOURNAL != 0 {
        return Err(
            "it was not unmounted: its journal must be replayed first (e2fsck -p FILE)".into(),
        );
    }
    let shift = word(24);
    if shift > 6 {
        return Err(format!(
            "its block size 2^{} is not sane",
            u64::from(shift) + 10
        ));
    }
    let high = if incompat & INCOMPAT_64BIT == 0 {
        0
    } else {
        word(336)
    };
    let blocks = u64::from(word(4)) | u64::from(high) << 32;
    let needed = blocks.checked_mul(1024 << shift);
    if blocks == 0 || needed.is_none_or(|needed| needed > length) {
        return Err(format!(
            "it is truncated: its file system has {blocks} blocks of {} bytes, the file {length} bytes",
            1024_u64 << shift
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(edit: impl FnOnce(&mut [u8])) -> File {
        let mut bytes = vec![0_u8; 1 << 16];
        let superblock = &mut bytes[1024..2048];
        superblock[4] = 16;
        superblock[24] = 2;
        superblock[56..58].copy_from_slice(&MAGIC.to_le_bytes());
        superblock[96] = 0x40;
        edit(superblock);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn superblock_refuses_what_is_not_whole_ext4() {
        assert_eq!(check(&image(|_| {}), 1 << 16), Ok(()));
        let refused = |edit: &dyn Fn(&mut [u8]), why: &str| {
            let reason = check(&image(edit), 1 << 16).unwrap_err();
            assert!(reason.contains(why), "{reason} does not say {why}");
        };
        refused(&|s| s[4] = 17, "truncated");
        refused(&|s| s[4] = 0, "truncated");
        refused(&|s| s[24] = 77, "block size");
        refused(&|s| s[96] = 0, "ext2");
        refused(&|s| s[96] |= 8, "journal");
        refused(
            &|s| {
                s[92] = 4;
                s[96] |= 4;
            },
            "replayed",
        );
        refused(
            &|s| {
                s[96] |= 0x80;
                s[336..340].fill(0xff);
            },
            "truncated",
        );
    }

    #[test]
    fn i16_foreign_images_are_told_by_name() {
        assert_eq!(foreign_format(b"QFI\xfb\0\0\0\x03"), Some("a qcow2 image"));
        assert_eq!(foreign_format(b"KDMV\x01"), Some("a VMDK image"));
        assert_eq!(foreign_format(b"plain"), None);
    }
}
