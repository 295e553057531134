//! Opens a Debian package: an `ar` archive whose member `data.tar*` holds the files.

use crate::ImagesError;
use crate::codec::{Compression, Counted, Decoder};
use crate::tar_reader::TarReader;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
/// Members before the data: `debian-binary` and `control.tar*`, and what later formats may add.
const MEMBERS_MAX: usize = 8;

/// The files of a package, as a tar archive, and a counter of the bytes read of the package.
pub(crate) type Contents<'a> = (TarReader<Decoder<'a>>, std::rc::Rc<std::cell::Cell<u64>>);

/// Opens the package's files.
pub(crate) fn open(path: &Path) -> Result<Contents<'static>, ImagesError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let refuse = |reason: &str| ImagesError::refused(name.clone(), reason);
    let file = File::open(path).map_err(ImagesError::io("open", path))?;
    let (counted, count) = Counted::new(file);
    let mut input = BufReader::with_capacity(1 << 16, counted);
    let mut magic = [0; MAGIC.len()];
    if input.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(refuse("it is not a Debian package"));
    }
    for _ in 0..MEMBERS_MAX {
        let mut header = [0; HEADER];
        input
            .read_exact(&mut header)
            .map_err(|_| refuse("it ends before its data"))?;
        // Only ASCII can be cut at any byte.
        let text = std::str::from_utf8(&header)
            .ok()
            .filter(|text| text.is_ascii());
        let text = text.ok_or_else(|| refuse("a member's header is damaged"))?;
        let member = text[..16].trim_end().trim_end_matches('/');
        let size: u64 = text[48..58]
            .trim_end()
            .parse()
            .map_err(|_| refuse("a member's size is damaged"))?;
        if member.starts_with("data.tar") {
            let mut data = BufReader::new(input.take(size));
            let head = data.fill_buf().map_err(ImagesError::io("read", path))?;
            let compression = Compression::of(head);
            let decoder =
                Decoder::new(data, compression).map_err(ImagesError::io("unpack", path))?;
            return Ok((TarReader::new(decoder, name), count));
        }
        let padded = size.checked_next_multiple_of(2).unwrap_or(u64::MAX);
        let skipped = std::io::copy(&mut (&mut input).take(padded), &mut std::io::sink());
        skipped.map_err(ImagesError::io("read", path))?;
    }
    Err(refuse("it has no data member"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_headers_that_are_not_ascii_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        // A letter of two bytes where the name ends.
        let mut bytes = [MAGIC, &[b'a'; 15]].concat();
        bytes.extend("é".as_bytes());
        bytes.resize(MAGIC.len() + HEADER, b' ');
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
