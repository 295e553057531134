//! `/bin/true` in a guest that runs: by the command line, by the daemon, by the channel alone, and
//! by the guest itself.

use super::timed::{LIMIT, said, took};
use super::{Execs, VM, Vm, banger, base};
use crate::bench::report::millis;
use anyhow::{Context, Result, bail};
use banger_api::client::Client;
use banger_guest::client;
use banger_guest::frame::{AGENT_PORT, Kind};
use banger_guest::request::{Exec, Request};
use std::path::Path;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How many round trips are taken for each whole command.
const TRIPS: usize = 10;

pub(super) fn measure(kernel: &str, runs: usize) -> Result<Execs> {
    let vm = Vm::start(kernel)?;
    let mut command_ms = Vec::new();
    for turn in 0..=runs {
        let took = took(&mut banger(&["exec", VM, "true"])?)?;
        if turn > 0 {
            command_ms.push(millis(took));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(base()?.join("home/run/bangerd.sock"));
    let socket = vm.run.join("vsock.sock");
    let (daemon_ms, channel_ms) = runtime.block_on(async {
        let (mut daemon_ms, mut channel_ms) = (Vec::new(), Vec::new());
        for turn in 0..=TRIPS * runs {
            let start = Instant::now();
            timeout(LIMIT, by_daemon(&client)).await??;
            let through = start.elapsed();
            let start = Instant::now();
            timeout(LIMIT, by_channel(&socket)).await??;
            let bare = start.elapsed();
            if turn > 0 {
                daemon_ms.push(millis(through));
                channel_ms.push(millis(bare));
            }
        }
        anyhow::Ok((daemon_ms, channel_ms))
    })?;
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .context("this program has a strange name")?;
    super::timed::must(&mut banger(&["cp", program, &format!("{VM}:/root/xtask")])?)?;
    let count = (TRIPS * runs).to_string();
    let forks = [
        "exec",
        VM,
        "--",
        "/root/xtask",
        "bench",
        "inside",
        "forks",
        &count,
    ];
    let guest = said(&mut banger(&forks)?)?;
    vm.remove()?;
    Ok(Execs {
        command_ms,
        daemon_ms,
        channel_ms,
        guest: serde_json::from_str(&guest).context("read what the guest measured")?,
    })
}

fn exec() -> Exec {
    Exec {
        argv: vec!["/bin/true".to_owned()],
        ..Exec::default()
    }
}

async fn by_daemon(client: &Client) -> Result<()> {
    let path = format!("/v1/vms/{VM}/exec");
    let mut stream = client.upgrade(&path, &exec()).await?;
    loop {
        match stream.recv().await? {
            Some(frame) if frame.kind == Kind::Exit => return Ok(()),
            Some(frame) if frame.kind == Kind::Failure => {
                bail!("exec: {}", String::from_utf8_lossy(&frame.payload));
            }
            Some(_) => {}
            None => bail!("exec: the stream ended without an exit code"),
        }
    }
}

async fn by_channel(socket: &Path) -> Result<()> {
    let mut wire = UnixStream::connect(socket).await?;
    wire.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())
        .await?;
    // `OK`, a port and a line's end; what follows is the agent's.
    while wire.read_u8().await? != b'\n' {}
    let (mut stream, _) = client::request(wire, &Request::Exec(exec())).await?;
    loop {
        match stream.recv().await?.context("no exit code")?.kind {
            Kind::Exit => return Ok(()),
            Kind::Failure => bail!("exec over the channel failed"),
            _ => {}
        }
    }
}
