//! Logs that never grow past their cap, whatever fills them.
//!
//! A log is `name` and its predecessor `name.1`; when `name` reaches half the cap it takes
//! the predecessor's place. Files are 0600 and never opened through a symlink.
//!
//! Beside each lies `name.times`: when which part of it was written, see [`crate::LogTimes`].

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::log_times::{TimesWriter, old_of, times_of};
use crate::{EngineError, Place};

/// How much is read from a source at once.
const CHUNK: usize = 16 * 1024;

/// The line that every panicking Linux kernel prints.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// An open log.
#[derive(Debug)]
pub(crate) struct CappedLog {
    path: PathBuf,
    file: File,
    len: u64,
    /// The most bytes in one file: half the cap.
    half: u64,
    times: TimesWriter,
}

impl CappedLog {
    /// Opens or makes `dir/name`, appending.
    async fn open(dir: &Path, name: &str, cap: u64) -> io::Result<Self> {
        let path = dir.join(name);
        let (file, len) = open_append(&path).await?;
        let half = (cap / 2).max(1);
        let times = TimesWriter::open(&path, half).await?;
        Ok(Self {
            path,
            file,
            len,
            half,
            times,
        })
    }

    /// Opens the log of a new run: what an earlier run left becomes the predecessor.
    pub(crate) async fn begin(place: &Place, name: &str) -> Result<Self, EngineError> {
        let begin = async {
            let mut log = Self::open(&place.log_dir, name, place.log_cap).await?;
            if log.len > 0 {
                log.turn_over().await?;
            }
            Ok(log)
        };
        begin.await.map_err(not_open(place, name))
    }

    /// Opens the log of a run that goes on.
    pub(crate) async fn go_on(place: &Place, name: &str) -> Result<Self, EngineError> {
        Self::open(&place.log_dir, name, place.log_cap)
            .await
            .map_err(not_open(place, name))
    }

    /// Appends, turning the log over where it is full.
    pub(crate) async fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.len >= self.half {
                self.turn_over().await?;
            }
            let room = usize::try_from(self.half - self.len).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.times.note(self.len, now_unix_ms()).await?;
            self.file.write_all(now).await?;
            self.file.flush().await?;
            self.len += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    async fn turn_over(&mut self) -> io::Result<()> {
        let old = old_of(&self.path);
        tokio::fs::rename(&self.path, &old).await?;
        tokio::fs::rename(times_of(&self.path), times_of(&old)).await?;
        (self.file, self.len) = open_append(&self.path).await?;
        self.times = TimesWriter::open(&self.path, self.half).await?;
        Ok(())
    }
}

fn not_open(place: &Place, name: &str) -> impl FnOnce(io::Error) -> EngineError {
    EngineError::io(format!("open {:?}", place.log_dir.join(name)))
}

fn now_unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn open_append(path: &Path) -> io::Result<(File, u64)> {
    let mut options = std::fs::OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nofollow());
    let file = tokio::fs::OpenOptions::from(options).open(path).await?;
    let len = file.metadata().await?.size();
    Ok((file, len))
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// The longest reason of a panic that is kept, in bytes.
const PANIC_REASON: usize = 200;

/// Copies a source into a log until its end; returns the reason of the kernel's panic, if
/// its line went by. What cannot be written is dropped, so that a full disk never holds the
/// machine up.
pub(crate) async fn drain(source: impl AsyncRead + Unpin, log: CappedLog) -> Option<String> {
    drain_through(source, log, None).await
}

/// As [`drain`], but only the lines that `keeps` says yes to; it sees all of them, in order.
pub(crate) async fn drain_lines(
    source: impl AsyncRead + Unpin,
    log: CappedLog,
    keeps: impl FnMut(&[u8]) -> bool + Send + 'static,
) {
    let sieve = Sieve {
        rest: Vec::new(),
        keeps: Box::new(keeps),
    };
    drop(drain_through(source, log, Some(sieve)).await);
}

async fn drain_through(
    mut source: impl AsyncRead + Unpin,
    mut log: CappedLog,
    mut sieve: Option<Sieve>,
) -> Option<String> {
    let mut chunk = vec![0; CHUNK];
    let mut panic = PanicSearch::default();
    let mut failing = false;
    loop {
        let n = source.read(&mut chunk).await.unwrap_or(0);
        let bytes = chunk.get(..n).unwrap_or_default();
        panic.feed(bytes);
        let kept = match &mut sieve {
            Some(sieve) => Cow::Owned(sieve.sift(bytes)),
            None => Cow::Borrowed(bytes),
        };
        match log.append(&kept).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                crate::warn_io(&format!("write {:?}", log.path), &error);
            }
            Err(_) => {}
        }
        if n == 0 {
            return panic.reason();
        }
        // A flood is one task among many.
        tokio::task::yield_now().await;
    }
}

/// Whether a line is to be kept.
type Keeps = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// Lets through the lines that are to be kept.
struct Sieve {
    /// The line that has no end yet.
    rest: Vec<u8>,
    keeps: Keeps,
}

impl Sieve {
    /// What is let through of all before and these bytes; none are the end.
    fn sift(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        if bytes.is_empty() {
            return std::mem::take(&mut self.rest);
        }
        let end = self.rest.iter().rposition(|&byte| byte == b'\n');
        let rest = self.rest.split_off(end.map_or(0, |end| end + 1));
        let lines = std::mem::replace(&mut self.rest, rest);
        let mut kept = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            if (self.keeps)(line) {
                kept.extend_from_slice(line);
            }
        }
        if self.rest.len() > CHUNK {
            kept.append(&mut self.rest);
        }
        kept
    }
}

/// Looks for the panic line in a stream cut anywhere.
#[derive(Debug, Default)]
struct PanicSearch {
    matched: usize,
    /// What followed the line's beginning, once that was found.
    rest: Option<Vec<u8>>,
    is_whole: bool,
}

impl PanicSearch {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(rest) = &mut self.rest {
                self.is_whole |= byte == b'\n' || rest.len() == PANIC_REASON;
                if self.is_whole {
                    return;
                }
                rest.push(byte);
                continue;
            }
            if PANIC.get(self.matched) == Some(&byte) {
                self.matched += 1;
            } else {
                // No proper prefix of the line is also a suffix of it but the single `K`.
                self.matched = usize::from(PANIC.first() == Some(&byte));
            }
            if self.matched == PANIC.len() {
                self.rest = Some(Vec::new());
            }
        }
    }

    fn reason(&self) -> Option<String> {
        let rest = self.rest.as_deref()?;
        let text = String::from_utf8_lossy(rest);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        Some(text.trim_start_matches(':').trim().to_owned())
    }
}

/// The last lines of a log, at most `cap` bytes, without control characters.
pub(crate) async fn tail(path: PathBuf, cap: u64) -> String {
    let read = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(cap)))?;
        let mut bytes = Vec::new();
        file.take(cap).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let Ok(Ok(bytes)) = read.await else {
        return String::new();
    };
    String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|&c| c == '\n' || !c.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_flood_stays_below_the_cap_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CappedLog::open(dir.path(), "x.log", 1000).await.unwrap();
        for i in 0..997 {
            log.append(format!("{i:07}\n").as_bytes()).await.unwrap();
        }
        let mut total = 0;
        for name in ["x.log", "x.log.1", "x.log.times", "x.log.1.times"] {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o600);
            if !name.ends_with(".times") {
                total += meta.len();
            }
        }
        assert!(total <= 1000, "{total}");
        assert!(total > 500, "{total}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
        assert!(
            tail(dir.path().join("x.log"), 100)
                .await
                .ends_with("0000996")
        );
    }

    #[tokio::test]
    async fn open_refuses_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("x.log")).unwrap();
        assert!(CappedLog::open(dir.path(), "x.log", 1000).await.is_err());
    }

    #[test]
    fn chatter_is_left_out_wherever_it_is_cut_and_nothing_else() {
        let text = b"one\nquiet 1\ntwo\nquiet 2\nquie";
        for cut in 0..text.len() {
            let mut sieve = Sieve {
                rest: Vec::new(),
                keeps: Box::new(|line| !line.starts_with(b"quiet")),
            };
            let mut kept = sieve.sift(text.get(..cut).unwrap());
            kept.extend(sieve.sift(text.get(cut..).unwrap()));
            kept.extend(sieve.sift(b""));
            let kept = String::from_utf8(kept).unwrap();
            assert_eq!(kept, "one\ntwo\nquie", "{cut}");
        }
        let mut sieve = Sieve {
            rest: Vec::new(),
            keeps: Box::new(|_| false),
        };
        assert_eq!(sieve.sift(&[b'x'; CHUNK + 1]).len(), CHUNK + 1);
    }

    #[tokio::test]
    async fn drain_sees_a_panic_line_cut_anywhere() {
        for cut in 0..PANIC.len() {
            let mut search = PanicSearch::default();
            search.feed(b"KKernel KKe");
            search.feed(PANIC.get(..cut).unwrap());
            search.feed(PANIC.get(cut..).unwrap());
            search.feed(b": EXT4-fs: forced\r\nmore");
            assert_eq!(search.reason().as_deref(), Some("EXT4-fs: forced"), "{cut}");
        }
        let dir = tempfile::tempdir().unwrap();
        let log = CappedLog::open(dir.path(), "x.log", 1000).await.unwrap();
        assert_eq!(drain(&b"Kernel panik - not syncing"[..], log).await, None);
    }
}
