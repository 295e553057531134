//! How a QEMU comes into our hands: started, or taken over after a restart of the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};

use super::args::SOCKETS;
use super::machine::{AGENT_SOCKET, CONSOLE_SOCKET, QMP_SOCKET, QemuMachine};
use crate::held::{CONSOLE_LOG, Sources, VMM_LOG, never};
use crate::log::{CappedLog, drain};
use crate::process::{Process, keep_from_keys};
use crate::socket::RunDir;
use crate::{EngineError, Place, ProcessId};

/// Starts QEMU and waits until its monitor answers.
pub(super) async fn start(
    program: &Path,
    args: Vec<String>,
    place: &Place,
) -> Result<QemuMachine, EngineError> {
    let run = Arc::new(RunDir::open(&place.run_dir)?);
    let console_log = CappedLog::begin(place, CONSOLE_LOG).await?;
    let vmm_log = CappedLog::begin(place, VMM_LOG).await?;
    let mut unfinished = Unfinished {
        run: Arc::clone(&run),
        process: None,
        done: false,
    };
    let mut sockets = Vec::new();
    for (fd, name) in SOCKETS {
        sockets.push(FdMapping {
            parent_fd: run.listen(socket_of(name))?.into(),
            child_fd: fd,
        });
    }
    // The sockets listen already, so these cannot fail for want of a QEMU.
    let console = run.connect(CONSOLE_SOCKET).await?;
    let monitor = run.connect(QMP_SOCKET).await?;
    let (words, stderr) =
        io::pipe().map_err(EngineError::io("make a pipe for the VMM's messages"))?;
    let words = tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(words))
        .map_err(EngineError::io("read the VMM's messages"))?;
    let process = spawn(program, args, run.path(), sockets, stderr)?;
    unfinished.process = Some(process.clone());

    let readers = Sources {
        console: tokio::spawn(drain(console, console_log)),
        others: vec![tokio::spawn(async { drop(drain(words, vmm_log).await) })],
        stopping: never(),
    };
    let machine = QemuMachine::hold(process, run, monitor, readers, place);
    machine.greet().await?;
    unfinished.done = true;
    Ok(machine)
}

/// Takes over a QEMU that runs.
pub(crate) async fn adopt(id: &ProcessId, place: &Place) -> Result<QemuMachine, EngineError> {
    let process = Process::adopt(id)?;
    let run = Arc::new(RunDir::open(&place.run_dir)?);
    let console_log = CappedLog::go_on(place, CONSOLE_LOG).await?;
    let console = run.connect(CONSOLE_SOCKET).await?;
    let monitor = run.connect(QMP_SOCKET).await?;
    let readers = Sources {
        console: tokio::spawn(drain(console, console_log)),
        others: Vec::new(),
        stopping: never(),
    };
    let machine = QemuMachine::hold(process, run, monitor, readers, place);
    machine.greet_if_awake().await?;
    Ok(machine)
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
        for name in [AGENT_SOCKET, QMP_SOCKET, CONSOLE_SOCKET] {
            if let Err(error) = self.run.remove(name) {
                crate::warn_io(&format!("remove {:?}", self.run.path().join(name)), &error);
            }
        }
    }
}

fn socket_of(chardev: &str) -> &'static str {
    match chardev {
        "agent" => AGENT_SOCKET,
        "qmp" => QMP_SOCKET,
        _ => CONSOLE_SOCKET,
    }
}

/// Spawns QEMU with nothing of ours but the sockets and the pipe.
fn spawn(
    program: &Path,
    args: Vec<String>,
    run_dir: &Path,
    sockets: Vec<FdMapping>,
    stderr: io::PipeWriter,
) -> Result<Process, EngineError> {
    let step = || format!("start {program:?}");
    let stdout = stderr.try_clone().map_err(EngineError::io(step()))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .current_dir(run_dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    keep_from_keys(&mut command);
    command
        .fd_mappings(sockets)
        .map_err(|error| EngineError::io(step())(io::Error::other(error)))?;
    let mut child = command.spawn().map_err(EngineError::io(step()))?;
    // Reaped through its pidfd by the watch task, or by the undoing of a failed start.
    Process::of_child(child.id()).inspect_err(|_| {
        if child.kill().is_ok() {
            drop(child.wait());
        }
    })
}
