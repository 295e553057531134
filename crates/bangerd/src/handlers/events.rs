//! What happened to VMs, as lines of JSON.

use super::body::Params;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{EventLine, ProblemBody};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that are written at once.
const BATCH: usize = 64;

/// Batches that wait for a client that reads slowly. While they do, its events are only counted.
const QUEUE: usize = 2;

/// Which events, and whether to stay.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReadEvents {
    since_unix_ms: Option<u64>,
    follow: bool,
}

/// Tells what happened to VMs: the last thousand events, or what happens from now on
#[utoipa::path(
    get, path = "/v1/events",
    params(
        ("since_unix_ms" = Option<u64>, Query, description = "Begin with what happened at this time"),
        ("follow" = Option<bool>, Query, description = "Whether to go on; without a time, from now on only"),
    ),
    responses(
        (status = 200, description = "Lines of JSON", body = EventLine, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn events(
    State(daemon): State<Arc<Daemon>>,
    Params(asked): Params<ReadEvents>,
) -> Result<Response, Refusal> {
    let (lines, queue) = mpsc::channel(QUEUE);
    // Not among the tasks that the daemon waits for: it holds nothing that must be let go of.
    drop(tokio::spawn(send(daemon, asked, lines)));
    let stream = futures_util::stream::unfold(queue, |mut queue| async {
        let lines: Bytes = queue.recv().await?;
        Some((Ok::<_, Infallible>(lines), queue))
    });
    Ok((
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response())
}

async fn send(daemon: Arc<Daemon>, asked: ReadEvents, lines: mpsc::Sender<Bytes>) {
    let events = daemon.events();
    let mut next = events.next();
    let since = asked.since_unix_ms.unwrap_or(0);
    let mut from = match (asked.follow, asked.since_unix_ms) {
        (true, None) => *next.borrow_and_update(),
        _ => events.oldest(),
    };
    loop {
        next.mark_unchanged();
        let batch = events.from(from, BATCH);
        let mut text = Vec::new();
        if batch.missed > 0 {
            let count = batch.missed;
            push(&mut text, &EventLine::Missed { count });
        }
        for event in &batch.events {
            from = event.seq + 1;
            if event.at_unix_ms >= since {
                push(&mut text, &EventLine::Event(event.as_ref().clone()));
            }
        }
        if !text.is_empty() && lines.send(text.into()).await.is_err() {
            return;
        }
        if !batch.events.is_empty() {
            continue;
        }
        if !asked.follow {
            return;
        }
        tokio::select! {
            () = lines.closed() => return,
            () = daemon.closing().cancelled() => return,
            changed = next.changed() => if changed.is_err() { return },
        }
    }
}

fn push(text: &mut Vec<u8>, line: &EventLine) {
    text.extend(serde_json::to_vec(line).expect("an event has only string keys"));
    text.push(b'\n');
}
