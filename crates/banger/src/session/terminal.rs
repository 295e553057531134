//! The user's terminal: raw while a command in a guest has it, as it was on every way out.

use crate::error::CliError;
use crate::ui::screen;
use banger_guest::request::{Resize, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal, stdin, stdout};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the terminal was before it became raw; `None` while it is as the user left it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raw mode; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal on standard input raw: keys go to the guest as they are pressed.
    /// `None` where standard input is no terminal (`-t` asked for one in the guest all the same).
    pub(crate) fn enter() -> Result<Option<Self>, CliError> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let fail = |errno: rustix::io::Errno| {
            CliError::io("make the terminal raw", &std::io::Error::from(errno))
        };
        let original = tcgetattr(stdin()).map_err(fail)?;
        let mut raw = original.clone();
        raw.make_raw();
        before().get_or_insert(original);
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was. Does nothing if it is.
pub(crate) fn restore() {
    screen::leave();
    if let Some(original) = before().take() {
        // There is nothing left to do for a terminal that is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &original);
    }
}

/// Makes a panic put the terminal back before it is reported.
pub(crate) fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

/// Whether both standard input and standard output are terminals.
pub(crate) fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// The terminal's size; 80 by 24 where it does not say.
pub(crate) fn size() -> Resize {
    let known = [tcgetwinsize(stdout()), tcgetwinsize(stdin())]
        .into_iter()
        .flatten()
        .find(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(Resize { cols: 80, rows: 24 }, |size| Resize {
        cols: size.ws_col,
        rows: size.ws_row,
    })
}

/// The terminal that a command in a guest gets, like the user's own.
pub(crate) fn describe() -> Terminal {
    let term = std::env::var("TERM").unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let is_sound = !term.is_empty() && term.len() <= 64 && term.chars().all(is_name);
    Terminal {
        size: size(),
        term: if is_sound { term } else { "xterm".into() },
    }
}
