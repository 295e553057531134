//! Requests: one stream, one thread, one answer.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use banger_guest::frame::Kind;
use banger_guest::request::{Failure, FailureCode, Health, Reply, Request};
use banger_sys::spawn::Identity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::reaper::Reaper;
use crate::stream::{Stream, StreamError, failure};
use crate::{copy, exec, log, port, ssh};

/// The most commands (and connections, and copies) at once. Questions about health and the end of the
/// guest are not held to it.
const MAX_STREAMS: u32 = 256;

/// How long a `PowerOff` waits for the host to take the reply before it goes ahead.
const REPLY_GRACE: Duration = Duration::from_millis(500);

/// What all streams share.
#[derive(Debug)]
pub struct Agent {
    /// Who starts and waits for processes.
    pub reaper: Reaper,
    /// Whether this is PID 1.
    pub is_init: bool,
    /// What could not be set up at boot.
    pub problems: Vec<String>,
    /// Ends the guest in order; returns at once.
    pub power_off: fn(),
    streams: AtomicU32,
    execs: AtomicU32,
}

/// Counts what runs as long as it lives.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicU32, limit: u32) -> Option<Self> {
        let counted = Self(counter);
        (counter.fetch_add(1, Ordering::Relaxed) < limit).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Agent {
    /// An agent that starts processes through `reaper` and ends the guest by `power_off`.
    pub fn new(reaper: Reaper, is_init: bool, problems: Vec<String>, power_off: fn()) -> Self {
        Self {
            reaper,
            is_init,
            problems,
            power_off,
            streams: AtomicU32::new(0),
            execs: AtomicU32::new(0),
        }
    }

    /// Serves one stream in a thread of its own; without a thread, the stream is dropped.
    pub fn serve_in_thread(self: &Arc<Self>, socket: OwnedFd) {
        let agent = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("stream".to_owned())
            .stack_size(1024 * 1024)
            .spawn(move || agent.serve(socket));
        if let Err(error) = started {
            log::error(&format!("start a thread for a stream: {error}"));
        }
    }

    /// Serves one stream to its end.
    pub fn serve(&self, socket: OwnedFd) {
        match self.converse(Stream::new(socket)) {
            // Hosts come and go: only what they say wrong is worth a line.
            Ok(()) | Err(StreamError::Io(_) | StreamError::Left) => {}
            Err(error) => log::error(&log::chain(&error)),
        }
    }

    fn converse(&self, mut stream: Stream) -> Result<(), StreamError> {
        let frame = stream.expect(Kind::Request)?;
        let request: Request = match frame.parse() {
            Ok(request) => request,
            Err(error) => {
                return stream.fail(&failure(FailureCode::Invalid, log::chain(&error)));
            }
        };
        let is_brief = matches!(request, Request::Health | Request::PowerOff);
        let counted = Counted::new(&self.streams, MAX_STREAMS);
        if counted.is_none() && !is_brief {
            return stream.fail(&failure(
                FailureCode::Limit,
                format!("the agent serves {MAX_STREAMS} requests already"),
            ));
        }
        match request {
            Request::Health => stream.reply(&Reply {
                health: Some(self.health()),
                ..Reply::default()
            }),
            Request::Exec(exec) => {
                let _counted = Counted::new(&self.execs, u32::MAX);
                exec::run(self, stream, &exec)
            }
            Request::CopyIn(request) => copy::copy_in(stream, &request),
            Request::CopyOut(request) => copy::copy_out(stream, &request),
            Request::Dial(dial) => match ssh::dial(dial.port) {
                Ok(socket) => {
                    stream.reply(&Reply::default())?;
                    ssh::join(stream, socket)
                }
                Err(failure) => stream.fail(&failure),
            },
            Request::AwaitPort(request) => port::wait(stream, request.port),
            Request::Ssh(request) => ssh::serve(self, stream, &request),
            Request::PowerOff => {
                stream.reply(&Reply::default())?;
                self.await_host(stream);
                (self.power_off)();
                Ok(())
            }
        }
    }

    /// Gives the host a moment to take what was sent; it closes the stream when it has.
    fn await_host(&self, stream: Stream) {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: REPLY_GRACE.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&stream, PollFlags::IN | PollFlags::RDHUP)];
        // Whatever the outcome, the guest ends now.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn health(&self) -> Health {
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(uptime.tv_sec).unwrap_or(0);
        let millis = u64::try_from(uptime.tv_nsec / 1_000_000).unwrap_or(0);
        Health {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            is_init: self.is_init,
            uptime_ms: seconds.saturating_mul(1000).saturating_add(millis),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            execs: self.execs.load(Ordering::Relaxed),
            problems: self.problems.clone(),
        }
    }

    /// The identity to take for a command. An agent that is not root (in tests) can only stay who it is.
    pub fn identity_for(&self, wanted: &Identity) -> Option<Identity> {
        let own = rustix::process::geteuid();
        (own.is_root() || own.as_raw() != wanted.uid).then(|| wanted.clone())
    }
}

/// Reads a small file of the guest's, at most `limit` bytes of it.
pub fn read_small(path: &str, limit: u64) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(limit)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Says why a request fails because of a file.
pub fn io_failure(what: &str, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => FailureCode::NotFound,
        _ => FailureCode::Io,
    };
    failure(code, format!("{what}: {error}"))
}
