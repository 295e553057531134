//! The reader on bytes that nobody meant: it refuses, it never panics, it reads nothing past the end.

use super::fake_bus::message;
use crate::BusError;
use crate::message::{Message, REPLY};
use crate::wire::{Reader, Writer};
use proptest::prelude::*;

/// Reads a list of DNS servers, as deep a type as there is in what is read.
fn read_list(bytes: &[u8]) -> Result<usize, BusError> {
    let mut body = Reader::new(bytes);
    let mut list = body.variant("a(iayqs)")?.array(8)?;
    let mut count = 0;
    while !list.is_empty() {
        list.align(8)?;
        list.u32()?;
        let length = list.length()?;
        list.take(length)?;
        list.fixed::<2>()?;
        list.str()?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn malformed_values_are_refused() {
    type Read = fn(&mut Reader<'_>) -> Result<(), BusError>;
    let text: Read = |r| r.str().map(drop);
    let list: Read = |r| r.array(8).map(drop);
    let kind: Read = |r| r.signature().map(drop);
    let pair: Read = |r| {
        r.fixed::<2>()?;
        r.u32().map(drop)
    };
    let cases: [(&str, &[u8], Read); 13] = [
        ("nothing", b"", text),
        ("half a length", b"\x01\0", text),
        ("a text without NUL", b"\x01\0\0\0a", text),
        ("a text longer than its bytes", b"\x05\0\0\0ab\0", text),
        ("a text of 4 GiB", b"\xff\xff\xff\xffab\0", text),
        ("a NUL within", b"\x03\0\0\0a\0b\0", text),
        ("no NUL at its end", b"\x01\0\0\0ab", text),
        ("not UTF-8", b"\x01\0\0\0\xff\0", text),
        ("an array past the end", b"\x09\0\0\0\0\0\0\0abcdefgh", list),
        ("an array whose padding is cut", b"\0\0\0\0\0", list),
        ("padding that is not zero", b"\x01\0\x01\0\x01\0\0\0", pair),
        ("a signature past the end", b"\x09a(iayqs)\0", kind),
        ("a signature without NUL", b"\x01ss", kind),
    ];
    for (what, bytes, read) in cases {
        let result = read(&mut Reader::new(bytes));
        assert!(matches!(result, Err(BusError::Malformed(_))), "{what}");
    }
}

#[test]
fn malformed_headers_are_refused() {
    let good = message(REPLY, ":1.0", 5, "", "s", &Writer::default().str("hello"));
    assert_eq!(Message::length(&good).unwrap(), Some(good.len()));
    let read = Message::parse(&good).unwrap();
    assert_eq!((read.kind, read.reply_serial), (REPLY, Some(5)));
    assert_eq!(read.body("s").unwrap().str().unwrap(), "hello");
    assert!(read.body("o").is_err(), "another type");
    for cut in 0..16 {
        assert_eq!(Message::length(&good[..cut]).unwrap(), None);
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert!(Message::length(&with(0, b'B')).is_err(), "big-endian");
    assert!(Message::length(&with(3, 2)).is_err(), "version 2");
    assert!(Message::length(&with(6, 1)).is_err(), "over the cap");
    assert!(Message::parse(&with(12, 0xff)).is_err(), "fields too long");
    assert!(Message::parse(&with(18, b'v')).is_err(), "a nested variant");
}

#[test]
fn arrays_are_measured_from_their_first_element() {
    let list = Writer::default().signature("a(iayqs)").array(8, |list| {
        let one = list.align(8).u32(2).array(1, |ip| ip.raw(&[10, 0, 0, 1]));
        let two = one.u16(8053).str("").align(8).u32(10);
        two.array(1, |ip| ip.raw(&[0; 16])).u16(0).str("name")
    });
    assert_eq!(read_list(list.bytes()).unwrap(), 2);
    let empty = Writer::default()
        .signature("a(iayqs)")
        .array(8, |none| none);
    assert_eq!(empty.bytes().len(), 16, "padded also where it is empty");
    assert_eq!(read_list(empty.bytes()).unwrap(), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Message::length(&bytes));
        drop(Message::parse(&bytes));
        drop(read_list(&bytes));
    }

    #[test]
    fn a_good_message_with_bad_bytes_is_read_or_refused(
        changes in proptest::collection::vec((0_usize..200, any::<u8>()), 1..6),
        cut in 0_usize..200,
    ) {
        let body = Writer::default().u32(7).str("/job/7").str("a.scope").str("done");
        let mut bytes = message(4, ":1.0", 0, "JobRemoved", "uoss", &body);
        for (at, byte) in changes {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        bytes.truncate(bytes.len().max(cut) - cut.min(bytes.len()) / 2);
        if let Ok(message) = Message::parse(&bytes)
            && let Ok(mut body) = message.body("uoss")
        {
            drop(body.u32());
            drop(body.str());
            drop(body.str());
            drop(body.str());
        }
    }
}
