//! A reader of a length that was promised before: a tar's header says a file's size ahead of its
//! content, while the file may grow or shrink.

use std::io::{self, Read};

/// Reads exactly so many bytes: what the inner reader has beyond is left out, what it lacks is zeros.
#[derive(Debug)]
pub struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Exactly<R> {
    /// `length` bytes of `inner`.
    pub fn new(inner: R, length: u64) -> Self {
        Self {
            inner,
            left: length,
        }
    }
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..want).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let mut count = self.inner.read(buffer)?;
        if count == 0 {
            buffer.fill(0);
            count = buffer.len();
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_kept_whatever_the_file_does() {
        for (promised, expected) in [(2, "he"), (5, "hello"), (7, "hello\0\0"), (0, "")] {
            let mut text = String::new();
            let mut reader = Exactly::new(&b"hello"[..], promised);
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }
}
