//! Tests of `vmlinux`.

use super::*;
use crate::elf::tests::good_elf;
use std::io::Write;

/// A bzImage around a payload.
fn bzimage(payload: &[u8], size: usize) -> Vec<u8> {
    let mut image = vec![0_u8; 5 * 512 + 16];
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x1f1] = 4;
    image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    let length = u32::try_from(payload.len() + 4).unwrap();
    image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    image.extend(payload);
    image.extend(u32::try_from(size).unwrap().to_le_bytes());
    image
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn lz4_legacy(bytes: &[u8]) -> Vec<u8> {
    let mut output = LZ4_LEGACY.to_vec();
    for chunk in bytes.chunks(1000) {
        let block = lz4_flex::block::compress(chunk);
        output.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        output.extend(block);
    }
    output
}

#[test]
fn takes_the_elf_out_of_every_compression() {
    let elf = good_elf();
    let zstd =
        ruzstd::encoding::compress_to_vec(&elf[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut xz =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&elf).unwrap();
    for payload in [gzip(&elf), lz4_legacy(&elf), zstd, xz.finish().unwrap()] {
        let image = bzimage(&payload, elf.len());
        assert_eq!(format(&image), Ok(Format::BzImage));
        assert_eq!(extract(&image, 1 << 20), Ok(elf.clone()));
    }
}

#[test]
fn i18_kernel_refuses_empty_text_and_damage() {
    assert!(format(b"").unwrap_err().contains("empty"));
    assert!(format(b"hello, world").is_err());
    let elf = good_elf();
    let image = bzimage(&gzip(&elf), elf.len());
    let refused = |bytes: &[u8], why: &str| {
        let reason = extract(bytes, 1 << 20).unwrap_err();
        assert!(reason.contains(why), "{reason} does not say {why}");
    };
    refused(&image[..0x24e], "truncated");
    refused(&image[..image.len() - 20], "truncated");
    refused(&bzimage(&gzip(&elf), elf.len() + 1), "instead of");
    refused(&bzimage(&gzip(&elf), 2 << 20), "more than");
    refused(&bzimage(&gzip(&elf), 100), "instead of");
    refused(&bzimage(&gzip(b"text"), 4), "not an ELF");
    refused(&bzimage(b"plain payload", 13), "compression");
    refused(&bzimage(&gzip(&elf)[..50], elf.len()), "damaged");
    refused(&bzimage(b"", 0), "compression");
    let mut far = image.clone();
    far[0x248..0x250].fill(0xff);
    refused(&far, "truncated");
}
