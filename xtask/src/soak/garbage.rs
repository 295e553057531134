//! What is no request, or none that can be done, and what is no frame.

use super::noise::Noise;
use anyhow::{Context, Result, bail};
use banger_api::client::Client;
use banger_api::stream::UPGRADE;
use banger_guest::frame::{HEAD, Kind};
use banger_guest::request::Exec;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// How many requests that are whole but cannot be done come before one that ends the connection.
const BEFORE: usize = 15;

/// How many clients do this at once.
const CLIENTS: usize = 8;

/// How many frames are thrown at a stream.
pub(super) const FRAMES: usize = 50;

/// How long the daemon may take to end a connection.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends so many requests that are none. The daemon answers each that is whole with a refusal, and
/// what is not with one or by hanging up; times are of connections.
pub(super) async fn requests(socket: &Path, count: usize) -> Result<Vec<Duration>> {
    let mut all = JoinSet::new();
    for client in 0..CLIENTS {
        let socket = socket.to_owned();
        all.spawn(async move {
            let mut noise = Noise::new(client as u64);
            let mut times = Vec::new();
            for turn in 0..count.div_ceil(CLIENTS * (BEFORE + 1)) {
                let start = Instant::now();
                connection(&socket, &mut noise, turn).await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    super::times_of(all).await
}

async fn connection(socket: &Path, noise: &mut Noise, turn: usize) -> Result<()> {
    let mut bytes = Vec::new();
    for number in 0..BEFORE {
        bytes.extend(whole(noise, number));
    }
    bytes.extend(broken(noise, turn));
    let stream = UnixStream::connect(socket).await?;
    let answers = said_to(stream, bytes.clone()).await?;
    let answers = String::from_utf8_lossy(&answers);
    let shown = || bytes.escape_ascii().to_string();
    if answers.contains("HTTP/1.1 2") {
        bail!("taken for a request, among {}", shown());
    }
    let refusals = answers.matches("HTTP/1.1 4").count();
    // The last one may go down with the connection.
    if refusals + 1 < BEFORE {
        bail!(
            "{refusals} of {BEFORE} are refused, of {}: {answers}",
            shown()
        );
    }
    Ok(())
}

/// Sends it and hears the answer to its end; both ways at once, or neither would get on.
async fn said_to(stream: UnixStream, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = stream.into_split();
    let shown = bytes.escape_ascii().to_string();
    let writing = tokio::spawn(async move {
        // It may hang up before it has heard all.
        let _cut = writer.write_all(&bytes).await;
        let _cut = writer.shutdown().await;
    });
    let mut answer = Vec::new();
    let heard = tokio::time::timeout(LIMIT, reader.read_to_end(&mut answer)).await;
    // A reset is an end, too; silence is none.
    let _end = heard.with_context(|| format!("no end after {shown}"))?;
    writing.await?;
    Ok(answer)
}

/// A request by its form that asks for nothing there is.
fn whole(noise: &mut Noise, number: usize) -> Vec<u8> {
    // No body at all would ask for what is usual.
    let body = [&[0xff], &noise.bytes(200)[..]].concat();
    let text = |line: &str, kind: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\n{kind}content-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let json = "content-type: application/json\r\n";
    match number % 8 {
        0 => text("POST /v1/vms", json, &body),
        1 => text("POST /v1/vms", "", &body),
        2 => text("DELETE /v1/vms/%00%ff../x", "", b""),
        3 => text(&format!("GET /v1/vms/nobody-{}", noise.next()), "", b""),
        4 => text("BREW /v1/vms", "", &body),
        5 => text("POST /v1/run", json, b"{\"vm\":[[[[[[[["),
        6 => text("PATCH /v1/vms/nobody", json, b"{\"labels\":{\"a\":1e999}}"),
        _ => text("POST /v1/vms/nobody/exec", json, b"{\"argv\":null}"),
    }
}

/// Something that looks like a request up to some point.
fn broken(noise: &mut Noise, number: usize) -> Vec<u8> {
    let mut noise = noise.bytes(200);
    // Or a head might end in it after all.
    noise.retain(|byte| *byte != b'\n');
    let text = |head: &str| [head.as_bytes(), &noise[..]].concat();
    match number % 8 {
        0 => noise,
        1 => text("GET /v1/vms HTTP/1.1\r\nhost: "),
        2 => text("POST /v1/vms HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n"),
        3 => text("POST /v1/vms HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"),
        4 => text(
            "POST /v1/run HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        ),
        5 => text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        6 => [b"GET /".to_vec(), vec![b'a'; 100_000], noise].concat(),
        _ => text("DELETE /v1/vms/%00%ff../x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    }
}

/// Opens so many streams to a command in the VM and throws [`FRAMES`] frames that are none at each, at
/// once. The daemon ends each stream, and the command with it; times are of streams.
pub(super) async fn frames(client: &Client, vm: &str, count: usize) -> Result<Vec<Duration>> {
    let exec = Exec {
        argv: vec!["/bin/cat".into()],
        ..Exec::default()
    };
    let body = serde_json::to_string(&exec)?;
    let head = format!(
        "POST /v1/vms/{vm}/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: {UPGRADE}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut noise = Noise::new(99);
    let mut times = Vec::new();
    for turn in 0..count {
        let start = Instant::now();
        let mut stream = UnixStream::connect(client.socket()).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut said = Vec::new();
        // The command runs once that is told: its stream is open in the guest, too.
        while !contains(&said, b"\"open\"") {
            let read = tokio::time::timeout(LIMIT, stream.read_buf(&mut said)).await;
            if read.context("a stream does not open")?? == 0 {
                bail!("a stream is refused: {}", said.escape_ascii());
            }
        }
        let mut bytes = Vec::new();
        for number in turn..turn + FRAMES {
            bytes.extend(no_frame(&mut noise, number));
        }
        // What the command says back comes with the end of it all.
        said_to(stream, bytes).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Bytes that have no place in a stream to a command.
fn no_frame(noise: &mut Noise, number: usize) -> Vec<u8> {
    let payload = noise.bytes(300);
    let claimed = |kind: u8, length: u32| {
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        bytes.push(kind);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&payload);
        bytes
    };
    let length = u32::try_from(payload.len()).unwrap_or(0);
    match number % 8 {
        0 => claimed(0x7f, length),
        1 => claimed(Kind::Stdin as u8, u32::MAX),
        2 => claimed(Kind::Resize as u8, length),
        3 => claimed(Kind::Signal as u8, length),
        4 => claimed(Kind::Exit as u8, length),
        5 => claimed(Kind::Request as u8, length),
        6 => claimed(0, 0),
        _ => payload,
    }
}
