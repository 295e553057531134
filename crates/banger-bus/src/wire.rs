//! Values as D-Bus writes them: aligned from the start of the message, little-endian.
//!
//! The reader takes any bytes: lengths are checked against what is there before they are
//! used, and nothing is allocated by a length that was read.

use crate::BusError;

/// Values under construction: a body, or a whole message.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn align(mut self, to: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.align(2).raw(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.align(4).raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.align(8).raw(&value.to_le_bytes())
    }

    pub(crate) fn bool(self, value: bool) -> Self {
        self.u32(value.into())
    }

    /// A string or an object path. It must hold no NUL: callers write checked texts only.
    pub(crate) fn str(self, text: &str) -> Self {
        self.u32(saturated(text.len()))
            .raw(text.as_bytes())
            .raw(&[0])
    }

    pub(crate) fn signature(self, text: &'static str) -> Self {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.raw(&[length]).raw(text.as_bytes()).raw(&[0])
    }

    /// An array of elements aligned to `to`, written by `elements`.
    pub(crate) fn array(self, to: usize, elements: impl FnOnce(Self) -> Self) -> Self {
        let opened = self.align(4);
        let slot = opened.0.len();
        let opened = opened.u32(0).align(to);
        let start = opened.0.len();
        let mut closed = elements(opened);
        let written = saturated(closed.0.len().saturating_sub(start)).to_le_bytes();
        for (to, from) in closed.0.iter_mut().skip(slot).zip(written) {
            *to = from;
        }
        closed
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A length as it is written. One past `u32` is never sent: whole messages are capped far below.
pub(crate) fn saturated(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Reads one value after the other; each must be there, whole and well-formed.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

const CUT: BusError = BusError::Malformed("a value ends before its length");

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let end = self.at.checked_add(count).ok_or(CUT)?;
        let taken = self.bytes.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(taken)
    }

    /// `N` bytes, aligned as a number of that size is.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BusError> {
        self.align(N)?;
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    pub(crate) fn align(&mut self, to: usize) -> Result<(), BusError> {
        let aligned = self.at.checked_next_multiple_of(to).ok_or(CUT)?;
        let padding = self.take(aligned.saturating_sub(self.at))?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(BusError::Malformed("padding is not zero"));
        }
        Ok(())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BusError> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(crate) fn length(&mut self) -> Result<usize, BusError> {
        usize::try_from(self.u32()?).map_err(|_| CUT)
    }

    /// A string or an object path.
    pub(crate) fn str(&mut self) -> Result<&'a str, BusError> {
        let length = self.length()?;
        self.text(length)
    }

    pub(crate) fn signature(&mut self) -> Result<&'a str, BusError> {
        let [length] = self.fixed()?;
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Result<&'a str, BusError> {
        let text = self.take(length)?;
        if self.fixed()? != [0] || text.contains(&0) {
            return Err(BusError::Malformed("a text's NUL is not at its end"));
        }
        std::str::from_utf8(text).map_err(|_| BusError::Malformed("a text is not UTF-8"))
    }

    /// The elements of an array, aligned to `to`, for a reader of their own.
    pub(crate) fn array(&mut self, to: usize) -> Result<Reader<'a>, BusError> {
        let length = self.length()?;
        self.align(to)?;
        let at = self.at;
        self.take(length)?;
        let bytes = self.bytes.get(..self.at).ok_or(CUT)?;
        Ok(Reader { bytes, at })
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Begins a variant, which must hold `signature`.
    pub(crate) fn variant(&mut self, signature: &str) -> Result<&mut Self, BusError> {
        if self.signature()? != signature {
            return Err(BusError::Malformed("a variant holds another type"));
        }
        Ok(self)
    }
}
