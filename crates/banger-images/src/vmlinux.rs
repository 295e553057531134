//! Kernels: tells their formats apart and takes the ELF `vmlinux` out of a bzImage.
//!
//! The boot protocol's setup header says where the compressed payload lies, so nothing is searched for:
//! `payload_offset` at 0x248 and `payload_length` at 0x24c, counted from the protected-mode code
//! after `setup_sects` sectors (Documentation/arch/x86/boot.rst in the kernel's source).

use crate::codec::{Compression, Decoder};
use crate::elf::{check_executable, u32_at};
use std::io::Read;

const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What one block of the lz4 legacy format unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;

/// What a kernel file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Elf,
    BzImage,
}

/// Tells what a kernel file is; the error is the reason why it is neither.
pub(crate) fn format(bytes: &[u8]) -> Result<Format, String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    if bytes.starts_with(b"\x7fELF") {
        return Ok(Format::Elf);
    }
    if bytes.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
        && bytes.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS")
    {
        return Ok(Format::BzImage);
    }
    Err("it is neither an ELF vmlinux nor a bzImage (vmlinuz)".into())
}

/// Takes the `vmlinux` out of a bzImage, at most `cap` bytes of it, and checks it.
pub(crate) fn extract(bzimage: &[u8], cap: u64) -> Result<Vec<u8>, String> {
    let setup = match bzimage.get(SETUP_SECTS) {
        Some(0) => 4,
        Some(count) => usize::from(*count),
        None => return Err("the bzImage is truncated".into()),
    };
    let at = |offset| u32_at(bzimage, offset).ok_or("the bzImage is truncated");
    let (offset, length) = (at(PAYLOAD_OFFSET)?, at(PAYLOAD_LENGTH)?);
    let start = (setup + 1) * 512 + offset;
    let payload = start
        .checked_add(length)
        .and_then(|end| bzimage.get(start..end))
        .ok_or("the bzImage is truncated: its payload lies outside it")?;
    // The build appends the unpacked size to the payload.
    let Some((payload, size)) = payload.split_last_chunk::<4>() else {
        return Err("the bzImage has no payload".into());
    };
    let size = u64::from(u32::from_le_bytes(*size));
    if size > cap {
        return Err(format!(
            "its vmlinux would have {size} bytes, more than {cap}"
        ));
    }
    let vmlinux = unpack(payload, size)?;
    if vmlinux.len() as u64 != size {
        return Err(format!(
            "its payload unpacks to {} bytes instead of {size}",
            vmlinux.len()
        ));
    }
    check_executable(&vmlinux)?;
    Ok(vmlinux)
}

fn unpack(payload: &[u8], size: u64) -> Result<Vec<u8>, String> {
    if payload.starts_with(&LZ4_LEGACY) {
        return unpack_lz4_legacy(&payload[LZ4_LEGACY.len()..], size);
    }
    let compression = Compression::of(payload);
    if compression == Compression::None {
        return Err("its payload's compression is unknown (not lz4, xz, zstd or gzip)".into());
    }
    let mut output = Vec::new();
    Decoder::new(payload, compression)
        .and_then(|decoder| decoder.take(size + 1).read_to_end(&mut output))
        .map_err(|error| format!("its payload is damaged: {error}"))?;
    Ok(output)
}

/// Blocks of a little-endian length and so many bytes, to the end.
fn unpack_lz4_legacy(mut rest: &[u8], size: u64) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let packed = tail.get(..length).ok_or("its payload is truncated")?;
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| format!("its payload is damaged: {error}"))?;
        output.extend_from_slice(&block[..count]);
        if output.len() as u64 > size {
            break;
        }
        rest = &tail[length..];
    }
    Ok(output)
}

#[cfg(test)]
mod tests;
