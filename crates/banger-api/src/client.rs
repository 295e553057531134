//! A client for the daemon's socket: one connection a request.

use crate::stream::{Step, UPGRADE};
use crate::{Problem, ProblemBody, ProblemCode};
use banger_guest::frame::{Decoder, Frame, FrameError};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE as UPGRADE_HEADER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The largest plain answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// The largest line of an answer in steps, in bytes.
const MAX_STEP: usize = 1 << 20;

/// Why a request got no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: no daemon runs.
    #[error("connect to the daemon at {socket:?}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody else's process listens on the socket; nothing was sent to it.
    #[error("trust the daemon at {socket:?}: it runs as uid {uid}, not as {expected}")]
    Impostor {
        /// The socket.
        socket: PathBuf,
        /// Whose process listens.
        uid: u32,
        /// Whose should.
        expected: u32,
    },
    /// The daemon said no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The connection broke.
    #[error("talk to the daemon: {what}")]
    Wire {
        /// What was being done.
        what: &'static str,
        /// What broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The daemon at one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    server: u32,
}

impl Client {
    /// A client for this user's daemon at `socket`. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            server: rustix::process::geteuid().as_raw(),
        }
    }

    /// The same for the daemon of the user with this id: for root, who looks after it.
    #[must_use]
    pub fn served_by(self, uid: u32) -> Self {
        Self {
            server: uid,
            ..self
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connects and checks that the process at the other end runs as the user it should.
    pub async fn connect(&self) -> Result<UnixStream, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(unreachable)?;
        let uid = stream.peer_cred().map_err(unreachable)?.uid();
        if uid != self.server {
            return Err(ClientError::Impostor {
                socket: self.socket.clone(),
                uid,
                expected: self.server,
            });
        }
        Ok(stream)
    }

    /// GET, answered by JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// POST with a JSON body, answered by JSON.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// DELETE, answered by JSON.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// Any method, answered by JSON.
    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body, false).await?;
        let body = collect(answer).await?;
        serde_json::from_slice(&body).map_err(|e| wire("read the answer", e))
    }

    /// GET of a body that is not JSON (a log); each part goes to `sink` as it comes.
    pub async fn get_bytes(
        &self,
        path: &str,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut answer = self.send(Method::GET, path, None::<&()>, false).await?;
        while let Some(part) = answer.body_mut().frame().await {
            let part = part.map_err(|e| wire("read the answer", e))?;
            if let Some(bytes) = part.data_ref() {
                sink(bytes).map_err(|e| wire("pass the answer on", e))?;
            }
        }
        Ok(())
    }

    /// GET of lines of JSON; each goes to `sink` as it comes.
    pub async fn get_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut sink: impl FnMut(T) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut answer = self.send(Method::GET, path, None::<&()>, false).await?;
        let mut line = Vec::new();
        while let Some(part) = answer.body_mut().frame().await {
            let part = part.map_err(|e| wire("read the answer", e))?;
            let Some(bytes) = part.data_ref() else {
                continue;
            };
            for piece in bytes.split_inclusive(|&b| b == b'\n') {
                line.extend_from_slice(piece);
                if line.len() > MAX_STEP {
                    return Err(wire("read the answer", "a line is over 1 MiB"));
                }
                if !line.ends_with(b"\n") {
                    continue;
                }
                let item = serde_json::from_slice(&line).map_err(|e| wire("read the answer", e))?;
                line.clear();
                sink(item).map_err(|e| wire("pass the answer on", e))?;
            }
        }
        Ok(())
    }

    /// POST that is answered in steps: every progress goes to `on_progress`, the last step is
    /// returned ([`Step::Failed`] as an error).
    pub async fn steps<B: Serialize>(
        &self,
        path: &str,
        body: &B,
        mut on_progress: impl FnMut(crate::Progress),
    ) -> Result<Step, ClientError> {
        let mut answer = self.send(Method::POST, path, Some(body), false).await?;
        let mut line = Vec::new();
        while let Some(part) = answer.body_mut().frame().await {
            let part = part.map_err(|e| wire("read the progress", e))?;
            let Some(bytes) = part.data_ref() else {
                continue;
            };
            for piece in bytes.split_inclusive(|&b| b == b'\n') {
                line.extend_from_slice(piece);
                if line.len() > MAX_STEP {
                    return Err(wire("read the progress", "a line is over 1 MiB"));
                }
                if !line.ends_with(b"\n") {
                    continue;
                }
                let step: Step =
                    serde_json::from_slice(&line).map_err(|e| wire("read the progress", e))?;
                line.clear();
                match step {
                    Step::Progress(progress) => on_progress(progress),
                    Step::Failed(problem) => return Err(problem.into()),
                    done => return Ok(done),
                }
            }
        }
        Err(wire(
            "read the progress",
            "the daemon ended before it was done",
        ))
    }

    /// POST that becomes a stream of frames.
    pub async fn upgrade<B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<FrameStream, ClientError> {
        let answer = self.send(Method::POST, path, Some(body), true).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(wire("open a stream", "the daemon did not switch protocols"));
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|e| wire("open a stream", e))?;
        Ok(FrameStream::new(TokioIo::new(upgraded)))
    }

    /// Sends a request and returns the answer's head, or the problem it carries.
    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        upgrade: bool,
    ) -> Result<Response<Incoming>, ClientError> {
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|e| wire("open the connection", e))?;
        // The task ends with the connection; its error shows again in the request's own.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "banger");
        if upgrade {
            request = request
                .header(CONNECTION, "upgrade")
                .header(UPGRADE_HEADER, UPGRADE);
        }
        let payload = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|e| wire("write the request", e))?
            }
            None => Vec::new(),
        };
        let request = request
            .body(Full::new(Bytes::from(payload)))
            .map_err(|e| wire("write the request", e))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| wire("send the request", e))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let body = collect(answer).await?;
        let problem = serde_json::from_slice::<ProblemBody>(&body)
            .map(|body| body.error)
            .unwrap_or_else(|_| {
                Problem::new(
                    ProblemCode::Internal,
                    format!("the daemon answered {status} without saying why"),
                )
            });
        Err(problem.into())
    }
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .map_err(|source| ClientError::Wire {
            what: "read the answer",
            source,
        })
}

fn wire(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ClientError {
    ClientError::Wire {
        what,
        source: source.into(),
    }
}

type UpgradedIo = TokioIo<hyper::upgrade::Upgraded>;

/// An upgraded connection: frames both ways.
#[derive(Debug)]
pub struct FrameStream {
    reader: FrameReader,
    writer: FrameWriter,
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReader {
    io: tokio::io::ReadHalf<UpgradedIo>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// The sending half.
#[derive(Debug)]
pub struct FrameWriter {
    io: tokio::io::WriteHalf<UpgradedIo>,
}

impl FrameStream {
    fn new(io: UpgradedIo) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self {
            reader: FrameReader {
                io: reader,
                decoder: Decoder::default(),
                buffer: vec![0; 64 * 1024],
            },
            writer: FrameWriter { io: writer },
        }
    }

    /// The two halves.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }

    /// See [`FrameReader::recv`].
    pub async fn recv(&mut self) -> Result<Option<Frame>, ClientError> {
        self.reader.recv().await
    }

    /// See [`FrameWriter::send`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        self.writer.send(frame).await
    }
}

impl FrameReader {
    /// The next frame; `None` when the daemon ended the stream. Safe to cancel.
    pub async fn recv(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|e| wire("read the stream", e))?
            {
                return Ok(Some(frame));
            }
            let count = self
                .io
                .read(&mut self.buffer)
                .await
                .map_err(|e| wire("read the stream", e))?;
            if count == 0 {
                return if self.decoder.is_between_frames() {
                    Ok(None)
                } else {
                    Err(wire("read the stream", FrameError::Truncated))
                };
            }
            self.decoder.feed(&self.buffer[..count]);
        }
    }
}

impl FrameWriter {
    /// Sends one frame.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        self.io
            .write_all(&frame.encode())
            .await
            .map_err(|e| wire("write the stream", e))
    }

    /// Ends the sending direction: the daemon cancels what the stream stands for, cleans up and
    /// then ends the other direction, so that reading on tells when nothing is left. (Dropping
    /// one half alone leaves the connection open.)
    pub async fn shutdown(&mut self) -> Result<(), ClientError> {
        self.io
            .shutdown()
            .await
            .map_err(|e| wire("end the stream", e))
    }
}
