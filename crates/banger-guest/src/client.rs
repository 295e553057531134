//! The host's side of a stream: one request, its answer, and frames handed on for others.
//!
//! Works over whatever the engine connects: a mux stream, a vsock connection, and in the
//! daemon over the CLI's upgraded connection too.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::frame::{Decoder, Frame, FrameError, Kind};
use crate::request::{Failure, Health, Reply, Request};

/// Why a conversation with the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Reading or writing failed.
    #[error("talk to the guest's agent")]
    Io(#[from] io::Error),
    /// The other side sent what is no frame, or a frame that has no place here.
    #[error("understand the guest's agent")]
    Frame(#[from] FrameError),
    /// The agent says why not. Its message is hostile until sanitised.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The stream ended before the answer.
    #[error("the guest's agent ended the stream without an answer")]
    Ended,
}

/// A stream of frames.
#[derive(Debug)]
pub struct FramedStream<S> {
    reader: FramedReader<ReadHalf<S>>,
    writer: FramedWriter<WriteHalf<S>>,
}

/// The reading half of a [`FramedStream`].
#[derive(Debug)]
pub struct FramedReader<R> {
    inner: R,
    decoder: Decoder,
    chunk: Vec<u8>,
}

/// The writing half of a [`FramedStream`].
#[derive(Debug)]
pub struct FramedWriter<W> {
    inner: W,
    /// What of a frame is not written yet.
    unsent: VecDeque<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> FramedStream<S> {
    /// Frames over `stream`.
    pub fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader: FramedReader {
                inner: reader,
                decoder: Decoder::default(),
                chunk: vec![0; 32 * 1024],
            },
            writer: FramedWriter {
                inner: writer,
                unsent: VecDeque::new(),
            },
        }
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.writer.send(frame).await
    }

    /// The next frame; see [`FramedReader::recv`].
    pub async fn recv(&mut self) -> Result<Option<Frame>, ClientError> {
        self.reader.recv().await
    }

    /// The two directions apart. The stream is dropped with the second half.
    pub fn split(self) -> (FramedReader<ReadHalf<S>>, FramedWriter<WriteHalf<S>>) {
        (self.reader, self.writer)
    }
}

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// The next frame; `None` at the end of the stream. Nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.inner.read(&mut self.chunk).await? {
                0 if self.decoder.is_between_frames() => return Ok(None),
                0 => return Err(FrameError::Truncated.into()),
                count => self.decoder.feed(&self.chunk[..count]),
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> FramedWriter<W> {
    /// Sends a frame. If the future is dropped half-way, the next call sends the rest first: the
    /// other side never sees a frame within a frame.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.unsent.extend(frame.encode());
        self.inner.write_all_buf(&mut self.unsent).await?;
        self.inner.flush().await
    }

    /// Ends this direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.inner.shutdown().await
    }
}

/// Sends `request` over a new stream and waits for the agent to take it.
pub async fn request<S>(
    stream: S,
    request: &Request,
) -> Result<(FramedStream<S>, Reply), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut framed = FramedStream::new(stream);
    let sent = framed.send(&Frame::json(Kind::Request, request)?).await;
    // An agent that refuses may stop reading first: its reason counts more than the broken pipe.
    match (framed.recv().await, sent) {
        (Ok(Some(frame)), _) => match frame.kind {
            Kind::Reply => {
                let reply = frame.parse()?;
                Ok((framed, reply))
            }
            Kind::Failure => Err(frame.parse::<Failure>()?.into()),
            kind => Err(FrameError::Unexpected(kind).into()),
        },
        (_, Err(error)) => Err(error.into()),
        (Ok(None), Ok(())) => Err(ClientError::Ended),
        (Err(error), Ok(())) => Err(error),
    }
}

/// Asks the agent how it is.
pub async fn health<S>(stream: S) -> Result<Health, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (_, reply) = request(stream, &Request::Health).await?;
    reply.health.ok_or(ClientError::Ended)
}

/// The frames that may pass after the [`Reply`], by direction.
#[derive(Debug, Clone, Copy)]
pub struct Lanes {
    /// From the host to the guest.
    pub to_guest: &'static [Kind],
    /// From the guest to the host.
    pub to_host: &'static [Kind],
}

impl Lanes {
    /// What may pass for `request`; `None` for those that end with the reply.
    pub fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Exec(_) => Self {
                to_guest: &[Kind::Stdin, Kind::Resize, Kind::Signal],
                to_host: &[
                    Kind::Stdout,
                    Kind::Stderr,
                    Kind::Taken,
                    Kind::Exit,
                    Kind::Failure,
                ],
            },
            Request::CopyIn(_) => Self {
                to_guest: &[Kind::Data],
                to_host: &[Kind::Exit, Kind::Failure],
            },
            Request::CopyOut(_) => Self {
                to_guest: &[],
                to_host: &[Kind::Data, Kind::Exit, Kind::Failure],
            },
            Request::Dial(_) | Request::Ssh(_) => Self {
                to_guest: &[Kind::Data],
                to_host: &[Kind::Data, Kind::Failure],
            },
            Request::AwaitPort(_) => Self {
                to_guest: &[],
                to_host: &[Kind::Exit, Kind::Failure],
            },
            Request::Health | Request::PowerOff => return None,
        })
    }
}

/// How a [`relay`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relayed {
    /// The guest ended the stream, with this last `Exit` or `Failure` if it sent one.
    Guest(Option<Frame>),
    /// The client left.
    Client,
}

/// Hands frames on between a client and the agent until one of them ends, refusing kinds that have
/// no place in `lanes`. Both streams are dropped at the end, so the agent learns that a client left.
///
/// Errors are of the guest's side, or say that a side sent a wrong frame; a broken client is [`Relayed::Client`].
pub async fn relay<C, G>(
    client: FramedStream<C>,
    guest: FramedStream<G>,
    lanes: Lanes,
) -> Result<Relayed, ClientError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    G: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut from_client, mut to_client) = client.split();
    let (mut from_guest, mut to_guest) = guest.split();
    let inward = async {
        loop {
            match from_client.recv().await {
                Ok(Some(frame)) if lanes.to_guest.contains(&frame.kind) => {
                    // The guest may have stopped reading because it has finished: what it
                    // says on the other lane decides.
                    if to_guest.send(&frame).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Ok(Some(frame)) => return Err(FrameError::Unexpected(frame.kind).into()),
                Ok(None) | Err(ClientError::Io(_)) => return Ok(Relayed::Client),
                Err(error) => return Err(error),
            }
        }
    };
    let outward = async {
        loop {
            let Some(frame) = from_guest.recv().await? else {
                // The client may be gone as well; there is nothing left to tell it.
                drop(to_client.shutdown().await);
                return Ok(Relayed::Guest(None));
            };
            if !lanes.to_host.contains(&frame.kind) {
                return Err(FrameError::Unexpected(frame.kind).into());
            }
            if to_client.send(&frame).await.is_err() {
                return Ok(Relayed::Client);
            }
            if matches!(frame.kind, Kind::Exit | Kind::Failure) {
                drop(to_client.shutdown().await);
                return Ok(Relayed::Guest(Some(frame)));
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}

#[cfg(test)]
mod tests;
