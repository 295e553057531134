//! VMs that are kept: from creation to removal, and every way to end.

use e2e::{TestEnv, eventually, send};
use rustix::process::Signal;
use std::fs;

#[test]
fn a_vm_keeps_its_disk_over_stop_and_start_until_it_is_removed() {
    let env = TestEnv::new();
    env.ok(&["vm", "create", "--name", "dev"]);
    assert_eq!(env.json(&["vm", "inspect", "dev"])["state"], "created");
    env.ok(&["vm", "start", "dev"]);
    env.sh("dev", "echo kept > /root/file");
    // Starting what runs is no error.
    env.ok(&["vm", "start", "dev"]);
    env.ok(&["vm", "stop", "dev"]);
    let view = env.json(&["vm", "inspect", "dev"]);
    assert_eq!(
        (&view["state"], &view["exit"]["reason"]),
        (&"stopped".into(), &"stopped".into())
    );
    env.ok(&["vm", "stop", "dev"]);
    env.ok(&["vm", "start", "dev"]);
    assert_eq!(env.sh("dev", "cat /root/file"), "kept");
    let id = env.json(&["vm", "inspect", "dev"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // A unique prefix of the id names it as well.
    assert_eq!(env.sh(&id[..7], "hostname"), "dev");

    env.fails(7, &["vm", "rm", "dev"]);
    env.ok(&["vm", "rm", "--force", "dev"]);
    env.fails(3, &["vm", "inspect", "dev"]);
    env.assert_nothing_left();
}

#[test]
fn names_are_unique_and_wrong_ones_are_refused() {
    let env = TestEnv::new();
    env.ok(&["vm", "create", "--name", "dev"]);
    env.fails(4, &["vm", "create", "--name", "dev"]);
    for name in [
        "localhost",
        "-x",
        "$(id)",
        "a b",
        "vm-12345678",
        "UPPER",
        "a\u{1b}[31m",
    ] {
        let outcome = env.run(&["vm", "create", &format!("--name={name}")]);
        assert!([1, 2].contains(&outcome.code), "{name:?}: {outcome:#?}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome:#?}");
    }
    let stderr = env.fails(3, &["vm", "start", "nope"]);
    assert!(
        stderr.contains("nope") && stderr.contains("hint:"),
        "{stderr}"
    );
    env.ok(&["vm", "rm", "dev"]);
}

#[test]
fn a_guest_that_powers_off_panics_or_hangs_is_told_apart() {
    let env = TestEnv::new();
    env.vm("dev");
    let ended = |reason: &str, state: &str| {
        eventually(reason, || {
            env.json(&["vm", "inspect", "dev"])["state"] == state
        });
        let view = env.json(&["vm", "inspect", "dev"]);
        assert_eq!(view["exit"]["reason"], reason, "{view}");
        assert!(view["pid"].is_null(), "{view}");
    };

    env.run(&["exec", "dev", "--", "sh", "-c", "kill -TERM 1; sleep 60"]);
    ended("powered_off", "stopped");

    env.ok(&["vm", "start", "dev"]);
    env.run(&[
        "exec",
        "dev",
        "--",
        "sh",
        "-c",
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    ]);
    ended("panicked", "crashed");

    env.ok(&["vm", "start", "dev"]);
    send(env.vmm_pid("dev"), Signal::KILL);
    ended("killed", "crashed");

    env.ok(&["vm", "start", "dev"]);
    env.ok(&["vm", "kill", "dev"]);
    ended("killed", "stopped");

    // A VMM that answers nothing is forced when the time is up, and that is said.
    env.ok(&["vm", "start", "dev"]);
    send(env.vmm_pid("dev"), Signal::STOP);
    env.ok(&["vm", "stop", "-t", "2s", "dev"]);
    ended("forced", "stopped");
}

#[test]
fn wait_tells_the_end_from_the_deadline() {
    let env = TestEnv::new();
    env.vm("dev");
    env.fails(124, &["vm", "wait", "--timeout", "200ms", "dev"]);
    let waiting = env.start(&["vm", "wait", "dev"]);
    env.ok(&["vm", "stop", "dev"]);
    assert_eq!(waiting.end().code, 0);
}

#[test]
fn ctrl_alt_del_ends_a_guest_in_order() {
    let env = TestEnv::new();
    env.vm("dev");
    // Without its agent a guest can only be reached by the key.
    env.run(&[
        "exec",
        "dev",
        "--",
        "sh",
        "-c",
        "echo bye > /root/bye; sync",
    ]);
    env.ok(&["vm", "stop", "dev"]);
    env.ok(&["vm", "start", "dev"]);
    assert_eq!(
        env.sh("dev", "cat /root/bye; dmesg | grep -ci 'recovery' || true"),
        "bye\n0"
    );
}

#[test]
fn logs_show_the_console_sanitised() {
    let env = TestEnv::new();
    env.vm("dev");
    env.sh("dev", "echo hello-from-console > /dev/console");
    eventually("the console is logged", || {
        env.ok(&["vm", "logs", "dev"])
            .contains("hello-from-console")
    });
    env.sh(
        "dev",
        "printf '\\033]0;evil\\007\\033[31mred\\n' > /dev/console",
    );
    eventually("the console is sanitised", || {
        env.ok(&["vm", "logs", "dev"]).contains("red")
    });
    let is_control = |c: char| c.is_control() && c != '\n' && c != '\t';
    let shown = env.ok(&["vm", "logs", "dev"]);
    assert!(!shown.contains(is_control), "{shown:?}");
}

#[test]
fn logs_stay_small_under_a_flood() {
    let env = TestEnv::new();
    let config = fs::read_to_string(env.join("config.toml")).unwrap_or_default();
    let config = format!("{config}\n[daemon]\nlog_cap = \"256K\"\n");
    fs::write(env.join("config.toml"), config).unwrap();
    env.vm("dev");
    env.sh("dev", "yes flood | head -c 2000000 > /dev/console");
    let id = env.json(&["vm", "inspect", "dev"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let dir = env.join("state/vms").join(id);
    let size: u64 = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().contains("log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(size > 0 && size <= 3 * 256 * 1024, "{size} bytes of logs");
}

#[test]
fn running_vms_survive_the_daemon_and_are_found_again() {
    let env = TestEnv::new();
    env.vm("dev");
    env.sh("dev", "echo before > /run/mark");
    let pid = env.vmm_pid("dev");
    send(env.daemon_pid().unwrap(), Signal::KILL);
    eventually("the daemon is gone", || env.daemon_pid().is_none());
    assert_eq!(env.sh("dev", "cat /run/mark"), "before");
    assert_eq!(env.vmm_pid("dev"), pid);
    env.ok(&["vm", "stop", "dev"]);
    assert_eq!(env.json(&["vm", "inspect", "dev"])["state"], "stopped");
    env.ok(&["vm", "rm", "dev"]);
    env.assert_nothing_left();
}
