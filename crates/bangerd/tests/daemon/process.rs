//! The program itself: its start, its place, who may talk to it, its end.

use crate::env::PATIENCE;
use banger_api::client::Client;
use banger_api::{Config, HostView, ProblemCode, VersionView};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

struct Bangerd {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Bangerd {
    fn spawn(home: &Path) -> Self {
        Self::spawn_with(&[("BANGER_HOME", home)])
    }

    /// One that may open so many files.
    fn ready_with_files(home: &Path, files: u32) -> Self {
        let script = format!("ulimit -n {files}; exec \"$0\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_bangerd")])
            .env_clear()
            .env("BANGER_HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(home.join("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Self { child, stdout };
        assert_eq!(daemon.line(), "ready\n");
        daemon
    }

    /// The CPU time that it has used, in clock ticks.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        fields[11..13]
            .iter()
            .map(|n| n.parse::<u64>().unwrap())
            .sum()
    }

    fn spawn_with(variables: &[(&str, &Path)]) -> Self {
        Self::spawn_logging_to(Stdio::null(), variables)
    }

    fn spawn_logging_to(log: impl Into<Stdio>, variables: &[(&str, &Path)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bangerd"))
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn ready(home: &Path) -> Self {
        let mut daemon = Self::spawn(home);
        assert_eq!(daemon.line(), "ready\n");
        // Standard output is let go of: its reader sees the end.
        assert_eq!(daemon.line(), "");
        daemon
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Bangerd {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn home() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("run/bangerd.sock");
    (temp, socket)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

#[tokio::test]
async fn daemon_says_ready_serves_and_ends_in_order() {
    let (home, socket) = home();
    let daemon = Bangerd::ready(home.path());
    let client = Client::new(&socket);
    let version: VersionView = client.get("/v1/version").await.unwrap();
    assert_eq!(version.pid, daemon.child.id());
    let host: HostView = client.get("/v1/host").await.unwrap();
    assert_eq!(host.mode, "rootless");
    for check in [
        "engine.qemu",
        "engine.kvm",
        "agent",
        "disk.state",
        "kernel",
        "image",
    ] {
        assert!(
            host.checks.iter().any(|found| found.name == check),
            "{check}"
        );
    }
    for check in host.checks.iter().filter(|check| check.name == "image") {
        assert_eq!(check.fix.as_deref(), Some("banger image build debian"));
    }
    let document: serde_json::Value = client.get("/v1/openapi.json").await.unwrap();
    assert!(document["paths"]["/v1/vms/{vm}/exec"]["post"].is_object());

    assert_eq!(mode(&socket), 0o600);
    for dir in ["run", "state", "data", "cache"] {
        assert_eq!(mode(&home.path().join(dir)), 0o700, "{dir}");
    }
    for file in std::fs::read_dir(home.path().join("state")).unwrap() {
        assert_eq!(mode(&file.unwrap().path()) & 0o077, 0);
    }
    assert!(daemon.terminate().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_log_that_nobody_reads_or_that_is_closed_holds_nothing_up() {
    let (_reader, mut full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while full.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let (_, closed) = std::io::pipe().unwrap();
    for log in [full, closed] {
        let (home, socket) = home();
        let mut daemon = Bangerd::spawn_logging_to(log, &[("BANGER_HOME", home.path())]);
        // It has written of its start by then.
        assert_eq!(daemon.line(), "ready\n");
        let client = Client::new(&socket);
        let version = client.get::<VersionView>("/v1/version");
        let version = tokio::time::timeout(PATIENCE, version).await.unwrap();
        assert_eq!(version.unwrap().pid, daemon.child.id());
        assert!(daemon.terminate().success());
    }
}

#[tokio::test]
async fn a_socket_that_was_removed_is_made_again() {
    let (home, socket) = home();
    let daemon = Bangerd::ready(home.path());
    for _ in 0..2 {
        std::fs::remove_file(&socket).unwrap();
        let is_back = async {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, is_back).await.unwrap();
        assert_eq!(mode(&socket), 0o600);
        let client = Client::new(&socket);
        let version: VersionView = client.get("/v1/version").await.unwrap();
        assert_eq!(version.pid, daemon.child.id());
    }
    assert!(daemon.terminate().success());
    assert!(!socket.exists());
}

#[test]
fn second_daemon_names_the_first() {
    let (home, _) = home();
    let first = Bangerd::ready(home.path());
    let mut second = Bangerd::spawn(home.path());
    let line = second.line();
    assert_eq!(
        line,
        format!(
            "error: start: bangerd runs already (process {})\n",
            first.child.id()
        )
    );
    assert_eq!(second.child.wait().unwrap().code(), Some(4));
    assert!(first.terminate().success());
}

#[test]
fn daemons_of_two_runtime_directories_do_not_share_a_state() {
    let (home, _) = home();
    let runtimes = ["one", "two"].map(|name| home.path().join(name));
    let [mut first, mut second] = runtimes
        .each_ref()
        .map(|runtime| Bangerd::spawn_with(&[("HOME", home.path()), ("XDG_RUNTIME_DIR", runtime)]));
    let lines = [first.line(), second.line()];
    let refused = lines.iter().find(|line| *line != "ready\n").unwrap();
    assert!(lines.iter().any(|line| line == "ready\n"), "{lines:?}");
    assert!(
        refused.contains("from another runtime directory"),
        "{refused}"
    );
    // Not the code of a daemon that runs already: its client would wait for that one's socket.
    let refused = if lines[0] == *refused { first } else { second };
    assert_eq!({ refused }.child.wait().unwrap().code(), Some(1));
}

#[test]
fn daemon_waits_for_the_end_of_one_that_no_longer_serves() {
    let (home, socket) = home();
    let run = socket.parent().unwrap();
    std::fs::create_dir(run).unwrap();
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = run.join("bangerd.lock");
    let ending = std::fs::File::create(&path).unwrap();
    rustix::fs::flock(&ending, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut daemon = Bangerd::spawn(home.path());
    let fds = format!("/proc/{}/fd", daemon.child.id());
    let has_tried = || {
        let mut fds = std::fs::read_dir(&fds).unwrap().flatten();
        fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == path))
    };
    while !has_tried() {
        assert!(daemon.child.try_wait().unwrap().is_none(), "it gave up");
        std::thread::yield_now();
    }
    drop(ending);
    assert_eq!(daemon.line(), "ready\n");
    assert!(daemon.terminate().success());
}

#[test]
fn stale_socket_of_a_killed_daemon_is_replaced() {
    let (home, socket) = home();
    drop(Bangerd::ready(home.path())); // killed
    assert!(socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
    let daemon = Bangerd::ready(home.path());
    assert!(UnixStream::connect(&socket).is_ok());
    assert!(daemon.terminate().success());
}

#[test]
fn unsafe_runtime_directory_is_refused() {
    let (home, socket) = home();
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut daemon = Bangerd::spawn(home.path());
    let line = daemon.line();
    assert!(
        line.starts_with("error: use runtime directory") && line.contains("0777"),
        "{line}"
    );
    assert_eq!(daemon.child.wait().unwrap().code(), Some(1));
    assert!(!socket.exists());
}

#[test]
fn peer_of_another_user_is_refused_unread() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can become somebody else
    }
    let (home, socket) = home();
    let daemon = Bangerd::ready(home.path());
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(home.path(), 0o755);
    open(&home.path().join("run"), 0o755);
    open(&socket, 0o666);
    let request = "GET /v1/version HTTP/1.0\r\n\r\n";
    let talk = |uid: u32| {
        use std::os::unix::process::CommandExt;
        // Another process, because a thread's identity is all of this process's.
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::talks_as_another_user", "--nocapture"])
            .env("BANGERD_TEST_SOCKET", &socket)
            .env("BANGERD_TEST_REQUEST", request)
            .uid(uid)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        text
    };
    assert!(talk(0).contains("answer: HTTP/1.0 200"));
    let refused = talk(65534);
    assert!(refused.contains("answer: none"), "{refused}");
    assert!(daemon.terminate().success());
}

/// The child of [`peer_of_another_user_is_refused_unread`]; by itself it does nothing.
#[test]
fn talks_as_another_user() {
    let Some(socket) = std::env::var_os("BANGERD_TEST_SOCKET") else {
        return;
    };
    let request = std::env::var("BANGERD_TEST_REQUEST").unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    // The daemon may have closed already: then the write fails, and that is the refusal.
    let _refused = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _refused = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    println!("answer: {}", answer.lines().next().unwrap_or("none"));
}

#[test]
fn idle_daemon_ends_by_itself() {
    let (home, socket) = home();
    let config = home.path().join("config.toml");
    std::fs::write(&config, "[daemon]\nidle_exit_seconds = 1\n").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut daemon = Bangerd::ready(home.path());
    assert!(daemon.child.wait().unwrap().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn bad_configuration_is_a_problem_and_the_daemon_lives() {
    let (home, socket) = home();
    let config = home.path().join("config.toml");
    let daemon = Bangerd::ready(home.path());
    let client = Client::new(&socket);
    rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::RWXU).unwrap();
    let asked = tokio::time::timeout(PATIENCE, client.get::<Config>("/v1/config")).await;
    let refused = crate::env::problem(asked.unwrap().unwrap_err());
    assert_eq!(refused.code, ProblemCode::Permission);
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, "[vm]\nmemory = \"lots\"\n").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let refused = crate::env::problem(client.get::<Config>("/v1/config").await.unwrap_err());
    assert_eq!(refused.code, ProblemCode::Invalid);
    std::fs::remove_file(&config).unwrap();
    assert_eq!(
        client.get::<Config>("/v1/config").await.unwrap(),
        Config::default()
    );
    assert!(daemon.terminate().success());
}

#[test]
fn slow_and_many_clients_do_not_keep_others_out() {
    let (home, socket) = home();
    let daemon = Bangerd::ready(home.path());
    let mut idle: Vec<UnixStream> = (0..200)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    for stream in &mut idle {
        stream.write_all(b"GET /v1/ver").unwrap();
    }
    let mut fresh = UnixStream::connect(&socket).unwrap();
    fresh
        .write_all(b"GET /v1/version HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    fresh.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // Over the cap a connection is closed at once, and those there are stay.
    let more: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let mut last = more.last().unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    drop(more);
    assert!(daemon.terminate().success());
}

#[test]
fn without_descriptors_clients_are_told_so_nothing_spins_and_it_recovers() {
    let (home, socket) = home();
    let daemon = Bangerd::ready_with_files(home.path(), 64);
    let version = || {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
            .write_all(b"GET /v1/version HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(version().starts_with("HTTP/1.0 200"));
    // Readers of events stay; idle ones would be sent away.
    let mut held: Vec<UnixStream> = Vec::new();
    let refused = loop {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
            .write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).unwrap();
        if &start != b"HTTP/1.1 200" {
            let mut answer = start.to_vec();
            client.read_to_end(&mut answer).unwrap();
            break String::from_utf8(answer).unwrap();
        }
        held.push(client);
        assert!(held.len() < 64, "64 files are enough for 64 clients");
    };
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    for part in ["exhausted", "Too many open files", "ulimit -n"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    println!("{} clients are held by 64 files", held.len());

    // While clients wait for a place, it waits too.
    let waiting: Vec<UnixStream> = (0..10)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let before = daemon.ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = daemon.ticks() - before;
    println!("{used} ticks of CPU in 2 s without descriptors");
    assert!(used < 50, "{used} ticks in 2 s");
    drop(waiting);
    held.truncate(held.len() / 2);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !version().starts_with("HTTP/1.0 200") {
        assert!(std::time::Instant::now() < deadline, "it does not recover");
    }
    let log = std::fs::read_to_string(home.path().join("stderr")).unwrap();
    let told = log.matches("accept a connection").count();
    assert!((1..=3).contains(&told), "{log}");
    assert!(daemon.terminate().success());
}
