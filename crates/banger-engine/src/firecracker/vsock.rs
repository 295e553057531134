//! The way to the agent: Firecracker's vsock, whose host end is a Unix socket.
//!
//! The host connects to the socket, names a port and is answered `OK`. Nothing tells it that
//! the guest has begun to listen; so the agent, once it does, connects the other way, to
//! [`READY_PORT`], where Firecracker hands it to a socket of ours. That is an event, and the
//! host never has to ask twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest::frame::{AGENT_PORT, READY_PORT};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::launch::VSOCK_SOCKET;
use crate::EngineError;
use crate::socket::{RunDir, SocketFile};

/// The longest answer: `OK`, a port, a line's end.
const MAX_ANSWER: usize = 32;

/// A refusal that took so long was none: Firecracker gives a guest 2 s to answer, which a
/// guest on a busy host may need. One that does not listen refuses at once.
const SLOW: Duration = Duration::from_secs(1);

/// The socket that Firecracker connects to when the guest calls [`READY_PORT`].
pub(super) fn ready_socket() -> String {
    format!("{VSOCK_SOCKET}_{READY_PORT}")
}

/// How often a guest is asked whose call nobody could hear: see [`Vsock::of_jailed`].
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Our socket for the guest's call, listening.
#[derive(Debug)]
pub(super) struct Called {
    run: Arc<RunDir>,
    listener: UnixListener,
}

impl Called {
    /// Makes it in the run directory.
    pub(super) fn listen(run: Arc<RunDir>) -> Result<Self, EngineError> {
        let name = ready_socket();
        let listener = run.listen(&name)?;
        let listen = |listener: std::os::unix::net::UnixListener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener = listen(listener).map_err(EngineError::io(format!("listen at {name:?}")))?;
        Ok(Self { run, listener })
    }

    async fn heard(self) -> Result<(), String> {
        let called = self.listener.accept().await.map(drop);
        drop(self.listener);
        if let Err(error) = self.run.remove(&ready_socket()) {
            crate::warn_io("remove the socket for the guest's call", &error);
        }
        called.map_err(|error| error.to_string())
    }
}

/// The way to one guest's agent.
#[derive(Debug)]
pub(super) struct Vsock {
    socket: SocketFile,
    ready: watch::Receiver<Option<Result<(), String>>>,
    task: AbortHandle,
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vsock {
    /// The way to a guest that will boot and call.
    pub(super) fn of_new(socket: SocketFile, called: Called) -> Self {
        Self::new(socket, called.heard())
    }

    /// The way to a guest that may have called already.
    pub(super) fn of_running(socket: SocketFile, called: Called) -> Self {
        let asked = socket.clone();
        Self::new(socket, async move {
            tokio::select! {
                called = called.heard() => called,
                () = answers(&asked) => Ok(()),
            }
        })
    }

    /// The way to a guest that runs in a jail since before this daemon. The socket that it
    /// calls at ended with the one that made it and cannot be put into the jail anew; so a
    /// guest that was not ready then, and no other, is asked again and again.
    pub(super) fn of_jailed(socket: SocketFile) -> Self {
        let asked = socket.clone();
        Self::new(socket, async move {
            while open(&asked, AGENT_PORT).await.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(())
        })
    }

    fn new(
        socket: SocketFile,
        until_ready: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Self {
        let (tell, ready) = watch::channel(None);
        let task = tokio::spawn(async move {
            let result = until_ready.await;
            tell.send_replace(Some(result));
        });
        Self {
            socket,
            ready,
            task: task.abort_handle(),
        }
    }

    /// Resolves when the agent listens.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let mut ready = self.ready.clone();
        let told = ready.wait_for(Option::is_some).await;
        told.ok()
            .and_then(|told| told.clone())
            .unwrap_or_else(|| Err("its calls are not listened to any more".into()))
    }

    /// Opens a stream to the guest's port.
    pub(super) async fn open(&self, port: u32) -> Result<UnixStream, String> {
        open(&self.socket, port).await
    }
}

/// Resolves if the agent listens now.
async fn answers(socket: &SocketFile) {
    if open(socket, AGENT_PORT).await.is_err() {
        // It does not listen yet, so its call is still to come.
        std::future::pending().await
    }
}

async fn open(socket: &SocketFile, port: u32) -> Result<UnixStream, String> {
    loop {
        let began = Instant::now();
        let mut stream = socket.connect().await.map_err(|error| error.to_string())?;
        match greet(&mut stream, port).await {
            Ok(()) => return Ok(stream),
            Err(Broken::Refused) if began.elapsed() >= SLOW => {}
            Err(broken) => return Err(broken.to_string()),
        }
    }
}

/// Why a port could not be reached.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The connection was ended without an answer, which is how Firecracker refuses.
    #[error("nothing listens there")]
    Refused,
    #[error("connect through the vsock's socket: {0}")]
    Io(#[from] std::io::Error),
    #[error("Firecracker answers {0:?}")]
    Strange(String),
}

/// Names the port and takes the answer, not a byte more: the guest's own bytes follow it.
async fn greet(io: &mut (impl AsyncRead + AsyncWrite + Unpin), port: u32) -> Result<(), Broken> {
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => Broken::Refused,
        _ => Broken::Io(error),
    };
    io.write_all(format!("CONNECT {port}\n").as_bytes())
        .await
        .map_err(refused)?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    loop {
        let mut byte = [0];
        match io.read(&mut byte).await.map_err(refused)? {
            0 if answer.is_empty() => return Err(Broken::Refused),
            0 => break,
            _ if byte == *b"\n" => break,
            _ => answer.extend(byte),
        }
        if answer.len() == MAX_ANSWER {
            break;
        }
    }
    let port = answer.strip_prefix(b"OK ").unwrap_or_default();
    if !port.is_empty() && port.len() <= 10 && port.iter().all(u8::is_ascii_digit) {
        return Ok(());
    }
    Err(Broken::Strange(
        String::from_utf8_lossy(&answer).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn greeted(says: &[u8]) -> (Result<(), Broken>, Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(says).await.unwrap();
        let mut asked = vec![0; 13];
        let (result, ()) = tokio::join!(greet(&mut ours, 5000), async {
            theirs.read_exact(&mut asked).await.unwrap();
            theirs.shutdown().await.unwrap();
        });
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        (result, asked, rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_the_guests() {
        let (result, asked, rest) = greeted(b"OK 1073741824\nOK 2\nmore").await;
        result.unwrap();
        assert_eq!(asked, b"CONNECT 5000\n");
        assert_eq!(rest, b"OK 2\nmore");
    }

    #[tokio::test]
    async fn strange_answers_are_refused() {
        assert!(matches!(greeted(b"").await.0, Err(Broken::Refused)));
        for says in [
            &b"\n"[..],
            b"OK\n",
            b"OK \n",
            b"OK x\n",
            b"OK -1\n",
            b"OK 12345678901\n",
            b"ok 1\n",
            b"OK 1\0\n",
            b"\xff\xfe\n",
            &[b'x'; 2000],
        ] {
            let (result, ..) = greeted(says).await;
            assert!(matches!(result, Err(Broken::Strange(_))), "{says:?}");
        }
    }

    fn run_dir() -> (tempfile::TempDir, Arc<RunDir>) {
        let dir = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        let run = Arc::new(RunDir::open(dir.path()).unwrap());
        (dir, run)
    }

    fn socket(run: &Arc<RunDir>) -> SocketFile {
        SocketFile::InRunDir(Arc::clone(run), VSOCK_SOCKET)
    }

    #[tokio::test]
    async fn the_guests_call_makes_it_ready_once() {
        let (dir, run) = run_dir();
        let called = Called::listen(Arc::clone(&run)).unwrap();
        let vsock = Vsock::of_new(socket(&run), called);
        assert!(vsock.ready.borrow().is_none());
        drop(run.connect(&ready_socket()).await.unwrap());
        vsock.ready().await.unwrap();
        vsock.ready().await.unwrap();
        assert!(run.connect(&ready_socket()).await.is_err(), "no more calls");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_guest_that_was_ready_before_is_asked_and_a_later_call_is_heard() {
        for listens in [true, false] {
            let (_dir, run) = run_dir();
            let listener = run.listen(VSOCK_SOCKET).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = UnixListener::from_std(listener).unwrap();
            let called = Called::listen(Arc::clone(&run)).unwrap();
            let vsock = Vsock::of_running(socket(&run), called);
            let (mut asked, _) = listener.accept().await.unwrap();
            if listens {
                asked.write_all(b"OK 1\n").await.unwrap();
            } else {
                drop(asked);
                drop(run.connect(&ready_socket()).await.unwrap());
            }
            vsock.ready().await.unwrap();
        }
    }
}
