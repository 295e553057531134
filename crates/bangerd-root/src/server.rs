//! Connections: who may have one, how many, and what is read from it.
//!
//! A peer is known by the kernel's word before a byte is read. Each connection has a thread, and
//! one request at a time. What is no request ends its connection, after an answer that says why.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_ipc::{Channel, Frame, IpcError, Peer, accept};
use banger_priv::{Answer, Refusal, RefusalKind, Request};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use crate::dispatch::dispatch;
use crate::helper::{Helper, Outcome};
use crate::log;
use crate::policy::{FRAME_LIMIT, MAX_CONNECTIONS, MAX_CONNECTIONS_OF_USER};
use crate::refusal::{chain, refuse};

/// The server of one helper.
#[derive(Debug)]
pub(crate) struct Server {
    helper: Arc<Helper>,
    seats: Mutex<Seats>,
    calm: Condvar,
}

#[derive(Debug, Default)]
struct Seats {
    taken: Vec<Seat>,
    last: u64,
    is_ending: bool,
}

/// A connection's place.
#[derive(Debug)]
struct Seat {
    number: u64,
    uid: u32,
    /// The connection itself, to hang it up.
    socket: OwnedFd,
    /// Since when nothing was asked; `None` while something is.
    idle_since: Option<Instant>,
}

impl Server {
    pub(crate) fn new(helper: Arc<Helper>) -> Self {
        Self {
            helper,
            seats: Mutex::new(Seats::default()),
            calm: Condvar::new(),
        }
    }

    /// Takes connections for ever. Gives up only if the listener is of no use.
    pub(crate) fn serve(self: &Arc<Self>, listener: &OwnedFd) -> Errno {
        loop {
            match accept(listener) {
                Ok(socket) => self.welcome(socket),
                Err(Errno::CONNABORTED | Errno::PROTO | Errno::AGAIN) => {}
                Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    log::line(&format!("accept: {}", chain(&errno)));
                    // Only time brings room.
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(errno) => return errno,
            }
        }
    }

    fn welcome(self: &Arc<Self>, socket: OwnedFd) {
        let server = Arc::clone(self);
        let converse = move || server.converse(socket);
        let thread = std::thread::Builder::new().name("connection".to_owned());
        if let Err(error) = thread.spawn(converse) {
            log::line(&format!("take a connection: {error}"));
        }
    }

    /// Serves one connection until it ends.
    pub(crate) fn converse(&self, socket: OwnedFd) {
        let owner = self.helper.config.owner;
        let peer = match Peer::of(&socket) {
            Ok(peer) if peer.is_root_or(owner) => peer,
            Ok(Peer { pid, uid, .. }) => {
                return log::line(&format!("refused a connection of uid {uid}, pid {pid}"));
            }
            Err(errno) => return log::line(&format!("refused a connection: {}", chain(&errno))),
        };
        let number = match self.sit_down(peer.uid, &socket) {
            Ok(number) => number,
            Err(refusal) => return log::line(&refusal.message),
        };
        let channel = Channel::from(socket);
        if let Err(error) = self.answer_all(&channel, number) {
            log::line(&format!(
                "end a connection of uid {}: {}",
                peer.uid,
                chain(&error)
            ));
        }
        self.with(|seats| seats.taken.retain(|seat| seat.number != number));
    }

    fn answer_all(&self, channel: &Channel, number: u64) -> Result<(), IpcError> {
        while let Some(frame) = channel.receive(None, FRAME_LIMIT)? {
            if !self.mark(number, None) {
                return Ok(());
            }
            let result = self.answer(frame);
            let sent = reply(channel, &result);
            let go_on = self.mark(number, Some(Instant::now()));
            sent?;
            if !go_on || result.is_err_and(|end| end.is_final) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&self, frame: Frame) -> Result<(banger_priv::Reply, Vec<OwnedFd>), Refused> {
        let request: Request = serde_json::from_slice(&frame.body).map_err(|error| Refused {
            is_final: true,
            refusal: logged(refuse(RefusalKind::Invalid, format!("no request: {error}"))),
        })?;
        let work = || dispatch(&self.helper, request, frame.fds);
        // What a thread broke by panicking is undone by `priv.reclaim`; the others go on.
        let outcome: Outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            let message = "the helper met a fault of its own";
            Err(refuse(RefusalKind::Failed, message))
        });
        outcome.map_err(|refusal| Refused {
            is_final: false,
            refusal: logged(refusal),
        })
    }

    /// Finds a place; hangs up on who was idle longest where there is none.
    fn sit_down(&self, uid: u32, socket: &OwnedFd) -> Result<u64, Refusal> {
        let own = socket
            .try_clone()
            .map_err(|error| refuse(RefusalKind::Failed, format!("take a connection: {error}")))?;
        self.with(|seats| {
            let of_user = seats.taken.iter().filter(|seat| seat.uid == uid).count();
            if of_user >= MAX_CONNECTIONS_OF_USER || seats.taken.len() >= MAX_CONNECTIONS {
                seats.hang_up(uid)?;
            }
            if seats.is_ending {
                return Err(refuse(RefusalKind::Busy, "take a connection: ending"));
            }
            seats.last = seats.last.wrapping_add(1);
            seats.taken.push(Seat {
                number: seats.last,
                uid,
                socket: own,
                idle_since: Some(Instant::now()),
            });
            Ok(seats.last)
        })
    }

    /// Whether the connection may go on; it is at work from now, or idle since.
    fn mark(&self, number: u64, idle_since: Option<Instant>) -> bool {
        let may = self.with(|seats| {
            let may_work = !seats.is_ending || idle_since.is_some();
            let seat = seats.taken.iter_mut().find(|seat| seat.number == number);
            seat.filter(|_| may_work)
                .map(|seat| seat.idle_since = idle_since)
                .is_some()
        });
        self.calm.notify_all();
        may
    }

    /// Begins nothing more and waits until what goes on has ended; whether it has within `limit`.
    pub(crate) fn end(&self, limit: Duration) -> bool {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.is_ending = true;
        let is_at_work = |seats: &mut Seats| {
            let mut seats = seats.taken.iter();
            seats.any(|seat| seat.idle_since.is_none())
        };
        let waited = self.calm.wait_timeout_while(seats, limit, is_at_work);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Seats) -> T) -> T {
        work(&mut self.seats.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seats {
    /// Ends the connection of `uid` that was idle longest.
    fn hang_up(&mut self, uid: u32) -> Result<(), Refusal> {
        let of_user = self.taken.iter().filter(|seat| seat.uid == uid);
        let oldest = of_user
            .filter_map(|seat| Some((seat.idle_since?, seat.number)))
            .min();
        let full = || {
            let message = format!("refused a connection of uid {uid}: it has too many at work");
            refuse(RefusalKind::Limit, message)
        };
        let (_, number) = oldest.ok_or_else(full)?;
        let at = self.taken.iter().position(|seat| seat.number == number);
        let seat = at.map(|at| self.taken.swap_remove(at)).ok_or_else(full)?;
        // Its thread finds the end of the connection, or its seat gone.
        shutdown(&seat.socket, Shutdown::Both).ok();
        Ok(())
    }
}

/// A refusal, and whether the connection ends with it.
struct Refused {
    refusal: Refusal,
    is_final: bool,
}

fn logged(refusal: Refusal) -> Refusal {
    log::line(&format!("refused: {}", refusal.message));
    refusal
}

fn reply(
    channel: &Channel,
    result: &Result<(banger_priv::Reply, Vec<OwnedFd>), Refused>,
) -> Result<(), IpcError> {
    let (answer, fds) = match result {
        Ok((reply, fds)) => (Answer::Done(reply.clone()), fds.as_slice()),
        Err(refused) => (Answer::Refused(refused.refusal.clone()), [].as_slice()),
    };
    let body = serde_json::to_vec(&answer).map_err(|error| {
        log::line(&format!("write an answer: {error}"));
        IpcError::Closed("send")
    })?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    channel.send(&body, &fds, FRAME_LIMIT)
}
