//! Locks on a machine's drives: the writable ones are one machine's, the others have no writer.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Drive, EngineError};

/// Locks the drives. The locks belong to the open files and last as long as anybody has those.
pub(super) fn take(drives: &[Drive]) -> Result<Vec<OwnedFd>, EngineError> {
    let lock = |drive: &Drive| lock(&drive.path, drive.read_only);
    drives.iter().map(lock).collect()
}

/// Locks one.
pub(super) fn lock(path: &Path, read_only: bool) -> Result<OwnedFd, EngineError> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let open = OpenOptions::new().read(true).write(!read_only).open(path);
    let lock = open.and_then(|file| match flock(&file, operation) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(io::Error::other("another VM uses it")),
        Err(errno) => Err(errno.into()),
    });
    let file = lock.map_err(|source| EngineError::File {
        what: "drive",
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}
