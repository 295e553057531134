//! Reads tar archives as a stream of entries: ustar, GNU long names, PAX.
//!
//! Written here rather than taken from a library because differing readings of one archive are the
//! attack: PAX records are cut by their lengths (values may hold newlines), a PAX size replaces the
//! header's, numbers may be base-256 and negative, and whatever is not understood is refused by
//! name instead of guessed at. Contents are left to the caller, in the archive.

use crate::ImagesError;
use std::collections::BTreeMap;
use std::io::{self, Read};

const BLOCK: usize = 512;
/// The longest path, link target or PAX header.
const PATH_MAX: usize = 4096;
const EXTENSION_MAX: u64 = 1 << 20;
/// Extended headers before one entry. Writers put at most four there.
const EXTENSIONS_MAX: u32 = 16;
/// Bytes of all extended attributes that hold for one entry; Linux lists no more.
const XATTRS_MAX: usize = 64 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One entry's header, with what PAX and GNU headers before it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Bytes of content that follow.
    pub(crate) size: u64,
    /// Where a link points; empty for others.
    pub(crate) link: Vec<u8>,
    /// Extended attributes by name.
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// Where the content begins in the archive.
    pub(crate) position: u64,
}

/// A tar archive being read.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    /// How far the input has been read.
    at: u64,
    /// How much of the present entry's content, and of its padding, is still unread.
    content_left: u64,
    padding_left: u64,
    global: Pax,
    name: String,
}

/// The PAX records that matter.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Bytes of names and values taken for `xattrs`, also of those replaced since.
    xattr_bytes: usize,
}

impl<R: Read> TarReader<R> {
    /// Reads `input`, called `name` in errors.
    pub(crate) fn new(input: R, name: impl Into<String>) -> Self {
        Self {
            input,
            at: 0,
            content_left: 0,
            padding_left: 0,
            global: Pax::default(),
            name: name.into(),
        }
    }

    /// The next entry, after passing over what is unread of the last; `None` at the archive's end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ImagesError> {
        let mut pax = self.global.clone();
        let (mut long_path, mut long_link) = (None, None);
        let mut extensions = 0;
        loop {
            extensions += 1;
            if extensions > EXTENSIONS_MAX {
                return Err(ImagesError::refused(
                    self.name.clone(),
                    format!("more than {EXTENSIONS_MAX} extended headers stand before one entry"),
                ));
            }
            self.skip_rest()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136])
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| self.refuse_header(&header, "its size is not a number"))?;
            match header[156] {
                b'x' => self.read_pax(size, &mut pax)?,
                b'g' => {
                    let mut global = self.global.clone();
                    self.read_pax(size, &mut global)?;
                    self.global = global;
                    pax = self.global.clone();
                }
                b'L' => long_path = Some(self.read_long_name(size)?),
                b'K' => long_link = Some(self.read_long_name(size)?),
                _ => {
                    // PAX comes last in time, so it wins where both are there.
                    pax.path = pax.path.or(long_path);
                    pax.link = pax.link.or(long_link);
                    return self.entry(&header, size, pax).map(Some);
                }
            }
        }
    }

    /// Reads content of the present entry.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImagesError> {
        let want = buffer
            .len()
            .min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        let count = match self.input.read(&mut buffer[..want]) {
            Ok(0) if want > 0 => return Err(self.truncated()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(self.damaged(&error)),
        };
        self.content_left -= count as u64;
        self.at += count as u64;
        Ok(count)
    }

    /// Whether content of the present entry is unread.
    pub(crate) fn has_content(&self) -> bool {
        self.content_left > 0
    }

    fn truncated(&self) -> ImagesError {
        ImagesError::refused(
            self.name.clone(),
            format!(
                "the archive ends in the middle of an entry, after {} bytes",
                self.at
            ),
        )
    }

    fn damaged(&self, error: &io::Error) -> ImagesError {
        match error.get_ref().and_then(|e| e.downcast_ref::<Stop>()) {
            Some(stop) => ImagesError::refused(self.name.clone(), stop.0.clone()),
            None => ImagesError::refused(
                self.name.clone(),
                format!("the archive is damaged after {} bytes: {error}", self.at),
            ),
        }
    }

    fn refuse_header(&self, header: &[u8; BLOCK], reason: &str) -> ImagesError {
        ImagesError::entry(until_nul(&header[..100]), reason)
    }

    fn skip_rest(&mut self) -> Result<(), ImagesError> {
        let left = self.content_left + self.padding_left;
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())
            .map_err(|error| self.damaged(&error))?;
        self.at += skipped;
        if skipped < left {
            return Err(self.truncated());
        }
        (self.content_left, self.padding_left) = (0, 0);
        Ok(())
    }

    /// The next header block; `None` at a block of zeros.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, ImagesError> {
        let mut header = [0; BLOCK];
        self.fill(&mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: i64 = header
            .iter()
            .enumerate()
            .map(|(i, byte)| i64::from(if (148..156).contains(&i) { b' ' } else { *byte }))
            .sum();
        if number(&header[148..156]) != Some(sum) {
            let reason = if self.at == BLOCK as u64 {
                "it is not a tar archive".to_owned()
            } else {
                format!(
                    "the archive is damaged at {}: wrong header checksum",
                    self.at - BLOCK as u64
                )
            };
            return Err(ImagesError::refused(self.name.clone(), reason));
        }
        Ok(Some(header))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImagesError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.truncated()),
            Err(error) => Err(self.damaged(&error)),
        }
    }

    fn begin_content(&mut self, size: u64) {
        self.content_left = size;
        self.padding_left = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn read_extension(&mut self, size: u64, cap: u64) -> Result<Vec<u8>, ImagesError> {
        if size > cap {
            return Err(ImagesError::refused(
                self.name.clone(),
                format!("an extended header has {size} bytes, more than {cap}"),
            ));
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut content)?;
        self.begin_content(size);
        self.content_left = 0;
        Ok(content)
    }

    fn read_long_name(&mut self, size: u64) -> Result<Vec<u8>, ImagesError> {
        let content = self.read_extension(size, PATH_MAX as u64 + 1)?;
        Ok(until_nul(&content).to_vec())
    }

    fn read_pax(&mut self, size: u64, pax: &mut Pax) -> Result<(), ImagesError> {
        let content = self.read_extension(size, EXTENSION_MAX)?;
        let mut rest = &content[..];
        while !rest.is_empty() {
            let (key, value, tail) = pax_record(rest).ok_or_else(|| {
                ImagesError::refused(self.name.clone(), "a PAX header is malformed")
            })?;
            pax.take(key, value)
                .map_err(|reason| ImagesError::entry(key, reason))?;
            rest = tail;
        }
        Ok(())
    }

    fn entry(&mut self, header: &[u8; BLOCK], size: u64, pax: Pax) -> Result<Entry, ImagesError> {
        let path = pax.path.clone().unwrap_or_else(|| header_path(header));
        let refuse = |reason: String| ImagesError::entry(&path, reason);
        let field = |range: std::ops::Range<usize>, what: &str| {
            number(&header[range]).ok_or_else(|| refuse(format!("its {what} is not a number")))
        };
        let narrow = |value: i64, what: &str| {
            u32::try_from(value).map_err(|_| refuse(format!("its {what} {value} is not in range")))
        };
        let device = || {
            let (major, minor) = (field(329..337, "device")?, field(337..345, "device")?);
            Ok::<_, ImagesError>((narrow(major, "major")?, narrow(minor, "minor")?))
        };
        let is_old_directory = path.ends_with(b"/");
        let kind = match header[156] {
            0 | b'0' | b'7' if is_old_directory && size == 0 => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::Char { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => {
                return Err(refuse(
                    "GNU sparse files are not supported (make the archive without --sparse)".into(),
                ));
            }
            other => {
                let shown = char::from(other).escape_default();
                return Err(refuse(format!(
                    "entries of type '{shown}' are not supported"
                )));
            }
        };
        // Only files have content; some writers leave a size in the headers of others.
        let size = match kind {
            Kind::File => pax.size.unwrap_or(size),
            _ => 0,
        };
        let mode = field(100..108, "mode")?;
        let uid = pax
            .uid
            .map_or_else(|| narrow(field(108..116, "uid")?, "uid"), Ok)?;
        let gid = pax
            .gid
            .map_or_else(|| narrow(field(116..124, "gid")?, "gid"), Ok)?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (field(136..148, "mtime")?, 0),
        };
        let link = match kind {
            Kind::Symlink | Kind::Hardlink => pax
                .link
                .clone()
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            _ => Vec::new(),
        };
        if size > i64::MAX.unsigned_abs() - BLOCK as u64 {
            return Err(refuse(format!("its size {size} is not in range")));
        }
        self.begin_content(size);
        Ok(Entry {
            mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
            path,
            kind,
            uid,
            gid,
            mtime,
            size,
            link,
            xattrs: pax.xattrs,
            position: self.at,
        })
    }
}

/// An I/O error's payload by which a reader below says why it stopped, in words for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) String);

impl Pax {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let text = || std::str::from_utf8(value).map_err(|_| "its value is not text".to_owned());
        let whole = || {
            text()?
                .parse::<u64>()
                .map_err(|_| "its value is not a whole number".to_owned())
        };
        let id = || u32::try_from(whole()?).map_err(|_| "its value is not in range".to_owned());
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(whole()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => {
                self.mtime = Some(pax_time(text()?).ok_or("its value is not a time")?);
            }
            _ => {
                let Ok(key) = std::str::from_utf8(key) else {
                    return Err("a PAX key is not text".into());
                };
                if key.starts_with("GNU.sparse.") {
                    return Err(
                        "GNU sparse files are not supported (make the archive without --sparse)"
                            .into(),
                    );
                }
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.insert(name.to_owned(), value.to_vec());
                    self.xattr_bytes += name.len() + value.len();
                    if self.xattr_bytes > XATTRS_MAX {
                        return Err(format!(
                            "the extended attributes have more than {XATTRS_MAX} bytes"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Cuts `LENGTH KEY=VALUE\n` off: key, value, rest.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// Parses a decimal time, as `-1.5`, to whole seconds before it and nanoseconds after them.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    if is_negative && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

/// A number field: octal text, or base-256 with the top bit set.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        let text = std::str::from_utf8(until_nul(field))
            .ok()?
            .trim_matches(' ');
        if text.is_empty() {
            return Some(0);
        }
        if !text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
            return None;
        }
        return i64::from_str_radix(text, 8).ok();
    }
    // Two's complement, big-endian, without the marking bit: sign from the bit below it.
    let is_negative = first & 0x40 != 0;
    let fill: u8 = if is_negative { 0xff } else { 0 };
    let mut bytes = field.to_vec();
    bytes[0] = if is_negative { first } else { first & 0x7f };
    let (high, low) = bytes.split_at(bytes.len().saturating_sub(8));
    if high.iter().any(|byte| *byte != fill) {
        return None;
    }
    let mut word = [fill; 8];
    word[8 - low.len()..].copy_from_slice(low);
    let value = i64::from_be_bytes(word);
    (value.is_negative() == is_negative).then_some(value)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in a header: ustar's has a prefix field, GNU's and the oldest ones have not.
fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

#[cfg(test)]
mod tests;
