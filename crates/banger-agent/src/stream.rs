//! One conversation with a host: frames over a socket, blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use banger_guest::frame::{Decoder, Frame, FrameError, Kind, MAX_DATA, chunks};
use banger_guest::request::{Exit, Failure, FailureCode, Reply};
use rustix::event::Timespec;
use rustix::io::Errno;

/// Why a conversation broke off.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The socket failed, mostly because the host left.
    #[error("talk to the host")]
    Io(#[from] io::Error),
    /// The host sent what is no frame, or one that has no place here.
    #[error("understand the host")]
    Frame(#[from] FrameError),
    /// The host ended the stream too early.
    #[error("the host left")]
    Left,
}

impl From<Errno> for StreamError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Frames over a connected socket (Unix or vsock).
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    decoder: Decoder,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Frames over `socket`, which is blocking.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
        }
    }

    /// The next frame; `None` at the stream's end.
    pub fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut buffer))? {
                0 if self.decoder.is_between_frames() => return Ok(None),
                0 => return Err(FrameError::Truncated.into()),
                count => self.decoder.feed(&buffer[..count]),
            }
        }
    }

    /// The next frame, which must be of `kind`.
    pub fn expect(&mut self, kind: Kind) -> Result<Frame, StreamError> {
        match self.recv()? {
            Some(frame) if frame.kind == kind => Ok(frame),
            Some(frame) => Err(FrameError::Unexpected(frame.kind).into()),
            None => Err(StreamError::Left),
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &Frame) -> Result<(), StreamError> {
        let bytes = frame.encode();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::write(&self.socket, rest))?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Says that the request was taken.
    pub fn reply(&self, reply: &Reply) -> Result<(), StreamError> {
        self.send(&Frame::json(Kind::Reply, reply)?)
    }

    /// Says why not.
    pub fn fail(&self, failure: &Failure) -> Result<(), StreamError> {
        self.send(&Frame::json(Kind::Failure, failure)?)
    }

    /// Says that a copy is complete.
    pub fn succeed(&self) -> Result<(), StreamError> {
        let exit = Exit {
            code: Some(0),
            ..Exit::default()
        };
        self.send(&Frame::json(Kind::Exit, &exit)?)
    }

    /// Takes the bytes that came beyond the last frame, for code with a poll loop of its own.
    pub fn take_decoder(&mut self) -> Decoder {
        std::mem::take(&mut self.decoder)
    }

    /// `Data` frames as a reader that ends at the empty one.
    pub fn data_reader(&mut self) -> DataReader<'_> {
        DataReader {
            stream: self,
            pending: Vec::new(),
            start: 0,
            is_over: false,
        }
    }

    /// A writer that makes `Data` frames of at most their cap.
    pub fn data_writer(&self) -> DataWriter<'_> {
        DataWriter {
            stream: self,
            pending: Vec::with_capacity(MAX_DATA),
        }
    }
}

/// Says why a request fails. The message is one line and names the object.
pub fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    let mut message = message.into();
    if message.len() > 4096 {
        message.truncate(message.floor_char_boundary(4096));
    }
    Failure { code, message }
}

/// The time left until `instant`, for a poll; a millisecond more, so that it has passed when the wait is over.
pub(crate) fn left_until(instant: Instant) -> Timespec {
    let left = instant.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// See [`Stream::data_reader`].
#[derive(Debug)]
pub struct DataReader<'a> {
    stream: &'a mut Stream,
    pending: Vec<u8>,
    start: usize,
    is_over: bool,
}

impl DataReader<'_> {
    /// Reads on to the empty frame, so that the host is not left writing.
    pub fn finish(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        Ok(())
    }
}

impl io::Read for DataReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.start == self.pending.len() && !self.is_over {
            let frame = self
                .stream
                .expect(Kind::Data)
                .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
            self.is_over = frame.payload.is_empty();
            self.pending = frame.payload;
            self.start = 0;
        }
        let mut rest = &self.pending[self.start..];
        let count = io::Read::read(&mut rest, buffer)?;
        self.start += count;
        Ok(count)
    }
}

/// See [`Stream::data_writer`].
#[derive(Debug)]
pub struct DataWriter<'a> {
    stream: &'a Stream,
    pending: Vec<u8>,
}

impl DataWriter<'_> {
    /// Sends what is left, and the empty frame.
    pub fn finish(mut self) -> Result<(), StreamError> {
        self.send_pending()?;
        self.stream.send(&Frame::new(Kind::Data, Vec::new()))
    }

    fn send_pending(&mut self) -> Result<(), StreamError> {
        for frame in chunks(Kind::Data, &self.pending) {
            self.stream.send(&frame)?;
        }
        self.pending.clear();
        Ok(())
    }
}

impl io::Write for DataWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_DATA - self.pending.len();
        let count = room.min(bytes.len());
        self.pending.extend_from_slice(&bytes[..count]);
        if self.pending.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))
    }
}
