//! The tasks and the thread between the stream and a session.

use super::stdin::Window;
use crate::error::CliError;
use crate::ui::attached;
use banger_api::Problem;
use banger_api::client::{FrameReader, FrameStream, FrameWriter};
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, FrameError, Kind};
use banger_guest::request::{Exit, Taken};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Frames of input or workspace that wait to be sent: backpressure begins here.
pub(super) const DATA_AHEAD: usize = 8;

/// Pieces of output that wait to be written.
const OUTPUT_AHEAD: usize = 16;

/// What the session is told.
#[derive(Debug)]
pub(super) enum Event {
    /// What the daemon says about the stream.
    Stream(StreamEvent),
    /// The command ended, and all its output is written.
    Exit(Exit),
    /// It failed, there or here.
    Failed(CliError),
    /// Whoever read our standard output is gone.
    OutputClosed,
    /// The daemon ended the stream.
    End,
}

/// Both directions of a stream.
#[derive(Debug)]
pub(super) struct Wires {
    /// What happens.
    pub events: mpsc::Receiver<Event>,
    /// Takes frames that may have to wait for the guest.
    pub data: mpsc::Sender<Frame>,
    /// How far input may be sent ahead.
    pub window: Window,
    control: mpsc::UnboundedSender<Frame>,
    failures: mpsc::Sender<Event>,
    hang_up: Option<oneshot::Sender<()>>,
    discard: watch::Sender<bool>,
}

impl Wires {
    /// Starts the tasks.
    pub(super) fn lay(stream: FrameStream) -> Self {
        let (reader, writer) = stream.split();
        let (event_sender, events) = mpsc::channel(OUTPUT_AHEAD);
        let (data, data_receiver) = mpsc::channel(DATA_AHEAD);
        let (control, control_receiver) = mpsc::unbounded_channel();
        let (hang_up, hung_up) = oneshot::channel();
        let (discard, discarded) = watch::channel(false);
        tokio::spawn(write(writer, control_receiver, data_receiver, hung_up));
        let window = Window::new();
        let receiving = Receiving {
            window: window.clone(),
            output: Some(Output::open(event_sender.clone())),
            events: event_sender.clone(),
            discarded,
        };
        tokio::spawn(receiving.read(reader));
        Self {
            events,
            data,
            window,
            control,
            failures: event_sender,
            hang_up: Some(hang_up),
            discard,
        }
    }

    /// Sends a frame before all data that waits.
    pub(super) fn control(&self, frame: Frame) {
        // The writer is gone only when the stream is; the reader says why.
        drop(self.control.send(frame));
    }

    /// Where threads that feed [`Wires::data`] report what went wrong.
    pub(super) fn failures(&self) -> mpsc::Sender<Event> {
        self.failures.clone()
    }

    /// Ends our direction, also amid a frame, and drops output from here on.
    pub(super) fn hang_up(&mut self) {
        self.discard.send_replace(true);
        self.hang_up = None;
    }
}

/// Sends frames until the session hangs up or is dropped, then ends our direction.
async fn write(
    mut writer: FrameWriter,
    mut control: mpsc::UnboundedReceiver<Frame>,
    mut data: mpsc::Receiver<Frame>,
    hung_up: oneshot::Receiver<()>,
) {
    let sending = async {
        loop {
            let frame = tokio::select! {
                biased;
                Some(frame) = control.recv() => frame,
                Some(frame) = data.recv() => frame,
                else => break,
            };
            if writer.send(&frame).await.is_err() {
                // The reader learns why the stream broke.
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = hung_up => {}
        () = sending => {}
    }
    drop(writer.shutdown().await);
}

/// The receiving task's state.
struct Receiving {
    window: Window,
    output: Option<Output>,
    events: mpsc::Sender<Event>,
    discarded: watch::Receiver<bool>,
}

impl Receiving {
    async fn read(mut self, mut reader: FrameReader) {
        loop {
            let event = match reader.recv().await {
                Ok(Some(frame)) if matches!(frame.kind, Kind::Stdout | Kind::Stderr) => {
                    self.pass_on(frame).await;
                    continue;
                }
                Ok(Some(frame)) if frame.kind == Kind::Taken => match frame.parse::<Taken>() {
                    Ok(taken) => {
                        self.window.widen(taken.bytes);
                        continue;
                    }
                    Err(error) => Event::Failed(error.into()),
                },
                Ok(Some(frame)) => match self.interpret(frame).await {
                    Ok(event) => event,
                    Err(error) => Event::Failed(error.into()),
                },
                Ok(None) => Event::End,
                Err(error) => Event::Failed(error.into()),
            };
            let is_last = matches!(event, Event::End | Event::Failed(_));
            // A session that listens no longer has hung up; its end is near.
            if self.events.send(event).await.is_err() || is_last {
                return self.drain(reader).await;
            }
        }
    }

    /// Reads on to the stream's end, so that the session sees it also after a failure.
    async fn drain(self, mut reader: FrameReader) {
        while let Ok(Some(_)) = reader.recv().await {}
        drop(self.events.send(Event::End).await);
    }

    async fn pass_on(&mut self, frame: Frame) {
        let Some(output) = &self.output else {
            return;
        };
        let mut discarded = self.discarded.clone();
        tokio::select! {
            is_open = output.write(frame) => if is_open { return },
            _ = discarded.wait_for(|&is_discarded| is_discarded) => {}
        }
        self.output = None;
    }

    async fn interpret(&mut self, frame: Frame) -> Result<Event, FrameError> {
        Ok(match frame.kind {
            Kind::Reply => Event::Stream(frame.parse()?),
            Kind::Failure => Event::Failed(frame.parse::<Problem>()?.into()),
            Kind::Exit => {
                let exit = frame.parse()?;
                if let Some(output) = self.output.take() {
                    let mut discarded = self.discarded.clone();
                    tokio::select! {
                        () = output.finish() => {}
                        _ = discarded.wait_for(|&is_discarded| is_discarded) => {}
                    }
                }
                Event::Exit(exit)
            }
            unexpected => return Err(FrameError::Unexpected(unexpected)),
        })
    }
}

/// The thread that writes the command's output.
struct Output {
    pieces: mpsc::Sender<Frame>,
    thread: JoinHandle<()>,
}

impl Output {
    fn open(events: mpsc::Sender<Event>) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Frame>(OUTPUT_AHEAD);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                let is_stderr = piece.kind == Kind::Stderr;
                let written = attached::write(is_stderr, &piece.payload);
                // Losing standard error is no reason to end a command; losing its output is.
                if written.is_err() && !is_stderr {
                    drop(events.blocking_send(Event::OutputClosed));
                    return;
                }
            }
        });
        Self { pieces, thread }
    }

    /// Hands a piece over; false when nobody writes any more.
    async fn write(&self, piece: Frame) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until all pieces are written.
    async fn finish(self) {
        drop(self.pieces);
        // The thread cannot panic, and if it were to there is nothing more to write.
        drop(self.thread.await);
    }
}
