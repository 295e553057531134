//! Reads files that a guest or a VMM fills: regular files only, never more than asked.

use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The console's log in a VM's state directory.
pub(crate) const CONSOLE_LOG: &str = "console.log";

/// The VMM's log in a VM's state directory.
pub(crate) const VMM_LOG: &str = "vmm.log";

/// How much of the console's end is looked at, in bytes.
const TAIL: u64 = 2048;

/// How many lines of it are shown.
const TAIL_LINES: usize = 8;

/// Opens a regular file for reading without following a link or waiting for a writer.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    Ok(File::from(fd))
}

/// Reads a small text file; one over `cap` bytes is refused.
pub(crate) fn read_small(path: &Path, cap: u64) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?
        .take(cap + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > cap {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is larger than expected",
        ));
    }
    Ok(text)
}

/// The console's last lines, each marked as such. Hostile until sanitised; none when there
/// is no console.
pub(crate) fn console_tail(state: &Path) -> Vec<String> {
    let Ok(bytes) = tail(&state.join(CONSOLE_LOG)) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(TAIL_LINES))
        .map(|line| format!("console: {line}"))
        .collect()
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_tail_is_short_and_survives_anything() {
        let temp = tempfile::tempdir().unwrap();
        assert!(console_tail(temp.path()).is_empty());
        let mut bytes = vec![0xff; 100_000];
        bytes.extend_from_slice(b"\nKernel panic - not syncing\r\n\n");
        std::fs::write(temp.path().join(CONSOLE_LOG), bytes).unwrap();
        let lines = console_tail(temp.path());
        assert_eq!(lines.last().unwrap(), "console: Kernel panic - not syncing");
        assert!(lines.len() <= TAIL_LINES);
    }

    #[test]
    fn open_regular_refuses_fifos_and_links() {
        let temp = tempfile::tempdir().unwrap();
        let fifo = temp.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        assert!(open_regular(&fifo).is_err());
        let link = temp.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(open_regular(&link).is_err());
    }
}
