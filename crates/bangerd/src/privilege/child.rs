//! The helper as a child of the daemon's own, for machines where it is not installed: as root
//! directly, for everybody else by `sudo -n`, which asks for nothing.
//!
//! Its end of the connection is its standard input: `sudo` closes all other descriptors. A
//! helper that has ended is started anew by the next request; its ledger tells it what it made.

use super::link::Link;
use crate::problem::Refusal;
use banger_api::{Dirs, ProblemCode};
use banger_priv::{Reply, Request};
use banger_priv_client::{Client, ClientError};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The helper's program.
const PROGRAM: &str = "bangerd-root";

/// The programs that the helper starts, from one directory that is root's.
const VMM_PROGRAMS: [&str; 2] = ["jailer", "firecracker"];

/// Where that may be.
const PROGRAM_DIRS: [&str; 3] = ["/usr/lib/banger", "/usr/local/bin", "/usr/bin"];

/// How long a helper may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The daemon's own helper: one connection, one request at a time.
#[derive(Debug)]
pub(super) struct Child {
    program: PathBuf,
    arguments: Vec<OsString>,
    now: Mutex<Option<Client>>,
}

/// Starts one for the files in these directories, which are there, and hears its first answer.
pub(super) fn start(dirs: &Dirs) -> Result<Child, Refusal> {
    let program = find().ok_or_else(|| {
        Refusal::new(
            ProblemCode::HostUnsupported,
            format!("start the root helper: {PROGRAM} is not beside bangerd"),
        )
        .hint("install it there, or set daemon.mode to \"rootless\"")
    })?;
    let programs = PROGRAM_DIRS.into_iter().find(|dir| {
        let mut wanted = VMM_PROGRAMS.iter();
        wanted.all(|program| Path::new(dir).join(program).is_file())
    });
    let mut arguments: Vec<OsString> = vec!["--fd".into(), "0".into(), "--owner".into()];
    arguments.push(rustix::process::geteuid().as_raw().to_string().into());
    arguments.extend([
        "--programs".into(),
        programs.unwrap_or(PROGRAM_DIRS[0]).into(),
    ]);
    for dir in [&dirs.data, &dirs.state, &dirs.cache, &dirs.runtime] {
        arguments.extend(["--files".into(), dir.into()]);
    }
    let child = Child {
        now: Mutex::new(None),
        arguments,
        program,
    };
    match child.call(&Request::Status {}, &[], START_LIMIT) {
        Ok(_) => Ok(child),
        Err(error) => Err(Refusal::new(
            ProblemCode::HostUnsupported,
            format!("start the root helper {:?}: {error}", child.program),
        )
        .hint(
            "allow it in sudoers (it is started by `sudo -n`), or set daemon.mode to \"rootless\"",
        )),
    }
}

impl Link for Child {
    fn call(
        &self,
        request: &Request,
        files: &[OwnedFd],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        // What a panic left is judged by the next call's own failure.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match now.take() {
            Some(client) => client,
            None => self.spawn().map_err(|source| ClientError::Unreachable {
                path: self.program.clone(),
                source,
            })?,
        };
        let answer = client.call(request, files, limit);
        if matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            *now = Some(client);
        }
        answer
    }
}

/// The helper beside this program.
fn find() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let dir = own.parent()?;
    [dir.join(PROGRAM), dir.join("../lib/banger").join(PROGRAM)]
        .into_iter()
        .find(|program| program.is_file())
}

impl Child {
    fn spawn(&self) -> io::Result<Client> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new(&self.program)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "--"]).arg(&self.program);
            sudo
        };
        command
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        let mut child = command.spawn()?;
        std::thread::Builder::new()
            .name("helper".into())
            .spawn(move || match child.wait() {
                Ok(status) => tracing::info!(%status, "the root helper ended"),
                Err(error) => tracing::warn!(%error, "wait for the root helper"),
            })?;
        Ok(Client::over(ours.into()))
    }
}
