//! The daemon's own log: standard error, which is a file where the command line started us, else the
//! service manager's.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A log larger than this is put aside, in bytes.
const MAX_LOG: u64 = 4 << 20;

/// How often it is looked at after the start.
const EVERY: Duration = Duration::from_secs(60);

/// The most bytes of one entry: what a pipe that takes anything takes at once.
const MAX_ENTRY: usize = 4096;

/// Where entries are written to, each by one call. One that cannot be written at once is dropped: a log
/// that is full, or whose reader hangs, must not hold up VMs.
#[derive(Debug)]
pub(crate) struct Writer;

impl Writer {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl Write for Writer {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let log = rustix::stdio::stderr();
        let mut descriptor = [PollFd::new(&log, PollFlags::OUT)];
        let is_free = poll(&mut descriptor, Some(&Timespec::default())) == Ok(1)
            && descriptor[0].revents().contains(PollFlags::OUT);
        if is_free {
            match entry.get(..MAX_ENTRY - 1) {
                Some(begin) => rustix::io::write(log, &[begin, b"\n"].concat())?,
                None => rustix::io::write(log, entry)?,
            };
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts the log of a daemon that runs for long.
pub(crate) async fn keep_small(log: PathBuf) {
    keep_small_each(log, EVERY).await;
}

async fn keep_small_each(log: PathBuf, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let log = log.clone();
        // It logs what fails itself.
        let _done = tokio::task::spawn_blocking(move || cap(&log)).await;
    }
}

/// Puts the log aside when it has grown. Standard error is open on it in
/// append mode if the command line started us, so it is copied and cut, not renamed.
pub(crate) fn cap(path: &Path) {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    if !meta.is_file() || meta.len() <= MAX_LOG {
        return;
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    let cut = std::fs::copy(path, &old).and_then(|_| {
        std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(path)?
            .set_len(0)
    });
    if let Err(error) = cut {
        // The subscriber may not be there yet.
        let _written = writeln!(std::io::stderr(), "bangerd: cut the log: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_log_is_put_aside_in_place() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bangerd.log");
        std::fs::write(&path, vec![b'x'; 5 << 20]).unwrap();
        cap(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        let old = temp.path().join("bangerd.log.1");
        assert_eq!(std::fs::metadata(old).unwrap().len(), 5 << 20);
    }

    #[tokio::test]
    async fn a_log_that_grows_while_the_daemon_runs_is_put_aside_each_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bangerd.log");
        let kept = tokio::spawn(keep_small_each(path.clone(), Duration::from_millis(10)));
        for byte in [b'a', b'b'] {
            std::fs::write(&path, vec![byte; 5 << 20]).unwrap();
            let is_cut = async {
                while std::fs::metadata(&path).unwrap().len() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let limit = Duration::from_secs(60);
            tokio::time::timeout(limit, is_cut).await.unwrap();
            let old = std::fs::read(temp.path().join("bangerd.log.1")).unwrap();
            assert!(old == vec![byte; 5 << 20], "{} bytes", old.len());
        }
        kept.abort();
    }
}
