//! Tests of `elf`.

use super::*;

/// A small ELF executable with these segments: offset, file size, address, memory size.
fn elf(segments: &[(u64, u64, u64, u64)], length: usize) -> Vec<u8> {
    let mut file = vec![0_u8; length.max(64 + 56 * segments.len())];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16] = 2;
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = u8::try_from(segments.len()).unwrap();
    for (index, (offset, file_size, address, memory_size)) in segments.iter().enumerate() {
        let at = 64 + 56 * index;
        file[at] = 1;
        for (field, value) in [
            (8, offset),
            (24, address),
            (32, file_size),
            (40, memory_size),
        ] {
            file[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    file
}

/// One that passes every check.
pub(crate) fn good_elf() -> Vec<u8> {
    elf(
        &[(0, 4096, 0x100_0000, 4096), (4096, 100, 0x200_0000, 8192)],
        8192,
    )
}

#[test]
fn i18_kernel_refuses_segments_that_make_no_sense() {
    for (segments, why) in [
        (
            vec![(0, 4096, 0x1000, 4096), (4096, 10, 0x1fff, 10)],
            "overlap",
        ),
        (
            vec![(0, 4096, 0x1000, 4096), (4000, 96, 0x9000, 96)],
            "overlap",
        ),
        (vec![(0, 4096, 0x1000, 4095)], "sizes"),
        (vec![(0, 1, u64::MAX, 2)], "sizes"),
        (vec![(u64::MAX, 2, 0, 2)], "outside"),
        (vec![(0, 9000, 0, 9000)], "outside"),
        (vec![(0, 10, 0, 2 << 30)], "memory"),
        (vec![(0, 1, 0, u64::MAX), (1, 1, 0, u64::MAX)], "memory"),
        (vec![], "program header"),
    ] {
        let reason = check_executable(&elf(&segments, 8192)).unwrap_err();
        assert!(reason.contains(why), "{reason} does not say {why}");
    }
}

#[test]
fn i18_kernel_refuses_other_elf_files() {
    let change = |at: usize, value: u8| {
        let mut file = good_elf();
        file[at] = value;
        check_executable(&file).unwrap_err()
    };
    assert!(change(4, 1).contains("64-bit"));
    assert!(change(18, 183).contains("machine 183"));
    assert!(change(16, 1).contains("executable"));
    assert!(change(56, 65).contains("sane"));
    assert!(change(39, 0x7f).contains("truncated"));
    for length in 0..good_elf().len().min(200) {
        // Every prefix is an error or the file is whole: never a panic.
        if let Ok(()) = check_executable(&good_elf()[..length]) {
            assert!(length >= 8192, "{length}");
        }
    }
}
