//! Where in a log the answer begins: at a time, so many lines before the end, or at its beginning.

use crate::files::open_regular;
use crate::problem::Refusal;
use banger_engine::LogTimes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a log is looked at at once for its lines, in bytes.
const BLOCK: u64 = 64 * 1024;

/// With what the answer begins; with both, with whatever comes later.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begin {
    /// What was written at this time or later.
    pub(super) since_unix_ms: Option<u64>,
    /// The last so many lines.
    pub(super) tail: Option<u64>,
}

/// A place in a log of two files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Whether it is in the current file and not in the one that was put aside.
    in_current: bool,
    offset: u64,
}

/// Why it cannot be said where to begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error("read {path:?}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("its log has parts from before times were kept")]
    NoTimes,
}

impl BeginError {
    pub(super) fn refusal(self, vm: &str) -> Refusal {
        match self {
            Self::Io { ref source, .. } => Refusal::io(self.to_string(), source),
            Self::NoTimes => {
                Refusal::conflict(format!("show since when VM {vm:?} said what: {self}"))
                    .hint(format!("banger vm logs --tail 100 {vm}"))
            }
        }
    }
}

impl Begin {
    /// The position in the log `path`. Blocks.
    pub(super) fn find(self, path: &Path) -> Result<Position, BeginError> {
        let files = [old_of(path), path.to_owned()];
        let mut position = Position::default();
        if let Some(unix_ms) = self.since_unix_ms {
            position = since(&files, unix_ms)?;
        }
        if let Some(lines) = self.tail {
            position = position.max(tail(&files, lines)?);
        }
        Ok(position)
    }
}

impl Position {
    /// The file that it is in, at that place; `None` if there is no such file.
    pub(super) fn open(self, path: &Path) -> io::Result<Option<File>> {
        let file = if self.in_current {
            open(path)?
        } else {
            open(&old_of(path))?
        };
        file.map(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            Ok(file)
        })
        .transpose()
    }
}

/// Opens a file of a log, if it is there.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match open_regular(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn old_of(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    old.into()
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> BeginError {
    move |source| BeginError::Io {
        path: path.to_owned(),
        source,
    }
}

fn length(path: &Path) -> Result<u64, BeginError> {
    let file = open(path).map_err(io_at(path))?;
    let length = file.map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()));
    length.map_err(io_at(path))
}

fn since(files: &[PathBuf; 2], unix_ms: u64) -> Result<Position, BeginError> {
    for (in_current, path) in [false, true].into_iter().zip(files) {
        if length(path)? == 0 {
            continue;
        }
        let times = LogTimes::read(path).map_err(io_at(path))?;
        let times = times.ok_or(BeginError::NoTimes)?;
        if let Some(offset) = times.since(unix_ms) {
            return Ok(Position { in_current, offset });
        }
    }
    Ok(Position {
        in_current: true,
        offset: length(&files[1])?,
    })
}

fn tail(files: &[PathBuf; 2], lines: u64) -> Result<Position, BeginError> {
    let mut end = Position {
        in_current: true,
        offset: length(&files[1])?,
    };
    if lines == 0 {
        return Ok(end);
    }
    let mut missing = lines;
    let mut is_last_byte = true;
    for (in_current, path) in [true, false].into_iter().zip(files.iter().rev()) {
        let Some(mut file) = open(path).map_err(io_at(path))? else {
            continue;
        };
        end.offset = file.metadata().map_err(io_at(path))?.len();
        while end.offset > 0 {
            let start = end.offset.saturating_sub(BLOCK);
            let block = block(&mut file, start, end.offset).map_err(io_at(path))?;
            let mut index = start + block.len() as u64;
            for byte in block.iter().rev() {
                index -= 1;
                // The line break at the very end ends the last line and begins none.
                let is_end = std::mem::take(&mut is_last_byte);
                if *byte != b'\n' || is_end {
                    continue;
                }
                missing -= 1;
                if missing == 0 {
                    let offset = index + 1;
                    return Ok(Position { in_current, offset });
                }
            }
            end.offset = start;
        }
    }
    Ok(Position::default())
}

fn block(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_whole_lines_over_both_files() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let of = |lines| {
            let begin = Begin {
                tail: Some(lines),
                ..Begin::default()
            };
            let position = begin.find(&path).unwrap();
            (position.in_current, position.offset)
        };
        assert_eq!(of(0), (true, 0));
        assert_eq!(of(3), (false, 0));
        std::fs::write(&path, "dd\nccc\n").unwrap();
        assert_eq!((of(0), of(1), of(2)), ((true, 7), (true, 3), (false, 0)));
        // The line over the cut counts once.
        std::fs::write(old_of(&path), "aaaa\nbb\ndd").unwrap();
        assert_eq!((of(2), of(3), of(4)), ((false, 8), (false, 5), (false, 0)));
        std::fs::write(&path, "dd\nccc").unwrap();
        assert_eq!((of(1), of(2)), ((true, 3), (false, 8)));
        // More than one block.
        std::fs::write(&path, "x".repeat(200_000) + "\nend\n").unwrap();
        assert_eq!((of(1), of(2)), ((true, 200_001), (false, 8)));
    }

    #[test]
    fn since_refuses_what_has_no_times() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let begin = Begin {
            since_unix_ms: Some(0),
            tail: None,
        };
        assert_eq!(begin.find(&path).unwrap().offset, 0);
        std::fs::write(&path, "old\n").unwrap();
        let refused = begin.find(&path).unwrap_err();
        assert!(matches!(refused, BeginError::NoTimes));
        assert!(refused.refusal("dev").0.hint.is_some());
    }
}
