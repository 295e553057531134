//! One copy's stream: asks for it, moves the data, hears how it ended.

use super::sink::FrameSink;
use crate::app::segment;
use crate::error::{CliError, Kind};
use banger_api::Problem;
use banger_api::client::{Client, FrameReader};
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, FrameError, Kind as FrameKind};
use banger_guest::request::{CopyIn, CopyOut, Exit};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Frames that wait to be sent or written.
const AHEAD: usize = 8;

/// Copies into `vm` what `fill` writes: a whole tar stream.
/// Returns what `fill` returned.
pub(crate) async fn send<T: Send + 'static>(
    client: &Client,
    vm: &str,
    request: &CopyIn,
    fill: impl FnOnce(FrameSink) -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let path = format!("/v1/vms/{}/copy-in", segment(vm));
    let (mut reader, mut writer) = client.upgrade(&path, request).await?.split();
    await_open(&mut reader).await?;
    let (sender, mut frames) = mpsc::channel::<Frame>(AHEAD);
    let filler = tokio::task::spawn_blocking(move || fill(FrameSink::new(sender)));
    let mut is_broken = false;
    while let Some(frame) = frames.recv().await {
        if writer.send(&frame).await.is_err() {
            is_broken = true;
            break;
        }
    }
    drop(frames);
    let filled = filler.await.map_err(|source| {
        CliError::new(Kind::Internal, "read the files to copy").because(&source)
    })?;
    // When the other side broke off, its reason is the better one.
    if filled.is_err() && !is_broken {
        return filled;
    }
    await_exit(&mut reader).await?;
    filled
}

/// Copies out of `vm`; `take` reads the tar stream.
pub(crate) async fn receive<T: Send + 'static>(
    client: &Client,
    vm: &str,
    request: &CopyOut,
    take: impl FnOnce(FrameSource) -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let path = format!("/v1/vms/{}/copy-out", segment(vm));
    let (mut reader, writer) = client.upgrade(&path, request).await?.split();
    await_open(&mut reader).await?;
    let (sender, pieces) = mpsc::channel::<Vec<u8>>(AHEAD);
    let taker = tokio::task::spawn_blocking(move || {
        take(FrameSource {
            pieces,
            current: Vec::new(),
            position: 0,
            has_ended: false,
        })
    });
    let passed = pass(&mut reader, sender).await;
    let taken = taker.await.map_err(|source| {
        CliError::new(Kind::Internal, "write the copied files").because(&source)
    })?;
    drop(writer);
    match (passed, taken) {
        // A taker that refused what came explains it best; one that was cut off does not.
        (Err(error), _) => Err(error),
        (Ok(Passed::Whole | Passed::Stopped), taken) => taken,
    }
}

/// How the passing on of data ended, if not in a failure.
enum Passed {
    /// All of it, and the guest says that it is all.
    Whole,
    /// The taker stopped: it has all it wants, or it refused.
    Stopped,
}

/// Passes data on until its end and hears how the copy ended.
async fn pass(reader: &mut FrameReader, pieces: mpsc::Sender<Vec<u8>>) -> Result<Passed, CliError> {
    loop {
        let frame = next(reader).await?;
        if frame.kind != FrameKind::Data {
            return Err(FrameError::Unexpected(frame.kind).into());
        }
        let is_end = frame.payload.is_empty();
        if pieces.send(frame.payload).await.is_err() {
            return Ok(Passed::Stopped);
        }
        if is_end {
            await_exit(reader).await?;
            return Ok(Passed::Whole);
        }
    }
}

async fn await_open(reader: &mut FrameReader) -> Result<(), CliError> {
    let frame = next(reader).await?;
    match (frame.kind, frame.parse::<StreamEvent>()) {
        (FrameKind::Reply, Ok(StreamEvent::Open)) => Ok(()),
        (kind, _) => Err(FrameError::Unexpected(kind).into()),
    }
}

async fn await_exit(reader: &mut FrameReader) -> Result<(), CliError> {
    let frame = next(reader).await?;
    if frame.kind != FrameKind::Exit {
        return Err(FrameError::Unexpected(frame.kind).into());
    }
    match frame.parse::<Exit>()?.shell_code() {
        0 => Ok(()),
        code => Err(CliError::failed(format!(
            "copy: the guest's side ended with code {code}"
        ))),
    }
}

/// The next frame; a failure or the stream's end as an error.
async fn next(reader: &mut FrameReader) -> Result<Frame, CliError> {
    let frame = reader
        .recv()
        .await?
        .ok_or_else(|| CliError::failed("copy: the daemon ended the stream before the end"))?;
    if frame.kind == FrameKind::Failure {
        return Err(frame.parse::<Problem>()?.into());
    }
    Ok(frame)
}

/// The data of a copy as it comes. That it stops without its end mark is an error, not an end.
#[derive(Debug)]
pub(crate) struct FrameSource {
    pieces: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    has_ended: bool,
}

impl Read for FrameSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() && !self.has_ended {
            self.current = self
                .pieces
                .blocking_recv()
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            self.position = 0;
            self.has_ended = self.current.is_empty();
        }
        let pending = &self.current[self.position..];
        let count = pending.len().min(buffer.len());
        buffer[..count].copy_from_slice(&pending[..count]);
        self.position += count;
        Ok(count)
    }
}
