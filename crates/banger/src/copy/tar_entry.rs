//! A tar stream's entries with their long names, every length capped.
//!
//! The `tar` crate reads a long name into memory however long the stream says it is; here
//! its raw entries are read and the extensions (GNU long names, PAX paths) are applied under a cap.

use std::io::{self, Read};
use tar::{Archive, EntryType};

/// The longest name or link target, in bytes.
const MAX_NAME: usize = 4096;

/// The longest extended header, in bytes.
const MAX_EXTENSION: u64 = 256 * 1024;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device, a pipe: nothing that a copy makes on the host.
    Special,
}

/// One entry.
pub(super) struct Entry<'a> {
    pub kind: Type,
    /// Its name, as the stream says it.
    pub name: Vec<u8>,
    /// The target of a link.
    pub target: Vec<u8>,
    pub mode: u32,
    pub mtime: u64,
    /// The size the stream says its content has.
    pub size: u64,
    pub content: &'a mut dyn Read,
}

#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// Calls `each` with every entry of the stream.
pub(super) fn for_each<R: Read>(
    stream: R,
    mut each: impl FnMut(Entry<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(stream);
    let mut pending = Extensions::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let header = entry.header().clone();
        let kind = match header.entry_type() {
            EntryType::GNULongName => {
                pending.name = Some(read_name(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                pending.target = Some(read_name(&mut entry)?);
                continue;
            }
            EntryType::XHeader => {
                apply_pax(&read_capped(&mut entry)?, &mut pending)?;
                continue;
            }
            EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => Type::File,
            EntryType::Directory => Type::Directory,
            EntryType::Symlink => Type::Symlink,
            EntryType::Link => Type::HardLink,
            EntryType::Char | EntryType::Block | EntryType::Fifo => Type::Special,
            other => return Err(refuse(&format!("an entry of unknown type {other:?}"))),
        };
        let extensions = std::mem::take(&mut pending);
        let name = extensions
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let target = extensions.target.unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default()
        });
        each(Entry {
            kind,
            name,
            target,
            mode: header.mode()?,
            mtime: header.mtime().unwrap_or(0),
            size: header.size()?,
            content: &mut entry,
        })?;
    }
    Ok(())
}

/// The error for a stream that is not what it should be.
pub(super) fn refuse(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("refused: {what}"))
}

fn read_capped(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_EXTENSION {
        return Err(refuse("an extended header over 256 KiB"));
    }
    Ok(bytes)
}

fn read_name(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut name = read_capped(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    check_name(name)
}

fn check_name(name: Vec<u8>) -> io::Result<Vec<u8>> {
    if name.len() > MAX_NAME {
        return Err(refuse("a name over 4096 bytes"));
    }
    Ok(name)
}

/// Reads PAX records, `LENGTH KEY=VALUE\n`, by their lengths.
fn apply_pax(mut records: &[u8], extensions: &mut Extensions) -> io::Result<()> {
    let bad = || refuse("a PAX header that does not parse");
    while !records.is_empty() {
        let space = records.iter().position(|&b| b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(bad)?;
        let record = records.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let value = record[equals + 1..].to_vec();
        match &record[..equals] {
            b"path" => extensions.name = Some(check_name(value)?),
            b"linkpath" => extensions.target = Some(check_name(value)?),
            b"size" => return Err(refuse("a size in a PAX header")),
            _ => {}
        }
        records = &records[length..];
    }
    Ok(())
}
