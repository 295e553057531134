//! A bus that is silent, cut short, wrong or endless: every call ends in time with the cause.

use super::fake_bus::{BRIEF, PLENTY, SYSTEMD, fake, job_removed, message, raw};
use crate::message::{ERROR, REPLY};
use crate::wire::Writer;
use crate::{Bus, BusError, MAX_MESSAGE};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

const UNIT: &str = "banger-vm-0123abcd.scope";

#[test]
fn connect_to_a_bus_that_takes_nobody_ends_in_time() {
    let path = std::env::temp_dir().join(format!("banger-bus-{}", std::process::id()));
    let full = UnixListener::bind(&path).unwrap();
    // No room for more than one that waits.
    rustix::net::listen(&full, 0).unwrap();
    let waiting = UnixStream::connect(&path).unwrap();
    let refused = Bus::connect(&path, BRIEF);
    drop(waiting);
    std::fs::remove_file(&path).unwrap();
    assert!(
        matches!(refused, Err(BusError::TimedOut("connect"))),
        "{refused:?}"
    );
    let missing = Bus::connect(&path, BRIEF);
    assert!(matches!(missing, Err(BusError::Io { .. })), "{missing:?}");
}

#[test]
fn log_in_refused_says_the_bus_words() {
    let (bus, thread) = raw(PLENTY, |peer| {
        peer.line();
        peer.send(b"REJECTED \x1b[31mEXTERNAL\r\n");
    });
    let refused = bus.unwrap_err();
    assert!(
        matches!(&refused, BusError::NotAccepted(text) if text == "REJECTED ?[31mEXTERNAL"),
        "{refused:?}"
    );
    thread.join().unwrap();
}

#[test]
fn log_in_line_without_end_is_cut_off() {
    let (bus, thread) = raw(PLENTY, |peer| while peer.send(&[b'O'; 512]) {});
    assert!(matches!(bus, Err(BusError::Malformed(_))), "{bus:?}");
    thread.join().unwrap();
}

#[test]
fn log_in_on_a_silent_bus_ends_in_time() {
    let began = Instant::now();
    let (bus, thread) = raw(BRIEF, |peer| {
        peer.line();
        // Until the client hangs up.
        peer.line();
    });
    assert!(matches!(bus, Err(BusError::TimedOut("log in"))), "{bus:?}");
    assert!(began.elapsed() >= BRIEF);
    thread.join().unwrap();
}

#[test]
fn call_without_answer_ends_in_time_and_the_next_one_works() {
    let (mut bus, thread) = fake(BRIEF, |peer| {
        let given_up = peer.expect("GetUnit");
        let asked = peer.expect("GetUnit");
        let path = || Writer::default().str("/unit");
        peer.reply(&given_up, "o", path());
        peer.send(&message(ERROR, SYSTEMD, 999, "no.such.Call", "", &path()));
        peer.reply(&asked, "o", path());
        peer.hold();
    });
    let silent = bus.unit_exists(UNIT);
    assert!(
        matches!(silent, Err(BusError::TimedOut("GetUnit"))),
        "{silent:?}"
    );
    assert!(bus.unit_exists(UNIT).unwrap());
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn call_survives_an_answer_in_single_bytes() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        let asked = peer.expect("GetUnit");
        let path = Writer::default().str("/unit");
        for byte in message(REPLY, SYSTEMD, asked.serial, "", "o", &path) {
            peer.send(&[byte]);
        }
        peer.hold();
    });
    assert!(bus.unit_exists(UNIT).unwrap());
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn call_answered_by_half_a_message_is_told_that_the_bus_closed() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        let asked = peer.expect("GetUnit");
        let whole = message(REPLY, SYSTEMD, asked.serial, "", "", &Writer::default());
        peer.send(&whole[..whole.len() / 2]);
    });
    let cut = bus.unit_exists(UNIT);
    assert!(matches!(cut, Err(BusError::Closed("GetUnit"))), "{cut:?}");
    thread.join().unwrap();
    let after = bus.unit_exists(UNIT);
    assert!(matches!(after, Err(BusError::Closed(_))), "{after:?}");
}

#[test]
fn message_over_the_cap_ends_the_connection_before_it_is_read() {
    let over = u32::try_from(MAX_MESSAGE).unwrap() - 15;
    for (body, fields) in [
        (over, 0),
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
    ] {
        let (mut bus, thread) = fake(PLENTY, move |peer| {
            peer.expect("GetUnit");
            let head = Writer::default().raw(b"l\x02\x01\x01").u32(body);
            peer.send(head.u32(1).u32(fields).bytes());
            peer.hold();
        });
        let refused = bus.unit_exists(UNIT);
        assert!(
            matches!(refused, Err(BusError::Malformed(_))),
            "{refused:?}"
        );
        assert!(matches!(bus.unit_exists(UNIT), Err(BusError::Closed(_))));
        thread.join().unwrap();
    }
}

#[test]
fn endless_signals_do_not_hold_a_call_past_its_limit() {
    let (mut bus, thread) = fake(BRIEF, |peer| {
        let noise = job_removed(SYSTEMD, "/job/1", "other.scope", "done");
        while peer.send(&noise) {}
    });
    let drowned = bus.unit_exists(UNIT);
    assert!(
        matches!(drowned, Err(BusError::TimedOut("GetUnit"))),
        "{drowned:?}"
    );
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn refusals_carry_name_and_words_without_escapes() {
    let long = "x".repeat(5000);
    let cases = [
        ("org.example.No", "go \x1b]0;away\x07\n", "go ?]0;away??"),
        ("org.example.Long", long.as_str(), &long[..256]),
    ];
    for (name, words, shown) in cases {
        let (sent, body) = (name.to_owned(), Writer::default().str(words));
        let (mut bus, thread) = fake(PLENTY, move |peer| {
            let asked = peer.expect("GetUnit");
            peer.send(&message(ERROR, SYSTEMD, asked.serial, &sent, "s", &body));
            peer.hold();
        });
        match bus.unit_exists(UNIT) {
            Err(BusError::Refused {
                operation: "GetUnit",
                name: named,
                text,
            }) => assert_eq!((named.as_str(), text.as_str()), (name, shown)),
            other => panic!("{other:?}"),
        }
        drop(bus);
        thread.join().unwrap();
    }
}

#[test]
fn refusals_without_words_and_missing_services_are_told_apart() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        let names = [
            "org.example.Mute",
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "org.freedesktop.systemd1.NoSuchUnit",
        ];
        for name in names {
            let asked = peer.expect("GetUnit");
            let none = Writer::default();
            peer.send(&message(ERROR, SYSTEMD, asked.serial, name, "", &none));
        }
        peer.hold();
    });
    let mute = bus.unit_exists(UNIT);
    assert!(
        matches!(&mute, Err(BusError::Refused { text, .. }) if text.is_empty()),
        "{mute:?}"
    );
    let missing = bus.unit_exists(UNIT);
    assert!(
        matches!(missing, Err(BusError::ServiceMissing("GetUnit"))),
        "{missing:?}"
    );
    assert!(!bus.unit_exists(UNIT).unwrap());
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn a_reply_of_another_type_is_refused() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        let asked = peer.expect("GetUnit");
        peer.reply(&asked, "o", Writer::default().str("/unit"));
        let asked = peer.expect("Get");
        let value = Writer::default().signature("u").u32(1);
        peer.reply(&asked, "v", value);
        peer.hold();
    });
    let cgroup = bus.unit_cgroup(UNIT);
    assert!(matches!(cgroup, Err(BusError::Malformed(_))), "{cgroup:?}");
    drop(bus);
    thread.join().unwrap();
}
