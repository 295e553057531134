//! The agent as hosts meet it: streams over a mux wire, copies, connections, and the program's own gate.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failing helper of a test fails the test"
)]

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use banger_agent::channel::serve_mux;
use banger_agent::reaper::Reaper;
use banger_agent::serve::Agent;
use banger_agent::stream::Stream;
use banger_guest::client::{ClientError, FramedStream, health, request};
use banger_guest::frame::{AGENT_PORT, Frame, Kind};
use banger_guest::mux::{MuxClient, MuxError, MuxStream};
use banger_guest::request::{
    CopyIn, CopyOut, Dial, Exec, Exit, Failure, FailureCode, Reply, Request,
};

fn agent() -> Arc<Agent> {
    Arc::new(Agent::new(
        Reaper::own(),
        false,
        vec!["one".to_owned()],
        || {},
    ))
}

/// Sends a request over a stream of its own.
fn ask(wanted: &Request) -> (Stream, Result<Reply, Failure>) {
    ask_of(&agent(), wanted)
}

fn ask_of(agent: &Arc<Agent>, wanted: &Request) -> (Stream, Result<Reply, Failure>) {
    let (near, far) = UnixStream::pair().unwrap();
    agent.serve_in_thread(far.into());
    let mut host = Stream::new(near.into());
    host.send(&Frame::json(Kind::Request, wanted).unwrap())
        .unwrap();
    let answer = host.recv().unwrap().unwrap();
    let result = match answer.kind {
        Kind::Reply => Ok(answer.parse().unwrap()),
        Kind::Failure => Err(answer.parse().unwrap()),
        kind => panic!("{kind:?}"),
    };
    (host, result)
}

fn copy_in(dir: &Path, create: bool, tar: &[u8]) -> Result<(), Failure> {
    let (mut host, reply) = ask(&Request::CopyIn(CopyIn {
        dir: dir.to_str().unwrap().to_owned(),
        create,
        owner: String::new(),
    }));
    reply?;
    let mut writer = host.data_writer();
    writer.write_all(tar).unwrap();
    writer.finish().unwrap();
    let end = host.recv().unwrap().unwrap();
    match end.kind {
        Kind::Exit => {
            assert_eq!(end.parse::<Exit>().unwrap().code, Some(0));
            Ok(())
        }
        _ => Err(end.parse().unwrap()),
    }
}

fn copy_out(path: &Path) -> Result<Vec<u8>, Failure> {
    let (mut host, reply) = ask(&Request::CopyOut(CopyOut {
        path: path.to_str().unwrap().to_owned(),
    }));
    reply?;
    let mut tar = Vec::new();
    host.data_reader().read_to_end(&mut tar).unwrap();
    let exit = host.expect(Kind::Exit).unwrap();
    assert_eq!(exit.parse::<Exit>().unwrap().code, Some(0));
    Ok(tar)
}

#[test]
fn copies_go_round_with_modes_times_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub/closed")).unwrap();
    std::fs::write(tree.join("sub/closed/file"), vec![7; 200_000]).unwrap();
    std::fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::hard_link(tree.join("run"), tree.join("again")).unwrap();
    symlink("/absolute/nowhere", tree.join("link")).unwrap();
    symlink("sub", tree.join("dirlink")).unwrap();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(tree.join(path), std::fs::Permissions::from_mode(mode)).unwrap()
    };
    mode("run", 0o4755);
    mode("sub/closed", 0o500);
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["sub/closed/file", "sub", "."] {
        let file = std::fs::File::open(tree.join(path)).unwrap();
        file.set_modified(old).unwrap();
    }
    let tar = copy_out(&tree).unwrap();
    let target = dir.path().join("new/deep");
    copy_in(&target, true, &tar).unwrap();
    let copy = target.join("tree");
    let seen = |path: &str| copy.join(path).symlink_metadata().unwrap();
    assert_eq!(
        std::fs::read(copy.join("sub/closed/file")).unwrap(),
        vec![7; 200_000]
    );
    assert_eq!(seen("run").mode() & 0o7777, 0o4755);
    assert_eq!(seen("sub/closed").mode() & 0o7777, 0o500);
    for path in ["sub/closed/file", "sub", "."] {
        assert_eq!(seen(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(
        std::fs::read_link(copy.join("link")).unwrap(),
        Path::new("/absolute/nowhere")
    );
    assert!(seen("dirlink").is_symlink());
    // Again over what is there, a read-only directory included.
    copy_in(&target, false, &tar).unwrap();
    // A single file, and a link as itself.
    let tar = copy_out(&tree.join("link")).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap(), Path::new("link"));
    assert_eq!(entry.header().entry_type(), tar::EntryType::Symlink);
}

/// The entries of a tar stream: kind, name and content.
fn entries(tar: &[u8]) -> Vec<(tar::EntryType, String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let name = entry.path().unwrap().display().to_string();
            (entry.header().entry_type(), name, content)
        })
        .collect()
}

#[test]
fn copy_out_keeps_to_the_size_of_a_file_that_grows() {
    let dir = tempfile::tempdir().unwrap();
    let grows = dir.path().join("grows");
    std::fs::write(dir.path().join("next"), "whole").unwrap();
    for _ in 0..5 {
        std::fs::write(&grows, vec![b'a'; 1 << 20]).unwrap();
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = std::fs::File::options().append(true).open(&grows).unwrap();
                for _ in 0..1000 {
                    file.write_all(&[b'b'; 4097]).unwrap();
                }
            });
            entries(&copy_out(dir.path()).unwrap())
        });
        assert_eq!(found.len(), 3);
        assert_eq!(found[2].2, b"whole");
    }
}

#[test]
fn copy_out_takes_devices_pipes_and_files_that_say_they_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("mkfifo")
        .arg(dir.path().join("pipe"))
        .status()
        .unwrap();
    assert!(status.success());
    let found = entries(&copy_out(dir.path()).unwrap());
    assert_eq!(found[1].0, tar::EntryType::Fifo);
    assert!(found[1].1.ends_with("/pipe"), "{found:?}");
    let found = entries(&copy_out(Path::new("/dev/null")).unwrap());
    assert_eq!(
        found,
        [(tar::EntryType::Char, "null".to_owned(), Vec::new())]
    );
    let found = entries(&copy_out(Path::new("/proc/version")).unwrap());
    assert!(found[0].2.starts_with(b"Linux version"), "{found:?}");
}

#[test]
fn copies_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let failure = copy_in(&missing, false, &[]).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotFound);
    assert!(failure.message.contains("missing"), "{failure}");
    assert_eq!(copy_out(&missing).unwrap_err().code, FailureCode::NotFound);
    let relative = copy_out(Path::new("etc")).unwrap_err();
    assert_eq!(relative.code, FailureCode::Invalid);
    let failure = copy_in(dir.path(), false, &[1; 5000]).unwrap_err();
    assert_eq!(failure.code, FailureCode::Io);
}

fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    if !link.is_empty() {
        header.set_link_name_literal(link).unwrap();
    }
    header.set_cksum();
    builder.append(&header, std::io::empty()).unwrap();
}

#[test]
fn copy_in_refuses_names_that_lead_out() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let cases: [&[(tar::EntryType, &str, &str)]; 4] = [
        &[(Regular, "../evil", "")],
        &[(Directory, "../evil", "")],
        &[(Symlink, "out", ".."), (Regular, "out/evil", "")],
        &[(Symlink, "out", ".."), (Directory, "out/evil", "")],
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("in");
        std::fs::create_dir(&target).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, link) in case {
            entry(&mut builder, *kind, name, link);
        }
        let tar = builder.into_inner().unwrap();
        assert!(copy_in(&target, false, &tar).is_err(), "{case:?}");
        assert!(!dir.path().join("evil").exists(), "{case:?}");
    }
}

#[test]
fn dial_joins_a_port_both_ways() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut text = Vec::new();
        peer.read_to_end(&mut text).unwrap();
        text.reverse();
        peer.write_all(&text).unwrap();
    });
    let (mut host, reply) = ask(&Request::Dial(Dial { port }));
    reply.unwrap();
    let sent: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut writer = host.data_writer();
    writer.write_all(&sent).unwrap();
    writer.finish().unwrap();
    let mut got = Vec::new();
    host.data_reader().read_to_end(&mut got).unwrap();
    got.reverse();
    assert_eq!(got, sent);
    server.join().unwrap();
    // Nobody listens there any more.
    let (_, refused) = ask(&Request::Dial(Dial { port }));
    assert_eq!(refused.unwrap_err().code, FailureCode::NotFound);
}

#[test]
fn a_full_agent_still_tells_its_health_and_powers_off() {
    static OFF: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
    let power_off: fn() = || {
        *OFF.0.lock().unwrap() = true;
        OFF.1.notify_all();
    };
    let agent = Arc::new(Agent::new(Reaper::own(), false, Vec::new(), power_off));
    let dir = tempfile::tempdir().unwrap();
    let copy = Request::CopyIn(CopyIn {
        dir: dir.path().to_str().unwrap().to_owned(),
        create: false,
        owner: String::new(),
    });
    let held: Vec<_> = (0..256).map(|_| ask_of(&agent, &copy)).collect();
    assert!(held.iter().all(|(_, answer)| answer.is_ok()));
    let refused = ask_of(&agent, &copy).1.unwrap_err();
    assert_eq!(refused.code, FailureCode::Limit);
    assert!(ask_of(&agent, &Request::Health).1.unwrap().health.is_some());
    let (host, answer) = ask_of(&agent, &Request::PowerOff);
    answer.unwrap();
    drop(host);
    let limit = std::time::Duration::from_secs(20);
    let (is_off, _) = OFF
        .1
        .wait_timeout_while(OFF.0.lock().unwrap(), limit, |is_off| !*is_off)
        .unwrap();
    assert!(*is_off, "the guest was not ended");
}

#[test]
fn requests_that_do_not_parse_are_failures() {
    let (near, far) = UnixStream::pair().unwrap();
    agent().serve_in_thread(far.into());
    let mut host = Stream::new(near.into());
    host.send(&Frame::new(Kind::Request, *b"{\"op\":\"format\"}"))
        .unwrap();
    let failure: Failure = host.expect(Kind::Failure).unwrap().parse().unwrap();
    assert_eq!(failure.code, FailureCode::Invalid);
}

async fn connect(wire: UnixStream) -> MuxClient {
    wire.set_nonblocking(true).unwrap();
    let wire = tokio::net::UnixStream::from_std(wire).unwrap();
    MuxClient::connect(wire).await.unwrap()
}

fn wire() -> UnixStream {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    std::thread::spawn(move || serve_mux(&agent(), &guest.into()));
    host
}

fn exec(script: &str) -> Request {
    Request::Exec(Exec {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        user: rustix::process::getuid().as_raw().to_string(),
        ..Exec::default()
    })
}

async fn run(client: &MuxClient, script: &str, input: &[u8]) -> (Vec<u8>, Exit) {
    let stream = client.open(AGENT_PORT).await.unwrap();
    let (framed, _) = request(stream, &exec(script)).await.unwrap();
    let (mut reader, mut writer) = framed.split();
    let feed = async {
        for frame in banger_guest::frame::chunks(Kind::Stdin, input) {
            writer.send(&frame).await.unwrap();
        }
        writer
            .send(&Frame::new(Kind::Stdin, Vec::new()))
            .await
            .unwrap();
    };
    let collect = async {
        let mut output = Vec::new();
        while let Some(frame) = reader.recv().await.unwrap() {
            match frame.kind {
                Kind::Stdout => output.extend(frame.payload),
                Kind::Taken => {}
                Kind::Exit => return (output, frame.parse().unwrap()),
                kind => panic!("{kind:?}"),
            }
        }
        panic!("no exit");
    };
    tokio::join!(feed, collect).1
}

#[tokio::test]
async fn requests_over_a_mux_wire() {
    let client = connect(wire()).await;
    let well = health(client.open(AGENT_PORT).await.unwrap())
        .await
        .unwrap();
    assert_eq!(well.problems, ["one"]);
    assert!(!well.kernel.is_empty() && well.uptime_ms > 0);
    assert!(matches!(
        client.open(22).await,
        Err(MuxError::Refused { .. })
    ));
    // A stalled command beside busy ones.
    let stalled = client.open(AGENT_PORT).await.unwrap();
    let (stalled, _) = request(stalled, &exec("yes")).await.unwrap();
    let input: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (a, b, c) = tokio::join!(
        run(&client, "cat", &input),
        run(&client, "wc -c", &input),
        run(&client, "exit 9", b"")
    );
    assert!(a.0 == input, "{} bytes", a.0.len());
    assert_eq!(b.0, b"1200000\n");
    assert_eq!(c.1.code, Some(9));
    drop(stalled);
    let missing = Request::Exec(Exec {
        argv: vec!["/no/such".to_owned()],
        ..Exec::default()
    });
    let failed = request(client.open(AGENT_PORT).await.unwrap(), &missing);
    match failed.await {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.code, FailureCode::NotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_host_on_the_same_wire_starts_afresh() {
    let wire = wire();
    let again = wire.try_clone().unwrap();
    let client = connect(wire).await;
    let stream: MuxStream = client.open(AGENT_PORT).await.unwrap();
    let (mut framed, reply): (FramedStream<MuxStream>, Reply) =
        request(stream, &exec("trap '' HUP; echo up; cat; sleep 1"))
            .await
            .unwrap();
    assert_eq!(framed.recv().await.unwrap().unwrap().payload, b"up\n");
    // The old host dies without a word; its wire lives on in another one's hands.
    let pid = reply.pid.unwrap();
    std::mem::forget(framed);
    std::mem::forget(client);
    let mut cut = Vec::new();
    banger_guest::mux::codec::encode_into(
        &mut cut,
        banger_guest::mux::codec::Kind::Data,
        1,
        &[0; 900],
    );
    (&again).write_all(&cut[..500]).unwrap();
    // The forgotten client still reads from the wire: only the guest's side is looked at.
    let mut hello = vec![0; banger_guest::mux::codec::PADDING];
    banger_guest::mux::codec::encode_into(
        &mut hello,
        banger_guest::mux::codec::Kind::Hello,
        0,
        &[3; 16],
    );
    (&again).write_all(&hello).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(
            std::time::Instant::now() < deadline,
            "the old host's command still runs"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn the_program_refuses_to_be_init_of_anything_but_a_guest() {
    let program = env!("CARGO_BIN_EXE_banger-agent");
    let output = Command::new(program).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("init of banger's virtual machines") && text.contains("process 1"),
        "{text}"
    );
    let output = Command::new(program).arg("--version").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        format!("banger-agent {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        Command::new(program)
            .arg("x")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}
