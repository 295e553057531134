//! `cargo xtask soak`: one daemon under many clients, garbage and idle connections, and what it
//! keeps of that: no VM, no descriptor, no memory.
//!
//! The VMs are made and removed but not started: this is about the daemon. It fails on any answer
//! that is not the expected one, and on what is left or grows.

use crate::bench::home::Home;
use crate::bench::report::{median, millis, p99};
use anyhow::{Context, Result, bail};
use banger_api::client::{Client, ClientError};
use banger_api::{CreateVm, ProblemCode, VersionView, VmSpec, VmView};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// How much more memory the daemon may have at the end than after the first phase, in MiB.
const MAX_GROWTH: f64 = 8.0;

/// How many descriptors more than at the start, once idle connections were let go of.
const MAX_MORE_FILES: usize = 4;

/// How much of everything is done.
struct Size {
    clients: usize,
    calls: usize,
    cycles: usize,
    garbage: usize,
    idle: usize,
}

const FULL: Size = Size {
    clients: 64,
    calls: 1000,
    cycles: 1000,
    garbage: 100_000,
    idle: 1000,
};

const SHORT: Size = Size {
    clients: 64,
    calls: 25,
    cycles: 50,
    garbage: 2000,
    idle: 400,
};

/// Runs it all against a daemon of its own.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let size = match args {
        [] => FULL,
        ["--short"] => SHORT,
        _ => bail!("usage: cargo xtask soak [--short]"),
    };
    let home = Home::new()?;
    let socket = home.path().join("run/bangerd.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(soak(&home, &socket, &size))
}

async fn soak(home: &Home, socket: &Path, size: &Size) -> Result<()> {
    let proc = PathBuf::from("/proc").join(home.daemon_pid()?);
    let client = Client::new(socket);
    println!(
        "{:<34} {:>9} {:>8} {:>9} {:>9} {:>8} {:>6}",
        "phase", "calls", "seconds", "p50 ms", "p99 ms", "RSS MiB", "files"
    );
    let files = open_files(&proc)?;
    let line = |name: String, times: Vec<Duration>, start: Instant| -> Result<f64> {
        let times: Vec<f64> = times.into_iter().map(millis).collect();
        let resident = home.daemon_resident_mib()?;
        println!(
            "{name:<34} {:>9} {:>8.1} {:>9.2} {:>9.2} {resident:>8.1} {:>6}",
            times.len(),
            start.elapsed().as_secs_f64(),
            median(&times),
            p99(&times),
            open_files(&proc)?,
        );
        Ok(resident)
    };

    let start = Instant::now();
    let times = clients(&client, size).await?;
    let before = line(
        format!("{} clients, mixed calls", size.clients),
        times,
        start,
    )?;

    let start = Instant::now();
    let mut times = Vec::new();
    for cycle in 0..size.cycles {
        times.extend(cycle_of(&client, &format!("cycle-{cycle}")).await?);
    }
    line("create and remove".into(), times, start)?;

    let start = Instant::now();
    let times = garbage(socket, size.garbage).await?;
    line("malformed requests".into(), times, start)?;

    let start = Instant::now();
    let times = idle(socket, &client, size.idle).await?;
    line(
        format!("beside {} idle connections", size.idle),
        times,
        start,
    )?;

    let start = Instant::now();
    let times = clients(&client, size).await?;
    let after = line(format!("{} clients again", size.clients), times, start)?;

    let left: Vec<VmView> = client.get("/v1/vms").await?;
    if !left.is_empty() {
        bail!("{} VMs are left", left.len());
    }
    if after - before > MAX_GROWTH {
        bail!("the daemon grew from {before:.1} to {after:.1} MiB");
    }
    let more = open_files(&proc)?.saturating_sub(files);
    if more > MAX_MORE_FILES {
        bail!("the daemon has {more} files more open than before");
    }
    println!("soak: nothing is left; {:+.1} MiB", after - before);
    Ok(())
}

fn open_files(proc: &Path) -> Result<usize> {
    Ok(fs::read_dir(proc.join("fd"))
        .context("look at the daemon's files")?
        .count())
}

/// Many clients at once, each with VMs of its own and questions about all.
async fn clients(client: &Client, size: &Size) -> Result<Vec<Duration>> {
    let mut all = JoinSet::new();
    for number in 0..size.clients {
        let client = client.clone();
        let calls = size.calls;
        all.spawn(async move {
            let mut times = Vec::new();
            let mut turn = 0;
            while times.len() < calls {
                turn += 1;
                if turn % 8 == 0 {
                    times.extend(cycle_of(&client, &format!("c{number}-{turn}")).await?);
                    continue;
                }
                let start = Instant::now();
                match turn % 4 {
                    0 => drop(client.get::<Vec<VmView>>("/v1/vms").await?),
                    1 => drop(client.get::<VersionView>("/v1/version").await?),
                    2 => expect(
                        client.get::<VmView>("/v1/vms/nobody").await,
                        ProblemCode::NotFound,
                    )?,
                    _ => expect(
                        client.post::<_, VmView>("/v1/vms", &"no object").await,
                        ProblemCode::Invalid,
                    )?,
                }
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = all.join_next().await {
        times.extend(done??);
    }
    Ok(times)
}

/// A VM is made, found under its name, refused a second time, removed, and gone.
async fn cycle_of(client: &Client, name: &str) -> Result<Vec<Duration>> {
    let asked = CreateVm {
        vm: VmSpec {
            name: Some(name.parse()?),
            ..VmSpec::default()
        },
        start: false,
        timeout_ms: None,
    };
    let path = format!("/v1/vms/{name}");
    let mut times = Vec::new();
    let mut last = Instant::now();
    let mut lap = || {
        times.push(last.elapsed());
        last = Instant::now();
    };
    client.steps("/v1/vms", &asked, |_| ()).await?;
    lap();
    let view: VmView = client.get(&path).await?;
    lap();
    if view.name.as_str() != name {
        bail!("asked for {name}, shown {}", view.name);
    }
    match client.steps("/v1/vms", &asked, |_| ()).await {
        Err(ClientError::Problem(problem)) if problem.code == ProblemCode::Conflict => {}
        other => bail!("{name} was made twice: {other:?}"),
    }
    lap();
    client.delete::<serde_json::Value>(&path).await?;
    lap();
    expect(client.get::<VmView>(&path).await, ProblemCode::NotFound)?;
    lap();
    Ok(times)
}

fn expect<T: std::fmt::Debug>(answer: Result<T, ClientError>, code: ProblemCode) -> Result<()> {
    match answer {
        Err(ClientError::Problem(problem)) if problem.code == code => Ok(()),
        other => bail!("not {code:?}: {other:?}"),
    }
}

/// Requests that are none. The daemon answers with a refusal or hangs up, and lives.
async fn garbage(socket: &Path, count: usize) -> Result<Vec<Duration>> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut times = Vec::new();
    for number in 0..count {
        let bytes = noise.request(number);
        let start = Instant::now();
        let mut stream = UnixStream::connect(socket).await?;
        // It may hang up before it has heard all.
        let _cut = stream.write_all(&bytes).await;
        let _cut = stream.shutdown().await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let heard = tokio::time::timeout(Duration::from_secs(30), reading).await;
        // A reset is an end, too; silence is none.
        let _end = heard
            .with_context(|| format!("no end after {:?}", bytes.escape_ascii().to_string()))?;
        if answer.starts_with(b"HTTP/1.1 2") {
            bail!("taken for a request: {}", bytes.escape_ascii());
        }
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Connections that say nothing; a client beside them is served all the same.
async fn idle(socket: &Path, client: &Client, count: usize) -> Result<Vec<Duration>> {
    let mut held = Vec::new();
    for _ in 0..count {
        match tokio::time::timeout(Duration::from_secs(60), UnixStream::connect(socket)).await {
            Ok(connected) => held.push(connected?),
            Err(_) => bail!("the daemon takes no connections"),
        }
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let asking = client.get::<VersionView>("/v1/version");
        tokio::time::timeout(Duration::from_secs(120), asking)
            .await
            .context("a client beside idle connections is not served")??;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Bytes that repeat from run to run: a xorshift generator.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(count).collect()
    }

    /// Something that looks like a request up to some point.
    fn request(&mut self, number: usize) -> Vec<u8> {
        let length = usize::try_from(self.next() % 200).unwrap_or(0);
        let mut noise = self.bytes(length);
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
            _ => text("DELETE /v1/vms/%00%ff../x HTTP/1.1\r\nhost: x\r\n\r\n"),
        }
    }
}
