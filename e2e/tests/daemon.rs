//! The daemon: started when needed, told apart from its remains, one at a time.

use e2e::{TestEnv, finish, send};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_daemon_starts_by_itself_again_after_a_kill_and_only_once() {
    let env = TestEnv::bare();
    env.ok(&["vm", "list"]);
    let first = env.daemon_pid().unwrap();
    assert_eq!(mode(&env.join("run")), 0o700);
    assert_eq!(mode(&env.join("run/bangerd.sock")), 0o600);
    assert_eq!(mode(&env.join("state/bangerd.db")), 0o600);

    let second = finish(&mut env.program("bangerd"));
    assert_eq!(second.code, 4, "{second:#?}");
    let said = format!("{}{}", second.stdout, second.stderr);
    assert!(said.contains(&first.to_string()), "{second:#?}");

    send(first, Signal::KILL);
    e2e::eventually("the daemon is gone", || env.daemon_pid().is_none());
    assert!(
        env.join("run/bangerd.sock").exists(),
        "a stale socket is what this is about"
    );
    env.ok(&["vm", "list"]);
    assert_ne!(env.daemon_pid().unwrap(), first);
}

#[test]
fn an_unsafe_runtime_directory_is_refused() {
    let env = TestEnv::bare();
    fs::create_dir(env.join("run")).unwrap();
    fs::set_permissions(env.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let stderr = env.fails(5, &["vm", "list"]);
    assert!(
        stderr.contains("0755") && stderr.contains("0700"),
        "{stderr}"
    );
    assert!(!env.join("run/bangerd.sock").exists());
}

#[test]
fn doctor_explains_the_engine_and_names_fixes() {
    let env = TestEnv::new();
    let report = env.json(&["doctor"]);
    let text = report.to_string();
    assert!(text.contains("qemu"), "{text}");
    let works = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has_flag = |flag: &str| works.split_whitespace().any(|word| word == flag);
    if !has_flag("vmx") && !has_flag("svm") {
        assert!(text.contains("emulation"), "{text}");
    }
    for check in report["checks"].as_array().unwrap() {
        let is_ok = check["status"] == "ok";
        assert!(is_ok || check["fix"].is_string(), "{check}");
    }
}

#[test]
fn a_running_vm_is_private_to_its_owner() {
    let env = TestEnv::new();
    env.vm("dev");
    let pid = env.vmm_pid("dev");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(
        environment.is_empty(),
        "{}",
        String::from_utf8_lossy(&environment)
    );
    let mut stack = vec![env.join("run"), env.join("state")];
    let mut seen = 0;
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(
            meta.permissions().mode() & 0o077,
            0,
            "{path:?} is open to others"
        );
        seen += 1;
        if meta.is_dir() {
            stack.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    assert!(seen > 10, "only {seen} files looked at");
}

#[test]
fn the_api_describes_itself() {
    let env = TestEnv::bare();
    env.ok(&["vm", "list"]);
    let socket = env.join("run/bangerd.sock");
    let outcome = finish(
        std::process::Command::new("curl")
            .args(["-sS", "--unix-socket"])
            .arg(&socket)
            .arg("http://banger/v1/openapi.json"),
    );
    let document: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(
        document["paths"]["/v1/vms/{vm}/exec"]["post"].is_object(),
        "{document}"
    );
}
