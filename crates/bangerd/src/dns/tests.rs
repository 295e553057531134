//! The zone as resolvers see it: packet by packet, and over real sockets on the loopback.

use super::answer::{MAX_ANSWER, MAX_QUERY, answer};
use super::{MAX_CONNECTIONS, MAX_QUERIES, Sources, serve};
use banger_names::VmName;
use proptest::prelude::*;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

const DEV: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
const PLENTY: Duration = Duration::from_secs(30);
const BRIEF: Duration = Duration::from_millis(150);

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
const ANY: u16 = 255;

const OK: u8 = 0;
const FORMERR: u8 = 1;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// The VM `dev` runs; `a` repeated 63 times does as well, to have the longest name.
fn lookup(name: &VmName) -> Option<Ipv4Addr> {
    let longest = "a".repeat(63);
    (name.as_str() == "dev" || name.as_str() == longest).then_some(DEV)
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A query with recursion desired, as resolvers send it.
fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.extend(wire_name(name));
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// Adds an OPT record of `version` with a cookie.
fn with_edns(mut query: Vec<u8>, version: u8) -> Vec<u8> {
    query[11] += 1;
    query.extend([0, 0, 41, 0x10, 0, 0, version, 0x80, 0, 0, 12]);
    query.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    query
}

/// An answer's code, the counts of its sections after the question, and whether it is authoritative.
fn summary(reply: &[u8]) -> (u8, [u8; 3], bool) {
    assert_eq!(&reply[..2], b"\xab\xcd", "the id");
    assert_eq!(reply[2] & 0x80, 0x80, "a response");
    assert_eq!(reply[2] & 0x02, 0, "never cut");
    assert_eq!(reply[3] & 0xf0, 0, "no recursion, nothing authenticated");
    let counts = [reply[7], reply[9], reply[11]];
    (reply[3] & 0xf, counts, reply[2] & 0x04 != 0)
}

fn ask(name: &str, kind: u16) -> (u8, [u8; 3], bool) {
    summary(&answer(&query(name, kind), &lookup).unwrap())
}

#[test]
fn a_running_vm_has_an_address_for_five_seconds() {
    for name in ["dev.vm", "DEV.vm", "dEv.VM"] {
        let query = query(name, A);
        let reply = answer(&query, &lookup).unwrap();
        assert_eq!(summary(&reply), (OK, [1, 0, 0], true));
        assert_eq!(
            reply[12..query.len()],
            query[12..],
            "the question as it was"
        );
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\x4d\0\x05";
        assert_eq!(&reply[query.len()..], record);
        assert_eq!(reply[2], 0x85, "recursion desired goes back");
    }
    assert_eq!(ask("dev.vm", ANY), (OK, [1, 0, 0], true));
}

#[test]
fn what_is_not_there_is_denied_with_the_soa() {
    for kind in [NS, AAAA, HTTPS, SOA, 41, 250, 65_280] {
        assert_eq!(ask("dev.vm", kind), (OK, [0, 1, 0], true), "{kind}");
        assert_eq!(ask("vm", kind).1[1], u8::from(kind != SOA), "{kind}");
    }
    let unknown = [
        "other.vm",
        "x.dev.vm",
        "a.b.c.vm",
        "-dev.vm",
        "dev\0.vm",
        "d\u{e9}v.vm",
    ];
    for name in unknown {
        for kind in [A, AAAA, ANY, HTTPS] {
            assert_eq!(ask(name, kind), (NXDOMAIN, [0, 1, 0], true), "{name:?}");
        }
    }
    let asked = query("other.vm", A);
    let reply = answer(&asked, &lookup).unwrap();
    let soa = b"\xc0\x12\0\x06\0\x01\0\0\0\0\0\x23\xc0\x12\x0ahostmaster\xc0\x12\0\0\0\x01";
    assert!(reply[asked.len()..].starts_with(soa), "{reply:x?}");
    assert!(
        reply.ends_with(&[0, 1, 0x51, 0x80, 0, 0, 0, 0]),
        "{reply:x?}"
    );
    assert_eq!(ask("vm", SOA), (OK, [1, 0, 0], true));
}

#[test]
fn other_zones_classes_and_transfers_are_refused() {
    let refused = (REFUSED, [0, 0, 0], false);
    for name in [
        "",
        "example.com",
        "dev.vm.example.com",
        "vmx",
        "dev.xvm",
        "localhost",
    ] {
        assert_eq!(ask(name, A), refused, "{name:?}");
    }
    for name in ["vm", "dev.vm"] {
        assert_eq!(ask(name, AXFR), refused);
        assert_eq!(ask(name, IXFR), refused);
    }
    let mut chaos = query("version.vm", 16);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(summary(&answer(&chaos, &lookup).unwrap()), refused);
}

#[test]
fn edns_is_answered_with_edns() {
    let reply = answer(&with_edns(query("dev.vm", A), 0), &lookup).unwrap();
    assert_eq!(summary(&reply), (OK, [1, 0, 1], true));
    assert!(reply.ends_with(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]));
    let reply = answer(&with_edns(query("dev.vm", A), 1), &lookup).unwrap();
    assert_eq!(summary(&reply), (OK, [0, 0, 1], false), "BADVERS, low bits");
    assert!(reply.ends_with(&[0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]));
    let twice = with_edns(with_edns(query("dev.vm", A), 0), 0);
    let reply = answer(&twice, &lookup).unwrap();
    assert_eq!(summary(&reply).0, FORMERR);
    // Another additional record, here a signature with a compressed name, is skipped.
    let mut signed = query("dev.vm", A);
    signed[11] = 1;
    signed.extend(b"\x03key\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x02xy");
    let reply = answer(&signed, &lookup).unwrap();
    assert_eq!(summary(&reply), (OK, [1, 0, 0], true));
}

#[test]
fn other_opcodes_and_counts_get_the_code_alone() {
    let changed = |at: usize, byte: u8| {
        let mut query = query("dev.vm", A);
        query[at] = byte;
        let reply = answer(&query, &lookup).unwrap();
        assert_eq!(reply.len(), 12);
        assert_eq!(reply[5], 0, "no question");
        summary(&reply).0
    };
    assert_eq!(changed(2, 0x29), NOTIMP, "an update");
    assert_eq!(changed(2, 0x10), NOTIMP, "a status");
    for at in [4, 5, 6, 7, 8, 9] {
        assert_eq!(changed(at, 2), FORMERR, "the count at {at}");
    }
    assert_eq!(changed(5, 0), FORMERR, "no question");
}

#[test]
fn malformed_queries_get_no_answer() {
    let good = query("dev.vm", A);
    for cut in 0..good.len() {
        assert_eq!(answer(&good[..cut], &lookup), None, "cut at {cut}");
    }
    let head = &good[..12];
    let tail = &[0, 1, 0, 1][..];
    let long_label = [&[64], &[b'a'; 64][..], b"\x02vm\0"].concat();
    let long_name = [
        [&[63], &[b'a'; 63][..]].concat().repeat(4),
        b"\x02vm\0".to_vec(),
    ]
    .concat();
    let names: [(&str, &[u8]); 7] = [
        ("a pointer to itself", b"\xc0\x0c"),
        ("a pointer loop", b"\x03dev\xc0\x0c"),
        ("a pointer forward", b"\xc0\x20"),
        ("a label of the extended kind", b"\x41a\x02vm\0"),
        ("a label longer than 63", &long_label),
        ("a name longer than 255", &long_name),
        ("a label past the end", b"\x3fdev"),
    ];
    for (what, name) in names {
        let query = [head, name, tail].concat();
        assert_eq!(answer(&query, &lookup), None, "{what}");
    }
    let response = [b"\xab\xcd\x81", &good[3..]].concat();
    assert_eq!(
        answer(&response, &lookup),
        None,
        "a response: no loops of answers"
    );
    assert_eq!(
        answer(&[&good[..], b"x"].concat(), &lookup),
        None,
        "more after the end"
    );
    let edns = with_edns(good.clone(), 0);
    for cut in good.len()..edns.len() {
        assert_eq!(answer(&edns[..cut], &lookup), None, "OPT cut at {cut}");
    }
    let mut long = with_edns(good.clone(), 0);
    let length_at = good.len() + 9;
    long[length_at] = 0xff;
    assert_eq!(answer(&long, &lookup), None, "an option past the end");
    let mut many = good.clone();
    (many[10], many[11]) = (0xff, 0xff);
    assert_eq!(
        answer(&many, &lookup),
        None,
        "65,535 records that are not there"
    );
    let mut huge = with_edns(good.clone(), 0);
    let more = u16::try_from(MAX_QUERY).unwrap();
    huge.splice(length_at.., more.to_be_bytes());
    huge.extend(vec![0; MAX_QUERY]);
    assert_eq!(answer(&huge, &lookup), None, "over the cap");
}

#[test]
fn the_longest_answers_stay_under_the_cap() {
    let labels = format!("{0}.{0}.{0}.{1}.vm", "b".repeat(63), "c".repeat(58));
    assert_eq!(wire_name(&labels).len(), 255);
    for name in [labels, format!("{}.vm", "a".repeat(63))] {
        let reply = answer(&with_edns(query(&name, ANY), 0), &lookup).unwrap();
        assert!(reply.len() <= MAX_ANSWER, "{}", reply.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Some(reply) = answer(&bytes, &lookup) {
            prop_assert!(reply.len() <= MAX_ANSWER);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
        }
    }

    #[test]
    fn a_good_query_with_bad_bytes_is_answered_or_dropped(
        name in "([a-zA-Z0-9.-]{0,80}\\.)?(vm|VM|com)",
        kind in any::<u16>(),
        changes in proptest::collection::vec((2_usize..160, any::<u8>()), 0..5),
        cut in 0_usize..40,
    ) {
        prop_assume!(name.split('.').all(|label| label.len() < 64));
        let mut bytes = with_edns(query(&name, kind), 0);
        for (at, byte) in changes {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        bytes.truncate(bytes.len() - cut / 2);
        if let Some(reply) = answer(&bytes, &lookup) {
            prop_assert!(reply.len() <= MAX_ANSWER);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert_eq!(reply[2] & 0x80, 0x80);
            prop_assert_eq!(answer(&reply, &lookup), None);
        }
    }
}

/// A server on the loopback that answers 127.0.0.1 and nobody else.
async fn start() -> (SocketAddr, SocketAddr, DropGuard) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at_udp, at_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let stop = CancellationToken::new();
    let sources = Sources {
        address: Ipv4Addr::LOCALHOST,
        prefix: 32,
    };
    tokio::spawn(serve(udp, tcp, sources, lookup, stop.clone()));
    (at_udp, at_tcp, stop.drop_guard())
}

async fn exchange(stream: &mut TcpStream, query: &[u8]) -> Vec<u8> {
    let length = u16::try_from(query.len()).unwrap();
    stream.write_u16(length).await.unwrap();
    stream.write_all(query).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await.unwrap();
    reply
}

/// Whether the server closes the connection without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let ended = timeout(PLENTY, stream.read_u8())
        .await
        .expect("it stays open");
    ended.is_err()
}

#[tokio::test]
async fn udp_answers_its_own_host_and_drops_the_rest() {
    let (at, _, _stop) = start().await;
    let own = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let outside = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let query = query("dev.vm", A);
    outside.send_to(&query, at).await.unwrap();
    own.send_to(b"junk", at).await.unwrap();
    own.send_to(&[0; MAX_QUERY + 9], at).await.unwrap();
    own.send_to(&query, at).await.unwrap();
    let mut reply = [0; 1500];
    let (length, from) = timeout(PLENTY, own.recv_from(&mut reply))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(from, at);
    assert_eq!(summary(&reply[..length]), (OK, [1, 0, 0], true));
    // The answer above came after the stranger's query was looked at.
    assert!(timeout(BRIEF, outside.recv_from(&mut reply)).await.is_err());
}

#[tokio::test]
async fn tcp_answers_some_queries_and_closes() {
    let (_, at, _stop) = start().await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    for _ in 0..MAX_QUERIES {
        let reply = exchange(&mut stream, &query("dev.vm", A)).await;
        assert_eq!(summary(&reply), (OK, [1, 0, 0], true));
    }
    assert!(is_closed(&mut stream).await, "it has had enough");
    for bad in [&b"\0\0"[..], b"\xff\xff", b"\0\x04junk"] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(bad).await.unwrap();
        assert!(is_closed(&mut stream).await, "{bad:?}");
    }
}

#[tokio::test]
async fn tcp_closes_on_strangers_and_on_too_many() {
    let (_, at, stop) = start().await;
    let stranger = TcpSocket::new_v4().unwrap();
    stranger.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stranger = stranger.connect(at).await.unwrap();
    assert!(is_closed(&mut stranger).await);
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(at).await.unwrap();
        exchange(&mut stream, &query("dev.vm", A)).await;
        open.push(stream);
    }
    let mut one_more = TcpStream::connect(at).await.unwrap();
    assert!(is_closed(&mut one_more).await);
    drop(stop);
    for mut stream in open {
        assert!(
            is_closed(&mut stream).await,
            "connections end with the server"
        );
    }
}

#[test]
fn sources_are_a_network() {
    let network = |prefix| Sources {
        address: Ipv4Addr::new(10, 77, 0, 1),
        prefix,
    };
    let has = |prefix, source: &str| network(prefix).has(source.parse().unwrap());
    assert!(has(32, "10.77.0.1:5"));
    assert!(!has(32, "10.77.0.2:5"));
    assert!(has(24, "10.77.0.255:5"));
    assert!(!has(24, "10.77.1.0:5"));
    assert!(has(0, "203.0.113.9:5"));
    assert!(!has(0, "[::1]:5"));
    assert!(!has(32, "[::ffff:10.77.0.1]:5"));
}
