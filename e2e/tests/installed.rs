//! The supported installation, from `banger system install` to `uninstall`, on a host made for it:
//! `cargo xtask smoke` runs this as root in the lab and looks at the host before and after.
//!
//! One story in chapters, for each needs what the one before has made.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot do its part fails there, and the story tells where it is"
)]

#[path = "installed/attacked.rs"]
mod attacked;
#[path = "installed/chaos/mod.rs"]
mod chaos;
#[path = "installed/refused.rs"]
mod refused;
#[path = "installed/remains.rs"]
mod remains;
#[path = "installed/room.rs"]
mod room;
#[path = "installed/snapshots.rs"]
mod snapshots;
#[path = "installed/watched.rs"]
mod watched;

use e2e::{Outcome, eventually, finish};
use remains::remains;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const OWNER: &str = "dev";
const HOME: &str = "/home/dev";

/// Little memory, for guests are emulated twice here.
const CONFIG: &str = "[vm]\nmemory = \"160M\"\n[engine]\nhuge_pages = true\n";

#[test]
fn an_installation_serves_its_owner_survives_its_services_and_leaves_nothing() {
    let start = Instant::now();
    let chapter = |name: &str, tell: fn()| {
        tell();
        println!("{name}: ok, {:.0} s", start.elapsed().as_secs_f64());
    };
    chapter("installed", installed);
    chapter("only for its owner", only_for_its_owner);
    chapter("as the README says", as_the_readme_says);
    chapter("four runs at once", four_runs_at_once);
    chapter("a vm of its own", a_vm_of_its_own);
    chapter("reached by name", reached_by_name);
    chapter("confined", confined);
    chapter(
        "the services end and come back",
        the_services_end_and_come_back,
    );
    chapter("stopped and removed", stopped_and_removed);
    chapter("every day", every_day);
    chapter("seen for what it is", watched::seen_for_what_it_is);
    chapter("a root of its own", snapshots::a_root_of_its_own);
    chapter("bounded", snapshots::bounded);
    chapter("room kept", room::kept);
    chapter("attacked", attacked::attacked);
    chapter("uninstalled", uninstalled);
    chapter(
        "refused at any step",
        refused::an_installation_is_refused_at_any_step,
    );
    chapter("a helper of the daemon's own", a_helper_of_the_daemons_own);
}

/// Installing puts everything in place; again changes nothing.
fn installed() {
    configured();
    let elevating = attacked::elevating_files();
    let installed = as_root(&["banger", "system", "install", "--owner", OWNER]);
    assert!(installed.contains("is installed for dev"), "{installed}");
    let again = as_root(&["banger", "--json", "system", "install", "--owner", OWNER]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["changes"], serde_json::json!([]), "{again}");
    assert_eq!(attacked::elevating_files(), elevating);
    stored();
    let status: Value =
        serde_json::from_str(&as_owner(&["banger", "--json", "system", "status"])).unwrap();
    assert_eq!(status["installed"]["owner"]["name"], OWNER, "{status}");
    for (unit, most) in [("bangerd.service", 1.5), ("bangerd-root.service", 3.3)] {
        let exposure = exposure(unit);
        assert!(exposure <= most, "{unit}: {exposure}");
    }
    let doctor = as_owner(&["banger", "doctor", "-v"]);
    assert!(doctor.contains("system"), "{doctor}");
}

fn configured() {
    let config = Path::new(HOME).join(".config/banger");
    as_owner(&["mkdir", "-p", "-m", "700", config.to_str().unwrap()]);
    fs::write(config.join("config.toml"), CONFIG).unwrap();
}

/// Kernel and image are made elsewhere: here nothing can be fetched.
fn stored() {
    let store = PathBuf::from(std::env::var_os("BANGER_E2E_STORE").unwrap());
    for (from, to) in [
        ("data", "/var/lib/banger/data"),
        ("cache", "/var/cache/banger"),
    ] {
        let from = store.join(from).join(".");
        as_owner(&["mkdir", "-p", to]);
        as_owner(&["cp", "-a", "--sparse=always", from.to_str().unwrap(), to]);
    }
}

/// What systemd thinks of a unit's sandbox: 0 is the best, 10 none.
fn exposure(unit: &str) -> f64 {
    let said = as_root(&["systemd-analyze", "security", "--no-pager", unit]);
    let line = said.lines().find(|line| line.contains("Overall exposure"));
    let figure = line.unwrap().split(": ").nth(1).unwrap();
    figure.split(' ').next().unwrap().parse().unwrap()
}

/// Nobody else gets in, and nobody but the daemon reaches the helper.
fn only_for_its_owner() {
    let stranger = run("nobody", &["banger", "vm", "list"]);
    assert_ne!(stranger.code, 0, "{stranger:#?}");
    // Where a daemon of its own would have had its socket, if it had a home for its state.
    fs::remove_dir("/tmp/banger-runtime-65534").unwrap();
    for socket in ["/run/banger/bangerd.sock", "/run/banger-ipc/root.sock"] {
        for user in ["nobody", OWNER] {
            let connect = [
                "socat",
                "-u",
                "OPEN:/dev/null",
                &format!("UNIX-CONNECT:{socket}"),
            ];
            let reached = run(user, &connect).code == 0;
            let may = user == OWNER && socket.ends_with("bangerd.sock");
            assert_eq!(reached, may, "{user} at {socket}");
        }
    }
}

/// The README's commands for an installation work as typed; `system install` has been.
fn as_the_readme_says() {
    let readme = include_str!("../../README.md");
    let section = readme.split("## Installed").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let commands: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .filter(|command| !command.starts_with("sudo"))
        .collect();
    assert!(commands.len() > 2, "{commands:?}");
    for command in commands {
        as_owner(&["sh", "-c", command]);
    }
    as_owner(&["banger", "vm", "rm", "--force", "web"]);
}

/// Four VMs run side by side, each with its own uid and address, and nothing stays of them.
fn four_runs_at_once() {
    let children: Vec<_> = (0..4)
        .map(|n| {
            let script = format!("echo {n} $(cat /proc/sys/kernel/hostname); exit {n}");
            command(OWNER, &["banger", "run", "--", "sh", "-c", &script])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (n, child) in (0_i32..).zip(children) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(n), "{output:#?}");
        assert!(said.starts_with(&format!("{n} run-")), "{said}");
    }
    assert_eq!(as_owner(&["banger", "--json", "vm", "list"]).trim(), "[]");
    eventually("no VM has left anything", || remains().is_empty());
}

/// A VM that is kept runs jailed, and answers.
fn a_vm_of_its_own() {
    as_owner(&["banger", "vm", "create", "--name", "dev", "--start"]);
    let vm = inspect("dev");
    assert_eq!(vm["state"], "running", "{vm}");
    let pid = vm["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    };
    let uid: u32 = field("Uid:").parse().unwrap();
    assert!((1_900_000_000..1_900_004_096).contains(&uid), "{status}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{environment:?}");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains("banger.slice/banger-vm-"), "{cgroup}");
    as_owner(&[
        "banger",
        "exec",
        "dev",
        "--",
        "sh",
        "-c",
        "echo kept > /root/mark",
    ]);
    fs::write("/home/dev/there", "there\n").unwrap();
    as_owner(&["banger", "cp", "/home/dev/there", "dev:/root/there"]);
    as_owner(&["banger", "cp", "dev:/root/there", "/home/dev/back"]);
    assert_eq!(fs::read_to_string("/home/dev/back").unwrap(), "there\n");
    for name in ["there", "back"] {
        fs::remove_file(Path::new(HOME).join(name)).unwrap();
    }
}

/// `<name>.vm` is known to the host, and to nobody else's resolver; ssh takes the name.
fn reached_by_name() {
    let address = inspect("dev")["address"].as_str().unwrap().to_owned();
    let found = as_root(&["getent", "ahostsv4", "dev.vm"]);
    assert!(found.starts_with(&address), "{found}");
    assert_ne!(
        run("root", &["getent", "ahostsv4", "nobody-here.vm"]).code,
        0
    );
    as_root(&["ping", "-c", "1", "-W", "20", "dev.vm"]);
    let said = as_owner(&["banger", "ssh", "dev", "--", "cat", "/root/mark"]);
    assert_eq!(said, "kept\n");
}

/// A guest reaches neither the host nor another guest.
fn confined() {
    let vm = inspect("dev");
    let gateway = "172.30.0.1";
    let try_it = |script: &str| {
        let script = format!("{script} && echo REACHED || echo refused");
        as_owner(&["banger", "exec", "dev", "--", "sh", "-c", &script])
    };
    assert!(
        vm["address"].as_str().unwrap().starts_with("172.30.0."),
        "{vm}"
    );
    for script in [
        format!("ping -c 1 -W 3 {gateway} >/dev/null 2>&1"),
        format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{gateway}/22' 2>/dev/null"),
        format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{gateway}/8053' 2>/dev/null"),
        "timeout 5 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80' 2>/dev/null".to_owned(),
    ] {
        assert_eq!(try_it(&script).trim(), "refused", "{script}");
    }
}

/// VMs outlive both services, however those end, and are there again afterwards.
fn the_services_end_and_come_back() {
    let pid = inspect("dev")["pid"].clone();
    let still_there = |after: &str| {
        eventually(after, || {
            run(OWNER, &["banger", "exec", "dev", "--", "cat", "/root/mark"]).stdout == "kept\n"
        });
        assert_eq!(inspect("dev")["pid"], pid, "{after}");
    };
    as_root(&["banger", "system", "restart"]);
    still_there("the VM answers after a restart");
    for unit in ["bangerd.service", "bangerd-root.service"] {
        // More often than systemd would let it come back within 10 s if it was not told otherwise.
        for _ in 0..7 {
            let before = main_process(unit);
            as_root(&["systemctl", "kill", "--signal=KILL", unit]);
            eventually("the unit is back", || {
                main_process(unit) != before
                    && run("root", &["systemctl", "is-active", "--quiet", unit]).code == 0
            });
        }
        still_there(unit);
    }
    // Who comes while it is away waits, and is told at once where it does not come back.
    let before = main_process("bangerd.service");
    as_root(&["systemctl", "kill", "--signal=KILL", "bangerd.service"]);
    let gone = Path::new("/proc").join(before.trim().trim_start_matches("MainPID="));
    eventually("it has ended", || !gone.exists());
    assert!(as_owner(&["banger", "vm", "list"]).contains("dev"));
    as_root(&["systemctl", "stop", "bangerd.service"]);
    let refused = run(OWNER, &["banger", "vm", "list"]);
    assert!(
        refused.stderr.contains("bangerd is inactive"),
        "{refused:#?}"
    );
    as_root(&["systemctl", "start", "bangerd.service"]);
    still_there("the VM answers after a stop");
}

fn main_process(unit: &str) -> String {
    as_root(&["systemctl", "show", "--property=MainPID", unit])
}

/// What a VM had on its disk is there after a stop; after removal nothing is.
fn stopped_and_removed() {
    as_owner(&["banger", "vm", "stop", "dev"]);
    assert_eq!(inspect("dev")["state"], "stopped");
    as_owner(&["banger", "vm", "start", "dev"]);
    assert_eq!(
        as_owner(&["banger", "exec", "dev", "--", "cat", "/root/mark"]),
        "kept\n"
    );
    as_owner(&["banger", "vm", "rm", "--force", "dev"]);
    eventually("the VM has left nothing", || remains().is_empty());
}

/// A VM is renamed for the host's resolver too, counted although it is jailed, and pruned.
fn every_day() {
    as_owner(&["banger", "vm", "create", "--name", "old", "--start"]);
    as_owner(&["banger", "vm", "rename", "old", "new"]);
    as_root(&["getent", "ahostsv4", "new.vm"]);
    assert_ne!(run("root", &["getent", "ahostsv4", "old.vm"]).code, 0);
    let stats = as_owner(&["banger", "--json", "vm", "stats", "--no-stream", "new"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    for counted in ["cpu_ns", "memory_used", "net_sent"] {
        assert!(
            stats[0][counted].as_u64().unwrap() > 0,
            "{counted}: {stats}"
        );
    }
    as_owner(&["banger", "vm", "stop", "new"]);
    as_owner(&["banger", "vm", "prune", "--yes"]);
    assert_eq!(as_owner(&["banger", "--json", "vm", "list"]).trim(), "[]");
    let events = as_owner(&["banger", "--json", "events"]);
    for kind in ["created", "running", "renamed", "stopped", "removed"] {
        assert!(events.contains(&format!("\"{kind}\"")), "{kind}: {events}");
    }
}

/// Uninstalling takes everything away but what the owner made; with `--purge` that, too.
fn uninstalled() {
    as_root(&["banger", "system", "uninstall", "--yes", "--purge"]);
    for path in [
        "/etc/banger",
        "/usr/lib/banger",
        "/var/lib/banger",
        "/run/bangerd-root",
    ] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    forget();
}

/// What the owner has of banger without an installation, and what systemd keeps of it.
fn forget() {
    fs::remove_dir_all(Path::new(HOME).join(".config/banger")).unwrap();
    fs::remove_dir(Path::new(HOME).join(".config")).ok();
    as_root(&["systemctl", "stop", "banger.slice"]);
}

/// Without an installation, `daemon.mode = "local"` has the same by a helper that the daemon starts
/// by `sudo`; with the daemon's end, the bridge goes too.
fn a_helper_of_the_daemons_own() {
    let home = Path::new(HOME).join("local");
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let store = PathBuf::from(std::env::var_os("BANGER_E2E_STORE").unwrap());
    as_owner(&["mkdir", "-m", "700", home.to_str().unwrap()]);
    let config = format!("{CONFIG}[daemon]\nmode = \"local\"\n");
    fs::write(home.join("config.toml"), config).unwrap();
    for name in ["data", "cache"] {
        let from = store.join(name);
        as_owner(&[
            "cp",
            "-a",
            "--sparse=always",
            from.to_str().unwrap(),
            &path(name),
        ]);
    }
    let banger = |script: &str| {
        let script = format!("BANGER_HOME={} banger {script}", home.display());
        as_owner(&["sh", "-c", &script])
    };
    let sudoers = Path::new("/etc/sudoers.d/banger");
    fs::write(sudoers, format!("{OWNER} ALL=(root) NOPASSWD: ALL\n")).unwrap();
    let addresses = banger("run -- ip -4 -o address");
    assert!(addresses.contains("172.30.0."), "{addresses}");
    let doctor = banger("doctor");
    assert!(doctor.contains("mode    local"), "{doctor}");
    assert!(as_root(&["ip", "-o", "link"]).contains("br-fc"));
    let daemon = fs::read_to_string(home.join("run/bangerd.lock")).unwrap();
    as_owner(&["kill", daemon.trim()]);
    eventually("the helper has ended and taken the bridge along", || {
        !as_root(&["ip", "-o", "link"]).contains("br-fc")
            && run("root", &["pgrep", "-x", "bangerd-root"]).code == 1
    });
    fs::remove_file(sudoers).unwrap();
    fs::remove_dir_all(home).unwrap();
    for dir in ["/run/bangerd-root", "/var/lib/bangerd-root"] {
        fs::remove_dir_all(dir).unwrap();
    }
}

fn inspect(name: &str) -> Value {
    let text = as_owner(&["banger", "--json", "vm", "inspect", name]);
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn as_owner(argv: &[&str]) -> String {
    must(OWNER, argv)
}

#[track_caller]
fn as_root(argv: &[&str]) -> String {
    must("root", argv)
}

#[track_caller]
fn must(user: &str, argv: &[&str]) -> String {
    let outcome = run(user, argv);
    assert_eq!(outcome.code, 0, "{user}: {argv:?}: {outcome:#?}");
    outcome.stdout
}

fn run(user: &str, argv: &[&str]) -> Outcome {
    finish(&mut command(user, argv))
}

/// A command as this user, with nothing of ours in its environment.
fn command(user: &str, argv: &[&str]) -> Command {
    let dist = PathBuf::from(std::env::var_os("BANGER_E2E_DIST").unwrap());
    let (uid, home) = match user {
        "root" => ("root", "/root"),
        OWNER => (OWNER, HOME),
        other => (other, "/"),
    };
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={uid}"), format!("--regid={}", group(uid))])
        .args(["--init-groups", "--"])
        .args(argv)
        .env_clear()
        .env(
            "PATH",
            format!(
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}",
                dist.display()
            ),
        )
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn group(user: &str) -> &str {
    if user == "nobody" { "nogroup" } else { user }
}
