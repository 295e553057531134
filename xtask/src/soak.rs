//! `cargo xtask soak`: one daemon under many clients, garbage and idle connections, and what it
//! keeps of that: no VM, no descriptor, no memory.
//!
//! Most VMs are made and removed but not started: this is about the daemon. It fails on any answer
//! that is not the expected one, and on what is left or grows. In the end the daemon is killed under
//! running VMs, and must have them back at once.

mod garbage;
mod noise;
mod takeover;

use crate::bench::home::Home;
use crate::bench::report::{median, millis, p99};
use anyhow::{Context, Result, bail};
use banger_api::client::{Client, ClientError};
use banger_api::{CreateVm, ProblemCode, VersionView, VmSpec, VmView};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
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
    requests: usize,
    streams: usize,
    idle: usize,
    vms: usize,
}

const FULL: Size = Size {
    clients: 64,
    calls: 1000,
    cycles: 1000,
    requests: 900_000,
    streams: 100_000 / garbage::FRAMES,
    idle: 1000,
    vms: 20,
};

const SHORT: Size = Size {
    clients: 64,
    calls: 25,
    cycles: 50,
    requests: 20_000,
    streams: 20,
    idle: 400,
    vms: 1,
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
    let times = garbage::requests(socket, size.requests).await?;
    line("16 malformed requests each".into(), times, start)?;

    takeover::start(&client, 1).await?;
    let start = Instant::now();
    let times = garbage::frames(&client, &takeover::name(0), size.streams).await?;
    let frames = garbage::FRAMES;
    line(
        format!("streams of {frames} malformed frames"),
        times,
        start,
    )?;
    takeover::remove(&client, 1).await?;

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
    takeover::measure(home, &client, size.vms).await
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
    times_of(all).await
}

/// What all clients measured, once each has come to its end; the first failure of one.
async fn times_of(mut clients: JoinSet<Result<Vec<Duration>>>) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while let Some(done) = clients.join_next().await {
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
