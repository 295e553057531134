//! Mux frames: kind byte, big-endian `u32` stream, big-endian `u32` length, payload.
//!
//! A zero byte where a frame could begin is padding and skipped.

/// The length of a frame's head, in bytes.
pub const HEAD: usize = 9;

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// The length of a `Hello`'s nonce, in bytes.
pub const NONCE: usize = 16;

/// Zero bytes enough to complete any cut frame.
pub const PADDING: usize = HEAD + MAX_PAYLOAD;

/// What a frame is. Payloads have a fixed size but for `Data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host to guest, stream 0: begin anew; 16 random bytes.
    Hello = 1,
    /// Guest to host, stream 0: begun; the same 16 bytes.
    HelloAck = 2,
    /// Host to guest: open the stream; the port as `u32`.
    Open = 3,
    /// Guest to host: the stream is open.
    Accept = 4,
    /// Guest to host: nobody serves that port, or a limit is reached; the stream is gone.
    Refuse = 5,
    /// Either way: bytes, within the window.
    Data = 6,
    /// Either way: so many more bytes may be sent, as `u32`.
    Credit = 7,
    /// Either way: no more bytes will come in this direction.
    Fin = 8,
    /// Either way: the stream is gone, both directions.
    Reset = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::Open,
            4 => Self::Accept,
            5 => Self::Refuse,
            6 => Self::Data,
            7 => Self::Credit,
            8 => Self::Fin,
            9 => Self::Reset,
            _ => return None,
        })
    }

    fn allows(self, length: usize) -> bool {
        match self {
            Self::Hello | Self::HelloAck => length == NONCE,
            Self::Open | Self::Credit => length == 4,
            Self::Accept | Self::Refuse | Self::Fin | Self::Reset => length == 0,
            Self::Data => (1..=MAX_PAYLOAD).contains(&length),
        }
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The kind byte is none of [`Kind`].
    #[error("unknown mux frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The length is not one that the kind may have.
    #[error("mux frame {kind:?} of {length} bytes")]
    Length {
        /// The frame's kind.
        kind: Kind,
        /// The length it claims, in bytes.
        length: usize,
    },
}

/// One frame, borrowed from the decoder.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its stream; 0 for `Hello` and `HelloAck`.
    pub stream: u32,
    /// Its payload, of a length that its kind allows.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The payload of an `Open` or `Credit`.
    pub fn number(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.try_into().ok()?))
    }
}

/// A frame's head.
pub fn head(kind: Kind, stream: u32, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length).expect("a payload is capped far below 4 GiB");
    let mut head = [kind as u8; HEAD];
    head[1..5].copy_from_slice(&stream.to_be_bytes());
    head[5..].copy_from_slice(&length.to_be_bytes());
    head
}

/// Appends a frame to `out`. The caller keeps to the lengths that the kind allows.
pub fn encode_into(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    debug_assert!(kind.allows(payload.len()), "{kind:?} {}", payload.len());
    out.extend_from_slice(&head(kind, stream, payload.len()));
    out.extend_from_slice(payload);
}

/// Collects bytes and gives whole frames. Holds at most one frame more than it was fed.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    /// Discard everything before these bytes.
    sought: Option<Vec<u8>>,
}

impl Decoder {
    /// Takes the next bytes of the wire.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Discards all bytes, those already fed included, until `bytes` come; the next frame begins with them.
    pub fn seek(&mut self, bytes: Vec<u8>) {
        self.sought = Some(bytes);
    }

    /// The next whole frame, or `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CodecError> {
        if !self.has_found() {
            return Ok(None);
        }
        let pending = &self.buffer[self.start..];
        let padding = pending.iter().take_while(|&&byte| byte == 0).count();
        self.start += padding;
        let pending = &self.buffer[self.start..];
        let Some((&[kind, s0, s1, s2, s3, l0, l1, l2, l3], rest)) =
            pending.split_first_chunk::<HEAD>()
        else {
            return match pending.first() {
                Some(&kind) if Kind::from_byte(kind).is_none() => {
                    Err(CodecError::UnknownKind(kind))
                }
                _ => Ok(None),
            };
        };
        let kind = Kind::from_byte(kind).ok_or(CodecError::UnknownKind(kind))?;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if !kind.allows(length) {
            return Err(CodecError::Length { kind, length });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        self.start += HEAD + length;
        Ok(Some(Frame {
            kind,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        }))
    }

    fn has_found(&mut self) -> bool {
        let Some(sought) = &self.sought else {
            return true;
        };
        let pending = &self.buffer[self.start..];
        match pending
            .windows(sought.len())
            .position(|window| window == sought)
        {
            Some(at) => {
                self.start += at;
                self.sought = None;
                true
            }
            None => {
                let kept = pending.len().min(sought.len() - 1);
                self.start = self.buffer.len() - kept;
                false
            }
        }
    }
}
