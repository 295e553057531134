//! Who may connect, and what a connection may do.

use crate::host::{Host, LIMIT, program, vm};
use banger_ipc::{Channel, MAX_FRAME};
use banger_priv::{Answer, RefusalKind, Request};
use banger_priv_client::Client;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const SOCKET: &str = "BANGER_TEST_SOCKET";

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.path("root.sock")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends `body` as one frame; gives the answer and whether the connection goes on.
fn ask(host: &Host, body: &[u8]) -> (Answer, bool) {
    let channel = Channel::from(OwnedFd::from(connect(host)));
    channel.send(body, &[], LIMIT).unwrap();
    let frame = channel.receive(Some(LIMIT), LIMIT).unwrap().unwrap();
    let answer = serde_json::from_slice(&frame.body).unwrap();
    let status = serde_json::to_vec(&Request::Status {}).unwrap();
    let goes_on = channel.send(&status, &[], LIMIT).is_ok()
        && matches!(channel.receive(Some(LIMIT), LIMIT), Ok(Some(_)));
    (answer, goes_on)
}

fn descriptors(host: &Host) -> usize {
    let path = format!("/proc/{}/fd", host.helper_pid());
    std::fs::read_dir(path).unwrap().count()
}

/// Waits until the helper has at most so many descriptors: connections end a moment after us.
fn settle(host: &Host, most: usize) {
    let began = std::time::Instant::now();
    while descriptors(host) > most {
        assert!(began.elapsed() < LIMIT, "{} descriptors", descriptors(host));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The other process of the tests below: says how the helper treated it.
#[test]
#[ignore = "run by the tests that start it as another user"]
fn as_another_user() {
    let path = std::env::var(SOCKET).unwrap();
    let mut stream = UnixStream::connect(path).unwrap();
    let status = serde_json::to_vec(&Request::Status {}).unwrap();
    let length = u32::try_from(status.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &status].concat()).ok();
    let mut room = [0; 4];
    match stream.read_exact(&mut room) {
        Ok(()) => println!("verdict: answered"),
        Err(_) => println!("verdict: hung up"),
    }
}

fn verdict(host: &Host, uid: u32, beneath: &[&str]) -> String {
    let own = std::env::current_exe().unwrap();
    let copy = host.path("test");
    // By another process: a file that this one had open for writing, its children of the moment
    // would have too, and it could not be executed.
    let copied = Command::new("cp").args([&own, &copy]).status().unwrap();
    assert!(copied.success());
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(host.path(""), open(0o711)).unwrap();
    std::fs::set_permissions(&copy, open(0o755)).unwrap();
    let mut command = match beneath {
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&copy);
            command
        }
        [] => Command::new(&copy),
    };
    let output = command
        .args([
            "connections::as_another_user",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(SOCKET, host.path("root.sock"))
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn net_s1_other_users_are_hung_up_on_and_the_owner_is_not() {
    let host = Host::new();
    for uid in [1, 1233, 1235, 65534] {
        let said = verdict(&host, uid, &[]);
        assert!(said.contains("verdict: hung up"), "{uid}: {said}");
    }
    assert!(
        host.log().contains("refused a connection of uid 1235"),
        "{}",
        host.log()
    );
    let said = verdict(&host, 1234, &[]);
    assert!(said.contains("verdict: answered"), "{said}");
}

#[test]
fn net_s3_root_of_another_user_namespace_is_who_made_it() {
    let host = Host::new();
    let root = ["unshare", "--user", "--map-root-user", "--"];
    let said = verdict(&host, 1234, &root);
    assert!(said.contains("verdict: answered"), "{said}");
    let said = verdict(&host, 1235, &root);
    assert!(said.contains("verdict: hung up"), "{said}");
    assert!(
        host.log().contains("refused a connection of uid 1235"),
        "{}",
        host.log()
    );
}

#[test]
fn net_what_is_no_request_ends_its_connection_after_an_answer() {
    let host = Host::new();
    let long = format!(r#"{{"method":"{}","params":{{}}}}"#, "x".repeat(60_000));
    let deep = "[".repeat(60_000);
    for body in [
        r#"{"method":"priv.exec","params":{}}"#,
        r#"[{"method":"priv.status","params":{}}]"#,
        r#"{"jsonrpc":"2.0","method":"priv.status","params":{}}"#,
        "priv.status\n\u{1b}[2J\u{202e}",
        "\u{feff}{}",
        "{",
        &long,
        &deep,
    ] {
        let (answer, goes_on) = ask(&host, body.as_bytes());
        let Answer::Refused(refusal) = answer else {
            panic!("{body:.40}: {answer:?}");
        };
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        assert!(refusal.message.len() <= 500 && !goes_on, "{refusal}");
    }
    assert!(matches!(
        ask(&host, b"\xff\xfe\0"),
        (Answer::Refused(_), false)
    ));
    for line in host.log().lines() {
        let is_plain = line.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        assert!(line.len() < 200 && is_plain, "{line}");
    }
    // A request that is refused for what it asks is no reason to part.
    let unknown = serde_json::to_vec(&Request::EnsureNat(vm(7))).unwrap();
    assert!(matches!(ask(&host, &unknown), (Answer::Refused(_), true)));
}

#[test]
fn net_s10_descriptors_that_no_request_takes_are_closed() {
    let host = Host::new();
    host.status();
    let before = descriptors(&host);
    let file = tempfile::tempfile().unwrap();
    let status = serde_json::to_vec(&Request::Status {}).unwrap();
    let channel = Channel::from(OwnedFd::from(connect(&host)));
    for _ in 0..200 {
        channel.send(&status, &[file.as_fd(); 16], LIMIT).unwrap();
        let frame = channel.receive(Some(LIMIT), LIMIT).unwrap().unwrap();
        let answer: Answer = serde_json::from_slice(&frame.body).unwrap();
        let Answer::Refused(refusal) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.kind, RefusalKind::Invalid, "{refusal}");
    }
    drop(channel);
    settle(&host, before);
}

#[test]
fn net_s13_frames_too_long_end_the_connection_and_memory_stays() {
    let host = Host::new();
    host.status();
    let before = descriptors(&host);
    for length in [0, u32::try_from(MAX_FRAME).unwrap() + 1, 1 << 30, u32::MAX] {
        for _ in 0..50 {
            let mut stream = connect(&host);
            stream.write_all(&length.to_be_bytes()).unwrap();
            let mut room = Vec::new();
            assert!(stream.read_to_end(&mut room).is_ok() && room.is_empty());
        }
    }
    settle(&host, before);
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.helper_pid()));
    let status = status.unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u32 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(kib < 32 * 1024, "{kib} KiB");
}

#[test]
fn net_s12_a_half_frame_is_dropped_at_its_deadline_while_others_are_served() {
    let host = Host::new();
    let mut slow: Vec<UnixStream> = (0..10).map(|_| connect(&host)).collect();
    for stream in &mut slow {
        stream.write_all(&[0, 0, 0, 40, b'{']).unwrap();
    }
    host.status();
    for stream in &mut slow {
        let mut room = Vec::new();
        stream.read_to_end(&mut room).ok();
        assert!(room.is_empty());
    }
}

#[test]
fn net_s15_beside_a_thousand_idle_connections_a_fresh_call_is_answered() {
    let host = Host::new();
    let idle: Vec<UnixStream> = (0..1000).map(|_| connect(&host)).collect();
    for _ in 0..20 {
        host.status();
    }
    assert!(descriptors(&host) < 200, "{}", descriptors(&host));
    drop(idle);
    settle(&host, 20);
}

#[test]
fn net_s14_peers_that_leave_before_the_answer_leak_nothing() {
    let host = Host::new();
    host.status();
    let before = descriptors(&host);
    let status = serde_json::to_vec(&Request::Status {}).unwrap();
    for _ in 0..500 {
        let channel = Channel::from(OwnedFd::from(connect(&host)));
        channel.send(&status, &[], LIMIT).unwrap();
    }
    host.status();
    settle(&host, before);
}

#[test]
fn net_x8_a_flood_of_refusals_is_a_hundred_lines_of_the_log_and_a_number() {
    let host = Host::new();
    let began = std::time::Instant::now();
    for _ in 0..500 {
        ask(&host, b"no request");
    }
    let (lines, took) = (host.log().lines().count(), began.elapsed());
    // Periods of ten seconds, each with its first line about what the one before left out.
    let periods = usize::try_from(took.as_secs()).unwrap() / 10 + 1;
    assert!(
        (100..=101 * periods).contains(&lines),
        "{lines} in {took:?}"
    );
    std::thread::sleep(Duration::from_secs(11));
    ask(&host, b"no request");
    let log = host.log();
    let counted: usize = log
        .lines()
        .filter_map(|line| line.strip_suffix(" lines were not written"))
        .map(|number| number.parse::<usize>().unwrap())
        .sum();
    let written = log
        .lines()
        .filter(|line| line.starts_with("refused"))
        .count();
    assert_eq!(counted + written, 501, "{log}");
}

#[test]
fn net_c16_a_log_that_nobody_reads_or_that_is_closed_holds_nothing_up() {
    let (_reader, mut full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while full.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let (_, closed) = std::io::pipe().unwrap();
    for log in [full, closed] {
        let mut host = Host::idle();
        host.start_logging_to(log.into());
        for _ in 0..200 {
            ask(&host, b"no request");
        }
        host.status();
    }
}

#[test]
fn net_c12_a_second_helper_for_the_same_directories_is_refused() {
    let host = Host::new();
    host.status();
    let (said, is_clean) = host.teardown();
    assert!(!is_clean && said.contains("another helper"), "{said}");
}

#[test]
fn net_a_connection_that_it_was_started_with_is_served_and_ended_with() {
    let mut host = Host::idle();
    let client = host.start_connected();
    client.call(&Request::Status {}, &[], LIMIT).unwrap();
    drop::<Client>(client);
    assert!(host.wait().success(), "{}", host.log());
}

#[test]
fn net_sigterm_ends_the_helper_after_what_goes_on() {
    let mut host = Host::new();
    host.status();
    let pid = i32::try_from(host.helper_pid()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(host.wait().success(), "{}", host.log());
}

#[test]
fn net_s16_a_socket_counts_only_if_it_was_passed_to_this_process() {
    let host = Host::idle();
    let listener = || {
        std::fs::remove_file(host.path("root.sock")).ok();
        std::os::unix::net::UnixListener::bind(host.path("root.sock")).unwrap()
    };
    let run = |script: &str| {
        let words = host.helper_words();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.splice(0..0, ["sh", "-c", script, "sh"]);
        let mut command = host.command(&words);
        command.stderr(std::process::Stdio::piped());
        command
    };
    for script in [
        "LISTEN_FDS=1 LISTEN_PID=1 exec \"$@\" 3<&0",
        "LISTEN_FDS=1 exec \"$@\" 3<&0",
        "LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\" 3<&0",
        "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3</dev/null",
        "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
    ] {
        let output = run(script)
            .stdin(OwnedFd::from(listener()))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{script}");
    }
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null";
    let mut helper = run(script)
        .stdin(OwnedFd::from(listener()))
        .spawn()
        .unwrap();
    host.status();
    helper.kill().unwrap();
    helper.wait().unwrap();
}

/// P12: closed standard descriptors, no argument, and none to know it by.
#[test]
fn p12_started_without_descriptors_or_name_it_says_no_and_ends() {
    let program = program();
    for script in [
        "exec \"$0\" <&- >&- 2>&-",
        "exec \"$0\" --fd 0 <&- >&- 2>&-",
        "exec -a '' \"$0\"",
    ] {
        let status = Command::new("/bin/bash")
            .args(["-c", script, &program])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1), "{script}");
    }
}
