//! The bus in these tests: real bytes on a real socket, sent as the test likes.

use crate::message::{Message, REPLY, SIGNAL};
use crate::wire::{Writer, saturated};
use crate::{Bus, BusError};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

/// The unique name of the real systemd on this bus.
pub(crate) const SYSTEMD: &str = ":1.0";
/// How long the client waits where it is answered at once.
pub(crate) const PLENTY: Duration = Duration::from_secs(20);
/// How long it waits for what never comes.
pub(crate) const BRIEF: Duration = Duration::from_millis(60);

/// The bus's end of the connection.
pub(crate) struct Peer {
    stream: BufReader<UnixStream>,
}

/// A call that the client made.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) serial: u32,
    pub(crate) message: Message,
}

impl Peer {
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    /// The next call; `None` when the client hung up.
    pub(crate) fn call(&mut self) -> Option<Called> {
        let mut bytes = vec![0; 16];
        self.stream.read_exact(&mut bytes).ok()?;
        let length = Message::length(&bytes).unwrap().unwrap();
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[16..]).ok()?;
        Some(Called {
            serial: u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
            message: Message::parse(&bytes).unwrap(),
        })
    }

    /// Takes the next call, which must be of `member`.
    pub(crate) fn expect(&mut self, member: &str) -> Called {
        let called = self.call().expect("a call");
        assert_eq!(called.message.member, member);
        called
    }

    /// Sends bytes; false when the client hung up.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    pub(crate) fn reply(&mut self, to: &Called, signature: &'static str, body: Writer) {
        self.send(&message(REPLY, SYSTEMD, to.serial, "", signature, &body));
    }

    /// Takes the next call, which must be of `member`, and gives it an empty reply.
    pub(crate) fn grant(&mut self, member: &str) {
        let called = self.expect(member);
        self.reply(&called, "", Writer::default());
    }

    /// Keeps the connection open until the client ends it.
    pub(crate) fn hold(&mut self) {
        while self.call().is_some() {}
    }

    fn log_in(&mut self) {
        assert!(self.line().starts_with("\0AUTH EXTERNAL "));
        self.send(b"OK 1234deadbeef\r\n");
        assert_eq!(self.line(), "BEGIN\r\n");
        let hello = self.expect("Hello");
        self.reply(&hello, "s", Writer::default().str(":1.77"));
    }
}

/// Runs `script` as the bus, without the log-in.
pub(crate) fn raw(
    limit: Duration,
    script: impl FnOnce(&mut Peer) + Send + 'static,
) -> (Result<Bus, BusError>, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PLENTY)).unwrap();
    theirs.set_write_timeout(Some(PLENTY)).unwrap();
    let bus = std::thread::spawn(move || {
        let stream = BufReader::new(theirs);
        script(&mut Peer { stream });
    });
    (Bus::log_in(ours, limit), bus)
}

/// A connection to a bus that does as `script` says once we are logged in.
pub(crate) fn fake(
    limit: Duration,
    script: impl FnOnce(&mut Peer) + Send + 'static,
) -> (Bus, JoinHandle<()>) {
    let (bus, thread) = raw(limit, |peer| {
        peer.log_in();
        script(peer);
    });
    (bus.unwrap(), thread)
}

/// A message as a bus delivers it. `name` is the member of a signal, the name of an error.
pub(crate) fn message(
    kind: u8,
    sender: &str,
    reply_serial: u32,
    name: &str,
    signature: &'static str,
    body: &Writer,
) -> Vec<u8> {
    let head = Writer::default().raw(&[b'l', kind, 1, 1]);
    let head = head.u32(saturated(body.bytes().len())).u32(9);
    let whole = head.array(8, |mut fields| {
        if kind == SIGNAL {
            fields = fields.align(8).raw(&[3]).signature("s").str(name);
        } else {
            fields = fields.align(8).raw(&[5]).signature("u").u32(reply_serial);
            if !name.is_empty() {
                fields = fields.align(8).raw(&[4]).signature("s").str(name);
            }
        }
        // A path, as real messages have: nothing to us.
        fields = fields.align(8).raw(&[1]).signature("o").str("/");
        let fields = fields.align(8).raw(&[7]).signature("s").str(sender);
        let fields = fields.align(8).raw(&[8]).signature("g");
        fields.signature(signature)
    });
    whole.align(8).raw(body.bytes()).bytes().to_vec()
}

/// systemd's word that a job has ended.
pub(crate) fn job_removed(sender: &str, job: &str, unit: &str, result: &str) -> Vec<u8> {
    let body = Writer::default().u32(7).str(job).str(unit).str(result);
    message(SIGNAL, sender, 0, "JobRemoved", "uoss", &body)
}

impl Bus {
    /// Whether systemd says that it has the unit: the shortest call there is.
    pub(super) fn unit_exists(&mut self, name: &str) -> Result<bool, BusError> {
        self.find_unit(name).map(|unit| unit.is_some())
    }
}
