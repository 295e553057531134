//! One connection: a frame out, a frame in, each whole and in time or not at all.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use banger_sys::wait::wait_for;
use rustix::cmsg_space;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most bytes in a frame.
pub const MAX_FRAME: usize = 64 * 1024;
/// The most descriptors beside a frame.
pub const MAX_FDS: usize = 16;

const HEADER: usize = 4;
/// Room for what is wanted, and for credentials, should the socket's maker have asked for them.
const CONTROL: usize = cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1));

/// Why a frame did not pass. The connection is of no more use, unless it is [`IpcError::TooLong`]
/// or [`IpcError::TooManyDescriptors`] of a frame that was to be sent.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The deadline came first.
    #[error("{0} frame: not in time")]
    TimedOut(&'static str),
    /// The other end closed the connection within a frame.
    #[error("{0} frame: the connection was closed")]
    Closed(&'static str),
    /// A length that no frame has; 0 is one.
    #[error("{operation} frame: {length} bytes are not 1 to {MAX_FRAME}")]
    TooLong {
        /// What was going on.
        operation: &'static str,
        /// The length.
        length: usize,
    },
    /// More descriptors than go with a frame. Those that came were closed.
    #[error("{0} frame: more than {MAX_FDS} descriptors")]
    TooManyDescriptors(&'static str),
    /// The kernel refused.
    #[error("{operation} frame")]
    Kernel {
        /// What was going on.
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
}

/// What came.
#[derive(Debug)]
pub struct Frame {
    /// Its bytes, at least one.
    pub body: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A connection, a stream socket of either kind of end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    /// Takes a connected Unix stream socket.
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Channel {
    /// Sends a frame, whole, within `limit`. The descriptors stay the caller's too.
    pub fn send(
        &self,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), IpcError> {
        let operation = "send";
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| (1..=MAX_FRAME).contains(&body.len()))
            .ok_or(IpcError::TooLong {
                operation,
                length: body.len(),
            })?;
        if fds.len() > MAX_FDS {
            return Err(IpcError::TooManyDescriptors(operation));
        }
        let deadline = deadline(limit);
        let bytes = [&length.to_be_bytes()[..], body].concat();
        let (mut rest, mut fds) = (bytes.as_slice(), fds);
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); CONTROL];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(IpcError::TooManyDescriptors(operation));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or(&[]);
                    fds = &[];
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, operation, deadline)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(IpcError::Closed(operation)),
                Err(errno) => return Err(IpcError::Kernel { operation, errno }),
            }
        }
        Ok(())
    }

    /// Waits for a frame, at most until `idle` has passed if that is given, then takes it, whole,
    /// within `limit`. `None` if the other end closed the connection instead.
    pub fn receive(
        &self,
        idle: Option<Duration>,
        limit: Duration,
    ) -> Result<Option<Frame>, IpcError> {
        let operation = "wait for";
        let began = wait_for(&self.0, PollFlags::IN, idle.and_then(deadline));
        if !began.map_err(|errno| IpcError::Kernel { operation, errno })? {
            return Err(IpcError::TimedOut(operation));
        }
        let operation = "receive";
        let deadline = deadline(limit);
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        match self.fill(&mut header, &mut fds, deadline) {
            Ok(()) => {}
            Err((_, 0)) => return Ok(None),
            Err((error, _)) => return Err(error),
        }
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if !(1..=MAX_FRAME).contains(&length) {
            return Err(IpcError::TooLong { operation, length });
        }
        let mut body = vec![0; length];
        self.fill(&mut body, &mut fds, deadline)
            .map_err(|(error, _)| error)?;
        Ok(Some(Frame { body, fds }))
    }

    /// Reads until `room` is full. An error comes with the number of bytes read before, which is
    /// 0 only where the connection was closed instead.
    fn fill(
        &self,
        room: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Option<Instant>,
    ) -> Result<(), (IpcError, usize)> {
        let operation = "receive";
        let mut done = 0_usize;
        while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.take(rest, fds) {
                Ok(Some(0)) => return Err((IpcError::Closed(operation), done)),
                Ok(Some(read)) => done = done.saturating_add(read),
                Ok(None) => self
                    .wait(PollFlags::IN, operation, deadline)
                    .map_err(|error| (error, done.max(1)))?,
                Err(error) => return Err((error, done.max(1))),
            }
        }
        Ok(())
    }

    /// One `recvmsg`: the number of bytes, or `None` if there are none yet. Never more bytes are
    /// read than a frame has, so its descriptors are never another's.
    fn take(&self, room: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, IpcError> {
        let operation = "receive";
        let mut space = [MaybeUninit::uninit(); CONTROL];
        // Dropped, it closes what was not taken from it.
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let result = match recvmsg(&self.0, &mut [IoSliceMut::new(room)], &mut control, flags) {
            Ok(result) => result,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            Err(errno) => return Err(IpcError::Kernel { operation, errno }),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        // Those that found no room were closed by the kernel.
        if fds.len() > MAX_FDS || result.flags.contains(ReturnFlags::CTRUNC) {
            return Err(IpcError::TooManyDescriptors(operation));
        }
        Ok(Some(result.bytes))
    }

    fn wait(
        &self,
        events: PollFlags,
        operation: &'static str,
        deadline: Option<Instant>,
    ) -> Result<(), IpcError> {
        match wait_for(&self.0, events, deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(IpcError::TimedOut(operation)),
            Err(errno) => Err(IpcError::Kernel { operation, errno }),
        }
    }
}

/// `None`, for ever, only where the clock cannot say so late a time.
fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests;
