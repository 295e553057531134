//! Frames: one kind byte, a big-endian `u32` length, the payload.
//!
//! The codec does no I/O. [`Decoder`] takes bytes as they come and gives whole frames, so
//! it serves blocking and asynchronous callers alike. A frame whose kind is unknown or
//! whose length is over its kind's cap is an error, found before its payload is read.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The port (vsock, or its equal in a mux) that the agent serves.
pub const AGENT_PORT: u32 = 5000;

/// The host's vsock port that the agent connects to once it listens at its own; nothing is
/// said there, the connection is the message.
pub const READY_PORT: u32 = 5001;

/// The largest payload of a data frame, in bytes.
pub const MAX_DATA: usize = 64 * 1024;

/// The largest payload of a control frame (JSON), in bytes. Room for a 2 MiB command line is
/// deliberately absent: the agent refuses arguments and environment over 1 MiB in all.
pub const MAX_CONTROL: usize = 1024 * 1024;

/// The length of a frame's head, in bytes.
pub const HEAD: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Host to guest, first in a stream: a [`crate::request::Request`] as JSON.
    Request = 0x01,
    /// Guest to host: a [`crate::request::Reply`] as JSON; says that the request was taken.
    Reply = 0x02,
    /// Guest to host: a [`crate::request::Failure`] as JSON; ends the stream.
    Failure = 0x03,
    /// Host to guest: bytes for the command's standard input; empty means its end.
    Stdin = 0x10,
    /// Guest to host: bytes of the command's standard output (or of its terminal).
    Stdout = 0x11,
    /// Guest to host: bytes of the command's standard error.
    Stderr = 0x12,
    /// Host to guest: a [`crate::request::Resize`] as JSON.
    Resize = 0x13,
    /// Host to guest: a signal's name (`INT`) for the command's process group.
    Signal = 0x14,
    /// Guest to host: a [`crate::request::Exit`] as JSON; ends the stream.
    Exit = 0x15,
    /// Guest to host: a [`crate::request::Taken`] as JSON: the command took bytes of its input.
    Taken = 0x16,
    /// Either way: bytes of a copy or of a connection; empty means the end of that direction.
    Data = 0x20,
}

impl Kind {
    /// The kind of a wire byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Request,
            0x02 => Self::Reply,
            0x03 => Self::Failure,
            0x10 => Self::Stdin,
            0x11 => Self::Stdout,
            0x12 => Self::Stderr,
            0x13 => Self::Resize,
            0x14 => Self::Signal,
            0x15 => Self::Exit,
            0x16 => Self::Taken,
            0x20 => Self::Data,
            _ => return None,
        })
    }

    /// The largest payload a frame of this kind may have, in bytes.
    pub fn cap(self) -> usize {
        match self {
            Self::Request => MAX_CONTROL,
            Self::Stdin | Self::Stdout | Self::Stderr | Self::Data => MAX_DATA,
            Self::Reply
            | Self::Failure
            | Self::Resize
            | Self::Signal
            | Self::Exit
            | Self::Taken => 16 * 1024,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its payload, at most [`Kind::cap`] bytes.
    pub payload: Vec<u8>,
}

/// Why bytes are not a frame, or a frame is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kind byte is none of [`Kind`].
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The length is over the kind's cap.
    #[error("{kind:?} frame of {length} bytes is over its cap of {}", kind.cap())]
    TooLong {
        /// The frame's kind.
        kind: Kind,
        /// The length it claims, in bytes.
        length: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The payload is not the JSON it should be.
    #[error("{kind:?} frame does not parse")]
    Payload {
        /// The frame's kind.
        kind: Kind,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A frame that has no place at this point of the conversation.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
}

impl Frame {
    /// A frame of raw bytes. The caller keeps to the kind's cap ([`chunks`] does).
    pub fn new(kind: Kind, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            payload: payload.into(),
        }
    }

    /// A frame whose payload is `value` as JSON.
    pub fn json<T: Serialize>(kind: Kind, value: &T) -> Result<Self, FrameError> {
        let payload =
            serde_json::to_vec(value).map_err(|source| FrameError::Payload { kind, source })?;
        if payload.len() > kind.cap() {
            return Err(FrameError::TooLong {
                kind,
                length: payload.len(),
            });
        }
        Ok(Self { kind, payload })
    }

    /// The payload, read as JSON.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload).map_err(|source| FrameError::Payload {
            kind: self.kind,
            source,
        })
    }

    /// Appends the frame's bytes to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&head(self.kind, self.payload.len()));
        out.extend_from_slice(&self.payload);
    }

    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.payload.len());
        self.encode_into(&mut out);
        out
    }
}

/// A frame's head, for callers that write head and payload apart.
pub fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length).expect("a payload is capped far below 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// Cuts `bytes` into frames of at most [`MAX_DATA`] bytes. Empty input gives no frame.
pub fn chunks(kind: Kind, bytes: &[u8]) -> impl Iterator<Item = Frame> {
    bytes
        .chunks(MAX_DATA)
        .map(move |part| Frame::new(kind, part))
}

/// Collects bytes and gives whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some((&[kind, a, b, c, d], rest)) = pending.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > kind.cap() {
            return Err(FrameError::TooLong { kind, length });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::new(kind, payload);
        self.start += HEAD + length;
        Ok(Some(frame))
    }

    /// Whether the stream could end here without cutting a frame.
    pub fn is_between_frames(&self) -> bool {
        self.start == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_at_every_split() {
        let mut wire = Frame::new(Kind::Stdin, b"hello".to_vec()).encode();
        Frame::new(Kind::Stdin, Vec::new()).encode_into(&mut wire);
        for split in 0..=wire.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in [&wire[..split], &wire[split..]] {
                decoder.feed(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "split at {split}");
            assert_eq!(frames[0].payload, b"hello");
            assert!(decoder.is_between_frames());
        }
    }

    #[test]
    fn decoder_refuses_lengths_over_the_cap_before_the_payload() {
        let mut decoder = Decoder::default();
        decoder.feed(&[Kind::Stdout as u8, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::TooLong { .. })
        ));
        let mut decoder = Decoder::default();
        decoder.feed(&[0x7f, 0, 0, 0, 0]);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::UnknownKind(0x7f))
        ));
    }
}
