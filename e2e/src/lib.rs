//! What the end-to-end tests stand on: a user's surroundings of its own for each test, the
//! real programs in it, and a look at what they left behind.
//!
//! Two variables come from `cargo xtask test`: `BANGER_E2E_DIST`, the directory with the
//! programs, and `BANGER_E2E_STORE`, where the kernel and the image that all tests share are
//! kept between runs. They are provisioned through the command line, once.
//! `BANGER_E2E_CONFIG`, if set, is the text of every `config.toml`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up fails there"
)]

mod leftovers;
pub mod refusal;
pub mod seize;
pub mod syscall;
pub mod terminal;
mod testimony;
pub mod tracer;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take that should be over soon. Machines that run tests are busy, and
/// some of them are emulated.
pub const SOON: Duration = Duration::from_secs(240);

/// How long a command may take at all: an image is built in less on a busy machine.
const LATE: Duration = Duration::from_secs(600);

/// A user's surroundings: home, runtime directory, state. Ends its daemon when dropped.
#[derive(Debug)]
pub struct TestEnv {
    root: tempfile::TempDir,
    dist: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl TestEnv {
    /// Surroundings with the shared kernel and image, and no daemon yet.
    pub fn new() -> Self {
        provision();
        Self::sharing()
    }

    fn sharing() -> Self {
        let env = Self::bare();
        let store = store();
        for name in ["data", "cache"] {
            symlink(store.join(name), env.root.path().join(name)).unwrap();
        }
        env
    }

    /// Surroundings with a store of their own, which begins as the shared one is.
    pub fn apart() -> Self {
        drop(Self::new());
        let env = Self::bare();
        for (dir, left_out) in [("data", ["lock", "tmp"]), ("cache", ["tmp", "tmp"])] {
            let own = env.join(dir);
            fs::DirBuilder::new().mode(0o700).create(&own).unwrap();
            let entries = fs::read_dir(store().join(dir)).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            // What is finished there is never written again: it is shared, name by name.
            let copied = finish(
                Command::new("cp")
                    .args(["--archive", "--link", "--target-directory"])
                    .arg(&own)
                    .args(paths.filter(|path| !left_out.iter().any(|name| path.ends_with(name)))),
            );
            assert_eq!(copied.code, 0, "{copied:#?}");
        }
        env
    }

    /// Surroundings with nothing in them.
    pub fn bare() -> Self {
        let dist = from_xtask("BANGER_E2E_DIST");
        // Socket paths are short: not below the repository.
        let root = tempfile::Builder::new()
            .prefix("banger-e2e-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .unwrap();
        if let Some(config) = std::env::var_os("BANGER_E2E_CONFIG") {
            fs::write(root.path().join("config.toml"), config.as_encoded_bytes()).unwrap();
        }
        Self { root, dist }
    }

    /// The directory that holds everything.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// A path below it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A program of the distribution, in these surroundings.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.dist.join(name));
        command
            .env_clear()
            .env(
                "PATH",
                format!(
                    "{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    self.dist.display()
                ),
            )
            .env("HOME", self.path())
            .env("BANGER_HOME", self.path())
            .env("LANG", "C.UTF-8")
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// `banger ARGS`, not started yet.
    pub fn banger(&self, args: &[&str]) -> Command {
        let mut command = self.program("banger");
        command.args(args);
        command
    }

    /// Runs `banger ARGS` to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        finish(&mut self.banger(args))
    }

    /// Runs `banger ARGS`, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "banger {args:?}: {outcome:#?}");
        outcome.stdout
    }

    /// Runs `banger --json ARGS`, which must succeed, and returns what it shows.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let text = self.ok(&args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("banger {args:?}: {e}: {text:?}"))
    }

    /// Runs `banger ARGS`, which must end with `code`, and returns its standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, code, "banger {args:?}: {outcome:#?}");
        outcome.stderr
    }

    /// `banger ARGS` as the last arguments of another program, with nothing to read.
    pub fn banger_under(&self, outer: &[&str], args: &[&str]) -> Command {
        let banger = self.banger(args);
        let mut command = Command::new(outer[0]);
        command
            .args(&outer[1..])
            .arg(banger.get_program())
            .args(banger.get_args())
            .env_clear()
            .envs(
                banger
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts `banger ARGS` with its standard output in a pipe.
    pub fn start(&self, args: &[&str]) -> Running {
        // A shell's background jobs begin with INT ignored, and so would all that they start.
        let mut command = self.banger_under(&["env", "--default-signal=INT,QUIT,HUP"], args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// A created and started VM of this name.
    pub fn vm(&self, name: &str) {
        self.ok(&["vm", "create", "--name", name, "--start"]);
    }

    /// Runs a shell script in the VM, which must succeed, and returns its output, trimmed.
    #[track_caller]
    pub fn sh(&self, vm: &str, script: &str) -> String {
        self.ok(&["exec", vm, "--", "sh", "-c", script])
            .trim_end()
            .to_owned()
    }

    /// The process id of the VMM of a running VM.
    pub fn vmm_pid(&self, vm: &str) -> u32 {
        let view = self.json(&["vm", "inspect", vm]);
        let pid = view["pid"].as_u64().unwrap_or_else(|| panic!("{view}"));
        u32::try_from(pid).unwrap()
    }

    /// The process ids of all VMMs in these surroundings.
    pub fn vmms(&self) -> Vec<u32> {
        leftovers::vmms(self)
    }

    /// The daemon's process id, if one runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.join("run/bangerd.lock")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        let is_it = match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(exe) => exe.starts_with(&self.dist),
            // Its memory is gone already, but its files may not be: it still would be connected to.
            Err(_) => has_living_thread(pid),
        };
        is_it.then_some(pid)
    }

    /// What VMs left, a line each, as far as it can be seen from outside.
    pub fn leftovers(&self) -> Vec<String> {
        leftovers::of(self)
    }

    /// Asserts that no VM left anything: no process, file, socket or row. What is still going
    /// away gets a little time; what stays fails the test.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let left = leftovers::of(self);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        // The row is the last to go.
        eventually("no VM is listed", || {
            self.json(&["vm", "list"]) == serde_json::json!([])
        });
    }
}

impl Default for TestEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestEnv {
    /// Kills the VMs and the daemon that these surroundings recorded, nothing else. A test that fails
    /// says before what they were about.
    #[expect(
        clippy::print_stdout,
        reason = "the harness shows it with the test that failed"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", testimony::of(self));
        }
        for pid in self.vmms() {
            send(pid, rustix::process::Signal::KILL);
        }
        if let Some(pid) = self.daemon_pid() {
            send(pid, rustix::process::Signal::TERM);
            wait_until_gone(pid);
        }
        for pid in self.vmms() {
            send(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A `banger` that runs beside the test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output, without the line's end; fails if it does not come
    /// [`SOON`].
    #[track_caller]
    pub fn line(&mut self) -> String {
        let deadline = Instant::now() + SOON;
        let mut line = Vec::new();
        loop {
            if self.lines.buffer().is_empty() {
                let is_there = readable_until(self.lines.get_ref(), deadline);
                assert!(is_there, "no line came, only {:?}", String::from_utf8(line));
            }
            let part = self.lines.fill_buf().unwrap();
            let end = part.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&part[..end.unwrap_or(part.len())]);
            let taken = end.map_or(part.len(), |end| end + 1);
            self.lines.consume(taken);
            if end.is_some() || taken == 0 {
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        send(self.pid(), signal);
    }

    /// Waits for its end; what it had still to say is in the outcome.
    pub fn end(self) -> Outcome {
        let rest = drain(self.lines);
        let outcome = end_of(self.child, "a running banger");
        Outcome {
            stdout: rest.join().unwrap(),
            ..outcome
        }
    }
}

/// Runs a command to its end, which must come within five minutes.
#[track_caller]
pub fn finish(command: &mut Command) -> Outcome {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    end_of(child, &format!("{command:?}"))
}

/// Runs a command to its end with `input` as its standard input.
#[track_caller]
pub fn fed(command: &mut Command, input: Vec<u8>) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    // One that ends before it has read all breaks the pipe: its outcome tells.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
    let outcome = end_of(child, &format!("{command:?}"));
    feeder.join().unwrap();
    outcome
}

/// Waits until there is something to read, or the end; whether that came in time.
fn readable_until(fd: impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&left.try_into().unwrap())).unwrap() > 0
}

/// Waits for a child's end and reads what it says. One that does not end is killed, and fails the test.
#[track_caller]
fn end_of(mut child: Child, what: &str) -> Outcome {
    let pid = child.id();
    let (ended, is_ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let is_late =
            is_ended.recv_timeout(LATE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if is_late {
            send(pid, rustix::process::Signal::KILL);
        }
        is_late
    });
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = child.wait().unwrap();
    drop(ended);
    let read = |thread: Option<std::thread::JoinHandle<String>>| {
        thread
            .map(|thread| thread.join().unwrap())
            .unwrap_or_default()
    };
    let outcome = Outcome {
        code: status.code().unwrap_or(-1),
        stdout: read(stdout),
        stderr: read(stderr),
    };
    assert!(
        !watchdog.join().unwrap(),
        "{what} did not end: {outcome:#?}"
    );
    outcome
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Sends a signal to a process that the test recorded.
pub fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // A process that is gone already is what was wanted.
    rustix::process::kill_process(pid, signal).ok();
}

/// Waits until `check` holds; fails after [`SOON`].
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Path::new(&format!("/proc/{pid}/exe")).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    send(pid, rustix::process::Signal::KILL);
}

fn from_xtask(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: run these tests by `make test`"))
}

fn store() -> PathBuf {
    let store = from_xtask("BANGER_E2E_STORE");
    for name in ["data", "cache"] {
        fs::create_dir_all(store.join(name)).unwrap();
        fs::set_permissions(store.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    store
}

/// Pulls the kernel and builds the image unless the store has them; one process at a time.
fn provision() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let env = TestEnv::sharing();
        let lock = File::create(store().join("lock")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        if env.run(&["kernel", "default"]).code != 0 {
            env.ok(&["kernel", "pull"]);
        }
        if env.run(&["image", "inspect", "debian"]).code != 0 {
            env.ok(&["image", "build", "debian"]);
        }
    });
}

/// Whether a thread of the process has not ended yet.
fn has_living_thread(pid: u32) -> bool {
    let is_living = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some(!matches!(state, 'Z' | 'X'))
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.is_ok_and(|threads| {
        threads
            .flatten()
            .any(|thread| is_living(thread) == Some(true))
    })
}
