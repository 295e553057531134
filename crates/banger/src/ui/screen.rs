//! The whole terminal as one picture: the alternate screen, left on every way out.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the alternate screen is shown.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The alternate screen; left when this is dropped.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    /// Shows an empty screen, without a cursor.
    pub(crate) fn enter() -> io::Result<Self> {
        SHOWN.store(true, Ordering::SeqCst);
        let screen = Self(());
        write("\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J")?;
        Ok(screen)
    }

    /// Shows these lines from the top on, which the caller has sanitised and cut, and nothing else.
    pub(crate) fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Leaves the alternate screen, if it is shown.
pub(crate) fn leave() {
    if SHOWN.swap(false, Ordering::SeqCst) {
        // There is nothing left to do for a terminal that is gone.
        drop(write("\x1b[?25h\x1b[?1049l"));
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Whether words may be set off on standard output.
pub(crate) fn is_styled() -> bool {
    super::is_colourful(&io::stdout())
}
