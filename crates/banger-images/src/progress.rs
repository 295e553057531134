//! How long work says how far it is, and learns that it is no longer wanted.

use crate::ImagesError;
use std::time::{Duration, Instant};

/// How far a piece of work is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The step, as `download kernel`.
    pub step: String,
    /// What is being worked on within it.
    pub detail: String,
    /// Bytes done, if they can be counted.
    pub done: Option<u64>,
    /// Bytes in all, if known.
    pub total: Option<u64>,
}

/// Who is told. Calls come from the thread that does the work, at most some ten a second.
pub trait ProgressSink: Send + Sync {
    /// Takes one report.
    fn report(&self, progress: Progress);
    /// Whether the work should stop; asked often.
    fn is_cancelled(&self) -> bool;
}

/// For callers that don't care: hears nothing, never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn report(&self, _: Progress) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// How often a counter reports.
const INTERVAL: Duration = Duration::from_millis(100);

/// One step of some work: reports its counter at most ten times a second and checks for cancellation.
pub(crate) struct Step<'a> {
    sink: &'a dyn ProgressSink,
    name: String,
    detail: String,
    total: Option<u64>,
    last: Instant,
}

impl<'a> Step<'a> {
    /// Begins a step and reports it at once.
    pub(crate) fn begin(
        sink: &'a dyn ProgressSink,
        name: impl Into<String>,
        detail: impl Into<String>,
        total: Option<u64>,
    ) -> Self {
        let step = Self {
            sink,
            name: name.into(),
            detail: detail.into(),
            total,
            last: Instant::now(),
        };
        step.send(total.map(|_| 0));
        step
    }

    fn send(&self, done: Option<u64>) {
        self.sink.report(Progress {
            step: self.name.clone(),
            detail: self.detail.clone(),
            done,
            total: self.total,
        });
    }

    /// Fails if the work is no longer wanted.
    pub(crate) fn check(&self) -> Result<(), ImagesError> {
        if self.sink.is_cancelled() {
            return Err(ImagesError::Cancelled {
                what: self.name.clone(),
            });
        }
        Ok(())
    }

    /// Counts to `done` bytes, and fails if the work is no longer wanted.
    pub(crate) fn advance(&mut self, done: u64) -> Result<(), ImagesError> {
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.send(Some(done));
            return self.check();
        }
        Ok(())
    }

    /// Reports something else being worked on within the step.
    pub(crate) fn detail(
        &mut self,
        detail: impl Into<String>,
        done: Option<u64>,
        total: Option<u64>,
    ) {
        self.detail = detail.into();
        self.total = total;
        self.send(done);
    }

    /// Reports a share of work whose size in bytes is not known.
    pub(crate) fn percent(&mut self, percent: f64) {
        if (0.0..=100.0).contains(&percent) && self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.total = None;
            self.sink.report(Progress {
                step: self.name.clone(),
                detail: format!("{} ({percent:.0} %)", self.detail),
                done: None,
                total: None,
            });
        }
    }

    /// Whom the step reports to.
    pub(crate) fn sink(&self) -> &'a dyn ProgressSink {
        self.sink
    }
}
