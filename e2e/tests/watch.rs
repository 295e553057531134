//! Every way in which a VMM or its guest fails is seen as what it is, and soon; what one VM does
//! without measure harms no other.

use e2e::{TestEnv, eventually, send};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How soon a failure is known.
const SOON_ENOUGH: u64 = 2000;

/// How much later than the daemon a test may find out when something began: it looks every 50 ms.
const SLACK: u64 = 1000;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// The events of a VM, the newest last.
fn events(env: &TestEnv, vm: &str) -> Vec<Value> {
    let shown = env.ok(&["--json", "events", "--filter", &format!("name={vm}")]);
    let lines = shown.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for an event that is no older than `began`, and tells how late it came, by the daemon's
/// own clock, which is ours.
#[track_caller]
fn told_after(env: &TestEnv, vm: &str, kind: &str, began: u64) -> Value {
    let mut found = Value::Null;
    eventually(kind, || {
        let fits = |event: &&Value| {
            event["event"] == kind && event["at_unix_ms"].as_u64().unwrap() + SLACK >= began
        };
        found = events(env, vm)
            .iter()
            .find(fits)
            .cloned()
            .unwrap_or_default();
        !found.is_null()
    });
    let late = found["at_unix_ms"].as_u64().unwrap().saturating_sub(began);
    println!("{kind} ({}) was told after {late} ms", found["reason"]);
    assert!(late <= SOON_ENOUGH, "{late} ms: {found}");
    found
}

#[test]
fn every_end_is_told_as_what_it_was_within_two_seconds() {
    let env = TestEnv::new();
    env.vm("dev");
    for (signal, kind, reason) in [
        (Signal::KILL, "crashed", "killed"),
        (Signal::SEGV, "crashed", "crashed"),
        (Signal::ABORT, "crashed", "crashed"),
    ] {
        let began = now_ms();
        send(env.vmm_pid("dev"), signal);
        let told = told_after(&env, "dev", kind, began);
        assert_eq!(told["reason"], reason, "{told}");
        let view = env.json(&["vm", "inspect", "dev"]);
        assert_eq!((&view["state"], &view["pid"]), (&kind.into(), &Value::Null));
        env.ok(&["vm", "start", "dev"]);
    }
    // A guest's end begins when its kernel says so: how long it takes to get there is its own matter.
    for (end, says, kind, reason) in [
        ("c", "Kernel panic - not syncing", "crashed", "panicked"),
        ("o", "sysrq: Power Off", "stopped", "powered_off"),
    ] {
        let script = format!(
            "echo 8 > /proc/sys/kernel/printk; echo 1 > /proc/sys/kernel/sysrq; echo {end} > /proc/sysrq-trigger; sleep 60"
        );
        let console = env
            .join("state/vms")
            .join(id_of(&env, "dev"))
            .join("console.log");
        let command = env.start(&["exec", "dev", "--", "sh", "-c", &script]);
        eventually(says, || {
            String::from_utf8_lossy(&fs::read(&console).unwrap()).contains(says)
        });
        let told = told_after(&env, "dev", kind, now_ms());
        assert_eq!(told["reason"], reason, "{told}");
        let ended = command.end();
        assert_eq!(ended.code, 125, "{ended:#?}");
        assert!(ended.stderr.contains(reason), "{ended:#?}");
        env.ok(&["vm", "start", "dev"]);
    }
    env.ok(&["vm", "rm", "--force", "dev"]);
    env.assert_nothing_left();
}

#[test]
fn a_vmm_that_hangs_is_told_shown_kept_and_seen_to_recover() {
    let env = TestEnv::new();
    env.vm("dev");
    let began = now_ms();
    let pid = env.vmm_pid("dev");
    send(pid, Signal::STOP);
    let told = told_after(&env, "dev", "hung", began);
    assert!(
        told["detail"].as_str().unwrap().contains("stopped"),
        "{told}"
    );
    let view = env.json(&["vm", "inspect", "dev"]);
    assert!(view["hung"]["why"].is_string(), "{view}");
    assert!(env.ok(&["vm", "list"]).contains("running (hung)"));
    let refused = env.fails(125, &["exec", "dev", "--", "true"]);
    assert!(refused.contains("stopped"), "{refused}");
    assert!(refused.contains("banger vm kill dev"), "{refused}");

    // A daemon that is started anew keeps it, and takes it over when it goes on.
    send(env.daemon_pid().unwrap(), Signal::KILL);
    eventually("the daemon is gone", || env.daemon_pid().is_none());
    let start = Instant::now();
    env.ok(&["vm", "list"]);
    println!("the next daemon was there after {:?}", start.elapsed());
    eventually("it hangs still", || {
        env.ok(&["vm", "list"]).contains("running (hung)")
    });
    assert_eq!(env.vmm_pid("dev"), pid);
    let began = now_ms();
    send(pid, Signal::CONT);
    told_after(&env, "dev", "recovered", began);
    assert_eq!(env.sh("dev", "echo back"), "back");
    env.sh("dev", "echo from-the-console > /dev/console");
    eventually("its console is read", || {
        env.ok(&["vm", "logs", "dev"]).contains("from-the-console")
    });
    assert_eq!(env.vmm_pid("dev"), pid);
    env.ok(&["vm", "rm", "--force", "dev"]);
    env.assert_nothing_left();
}

/// A memory control group of this test's own, with a limit; gone with the value. `None` where none
/// can be made.
struct Group(PathBuf);

impl Group {
    fn of(limit: &str) -> Option<Self> {
        let name = format!("banger-e2e-{}", std::process::id());
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_in = |mark: &str| {
            let line = own.lines().find(|line| line.contains(mark))?;
            line.rsplit_once(':').map(|(_, path)| path.to_owned())
        };
        let (dir, file) = match path_in(":memory:") {
            Some(path) => (
                format!("/sys/fs/cgroup/memory{path}"),
                "memory.limit_in_bytes",
            ),
            None => (format!("/sys/fs/cgroup{}", path_in("0::")?), "memory.max"),
        };
        let group = Self(Path::new(&dir).join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(file), limit).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_vmm_that_the_kernel_kills_for_memory_is_told_so() {
    let env = TestEnv::new();
    let Some(group) = Group::of("24M") else {
        println!("not shown: no memory control group can be made here");
        return;
    };
    env.vm("dev");
    env.vm("other");
    fs::write(group.0.join("cgroup.procs"), env.vmm_pid("dev").to_string()).unwrap();
    // Where it is now must have been looked at.
    std::thread::sleep(Duration::from_secs(3));
    let began = now_ms();
    let eat = "dd if=/dev/zero of=/run/fill bs=1M count=200; sleep 60";
    let ended = env.run(&["exec", "dev", "--", "sh", "-c", eat]);
    assert_eq!(ended.code, 125, "{ended:#?}");
    assert!(ended.stderr.contains("oom"), "{ended:#?}");
    eventually("it is told", || {
        events(&env, "dev")
            .iter()
            .any(|event| event["event"] == "oom")
    });
    let told = events(&env, "dev");
    let kinds: Vec<_> = told.iter().map(|event| &event["event"]).collect();
    println!("{kinds:?} within {} ms, eating included", now_ms() - began);
    assert_eq!(kinds[kinds.len() - 2..], ["oom", "crashed"]);
    let view = env.json(&["vm", "inspect", "dev"]);
    assert_eq!(view["exit"]["reason"], "oom", "{view}");
    assert!(env.ok(&["vm", "list"]).contains("crashed (oom)"));
    assert_eq!(env.sh("other", "echo there"), "there");
    // A kill is no want of memory.
    let began = now_ms();
    send(env.vmm_pid("other"), Signal::KILL);
    assert_eq!(
        told_after(&env, "other", "crashed", began)["reason"],
        "killed"
    );
}

#[test]
fn a_guest_that_writes_without_end_harms_neither_the_daemon_nor_its_neighbour() {
    let env = TestEnv::new();
    let config = fs::read_to_string(env.join("config.toml")).unwrap_or_default();
    let config = format!("{config}\n[daemon]\nlog_cap = \"256K\"\n");
    fs::write(env.join("config.toml"), config).unwrap();
    env.vm("loud");
    env.vm("calm");
    env.sh("calm", "true");
    let daemon = env.daemon_pid().unwrap();
    let before = resident_kib(daemon);
    env.sh("loud", "(yes flood > /dev/console) > /dev/null 2>&1 & exit");
    let flooding = env.start(&["vm", "logs", "-f", "loud"]);
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(15) {
        let began = Instant::now();
        assert_eq!(env.sh("calm", "echo there"), "there");
        slowest = slowest.max(began.elapsed());
    }
    let grown = resident_kib(daemon).saturating_sub(before);
    let logs: u64 = fs::read_dir(env.join("state/vms").join(id_of(&env, "loud")))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().contains("log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    println!(
        "a console's flood of 15 s: the daemon grew by {grown} KiB, logs take {logs} bytes, a \
         neighbour's slowest command took {slowest:?}"
    );
    assert!(logs > 0 && logs <= 3 * 256 * 1024, "{logs}");
    assert!(grown < 32 * 1024, "{grown} KiB");
    assert!(env.json(&["vm", "inspect", "loud"])["state"] == "running");
    flooding.signal(Signal::KILL);
    flooding.end();
    env.ok(&["vm", "rm", "--force", "loud", "calm"]);
    env.assert_nothing_left();
}

#[test]
fn a_guest_that_fills_its_disk_is_told_so_and_its_neighbour_writes_on() {
    let env = TestEnv::new();
    env.ok(&["vm", "create", "full", "--disk", "64M", "--start"]);
    env.vm("other");
    let fill = "dd if=/dev/zero of=/root/fill bs=1M count=200 2>&1; rm /root/fill; echo on > /root/on; cat /root/on";
    let said = env.sh("full", fill);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.ends_with("on"), "its guest goes on: {said}");
    assert_eq!(
        env.sh("other", "echo kept > /root/kept; cat /root/kept"),
        "kept"
    );
    assert_eq!(env.json(&["vm", "inspect", "full"])["state"], "running");
    env.ok(&["vm", "rm", "--force", "full", "other"]);
    env.assert_nothing_left();
}

fn id_of(env: &TestEnv, vm: &str) -> String {
    let view = env.json(&["vm", "inspect", vm]);
    view["id"].as_str().unwrap().to_owned()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.unwrap().split_whitespace().nth(1);
    field.unwrap().parse().unwrap()
}
