//! Decompression: by magic bytes, with caps on window, output and ratio.

use crate::limits::Limits;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// The largest window a compressed stream may ask for: what `zstd --ultra -22` and `xz -9` use,
/// and room to spare.
const WINDOW_MIB: u32 = 160;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Tells by the first bytes.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A decompressing reader.
pub(crate) struct Decoder<'a>(Box<dyn Read + 'a>);

impl<'a> Decoder<'a> {
    /// Reads `input` as `compression` says.
    pub(crate) fn new(input: impl BufRead + 'a, compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Xz => Box::new(XzReader::new_mem_limit(input, true, WINDOW_MIB << 10)),
            Compression::Zstd => Box::new(ZstdFrames::new(input)?),
        }))
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// All frames of a zstd stream, one after the other (the library decodes one).
struct ZstdFrames<R: BufRead>(Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>);

impl<R: BufRead> ZstdFrames<R> {
    fn new(input: R) -> io::Result<Self> {
        StreamingDecoder::new_with_max_window_size(input, u64::from(WINDOW_MIB) << 20)
            .map(|decoder| Self(Some(decoder)))
            .map_err(io::Error::other)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = self.0.as_mut() {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut input) = self.0.take().map(StreamingDecoder::into_inner) else {
                break;
            };
            if !input.fill_buf()?.is_empty() {
                *self = Self::new(input)?;
            }
        }
        Ok(0)
    }
}

/// A reader that counts what passes.
pub(crate) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    /// Wraps a reader; the cell tells how far it is.
    pub(crate) fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let count = Rc::new(Cell::new(0));
        (
            Self {
                inner,
                count: Rc::clone(&count),
            },
            count,
        )
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Whether so much output from so much input looks like a bomb.
pub(crate) fn is_bomb(limits: &Limits, compressed: u64, decompressed: u64) -> bool {
    decompressed > limits.ratio_floor && decompressed / compressed.max(1) > limits.ratio
}

/// Decompresses all of `input`, at most `cap` bytes of output.
pub(crate) fn decompress(input: &[u8], cap: u64) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    Decoder::new(input, Compression::of(input))?
        .take(cap + 1)
        .read_to_end(&mut output)?;
    if output.len() as u64 > cap {
        return Err(io::Error::other(format!(
            "it unpacks to more than {cap} bytes"
        )));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn decompress_stops_at_its_cap() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[0; 100_000]).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(decompress(&gzip, 100_000).unwrap(), vec![0; 100_000]);
        assert!(decompress(&gzip, 99_999).is_err());
    }

    #[test]
    fn zstd_reads_every_frame() {
        let frame = |text: &[u8]| {
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let both = [frame(b"one "), frame(b"two")].concat();
        assert_eq!(decompress(&both, 100).unwrap(), b"one two");
    }

    #[test]
    fn damaged_streams_are_errors() {
        for head in [
            &b"\x1f\x8b\x08garbage"[..],
            b"\xfd7zXZ\0garbage",
            b"\x28\xb5\x2f\xfdgarbage",
        ] {
            assert!(decompress(head, 1000).is_err(), "{head:?}");
        }
    }
}
