//! Real commands over a socketpair, as the user who runs the tests.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest::frame::{Frame, Kind, chunks};
use banger_guest::request::{Exit, Request, Resize, STDIN_WINDOW, Taken, Terminal};

use super::relay::TAKEN_STEP;
use super::*;
use crate::reaper::Reaper;

/// A host's end of a stream whose command runs, or the agent's refusal.
struct Host(Stream);

/// What a command gave.
#[derive(Debug, Default)]
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    taken: usize,
    exit: Exit,
}

impl Outcome {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

fn own_user() -> String {
    rustix::process::getuid().as_raw().to_string()
}

fn sh(script: &str) -> Exec {
    Exec {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        user: own_user(),
        ..Exec::default()
    }
}

fn start(exec: Exec) -> Result<(Host, u32), Failure> {
    let agent = Arc::new(Agent::new(Reaper::own(), false, Vec::new(), || {}));
    let (near, far) = UnixStream::pair().unwrap();
    agent.serve_in_thread(far.into());
    let mut host = Stream::new(near.into());
    let request = Frame::json(Kind::Request, &Request::Exec(exec)).unwrap();
    host.send(&request).unwrap();
    let answer = host.recv().unwrap().unwrap();
    match answer.kind {
        Kind::Reply => {
            let reply: Reply = answer.parse().unwrap();
            Ok((Host(host), reply.pid.unwrap()))
        }
        _ => Err(answer.parse().unwrap()),
    }
}

impl Host {
    fn send(&self, kind: Kind, payload: &[u8]) {
        self.0.send(&Frame::new(kind, payload)).unwrap();
    }

    /// Reads until the standard output holds `text`.
    fn await_text(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = self.0.expect(Kind::Stdout).unwrap();
            seen.push_str(std::str::from_utf8(&frame.payload).unwrap());
        }
        seen
    }

    fn finish(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let frame = self.0.recv().unwrap().expect("an exit");
            match frame.kind {
                Kind::Stdout => outcome.stdout.extend(frame.payload),
                Kind::Stderr => outcome.stderr.extend(frame.payload),
                Kind::Taken => outcome.taken += frame.parse::<Taken>().unwrap().bytes,
                Kind::Exit => {
                    outcome.exit = frame.parse().unwrap();
                    assert!(self.0.recv().unwrap().is_none(), "exit ends the stream");
                    return outcome;
                }
                kind => panic!("{kind:?}"),
            }
        }
    }
}

fn run_to_end(exec: Exec) -> Outcome {
    start(exec).unwrap().0.finish()
}

fn refusal(exec: Exec) -> FailureCode {
    start(exec).err().expect("a failure").code
}

#[test]
fn output_error_and_exit_code_are_apart() {
    let outcome = run_to_end(sh("echo out; echo err >&2; exit 7"));
    assert_eq!(outcome.text(), "out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(outcome.exit.code, Some(7));
    assert_eq!(outcome.exit.signal, None);
}

#[test]
fn environment_user_and_directory_are_as_asked() {
    let mut exec = sh("echo $A; pwd; echo $PATH; echo ${HOME:+home}; id -u; tty");
    exec.env = vec![
        ("A".to_owned(), "1".to_owned()),
        ("A".to_owned(), "b c".to_owned()),
    ];
    exec.workdir = "/usr".to_owned();
    let outcome = run_to_end(exec);
    let wanted = format!(
        "b c\n/usr\n{DEFAULT_PATH}\nhome\n{}\nnot a tty\n",
        own_user()
    );
    assert_eq!(outcome.text(), wanted);
}

#[test]
fn refusals_are_told_apart() {
    let of = |argv: &str| Exec {
        argv: vec![argv.to_owned()],
        user: own_user(),
        ..Exec::default()
    };
    assert_eq!(refusal(of("no-such-command")), FailureCode::NotFound);
    assert_eq!(refusal(of("/no/such")), FailureCode::NotFound);
    assert_eq!(refusal(of("/etc/passwd")), FailureCode::NotExecutable);
    assert_eq!(refusal(of("/etc")), FailureCode::NotExecutable);
    assert_eq!(refusal(of("a\0b")), FailureCode::NotFound);
    let mut exec = sh("true");
    exec.workdir = "/no/such".to_owned();
    assert_eq!(refusal(exec), FailureCode::NotFound);
    let mut exec = sh("true");
    exec.user = "no-such-user".to_owned();
    assert_eq!(refusal(exec), FailureCode::NoSuchUser);
    let mut exec = sh("true");
    exec.env = vec![("A=B".to_owned(), String::new())];
    assert_eq!(refusal(exec), FailureCode::Invalid);
    let mut exec = sh("true");
    exec.argv.push("a\0b".to_owned());
    assert_eq!(refusal(exec), FailureCode::Invalid);
    // One argument over the kernel's 128 KiB: known only from its refusal.
    let mut exec = sh("true");
    exec.argv.push("x".repeat(200 * 1024));
    assert_eq!(refusal(exec), FailureCode::Limit);
}

#[test]
fn without_arguments_the_login_shell_runs() {
    let mut exec = sh("");
    exec.argv.clear();
    let (host, _) = start(exec).unwrap();
    host.send(Kind::Stdin, b"echo shell=$0; exit 3\n");
    let outcome = host.finish();
    assert!(outcome.text().contains("shell=-"), "{outcome:?}");
    assert_eq!(outcome.exit.code, Some(3));
}

#[test]
fn a_mebibyte_goes_both_ways_and_input_ends() {
    let (host, _) = start(sh("cat; echo end >&2")).unwrap();
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let outcome = std::thread::scope(|scope| {
        let fd = rustix::io::fcntl_dupfd_cloexec(&host.0, 3).unwrap();
        scope.spawn(|| {
            let writer = Stream::new(fd);
            for frame in chunks(Kind::Stdin, &sent) {
                writer.send(&frame).unwrap();
            }
            writer.send(&Frame::new(Kind::Stdin, Vec::new())).unwrap();
        });
        host.finish()
    });
    assert!(outcome.stdout == sent, "{} bytes", outcome.stdout.len());
    assert_eq!(outcome.stderr, b"end\n");
    // Nobody needs to be told of the last of it beside the command's end.
    let untold = sent.len() - outcome.taken;
    assert!(untold <= TAKEN_STEP, "{untold}");
}

#[test]
fn a_command_that_closes_its_input_takes_a_flood() {
    let (host, _) = start(sh(
        "exec <&-; echo closed; read x <&1 2>/dev/null; sleep 0.1",
    ))
    .unwrap();
    for _ in 0..64 {
        // The command may end in between: then the flood has been taken, too.
        if host
            .0
            .send(&Frame::new(Kind::Stdin, vec![0; 60_000]))
            .is_err()
        {
            return;
        }
    }
    assert_eq!(host.finish().text(), "closed\n");
}

#[test]
fn a_signal_passes_a_window_of_input_that_nobody_reads() {
    let (host, _) = start(sh("exec sleep 60")).unwrap();
    for frame in chunks(Kind::Stdin, &vec![0; STDIN_WINDOW]) {
        host.0.send(&frame).unwrap();
    }
    host.send(Kind::Signal, b"TERM");
    let outcome = host.finish();
    assert_eq!(outcome.exit.signal.as_deref(), Some("TERM"));
    // What it left unread is counted too: nobody will take it any more.
    assert_eq!(outcome.taken, STDIN_WINDOW);
}

#[test]
fn signals_reach_the_group_and_name_the_end() {
    let (mut host, _) = start(sh(
        "trap 'echo got; exit 4' USR1; echo up; while :; do sleep 0.05; done",
    ))
    .unwrap();
    host.await_text("up\n");
    host.send(Kind::Signal, b"USR1");
    let outcome = host.finish();
    assert_eq!((outcome.text(), outcome.exit.code), ("got\n", Some(4)));

    let (mut host, _) = start(sh("echo up; exec sleep 60")).unwrap();
    host.await_text("up\n");
    host.send(Kind::Signal, b"TERM");
    let exit = host.finish().exit;
    assert_eq!((exit.code, exit.signal.as_deref()), (None, Some("TERM")));
}

#[test]
fn unlisted_signals_end_the_stream_and_the_command() {
    let (mut host, pid) = start(sh("echo up; exec sleep 60")).unwrap();
    host.await_text("up\n");
    host.send(Kind::Signal, b"STOP");
    assert!(host.0.recv().unwrap().is_none());
    await_gone(pid);
}

#[test]
fn a_time_out_ends_the_whole_session() {
    let mut exec = sh("trap '' TERM; sleep 61 & echo $!; wait; sleep 62");
    exec.timeout_ms = 300;
    let begun = Instant::now();
    let outcome = run_to_end(exec);
    assert!(outcome.exit.timed_out);
    assert_eq!(outcome.exit.signal.as_deref(), Some("KILL"));
    assert_eq!(outcome.exit.shell_code(), 124);
    assert!(begun.elapsed() >= Duration::from_millis(2300), "TERM first");
    await_gone(outcome.text().trim().parse().unwrap());
}

#[test]
fn a_host_that_leaves_takes_the_group_with_it() {
    let (mut host, pid) = start(sh("trap '' HUP; sleep 61 & echo $!; wait")).unwrap();
    let child: u32 = host.await_text("\n").trim().parse().unwrap();
    // Unread input must not hide that the host has gone.
    host.send(Kind::Stdin, &[0; 60_000]);
    drop(host);
    await_gone(pid);
    await_gone(child);
}

/// Waits for a process that is no child of ours to end (or to be a zombie of another parent).
fn await_gone(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_there = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    while is_there() {
        assert!(Instant::now() < deadline, "{pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_background_process_does_not_hold_the_stream() {
    let begun = Instant::now();
    let outcome = run_to_end(sh("sleep 30 & head -c 300000 /dev/zero; echo $! >&2"));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(outcome.stdout.len(), 300_000);
    assert_eq!(outcome.exit.code, Some(0));
    let left = String::from_utf8(outcome.stderr).unwrap();
    let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    // It was left alone, as ssh does.
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

fn with_terminal(script: &str) -> Exec {
    let mut exec = sh(script);
    exec.terminal = Some(Terminal {
        size: Resize { cols: 91, rows: 33 },
        term: "vt220".to_owned(),
    });
    exec
}

#[test]
fn a_terminal_has_size_name_and_job_control() {
    let outcome = run_to_end(with_terminal(
        "stty size; echo $TERM; tty; ps -o tpgid=,pid= -p $$; exit 5",
    ));
    let text = outcome.text().replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["33 91", "vt220"]);
    assert!(lines[2].starts_with("/dev/pts/"), "{text}");
    let ids: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(ids[0], ids[1], "the shell is in the foreground: {text}");
    assert_eq!(outcome.exit.code, Some(5));
}

#[test]
fn a_terminal_is_resized_interrupted_and_ended() {
    // The signals come outside of `read`, whose answer to them differs from shell to shell.
    let script = "trap 'stty size' WINCH; trap 'echo int; done=1' INT; echo up; \
                  while [ -z \"$done\" ]; do sleep 0.05; done; echo reading; \
                  while read line; do echo \"<$line>\"; done; echo eof";
    let (mut host, _) = start(with_terminal(script)).unwrap();
    host.await_text("up");
    let size = Resize { cols: 50, rows: 20 };
    host.0
        .send(&Frame::json(Kind::Resize, &size).unwrap())
        .unwrap();
    host.await_text("20 50");
    host.send(Kind::Stdin, b"\x03");
    host.await_text("reading");
    host.send(Kind::Stdin, b"typed\n");
    host.await_text("<typed>");
    host.send(Kind::Stdin, b"");
    let outcome = host.finish();
    assert!(outcome.text().contains("eof"), "{outcome:?}");
    assert_eq!(outcome.exit.code, Some(0));
}

#[test]
fn a_host_that_leaves_hangs_the_terminal_up() {
    let (mut host, pid) = start(with_terminal("echo up; sleep 61")).unwrap();
    host.await_text("up");
    drop(host);
    await_gone(pid);
}

#[test]
fn a_host_that_stops_reading_stops_the_command() {
    let (mut host, pid) = start(sh("yes")).unwrap();
    let written = || -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let line = io.lines().find(|line| line.starts_with("wchar")).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    // Until the writer has stood still for a while.
    let mut last = 0;
    let mut still = 0;
    while still < 5 {
        std::thread::sleep(Duration::from_millis(50));
        let now = written();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    assert!(last < 4 << 20, "{last} bytes were taken from it");
    host.await_text("y\n");
    host.send(Kind::Signal, b"KILL");
    assert_eq!(host.finish().exit.signal.as_deref(), Some("KILL"));
}
