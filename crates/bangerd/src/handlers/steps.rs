//! Answers in steps: lines of JSON while the work goes on, and its undoing when the client leaves.

use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::provision::Report;
use crate::vm::lease::VmLease;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::Step;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Lines that wait for a client that reads slowly.
const QUEUE: usize = 32;

/// The last step, and what lives on once the client has it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    pub(crate) keep: Option<VmLease>,
}

impl From<Step> for Done {
    fn from(step: Step) -> Self {
        Self { step, keep: None }
    }
}

/// Answers with the steps of `work`. When the client leaves, the work is dropped; so is what
/// it had made, unless the last step has reached the client.
pub(crate) fn respond<F>(daemon: &Arc<Daemon>, work: impl FnOnce(Report) -> F) -> Response
where
    F: Future<Output = Result<Done, Refusal>> + Send + 'static,
{
    let (lines, queue) = mpsc::channel::<Bytes>(QUEUE);
    let reporting = lines.clone();
    let work = work(Arc::new(move |progress| {
        // A client that reads slowly misses progress, not the result.
        let _told = reporting.try_send(line(&Step::Progress(progress)));
    }));
    let closing = daemon.closing().clone();
    daemon.tasks().spawn(async move {
        let done = tokio::select! {
            done = work => done,
            () = lines.closed() => return,
            () = closing.cancelled() => Err(Refusal::cancelled("the daemon ends")),
        };
        match done {
            Ok(done) => {
                if lines.send(line(&done.step)).await.is_ok()
                    && let Some(lease) = done.keep
                {
                    lease.keep();
                }
            }
            Err(refusal) => {
                tracing::info!(problem = ?refusal.0, "a long request failed");
                // A client that has left needs no answer.
                let _told = lines.send(line(&Step::Failed(refusal.0))).await;
            }
        }
    });
    let stream = futures_util::stream::unfold(queue, |mut queue| async {
        let line = queue.recv().await?;
        Some((Ok::<_, Infallible>(line), queue))
    });
    (
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response()
}

fn line(step: &Step) -> Bytes {
    let mut text = serde_json::to_vec(step).expect("a step has only string keys");
    text.push(b'\n');
    text.into()
}
