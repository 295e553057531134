//! One QEMU in our hands: what is asked of it, and how what it says of its end is understood.

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use serde_json::json;

use super::link::Link;
use super::qmp::{Announcement, Qmp};
use crate::held::{ASLEEP, Held, LastWords, Sources, Vmm};
use crate::process::Process;
use crate::socket::RunDir;
use crate::{BoxStream, EngineError, Machine, Place, ProcessId, VmmExit};

pub(super) const AGENT_SOCKET: &str = "agent.sock";
pub(super) const QMP_SOCKET: &str = "qmp.sock";
pub(super) const CONSOLE_SOCKET: &str = "console.sock";

/// A held QEMU.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    held: Held,
    qmp: Qmp,
    link: Link,
}

impl QemuMachine {
    /// Reads and watches a QEMU until its end.
    pub(super) fn hold(
        process: Process,
        run: Arc<RunDir>,
        monitor: tokio::net::UnixStream,
        mut sources: Sources,
        place: &Place,
    ) -> Self {
        let announcement = Announcement::default();
        let (qmp, monitor) = Qmp::spawn(monitor, Arc::clone(&announcement));
        sources.others.push(monitor);
        let held = Held::watch(Vmm::Ours(process), sources, place, move |last_lines| {
            LastWords {
                announced: *announcement.lock().unwrap_or_else(PoisonError::into_inner),
                detail: last_lines,
            }
        });
        Self {
            held,
            qmp,
            link: Link::over(run, AGENT_SOCKET),
        }
    }

    /// Waits for the monitor, or for the end of a QEMU that could not start.
    pub(super) async fn greet(&self) -> Result<(), EngineError> {
        self.held.answers(self.qmp.ready()).await
    }

    /// Waits a little for the monitor of a QEMU that runs; one that is stuck may come back.
    pub(super) async fn greet_if_awake(&self) -> Result<(), EngineError> {
        let greeted = tokio::time::timeout(ASLEEP, self.greet()).await;
        greeted.unwrap_or(Ok(()))
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn process(&self) -> &ProcessId {
        self.held.process()
    }

    async fn agent_ready(&self) -> Result<(), EngineError> {
        self.held
            .unless_ended(async { self.link.wire().await.map(drop) })
            .await
    }

    async fn connect(&self, port: u32) -> Result<BoxStream, EngineError> {
        self.held.unless_ended(self.link.open(port)).await
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

    fn is_alive(&self) -> bool {
        self.held.is_alive()
    }

    async fn answers(&self) -> Result<(), EngineError> {
        self.qmp.execute("query-status", None).await.map(drop)
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.held.kill().await
    }

    async fn wait(&self) -> VmmExit {
        self.held.wait().await
    }
}
