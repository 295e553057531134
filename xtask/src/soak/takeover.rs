//! A daemon that is killed under its running VMs: how long until the next one has them all back.

use super::super::bench::home::Home;
use super::super::bench::report::{median, millis, p99};
use anyhow::{Context, Result, bail};
use banger_api::client::Client;
use banger_api::{CreateVm, NetworkMode, VmSpec, VmState, VmView};
use banger_guest::frame::Kind;
use banger_guest::request::Exec;
use banger_names::ByteSize;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// How long it may take, from its start to all being listed as running.
const MOST: Duration = Duration::from_secs(2);

/// How many boot at once: in emulation each wants a CPU.
const AT_ONCE: usize = 2;

/// The name of one of the VMs.
pub(super) fn name(number: usize) -> String {
    format!("kept-{number}")
}

/// Makes and starts VMs with little memory.
pub(super) async fn start(client: &Client, count: usize) -> Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(AT_ONCE) {
        let mut booting = tokio::task::JoinSet::new();
        for number in some {
            let asked = CreateVm {
                vm: VmSpec {
                    name: Some(name(*number).parse()?),
                    memory: Some(ByteSize::mib(160)),
                    network: Some(NetworkMode::None),
                    ..VmSpec::default()
                },
                start: true,
                timeout_ms: None,
            };
            let client = client.clone();
            booting.spawn(async move { client.steps("/v1/vms", &asked, |_| ()).await });
        }
        while let Some(booted) = booting.join_next().await {
            booted??;
        }
    }
    Ok(())
}

/// Removes them.
pub(super) async fn remove(client: &Client, count: usize) -> Result<()> {
    for number in 0..count {
        let path = format!("/v1/vms/{}?force=true", name(number));
        client.delete::<serde_json::Value>(&path).await?;
    }
    Ok(())
}

/// Kills the daemon under so many VMs, has the command line start another, and asks each VM.
pub(super) async fn measure(home: &Home, client: &Client, count: usize) -> Result<()> {
    let booting = Instant::now();
    start(client, count).await?;
    println!(
        "{count} VMs run after {:.1} s",
        booting.elapsed().as_secs_f64()
    );
    let pid = home.daemon_pid()?;
    crate::must(std::process::Command::new("kill").args(["-KILL", &pid]))?;
    // It is gone when nobody takes connections: its last thread closes the socket.
    while UnixStream::connect(client.socket()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    home.json(&["vm", "list"])?;
    let vms: Vec<VmView> = client.get("/v1/vms").await?;
    let took = start.elapsed();
    let running = vms.iter().filter(|vm| vm.state == VmState::Running).count();
    let mut times = Vec::new();
    for number in 0..count {
        let start = Instant::now();
        exec(client, &name(number)).await?;
        times.push(millis(start.elapsed()));
    }
    println!(
        "{:<34} {:>9} {:>8} {:>9} {:>9}\n{:<34} {running:>9} {:>8.2} {:>9.2} {:>9.2}",
        "daemon killed under VMs",
        "running",
        "seconds",
        "p50 ms",
        "p99 ms",
        format!("{count} VMs taken over, exec in each"),
        took.as_secs_f64(),
        median(&times),
        p99(&times),
    );
    remove(client, count).await?;
    if running != count {
        bail!("{running} of {count} VMs are running after the daemon was killed");
    }
    if took > MOST {
        bail!("{count} VMs were taken over in {took:.1?}, which may take {MOST:?}");
    }
    Ok(())
}

async fn exec(client: &Client, vm: &str) -> Result<()> {
    let exec = Exec {
        argv: vec!["/bin/true".into()],
        ..Exec::default()
    };
    let mut stream = client.upgrade(&format!("/v1/vms/{vm}/exec"), &exec).await?;
    loop {
        let frame = stream.recv().await?.context("the stream has no result")?;
        match frame.kind {
            Kind::Exit => return Ok(()),
            Kind::Failure => bail!("{vm}: {}", String::from_utf8_lossy(&frame.payload)),
            _ => {}
        }
    }
}
