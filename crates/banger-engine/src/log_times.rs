//! When which part of a log was written. A console's text has no times of its own, so whoever
//! writes the log keeps a sparse index beside it, `NAME.times`.
//!
//! An entry is 16 bytes, little endian: an offset into the log and the time (milliseconds since
//! 1970) at which the bytes from there on began to be written. What is written within a second of
//! an entry has none of its own. The first [`FINE`] entries of a file come as often as that; later
//! ones only every so many bytes, so that no file of times has more than twice as many.

use crate::log::open_append;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// How long an entry holds, in milliseconds.
const STEP_MS: u64 = 1000;

/// How many entries of a file are made for every second in which something is written.
const FINE: u64 = 2048;

const ENTRY: usize = 16;

/// The file that `path` becomes when it is full.
pub(crate) fn old_of(path: &Path) -> PathBuf {
    with_suffix(path, ".1")
}

/// The times of the log `path`.
pub(crate) fn times_of(path: &Path) -> PathBuf {
    with_suffix(path, ".times")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The times of a log that is being written.
#[derive(Debug)]
pub(crate) struct TimesWriter {
    file: File,
    count: u64,
    last: Option<(u64, u64)>,
    /// How many bytes of the log lie between two entries once there are [`FINE`].
    stride: u64,
}

impl TimesWriter {
    /// Opens or makes the times of `log`, which grows to `cap` bytes at most.
    pub(crate) async fn open(log: &Path, cap: u64) -> io::Result<Self> {
        let (file, len) = open_append(&times_of(log)).await?;
        // The remains of a write that was cut short would shift all entries after it.
        let whole = len - len % ENTRY as u64;
        if whole != len {
            file.set_len(whole).await?;
        }
        Ok(Self {
            file,
            count: whole / ENTRY as u64,
            last: None,
            stride: cap.div_ceil(FINE),
        })
    }

    /// Notes that what comes at `offset` is written at `unix_ms`.
    pub(crate) async fn note(&mut self, offset: u64, unix_ms: u64) -> io::Result<()> {
        let is_due = self.last.is_none_or(|(last_offset, last_ms)| {
            // A clock that was set back is a new time too.
            let is_later = unix_ms < last_ms || unix_ms - last_ms >= STEP_MS;
            is_later && (self.count < FINE || offset - last_offset >= self.stride)
        });
        if !is_due {
            return Ok(());
        }
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&offset.to_le_bytes());
        entry[8..].copy_from_slice(&unix_ms.to_le_bytes());
        self.file.write_all(&entry).await?;
        self.file.flush().await?;
        self.count += 1;
        self.last = Some((offset, unix_ms));
        Ok(())
    }
}

/// The times of one file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTimes {
    entries: Vec<(u64, u64)>,
}

impl LogTimes {
    /// Reads the times of the log file `log`; `None` if it has none: nothing is in it, or what is
    /// there was written before times were kept.
    /// Blocks.
    pub fn read(log: &Path) -> io::Result<Option<Self>> {
        let flags =
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let fd = match rustix::fs::open(times_of(log), flags, rustix::fs::Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let most = (FINE * 4) * ENTRY as u64;
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(most).read_to_end(&mut bytes)?;
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let entries: Vec<_> = bytes
            .chunks_exact(ENTRY)
            .map(|entry| (number(&entry[..8]), number(&entry[8..])))
            .collect();
        Ok((!entries.is_empty()).then_some(Self { entries }))
    }

    /// From where on the log was written at `unix_ms` or later, to the second where entries are
    /// fine; never later than that. `None`: all of it is older.
    pub fn since(&self, unix_ms: u64) -> Option<u64> {
        // Bytes within a second of an entry are under it.
        let first = unix_ms.saturating_sub(STEP_MS - 1);
        let index = self.entries.iter().position(|&(_, at)| at >= first);
        let coarse = |index: usize| index as u64 >= FINE;
        match index {
            Some(index) if index > 0 && coarse(index) => Some(self.entries[index - 1].0),
            Some(index) => Some(self.entries[index].0),
            None if coarse(self.entries.len()) => self.entries.last().map(|&(offset, _)| offset),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(log: &Path, cap: u64, notes: impl IntoIterator<Item = (u64, u64)>) {
        let mut times = TimesWriter::open(log, cap).await.unwrap();
        for (offset, at) in notes {
            times.note(offset, at).await.unwrap();
        }
    }

    #[tokio::test]
    async fn since_finds_the_part_that_was_written_then_or_later() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        assert_eq!(LogTimes::read(&log).unwrap(), None);
        // A burst, an hour of silence, another burst; a restart of the writer in between.
        written(&log, 1 << 20, [(0, 10_000), (50, 10_900), (60, 11_000)]).await;
        written(&log, 1 << 20, [(100, 3_600_000), (200, 3_600_500)]).await;
        let times = LogTimes::read(&log).unwrap().unwrap();
        for (since, offset) in [
            (0, Some(0)),
            (10_500, Some(0)),
            (11_000, Some(60)),
            (20_000, Some(100)),
            (3_600_000, Some(100)),
            (3_600_900, Some(100)),
            (3_602_000, None),
        ] {
            assert_eq!(times.since(since), offset, "{since}");
        }
    }

    #[tokio::test]
    async fn times_stay_small_and_err_on_the_side_of_more() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        // Ten bytes every two seconds for a long time.
        let notes = (0..20_000).map(|n| (n * 10, n * 2000));
        written(&log, 200_000, notes).await;
        let size = std::fs::metadata(times_of(&log)).unwrap().len();
        assert!(size <= FINE * 2 * ENTRY as u64, "{size}");
        let times = LogTimes::read(&log).unwrap().unwrap();
        for n in [0, 17, 2047, 2048, 5000, 19_999] {
            let offset = times.since(n * 2000).unwrap();
            assert!(offset <= n * 10, "{n}: {offset}");
            assert!(n * 10 - offset <= 200, "{n}: {offset}");
        }
        // What a write that was cut short left does not count.
        let mut cut = std::fs::OpenOptions::new()
            .append(true)
            .open(times_of(&log))
            .unwrap();
        std::io::Write::write_all(&mut cut, &[1, 2, 3]).unwrap();
        written(&log, 200_000, [(200_000, 90_000_000)]).await;
        let times = LogTimes::read(&log).unwrap().unwrap();
        assert!(times.since(90_000_000).unwrap() <= 200_000);
    }
}
