//! Frames between a client and a guest's agent: each direction lets through what has a place
//! in it, in order, no faster than the other end reads.

pub(crate) mod client_end;

use crate::problem::Refusal;
use crate::vm::handle::VmHandle;
use banger_api::{HungView, ProblemCode};
use banger_engine::{BoxStream, EngineError, Machine};
use banger_guest::client::{self, ClientError, FramedReader, FramedStream, FramedWriter, Lanes};
use banger_guest::frame::{AGENT_PORT, Frame, Kind};
use banger_guest::request::{Exit, Failure, Request};
use client_end::ClientEnd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};

/// How long the agent may take to take a request.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// How long a VMM that hangs is waited for.
const HUNG_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of a VM may take to be known once its stream broke, and the last words
/// of a stream to arrive once its VM ended.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How a relay ended well.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// The guest's last word; it was not sent to the client.
    Exit(Exit),
    /// The guest ended a connection.
    Closed,
    /// The client left.
    ClientGone,
}

/// A stream to a VM's agent on which a request was taken.
pub(crate) struct GuestEnd {
    vm: VmHandle,
    machine: Arc<dyn Machine>,
    reader: FramedReader<ReadHalf<BoxStream>>,
    writer: FramedWriter<WriteHalf<BoxStream>>,
    lanes: Lanes,
}

impl GuestEnd {
    /// Asks the agent of `vm`.
    pub(crate) async fn open(vm: &VmHandle, request: &Request) -> Result<Self, Refusal> {
        let machine = vm.running()?;
        let lanes = Lanes::of(request)
            .ok_or_else(|| Refusal::invalid("open a stream: the request has none"))?;
        let opening = async {
            let stream = machine.connect(AGENT_PORT).await.map_err(Broken::Engine)?;
            client::request(stream, request)
                .await
                .map_err(Broken::Agent)
        };
        let opened = tokio::select! {
            opened = tokio::time::timeout(OPEN_LIMIT, opening) => opened,
            hung = vm.hangs_for(HUNG_LIMIT) => return Err(is_hung(vm, &hung)),
        };
        let stream: FramedStream<BoxStream> = match opened {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(Broken::Agent(ClientError::Failed(failure)))) => {
                return Err(Refusal::of_guest(failure));
            }
            Ok(Err(Broken::Agent(error))) => return Err(broken(vm, &machine, &error).await),
            Ok(Err(Broken::Engine(error))) => return Err(broken(vm, &machine, &error).await),
            Err(_) => {
                return Err(Refusal::new(
                    ProblemCode::TimedOut,
                    format!(
                        "ask the agent of VM {:?}: no answer within {} s",
                        vm.name().as_str(),
                        OPEN_LIMIT.as_secs()
                    ),
                )
                .hint(format!("banger vm logs {}", vm.name())));
            }
        };
        let (reader, writer) = stream.split();
        Ok(Self {
            vm: vm.clone(),
            machine,
            reader,
            writer,
            lanes,
        })
    }

    /// Waits for the last word of a request that says nothing else.
    pub(crate) async fn outcome(mut self) -> Result<Exit, Refusal> {
        let told = tokio::select! {
            biased;
            told = self.reader.recv() => told,
            _ = self.machine.wait() => Ok(None),
        };
        match told {
            Ok(Some(frame)) if frame.kind == Kind::Exit => parse(&frame),
            Ok(Some(frame)) if frame.kind == Kind::Failure => {
                Err(Refusal::of_guest(parse::<Failure>(&frame)?))
            }
            Ok(Some(frame)) => Err(out_of_place("the guest's agent", frame.kind)),
            Ok(None) | Err(_) if has_ended(&self.machine).await => Err(gone(&self.vm).await),
            Ok(None) => Err(broken(&self.vm, &self.machine, &ClientError::Ended).await),
            Err(error) => Err(misspoke(&error)),
        }
    }

    /// Hands frames on until one side ends. With `until_data_end`, what the client sends
    /// after its empty `Data` frame is kept for later instead of handed on.
    pub(crate) async fn relay(
        mut self,
        client: &mut ClientEnd,
        until_data_end: bool,
    ) -> Result<Relayed, Refusal> {
        let (mut incoming, outgoing) = client.parts();
        let lanes = self.lanes;
        let writer = &mut self.writer;
        let inward = async {
            loop {
                let frame = match incoming.next().await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Ok(Relayed::ClientGone),
                    Err(error) => return Err(misspoke(&error)),
                };
                if !lanes.to_guest.contains(&frame.kind) {
                    return Err(out_of_place("the client", frame.kind));
                }
                // The guest may have stopped reading because it has finished: what it says on
                // the other lane decides.
                if writer.send(&frame).await.is_err() {
                    return Ok(incoming.gone().await);
                }
                if until_data_end && frame.kind == Kind::Data && frame.payload.is_empty() {
                    return Ok(incoming.gone().await);
                }
            }
        };
        let reader = &mut self.reader;
        let outward = async {
            loop {
                let frame = match reader.recv().await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Ok(Told::Ended),
                    Err(ClientError::Io(_)) => return Ok(Told::Ended),
                    Err(error) => return Ok(Told::Nonsense(error)),
                };
                if !lanes.to_host.contains(&frame.kind) {
                    return Err(out_of_place("the guest's agent", frame.kind));
                }
                match frame.kind {
                    Kind::Exit => return Ok(Told::Exit(parse(&frame)?)),
                    Kind::Failure => return Err(Refusal::of_guest(parse::<Failure>(&frame)?)),
                    _ => {}
                }
                if outgoing.send(&frame).await.is_err() {
                    return Ok(Told::ClientGone);
                }
            }
        };
        let machine = Arc::clone(&self.machine);
        let vm_ended = async {
            machine.wait().await;
            // What the guest said last is in the channel still.
            tokio::time::sleep(END_LIMIT).await;
        };
        let told = tokio::select! {
            biased;
            told = outward => told?,
            ended = inward => return ended,
            () = vm_ended => Told::Ended,
        };
        match told {
            Told::Exit(exit) => Ok(Relayed::Exit(exit)),
            Told::ClientGone => Ok(Relayed::ClientGone),
            // Its end may have come within a frame.
            Told::Ended | Told::Nonsense(_) if has_ended(&self.machine).await => {
                Err(gone(&self.vm).await)
            }
            Told::Nonsense(error) => Err(misspoke(&error)),
            Told::Ended if lanes.to_host.contains(&Kind::Exit) => Err(Refusal::new(
                ProblemCode::Internal,
                format!(
                    "use VM {:?}: its agent ended the stream without a result",
                    self.vm.name().as_str()
                ),
            )),
            Told::Ended => Ok(Relayed::Closed),
        }
    }
}

/// Why a stream could not be opened.
enum Broken {
    Engine(EngineError),
    Agent(ClientError),
}

/// What the guest's lane ended with.
enum Told {
    Exit(Exit),
    Ended,
    Nonsense(ClientError),
    ClientGone,
}

fn parse<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, Refusal> {
    frame
        .parse()
        .map_err(|error| misspoke(&ClientError::Frame(error)))
}

fn misspoke(error: &ClientError) -> Refusal {
    Refusal::internal("relay a stream", error)
}

fn out_of_place(who: &str, kind: Kind) -> Refusal {
    Refusal::invalid(format!(
        "relay a stream: {who} sent a {kind:?} frame out of place"
    ))
}

fn is_hung(vm: &VmHandle, hung: &HungView) -> Refusal {
    let name = vm.name();
    let message = format!("ask the agent of VM {:?}: {}", name.as_str(), hung.why);
    Refusal::new(ProblemCode::TimedOut, message)
        .hint(format!("wait until it answers, or banger vm kill {name}"))
}

/// A broken stream: because the VM ended, or else because of `error`.
async fn broken(
    vm: &VmHandle,
    machine: &Arc<dyn Machine>,
    error: &(dyn std::error::Error + Send + Sync + 'static),
) -> Refusal {
    if has_ended(machine).await {
        return gone(vm).await;
    }
    Refusal::internal(
        format!("ask the agent of VM {:?}", vm.name().as_str()),
        error,
    )
    .hint(format!("banger vm logs {}", vm.name()))
}

/// Whether the VM has ended, or does at once.
async fn has_ended(machine: &Arc<dyn Machine>) -> bool {
    tokio::time::timeout(END_LIMIT, machine.wait())
        .await
        .is_ok()
}

/// Why the VM is gone, once its driver has said so.
async fn gone(vm: &VmHandle) -> Refusal {
    let mut truth = vm.truth.clone();
    let told = truth.wait_for(|now| now.machine.is_none());
    // Late, the state alone must do.
    let _told = tokio::time::timeout(END_LIMIT, told).await.is_ok();
    vm.gone()
}
