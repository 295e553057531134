//! Writes cpio archives of the kind the kernel unpacks as its first root ("newc"), uncompressed.
//! Owners are root, times are zero: the same files give the same bytes.

use std::io::{self, Write};

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// What the archive's length is filled up to a multiple of. The kernel wants 4 where another
/// archive follows.
const ALIGNMENT: u64 = 512;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug)]
pub struct CpioWriter<W> {
    output: W,
    written: u64,
    inode: u32,
}

impl<W: Write> CpioWriter<W> {
    /// An archive without entries yet.
    pub fn new(output: W) -> Self {
        Self {
            output,
            written: 0,
            inode: 0,
        }
    }

    /// Adds a directory. Those it is in must have been added.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, (0, 0), &[])
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, mode: u32, device: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | mode, device, &[])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header(TRAILER, 0, (0, 0), 0, 1)?;
        self.pad(ALIGNMENT)?;
        Ok(self.output)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is too large for an initramfs")))?;
        self.inode += 1;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        self.header(path, mode, device, size, links)?;
        self.put(content)?;
        self.pad(4)
    }

    fn header(
        &mut self,
        path: &str,
        mode: u32,
        (major, minor): (u32, u32),
        size: u32,
        links: u32,
    ) -> io::Result<()> {
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        self.put(MAGIC)?;
        // Inode, mode, uid, gid, links, mtime, size, device of the file, device it is, name, checksum.
        for field in [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ] {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let zeros = self.written.next_multiple_of(alignment) - self.written;
        for _ in 0..zeros {
            self.put(&[0])?;
        }
        Ok(())
    }
}
