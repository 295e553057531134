//! Messages: calls that go out, and whatever comes in.

use crate::BusError;
use crate::wire::{Reader, Writer, saturated};

/// The longest message, in bytes, that is sent or read. D-Bus itself allows 128 MiB.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The part of a header that says how long the rest is.
const HEAD: usize = 16;
/// Little-endian, a method call, no service is started for it, version 1 of the protocol.
const CALL_HEAD: [u8; 4] = [b'l', 1, 2, 1];
pub(crate) const REPLY: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const SIGNAL: u8 = 4;
const TOO_LONG: BusError = BusError::Malformed("a message is longer than 64 KiB");

/// Whom a call is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<'a> {
    pub(crate) service: &'static str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'static str,
}

/// A call of `member` with the arguments `body`, which are of the types `signature`.
pub(crate) fn encode_call(
    serial: u32,
    object: &Object<'_>,
    member: &'static str,
    signature: &'static str,
    body: &Writer,
) -> Result<Vec<u8>, BusError> {
    let head = Writer::default().raw(&CALL_HEAD);
    let head = head.u32(saturated(body.bytes().len())).u32(serial);
    let message = head.array(8, |fields| {
        let texts = [
            (1, "o", object.path),
            (2, "s", object.interface),
            (3, "s", member),
            (6, "s", object.service),
        ];
        let fields = texts.iter().fold(fields, |fields, (code, kind, text)| {
            fields.align(8).raw(&[*code]).signature(kind).str(text)
        });
        let fields = fields.align(8).raw(&[8]).signature("g");
        fields.signature(signature)
    });
    let message = message.align(8).raw(body.bytes());
    if message.bytes().len() > MAX_MESSAGE {
        return Err(BusError::unfit("message of", member));
    }
    Ok(message.bytes().to_vec())
}

/// A message that came in. Texts that it lacks are empty.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// [`REPLY`], [`ERROR`], [`SIGNAL`], or something that is not for us to answer.
    pub(crate) kind: u8,
    pub(crate) reply_serial: Option<u32>,
    /// The unique name of who sent it, as the bus says.
    pub(crate) sender: String,
    pub(crate) member: String,
    pub(crate) error_name: String,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    /// The length of the message that `bytes` begin with, once enough is there to tell.
    pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, BusError> {
        let Some(head) = bytes.get(..HEAD) else {
            return Ok(None);
        };
        let mut head = Reader::new(head);
        let [endianness, _, _, version] = head.fixed()?;
        if endianness != b'l' || version != 1 {
            return Err(BusError::Malformed("a message is not of our kind of D-Bus"));
        }
        let body = head.length()?;
        head.u32()?;
        let fields = head.length()?;
        let length = HEAD
            .checked_add(fields)
            .and_then(|sum| sum.checked_next_multiple_of(8))
            .and_then(|sum| sum.checked_add(body));
        match length {
            Some(length) if length <= MAX_MESSAGE => Ok(Some(length)),
            _ => Err(TOO_LONG),
        }
    }

    /// Reads `bytes`, one whole message by [`Message::length`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BusError> {
        let mut reader = Reader::new(bytes);
        let [_, kind, _, _] = reader.fixed()?;
        reader.u32()?;
        reader.u32()?;
        let mut fields = reader.array(8)?;
        reader.align(8)?;
        let mut message = Self {
            kind,
            body: reader.rest().to_vec(),
            ..Self::default()
        };
        while !fields.is_empty() {
            fields.align(8)?;
            message.field(&mut fields)?;
        }
        Ok(message)
    }

    fn field(&mut self, fields: &mut Reader<'_>) -> Result<(), BusError> {
        let [code] = fields.fixed()?;
        let (mut number, mut text) = (None, "");
        match fields.signature()? {
            "s" | "o" => text = fields.str()?,
            "g" => text = fields.signature()?,
            "u" => number = Some(fields.u32()?),
            _ => return Err(BusError::Malformed("a header field of an unknown type")),
        }
        match code {
            3 => text.clone_into(&mut self.member),
            4 => text.clone_into(&mut self.error_name),
            5 => self.reply_serial = number,
            7 => text.clone_into(&mut self.sender),
            8 => text.clone_into(&mut self.signature),
            // Where it went and what came beside it is nothing to us.
            _ => {}
        }
        Ok(())
    }

    /// The body, which must be of the type `signature`.
    pub(crate) fn body(&self, signature: &str) -> Result<Reader<'_>, BusError> {
        if self.signature != signature {
            return Err(BusError::Malformed("a message holds another type"));
        }
        Ok(Reader::new(&self.body))
    }
}
