//! Standard input on its way to a guest.

use banger_guest::frame::{Frame, Kind};
use tokio::sync::mpsc;

/// The most that is read at once, in bytes.
const CHUNK: usize = 32 * 1024;

/// Sends standard input as frames of `kind`, an empty one at its end. Reading blocks in a thread of its
/// own, which nothing waits for: it ends with its input, its receiver or the process.
pub(super) fn feed(kind: Kind, frames: mpsc::Sender<Frame>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match rustix::io::read(std::io::stdin(), &mut buffer[..]) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                // A terminal that is gone, or a closed descriptor: the end of the input.
                Err(_) => 0,
            };
            let frame = Frame::new(kind, &buffer[..count]);
            if frames.blocking_send(frame).is_err() || count == 0 {
                return;
            }
        }
    });
}
