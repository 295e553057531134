//! An attached command: its output, input, signals and terminal, from the first byte of the
//! stream to its end.
//!
//! ```text
//!   daemon ──▶ reader task ──▶ output thread ──▶ stdout, stderr
//!                  └─ events ─▶ the session ◀── signals
//!   daemon ◀── writer task ◀── signals, resizes (first) and stdin or workspace (with backpressure)
//! ```
//! The session goes through three phases: *prelude* (the VM boots, the workspace is sent),
//! *attached* (the command runs) and *farewell* (the daemon cleans up; it ends the stream when
//! nothing is left). A signal in the prelude cancels, in the attached phase it is forwarded.

pub(crate) mod relay;
pub(crate) mod signals;
mod stdin;
pub(crate) mod terminal;
mod wires;

use crate::copy::sink::FrameSink;
use crate::error::{CliError, Kind};
use crate::ui::Ui;
use crate::ui::progress::Progress;
use crate::ui::sanitize;
use crate::workspace::Workspace;
use banger_api::client::FrameStream;
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, Kind as FrameKind};
use banger_guest::request::Exit;
use signals::{Caught, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use wires::{Event, Wires};

/// How long the daemon may take to clean up before we leave it to it.
const FAREWELL: Duration = Duration::from_secs(15);

/// How long cleaning up may take before the user is told about it.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a session does besides passing output on.
#[derive(Debug)]
pub(crate) struct Options {
    /// Whether standard input goes to the command; else it sees its end at once.
    pub stdin: bool,
    /// Whether the command has a terminal, and ours becomes raw.
    pub tty: bool,
    /// Whether the VM goes away with the stream: decides what is said while waiting.
    pub removes_vm: bool,
    /// The files to send once the VM runs.
    pub workspace: Option<Workspace>,
}

/// How long a stream that is being opened may take to open once the user gave up: an open one
/// can be closed in order and tells when nothing is left.
const OPENING: Duration = Duration::from_secs(2);

/// A stream that was opened, and the signal that came meanwhile.
#[derive(Debug)]
pub(crate) struct Opened {
    stream: FrameStream,
    interrupted: Option<u8>,
}

/// Opens a stream; a signal ends the attempt unless it is about to succeed.
pub(crate) async fn open(
    signals: &mut Signals,
    opening: impl Future<Output = Result<FrameStream, CliError>>,
) -> Result<Opened, CliError> {
    tokio::pin!(opening);
    tokio::select! {
        opened = &mut opening => opened.map(|stream| Opened { stream, interrupted: None }),
        signal = signals.next_end() => match timeout(OPENING, opening).await {
            Ok(Ok(stream)) => Ok(Opened { stream, interrupted: Some(signal) }),
            _ => Err(CliError::new(
                Kind::Cancelled(signal),
                format!("interrupted by signal {signal} before anything was begun"),
            )),
        },
    }
}

/// A command's stream and what goes with it.
#[derive(Debug)]
pub(crate) struct Session {
    ui: Ui,
    wires: Wires,
    signals: Signals,
    options: Options,
    progress: Progress,
    sent: Option<(Arc<AtomicU64>, u64)>,
    has_booted: bool,
    interrupted: Option<u8>,
}

impl Session {
    /// A session on a stream, which no frame was read from yet.
    pub(crate) fn new(
        ui: &Ui,
        opened: Opened,
        signals: Signals,
        progress: Progress,
        options: Options,
    ) -> Self {
        Self {
            ui: ui.clone(),
            wires: Wires::lay(opened.stream),
            interrupted: opened.interrupted,
            signals,
            has_booted: !options.removes_vm,
            options,
            progress,
            sent: None,
        }
    }

    /// Runs the session to its end and returns how the command ended.
    pub(crate) async fn run(mut self) -> Result<Exit, CliError> {
        if let Some(signal) = self.interrupted {
            return Err(self.cancel(signal).await);
        }
        self.prelude().await?;
        let exit = self.attached().await?;
        self.farewell().await;
        Ok(exit)
    }

    async fn prelude(&mut self) -> Result<(), CliError> {
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                event = self.wires.events.recv() => match event {
                    Some(Event::Stream(StreamEvent::Progress(progress))) => {
                        self.progress.show(&progress);
                    }
                    Some(Event::Stream(StreamEvent::Booted(vm))) => {
                        self.has_booted = true;
                        let boot = vm.boot_ms.unwrap_or_default();
                        let engine = vm.engine.as_deref().unwrap_or("an unknown engine");
                        self.ui.detail(&format!(
                            "{} ({}) booted in {boot} ms by {}",
                            vm.name,
                            vm.id,
                            sanitize::line(engine)
                        ));
                        self.send_workspace();
                    }
                    Some(Event::Stream(StreamEvent::Open)) => {
                        self.progress.clear();
                        return Ok(());
                    }
                    other => return Err(self.broken(other).await),
                },
                signal = self.signals.next_end() => return Err(self.cancel(signal).await),
                _ = tick.tick(), if self.sent.is_some() => self.show_sent(),
            }
        }
    }

    async fn attached(&mut self) -> Result<Exit, CliError> {
        let raw = if self.options.tty {
            terminal::RawMode::enter()?
        } else {
            None
        };
        if self.options.stdin {
            let window = self.wires.window.clone();
            stdin::feed(FrameKind::Stdin, self.wires.data.clone(), Some(window));
        } else {
            self.wires.control(Frame::new(FrameKind::Stdin, Vec::new()));
        }
        let mut size = None;
        if self.options.tty {
            self.resize(&mut size)?;
        }
        let result = loop {
            tokio::select! {
                event = self.wires.events.recv() => match event {
                    Some(Event::Exit(exit)) => break Ok(exit),
                    Some(Event::OutputClosed) => {
                        self.wires.hang_up();
                        self.farewell().await;
                        break Err(CliError::new(Kind::OutputClosed, "write the output: its reader is gone"));
                    }
                    other => break Err(self.broken(other).await),
                },
                caught = self.signals.next() => match caught {
                    Caught::Resize if self.options.tty => self.resize(&mut size)?,
                    Caught::Resize => {}
                    // The terminal is gone: nobody is left to see or end the command.
                    Caught::Signal("HUP", number) if self.options.tty => {
                        break Err(self.cancel(number).await);
                    }
                    Caught::Signal(name, _) => {
                        self.wires.control(Frame::new(FrameKind::Signal, name));
                    }
                },
            }
        };
        drop(raw);
        result
    }

    /// Waits until the daemon has ended the stream, which it does when nothing is left.
    async fn farewell(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        let patience = sleep_until(Instant::now() + PATIENCE);
        tokio::pin!(patience);
        let mut is_told = !self.options.removes_vm;
        loop {
            tokio::select! {
                event = self.wires.events.recv() => match event {
                    None | Some(Event::End) => return,
                    Some(Event::Failed(error)) => {
                        self.ui.detail(&format!("after the command's end: {error}"));
                    }
                    Some(_) => {}
                },
                () = &mut patience, if !is_told => {
                    is_told = true;
                    self.ui.detail("removing the VM");
                }
                _ = self.signals.next_end() => return,
                () = sleep_until(deadline) => {
                    if self.options.removes_vm {
                        self.ui.note("the daemon is still removing the VM: banger ps -a shows what is left");
                    }
                    return;
                }
            }
        }
    }

    /// Gives up because of a signal: closes the stream and waits for the daemon to clean up.
    async fn cancel(&mut self, signal: u8) -> CliError {
        self.wires.hang_up();
        self.progress.clear();
        let done = async {
            loop {
                match self.wires.events.recv().await {
                    None | Some(Event::End | Event::Failed(_)) => return,
                    Some(_) => {}
                }
            }
        };
        tokio::pin!(done);
        let mut outcome = if timeout(PATIENCE, &mut done).await.is_ok() {
            "nothing is left of it"
        } else {
            self.ui
                .note("interrupted: waiting until the daemon has cleaned up (interrupt again to leave at once)");
            tokio::select! {
                ended = timeout(FAREWELL, &mut done) => match ended {
                    Ok(()) => "nothing is left of it",
                    Err(_) => "the daemon has not confirmed its clean-up: banger ps -a shows what is left",
                },
                _ = self.signals.next_end() => "the daemon cleans up by itself",
            }
        };
        if !self.options.removes_vm {
            outcome = "the command was ended, the VM stays";
        }
        CliError::new(
            Kind::Cancelled(signal),
            format!("interrupted by signal {signal}: {outcome}"),
        )
    }

    /// The error for an event that ends the stream before its time.
    async fn broken(&mut self, event: Option<Event>) -> CliError {
        self.progress.clear();
        let mut error = match event {
            Some(Event::Failed(error)) => error,
            None | Some(Event::End) => {
                CliError::failed("the daemon ended the stream before the command ended")
                    .hint("banger doctor")
            }
            Some(other) => CliError::new(
                Kind::Internal,
                format!("the daemon sent {other:?} out of turn"),
            ),
        };
        // Before the boot something else was not found: the image, say.
        if error.kind == Kind::NotFound && self.has_booted {
            error.kind = Kind::ProgramNotFound;
        }
        self.wires.hang_up();
        self.farewell().await;
        error
    }

    fn resize(&self, last: &mut Option<banger_guest::request::Resize>) -> Result<(), CliError> {
        let size = terminal::size();
        if *last != Some(size) {
            *last = Some(size);
            self.wires.control(Frame::json(FrameKind::Resize, &size)?);
        }
        Ok(())
    }

    fn send_workspace(&mut self) {
        let Some(workspace) = self.options.workspace.take() else {
            return;
        };
        let sink = FrameSink::new(self.wires.data.clone());
        self.sent = Some((sink.sent(), workspace.size()));
        let failures = self.wires.failures();
        std::thread::spawn(move || {
            if let Err(error) = workspace.pack(sink) {
                // Without a listener the session is over already.
                drop(failures.blocking_send(Event::Failed(error)));
            }
        });
    }

    fn show_sent(&mut self) {
        let Some((sent, total)) = &self.sent else {
            return;
        };
        self.progress.show(&banger_api::Progress {
            step: "copy the workspace".into(),
            detail: String::new(),
            done: Some(sent.load(Ordering::Relaxed)),
            total: Some(*total),
        });
    }
}
