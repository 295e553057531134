//! `banger run`: one command in a VM of its own, and nothing afterwards.

use e2e::terminal::Terminal;
use e2e::{Outcome, Running, TestEnv, eventually, fed, finish, send};
use rustix::process::Signal;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn run_passes_output_errors_and_exit_code_through() {
    let env = TestEnv::new();
    let outcome = env.run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (7, "out\n"),
        "{outcome:#?}"
    );
    assert_eq!(outcome.stderr, "err\n");
    env.assert_nothing_left();

    let commands: [(i32, &[&str]); 4] = [
        (127, &["run", "--", "no-such-program"]),
        (126, &["run", "--", "/etc/passwd"]),
        (137, &["run", "--", "sh", "-c", "kill -9 $$"]),
        (124, &["run", "--timeout", "1s", "--", "sleep", "600"]),
    ];
    for (code, command) in commands {
        let outcome = env.run(command);
        assert_eq!(outcome.code, code, "{outcome:#?}");
    }
    env.assert_nothing_left();
}

#[test]
fn run_passes_standard_input_through_to_its_end() {
    let env = TestEnv::new();
    let megabyte: Vec<u8> = (0..1_000_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let here = fed(&mut Command::new("sha256sum"), megabyte.clone());
    let outcome = fed(&mut env.banger(&["run", "--", "sha256sum"]), megabyte);
    assert_eq!(
        (outcome.code, &outcome.stdout),
        (0, &here.stdout),
        "{outcome:#?}"
    );
}

#[test]
fn run_passes_signals_to_the_command() {
    let env = TestEnv::new();
    for (signal, name, code) in [
        (Signal::TERM, "TERM", 41),
        (Signal::INT, "INT", 42),
        (Signal::USR1, "USR1", 43),
    ] {
        let script =
            format!("trap 'echo caught; exit {code}' {name}; echo up; while :; do sleep 0.1; done");
        let mut running = env.start(&["run", "--", "sh", "-c", &script]);
        assert_eq!(running.line(), "up");
        running.signal(signal);
        let outcome = running.end();
        assert_eq!(
            (outcome.code, outcome.stdout.trim()),
            (code, "caught"),
            "{name}: {outcome:#?}"
        );
    }
    env.assert_nothing_left();
}

#[test]
fn run_gives_the_command_a_terminal_that_follows_its_size() {
    let env = TestEnv::new();
    let script = "test -t 0 && test -t 1 && stty size; trap 'stty size; exit 9' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&env.banger(&["run", "--", "sh", "-c", script]), 97, 31);
    terminal.expect("31 97");
    terminal.expect("ready");
    terminal.resize(120, 40);
    terminal.expect("40 120");
    assert_eq!(terminal.end().0, 9);

    // Ctrl-C is a key on this terminal: the guest's line discipline makes it a signal.
    let script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&env.banger(&["run", "--", "sh", "-c", script]), 80, 24);
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("interrupted");
    assert_eq!(terminal.end().0, 3);
    env.assert_nothing_left();
}

#[test]
fn run_brings_the_files_that_git_would_and_works_there() {
    let env = TestEnv::new();
    let project = env.join("project");
    fs::create_dir_all(project.join("src")).unwrap();
    for (name, text) in [
        ("tracked", "one\n"),
        ("src/untracked", "two\n"),
        ("ignored.log", "three\n"),
        (".gitignore", "*.log\n"),
        ("deleted", "gone\n"),
    ] {
        fs::write(project.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("/etc/shadow", project.join("link")).unwrap();
    let git = |args: &[&str]| {
        let outcome = finish(
            Command::new("git")
                .args(args)
                .current_dir(&project)
                .env("HOME", env.path()),
        );
        assert_eq!(outcome.code, 0, "git {args:?}: {outcome:#?}");
    };
    git(&["init", "-q"]);
    git(&["add", "tracked", "deleted", ".gitignore", "link"]);
    fs::remove_file(project.join("deleted")).unwrap();

    let script = "pwd; find . -mindepth 1 | sort; cat tracked src/untracked; readlink link";
    let out = env.ok(&["run", project.to_str().unwrap(), "--", "sh", "-c", script]);
    let expected = "/workspace\n./.gitignore\n./link\n./src\n./src/untracked\n./tracked\none\ntwo\n/etc/shadow\n";
    assert_eq!(out, expected);

    // More than any buffer on the way holds.
    let big = vec![7; 20_000_000];
    fs::write(project.join("big"), &big).unwrap();
    let out = env.ok(&["run", project.to_str().unwrap(), "--", "wc", "-c", "big"]);
    assert_eq!(out, "20000000 big\n");
    fs::remove_file(project.join("big")).unwrap();

    // Without git, everything comes.
    fs::remove_dir_all(project.join(".git")).unwrap();
    let out = env.ok(&["run", project.to_str().unwrap(), "--", "cat", "ignored.log"]);
    assert_eq!(out, "three\n");
    env.assert_nothing_left();
}

/// When a run is interrupted.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many milliseconds after its start, wherever that falls.
    After(u64),
    /// Once the VM has a directory.
    Made,
    /// Once it has a VMM, which then boots.
    Boots,
    /// Once the command has spoken.
    Speaks,
}

impl Moment {
    fn wait(self, env: &TestEnv, running: &mut Running) {
        match self {
            Self::After(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Self::Made => eventually("a VM is made", || {
                fs::read_dir(env.join("state/vms")).is_ok_and(|mut vms| vms.next().is_some())
            }),
            Self::Boots => eventually("a VMM runs", || !env.vmms().is_empty()),
            Self::Speaks => assert_eq!(running.line(), "up"),
        }
    }
}

#[test]
fn run_leaves_nothing_when_interrupted_at_any_moment() {
    let env = TestEnv::new();
    // The daemon is up before, so that the moments fall into the run itself.
    env.ok(&["vm", "list"]);
    for (moment, signal) in [
        (Moment::After(0), Signal::INT),
        (Moment::After(30), Signal::INT),
        (Moment::After(100), Signal::TERM),
        (Moment::After(400), Signal::INT),
        (Moment::Made, Signal::INT),
        (Moment::Boots, Signal::KILL),
        (Moment::Boots, Signal::HUP),
        (Moment::Speaks, Signal::KILL),
        (Moment::Speaks, Signal::INT),
    ] {
        let mut running = env.start(&["run", "--", "sh", "-c", "echo up; exec sleep 600"]);
        moment.wait(&env, &mut running);
        running.signal(signal);
        let outcome = running.end();
        assert_ne!(outcome.code, 0, "{signal:?}, {moment:?}: {outcome:#?}");
        env.assert_nothing_left();
    }
}

#[test]
fn run_says_so_and_leaves_nothing_when_the_vmm_is_killed() {
    let env = TestEnv::new();
    let mut running = env.start(&["run", "--", "sh", "-c", "echo up; sleep 600"]);
    assert_eq!(running.line(), "up");
    let vms = env.json(&["vm", "list"]);
    let pid = vms[0]["pid"].as_u64().unwrap();
    send(u32::try_from(pid).unwrap(), Signal::KILL);
    let outcome = running.end();
    assert_eq!(outcome.code, 125, "{outcome:#?}");
    assert!(outcome.stderr.contains("killed"), "{outcome:#?}");
    env.assert_nothing_left();
}

#[test]
fn run_leaves_nothing_when_the_daemon_is_killed() {
    let env = TestEnv::new();
    let mut running = env.start(&["run", "--", "sh", "-c", "echo up; sleep 600"]);
    assert_eq!(running.line(), "up");
    send(env.daemon_pid().unwrap(), Signal::KILL);
    let outcome = running.end();
    assert_eq!(outcome.code, 125, "{outcome:#?}");
    // The next command starts a daemon, which finds what the first one left.
    eventually("the daemon is gone", || env.daemon_pid().is_none());
    env.ok(&["vm", "list"]);
    env.assert_nothing_left();
}

/// The state lies on a small disk of its own, in a mount namespace that ends with the command. What the shell
/// does `meanwhile`, which knows the files `$out` and `$state`, says what the command reads.
fn on_small_disk(env: &TestEnv, size: &str, meanwhile: &str, command: &[&str]) -> Outcome {
    let state = env.join("state");
    fs::create_dir_all(&state).unwrap();
    let script = format!(
        "state={state}; out={out}; mount -t tmpfs -o mode=700,size={size} small $state && \
         {{ {meanwhile}; }} | \"$@\" > $out; code=$?; cat $out; \
         echo; ls $state/vms >&2; pid=$(cat {run}/bangerd.lock) && kill $pid && \
         while kill -0 $pid 2>/dev/null; do sleep 0.05; done; exit $code",
        state = state.display(),
        out = env.join("out").display(),
        run = env.join("run").display(),
    );
    let mut outer = Command::new("unshare");
    outer.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--",
        "sh",
        "-c",
        &script,
        "sh",
    ]);
    let inner = env.banger(command);
    outer
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .stdin(Stdio::null());
    for (key, value) in inner.get_envs() {
        outer.env(key, value.unwrap());
    }
    finish(&mut outer)
}

#[test]
fn run_refuses_a_full_disk_by_name_and_leaves_nothing() {
    let env = TestEnv::new();
    let outcome = on_small_disk(&env, "64m", ":", &["run", "--", "true"]);
    assert_eq!(outcome.code, 125, "{outcome:#?}");
    assert!(outcome.stderr.contains("free"), "{outcome:#?}");
    assert_eq!(outcome.stdout.trim(), "", "{outcome:#?}");
}

#[test]
fn run_survives_a_disk_that_fills_up_and_leaves_nothing() {
    let env = TestEnv::new();
    let script = "dd if=/dev/zero of=/big bs=1M count=3000 conv=fsync 2>&1 || echo write failed";
    let outcome = on_small_disk(&env, "1100m", ":", &["run", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, 125, "{outcome:#?}");
    assert!(outcome.stderr.contains("host_full"), "{outcome:#?}");
    no_vm_is_left(&outcome);
}

#[test]
fn run_survives_a_disk_that_somebody_else_fills_and_leaves_nothing() {
    let env = TestEnv::new();
    let fill = "for try in $(seq 600); do grep -q ready $out && break; sleep 0.1; done
        head -c 2G /dev/zero > $state/other 2>/dev/null; echo go";
    let script = "echo ready; read go; dd if=/dev/zero of=/big bs=1M count=100 conv=fsync";
    let outcome = on_small_disk(&env, "1100m", fill, &["run", "--", "sh", "-c", script]);
    // Told to the command, or to the guest's kernel where that wrote first.
    match outcome.code {
        1 => assert!(
            outcome.stderr.contains("Input/output error"),
            "{outcome:#?}"
        ),
        code => assert_eq!(
            (code, outcome.stderr.contains("panicked")),
            (125, true),
            "{outcome:#?}"
        ),
    }
    no_vm_is_left(&outcome);
}

fn no_vm_is_left(outcome: &Outcome) {
    assert!(
        !outcome.stderr.contains("vm-"),
        "a VM's directory is left: {outcome:#?}"
    );
}

#[test]
fn run_refuses_what_it_cannot_do_with_a_hint() {
    let env = TestEnv::new();
    for (args, code, text) in [
        (vec!["run", "--memory", "1M", "--", "true"], 125, "memory"),
        (
            vec!["run", "no-such-image", "--", "true"],
            125,
            "no-such-image",
        ),
        (
            vec!["run", "--kernel", "no-such-kernel", "--", "true"],
            125,
            "no-such-kernel",
        ),
        (vec!["run", "--cpus", "200", "--", "true"], 125, "cpu"),
        (
            vec!["run", "./no-such-dir", "--", "true"],
            125,
            "no-such-dir",
        ),
    ] {
        let stderr = env.fails(code, &args).to_lowercase();
        assert!(
            stderr.contains(text) && stderr.contains("hint:"),
            "{args:?}: {stderr}"
        );
    }
    env.assert_nothing_left();
}

#[test]
fn four_runs_at_once_do_not_disturb_each_other() {
    let env = TestEnv::new();
    let running: Vec<_> = (0..4)
        .map(|i| env.start(&["run", "--", "sh", "-c", &format!("echo {i}; exit {i}")]))
        .collect();
    for (i, running) in (0..4).zip(running) {
        let outcome = running.end();
        assert_eq!((outcome.code, outcome.stdout), (i, format!("{i}\n")));
    }
    eventually("nothing runs", || {
        env.json(&["vm", "list"])
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    env.assert_nothing_left();
}
