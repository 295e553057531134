//! A writer whose bytes become data frames, with the receiver's backpressure.

use banger_guest::frame::{Frame, Kind, MAX_DATA};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Collects bytes into frames of the largest size. Must be written to from outside the event loop.
#[derive(Debug)]
pub(crate) struct FrameSink {
    frames: mpsc::Sender<Frame>,
    buffer: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl FrameSink {
    pub(crate) fn new(frames: mpsc::Sender<Frame>) -> Self {
        Self {
            frames,
            buffer: Vec::with_capacity(MAX_DATA),
            sent: Arc::default(),
        }
    }

    /// How many bytes were handed over so far.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

    /// Sends what is left and the empty frame that ends the data.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Vec::new())
    }

    fn send(&self, payload: Vec<u8>) -> io::Result<()> {
        let length = payload.len() as u64;
        self.frames
            .blocking_send(Frame::new(Kind::Data, payload))
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        self.sent.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

impl Write for FrameSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_DATA - self.buffer.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(MAX_DATA));
        self.send(full)
    }
}
