//! A helper that keeps what it made, can fail at any step, and whose VMMs are `cat` processes
//! with real sockets: everything between it and the command line is the real thing.

use crate::fake_agent::{self, Guest};
use crate::fake_snapshot::Snapshots;
use banger_priv::{
    BridgeUp, FileRole, Launch, Others, Refusal, RefusalKind, Reply, Request, Status, Tap, VmRef,
    VmStatus, Vmm,
};
use banger_priv_client::ClientError;
use bangerd::privilege::{Helper, Link, Mode};
use rustix::fs::{FileType, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// How a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The helper refuses, and nothing of it is left.
    Refuses,
    /// It is done, but the answer is lost.
    Vanishes,
}

#[derive(Debug, Default)]
struct State {
    bridge: Option<String>,
    resolver: Option<u16>,
    taps: BTreeMap<VmRef, Ipv4Addr>,
    nat: Vec<VmRef>,
    jails: BTreeMap<VmRef, Jailed>,
    snapshots: Snapshots,
    /// The verbs that were asked for, in order.
    asked: Vec<String>,
    /// Fail when this many more verbs of a start were asked for.
    fault: Option<(usize, Fault)>,
    is_away: bool,
}

/// A VMM: it ends well when its standard input does.
#[derive(Debug)]
struct Jailed {
    process: Child,
    pidfd: OwnedFd,
    sockets: tempfile::TempDir,
    served: Vec<AbortHandle>,
    fifo: OwnedFd,
    log: Arc<Mutex<Option<File>>>,
    _console: File,
}

/// The fake. Clones of the [`Arc`] see the same state, as daemons that follow each other do.
#[derive(Debug)]
pub(crate) struct FakeHelper {
    state: Mutex<State>,
    pub(crate) guest: Arc<Guest>,
    /// Where its jails live: a daemon that is lost takes none of them with it.
    runtime: Handle,
}

impl FakeHelper {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            guest: Arc::default(),
            runtime: Handle::current(),
        })
    }

    /// As the daemon has it.
    pub(crate) fn handle(self: &Arc<Self>) -> Helper {
        Helper::behind(Arc::clone(self) as Arc<dyn Link>, Mode::System)
    }

    /// Has the verb of this number, counted from 0 on and from now on, fail.
    pub(crate) fn fail_at(&self, step: usize, fault: Fault) {
        self.lock().fault = Some((step, fault));
    }

    /// Whether that happened; there is no fault from then on.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().fault.take().is_none()
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    /// As an administrator would.
    pub(crate) fn delete_bridge(&self) {
        self.lock().bridge = None;
    }

    pub(crate) fn asked(&self, verb: &str) -> usize {
        let state = self.lock();
        state.asked.iter().filter(|asked| *asked == verb).count()
    }

    /// Everything that was made for VMs and is still there, in words.
    pub(crate) fn left(&self) -> Vec<String> {
        let state = self.lock();
        let taps = state.taps.keys().map(|vm| format!("tap of {vm}"));
        let nat = state.nat.iter().map(|vm| format!("nat of {vm}"));
        let jails = state.jails.keys().map(|vm| format!("jail of {vm}"));
        let snapshots = state.snapshots.left();
        taps.chain(nat).chain(jails).chain(snapshots).collect()
    }

    /// What a VM's guest would do to its disk.
    pub(crate) fn on_disk(&self, vm: &str, work: impl FnOnce(&File)) {
        self.lock().snapshots.on_disk(vm, work);
    }

    /// Has the devices fail, as those without room do, or no longer.
    pub(crate) fn fail_disks(&self, do_fail: bool) {
        self.lock().snapshots.fail(do_fail);
    }

    /// Ends a VMM as its own fault would.
    pub(crate) fn crash_all(&self) {
        for jailed in self.lock().jails.values_mut() {
            jailed.process.kill().unwrap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Link for FakeHelper {
    fn call(
        &self,
        request: &Request,
        files: &[OwnedFd],
        _: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let away = || ClientError::Unreachable {
            path: banger_priv::SOCKET.into(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        let mut state = self.lock();
        if state.is_away {
            return Err(away());
        }
        let verb = serde_json::to_value(request).unwrap()["method"].clone();
        state.asked.push(verb.as_str().unwrap().to_owned());
        let due = match &mut state.fault {
            Some((0, fault)) => Some(*fault),
            Some((more, _)) => {
                *more -= 1;
                None
            }
            None => None,
        };
        if due.is_some() {
            state.fault = None;
        }
        if due == Some(Fault::Refuses) {
            return Err(refuse(RefusalKind::Failed, "it was told to fail"));
        }
        let _entered = self.runtime.enter();
        let done = state.carry_out(request, files, &self.guest);
        if due == Some(Fault::Vanishes) {
            return Err(ClientError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        done
    }
}

impl State {
    fn carry_out(
        &mut self,
        request: &Request,
        files: &[OwnedFd],
        guest: &Arc<Guest>,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let reply = match request {
            Request::Status {} => Reply::Status(self.status()),
            Request::EnsureBridge(asked) => {
                let is_new = self.bridge.replace(asked.bridge.to_string()).is_none();
                Reply::Bridge(BridgeUp { is_new })
            }
            Request::CreateTap(asked) => {
                if self.bridge.is_none() {
                    return Err(refuse(RefusalKind::Unknown, "there is no bridge"));
                }
                let is_used = self.taps.values().any(|used| *used == asked.address);
                if is_used || self.taps.contains_key(&asked.vm) {
                    return Err(refuse(RefusalKind::Exists, "it is another's"));
                }
                self.taps.insert(asked.vm.clone(), asked.address);
                Reply::Tap(Tap {
                    name: asked.vm.tap(),
                    mac: "06:fc:00:00:00:00".into(),
                })
            }
            Request::RemoveTap(vm) => {
                self.nat.retain(|other| other != vm);
                self.taps.remove(vm);
                Reply::Nothing
            }
            Request::EnsureNat(vm) => {
                if !self.taps.contains_key(vm) {
                    return Err(refuse(RefusalKind::Unknown, "it has no tap"));
                }
                self.nat.push(vm.clone());
                Reply::Nothing
            }
            Request::SyncResolverRouting(asked) => {
                self.resolver = Some(asked.port);
                Reply::Nothing
            }
            Request::ClearResolverRouting {} => {
                self.resolver = None;
                Reply::Nothing
            }
            Request::CreateDmSnapshot(asked) => self.snapshots.create(asked, files)?,
            Request::OpenSnapshot(asked) => {
                return Ok((Reply::Nothing, vec![self.snapshots.open(asked)?]));
            }
            Request::CleanupDmSnapshot(vm) => {
                self.snapshots.cleanup(vm);
                Reply::Nothing
            }
            Request::LaunchFirecracker(asked) => {
                if self.jails.contains_key(&asked.vm) {
                    return Err(refuse(RefusalKind::Exists, "it has a jail"));
                }
                let jailed = start(asked, files, guest, self.snapshots.has(&asked.vm));
                let files = vec![jailed.pidfd.try_clone().unwrap()];
                let pid = jailed.process.id();
                self.jails.insert(asked.vm.clone(), jailed);
                return Ok((Reply::Vmm(Vmm { pid }), files));
            }
            Request::EnsureSocketAccess(vm) => return self.sockets(vm),
            Request::KillProcess(vm) => {
                if let Some(jailed) = self.jails.get_mut(vm) {
                    jailed.process.kill().unwrap();
                    jailed.process.wait().unwrap();
                }
                Reply::Nothing
            }
            Request::CleanupJailerChroot(vm) => return self.clean_up(vm),
            Request::Reclaim(asked) => {
                let all = self.taps.keys().chain(self.jails.keys()).cloned();
                self.snapshots.keep(&asked.keep);
                let lost: Vec<VmRef> = all.filter(|vm| !asked.keep.contains(vm)).collect();
                for vm in &lost {
                    self.taps.remove(vm);
                    self.nat.retain(|other| other != vm);
                    self.jails.remove(vm);
                }
                Reply::Reclaimed(lost.iter().map(VmRef::to_string).collect())
            }
            other => panic!("the daemon asked for {other:?}"),
        };
        Ok((reply, Vec::new()))
    }

    fn status(&mut self) -> Status {
        let taps = &self.taps;
        let vms = self.jails.iter_mut().map(|(vm, jailed)| VmStatus {
            vm: vm.clone(),
            address: taps.get(vm).copied(),
            has_snapshot: self.snapshots.has(vm),
            is_running: jailed.runs(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            vms: vms.collect(),
            others: Some(Others::default()),
        }
    }

    fn sockets(&mut self, vm: &VmRef) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let jailed = self.jails.get_mut(vm);
        let Some(jailed) = jailed.and_then(|jailed| jailed.runs().then_some(jailed)) else {
            return Err(refuse(RefusalKind::Unknown, "it does not run"));
        };
        let hold = |name| {
            let path = jailed.sockets.path().join(name);
            rustix::fs::open(
                path,
                OFlags::PATH | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
        };
        let files = vec![
            hold("api.sock").unwrap(),
            hold("vsock.sock").unwrap(),
            jailed.pidfd.try_clone().unwrap(),
        ];
        jailed.open_log();
        let pid = jailed.process.id();
        Ok((Reply::Vmm(Vmm { pid }), files))
    }

    fn clean_up(&mut self, vm: &VmRef) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        use std::os::unix::process::ExitStatusExt;
        let Some(mut jailed) = self.jails.remove(vm) else {
            return Err(refuse(RefusalKind::Unknown, "it has no jail"));
        };
        let Some(status) = jailed.process.try_wait().unwrap() else {
            self.jails.insert(vm.clone(), jailed);
            return Err(refuse(RefusalKind::Busy, "it runs"));
        };
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        let code = code.map(|code| u8::try_from(code).unwrap());
        Ok((Reply::Ended { code }, Vec::new()))
    }
}

impl Jailed {
    fn open_log(&mut self) {
        let mut log = self.log.lock().unwrap();
        if log.is_none() {
            let path = format!("/proc/self/fd/{}", self.fifo.as_raw_fd());
            let opened = File::options().read(true).write(true).open(path).unwrap();
            (&opened).write_all(b"Running the fake\n").unwrap();
            *log = Some(opened);
        }
    }

    fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        for served in &self.served {
            served.abort();
        }
        // Ended already is fine.
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// The file of a descriptor, without what makes its FIFO have a writer.
fn hold(file: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

pub(crate) fn refuse(kind: RefusalKind, message: &str) -> ClientError {
    ClientError::Refused(Refusal {
        kind,
        message: message.into(),
    })
}

#[expect(
    clippy::too_many_lines,
    reason = "one table of what each role asks, and its use"
)]
fn start(asked: &Launch, files: &[OwnedFd], guest: &Arc<Guest>, has_snapshot: bool) -> Jailed {
    assert_eq!(asked.files.len(), files.len());
    let of = |role| {
        let at = asked.files.iter().position(|file| *file == role);
        files[at.unwrap_or_else(|| panic!("no {role:?}"))]
            .try_clone()
            .unwrap()
    };
    // Kind, how it is opened, and its mode, as the real one asks them.
    let rules = [
        (
            FileRole::Kernel,
            FileType::RegularFile,
            OFlags::RDONLY,
            0o644,
        ),
        (
            FileRole::Initrd,
            FileType::RegularFile,
            OFlags::RDONLY,
            0o640,
        ),
        (
            FileRole::ReadOnlyDisk(0),
            FileType::RegularFile,
            OFlags::RDONLY,
            0o644,
        ),
        (
            FileRole::Machine,
            FileType::RegularFile,
            OFlags::RDONLY,
            0o640,
        ),
        (
            FileRole::Disk(1),
            FileType::RegularFile,
            OFlags::RDWR,
            0o660,
        ),
        (FileRole::Console, FileType::Fifo, OFlags::RDWR, 0o600),
        (FileRole::Log, FileType::Fifo, OFlags::RDWR, 0o660),
        (FileRole::Ready, FileType::Socket, OFlags::PATH, 0o660),
    ];
    for (role, kind, access, mode) in rules {
        if has_snapshot && matches!(role, FileRole::ReadOnlyDisk(_) | FileRole::Disk(_)) {
            assert!(!asked.files.contains(&role), "{role:?} beside a snapshot");
            continue;
        }
        let file = of(role);
        let stat = rustix::fs::fstat(&file).unwrap();
        assert_eq!(FileType::from_raw_mode(stat.st_mode), kind, "{role:?}");
        assert_eq!(stat.st_mode & 0o777 | 0o200, mode, "{role:?}");
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert_eq!(flags & (OFlags::RWMODE | OFlags::PATH), access, "{role:?}");
        assert_eq!(stat.st_gid, rustix::process::getegid().as_raw(), "{role:?}");
    }
    let machine: serde_json::Value =
        serde_json::from_reader(std::fs::File::from(of(FileRole::Machine))).unwrap();
    assert_eq!(machine["boot-source"]["kernel_image_path"], "/kernel");
    let drives: Vec<_> = machine["drives"].as_array().unwrap().iter().collect();
    let paths: Vec<_> = drives.iter().map(|drive| &drive["path_on_host"]).collect();
    if has_snapshot {
        assert_eq!(paths, ["/rootfs"]);
        assert_eq!(drives[0]["is_read_only"], false);
    } else {
        assert_eq!(paths, ["/disk0", "/disk1"]);
    }
    assert_eq!(machine["vsock"]["uds_path"], "/run/vsock.sock");
    let mut console = std::fs::File::from(of(FileRole::Console));
    console.write_all(b"hello from the fake\n").unwrap();

    let mut process = Command::new("/bin/cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(process.id().cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let stdin = Arc::new(Mutex::new(process.stdin.take()));
    // As Firecracker does: opened anew, by its name, when the launch is over.
    let fifo = hold(&of(FileRole::Log));
    let log: Arc<Mutex<Option<File>>> = Arc::default();
    let opened = Arc::clone(&log);
    let power_off: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        let log = opened.lock().unwrap();
        log.as_ref()
            .unwrap()
            .write_all(b"x [x:main:INFO] Firecracker exiting successfully. exit_code=0\n")
            .unwrap();
        drop(stdin.lock().unwrap().take());
    });
    let sockets = tempfile::tempdir().unwrap();
    let runtime = Handle::current();
    let _entered = runtime.enter();
    let api = UnixListener::bind(sockets.path().join("api.sock")).unwrap();
    let vsock = UnixListener::bind(sockets.path().join("vsock.sock")).unwrap();
    let served = vec![
        runtime
            .spawn(serve_api(api, Arc::clone(&power_off)))
            .abort_handle(),
        runtime
            .spawn(serve_vsock(vsock, Arc::clone(guest), power_off))
            .abort_handle(),
    ];
    let ready = of(FileRole::Ready);
    // The guest's call, through the held socket file, as the jail's mount would lead it.
    drop(
        std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}", ready.as_raw_fd()))
            .unwrap(),
    );
    Jailed {
        process,
        pidfd,
        sockets,
        served,
        fifo,
        log,
        _console: console,
    }
}

async fn serve_api(listener: UnixListener, power_off: Arc<dyn Fn() + Send + Sync>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut asked = vec![0; 4096];
        let count = stream.read(&mut asked).await.unwrap_or(0);
        let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
        let body = if asked.starts_with("GET / ") {
            "{\"vmm_version\":\"1.12.1\"}"
        } else {
            "{}"
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let _left = stream.write_all(answer.as_bytes()).await;
        if asked.contains("SendCtrlAltDel") {
            power_off();
        }
    }
}

async fn serve_vsock(
    listener: UnixListener,
    guest: Arc<Guest>,
    power_off: Arc<dyn Fn() + Send + Sync>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (guest, power_off) = (Arc::clone(&guest), Arc::clone(&power_off));
        tokio::spawn(serve_agent(stream, guest, power_off));
    }
}

async fn serve_agent(
    mut stream: UnixStream,
    guest: Arc<Guest>,
    power_off: Arc<dyn Fn() + Send + Sync>,
) {
    let mut asked = vec![0; "CONNECT 5000\n".len()];
    if stream.read_exact(&mut asked).await.is_err() || stream.write_all(b"OK 1\n").await.is_err() {
        return;
    }
    let (near, far) = tokio::io::duplex(64 * 1024);
    let agent = tokio::spawn(fake_agent::serve(far, guest, move || power_off()));
    let mut near = near;
    let _broken = tokio::io::copy_bidirectional(&mut stream, &mut near).await;
    agent.abort();
}
