//! The protocol of one end of a mux, as a state machine without I/O.
//!
//! Bytes from the wire go into [`Session::receive`], which queues [`Event`]s; bytes for the wire
//! come out of [`Session::take_output`]. The owner of a stream reads, writes, finishes and closes it;
//! a stream lives until its owner has closed it.

use std::collections::{BTreeMap, VecDeque};

use super::codec::{self, CodecError, Decoder, Kind, MAX_PAYLOAD, NONCE, PADDING};
use super::{MAX_STREAMS, WINDOW};

/// Writers are held up while so many bytes wait for the wire.
const OUTPUT_HIGH: usize = 128 * 1024;

/// A peer that makes this end answer but reads nothing is given up at so many bytes.
const OUTPUT_MAX: usize = 1024 * 1024;

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Bytes that are no frame.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A frame that breaks the rules.
    #[error("mux frame {kind:?} for stream {stream} {rule}")]
    Rule {
        /// The frame's kind.
        kind: Kind,
        /// Its stream.
        stream: u32,
        /// The rule it breaks, as "is over the window".
        rule: &'static str,
    },
    /// The peer does not read the wire.
    #[error("the peer takes no bytes off the wire")]
    Stalled,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Host: the guest answered; streams can be opened.
    Ready,
    /// Guest: a host said `Hello`, or broke the rules; all streams of before are gone, and so is
    /// the output that was not taken yet (drop what was taken and not written, too).
    Restarted,
    /// Guest: the host asks for a stream to a port; answer with [`Session::accept`] or [`Session::refuse`].
    Opened {
        /// The new stream.
        stream: u32,
        /// Where it should lead.
        port: u32,
    },
    /// Host: the guest accepted or refused ([`Session::is_accepted`] tells).
    Answered(u32),
    /// Bytes, an end or a reset can be read.
    Readable(u32),
    /// Bytes can be written again, or the stream was reset.
    Writable(u32),
    /// Writers that were held up by the wire can go on.
    Drained,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Wait,
    /// The peer finished.
    End,
    /// The stream is gone.
    Reset,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Took so many bytes, at least one.
    Bytes(usize),
    /// No window or a full wire.
    Wait,
    /// The stream is gone, or this end has finished it.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Refused,
    Reset,
}

#[derive(Debug)]
struct Stream {
    state: State,
    received: VecDeque<u8>,
    /// How many more bytes the peer may send.
    receive_window: usize,
    /// Bytes read by the owner and not yet given back as credit.
    credit_due: usize,
    has_peer_finished: bool,
    send_window: usize,
    has_finished: bool,
}

impl Stream {
    fn new(state: State) -> Self {
        Self {
            state,
            received: VecDeque::new(),
            receive_window: WINDOW,
            credit_due: 0,
            has_peer_finished: false,
            send_window: WINDOW,
            has_finished: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Host,
    Guest,
}

/// One end of a mux.
#[derive(Debug)]
pub struct Session {
    role: Role,
    decoder: Decoder,
    output: Vec<u8>,
    is_held_up: bool,
    streams: BTreeMap<u32, Stream>,
    events: VecDeque<Event>,
    last_id: u32,
}

impl Session {
    /// The host's end. Its first output is padding and a `Hello` with `nonce`, which must be random.
    pub fn host(nonce: [u8; NONCE]) -> Self {
        let mut session = Self::new(Role::Host);
        session.output.resize(PADDING, 0);
        codec::encode_into(&mut session.output, Kind::Hello, 0, &nonce);
        let mut awaited = codec::head(Kind::HelloAck, 0, NONCE).to_vec();
        awaited.extend_from_slice(&nonce);
        session.decoder.seek(awaited);
        session
    }

    /// The guest's end: waits for a `Hello`.
    pub fn guest() -> Self {
        let mut session = Self::new(Role::Guest);
        session
            .decoder
            .seek(codec::head(Kind::Hello, 0, NONCE).to_vec());
        session
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            decoder: Decoder::default(),
            output: Vec::new(),
            is_held_up: false,
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Takes bytes from the wire. After an error a host's session is over; a guest's has dropped all
    /// streams ([`Event::Restarted`]), waits for the next `Hello`, and has looked for it in the rest of `bytes`.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.feed(bytes);
        let mut result = Ok(());
        loop {
            let taken = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => self.take_frame(&frame),
                Err(error) => Err(error.into()),
            };
            let stalled = self.output.len() > OUTPUT_MAX;
            let taken = taken.and(if stalled {
                Err(SessionError::Stalled)
            } else {
                Ok(())
            });
            if let Err(error) = taken {
                result = result.and(Err(error));
                if self.role == Role::Host {
                    break;
                }
                self.drop_all();
                decoder.seek(codec::head(Kind::Hello, 0, NONCE).to_vec());
            }
        }
        self.decoder = decoder;
        result
    }

    /// The next event, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes the bytes that wait for the wire.
    pub fn take_output(&mut self) -> Vec<u8> {
        if std::mem::take(&mut self.is_held_up) {
            self.events.push_back(Event::Drained);
        }
        std::mem::take(&mut self.output)
    }

    /// Whether bytes wait for the wire.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Host: asks for a stream to `port`; `None` when [`MAX_STREAMS`] are open or all ids are used up.
    pub fn open(&mut self, port: u32) -> Option<u32> {
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        self.last_id = self.last_id.checked_add(1)?;
        self.streams
            .insert(self.last_id, Stream::new(State::Opening));
        self.send(Kind::Open, self.last_id, &port.to_be_bytes());
        Some(self.last_id)
    }

    /// Host: the guest's answer to [`Session::open`]; `None` until it comes.
    pub fn is_accepted(&self, stream: u32) -> Option<bool> {
        match self.streams.get(&stream)?.state {
            State::Opening => None,
            State::Open => Some(true),
            State::Refused | State::Reset => Some(false),
        }
    }

    /// Guest: takes a stream that [`Event::Opened`] announced.
    pub fn accept(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.state = State::Open;
            self.send(Kind::Accept, stream, &[]);
        }
    }

    /// Guest: declines a stream that [`Event::Opened`] announced; it is gone.
    pub fn refuse(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.send(Kind::Refuse, stream, &[]);
        }
    }

    /// Reads what has come on `stream` into `buffer`, which is not empty.
    pub fn read(&mut self, stream: u32, buffer: &mut [u8]) -> Read {
        let Some(entry) = self.streams.get_mut(&stream) else {
            return Read::Reset;
        };
        let count =
            std::io::Read::read(&mut entry.received, buffer).expect("memory is always readable");
        if count > 0 {
            self.consumed(stream, count);
            return Read::Bytes(count);
        }
        match entry {
            entry if entry.has_peer_finished => Read::End,
            entry if matches!(entry.state, State::Reset | State::Refused) => Read::Reset,
            _ => Read::Wait,
        }
    }

    /// What has come on `stream`, for owners that hand it on without a copy;
    /// [`Session::consumed`] says how much of it is done with.
    pub fn peek(&self, stream: u32) -> &[u8] {
        self.streams
            .get(&stream)
            .map_or(&[], |entry| entry.received.as_slices().0)
    }

    /// Whether the peer has finished `stream` and everything was read.
    pub fn is_at_end(&self, stream: u32) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|entry| entry.has_peer_finished && entry.received.is_empty())
    }

    /// Whether `stream` is gone; bytes that came before may still be there to be read.
    pub fn is_reset(&self, stream: u32) -> bool {
        self.streams
            .get(&stream)
            .is_none_or(|entry| matches!(entry.state, State::Reset | State::Refused))
    }

    /// Drops `count` bytes seen by [`Session::peek`] and gives them back to the peer as credit.
    pub fn consume(&mut self, stream: u32, count: usize) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.received.drain(..count);
            self.consumed(stream, count);
        }
    }

    fn consumed(&mut self, stream: u32, count: usize) {
        let Some(entry) = self.streams.get_mut(&stream) else {
            return;
        };
        entry.credit_due += count;
        let is_wanted = entry.state == State::Open && !entry.has_peer_finished;
        if is_wanted && entry.credit_due >= WINDOW / 4 {
            let credit = std::mem::take(&mut entry.credit_due);
            entry.receive_window += credit;
            let credit = u32::try_from(credit).expect("credit is at most the window");
            self.send(Kind::Credit, stream, &credit.to_be_bytes());
        }
    }

    /// How many bytes [`Session::write`] would take now.
    pub fn writable(&mut self, stream: u32) -> usize {
        if self.output.len() >= OUTPUT_HIGH {
            self.is_held_up = true;
            return 0;
        }
        self.streams.get(&stream).map_or(0, |entry| {
            if entry.state == State::Open && !entry.has_finished {
                entry.send_window.min(MAX_PAYLOAD)
            } else {
                0
            }
        })
    }

    /// Sends up to [`MAX_PAYLOAD`] of `bytes`, which are not empty, on `stream`.
    pub fn write(&mut self, stream: u32, bytes: &[u8]) -> Write {
        let room = self.writable(stream);
        let Some(entry) = self.streams.get_mut(&stream) else {
            return Write::Reset;
        };
        if entry.state != State::Open || entry.has_finished {
            return Write::Reset;
        }
        let count = room.min(bytes.len());
        if count == 0 {
            return Write::Wait;
        }
        entry.send_window -= count;
        self.send(Kind::Data, stream, &bytes[..count]);
        Write::Bytes(count)
    }

    /// Says that no more bytes will be written to `stream`.
    pub fn finish(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && entry.state == State::Open
            && !entry.has_finished
        {
            entry.has_finished = true;
            self.send(Kind::Fin, stream, &[]);
        }
    }

    /// Forgets `stream`; the peer is told unless both have finished or it is gone already.
    pub fn close(&mut self, stream: u32) {
        if let Some(entry) = self.streams.remove(&stream) {
            let is_over = entry.has_finished && entry.has_peer_finished;
            if !is_over && matches!(entry.state, State::Opening | State::Open) {
                self.send(Kind::Reset, stream, &[]);
            }
        }
    }

    fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        codec::encode_into(&mut self.output, kind, stream, payload);
    }

    fn take_frame(&mut self, frame: &codec::Frame<'_>) -> Result<(), SessionError> {
        let stream = frame.stream;
        let breaks = |rule| {
            Err(SessionError::Rule {
                kind: frame.kind,
                stream,
                rule,
            })
        };
        match (frame.kind, self.role) {
            (Kind::Hello, Role::Guest) => {
                self.restart(frame.payload);
                return Ok(());
            }
            (Kind::HelloAck, Role::Host) => {
                self.events.push_back(Event::Ready);
                return Ok(());
            }
            (Kind::Open, Role::Guest) => return self.take_open(frame),
            (Kind::Hello | Kind::Open, Role::Host)
            | (Kind::HelloAck | Kind::Accept | Kind::Refuse, Role::Guest) => {
                return breaks("goes the wrong way");
            }
            _ => {}
        }
        if stream == 0 || stream > self.last_id {
            return breaks("was never opened");
        }
        // Frames that crossed this end's Reset or Refuse.
        let Some(entry) = self.streams.get_mut(&stream) else {
            return Ok(());
        };
        match frame.kind {
            Kind::Accept | Kind::Refuse => {
                if entry.state != State::Opening {
                    return breaks("was answered already");
                }
                entry.state = if frame.kind == Kind::Accept {
                    State::Open
                } else {
                    State::Refused
                };
                self.events.push_back(Event::Answered(stream));
                return Ok(());
            }
            _ if entry.state != State::Open && frame.kind != Kind::Reset => {
                return breaks("is not open");
            }
            Kind::Data => {
                if entry.has_peer_finished {
                    return breaks("was finished");
                }
                let Some(left) = entry.receive_window.checked_sub(frame.payload.len()) else {
                    return breaks("is over the window");
                };
                entry.receive_window = left;
                entry.received.extend(frame.payload);
                self.events.push_back(Event::Readable(stream));
            }
            Kind::Credit => {
                let credit = frame.number().unwrap_or(0) as usize;
                entry.send_window += credit;
                if entry.send_window > WINDOW {
                    return breaks("is over the window");
                }
                self.events.push_back(Event::Writable(stream));
            }
            Kind::Fin => {
                entry.has_peer_finished = true;
                self.events.push_back(Event::Readable(stream));
            }
            _ => {
                entry.state = State::Reset;
                self.events.push_back(Event::Answered(stream));
                self.events.push_back(Event::Readable(stream));
                self.events.push_back(Event::Writable(stream));
            }
        }
        Ok(())
    }

    fn take_open(&mut self, frame: &codec::Frame<'_>) -> Result<(), SessionError> {
        if frame.stream <= self.last_id {
            return Err(SessionError::Rule {
                kind: frame.kind,
                stream: frame.stream,
                rule: "was used before",
            });
        }
        self.last_id = frame.stream;
        if self.streams.len() >= MAX_STREAMS {
            self.send(Kind::Refuse, frame.stream, &[]);
            return Ok(());
        }
        self.streams
            .insert(frame.stream, Stream::new(State::Opening));
        self.events.push_back(Event::Opened {
            stream: frame.stream,
            port: frame.number().unwrap_or(0),
        });
        Ok(())
    }

    fn restart(&mut self, nonce: &[u8]) {
        self.drop_all();
        codec::encode_into(&mut self.output, Kind::HelloAck, 0, nonce);
    }

    /// What was not sent yet is dropped too: the host discards it anyway, and the wire may have been
    /// stuck for want of a host.
    fn drop_all(&mut self) {
        self.streams.clear();
        self.events.clear();
        self.output.clear();
        self.last_id = 0;
        self.events.push_back(Event::Restarted);
    }
}
