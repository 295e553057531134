//! Against the real systemd and systemd-resolved of a lab, as root: `cargo test --test bus --no-run`,
//! push the binary into a lab, and run it there with `--ignored --test-threads 1`.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of tests may panic as a test may"
)]

use banger_bus::{Bus, BusError, DeviceKind, DeviceRule, ScopeSpec};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/dbus/system_bus_socket";
const LIMIT: Duration = Duration::from_secs(20);

fn connect() -> Bus {
    Bus::connect(Path::new(SOCKET), LIMIT).expect("connect to the system bus")
}

/// A shell that does as its script says once it is told to go on.
struct Shell(Child);

impl Shell {
    fn start(script: &str) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn cgroup(&self) -> String {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap();
        text.trim().strip_prefix("0::").unwrap().to_owned()
    }

    /// Lets it go on, and returns what it said until its end.
    fn go_on(&mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut said = String::new();
        let mut output = self.0.stdout.take().unwrap();
        output.read_to_string(&mut said).unwrap();
        self.0.wait().unwrap();
        said
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The rules for a device file, as the helper would make them.
fn device(path: &str, may_mknod: bool) -> DeviceRule {
    let file = fs::metadata(path).unwrap();
    let is_block = file.file_type().is_block_device();
    let number = |part: u64| u32::try_from(part).unwrap();
    DeviceRule {
        kind: if is_block {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: number(file.rdev() >> 8 & 0xfff),
        minor: number(file.rdev() & 0xff | file.rdev() >> 12 & 0xfff00),
        may_mknod,
    }
}

fn spec<'a>(name: &'a str, child: &Shell, devices: &'a [DeviceRule]) -> ScopeSpec<'a> {
    ScopeSpec {
        name,
        description: "a test of banger's",
        slice: "bangertest.slice",
        pid: child.pid(),
        memory_max: 64 << 20,
        tasks_max: 7,
        cpu_quota_us: 1_500_000,
        devices,
    }
}

#[test]
#[ignore = "needs a lab"]
fn lab_scope_limits_its_process_and_goes_with_it() {
    let name = "bangertest-life.scope";
    let mut bus = connect();
    assert_eq!(bus.unit_cgroup(name).unwrap(), None);
    let mut child = Shell::start("echo unreachable");
    bus.start_scope(&spec(name, &child, &[])).unwrap();

    let group = format!("/bangertest.slice/{name}");
    assert_eq!(child.cgroup(), group);
    assert_eq!(bus.unit_cgroup(name).unwrap(), Some(group.clone()));
    let directory = PathBuf::from(format!("/sys/fs/cgroup{group}"));
    let limits = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"];
    let set = limits.map(|file| fs::read_to_string(directory.join(file)).unwrap());
    assert_eq!(set.concat(), "67108864\n0\n7\n150000 100000\n");

    let other = Shell::start("true");
    let again = bus.start_scope(&spec(name, &other, &[]));
    assert!(
        matches!(&again, Err(BusError::UnitExists(unit)) if unit == name),
        "{again:?}"
    );
    assert_ne!(other.cgroup(), group);

    fs::write(directory.join("cgroup.kill"), "1").unwrap();
    child.0.wait().unwrap();
    bus.wait_unit_gone(name).unwrap();
    assert_eq!(bus.unit_cgroup(name).unwrap(), None);
    assert!(!directory.exists());
    bus.wait_unit_gone(name).unwrap();
    bus.stop_unit(name).unwrap();
    // The name is free at once.
    bus.start_scope(&spec(name, &other, &[])).unwrap();
    drop(other);
    bus.wait_unit_gone(name).unwrap();
}

#[test]
#[ignore = "needs a lab"]
fn lab_scope_lets_at_no_device_but_those_named() {
    let name = "bangertest-dev.scope";
    let nodes = tempdir("bangertest-dev");
    let script = format!(
        "cd {}; for try in 'kvm c 10 232' 'tun c 10 200' 'zero c 1 5' 'loop b 7 3'; do \
         set -- $try; mknod $1 $2 $3 $4 2>/dev/null && made=made || made=refused; \
         case $1 in tun) of=/dev/net/tun;; loop) of=/dev/loop3;; *) of=/dev/$1;; esac; \
         ( : <$of ) 2>/dev/null && opened=opened || opened=refused; echo $1 $made $opened; done",
        nodes.display()
    );
    let mut child = Shell::start(&script);
    let devices = [device("/dev/kvm", true), device("/dev/net/tun", false)];
    let mut bus = connect();
    bus.start_scope(&spec(name, &child, &devices)).unwrap();
    let said = child.go_on();
    assert_eq!(
        said,
        "kvm made opened\ntun refused opened\nzero made opened\nloop refused refused\n"
    );
    bus.wait_unit_gone(name).unwrap();
    let mut child = Shell::start(&script.replace("10 200", "1 3"));
    let block = [device("/dev/loop3", true)];
    bus.start_scope(&spec(name, &child, &block)).unwrap();
    fs::remove_file(nodes.join("kvm")).unwrap();
    fs::remove_file(nodes.join("zero")).unwrap();
    assert_eq!(
        child.go_on(),
        "kvm refused refused\ntun made refused\nzero made opened\nloop made opened\n"
    );
    bus.wait_unit_gone(name).unwrap();
    fs::remove_dir_all(nodes).unwrap();
}

#[test]
#[ignore = "needs a lab"]
fn lab_scope_of_a_process_that_has_ended_is_refused_and_leaves_nothing() {
    let name = "bangertest-dead.scope";
    let mut bus = connect();
    let mut child = Shell::start("true");
    let spec = spec(name, &child, &[]);
    child.go_on();
    let refused = bus.start_scope(&spec);
    eprintln!("a scope of a process that has ended: {refused:?}");
    assert!(refused.is_err());
    bus.wait_unit_gone(name).unwrap();
}

#[test]
#[ignore = "needs a lab"]
fn lab_scope_times() {
    let name = "bangertest-time.scope";
    let mut connecting = Vec::new();
    let (mut starting, mut asking, mut going) = (Vec::new(), Vec::new(), Vec::new());
    let mut kept = connect();
    let mut kept_starting = Vec::new();
    // Keeps the slice, as other VMs do.
    let neighbour = Shell::start("true");
    let other = "bangertest-other.scope";
    let began = Instant::now();
    kept.start_scope(&spec(other, &neighbour, &[])).unwrap();
    eprintln!("start_scope with a new slice: {:?}", began.elapsed());
    for round in 0..40 {
        let mut child = Shell::start("true");
        let began = Instant::now();
        let mut bus = connect();
        connecting.push(began.elapsed());
        let (bus, times) = if round % 2 == 0 {
            (&mut bus, &mut starting)
        } else {
            (&mut kept, &mut kept_starting)
        };
        let began = Instant::now();
        bus.start_scope(&spec(name, &child, &[device("/dev/kvm", true)]))
            .unwrap();
        times.push(began.elapsed());
        let began = Instant::now();
        assert!(bus.unit_cgroup(name).unwrap().is_some());
        asking.push(began.elapsed());
        child.go_on();
        let began = Instant::now();
        bus.wait_unit_gone(name).unwrap();
        going.push(began.elapsed());
    }
    let rows = [
        ("connect", connecting),
        ("start_scope on a new connection", starting),
        ("start_scope on a kept connection", kept_starting),
        ("unit_cgroup", asking),
        ("wait_unit_gone", going),
    ];
    for (what, mut times) in rows {
        times.sort_unstable();
        let (least, most) = (times[0], times[times.len() - 1]);
        eprintln!("{what}: {least:?} {:?} {most:?}", times[times.len() / 2]);
    }
    assert_eq!(kept.unit_cgroup(name).unwrap(), None);
    drop(neighbour);
    kept.wait_unit_gone(other).unwrap();
}

#[test]
#[ignore = "needs a lab"]
fn lab_resolver_asks_for_the_zone_and_for_nothing_else() {
    let bridge = Bridge::new();
    let server: SocketAddrV4 = "10.77.0.1:8053".parse().unwrap();
    let asked = serve_dns(server);
    let mut bus = connect();
    let untouched = text(&resolvectl(&["status", Bridge::NAME]));
    assert!(!untouched.contains("DNS Servers"), "{untouched}");

    bus.route_zone(bridge.index, "vm", server).unwrap();
    let shown = resolvectl(&["status", Bridge::NAME]);
    eprintln!("{}", text(&shown));
    for part in ["DNS Servers: 10.77.0.1:8053\n", "DNS Domain: ~vm\n"] {
        assert!(text(&shown).contains(part), "{part}");
    }
    for part in ["-LLMNR", "-mDNS", "-DefaultRoute"] {
        assert!(text(&shown).contains(part), "{part}");
    }

    let answered = resolvectl(&["query", "x.vm"]);
    assert!(text(&answered).contains("10.77.0.5"), "{answered:?}");
    assert_eq!(names(&asked), set_of("x.vm"));
    assert!(!resolvectl(&["query", "absent.vm"]).status.success());
    assert_eq!(names(&asked), set_of("absent.vm"));
    for foreign in ["x.example.com", "vm.example.com", "xvm", "x.vm.example"] {
        assert!(!resolvectl(&["query", foreign]).status.success());
        assert!(names(&asked).is_empty(), "{foreign}");
    }

    bus.revert_link(bridge.index).unwrap();
    let reverted = text(&resolvectl(&["status", Bridge::NAME]));
    assert_eq!(reverted, untouched);
    assert!(!resolvectl(&["query", "y.vm"]).status.success());
    assert!(names(&asked).is_empty(), "after the revert");
    let index = bridge.index;
    drop(bridge);
    bus.revert_link(index).unwrap();
    let missing = bus.route_zone(index, "vm", server);
    eprintln!("a link that is gone: {missing:?}");
    assert!(matches!(missing, Err(BusError::Refused { .. })));
}

#[test]
#[ignore = "needs a lab"]
fn lab_resolver_takes_a_link_just_made() {
    let mut bus = connect();
    for round in 0..20 {
        let bridge = Bridge::new();
        let server = "10.77.0.1:8053".parse().unwrap();
        let set = bus.route_zone(bridge.index, "vm", server);
        assert!(set.is_ok(), "round {round}: {set:?}");
    }
}

/// A bridge with an address and one port that gives it a carrier; both go when it is dropped.
struct Bridge {
    index: u32,
}

impl Bridge {
    const NAME: &str = "bangertest0";
    const PORT: &str = "bangertest1";

    fn new() -> Self {
        let (name, port) = (Self::NAME, Self::PORT);
        ip(&format!("link add {name} type bridge"));
        ip(&format!("link add {port} type dummy"));
        ip(&format!("link set {port} master {name} up"));
        ip(&format!("addr add 10.77.0.1/24 dev {name}"));
        ip(&format!("link set {name} up"));
        let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap();
        Self {
            index: index.trim().parse().unwrap(),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&format!("link del {}", Self::PORT));
        ip(&format!("link del {}", Self::NAME));
    }
}

fn ip(line: &str) {
    let words = line.split_whitespace();
    let status = Command::new("/usr/sbin/ip").args(words).status().unwrap();
    assert!(status.success(), "ip {line}");
}

fn resolvectl(words: &[&str]) -> Output {
    Command::new("/usr/bin/resolvectl")
        .args(words)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tempdir(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    directory
}

/// Answers `x.vm` with 10.77.0.5 and denies every other name; says what it was asked.
fn serve_dns(address: SocketAddrV4) -> Receiver<String> {
    let socket = UdpSocket::bind(SocketAddr::V4(address)).unwrap();
    let (told, asked) = channel();
    std::thread::spawn(move || {
        let mut query = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let (name, end) = question(&query[..length]);
            let is_found = name == "x.vm" && query[end - 3] == 1;
            let is_known = name == "x.vm";
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[
                0x84,
                if is_known { 0 } else { 3 },
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            if is_found {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 77, 0, 5]);
            }
            if told.send(name).is_err() {
                return;
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    asked
}

/// The names that were asked for since the last time, each once.
fn names(asked: &Receiver<String>) -> BTreeSet<String> {
    asked.try_iter().collect()
}

fn set_of(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

/// The name a query asks for, and where its question ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += 1 + label.len();
    }
    (labels.join("."), at + 5)
}
