//! Attached commands: output, input, codes, signals, terminals, and giving up.

use crate::fake::{Home, Request, Stream, booted};
use banger_api::Progress;
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, Kind, chunks};
use banger_guest::request::STDIN_WINDOW;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};
use serde_json::json;
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// A home whose every stream is played by `play`.
fn stream(play: impl Fn(serde_json::Value, Stream) + Send + Sync + 'static) -> Home {
    Home::serve(move |request: Request| {
        assert_eq!(request.method, "POST");
        let body = request.body.clone();
        play(body, request.upgrade());
    })
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn exec_passes_all_streams_and_the_code() {
    let home = stream(|body, mut stream| {
        assert_eq!(body["argv"], json!(["cat", "-n"]));
        assert_eq!(body["env"], json!([["A", "1"], ["B", "from here"]]));
        assert_eq!(body["user"], "bob");
        assert_eq!(body["terminal"], json!(null));
        stream.event(&StreamEvent::Open);
        let input = stream.data(Kind::Stdin);
        for frame in chunks(Kind::Stdout, &input) {
            stream.send(&frame);
        }
        stream.send(&Frame::new(Kind::Stderr, b"err\x1b".to_vec()));
        stream.exit(7);
    });
    let arguments = [
        "exec", "-e", "A=1", "-e", "B", "-e", "UNSET_X", "-u", "bob", "dev", "--", "cat", "-n",
    ];
    let mut child = home
        .banger(&arguments)
        .env("B", "from here")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let input = vec![b'x'; 300_000];
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&input).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(
        output.stdout == input,
        "{} bytes came back",
        output.stdout.len()
    );
    assert_eq!(output.stderr, b"err\x1b", "an attached session is raw");
}

#[test]
fn guests_failures_have_their_codes() {
    for (code, expected) in [
        ("not_found", 127),
        ("not_executable", 126),
        ("vm_gone", 125),
        ("timed_out", 125),
    ] {
        let home = stream(move |_, mut stream| stream.fail(code, "x"));
        assert_eq!(home.run(&["exec", "dev", "x"]).code, expected, "{code}");
    }
    let home = stream(|_, mut stream| stream.fail("not_found", "no image"));
    assert_eq!(home.run(&["run", "--", "x"]).code, 125, "before the boot");
    let home = stream(|_, mut stream| {
        stream.event(&booted());
        stream.fail("not_found", "no program");
    });
    assert_eq!(home.run(&["run", "--", "x"]).code, 127, "after the boot");
    let home = stream(|_, mut stream| {
        stream.event(&StreamEvent::Open);
        stream.send(&Frame::json(Kind::Exit, &json!({"signal": "KILL"})).unwrap());
    });
    assert_eq!(home.run(&["exec", "dev", "x"]).code, 137);
    let home = stream(|body, mut stream| {
        assert_eq!(body["timeout_ms"], 1500);
        stream.event(&StreamEvent::Open);
        let exit = json!({"signal": "TERM", "timed_out": true});
        stream.send(&Frame::json(Kind::Exit, &exit).unwrap());
    });
    let timed_out = home.run(&["exec", "--timeout", "1s500ms", "dev", "x"]);
    assert_eq!(timed_out.code, 124, "{timed_out:?}");
    let home = stream(|_, mut stream| stream.event(&StreamEvent::Open));
    assert_eq!(
        home.run(&["exec", "dev", "x"]).code,
        125,
        "the stream broke"
    );
}

#[test]
fn run_ends_only_when_the_daemon_has_cleaned_up() {
    let removed = Arc::new(AtomicBool::new(false));
    let flag = removed.clone();
    let (go, gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let home = stream(move |body, mut stream| {
        assert_eq!(body["exec"]["argv"], json!(["true"]));
        assert_eq!(body["vm"]["memory"], 2_u64 << 30);
        let step = |step: &str| Progress {
            step: step.into(),
            ..Default::default()
        };
        stream.event(&StreamEvent::Progress(step("download kernel")));
        stream.event(&StreamEvent::Progress(step("boot")));
        stream.event(&booted());
        stream.event(&StreamEvent::Open);
        stream.send(&Frame::new(Kind::Stdout, b"out\n".to_vec()));
        stream.exit(3);
        gone.lock().unwrap().recv().unwrap();
        flag.store(true, Ordering::SeqCst);
    });
    let mut child = home
        .banger(&["run", "-m", "2G", "--", "true"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "out\n");
    assert!(child.try_wait().unwrap().is_none());
    go.send(()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(removed.load(Ordering::SeqCst));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(
        talk.starts_with("download kernel ...\ndownload kernel: done in "),
        "{talk}"
    );
    assert!(!talk.contains("boot"), "a boot is not worth a line: {talk}");
}

#[test]
fn signals_reach_the_command() {
    let (ready, when_ready) = mpsc::channel();
    let ready = Mutex::new(ready);
    let home = stream(move |_, mut stream| {
        stream.event(&booted());
        stream.event(&StreamEvent::Open);
        assert!(stream.data(Kind::Stdin).is_empty());
        ready.lock().unwrap().send(()).unwrap();
        for expected in ["USR1", "INT", "TERM"] {
            let frame = stream.recv().unwrap();
            assert_eq!(
                (frame.kind, frame.payload.as_slice()),
                (Kind::Signal, expected.as_bytes())
            );
            ready.lock().unwrap().send(()).unwrap();
        }
        stream.send(&Frame::json(Kind::Exit, &json!({"signal": "TERM"})).unwrap());
    });
    let child = home
        .banger(&["run", "-n", "--", "sleep", "9"])
        .spawn()
        .unwrap();
    for number in [Signal::USR1, Signal::INT, Signal::TERM] {
        when_ready.recv().unwrap();
        signal(&child, number);
    }
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn a_signal_does_not_wait_behind_input_that_nobody_takes() {
    let (ready, when_ready) = mpsc::channel();
    let ready = Mutex::new(ready);
    let home = stream(move |_, mut stream| {
        stream.event(&StreamEvent::Open);
        let taken = Frame::json(Kind::Taken, &json!({"bytes": 100_000})).unwrap();
        let mut sent = 0;
        loop {
            let frame = stream.recv().unwrap();
            if frame.kind == Kind::Signal {
                assert_eq!(frame.payload, b"TERM");
                break;
            }
            sent += frame.payload.len();
            if sent >= 100_000 && sent - frame.payload.len() < 100_000 {
                stream.send(&taken);
            }
            assert!(sent <= STDIN_WINDOW + 100_000, "{sent} bytes of input");
            // The last chunk is a whole one: less than that is left of the window.
            if sent > STDIN_WINDOW + 100_000 - 32 * 1024 {
                ready.lock().unwrap().send(()).unwrap();
            }
        }
        stream.send(&Frame::json(Kind::Exit, &json!({"signal": "TERM"})).unwrap());
    });
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let child = home
        .banger(&["exec", "dev", "sleep", "9"])
        .stdin(zeros)
        .spawn()
        .unwrap();
    when_ready.recv().unwrap();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn an_interrupt_before_the_command_runs_cancels() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (ready, when_ready) = mpsc::channel();
        let ready = Mutex::new(ready);
        let cleaned = Arc::new(AtomicBool::new(false));
        let flag = cleaned.clone();
        let home = stream(move |_, mut stream| {
            stream.event(&StreamEvent::Progress(Progress::default()));
            ready.lock().unwrap().send(()).unwrap();
            assert_eq!(stream.recv(), None, "the client ends its direction");
            flag.store(true, Ordering::SeqCst);
        });
        let child = home.banger(&["run", "--", "true"]).spawn().unwrap();
        when_ready.recv().unwrap();
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(cleaned.load(Ordering::SeqCst), "it waited for the clean-up");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_second_interrupt_leaves_at_once() {
    let (ready, when_ready) = mpsc::channel();
    let ready = Mutex::new(ready);
    let (never, until) = mpsc::channel::<()>();
    let until = Mutex::new(until);
    let home = stream(move |_, mut stream| {
        ready.lock().unwrap().send(()).unwrap();
        assert_eq!(stream.recv(), None);
        // The clean-up does not end before the test does.
        until.lock().unwrap().recv().unwrap_err();
    });
    let mut child = home.banger(&["run", "--", "true"]).spawn().unwrap();
    when_ready.recv().unwrap();
    signal(&child, Signal::INT);
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.contains("interrupt again"), "{line}");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(never);
}

#[test]
fn output_nobody_reads_ends_the_run_quietly() {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let home = stream(move |_, mut stream| {
        stream.event(&booted());
        stream.event(&StreamEvent::Open);
        stream.send(&Frame::new(Kind::Stdout, vec![b'y'; 60_000]));
        while stream.recv().is_some() {}
        flag.store(true, Ordering::SeqCst);
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = home
        .banger(&["run", "--", "yes"])
        .stdout(Stdio::from(writer))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn a_terminal_is_raw_for_the_command_and_itself_again_after() {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let control = openpt(flags).unwrap();
    grantpt(&control).unwrap();
    unlockpt(&control).unwrap();
    let terminal = ioctl_tiocgptpeer(&control, flags).unwrap();
    let mut size = rustix::termios::tcgetwinsize(&terminal).unwrap();
    (size.ws_col, size.ws_row) = (101, 33);
    tcsetwinsize(&terminal, size).unwrap();
    let is_cooked = {
        let terminal = terminal.try_clone().unwrap();
        move || {
            tcgetattr(&terminal)
                .unwrap()
                .local_modes
                .contains(LocalModes::ICANON)
        }
    };
    assert!(is_cooked());
    let check = is_cooked;
    let (told, raw) = mpsc::channel();
    let told = Mutex::new(told);
    let probe = terminal.try_clone().unwrap();
    let home = stream(move |body, mut stream| {
        assert_eq!(body["terminal"]["size"], json!({"cols": 101, "rows": 33}));
        assert_eq!(body["terminal"]["term"], "xterm-256color");
        stream.event(&StreamEvent::Open);
        let frame = stream.recv().unwrap();
        assert_eq!(frame.kind, Kind::Resize);
        let modes = tcgetattr(&probe).unwrap().local_modes;
        told.lock()
            .unwrap()
            .send(!modes.contains(LocalModes::ICANON))
            .unwrap();
        stream.exit(0);
    });
    let mut child = home
        .banger(&["exec", "dev"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::from(terminal.try_clone().unwrap()))
        .stdout(Stdio::from(terminal))
        .spawn()
        .unwrap();
    assert!(raw.recv().unwrap(), "raw while the command runs");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(check(), "cooked again");
    drop(control);
}
