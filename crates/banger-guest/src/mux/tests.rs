//! The mux: the codec at every split, the state machine with both ends in memory.

use proptest::prelude::*;

use super::codec::{CodecError, Decoder, HEAD, Kind, MAX_PAYLOAD, NONCE, encode_into, head};
use super::*;

const PORT: u32 = 5000;

/// Both ends, and the wire between them.
struct Pair {
    host: Session,
    guest: Session,
}

fn move_bytes(from: &mut Session, to: &mut Session) {
    let output = from.take_output();
    to.receive(&output).unwrap();
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.next_event()).collect()
}

impl Pair {
    fn ready() -> Self {
        let mut pair = Self {
            host: Session::host([7; NONCE]),
            guest: Session::guest(),
        };
        move_bytes(&mut pair.host, &mut pair.guest);
        assert_eq!(events(&mut pair.guest), [Event::Restarted]);
        move_bytes(&mut pair.guest, &mut pair.host);
        assert_eq!(events(&mut pair.host), [Event::Ready]);
        pair
    }

    fn turn(&mut self) {
        move_bytes(&mut self.host, &mut self.guest);
        move_bytes(&mut self.guest, &mut self.host);
    }

    fn open(&mut self) -> u32 {
        let stream = self.host.open(PORT).unwrap();
        self.turn();
        assert!(events(&mut self.guest).contains(&Event::Opened { stream, port: PORT }));
        self.guest.accept(stream);
        self.turn();
        assert_eq!(self.host.is_accepted(stream), Some(true));
        stream
    }
}

/// Writes until the other end's window is full; gives the number of bytes taken.
fn fill(pair: &mut Pair, stream: u32) -> usize {
    let mut sent = 0;
    loop {
        match pair.host.write(stream, &[1; 4096]) {
            Write::Bytes(count) => sent += count,
            Write::Wait => return sent,
            Write::Reset => panic!("reset"),
        }
        pair.turn();
    }
}

#[test]
fn a_stopped_reader_holds_up_its_own_stream_only() {
    let mut pair = Pair::ready();
    let (stopped, lively) = (pair.open(), pair.open());
    assert_eq!(fill(&mut pair, stopped), WINDOW);
    let mut buffer = [0; 4096];
    for _ in 0..200 {
        assert_eq!(pair.host.write(lively, &[2; 4096]), Write::Bytes(4096));
        pair.turn();
        assert_eq!(pair.guest.read(lively, &mut buffer), Read::Bytes(4096));
        assert_eq!(buffer, [2; 4096]);
        pair.turn();
    }
    assert_eq!(pair.host.write(stopped, &[1]), Write::Wait);
    // Once it reads on, so does the writer go on.
    let mut read = 0;
    while let Read::Bytes(count) = pair.guest.read(stopped, &mut buffer) {
        read += count;
    }
    assert_eq!(read, WINDOW);
    events(&mut pair.host);
    pair.turn();
    assert!(events(&mut pair.host).contains(&Event::Writable(stopped)));
    assert_eq!(fill(&mut pair, stopped), WINDOW);
}

#[test]
fn output_is_bounded_while_the_wire_takes_nothing() {
    let mut pair = Pair::ready();
    let stream = pair.open();
    let mut sent = 0;
    while let Write::Bytes(count) = pair.host.write(stream, &[1; 4096]) {
        sent += count;
    }
    assert!(sent <= 128 * 1024 + 4096, "{sent}");
    pair.turn();
    assert!(events(&mut pair.host).contains(&Event::Drained));
}

#[test]
fn halves_end_apart_and_data_before_the_end_is_kept() {
    let mut pair = Pair::ready();
    let stream = pair.open();
    pair.host.write(stream, b"last");
    pair.host.finish(stream);
    assert_eq!(pair.host.write(stream, b"more"), Write::Reset);
    pair.turn();
    assert_eq!(pair.guest.write(stream, b"answer"), Write::Bytes(6));
    pair.guest.finish(stream);
    pair.guest.close(stream);
    pair.turn();
    let mut buffer = [0; 16];
    assert_eq!(pair.host.read(stream, &mut buffer), Read::Bytes(6));
    assert_eq!(pair.host.read(stream, &mut buffer), Read::End);
    pair.host.close(stream);
    assert!(!pair.host.has_output(), "both had finished: no reset");
}

#[test]
fn closing_early_resets_the_other_end() {
    let mut pair = Pair::ready();
    let stream = pair.open();
    pair.guest.write(stream, b"tail");
    pair.guest.close(stream);
    pair.turn();
    let mut buffer = [0; 16];
    assert_eq!(pair.host.read(stream, &mut buffer), Read::Bytes(4));
    assert_eq!(pair.host.read(stream, &mut buffer), Read::Reset);
    assert_eq!(pair.host.write(stream, b"x"), Write::Reset);
    assert!(events(&mut pair.host).contains(&Event::Readable(stream)));
}

#[test]
fn refused_streams_are_told_apart() {
    let mut pair = Pair::ready();
    let stream = pair.host.open(9).unwrap();
    pair.turn();
    pair.guest.refuse(stream);
    pair.turn();
    assert_eq!(pair.host.is_accepted(stream), Some(false));
}

#[test]
fn hello_drops_streams_and_output_after_any_cut_and_garbage() {
    let mut pair = Pair::ready();
    let stream = pair.open();
    pair.host.write(stream, &[9; 10_000]);
    let old = pair.host.take_output();
    pair.guest.write(stream, b"stale");
    let stale = pair.guest.take_output();
    for cut in [0, 1, HEAD - 1, HEAD, 5000, old.len() - 1] {
        let mut guest = Session::guest();
        guest
            .receive(&Session::host([7; NONCE]).take_output())
            .unwrap();
        let mut open = Vec::new();
        encode_into(&mut open, Kind::Open, 1, &PORT.to_be_bytes());
        guest.receive(&open).unwrap();
        guest.accept(1);
        guest.receive(&old[..cut]).unwrap();
        events(&mut guest);
        // A new host on the same wire.
        let mut host = Session::host([8; NONCE]);
        // The cut frame may become one that breaks the rules: no matter.
        let _ = guest.receive(&host.take_output());
        assert_eq!(events(&mut guest).last(), Some(&Event::Restarted));
        assert!(guest.is_reset(1));
        // It finds its answer behind what the old one had coming, one byte at a time.
        let mut wire = stale.clone();
        wire.extend_from_slice(&[0xff, 2, 0, 0]);
        encode_into(&mut wire, Kind::HelloAck, 0, &[7; NONCE]);
        wire.extend(guest.take_output());
        for (at, byte) in wire.iter().enumerate() {
            host.receive(&[*byte]).unwrap();
            let is_ready = events(&mut host) == [Event::Ready];
            assert_eq!(is_ready, at == wire.len() - 1, "cut {cut}");
        }
    }
}

#[test]
fn a_guest_that_breaks_rules_ends_the_session() {
    let frame = |kind, stream, payload: &[u8]| {
        let mut out = Vec::new();
        encode_into(&mut out, kind, stream, payload);
        out
    };
    let cases = [
        frame(Kind::Open, 5, &PORT.to_be_bytes()),
        frame(Kind::Data, 9, b"x"),
        frame(Kind::Accept, 1, &[]),
        frame(Kind::Credit, 1, &u32::MAX.to_be_bytes()),
        frame(Kind::Data, 1, &[0; MAX_PAYLOAD]).repeat(WINDOW / MAX_PAYLOAD + 1),
        [frame(Kind::Fin, 1, &[]), frame(Kind::Data, 1, b"x")].concat(),
        head(Kind::Data, 1, MAX_PAYLOAD + 1).to_vec(),
        vec![0x55],
    ];
    for case in cases {
        let mut pair = Pair::ready();
        assert_eq!(pair.open(), 1);
        assert!(pair.host.receive(&case).is_err(), "{:?}", &case[..1]);
    }
}

#[test]
fn a_host_that_reuses_ids_ends_the_session_and_too_many_are_refused() {
    let mut pair = Pair::ready();
    let stream = pair.open();
    let mut open = Vec::new();
    encode_into(&mut open, Kind::Open, stream, &PORT.to_be_bytes());
    assert!(pair.guest.receive(&open).is_err());
    let mut pair = Pair::ready();
    for _ in 0..MAX_STREAMS {
        pair.open();
    }
    assert_eq!(pair.host.open(PORT), None);
    let mut open = Vec::new();
    encode_into(&mut open, Kind::Open, 5000, &PORT.to_be_bytes());
    pair.guest.receive(&open).unwrap();
    assert_eq!(
        pair.guest.take_output(),
        head(Kind::Refuse, 5000, 0).to_vec()
    );
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    let mut guest = Session::guest();
    guest
        .receive(&Session::host([7; NONCE]).take_output())
        .unwrap();
    let mut stalled = false;
    for id in 1..200_000_u32 {
        let mut open = Vec::new();
        encode_into(&mut open, Kind::Open, id, &PORT.to_be_bytes());
        match guest.receive(&open) {
            Ok(()) => guest.refuse(id),
            Err(error) => {
                assert_eq!(error, SessionError::Stalled);
                stalled = true;
                break;
            }
        }
    }
    assert!(stalled);
}

proptest! {
    #[test]
    fn frames_survive_every_split(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..8), step in 1_usize..64) {
        let mut wire = vec![0; step];
        for (stream, payload) in (1..).zip(&payloads) {
            encode_into(&mut wire, Kind::Data, stream, payload);
        }
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for part in wire.chunks(step) {
            decoder.feed(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                got.push(frame.payload.to_vec());
            }
        }
        prop_assert_eq!(got, payloads);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut pair = Pair::ready();
        pair.open();
        let host = pair.host.receive(&bytes);
        let guest = pair.guest.receive(&bytes);
        if let Some(&first) = bytes.iter().find(|byte| **byte != 0)
            && !(1..=9).contains(&first)
        {
            let unknown = Err(SessionError::Codec(CodecError::UnknownKind(first)));
            prop_assert_eq!(host, unknown.clone());
            prop_assert_eq!(guest, unknown);
        }
    }
}

#[cfg(feature = "host")]
mod over_tokio;
