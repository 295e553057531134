//! Netlink messages: written with every length told, read with every bound checked.

use rustix::io::Errno;

pub(super) const HEADER: usize = 16;
/// The two bits of an attribute's kind that say how its value is written.
const KIND_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// What follows a message's header: a fixed part, then attributes. A value that no message can
/// carry spoils the body, which is then never sent.
#[derive(Debug, Default)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    spoiled: Option<&'static str>,
}

impl Body {
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let Ok(length) = u16::try_from(value.len().saturating_add(4)) else {
            self.spoiled = Some("the value is too long");
            return self;
        };
        self = self
            .bytes(&length.to_ne_bytes())
            .bytes(&kind.to_ne_bytes())
            .bytes(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a text with the NUL that ends it.
    pub(crate) fn text(mut self, kind: u16, text: &str) -> Self {
        if text.contains('\0') {
            self.spoiled = Some("the text contains NUL");
        }
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends the name of a link, if a link can have it.
    pub(crate) fn link_name(mut self, kind: u16, name: &str) -> Self {
        if link_name(name).is_none() {
            self.spoiled = Some("no link can have this name");
        }
        self.text(kind, name)
    }

    pub(crate) fn nested(mut self, kind: u16, inner: Self) -> Self {
        self.spoiled = self.spoiled.or(inner.spoiled);
        self.nested_bytes(kind, &inner.bytes)
    }

    /// Appends attributes as they were read.
    pub(crate) fn nested_bytes(self, kind: u16, attributes: &[u8]) -> Self {
        self.attribute(kind | NESTED, attributes)
    }

    /// Puts the header before the body.
    pub(super) fn message(
        &self,
        kind: u16,
        flags: u16,
        sequence: u32,
    ) -> Result<Vec<u8>, (Errno, Option<String>)> {
        if let Some(reason) = self.spoiled {
            return Err((Errno::INVAL, Some(reason.to_owned())));
        }
        let length = u32::try_from(self.bytes.len().saturating_add(HEADER))
            .map_err(|_| (Errno::MSGSIZE, None))?;
        // struct nlmsghdr: length, kind, flags, sequence, port (0: the kernel fills it in).
        Ok([
            &length.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &sequence.to_ne_bytes(),
            &[0; 4],
            &self.bytes,
        ]
        .concat())
    }
}

/// `name` as fixed-size fields hold it: 1 to 15 printable ASCII bytes that the kernel takes
/// as they are (`%d` would be a pattern), and NULs.
pub(crate) fn link_name(name: &str) -> Option<[u8; 16]> {
    let refused = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':' | b'%');
    if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.bytes().any(refused)
    {
        return None;
    }
    let mut field = [0; 16];
    field
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(field)
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Takes the first message off a datagram; `None` at its end or at what is no message.
pub(crate) fn split_message<'a>(datagram: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
    let message = Message {
        kind: u16_at(datagram, 4)?,
        flags: u16_at(datagram, 6)?,
        sequence: u32_at(datagram, 8)?,
        body: datagram.get(HEADER..length)?,
    };
    *datagram = datagram
        .get(length.checked_next_multiple_of(4)?..)
        .unwrap_or(&[]);
    Some(message)
}

/// The attributes in a message from `offset` on, as kind and value; ends at the first malformed one.
pub(crate) fn attributes(body: &[u8], offset: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(offset..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let attribute = (u16_at(rest, 2)? & KIND_MASK, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(attribute)
    })
}

/// The value of the first attribute of `kind`.
pub(crate) fn attribute(body: &[u8], offset: usize, kind: u16) -> Option<&[u8]> {
    attributes(body, offset).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The text in `value`, without the NUL that ends it.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_any_bytes() {
        assert_eq!(attributes(&[1, 0, 1, 0, 9], 0).count(), 0);
        assert_eq!(attributes(&[0; 8], 0).count(), 0);
        assert_eq!(attributes(&[255, 255, 1, 0], 0).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0], usize::MAX).count(), 0);
        let unpadded = [7, 0, 1, 0x80, b'h', b'i', 0];
        assert_eq!(attribute(&unpadded, 0, 1).map(text).as_deref(), Some("hi"));
    }

    #[test]
    fn messages_survive_any_bytes() {
        for length in [0_u32, 15, 16, 20, 24, u32::MAX - 1, u32::MAX] {
            let bytes = [&length.to_ne_bytes()[..], &[0; 16]].concat();
            let mut datagram = &bytes[..];
            let message = split_message(&mut datagram);
            assert_eq!(message.is_some(), (16..=20).contains(&length), "{length}");
        }
        assert!(split_message(&mut &[20, 0, 0][..]).is_none());
    }

    #[test]
    fn bodies_with_names_no_link_can_have_are_not_sent() {
        let refused = [
            "",
            ".",
            "..",
            "a/b",
            "tap%d",
            "a:b",
            "a b",
            "a\n",
            "ä",
            "br-fc\0",
            "0123456789abcdef",
        ];
        for name in refused {
            let body = Body::default().nested(1, Body::default().link_name(3, name));
            assert!(body.message(16, 0, 1).is_err(), "{name:?}");
        }
        for name in ["br-fc", "0123456789abcde"] {
            let body = Body::default().link_name(3, name);
            assert!(body.message(16, 0, 1).is_ok(), "{name:?}");
        }
        let long = Body::default().attribute(1, &vec![0; 65532]);
        assert!(long.message(16, 0, 1).is_err());
    }
}
