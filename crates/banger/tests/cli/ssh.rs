//! Reaching a VM by ssh.

use crate::fake::{Home, Request, vm};
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, Kind};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

fn serve(state: &'static str) -> Home {
    Home::serve(move |request: Request| match request.path.as_str() {
        "/v1/vms/dev" => request.json(&vm("dev", state)),
        "/v1/vms/vm-0000beef/ssh" | "/v1/vms/dev/ssh" if request.method == "GET" => {
            request.json(&json!({
                "host": "dev.vm", "known_hosts": "/k/known_hosts", "identity": "/k/id",
            }));
        }
        "/v1/vms/dev/ssh" => {
            let mut stream = request.upgrade();
            stream.event(&StreamEvent::Open);
            let said = stream.data(Kind::Data);
            stream.send(&Frame::new(
                Kind::Data,
                [b"SSH-2.0 ", said.as_slice()].concat(),
            ));
            stream.send(&Frame::new(Kind::Data, Vec::new()));
        }
        other => panic!("{other}"),
    })
}

#[test]
fn the_proxy_relays_both_ways() {
    let home = serve("running");
    let mut child = home
        .banger(&["ssh-proxy", "dev.vm"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\x1b").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"SSH-2.0 hello\x1b");
}

#[test]
fn a_stopped_vm_is_not_started_but_named() {
    let home = serve("stopped");
    let failed = home.run(&["ssh-proxy", "dev.vm"]);
    assert_eq!(failed.code, 4, "{failed:?}");
    assert!(
        failed.stderr.contains("hint: banger vm start dev"),
        "{failed:?}"
    );
    assert_eq!(home.run(&["ssh", "dev"]).code, 125);
}

#[test]
fn ssh_forwards_nothing_and_trusts_the_pinned_key_only() {
    let home = serve("running");
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let fake = bin.join("ssh");
    std::fs::write(&fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 9\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = home.banger(&["ssh", "-u", "bob", "dev", "ls", "-l"]);
    let output = command.env("PATH", &bin).env("BANGER_HOME", home.path());
    let output: crate::fake::Outcome = output.output().unwrap().into();
    assert_eq!(output.code, 9, "{output:?}");
    let lines: Vec<_> = output.stdout.lines().collect();
    for expected in [
        "UserKnownHostsFile=\"/k/known_hosts\"",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
    ] {
        assert!(lines.contains(&expected), "{expected} in {lines:?}");
    }
    assert_eq!(lines[..2], ["-F", "/dev/null"]);
    assert!(
        lines.ends_with(&["-l", "bob", "--", "dev.vm", "ls", "-l"]),
        "{lines:?}"
    );
    let proxy = lines
        .iter()
        .find(|l| l.starts_with("ProxyCommand="))
        .unwrap();
    assert!(proxy.ends_with("' ssh-proxy dev"), "{proxy}");
    assert_eq!(
        home.run(&["ssh", "-u", "-oProxyCommand=x", "dev"]).code,
        125
    );
}

#[test]
fn ssh_config_is_installed_once() {
    let home = Home::empty();
    for _ in 0..2 {
        let installed = home.run(&["ssh-config", "--install"]);
        assert_eq!(installed.code, 0, "{installed:?}");
    }
    let theirs = std::fs::read_to_string(home.path().join(".ssh/config")).unwrap();
    assert_eq!(theirs.matches("Include").count(), 1, "{theirs}");
    let ours = std::fs::read_to_string(home.path().join("ssh_config")).unwrap();
    assert!(ours.contains("Host *.vm\n"), "{ours}");
    assert_eq!(ours, home.run(&["ssh-config"]).stdout);
}
