//! The guest's end of the mux: one thread, one poll loop between the wire and a socketpair for each stream.
//!
//! The sockets let everything above treat a stream as a descriptor to poll, as with vsock. The wire
//! is watched edge-triggered: a virtio-serial port without a host is "hung up" all the time, which would
//! turn a level-triggered wait into a busy loop.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest::frame::AGENT_PORT;
use banger_guest::mux::{Event, Session, Write};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

use crate::log;
use crate::serve::Agent;
use crate::stream::left_until;

/// How long a host may be away before its streams end. Not at once: that it left and what the next one
/// writes come by different queues, in any order, so "no host" may be old news that would end the
/// new host's session. (A new host's hello ends the streams of the old one in any case.)
const RECONNECT_GRACE: Duration = Duration::from_millis(500);

/// A stream's local end.
struct Lane {
    socket: OwnedFd,
    /// The agent has said all it will say.
    is_local_over: bool,
    /// The end of the host's direction was handed on.
    is_host_over: bool,
}

struct Wire<'a> {
    fd: &'a OwnedFd,
    edges: OwnedFd,
    is_readable: bool,
    is_writable: bool,
    pending: Vec<u8>,
    written: usize,
    /// When a host that has left counts as gone.
    lost_at: Option<Instant>,
}

/// Serves streams over `wire`, which is not blocking, until it breaks. A wire that is closed by the host
/// does not break: the next host may open it again.
pub fn serve(agent: &Arc<Agent>, wire: &OwnedFd) -> Errno {
    match serve_wire(agent, wire) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

fn serve_wire(agent: &Arc<Agent>, fd: &OwnedFd) -> Result<std::convert::Infallible, Errno> {
    let mut wire = Wire::watch(fd)?;
    let mut session = Session::guest();
    let mut lanes: BTreeMap<u32, Lane> = BTreeMap::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        while wire.is_readable {
            match wire.read(&mut buffer)? {
                Some(0) => {}
                Some(count) => {
                    if let Err(error) = session.receive(&buffer[..count]) {
                        log::error(&format!("the host broke the mux protocol: {error}"));
                    }
                    handle_events(agent, &mut session, &mut lanes, &mut wire);
                    deliver(&mut session, &mut lanes);
                }
                None => {}
            }
        }
        if wire.has_lost_host() {
            session = Session::guest();
            lanes.clear();
            wire.forget_output();
        }
        wire.write(&mut session)?;
        handle_events(agent, &mut session, &mut lanes, &mut wire);
        wait(&mut wire, &mut session, &mut lanes, &mut buffer)?;
    }
}

impl<'a> Wire<'a> {
    fn watch(fd: &'a OwnedFd) -> Result<Self, Errno> {
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&edges, fd, epoll::EventData::new_u64(0), flags)?;
        Ok(Self {
            fd,
            edges,
            is_readable: true,
            is_writable: true,
            pending: Vec::new(),
            written: 0,
            lost_at: None,
        })
    }

    /// Consumes an edge: whatever it was, both directions are tried again.
    fn take_edge(&mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(4);
        let count = epoll::wait(
            &self.edges,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        )?;
        if count > 0 {
            self.is_readable = true;
            self.is_writable = true;
        }
        Ok(())
    }

    /// `None` when there is nothing; 0 when there is no host.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match read(self.fd, buffer) {
            Ok(0) | Err(Errno::IO | Errno::CONNRESET) => {
                self.is_readable = false;
                self.lost_at.get_or_insert(Instant::now() + RECONNECT_GRACE);
                Ok(Some(0))
            }
            Ok(count) => {
                self.lost_at = None;
                Ok(Some(count))
            }
            Err(Errno::AGAIN) => {
                self.lost_at = None;
                self.is_readable = false;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn write(&mut self, session: &mut Session) -> Result<(), Errno> {
        while self.is_writable {
            if self.written == self.pending.len() {
                self.pending = session.take_output();
                self.written = 0;
                if self.pending.is_empty() {
                    return Ok(());
                }
            }
            match write(self.fd, &self.pending[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::IO | Errno::PIPE) => self.is_writable = false,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether the host has been away for long enough; says so once.
    fn has_lost_host(&mut self) -> bool {
        self.lost_at.is_some_and(|at| at <= Instant::now()) && {
            self.lost_at = None;
            true
        }
    }

    fn forget_output(&mut self) {
        self.pending.clear();
        self.written = 0;
    }
}

fn handle_events(
    agent: &Arc<Agent>,
    session: &mut Session,
    lanes: &mut BTreeMap<u32, Lane>,
    wire: &mut Wire<'_>,
) {
    while let Some(event) = session.next_event() {
        match event {
            Event::Restarted => {
                lanes.clear();
                wire.forget_output();
            }
            Event::Opened {
                stream,
                port: AGENT_PORT,
            } => {
                let (ours, theirs) = match local_pair() {
                    Ok(pair) => pair,
                    Err(errno) => {
                        log::error(&format!("make a stream's sockets: {errno}"));
                        session.refuse(stream);
                        continue;
                    }
                };
                lanes.insert(
                    stream,
                    Lane {
                        socket: ours,
                        is_local_over: false,
                        is_host_over: false,
                    },
                );
                session.accept(stream);
                agent.serve_in_thread(theirs);
            }
            Event::Opened { stream, .. } => session.refuse(stream),
            Event::Readable(stream) if session.is_reset(stream) => {
                session.close(stream);
                lanes.remove(&stream);
            }
            _ => {}
        }
    }
}

/// A stream's two local ends; the first, the mux's own, does not block.
fn local_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Hands what has come to the streams' local ends, as far as these take it.
fn deliver(session: &mut Session, lanes: &mut BTreeMap<u32, Lane>) {
    lanes.retain(|&stream, lane| {
        while let bytes @ [_, ..] = session.peek(stream) {
            match write(&lane.socket, bytes) {
                Ok(count) => session.consume(stream, count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The agent is through with it, whatever else the host sends.
                Err(_) if lane.is_local_over => {
                    session.close(stream);
                    return false;
                }
                // Its last words are still to be read.
                Err(_) => {
                    let count = session.peek(stream).len();
                    session.consume(stream, count);
                }
            }
        }
        if session.is_at_end(stream) && !lane.is_host_over {
            lane.is_host_over = true;
            // A local end that is closed already needs no telling.
            let _ = shutdown(&lane.socket, Shutdown::Write);
        }
        if lane.is_host_over && lane.is_local_over {
            session.close(stream);
            return false;
        }
        true
    });
}

/// Waits for the wire or a local end; takes what the local ends have, as far as the host has room.
fn wait(
    wire: &mut Wire<'_>,
    session: &mut Session,
    lanes: &mut BTreeMap<u32, Lane>,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let mut streams = Vec::with_capacity(lanes.len());
    let mut fds = vec![PollFd::new(&wire.edges, PollFlags::IN)];
    for (&stream, lane) in lanes.iter() {
        let mut flags = PollFlags::empty();
        flags.set(
            PollFlags::IN,
            !lane.is_local_over && session.writable(stream) > 0,
        );
        flags.set(PollFlags::OUT, !session.peek(stream).is_empty());
        // A closed local end would not let us wait.
        if !flags.is_empty() {
            streams.push(stream);
            fds.push(PollFd::from_borrowed_fd(lane.socket.as_fd(), flags));
        }
    }
    // Held-up writers may have been let go by the very output that was just written.
    let timeout = wire.lost_at.map(left_until);
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let has_edge = !fds[0].revents().is_empty();
    let events: Vec<(u32, PollFlags)> = streams
        .into_iter()
        .zip(fds[1..].iter().map(PollFd::revents))
        .filter(|(_, events)| !events.is_empty())
        .collect();
    drop(fds);
    if has_edge {
        wire.take_edge()?;
    }
    for (stream, _) in &events {
        if let Some(lane) = lanes.get_mut(stream) {
            take_local(session, *stream, lane, buffer);
        }
    }
    deliver(session, lanes);
    Ok(())
}

fn take_local(session: &mut Session, stream: u32, lane: &mut Lane, buffer: &mut [u8]) {
    while !lane.is_local_over {
        let room = session.writable(stream).min(buffer.len());
        if room == 0 {
            return;
        }
        match read(&lane.socket, &mut buffer[..room]) {
            Ok(count) if count > 0 => {
                let taken = session.write(stream, &buffer[..count]);
                debug_assert_eq!(taken, Write::Bytes(count), "room was asked for before");
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Ok(_) | Err(_) => {
                lane.is_local_over = true;
                session.finish(stream);
            }
        }
    }
}
