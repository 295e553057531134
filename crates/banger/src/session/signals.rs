//! The signals that are caught while a command in a guest is ours to end.

use crate::error::CliError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caught {
    /// The terminal's size changed.
    Resize,
    /// Any other: its name without `SIG`, and its number.
    Signal(&'static str, u8),
}

/// Signals, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: mpsc::UnboundedReceiver<Caught>,
}

impl Signals {
    /// From here on the signals do not end the process but come out of [`Signals::next`].
    pub(crate) fn listen() -> Result<Self, CliError> {
        let (sender, caught) = mpsc::unbounded_channel();
        let kinds = [
            (SignalKind::interrupt(), Caught::Signal("INT", 2)),
            (SignalKind::terminate(), Caught::Signal("TERM", 15)),
            (SignalKind::quit(), Caught::Signal("QUIT", 3)),
            (SignalKind::user_defined1(), Caught::Signal("USR1", 10)),
            (SignalKind::user_defined2(), Caught::Signal("USR2", 12)),
            (SignalKind::hangup(), Caught::Signal("HUP", 1)),
            (SignalKind::window_change(), Caught::Resize),
        ];
        for (kind, caught) in kinds {
            // Under nohup a hang-up stays ignored.
            if kind == SignalKind::hangup() && is_hangup_ignored() {
                continue;
            }
            let mut stream =
                signal(kind).map_err(|source| CliError::io("catch signals", &source))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(caught).is_ok() {}
            });
        }
        Ok(Self { caught })
    }

    /// The next signal. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Caught {
        match self.caught.recv().await {
            Some(caught) => caught,
            // Without a sender no signal can come any more.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks a program to end: its number.
    pub(crate) async fn next_end(&mut self) -> u8 {
        loop {
            if let Caught::Signal("INT" | "TERM" | "HUP" | "QUIT", number) = self.next().await {
                return number;
            }
        }
    }
}

/// Whether the process was started with HUP ignored.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}
