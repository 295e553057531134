//! Files with holes: copied without filling them, hashed without reading them.

use crate::ImagesError;
use crate::progress::Step;
use banger_names::Digest;
use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read, hashed or copied between two looks at the progress sink.
const CHUNK: usize = 1 << 20;

/// The runs of `file` that hold data, as offset and length; the rest reads as zeros.
fn data_runs(file: &File, length: u64) -> impl Iterator<Item = io::Result<(u64, u64)>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= length {
            return None;
        }
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < length => start,
            Ok(_) | Err(Errno::NXIO) => return None,
            Err(error) => return Some(Err(error.into())),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(length),
            Err(error) => return Some(Err(error.into())),
        };
        at = end;
        Some(Ok((start, end - start)))
    })
}

/// Copies the content of `from` into the empty file `to`: shared blocks where the file system can,
/// else only the runs that hold data.
pub(crate) fn copy(
    from: &File,
    to: &File,
    length: u64,
    step: &mut Step<'_>,
) -> Result<(), CopyError> {
    let whole = from.metadata()?.len() == length;
    if whole && ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(length)?;
    for run in data_runs(from, length) {
        let (start, size) = run?;
        copy_run(from, to, start, size, step)?;
    }
    Ok(())
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Stopped(#[from] ImagesError),
}

impl CopyError {
    /// The room's error, naming the file that was written.
    pub(crate) fn at(self, path: &Path) -> ImagesError {
        match self {
            Self::Io(source) => ImagesError::io("write", path)(source),
            Self::Stopped(error) => error,
        }
    }
}

/// Copies one run within the kernel, or through memory where the two file systems don't allow that.
fn copy_run(
    from: &File,
    to: &File,
    start: u64,
    size: u64,
    step: &mut Step<'_>,
) -> Result<(), CopyError> {
    let end = start + size;
    let (mut read, mut written) = (start, start);
    while read < end {
        step.advance(read)?;
        let want = usize::try_from(end - read)
            .unwrap_or(usize::MAX)
            .min(64 * CHUNK);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), want) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let mut buffer = vec![0; want.min(CHUNK)];
                from.read_exact_at(&mut buffer, read)?;
                to.write_all_at(&buffer, read)?;
                read += buffer.len() as u64;
                written = read;
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

/// The SHA-256 of the first `length` bytes of a file, holes counted as the zeros they read as.
pub(crate) fn digest(file: &File, length: u64, step: &mut Step<'_>) -> Result<Digest, CopyError> {
    let mut hash = Sha256::new();
    let zeros = vec![0_u8; CHUNK];
    let mut buffer = vec![0_u8; CHUNK];
    let mut at = 0;
    let hash_zeros = |hash: &mut Sha256, mut count: u64, step: &mut Step<'_>| {
        while count > 0 {
            let part = zeros
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            hash.update(&zeros[..part]);
            count -= part as u64;
            step.check()?;
        }
        Ok::<(), ImagesError>(())
    };
    for run in data_runs(file, length) {
        let (start, size) = run?;
        hash_zeros(&mut hash, start - at, step)?;
        at = start;
        while at < start + size {
            let part = buffer
                .len()
                .min(usize::try_from(start + size - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..part], at)?;
            hash.update(&buffer[..part]);
            at += part as u64;
            step.advance(at)?;
        }
    }
    hash_zeros(&mut hash, length - at, step)?;
    Ok(Digest::from_sha256(hash.finalize().into()))
}

/// Writes a stream into an empty file, leaving holes where whole blocks are zero.
#[derive(Debug)]
pub(crate) struct SparseWriter<'a> {
    file: &'a File,
    at: u64,
}

const BLOCK: usize = 4096;

impl<'a> SparseWriter<'a> {
    /// A writer at the file's beginning.
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, at: 0 }
    }

    /// Sets the file's length, which a trailing hole has not, and returns it.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.file.set_len(self.at)?;
        Ok(self.at)
    }
}

impl Write for SparseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_without_zeros(self.file, self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `bytes` at `offset` of a file that reads as zeros there, but for blocks of zeros.
pub(crate) fn write_without_zeros(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut from = 0;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if is_zero(block) {
            let at = index * BLOCK;
            if at > from {
                file.write_all_at(&bytes[from..at], offset + from as u64)?;
            }
            from = at + block.len();
        }
    }
    if from < bytes.len() {
        file.write_all_at(&bytes[from..], offset + from as u64)?;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().fold(0, |seen, byte| seen | byte) == 0
}

/// Bytes that this user may still write on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, ImagesError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|error| ImagesError::io("measure free space of", path)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use std::os::unix::fs::MetadataExt;

    fn step() -> Step<'static> {
        Step::begin(&NoProgress, "test", "", None)
    }

    #[test]
    fn copies_and_hashes_keep_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = File::create_new(dir.path().join("a")).unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"middle", 33 << 20).unwrap();
        let from = File::open(dir.path().join("a")).unwrap();
        let to = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("b"))
            .unwrap();
        copy(&from, &to, 64 << 20, &mut step()).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mut plain = Sha256::new();
        plain.update(std::fs::read(dir.path().join("b")).unwrap());
        let digest = digest(&to, 64 << 20, &mut step()).unwrap();
        assert_eq!(digest, Digest::from_sha256(plain.finalize().into()));
    }

    #[test]
    fn sparse_writer_writes_what_it_is_given() {
        let mut content = vec![0_u8; 5 * BLOCK + 100];
        content[BLOCK + 7] = 1;
        content[4 * BLOCK..4 * BLOCK + 3].copy_from_slice(b"abc");
        let file = tempfile::tempfile().unwrap();
        let mut writer = SparseWriter::new(&file);
        for part in content.chunks(3000) {
            writer.write_all(part).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), content.len() as u64);
        let mut back = vec![9_u8; content.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, content);
    }
}
