//! The log: one short line at a time to standard error, and not too many of them.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use banger_sys::wait::wait_for;
use rustix::event::PollFlags;

use crate::policy::{LOG_PERIOD, MAX_LOG_LINE, MAX_LOG_LINES};
use crate::refusal::sanitised;

/// When the period began, and how many lines it had.
static PERIOD: Mutex<(Option<Instant>, u32)> = Mutex::new((None, 0));

/// Writes `text`, escaped and cut. Who cannot be told is not waited for.
pub(crate) fn line(text: &str) {
    let mut period = PERIOD.lock().unwrap_or_else(PoisonError::into_inner);
    let (began, lines) = &mut *period;
    if began.is_none_or(|began| began.elapsed() > LOG_PERIOD) {
        let suppressed = lines.saturating_sub(MAX_LOG_LINES);
        if suppressed > 0 {
            write(&format!("{suppressed} lines were not written"));
        }
        (*began, *lines) = (Some(Instant::now()), 0);
    }
    *lines = lines.saturating_add(1);
    if *lines <= MAX_LOG_LINES {
        write(text);
    }
}

fn write(text: &str) {
    let text = format!("{}\n", sanitised(text, MAX_LOG_LINE.saturating_sub(1)));
    let log = rustix::stdio::stderr();
    // A log that is closed, full or not read is no reason to stop or to wait.
    if wait_for(log, PollFlags::OUT, Some(Instant::now())) == Ok(true) {
        rustix::io::write(log, text.as_bytes()).ok();
    }
}
