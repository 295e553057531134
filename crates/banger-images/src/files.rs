//! Files as the store makes and reads them: made new and private, read regular and capped.

use crate::ImagesError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a directory and those it is in, for us alone.
pub(crate) fn create_directories(path: &Path) -> Result<(), ImagesError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ImagesError::io("create", path))
}

/// Makes a file that nobody may write to once it is closed.
pub(crate) fn create_new(path: &Path) -> Result<File, ImagesError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
        .map_err(ImagesError::io("create", path))
}

/// Makes such a file with a content.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), ImagesError> {
    create_new(path)?
        .write_all(content)
        .map_err(ImagesError::io("write", path))
}

/// Reads a regular file of at most `cap` bytes. It is opened without waiting, so that a FIFO cannot
/// hold us up, and what was opened is what is checked.
pub(crate) fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, ImagesError> {
    let file = open_regular(path)?;
    let size = file
        .metadata()
        .map_err(ImagesError::io("read", path))?
        .len();
    let refuse = || {
        ImagesError::refused(
            path.display().to_string(),
            format!("it has more than {cap} bytes"),
        )
    };
    if size > cap {
        return Err(refuse());
    }
    let mut content = Vec::new();
    file.take(cap + 1)
        .read_to_end(&mut content)
        .map_err(ImagesError::io("read", path))?;
    if content.len() as u64 > cap {
        return Err(refuse());
    }
    Ok(content)
}

/// Opens a user's file for reading; what is not a regular file is refused.
pub(crate) fn open_regular(path: &Path) -> Result<File, ImagesError> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(nonblock).unwrap_or_default())
        .open(path)
        .map_err(ImagesError::io("open", path))?;
    let meta = file.metadata().map_err(ImagesError::io("read", path))?;
    if !meta.is_file() {
        return Err(ImagesError::refused(
            path.display().to_string(),
            "it is not a regular file",
        ));
    }
    Ok(file)
}

/// Makes a file that only we can read and write.
pub(crate) fn private_file(path: &Path) -> Result<File, ImagesError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ImagesError::io("create", path))
}
