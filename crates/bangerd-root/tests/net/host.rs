//! A helper at work, and the host around it.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use banger_ids::{BridgeName, Subnet, VmId, VmRef};
use banger_priv::{CreateTap, EnsureBridge, Reclaim, Refusal, Reply, Request, Status};
use banger_priv_client::{Client, ClientError};

/// What a call may take on an emulated host.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A network namespace, directories, and a helper in them.
pub(crate) struct Host {
    directory: tempfile::TempDir,
    holder: Child,
    helper: Option<Child>,
    is_machine: bool,
    /// The state, if nothing was done since it was looked at.
    known: Mutex<Option<State>>,
}

/// The helper to be tested.
pub(crate) fn program() -> String {
    std::env::var("BANGERD_ROOT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_bangerd-root").to_owned())
}

impl Host {
    /// A host with a running helper.
    pub(crate) fn new() -> Self {
        let mut host = Self::idle();
        host.start();
        host
    }

    /// A host whose helper does not run yet.
    pub(crate) fn idle() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "run these tests as root"
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
        // Says "ready" once it is in its namespace, and ends with its standard input.
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up && sysctl -qw net.ipv4.ip_forward=0 && echo ready && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self {
            directory,
            holder,
            helper: None,
            is_machine: false,
            known: Mutex::new(None),
        }
    }

    /// This machine's own network in the place of a namespace: for what only runs there.
    pub(crate) fn on_this_machine() -> Self {
        let mut host = Self::idle();
        host.is_machine = true;
        host.start();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command for this host's network.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let whose = if self.is_machine { 1 } else { self.holder.id() };
        let namespace = format!("--net=/proc/{whose}/ns/net");
        command.arg(namespace).arg("--").args(words);
        command
    }

    /// Runs a command for this host's network and gives what it says.
    pub(crate) fn run(&self, line: &str) -> String {
        self.known.lock().unwrap().take();
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(&words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said} {error}");
        said
    }

    /// The helper and its directories.
    pub(crate) fn helper_words(&self) -> Vec<String> {
        let program = program();
        let path = |name| self.path(name).display().to_string();
        vec![
            program,
            "--run".into(),
            path("run"),
            "--state".into(),
            path("state"),
        ]
    }

    /// Starts the helper, listening.
    pub(crate) fn start(&mut self) {
        let log = self.open_log();
        self.start_logging_to(log);
    }

    /// Starts the helper, listening, with another log.
    pub(crate) fn start_logging_to(&mut self, log: OwnedFd) {
        let socket = self.path("root.sock");
        if socket.exists() {
            std::fs::remove_file(&socket).unwrap();
        }
        let listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
        self.spawn(listener.into(), log);
    }

    /// Starts the helper with one connection.
    pub(crate) fn start_connected(&mut self) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = self.open_log();
        self.spawn(theirs.into(), log);
        Client::over(ours.into())
    }

    fn open_log(&self) -> OwnedFd {
        let mut log = std::fs::File::options();
        let log = log.append(true).create(true).open(self.path("log"));
        log.unwrap().into()
    }

    fn spawn(&mut self, socket: OwnedFd, log: OwnedFd) {
        let mut words = self.helper_words();
        words.extend(["--fd", "0", "--owner", "1234"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let helper = self
            .command(&words)
            .stdin(socket)
            .stderr(log)
            .spawn()
            .unwrap();
        self.helper = Some(helper);
    }

    /// The pid of what [`Self::start`] started.
    pub(crate) fn helper_pid(&self) -> u32 {
        self.helper.as_ref().unwrap().id()
    }

    /// Ends the helper at once, and waits.
    pub(crate) fn kill(&mut self) {
        let mut helper = self.helper.take().unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
    }

    /// Waits until the helper has ended by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.helper.take().unwrap().wait().unwrap()
    }

    /// What the helper has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path("root.sock")).unwrap()
    }

    pub(crate) fn call(&self, request: &Request) -> Result<Reply, ClientError> {
        self.client()
            .call(request, &[], LIMIT)
            .map(|(reply, _)| reply)
    }

    /// Asks for what must be refused.
    pub(crate) fn refusal(&self, request: &Request) -> Refusal {
        match self.call(request) {
            Err(ClientError::Refused(refusal)) => refusal,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Asks for what must be done.
    pub(crate) fn done(&self, request: &Request) -> Reply {
        self.known.lock().unwrap().take();
        let reply = self.call(request);
        reply.unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    pub(crate) fn status(&self) -> Status {
        match self.done(&Request::Status {}) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the helper and removes everything that it made; what that says, and whether nothing is
    /// left.
    pub(crate) fn tear_down(&mut self) -> (String, bool) {
        if self.helper.is_some() {
            self.kill();
        }
        self.teardown()
    }

    /// Runs `bangerd-root teardown`.
    pub(crate) fn teardown(&self) -> (String, bool) {
        let mut words = self.helper_words();
        words.push("teardown".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.command(&words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&said).into_owned(),
            output.status.success(),
        )
    }

    /// Asserts that `work`, of which the helper refuses everything, changes nothing.
    pub(crate) fn stays_through(&self, work: impl FnOnce(), when: &str) {
        let before = self.known.lock().unwrap().take();
        let before = before.unwrap_or_else(|| self.state());
        work();
        self.state().assert_is(&before, when);
        *self.known.lock().unwrap() = Some(before);
    }

    /// All that the helper could have changed: links, addresses, routes, neighbours, rules and
    /// the ledger. Counters, times and what follows from carriers a moment later are left out.
    pub(crate) fn state(&self) -> State {
        let script = "ip -d -o link show; ip -o -4 address show; ip -4 route show table all; \
                      ip -4 neighbour show nud permanent; bridge fdb show; \
                      grep . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding; \
                      nft -s list ruleset";
        let output = self.command(&["sh", "-c", script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("ip_forward:") && text.contains("lo"),
            "{text}"
        );
        let mut lines: Vec<String> = text.lines().filter_map(lasting).collect();
        let ledger = self.path("run").join("ledger");
        for file in std::fs::read_dir(&ledger).into_iter().flatten() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap().display();
            lines.push(format!(
                "{name}: {}",
                std::fs::read_to_string(&file).unwrap()
            ));
        }
        lines.sort();
        State(lines)
    }
}

/// What [`Host::state`] saw.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct State(Vec<String>);

impl State {
    /// Fails, showing what differs, unless the two are one.
    #[track_caller]
    pub(crate) fn assert_is(&self, wanted: &Self, when: &str) {
        let missing = wanted.0.iter().filter(|line| !self.0.contains(line));
        let added = self.0.iter().filter(|line| !wanted.0.contains(line));
        let lines: Vec<String> = missing
            .map(|line| format!("- {line}"))
            .chain(added.map(|line| format!("+ {line}")))
            .collect();
        assert!(self == wanted, "{when}:\n{}", lines.join("\n"));
    }
}

/// A line without the numbers that are new for each link that is made, and without what changes
/// by itself.
fn lasting(line: &str) -> Option<String> {
    let rest = line
        .split_once(": ")
        .filter(|(index, _)| index.parse::<u32>().is_ok());
    let line = rest
        .map_or(line, |(_, rest)| rest)
        .replace("NO-CARRIER,", "");
    let mut kept = Vec::new();
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        if word == "state"
            || word == "qdisc"
            || word.starts_with("port_")
            || word.ends_with("_timer")
        {
            words.next();
        } else {
            kept.push(word.replace(",LOWER_UP", "").replace("LOWER_UP", ""));
        }
    }
    // A multicast address that a link listens to for as long as it likes.
    let passes = line.contains("self permanent") || line.contains("linkdown");
    (!passes).then(|| kept.join(" "))
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            helper.kill().ok();
            helper.wait().ok();
        }
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}

/// Whether this kernel can have the rules.
pub(crate) fn has_rules() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let probe = "add table bridge x; add chain bridge x y; \
                     add rule bridge x y meta ibrname \"x\" drop";
        let probed = Command::new("unshare")
            .args(["--net", "--", "/usr/sbin/nft", probe])
            .stderr(Stdio::null())
            .status();
        probed.is_ok_and(|status| status.success())
    })
}

/// Ends the test that calls it where the kernel cannot have the rules.
macro_rules! needs_rules {
    () => {
        if !crate::host::has_rules() {
            println!("skipped: nft on this kernel has no rules for bridges");
            return;
        }
    };
}
pub(crate) use needs_rules;

pub(crate) fn vm(bits: u32) -> VmRef {
    VmRef {
        id: VmId::from_bits(bits),
        generation: 1,
    }
}

pub(crate) fn ensure_bridge(name: &str, subnet: &str) -> Request {
    Request::EnsureBridge(EnsureBridge {
        bridge: BridgeName::parse(name).unwrap(),
        subnet: Subnet::parse(subnet).unwrap(),
    })
}

/// The bridge that most tests use.
pub(crate) fn bridge() -> Request {
    ensure_bridge("br-fc", "172.30.0.1/24")
}

pub(crate) fn create_tap(vm: &VmRef, last: u8) -> Request {
    Request::CreateTap(CreateTap {
        vm: vm.clone(),
        address: Ipv4Addr::new(172, 30, 0, last),
    })
}

pub(crate) fn reclaim(keep: &[VmRef]) -> Request {
    let keep = keep.to_vec();
    Request::Reclaim(Reclaim { keep })
}
