//! The little that is read of ELF files: fields, segments, one section by name. Every read is bounds-checked.

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(word.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(word.try_into().ok()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

/// One segment that is loaded into memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    file_size: u64,
    address: u64,
    memory_size: u64,
}

/// The most memory a kernel's segments may take.
const MEMORY_MAX: u64 = 1 << 30;

/// Checks that a file is a 64-bit x86 ELF executable whose segments make sense: inside the file, not
/// overlapping in memory or file, of a sane total.
pub(crate) fn check_executable(bytes: &[u8]) -> Result<(), String> {
    let truncated = || "the ELF file is truncated".to_owned();
    if !bytes.starts_with(b"\x7fELF") {
        return Err("it is not an ELF file".into());
    }
    if bytes.get(4..6) != Some(&[2, 1]) {
        return Err("it is not a 64-bit little-endian ELF file".into());
    }
    let kind = u16_at(bytes, 16).ok_or_else(truncated)?;
    let machine = u16_at(bytes, 18).ok_or_else(truncated)?;
    if machine != 62 {
        return Err(format!(
            "it is for another machine (ELF machine {machine}, not x86-64)"
        ));
    }
    if !matches!(kind, 2 | 3) {
        return Err("it is an ELF file but not an executable".into());
    }
    let table = u64_at(bytes, 32)
        .and_then(|at| usize::try_from(at).ok())
        .ok_or_else(truncated)?;
    let entry_size = u16_at(bytes, 54).ok_or_else(truncated)?;
    let count = u16_at(bytes, 56).ok_or_else(truncated)?;
    if entry_size != 56 || count == 0 || count > 64 {
        return Err(format!(
            "its program header table is not sane ({count} of {entry_size} bytes)"
        ));
    }
    let mut segments = Vec::new();
    for index in 0..usize::from(count) {
        let at = table.checked_add(index * 56).ok_or_else(truncated)?;
        // Only PT_LOAD segments matter.
        if u32_at(bytes, at).ok_or_else(truncated)? != 1 {
            continue;
        }
        let word = |field: usize| u64_at(bytes, at + field).ok_or_else(truncated);
        segments.push(Segment {
            offset: word(8)?,
            address: word(24)?,
            file_size: word(32)?,
            memory_size: word(40)?,
        });
    }
    check_segments(&segments, bytes.len() as u64)
}

fn check_segments(segments: &[Segment], length: u64) -> Result<(), String> {
    if segments.is_empty() {
        return Err("it has no segments to load".into());
    }
    let mut total: u64 = 0;
    for segment in segments {
        let file_end = segment.offset.checked_add(segment.file_size);
        if file_end.is_none_or(|end| end > length) {
            return Err("a segment lies outside the file".into());
        }
        if segment.file_size > segment.memory_size
            || segment.address.checked_add(segment.memory_size).is_none()
        {
            return Err("a segment's sizes are not sane".into());
        }
        total = total.saturating_add(segment.memory_size);
    }
    if total > MEMORY_MAX {
        return Err(format!(
            "its segments take {total} bytes of memory, more than {MEMORY_MAX}"
        ));
    }
    let in_memory = segments.iter().map(|s| (s.address, s.memory_size));
    let in_file = segments.iter().map(|s| (s.offset, s.file_size));
    if has_overlap(in_memory.collect()) || has_overlap(in_file.collect()) {
        return Err("its segments overlap".into());
    }
    Ok(())
}

/// The content of a 64-bit ELF file's section, if it has one of that name.
pub(crate) fn section<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let place = |field: usize| u64_at(bytes, field).and_then(|at| usize::try_from(at).ok());
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") || u16_at(bytes, 58)? != 64 {
        return None;
    }
    let table = place(40)?;
    let content = |index: usize| {
        let header = table.checked_add(index.checked_mul(64)?)?;
        let start = place(header.checked_add(24)?)?;
        let end = start.checked_add(place(header.checked_add(32)?)?)?;
        Some((u32_at(bytes, header)?, bytes.get(start..end)))
    };
    let names = content(usize::from(u16_at(bytes, 62)?))?.1?;
    (0..usize::from(u16_at(bytes, 60)?)).find_map(|index| {
        let (name_at, content) = content(index)?;
        let found = names.get(name_at..)?.split(|byte| *byte == 0).next()?;
        (found == name).then_some(content)?
    })
}

fn has_overlap(mut ranges: Vec<(u64, u64)>) -> bool {
    ranges.retain(|(_, size)| *size > 0);
    ranges.sort_unstable();
    ranges
        .windows(2)
        .any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
}

#[cfg(test)]
pub(crate) mod tests;
