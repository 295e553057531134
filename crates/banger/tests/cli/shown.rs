//! What commands show, how they fail, and with which code.

use crate::fake::{Home, Request, vm};
use serde_json::{Value, json};
use std::process::Stdio;

fn vms(request: Request) {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/vms") => request.json(&json!([vm("dev", "running"), vm("old", "stopped")])),
        ("GET", "/v1/vms/dev") => request.json(&vm("dev", "running")),
        ("GET", "/v1/vms/old") => request.json(&vm("old", "stopped")),
        ("DELETE", _) => request.json(&vm("dev", "removing")),
        ("POST", "/v1/vms/dev/stop") => request.json(&vm("dev", "stopped")),
        _ => request.problem(
            404,
            &json!({
                "code": "not_found", "message": "find VM \"no\u{1b}[2J\"",
                "causes": ["no such name\u{202e}"], "hint": "banger ps -a",
            }),
        ),
    }
}

#[test]
fn a_table_stays_a_table_in_a_pipe() {
    let home = Home::serve(vms);
    let shown = home.run(&["vm", "ls"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert!(lines[0].starts_with("NAME  ID"), "{shown:?}");
    assert!(
        lines[1].starts_with("dev   vm-0000beef  running"),
        "{shown:?}"
    );
    assert_eq!(lines.len(), 3);
    assert_eq!(shown.stderr, "");

    let running = home.run(&["ps", "-q"]);
    assert_eq!(running.stdout, "vm-0000beef\n");
    let all = home.run(&["ps", "-a", "--format", "{{.name}}:{{.state}}"]);
    assert_eq!(all.stdout, "dev:running\nold:stopped\n");
    let all: Value = serde_json::from_str(&home.run(&["ps", "-a", "--json"]).stdout).unwrap();
    assert_eq!(all[1]["name"], "old");
    let one: Value =
        serde_json::from_str(&home.run(&["vm", "inspect", "dev", "--json"]).stdout).unwrap();
    assert_eq!(one["memory"], 1_u64 << 30);
    let bad = home.run(&["ps", "--format", "{{.nmae}}"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (2, ""));
}

#[test]
fn an_error_is_a_line_its_causes_and_a_hint() {
    let home = Home::serve(vms);
    let failed = home.run(&["vm", "inspect", "no"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (3, ""));
    assert_eq!(
        failed.stderr,
        "error: find VM \"no\\x1b[2J\"\n  caused by: no such name\\u{202e}\n\nhint: banger ps -a\n"
    );
    let failed = home.run(&["vm", "inspect", "no", "--json"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (3, ""));
    let body: Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(body["error"]["code"], "not_found");
    assert_eq!(body["error"]["hint"], "banger ps -a");
}

#[test]
fn problems_have_their_exit_codes() {
    for (problem, code) in [
        ("invalid", 2),
        ("not_found", 3),
        ("conflict", 4),
        ("permission", 5),
        ("host_unsupported", 8),
        ("verification", 9),
        ("exhausted", 1),
        ("timed_out", 1),
        ("internal", 1),
    ] {
        let home = Home::serve(move |request: Request| {
            request.problem(400, &json!({ "code": problem, "message": "x" }));
        });
        assert_eq!(home.run(&["image", "ls"]).code, code, "{problem}");
        assert_eq!(home.run(&["exec", "dev", "true"]).code, 125, "{problem}");
    }
}

#[test]
fn wrong_usage_is_2_and_never_a_guests_code() {
    let home = Home::empty();
    for arguments in [&["vm", "start"][..], &["ps", "--bogus"], &["nonsense"]] {
        let wrong = home.run(arguments);
        assert_eq!(
            (wrong.code, wrong.stdout.as_str()),
            (2, ""),
            "{arguments:?}"
        );
    }
    assert_eq!(home.run(&["run", "--memory", "x"]).code, 125);
    assert_eq!(home.run(&["vm", "exec"]).code, 125);
    let wrong = home.run(&["--json", "ps", "--bogus"]);
    let body: Value = serde_json::from_str(&wrong.stderr).unwrap();
    assert_eq!(body["error"]["code"], "usage");
    let help = home.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("image"));
}

#[test]
fn habits_from_other_tools_are_met_with_what_to_type() {
    let home = Home::serve(|request| {
        let error = json!({"code": "not_found", "message": "find image \"ls\": there is none"});
        request.problem(404, &error);
    });
    for (arguments, hint) in [
        (&["stop", "dev"][..], "hint: banger vm stop\n"),
        (&["ls"], "hint: banger vm list\n"),
        (
            &["run", "-it", "debian", "bash", "-c", "x"],
            "banger run IMAGE -- bash\n",
        ),
        (&["run", "ls"], "banger run -- ls\n"),
        (&["exec", "--timeout", "0", "dev", "true"], "at once"),
    ] {
        let wrong = home.run(arguments);
        assert!(wrong.stderr.contains(hint), "{}", wrong.stderr);
    }
    let wrong = home.run(&["--json", "rm", "dev"]);
    let body: Value = serde_json::from_str(&wrong.stderr).unwrap();
    assert_eq!(body["error"]["hint"], "banger vm rm");
}

#[test]
fn a_reader_that_is_gone_is_no_panic() {
    let home = Home::serve(vms);
    for arguments in [
        &["ps", "--json"][..],
        &["vm", "ls"],
        &["--help"],
        &["completion", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home
            .banger(arguments)
            .stdout(Stdio::from(writer))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn rm_of_a_running_vm_asks_and_without_a_terminal_refuses() {
    let home = Home::serve(vms);
    let refused = home.run(&["vm", "rm", "dev"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.stderr.contains("hint: banger vm rm --force dev"));
    assert_eq!(home.run(&["vm", "rm", "--dry-run", "dev"]).stdout, "dev\n");
    assert!(!home.seen().iter().any(|line| line.starts_with("DELETE")));

    assert_eq!(home.run(&["vm", "rm", "-f", "dev"]).stdout, "dev\n");
    let removed = "DELETE /v1/vms/vm-0000beef?force=true".to_owned();
    assert!(home.seen().contains(&removed), "{:?}", home.seen());
    assert_eq!(home.run(&["vm", "rm", "old"]).code, 0);
}

#[test]
fn several_names_go_on_after_a_failure() {
    let home = Home::serve(vms);
    let stopped = home.run(&["vm", "stop", "-t", "2s", "no", "dev"]);
    assert_eq!(
        (stopped.code, stopped.stdout.as_str()),
        (3, "dev\n"),
        "{stopped:?}"
    );
    assert!(stopped.stderr.starts_with("error: find VM"));
}

#[test]
fn start_of_a_running_vm_says_so() {
    let home = Home::serve(vms);
    let started = home.run(&["vm", "start", "dev"]);
    assert_eq!((started.code, started.stdout.as_str()), (0, "dev\n"));
    assert_eq!(started.stderr, "dev is running already\n");
    assert!(!home.seen().iter().any(|line| line.starts_with("POST")));
}

#[test]
fn logs_are_harmless_unless_raw() {
    let home = Home::serve(|request: Request| {
        assert!(request.path.starts_with("/v1/vms/dev/logs?source=console"));
        request.answer(200, b"one\r\n\x1b[31mtwo\x1b[0m\n\xffthree\n");
    });
    let shown = home.run(&["vm", "logs", "dev"]);
    assert_eq!(shown.stdout, "one\n\\x1b[31mtwo\\x1b[0m\n\\xffthree\n");
    let asked = [
        "vm",
        "logs",
        "-n",
        "1",
        "--since",
        "1970-01-01T00:01Z",
        "dev",
    ];
    assert_eq!(home.run(&asked).code, 0);
    let path = home.seen().pop().unwrap();
    assert!(path.ends_with("&since_unix_ms=60000&tail=1"), "{path}");
    let wrong = home.run(&["vm", "logs", "--since", "yesterday", "dev"]);
    assert_eq!(wrong.code, 2);
    let raw = home
        .banger(&["vm", "logs", "--raw", "dev"])
        .output()
        .unwrap();
    assert_eq!(raw.stdout, b"one\r\n\x1b[31mtwo\x1b[0m\n\xffthree\n");
}

#[test]
fn progress_lines_are_on_standard_error() {
    let home = Home::serve(|request: Request| {
        assert_eq!(request.body["build"]["recipe"], "debian");
        request.steps(&[
            json!({"progress": {"step": "fetch packages", "done": 1, "total": 2}}),
            json!({"progress": {"step": "write image\u{1b}"}}),
            json!({"failed": {"code": "exhausted", "message": "no space"}}),
        ]);
    });
    let failed = home.run(&["--progress", "plain", "image", "build"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""), "{failed:?}");
    assert!(
        failed
            .stderr
            .starts_with("fetch packages ...\nfetch packages: done in ")
    );
    assert!(
        failed
            .stderr
            .contains("write image\\x1b ...\nerror: no space\n"),
        "{failed:?}"
    );
    assert_eq!(home.run(&["image", "build"]).stderr, "error: no space\n");
}

#[test]
fn doctor_fails_with_its_findings() {
    let home = Home::serve(|request: Request| {
        assert_eq!(request.path, "/v1/host");
        request.json(&json!({
            "mode": "rootless", "engine": {"name": "qemu", "description": "7.2, emulation"},
            "checks": [{"name": "kvm", "status": "warning", "message": "no kvm", "fix": "none"}],
        }));
    });
    std::fs::set_permissions(
        home.socket(),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let well = home.run(&["doctor"]);
    assert_eq!(well.code, 0, "{well:?}");
    assert!(well.stdout.contains("warn  kvm"), "{well:?}");
    assert_eq!(home.run(&["doctor", "--strict"]).code, 1);
    let none = Home::empty().run(&["doctor", "--json"]);
    assert_eq!(none.code, 1);
    let found: Value = serde_json::from_str(&none.stdout).unwrap();
    let daemon = found["checks"].as_array().unwrap().iter();
    let daemon = daemon
        .into_iter()
        .find(|c| c["name"] == "client.daemon")
        .unwrap();
    assert_eq!(daemon["status"], "failed");
}

#[test]
fn completion_offers_live_names() {
    let home = Home::serve(vms);
    let offered = home
        .banger(&["--", "banger", "exec", ""])
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2")
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    let offered = String::from_utf8(offered.stdout).unwrap();
    assert!(offered.lines().any(|line| line == "dev"), "{offered}");
}
