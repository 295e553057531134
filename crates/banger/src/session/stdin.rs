//! Standard input on its way to a guest.

use banger_guest::frame::{Frame, Kind};
use banger_guest::request::STDIN_WINDOW;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

/// The most that is read at once, in bytes.
const CHUNK: usize = 32 * 1024;

/// How much of the input may be sent ahead of what the command took, so that a signal never
/// waits behind input that nobody reads.
#[derive(Debug, Clone)]
pub(super) struct Window(Arc<Semaphore>);

impl Window {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STDIN_WINDOW)))
    }

    /// The command took so many bytes. Hostile: the window never becomes wider than it was.
    pub(super) fn widen(&self, bytes: usize) {
        let room = STDIN_WINDOW.saturating_sub(self.0.available_permits());
        self.0.add_permits(bytes.min(room));
    }

    /// Waits until `bytes` may be sent.
    fn narrow(&self, bytes: usize, runtime: &Handle) {
        let bytes = u32::try_from(bytes).expect("a chunk is far below 4 GiB");
        if let Ok(permits) = runtime.block_on(self.0.acquire_many(bytes)) {
            permits.forget();
        }
    }
}

/// Sends standard input as frames of `kind`, an empty one at its end, as far ahead as `window` lets.
/// It blocks in a thread of its own, which nothing waits for: it ends with its input, its receiver or
/// the process.
pub(super) fn feed(kind: Kind, frames: mpsc::Sender<Frame>, window: Option<Window>) {
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match rustix::io::read(std::io::stdin(), &mut buffer[..]) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                // A terminal that is gone, or a closed descriptor: the end of the input.
                Err(_) => 0,
            };
            if let Some(window) = &window {
                window.narrow(count, &runtime);
            }
            let frame = Frame::new(kind, &buffer[..count]);
            if frames.blocking_send(frame).is_err() || count == 0 {
                return;
            }
        }
    });
}
