//! Raw output of a command that the user attached to: not ours to change.

use std::io::{self, Write};

/// Writes `bytes` to standard output, or to standard error.
pub(crate) fn write(is_stderr: bool, bytes: &[u8]) -> io::Result<()> {
    if is_stderr {
        let mut stderr = io::stderr().lock();
        stderr.write_all(bytes).and_then(|()| stderr.flush())
    } else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    }
}
