//! An engine whose VMMs are processes that sleep, or work, and whose agent lives in this process.

use crate::fake_agent::{self, Guest};
use async_trait::async_trait;
use banger_engine::{
    BoxStream, Engine, EngineError, EngineKind, ExitReason, Machine, MachineSpec, NetworkMode,
    Place, ProcessId, VmmExit,
};
use banger_guest::boot::{Channel, Network};
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Where the engine fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `start` fails; no process is left.
    Start,
    /// The VMM ends while the guest boots, after a word on the console.
    EndsInBoot,
    /// The agent never answers.
    Silent,
    /// The guest answers a power-off and goes on.
    NeverOff,
    /// What runs cannot be taken over.
    Unreachable,
}

#[derive(Debug)]
pub(crate) struct FakeEngine {
    fault: Mutex<Option<Fault>>,
    machines: Mutex<HashMap<i32, FakeMachine>>,
    pub(crate) guest: Arc<Guest>,
    started: watch::Sender<usize>,
    last_spec: Mutex<Option<MachineSpec>>,
    works_in: Mutex<Option<&'static str>>,
    /// Where its machines live: a daemon that is lost takes none of them with it.
    runtime: Handle,
}

#[derive(Debug, Clone)]
struct FakeMachine {
    id: ProcessId,
    is_silent: bool,
    is_killed: Arc<AtomicBool>,
    is_off: Arc<AtomicBool>,
    exit: watch::Receiver<Option<VmmExit>>,
    guest: Arc<Guest>,
    never_off: bool,
}

impl FakeEngine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            fault: Mutex::default(),
            machines: Mutex::default(),
            guest: Arc::default(),
            started: watch::Sender::new(0),
            last_spec: Mutex::default(),
            works_in: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Waits until so many machines were started in all.
    pub(crate) async fn started(&self, count: usize) {
        let mut started = self.started.subscribe();
        started.wait_for(|&now| now >= count).await.unwrap();
    }

    pub(crate) fn starts(&self) -> usize {
        *self.started.borrow()
    }

    /// Has the machines to come work all the time, in a thread of this name.
    pub(crate) fn work_in(&self, thread: &'static str) {
        *self.works_in.lock().unwrap() = Some(thread);
    }

    fn program(&self) -> tokio::process::Command {
        let Some(thread) = *self.works_in.lock().unwrap() else {
            let mut sleeps = tokio::process::Command::new("/bin/sleep");
            sleeps.arg("600");
            return sleeps;
        };
        let mut works = tokio::process::Command::new(std::env::current_exe().unwrap());
        works
            .args(["--exact", "fake_engine::works", "--ignored"])
            .env(WORKS_IN, thread)
            .stdout(Stdio::null());
        works
    }

    /// What the last machine was started from.
    pub(crate) fn last_spec(&self) -> MachineSpec {
        self.last_spec.lock().unwrap().clone().unwrap()
    }

    /// The processes that still run.
    pub(crate) fn living(&self) -> Vec<i32> {
        let machines = self.machines.lock().unwrap();
        machines
            .values()
            .filter(|machine| start_ticks(machine.id.pid) == Some(machine.id.start_ticks))
            .map(|machine| machine.id.pid)
            .collect()
    }
}

/// The name of the thread that [`works`] works in.
const WORKS_IN: &str = "BANGER_TEST_WORKS_IN";

#[test]
#[ignore = "no test: the process of a machine that works, started by the engine"]
fn works() {
    let Ok(name) = std::env::var(WORKS_IN) else {
        return;
    };
    let thread = std::thread::Builder::new().name(name);
    let ends = Instant::now() + Duration::from_secs(60);
    let works = thread.spawn(move || while Instant::now() < ends {});
    works.unwrap().join().unwrap();
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        for pid in self.living() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Qemu
    }

    fn describe(&self) -> String {
        "fake".into()
    }

    fn guest_modules(&self, _: NetworkMode) -> Vec<&'static str> {
        Vec::new()
    }

    fn guest_network(&self, _: NetworkMode) -> Option<Network> {
        None
    }

    fn channel(&self) -> Channel {
        Channel::Vsock { port: 1 }
    }

    fn drive_device(&self, index: usize) -> String {
        format!("/dev/fake{index}")
    }

    async fn start(
        &self,
        spec: &MachineSpec,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        let fault = *self.fault.lock().unwrap();
        *self.last_spec.lock().unwrap() = Some(spec.clone());
        assert!(spec.initrd.is_file() && spec.drives.iter().all(|drive| drive.path.is_file()));
        if fault == Some(Fault::Start) {
            return Err(EngineError::Control {
                command: "start",
                reason: "it was told to fail".into(),
            });
        }
        let _entered = self.runtime.enter();
        let child = self.program().current_dir(&place.run_dir).spawn().unwrap();
        let machine = FakeMachine::hold(child, fault, Arc::clone(&self.guest));
        self.machines
            .lock()
            .unwrap()
            .insert(machine.id.pid, machine.clone());
        if fault == Some(Fault::EndsInBoot) {
            let console = place.log_dir.join("console.log");
            std::fs::write(console, "Kernel panic - not syncing\n").unwrap();
            signal(&machine.id, rustix::process::Signal::SEGV);
        }
        self.started.send_modify(|count| *count += 1);
        Ok(Box::new(machine))
    }

    async fn adopt(&self, process: &ProcessId, _: &Place) -> Result<Box<dyn Machine>, EngineError> {
        if *self.fault.lock().unwrap() == Some(Fault::Unreachable) {
            return Err(EngineError::Agent("it was told to hide".into()));
        }
        let machine = self.machines.lock().unwrap().get(&process.pid).cloned();
        match machine {
            Some(machine) if start_ticks(process.pid) == Some(process.start_ticks) => {
                Ok(Box::new(machine))
            }
            _ => Err(EngineError::NotOurs {
                pid: process.pid,
                reason: "it is gone".into(),
            }),
        }
    }
}

impl FakeMachine {
    fn hold(mut child: tokio::process::Child, fault: Option<Fault>, guest: Arc<Guest>) -> Self {
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let (tell, exit) = watch::channel(None);
        let is_killed = Arc::new(AtomicBool::new(false));
        let is_off = Arc::new(AtomicBool::new(false));
        let (killed, off) = (Arc::clone(&is_killed), Arc::clone(&is_off));
        let id = ProcessId {
            pid,
            start_ticks: start_ticks(pid).unwrap(),
            boot_id: boot_id(),
        };
        tokio::spawn(async move {
            // The daemon under test reaps what it holds by a pidfd alone: it may be first here.
            let status = child.wait().await.ok();
            let signal = status.and_then(|status| status.signal());
            let reason = if off.load(Ordering::SeqCst) {
                ExitReason::GuestPowerOff
            } else if killed.load(Ordering::SeqCst) || signal == Some(9) {
                ExitReason::Killed
            } else {
                ExitReason::Crashed
            };
            tell.send_replace(Some(VmmExit {
                code: status.and_then(|status| status.code()),
                signal,
                reason,
                detail: String::new(),
            }));
        });
        Self {
            id,
            is_silent: matches!(fault, Some(Fault::Silent | Fault::EndsInBoot)),
            is_killed,
            is_off,
            exit,
            guest,
            never_off: fault == Some(Fault::NeverOff),
        }
    }

    pub(crate) fn power_off(&self) {
        if !self.never_off {
            self.is_off.store(true, Ordering::SeqCst);
            signal(&self.id, rustix::process::Signal::TERM);
        }
    }
}

#[async_trait]
impl Machine for FakeMachine {
    fn process(&self) -> &ProcessId {
        &self.id
    }

    async fn agent_ready(&self) -> Result<(), EngineError> {
        if self.is_silent {
            return Err(EngineError::Exited(self.wait().await));
        }
        Ok(())
    }

    async fn connect(&self, _: u32) -> Result<BoxStream, EngineError> {
        if let Some(exit) = self.exit.borrow().clone() {
            return Err(EngineError::Exited(exit));
        }
        let (host, guest) = tokio::io::duplex(64 * 1024);
        let machine = self.clone();
        let served = fake_agent::serve(guest, Arc::clone(&self.guest), move || machine.power_off());
        // The wire breaks when the VMM ends.
        let mut exit = self.exit.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = served => {}
                _ = exit.wait_for(Option::is_some) => {}
            }
        });
        Ok(Box::new(host))
    }

    async fn ctrl_alt_del(&self) -> Result<(), EngineError> {
        self.power_off();
        Ok(())
    }

    async fn pause(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn resume(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    async fn answers(&self) -> Result<(), EngineError> {
        let mut is_stuck = self.guest.is_stuck.subscribe();
        is_stuck.wait_for(|is_stuck| !is_stuck).await.unwrap();
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.is_killed.store(true, Ordering::SeqCst);
        signal(&self.id, rustix::process::Signal::KILL);
        self.wait().await;
        Ok(())
    }

    async fn wait(&self) -> VmmExit {
        let mut exit = self.exit.clone();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
        exit.clone().unwrap()
    }
}

/// Signals the process if it still is the one that was started.
pub(crate) fn signal(id: &ProcessId, signal: rustix::process::Signal) {
    if start_ticks(id.pid) == Some(id.start_ticks) {
        let pid = rustix::process::Pid::from_raw(id.pid).unwrap();
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap().trim().to_owned()
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
