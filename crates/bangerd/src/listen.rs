//! Takes connections: of the owner (and root) only, not too many, none for ever without a request.

use crate::activity::ActivityGuard;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::routes;
use banger_api::{ProblemBody, ProblemCode};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections at one time; more wait for a place.
pub const MAX_CONNECTIONS: usize = 256;

/// How long a request's head may take, also on a connection that waits for its next request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection waits for a place: those without a request have gone by then.
const PLACE_LIMIT: Duration = Duration::from_secs(6);

/// How long a client that cannot be accepted is looked for: the kernel has it already.
const ACCEPT_LIMIT: Duration = Duration::from_millis(100);

/// How long lies between two refusals for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let mut spare = Spare::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                spare.is_told = false;
                stream
            }
            Err(error) => {
                spare.refuse_one(&listener, owner, &error).await;
                continue;
            }
        };
        if !is_welcome(&stream, owner) {
            continue;
        }
        // Whoever comes meanwhile waits too, in the socket's own queue.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
            () = tokio::time::sleep(PLACE_LIMIT) => {
                tracing::warn!("refused a connection: {MAX_CONNECTIONS} are open");
                drop(tokio::spawn(refuse(stream, too_many())));
                continue;
            }
        };
        let Ok(place) = place else { break };
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

/// A descriptor kept for the moment when there is no other: whoever comes then is told so.
struct Spare {
    file: Option<File>,
    /// Whether the log has it: once, however long it lasts, for the log is finite too.
    is_told: bool,
}

impl Spare {
    fn new() -> Self {
        Self {
            file: File::open("/dev/null").ok(),
            is_told: false,
        }
    }

    /// Tells the client that could not be accepted why, and waits a little: clients that leave
    /// are all that helps.
    async fn refuse_one(&mut self, listener: &UnixListener, owner: u32, error: &io::Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(%error, "accept a connection; those that cannot be are refused");
        }
        self.file = None;
        let accepting = tokio::time::timeout(ACCEPT_LIMIT, listener.accept()).await;
        if let Ok(Ok((stream, _))) = accepting
            && is_welcome(&stream, owner)
        {
            refuse(
                stream,
                Refusal::io("talk to the daemon: accept a connection", error),
            )
            .await;
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
        self.file = File::open("/dev/null").ok();
    }
}

fn too_many() -> Refusal {
    Refusal::new(
        ProblemCode::Exhausted,
        format!("talk to the daemon: {MAX_CONNECTIONS} connections are open"),
    )
    .hint("end some commands of banger that wait, then repeat this one")
}

/// Tells a client why there is no place for it.
async fn refuse(mut stream: UnixStream, refusal: Refusal) {
    let body = serde_json::to_string(&ProblemBody { error: refusal.0 }).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // It may be gone by now, or not listen.
    let telling = stream.write_all(answer.as_bytes());
    let _unheard = tokio::time::timeout(HEAD_LIMIT, telling).await;
    // A socket that is closed on unread bytes resets the connection.
    let _unread = stream.try_read(&mut [0; 4096]);
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
