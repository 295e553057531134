//! Takes connections: of the owner (and root) only, not too many, none for ever without a request.

use crate::activity::ActivityGuard;
use crate::daemon::Daemon;
use crate::routes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections at one time; more are closed at once.
pub const MAX_CONNECTIONS: usize = 256;

/// How long a request's head may take, also on a connection that waits for its next request.
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// How long connections may take to end when the daemon ends.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A connection's place and its reason for the daemon to stay. A request carries it as an
/// extension, so that what goes on after an upgrade still counts as a connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHold(
    #[allow(dead_code, reason = "held for what dropping it does")]
    Arc<(ActivityGuard, OwnedSemaphorePermit)>,
);

/// Serves until `stop`; returns when every connection has ended.
pub async fn serve(daemon: Arc<Daemon>, listener: UnixListener, stop: CancellationToken) {
    let router = routes::router(Arc::clone(&daemon));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let owner = rustix::process::geteuid().as_raw();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    // Out of descriptors, most likely: waiting is all that helps.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        if !is_welcome(&stream, owner) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("refused a connection: {MAX_CONNECTIONS} are open");
            continue;
        };
        let hold = ConnectionHold(Arc::new((daemon.activity().begin(), place)));
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(hold.clone());
            router.call(request)
        });
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(64 * 1024);
            let connection = http
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS).expect("a small constant");
    if tokio::time::timeout(END_LIMIT, places.acquire_many(all))
        .await
        .is_err()
    {
        tracing::warn!("connections were cut off");
    }
}

/// Whether the kernel says that the peer is the owner, or root, who could be anybody anyway.
/// Nothing was read from it yet.
fn is_welcome(stream: &UnixStream, owner: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == owner || peer.uid() == 0 => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused a connection of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection of an unknown user");
            false
        }
    }
}
