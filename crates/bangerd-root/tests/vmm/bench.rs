//! A helper of the test's own, with directories of its own, and a look at the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use banger_bus::Bus;
use banger_ids::{VmId, VmRef};
use banger_ipc::Channel;
use banger_priv::{Answer, Refusal, RefusalKind, Reply, Request};
use tempfile::TempDir;

/// The owner in these tests: the lab's ordinary user.
pub(crate) const OWNER: u32 = 1000;
/// Generous: an emulated host is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);
/// How long the host may take to be as it was.
const GRACE: Duration = Duration::from_secs(15);
/// What the helper's unit lets it have: eight capabilities, only its own processes in /proc, and
/// no control group but those of VMs.
const AS_SERVICE: &str = r#"
    set -e
    systemctl start banger.slice
    mount -t proc -o hidepid=invisible proc /proc
    mount --bind /sys/fs/cgroup/banger.slice /sys/fs/cgroup/banger.slice
    mount -o remount,bind,ro /sys/fs/cgroup
    own=-all,+chown,+dac_override,+kill,+mknod,+net_admin,+setgid,+setuid,+sys_admin
    exec setpriv --no-new-privs --bounding-set $own "$0" "$@""#;
/// All of root's, and no systemd in sight.
const WITHOUT_SYSTEMD: &str = r#"mount -t tmpfs none /run/systemd && exec "$0" "$@""#;
const FIRST_UID: u32 = 1_900_000_000;

/// An answer, as the test wants it.
pub(crate) type Done = Result<(Reply, Vec<OwnedFd>), Refusal>;

pub(crate) fn vm(bits: u32) -> VmRef {
    VmRef {
        id: VmId::from_bits(bits),
        generation: 1,
    }
}

pub(crate) struct Bench {
    dir: TempDir,
    listener: UnixListener,
    systemd: bool,
    helper: Option<Child>,
    before: BTreeSet<String>,
    sees_rules: bool,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(true)
    }

    /// One that is told that there is no systemd.
    pub(crate) fn without_systemd() -> Self {
        Self::of(false)
    }

    fn of(systemd: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("vmm-")
            .tempdir_in("/srv")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for (name, mode, owner) in [
            ("run", 0o700, 0),
            ("state", 0o700, 0),
            ("programs", 0o755, 0),
            ("files", 0o700, OWNER),
        ] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
        }
        for name in ["firecracker", "jailer"] {
            let copy = dir.path().join("programs").join(name);
            fs::copy(Path::new("/usr/local/bin").join(name), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut bench = Self {
            listener: UnixListener::bind(dir.path().join("helper.sock")).unwrap(),
            dir,
            systemd,
            helper: None,
            before: BTreeSet::new(),
            sees_rules: false,
        };
        bench.before = bench.look();
        bench.start_helper();
        bench
    }

    /// A path in the bench's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The root of a VM's jail.
    pub(crate) fn root(&self, vm: &VmRef) -> PathBuf {
        let id = vm.id.as_str();
        self.path("state/jail")
            .join(id)
            .join("firecracker")
            .join(id)
            .join("root")
    }

    /// The helper with its directories, to be told more.
    fn command(&self) -> Command {
        let program = std::env::var_os("BANGER_TEST_HELPER");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_bangerd-root").into());
        // A mount namespace that is not that of whoever opens the files, but sees what is mounted
        // later, as a service's does.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
        command.arg(if self.systemd {
            AS_SERVICE
        } else {
            WITHOUT_SYSTEMD
        });
        command.arg(program);
        for (option, name) in [
            ("--run", "run"),
            ("--state", "state"),
            ("--programs", "programs"),
            ("--files", "files"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command
            .arg("--files")
            .arg(std::env::var_os("BANGER_TEST_BOOT").unwrap());
        command
    }

    pub(crate) fn start_helper(&mut self) {
        let mut command = self.command();
        command.args(["--fd", "0", "--owner", &OWNER.to_string()]);
        let listener = self.listener.try_clone().unwrap();
        let helper = command.stdin(OwnedFd::from(listener)).spawn().unwrap();
        self.helper = Some(helper);
        // It answers once it has its directories.
        self.must(&Request::Status {});
    }

    /// Ends the helper and removes all that it made.
    pub(crate) fn tear_down(&mut self) {
        self.kill_helper();
        assert!(self.command().arg("teardown").status().unwrap().success());
    }

    /// The helper's process.
    pub(crate) fn helper_pid(&self) -> u32 {
        self.helper.as_ref().unwrap().id()
    }

    /// The helper's children.
    pub(crate) fn children(&self) -> Vec<i32> {
        let tasks = format!("/proc/{}/task", self.helper_pid());
        let of = |task: std::io::Result<fs::DirEntry>| {
            fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
        };
        let text: String = fs::read_dir(tasks).unwrap().map(of).collect();
        let pids = text.split_whitespace();
        pids.map(|pid| pid.parse().unwrap()).collect()
    }

    /// Ends the helper as a crash would.
    pub(crate) fn kill_helper(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            helper.kill().unwrap();
            helper.wait().unwrap();
        }
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Channel {
        let socket = UnixStream::connect(self.path("helper.sock")).unwrap();
        Channel::from(OwnedFd::from(socket))
    }

    /// Asks, without waiting for the answer.
    pub(crate) fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Channel {
        let channel = self.connect();
        Self::send_over(&channel, request, fds);
        channel
    }

    /// The same, over this connection.
    pub(crate) fn send_over(channel: &Channel, request: &Request, fds: &[BorrowedFd<'_>]) {
        let text = serde_json::to_vec(request).unwrap();
        channel.send(&text, fds, LIMIT).unwrap();
    }

    /// The only connection, and the thread that serves it.
    pub(crate) fn connect_alone(&self) -> (Channel, u32) {
        let start = Instant::now();
        let wait = |count| loop {
            let found = self.connection_threads();
            if found.len() == count {
                return found;
            }
            assert!(start.elapsed() < LIMIT, "{found:?}");
            std::thread::yield_now();
        };
        wait(0);
        let channel = self.connect();
        (channel, wait(1)[0])
    }

    fn connection_threads(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.helper_pid())).unwrap();
        let serves = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "connection\n")
        };
        let number = |task: PathBuf| task.file_name().unwrap().to_str().unwrap().parse();
        let tasks = tasks.map(|task| task.unwrap().path()).filter(serves);
        tasks.map(|task| number(task).unwrap()).collect()
    }

    pub(crate) fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Done {
        let start = Instant::now();
        let channel = self.send(request, fds);
        let done = self.answer(&channel);
        let text = serde_json::to_value(request).unwrap();
        println!(
            "{:>8.1} ms  {}",
            start.elapsed().as_secs_f64() * 1e3,
            text["method"]
        );
        done
    }

    /// The answer to what was sent.
    pub(crate) fn answer(&self, channel: &Channel) -> Done {
        let answer = channel.receive(Some(LIMIT), LIMIT).unwrap();
        let frame = answer.expect("an answer");
        match serde_json::from_slice(&frame.body).unwrap() {
            Answer::Done(reply) => Ok((reply, frame.fds)),
            Answer::Refused(refusal) => {
                println!("             {:?}: {}", refusal.kind, refusal.message);
                assert!(frame.fds.is_empty());
                Err(refusal)
            }
        }
    }

    pub(crate) fn must(&self, request: &Request) -> Reply {
        self.ask(request, &[]).unwrap().0
    }

    /// What the helper could have made, as far as the host and the ledger show it.
    pub(crate) fn look(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        seen.extend(mounts.lines().map(|line| format!("mount {line}")));
        let links = fs::read_dir("/sys/class/net").unwrap();
        seen.extend(links.map(|link| format!("link {:?}", link.unwrap().file_name())));
        if self.sees_rules {
            let nft = Command::new("nft").args(["-s", "list", "ruleset"]).output();
            let text = String::from_utf8(nft.unwrap().stdout).unwrap();
            seen.extend(text.lines().map(|line| format!("nft {line}")));
        }
        for block in fs::read_dir("/sys/block").unwrap() {
            let path = block.unwrap().path();
            for fact in ["dm/name", "loop/backing_file"] {
                if let Ok(text) = fs::read_to_string(path.join(fact)) {
                    seen.insert(format!("{fact} {}", text.trim()));
                }
            }
        }
        for process in fs::read_dir("/proc").unwrap() {
            let process = process.unwrap();
            let is_ours = process
                .metadata()
                .is_ok_and(|facts| facts.uid() >= FIRST_UID);
            if is_ours && process.file_name().to_string_lossy().parse::<u32>().is_ok() {
                seen.insert(format!("process {:?}", process.file_name()));
            }
        }
        for place in ["state/jail", "run/ledger", "/sys/fs/cgroup/banger.slice"] {
            let entries = fs::read_dir(self.path(place)).into_iter().flatten();
            let entries = entries.map(|entry| entry.unwrap().path());
            let is_file = |path: &PathBuf| place.starts_with('/') && !path.is_dir();
            seen.extend(
                entries
                    .filter(|path| !is_file(path))
                    .map(|path| format!("{path:?}")),
            );
        }
        for file in fs::read_dir(self.path("run/ledger")).into_iter().flatten() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            seen.insert(format!("ledger {text}"));
        }
        for file in fs::read_dir(self.path("files")).unwrap() {
            let file = file.unwrap();
            let group = file.metadata().unwrap().gid();
            if group != OWNER {
                seen.insert(format!("{:?} of group {group}", file.path()));
            }
        }
        seen
    }

    /// Waits until systemd has forgotten a VM's scope, which it does a moment after its end.
    pub(crate) fn wait_scope_gone(vm: &VmRef) {
        let bus = Path::new("/run/dbus/system_bus_socket");
        let mut bus = Bus::connect(bus, LIMIT).unwrap();
        bus.wait_unit_gone(&vm.scope()).unwrap();
    }

    /// Has [`Self::look`] see rules too.
    pub(crate) fn sees_rules(&mut self) {
        self.sees_rules = true;
        self.before = self.look();
    }

    /// Takes the host as it is now for clean. Gives what was taken for that.
    pub(crate) fn take_as_it_is(&mut self) -> BTreeSet<String> {
        let now = self.look();
        std::mem::replace(&mut self.before, now)
    }

    /// Takes this for clean.
    pub(crate) fn take_for_clean(&mut self, clean: BTreeSet<String>) {
        self.before = clean;
    }

    /// What is left and what is missing. Threads of the kernel's take deferred devices and their
    /// loops away a moment after the last user closed them.
    pub(crate) fn settle(&self) -> (Vec<String>, Vec<String>) {
        let start = Instant::now();
        let mut now = self.look();
        while now != self.before && start.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(20));
            now = self.look();
        }
        let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect();
        (only(&now, &self.before), only(&self.before, &now))
    }

    /// Asserts that the host is as it was before.
    pub(crate) fn is_clean(&self) {
        let (left, lost) = self.settle();
        assert!(
            left.is_empty() && lost.is_empty(),
            "left {left:#?}, lost {lost:#?}"
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is left would be in the way of the next test.
            for bits in 1..3 {
                let vm = vm(bits);
                for request in [
                    Request::KillProcess(vm.clone()),
                    Request::CleanupJailerChroot(vm.clone()),
                    Request::CleanupDmSnapshot(vm),
                ] {
                    if self.helper.is_some() {
                        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(
                            || self.ask(&request, &[]),
                        )));
                    }
                }
            }
        }
        self.kill_helper();
    }
}

/// Waits until `tracer` traces the thread.
pub(crate) fn wait_traced(thread: u32, tracer: u32) {
    let start = Instant::now();
    let traced = format!("TracerPid:\t{tracer}\n");
    let status = format!("/proc/{thread}/status");
    while !fs::read_to_string(&status).unwrap().contains(&traced) {
        assert!(start.elapsed() < LIMIT, "nobody traces {thread}");
        std::thread::yield_now();
    }
}

/// Asserts that something was refused, for this kind of reason, in words that contain `words`.
pub(crate) fn refused(done: Done, kind: RefusalKind, words: &str) {
    match done {
        Ok((reply, _)) => panic!("done: {reply:?}"),
        Err(refusal) => {
            assert_eq!(refusal.kind, kind, "{refusal}");
            assert!(refusal.message.contains(words), "{words:?} in {refusal}");
        }
    }
}
