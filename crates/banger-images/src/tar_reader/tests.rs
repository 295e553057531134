//! Tests of `tar_reader`.

use super::*;

#[test]
fn numbers_are_octal_or_base_256() {
    for (field, value) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"     12 ", Some(0o12)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"0000008\0", None),
        (b"-1\0\0\0\0\0\0", None),
        (b"\x80\0\0\0\0\0\x01\0", Some(256)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
            Some(-2),
        ),
        (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
        (b"\x80\0\0\0\xff\0\0\0\0\0\0\0", None),
    ] {
        assert_eq!(number(field), value, "{field:?}");
    }
}

#[test]
fn pax_times_round_towards_the_past() {
    for (text, time) in [
        ("1.5", Some((1, 500_000_000))),
        ("-1.5", Some((-2, 500_000_000))),
        ("-0.25", Some((-1, 750_000_000))),
        ("7", Some((7, 0))),
        ("1.0000000019", Some((1, 1))),
        ("1.x", None),
        ("", None),
    ] {
        assert_eq!(pax_time(text), time, "{text}");
    }
}

#[test]
fn pax_records_are_cut_by_length_not_by_newline() {
    let bytes = b"21 SCHILY.xattr.a=\n\n\n9 path=\xc3\n";
    let (key, value, rest) = pax_record(bytes).unwrap();
    assert_eq!((key, value), (&b"SCHILY.xattr.a"[..], &b"\n\n"[..]));
    assert_eq!(pax_record(rest).unwrap().1, b"\xc3");
    for bad in [
        &b"5"[..],
        b"0 a=b\n",
        b"99 a=b\n",
        b"6 a=bx",
        b"6 aab\n\n",
        b"18446744073709551616 a=b\n",
    ] {
        assert!(pax_record(bad).is_none(), "{bad:?}");
    }
}
