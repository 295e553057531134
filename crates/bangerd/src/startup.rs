//! From a fresh process to a served socket, and back down.
//!
//! Order matters: the umask before any file, the lock before anything that only one daemon
//! may touch, reconciling before the socket exists, and the line `ready` on standard output
//! only when a connection would be answered (whoever started us waits for it).

use crate::config::{self, ConfigError};
use crate::daemon::{Daemon, Options, Role};
use crate::listen;
use crate::lock::DaemonLock;
use crate::log;
use crate::notify;
use crate::problem::Refusal;
use banger_api::{Dirs, DirsError, Install, InstallError};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::convert::Infallible;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The longest path a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// A builder that has nothing to build ends after this time: the next one starts at once.
const BUILDER_IDLE: Duration = Duration::from_secs(60);

/// How long clients that had connected when an idle daemon hid its socket may take to be seen.
const LAST_CALL: Duration = Duration::from_millis(100);

/// How often the daemon looks whether its socket is still there.
const SOCKET_EVERY: Duration = Duration::from_secs(2);

/// How many files a daemon may have open: as `LimitNOFILE` in its unit.
const OPEN_FILES: u64 = 65_536;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directories cannot be used.
    #[error(transparent)]
    Dirs(#[from] DirsError),
    /// The installation that it is to serve cannot be used.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// There is no installation to serve, or it is another user's.
    #[error("serve an installation: {}", match .owner {
        Some(owner) => format!("{} is for uid {owner}", Install::FILE),
        None => format!("there is no {}", Install::FILE),
    })]
    NotOurs {
        /// Whose installation there is.
        owner: Option<u32>,
    },
    /// Another daemon of this user runs.
    #[error("start: bangerd runs already{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    AlreadyRuns {
        /// Its process id, if it has written it.
        pid: Option<u32>,
    },
    /// A daemon of this user runs on another runtime directory: two would fight over the VMs.
    #[error(
        "start: bangerd{} uses {state:?} from another runtime directory; set XDG_RUNTIME_DIR as it was set for that one, or end it",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    StateInUse {
        /// Its process id, if it has written it.
        pid: Option<u32>,
        /// The state directory that both want.
        state: PathBuf,
    },
    /// A step on this host failed.
    #[error("{what} {path:?}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The socket's path is longer than Unix sockets allow.
    #[error(
        "listen on {0:?}: a socket's path has at most 107 bytes; choose a shorter BANGER_HOME or XDG_RUNTIME_DIR"
    )]
    LongPath(PathBuf),
    /// The daemon's own state cannot be used.
    #[error("open the daemon's state: {}", explain(.0))]
    State(#[source] Refusal),
}

fn explain(refusal: &Refusal) -> String {
    let mut text = refusal.0.message.clone();
    for cause in &refusal.0.causes {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

/// The error and its sources on one line.
pub fn one_line(error: &StartError) -> String {
    let error: &(dyn std::error::Error + 'static) = error;
    let mut parts: Vec<String> = Vec::new();
    for part in std::iter::successors(Some(error), |e| e.source()) {
        let text = part.to_string().replace(['\n', '\r'], " ");
        if !parts.last().is_some_and(|last| last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// The directories for `role`.
fn dirs(role: Role) -> Result<Dirs, StartError> {
    if role == Role::Own {
        return Ok(Dirs::from_env()?);
    }
    let uid = rustix::process::geteuid().as_raw();
    let install = match Install::read()? {
        Some(install) if install.owner.uid == uid => install,
        other => {
            let owner = other.map(|install| install.owner.uid);
            return Err(StartError::NotOurs { owner });
        }
    };
    match role {
        Role::Builder => Ok(install.builder_dirs(Dirs::from_env()?)),
        _ => Ok(install.dirs()),
    }
}

/// Keeps other processes of this user from looking into this one, which may talk to root's
/// helper and they may not, and keeps its memory out of core dumps.
fn close_to_others() -> Result<(), StartError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(
        |errno| StartError::Io {
            what: "close to other processes",
            path: "bangerd".into(),
            source: errno.into(),
        },
    )
}

/// Lets this process open as many files as an installed one may, where the host allows it: a VM
/// takes about ten, and many shells give 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit
        .maximum
        .map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_some_and(|now| now < most) {
        let raised = Rlimit {
            current: Some(most),
            ..limit
        };
        // Where it is refused, the limit that there is holds.
        let _refused = setrlimit(Resource::Nofile, raised);
    }
}

/// Runs the daemon of this process's user until it has nothing to do or is told to end.
pub fn run(role: Role) -> Result<(), StartError> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    raise_open_files();
    // One started by a shell leads its process group already and cannot. VMMs are then in groups of
    // their own, and stopped ones do not outlive it.
    let _session = rustix::process::setsid();
    if role == Role::System {
        close_to_others()?;
    }
    let dirs = dirs(role)?;
    dirs.ensure_runtime()?;
    let lock = DaemonLock::await_end(&dirs.lock(), &dirs.socket())?;
    make_private(&dirs.state)?;
    let state_lock = DaemonLock::take(&dirs.state.join("bangerd.lock")).map_err(|error| {
        let state = dirs.state.clone();
        match error {
            StartError::AlreadyRuns { pid } => StartError::StateInUse { pid, state },
            other => other,
        }
    })?;
    log::cap(&dirs.daemon_log());
    tracing_subscriber::fmt()
        .with_writer(log::Writer::new)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        // It would say on standard error that standard error cannot be written to, and panic.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .map_err(|source| StartError::Io {
            what: "start the threads of",
            path: "bangerd".into(),
            source,
        })?;
    let result = runtime.block_on(serve(role, dirs));
    // What still blocks (an image build that was cancelled) may take a moment to notice.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop((state_lock, lock));
    result
}

async fn serve(role: Role, dirs: Dirs) -> Result<(), StartError> {
    let socket = dirs.socket();
    let io = |what, source| StartError::Io {
        what,
        path: socket.clone(),
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| io("catch signals for", e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| io("catch signals for", e))?;
    let config_path = dirs.config.clone();
    let log = dirs.daemon_log();
    let daemon = open(Options::new(role, dirs)).await?;
    let listener = bind(&socket)?;
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    servers.spawn(listen::serve(Arc::clone(&daemon), listener, stop.clone()));
    announce_ready();
    notify::tell(notify::State::Ready);
    let alive = tokio::spawn(stay_alive(notify::alive_every()));
    let capped = tokio::spawn(log::keep_small(log));
    // Looked for ahead of the first run. What fails here is told to whoever needs it.
    let ahead = Arc::clone(&daemon);
    drop(tokio::spawn(async move {
        let network = ahead.config().await.unwrap_or_default().vm.network;
        match network {
            Some(network) => drop(ahead.engine(network).await),
            None => drop(ahead.best_network().await),
        }
    }));
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break "told to terminate",
            _ = interrupt.recv() => break "interrupted",
            () = daemon.activity().idle_for(|| idle_limit(role, &config_path)) => {}
            never = keep_socket(&socket, |listener| {
                servers.spawn(listen::serve(Arc::clone(&daemon), listener, stop.clone()));
            }) => match never {},
        }
        if !is_called_back(&daemon, &socket).await {
            break "nothing to do";
        }
    };
    tracing::info!(why, "ending");
    notify::tell(notify::State::Stopping);
    // First the name, so that a client that comes now starts a new daemon.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "remove the socket");
        }
        _ => {}
    }
    stop.cancel();
    daemon.shutdown().await;
    while let Some(ended) = servers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a server failed");
        }
    }
    alive.abort();
    capped.abort();
    Ok(())
}

/// Tells the service manager, as often as it wants to hear it, that the event loop turns.
async fn stay_alive(every: Option<Duration>) {
    let Some(every) = every else { return };
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        notify::tell(notify::State::Alive);
    }
}

/// Makes the socket again when somebody has removed it, as those do who clean up below /tmp: nobody could
/// reach this daemon, and while it has the lock there is no other.
async fn keep_socket(socket: &Path, mut serve: impl FnMut(UnixListener)) -> Infallible {
    loop {
        tokio::time::sleep(SOCKET_EVERY).await;
        // Without its directory there is no place for it.
        let is_gone = !socket.exists() && socket.parent().is_some_and(Path::exists);
        if !is_gone {
            continue;
        }
        match bind(socket) {
            Ok(listener) => {
                tracing::warn!(socket = %socket.display(), "made again: it was removed");
                serve(listener);
            }
            Err(error) => tracing::error!(%error, "make the socket again"),
        }
    }
}

/// Hides the socket of an idle daemon and looks whether a client had connected before that; for
/// such a one the socket comes back and the daemon stays. Otherwise the socket is gone.
async fn is_called_back(daemon: &Daemon, socket: &Path) -> bool {
    let hidden = socket.with_file_name(".idle.sock");
    if let Err(error) = std::fs::rename(socket, &hidden) {
        tracing::warn!(%error, "hide the socket");
        return false;
    }
    if daemon.activity().begins_within(LAST_CALL).await {
        match std::fs::rename(&hidden, socket) {
            Ok(()) => return true,
            Err(error) => tracing::warn!(%error, "bring the socket back"),
        }
    }
    if let Err(error) = std::fs::remove_file(&hidden) {
        tracing::warn!(%error, "remove the socket");
    }
    false
}

/// Opens the daemon's state and reconciles it with what runs.
pub async fn open(options: Options) -> Result<Arc<Daemon>, StartError> {
    make_private(&options.dirs.state)?;
    Daemon::open(options).await.map_err(StartError::State)
}

fn idle_limit(role: Role, config_path: &Path) -> Option<Duration> {
    match role {
        Role::System => return None,
        Role::Builder => return Some(BUILDER_IDLE),
        Role::Own => {}
    }
    let daemon = match config::load(config_path) {
        Ok(config) => config.daemon,
        Err(error) => {
            let error: ConfigError = error;
            tracing::warn!(%error, "use the default idle time");
            banger_api::DaemonConfig::default()
        }
    };
    (daemon.idle_exit_seconds > 0).then(|| Duration::from_secs(daemon.idle_exit_seconds.into()))
}

/// Makes a directory of mode 0700, and gives one that exists that mode.
fn make_private(path: &Path) -> Result<(), StartError> {
    let io = |source| StartError::Io {
        what: "make",
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(io)
}

/// Binds the socket under another name and moves it to its place: it replaces what a dead
/// daemon left (the lock is ours), and is never seen with another mode than 0600.
pub fn bind(socket: &Path) -> Result<UnixListener, StartError> {
    let io = |what| {
        let path = socket.to_owned();
        move |source| StartError::Io { what, path, source }
    };
    let new = socket.with_file_name(".new.sock");
    if new.as_os_str().len() > MAX_SOCKET_PATH || socket.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(StartError::LongPath(socket.to_owned()));
    }
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("replace")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(io("listen on"))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .map_err(io("protect"))?;
    std::fs::rename(&new, socket).map_err(io("put in place"))?;
    Ok(listener)
}

/// Says `ready` on standard output, then lets go of it: whoever reads sees the end too.
fn announce_ready() {
    let mut out = std::io::stdout();
    // A closed standard output only means that nobody waits for the line.
    let _written = out.write_all(b"ready\n").and_then(|()| out.flush());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open("/dev/null", flags, Mode::empty()) {
        Ok(null) => {
            if let Err(error) = rustix::stdio::dup2_stdout(null.as_fd()) {
                tracing::warn!(%error, "let go of standard output");
            }
        }
        Err(error) => tracing::warn!(%error, "open /dev/null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bind_replaces_a_stale_socket_and_refuses_long_paths() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let _listener = bind(&socket).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let long = temp.path().join("x".repeat(120));
        assert!(matches!(bind(&long), Err(StartError::LongPath(_))));
    }
}
