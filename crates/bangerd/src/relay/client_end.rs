//! The client's end of an upgraded connection.

use super::Relayed;
use crate::problem::Refusal;
use banger_api::Problem;
use banger_api::stream::StreamEvent;
use banger_guest::client::{ClientError, FramedReader, FramedStream, FramedWriter};
use banger_guest::frame::{Frame, FrameError, Kind};
use banger_guest::request::Exit;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::io;
use tokio::io::{ReadHalf, WriteHalf};

/// Frames kept of what a client sends before there is anybody to take it (4 MiB at most).
const MAX_EARLY: usize = 64;

type Io = TokioIo<Upgraded>;

/// An upgraded connection.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    reader: FramedReader<ReadHalf<Io>>,
    writer: FramedWriter<WriteHalf<Io>>,
    early: VecDeque<Frame>,
}

/// What the client sends.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    reader: &'a mut FramedReader<ReadHalf<Io>>,
    early: &'a mut VecDeque<Frame>,
}

impl ClientEnd {
    /// Frames over an upgraded connection.
    pub(crate) fn new(upgraded: Upgraded) -> Self {
        let (reader, writer) = FramedStream::new(TokioIo::new(upgraded)).split();
        Self {
            reader,
            writer,
            early: VecDeque::new(),
        }
    }

    /// The two directions.
    pub(super) fn parts(&mut self) -> (Incoming<'_>, &mut FramedWriter<WriteHalf<Io>>) {
        let incoming = Incoming {
            reader: &mut self.reader,
            early: &mut self.early,
        };
        (incoming, &mut self.writer)
    }

    /// Waits for `work`, telling the client the events that come meanwhile; `None` when the
    /// client leaves first. What it sends is kept for later.
    pub(crate) async fn while_there<T>(
        &mut self,
        events: &mut tokio::sync::mpsc::Receiver<StreamEvent>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let (mut incoming, writer) = self.parts();
        let gone = incoming.gone();
        tokio::pin!(gone);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                _ = &mut gone => return None,
                Some(event) = events.recv() => {
                    if send_event(writer, &event).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }

    /// Tells an event.
    pub(crate) async fn event(&mut self, event: &StreamEvent) -> io::Result<()> {
        send_event(&mut self.writer, event).await
    }

    /// Tells how the command ended.
    pub(crate) async fn exit(&mut self, exit: &Exit) -> io::Result<()> {
        let frame = Frame::json(Kind::Exit, exit).map_err(io::Error::other)?;
        self.writer.send(&frame).await
    }

    /// Tells why it failed.
    pub(crate) async fn problem(&mut self, refusal: &Refusal) -> io::Result<()> {
        let frame = match Frame::json(Kind::Failure, &refusal.0) {
            Ok(frame) => frame,
            // Too long with its causes: the message alone.
            Err(_) => {
                let message = refusal.0.message.chars().take(1000).collect::<String>();
                let problem = Problem::new(refusal.0.code, message);
                Frame::json(Kind::Failure, &problem).map_err(io::Error::other)?
            }
        };
        self.writer.send(&frame).await
    }

    /// Ends the connection: what was sent arrives, then the client reads the end.
    pub(crate) async fn close(mut self) {
        if let Err(error) = self.writer.shutdown().await {
            tracing::debug!(%error, "close a stream");
        }
    }
}

async fn send_event(
    writer: &mut FramedWriter<WriteHalf<Io>>,
    event: &StreamEvent,
) -> io::Result<()> {
    let frame = Frame::json(Kind::Reply, event).map_err(io::Error::other)?;
    writer.send(&frame).await
}

impl Incoming<'_> {
    /// The next frame, those that came early first; `None` when the client has left.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        if let Some(frame) = self.early.pop_front() {
            return Ok(Some(frame));
        }
        match self.reader.recv().await {
            Err(ClientError::Io(_) | ClientError::Frame(FrameError::Truncated)) => Ok(None),
            other => other,
        }
    }

    /// Returns when the client has left (or sends nonsense), keeping what it sends before. Once
    /// that is [`MAX_EARLY`] frames the client is held up, and its leaving is seen by whoever
    /// reads next.
    pub(super) async fn gone(&mut self) -> Relayed {
        while self.early.len() < MAX_EARLY {
            match self.reader.recv().await {
                Ok(Some(frame)) => self.early.push_back(frame),
                _ => return Relayed::ClientGone,
            }
        }
        std::future::pending().await
    }
}
