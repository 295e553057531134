//! How a Firecracker comes into our hands: started, or taken over after a restart of the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use super::api::Api;
use super::config;
use super::huge;
use super::machine::{FirecrackerMachine, STOPPING, last_words};
use super::vsock::{Called, Vsock, ready_socket};
use super::{jailed, locks};
use crate::held::{CONSOLE_LOG, Held, Sources, VMM_LOG, Vmm, last_lines};
use crate::log::{CappedLog, drain, drain_lines};
use crate::process::{Process, keep_from_keys};
use crate::socket::{RunDir, SocketFile};
use crate::{EngineError, MachineSpec, Place, ProcessId};

pub(super) const API_SOCKET: &str = "api.sock";
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";
pub(super) const CONSOLE_FIFO: &str = "console.fifo";
pub(super) const VMM_FIFO: &str = "vmm.fifo";
pub(super) const MACHINE_FILE: &str = "machine.json";

/// How long Firecracker may take to make its sockets. Generous: an emulated host is slow.
const LIMIT: Duration = Duration::from_secs(20);

/// The first descriptor of those that Firecracker only keeps open.
const FIRST_LOCK: i32 = 3;

/// Starts Firecracker and waits for its sockets. It then loads the kernel; where it cannot, it
/// ends. It must not be asked anything before that: a question to a Firecracker that gives up
/// makes it fail a second time, and the first reason is lost.
pub(super) async fn start(
    program: &Path,
    spec: &MachineSpec,
    place: &Place,
) -> Result<FirecrackerMachine, EngineError> {
    let huge_pages = spec.huge_pages && huge::suffice(spec.mem_mib);
    let machine = config::machine(spec, VSOCK_SOCKET, huge_pages)?;
    let run = Arc::new(RunDir::open(&place.run_dir)?);
    let console_log = CappedLog::begin(place, CONSOLE_LOG).await?;
    let vmm_log = CappedLog::begin(place, VMM_LOG).await?;
    let mut unfinished = Unfinished {
        run: Arc::clone(&run),
        process: None,
        done: false,
    };
    run.write(MACHINE_FILE, machine.to_string().as_bytes())?;
    for name in [API_SOCKET, VSOCK_SOCKET] {
        // Firecracker makes them itself, and not over an earlier run's.
        run.remove(name)
            .map_err(EngineError::io(format!("remove an old {name:?}")))?;
    }
    let called = Called::listen(Arc::clone(&run))?;
    let (console, stdout) = run.make_fifo(CONSOLE_FIFO)?;
    let (words, stderr) = run.make_fifo(VMM_FIFO)?;
    let appearing = Appearing::watch(Arc::clone(&run))?;
    let locks = locks::take(&spec.drives)?;
    let process = spawn(program, &run, locks, stdout, stderr)?;
    unfinished.process = Some(process.clone());

    let sources = sources(console, console_log, words, vmm_log, "");
    let held = Held::watch(Vmm::Ours(process), sources, place, last_words);
    // It listens at its API's socket before it makes this one.
    held.answers(appearing.wait_for(VSOCK_SOCKET)).await?;
    unfinished.done = true;
    let (api, vsock) = sockets(&run);
    let vsock = Vsock::of_new(vsock, called);
    Ok(FirecrackerMachine::new(held, Api::new(api), vsock))
}

/// Takes over a Firecracker that runs.
pub(crate) async fn adopt(
    id: &ProcessId,
    place: &Place,
) -> Result<FirecrackerMachine, EngineError> {
    if let Some(jail) = &place.jail {
        return jailed::adopt(jail, place).await;
    }
    let process = Process::adopt(id)?;
    let run = Arc::new(RunDir::open(&place.run_dir)?);
    let console_log = CappedLog::go_on(place, CONSOLE_LOG).await?;
    let vmm_log = CappedLog::go_on(place, VMM_LOG).await?;
    let console = run.read_fifo(CONSOLE_FIFO)?;
    let words = run.read_fifo(VMM_FIFO)?;
    let called = Called::listen(Arc::clone(&run))?;
    let (api, vsock) = sockets(&run);
    let vsock = Vsock::of_running(vsock, called);
    let said = last_lines(place.log_dir.join(VMM_LOG)).await;
    let sources = sources(console, console_log, words, vmm_log, &said);
    let held = Held::watch(Vmm::Ours(process), sources, place, last_words);
    let machine = FirecrackerMachine::new(held, Api::new(api), vsock);
    machine.greet_if_awake().await?;
    Ok(machine)
}

/// Where Firecracker makes its API's socket and the vsock's.
fn sockets(run: &Arc<RunDir>) -> (SocketFile, SocketFile) {
    let file = |name| SocketFile::InRunDir(Arc::clone(run), name);
    (file(API_SOCKET), file(VSOCK_SOCKET))
}

/// What it says, and `said` before.
pub(super) fn sources(
    console: Receiver,
    console_log: CappedLog,
    words: Receiver,
    vmm_log: CappedLog,
    said: &str,
) -> Sources {
    let (stops, stopping) = oneshot::channel();
    let mut stops = Some(stops);
    let mut hear = move |line: &[u8]| {
        if line.trim_ascii_end().ends_with(STOPPING.as_bytes())
            && let Some(stops) = stops.take()
        {
            // Nobody listens if it has ended already.
            let _ = stops.send(());
        }
    };
    said.lines().for_each(|line| hear(line.as_bytes()));
    let keeps = move |line: &[u8]| {
        hear(line);
        !is_of_ours(line)
    };
    Sources {
        console: tokio::spawn(drain(console, console_log)),
        others: vec![tokio::spawn(drain_lines(words, vmm_log, keeps))],
        stopping,
    }
}

/// Whether a line of its log only tells that we asked for a sign of life, and that it gave one.
fn is_of_ours(line: &[u8]) -> bool {
    [
        &b":INFO] The API server received a Get request on \"/\"."[..],
        b":INFO] The request was executed successfully. Status code: 200 OK.",
    ]
    .iter()
    .any(|end| line.trim_ascii_end().ends_with(end))
}

/// What a failed (or abandoned) start must undo.
#[derive(Debug)]
struct Unfinished {
    run: Arc<RunDir>,
    process: Option<Process>,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(process) = &self.process {
            process.kill_now();
        }
        let made = [API_SOCKET, VSOCK_SOCKET, CONSOLE_FIFO, VMM_FIFO];
        for name in made.into_iter().chain([MACHINE_FILE, &ready_socket()]) {
            if let Err(error) = self.run.remove(name) {
                crate::warn_io(&format!("remove {:?}", self.run.path().join(name)), &error);
            }
        }
    }
}

/// Spawns Firecracker with nothing of ours but its ends of the FIFOs and the locks.
fn spawn(
    program: &Path,
    run: &RunDir,
    locks: Vec<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Process, EngineError> {
    let step = || format!("start {program:?}");
    let mut command = Command::new(program);
    command
        .args(["--config-file", MACHINE_FILE, "--api-sock", API_SOCKET])
        .args(["--log-path", VMM_FIFO, "--level", "Info", "--show-level"])
        .env_clear()
        .current_dir(run.path())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    keep_from_keys(&mut command);
    let kept = (FIRST_LOCK..)
        .zip(locks)
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
    command
        .fd_mappings(kept.collect())
        .map_err(|error| EngineError::io(step())(io::Error::other(error)))?;
    let mut child = command.spawn().map_err(EngineError::io(step()))?;
    // Reaped through its pidfd by the watch task, or by the undoing of a failed start.
    Process::of_child(child.id()).inspect_err(|_| {
        if child.kill().is_ok() {
            drop(child.wait());
        }
    })
}

/// Waits for sockets that Firecracker makes.
#[derive(Debug)]
struct Appearing {
    run: Arc<RunDir>,
    events: AsyncFd<OwnedFd>,
}

impl Appearing {
    fn watch(run: Arc<RunDir>) -> Result<Self, EngineError> {
        let watch = || {
            #[expect(
                deprecated,
                reason = "its successor is unsafe code, for types that let go of their descriptor; OwnedFd cannot"
            )]
            AsyncFd::with_interest(run.watch()?, Interest::READABLE)
        };
        let events = watch().map_err(EngineError::io("watch the run directory"))?;
        Ok(Self { run, events })
    }

    async fn wait_for(&self, name: &str) -> Result<(), EngineError> {
        let waiting = async {
            while !self.run.has_socket(name) {
                let mut ready = self.events.readable().await?;
                // What the events say is not read: the directory itself tells.
                if rustix::io::read(&self.events, &mut [0; 4096]) == Err(Errno::AGAIN) {
                    ready.clear_ready();
                }
            }
            Ok(())
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(waited) => waited.map_err(EngineError::io("watch the run directory")),
            Err(_) => Err(EngineError::Silent {
                command: "start",
                limit: LIMIT,
            }),
        }
    }
}
