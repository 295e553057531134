//! Finds the daemon, or starts it when none runs.

use crate::app::App;
use crate::error::{CliError, Kind};
use crate::system::service;
use banger_api::client::{Client, ClientError};
use banger_api::{Dirs, Install};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a daemon may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long a service that is being started may take until it serves.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

/// How often a daemon that somebody else is starting is asked.
const RETRY: Duration = Duration::from_millis(50);

/// The longest line a starting daemon may say, in bytes.
const MAX_LINE: u64 = 16 * 1024;

/// A starting daemon's log is begun anew past this size, in bytes.
const MAX_LOG: u64 = 4 << 20;

/// The exit code of a daemon that found another one running.
const ALREADY_RUNNING: i32 = 4;

/// What a daemon that is started is there for.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Everything, for this user.
    Own,
    /// The kernels and images of this installation.
    Builder(Box<Install>),
}

/// What stands where the daemon's socket should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    /// A daemon of ours listens.
    Answers,
    /// There is none.
    Missing,
    /// There is one, but nobody listens: its daemon did not end well.
    Stale,
}

/// Looks whether a daemon listens. Nothing is started, nothing is sent.
pub(crate) async fn probe(client: &Client) -> Result<Socket, CliError> {
    match client.connect().await {
        Ok(_) => Ok(Socket::Answers),
        Err(ClientError::Unreachable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(Socket::Missing)
        }
        Err(ClientError::Unreachable { source, .. })
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            Ok(Socket::Stale)
        }
        Err(error) => Err(error.into()),
    }
}

/// A client for an installation's daemon, which systemd starts, not we. One that systemd is bringing
/// back is waited for.
pub(crate) async fn connect_installed(app: &App, install: &Install) -> Result<Client, CliError> {
    let client = Client::new(install.dirs().socket());
    if app.config.is_some() {
        app.ui
            .detail("the daemon is a service: --config does not change its configuration");
    }
    let deadline = Instant::now() + RETURN_LIMIT;
    loop {
        if probe(&client).await? == Socket::Answers {
            return Ok(client);
        }
        let state = tokio::task::spawn_blocking(service::daemon_state).await;
        let state = state.unwrap_or_default();
        // An end of which systemd does not know yet leaves it active.
        let returns = !matches!(&*state, "inactive" | "failed" | "");
        if !returns || Instant::now() >= deadline {
            return Err(CliError::new(
                Kind::DaemonUnreachable,
                format!(
                    "connect to the daemon at {:?}: nobody listens, and the service bangerd is {}",
                    client.socket(),
                    if state.is_empty() {
                        "unknown to systemd"
                    } else {
                        &state
                    }
                ),
            )
            .hint("sudo systemctl start bangerd (banger system status shows more)"));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A client for the running daemon; starts one if none runs.
pub(crate) async fn connect_or_start(
    app: &App,
    dirs: &Dirs,
    role: &Role,
) -> Result<Client, CliError> {
    dirs.ensure_runtime()?;
    let client = Client::new(dirs.socket());
    match probe(&client).await? {
        Socket::Answers => {
            if app.config.is_some() {
                app.ui.detail(
                    "the daemon is running already: --config does not change its configuration",
                );
            }
            return Ok(client);
        }
        Socket::Missing => app.ui.detail("no daemon is running: starting one"),
        Socket::Stale => app.ui.detail(&format!(
            "the socket {:?} is stale (its daemon is gone): starting a new one",
            client.socket()
        )),
    }
    let mut progress = app.ui.prelude();
    progress.begin(match role {
        Role::Own => "start the daemon",
        Role::Builder(_) => "start the builder",
    });
    start(app, dirs, role, &client).await?;
    Ok(client)
}

/// Starts a daemon and waits until it, or one that was faster, serves.
async fn start(app: &App, dirs: &Dirs, role: &Role, client: &Client) -> Result<(), CliError> {
    let program = program(role);
    let failed = |why: &str| {
        CliError::new(
            Kind::DaemonUnreachable,
            format!("start the daemon {program:?}: {why}"),
        )
        .hint(format!("less {}", dirs.daemon_log().display()))
    };
    let child = spawn(app, dirs, role, &program)?;
    let (sender, first_word) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any longer if the time limit has passed.
        drop(sender.send(hear(child)));
    });
    let heard = tokio::time::timeout(START_LIMIT, first_word).await;
    let Ok(Ok(heard)) = heard else {
        return Err(failed(&format!(
            "it was not ready within {} s",
            START_LIMIT.as_secs()
        )));
    };
    match heard {
        Ok(FirstWord::Ready) => Ok(()),
        Ok(FirstWord::Ended(_, status)) if status.code() == Some(ALREADY_RUNNING) => {
            app.ui.detail("another client started the daemon first");
            await_other(client).await
        }
        Ok(FirstWord::Ended(line, status)) => {
            let line = line.trim();
            let mut error = failed(&format!("it ended with {status}"));
            if !line.is_empty() {
                error.causes.push(line.trim_start_matches("error: ").into());
            }
            Err(error)
        }
        Err(source) => Err(failed("its answer cannot be read").because(&source)),
    }
}

/// Waits for a daemon that another client is starting.
async fn await_other(client: &Client) -> Result<(), CliError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match client.connect().await {
            Ok(_) => return Ok(()),
            Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a daemon says first.
enum FirstWord {
    /// It serves.
    Ready,
    /// It ended, after saying this.
    Ended(String, ExitStatus),
}

/// Hears a starting daemon out, and waits for its end if it says anything but `ready`.
fn hear(mut child: Child) -> io::Result<FirstWord> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(MAX_LINE)).read_line(&mut line)?;
    }
    if line.trim_end() == "ready" {
        return Ok(FirstWord::Ready);
    }
    Ok(FirstWord::Ended(line, child.wait()?))
}

fn spawn(app: &App, dirs: &Dirs, role: &Role, program: &OsString) -> Result<Child, CliError> {
    let log = open_log(dirs)?;
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // No process group of its own: its leader could not begin a session, as bangerd does at once.
        .current_dir("/");
    if let Role::Builder(_) = role {
        command.arg("--builder");
    }
    if let Some(config) = &app.config {
        command.env("BANGER_CONFIG", config);
    }
    command.spawn().map_err(|source| {
        CliError::new(
            Kind::DaemonUnreachable,
            format!("start the daemon {program:?}"),
        )
        .because(&source)
        .hint("put bangerd beside banger or in PATH, or name it: export BANGER_DAEMON=/path/to/bangerd")
    })
}

/// The daemon's log, opened for appending; only the user can read it.
fn open_log(dirs: &Dirs) -> Result<File, CliError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dirs.state)
        .map_err(|source| CliError::io(format!("make directory {:?}", dirs.state), &source))?;
    let path = dirs.daemon_log();
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || -> io::Result<File> {
        let log = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        if log.metadata()?.len() > MAX_LOG {
            log.set_len(0)?;
        }
        Ok(log)
    };
    open().map_err(|source| CliError::io(format!("open the daemon's log {path:?}"), &source))
}

/// The daemon's program: what `BANGER_DAEMON` says, else the installation's, else the one beside
/// this program, else the one in PATH.
pub(crate) fn program(role: &Role) -> OsString {
    if let Some(named) = std::env::var_os("BANGER_DAEMON").filter(|name| !name.is_empty()) {
        return named;
    }
    if let Role::Builder(install) = role {
        return install.paths.programs.join("bangerd").into();
    }
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("bangerd")))
        .filter(|beside| beside.is_file())
        .map_or_else(|| "bangerd".into(), Into::into)
}
