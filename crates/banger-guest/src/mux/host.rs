//! The host's end of a mux, on tokio: two tasks move bytes between the wire and a [`Session`],
//! which the streams share behind a lock that is never held across an await.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{Notify, watch};

use super::codec::NONCE;
use super::session::{Event, Read, Session, SessionError, Write};

/// Why a mux or one of its streams failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MuxError {
    /// The wire ended: the guest or its engine is gone.
    #[error("the wire to the guest has ended")]
    Ended,
    /// Reading or writing the wire failed.
    #[error("move bytes over the wire to the guest")]
    Wire(#[source] Arc<io::Error>),
    /// The guest broke the protocol; the wire was dropped.
    #[error("the guest broke the protocol")]
    Protocol(#[source] SessionError),
    /// The guest refused the stream.
    #[error("the guest refused a stream to port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// [`super::MAX_STREAMS`] streams are open.
    #[error("open a stream: too many are open")]
    TooManyStreams,
}

/// The host's end of a wire. Clones share it; the wire is dropped with the last clone and stream.
#[derive(Debug, Clone)]
pub struct MuxClient {
    handle: Arc<Handle>,
}

/// One stream. Shutting it down ends this direction only; dropping it before both directions ended
/// tells the guest that it is gone.
#[derive(Debug)]
pub struct MuxStream {
    handle: Arc<Handle>,
    id: u32,
}

/// What clients and streams hold and the tasks do not: its drop ends the tasks.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    output: Notify,
    /// Whether the guest has answered; closed (by the tasks' end) when the wire is gone.
    ready: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ready,
    Gone,
}

#[derive(Debug)]
struct State {
    session: Session,
    wakers: HashMap<u32, Wakers>,
    gone: Option<MuxError>,
}

#[derive(Debug, Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
    answer: Option<Waker>,
}

impl MuxClient {
    /// Greets the guest over `io` and waits for its answer, which says that the agent is ready.
    /// Waits as long as the guest takes: callers put a deadline around it.
    pub async fn connect<IO>(io: IO) -> Result<Self, MuxError>
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                session: Session::host(random_nonce()?),
                wakers: HashMap::new(),
                gone: None,
            }),
            output: Notify::new(),
            ready: watch::Sender::new(Phase::Greeting),
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(run(io, Arc::clone(&shared), stopped));
        let client = Self {
            handle: Arc::new(Handle { shared, stop }),
        };
        client.reached(|phase| phase != Phase::Greeting).await;
        let gone = client.state().gone.clone();
        gone.map_or(Ok(client), Err)
    }

    /// Opens a stream to `port` and waits for the guest's answer.
    pub async fn open(&self, port: u32) -> Result<MuxStream, MuxError> {
        let id = {
            let mut state = self.state();
            if let Some(error) = &state.gone {
                return Err(error.clone());
            }
            let id = state.session.open(port).ok_or(MuxError::TooManyStreams)?;
            state.wakers.insert(id, Wakers::default());
            id
        };
        self.handle.shared.output.notify_one();
        // From here on, dropping the future closes the stream.
        let stream = MuxStream {
            handle: Arc::clone(&self.handle),
            id,
        };
        let is_accepted = poll_fn(|context| {
            let mut state = stream.handle.shared.lock();
            if let Some(error) = &state.gone {
                return Poll::Ready(Err(error.clone()));
            }
            match state.session.is_accepted(id) {
                Some(answer) => Poll::Ready(Ok(answer)),
                None => {
                    state.wakers_of(id).answer = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        if is_accepted {
            Ok(stream)
        } else {
            Err(MuxError::Refused { port })
        }
    }

    /// Waits until the wire is gone.
    pub async fn closed(&self) {
        self.reached(|phase| phase == Phase::Gone).await;
    }

    async fn reached(&self, is_reached: fn(Phase) -> bool) {
        let mut phase = self.handle.shared.ready.subscribe();
        // The sender lives in `shared`, which `self` holds: waiting cannot fail.
        drop(phase.wait_for(|phase| is_reached(*phase)).await);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.handle.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, error: MuxError) {
        let mut state = self.lock();
        state.gone.get_or_insert(error);
        for wakers in state.wakers.values_mut() {
            wakers.wake_all();
        }
        drop(state);
        self.ready.send_replace(Phase::Gone);
    }
}

impl State {
    fn wakers_of(&mut self, id: u32) -> &mut Wakers {
        self.wakers.entry(id).or_default()
    }

    fn dispatch(&mut self, ready: &watch::Sender<Phase>) {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Ready => {
                    ready.send_replace(Phase::Ready);
                }
                Event::Answered(id) => wake(self.wakers_of(id).answer.take()),
                Event::Readable(id) => wake(self.wakers_of(id).read.take()),
                Event::Writable(id) => wake(self.wakers_of(id).write.take()),
                Event::Drained => {
                    for wakers in self.wakers.values_mut() {
                        wake(wakers.write.take());
                    }
                }
                // Only a guest's session gives these.
                Event::Restarted | Event::Opened { .. } => {}
            }
        }
    }
}

impl Wakers {
    fn wake_all(&mut self) {
        for waker in [&mut self.read, &mut self.write, &mut self.answer] {
            wake(waker.take());
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn random_nonce() -> Result<[u8; NONCE], MuxError> {
    let mut nonce = [0; NONCE];
    io::Read::read_exact(
        &mut std::fs::File::open("/dev/urandom").map_err(wire)?,
        &mut nonce,
    )
    .map_err(wire)?;
    Ok(nonce)
}

fn wire(error: io::Error) -> MuxError {
    MuxError::Wire(Arc::new(error))
}

async fn run<IO>(io: IO, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let error = tokio::select! {
        error = read_wire(reader, &shared) => error,
        error = write_wire(writer, &shared) => error,
        // An error would say that the handle is gone, which is what is waited for.
        _ = stopped.wait_for(|stopped| *stopped) => MuxError::Ended,
    };
    shared.end(error);
}

async fn read_wire(mut reader: impl AsyncRead + Unpin, shared: &Shared) -> MuxError {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) => return MuxError::Ended,
            Ok(count) => count,
            Err(error) => return wire(error),
        };
        let mut state = shared.lock();
        let received = state.session.receive(&buffer[..count]);
        state.dispatch(&shared.ready);
        let has_output = state.session.has_output();
        drop(state);
        if has_output {
            shared.output.notify_one();
        }
        if let Err(error) = received {
            return MuxError::Protocol(error);
        }
    }
}

async fn write_wire(mut writer: impl AsyncWrite + Unpin, shared: &Shared) -> MuxError {
    loop {
        let output = {
            let mut state = shared.lock();
            let output = state.session.take_output();
            state.dispatch(&shared.ready);
            output
        };
        if output.is_empty() {
            shared.output.notified().await;
            continue;
        }
        let written = async {
            writer.write_all(&output).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return wire(error);
        }
    }
}

fn broken(state: &State) -> io::Error {
    match &state.gone {
        Some(error) => io::Error::new(io::ErrorKind::ConnectionReset, error.clone()),
        None => io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the guest closed the stream",
        ),
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match state.session.read(self.id, buffer.initialize_unfilled()) {
            Read::Bytes(count) => {
                buffer.advance(count);
                if state.session.has_output() {
                    shared.output.notify_one();
                }
                Poll::Ready(Ok(()))
            }
            Read::End => Poll::Ready(Ok(())),
            Read::Reset => Poll::Ready(Err(broken(&state))),
            Read::Wait if state.gone.is_some() => Poll::Ready(Err(broken(&state))),
            Read::Wait => {
                state.wakers_of(self.id).read = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.gone.is_some() {
            return Poll::Ready(Err(broken(&state)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match state.session.write(self.id, bytes) {
            Write::Bytes(count) => {
                shared.output.notify_one();
                Poll::Ready(Ok(count))
            }
            Write::Reset => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the stream takes no more bytes",
            ))),
            Write::Wait => {
                state.wakers_of(self.id).write = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.shared.lock().session.finish(self.id);
        self.handle.shared.output.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let mut state = self.handle.shared.lock();
        state.session.close(self.id);
        state.wakers.remove(&self.id);
        drop(state);
        self.handle.shared.output.notify_one();
    }
}
