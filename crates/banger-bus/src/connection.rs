//! One connection to the bus: logging in, calls and their answers, waiting for a signal.

use crate::BusError;
use crate::error::printable;
use crate::message::{ERROR, Message, Object, REPLY, SIGNAL, encode_call};
use crate::wire::Writer;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const DBUS: Object<'_> = Object {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};
/// The longest line of the log-in that is read.
const MAX_LINE: usize = 1024;

/// A connection to the system bus.
#[derive(Debug)]
pub struct Bus {
    socket: UnixStream,
    /// Read, but not yet a whole message.
    incoming: Vec<u8>,
    serial: u32,
    limit: Duration,
    /// When what goes on now must have ended, and its name for errors.
    deadline: Instant,
    operation: &'static str,
}

impl Bus {
    /// Connects to the bus at `path` (`/run/dbus/system_bus_socket`) and logs in as the effective
    /// user. `limit` bounds this and each later call; one that failed may take as long again to tidy up.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, BusError> {
        let open = || {
            let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
            let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            // Bounds also a connect() that waits for its place in the queue, unlike std's.
            set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok::<_, Errno>(UnixStream::from(socket))
        };
        let operation = "connect";
        let socket = open().map_err(|errno| match errno {
            Errno::AGAIN => BusError::TimedOut(operation),
            errno => BusError::Io {
                operation,
                source: errno.into(),
            },
        })?;
        Self::log_in(socket, limit)
    }

    /// Logs in over a connected socket.
    pub(crate) fn log_in(socket: UnixStream, limit: Duration) -> Result<Self, BusError> {
        let mut bus = Self {
            socket,
            incoming: Vec::new(),
            serial: 0,
            limit,
            deadline: Instant::now(),
            operation: "log in",
        };
        bus.begin();
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let line = bus.line()?;
        if !line.starts_with("OK ") {
            return Err(BusError::NotAccepted(printable(&line)));
        }
        bus.send(b"BEGIN\r\n")?;
        bus.call(&DBUS, "Hello", "", Writer::default())?;
        Ok(bus)
    }

    /// Starts the clock for what a caller asked.
    pub(crate) fn begin(&mut self) {
        let now = Instant::now();
        self.deadline = now.checked_add(self.limit).unwrap_or(now);
    }

    /// Calls `member` with `body`, which is of the types `signature`, and returns the reply.
    pub(crate) fn call(
        &mut self,
        object: &Object<'_>,
        member: &'static str,
        signature: &'static str,
        body: Writer,
    ) -> Result<Message, BusError> {
        // 0 is no serial.
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.operation = member;
        self.send(&encode_call(self.serial, object, member, signature, &body)?)?;
        loop {
            // Others are signals, and late answers to calls that were given up.
            let message = self.receive()?;
            if message.reply_serial == Some(self.serial) {
                match message.kind {
                    REPLY => return Ok(message),
                    ERROR => return Err(refusal(member, &message)),
                    _ => {}
                }
            }
        }
    }

    /// Asks the bus, by `AddMatch` or `RemoveMatch`, for the signals that `rule` names.
    pub(crate) fn ask_bus(&mut self, member: &'static str, rule: &str) -> Result<(), BusError> {
        let body = Writer::default().str(rule);
        self.call(&DBUS, member, "s", body).map(drop)
    }

    /// The next signal `member` from `sender` that `pick` makes something of. Signals say nothing by
    /// themselves: anybody may send us any, past our rules.
    pub(crate) fn wait<T>(
        &mut self,
        sender: &str,
        member: &'static str,
        mut pick: impl FnMut(&Message) -> Result<Option<T>, BusError>,
    ) -> Result<T, BusError> {
        self.operation = member;
        loop {
            let signal = self.receive()?;
            if (signal.kind, signal.sender.as_str()) == (SIGNAL, sender)
                && signal.member == member
                && let Some(found) = pick(&signal)?
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self) -> Result<Message, BusError> {
        loop {
            let length = Message::length(&self.incoming).map_err(|error| self.hang_up(error))?;
            if let Some(length) = length
                && length <= self.incoming.len()
            {
                let rest = self.incoming.split_off(length);
                let bytes = std::mem::replace(&mut self.incoming, rest);
                return Message::parse(&bytes).map_err(|error| self.hang_up(error));
            }
            self.fill()?;
        }
    }

    /// One line of the log-in, without its end.
    fn line(&mut self) -> Result<String, BusError> {
        loop {
            if let Some(end) = self.incoming.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.incoming.drain(..end).collect();
                self.incoming.drain(..2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.incoming.len() > MAX_LINE {
                return Err(BusError::Malformed("a line of the log-in is too long"));
            }
            self.fill()?;
        }
    }

    /// Reads what there is. The deadline holds also while there is always something.
    fn fill(&mut self) -> Result<(), BusError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BusError::TimedOut(self.operation));
        }
        let mut chunk = [0_u8; 4096];
        let limited = self.socket.set_read_timeout(Some(left));
        match limited.and_then(|()| self.socket.read(&mut chunk)) {
            Ok(0) => Err(BusError::Closed(self.operation)),
            Ok(count) => {
                self.incoming.extend(chunk.iter().take(count));
                Ok(())
            }
            // Too late is found at the next turn.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        let sent = self.socket.write_all(bytes);
        sent.map_err(|error| self.hang_up(self.failed(error)))
    }

    fn failed(&self, source: std::io::Error) -> BusError {
        let operation = self.operation;
        match source.kind() {
            ErrorKind::WouldBlock => BusError::TimedOut(operation),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => BusError::Closed(operation),
            _ => BusError::Io { operation, source },
        }
    }

    /// Ends a connection on which one message can no more be told from the next.
    fn hang_up(&self, error: BusError) -> BusError {
        // It fails only where the peer was first, and then the connection has ended.
        drop(self.socket.shutdown(Shutdown::Both));
        error
    }
}

fn refusal(operation: &'static str, message: &Message) -> BusError {
    match message.error_name.as_str() {
        "org.freedesktop.DBus.Error.ServiceUnknown"
        | "org.freedesktop.DBus.Error.NameHasNoOwner" => BusError::ServiceMissing(operation),
        name => {
            // An error need not have words.
            let text = message.body("s").and_then(|mut body| body.str());
            BusError::Refused {
                operation,
                name: printable(name),
                text: text.map(printable).unwrap_or_default(),
            }
        }
    }
}
