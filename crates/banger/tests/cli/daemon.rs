//! Finding the daemon, starting it, and not trusting just anybody.

use crate::fake::{Home, Request};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn empty_list(request: Request) {
    request.json(&serde_json::json!([]));
}

/// A program in place of the daemon.
fn script(home: &Home, body: &str) -> PathBuf {
    let path = home.path().join("daemon.sh");
    std::fs::write(
        &path,
        format!("#!/bin/sh\ncd {}\n{body}\n", home.path().display()),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn list_with(home: &Home, daemon: &PathBuf) -> crate::fake::Outcome {
    let mut command = home.banger(&["-v", "vm", "ls"]);
    command
        .env("BANGER_DAEMON", daemon)
        .output()
        .unwrap()
        .into()
}

#[test]
fn without_a_daemon_the_code_is_6() {
    let home = Home::empty();
    let failed = home.run(&["ps"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (6, ""), "{failed:?}");
    assert!(failed.stderr.contains("/nonexistent/bangerd"), "{failed:?}");
    assert!(failed.stderr.contains("\n\nhint: "), "{failed:?}");
    assert_eq!(home.run(&["run", "--", "true"]).code, 125);
    let version = home.run(&["version"]);
    assert_eq!(version.code, 0, "{version:?}");
    assert_eq!(home.run(&["config", "path"]).code, 0);
}

#[test]
fn a_daemon_is_started_past_a_stale_socket() {
    let home = Home::empty();
    drop(UnixListener::bind(home.socket()).unwrap());
    home.listen(&home.path().join("ready.sock"), empty_list);
    let daemon = script(
        &home,
        "mv ready.sock run/bangerd.sock; echo log >&2; echo ready",
    );
    let listed = list_with(&home, &daemon);
    assert_eq!(listed.code, 0, "{listed:?}");
    assert!(listed.stderr.contains("is stale"), "{listed:?}");
    let log = home.path().join("state/bangerd.log");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "log\n");
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn another_client_may_win_the_race() {
    let home = Home::empty();
    home.listen(&home.path().join("ready.sock"), empty_list);
    let daemon = script(
        &home,
        "mv ready.sock run/bangerd.sock; echo 'error: already running'; exit 4",
    );
    let listed = list_with(&home, &daemon);
    assert_eq!(listed.code, 0, "{listed:?}");
    assert!(listed.stderr.contains("no daemon is running"), "{listed:?}");
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let home = Home::empty();
    let daemon = script(&home, "echo 'error: the database is newer'; exit 1");
    let failed = list_with(&home, &daemon);
    assert_eq!(failed.code, 6, "{failed:?}");
    assert!(
        failed.stderr.contains("caused by: the database is newer"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("bangerd.log"), "{failed:?}");
}

#[test]
fn a_runtime_directory_that_others_can_use_is_refused() {
    let home = Home::serve(empty_list);
    let run = home.path().join("run");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = home.run(&["ps"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(home.seen().is_empty());
}

/// Not a test of its own: listens where it is told, as another user.
#[test]
fn impostor_listens() {
    let Some(path) = std::env::var_os("BANGER_TEST_IMPOSTOR") else {
        return;
    };
    let listener = UnixListener::bind(path).unwrap();
    println!("listening");
    let (mut connection, _) = listener.accept().unwrap();
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut connection, &mut received).unwrap();
    println!("received {} bytes", received.len());
}

#[test]
fn an_impostor_gets_nothing() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can start another user's process
    }
    let home = Home::empty();
    let open = tempfile::tempdir().unwrap();
    std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = open.path().join("impostor");
    // By a process of its own: a child that another test starts meanwhile would inherit the open copy,
    // and what is open for writing cannot be run.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let socket = open.path().join("socket");
    let mut impostor = Command::new(&program)
        .args(["daemon::impostor_listens", "--exact", "--nocapture"])
        .env("BANGER_TEST_IMPOSTOR", &socket)
        .uid(65534)
        .gid(65534)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(impostor.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert_ne!(
            std::io::BufRead::read_line(&mut said, &mut line).unwrap(),
            0
        );
    }
    std::fs::rename(&socket, home.socket()).unwrap();
    let refused = home.run(&["ps"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.stderr.contains("uid 65534"), "{refused:?}");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert!(rest.contains("received 0 bytes"), "{rest}");
    impostor.wait().unwrap();
}
