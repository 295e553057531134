//! The agent's side of the protocol, for commands that tests need.

use banger_guest::client::FramedStream;
use banger_guest::frame::{Frame, Kind};
use banger_guest::request::{Exec, Exit, Failure, FailureCode, Health, Reply, Request};
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::watch;

/// What happened in the guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The bytes of the last copy.
    pub(crate) copied: Mutex<Vec<u8>>,
    /// Requests that were taken, and requests whose stream has ended.
    pub(crate) taken: watch::Sender<usize>,
    pub(crate) ended: watch::Sender<usize>,
    /// Whether the VMM answers nothing.
    pub(crate) is_stuck: watch::Sender<bool>,
    /// The last ssh request.
    pub(crate) ssh: Mutex<Option<banger_guest::request::Ssh>>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            copied: Mutex::default(),
            taken: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            is_stuck: watch::Sender::new(false),
            ssh: Mutex::default(),
        }
    }
}

impl Guest {
    pub(crate) async fn taken(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        taken.wait_for(|&now| now >= count).await.unwrap();
    }
}

type Stream = FramedStream<DuplexStream>;

pub(crate) async fn serve(stream: DuplexStream, guest: Arc<Guest>, power_off: impl Fn() + Send) {
    let mut stream = FramedStream::new(stream);
    let Ok(Some(first)) = stream.recv().await else {
        return;
    };
    let request: Request = first.parse().unwrap();
    guest.taken.send_modify(|count| *count += 1);
    let _broken = answer(&mut stream, request, &guest, power_off).await;
    guest.ended.send_modify(|count| *count += 1);
}

async fn answer(
    stream: &mut Stream,
    request: Request,
    guest: &Guest,
    power_off: impl Fn(),
) -> Option<()> {
    let reply = Reply {
        pid: Some(42),
        health: Some(Health::default()),
    };
    let missing = matches!(&request, Request::Exec(exec) if exec.argv[0] == "missing");
    if missing {
        let failure = Failure {
            code: FailureCode::NotFound,
            message: "find the program \"missing\"".into(),
        };
        return send(stream, &Frame::json(Kind::Failure, &failure).unwrap()).await;
    }
    send(stream, &Frame::json(Kind::Reply, &reply).unwrap()).await?;
    match request {
        Request::Health => {}
        Request::Exec(exec) => execute(stream, &exec).await?,
        Request::CopyIn(_) => {
            guest.copied.lock().unwrap().clear();
            while let Some(data) = receive(stream, Kind::Data).await? {
                guest.copied.lock().unwrap().extend_from_slice(&data);
            }
            exit(stream, 0).await?;
        }
        Request::CopyOut(_) => {
            send(stream, &Frame::new(Kind::Data, *b"tar")).await?;
            send(stream, &Frame::new(Kind::Data, [])).await?;
            exit(stream, 0).await?;
        }
        Request::Dial(_) => {
            while let Some(data) = receive(stream, Kind::Data).await? {
                send(stream, &Frame::new(Kind::Data, data)).await?;
            }
        }
        Request::Ssh(ssh) => {
            *guest.ssh.lock().unwrap() = Some(ssh);
            send(stream, &Frame::new(Kind::Data, *b"SSH-2.0-fake\r\n")).await?;
        }
        // Port 80 is listened to, another never.
        Request::AwaitPort(wanted) if wanted.port == 80 => exit(stream, 0).await?,
        Request::AwaitPort(_) => {
            receive(stream, Kind::Data).await?;
        }
        Request::PowerOff => power_off(),
    }
    Some(())
}

async fn execute(stream: &mut Stream, exec: &Exec) -> Option<()> {
    match exec.argv[0].as_str() {
        "exit" => {
            send(stream, &Frame::new(Kind::Stdout, *b"out")).await?;
            send(stream, &Frame::new(Kind::Stderr, *b"err")).await?;
            exit(stream, exec.argv[1].parse().unwrap()).await
        }
        "cat" => {
            while let Some(data) = receive(stream, Kind::Stdin).await? {
                send(stream, &Frame::new(Kind::Stdout, data)).await?;
            }
            exit(stream, 0).await
        }
        "flood" => loop {
            send(stream, &Frame::new(Kind::Stdout, vec![b'x'; 60_000])).await?;
        },
        "lie" => send(stream, &Frame::new(Kind::Stdin, *b"x")).await,
        "leave" => Some(()),
        _ => loop {
            // Hangs until the host ends the stream.
            stream.recv().await.ok()??;
        },
    }
}

/// The next frame's bytes, which must be of `kind`; `Some(None)` at its end.
async fn receive(stream: &mut Stream, kind: Kind) -> Option<Option<Vec<u8>>> {
    let frame = stream.recv().await.ok()??;
    assert_eq!(frame.kind, kind);
    Some((!frame.payload.is_empty()).then_some(frame.payload))
}

async fn exit(stream: &mut Stream, code: u8) -> Option<()> {
    let exit = Exit {
        code: Some(code),
        ..Exit::default()
    };
    send(stream, &Frame::json(Kind::Exit, &exit).unwrap()).await
}

async fn send(stream: &mut Stream, frame: &Frame) -> Option<()> {
    stream.send(frame).await.ok()
}
