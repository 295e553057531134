//! The life of a running command: one poll loop over the host, the command's ends and its pidfd.
//!
//! Backpressure both ways: output is read only while little waits for the host, and the host's frames
//! only while little waits for the command. All waits are for events or for one of the deadlines.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use banger_guest::frame::{Decoder, Frame, FrameError, Kind, chunks};
use banger_guest::request::{Exit, Resize, SIGNALS, STDIN_WINDOW, Taken};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::reaper::{Ending, Process};
use crate::stream::{Stream, StreamError, left_until};

use super::pty;

/// How much may wait for the host before the command's output is left unread.
const OUTPUT_HIGH: usize = 256 * 1024;

/// How much may wait for the command before the host's frames are left unread. Over the window, so
/// that a host that keeps to it gets its signals through however little the command reads.
const INPUT_HIGH: usize = 2 * STDIN_WINDOW;

/// How many bytes of input are taken before the host is told.
pub(super) const TAKEN_STEP: usize = STDIN_WINDOW / 4;

/// Between TERM and KILL, and between HUP and KILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long a command's background processes may hold its output open after it has ended, once
/// all that was written until then is through.
const LINGER: Duration = Duration::from_millis(200);

/// The most that a pipe can hold: so much after the end belongs to the command.
const PIPE_MAX: usize = 1024 * 1024;

/// A terminal's end-of-file character.
const END_OF_FILE: u8 = 4;

/// The agent's ends of a command, not blocking.
#[derive(Debug)]
pub(super) struct Io {
    input: Option<OwnedFd>,
    outputs: Vec<(Kind, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

impl Io {
    pub(super) fn pipes(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Result<Self, Errno> {
        for end in [&stdin, &stdout, &stderr] {
            ioctl_fionbio(end, true)?;
        }
        Ok(Self {
            input: Some(stdin),
            outputs: vec![(Kind::Stdout, stdout), (Kind::Stderr, stderr)],
            terminal: None,
        })
    }

    pub(super) fn terminal(master: OwnedFd) -> Result<Self, Errno> {
        let again = || rustix::io::fcntl_dupfd_cloexec(&master, 3);
        Ok(Self {
            input: Some(again()?),
            outputs: vec![(Kind::Stdout, again()?)],
            terminal: Some(master),
        })
    }
}

/// Who goes through what at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Told to end; killed at the instant.
    Ending {
        kill_at: Instant,
    },
    Killed,
    /// Ended; its output may be held open by others until the instant.
    Ended {
        until: Instant,
    },
}

/// What an event came from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Host,
    Process,
    Input,
    Output(usize),
}

struct Relay<'a> {
    socket: OwnedFd,
    decoder: Decoder,
    process: &'a mut Process,
    io: Io,
    /// Bytes for the command's input, and whether it ends behind them.
    input: Vec<u8>,
    input_ends: bool,
    last_input: u8,
    /// Bytes of input that were taken and the host was not told of.
    taken: usize,
    /// Bytes for the host.
    output: Vec<u8>,
    is_host_gone: bool,
    has_timed_out: bool,
    deadline: Option<Instant>,
    phase: Phase,
    read_since_end: usize,
}

/// Serves a running command to its end and sends `Exit`.
pub(super) fn run(
    stream: &mut Stream,
    process: &mut Process,
    io: Io,
    deadline: Option<Instant>,
) -> Result<(), StreamError> {
    let socket = rustix::io::fcntl_dupfd_cloexec(&*stream, 3)?;
    ioctl_fionbio(&socket, true)?;
    let mut relay = Relay {
        socket,
        decoder: stream.take_decoder(),
        process,
        io,
        input: Vec::new(),
        input_ends: false,
        last_input: b'\n',
        taken: 0,
        output: Vec::new(),
        is_host_gone: false,
        has_timed_out: false,
        deadline,
        phase: Phase::Running,
        read_since_end: 0,
    };
    let result = relay.take_frames().and_then(|()| relay.live());
    if result.is_err() {
        // Whatever broke, the command does not outlive its host.
        relay.signal_session(Signal::KILL);
    }
    result
}

impl Relay<'_> {
    fn live(&mut self) -> Result<(), StreamError> {
        loop {
            let is_quiet = self.turn()?;
            self.keep_deadlines();
            if let Phase::Ended { until } = self.phase {
                let is_through = is_quiet || self.read_since_end >= PIPE_MAX;
                let is_over = Instant::now() >= until && is_through;
                if self.io.outputs.is_empty() || is_over || self.is_host_gone {
                    return self.say_exit();
                }
            }
        }
    }

    /// Waits for events and handles them; whether the command's output had nothing to be read.
    fn turn(&mut self) -> Result<bool, StreamError> {
        let timeout = self.next_deadline().map(left_until);
        let wanted = self.wanted();
        let mut fds: Vec<PollFd<'_>> = wanted
            .iter()
            .map(|&(_, fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let events: Vec<(Source, PollFlags)> = wanted
            .iter()
            .zip(&fds)
            .map(|(&(source, ..), fd)| (source, fd.revents()))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        let mut is_quiet = self.output.len() < OUTPUT_HIGH;
        for (source, events) in events {
            match source {
                Source::Host => self.on_host(events)?,
                Source::Process => self.on_end(),
                Source::Input => self.feed_input(),
                Source::Output(index) => {
                    is_quiet = false;
                    self.read_output(index);
                }
            }
        }
        self.io.outputs.retain(|(kind, _)| *kind != Kind::Exit);
        self.say_taken()?;
        self.feed_host()?;
        Ok(is_quiet)
    }

    fn wanted(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let has_ended = matches!(self.phase, Phase::Ended { .. });
        let mut wanted = Vec::with_capacity(5);
        if !self.is_host_gone {
            let mut flags = PollFlags::RDHUP;
            flags.set(PollFlags::IN, self.input.len() < INPUT_HIGH && !has_ended);
            flags.set(PollFlags::OUT, !self.output.is_empty());
            wanted.push((Source::Host, self.socket.as_fd(), flags));
        }
        if !has_ended {
            wanted.push((Source::Process, self.process.pidfd(), PollFlags::IN));
        }
        if let Some(input) = &self.io.input
            && !self.input.is_empty()
        {
            wanted.push((Source::Input, input.as_fd(), PollFlags::OUT));
        }
        if self.output.len() < OUTPUT_HIGH {
            for (index, (_, output)) in self.io.outputs.iter().enumerate() {
                wanted.push((Source::Output(index), output.as_fd(), PollFlags::IN));
            }
        }
        wanted
    }

    fn on_host(&mut self, events: PollFlags) -> Result<(), StreamError> {
        if events.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
            self.lose_host();
            return Ok(());
        }
        if events.contains(PollFlags::IN) {
            let mut buffer = [0; 32 * 1024];
            match read(&self.socket, &mut buffer) {
                Ok(0) => self.lose_host(),
                Ok(count) => {
                    self.decoder.feed(&buffer[..count]);
                    self.take_frames()?;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.lose_host(),
            }
        }
        Ok(())
    }

    fn lose_host(&mut self) {
        self.is_host_gone = true;
        self.output.clear();
        self.input.clear();
        self.io.input = None;
        self.io.outputs.clear();
        self.io.terminal = None;
        if self.phase == Phase::Running {
            self.signal_session(Signal::HUP);
            self.phase = Phase::Ending {
                kill_at: Instant::now() + GRACE,
            };
        }
    }

    fn take_frames(&mut self) -> Result<(), StreamError> {
        while let Some(frame) = self.decoder.next_frame()? {
            match frame.kind {
                Kind::Stdin if frame.payload.is_empty() => self.input_ends = true,
                // After its end, or the command has closed it: nobody will read this.
                Kind::Stdin if self.input_ends || self.io.input.is_none() => {
                    self.taken += frame.payload.len();
                }
                Kind::Stdin => {
                    self.last_input = frame.payload.last().copied().unwrap_or(self.last_input);
                    self.input.extend_from_slice(&frame.payload);
                }
                Kind::Resize => {
                    let size: Resize = frame.parse()?;
                    if let Some(terminal) = &self.io.terminal {
                        pty::resize(terminal, size)?;
                    }
                }
                Kind::Signal => {
                    let signal = std::str::from_utf8(&frame.payload)
                        .ok()
                        .and_then(signal_named)
                        .ok_or(FrameError::Unexpected(Kind::Signal))?;
                    if !matches!(self.phase, Phase::Ended { .. }) {
                        // None left to be told: the pidfd is about to say so.
                        let _ = kill_process_group(self.process.pid(), signal);
                    }
                }
                kind => return Err(FrameError::Unexpected(kind).into()),
            }
        }
        self.feed_input();
        Ok(())
    }

    fn feed_input(&mut self) {
        let Some(input) = &self.io.input else {
            return;
        };
        if self.input.is_empty() && self.input_ends && self.io.terminal.is_some() {
            // A terminal does not end: its end-of-file character, once to push out an unfinished
            // line, once as the end.
            let count = if self.last_input == b'\n' { 1 } else { 2 };
            self.input.resize(count, END_OF_FILE);
            self.last_input = END_OF_FILE;
            self.input_ends = false;
        }
        if !self.input.is_empty() {
            match write(input, &self.input) {
                Ok(count) => {
                    self.input.drain(..count);
                    self.taken += count;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The command reads no more.
                Err(_) => {
                    self.taken += self.input.len();
                    self.input.clear();
                    self.io.input = None;
                }
            }
        }
        if self.input.is_empty() && self.input_ends && self.io.terminal.is_none() {
            self.io.input = None;
        }
    }

    /// Reads once. An output at its end is marked by `Exit`, which no output is, and dropped by the caller.
    fn read_output(&mut self, index: usize) {
        let Some((kind, output)) = self.io.outputs.get_mut(index) else {
            return;
        };
        let mut buffer = [0; 64 * 1024];
        match read(&*output, &mut buffer) {
            Ok(count) if count > 0 => {
                for frame in chunks(*kind, &buffer[..count]) {
                    frame.encode_into(&mut self.output);
                }
                if matches!(self.phase, Phase::Ended { .. }) {
                    self.read_since_end += count;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The end; a terminal says so by EIO.
            Ok(_) | Err(_) => *kind = Kind::Exit,
        }
    }

    fn say_taken(&mut self) -> Result<(), StreamError> {
        if self.taken >= TAKEN_STEP {
            let bytes = std::mem::take(&mut self.taken);
            Frame::json(Kind::Taken, &Taken { bytes })?.encode_into(&mut self.output);
        }
        Ok(())
    }

    fn feed_host(&mut self) -> Result<(), StreamError> {
        if self.output.is_empty() || self.is_host_gone {
            return Ok(());
        }
        match write(&self.socket, &self.output) {
            Ok(count) => {
                self.output.drain(..count);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => self.lose_host(),
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn on_end(&mut self) {
        if self.phase != Phase::Running {
            // What the command leaves behind was to end as well.
            self.signal_session(Signal::KILL);
        }
        self.phase = Phase::Ended {
            until: Instant::now() + LINGER,
        };
    }

    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Running if self.deadline.is_some_and(|deadline| now >= deadline) => {
                self.has_timed_out = true;
                self.signal_session(Signal::TERM);
                self.phase = Phase::Ending {
                    kill_at: now + GRACE,
                };
            }
            Phase::Ending { kill_at } if now >= kill_at => {
                self.signal_session(Signal::KILL);
                self.phase = Phase::Killed;
            }
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => self.deadline,
            Phase::Ending { kill_at } => Some(kill_at),
            Phase::Killed => None,
            // With too much waiting for the host it is the host that is waited for.
            Phase::Ended { until } => (self.output.len() < OUTPUT_HIGH).then_some(until),
        }
    }

    /// Signals the command's process group and, since a shell with a terminal gives each of its jobs a
    /// group of its own, every other process of its session. Those that are gone already need nothing.
    fn signal_session(&self, signal: Signal) {
        let leader = self.process.pid();
        let _ = kill_process_group(leader, signal);
        for (pid, group) in session_members(leader) {
            if group != leader {
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn say_exit(&mut self) -> Result<(), StreamError> {
        let mut exit = Exit {
            timed_out: self.has_timed_out,
            ..Exit::default()
        };
        match self.process.wait() {
            Ending::Code(code) => exit.code = Some(u8::try_from(code).unwrap_or(255)),
            Ending::Signal(number) => exit.signal = Some(signal_name(number)),
        }
        Frame::json(Kind::Exit, &exit)?.encode_into(&mut self.output);
        while !self.output.is_empty() && !self.is_host_gone {
            let flags = PollFlags::OUT | PollFlags::RDHUP;
            let mut fds = [PollFd::new(&self.socket, flags)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            let events = fds[0].revents();
            if events.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
                return Err(StreamError::Left);
            }
            self.feed_host()?;
        }
        Ok(())
    }
}

fn signal_named(name: &str) -> Option<Signal> {
    let (_, number) = SIGNALS.iter().find(|(known, _)| *known == name)?;
    Signal::from_named_raw(*number)
}

fn signal_name(number: i32) -> String {
    const OTHERS: [(&str, i32); 5] = [
        ("ILL", 4),
        ("TRAP", 5),
        ("BUS", 7),
        ("FPE", 8),
        ("SEGV", 11),
    ];
    SIGNALS
        .iter()
        .chain(&OTHERS)
        .find(|(_, known)| *known == number)
        .map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// The processes of a session with their groups, by `/proc`.
fn session_members(leader: Pid) -> Vec<(Pid, Pid)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The command name, in parentheses, may hold anything; behind it: state, parent, group, session.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(2);
            let group = Pid::from_raw(fields.next()?.parse().ok()?)?;
            let session = Pid::from_raw(fields.next()?.parse().ok()?)?;
            (session == leader).then_some((Pid::from_raw(pid)?, group))
        })
        .collect()
}
