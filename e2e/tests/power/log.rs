//! The log that the kernel's device-mapper target `log-writes` keeps of every write to a device, in
//! the order in which a disk owes it: a write comes before the flush that it had completed before, and
//! a mark comes behind what was flushed when it was set. The format is in the kernel's
//! `drivers/md/dm-log-writes.c`, the rules in its `Documentation/admin-guide/device-mapper/log-writes.rst`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// A log of writes.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    /// In bytes; all else is counted in it.
    sector: u64,
    pub(crate) entries: Vec<Entry>,
}

/// What was written, flushed or noted.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where on the device, in bytes.
    to: u64,
    /// How much, in bytes.
    pub(crate) length: u64,
    flags: u64,
    /// Where in the log, in bytes.
    from: u64,
    /// The text of a mark.
    pub(crate) mark: Option<String>,
}

impl Entry {
    /// Whether it is a flush, and all before it was on the disk before it was.
    pub(crate) fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }

    /// Whether nothing that follows it was on the disk before it was: a flush, a write that is written
    /// through (FUA), or a mark. These are the moments to cut the power at.
    ///
    /// What was written through is logged when it completes, before what is only flushed later. So
    /// what follows may be what its writer did not begin before that; ext4 takes a part of its
    /// journal for new only once it has written through that the part is free.
    pub(crate) fn is_moment(&self) -> bool {
        self.flags & (FLUSH | FUA | MARK) != 0
    }

    pub(crate) fn is_write(&self) -> bool {
        self.flags & (DISCARD | MARK) == 0 && self.length > 0
    }
}

impl Log {
    /// Reads the log on this device or file; entries only, not what was written.
    pub(crate) fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!((number(&head, 0), number(&head, 1)), (MAGIC, VERSION));
        let count = number(&head, 2);
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap()));
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let mut bytes = vec![0; usize::try_from(sector).unwrap()];
            file.read_exact_at(&mut bytes, at).unwrap();
            let flags = number(&bytes, 2);
            let text = usize::try_from(number(&bytes, 3)).unwrap();
            let mark = (flags & MARK != 0)
                .then(|| String::from_utf8(bytes[32..32 + text].to_vec()).unwrap());
            let entry = Entry {
                to: number(&bytes, 0) * sector,
                length: number(&bytes, 1) * sector,
                flags,
                from: at + sector,
                mark,
            };
            at = entry.from;
            // A discard has a length, but nothing was written.
            if entry.is_write() {
                at += entry.length;
            }
            entries.push(entry);
        }
        Self {
            file,
            sector,
            entries,
        }
    }

    /// Does to `disk` what an entry did, or of a write only its first `sectors`.
    pub(crate) fn apply(&self, entry: &Entry, sectors: Option<u64>, disk: &File) {
        // A discard leaves anything behind; what was there is as good as zeroes.
        if !entry.is_write() {
            return;
        }
        let most = sectors.map_or(entry.length, |sectors| sectors * self.sector);
        let mut bytes = vec![0; usize::try_from(entry.length.min(most)).unwrap()];
        self.file.read_exact_at(&mut bytes, entry.from).unwrap();
        disk.write_all_at(&bytes, entry.to).unwrap();
    }

    /// How many sectors a write has.
    pub(crate) fn sectors(&self, entry: &Entry) -> u64 {
        entry.length / self.sector
    }
}

/// The `index`th number of the bytes.
fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap())
}
