//! Commands: from the request to a running process, whose life then is [`relay`]'s.
//!
//! Arguments and environment are at most 1 MiB in all by the cap of a request's frame; the kernel's own
//! limits are below that, and its refusal is told as such.

mod lookup;
mod pty;
mod relay;
#[cfg(test)]
mod tests;
mod user;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use banger_guest::request::{Exec, Failure, FailureCode, Reply};
use banger_sys::spawn::{Program, Session, SpawnError, Step};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::reaper::Process;
use crate::serve::Agent;
use crate::stream::{Stream, StreamError, failure};
pub use user::{User, find as find_user};

/// The PATH of commands that bring none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command's ends of the pipes, or its terminal.
enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        slave: OwnedFd,
    },
}

/// Runs a command over `stream` to its end.
pub fn run(agent: &Agent, mut stream: Stream, exec: &Exec) -> Result<(), StreamError> {
    let (mut process, io) = match start(agent, exec) {
        Ok(started) => started,
        Err(failure) => {
            return stream.fail(&failure);
        }
    };
    stream.reply(&Reply {
        pid: Some(process.pid().as_raw_nonzero().get().unsigned_abs()),
        ..Reply::default()
    })?;
    let deadline = (exec.timeout_ms > 0)
        .then(|| Instant::now().checked_add(Duration::from_millis(exec.timeout_ms)))
        .flatten();
    relay::run(&mut stream, &mut process, io, deadline)
}

fn start(agent: &Agent, exec: &Exec) -> Result<(Process, relay::Io), Failure> {
    let user = user::find(&exec.user)?;
    let env = environment(exec, &user)?;
    let cwd = working_directory(exec, &user)?;
    let (path, argv) = program(exec, &user, &env, &cwd)?;
    let name = path.to_string_lossy().into_owned();
    let (stdio, io) = open_stdio(exec, &user)
        .map_err(|errno| failure(FailureCode::Io, format!("open the command's ends: {errno}")))?;
    let (fds, session) = match &stdio {
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => (
            [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Session::New,
        ),
        Stdio::Terminal { slave } => ([slave.as_fd(); 3], Session::Terminal),
    };
    let env = env
        .into_iter()
        .map(|(name, value)| c_string(&format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    let process = agent
        .reaper
        .spawn(&Program {
            path: &path,
            argv: &argv,
            env: &env,
            cwd: &c_string(&cwd)?,
            stdio: fds,
            identity: agent.identity_for(&user.identity),
            session,
            resets_oom_score: !agent.is_init,
        })
        .map_err(|error| explain(error, &name, &cwd))?;
    Ok((process, io))
}

fn open_stdio(exec: &Exec, user: &User) -> Result<(Stdio, relay::Io), Errno> {
    if let Some(terminal) = &exec.terminal {
        let pty::Pty { master, slave } = pty::open(terminal.size, user.identity.uid)?;
        let io = relay::Io::terminal(master)?;
        return Ok((Stdio::Terminal { slave }, io));
    }
    let (stdin, to_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    if user.identity.uid != 0 && rustix::process::geteuid().is_root() {
        // So that the command may open /dev/stdout and the like again.
        for end in [&stdin, &stdout, &stderr] {
            rustix::fs::fchown(
                end,
                Some(rustix::fs::Uid::from_raw(user.identity.uid)),
                None,
            )?;
        }
    }
    let io = relay::Io::pipes(to_stdin, from_stdout, from_stderr)?;
    Ok((
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        },
        io,
    ))
}

/// The defaults, then what the request says; the last of a name wins.
fn environment(exec: &Exec, user: &User) -> Result<Vec<(String, String)>, Failure> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
        ("SHELL".to_owned(), user.shell.clone()),
    ];
    if let Some(terminal) = &exec.terminal {
        env.push(("TERM".to_owned(), terminal.term.clone()));
    }
    for (name, value) in &exec.env {
        if name.is_empty() || name.contains('=') {
            return Err(failure(
                FailureCode::Invalid,
                format!("{name:?} is no name of an environment variable"),
            ));
        }
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    Ok(env)
}

fn working_directory(exec: &Exec, user: &User) -> Result<String, Failure> {
    if exec.workdir.is_empty() {
        let home = &user.home;
        return Ok(if Path::new(home).is_dir() { home } else { "/" }.to_owned());
    }
    match std::fs::metadata(&exec.workdir) {
        Ok(metadata) if metadata.is_dir() => Ok(exec.workdir.clone()),
        Ok(_) => Err(failure(
            FailureCode::NotFound,
            format!("working directory {:?} is no directory", exec.workdir),
        )),
        Err(error) => Err(failure(
            FailureCode::NotFound,
            format!("working directory {:?}: {error}", exec.workdir),
        )),
    }
}

/// The file to execute and its arguments; the login shell where none is given.
fn program(
    exec: &Exec,
    user: &User,
    env: &[(String, String)],
    cwd: &str,
) -> Result<(CString, Vec<CString>), Failure> {
    let Some(name) = exec.argv.first() else {
        // A leading dash makes it a login shell.
        let base = user.shell.rsplit('/').next().unwrap_or("sh");
        return Ok((c_string(&user.shell)?, vec![c_string(&format!("-{base}"))?]));
    };
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value);
    let file = lookup::find(name, path, Path::new(cwd))?;
    let argv = exec
        .argv
        .iter()
        .map(|argument| c_string(argument))
        .collect::<Result<_, _>>()?;
    Ok((c_string(&file)?, argv))
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        failure(FailureCode::Invalid, format!("{shown:?} has a NUL byte"))
    })
}

fn explain(error: SpawnError, program: &str, cwd: &str) -> Failure {
    let SpawnError::Child { step, errno } = error else {
        return failure(
            FailureCode::Limit,
            format!("start {program:?}: {}", crate::log::chain(&error)),
        );
    };
    match (step, errno) {
        (Step::Cwd, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => failure(
            FailureCode::NotFound,
            format!("enter working directory {cwd:?}: {errno}"),
        ),
        (Step::Exec, Errno::NOENT) => failure(
            FailureCode::NotFound,
            format!("execute {program:?}: it or its interpreter does not exist"),
        ),
        (Step::Exec, Errno::TOOBIG) => failure(
            FailureCode::Limit,
            format!("execute {program:?}: arguments and environment are over the kernel's limit"),
        ),
        (Step::Exec, _) => failure(
            FailureCode::NotExecutable,
            format!("execute {program:?}: {errno}"),
        ),
        _ => failure(
            FailureCode::Io,
            format!("start {program:?} ({step:?}): {errno}"),
        ),
    }
}
