//! A million frames that a hostile daemon could send, through a socket and the decoder: each is
//! refused or means exactly what it says, and neither memory nor descriptors grow.
//!
//! The generator is seeded: what fails fails again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what a test calls may panic as a test may"
)]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_ipc::{Channel, IpcError, MAX_FRAME};
use banger_priv::Request;

const FRAMES: usize = 1_000_000;
/// What fits into a socket's buffer, so that one thread can write and then read.
const BATCH: usize = 48 * 1024;
const LIMIT: Duration = Duration::from_secs(60);
const MEMORY_MAX_KIB: u64 = 16 * 1024;

const VM: &str = r#"{"id":"vm-00000007","generation":1}"#;
/// One of each verb.
const WHOLE: [&str; 18] = [
    r#"{"method":"priv.status","params":{}}"#,
    r#"{"method":"priv.ensure_bridge","params":{"bridge":"br-fc","subnet":"172.30.0.1/24"}}"#,
    r#"{"method":"priv.create_tap","params":{"vm":@,"address":"172.30.0.2"}}"#,
    r#"{"method":"priv.remove_tap","params":@}"#,
    r#"{"method":"priv.ensure_nat","params":@}"#,
    r#"{"method":"priv.clear_nat","params":@}"#,
    r#"{"method":"priv.sync_resolver_routing","params":{"port":8053}}"#,
    r#"{"method":"priv.clear_resolver_routing","params":{}}"#,
    r#"{"method":"priv.create_dm_snapshot","params":{"vm":@,"persistent":true}}"#,
    r#"{"method":"priv.remove_dm_snapshot","params":@}"#,
    r#"{"method":"priv.cleanup_dm_snapshot","params":@}"#,
    r#"{"method":"priv.open_snapshot","params":{"vm":@,"write":false}}"#,
    r#"{"method":"priv.launch_firecracker","params":{"vm":@,"cpus":1,"memory_mib":128,"files":["kernel","initrd",{"disk":0},"log"]}}"#,
    r#"{"method":"priv.ensure_socket_access","params":@}"#,
    r#"{"method":"priv.signal_process","params":{"vm":@,"signal":"TERM"}}"#,
    r#"{"method":"priv.kill_process","params":@}"#,
    r#"{"method":"priv.cleanup_jailer_chroot","params":@}"#,
    r#"{"method":"priv.reclaim","params":{"keep":[@,@]}}"#,
];
/// What tends to be taken wrongly.
const PIECES: [&[u8]; 32] = [
    b"null",
    b"-0",
    b"1e3",
    b"1.0",
    b"18446744073709551616",
    b"4294967296",
    b"9007199254740993",
    b"\"5\"",
    b"\\ud800",
    b"\\u0000",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\0",
    b"\n",
    b"\x1b[2J",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"..",
    b"/",
    b"%s",
    b"-",
    b"\"method\":\"priv.reclaim\",",
    b"\"params\":{},",
    b"\"id\":1,",
    b"PRIV.",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// xorshift64.
struct Dice(u64);

impl Dice {
    /// Less than `sides`.
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    /// A part of `text`.
    fn part(&mut self, text: &[u8]) -> std::ops::Range<usize> {
        let from = self.throw(text.len() + 1);
        let most = (text.len() - from).min(24);
        from..from + self.throw(most + 1)
    }

    /// A request with one to four things wrong with it.
    fn broken(&mut self, whole: &[Vec<u8>]) -> Vec<u8> {
        let mut text = whole[self.throw(whole.len())].clone();
        for _ in 0..=self.throw(4) {
            let at = self.part(&text);
            match self.throw(6) {
                0 if !at.is_empty() => {
                    let bit = self.throw(8);
                    text[at.start] ^= 1 << bit;
                }
                1 => drop(text.drain(at)),
                2 => {
                    let copy = text[at.clone()].to_vec();
                    drop(text.splice(at.start..at.start, copy));
                }
                3 => text.truncate(at.start),
                _ => {
                    let piece = PIECES[self.throw(PIECES.len())].iter().copied();
                    drop(text.splice(at, piece));
                }
            }
        }
        text
    }
}

fn whole() -> Vec<Vec<u8>> {
    let texts = WHOLE.iter().map(|text| text.replace('@', VM).into_bytes());
    texts.collect()
}

/// Decodes as the helper does. What is taken must be written the same way again.
fn is_request(body: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Request>(body) else {
        return false;
    };
    let text = serde_json::to_vec(&request).unwrap();
    assert_eq!(serde_json::from_slice::<Request>(&text).unwrap(), request);
    true
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_generator_begins_with_requests() {
    let whole = whole();
    let verbs = include_str!("../src/request.rs");
    let verbs = verbs.matches("#[serde(rename = \"priv.").count();
    assert_eq!(whole.len(), verbs);
    for text in &whole {
        assert!(is_request(text), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn r23_to_r28_a_million_malformed_frames_are_refused_in_bounded_memory() {
    let whole = whole();
    let mut dice = Dice(0x5eed_ba2e_0bad_cafe);
    let (mut sent, mut taken, mut cut) = (0, 0, 0);
    let (fds, mut first) = (descriptors(), 0);
    while sent < FRAMES {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Channel::from(OwnedFd::from(ours));
        let mut bytes = Vec::new();
        let mut bodies = 0;
        while bytes.len() < BATCH {
            let body = dice.broken(&whole);
            if body.is_empty() {
                continue;
            }
            bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(body);
            bodies += 1;
        }
        // The last is no frame: a length that none has, or half of one.
        let is_cut = dice.throw(2) == 0;
        let length = match is_cut {
            true => 1 + dice.throw(MAX_FRAME),
            false => [0, MAX_FRAME + 1, 1 << 31, 0xffff_ffff][dice.throw(4)],
        };
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        theirs.write_all(&bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..bodies {
            let frame = ours.receive(Some(LIMIT), LIMIT).unwrap().unwrap();
            taken += usize::from(is_request(&frame.body));
        }
        let last = ours.receive(Some(LIMIT), LIMIT);
        match last {
            Err(IpcError::Closed(_)) if is_cut => cut += 1,
            Err(IpcError::TooLong { .. }) if !is_cut => {}
            other => panic!("{length}: {other:?}"),
        }
        sent += bodies + 1;
        if first == 0 {
            first = memory_kib();
        }
    }
    assert!(memory_kib() < first + MEMORY_MAX_KIB);
    assert!(descriptors() <= fds + 4);
    // Most are wrong; those that are not were read as what they say.
    assert!(taken > 0 && taken < FRAMES / 4 && cut > 0, "{taken} {cut}");
}

/// R7 to R10, R12, R13, R15, R18, R19, F16, F17, F18: what is derived from the VM, or handed over by
/// descriptor, nobody can name.
#[test]
fn r7_to_r19_no_verb_can_name_a_path_a_device_a_pid_a_uid_or_a_zone() {
    let names = [
        "path",
        "file",
        "device",
        "dm_name",
        "uuid",
        "loop",
        "node",
        "tap",
        "interface",
        "link",
        "mac",
        "bridge_ip",
        "gateway",
        "nat_address",
        "server",
        "domain",
        "zone",
        "default_route",
        "pid",
        "pidfd",
        "uid",
        "gid",
        "owner",
        "cgroup",
        "jail",
        "chroot",
        "program",
        "argv",
        "env",
        "rule",
    ];
    let values = [
        serde_json::json!("/etc/shadow"),
        serde_json::json!(1),
        serde_json::Value::Null,
    ];
    for text in whole() {
        let request: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for name in names {
            for value in &values {
                for place in ["/params", "/params/vm"] {
                    let mut more = request.clone();
                    let Some(place) = more.pointer_mut(place) else {
                        continue;
                    };
                    place[name] = value.clone();
                    let more = serde_json::to_vec(&more).unwrap();
                    assert!(!is_request(&more), "{}", String::from_utf8_lossy(&more));
                }
            }
        }
    }
}
