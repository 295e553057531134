//! The log: one short line at a time to standard error, and not too many of them.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::policy::{LOG_PERIOD, MAX_LOG_LINE, MAX_LOG_LINES};
use crate::refusal::sanitised;

struct Period {
    began: Option<Instant>,
    lines: u32,
}

static PERIOD: Mutex<Period> = Mutex::new(Period {
    began: None,
    lines: 0,
});

/// Writes `text`, escaped and cut. Who cannot be told is not waited for.
pub(crate) fn line(text: &str) {
    let now = Instant::now();
    let mut period = PERIOD.lock().unwrap_or_else(PoisonError::into_inner);
    let is_over = |began: Instant| now.saturating_duration_since(began) > LOG_PERIOD;
    if period.began.is_none_or(is_over) {
        let suppressed = period.lines.saturating_sub(MAX_LOG_LINES);
        if suppressed > 0 {
            write(&format!("{suppressed} lines were not written"));
        }
        (period.began, period.lines) = (Some(now), 0);
    }
    period.lines = period.lines.saturating_add(1);
    if period.lines <= MAX_LOG_LINES {
        write(text);
    }
}

fn write(text: &str) {
    let most = MAX_LOG_LINE.saturating_sub(1);
    let text = format!("{}\n", sanitised(text, most));
    // A log that is closed or full is no reason to stop.
    rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
}
