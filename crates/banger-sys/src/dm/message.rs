//! `struct dm_ioctl` and what follows it, written and read as bytes.

use super::{ACTIVE_PRESENT, By, DEFERRED_REMOVE, DmError, Info, READONLY, SUSPEND, Target};

/// Version of the interface that is asked for: the first with deferred removal.
const VERSION: [u32; 3] = [4, 27, 0];
/// `sizeof(struct dm_ioctl)`, padded to the 8 bytes that its data are aligned to.
const HEADER: u32 = 312;
const NAME_LEN: usize = 128;
const UUID_LEN: usize = 129;
const KIND_LEN: usize = 16;
/// `sizeof(struct dm_target_spec)`.
const SPEC: usize = 40;
/// The length of a message. The kernel copies all of it.
const LENGTH: u32 = 4096;
/// The length of one that asks for a list: room for some thousand devices.
const LIST_LENGTH: u32 = 256 * 1024;

/// One question.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Request<'a> {
    /// Whether the answer is a list.
    pub(super) lists: bool,
    pub(super) name: &'a str,
    pub(super) uuid: &'a str,
    pub(super) flags: u32,
    pub(super) event_nr: u32,
    pub(super) targets: &'a [Target],
}

impl<'a> Request<'a> {
    pub(super) fn about(by: By<'a>) -> Self {
        let (name, uuid) = match by {
            By::Name(name) => (name, ""),
            By::Uuid(uuid) => ("", uuid),
        };
        Self {
            name,
            uuid,
            ..Self::default()
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, DmError> {
        let length = if self.lists { LIST_LENGTH } else { LENGTH };
        let count = u32::try_from(self.targets.len()).map_err(|_| DmError::Malformed)?;
        let mut bytes = Vec::new();
        for word in VERSION {
            bytes.extend(word.to_ne_bytes());
        }
        // Length, start of data, targets, open count, flags, event number, padding.
        for word in [length, HEADER, count, 0, self.flags, self.event_nr, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(0_u64.to_ne_bytes());
        push_text(&mut bytes, self.name, NAME_LEN)?;
        push_text(&mut bytes, self.uuid, UUID_LEN)?;
        bytes.extend([0; 7]);
        for target in self.targets {
            let unfit = || DmError::Unfit(target.params.clone());
            // The string, its NUL, and up to 8 bytes to align what follows.
            let padded = target.params.len().checked_add(1).ok_or_else(unfit)?;
            let padded = padded.checked_next_multiple_of(8).ok_or_else(unfit)?;
            let next = padded.checked_add(SPEC).ok_or_else(unfit)?;
            bytes.extend(target.start.to_ne_bytes());
            bytes.extend(target.length.to_ne_bytes());
            bytes.extend(0_u32.to_ne_bytes());
            bytes.extend(u32::try_from(next).map_err(|_| unfit())?.to_ne_bytes());
            push_text(&mut bytes, &target.kind, KIND_LEN)?;
            push_text(&mut bytes, &target.params, padded)?;
        }
        let length = usize::try_from(length).map_err(|_| DmError::Malformed)?;
        if bytes.len() > length {
            return Err(DmError::Malformed);
        }
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

/// Appends `text` and NULs up to `room` bytes, of which at least one is a NUL.
fn push_text(bytes: &mut Vec<u8>, text: &str, room: usize) -> Result<(), DmError> {
    let padding = room
        .checked_sub(text.len())
        .filter(|padding| *padding > 0 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
        .ok_or_else(|| DmError::Unfit(text.to_owned()))?;
    bytes.extend(text.bytes());
    bytes.extend(std::iter::repeat_n(0, padding));
    Ok(())
}

/// What came back.
pub(super) struct Answer {
    pub(super) flags: u32,
    open_count: i32,
    device: u64,
    name: String,
    uuid: String,
    data: Vec<u8>,
}

impl Answer {
    pub(super) fn decode(bytes: Vec<u8>) -> Result<Self, DmError> {
        Self::read(&mut &*bytes).ok_or(DmError::Malformed)
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut version_size_start = [0; 5];
        for word in &mut version_size_start {
            *word = u32::from_ne_bytes(take(bytes)?);
        }
        let [_, _, _, size, start] = version_size_start;
        let [_, _, _, _] = take(bytes)?;
        let open_count = i32::from_ne_bytes(take(bytes)?);
        let flags = u32::from_ne_bytes(take(bytes)?);
        // The number of events, and padding.
        let [_, _, _, _, _, _, _, _] = take(bytes)?;
        let device = u64::from_ne_bytes(take(bytes)?);
        let name = text(&take::<NAME_LEN>(bytes)?)?;
        let uuid = text(&take::<UUID_LEN>(bytes)?)?;
        let [_, _, _, _, _, _, _] = take(bytes)?;
        // `size` counts from the start of all; it is less than `start` when only the header came.
        let length = usize::try_from(size.saturating_sub(start)).ok()?;
        if length > 0 && start != HEADER {
            return None;
        }
        let data = bytes.get(..length)?.to_owned();
        Some(Self {
            flags,
            open_count,
            device,
            name,
            uuid,
            data,
        })
    }

    pub(super) fn info(self) -> Result<Info, DmError> {
        Ok(Info {
            device: self.device,
            open_count: self.open_count,
            active: self.flags & ACTIVE_PRESENT != 0,
            suspended: self.flags & SUSPEND != 0,
            read_only: self.flags & READONLY != 0,
            deferred_remove: self.flags & DEFERRED_REMOVE != 0,
            name: self.name,
            uuid: self.uuid,
        })
    }

    pub(super) fn names(&self) -> Result<Vec<String>, DmError> {
        let mut names = Vec::new();
        let mut at = 0_usize;
        // The kernel counts no bytes where there are no devices.
        while !self.data.is_empty() {
            let (name, next) = self.listed(at).ok_or(DmError::Malformed)?;
            if let Some(name) = name {
                names.push(name);
            }
            if next == 0 {
                break;
            }
            at = at.checked_add(next).ok_or(DmError::Malformed)?;
        }
        Ok(names)
    }

    /// One `struct dm_name_list`; without a name if there are no devices at all.
    fn listed(&self, at: usize) -> Option<(Option<String>, usize)> {
        let mut bytes = self.data.get(at..)?;
        let device = u64::from_ne_bytes(take(&mut bytes)?);
        let next = u32::from_ne_bytes(take(&mut bytes)?);
        let name = if device == 0 {
            None
        } else {
            Some(text(bytes)?)
        };
        Some((name, usize::try_from(next).ok()?))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

/// The text before the first NUL, which there must be.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
}
