//! Waiting for a TCP port in the guest.
//!
//! The kernel's tables of sockets are read, nothing is connected to: a server that serves one
//! connection and ends must not spend it on a question, and one that listens on another address
//! than loopback counts too. The kernel tells nobody when a socket begins to listen, so the tables
//! are read again, ever less often; the host's leaving is an event.

use crate::serve::read_small;
use crate::stream::{Stream, StreamError};
use banger_guest::request::Reply;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;

/// How long after the first look the second one comes; the time doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest time between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The most that is read of a table, in bytes. Sockets that listen come first in it.
const MAX_TABLE: u64 = 4 << 20;

/// The tables.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The state of a socket that listens, as the tables have it.
const LISTENS: &str = "0A";

/// Answers when something listens on `port`.
pub fn wait(stream: Stream, port: u16) -> Result<(), StreamError> {
    stream.reply(&Reply::default())?;
    let mut pause = FIRST_PAUSE;
    while !is_listened_to(port) {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&stream, PollFlags::IN | PollFlags::RDHUP)];
        // Nothing that the host could say has a place here.
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0 {
            return Err(StreamError::Left);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    stream.succeed()
}

fn is_listened_to(port: u16) -> bool {
    // A kernel without IPv6 has no second table.
    TABLES
        .iter()
        .filter_map(|table| read_small(table, MAX_TABLE).ok())
        .any(|table| table.lines().any(|line| listens(line, port)))
}

/// Whether a line of a table is a socket that listens on `port`.
fn listens(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|local| local.rsplit_once(':'));
    let state = fields.nth(1);
    state == Some(LISTENS) && local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_listen_count() {
        let listening = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let connected = "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000";
        let v6 =
            "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A";
        assert!(listens(listening, 8080) && listens(v6, 8080));
        assert!(!listens(connected, 8080) && !listens(listening, 8081));
        assert!(!listens("  sl  local_address rem_address   st", 8080) && !listens("", 0));
    }
}
