//! Inside a VM: what a command finds there.

use e2e::{TestEnv, finish};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn commands_run_as_the_user_in_the_directory_with_the_environment_asked_for() {
    let env = TestEnv::new();
    env.vm("dev");
    let out = env.ok(&[
        "exec",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "-e",
        "A=1 2",
        "dev",
        "--",
        "sh",
        "-c",
        "id -un; id -gn; pwd; echo \"$A\"; echo $HOME",
    ]);
    assert_eq!(out, "nobody\nnogroup\n/tmp\n1 2\n/nonexistent\n");
    let ids = env.ok(&[
        "exec",
        "-u",
        "33:0",
        "dev",
        "--",
        "sh",
        "-c",
        "id -u; id -g",
    ]);
    assert_eq!(ids, "33\n0\n");
}

#[test]
fn a_vm_has_its_own_identity_and_the_image_has_none() {
    let env = TestEnv::new();
    for name in ["one", "two"] {
        env.vm(name);
        assert_eq!(env.sh(name, "hostname"), name);
        assert_eq!(
            env.sh(name, "ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l"),
            "0"
        );
    }
    let ids: Vec<String> = ["one", "two"]
        .map(|vm| env.sh(vm, "cat /etc/machine-id"))
        .to_vec();
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
    let random: Vec<String> = ["one", "two"]
        .map(|vm| env.sh(vm, "od -An -N16 -tx1 /dev/urandom"))
        .to_vec();
    assert_ne!(random[0], random[1]);

    let guest: u64 = env.sh("one", "date +%s").parse().unwrap();
    let host = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    // A guest without a clock of its own goes by what the host wrote before it started the VMM.
    let boot_ms = env.json(&["vm", "inspect", "one"])["boot_ms"].as_u64();
    let late = 5 + boot_ms.unwrap() / 1000;
    assert!(guest.abs_diff(host) <= late, "guest {guest}, host {host}");
}

#[test]
fn orphans_are_reaped_and_processes_end_with_their_command() {
    let env = TestEnv::new();
    env.vm("dev");
    env.sh(
        "dev",
        "for i in $(seq 50); do (sleep 0.01 &); done; sleep 0.5",
    );
    assert_eq!(
        env.sh(
            "dev",
            "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
        ),
        "0"
    );

    let mut running = env.start(&["exec", "dev", "--", "sh", "-c", "echo up; exec sleep 4321"]);
    assert_eq!(running.line(), "up");
    running.signal(rustix::process::Signal::KILL);
    running.end();
    e2e::eventually("the command of a vanished client ends", || {
        env.sh("dev", "grep -la 4321 /proc/[0-9]*/cmdline | grep -v self | xargs -r grep -lax 'sleep.4321.' | wc -l") == "0"
    });
}

#[test]
fn files_are_copied_both_ways_with_modes_and_links() {
    let env = TestEnv::new();
    env.vm("dev");
    let dir = env.join("tree");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/script"), "#!/bin/sh\necho hi\n").unwrap();
    fs::set_permissions(dir.join("sub/script"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/script", dir.join("link")).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    fs::write(dir.join("big"), &big).unwrap();

    env.ok(&["cp", dir.to_str().unwrap(), "dev:/srv/"]);
    assert_eq!(
        env.sh("dev", "/srv/tree/link; stat -c %a /srv/tree/sub/script"),
        "hi\n755"
    );
    env.ok(&["cp", "dev:/srv/tree", env.join("back").to_str().unwrap()]);
    let back = env.join("back");
    assert_eq!(fs::read(back.join("big")).unwrap(), big);
    assert_eq!(
        fs::read_link(back.join("link")).unwrap().to_str(),
        Some("sub/script")
    );
    assert_eq!(
        fs::metadata(back.join("sub/script"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );

    env.ok(&[
        "cp",
        "dev:/etc/hostname",
        env.join("name").to_str().unwrap(),
    ]);
    assert_eq!(fs::read_to_string(env.join("name")).unwrap().trim(), "dev");
    let stderr = env.fails(
        3,
        &["cp", "dev:/no/such/file", env.path().to_str().unwrap()],
    );
    assert!(stderr.contains("/no/such/file"), "{stderr}");
}

#[test]
fn the_guest_reaches_what_the_host_reaches_unless_it_has_no_network() {
    let env = TestEnv::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Whole: a socket closed on unread bytes resets the connection.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut part = [0; 256];
            let count = stream.read(&mut part).unwrap();
            assert_ne!(count, 0, "half a request: {request:?}");
            request.extend_from_slice(&part[..count]);
        }
        stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host")
            .unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    let url = format!("http://10.0.2.2:{port}/hello");
    let out = env.ok(&["run", "--", "curl", "-sS", "--max-time", "60", &url]);
    assert_eq!(out, "from the host");
    assert!(server.join().unwrap().starts_with("GET /hello"));

    let out = env.ok(&["run", "--network", "none", "--", "ls", "/sys/class/net"]);
    assert_eq!(out.trim(), "lo");
}

#[test]
fn systemd_can_be_init_with_the_agent_beside_it() {
    let env = TestEnv::new();
    env.ok(&[
        "vm", "create", "--name", "full", "--init", "systemd", "--start",
    ]);
    assert_eq!(
        env.sh("full", "readlink /proc/1/exe"),
        "/usr/lib/systemd/systemd"
    );
    // The agent answers before systemd does.
    let state = env.sh(
        "full",
        "until systemctl list-jobs >/dev/null 2>&1; do sleep 0.1; done; \
         systemctl is-system-running --wait || true",
    );
    assert!(["running", "degraded"].contains(&state.as_str()), "{state}");
    env.ok(&["vm", "stop", "-t", "60s", "full"]);
    let view = env.json(&["vm", "inspect", "full"]);
    assert_eq!(view["exit"]["reason"], "stopped", "{view}");
}

#[test]
fn the_agent_refuses_to_be_init_on_a_host() {
    let env = TestEnv::bare();
    let outcome = finish(&mut env.program("banger-agent"));
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("only as process 1"), "{outcome:#?}");
}
