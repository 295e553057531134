//! One QEMU in our hands: what is asked of it, what it says, how it ends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::link::Link;
use super::qmp::{Announcement, Qmp};
use crate::exit::{Facts, judge};
use crate::log::tail;
use crate::process::Process;
use crate::socket::RunDir;
use crate::{BoxStream, EngineError, ExitReason, Machine, Place, ProcessId, VmmExit};

pub(super) const AGENT_SOCKET: &str = "agent.sock";
pub(super) const QMP_SOCKET: &str = "qmp.sock";
pub(super) const CONSOLE_SOCKET: &str = "console.sock";
pub(super) const VMM_LOG: &str = "vmm.log";

/// How much of `vmm.log` goes into [`VmmExit::detail`], in bytes.
const DETAIL: u64 = 2048;

/// How long the last words of an ended VMM are waited for. They are in its sockets already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A held QEMU.
#[derive(Debug)]
pub(super) struct QemuMachine {
    process: Process,
    kill_asked: Arc<AtomicBool>,
    exit: watch::Receiver<Option<VmmExit>>,
    qmp: Qmp,
    link: Link,
    /// What reads QEMU's sockets; ends with this value. The watch for the end does not: a
    /// child must be reaped whoever holds it.
    _readers: Readers,
}

#[derive(Debug)]
struct Readers(Vec<AbortHandle>);

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &self.0 {
            reader.abort();
        }
    }
}

/// The tasks that read what a QEMU says.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) console: JoinHandle<Option<String>>,
    /// Its messages; only its parent can read them.
    pub(super) vmm: Option<JoinHandle<Option<String>>>,
}

/// Waits for a QEMU's end and judges it.
#[derive(Debug)]
struct Watch {
    process: Process,
    sources: Sources,
    monitor: JoinHandle<()>,
    announcement: Announcement,
    kill_asked: Arc<AtomicBool>,
    vmm_log: PathBuf,
}

impl Watch {
    async fn end(self) -> VmmExit {
        let ended = self.process.ended().await.unwrap_or_else(|error| {
            crate::warn_io("watch the VMM's process", &error);
            crate::process::Ended::default()
        });
        let last_words = async {
            let panic = self.sources.console.await.unwrap_or_default();
            if let Some(vmm) = self.sources.vmm {
                drop(vmm.await);
            }
            drop(self.monitor.await);
            panic
        };
        let panic = tokio::time::timeout(LAST_WORDS, last_words)
            .await
            .unwrap_or_default();
        let announced = *self
            .announcement
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let facts = Facts {
            code: ended.code,
            signal: ended.signal,
            kill_asked: self.kill_asked.load(Ordering::SeqCst),
            announced,
            panic_on_console: panic.is_some(),
        };
        let reason = judge(&facts);
        let detail = match panic {
            Some(panic) if reason == ExitReason::GuestPanic => panic,
            _ => tail(self.vmm_log, DETAIL).await,
        };
        VmmExit {
            code: ended.code,
            signal: ended.signal,
            reason,
            detail,
        }
    }
}

impl QemuMachine {
    /// Reads and watches a QEMU until its end.
    pub(super) fn hold(
        process: Process,
        run: Arc<RunDir>,
        monitor: tokio::net::UnixStream,
        sources: Sources,
        place: &Place,
    ) -> Self {
        let announcement = Announcement::default();
        let (qmp, monitor) = Qmp::spawn(monitor, Arc::clone(&announcement));
        let mut readers = vec![sources.console.abort_handle(), monitor.abort_handle()];
        readers.extend(sources.vmm.as_ref().map(JoinHandle::abort_handle));
        let kill_asked = Arc::new(AtomicBool::new(false));
        let (tell, exit) = watch::channel(None);
        let watch = Watch {
            process: process.clone(),
            sources,
            monitor,
            announcement,
            kill_asked: Arc::clone(&kill_asked),
            vmm_log: place.log_dir.join(VMM_LOG),
        };
        // Detached on purpose: see `_readers`.
        drop(tokio::spawn(async move {
            tell.send_replace(Some(watch.end().await));
        }));
        Self {
            process,
            kill_asked,
            exit,
            qmp,
            link: Link::over(run, AGENT_SOCKET),
            _readers: Readers(readers),
        }
    }

    /// Waits for the monitor, or for the end of a QEMU that could not start.
    pub(super) async fn greet(&self) -> Result<(), EngineError> {
        let error = tokio::select! {
            exit = self.wait() => return Err(EngineError::Exited(exit)),
            ready = self.qmp.ready() => match ready {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
        };
        // A dying QEMU closes its monitor first; its end tells more than that.
        match tokio::time::timeout(Duration::from_secs(1), self.wait()).await {
            Ok(exit) => Err(EngineError::Exited(exit)),
            Err(_) => Err(error),
        }
    }

    async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, EngineError> {
        let error = tokio::select! {
            exit = self.wait() => return Err(EngineError::Exited(exit)),
            done = work => match done {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
        };
        match self.exit.borrow().clone() {
            Some(exit) => Err(EngineError::Exited(exit)),
            None => Err(EngineError::Agent(error)),
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn process(&self) -> &ProcessId {
        &self.process.id
    }

    async fn agent_ready(&self) -> Result<(), EngineError> {
        self.unless_ended(async { self.link.wire().await.map(drop) })
            .await
    }

    async fn connect(&self, port: u32) -> Result<BoxStream, EngineError> {
        self.unless_ended(self.link.open(port)).await
    }

    async fn ctrl_alt_del(&self) -> Result<(), EngineError> {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        let arguments = json!({ "keys": keys });
        self.qmp
            .execute("send-key", Some(arguments))
            .await
            .map(drop)
    }

    async fn pause(&self) -> Result<(), EngineError> {
        self.qmp.execute("stop", None).await.map(drop)
    }

    async fn resume(&self) -> Result<(), EngineError> {
        self.qmp.execute("cont", None).await.map(drop)
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.kill_asked.store(true, Ordering::SeqCst);
        self.process.kill().map_err(EngineError::io(format!(
            "kill process {}",
            self.process.id.pid
        )))?;
        self.wait().await;
        Ok(())
    }

    async fn wait(&self) -> VmmExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        let told = ended.ok().and_then(|exit| exit.clone());
        // The watch ends without telling only where the whole runtime does.
        told.unwrap_or(VmmExit {
            code: None,
            signal: None,
            reason: ExitReason::Unknown,
            detail: String::new(),
        })
    }
}
