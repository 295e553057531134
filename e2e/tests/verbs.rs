//! Everyday verbs on VMs that are kept.

use e2e::terminal::Terminal;
use e2e::{TestEnv, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_vm_is_renamed_resized_and_restarted_with_its_disk() {
    let env = TestEnv::new();
    env.vm("old");
    env.sh("old", "echo kept > /root/file");
    env.ok(&["vm", "rename", "old", "new"]);
    env.fails(3, &["vm", "inspect", "old"]);
    assert_eq!(env.sh("new", "hostname"), "old");
    env.ok(&["vm", "set", "new", "--cpus", "2", "--label", "team=blue"]);
    assert_eq!(env.sh("new", "nproc"), "1");
    let view = env.json(&["vm", "inspect", "new"]);
    assert_eq!(view["needs_restart"], true, "{view}");

    env.ok(&["vm", "restart", "new"]);
    assert_eq!(
        env.sh("new", "hostname; nproc; cat /root/file"),
        "new\n2\nkept"
    );
    assert_eq!(
        env.ok(&["ps", "-q", "--filter", "label=team=blue"]),
        view["id"].as_str().unwrap().to_owned() + "\n"
    );
}

#[test]
fn prune_removes_what_is_over_and_nothing_else() {
    let env = TestEnv::new();
    env.vm("runs");
    env.vm("over");
    env.ok(&["vm", "create", "fresh"]);
    env.ok(&["vm", "stop", "over"]);
    env.fails(7, &["vm", "prune"]);
    assert_eq!(env.ok(&["vm", "prune", "--dry-run"]), "over\n");
    assert_eq!(env.ok(&["vm", "prune", "--yes"]), "over\n");
    assert_eq!(env.ok(&["vm", "prune", "--yes"]), "");
    assert_eq!(
        env.ok(&["vm", "ls", "--format", "{{.name}}"]),
        "runs\nfresh\n"
    );
    assert_eq!(env.sh("runs", "echo yes"), "yes");
    env.ok(&["vm", "rm", "-f", "runs", "fresh"]);
    env.assert_nothing_left();
}

#[test]
fn logs_begin_where_they_are_asked_to() {
    let env = TestEnv::new();
    env.vm("dev");
    env.sh(
        "dev",
        "echo first > /dev/console; echo second > /dev/console",
    );
    let logs = |args: &[&str]| env.ok(&[&["vm", "logs", "dev"], args].concat());
    eventually("the console is logged", || logs(&[]).contains("second"));
    let last = logs(&["--tail", "1"]);
    assert!(last.contains("second") && !last.contains("first"), "{last}");

    std::thread::sleep(Duration::from_secs(3));
    let now = e2e::finish(Command::new("date").args(["-u", "+%FT%TZ"])).stdout;
    assert_eq!(logs(&["--since", now.trim()]), "");
    env.sh("dev", "echo third > /dev/console");
    eventually("only the newest is shown", || {
        logs(&["--since", now.trim()]).trim() == "third"
    });
    assert!(logs(&["--since", "1h"]).contains("first"));

    // Followed from the end on, until the VM ends.
    let mut following = env.start(&["vm", "logs", "-f", "--tail", "1", "dev"]);
    assert_eq!(following.line(), "third");
    env.sh("dev", "echo fourth > /dev/console");
    assert_eq!(following.line(), "fourth");
    env.ok(&["vm", "kill", "dev"]);
    assert_eq!(following.end().code, 0);
}

#[test]
fn waiting_for_a_port_needs_no_network_and_disturbs_no_server() {
    let env = TestEnv::new();
    env.ok(&["vm", "create", "dev", "--network", "none"]);
    env.fails(4, &["vm", "wait", "--port", "8080", "dev"]);
    env.ok(&["vm", "start", "dev"]);
    env.fails(
        124,
        &["vm", "wait", "--port", "8080", "--timeout", "300ms", "dev"],
    );
    let waiting = env.start(&["vm", "wait", "--port", "8080", "dev"]);
    // It serves one connection and ends: were it asked by connecting, nobody else would be served.
    let server = env.start(&[
        "exec",
        "dev",
        "--",
        "perl",
        "-MIO::Socket",
        "-e",
        "my $s = IO::Socket::INET->new(Listen => 1, LocalPort => 8080); \
         my $c = $s->accept; print $c 'served'",
    ]);
    let waited = waiting.end();
    assert_eq!(waited.code, 0, "{waited:?}");
    let client = "use IO::Socket; print IO::Socket::INET->new('127.0.0.1:8080')->getline";
    assert_eq!(
        env.ok(&["exec", "dev", "--", "perl", "-e", client]),
        "served"
    );
    assert_eq!(server.end().code, 0);
    env.ok(&["vm", "kill", "dev"]);
    env.ok(&["vm", "wait", "--state", "stopped", "dev"]);
}

#[test]
fn events_tell_what_became_of_vms() {
    let env = TestEnv::new();
    env.vm("dev");
    let mut following = env.start(&["events", "-f", "--since", "1h", "--filter", "event=crashed"]);
    e2e::send(env.vmm_pid("dev"), rustix::process::Signal::KILL);
    let line = following.line();
    assert!(
        line.contains("crashed    dev") && line.contains("killed"),
        "{line}"
    );
    following.signal(rustix::process::Signal::INT);
    following.end();
    assert_eq!(env.ok(&["run", "--", "echo", "hi"]), "hi\n");
    env.ok(&["vm", "rm", "dev"]);
    eventually("all of it is told", || {
        let shown = env.ok(&["vm", "events", "--json"]);
        let told: Vec<Value> = shown
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |name: &str| -> Vec<String> {
            let fits = |event: &&Value| event["name"].as_str().unwrap().starts_with(name);
            let kind = |event: &Value| event["event"].as_str().unwrap().to_owned();
            told.iter().filter(fits).map(kind).collect()
        };
        of("dev") == ["created", "started", "running", "crashed", "removed"]
            && of("run-").starts_with(&["created", "started", "running"].map(str::to_owned))
            && of("run-").ends_with(&["removed".to_owned()])
    });
}

#[test]
fn stats_and_top_show_who_is_busy_and_give_the_terminal_back() {
    let env = TestEnv::new();
    env.vm("busy");
    env.vm("lazy");
    env.sh("busy", "(while :; do :; done) > /dev/null 2>&1 & exit");
    let shown = env.json(&["vm", "stats", "--no-stream", "busy", "lazy"]);
    let busy = shown[0]["cpu_percent"].as_f64().unwrap();
    let lazy = shown[1]["cpu_percent"].as_f64().unwrap();
    assert!(busy > 10.0 && busy > lazy, "{shown}");
    assert!(
        shown[0]["memory_used"].as_u64().unwrap() > 1 << 20,
        "{shown}"
    );
    assert!(shown[0]["disk_used"].as_u64().unwrap() > 0, "{shown}");
    let table = env.ok(&["vm", "stats", "--no-stream"]);
    assert!(
        table.starts_with("NAME") && table.lines().count() == 3,
        "{table}"
    );

    env.fails(2, &["vm", "top"]);
    let start = || Terminal::start(&env.banger(&["vm", "top", "--sort", "name"]), 120, 20);
    let mut top = start();
    let first = top.expect("sort: c cpu");
    assert!(first.contains("\u{1b}[?1049h"), "{first:?}");
    assert!(first.find("busy") < first.find("lazy"), "{first:?}");
    top.send("r");
    let turned = top.expect("sort: c cpu");
    assert!(turned.find("lazy") < turned.find("busy"), "{turned:?}");
    top.resize(40, 6);
    top.send("q");
    let (code, last) = top.end();
    assert_eq!(
        (code, last.contains("\u{1b}[?25h\u{1b}[?1049l")),
        (0, true),
        "{last:?}"
    );

    for leave in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut top = start();
        top.expect("sort: c cpu");
        assert!(!top.is_cooked());
        top.signal(leave);
        let (code, last, is_cooked) = top.end_with_modes();
        let is_left = last.contains("\u{1b}[?25h\u{1b}[?1049l");
        assert_eq!(
            (code, is_left, is_cooked),
            (0, true, true),
            "{leave:?} {last:?}"
        );
    }
    let mut top = start();
    top.expect("sort: c cpu");
    top.send("\u{3}");
    assert!(top.end_with_modes().2, "Ctrl-C");
    // A daemon that is stuck keeps nobody there, and neither does a terminal that is gone.
    let mut top = start();
    top.expect("sort: c cpu");
    let daemon = env.daemon_pid().unwrap();
    e2e::send(daemon, Signal::STOP);
    std::thread::sleep(Duration::from_secs(2));
    top.send("q");
    let (code, _, is_cooked) = top.end_with_modes();
    e2e::send(daemon, Signal::CONT);
    assert_eq!((code, is_cooked), (0, true));
    let mut top = start();
    top.expect("sort: c cpu");
    top.close();

    env.ok(&["vm", "stop", "lazy"]);
    env.fails(4, &["vm", "stats", "--no-stream", "lazy"]);
}

#[test]
fn a_vm_that_fails_comes_back_and_one_whose_time_is_up_goes() {
    let env = TestEnv::new();
    env.ok(&["vm", "create", "dev", "--restart", "on-failure", "--start"]);
    env.sh("dev", "echo kept > /root/file; sync");
    let before = env.vmm_pid("dev");
    e2e::send(before, rustix::process::Signal::KILL);
    eventually("it runs again", || {
        let view = env.json(&["vm", "inspect", "dev"]);
        view["state"] == "running" && view["pid"] != before
    });
    assert_eq!(env.json(&["vm", "inspect", "dev"])["restarts"], 1);
    assert_eq!(env.sh("dev", "cat /root/file"), "kept");
    // A stop is what was wanted, and a guest that powers off did not fail.
    env.ok(&["vm", "stop", "dev"]);
    env.ok(&["vm", "start", "dev"]);
    env.run(&["exec", "dev", "--", "sh", "-c", "kill -TERM 1; sleep 60"]);
    env.ok(&["vm", "wait", "--timeout", "60s", "dev"]);
    assert!(env.json(&["vm", "inspect", "dev"])["restarts_unix_ms"].is_null());

    env.ok(&["vm", "start", "dev"]);
    env.ok(&["vm", "set", "dev", "--ttl", "1s", "--restart", "always"]);
    env.ok(&["vm", "wait", "--timeout", "120s", "dev"]);
    let view = env.json(&["vm", "inspect", "dev"]);
    assert_eq!(view["exit"]["reason"], "ttl", "{view}");
    let refused = env.run(&["run", "--restart", "always", "--", "true"]);
    assert_eq!(refused.code, 125, "{refused:?}");
    let cut = env.run(&["run", "--ttl", "6s", "--", "sleep", "600"]);
    assert_eq!(cut.code, 124, "{cut:?}");
    env.ok(&["vm", "rm", "dev"]);
    env.assert_nothing_left();
}

#[test]
fn the_system_tells_what_it_has_and_what_could_go() {
    let env = TestEnv::new();
    env.vm("dev");
    let of = |kind: &str, field: &str| {
        let shown = env.json(&["system", "df"]);
        let row = shown
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["kind"] == kind);
        row.unwrap()[field].as_u64().unwrap()
    };
    assert!(of("images", "size") > 1 << 20 && of("kernels", "size") > 1 << 20);
    assert_eq!((of("vms", "count"), of("vms", "reclaimable")), (1, 0));
    env.ok(&["vm", "stop", "dev"]);
    assert!(of("vms", "reclaimable") > 0 && of("logs", "reclaimable") > 0);
    env.ok(&["vm", "prune", "-y"]);
    assert_eq!((of("vms", "count"), of("vms", "size")), (0, 0));

    let info = env.json(&["system", "info"]);
    assert_eq!(info["mode"], "rootless", "{info}");
    assert!(info["engine"].as_str().unwrap().contains("QEMU"), "{info}");
    assert_eq!(
        info["directories"]["state"],
        env.join("state").to_str().unwrap()
    );
    assert!(
        env.ok(&["system", "info"]).contains("host.memory:"),
        "{info}"
    );
}
